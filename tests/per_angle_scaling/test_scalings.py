"""Where the scalings differ: angles of unequal contrast, and what ``auto`` decides."""

from functools import cache

import numpy as np
import pytest

from homodyne.errors import ConfigError

from ..factory import LAMINAR, PHI, STATIC, fitted, option, parameters, simulated

SPREAD = 0.15 * np.array([0.9, 1.08, 1.1, 0.92, 1.0])


@cache
def unequal(name: str):
    return fitted(simulated(LAMINAR, PHI, 60, seed=6, contrast=SPREAD), per_angle_scaling=name)


@pytest.mark.parametrize("noise", ["iid", "sandwich"])
def test_auto_chooses_individual_when_contrasts_differ_by_ten_percent(noise):
    fit = fitted(simulated(LAMINAR, PHI, 60, seed=6, contrast=SPREAD), per_angle_scaling="auto", noise=noise)
    assert fit.scaling == "individual"
    assert "auto -> individual" in fit.decisions[0]
    np.testing.assert_allclose(fit.contrast, unequal("individual").contrast, rtol=1e-6)


@pytest.mark.parametrize("noise", ["iid", "sandwich"])
def test_auto_chooses_averaged_when_angles_are_equal_and_keeps_both_answers(noise):
    fit = fitted(simulated(LAMINAR, PHI, 60, seed=6), per_angle_scaling="auto", noise=noise)
    assert fit.scaling == "averaged"
    assert "auto -> averaged" in fit.decisions[0]
    assert set(fit.alternatives["individual"]) == set(LAMINAR)


def test_auto_does_not_test_with_errors_that_reject_true_models():
    fit = fitted(simulated(STATIC, (0.0, 45.0, 90.0), 60, seed=6), mode="static", per_angle_scaling="auto", noise="frame_clustered")
    assert fit.scaling == "individual"
    assert "equality of the angles is not tested" in fit.decisions[0]
    assert fit.goodness is not None
    assert "offset" not in fit.goodness.tests
    assert any("whether the offset is 1" in line and "not tested" in line for line in fit.statements)


def test_auto_is_individual_below_three_angles():
    start = option("mode", "static", parameters=parameters(**{name: {"start": value} for name, value in STATIC.items()}))
    single = option("optimizer", "nlsq", start="config", shape_check=False)
    fit = fitted(simulated(STATIC, (0.0, 80.0), 60), mode=start, optimizer=single, per_angle_scaling="auto")
    assert fit.scaling == "individual"
    assert "2 angles, fewer than 3" in fit.decisions[0]


def test_shrinkage_lies_between_averaged_and_individual():
    spreads = [np.ptp(unequal(name).contrast) for name in ("averaged", "shrinkage", "individual")]
    assert spreads[0] < 1e-12
    assert 0.2 * spreads[2] < spreads[1] < spreads[2]
    chi2 = [unequal(name).chi2 for name in ("averaged", "individual")]
    assert chi2[1] < chi2[0]


@pytest.mark.parametrize(("spread", "limit"), [(1e-6, "averaged"), (1e3, "individual")])
def test_shrinkage_ends_in_averaged_and_individual(spread, limit):
    data = simulated(LAMINAR, PHI, 60, seed=6, contrast=SPREAD)
    fit = fitted(data, per_angle_scaling=option("per_angle_scaling", "shrinkage", contrast_spread=spread, offset_spread=spread))
    np.testing.assert_allclose(fit.contrast, unequal(limit).contrast, atol=1e-5)
    assert fit.parameters["phi0"].value == pytest.approx(unequal(limit).parameters["phi0"].value, abs=1e-3)


def test_individual_recovers_every_contrast_exactly():
    data = simulated(LAMINAR, PHI, 60, sigma=0.0, contrast=SPREAD, offset=[1.0, 1.01, 0.99, 1.0, 1.02])
    fit = fitted(data, per_angle_scaling="individual")
    np.testing.assert_allclose(fit.contrast, SPREAD, rtol=1e-6)
    np.testing.assert_allclose(fit.offset, [1.0, 1.01, 0.99, 1.0, 1.02], rtol=1e-7)


def test_constant_takes_one_value_or_one_per_angle_and_refuses_another_number_of_values():
    data = simulated(STATIC, (0.0, 45.0, 90.0), 10)
    design = option("per_angle_scaling", "constant", contrast=[0.1, 0.2, 0.3], offset=1.0).design(data, 1.0)
    np.testing.assert_array_equal(design.constant, [[1.0, 0.1], [1.0, 0.2], [1.0, 0.3]])
    assert design.count == 0
    with pytest.raises(ConfigError, match=r"per_angle_scaling.contrast has 2 values; the data have 3 angles"):
        option("per_angle_scaling", "constant", contrast=[0.1, 0.2], offset=1.0).design(data, 1.0)


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match="the first must be smaller"):
        option("per_angle_scaling", "individual", contrast_bounds=[1.0, 0.0])
    with pytest.raises(ConfigError, match="contrast_bounds"):
        option("per_angle_scaling", "individual", contrast_bounds=[0.0, 0.5, 1.0])
    with pytest.raises(ConfigError, match="contrast_bounds"):
        option("per_angle_scaling", "individual", contrast_bounds=[0.0])


@pytest.mark.parametrize(("name", "count"), [("averaged", 9), ("constant", 7), ("individual", 53), ("fourier", 17)])
def test_numbers_fitted_in_laminar_flow_at_23_angles_are_those_of_homodyne_2(name, count):
    """Its ``auto`` is what is called averaged here."""
    data = simulated(STATIC, np.linspace(-90, 85, 23), 6)
    assert option("per_angle_scaling", name).design(data, 1.0).count + 7 == count
