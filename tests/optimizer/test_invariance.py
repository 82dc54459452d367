"""What must not matter: the order of the angles, which triangle is read, the units."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from homodyne.tiles import pack

from .. import factory
from ..factory import DT, GAP, LAMINAR, PHI, Q, exact_maps, fitted, measured, noise_like, reordered, simulated


@cache
def data():
    return simulated(LAMINAR, PHI, 60, sigma=0.01, seed=2, contrast=[0.12, 0.15, 0.16, 0.14, 0.17])


@cache
def fit():
    return fitted(data())


def test_chi2_is_invariant_to_the_order_of_the_angles():
    order = [3, 0, 4, 1, 2]
    made, other = factory.problem(data()), factory.problem(reordered(data(), order))
    u = made.model.coordinates_of(LAMINAR)
    here, there = made.evaluate(u), other.evaluate(u)
    assert there.chi2 == pytest.approx(here.chi2, rel=1e-12)
    np.testing.assert_allclose(there.contrast, here.contrast[order], rtol=1e-10)
    np.testing.assert_allclose(there.hessian, here.hessian, rtol=1e-9)
    turned = fitted(reordered(data(), order))
    assert turned.chi2 == pytest.approx(fit().chi2, abs=1e-3)
    np.testing.assert_allclose(turned.solution, fit().solution, rtol=1e-4)


def test_chi2_is_invariant_to_transposing_the_maps():
    maps = exact_maps(LAMINAR) + noise_like(exact_maps(LAMINAR), 0.02, 5)
    upper, lower = measured(maps, PHI), measured(np.ascontiguousarray(maps.swapaxes(1, 2)), PHI)
    u = factory.problem(upper).model.coordinates_of(LAMINAR)
    assert factory.problem(upper).evaluate(u).chi2 == factory.problem(lower).evaluate(u).chi2


def test_turning_all_angles_turns_the_direction_and_nothing_else():
    turned = fitted(replace(data(), phi=data().phi + 30.0))
    assert turned.chi2 == pytest.approx(fit().chi2, abs=0.01)
    difference = turned.parameters["phi0"].value - fit().parameters["phi0"].value
    assert (difference - 30.0 + 90.0) % 180.0 == pytest.approx(90.0, abs=0.01)
    np.testing.assert_allclose(turned.curves["gamma_dot"].value, fit().curves["gamma_dot"].value, rtol=1e-3)


def test_another_unit_of_length_leaves_the_fit_unchanged():
    """q in 1/nm instead of 1/Angstrom, the gap in nm: rates of transport scale with length squared, shear does not."""
    scaled = fitted(replace(data(), q=10 * Q, gap=GAP / 10))
    assert scaled.chi2 == pytest.approx(fit().chi2, rel=1e-8)
    np.testing.assert_allclose(100 * scaled.curves["J"].value, fit().curves["J"].value, rtol=1e-5)
    np.testing.assert_allclose(scaled.curves["gamma_dot"].value, fit().curves["gamma_dot"].value, rtol=1e-5)
    np.testing.assert_allclose(100 * scaled.curves["J"].error, fit().curves["J"].error, rtol=1e-4)
    assert scaled.parameters["alpha"].value == pytest.approx(fit().parameters["alpha"].value, abs=1e-5)


def test_another_unit_of_time_leaves_the_fit_unchanged():
    """Time in milliseconds: all rates a thousandth, exponents and direction equal."""
    scaled = fitted(replace(data(), t=1000 * data().t))
    assert scaled.chi2 == pytest.approx(fit().chi2, rel=1e-8)
    for name in ("J", "gamma_dot"):
        np.testing.assert_allclose(1000 * scaled.curves[name].value, fit().curves[name].value, rtol=1e-5)
    for name in ("alpha", "beta", "phi0"):
        assert scaled.parameters[name].value == pytest.approx(fit().parameters[name].value, abs=1e-4)
    factor = 1000 ** (-1 - fit().parameters["alpha"].value)
    assert scaled.parameters["D0"].value == pytest.approx(fit().parameters["D0"].value * factor, rel=1e-3)
    assert scaled.t_ref == pytest.approx(1000 * DT * np.sqrt(60))


def test_the_two_triangles_are_one_set_of_pairs():
    """Every pair is counted once: n (n - 1)/2 per map."""
    assert fit().pairs == len(PHI) * 60 * 59 // 2
    assert np.isfinite(pack(exact_maps(LAMINAR))).sum() == fit().pairs
