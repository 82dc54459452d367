"""Tests of a fit: uniform p-values for true models, power against wrong ones, and the algebra against dense projections."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, kstest

from homodyne.config import option
from homodyne.covariance import Counting, angle_sums, fitted_points
from homodyne.directions import directions_of
from homodyne.goodness import FEWEST_PAIRS, directions, goodness, lag_age_blocks, offset_test
from homodyne.mode.flow import Decay
from homodyne.results import Test as Result
from homodyne.speckle import Speckle, drawn_fields, mixed_fields, record
from homodyne.tiles import pack
from homodyne.verdict import judge

from .factory import DT, Q, dense_decay, dense_pairs, exact_maps, linear_columns, measured, times
from .speckle import PHI, TRUTH, at, minimum, mode, pair_covariance, problem, speckle, unknown

STATISTICS = ("lag_age", "lag", "lag_all_angles", "contrast_drift")


def examined(data, truth=TRUTH, **settings):
    """Goodness of a sandwich fit, with the test of the offset as optimize.py makes it."""
    found = minimum(data, truth=truth)
    noise = option("noise", "sandwich", **settings).covariance(found)
    result = goodness(found, noise)
    size, expand = found.information.size, found.information.expand[: len(data.phi)]
    test = offset_test(found.evaluation.offset, expand @ noise.covariance[size:, size:] @ expand.T)
    return replace(result, tests=result.tests | {"offset": test})


@cache
def nulls(photons: float | None, rate: float, alpha: float, repeats: int = 60) -> dict[str, np.ndarray]:
    truth = {"D0": rate, "alpha": alpha, "D_offset": 0.0}
    found = [examined(speckle(seed, 48, truth=truth, photons=photons), truth) for seed in range(100, 100 + repeats)]
    return {name: np.array([one.tests[name].p_value for one in found]) for name in (*STATISTICS, "offset")}


@pytest.mark.parametrize(("photons", "rate", "alpha"), [(5.0, 3e4, -0.5), (0.5, 6e4, 0.0)])
def test_p_values_of_true_models_are_uniform(photons, rate, alpha):
    """60 simulated records each, with many photons and few: Kolmogorov-Smirnov, and few rejections at 1 %."""
    for name, values in nulls(photons, rate, alpha).items():
        assert kstest(values, "uniform").pvalue > 0.001, name
        assert np.sum(values < 0.01) <= 4, name


def mixture(seed: int, n: int, slower: float, share: float, photons: float, pixels: int):
    """Records of a field of which a share relaxes so many times slower."""
    t = times(n)
    x0 = Q**2 * TRUTH["D0"] * (t - t[0])
    field = mixed_fields([(np.sqrt(1 - share), drawn_fields(x0)), (np.sqrt(share), drawn_fields(x0 / slower))])
    made = list(record([field] * 3, [0.2] * 3, Speckle(pixels=pixels, photons=photons), seed=seed, threads=1))
    data = measured(np.array([one.c2 for one in made]), PHI)
    diagonal, counts = np.array([np.diagonal(one.c2) for one in made]), np.array([one.counts for one in made])
    return replace(data, diagonal=diagonal, counts=counts, pixels=np.full(3, float(pixels)))


def said(found) -> str:
    """The verdict in words."""
    count = found.z.shape[0]
    settled = {"unexplained": 0.0, "at_bound": np.zeros(count, dtype=bool), "scaled": True}
    return judge(found, **settled, offset=np.ones(count), dt=DT, phi=np.array(PHI[:count])).sentence


def test_a_second_relaxation_is_detected():
    for seed in range(2):
        found = examined(mixture(seed, 80, 10.0, 0.3, 20.0, 8000))
        assert found.tests["lag_all_angles"].p_value < 1e-3
        assert found.tests["second_decay"].z > 4
        assert "does not describe" in said(found)


def test_a_contrast_that_drifts_is_detected_and_named():
    for seed in range(2):
        found = examined(speckle(seed, 80, pixels=4000, photons=20.0, contrast_drift=0.3))
        assert found.tests["contrast_drift"].p_value < 1e-4
        assert "contrast_drift=true" in said(found)


def test_static_structure_is_seen_by_the_offset_only():
    """Brightness that differs by 10 % from pixel to pixel is an offset of 1.01."""
    for seed in range(2):
        found = examined(speckle(seed, 80, pixels=4000, photons=20.0, heterogeneity=0.1))
        assert found.tests["offset"].p_value < 1e-4
        assert min(found.tests[name].p_value for name in STATISTICS) > 1e-3
        assert "pixels of unequal intensity" in said(found)


def test_a_rival_that_is_wrong_does_not_unseat_a_true_model_and_the_reverse():
    """The difference to a map with another exponent: uniform for the true one, decisive against a fit that keeps a wrong one."""
    truth = {"D0": 6e4, "alpha": 0.0, "D_offset": 0.0}
    true, wrong = [], []
    for seed in range(4):
        data = speckle(seed, 60, pixels=4000)
        both = [minimum(data), minimum(data, chosen=mode(alpha=-0.3), truth=truth | {"alpha": -0.3})]
        for first, second, out in ((both[0], both[1], true), (both[1], both[0], wrong)):
            rival = (second.problem.model.pair, fitted_points(second.problem, second.evaluation))
            noise = option("noise", "sandwich", speckle_size=1.0).covariance(first)
            out.append(goodness(first, noise, rival).tests["rival"])
    assert {test.rank for test in true + wrong} == {1}
    assert min(test.p_value for test in true) > 1e-3
    assert np.median([test.p_value for test in wrong]) < 1e-3


def dense_directions(found, extras: np.ndarray, shot: np.ndarray, pixels: float):
    """z (P, e) and its covariance: residuals of all angles stacked, projected off all fitted columns with a dense matrix."""
    made, fit = found.problem, found.evaluation
    model, data, columns = made.model, found.source.dataset, linear_columns(made.design)
    jacobian = jax.jacfwd(lambda u: jnp.stack(dense_decay(model, data, u)))(fit.u)
    h = np.stack(dense_decay(model, data, fit.u))
    _, _, used, c2 = dense_pairs(data)
    angles, count = h.shape
    gradient, noise = np.zeros((angles, count, len(fit.u) + columns.shape[-1])), np.zeros((angles, count, angles, count))
    for k in range(angles):
        gradient[k, :, : len(fit.u)] = fit.contrast[k] * np.asarray(jacobian[k])
        gradient[k, :, len(fit.u) :] = columns[k, 0] + h[k][:, None] * columns[k, 1]
        gradient[k] *= used[k][:, None]
        x = np.asarray(model.states(fit.u, data.phi[k]))[0]
        gam = np.asarray(Decay(0).field((np.abs(x[None, :] - x[:, None]),)))
        noise[k, :, k, :] = pair_covariance(gam, fit.contrast[k], shot[k]) / pixels
    total = angles * count
    gradient, noise = gradient.reshape(total, -1), noise.reshape(total, total)
    residual = np.concatenate(
        [np.where(u, c - o - b * m, 0.0) for u, c, o, b, m in zip(used, c2, fit.offset, fit.contrast, h, strict=True)]
    )
    project = np.eye(total) - gradient @ np.linalg.solve(gradient.T @ gradient, gradient.T)
    stacked = np.zeros((angles, extras.shape[1], total))
    for k in range(angles):
        stacked[k, :, k * count : (k + 1) * count] = extras[k] * used[k]
    stacked = stacked.reshape(-1, total)
    return (stacked @ residual).reshape(angles, -1), stacked @ project @ noise @ project.T @ stacked.T


def departed(model, fit, angle: int, early: np.ndarray, late: np.ndarray) -> np.ndarray:
    """(3, pairs) c2 with a little of a static field, of one ten times slower, and of a stretched exponent, less c2, by differences."""
    x = np.asarray(model.states(fit.u, model.phi[angle]))[0]
    x, little = x[late] - x[early], 1e-6

    def mixed(other: np.ndarray) -> np.ndarray:
        return ((1 - little) * np.exp(-x / 2) + little * other) ** 2

    changed = np.array([mixed(np.ones_like(x)), mixed(np.exp(-x / 20)), np.exp(-(x ** (1 + little)))])
    return fit.contrast[angle] * (changed - np.exp(-x)) / little


@pytest.mark.parametrize(("pair", "phase"), [(Decay(0), ()), (Decay(2), (0.7,)), (Decay(2), (4.0,))])
def test_directions_are_differences_of_the_mixed_field_and_finite_however_far_the_decay(pair, phase):
    """Closed forms of the mixed field, with shear of either sign of g1, and exponents at which g1 underflows."""
    exponent = np.array([0.0, 1e-3, 0.5, 3.0, 30.0, 1600.0, 1e5])
    difference = (jnp.asarray(exponent), *(jnp.full(len(exponent), value) for value in phase))
    shear = np.sinc(phase[0] / np.pi) if phase else 1.0
    field, little = shear * np.exp(-exponent / 2), 1e-6

    def slope(other: np.ndarray | float) -> np.ndarray:
        return (((1 - little) * field + little * other) ** 2 - ((1 + little) * field - little * other) ** 2) / (2 * little)

    found = {name: np.asarray(of(pair, difference)) for name, of in directions_of(pair).items()}
    np.testing.assert_allclose(found["static_field"], slope(1.0), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found["second_decay"], slope(shear * np.exp(-exponent / 20)), rtol=1e-7, atol=1e-9)
    assert np.isfinite(found["stretching"]).all()


@pytest.mark.parametrize("scaling", ["individual", "averaged"])
def test_directions_equal_a_dense_projection(scaling):
    """Drift and blocks of two angles of eleven frames, one of them with a masked frame."""
    n, pixels = 11, 400.0
    maps = exact_maps(TRUTH, (0.0, 60.0), n, contrast=0.25) + 0.01 * np.cos(np.add.outer(np.arange(n), np.arange(n)))
    maps[0, 3], maps[0, :, 3] = np.nan, np.nan
    made = problem(measured(maps, (0.0, 60.0)), scaling)
    found = at(made, made.evaluate(made.model.coordinates_of(TRUTH)))
    shot = 0.1 + 0.05 * np.arange(2 * n).reshape(2, n) / n
    blocks = lag_age_blocks(n).classes
    every = directions(angle_sums(made, found.evaluation, Counting(shot, np.full(2, pixels)), None, blocks), found)
    early, late = np.triu_indices(n, 1)
    h = np.stack(dense_decay(made.model, found.source.dataset, found.evaluation.u))
    along = np.linspace(-1, 1, n)
    block = blocks.block[blocks.lag[late - early], early + late]
    drift = 0.5 * (along[early] + along[late])
    departures = [departed(made.model, found.evaluation, k, early, late) for k in range(2)]
    extras = np.array([[*departures[k], drift * h[k], *(block == np.arange(blocks.count)[:, None])] for k in range(2)])
    z, covariance = dense_directions(found, extras, shot, pixels)
    # Differences know the departures to five digits.
    np.testing.assert_allclose(every.z[:, 3:], z[:, 3:], atol=1e-10)
    np.testing.assert_allclose(every.z[:, :3], z[:, :3], atol=1e-5 * np.abs(z).max())
    scale = np.sqrt(np.outer(np.diagonal(covariance), np.diagonal(covariance)))
    exact = np.tile(np.arange(extras.shape[1]) >= 3, 2)
    np.testing.assert_allclose((every.covariance / scale)[np.ix_(exact, exact)], (covariance / scale)[np.ix_(exact, exact)], atol=1e-8)
    np.testing.assert_allclose(every.covariance / scale, covariance / scale, atol=2e-3)
    rows = np.eye(len(covariance))[4:6]
    test = every.test("two", rows)
    part = z.ravel()[4:6]
    assert test.rank == 2
    np.testing.assert_allclose(test.statistic, part @ np.linalg.solve(covariance[4:6, 4:6], part), rtol=1e-7)
    np.testing.assert_allclose(test.p_value, chi2.sf(test.statistic, 2), rtol=1e-9)
    standard = (z.ravel() / np.sqrt(np.diagonal(covariance))).reshape(z.shape)
    np.testing.assert_allclose(every.standardised[:, 3:], standard[:, 3:], rtol=1e-7)
    along_field = every.directed("static_field", np.tile(np.eye(z.shape[1])[:1], 2))
    summed = np.tile(np.eye(z.shape[1])[:1], 2)
    score = float((summed @ z.ravel())[0] / np.sqrt((summed @ covariance @ summed.T)[0, 0]))
    assert along_field.z == pytest.approx(score, rel=2e-3)
    assert along_field.p_value == pytest.approx(chi2.sf(along_field.z**2, 1), rel=1e-9)


@pytest.mark.parametrize("n", [3, 10, 11, 16, 47, 100, 400, 3000])
def test_blocks_hold_every_pair_at_most_once_and_ages_evenly(n):
    blocks = lag_age_blocks(n)
    i, j = np.triu_indices(n, 1) if n < 1000 else np.sort(np.random.default_rng(0).integers(0, n, (2, 200000)), axis=0)
    i, j = i[i < j], j[i < j]
    block = blocks.classes.block[blocks.classes.lag[j - i], i + j]
    assert block.max(initial=-1) < blocks.classes.count == len(blocks.lag) == len(blocks.age)
    inside = block >= 0
    lag = (j - i)[inside]
    of = blocks.lag[block[inside]].astype(int)
    edges = blocks.lag_edges[of], blocks.lag_edges[of + 1]
    assert np.all((lag >= edges[0]) & (lag < edges[1]))
    if n < 1000:
        count = np.bincount(block[inside], minlength=blocks.classes.count)
        assert np.all(count >= 0.6 * FEWEST_PAIRS)
        for k in range(len(blocks.lag_edges) - 1):
            here = count[blocks.lag == k]
            whole = np.sum((j - i >= blocks.lag_edges[k]) & (j - i < blocks.lag_edges[k + 1]))
            assert len(here) == min(4, whole // FEWEST_PAIRS)
            if len(here):
                assert here.sum() == whole
                columns = blocks.lag_edges[k + 1] - blocks.lag_edges[k]
                assert np.ptp(here) <= max(columns, 1) + 1
        later = [np.mean((i + j)[block == k]) for k in range(blocks.classes.count)]
        assert all(later[k] < later[k + 1] for k in range(len(later) - 1) if blocks.lag[k] == blocks.lag[k + 1])


@pytest.mark.parametrize("n", [3, 5, 8, 10, 11, 16])
def test_records_too_short_for_a_block_have_no_test_but_no_failure(n):
    found = minimum(speckle(0, n, phi=(0.0,)))
    result = goodness(found, option("noise", "sandwich", speckle_size=1.0).covariance(found))
    assert result is None or said(result)
    assert (result is None) == (lag_age_blocks(n).classes.count == 0)


def test_offset_test_equals_a_chi_square_by_hand():
    covariance = np.array([[4.0, 1.0], [1.0, 2.0]]) * 1e-6
    offset = np.array([1.003, 0.998])
    d = offset - 1
    statistic = d @ np.linalg.inv(covariance) @ d
    test = offset_test(offset, covariance)
    assert test.rank == 2
    np.testing.assert_allclose([test.statistic, test.p_value], [statistic, chi2.sf(statistic, 2)], rtol=1e-9)
    shared = offset_test(np.array([1.002, 1.002]), np.full((2, 2), 1e-6))
    assert shared.rank == 1
    np.testing.assert_allclose([shared.statistic, shared.p_value], [4.0, chi2.sf(4.0, 1)], rtol=1e-9)
    fixed = offset_test(np.array([1.0, 1.002]), np.diag([0.0, 1e-6]))
    assert (fixed.rank, round(fixed.statistic, 9)) == (1, 4.0)
    for nothing in (np.zeros((2, 2)), np.full((2, 2), np.nan)):
        assert offset_test(offset, nothing).rank == 0
        assert np.isnan(offset_test(offset, nothing).p_value)


def test_sentences_say_what_where_and_what_to_do():
    found = examined(speckle(0, 80))
    good = {name: replace(found.tests[name], p_value=0.4) for name in found.tests}
    bad = good | {"lag_age": Result("lag_age", 300.0, 60, 1e-20), "contrast_drift": Result("contrast_drift", 90.0, 3, 1e-15)}
    z = np.zeros_like(found.z)
    z[1, 0] = -7.0
    assert "the model describes the maps within their noise (all tests together p = 0.4" in said(replace(found, tests=good))
    line = said(replace(found, tests=bad, z=z, angles=(0.5, 1e-9, 0.5)))
    assert "does not describe the maps within their noise (all tests together p < 1e-10" in line
    assert "below the fit by 7.0 standard deviations at lag 0.1 s, youngest quarter, phi = 45 degrees; 1 of 3 angles" in line
    drifting = good | {"contrast_drift": Result("contrast_drift", 90.0, 3, 1e-15)}
    assert "set per_angle_scaling.contrast_drift=true" in said(replace(found, tests=drifting))


def test_a_lag_that_is_split_in_fewer_than_four_is_not_called_a_quarter():
    blocks = lag_age_blocks(30)
    whole = int(np.flatnonzero(np.bincount(blocks.lag)[blocks.lag] < 4)[-1])
    found = examined(speckle(0, 30))
    z = np.zeros_like(found.z)
    z[0, whole] = 9.0
    bad = found.tests | {"lag_age": Result("lag_age", 300.0, 60, 1e-20)}
    assert "quarter" not in said(replace(found, tests=bad, z=z))


def test_residuals_without_noise_are_not_tested():
    data = speckle(0, 60)
    exact = minimum(replace(data, tiles=pack(exact_maps(TRUTH, PHI, 60, contrast=0.2))))
    assert goodness(exact, option("noise", "frame_clustered").covariance(exact)) is None


def test_unknown_pixel_numbers_make_the_test_conservative_and_this_is_said():
    data = speckle(0, 80)
    found = examined(replace(data, **unknown("pixels", data=data)))
    assert found.scaled
    assert np.isnan(found.scatter)
