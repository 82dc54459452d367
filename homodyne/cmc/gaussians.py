"""Gaussians as mean and covariance, computed so that units do not matter.

Every matrix is divided by standard deviations before it is inverted or factored, and every distance is measured in standard deviations,
so there is no floor with a unit and a coordinate may be rescaled by any factor.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from ..errors import FitError

SMOOTHING = 0.1
"""Distance, over the median one, below which shards count alike: keeps the geometric median off single shards."""
COINCIDENCE = 1e-12
"""Squared distance in standard deviations below which two shards are the same."""
CONVERGED, MOST_STEPS = 1e-10, 2000


def deviations(covariance: np.ndarray) -> np.ndarray:
    """(..., D) standard deviations."""
    return np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))


def correlation(covariance: np.ndarray) -> np.ndarray:
    """(..., D, D) of (..., D, D)."""
    sd = deviations(covariance)
    return covariance / (sd[..., :, None] * sd[..., None, :])


def inverse(covariance: np.ndarray) -> np.ndarray:
    """(..., D, D) of (..., D, D)."""
    sd = deviations(covariance)
    inverted = np.linalg.inv(correlation(covariance)) / (sd[..., :, None] * sd[..., None, :])
    return 0.5 * (inverted + np.swapaxes(inverted, -1, -2))


def matrix_power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """(..., D, D) symmetric power of symmetric positive matrices."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values[..., None, :] ** exponent) @ np.swapaxes(vectors, -1, -2)


def is_covariance(matrix: np.ndarray) -> bool:
    """Finite, and positive definite when a rounding error of each correlation is allowed for."""
    if not np.isfinite(matrix).all() or np.any(np.diagonal(matrix) <= 0):
        return False
    return bool(np.linalg.eigvalsh(correlation(matrix)).min() > len(matrix) * np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Frame:
    """Coordinates y in which a Gaussian is standard: x = mean + sd * (root y).

    Attributes:
        mean, sd: (D,). root, inverse_root: (D, D), of the correlation matrix.
    """

    mean: np.ndarray
    sd: np.ndarray
    root: np.ndarray
    inverse_root: np.ndarray

    @classmethod
    def of(cls, mean: np.ndarray, covariance: np.ndarray) -> "Frame":
        """The frame of a Gaussian."""
        root = np.linalg.cholesky(correlation(covariance))
        return cls(mean, deviations(covariance), root, solve_triangular(root, np.eye(len(root)), lower=True))

    def inward(self, steps: np.ndarray) -> np.ndarray:
        """(..., D) differences of x as differences of y."""
        return (steps / self.sd) @ self.inverse_root.T

    def outward(self, steps: np.ndarray) -> np.ndarray:
        """(..., D) differences of y as differences of x."""
        return self.sd * (steps @ self.root.T)

    def covariance_inward(self, covariance: np.ndarray) -> np.ndarray:
        """(..., D, D) covariance of y."""
        return self.inverse_root @ (covariance / np.outer(self.sd, self.sd)) @ self.inverse_root.T

    def covariance_outward(self, covariance: np.ndarray) -> np.ndarray:
        """(..., D, D) covariance of x."""
        return np.outer(self.sd, self.sd) * (self.root @ covariance @ self.root.T)


def carried(draws: np.ndarray, mean: np.ndarray, covariance: np.ndarray, frame: Frame) -> np.ndarray:
    """(S, D) draws of mean (D,) and covariance (D, D), moved by an affine map to the mean and covariance of a frame.

    Of all such maps it is the symmetric one in the frame, the least movement in units of the target's standard deviations.
    """
    turn = matrix_power(frame.covariance_inward(covariance), -0.5)
    return frame.mean + frame.outward(frame.inward(draws - mean) @ turn)


def symmetric_divergence(mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray) -> float:
    """Mean of the two Kullback-Leibler divergences between two Gaussians, nats."""
    frame = Frame.of(other_mean, other_covariance)
    inside = frame.covariance_inward(covariance)
    step = frame.inward(mean - other_mean)
    back = inverse(inside)
    trace = np.trace(inside) + np.trace(back) - 2 * len(step)
    return float(0.25 * (trace + step @ step + step @ back @ step))


def middle(means: np.ndarray, covariances: np.ndarray, *, robust: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Barycentre or geometric median of K Gaussians, by the Wasserstein distance.

    The distance between points is measured in standard deviations of the answer: with the answer as N(0, I) and a shard as N(a, W),

        d^2 = |a|^2 + |W^1/2 - I|^2,      and at the answer     sum_k w_k a_k = 0,   sum_k w_k W_k^1/2 = I

    with w_k = 1/K for the barycentre, which makes the sum of d^2 least, and w_k ~ 1/d_k for the median (Weiszfeld), the sum of d.

    Args:
        means: (K, D). covariances: (K, D, D).

    Returns:
        Mean (D,), covariance (D, D) and weights (K,) that add up to 1.
    """
    weights = np.full(len(means), 1 / len(means))
    mean, covariance = weights @ means, np.tensordot(weights, covariances, 1)
    for _ in range(MOST_STEPS):
        frame = Frame.of(mean, covariance)
        away = frame.inward(means - mean)
        roots = matrix_power(frame.covariance_inward(covariances), 0.5)
        if robust:
            squared = (away**2).sum(axis=1) + ((roots - np.eye(len(mean))) ** 2).sum(axis=(1, 2))
            weights = 1 / np.sqrt(squared + SMOOTHING**2 * np.median(squared) + COINCIDENCE)
            weights = weights / weights.sum()
        step, root = weights @ away, np.tensordot(weights, roots, 1)
        mean, covariance = mean + frame.outward(step), frame.covariance_outward(root @ root)
        if max(np.abs(step).max(), np.abs(root - np.eye(len(mean))).max()) < CONVERGED:
            return mean, covariance, weights
    raise FitError(f"the {'geometric median' if robust else 'barycentre'} of {len(means)} shards was not found in {MOST_STEPS} steps")
