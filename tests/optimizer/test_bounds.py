"""Bounds and fixed values of the user's parameters: respected, optimal under them, and said."""

from functools import cache

import numpy as np
import pytest
from scipy.optimize import least_squares

from homodyne.problem import Problem

from .. import factory
from ..factory import PHI, STATIC, dense_pairs, fitted, option, parameters, simulated, times
from . import contract

LIMIT = 1.2e4
"""Below the truth, D0 = 1.5e4."""


def mode():
    return option("mode", "static", parameters=parameters(D0={"bounds": [100.0, LIMIT]}))


@cache
def data():
    return simulated(STATIC, PHI, 60, sigma=0.005, seed=3)


@cache
def bounded():
    return fitted(data(), mode=mode(), per_angle_scaling="averaged")


def test_a_bound_is_respected_and_reported():
    fit = bounded()
    assert fit.success
    assert fit.parameters["D0"].value <= LIMIT
    assert fit.parameters["D0"].value == pytest.approx(LIMIT, rel=1e-3)
    assert fit.parameters["D0"].status == "at_bound"
    assert np.isnan(fit.parameters["D0"].error)
    assert any("without its bounds D0 would be" in text for text in fit.statements)
    assert fit.parameters["alpha"].status == "free"
    assert np.isfinite(fit.parameters["alpha"].error)


def test_the_bounded_minimum_is_that_of_a_dense_bounded_fit():
    """SciPy on the residuals of all pixels with D0, alpha, D_offset, offset and contrast as five bounded unknowns."""
    fit, t = bounded(), times(60)
    early, late, _, values = dense_pairs(data())

    def residual(p):
        rate = p[0] * t ** p[1] + p[2]
        x = factory.Q**2 * np.concatenate([[0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(t))])
        return np.concatenate([v - p[3] - p[4] * np.exp(-(x[late] - x[early])) for v in values])

    free = [(100.0, LIMIT), (-2.0, 2.0), (-np.inf, np.inf), (0.5, 1.5), (0.0, 1.0)]
    low, high = np.array(free).T
    dense = least_squares(residual, [1e4, -0.4, 3000.0, 1.0, 0.15], bounds=(low, high), x_scale="jac", xtol=1e-14, ftol=1e-14, gtol=1e-14)
    mine = np.sum(residual([fit.parameters[n].value for n in STATIC] + [fit.offset[0], fit.contrast[0]]) ** 2)
    assert mine == pytest.approx(2 * dense.cost, rel=1e-6)
    assert mine - 2 * dense.cost < 0.1 * 0.005**2


def test_the_gradient_vanishes_along_free_parameters_and_points_outwards_at_the_bound():
    """The Karush-Kuhn-Tucker conditions of the projected chi2, in units of the noise."""
    fit = bounded()
    made = factory.problem(data(), mode(), "averaged")
    values = {name: estimate.value for name, estimate in fit.parameters.items()}
    limits = {name: settings.limits for name, settings in mode().parameters.items()}
    raw = made.model.hard_bounds(values | {"D0": 2 * LIMIT}, limits)
    assert raw is not None
    assert raw.coordinates == ("D0", "alpha", "D_offset")
    found = Problem(raw, made.design, made.source).evaluate(np.array([values[name] for name in raw.coordinates]))
    scaled = found.gradient / np.sqrt(np.diagonal(found.hessian)) / 0.005
    np.testing.assert_allclose(scaled[1:], 0.0, atol=0.05)
    assert scaled[0] < -1


def test_bounds_that_do_not_bind_leave_the_fit_alone():
    wide = option("mode", "static", parameters=parameters(D0={"bounds": [100.0, 1e5]}, alpha={"bounds": [-1.9, 1.9]}))
    free, loose = (fitted(contract.data("static"), mode=m) for m in ("static", wide))
    np.testing.assert_allclose(loose.solution, free.solution, rtol=1e-5)
    assert not any("bounds" in text for text in loose.statements)


def test_a_bound_on_an_exponent_is_respected():
    narrow = option("mode", "static", parameters=parameters(alpha={"bounds": [-0.3, 0.5]}))
    fit = fitted(data(), mode=narrow)
    assert fit.parameters["alpha"].value == pytest.approx(-0.3, abs=1e-3)
    assert fit.parameters["alpha"].status == "at_bound"
    assert np.isnan(fit.parameters["alpha"].error)


def test_a_fixed_parameter_is_reported_as_fixed_without_error():
    fit = fitted(data(), mode=option("mode", "static", parameters=factory.fixed(alpha=STATIC["alpha"])))
    assert fit.parameters["alpha"].value == STATIC["alpha"]
    assert fit.parameters["alpha"].status == "fixed"
    assert np.isnan(fit.parameters["alpha"].error)
    for name in ("D0", "D_offset"):
        assert abs(fit.parameters[name].value - STATIC[name]) < 4 * fit.parameters[name].error < 0.5 * STATIC[name]
