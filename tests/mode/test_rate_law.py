"""A rate law in solver coordinates is the power law, with exact derivatives through exponent 0 and positive rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homodyne.mode.rate_law import RateLaw, exponential_integral
from homodyne.physics import power_law

from ..factory import times

T = times(40)
FREE = (-np.inf, np.inf)
FORMS = {
    "two_rate": (None, None, None),
    "two_rate, exponent fixed": (None, 0.4, None),
    "power": (None, None, 7.0),
    "raw": (3.0, None, None),
}


def law(fixed=(None, None, None), bounds=(FREE, FREE, FREE)) -> RateLaw:
    return RateLaw.choose(names=("A", "e", "C"), t=T, scale=1e-3, low=1e-4, high=100.0, fixed=fixed, bounds=bounds, unit="1/s")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("exponent", [-1.3, -1e-3, 1e-3, 0.4, 1.7])
def test_rates_equal_the_power_law_of_their_parameters(form, exponent):
    made = law(FORMS[form])
    assert made.form == form.partition(",")[0]
    given = (20.0, exponent, 5.0)
    p = made.coordinates_of(*given)
    expected = [g if f is None else f for g, f in zip(given, made.fixed, strict=True)]
    np.testing.assert_allclose(made.parameters(p), expected, rtol=1e-9)
    np.testing.assert_allclose(made.rate(p), power_law(*expected, T), rtol=1e-9)
    rate, slope = made.rate_and_slope(p)
    power = expected[0] * made.t_ref ** expected[1]
    np.testing.assert_allclose([np.exp(rate), slope], [power + expected[2], expected[1] * power / (power + expected[2])], rtol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("exponent", [-1.3, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 1.7])
def test_derivatives_of_rates_equal_finite_differences(form, exponent):
    made = law(FORMS[form])
    p = jnp.asarray(made.coordinates_of(20.0, 0.5, 5.0))
    if made.exponent_at is not None:
        p = p.at[made.exponent_at].set(exponent)
    for function in (made.rate, made.rate_and_slope):
        exact = jax.jacfwd(function)(p)
        numeric = jnp.stack([(function(p + e) - function(p - e)) / 2e-5 for e in 1e-5 * jnp.eye(len(p))], -1)
        np.testing.assert_allclose(exact, numeric, rtol=1e-7, atol=1e-7 * float(jnp.abs(exact).max()))


@pytest.mark.parametrize("x", [-3.0, -0.02, -0.01, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 0.00999, 0.01, 0.5, 3.0])
def test_exponential_integral_and_its_derivative_equal_their_series(x):
    """B(e, l) = integral of exp(e s) over 0 <= s <= l; at l = 1 a power series in e = x that converges fast."""
    value = derivative = 0.0
    term = 1.0
    for k in range(1, 40):
        term /= k
        value += x ** (k - 1) * term
        derivative += (k - 1) * (x ** (k - 2) if k > 2 else float(k == 2)) * term
    found, slope = jax.value_and_grad(exponential_integral)(x, 1.0)
    assert float(found) == pytest.approx(value, rel=1e-13)
    assert float(slope) == pytest.approx(derivative, rel=1e-9)


def test_at_exponent_zero_the_law_is_logarithmic():
    made = law()
    rate = np.asarray(made.rate(jnp.array([np.log(30.0), np.log(10.0), 0.0])))
    np.testing.assert_allclose(rate, 30.0 - 20.0 * np.log(T / T[0]) / np.log(T[-1] / T[0]), rtol=1e-13)


def test_rates_are_positive_for_a_negative_offset_and_anywhere_in_the_box():
    """J vanishes nowhere on the record although D_offset is negative: the arrested law is inside the domain."""
    made = law()
    p = made.coordinates_of(30.0, -0.5, -14.0)
    np.testing.assert_allclose(made.parameters(p), [30.0, -0.5, -14.0], rtol=1e-9)
    assert np.all(np.asarray(made.rate(p)) > 0)
    low, high = made.box
    for u in np.random.default_rng(0).uniform(low, high, (200, 3)):
        rate = np.asarray(made.rate(u))
        assert np.all(rate > 0)
        assert np.all(np.diff(rate) >= 0) or np.all(np.diff(rate) <= 0)
        assert made.allowed(u)


def test_forms_with_a_domain_refuse_negative_rates():
    raw = law(FORMS["raw"]).with_hard_bounds()
    assert raw.allowed(np.array([-0.5, 0.0]))
    assert not raw.allowed(np.array([-0.5, -3.0]))


@pytest.mark.parametrize("exponent", [-1.5, -0.5, 0.5, 1.5])
def test_a_law_from_rate_and_slope_has_that_rate_and_slope(exponent):
    made = law()
    p = made.from_shape(20.0, -0.05, exponent)
    rate, slope = made.rate_and_slope(jnp.asarray(p))
    np.testing.assert_allclose([np.exp(rate), slope, p[2]], [20.0, -0.05, exponent], rtol=1e-9)


def test_coordinates_of_impossible_parameters_are_moved_into_the_box():
    made = law()
    low, high = made.box
    for given in ((1e9, 0.0, 0.0), (-5.0, 0.3, 0.0), (1.0, -9.0, 1.0), (0.0, 0.0, 0.0)):
        p = made.coordinates_of(*given)
        assert np.all((p >= low) & (p <= high))
