"""The posterior by the likelihood of the frame covariance: its density, its draws, and where it is refused."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import cumulative_trapezoid

from homodyne import optimize
from homodyne.bayes import questions
from homodyne.config import option
from homodyne.density import Density, Scaling
from homodyne.errors import FitError
from homodyne.noise.base import Likely
from homodyne.posterior.base import Given
from homodyne.prior import ModelPrior
from homodyne.problem import user_parameters
from homodyne.wishart_density import WishartDensity, log_likelihood, speckle_calibration

from . import factory
from .factory import Q, exact_maps
from .noise.test_wishart import SCALINGS, equal_to_the_model
from .speckle import CONTRAST, TRUTH, mode, speckle, unknown

VARIANCE = 1e-4


def laminar(scaling: str, bad=(), *, free_scale: bool = True) -> tuple[WishartDensity, Likely]:
    """The density of 20 frames of laminar flow at 3 angles, and a point where none of its parts vanish."""
    likelihood, values = equal_to_the_model(scaling, 0.3, bad)
    values = values * (1 + 0.02 * np.cos(np.arange(len(values))))
    free = np.ones(len(values), dtype=bool)
    free[likelihood.size :] = free_scale
    fisher = likelihood.at(values).fisher
    likely = Likely(likelihood, values, free, fisher, 1.3 * fisher + 0.2 * np.diag(np.diagonal(fisher)))
    prior = ModelPrior.of(likelihood.problem.model, option("mode", "laminar_flow").parameters)
    made = Scaling.of(likelihood.problem.design, VARIANCE)
    return WishartDensity.of(prior, likelihood.problem.source.dataset, made, likely), likely


def still_maps(parameters, phi, t: np.ndarray, contrast: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Maps (P, n, n) of static diffusion without an offset of its rate, in NumPy alone."""
    area = Q**2 * parameters["D0"] * cumulative_trapezoid(t ** parameters["alpha"], t, initial=0)
    h = np.exp(-np.abs(area[:, None] - area))
    return offset[:, None, None] + contrast[:, None, None] * np.tile(h, (len(phi), 1, 1))


def written_out(likely: Likely, values: np.ndarray) -> float:
    """ln of likelihood and prior of contrast and offset, from maps with dense linear algebra."""
    likelihood = likely.likelihood
    model, design, data = likelihood.problem.model, likelihood.problem.design, likelihood.problem.source.dataset
    parameters = dict(zip(model.names, np.asarray(user_parameters(model, values[: len(model.coordinates)])), strict=True))
    contrast, offset = likelihood.scaling(values)
    if "phi0" in parameters:
        maps = exact_maps(parameters, data.phi, data.n, contrast=contrast, offset=offset)
    else:
        maps = still_maps(parameters, data.phi, data.t, contrast, offset)
    angles, total = len(data.phi), 0.0
    for k, s in enumerate(maps - 1):
        number, kept = likelihood.pixels[k], likelihood.used[k]
        s += np.diag(likelihood.shot.fixed[k] + values[len(values) - angles + k] * likelihood.shot.shot[k])
        c = data.map(k).astype(np.float64)
        np.fill_diagonal(c, data.diagonal[k])
        s, m = s[np.ix_(kept, kept)], (c[np.ix_(kept, kept)] - 1) * number / (number - 1)
        sign, logarithm = np.linalg.slogdet(s)
        assert sign > 0
        total -= 0.5 * number * (logarithm + np.trace(np.linalg.solve(s, m)))
    middle, width = 0.5 * (design.lower + design.upper), design.upper - design.lower
    away = (np.stack([offset, contrast], axis=1) - middle) / width
    if design.count:
        total -= 0.5 * sum(np.mean(np.sum(away[members] ** 2, axis=1)) for members in design.members)
    coefficients = values[len(model.coordinates) : len(values) - angles]
    return total - 0.5 * sum(
        b @ p @ b for b, p in zip(np.split(coefficients, len(design.matrix)), design.precision / VARIANCE, strict=True)
    )


def nearby(values: np.ndarray, count: int) -> np.ndarray:
    return values * (1 + 0.02 * np.random.default_rng(3).standard_normal((count, len(values))))


