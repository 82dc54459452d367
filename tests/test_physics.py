"""The model against stored values of homodyne 2.23.3 (evaluated in 40 digits), closed forms, quadrature and finite differences."""

import json
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from homodyne.physics import (
    SHEAR,
    SHEAR_KERNELS,
    TRANSPORT,
    cumulative,
    decay,
    phase_per_strain,
    power_law,
    sinc,
    sine_and_cosine,
    two_time,
)

from .factory import DT, GAP, LAMINAR, STATIC, Q, exact_maps, times

GOLDEN = json.loads((Path(__file__).parent / "reference" / "golden_physics.json").read_text())
CASES = {case["id"]: case for case in GOLDEN["cases"]}
RATE_FLOOR = G1_FLOOR = 1e-10
LONGEST, MOST = 50, 6
"""Frames of the longest case, and the largest number of stored pairs."""
FACTOR = {"gap_average": 0.5, "homodyne_v2": 0.5 / np.pi}
POWER = {"gap_average": 2, "homodyne_v2": 4}


@cache
def stored_pairs(name):
    """The stored pairs of a case: h by physics.decay, g1 by physics.decay with what the reference does besides, and c2 by two_time.

    homodyne 2.x replaces |C_j - C_i|, the integral of a rate in steps of dt, by sqrt((C_j - C_i)^2 + 1e-12), and floors rates and
    g1 at 1e-10. In our states that is |dx| -> sqrt(dx^2 + unit^2 1e-12), with unit the state difference of one step at rate 1.
    """
    case = CASES[name]
    kernel, q, steps = SHEAR_KERNELS["homodyne_v2"], case["q_invA"], np.arange(LONGEST)
    # A longer grid and repeated pairs and angles change nothing and let all cases share their compiled operations.
    t = case["t_start"] + case["dt"] * steps
    np.testing.assert_allclose(t[: case["n"]], case["time_grid"], rtol=1e-14)
    i, j, phi = (np.resize(stored(name, key), MOST) for key in ("i", "j", "phi_deg"))
    angles = np.resize(case["phi_deg"], MOST)
    laws = [(TRANSPORT, np.full(MOST, q**2))]
    if case["mode"] == "laminar_flow":
        laws.append((SHEAR, np.asarray(phase_per_strain(phi, case["params"]["phi0"], kernel.phase_factor * q * case["L_A"]))))
    plain, smoothed = [], []
    for names, unit in laws:
        rate = np.asarray(power_law(*(case["params"][name] for name in names), t))
        area, floored = (np.asarray(cumulative(r, t)) for r in (rate, np.maximum(rate, RATE_FLOOR)))
        plain.append(unit * np.abs(area[j] - area[i]))
        epsilon = GOLDEN["conventions"]["smooth_abs_epsilon"]
        smoothed.append(unit * np.sqrt((floored[j] - floored[i]) ** 2 + case["dt"] ** 2 * epsilon))
    h, reference = (np.asarray(decay(tuple(difference), kernel.power)) for difference in (plain, smoothed))
    constants = {"q": q, "gap": case["L_A"], "contrast": case["contrast"], "offset": case["offset"]}
    maps = two_time(case["params"], angles, t, mode=case["mode"], shear_kernel="homodyne_v2", **constants)
    c2 = maps[[list(angles).index(angle) for angle in phi], i, j]
    count = len(case["values"])
    return h[:count], np.maximum(np.sqrt(reference), G1_FLOOR)[:count], c2[:count]


def stored(name, key):
    return np.array([value[key] for value in CASES[name]["values"]])


