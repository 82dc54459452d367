"""Intervals of amplitude and offset are the range of the law over the confidence ellipsoid of the solver's coordinates."""

import numpy as np
import pytest
from scipy.optimize import minimize

from homodyne.mode.rate_law import RateLaw
from homodyne.physics import TRANSPORT
from homodyne.region import flow_intervals, law_intervals

from .factory import Q, times

Z = 1.959964


def law(n: int = 100) -> RateLaw:
    return RateLaw.choose(
        names=TRANSPORT,
        t=times(n),
        scale=Q**2,
        low=1e-4,
        high=100.0,
        fixed=(None, None, None),
        bounds=((-np.inf, np.inf),) * 3,
        unit="Angstrom^2/s",
    )


def named(p: np.ndarray, n: int = 100) -> np.ndarray:
    """D0, alpha, D_offset, ln of rate and slope at t_ref of ln of the rates at both ends and the exponent: algebra, written again."""
    first, last, exponent = np.exp(p[0]), np.exp(p[1]), p[2]
    begin, end = times(n)[[0, -1]]
    amplitude = (last - first) / (end**exponent - begin**exponent)
    offset, power = first - amplitude * begin**exponent, amplitude * np.sqrt(begin * end) ** exponent
    return np.array([amplitude, exponent, offset, np.log(power + offset), exponent * power / (power + offset)])


COVARIANCE = np.array([[0.012, 0.001, 0.014], [0.001, 0.006, -0.005], [0.014, -0.005, 0.03]])


@pytest.mark.parametrize("centre", [(10.8, 9.2, -0.8), (8.9, 10.1, 0.7)])
def test_ends_are_the_extremes_that_another_solver_finds(centre: tuple[float, float, float]) -> None:
    p = np.array(centre)
    found = law_intervals(law(), p, COVARIANCE, Z)
    root = np.linalg.cholesky(COVARIANCE)
    for k, interval in enumerate(found):
        scale = abs(named(p)[k])
        for end, sign in ((interval.lower, 1), (interval.upper, -1)):
            best = min(
                minimize(
                    lambda v, k=k, sign=sign, scale=scale: sign * named(p + root @ v)[k] / scale,
                    start,
                    constraints={"type": "ineq", "fun": lambda v: Z**2 - v @ v},
                    method="SLSQP",
                ).fun
                for start in (np.full(3, 0.5), np.full(3, -0.5))
            )
            assert end == pytest.approx(sign * best * scale, abs=0.01 * (interval.upper - interval.lower))


def test_where_the_exponent_may_be_zero_the_interval_goes_through_infinity() -> None:
    p, spread = np.array([10.8, 9.2, -0.25]), COVARIANCE
    amplitude, exponent, offset, *_ = law_intervals(law(), p, spread, Z)
    assert exponent.upper > 0
    assert amplitude.lower > 0 > amplitude.upper
    assert offset.lower > offset.upper
    inside = np.random.default_rng(1).normal(size=(4000, 3))
    inside *= Z * np.random.default_rng(2).random((4000, 1)) ** (1 / 3) / np.linalg.norm(inside, axis=1, keepdims=True)
    values = named((p + inside @ np.linalg.cholesky(spread).T).T)
    for k, interval in ((0, amplitude), (2, offset)):
        held = (values[k] >= interval.lower) | (values[k] <= interval.upper)
        assert held.all()


def test_intervals_cover_where_linear_errors_do_not() -> None:
    """Estimates drawn around a truth: the interval holds it in 95 %, the linear error of the amplitude in much less."""
    rng, truth = np.random.default_rng(5), np.array([10.8, 9.2, -0.6])
    draws = truth + rng.normal(size=(400, 3)) @ np.linalg.cholesky(COVARIANCE).T
    target, held, linear = named(truth)[0], [], []
    for p in draws:
        interval = law_intervals(law(), p, COVARIANCE, Z)[0]
        value = target >= interval.lower or target <= interval.upper if interval.lower > interval.upper else None
        held.append(interval.lower <= target <= interval.upper if value is None else value)
        step = 1e-5 * np.eye(3)
        slope = np.array([(named(p + s)[0] - named(p - s)[0]) / 2e-5 for s in step])
        linear.append(abs(named(p)[0] - target) < Z * np.sqrt(slope @ COVARIANCE @ slope))
    assert 0.92 < np.mean(held) < 0.98
    assert np.mean(linear) < 0.92


def test_a_small_ellipsoid_is_straight() -> None:
    assert all(interval.straight for interval in law_intervals(law(), np.array([10.8, 9.2, -0.8]), 1e-4 * COVARIANCE, Z))


@pytest.mark.parametrize(("turn", "error"), [(0.0, 0.15), (0.4, 0.1), (1.0, 0.05), (1.25, 0.12)])
def test_the_shear_rate_follows_the_valley_of_its_component(turn: float, error: float) -> None:
    """Range of ln(component sqrt(1 + tan^2)) and of the direction over the ellipse of (ln component, tan), by a fine grid."""
    steep = 1 / np.cos(turn) ** 2
    covariance = np.array([[1e-4, 2e-3 * error], [2e-3 * error, error**2]])
    rate, direction = flow_intervals(turn, covariance, Z)
    spread = np.diag([1, steep]) @ covariance @ np.diag([1, steep])
    radius, around = np.meshgrid(np.linspace(0, 1, 200), np.linspace(0, 2 * np.pi, 2001))
    v = np.linalg.cholesky(spread) @ np.array([radius * np.cos(around), radius * np.sin(around)]).reshape(2, -1) * Z
    tangent = np.tan(turn) + v[1]
    values = v[0] + 0.5 * np.log((1 + tangent**2) / (1 + np.tan(turn) ** 2))
    assert (rate.lower, rate.upper) == pytest.approx((values.min(), values.max()), abs=2e-3)
    assert (direction.lower, direction.upper) == pytest.approx((np.arctan(tangent).min() - turn, np.arctan(tangent).max() - turn), abs=1e-3)


def test_well_known_directions_keep_their_error() -> None:
    rate, direction = flow_intervals(0.5, np.diag([1e-4, 1e-5]), Z)
    assert rate.straight
    assert direction.straight
