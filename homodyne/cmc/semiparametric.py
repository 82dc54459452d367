"""Product of sub-posteriors that need not be Gaussian: a Gaussian product times a kernel estimate of what it misses.

Each sub-posterior is taken as its Gaussian f_k times an estimate of density over f_k from its S draws (Neiswanger, Wang, Xing 2014),

    r_k(x) = 1/S sum_t N(x; x_kt, h^2 V_k) / N(x; m_k, (1 + h^2) V_k),        posterior  ~  prod_k f_k(x) r_k(x)

Numerator and denominator are smoothed alike, so that a Gaussian shard has r = 1 at any bandwidth h; dividing by f_k at each draw instead
costs ten times the noise in eight dimensions. The product of K sums of S is a sum over all S^K choices of one draw of every shard;
evaluated as a product it needs no walk over choices. Points are drawn by importance sampling while h shrinks from wide to its last value.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from ..errors import ConfigError, FitError
from .gaussians import Frame

MOST_DIMENSIONS, MOST_SHARDS = 10, 32
WIDENING = 2.0
"""Last bandwidth over S^(-1/(D + 4)), that of one kernel estimate: errors of K of them add up."""
LEVELS, EXPLORING = 4, 1000
"""Bandwidths, and points at each but the last."""
PROPOSALS, FREEDOM = 2, 7.0
"""Points at the last for each draw that is wanted, and degrees of freedom of the t density they come from."""
LEAST_EFFECTIVE = 0.1
"""Part of the points that must count in the end."""
AT_ONCE = 500


@dataclass(frozen=True)
class Shard:
    """Frame of the Gaussian of one shard, its draws (S, D), and the number of independent ones."""

    frame: Frame
    draws: np.ndarray
    effective: float


def refuse(dimension: int, shards: int) -> None:
    """Raise where a kernel estimate cannot be had from a usual number of draws."""
    if dimension > MOST_DIMENSIONS:
        reason = f"a kernel estimate in {dimension} dimensions is flat over the posterior, so that the rule would be the Gaussian product"
        raise ConfigError(f"combination semiparametric takes at most {MOST_DIMENSIONS} dimensions: {reason}; accepted: swiss, gaussian")
    if shards > MOST_SHARDS:
        reason = f"the errors of {shards} kernel estimates add up"
        raise ConfigError(f"combination semiparametric takes at most {MOST_SHARDS} shards: {reason}; accepted: swiss, tree, gaussian")


def product_draws(
    frame: Frame, shards: Sequence[Shard], rng: np.random.Generator, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Mean (D,), covariance (D, D) and draws (size, D) of the product of sub-posteriors ~ prior^(1/K) L_k, and its last bandwidth.

    Args:
        frame: of the product of their Gaussians.
    """
    dimension = len(frame.mean)
    draws = min(min(len(shard.draws), shard.effective) for shard in shards)
    proposal, bandwidth = frame, 0.0
    for level in range(1, LEVELS + 1):
        bandwidth = WIDENING * draws ** (-level / LEVELS / (4 + dimension))
        count = EXPLORING if level < LEVELS else max(EXPLORING, PROPOSALS * size)
        steps = rng.standard_normal((count, dimension)) * np.sqrt(FREEDOM / rng.chisquare(FREEDOM, (count, 1)))
        points = proposal.mean + proposal.outward(steps)
        log_density = -0.5 * _squared(frame.inward(points - frame.mean)) + sum(_log_ratio(shard, points, bandwidth) for shard in shards)
        log_weight = log_density + 0.5 * (FREEDOM + dimension) * np.log1p(_squared(steps) / FREEDOM)
        weights = np.exp(log_weight - logsumexp(log_weight))
        effective = 1 / _squared(weights)
        if not effective > max(LEAST_EFFECTIVE * count, dimension + 2):
            found = f"{effective:.0f} of {count} points count"
            raise FitError(f"combination semiparametric: {found}, shards are too far from Gaussian or from each other; accepted: swiss")
        mean = weights @ points
        away = points - mean
        proposal = Frame.of(mean, (weights * away.T) @ away / (1 - weights @ weights))
    chosen = np.searchsorted(np.cumsum(weights), (np.arange(size) + rng.random()) / size).clip(max=count - 1)
    return mean, proposal.covariance_outward(np.eye(dimension)), points[chosen], bandwidth


def _log_ratio(shard: Shard, points: np.ndarray, bandwidth: float) -> np.ndarray:
    """(N,) ln r_k at points (N, D), up to a constant."""
    draws = shard.frame.inward(shard.draws - shard.frame.mean)
    places = shard.frame.inward(points - shard.frame.mean)
    out = 0.5 * _squared(places) / (1 + bandwidth**2)
    for start in range(0, len(places), AT_ONCE):
        some = places[start : start + AT_ONCE]
        exponent = (some @ draws.T - 0.5 * _squared(draws)) / bandwidth**2
        largest = exponent.max(axis=1)
        np.exp(exponent - largest[:, None], out=exponent)
        out[start : start + AT_ONCE] += largest - 0.5 * _squared(some) / bandwidth**2 + np.log(exponent.sum(axis=1))
    return out


def _squared(x: np.ndarray) -> np.ndarray:
    return (x**2).sum(axis=-1)
