"""Maps averaged over cells of lag and age: a thousand times fewer values to search a start on.

lag = j - i, age = (i + j)/2. Lag edges grow by a quarter (single lags up to 7), the age bands are narrow at the start of the
record. A cell keeps its weight, mean c2, mean lag and mean age; the model in it is evaluated at the frames age -+ lag/2 by linear
interpolation of the states. The scatter inside cells gives the pixel noise without the model. Source: docs/optimizer.md.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .mode.base import Model
from .pairsums import LEVEL, Order, Pair, PairSums, unpack_sums
from .tiles import TILE, tile_index

LAG_GROWTH = 1.25
AGE_EDGES = np.concatenate([np.arange(4) / 64, np.arange(2, 12) / 32, np.arange(6, 17) / 16])


@dataclass(frozen=True)
class Cells:
    """Cells of P maps; unused ones have weight 0. All arrays (P, C).

    Attributes:
        weight: number (or weight) of pixels. mean: of c2 - LEVEL. early, late: mean frame indices of the pair, fractional.
        pixel_variance: noise variance of one pixel, from the scatter inside cells.
    """

    weight: np.ndarray
    mean: np.ndarray
    early: np.ndarray
    late: np.ndarray
    pixel_variance: float

    @property
    def used(self) -> int:
        """Number of cells with data."""
        return int(np.count_nonzero(self.weight))


def lag_edges(n: int) -> np.ndarray:
    """Integer lag edges 1, 2, 3, ... growing by LAG_GROWTH up to n."""
    edges = [1]
    while edges[-1] < n:
        edges.append(max(edges[-1] + 1, int(edges[-1] * LAG_GROWTH)))
    edges[-1] = n
    return np.array(edges)


def bin_maps(tiles, n: int) -> tuple[Cells, Cells]:
    """One pass over all pixels.

    Args:
        tiles: (P, n_tiles, TILE, TILE), NaN = not used. n: frames.

    Returns:
        The cells of (lag, age), and coarse ones that keep lag only.
    """
    edges = lag_edges(n)
    lag_bin = np.searchsorted(edges, np.arange(n), side="right") - 1
    age_bin = np.minimum(np.searchsorted(AGE_EDGES, np.arange(2 * n - 1) / (2 * n - 2), side="right") - 1, len(AGE_EDGES) - 2)
    ages, lags = len(AGE_EDGES) - 1, len(edges) - 1
    inside = np.arange(TILE)
    where, what = np.zeros((len(tiles), 6, lags * ages)), np.zeros((len(tiles), 4, lags * ages))

    def add(totals: np.ndarray, cell: np.ndarray, *values: np.ndarray) -> None:
        for total, value in zip(totals, values, strict=True):
            total += np.bincount(cell, value, minlength=total.size)

    for k, (row, column) in enumerate(zip(*tile_index(n), strict=True)):
        early, late = (x.astype(np.float64) for x in np.broadcast_arrays(row * TILE + inside[:, None], column * TILE + inside[None, :]))
        at = np.add.outer(-inside, inside) + (column - row) * TILE, np.add.outer(inside, inside) + (column + row) * TILE
        index = lag_bin[np.clip(at[0], 0, n - 1)] * ages + age_bin[np.minimum(at[1], 2 * n - 2)]
        masks: list[tuple[np.ndarray, np.ndarray]] = []
        for angle in range(len(tiles)):
            tile = np.asarray(tiles[angle, k])
            used = np.isfinite(tile)
            cell, e, l, y = index[used], early[used], late[used], tile[used].astype(np.float64) - LEVEL
            add(what[angle], cell, y, y * y, y * e, y * l)
            # Angles mostly share their mask, and with it all sums that hold no data.
            known = next((sums for mask, sums in masks if np.array_equal(mask, used)), None)
            if known is None:
                known = np.zeros_like(where[angle])
                add(known, cell, np.ones_like(e), e, l, e * e, e * l, l * l)
                masks.append((used, known))
            where[angle] += known
    fine = _cells(where, what, _pixel_variance(where, what))
    shape = (len(tiles), -1, lags, ages)
    return fine, _cells(where.reshape(shape).sum(-1), what.reshape(shape).sum(-1), fine.pixel_variance)


def _cells(where: np.ndarray, what: np.ndarray, pixel_variance: float) -> Cells:
    weight = where[:, 0]
    safe = np.where(weight > 0, weight, 1.0)
    return Cells(weight, what[:, 0] / safe, where[:, 1] / safe, where[:, 2] / safe, pixel_variance)


def _pixel_variance(where: np.ndarray, what: np.ndarray) -> float:
    """Median over cells of the scatter about a plane in (early, late), which takes up the model's own change across a cell."""
    weight, e, l, ee, el, ll = np.moveaxis(where, 1, 0)
    y, yy, ye, yl = np.moveaxis(what, 1, 0)
    full = weight >= min(8.0, float(weight.max()))
    w, e, l, ee, el, ll, y, yy, ye, yl = (sums[full] for sums in (weight, e, l, ee, el, ll, y, yy, ye, yl))
    spread = np.stack([np.stack([ee - e * e / w, el - e * l / w], -1), np.stack([el - e * l / w, ll - l * l / w], -1)], -2)
    along = np.stack([ye - y * e / w, yl - y * l / w], -1)
    inverse = np.linalg.pinv(spread, rcond=1e-9, hermitian=True)
    rank = np.round(np.trace(spread @ inverse, axis1=-2, axis2=-1))
    scatter = np.maximum(yy - y * y / w - np.einsum("ca,cab,cb->c", along, inverse, along), 0.0)
    degrees = np.maximum(w - 1 - rank, 1.0)
    # The median of chi2_k/k is (1 - 2/(9 k))^3 (Wilson and Hilferty).
    median = float(np.median(scatter / degrees / (1 - 2 / (9 * degrees)) ** 3))
    # A map without any noise has no unit for chi2; the smallest number keeps every ratio finite.
    return max(median, 1e-30)


