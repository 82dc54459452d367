"""noise=auto: the choice follows from what the file holds, and is said."""

from dataclasses import replace

import numpy as np
import pytest

from homodyne.config import option

from ..speckle import minimum, speckle, unknown

ALL = ("counts", "diagonal", "pixels")


@pytest.mark.parametrize(
    ("held", "chosen", "words"),
    [
        (ALL, "sandwich", "mean counts, the raw diagonal, the number of pixels"),
        (("counts",), "sandwich", "mean counts"),
        (("diagonal",), "sandwich", "the raw diagonal"),
        (("pixels",), "sandwich", "the number of pixels"),
        ((), "frame_clustered", "neither counts, nor pixel numbers, nor the raw diagonal"),
    ],
)
def test_the_choice_follows_the_file(held, chosen, words):
    data = speckle(0, 80)
    found = minimum(replace(data, **unknown(*(name for name in ALL if name not in held), data=data)))
    noise = option("noise", "auto").covariance(found)
    assert noise.option == chosen
    assert noise.reason.startswith(f"noise auto -> {chosen}")
    assert words in noise.reason
    np.testing.assert_array_equal(noise.covariance, option("noise", chosen).covariance(found).covariance)


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
    blind = minimum(replace(data, **unknown(*ALL, data=data)))
    wide, narrow = (option("noise", "auto", width=width).covariance(blind).text for width in (3.0, 1.0))
    assert wide != narrow
