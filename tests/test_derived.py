"""Derived quantities against closed forms, and their errors against draws from the covariance of the fit."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.optimize import brentq

from homodyne.config import option
from homodyne.derived import Series, derive
from homodyne.identifiability import identify
from homodyne.physics import cumulative, power_law
from homodyne.problem import information

from . import factory
from .factory import GAP, LAMINAR, PHI, STATIC, Q, fitted, fixed, parameters, simulated

STEADY = {"D0": 6000.0, "alpha": 0.0, "D_offset": 0.0}
FLOWING = STEADY | {"gamma_dot_t0": 2e-3, "beta": 0.0, "gamma_dot_t_offset": 0.0, "phi0": 5.0}


@cache
def steady():
    """A fit whose only parameter is a constant J."""
    mode = option("mode", "static", parameters=fixed(alpha=0.0, D_offset=0.0))
    asked = option("uncertainty", "standard", times=[1.05, 2.0])
    return fitted(simulated(STEADY, PHI, 150, sigma=0.01), mode=mode, per_angle_scaling="averaged", uncertainty=asked)


def test_relaxation_time_of_constant_transport_is_one_over_q2_j():
    fit = steady()
    estimate = fit.parameters["D0"]
    expected = 1 / (Q**2 * estimate.value)
    curve = fit.derived.curves["relaxation_time"]
    inside = curve.t + expected < curve.t[-1]
    np.testing.assert_allclose(curve.value[inside], expected, rtol=1e-10)
    np.testing.assert_allclose(curve.error[inside], expected * estimate.error / estimate.value, rtol=1e-9)
    assert np.isnan(curve.value[~inside]).all()
    assert 0.2 < inside.mean() < 1
    # Not only at the times of frames.
    assert fit.derived.quantities["relaxation_time(1.05 s)"].value == pytest.approx(expected, rel=1e-10)


def test_constant_transport_gives_the_stokes_einstein_coefficient():
    fit = steady()
    found = fit.derived.quantities["D_Stokes-Einstein"]
    assert (found.value, found.error) == pytest.approx((0.5 * fit.parameters["D0"].value, 0.5 * fit.parameters["D0"].error))
    assert found.unit == "Angstrom^2/s"
    assert fit.derived.statements == ()


def test_transport_that_is_constant_within_errors_is_quoted_where_it_is_known_best():
    fit = fitted(simulated(STEADY, PHI, 100, sigma=0.01, seed=2), mode="static")
    assert np.isnan(fit.parameters["D0"].error)
    found, best = fit.derived.quantities["D_Stokes-Einstein"], fit.rates["J_best"]
    assert (found.value, found.error) == pytest.approx((0.5 * best.value, 0.5 * best.error))
    assert abs(found.value - 3000.0) < 4 * found.error


def test_transport_that_changes_has_no_stokes_einstein_coefficient():
    fit = fitted(simulated(STATIC, PHI, 60, sigma=0.01), mode="static")
    assert "D_Stokes-Einstein" not in fit.derived.quantities
    found, curve = fit.derived.quantities["J/2 at the last time"], fit.curves["J"]
    assert (found.value, found.error) == pytest.approx((0.5 * curve.value[-1], 0.5 * curve.error[-1]))
    assert any("no equilibrium" in statement for statement in fit.derived.statements)


@cache
def flowing():
    settings = {name: {"fixed": 0.0} for name in ("alpha", "D_offset", "beta", "gamma_dot_t_offset")}
    mode = option("mode", "laminar_flow", parameters=parameters(**settings))
    asked = option("uncertainty", "standard", times=[0.5, 2.0])
    return fitted(simulated(FLOWING, PHI, 100, sigma=0.005), mode=mode, per_angle_scaling="averaged", uncertainty=asked)


def test_relaxation_time_with_constant_shear_solves_the_equation_of_the_theory():
    """exp(-q^2 J tau) sinc^2(q L cos(phi0 - phi) gamma_dot tau/2) = 1/e at every angle."""
    fit = flowing()
    transport, shear, phi0 = (fit.parameters[name].value for name in ("D0", "gamma_dot_t0", "phi0"))
    for k, phi in enumerate(PHI):
        kappa = 0.5 * Q * GAP * abs(np.cos(np.deg2rad(phi0 - phi)))

        def over(tau: float, kappa: float = kappa) -> float:
            return np.exp(-(Q**2) * transport * tau) * np.sinc(kappa * shear * tau / np.pi) ** 2 - np.exp(-1)

        expected = brentq(over, 1e-9, min(1 / (Q**2 * transport), np.pi / (kappa * shear)), xtol=1e-14)
        curve = fit.derived.curves[f"relaxation_time[{k}]"]
        # Frames are 0.1 s apart, states linear between them: exact for constant rates.
        np.testing.assert_allclose(curve.value[:40], expected, rtol=1e-9)
        assert fit.derived.quantities[f"relaxation_time[{k}](0.5 s)"].value == pytest.approx(expected, rel=1e-9)
        assert expected < fit.derived.curves["relaxation_time"].value[0]


def test_strain_is_rate_times_time_and_the_other_convention_a_known_factor():
    fit = flowing()
    rate = fit.parameters["gamma_dot_t0"]
    t = fit.curves["gamma_dot"].t
    strain = fit.derived.quantities["strain"]
    assert (strain.value, strain.error) == pytest.approx((rate.value * (t[-1] - t[0]), rate.error * (t[-1] - t[0])))
    assert fit.derived.quantities["strain(2 s)"].value == pytest.approx(rate.value * 1.9)
    np.testing.assert_allclose(fit.derived.curves["strain"].value, rate.value * (t - t[0]), atol=1e-15)
    other = fit.derived.quantities["gamma_dot_ref[homodyne_v2]"]
    assert other.value / rate.value == pytest.approx(np.pi / np.sqrt(2))
    assert other.error / rate.error == pytest.approx(np.pi / np.sqrt(2))


def test_rates_at_chosen_times_are_the_law_at_these_times():
    fit = flowing()
    assert fit.derived.quantities["J(0.5 s)"].value == pytest.approx(fit.parameters["D0"].value)
    t = np.geomspace(0.3, 30, 40)
    law = Series(t, 3 * t**-0.7, np.ones((40, 1)))
    between = np.array([0.3, 1.234, 29.9, 30.0])
    np.testing.assert_allclose(law.at(between, logarithmic=True).value, 3 * between**-0.7, rtol=1e-12)


@cache
def known():
    """A minimum with an invented covariance that is small enough for the delta method."""
    data = simulated(LAMINAR, PHI, 80, sigma=0.001)
    made = factory.problem(data, "laminar_flow", "averaged")
    u = made.model.coordinates_of(LAMINAR)
    info = information(made.evaluate(u), made)
    root = np.random.default_rng(3).normal(size=(7, 7)) * np.array([1, 1, 1, 1, 1, 1, 30])[:, None] * 1e-3
    covariance = root @ root.T
    mode = option("mode", "laminar_flow")
    return made.model, u, covariance, identify(made.model, mode, u, covariance, info, {})


def test_errors_are_those_of_draws_from_the_covariance():
    """The standard deviation of each quantity, computed from the equations of the theory with NumPy for every draw."""
    model, u, covariance, identified = known()
    at = np.array([0.55, 3.0])
    found = derive(model, u, identified, q=Q, phi=np.array(PHI), kernel="gap_average", times=at).quantities
    t = np.asarray(model.t)
    drawn: dict[str, list[float]] = {name: [] for name in found if not name.startswith("gamma_dot_")}
    for draw in np.random.default_rng(5).multivariate_normal(u, covariance, 600):
        for name, value in _by_hand(np.asarray(model.parameters(draw)), t, at).items():
            drawn[name].append(value)
    assert len(drawn) == 2 + 2 * (4 + len(PHI))
    for name, values in drawn.items():
        # 600 draws give a standard deviation to 2.9 %.
        assert found[name].error == pytest.approx(np.std(values), rel=0.1), name
        assert found[name].value == pytest.approx(np.mean(values), abs=0.3 * np.std(values)), name


def _by_hand(p: np.ndarray, t: np.ndarray, at: np.ndarray) -> dict[str, float]:
    transport, shear = (np.asarray(power_law(*law, t)) for law in (p[:3], p[3:6]))
    travelled, strain = (np.asarray(cumulative(rate, t)) for rate in (transport, shear))
    values = {"J/2 at the last time": 0.5 * transport[-1], "strain": strain[-1]}
    for time in at:
        start = f"({time:g} s)"
        values |= {f"J{start}": p[0] * time ** p[1] + p[2], f"gamma_dot{start}": p[3] * time ** p[4] + p[5]}
        values[f"strain{start}"] = np.interp(time, t, strain)
        for k, phi in enumerate((None, *PHI)):
            kappa = 0.0 if phi is None else 0.5 * Q * GAP * np.cos(np.deg2rad(p[6] - phi))

            def over(end, kappa: float = kappa, time: float = time):
                phase = kappa * (np.interp(end, t, strain) - np.interp(time, t, strain))
                moved = np.interp(end, t, travelled) - np.interp(time, t, travelled)
                return np.exp(-(Q**2) * moved) * np.sinc(phase / np.pi) ** 2 - np.exp(-1)

            first = t[np.flatnonzero((t > time) & (over(t) <= 0))[0]]
            name = "relaxation_time" if phi is None else f"relaxation_time[{k - 1}]"
            values[f"{name}{start}"] = brentq(over, time, first, xtol=1e-12) - time
    return values


def test_what_is_not_determined_gets_no_error():
    model, u, covariance, identified = known()
    blind = replace(identified, known=replace(identified.known, covariance=np.full_like(covariance, np.nan)))
    found = derive(model, u, blind, q=Q, phi=np.array(PHI), kernel="gap_average", times=np.array([1.0]))
    single = {name: estimate for name, estimate in found.quantities.items() if not name.startswith("gamma_dot_")}
    assert all(np.isnan(estimate.error) and estimate.status == "undetermined" for estimate in single.values())
    assert all(np.isfinite(estimate.value) for estimate in single.values())
    assert not any(curve.determined for curve in found.curves.values())


def test_without_shear_in_the_data_strain_gets_no_error():
    still = STATIC | {"gamma_dot_t0": 0.0, "beta": 0.0, "gamma_dot_t_offset": 0.0, "phi0": 0.0}
    fit = fitted(simulated(still, PHI, 60, seed=1))
    assert np.isnan(fit.derived.quantities["strain"].error)
    assert np.isnan(fit.derived.quantities["gamma_dot_best[homodyne_v2]"].error)
    assert np.isfinite(fit.derived.quantities["J/2 at the last time"].error)
