"""Robust losses as weights of a residual r in units of its scale: weight w(r) = rho'(r)/r, score psi(r) = r w(r).

Same functions as SciPy's ``least_squares(loss=...)``: soft_l1, huber, cauchy.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Loss:
    """weight: elementwise and traceable. score_slope: d psi/d r, for the errors."""

    weight: Callable[[jax.Array], jax.Array]
    score_slope: Callable[[np.ndarray], np.ndarray]


def _soft_l1(r: jax.Array) -> jax.Array:
    return 1 / jnp.sqrt(1 + r * r)


def _huber(r: jax.Array) -> jax.Array:
    return 1 / jnp.maximum(jnp.abs(r), 1.0)


def _cauchy(r: jax.Array) -> jax.Array:
    return 1 / (1 + r * r)


LOSSES = {
    "soft_l1": Loss(_soft_l1, lambda r: (1 + r * r) ** -1.5),
    "huber": Loss(_huber, lambda r: (np.abs(r) <= 1).astype(float)),
    "cauchy": Loss(_cauchy, lambda r: (1 - r * r) / (1 + r * r) ** 2),
}


def median_scale(residuals: Callable[[], Iterator[np.ndarray]], rms: float) -> float:
    """1.4826 times the median absolute residual (the standard deviation of Gaussian noise), to 0.1 % of the rms in one pass."""
    edges = np.linspace(0.0, 8.0 * rms, 8001)
    counts = np.zeros(len(edges), dtype=np.int64)
    for chunk in residuals():
        counts[:-1] += np.histogram(np.abs(chunk), edges)[0]
        counts[-1] += np.count_nonzero(np.abs(chunk) > edges[-1])
    cumulative = np.concatenate([[0], np.cumsum(counts[:-1])])
    return 1.4826 * float(np.interp(0.5 * counts.sum(), cumulative, edges))


def efficiency(loss: Loss, residuals: Callable[[], Iterator[np.ndarray]], scale: float) -> tuple[float, float]:
    """What an M-estimator's covariance needs beside the reweighted normal matrix sum w G G'.

    Returns:
        mean w / mean d psi/dr, which turns the inverse of that matrix into that of sum psi' G G'; and mean (w r)^2 / mean w.
    """
    weight = slope = square = 0.0
    for chunk in residuals():
        r = chunk / scale
        w = np.asarray(loss.weight(jnp.asarray(r)))
        weight += float(w.sum())
        square += float(np.sum((w * chunk) ** 2))
        slope += float(np.sum(loss.score_slope(r)))
    return weight / slope, square / weight
