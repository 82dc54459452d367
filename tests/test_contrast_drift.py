"""A contrast that changes along the record: its column equals dense least squares, is right on speckle, and is not there when off."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import LinearConstraint, minimize

import homodyne
from homodyne import optimize
from homodyne.config import option
from homodyne.counting import expansion
from homodyne.covariance import Counting, angle_sums, fitted_points
from homodyne.errors import ConfigError
from homodyne.goodness import goodness
from homodyne.images import Bins, derivative_images, score_images
from homodyne.noise.base import Minimised, Noise
from homodyne.optimizer.loss import LOSSES
from homodyne.optimizer.trust_region import Tolerances, minimise
from homodyne.pairsums import PixelSums, WeightedLoss, ramp
from homodyne.problem import PixelSource, Problem, information, states_and_slopes
from homodyne.save import load_run, save_run
from homodyne.table import summary
from homodyne.tiles import pack

from . import factory
from .example_run import ExampleJob, example_dataset, example_fit, rows_of
from .factory import DT, GAP, LAMINAR, PHI, STATIC, Q, dense_decay, dense_pairs, exact_maps, fitted, measured, noise_like, times
from .speckle import pair_covariance

SCALINGS = ("averaged", "fourier", "individual", "shrinkage")
N = 70
CONTRAST, DRIFT = np.array([0.12, 0.15, 0.19, 0.14, 0.16]), np.array([0.01, -0.03, 0.02, 0.0, -0.01])
OFFSET = np.array([1.0, 1.012, 0.995, 0.99, 1.004])
FREE = {"contrast_bounds": [0.0, 1.0], "offset_bounds": [0.5, 1.5]}
TIGHT = {"contrast_bounds": [0.13, 0.145], "offset_bounds": [0.998, 1.2]}


def drifting_maps(n: int, sigma: float, seed: int, truth=LAMINAR, phi=PHI) -> np.ndarray:
    """(P, n, n) maps whose contrast drifts, with noise."""
    h = exact_maps(truth, phi, n, contrast=1.0, offset=0.0)
    rho = 0.5 * (ramp(n)[:, None] + ramp(n)[None, :])
    offset, contrast, drift = (values[: len(phi), None, None] for values in (OFFSET, CONTRAST, DRIFT))
    maps = offset + (contrast + drift * rho) * h
    return maps + noise_like(maps, sigma, seed)


@cache
def dataset():
    maps = drifting_maps(N, 0.02, 1)
    maps[1, 7] = maps[1, :, 7] = np.nan
    hidden = np.triu(np.random.default_rng(4).random(maps.shape) < 0.1, 1)
    maps[hidden | hidden.swapaxes(1, 2)] = np.nan
    return measured(maps, PHI)


@cache
def weights() -> np.ndarray:
    return np.random.default_rng(5).uniform(0.2, 3.0, (5, N, N))


def scaling(name: str, bounds: dict | None = None):
    settings = dict(bounds or FREE) | {"contrast_drift": True} | ({"order": 1} if name == "fourier" else {})
    return option("per_angle_scaling", name, **settings)


@cache
def problem(name: str, weighted: bool = False, tight: bool = False) -> Problem:
    made = factory.problem(dataset(), "laminar_flow", scaling(name, TIGHT if tight else FREE))
    if not weighted:
        return made
    return replace(made, source=PixelSource(dataset(), threads=1, tiles_at_once=1, weights=pack(weights())))


@cache
def point() -> np.ndarray:
    """Coordinates away from the minimum."""
    u = problem("individual").model.coordinates_of(LAMINAR)
    return u + 0.1 * np.cos(np.arange(len(u)))


@cache
def dense_model():
    """h (P, pairs) and its Jacobian (P, pairs, p), rho of the pairs, c2 and the mask of all pairs at ``point``."""
    model = problem("individual").model

    def h(v):
        return jnp.stack(dense_decay(model, dataset(), v))

    value, jacobian = jax.jit(lambda v: (h(v), jax.jacfwd(h)(v)))(point())
    early, late, used, c2 = dense_pairs(dataset())
    return np.asarray(value), np.asarray(jacobian), 0.5 * (ramp(N)[early] + ramp(N)[late]), np.array(c2), np.array(used)


def dense(made: Problem, weighted: bool) -> SimpleNamespace:
    """The whole linear problem with explicit columns, each row times the root of its weight, prior rows last."""
    design = made.design
    h, _, rho, c2, used = dense_model()
    root = np.sqrt(weights()[:, *np.triu_indices(N, 1)]) if weighted else np.ones_like(h)
    groups, _, _, k = design.matrix.shape
    columns, precision = np.zeros((len(h), 3, groups * k)), np.zeros((groups * k, groups * k))
    for g, members in enumerate(design.members):
        columns[members, :, g * k : (g + 1) * k] = design.matrix[g]
        precision[g * k : (g + 1) * k, g * k : (g + 1) * k] = design.precision[g]
    rows = [root[a][used[a], None] * np.stack([np.ones_like(rho), h[a], rho * h[a]], -1)[used[a]] @ columns[a] for a in range(len(h))]
    targets = [root[a][used[a]] * (c2[a] - 1.0)[used[a]] for a in range(len(h))]
    values, vectors = np.linalg.eigh(precision)
    prior = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    return SimpleNamespace(
        matrix=np.vstack([*rows, prior]), target=np.concatenate([*targets, np.zeros(groups * k)]), columns=columns, root=root
    )


def physical_columns(found, system: SimpleNamespace) -> np.ndarray:
    """Derivatives of the rows of ``dense`` with respect to u."""
    _, jacobian, rho, _, used = dense_model()
    scale = system.root * (found.contrast[:, None] + found.drift[:, None] * rho)
    rows = [(scale[a][:, None] * jacobian[a])[used[a]] for a in range(len(used))]
    return np.vstack([*rows, np.zeros((system.columns.shape[-1], 7))])


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", SCALINGS)
def test_value_gradient_and_hessian_equal_dense_least_squares_with_explicit_columns(name, weighted):
    made = problem(name, weighted)
    found, system = made.evaluate(point()), dense(made, weighted)
    beta, *_ = np.linalg.lstsq(system.matrix, system.target)
    offset, contrast, drift = np.moveaxis(system.columns @ beta, -1, 0)
    np.testing.assert_allclose(found.chi2, np.sum((system.target - system.matrix @ beta) ** 2), rtol=1e-11)
    np.testing.assert_allclose([found.offset - 1, found.contrast, found.drift], [offset, contrast, drift], atol=1e-9)
    numeric = []
    for axis in np.eye(7):
        plus, minus = (made.evaluate(point() + sign * 1e-5 * axis, order=0).chi2 for sign in (1, -1))
        numeric.append((plus - minus) / 4e-5)
    np.testing.assert_allclose(found.gradient, numeric, atol=1e-6 * np.abs(numeric).max())
    physical = physical_columns(found, system)
    projected = physical - system.matrix @ np.linalg.lstsq(system.matrix, physical)[0]
    expected = projected.T @ projected
    unit = np.sqrt(np.outer(np.diagonal(expected), np.diagonal(expected)))
    np.testing.assert_allclose(found.hessian / unit, expected / unit, atol=1e-9)


@pytest.mark.parametrize("name", SCALINGS)
def test_bounds_hold_at_both_ends_of_the_record(name):
    """As bounded least squares by SLSQP, which stops early: ours must not be the worse one."""
    made = problem(name, tight=True)
    found, system, design = made.evaluate(point()), dense(made, False), made.design
    ends = np.concatenate([found.contrast - found.drift, found.contrast + found.drift])
    assert np.all(ends > 0.13 - 1e-9)
    assert np.all(ends < 0.145 + 1e-9)
    assert np.all(found.offset > 0.998 - 1e-9)
    limited = np.isclose(ends, 0.13, atol=1e-8) | np.isclose(ends, 0.145, atol=1e-8)
    touching = limited.reshape(2, -1).any(axis=0) | (found.offset < 0.998 + 1e-8)
    np.testing.assert_array_equal(found.projection.at_bound, touching)
    assert touching.any()
    offset, contrast, drift = np.moveaxis(system.columns, 1, 0)
    expand = np.concatenate([offset, contrast - drift, contrast + drift])
    low, high = (np.repeat(bound - [1.0, 0.0], [5, 10]) for bound in (design.lower, design.upper))
    normal, right = system.matrix.T @ system.matrix, system.matrix.T @ system.target
    size = np.trace(normal)
    slsqp = minimize(
        lambda b: (0.5 * b @ normal @ b - right @ b) / size,
        np.linalg.lstsq(expand, np.clip(expand @ np.linalg.solve(normal, right), low, high))[0],
        jac=lambda b: (normal @ b - right) / size,
        constraints=[LinearConstraint(expand, low, high)],
        method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 500},
    )
    chi2 = float(np.sum((system.target - system.matrix @ slsqp.x) ** 2))
    assert found.chi2 <= chi2 * (1 + 1e-12)
    assert found.chi2 == pytest.approx(chi2, rel=1e-8)


@pytest.mark.parametrize("name", SCALINGS)
def test_covariance_of_all_numbers_is_the_inverse_of_the_dense_normal_matrix(name):
    made = problem(name)
    found, system = made.evaluate(point()), dense(made, False)
    whole = np.hstack([physical_columns(found, system), system.matrix])
    scale = np.linalg.norm(whole, axis=0)
    expected = np.linalg.inv((whole / scale).T @ (whole / scale))
    info = information(found, made)
    root = np.sqrt(np.diagonal(expected))
    np.testing.assert_allclose(info.bread * np.outer(scale / root, scale / root), expected / np.outer(root, root), atol=1e-8)
    np.testing.assert_array_equal(info.expand, np.concatenate(np.moveaxis(system.columns, 1, 0)))


def test_images_of_single_frames_hold_the_whole_normal_matrix_and_the_score():
    """Their products summed over pairs are that matrix; residual times the linear columns is zero in sum."""
    made = problem("individual")
    found, kernel, bins = made.evaluate(point()), made.source.kernel, Bins.uniform(N, 1)
    pair, depends, info = made.model.pair, made.model.depends, information(found, made)
    normal = np.zeros_like(info.bread)
    for k, at in enumerate(fitted_points(made, found)):
        images = derivative_images(kernel, pair, depends, k, at, bins, np.zeros(N)).binned
        expand = expansion(info, k, 5)
        normal += expand.T @ (0.5 * np.einsum("aij,bij->ab", images, images)) @ expand
        score = score_images(kernel, pair, depends, k, at, bins)[info.size :]
        assert np.all(np.abs(score.sum(axis=(1, 2))) < 1e-10 * np.abs(score).sum(axis=(1, 2)))
    scale = np.sqrt(np.diagonal(normal))
    np.testing.assert_allclose(normal @ info.bread * np.outer(1 / scale, scale), np.eye(len(normal)), atol=1e-7)


def test_robust_weights_are_those_of_the_residuals_of_the_drifting_map():
    made, loss = problem("individual"), WeightedLoss(LOSSES["huber"].weight, 0.02)
    found = made.evaluate(point())
    moments = made.source.reweighted(made.model, found, loss).moments(made.model, found.u, 2, drift=True)
    h, jacobian, rho, c2, used = dense_model()
    residual = c2 - found.offset[:, None] - (found.contrast[:, None] + found.drift[:, None] * rho) * h
    w = np.where(used, np.asarray(loss.weight(jnp.asarray(np.where(used, residual, 0.0) / loss.scale))), 0.0)
    np.testing.assert_allclose(moments[0].w, w.sum(-1), rtol=1e-12)
    np.testing.assert_allclose(moments[1].hh, (w * rho * h**2).sum(-1), rtol=1e-10)
    np.testing.assert_allclose(moments[2].hd, np.einsum("fc,fcp->fp", w * rho**2 * h, jacobian), rtol=1e-9)


def test_residuals_include_the_drift():
    made = problem("individual")
    found = made.evaluate(point())
    total = sum(float(np.sum(chunk**2)) for chunk in made.source.residuals(made.model, found))
    assert total == pytest.approx(found.chi2, rel=1e-11)


def test_sums_with_a_drift_do_not_depend_on_how_they_are_cut_and_begin_with_those_without():
    made = problem("individual")
    x, dx = (np.asarray(part) for part in states_and_slopes(made.model, dataset().phi, point(), slopes=True))
    kernels = [PixelSums(dataset().tiles, N, threads=threads, tiles_at_once=at_once) for threads, at_once in ((1, 1), (2, 1), (1, 4))]
    first, *others = (kernel.moments(made.model.pair, made.model.depends, x, dx, 2, drift=True) for kernel in kernels)
    (plain,) = kernels[0].moments(made.model.pair, made.model.depends, x, dx, 2, drift=False)
    for name, value in vars(first[0]).items():
        np.testing.assert_allclose(value, getattr(plain, name), rtol=1e-12, atol=1e-12 * np.abs(value).max())
        for other in others:
            for moment, same in zip(first, other, strict=True):
                size = np.abs(getattr(first[0], name)).max()
                np.testing.assert_allclose(getattr(same, name), getattr(moment, name), rtol=1e-11, atol=1e-12 * size)


@pytest.mark.parametrize("name", SCALINGS)
def test_without_drift_leaves_the_design_of_the_same_scaling(name):
    """The search on cells uses it."""
    settings = dict(FREE) | ({"order": 1} if name == "fourier" else {})
    plain = option("per_angle_scaling", name, **settings).design(dataset(), 4e-4)
    both = scaling(name).design(dataset(), 4e-4)
    assert both.drift
    assert not plain.drift
    assert both.count == 3 * plain.count // 2
    assert plain.without_drift is plain
    for key, value in vars(both.without_drift).items():
        np.testing.assert_array_equal(value, getattr(plain, key), err_msg=key)


def test_constant_refuses_a_drift_and_auto_hands_it_on():
    with pytest.raises(ConfigError, match=r"per_angle_scaling.contrast_drift: found true; accepted: false \(constant fits nothing\)"):
        option("per_angle_scaling", "constant", contrast_drift=True)
    assert scaling("auto").design(dataset(), 4e-4).drift


class Plain(type(option("per_angle_scaling", "individual"))):  # type: ignore[misc]
    """A scaling written without the third row."""

    def design(self, dataset, pixel_variance):
        count = len(dataset.phi)
        return self._make("plain", np.arange(count)[:, None], np.tile(np.eye(2), (count, 1, 1, 1)))


def test_a_scaling_of_two_rows_says_that_it_fits_no_drift():
    with pytest.raises(ConfigError, match=r"contrast_drift: plain fits no drift; accepted: false"):
        Plain(**FREE, contrast_drift=True).design(dataset(), 4e-4)


STATIC_PHI = (0.0, 45.0, 90.0)
SLOW = {**STATIC, "D_offset": 0.0}


@cache
def fit_and_rows(sigma: float, **groups: str):
    """A static fit of maps whose contrast drifts: data, fit, rows of the fitted map."""
    mode = option("mode", "static", parameters=factory.fixed(D_offset=0.0))
    data = measured(drifting_maps(60, sigma, 3, SLOW, STATIC_PHI), STATIC_PHI)
    return data, *optimize.fit(factory.job(mode, scaling("individual"), **groups), data, None)[:2]


def test_exact_maps_give_back_contrast_drift_and_physics():
    """The search on cells knows no drift; the fit on all pixels does."""
    fit = fit_and_rows(0.0)[1]
    assert fit.success
    np.testing.assert_allclose(fit.contrast, CONTRAST[:3], atol=1e-7)
    np.testing.assert_allclose(fit.contrast_drift, DRIFT[:3], atol=1e-7)
    assert fit.parameters["alpha"].value == pytest.approx(SLOW["alpha"], abs=1e-5)
    assert fit.pairs - fit.dof == 2 + 9


def test_the_fit_names_its_drift_with_errors_and_the_map_has_it():
    _, fit, rows = fit_and_rows(0.005, noise="frame_clustered")
    assert fit.names[-3:] == tuple(f"drift[{k}]" for k in range(3))
    np.testing.assert_allclose(np.sqrt(np.diagonal(fit.covariance)[-3:]), fit.contrast_drift_error, rtol=1e-9)
    assert np.all(np.abs(fit.contrast_drift - DRIFT[:3]) < 4 * fit.contrast_drift_error)
    assert any(line.startswith("contrast drift -0.0") for line in summary(fit).splitlines())
    values = {name: estimate.value for name, estimate in fit.parameters.items()}
    h = exact_maps(values, STATIC_PHI, contrast=1.0, offset=0.0)[1]
    frames = fit.contrast[1] + fit.contrast_drift[1] * ramp(60)
    expected = fit.offset[1] + 0.5 * (frames[:, None] + frames) * h
    np.testing.assert_allclose(np.concatenate([rows(1, 0, 25), rows(1, 25, 60)]), expected, rtol=1e-8)


def test_a_fit_with_a_drift_comes_back_from_its_folder(tmp_path):
    data, fit, rows = fit_and_rows(0.005, noise="frame_clustered")
    save_run(tmp_path, job=ExampleJob(), dataset=data, fit=fit, model_rows=rows)  # type: ignore[arg-type]  # the part of Job it reads
    run = load_run(tmp_path)
    for name in ("contrast_drift", "contrast_drift_error", "covariance"):
        np.testing.assert_array_equal(getattr(run.fit, name), getattr(fit, name))
    assert run.document["per_angle"][2]["contrast_drift"] == fit.contrast_drift[2]
    np.testing.assert_allclose(run.model(1), rows(1, 0, 60), rtol=1e-7)


def test_without_a_drift_nothing_speaks_of_it(tmp_path):
    data = example_dataset()
    fit = example_fit(data)
    save_run(tmp_path, job=ExampleJob(), dataset=data, fit=fit, model_rows=rows_of(fit, data))  # type: ignore[arg-type]
    run = load_run(tmp_path)
    assert run.fit.contrast_drift is None
    assert run.fit.contrast_drift_error is None
    assert "contrast_drift" not in run.document["per_angle"][0]
    assert "drift" not in summary(fit)


def test_a_robust_loss_finds_the_drift_among_outliers():
    """One pair of a hundred is 0.2 too high."""
    maps = drifting_maps(60, 0.005, 6, SLOW, STATIC_PHI)
    hit = np.triu(np.random.default_rng(8).random(maps.shape) < 0.01, 1)
    mode = option("mode", "static", parameters=factory.fixed(D_offset=0.0))
    robust = option("optimizer", "nlsq", loss="soft_l1")
    data = measured(maps + 0.2 * (hit | hit.swapaxes(1, 2)), STATIC_PHI)
    fit = fitted(data, mode=mode, per_angle_scaling=scaling("individual"), optimizer=robust)
    assert fit.success
    assert np.all(np.abs(fit.contrast_drift - DRIFT[:3]) < 4 * fit.contrast_drift_error)


@pytest.mark.parametrize(("shot", "tolerance"), [(0.0, 1e-10), (0.4, 1e-3)])
def test_the_covariance_of_a_drifting_map_equals_the_sum_over_four_indices(shot, tolerance):
    """The contrast of a pair is an arithmetic mean in the fit and a geometric one in the statistics: equal to a thousandth."""
    n = 9
    maps = drifting_maps(n, 0.001, 2, LAMINAR, PHI[1:2])
    made = factory.problem(measured(maps, PHI[1:2]), "laminar_flow", scaling("individual"))
    u = made.model.coordinates_of(LAMINAR)
    found = replace(made.evaluate(u), contrast=np.array([0.3]), drift=np.array([0.06]))
    s = shot * (1 + 0.3 * np.cos(np.arange(n)))
    counting = Counting(s[None], np.array([1000.0]))
    (part,) = angle_sums(made, found, counting, bins_of=lambda x, _: Bins.uniform(x.shape[-1], 1))
    early, late = np.triu_indices(n, 1)

    def decay(v):
        return dense_decay(made.model, made.source.dataset, v)[0]

    h, slope = np.asarray(decay(u)), np.asarray(jax.jacfwd(decay)(u))
    rho, x = 0.5 * (ramp(n)[early] + ramp(n)[late]), fitted_points(made, found)[0].x
    columns = np.concatenate([(0.3 + 0.06 * rho) * slope.T, [np.ones_like(rho), h, rho * h]])
    field = np.asarray(made.model.pair.field(tuple(jnp.abs(state[None, :] - state[:, None]) for state in x)))
    along = np.sqrt(1 + 0.2 * ramp(n))
    expected = columns @ pair_covariance(field * np.sqrt(np.outer(along, along)), 0.3, s) @ columns.T / 1000
    scale = np.sqrt(np.outer(np.diagonal(expected), np.diagonal(expected)))
    np.testing.assert_allclose(part.covariance / scale, expected / scale, atol=tolerance)


SPECKLE = {**STATIC, "alpha": -0.3, "D_offset": 0.0}


@cache
def speckle(seed: int, drift: bool) -> tuple[Minimised, Noise]:
    """A minimum on speckle whose contrast falls to 0.7 of its first value."""
    data = homodyne.simulate(
        SPECKLE, 0.0, q=Q, gap=GAP, dt=DT, frames=60, contrast=0.2, mode="static", noise="speckle", pixels=2000, photons=5.0,
        layers=None, contrast_drift=0.3, seed=seed, threads=1,
    )  # fmt: skip
    model = option("mode", "static", parameters=factory.fixed(D_offset=0.0)).bind(times(60), Q, GAP, data.phi)
    design = option("per_angle_scaling", "individual", contrast_drift=drift).design(data, 1.0)
    made = Problem(model, design, PixelSource(data, threads=1, tiles_at_once=1))
    local = minimise(made, model.coordinates_of(SPECKLE), Tolerances(1e-9, 1e-8, 1e-10, 60))
    assert local is not None
    found, pairs = local.evaluation, int(data.pairs.sum())
    fitted_numbers = len(found.u) + design.count
    minimum = Minimised(made, found, information(found, made), None, 1.0, found.chi2 / pairs, pairs, fitted_numbers)
    return minimum, option("noise", "sandwich").covariance(minimum)


def alpha_pull(minimum: Minimised, noise: Noise) -> float:
    """How many standard errors alpha is off."""
    alpha = minimum.problem.model.coordinates.index("alpha")
    return float((minimum.evaluation.u[alpha] - SPECKLE["alpha"]) / np.sqrt(noise.covariance[alpha, alpha]))


def test_alpha_of_speckle_is_right_with_the_column_and_not_without():
    repeats = 24
    without, found = (np.array([alpha_pull(*speckle(seed, drift)) for seed in range(repeats)]) for drift in (False, True))
    # The spread of the root mean square of 24 normal numbers is 0.14.
    assert np.sqrt(np.mean(found**2)) == pytest.approx(1.0, abs=0.4)
    assert abs(found.mean()) < 3.5 / np.sqrt(repeats)
    assert without.mean() > 1.5
    drifts = np.array([minimum.evaluation.drift[0] for minimum, _ in (speckle(seed, True) for seed in range(repeats))])
    assert drifts.mean() == pytest.approx(-0.03, abs=4 * drifts.std() / np.sqrt(repeats))


def test_the_goodness_of_fit_asks_for_the_column_and_is_content_with_it():
    """Over 15 maps: the directed test rejects without the column and is gone with it, where blocks are as they should be."""
    without = [goodness(*speckle(seed, False)) for seed in range(5)]
    assert np.median([found.tests["contrast_drift"].p_value for found in without]) < 0.01
    found = [goodness(*speckle(seed, True)) for seed in range(15)]
    assert "contrast_drift" not in found[0].tests
    p_values = [each.tests["lag_age"].p_value for each in found]
    assert 0.1 < np.mean(p_values) < 0.85
    assert np.mean([each.scatter for each in found]) == pytest.approx(1.0, abs=0.1)