def slope(density: WishartDensity, u: np.ndarray) -> np.ndarray:
    return np.asarray(jax.grad(lambda point: density(point))(jnp.asarray(u)))


def curvature(density: WishartDensity, u: np.ndarray, step: np.ndarray) -> np.ndarray:
    """(d, d) of -ln density, from differences of its gradient."""
    move = 0.01 * np.diag(step)
    gradient = jax.jit(jax.vmap(jax.grad(lambda point: density(point))))
    rows = (gradient(jnp.asarray(u - move)) - gradient(jnp.asarray(u + move))) / (0.02 * step)[:, None]
    return 0.5 * np.asarray(rows + rows.T)


@pytest.mark.parametrize("bad", [(), (0, 7, 19)])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_density_is_the_prior_times_the_likelihood_written_out(scaling, bad):
    density, likely = laminar(scaling, bad)
    points = nearby(likely.values, 4)
    value = jax.jit(lambda u: density(u))
    found = np.array([value(jnp.asarray(u)) for u in points])
    expected = np.array([written_out(likely, u) for u in points])
    # The flat prior and that of the coefficients have constants of their own.
    np.testing.assert_allclose(found - found[0], expected - expected[0], rtol=1e-8, atol=1e-7)
    np.testing.assert_allclose(value(jnp.asarray(points[0])), density.with_sums(jnp.asarray(points[0]))[0], rtol=1e-14)


def test_where_the_scale_is_known_it_is_no_number_of_the_density():
    density, likely = laminar("individual", (3,), free_scale=False)
    points = nearby(likely.values, 3)
    points[:, -3:] = likely.values[-3:]
    found = np.array([density(jnp.asarray(u[:-3])) for u in points])
    expected = np.array([written_out(likely, u) for u in points])
    np.testing.assert_allclose(found - found[0], expected - expected[0], rtol=1e-8, atol=1e-7)
    assert len(density.names) == len(density.box[0]) == len(likely.values) - 3


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_gradient_is_that_of_central_differences(scaling, calibrated):
    density, likely = laminar(scaling, (0, 7))
    if calibrated:
        density = replace(density, calibration=speckle_calibration(likely))
    u = nearby(likely.values, 1)[0]
    step = 1e-4 / np.sqrt(np.diagonal(likely.fisher))
    value = jax.jit(lambda point: density(point))
    points = [jnp.asarray(u + sign * move) for move in np.diag(step) for sign in (1, -1)]
    differences = np.array([value(point) for point in points]).reshape(-1, 2)
    found = slope(density, u) * step
    np.testing.assert_allclose(found, 0.5 * (differences[:, 0] - differences[:, 1]), rtol=1e-5, atol=1e-7)


def test_the_derivative_keeps_vectors_of_frames_and_no_image():
    density, likely = laminar("individual")
    states, levels = np.zeros((3, 2, 20)), np.tile([0.01, 0.2, 1.0], (3, 1))
    states[:] = 0.1 * np.arange(20)
    _, pull = jax.vjp(lambda x, y: log_likelihood(density.prior.model.pair, x, y, density.frames), jnp.asarray(states), jnp.asarray(levels))
    assert max(leaf.size for leaf in jax.tree.leaves(pull)) <= states.size
    assert likely.likelihood.problem.source.dataset.n == 20


def test_where_no_covariance_is_positive_definite_there_is_no_density_and_no_nan():
    density, likely = laminar("individual")
    for number, wrong in ((-1, -2.0), (0, 1e6), (-1, np.nan)):
        u = likely.values.copy()
        u[number] = wrong
        assert float(density(jnp.asarray(u))) == -np.inf
        assert np.isfinite(slope(density, u)).all()


def test_a_likelihood_of_gaussian_speckle_is_left_as_it_is():
    density, likely = laminar("shrinkage")
    same = replace(likely, score=likely.fisher - likely.likelihood.prior)
    turned = replace(density, calibration=speckle_calibration(same))
    u = jnp.asarray(nearby(likely.values, 1)[0])
    assert turned.calibration.power == pytest.approx(1, rel=1e-6)
    np.testing.assert_allclose(turned(u), density(u), rtol=1e-8)


