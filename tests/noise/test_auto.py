"""noise=auto: what the errors rest on is said, and they are right where the file holds nothing but maps."""

from dataclasses import replace

import numpy as np
import pytest

from homodyne.config import option

from ..speckle import minimum, speckle, unknown

ALL = ("counts", "diagonal", "pixels")


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (ALL, "mean counts, the raw diagonal, the number of pixels"),
        (("counts",), "mean counts"),
        (("diagonal",), "the raw diagonal"),
        (("pixels",), "the number of pixels"),
        ((), "neither counts, nor pixel numbers, nor the raw diagonal are known, residuals tell"),
    ],
)
def test_the_errors_are_those_of_sandwich_and_what_they_rest_on_is_said(held, words):
    data = speckle(0, 80)
    found = minimum(replace(data, **unknown(*(name for name in ALL if name not in held), data=data)))
    noise = option("noise", "auto").covariance(found)
    assert noise.option == "sandwich"
    assert noise.reason.startswith("noise auto -> sandwich")
    assert words in noise.reason
    np.testing.assert_array_equal(noise.covariance, option("noise", "sandwich").covariance(found).covariance)


def errors(data, **settings) -> np.ndarray:
    return np.sqrt(np.diagonal(option("noise", "auto").covariance(minimum(data, **settings)).covariance))


def errors_and_offsets(data, truth) -> tuple[np.ndarray, np.ndarray]:
    """Errors of all fitted numbers; pulls of the offsets."""
    found = minimum(data, truth=truth)
    covariance = option("noise", "auto").covariance(found).covariance
    size, expand = found.information.size, found.information.expand[: len(data.phi)]
    offset = np.sqrt(np.diagonal(expand @ covariance[size:, size:] @ expand.T))
    return np.sqrt(np.diagonal(covariance)), (found.evaluation.offset - 1) / offset


@pytest.mark.parametrize(("alpha", "photons"), [(0.0, 0.5), (-1.5, 5.0)])
def test_maps_alone_give_the_errors_that_counts_and_pixels_give(alpha, photons):
    """Mean of ten records within a tenth, single numbers of single records within a third; offsets are 1 within their errors, where
    frame_clustered rejects 30 to 50 % of them at the 5 % level."""
    truth = {"D0": 6e4, "alpha": alpha, "D_offset": 0.0}
    ratios, pulls = [], []
    for seed in range(10):
        data = speckle(seed, 80, truth=truth, photons=photons)
        blind, pull = errors_and_offsets(replace(data, **unknown(*ALL, data=data)), truth)
        if np.isfinite(blind).all():
            ratios.append(blind / errors_and_offsets(data, truth)[0])
            pulls.append(pull)
    assert len(ratios) >= 6
    np.testing.assert_allclose(np.mean(ratios), 1.0, atol=0.1)
    assert np.all(np.abs(np.log(ratios)) < 0.3)
    assert np.sqrt(np.mean(np.square(pulls))) < 1 + 3 / np.sqrt(2 * np.size(pulls))


def test_a_pixel_number_in_the_settings_is_enough():
    data = speckle(0, 60)
    found = minimum(replace(data, **unknown(*ALL, data=data)))
    noise = option("noise", "auto", pixels=1000.0).covariance(found)
    assert noise.option == "sandwich"
    assert "noise.pixels" in noise.reason
    expected = option("noise", "sandwich", pixels=1000.0).covariance(found).covariance
    np.testing.assert_array_equal(noise.covariance, expected)


def test_settings_reach_the_option_that_was_chosen():
    data = speckle(0, 60)
    large = option("noise", "auto", speckle_size=2.0).covariance(minimum(data))
    assert large.counted.counting.r == 2.0
