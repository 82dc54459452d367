"""Speckle size and effective number of pixels from block means of the residuals.

Shot noise averages out over a block of pairs of frames, speckle does not: what the means of blocks scatter tells the speckle size even
where a single value of the map is nearly all shot noise. With z the block means, Z(r) their covariance without what the fit took away,

    score    z' Z^-1 D_a Z^-1 z - tr(Z^-1 D_a),    D_1 = Z(2) - Z(1) per unit of r,    D_2 = Z(1) per unit of pixels too many

and Fisher information F_ab = tr(Z^-1 D_a Z^-1 D_b), half of each as in maximum likelihood; one step from r = 1. Source: docs/noise.md.
"""

from dataclasses import dataclass, replace

import numpy as np

from .counting import Counted
from .covariance import angle_sums
from .goodness import directions, lag_age_blocks
from .noise.base import Minimised

# Eigenvalues of the correlation matrix of the blocks below which a combination of blocks says nothing.
_SMALLEST = 1e-3


@dataclass(frozen=True)
class Growth:
    """r of the speckles and its standard error, infinite where blocks say nothing.

    by_size, by_number: half the log likelihood ratio that one step of scoring gains with r free, or with the number of pixels free.
    """

    r: float
    error: float
    by_size: float
    by_number: float


def speckle_growth(found: Counted, r1_per_r: float, minimum: Minimised) -> Growth:
    """What block means say of the speckle size; costs two goodness-of-fit passes.

    Args:
        found: shot noise and pixels, r = 1. r1_per_r: r1 - 1 over r - 1.
    """
    problem, evaluation = minimum.problem, minimum.evaluation
    blocks = lag_age_blocks(minimum.source.dataset.n)
    if not blocks.classes.count:
        return Growth(1.0, np.inf, 0.0, 0.0)

    def covariance(r: float) -> tuple[np.ndarray, np.ndarray]:
        counting = replace(found.counting, r=r, r1=1 + r1_per_r * (r - 1))
        every = directions(angle_sums(problem, evaluation, counting, minimum.loss, blocks.classes), minimum)
        angles, extras = every.z.shape
        kept = np.tile(np.arange(extras) >= extras - blocks.classes.count, angles)
        return every.z.ravel()[kept], every.covariance[np.ix_(kept, kept)]

    z, one = covariance(1.0)
    _, two = covariance(2.0)
    scale = np.sqrt(np.maximum(np.diagonal(one), 1e-300))
    values, vectors = np.linalg.eigh(one / np.outer(scale, scale))
    kept = values > _SMALLEST
    white = (vectors[:, kept] / np.sqrt(values[kept])).T / scale
    y, size = white @ z, white @ (two - one) @ white.T
    known, score, excess = 0.5 * np.sum(size * size), 0.5 * (y @ size @ y - np.trace(size)), 0.5 * (y @ y - len(y))
    if not known > 0:
        return Growth(1.0, np.inf, 0.0, 0.0)
    return Growth(1 + float(score / known), float(known**-0.5), float(0.5 * score**2 / known), float(excess**2 / len(y)))
