"""Weights of unequal pixels against closed forms, and what is read from a file against the simulated detector."""

from dataclasses import fields

import numpy as np
import pytest

from homodyne import simulate
from homodyne.config import option
from homodyne.data.pixel_weights import PixelWeights, pixel_weights, smooth
from homodyne.simulation import add_pixels, write
from homodyne.speckle import Speckle, drawn_fields, record

NUMBER = 1200
PLACES = np.arange(NUMBER)[:, None]


def one(mu: np.ndarray, groups: np.ndarray) -> PixelWeights:
    return pixel_weights([mu], [PLACES], [groups])


def test_equal_pixels_have_the_weights_of_equal_pixels():
    found = one(np.full(NUMBER, 50.0), np.zeros(NUMBER))
    assert [found.baseline[0], found.mixed[0], found.own[0]] == pytest.approx([1, 1, 1])
    assert [found.shot_once[0], found.shot_mixed[0], found.shot_own[0]] == pytest.approx([1, 1, 1])
    assert found.pixels[0] == pytest.approx(NUMBER - 1)
    assert found.shot[0] == pytest.approx(1 - 1 / NUMBER, rel=1e-4)


def test_of_a_plain_correlator_the_moments_of_the_profile_are_the_weights():
    mu = 1e6 * (1 + 1.0 * (np.arange(NUMBER) / (NUMBER - 1) - 0.5))
    found = one(mu, np.zeros(NUMBER))
    second, third, fourth = (np.mean((mu / mu.mean()) ** power) for power in (2, 3, 4))
    assert found.baseline[0] == pytest.approx(second)
    assert second == pytest.approx(1 + 1 / 12, rel=1e-3)
    assert found.pixels[0] == pytest.approx((NUMBER - 1) * second**2 / fourth)
    assert found.on_diagonal[0] == pytest.approx(1 / second, rel=2e-3)
    assert found.shot[0] == pytest.approx(np.sqrt(second / fourth), rel=2e-3)
    assert found.mixed[0] == pytest.approx(third * second / fourth)
    assert found.own[0] == pytest.approx(second**3 / fourth)


def test_division_by_static_bins_makes_pixels_alike_and_shot_noise_longer():
    """Mean of 1/mu of a linear profile from 1/2 to 3/2: ln 3."""
    mu, groups = 1e6 * (0.5 + np.arange(NUMBER) / (NUMBER - 1)), np.arange(NUMBER) * 60 // NUMBER
    found = one(mu, groups)
    assert found.baseline[0] == pytest.approx(1, abs=3e-4)
    assert found.on_diagonal[0] / (1 - 60 / NUMBER) == pytest.approx(np.log(3), rel=1e-3)
    assert found.pixels[0] == pytest.approx(NUMBER - 60, rel=2e-3)
    assert found.groups[0] == pytest.approx(60 / NUMBER)


def test_a_mean_over_few_photons_adds_the_mean_inverse_of_a_poisson_number():
    """Given the photons M of m pixels in a frame, shot noise is (m/M)(1 - 1/m); E(m/M) is summed over the Poisson law."""
    m, mu = 60, 0.7
    found = one(np.full(NUMBER, mu), np.arange(NUMBER) // m)
    numbers = np.random.default_rng(0).poisson(m * mu, 400_000)
    assert found.on_diagonal[0] == pytest.approx(mu * np.mean(m / np.maximum(numbers, 1)) * (1 - 1 / m), rel=2e-3)


def test_the_noise_of_counted_means_is_not_taken_for_unevenness():
    counted = np.random.default_rng(1).poisson(20.0, NUMBER) / 40
    assert np.mean(counted**2) / counted.mean() ** 2 > 1.03
    assert one(counted, np.zeros(NUMBER)).baseline[0] == pytest.approx(1, abs=1e-3)
    assert smooth(counted, PLACES) == pytest.approx(0.5, rel=0.1)


def test_maps_without_photons_are_unknown():
    assert not one(np.zeros(NUMBER), np.zeros(NUMBER)).known


@pytest.mark.parametrize("static_bins", [1, 5])
def test_an_aps_u_file_carries_the_profile_of_its_pixels(tmp_path, static_bins):
    detector = Speckle(pixels=600, photons=2.0, slope=0.8, static_bins=static_bins)
    made = list(record([drawn_fields(0.5 * np.arange(30))] * 2, [0.2] * 2, detector, seed=3, threads=1))
    parameters = {"D0": 1e3, "alpha": 0.0, "D_offset": 0.0}
    beam = {"pixels": 600, "photons": 2.0, "slope": 0.8, "static_bins": static_bins, "layers": None}
    sample = {"q": 0.005, "gap": 2e6, "dt": 0.1, "frames": 30, "contrast": 0.2, "mode": "static"}
    maps = simulate(parameters, [0.0, 60.0], **sample, noise="speckle", seed=3, threads=1, **beam)
    write(maps, tmp_path / "maps.hdf", "aps_u")
    add_pixels(tmp_path / "maps.hdf", [one.scattering for one in made], detector)
    read = option("data", "aps_u", path=str(tmp_path / "maps.hdf")).load()
    assert read.weights is not None
    for name in (one.name for one in fields(PixelWeights)):
        np.testing.assert_allclose(getattr(read.weights, name), getattr(maps.weights, name), rtol=0.02, err_msg=name)
    assert read.weights.baseline == pytest.approx(detector.baseline, abs=0.01)
