"""A coordinate at its limit takes others with it: how far is what refits with that coordinate moved inward show."""

import numpy as np
import pytest

from homodyne.config import option
from homodyne.limits import reaches
from homodyne.optimizer.trust_region import Tolerances, minimise
from homodyne.problem import Problem, information

from .factory import PHI, STATIC, fitted, fixed, parameters, problem_parts, simulated

TIGHT = Tolerances(1e-14, 1e-12, 1e-12, 60)


def minimum(data, mode):
    """The minimum of a Dataset with a mode, near the truth."""
    model = mode.bind(data.t, data.q, data.gap, data.phi)
    made = Problem(model, *problem_parts(data))
    return made, minimise(made, model.coordinates_of(STATIC), TIGHT).evaluation


def test_the_way_inward_is_that_of_refits() -> None:
    data = simulated(STATIC, PHI, 60, sigma=0.002, seed=1)
    bounded = option("mode", "static", parameters=parameters(alpha={"bounds": [-0.48, 0.0]}))
    made, best = minimum(data, bounded)
    known = information(best, made)
    assert known.held.tolist() == [False, False, True]
    unit = 4 * best.chi2 / data.pairs.sum()
    reach = reaches(made, best, known, unit)[0]
    assert 0 < reach[2] < 0.3
    _, there = minimum(data, option("mode", "static", parameters=fixed(alpha=float(best.u[2] + reach[2]))))
    assert there.chi2 - best.chi2 == pytest.approx(unit, rel=0.1)
    np.testing.assert_allclose(there.u - best.u[:2], reach[:2], rtol=0.1, atol=0.05 * np.abs(reach[:2]).max())
    # Contrast and offset of every angle, in the order of the coefficients.
    shift = (there.projection.beta - best.projection.beta).ravel()
    np.testing.assert_allclose(reach[3:], shift, rtol=0.15, atol=0.05 * np.abs(shift).max())


def test_numbers_that_move_with_a_bound_have_no_error() -> None:
    mode = option("mode", "static", parameters=parameters(alpha={"bounds": [-0.3, 0.0]}))
    found = fitted(simulated(STATIC, PHI, 60, sigma=0.02, seed=1), mode=mode)
    assert found.parameters["alpha"].status == "at_bound"
    for name in ("D0", "D_offset"):
        assert np.isnan(found.parameters[name].error)
        assert found.parameters[name].status == "undetermined"
    assert any("would move with what is at a limit (alpha)" in line for line in found.statements)


def test_a_coordinate_at_its_limit_that_nothing_feels_takes_no_error_away() -> None:
    """Where J is constant, the exponent may end at its limit; the rate keeps its error."""
    found = fitted(simulated({"D0": 6000.0, "alpha": 0.0, "D_offset": 0.0}, PHI, 60, seed=0), mode="static")
    best = found.rates["J_best"]
    assert best.status == "free"
    assert abs(best.value - 6000.0) < 4 * best.error
