"""Where shot noise and pixel numbers come from, against simulated photon counts whose numbers are known."""

from dataclasses import replace

import numpy as np
import pytest

from homodyne.counting import count, describes_counting, settle_pixels
from homodyne.covariance import angle_sums
from homodyne.speckle import speckle_sums
from homodyne.tiles import pack

from .noise import contract
from .speckle import CONTRAST, PHI, minimum, speckle, unknown

PIXELS = 2000


def counted(data, pixels=None):
    found = minimum(data)
    return count(found.problem, found.evaluation, data, pixels)


def without(data, *names):
    return replace(data, **unknown(*names, data=data))


def settled(data):
    """Counting with the pixel numbers that the residuals show."""
    fit = minimum(data)
    found = count(fit.problem, fit.evaluation, data, None)
    return settle_pixels(found, angle_sums(fit.problem, fit.evaluation, found.counting), fit.information)


@pytest.mark.parametrize("photons", [0.5, 5.0])
def test_every_source_gives_the_shot_noise_of_the_simulation(photons):
    """(1 - 1/N)/photons from counts, and within a tenth of contrast + s from the diagonal and from residuals with N known."""
    data = speckle(3, n=100, pixels=PIXELS, photons=photons)
    truth, slack = (1 - 1 / PIXELS) / photons, 0.1 * (CONTRAST + 1 / photons)
    sources = {
        "mean counts of the file": data,
        "the raw diagonal": without(data, "counts"),
        "the scatter of the residuals and the number of pixels": without(data, "counts", "diagonal"),
    }
    for text, source in sources.items():
        found = counted(source)
        assert found.shot_text == text
        assert found.statements == ()
        assert found.counting.shot.shape == (3, 100)
        np.testing.assert_allclose(found.counting.shot.mean(axis=1), truth, atol=slack)
    np.testing.assert_allclose(counted(data).counting.shot, (1 - 1 / PIXELS) / data.counts, rtol=1e-12)


@pytest.mark.parametrize(("photons", "spread"), [(0.5, 0.25), (5.0, 0.25)])
def test_shot_noise_and_pixel_number_from_residuals_alone(photons, spread):
    """Neither counts, nor diagonal, nor N: the mean of eight records is that of the simulation, single ones scatter by a quarter."""
    levels, numbers = [], []
    for seed in range(8):
        found, _, _ = settled(without(speckle(seed, n=80, pixels=PIXELS, photons=photons), "counts", "diagonal", "pixels"))
        assert "share a frame" in found.shot_text
        assert found.pixels_text == "the scatter of the residuals"
        assert not found.known.any()
        levels.append((found.counting.shot.mean() + CONTRAST) * photons / (1 + CONTRAST * photons))
        numbers.append(np.exp(np.log(found.counting.pixels).mean()) / PIXELS)
    for values in (levels, np.sqrt(numbers)):
        assert np.std(values) < spread
        np.testing.assert_allclose(np.mean(values), 1.0, atol=max(0.05, 3 * np.std(values) / np.sqrt(8)))


@pytest.mark.parametrize("known", [("pixels",), ()])
def test_shot_noise_from_residuals_of_a_sample_that_ages_by_a_factor_1000(known):
    """alpha = -1.5, late frames nearly alike: the fit takes away a large part of the residuals, and this is known. Mean of 6 within 6 %."""
    truth, levels = {"D0": 7e4, "alpha": -1.5, "D_offset": 0.0}, []
    for seed in range(6):
        data = without(speckle(seed, n=80, truth=truth), *{"counts", "diagonal", "pixels"}.difference(known))
        fit = minimum(data, truth=truth)
        found = count(fit.problem, fit.evaluation, data, None)
        levels.append((found.counting.shot.mean() + CONTRAST) / (CONTRAST + 1 / 5.0))
    np.testing.assert_allclose(np.mean(levels), 1.0, atol=0.06)
    assert np.std(levels) < 0.15


def test_independent_noise_has_no_speckle_and_this_is_said():
    fit = contract.minimum(0)
    found = count(fit.problem, fit.evaluation, fit.source.dataset, None)
    assert found.counting.shot.min() > 50 * fit.evaluation.contrast.max()


@pytest.mark.parametrize("photons", [0.5, 5.0, None])
def test_pixel_number_from_residuals_lies_within_its_error(photons):
    """With counts known: the mean over ten records is right to 3 %, and the stated relative error is that of the scatter."""
    found = [settled(without(speckle(seed, n=80, pixels=PIXELS, photons=photons), "pixels")) for seed in range(10)]
    ratio = np.array([len(PHI) / np.sum(1 / one.counting.pixels) / PIXELS for one, _, _ in found])
    error = np.mean([seen.error for _, _, seen in found])
    assert abs(ratio.mean() - 1) < max(0.03, 2 * error / np.sqrt(len(found)))
    assert 0.3 * error < np.std(ratio) < 1.6 * error


