"""Every noise option keeps the contract."""

import pytest

from . import contract


@pytest.mark.parametrize("name", contract.NOISES)
def test_covariance_is_positive_and_scales_with_the_noise(name):
    contract.assert_covariance(name)


@pytest.mark.parametrize("name", contract.NOISES)
def test_pulls_of_independent_pixels_have_standard_deviation_one(name):
    contract.assert_pulls(name)


@pytest.mark.parametrize("name", contract.NOISES)
def test_errors_say_where_they_come_from(name):
    contract.assert_described(name)
