"""Contrast and offset of a map from quantiles alone, without a model: the recipe of homodyne 2.x, for ``constant`` and ``shrinkage``.

offset = 10th percentile of c2 over the longest fifth of lags; contrast = 90th percentile over the shortest fifth minus offset.
It is biased when the decay is not finished, and low in offset by about 1.3 standard deviations of the noise.
"""

import numpy as np

from ..data import Dataset
from ..tiles import TILE, tile_index


def quantile_estimate(c2: np.ndarray, lag: np.ndarray, contrast_bounds: list[float], offset_bounds: list[float]) -> tuple[float, float]:
    """(contrast, offset) from finite values c2 and their lags, both 1-D; mid-points of the bounds below 100 values."""
    if len(c2) < 100:
        return float(np.mean(contrast_bounds)), float(np.mean(offset_bounds))
    short, long = np.percentile(lag, [20, 80])
    (low, high), (least, most) = offset_bounds, contrast_bounds
    floor, ceiling = c2[lag >= long], c2[lag <= short]
    offset = np.clip(np.percentile(floor if len(floor) >= 10 else c2, 10), low, high)
    contrast = np.clip(np.percentile(ceiling if len(ceiling) >= 10 else c2, 90) - offset, least, most)
    return float(contrast), float(offset)


def estimate_all(dataset: Dataset, contrast_bounds: list[float], offset_bounds: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """(P,) contrast and (P,) offset of every map of a Dataset."""
    rows, columns = tile_index(dataset.n)
    inside = np.arange(TILE)[None, :] - np.arange(TILE)[:, None]
    lag = (columns - rows)[:, None, None] * TILE + inside
    estimates = []
    for tiles in dataset.tiles:
        used = np.isfinite(tiles)
        estimates.append(quantile_estimate(tiles[used].astype(np.float64), lag[used], contrast_bounds, offset_bounds))
    contrast, offset = np.array(estimates).T
    return contrast, offset