def test_a_number_that_least_squares_held_is_not_turned():
    _, likely = laminar("individual")
    free = likely.free.copy()
    free[1] = False
    turn = speckle_calibration(replace(likely, free=free)).turn
    np.testing.assert_array_equal(turn[1], np.eye(len(free))[1])
    np.testing.assert_array_equal(turn[:, 1], np.eye(len(free))[1])


@cache
def given(*, constant: bool = False, known: bool = True, **settings) -> Given:
    """A finished fit of simulated speckle; constant: contrast, offset and shot noise are known."""
    data = speckle(1, **{"n": 40, "phi": (0.0, 60.0)} | settings)
    data = data if known else replace(data, **unknown("pixels", data=data))
    scaling = option("per_angle_scaling", "constant", contrast=[CONTRAST] * 2, offset=[1.0] * 2) if constant else "individual"
    made = factory.job(mode(), scaling, option("noise", "wishart", shot="fixed" if constant else "free_scale"))
    _, rows, estimated = optimize.fit(made, data, None)
    return Given(estimated, rows, seed=2, threads=1, folder=None, backend=made.cmc_backend)


def determined() -> Given:
    """Many pixels with strong and lively contrast: normal, but with the cumulants of speckle."""
    return given(pixels=20000, contrast=0.5, photons=20.0)


def test_where_data_determine_everything_the_mode_is_that_of_the_noise_option_and_the_curvature_its_information():
    asked, likely = questions(determined(), "model")[0], determined().fit.noise.likely
    assert np.max(np.abs(slope(asked.density, asked.start) * asked.spread)) < 0.05
    root = np.sqrt(np.diagonal(likely.fisher))
    found = curvature(asked.density, asked.start, asked.spread)
    np.testing.assert_allclose(found / np.outer(root, root), likely.fisher / np.outer(root, root), atol=0.03)


def test_calibrated_draws_have_the_covariance_of_the_noise_option():
    fit = determined().fit
    bread = np.linalg.inv(fit.noise.likely.fisher)
    expected = bread @ fit.noise.likely.score @ bread
    np.testing.assert_allclose(expected[: len(fit.noise.covariance), : len(fit.noise.covariance)], fit.noise.covariance, rtol=1e-6)
    root = np.sqrt(np.diagonal(expected))
    found = option("posterior", "laplace", draws=20000, predictive=0).sample(determined())
    covariance = {width: np.cov(answer.u[0].T) / np.outer(root, root) for width, answer in found.answers.items()}
    np.testing.assert_allclose(covariance["calibrated"], expected / np.outer(root, root), atol=0.05)
    # That of the likelihood is another, or this would test nothing.
    assert np.max(np.abs(covariance["model"] - expected / np.outer(root, root))) > 0.2
    assert "times the errors of the likelihood of Gaussian speckle" in found.decisions[-1]


def test_curvature_of_the_calibrated_likelihood_is_the_inverse_of_that_covariance():
    asked = questions(determined(), "calibrated")[0]
    likely = determined().fit.noise.likely
    expected = likely.fisher @ np.linalg.solve(likely.score, likely.fisher)
    root = np.sqrt(np.diagonal(expected))
    found = curvature(asked.density, asked.start, asked.spread)
    np.testing.assert_allclose(found / np.outer(root, root), expected / np.outer(root, root), atol=0.03)


@cache
def two_numbers() -> tuple[Given, np.ndarray, np.ndarray]:
    """A fit of the rate and its exponent alone, a grid (2, 61) of them, and the normalised density (61, 61) there by NumPy."""
    asked = given(constant=True, pixels=100, photons=2.0)
    likely = asked.fit.noise.likely
    errors = np.sqrt(np.diagonal(np.linalg.inv(likely.fisher[:2, :2])))
    axes = likely.values[:2, None] + errors[:, None] * np.linspace(-6, 6, 61)
    logs = [[written_out(likely, np.array([rate, power, *likely.values[2:]])) for power in axes[1]] for rate in axes[0]]
    weights = np.exp(np.array(logs) - np.max(logs))
    # Beyond the box of the coordinates there is no prior.
    lower, upper = questions(asked, "model")[0].density.box
    for axis in (0, 1):
        beyond = (axes[axis] < lower[axis]) | (axes[axis] > upper[axis])
        weights[(beyond, slice(None)) if axis == 0 else (slice(None), beyond)] = 0
    return asked, axes, weights / weights.sum()


