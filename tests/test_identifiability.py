"""What the data cannot say is said in words, and gets no number with an error."""

from functools import cache

import numpy as np
import pytest

from homodyne.physics import SHEAR, TRANSPORT

from .factory import LAMINAR, PHI, STATIC, fitted, problem, simulated

STILL = STATIC | {"gamma_dot_t0": 0.0, "beta": 0.0, "gamma_dot_t_offset": 0.0, "phi0": 0.0}


def says(fit, *words: str) -> bool:
    """One of the statements contains all these words."""
    return any(all(word in statement for word in words) for statement in fit.statements)


@cache
def still(seed: int):
    return fitted(simulated(STILL, PHI, 60, seed=seed))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_without_shear_neither_rate_nor_direction_gets_an_error(seed):
    """Noise alone must not make a shear rate: four numbers fitted to it lower chi2 by several units."""
    fit = still(seed)
    assert fit.success
    for name in (*SHEAR, "phi0"):
        assert np.isnan(fit.parameters[name].error), name
        assert fit.parameters[name].status in ("undetermined", "at_bound"), name
    assert fit.parameters["phi0"].status == "undetermined"
    assert says(fit, "phi0 is not determined")
    assert not fit.curves["gamma_dot"].determined
    for name in ("gamma_dot_best", "gamma_dot_ref", "dlngamma_dot_dlnt"):
        assert np.isnan(fit.rates[name].error)
        assert fit.rates[name].status == "undetermined"
    assert says(fit, "gamma_dot(t) is not determined")


def test_without_shear_the_transport_coefficient_is_found_all_the_same():
    fit = still(1)
    t = fit.curves["J"].best_time
    truth = STATIC["D0"] * t ** STATIC["alpha"] + STATIC["D_offset"]
    best = fit.rates["J_best"]
    assert best.status == "free"
    assert abs(best.value - truth) < 4 * best.error < 0.2 * truth


@pytest.mark.parametrize("seed", range(4))
def test_constant_transport_determines_only_the_sum_of_amplitude_and_offset(seed):
    fit = fitted(simulated({"D0": 6000.0, "alpha": 0.0, "D_offset": 0.0}, PHI, 60, seed=seed), mode="static")
    assert says(fit, "J is constant within errors", "only D0 + D_offset is determined")
    for name in TRANSPORT:
        # An exponent that shapes nothing may end at its limit.
        assert fit.parameters[name].status == "undetermined" or (name, fit.parameters[name].status) == ("alpha", "at_bound")
        assert np.isnan(fit.parameters[name].error)
    best = fit.rates["J_best"]
    assert abs(best.value - 6000.0) < 4 * best.error


def test_constant_rate_in_words_is_the_rate():
    """The value in the statement is that of the truth within a few percent."""
    fit = fitted(simulated({"D0": 6000.0, "alpha": 0.0, "D_offset": 0.0}, PHI, 60, seed=0), mode="static")
    text = next(statement for statement in fit.statements if "constant within errors" in statement)
    assert float(text.partition("(")[2].partition(" ")[0]) == pytest.approx(6000.0, rel=0.1)


@cache
def two_angles(first: float, second: float):
    """Five maps at two angles."""
    return fitted(simulated(LAMINAR, (first, second, first, second, first), 60, sigma=0.005, seed=2))


def test_collinear_angles_determine_only_the_product_of_shear_and_cosine():
    fit = two_angles(10.0, -170.0)
    assert says(fit, "all angles are collinear", "gamma_dot |cos(phi0 - phi)|")
    assert fit.parameters["phi0"].status == "undetermined"
    assert np.isnan(fit.parameters["phi0"].error)
    for name in SHEAR:
        assert np.isnan(fit.parameters[name].error), name
    t = fit.curves["gamma_dot"].t
    product = fit.curves["gamma_dot"].value * abs(np.cos(np.deg2rad(fit.parameters["phi0"].value - 10.0)))
    truth = (LAMINAR["gamma_dot_t0"] * t ** LAMINAR["beta"] + LAMINAR["gamma_dot_t_offset"]) * abs(
        np.cos(np.deg2rad(LAMINAR["phi0"] - 10.0))
    )
    np.testing.assert_allclose(product[5:], truth[5:], rtol=0.05)


def test_two_directions_report_the_mirror_solution_and_it_has_equal_chi2():
    fit = two_angles(0.0, 60.0)
    text = next(statement for statement in fit.statements if "mirror" in statement)
    phi0, factor = float(text.partition("phi0 = ")[2].split()[0]), float(text.rpartition("times ")[2])
    made = problem(simulated(LAMINAR, (0.0, 60.0, 0.0, 60.0, 0.0), 60, sigma=0.005, seed=2))
    here, there = fit.solution.copy(), fit.solution.copy()
    first = fit.coordinates.index("ln rate[gamma_dot_t0] at first time")
    there[first : first + 2] += np.log(factor)
    there[-1] = phi0
    assert abs(phi0 - here[-1]) > 5
    assert made.evaluate(there).chi2 == pytest.approx(made.evaluate(here).chi2, rel=1e-4)


def test_three_directions_need_no_statement():
    fit = fitted(simulated(LAMINAR, PHI, 60, sigma=0.002, seed=0))
    assert fit.statements == (fit.verdict.sentence,)
    for name, truth in LAMINAR.items():
        estimate = fit.parameters[name]
        assert estimate.status in ("free", "interval")
        lower, upper = (end - estimate.value for end in estimate.interval)
        assert 2.5 * lower < truth - estimate.value < 2.5 * upper
