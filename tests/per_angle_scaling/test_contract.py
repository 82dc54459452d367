"""Every scaling keeps the contract."""

import pytest

from . import contract


@pytest.mark.parametrize("name", contract.SCALINGS)
def test_exact_data_of_equal_angles_are_recovered(name):
    contract.assert_exact_recovery(name)


@pytest.mark.parametrize("name", contract.SCALINGS)
def test_equal_angles_give_the_same_physics_whatever_the_scaling(name):
    contract.assert_same_physics(name)


COUNTS = {
    "auto": ("averaged", 2),
    "averaged": ("averaged", 2),
    "constant": ("constant", 0),
    "fourier": ("fourier", 10),
    "individual": ("individual", 10),
    "shrinkage": ("shrinkage", 10),
}


@pytest.mark.parametrize("name", contract.SCALINGS)
def test_degrees_of_freedom_count_the_numbers_fitted(name):
    contract.assert_numbers_fitted(name, *COUNTS[name])


@pytest.mark.parametrize("name", contract.SCALINGS)
def test_bounds_of_contrast_and_offset_are_respected_and_reported(name):
    contract.assert_bounds_respected_and_reported(name)
