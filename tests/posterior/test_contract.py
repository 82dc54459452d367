"""Every sampler keeps the contract."""

import pytest

from . import contract


@pytest.mark.parametrize("name", contract.SAMPLERS)
def test_means_and_deviations_are_those_of_brute_force(name):
    contract.assert_brute_force(name)


@pytest.mark.parametrize("name", [name for name in contract.SAMPLERS if name != "nuts"])
def test_every_sampler_agrees_with_chains(name):
    contract.assert_same_as_another(name, "nuts")


@pytest.mark.parametrize("name", contract.SAMPLERS)
def test_arrays_belong_together_and_intervals_are_quantiles(name):
    contract.assert_shapes(contract.posterior(name))
    contract.assert_intervals(contract.posterior(name).answer, 0.95)


@pytest.mark.parametrize("name", contract.SAMPLERS)
def test_an_equal_seed_gives_equal_draws(name):
    contract.assert_reproducible(name)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in ("nuts", "cmc") else name for name in contract.SAMPLERS]
)
def test_both_widths_have_their_covariances_on_speckle(name):
    contract.assert_both_widths(name)


@pytest.mark.parametrize("name", contract.SAMPLERS)
def test_bounds_of_the_contrast_are_kept(name):
    contract.assert_bounds_of_contrast(name)


@pytest.mark.parametrize("name", contract.SAMPLERS)
def test_an_answer_says_how_good_it_is(name):
    contract.assert_labelled(name)
