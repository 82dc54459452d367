"""What people look at: block means of the maps and cuts through them, summed stripe by stripe so that no map is ever held whole.

A map of n frames is shown as at most BLOCKS x BLOCKS means over squares of neighbouring frames: a mean keeps every pixel, where
taking every k-th pixel would show one of them with all its noise. A cut is a row of means over pairs with (nearly) one lag or one
age, age being the mean of the two times of a pair. Masked pairs count nowhere. save.py stores all of it, report/ draws it.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from .data.dataset import Dataset
from .results import ModelRows
from .tiles import TILE, first_tile_of_stripe

BLOCKS = 256
FULL_LIMIT = 4_000_000
"""Whole maps are kept up to this number of values (P n^2)."""

LEVELS = (0.95, 0.8, 0.6, 0.4, 0.2, 0.05)
"""Equal-lag cuts are where the fitted correlation, averaged over angles, has decayed to these fractions."""

EQUAL_AGES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Ages of the equal-age cuts, as fractions of the record."""


@dataclass(frozen=True)
class Maps:
    """Block means; block (I, J) holds the pairs i < j with one frame in block I and the other in block J.

    Attributes:
        edges: (b + 1,) limits of the blocks, s; the last block may be narrower.
        data: (P, b, b) float32 mean of the used values; NaN where none is used.
        model: (P, b, b) float32 mean of the fitted map over all pairs of the block.
        residual: (P, b, b) float32 mean of data - model over the used pairs.
        count: (P, b, b) int32 used pairs.
    """

    edges: np.ndarray
    data: np.ndarray
    model: np.ndarray
    residual: np.ndarray
    count: np.ndarray


@dataclass(frozen=True)
class Cuts:
    """C cuts of B bins: equal-lag cuts against age, or equal-age cuts against lag.

    Attributes:
        at: (C,) lag (equal-lag) or age (equal-age) at the middle of each cut, s.
        x: (P, C, B) mean age or lag of the used pairs of a bin, s; NaN where none is used.
        data, model: (P, C, B) means over the used pairs.
        error: (P, C, B) error of the mean of data from the scatter of data - model, as if pairs were independent; NaN for one pair.
        count: (P, C, B) used pairs.
    """

    at: np.ndarray
    x: np.ndarray
    data: np.ndarray
    model: np.ndarray
    error: np.ndarray
    count: np.ndarray


@dataclass(frozen=True)
class FullMaps:
    """(P, n, n) float32 each, symmetric; data and residual are NaN on the diagonal and where masked."""

    data: np.ndarray
    model: np.ndarray
    residual: np.ndarray


@dataclass(frozen=True)
class Pictures:
    """Everything that is drawn of the maps of one fit; full is None above FULL_LIMIT values."""

    maps: Maps
    equal_lag: Cuts
    equal_age: Cuts
    full: FullMaps | None


def take_pictures(dataset: Dataset, model_rows: ModelRows) -> Pictures:
    """Block means and cuts of every angle; memory is one stripe (TILE rows) for each thread besides the result."""
    count, n = len(dataset.phi), dataset.n
    equal_lag, equal_age = cut_bands(dataset, model_rows)

    def sums(k: int) -> tuple[_BlockSums, _CutSums, _CutSums]:
        blocks, lags, ages = _BlockSums(n), _CutSums(equal_lag), _CutSums(equal_age)
        for start, data in stripes(dataset, k):
            model = np.asarray(model_rows(k, start, start + len(data)), dtype=np.float64)[:, start:]
            for part in (blocks, lags, ages):
                part.add(start, data, model)
        return blocks, lags, ages

    with ThreadPoolExecutor() as pool:
        maps, lag_sums, age_sums = map(list, zip(*pool.map(sums, range(count)), strict=True))
    start_age, dt = float(dataset.t[0]), dataset.dt
    return Pictures(
        maps=_maps(maps, dataset),
        equal_lag=_cuts(lag_sums, at=(0.0, dt), x=(start_age, 0.5 * dt)),
        equal_age=_cuts(age_sums, at=(start_age, 0.5 * dt), x=(0.0, dt)),
        full=_full(dataset, model_rows) if count * n * n <= FULL_LIMIT else None,
    )


