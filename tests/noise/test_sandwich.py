"""Errors from the statistics of speckle: equal to the dense sandwich, and to the scatter of fits to simulated speckle."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homodyne.config import option
from homodyne.mode.flow import Decay
from homodyne.optimizer.loss import LOSSES
from homodyne.pairsums import WeightedLoss
from homodyne.speckle import speckle_sums
from homodyne.tiles import pack

from .. import factory
from ..factory import LAMINAR, dense_decay, dense_pairs, exact_maps, linear_columns, measured, simulated
from ..speckle import CONTRAST, PHI, TRUTH, at, minimum, mode, pair_covariance, problem, speckle, unknown


def sandwich(found, **settings):
    return option("noise", "sandwich", **settings).covariance(found)


def errors(noise) -> np.ndarray:
    return np.sqrt(np.diagonal(noise.covariance))


def dense_sandwich(found, shot: np.ndarray, pixels: float) -> np.ndarray:
    """A^-1 V A^-1 of u and all coefficients, from an automatic Jacobian and the four-index covariance of the pixels."""
    made, fit = found.problem, found.evaluation
    model, data, columns = made.model, found.source.dataset, linear_columns(made.design)
    size, phi = len(fit.u), data.phi
    jacobian = jax.jacfwd(lambda u: jnp.stack(dense_decay(model, data, u)))(fit.u) if size else np.zeros((len(phi), 1, 0))
    h = np.stack(dense_decay(model, data, fit.u))
    early, _, used, _ = dense_pairs(data)
    bread, total = np.zeros((2, size + columns.shape[-1], size + columns.shape[-1]))
    for k in range(len(phi)):
        gradient = np.zeros((len(early), len(bread)))
        gradient[:, :size] = fit.contrast[k] * np.asarray(jacobian[k])
        gradient[:, size:] = columns[k, 0] + h[k][:, None] * columns[k, 1]
        gradient *= used[k][:, None]
        x = np.asarray(model.states(fit.u, phi[k]))
        gam = np.asarray(Decay(0).field((np.abs(x[0][None, :] - x[0][:, None]),)))
        bread += gradient.T @ gradient
        total += gradient.T @ pair_covariance(gam, fit.contrast[k], shot[k]) @ gradient / pixels
    inverse = np.linalg.inv(bread)
    return inverse @ total @ inverse


@pytest.mark.parametrize("fixed", [{}, {"alpha": 0.0}])
@pytest.mark.parametrize("scaling", ["individual", "averaged"])
def test_errors_equal_the_dense_sandwich(scaling, fixed):
    """Ten frames, two angles, a masked frame: a full S although G has holes."""
    shot, pixels = 0.1 + 0.05 * np.arange(20).reshape(2, 10) / 10, 400.0
    maps = exact_maps(TRUTH, (0.0, 60.0), 10, contrast=0.25)
    maps += 0.01 * np.cos(np.add.outer(np.arange(10), np.arange(10)))
    maps[0, 3], maps[0, :, 3] = np.nan, np.nan
    data = replace(measured(maps, (0.0, 60.0)), counts=(1 - 1 / pixels) / shot, pixels=np.full(2, pixels))
    made = problem(data, scaling, mode(**fixed))
    found = at(made, made.evaluate(made.model.coordinates_of(TRUTH)))
    expected = dense_sandwich(found, shot, pixels)
    noise = sandwich(found, speckle_size=1.0)
    root = np.sqrt(np.diagonal(expected))
    np.testing.assert_allclose(noise.covariance / np.outer(root, root), expected / np.outer(root, root), atol=1e-8)


def spreads(repeats: int, n: int, scaling="individual", prepare=lambda data: data, settings=None, **detector):
    """Pulls (repeats, numbers) of u, and the same with independent pixels."""
    out = []
    for seed in range(repeats):
        found = minimum(prepare(speckle(seed, n, **detector)), scaling)
        deviation = found.evaluation.u - found.problem.model.coordinates_of(TRUTH)
        size = len(deviation)
        independent = np.sqrt(np.diagonal(found.independent))[:size]
        out.append((deviation / errors(sandwich(found, **(settings or {})))[:size], deviation / independent))
    return np.array(out).transpose(1, 0, 2)


def rms(values) -> np.ndarray:
    return np.sqrt(np.mean(np.square(values), axis=0))


def test_pulls_of_simulated_speckle_are_one_where_independent_pixels_are_far_off():
    """40 repeats: the error of an rms pull is 11 %."""
    pulls, independent = spreads(40, 60)
    assert np.all((rms(pulls) > 0.72) & (rms(pulls) < 1.28))
    assert np.all(np.abs(pulls.mean(axis=0)) < 0.4)
    assert np.all(rms(independent) > 2.0)


def test_pulls_do_not_depend_on_masks():
    """A fifth of the frames and the first two lags masked; S stays full, although G has holes."""

    def masked(data):
        maps = np.array([data.map(k) for k in range(len(data.phi))])
        maps[:, 20:32], maps[:, :, 20:32] = np.nan, np.nan
        i, j = np.indices(maps.shape[1:])
        maps[:, np.abs(i - j) < 3] = np.nan
        return replace(data, tiles=pack(maps))

    pulls, _ = spreads(40, 60, prepare=masked)
    assert np.all((rms(pulls) > 0.72) & (rms(pulls) < 1.28))


@pytest.mark.parametrize("settings", [{}, {"speckle_size": speckle_sums(4)[0]}])
def test_pulls_of_speckles_of_four_pixels(settings):
    """r given or estimated; with independent pixels assumed the pulls are larger by the root of about 1.7."""
    pulls, _ = spreads(20, 60, settings=settings, pixels=2000, pixels_per_speckle=4)
    assert np.all((rms(pulls) > 0.65) & (rms(pulls) < 1.4))
    if not settings:
        small, _ = spreads(20, 60, settings={"speckle_size": 1.0}, pixels=2000, pixels_per_speckle=4)
        assert np.all(rms(small) > 1.1 * rms(pulls))


def test_speckle_size_is_found_and_said():
    found = [sandwich(minimum(speckle(seed, 100, pixels=2000, pixels_per_speckle=4))) for seed in range(6)]
    size = [noise.counted.counting.r for noise in found]
    np.testing.assert_allclose(np.mean(size), speckle_sums(4)[0], atol=0.3)
    assert all("speckles larger than a pixel" in noise.statements[-1] for noise in found if noise.counted.counting.r > 1)
    assert f"speckle size r = {size[0]:.2f}" in found[0].text


@pytest.mark.parametrize("photons", [0.5, 5.0])
def test_no_speckle_size_is_made_up(photons):
    """Independent pixels, also where photons are scarce and dynamics slow: r stays 1 in 29 of 30 records, and never becomes large."""
    truth = {"D0": 1.5e4, "alpha": -0.5, "D_offset": 0.0}
    size = np.array([sandwich(minimum(speckle(seed, truth=truth, photons=photons), truth=truth)).counted.counting.r for seed in range(20)])
    assert np.sum(size > 1) <= 1
    assert size.max() < 3


def test_unknown_pixel_numbers_give_nearly_the_same_errors():
    for seed in range(3):
        data = speckle(seed, 80)
        found = minimum(data)
        known = sandwich(found)
        blind = sandwich(minimum(replace(data, **unknown("pixels", data=data))))
        assert "the scatter of the residuals" in blind.text
        np.testing.assert_allclose(errors(blind)[:2], errors(known)[:2], rtol=0.15)


def test_few_independent_frames_and_no_pixel_number_mean_no_error():
    truth = {"D0": 3e3, "alpha": 0.0, "D_offset": 0.0}
    data = speckle(0, 40, truth=truth, photons=50.0)
    noise = sandwich(minimum(replace(data, **unknown("pixels", data=data)), truth=truth))
    assert not noise.known
    assert "independent frames" in noise.statements[-1]
    assert "noise.pixels" in noise.statements[-1]
    assert sandwich(minimum(data, truth=truth)).known


def exact_record(*names):
    """Maps without noise whose file says nothing of the named fields."""
    data = speckle(0, 60)
    return minimum(replace(data, tiles=pack(exact_maps(TRUTH, PHI, 60, contrast=CONTRAST)), **unknown(*names, data=data)))


@pytest.mark.parametrize("names", [("counts", "diagonal", "pixels"), ("pixels",)])
def test_residuals_that_do_not_scatter_show_no_pixel_number_and_give_no_errors(names):
    noise = sandwich(exact_record(*names))
    assert not noise.known
    assert "do not scatter" in noise.statements[-1]


def test_residuals_that_scatter_too_little_for_a_known_pixel_number_are_reported():
    """An exact map, and one whose pixel number is four times too small."""
    assert "scatter only" in sandwich(exact_record()).statements[-1]
    found = sandwich(minimum(speckle(0, 60)), pixels=250.0)
    assert "scatter only 0.2" in found.statements[-1]
    assert "wrong number of pixels" in found.statements[-1]


def test_robust_loss_and_weights_change_little_where_there_are_no_outliers():
    data = speckle(1, 60)
    plain = minimum(data)
    loss = WeightedLoss(LOSSES["soft_l1"].weight, float(np.sqrt(plain.score_variance)))
    robust = minimum(data, loss=loss)
    weights = np.random.default_rng(0).uniform(0.8, 1.2, (3, 60, 60))
    weighted = minimum(data, weights=pack(weights))
    for other in (replace(robust, efficiency=1.1), weighted):
        np.testing.assert_allclose(errors(sandwich(other)) / errors(sandwich(plain)), 1.0, atol=0.25)
    flat = minimum(data, weights=pack(np.full((3, 60, 60), 2.5)))
    np.testing.assert_allclose(errors(sandwich(flat)), errors(sandwich(plain)), rtol=1e-5)


@pytest.mark.parametrize("scaling", ["averaged", "individual", "shrinkage", "fourier", "constant"])
def test_every_scaling_has_errors(scaling):
    phi = (0.0, 20.0, 40.0, 60.0, 80.0)
    noise = sandwich(minimum(speckle(0, 40, phi=phi), scaling))
    assert noise.known
    assert np.all(errors(noise)[:2] > 0)


@pytest.mark.parametrize("n", [3, 4, 7])
def test_the_smallest_records_have_errors_or_say_why_not(n):
    noise = sandwich(minimum(speckle(0, n, phi=(0.0,))))
    assert noise.known or noise.statements


def test_settings_come_before_the_file():
    found = minimum(speckle(0, 60))
    first, second = (sandwich(found, pixels=pixels, speckle_size=1.0) for pixels in (500.0, 2000.0))
    np.testing.assert_allclose(errors(first) / errors(second), 2.0, rtol=2e-3)
    assert "500 detector pixels (noise.pixels)" in first.text


def test_a_flow_with_signed_field_is_handled():
    made = factory.problem(simulated(LAMINAR, (0.0, 40.0), 40, contrast=0.2))
    evaluation = made.evaluate(made.model.coordinates_of(LAMINAR))
    noise = sandwich(at(made, evaluation), pixels=1000.0)
    assert noise.known
    assert np.linalg.eigvalsh(noise.covariance).min() > -1e-12 * np.linalg.eigvalsh(noise.covariance).max()
