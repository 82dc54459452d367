"""Every mode keeps the contract, and a fit recovers the truth whichever parameters are fixed."""

import numpy as np
import pytest

from homodyne.errors import ConfigError

from .. import factory
from . import contract


@pytest.mark.parametrize("mode", contract.MODES)
def test_derivatives_of_the_states_equal_finite_differences(mode):
    contract.assert_states_differentiate(mode)


@pytest.mark.parametrize("mode", contract.MODES)
def test_states_depend_on_the_declared_coordinates_only(mode):
    contract.assert_dependence_is_declared(mode)


@pytest.mark.parametrize("mode", contract.MODES)
def test_coordinates_of_the_parameters_of_u_are_u(mode):
    contract.assert_round_trip(mode)


@pytest.mark.parametrize("mode", contract.MODES)
def test_the_box_contains_all_starts(mode):
    contract.assert_box_contains_starts(mode)


@pytest.mark.parametrize(("mode", "name"), [(mode, name) for mode in contract.MODES for name in contract.TRUTH[mode]])
def test_a_fixed_parameter_stays(mode, name):
    contract.assert_fixed_stays(mode, name)


@pytest.mark.parametrize("mode", contract.MODES)
def test_canonical_points_have_the_same_chi2(mode):
    contract.assert_canonical_keeps_chi2(mode)


@pytest.mark.parametrize("mode", contract.MODES)
def test_the_condition_number_is_below_a_thousand_at_exponent_zero(mode):
    contract.assert_condition_at_exponent_zero(mode)


STATIC_FIXED = [(), ("D0",)]
LAMINAR_FIXED = [(), *((name,) for name in contract.TRUTH["laminar_flow"]), ("D0", "phi0")]


@pytest.mark.parametrize(
    ("mode", "names"),
    [("static", names) for names in STATIC_FIXED] + [("laminar_flow", names) for names in LAMINAR_FIXED],
    ids=lambda value: value if isinstance(value, str) else "+".join(value) or "nothing",
)
def test_fixing_parameters_leaves_a_fit_that_recovers_the_others(mode, names):
    contract.assert_recovers(mode, **{name: contract.TRUTH[mode][name] for name in names})


@pytest.mark.parametrize(
    ("mode", "values"),
    [
        ("laminar_flow", {"D_offset": 0.0}),
        ("static", {"alpha": 0.0, "D_offset": 0.0}),
        ("laminar_flow", {"alpha": 0.0, "D_offset": 0.0, "beta": 0.0, "gamma_dot_t_offset": 0.0}),
        ("laminar_flow", {"gamma_dot_t0": 1e-3, "beta": 0.0, "gamma_dot_t_offset": 0.0, "phi0": 0.0}),
    ],
    ids=["no offset", "constant J", "constant rates", "known flow"],
)
def test_simpler_laws_are_fitted_exactly_when_the_rest_is_fixed_at_zero(mode, values):
    contract.assert_recovers(mode, **values)


@pytest.mark.parametrize("mode", contract.MODES)
def test_a_mode_without_a_free_parameter_is_evaluated(mode):
    """Only contrast and offset are left to fit."""
    data = contract.exact_data(mode)
    made = factory.problem(data, factory.option("mode", mode, parameters=factory.fixed(**contract.TRUTH[mode])))
    assert made.evaluate(np.zeros(0), 2).chi2 < 1e-12


@pytest.mark.parametrize("mode", contract.MODES)
def test_unknown_and_contradictory_parameter_settings_are_refused(mode):
    with pytest.raises(ConfigError, match="bounds"):
        factory.option("mode", mode, parameters=factory.parameters(D0={"bounds": [2.0, 1.0]}))
    with pytest.raises(ConfigError, match="outside its bounds"):
        factory.option("mode", mode, parameters=factory.parameters(D0={"bounds": [1.0, 2.0], "start": 3.0}))
    with pytest.raises(ConfigError, match="parameters"):
        factory.option("mode", mode, parameters=factory.fixed(D1=1.0))
