"""What every optimizer must do; ``test_contract.py`` runs it over all options in conf/optimizer."""

from functools import cache

import numpy as np

from homodyne.config import option
from homodyne.data import Dataset
from homodyne.groups import options
from homodyne.results import Fit

from ..factory import LAMINAR, PHI, STATIC, fitted, parameters, simulated

OPTIMIZERS = options("optimizer")
QUICK = {
    "nlsq": {},
    "nlsq_multistart": {"points": 40, "polish": 3},
    "nlsq_cmaes": {"population": 24, "evaluations": 2400, "restarts": 1},
}
"""Smaller searches that are large enough for these data; an option that is not named runs with its defaults."""
TRUTH = {"static": STATIC, "laminar_flow": LAMINAR}


def optimizer(name: str, **settings):
    return option("optimizer", name, **((QUICK[name] if name in QUICK else {}) | settings))


@cache
def data(mode: str) -> Dataset:
    return simulated(TRUTH[mode], PHI, 60, sigma=0.01, seed=11)


@cache
def fit(name: str, mode: str, solver: str = "scipy") -> Fit:
    return fitted(data(mode), mode=mode, optimizer=optimizer(name, solver=solver))


def assert_same_minimum(name: str, mode: str, solver: str) -> None:
    """Within a tenth of a unit of chi2 of the default, and at the same place."""
    reference, found = fit("nlsq", mode), fit(name, mode, solver)
    assert found.success
    assert abs(found.chi2 - reference.chi2) < 0.1
    error = np.sqrt(np.diagonal(reference.solution_covariance))
    np.testing.assert_allclose((found.solution - reference.solution) / error, 0.0, atol=0.1)


def assert_recovers_truth(name: str, mode: str) -> None:
    """Rates at their best time and the direction, within four errors that are a few percent."""
    found = fit(name, mode)
    truth = TRUTH[mode]
    laws = {"J": ("D0", "alpha", "D_offset"), "gamma_dot": ("gamma_dot_t0", "beta", "gamma_dot_t_offset")}
    for curve_name, curve in found.curves.items():
        amplitude, exponent, offset = (truth[key] for key in laws[curve_name])
        best = found.rates[f"{curve_name}_best"]
        expected = amplitude * curve.best_time**exponent + offset
        assert abs(best.value - expected) < 4 * best.error < 0.2 * expected
    if mode == "laminar_flow":
        phi0 = found.parameters["phi0"]
        assert abs(phi0.value - truth["phi0"]) < 4 * phi0.error < 4.0


def assert_reproducible(name: str) -> None:
    """An equal seed gives equal numbers to the last bit; another seed the same minimum."""
    first, again = (fitted(data("static"), mode="static", optimizer=optimizer(name), seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.solution, again.solution)
    assert first.passes == again.passes
    other = fitted(data("static"), mode="static", optimizer=optimizer(name), seed=6)
    assert abs(other.chi2 - first.chi2) < 0.1


def assert_starts_from_config(name: str) -> None:
    """start: config takes the user's values and no other; the answer is that of the search."""
    start = {key: {"start": 1.1 * value} for key, value in STATIC.items()}
    mode = option("mode", "static", parameters=parameters(**start))
    found = fitted(data("static"), mode=mode, optimizer=optimizer(name, start="config", shape_check=False))
    assert found.success
    assert len(found.minima) == 1
    assert abs(found.chi2 - fit("nlsq", "static").chi2) < 0.1
    assert not any("search" in text for text in found.decisions)


def assert_one_pass_is_not_success(name: str) -> None:
    """Stopped by max_passes: said, and not success."""
    start = {key: {"start": 1.3 * value} for key, value in STATIC.items()}
    mode = option("mode", "static", parameters=parameters(**start))
    found = fitted(data("static"), mode=mode, optimizer=optimizer(name, start="config", shape_check=False, max_passes=1))
    assert found.outcome.name == "MAX_PASSES"
    assert not found.success
    assert "optimizer.max_passes" in found.message
