"""Pareto-smoothed importance sampling (Vehtari, Simpson, Gelman, Yao, Gabry 2024) of a Target from a multivariate t around its mode."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base.array import array_stats
from scipy.special import gammaln

from .target import Target

FREEDOM = 7.0
"""Of the t distribution: heavier tails than any posterior that data determine."""
BLOCK = 25
"""Points evaluated between two looks at the clock."""


@dataclass(frozen=True)
class Proposal:
    """Multivariate t in v. center: (d,). root: (d, d) lower triangular, of the scale matrix."""

    center: np.ndarray
    root: np.ndarray

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """(count, d) draws."""
        size = len(self.center)
        stretch = np.sqrt(FREEDOM / rng.chisquare(FREEDOM, (count, 1)))
        return self.center + stretch * rng.standard_normal((count, size)) @ self.root.T

    def log_density(self, v: np.ndarray) -> np.ndarray:
        """(count,) of v (count, d)."""
        size = len(self.center)
        white = np.linalg.solve(self.root, (v - self.center).T)
        constant = gammaln(0.5 * (FREEDOM + size)) - gammaln(0.5 * FREEDOM) - 0.5 * size * np.log(FREEDOM * np.pi)
        logs = np.sum(np.log(np.abs(np.diagonal(self.root))))
        return constant - logs - 0.5 * (FREEDOM + size) * np.log1p(np.sum(white**2, axis=0) / FREEDOM)


@dataclass(frozen=True)
class Weighted:
    """Draws with weights: v (S, d), smoothed normalised weights (S,), ln density (S,), the density's sums (S, ...).

    k_hat: shape of the tail of the weights; the weights are reliable below ``limit``. size: effective, 1/sum of squared weights.
    log_evidence: ln of the integral of the density over v.
    """

    v: np.ndarray
    weights: np.ndarray
    log_density: np.ndarray
    sums: np.ndarray
    k_hat: float
    size: float
    log_evidence: float

    @property
    def limit(self) -> float:
        """Largest k_hat for which this many draws suffice."""
        return min(1 - 1 / float(np.log10(len(self.v))), 0.7)

    @property
    def reliable(self) -> bool:
        return bool(np.isfinite(self.k_hat) and self.k_hat < self.limit)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Weighted mean (d,) and covariance (d, d)."""
        mean = self.weights @ self.v
        away = self.v - mean
        return mean, (self.weights[:, None] * away).T @ away

    def resample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """(count,) indices of equally weighted draws, in random order (systematic resampling)."""
        steps = (rng.random() + np.arange(count)) / count
        return rng.permutation(np.minimum(np.searchsorted(np.cumsum(self.weights), steps), len(self.weights) - 1))


Watch = Callable[[int, int], None]
"""Called with points done and points in all. May raise to stop."""


def weigh(target: Target, proposal: Proposal, rng: np.random.Generator, count: int, threads: int, watch: Watch) -> Weighted:
    """Draws of a proposal with their weights under the target."""
    v = proposal.draw(rng, count)
    return weighted(target, v, proposal.log_density(v), threads, watch)


def weighted(target: Target, v: np.ndarray, log_proposal: np.ndarray, threads: int, watch: Watch) -> Weighted:
    """Weights of draws v (S, d) whose ln density under their own distribution is given (S,)."""
    log_density, sums = evaluate(target, v, threads, watch)
    logs = np.where(np.isfinite(log_density), log_density - log_proposal, -np.inf)
    finite = np.isfinite(logs)
    weights, k_hat = np.zeros(len(v)), np.inf
    if finite.sum() > 20:
        # Points outside of the domain have no weight, and no place in the tail. ArviZ takes ln of the inverse ratios.
        smoothed, found = array_stats.psislw(logs[finite].max() - logs[finite], axis=-1)
        weights[finite], k_hat = np.exp(smoothed - smoothed.max()), float(found)
        weights /= weights.sum()
    size = 1 / float(np.sum(weights**2)) if weights.any() else 0.0
    top = logs.max()
    evidence = float(top + np.log(np.mean(np.exp(logs - top)))) if np.isfinite(top) else -np.inf
    return Weighted(v, weights, log_density, sums, k_hat, size, evidence)


def evaluate(target: Target, v: np.ndarray, threads: int, watch: Watch) -> tuple[np.ndarray, np.ndarray]:
    """ln density (S,) and sums (S, ...) at v (S, d)."""
    blocks = -(-len(v) // BLOCK)
    padded = np.concatenate([v, np.repeat(v[-1:], blocks * BLOCK - len(v), axis=0)]).reshape(blocks, BLOCK, -1)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    with ThreadPoolExecutor(threads) as pool:
        for part in pool.map(partial(_block, target), padded):
            found.append(part)
            watch(min(len(found) * BLOCK, len(v)), len(v))
    log_density, sums = (np.concatenate(part)[: len(v)] for part in zip(*found, strict=True))
    return log_density, sums


def _block(target: Target, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    log_density, sums = _evaluate(target, jnp.asarray(points))
    return np.asarray(log_density), np.asarray(sums)


@jax.jit
def _evaluate(target: Target, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.lax.map(lambda v: target.with_sums(v), points)
