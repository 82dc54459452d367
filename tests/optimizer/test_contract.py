"""Every optimizer keeps the contract, with both libraries that make the steps."""

import pytest

from . import contract


@pytest.mark.parametrize("mode", contract.TRUTH)
@pytest.mark.parametrize("name", contract.OPTIMIZERS)
def test_every_optimizer_finds_the_same_minimum(name, mode):
    contract.assert_same_minimum(name, mode, "scipy")


@pytest.mark.parametrize("mode", contract.TRUTH)
@pytest.mark.parametrize("name", contract.OPTIMIZERS)
def test_every_optimizer_recovers_the_truth(name, mode):
    contract.assert_recovers_truth(name, mode)


@pytest.mark.parametrize("name", contract.OPTIMIZERS)
def test_both_solvers_find_the_same_minimum(name):
    contract.assert_same_minimum(name, "static", "nlsq")


@pytest.mark.parametrize("name", contract.OPTIMIZERS)
def test_a_search_is_reproducible(name):
    contract.assert_reproducible(name)


@pytest.mark.parametrize("name", contract.OPTIMIZERS)
def test_the_start_of_the_configuration_is_enough_when_it_is_asked_for(name):
    contract.assert_starts_from_config(name)


@pytest.mark.parametrize("name", contract.OPTIMIZERS)
def test_a_fit_that_ran_out_of_passes_is_not_a_success(name):
    contract.assert_one_pass_is_not_success(name)
