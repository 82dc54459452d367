"""Does the scatter of the residuals grow with the correlation? It tells speckle that is larger than a pixel from everything else.

N times the variance of a value of the map is (contrast + shot)^2 + (contrast h)^2 and smaller terms. With speckles over several pixels
contrast^2 (1 + h^2) is r times as large, which grows with h. Shot noise that is larger than the counts say, and pixels that count less
because they are not alike, raise the variance at long lag, where h is 0, as much as at short. Source: docs/noise.md.
"""

import jax.numpy as jnp
import numpy as np

from .covariance import Counting, fitted_points
from .pairsums import Pair
from .problem import Evaluation, PixelSource, Problem

# Stretches of age of a map that are told apart: their answers scatter as far as each is wrong.
_AGES = 4
# Pairs and spread of h^2 without which a stretch says nothing.
_FEWEST_PAIRS, _LEAST_SPREAD = 50, 0.05


def growth(problem: Problem, evaluation: Evaluation, counting: Counting) -> tuple[float, float]:
    """r - 1 that the growth of the squared residuals with h^2 shows, and its standard error.

    Costs one pass over the maps in NumPy; the error is from the spread between angles and stretches of age, infinite with fewer than three.

    Args:
        counting: shot noise and pixel numbers that the residuals are compared with, r = 1.
    """
    source = problem.source
    assert isinstance(source, PixelSource)
    found, weight = [], []
    for angle, point in enumerate(fitted_points(problem, evaluation)):
        values, pair = source.dataset.map(angle), problem.model.pair
        i, j = np.nonzero(np.triu(np.isfinite(values), 1))
        if not point.contrast > 0 or not len(i):
            continue
        h = _decay(pair, point.x, i, j)
        contrast = np.broadcast_to(point.contrast_along, source.dataset.n)
        residual = values[i, j] - point.offset - 0.5 * (contrast[i] + contrast[j]) * h
        expected = _variance(point.contrast, h, counting.shot[angle][i], counting.shot[angle][j])
        excess = (counting.pixels[angle] * residual**2 - expected) / point.contrast**2
        stretch = (i + j) * _AGES // (2 * source.dataset.n)
        for age in range(_AGES):
            here = stretch == age
            x = h[here] ** 2
            if len(x) < _FEWEST_PAIRS or np.std(x) < _LEAST_SPREAD:
                continue
            centred = x - x.mean()
            found.append(float(centred @ excess[here] / (centred @ centred)))
            weight.append(float(centred @ centred))
    if len(found) < 3:
        return 0.0, np.inf
    slopes, share = np.array(found), np.array(weight) / np.sum(weight)
    mean = float(share @ slopes)
    count = 1 / np.sum(share**2)
    return mean, float(np.sqrt(share @ (slopes - mean) ** 2 / max(count - 1, 1.0)))


def _decay(pair: Pair, x: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    return np.asarray(pair(tuple(jnp.asarray(state[j] - state[i]) for state in x)))


def _variance(b: float, h: np.ndarray, s_i: np.ndarray, s_j: np.ndarray) -> np.ndarray:
    """N times the variance of values at h: Gaussian, fourth cumulant and normalisation (docs/noise.md)."""
    gaussian = (b + s_i) * (b + s_j) + (b * h) ** 2
    return gaussian + 2 * b**3 * h * (2 - 2 * h + h * h) + b**2 * (2 * h - h * h) * (s_i + s_j) + b * h * s_i * s_j