@pytest.mark.parametrize("name", CASES)
def test_golden_values_of_homodyne_v2_are_reproduced_with_its_smoothing(name):
    """g1 and c2 of every stored pair, diagonal included, with the reference's smooth |dC| and floors applied in the test."""
    case, (_, g1, _) = CASES[name], stored_pairs(name)
    # Near a null of the sinc, rounding of a phase of hundreds is all that is left of g1: 2e-11 in the reference too.
    np.testing.assert_allclose(g1, stored(name, "g1"), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(case["offset"] + case["contrast"] * g1**2, stored(name, "c2"), rtol=1e-11, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_two_time_differs_from_golden_values_only_by_the_smoothing(name):
    """two_time has no smoothing and no floors; what is left after the shift they explain is below 1e-11."""
    case, (h, g1, c2) = CASES[name], stored_pairs(name)
    shift = case["contrast"] * (g1**2 - h)
    assert np.abs(shift).max() < 2e-8, "the reference's smoothing is negligible in every stored case"
    np.testing.assert_allclose(c2 + shift, stored(name, "c2"), rtol=1e-11, atol=0)
    diagonal = stored(name, "i") == stored(name, "j")
    np.testing.assert_array_equal(c2[diagonal], case["offset"] + case["contrast"])


def test_factors_of_one_step_equal_the_golden_factors():
    q, gap, dt, t = 0.01, 2e6, 0.1, times(2)
    one_step = float(cumulative(power_law(1.0, 0.0, 0.0, t), t)[1])
    kappa = float(phase_per_strain(0.0, 0.0, SHEAR_KERNELS["homodyne_v2"].phase_factor * q * gap))
    assert q**2 * one_step / 2 == pytest.approx(5e-06, rel=1e-14)
    assert kappa * dt == pytest.approx(318.30988618379064, rel=1e-14)


@pytest.mark.parametrize("kernel", SHEAR_KERNELS)
def test_constant_rates_give_the_closed_form(kernel):
    truth = {"D0": 7000.0, "alpha": 0.0, "D_offset": 500.0, "gamma_dot_t0": 2e-3, "beta": 0.0, "gamma_dot_t_offset": 3e-4, "phi0": 7.0}
    phi, t = np.array([-50.0, 7.0, 97.0]), times(40)
    c2 = two_time(truth, phi, t, q=Q, gap=GAP, shear_kernel=kernel, contrast=[0.1, 0.2, 0.3], offset=[0.9, 1.0, 1.1])
    lag = np.abs(t[:, None] - t[None, :])
    x = FACTOR[kernel] * Q * GAP * np.cos(np.deg2rad(7.0 - phi))[:, None, None] * 2.3e-3 * lag
    # NumPy's sinc is sin(pi x)/(pi x).
    expected = np.exp(-(Q**2) * 7500.0 * lag) * np.sinc(x / np.pi) ** POWER[kernel]
    scale, base = np.array([0.1, 0.2, 0.3])[:, None, None], np.array([0.9, 1.0, 1.1])[:, None, None]
    np.testing.assert_allclose(c2, base + scale * expected, rtol=1e-13)


def test_gap_average_is_the_average_over_a_linear_velocity_profile():
    strain, angle = 7e-4, 35.0
    phase = Q * GAP * np.cos(np.deg2rad(angle)) * strain
    real, imaginary = (quad(lambda y, f=f: f(phase * y), 0, 1)[0] for f in (np.cos, np.sin))
    constant = {"D0": 0.0, "alpha": 0.0, "D_offset": 0.0, "gamma_dot_t0": strain, "beta": 0.0, "gamma_dot_t_offset": 0.0, "phi0": 0.0}
    c2 = two_time(constant, angle, [1.0, 2.0], q=Q, gap=GAP, offset=0.0)
    assert c2[0, 0, 1] == pytest.approx(real**2 + imaginary**2, rel=1e-12)


def test_shear_rates_in_the_ratio_pi_over_root_two_give_equal_initial_decay():
    """The difference of the two kernels is then of fourth order in the phase."""
    x = np.array([0.1, 0.2, 0.4])
    gap = np.asarray(sinc(x / 2)) ** 2
    v2 = np.asarray(sinc(x * (np.pi / np.sqrt(2)) / (2 * np.pi))) ** 4
    order = np.diff(np.log(np.abs(gap - v2))) / np.log(2)
    np.testing.assert_allclose(order, 4.0, atol=0.05)
    assert np.all(np.abs(1 - gap - x**2 / 12) < x**4 / 300)


@pytest.mark.parametrize(("alpha", "start", "expected"), [(2.0, 0.0, 2.0), (0.5, 0.0, 1.5), (-0.5, 1.0, 2.0)])
def test_cumulative_trapezoid_converges_at_its_order(alpha, start, expected):
    """Second order for smooth rates, 1 + alpha from a root at t = 0."""
    errors = []
    for n in (129, 257, 513):
        t = np.linspace(start, start + 2.0, n)
        exact = ((start + 2.0) ** (1 + alpha) - start ** (1 + alpha)) / (1 + alpha)
        errors.append(abs(float(cumulative(power_law(1.0, alpha, 0.0, t), t)[-1]) - exact))
    np.testing.assert_allclose(-np.diff(np.log2(errors)), expected, atol=0.02)


def test_cumulative_is_exact_for_constant_rates_and_additive_in_time():
    t = times(50)
    area = np.asarray(cumulative(power_law(3.0, 0.0, 1.0, t), t))
    np.testing.assert_allclose(area, 4.0 * (t - t[0]), rtol=1e-14, atol=1e-14)
    rate = power_law(3.0, -0.7, 1.0, t)
    whole, late = cumulative(rate, t), cumulative(rate[20:], t[20:])
    np.testing.assert_allclose(whole[20:] - whole[20], late, rtol=1e-13)


@pytest.mark.parametrize("exponent", [-1.5, -1e-9, 0.0, 1e-9, 1e-3, 0.7])
def test_derivatives_of_the_power_law_and_its_integral_equal_finite_differences(exponent):
    t = times(30)

    def area(p):
        return cumulative(power_law(p[0], p[1], p[2], t), t)

    p = jnp.array([2.0, exponent, 0.3])
    steps = 1e-5 * jnp.eye(3)
    differences = jnp.stack([(area(p + e) - area(p - e)) / 2e-5 for e in steps], axis=1)
    np.testing.assert_allclose(jax.jacfwd(area)(p), differences, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("x", [0.0, 1e-9, 1e-3, 0.0999, 0.1, 0.1001, 1.0, np.pi - 1e-6, np.pi, np.pi + 1e-6, 40.0])
def test_sinc_and_its_first_two_derivatives_equal_quadrature(x):
    """sinc(x) is the integral of cos(x s) over 0 <= s <= 1, so its derivatives are integrals of s sin and s^2 cos."""
    exact = [
        quad(lambda s: np.cos(x * s), 0, 1, epsabs=1e-14)[0],
        -quad(lambda s: s * np.sin(x * s), 0, 1, epsabs=1e-14)[0],
        -quad(lambda s: s * s * np.cos(x * s), 0, 1, epsabs=1e-14)[0],
    ]
    found = [f(x) for f in (sinc, jax.grad(sinc), jax.grad(jax.grad(sinc)))]
    np.testing.assert_allclose(found[:2], exact[:2], atol=2e-15)
    np.testing.assert_allclose(found[2], exact[2], atol=1e-13)


@pytest.mark.parametrize("largest", [1.0, 1e3, 1e8])
def test_sine_and_cosine_equal_those_of_extended_precision_to_3e_16(largest):
    """At random arguments, and at those nearest to the multiples of pi/2, where the sum of three parts of pi/2 has to cancel."""
    rng = np.random.default_rng(2)
    random, turns = rng.uniform(-largest, largest, 20000), np.round(rng.uniform(-largest, largest, 20000) * (2 / np.pi)) * (np.pi / 2)
    for x in (random, turns[np.abs(turns) < largest]):
        sine, cosine = (np.asarray(part) for part in sine_and_cosine(x))
        long = x.astype(np.longdouble)
        np.testing.assert_allclose(np.array(sine - np.sin(long), dtype=float), 0.0, atol=3e-16)
        np.testing.assert_allclose(np.array(cosine - np.cos(long), dtype=float), 0.0, atol=3e-16)


def test_sine_is_odd_cosine_even_and_each_the_slope_of_the_other():
    x = np.linspace(0.0, 50.0, 777)
    sine, cosine = sine_and_cosine(x)
    mirrored = sine_and_cosine(-x)
    np.testing.assert_array_equal(mirrored[0], -sine)
    np.testing.assert_array_equal(mirrored[1], cosine)
    slopes = jax.jvp(sine_and_cosine, (x,), (np.ones_like(x),))[1]
    np.testing.assert_allclose(slopes[0], np.cos(x), atol=3e-15)
    np.testing.assert_allclose(slopes[1], -np.sin(x), atol=3e-15)


@pytest.mark.parametrize("power", [0, 2, 4])
def test_derivatives_of_the_decay_equal_finite_differences(power):
    points = [(0.0, 0.0), (0.3, 1e-6), (0.3, 0.1), (1.2, 2.0), (0.1, np.pi), (0.1, np.pi + 1e-3), (0.0, 9.0)]
    size = 2 if power else 1

    def h(x):
        return decay(tuple(x), power)

    for point in points:
        x = jnp.array(point[:size])
        numeric = [(h(x + e) - h(x - e)) / 2e-5 for e in 1e-5 * jnp.eye(size)]
        np.testing.assert_allclose(jax.grad(h)(x), numeric, atol=1e-9)


def test_kappa_has_the_derivative_of_a_cosine_in_degrees():
    slope = jax.grad(phase_per_strain, 1)(30.0, 10.0, 100.0)
    assert float(slope) == pytest.approx(100.0 * np.sin(np.deg2rad(20.0)) * np.pi / 180, rel=1e-12)


@pytest.mark.parametrize("kernel", SHEAR_KERNELS)
def test_maps_are_symmetric_and_decay_from_contrast_plus_offset(kernel):
    c2 = exact_maps(LAMINAR, contrast=0.2, offset=1.01, shear_kernel=kernel)
    np.testing.assert_array_equal(c2, c2.swapaxes(1, 2))
    np.testing.assert_allclose(np.diagonal(c2, axis1=1, axis2=2), 1.21, rtol=1e-15)
    assert c2.max() <= 1.21
    assert c2.min() >= 1.01


@pytest.mark.parametrize("kernel", SHEAR_KERNELS)
def test_turning_the_flow_or_the_angles_by_180_degrees_changes_nothing(kernel):
    c2 = exact_maps(LAMINAR, shear_kernel=kernel)
    turned = exact_maps(LAMINAR | {"phi0": LAMINAR["phi0"] + 180.0}, shear_kernel=kernel)
    angles = exact_maps(LAMINAR, np.array([-75.0, -35.0, 0.0, 40.0, 80.0]) - 180.0, shear_kernel=kernel)
    np.testing.assert_allclose(turned, c2, rtol=1e-12)
    np.testing.assert_allclose(angles, c2, rtol=1e-12)


def test_the_sign_of_shear_cannot_be_seen_and_a_negative_rate_is_arrest():
    """h is even in the shear phase, so -gamma_dot would look like gamma_dot; two_time does not use that: by the arrest rule a
    negative rate is no flow, so that a law that changes sign stops instead of flowing back."""
    x0, x1 = jnp.linspace(0, 2, 9), jnp.linspace(0, 9, 9)
    np.testing.assert_array_equal(decay((x0, x1), 2), decay((x0, -x1), 2))
    backwards = LAMINAR | {"gamma_dot_t0": -LAMINAR["gamma_dot_t0"], "gamma_dot_t_offset": -LAMINAR["gamma_dot_t_offset"]}
    still = LAMINAR | {"gamma_dot_t0": 0.0, "gamma_dot_t_offset": 0.0}
    np.testing.assert_array_equal(exact_maps(backwards), exact_maps(still))


def test_without_shear_laminar_flow_is_static():
    small = {"gamma_dot_t0": 1e-9, "beta": 0.0, "gamma_dot_t_offset": 0.0, "phi0": 0.0}
    static = exact_maps(STATIC)
    np.testing.assert_array_equal(exact_maps(STATIC | small | {"gamma_dot_t0": 0.0}), static)
    np.testing.assert_allclose(exact_maps(STATIC | small), static, atol=1e-9)


def test_static_maps_do_not_depend_on_the_angle():
    c2 = exact_maps(STATIC)
    np.testing.assert_array_equal(c2, np.broadcast_to(c2[0], c2.shape))


def test_a_transport_law_that_turns_negative_arrests():
    """D0/t - 2 D0 is zero from t = 0.5 s on: nothing decorrelates after that, and nothing recorrelates."""
    h = exact_maps({"D0": 1e4, "alpha": -1.0, "D_offset": -2e4}, 0.0, 40, contrast=1.0, offset=0.0)[0]
    stopped = np.flatnonzero(times(40) > 0.5)
    np.testing.assert_array_equal(h[np.ix_(stopped, stopped)], 1.0)
    np.testing.assert_array_equal(h[0, stopped], h[0, stopped[0]])
    assert h[0, stopped[0]] < 0.9


def test_a_frame_at_time_zero_is_evaluated_at_half_a_frame():
    t = DT * np.arange(4)
    rate = np.asarray(power_law(3.0, -0.5, 1.0, t))
    np.testing.assert_allclose(rate, 3.0 * np.array([DT / 2, DT, 2 * DT, 3 * DT]) ** -0.5 + 1.0, rtol=1e-14)


BAD = {
    "mode is 'statik'; accepted: static, laminar_flow": {"mode": "statik"},
    "shear_kernel is 'sinc'; accepted: gap_average, homodyne_v2": {"shear_kernel": "sinc"},
    "mode static needs exactly": {"mode": "static"},
    "needs exactly": {"parameters": {name: LAMINAR[name] for name in TRANSPORT}},
    "t must be a 1-D array of at least two": {"t": [1.0]},
    "increasing": {"t": [1.0, 3.0, 2.0]},
    "non-negative": {"t": [-1.0, 0.0, 1.0]},
    "1-D": {"t": [[1.0, 2.0], [1.0, 2.0]]},
    "gap is missing": {"gap": None},
    "q and gap must be positive, found q=0": {"q": 0.0},
    "found q=nan": {"q": float("nan")},
    "gap=-1": {"gap": -1.0},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_with_what_was_found(message):
    arguments = {"parameters": LAMINAR, "phi": 0.0, "t": times(5), "q": Q, "gap": GAP} | BAD[message]
    with pytest.raises(ValueError, match=message):
        two_time(**arguments)


@pytest.mark.parametrize(
    "change",
    [{"t": [0.1, np.nan, 0.3]}, {"t": [0.1, 0.2, np.inf]}, {"phi": np.nan}, {"parameters": LAMINAR | {"D0": np.nan}}],
    ids=["nan time", "infinite time", "nan angle", "nan parameter"],
)
def test_two_time_refuses_what_is_not_finite(change):
    with pytest.raises(ValueError, match="finite"):
        two_time(**({"parameters": LAMINAR, "phi": 0.0, "t": times(5), "q": Q, "gap": GAP} | change))
