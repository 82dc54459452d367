"""Intervals of amplitude and offset of a rate law, which the coordinates of the solver make as crooked as they are.

In those coordinates p chi2 is close to a parabola (rate_law.py), so the confidence region is close to the ellipsoid

    {p : (p - p^)' C^-1 (p - p^) <= z^2},      C the covariance of the noise option

and the range of a quantity over it is its profile-likelihood interval. Amplitude and offset go to infinity where the exponent is 0 and
come back from the other side, so their interval goes through infinity when the ellipsoid reaches that far. No pass over the pixels.
Source: docs/uncertainty.md.
"""

from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from .mode.rate_law import RateLaw
from .results import SKEWED

DIRECTIONS = 2000
"""Points on the ellipsoid; its ends are met within 0.2 % of the half-width."""


@dataclass(frozen=True)
class Interval:
    """Ends of a confidence interval; see ``results.Estimate.interval``. straight: a symmetric error says the same."""

    lower: float
    upper: float
    straight: bool


def law_intervals(law: RateLaw, p: np.ndarray, covariance: np.ndarray, z: float) -> tuple[Interval, ...]:
    """Of amplitude, exponent, offset, ln of the rate and logarithmic slope at t_ref of a law ``two_rate`` with a free exponent.

    Args:
        p: (3,) estimate in the coordinates of the law. covariance: (3, 3) of it. z: standard deviations of the interval, 1.96 for 95 %.
    """
    values, vectors = np.linalg.eigh(covariance)
    points = p[:, None] + z * (vectors * np.sqrt(np.maximum(values, 0.0))) @ _sphere().T
    centre = np.asarray(_parameters(law, p[:, None]))[:, 0]
    slope = np.asarray(_slopes(law, p))
    half = z * np.sqrt(np.maximum(np.einsum("ka,ab,kb->k", slope, covariance, slope), 0.0))
    found = np.asarray(_parameters(law, points))
    near = points[2] * p[2] > 0
    lower, upper = found[:, near].min(axis=1), found[:, near].max(axis=1)
    if not near.all():
        # The curves beyond exponent 0 are the neighbours of those before it, through infinity of amplitude and offset.
        for k in (0, 2):
            rises = (centre[0] > 0) == (k == 0)
            beyond = found[k, ~near]
            lower[k], upper[k] = (lower[k], beyond.max()) if rises else (beyond.min(), upper[k])
            if lower[k] <= upper[k]:
                lower[k], upper[k] = -np.inf, np.inf
    lower[1], upper[1] = centre[1] - half[1], centre[1] + half[1]
    lower[3:], upper[3:] = found[3:].min(axis=1), found[3:].max(axis=1)
    bend = SKEWED * half + 1e-9 * np.abs(centre)
    straight = (np.abs(upper - centre - half) < bend) & (np.abs(centre - lower - half) < bend)
    return tuple(Interval(*ends) for ends in zip(lower.tolist(), upper.tolist(), straight.tolist(), strict=True))


@cache
def _sphere() -> np.ndarray:
    """(DIRECTIONS, 3) points evenly on the unit sphere: a spiral of constant pitch (Swinbank and Purser 2006)."""
    k = np.arange(DIRECTIONS) + 0.5
    height, angle = 1 - 2 * k / DIRECTIONS, np.pi * (1 + 5**0.5) * k
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)


def _numbers(law: RateLaw, p: jax.Array) -> jax.Array:
    """(5, ...) of coordinates (3, ...)."""
    return jnp.concatenate([law.parameters(p), law.rate_and_slope(p)])


_parameters = jax.jit(_numbers)
_slopes = jax.jit(lambda law, p: jax.jacfwd(partial(_numbers, law))(p))


def flow_intervals(turn: float, covariance: np.ndarray, z: float) -> tuple[Interval, Interval]:
    """Of ln of a shear rate relative to its estimate, and of the flow direction, rad, where one measured angle knows most.

    chi2 is close to a parabola in (ln of the component along that angle, tan(phi0 - phi)): maps at angles near to each other measure the
    component and its first derivative by the angle. So rate = component sqrt(1 + tan^2).

    Args:
        turn: phi0 - phi, rad. covariance: (2, 2) of ln of the component and of phi0, rad.
    """
    tangent, steep = np.tan(turn), 1 / np.cos(turn) ** 2
    change = np.diag([1.0, steep])
    values, vectors = np.linalg.eigh(change @ covariance @ change)
    around = np.linspace(0, 2 * np.pi, 721)
    component, moved = z * (vectors * np.sqrt(np.maximum(values, 0.0))) @ np.array([np.cos(around), np.sin(around)])
    # Inside of the ellipse too: the slowest flow is the one along the angle itself.
    rates = [s * component + 0.5 * np.log((1 + (tangent + s * moved) ** 2) / (1 + tangent**2)) for s in (0.25, 0.5, 0.75, 1.0)]
    slope = np.array([1.0, tangent])
    error = float(np.sqrt(slope @ covariance @ slope))
    half = z * np.sqrt(covariance[1, 1]) * steep
    # The way from the estimate, which may pass the direction across the angle.
    lower, upper = np.arctan(tangent - half) - np.arctan(tangent), np.arctan(tangent + half) - np.arctan(tangent)
    return (
        _interval(min(float(part.min()) for part in rates), max(float(part.max()) for part in rates), z * error),
        _interval(float(lower), float(upper), z * float(np.sqrt(covariance[1, 1]))),
    )


def _interval(lower: float, upper: float, half: float) -> Interval:
    """An interval around zero beside the linear one."""
    bend = SKEWED * half + 1e-12
    return Interval(lower, upper, bool(abs(upper - half) < bend and abs(-lower - half) < bend))