def block_size(n: int) -> int:
    """Frames per block."""
    return -(-n // BLOCKS)


def stripes(dataset: Dataset, k: int) -> Iterator[tuple[int, np.ndarray]]:
    """First row, and (rows, n - first row) float64 values of each stripe of one map, from the diagonal on."""
    n = dataset.n
    count = -(-n // TILE)
    for stripe in range(count):
        first, start = first_tile_of_stripe(stripe, n), stripe * TILE
        tiles = np.asarray(dataset.tiles[k, first : first + count - stripe], dtype=np.float64)
        yield start, tiles.swapaxes(0, 1).reshape(TILE, -1)[: n - start, : n - start]


class _BlockSums:
    """Sums over the blocks of one map: pairs, used pairs, data, model (all pairs), data - model (used pairs)."""

    def __init__(self, n: int) -> None:
        self.block = np.arange(n) // block_size(n)
        size = self.block[-1] + 1
        self.sums = np.zeros((5, size, size))

    def add(self, start: int, data: np.ndarray, model: np.ndarray) -> None:
        upper = np.arange(data.shape[1]) > np.arange(len(data))[:, None]
        used = np.isfinite(data)
        layers = (upper, used, np.where(used, data, 0.0), np.where(upper, model, 0.0), np.where(used, data - model, 0.0))
        block = self.block[start:]
        columns = np.flatnonzero(np.diff(block, prepend=-1))
        rows = columns[columns < len(data)]
        first = block[0]
        for total, layer in zip(self.sums, layers, strict=True):
            part = np.add.reduceat(np.add.reduceat(layer, columns, axis=1, dtype=np.float64), rows, axis=0)
            total[first : first + len(rows), first:] += part

    def means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """data, model, residual, count, each (b, b) and symmetric."""
        pairs, used, data, model, residual = (np.triu(total) + np.triu(total, 1).T for total in self.sums)
        return _ratio(data, used), _ratio(model, pairs), _ratio(residual, used), used


def _maps(sums: list[_BlockSums], dataset: Dataset) -> Maps:
    data, model, residual, count = (np.stack(layer) for layer in zip(*(blocks.means() for blocks in sums), strict=True))
    frames = np.minimum(np.arange(data.shape[1] + 1) * block_size(dataset.n), dataset.n)
    edges = dataset.t[0] + dataset.dt * (frames - 0.5)
    return Maps(edges, data.astype(np.float32), model.astype(np.float32), residual.astype(np.float32), count.astype(np.int32))


@dataclass(frozen=True)
class Band:
    """Which pairs belong to each cut of one kind, and to which of its bins.

    Attributes:
        steps: per cut, the lags j - i (sign 1) or the sums i + j (sign -1) of its pairs, in frames.
        sign: the partner of frame i is sign * i + step.
        bins: bin of a pair by the other number of the two, (2n,) int.
    """

    steps: tuple[np.ndarray, ...]
    sign: int
    bins: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cuts and of bins."""
        return len(self.steps), int(self.bins.max()) + 1

    def members(self, start: int, data: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """Of each cut the used pairs of one stripe: cut, early frames, late frames, and the number of each pair along the cut."""
        row = np.arange(len(data))[:, None] + start
        for cut, steps in enumerate(self.steps):
            column = self.sign * row + steps
            inside = (column > row) & (column < start + data.shape[1])
            r, c = np.broadcast_to(row, column.shape)[inside], column[inside]
            used = np.isfinite(data[r - start, c - start])
            r, c = r[used], c[used]
            yield cut, r, c, c + r if self.sign == 1 else c - r


def cut_bands(dataset: Dataset, model_rows: ModelRows) -> tuple[Band, Band]:
    """The equal-lag and the equal-age cuts of a fit."""
    return _equal_lag(dataset.n, _decay_lags(len(dataset.phi), dataset.n, model_rows)), _equal_age(dataset.n)


def _decay_lags(count: int, n: int, model_rows: ModelRows) -> np.ndarray:
    """Lags (frames) at which the fitted map, averaged over angles and over three ages, crosses LEVELS of its own range."""
    rows = []
    for k in range(count):
        for frame in (n // 8, n // 4, n // 2):
            # Whole stripes, as in take_pictures: a compiled model_rows then sees one shape only.
            start = frame // TILE * TILE
            row = model_rows(k, start, min(start + TILE, n))[frame - start]
            rows.append(row[frame : frame + n - n // 2])
    mean = np.mean(rows, axis=0)
    span = mean[0] - mean.min()
    if not span > 0:
        return np.array([1])
    return np.unique([np.argmax((mean - mean.min()) / span <= level) for level in LEVELS])


def _equal_lag(n: int, centres: np.ndarray) -> Band:
    """These lags, each +-4 %; bins of equal width in age."""
    steps = tuple(np.arange(np.ceil(0.96 * lag), np.floor(1.04 * lag) + 1, dtype=int) for lag in centres)
    bins = np.arange(2 * n) * min(50, n - 1) // (2 * n)
    return Band(steps, 1, bins)


def _equal_age(n: int) -> Band:
    """Ages at EQUAL_AGES of the record, each +-1 % of it; bins of lag spaced by equal factors."""
    # At least +-1 in i + j: one sum alone holds only even or only odd lags.
    half = max(1, round(0.02 * (n - 1)))
    steps = tuple(np.arange(-half, half + 1) + round(2 * fraction * (n - 1)) for fraction in EQUAL_AGES)
    limits = np.unique(np.geomspace(1, n, 41).round().astype(int))
    return Band(steps, -1, np.searchsorted(limits, np.arange(2 * n), side="right") - 1)


class _CutSums:
    """Sums over the bins of the cuts of one map: used pairs, x in frames, data, model, data - model and its square."""

    def __init__(self, band: Band) -> None:
        self.band = band
        self.sums = np.zeros((6, *band.shape))

    def add(self, start: int, data: np.ndarray, model: np.ndarray) -> None:
        for cut, r, c, x in self.band.members(start, data):
            y, f = data[r - start, c - start], model[r - start, c - start]
            for total, weight in zip(self.sums, (np.ones(len(y)), x, y, f, y - f, (y - f) ** 2), strict=True):
                total[cut] += np.bincount(self.band.bins[x], weights=weight, minlength=total.shape[1])


def _cuts(sums: list[_CutSums], *, at: tuple[float, float], x: tuple[float, float]) -> Cuts:
    """Means of the sums; ``at`` and ``x`` are (value at 0, s per frame) of the number that makes a cut and of the one along it."""
    count, place, data, model, residual, square = np.stack([cuts.sums for cuts in sums], axis=1)
    variance = _ratio(square, count) - _ratio(residual, count) ** 2
    error = np.sqrt(np.maximum(_ratio(variance, np.where(count > 1, count - 1, 0.0)), 0.0))
    centres = np.array([steps.mean() for steps in sums[0].band.steps])
    return Cuts(
        at=at[0] + at[1] * centres,
        x=x[0] + x[1] * _ratio(place, count),
        data=_ratio(data, count),
        model=_ratio(model, count),
        error=error,
        count=count.astype(np.int64),
    )


def _full(dataset: Dataset, model_rows: ModelRows) -> FullMaps:
    data = np.stack([dataset.map(k) for k in range(len(dataset.phi))]).astype(np.float64)
    model = np.stack([model_rows(k, 0, dataset.n) for k in range(len(dataset.phi))])
    return FullMaps(data.astype(np.float32), model.astype(np.float32), (data - model).astype(np.float32))


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where count is 0."""
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