@pytest.mark.parametrize(("engine", "close"), [("psis", 0.06), ("laplace", 0.1)])
def test_draws_are_those_of_a_grid(engine, close):
    asked, axes, weights = two_numbers()
    found = option("posterior", engine, predictive=0, width="model").sample(asked)
    draws = found.answers["model"].u[0]
    for k in range(2):
        marginal = weights.sum(axis=1 - k)
        # Up to the middle of each cell of the grid.
        quantiles = np.interp([0.05, 0.5, 0.95], np.cumsum(marginal) - 0.5 * marginal, axes[k])
        sd = np.sqrt(marginal @ axes[k] ** 2 - (marginal @ axes[k]) ** 2)
        np.testing.assert_allclose((np.quantile(draws[:, k], [0.05, 0.5, 0.95]) - quantiles) / sd, 0.0, atol=2 * close)
        assert np.std(draws[:, k]) == pytest.approx(sd, rel=close)
    assert found.exactness == ("exact" if engine == "psis" else "approximate")


@pytest.mark.slow
def test_draws_of_all_numbers_are_those_of_importance_sampling_in_numpy():
    asked = given(phi=(0.0,), pixels=300)
    likely, rng = asked.fit.noise.likely, np.random.default_rng(5)
    size, count = len(likely.values), 3000
    root = 1.1 * np.linalg.cholesky(np.linalg.inv(likely.fisher))
    white = rng.standard_normal((count, size)) * np.sqrt(8 / rng.chisquare(8, (count, 1)))
    points = likely.values + white @ root.T
    logs = np.array([written_out(likely, u) for u in points]) + 0.5 * (8 + size) * np.log1p(np.sum(white**2, axis=1) / 8)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    mean = weights @ points
    sd = np.sqrt(weights @ (points - mean) ** 2)
    found = option("posterior", "psis", predictive=0).sample(asked)
    answer = found.answers["model"]
    np.testing.assert_allclose((answer.u[0].mean(axis=0) - mean) / sd, 0.0, atol=0.1)
    np.testing.assert_allclose(answer.u[0].std(axis=0) / sd, 1.0, atol=0.06)
    np.testing.assert_allclose(answer.offset[0, :, 0], 1 + answer.u[0, :, 2], rtol=1e-12)
    np.testing.assert_allclose(answer.contrast[0, :, 0], answer.u[0, :, 3], rtol=1e-12)
    assert found.coordinates[-1] == "shot scale 0"
    assert np.isnan(answer.sigma).all()
    assert "sigma" not in answer.summary


def test_cuts_are_predicted_and_nothing_is_replicated():
    """A pixel has no noise of its own in this likelihood."""
    found = option("posterior", "laplace", draws=100, predictive=20).sample(determined()).predictive
    data = determined().fit.dataset
    truth = exact_maps(TRUTH, data.phi, data.n, contrast=0.5)
    assert np.nanmax(found.posterior["equal_lag"]) == pytest.approx(truth[:, np.arange(data.n - 1), np.arange(1, data.n)].max(), abs=0.02)
    assert np.isnan(found.replicated["equal_lag"]).all()


def test_shards_are_refused_and_auto_makes_none():
    with pytest.raises(FitError, match=r"posterior cmc: .* accepted: posterior=psis, nuts or laplace, or another noise option"):
        option("posterior", "cmc").sample(determined())
    hurried = option("posterior", "auto", time_s=1e-9, memory_gb=1e-9, psis={"draws": 1000}, predictive=0, width="model")
    assert hurried.sample(determined()).engine == "psis"


def test_where_the_likelihood_is_refused_pixels_are_independent_and_a_statement_says_so():
    asked = given(known=False)
    assert isinstance(questions(asked, "model")[0].density, Density)
    found = option("posterior", "laplace", draws=100, predictive=0, width="model").sample(asked)
    assert any("because that of noise=wishart was refused" in statement for statement in found.statements)
    assert np.isfinite(found.answer.sigma).all()


def test_the_likelihood_is_named():
    found = option("posterior", "laplace", draws=100, predictive=0, width="model").sample(determined())
    assert found.statements == ("posterior by the likelihood of the frame covariance (noise=wishart)",)