class CellSums:
    """PairSums on the cells of maps at angles phi (P,) degrees, for one parameter vector or many."""

    def __init__(self, cells: Cells, phi: np.ndarray) -> None:
        frames = np.stack([cells.early, cells.late])
        lower = np.floor(frames).astype(np.int32)
        self._data = (cells.weight, cells.mean, lower, frames - lower, np.asarray(phi, dtype=np.float64))

    def __call__(self, model: Model, u: np.ndarray, order: Order) -> PairSums:
        """Sums at u (p,)."""
        totals = _cell_sums(model, model.pair, order, self._data, u)
        return unpack_sums(np.asarray(totals), len(u) if order else 0, order)

    def batch(self, model: Model, points: np.ndarray) -> PairSums:
        """Order-0 sums at many points (B, p)."""
        return unpack_sums(np.asarray(_batch_sums(model, model.pair, self._data, points)), 0, 0)


@partial(jax.jit, static_argnames="pair")
def _batch_sums(model: Model, pair: Pair, data, points: jax.Array) -> jax.Array:
    return jax.lax.map(lambda u: _cell_sums(model, pair, 0, data, u), points, batch_size=16)


@partial(jax.jit, static_argnames=("pair", "order"))
def _cell_sums(model: Model, pair: Pair, order: Order, data, u: jax.Array) -> jax.Array:
    weight, mean, lower, fraction, phi = data

    def states(v: jax.Array) -> jax.Array:
        return jax.vmap(model.states, (None, 0))(v, phi)

    # (P, n, m, 1 + p): one contiguous row per frame, value first, so that a cell gathers rows and not single numbers.
    rows = states(u)[..., None]
    if order > 0:
        rows = jnp.concatenate([rows, jax.jacfwd(states)(u)], axis=-1)
    rows = jnp.moveaxis(rows, 2, 1)
    take = jax.vmap(lambda table, index: table[index])

    def at(side: int) -> jax.Array:
        low, high = take(rows, lower[side]), take(rows, jnp.minimum(lower[side] + 1, rows.shape[1] - 1))
        return low + fraction[side][..., None, None] * (high - low)

    difference = at(1) - at(0)
    value = tuple(difference[:, :, s, 0] for s in range(rows.shape[2]))
    h = pair(value)
    wy = weight * mean
    totals = [weight, wy, wy * mean, weight * h, weight * h * h, wy * h]
    out = [jnp.stack([t.sum(-1) for t in totals], -1)]
    if order > 0:
        slope = jnp.zeros_like(difference[:, :, 0, 1:])
        for s in range(len(value)):
            tangent = tuple(jnp.ones_like(x) if k == s else jnp.zeros_like(x) for k, x in enumerate(value))
            slope = slope + jax.jvp(pair, (value,), (tangent,))[1][..., None] * difference[:, :, s, 1:]
        out += [jnp.einsum("fc,fcp->fp", factor, slope) for factor in (weight, weight * h, wy)]
        if order > 1:
            weighted = weight[..., None] * slope
            out.append(jnp.einsum("fcp,fcq->fpq", weighted, slope).reshape(len(weight), -1))
    return jnp.concatenate(out, -1)