def test_a_large_speckle_does_not_count_as_fewer_pixels():
    """Four pixels per speckle, r given: expected and observed scatter agree, and N comes back where it is not known."""
    r, r1 = speckle_sums(4)
    ratios, numbers = [], []
    for seed in range(8):
        data = speckle(seed, pixels=PIXELS, pixels_per_speckle=4)
        fit = minimum(data)
        for source, out in ((data, ratios), (without(data, "pixels"), numbers)):
            found = count(fit.problem, fit.evaluation, source, None)
            found = replace(found, counting=replace(found.counting, r=r, r1=r1))
            found, _, seen = settle_pixels(found, angle_sums(fit.problem, fit.evaluation, found.counting), fit.information)
            out.append(seen.ratio if source is data else found.counting.pixels.mean() / PIXELS)
    np.testing.assert_allclose(np.mean(ratios), 1.0, atol=0.08)
    np.testing.assert_allclose(np.mean(numbers), 1.0, atol=0.08)


def test_settings_come_before_the_file_and_one_unknown_number_makes_all_unknown():
    data = speckle(0)
    assert counted(data, pixels=77.0).pixels_text == "noise.pixels"
    np.testing.assert_array_equal(counted(data, pixels=77.0).counting.pixels, 77.0)
    mixed = counted(replace(data, pixels=np.array([1000.0, np.nan, 1000.0])))
    assert not mixed.known.any()
    np.testing.assert_array_equal(mixed.counting.pixels, 1.0)
    assert counted(replace(data, pixels=np.array([1000.0, 500.0, 0.0]))).known.sum() == 0


def test_counts_of_some_frames_or_one_number_for_all_will_do():
    data = speckle(0)
    holes = data.counts.copy()
    holes[1, ::7] = np.nan
    found = counted(replace(data, counts=holes))
    assert found.shot_text == "mean counts of the file"
    assert np.isfinite(found.counting.shot).all()
    assert "mean counts" in describes_counting(replace(data, counts=holes))
    flat = counted(replace(data, counts=np.array([5.0, 2.0, 0.5])))
    np.testing.assert_allclose(flat.counting.shot.mean(axis=1), 0.999 / np.array([5.0, 2.0, 0.5]))
    assert counted(replace(data, counts=np.array([5.0, np.nan, 0.5]))).shot_text == "the raw diagonal"


def test_frames_without_photons_are_masked_and_change_nothing():
    data = speckle(0)
    maps = np.array([data.map(k) for k in range(3)])
    maps[0, 4], maps[0, :, 4] = np.nan, np.nan
    counts, diagonal = data.counts.copy(), data.diagonal.copy()
    counts[0, 4], diagonal[0, 4] = 0.0, np.nan
    found = counted(replace(data, tiles=pack(maps), counts=counts, diagonal=diagonal))
    assert found.statements == ()
    assert np.isfinite(found.counting.shot).all()
    np.testing.assert_allclose(found.counting.shot.mean(), 0.2, rtol=0.05)


def test_an_angle_without_photons_takes_nothing_from_the_others():
    data = speckle(0)
    tiles, counts = data.tiles.copy(), data.counts.copy()
    tiles[1], counts[1] = np.nan, 0.0
    found = counted(replace(data, tiles=tiles, counts=counts))
    assert np.isfinite(found.counting.shot).all()
    assert found.statements == ()


@pytest.mark.parametrize("photons", [0.5, 5.0, None])
def test_a_diagonal_that_is_not_what_counts_say_is_reported(photons):
    """A fifth of contrast + 1/photons too much; not reported in any of ten records where it is right."""
    for seed in range(10):
        data = speckle(seed, photons=photons)
        assert counted(data).statements == ()
    off = counted(replace(data, diagonal=data.diagonal + 0.2 * (data.diagonal - 1)))
    assert len(off.statements) == 3
    assert "raw diagonal is +0." in off.statements[0]
    assert "dead time" in off.statements[0]


def test_what_a_file_says_of_counting_in_words():
    data = speckle(0)
    assert describes_counting(data) == "mean counts, the raw diagonal, the number of pixels"
    assert describes_counting(without(data, "counts")) == "the raw diagonal, the number of pixels"
    assert describes_counting(without(data, "counts", "diagonal")) == "the number of pixels"
    assert describes_counting(without(data, "counts", "diagonal", "pixels")) == ""
    assert describes_counting(replace(without(data, "counts", "diagonal"), pixels=np.array([1.0, np.nan, 3.0]))) == ""
