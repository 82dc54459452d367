"""Robust losses: the truth among outliers, the same minimum as SciPy's losses, and the scale they are given."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares

from homodyne.optimizer.loss import LOSSES, efficiency, median_scale

from .. import factory
from ..factory import PHI, SIGMA, STATIC, dense_decay, dense_pairs, exact_maps, fitted, measured, noise_like, option

ROBUST = tuple(LOSSES)


@cache
def spoiled():
    """5 % of the pixels are 0.3 too high, mostly at short lags: not a constant offset."""
    maps = exact_maps(STATIC, PHI, 60)
    rng = np.random.default_rng(9)
    lag = np.abs(np.subtract.outer(np.arange(60), np.arange(60)))
    hit = np.triu(rng.random(maps.shape) < 0.2 * np.exp(-lag / 15.0), 1)
    assert 0.03 < hit.sum() / (len(maps) * 60 * 59 / 2) < 0.1
    return measured(maps + noise_like(maps, SIGMA, 9) + 0.3 * (hit | hit.swapaxes(1, 2)), PHI)


@cache
def fit(loss: str, scale: float | None = SIGMA):
    return fitted(
        spoiled(), mode="static", per_angle_scaling="averaged", optimizer=option("optimizer", "nlsq", loss=loss, loss_scale=scale)
    )


def bias(found) -> float:
    """Relative deviation of J at its best determined time from the truth."""
    curve = found.curves["J"]
    at = int(np.argmin(np.abs(curve.t - curve.best_time)))
    truth = STATIC["D0"] * curve.t[at] ** STATIC["alpha"] + STATIC["D_offset"]
    return float((curve.value[at] - truth) / truth)


@pytest.mark.parametrize("loss", ROBUST)
def test_outliers_bias_least_squares_and_robust_losses_much_less(loss):
    assert abs(bias(fit(loss))) < 0.35 * abs(bias(fit("linear")))
    assert abs(fit(loss).contrast[0] - 0.15) < 0.5 * abs(fit("linear").contrast[0] - 0.15)


def test_cauchy_recovers_the_truth_among_outliers():
    found = fit("cauchy")
    assert abs(bias(found)) < 0.03
    assert found.contrast[0] == pytest.approx(0.15, abs=0.004)


@pytest.mark.parametrize("loss", ROBUST)
def test_the_minimum_is_that_of_scipy_on_all_pixels(loss):
    """least_squares(loss=..., f_scale=...) with rates, exponent, offset and contrast as unknowns of the dense residual."""
    found = fit(loss)
    made = factory.problem(spoiled(), "static", "averaged")
    _, _, _, values = dense_pairs(spoiled())
    c2 = np.concatenate(values)

    def model(p):
        return jnp.concatenate([p[-2] + p[-1] * h for h in dense_decay(made.model, spoiled(), p[:-2])])

    value, jacobian = jax.jit(model), jax.jit(jax.jacfwd(model))
    start = np.append(found.solution + 0.05, [found.offset[0] + 0.001, found.contrast[0] - 0.002])
    dense = least_squares(
        lambda p: np.asarray(value(p)) - c2,
        start,
        lambda p: np.asarray(jacobian(p)),
        loss=loss,
        f_scale=SIGMA,
        x_scale="jac",
        xtol=1e-13,
        ftol=1e-13,
        gtol=1e-13,
        max_nfev=300,
    )
    error = np.sqrt(np.diagonal(found.solution_covariance))
    np.testing.assert_allclose((found.solution - dense.x[:3]) / error, 0.0, atol=5e-3)
    np.testing.assert_allclose([found.offset[0], found.contrast[0]], dense.x[3:], atol=5e-6)


@pytest.mark.parametrize("loss", ROBUST)
def test_weights_are_derivatives_of_scipys_losses(loss):
    """rho'(r)/r of the residual r, and psi' = d(r w)/dr by finite differences."""
    r = np.array([-5.0, -1.5, -0.9, -0.1, 0.1, 0.9, 1.5, 5.0])
    rho = {"soft_l1": lambda z: 2 * (np.sqrt(1 + z) - 1), "huber": lambda z: np.where(z <= 1, z, 2 * np.sqrt(z) - 1), "cauchy": np.log1p}[
        loss
    ]
    step = 1e-6
    derivative = (rho((r + step) ** 2) - rho((r - step) ** 2)) / (4 * step)
    weight = LOSSES[loss].weight
    np.testing.assert_allclose(np.asarray(weight(r)) * r, derivative, atol=1e-8)
    slope = ((r + step) * weight(r + step) - (r - step) * weight(r - step)) / (2 * step)
    np.testing.assert_allclose(LOSSES[loss].score_slope(r), slope, atol=1e-8)


def test_the_default_scale_is_the_median_absolute_residual():
    rng = np.random.default_rng(0)
    residual = np.concatenate([rng.normal(0, 0.02, 9500), 0.3 + rng.normal(0, 0.02, 500)])
    scale = median_scale(lambda: iter(np.array_split(residual, 7)), float(np.sqrt(np.mean(residual**2))))
    assert scale == pytest.approx(1.4826 * np.median(np.abs(residual)), rel=2e-3)


@pytest.mark.parametrize("loss", ROBUST)
def test_the_default_scale_gives_the_fit_of_that_scale(loss):
    """1.4826 times the median residual of the linear fit: near enough to the noise, in spite of the outliers, for one error."""
    automatic, given = fit(loss, None), fit(loss)
    error = np.sqrt(np.diagonal(given.solution_covariance))
    np.testing.assert_allclose((automatic.solution - given.solution) / error, 0.0, atol=1.0)


@pytest.mark.parametrize("loss", ROBUST)
def test_errors_of_a_robust_fit_of_gaussian_noise_are_those_of_its_efficiency(loss):
    """Without outliers the variance grows by mean(psi^2)/mean(psi')^2, an integral over the Gaussian."""
    r = np.random.default_rng(1).normal(size=200_000)
    ratio, variance = efficiency(LOSSES[loss], lambda: iter([SIGMA * r]), SIGMA)
    weight = np.asarray(LOSSES[loss].weight(r))
    x = np.linspace(-9, 9, 20001)
    density = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)
    square = np.trapezoid((x * np.asarray(LOSSES[loss].weight(x))) ** 2 * density, x)
    slope = np.trapezoid(LOSSES[loss].score_slope(x) * density, x)
    # covariance = efficiency^2 score_variance (sum w G G')^-1 and sum w is mean w times the number of pixels
    found = ratio**2 * variance / weight.mean() / SIGMA**2
    assert found == pytest.approx(square / slope**2, rel=0.01)
