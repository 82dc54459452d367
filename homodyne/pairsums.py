"""The pair-sum kernel: exact sums over all pairs of frames without a Jacobian.

A pair of frames enters through h = pair(x_j - x_i), x the m states of a frame, so with d_s = dh/d(x_s,j - x_s,i)

    dh_ij/du_k = sum_s d_s (X_sk,j - X_sk,i),           X_sk = dx_s/du_k, one n-vector each

and every sum that least squares needs is a product of row and column sums of weighted images with those n-vectors:

    sum W d_s (X_j - X_i)                        = colsum(W d_s) . X - rowsum(W d_s) . X
    sum W d_s d_t (X_sk,j - X_sk,i)(X_tl,j - X_tl,i) : the graph Laplacian of W d_s d_t between X_sk and X_tl

One tile costs one evaluation of ``pair``, a few products and m (m + 1)/2 skinny matrix products, whatever the number of
parameters. Tiles (tiles.py) carry the mask as NaN; chunks of tiles go to one thread each and their sums are added in order.

A contrast that drifts along the record multiplies h by contrast + drift rho, rho = (rho_i + rho_j)/2 with ``ramp``: three moments, the
same sums with weights w, w rho and w rho^2, hold all that least squares then needs.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from .tiles import TILE, tile_index

LEVEL = 1.0
"""Subtracted from c2 (and from every offset below) so that sums keep their digits: c2 is 1 without correlation."""

Order = Literal[0, 1, 2]
"""0: values; 1: and first derivatives; 2: and the Gauss-Newton sums."""


Depends = tuple[tuple[int, ...], ...]
"""Per state: the coordinates it depends on; the derivatives with respect to all others are zero and never touched."""


class Pair(Protocol):
    """h of a pair of frames. Hashable; equal pairs share one compiled kernel."""

    @property
    def exponential(self) -> tuple[bool, ...]:
        """Per state: h is proportional to exp(-difference), so its partial is -h and needs no evaluation of its own."""
        ...

    def __call__(self, difference: tuple[jax.Array, ...]) -> jax.Array:
        """h from the m state differences (later frame minus earlier), elementwise."""

    def field(self, difference: tuple[jax.Array, ...]) -> jax.Array:
        """g1 with its sign, h = g1^2: what the third and fourth moments of speckle are made of."""
        ...


class Robust(Protocol):
    """Weight of a residual in units of the scale, elementwise; hashable."""

    def __call__(self, residual: jax.Array, /) -> jax.Array: ...


@dataclass(frozen=True)
class PairSums:
    """Weighted sums over the used pairs of each of P maps; p parameters. y is c2 - LEVEL.

    Leading axes before P (a batch of parameter vectors) are allowed everywhere below.
    """

    w: np.ndarray
    y: np.ndarray
    yy: np.ndarray
    h: np.ndarray
    hh: np.ndarray
    hy: np.ndarray
    d: np.ndarray | None = None
    """(P, p) sum w dh/du."""
    hd: np.ndarray | None = None
    """(P, p) sum w h dh/du."""
    yd: np.ndarray | None = None
    """(P, p) sum w y dh/du."""
    dd: np.ndarray | None = None
    """(P, p, p) sum w dh/du_k dh/du_l."""


@dataclass(frozen=True)
class Reweighting:
    """Robust weights of a pass, made from the residuals at fixed states, contrast and offset of the iterate before.

    contrast: (P,), or (P, n) of the frames.
    """

    weight: Robust
    pair: Pair
    x: np.ndarray
    contrast: np.ndarray
    offset: np.ndarray
    scale: float


Moments = tuple[PairSums, ...]
"""Sums with weights w, w rho and w rho^2; those with w alone when no contrast drifts."""


def ramp(n: int) -> np.ndarray:
    """(n,) -1 at the first frame to 1 at the last: a drift along the record."""
    return np.linspace(-1.0, 1.0, n)


def frame_contrast(contrast: np.ndarray, drift: np.ndarray, n: int) -> np.ndarray:
    """(P, n) contrast of every frame; a pair has the mean of its two."""
    return contrast[:, None] + drift[:, None] * ramp(n)


def _images(pair: Pair, difference: tuple[jax.Array, ...], y: jax.Array, w: jax.Array, order: Order):
    """Weighted images of one tile: [h, hh, hy], then per state [d, hd, yd], then [d_s d_t, s <= t]; and which repeat others."""
    h = jnp.where(w > 0, pair(difference), 0.0)
    factors: dict[str, jax.Array] = {"h": h, "y": y}
    partials: list[tuple[float, str]] = []
    for s, exponential in enumerate(pair.exponential):
        if exponential:
            partials.append((-1.0, "h"))
        elif order > 0:
            tangent = tuple(jnp.ones_like(x) if k == s else jnp.zeros_like(x) for k, x in enumerate(difference))
            derivative = jax.jvp(pair, (difference,), (tangent,))[1]
            factors[f"d{s}"] = jnp.where(w > 0, derivative, 0.0)
            partials.append((1.0, f"d{s}"))
    memo: dict[tuple[str, ...], jax.Array] = {}

    def image(*names: str) -> tuple[str, ...]:
        key = tuple(sorted(names))
        if key not in memo:
            product = w
            for name in key:
                product = product * factors[name]
            memo[key] = product
        return key

    wanted = [(1.0, image("h")), (1.0, image("h", "h")), (1.0, image("h", "y"))]
    if order > 0:
        for sign, name in partials:
            wanted += [(sign, image(name)), (sign, image("h", name)), (sign, image("y", name))]
    if order > 1:
        for s, (sign, name) in enumerate(partials):
            wanted += [(sign * other_sign, image(name, other)) for other_sign, other in partials[s:]]
    return memo, wanted


def _tile_sums(pair: Pair, order: Order, robust: tuple[Robust, Pair] | None, depends: Depends, tile, weight, row, column, frames):
    """Sums over one tile.

    frames: x (m, n_pad); dx (n_pad, sum of p_s), state by state the derivatives that are not zero; inputs of the robust loss and of
    shot noise; rho (n_pad,). None for what is not wanted.
    """
    x, dx, robust_inputs, shot, rho = frames
    cut = partial(jax.lax.dynamic_slice_in_dim, slice_size=TILE)
    early, late = row * TILE, column * TILE
    y = tile.astype(jnp.float64)
    used = ~jnp.isnan(y)
    y = jnp.where(used, y - LEVEL, 0.0)
    w = used.astype(jnp.float64) if weight is None else jnp.where(used, weight.astype(jnp.float64), 0.0)

    def differences(states):
        return tuple(cut(s, late)[None, :] - cut(s, early)[:, None] for s in states)

    def mean(values):
        return values if values.ndim == 0 else 0.5 * (cut(values, early)[:, None] + cut(values, late)[None, :])

    if robust is not None:
        weigh, previous = robust
        model = robust_inputs["offset"] + mean(robust_inputs["contrast"]) * previous(differences(robust_inputs["x"]))
        w = jnp.where(used, w * weigh((y - model) / robust_inputs["scale"]), 0.0)
    if shot is not None:
        noise, contrast = shot
        w = w * w * cut(noise, early)[:, None] * cut(noise, late)[None, :] * (1 + mean(contrast) * pair(differences(x)))
        w = jnp.where(used, w, 0.0)
    memo, wanted = _images(pair, differences(x), y, w, order)
    # Without the barrier XLA would evaluate pair again inside every reduction below.
    images = dict(zip(memo, jax.lax.optimization_barrier(tuple(memo.values())), strict=True))
    slopes = None if order == 0 else _slopes_of_tile(dx, early, late)
    sums = _reduced(wanted, images, w, y, slopes, order, depends)
    if rho is None:
        return sums
    moments, along = [sums], mean(rho)
    for _ in range(2):
        w, images = w * along, {key: image * along for key, image in images.items()}
        moments.append(_reduced(wanted, images, w, y, slopes, order, depends))
    return jnp.concatenate(moments)


def _slopes_of_tile(dx, early, late):
    """Derivatives of the states of the early and the late frames of a tile.

    Only differences count: taken from the first frame of the tile, the Laplacian does not cancel large numbers.
    """
    origin = jax.lax.dynamic_slice_in_dim(dx, early, 1)
    cut = partial(jax.lax.dynamic_slice_in_dim, slice_size=TILE)
    return cut(dx, early) - origin, cut(dx, late) - origin


def _reduced(wanted, images, w, y, slopes, order: Order, depends: Depends) -> jax.Array:
    """Sums of the images of one tile, in the order of ``unpack_sums``."""
    size = _size(depends)
    totals = [jnp.stack([jnp.sum(w), jnp.sum(w * y), jnp.sum(w * y * y)])]
    if order == 0:
        totals.append(jnp.stack([images[key].sum() for _, key in wanted]))
        return jnp.concatenate(totals)
    # As products with a vector: a sum along the fast axis would not be vectorised.
    rows = {key: image @ jnp.ones(TILE) for key, image in images.items()}
    columns = {key: jnp.ones(TILE) @ image for key, image in images.items()}
    totals.append(jnp.stack([rows[key].sum() for _, key in wanted[:3]]))
    x_early, x_late = slopes
    first = jnp.zeros((3, size))
    for s, block in enumerate(slope_blocks(depends)):
        for kind, (sign, key) in enumerate(wanted[3 + 3 * s : 6 + 3 * s]):
            slope = columns[key] @ x_late[:, block] - rows[key] @ x_early[:, block]
            first = first.at[kind, np.array(depends[s], dtype=int)].add(sign * slope)
    totals.append(first.ravel())
    if order == 2:
        totals.append(_laplacians(wanted[3 + 3 * len(depends) :], images, rows, columns, x_early, x_late, depends).ravel())
    return jnp.concatenate(totals)


def _size(depends: Depends) -> int:
    return 1 + max((k for state in depends for k in state), default=-1)


def slope_blocks(depends: Depends) -> list[slice]:
    """Columns of each state in the packed derivatives."""
    ends = np.cumsum([0, *map(len, depends)])
    return [slice(int(a), int(b)) for a, b in pairwise(ends)]


def pack_slopes(dx: np.ndarray, depends: Depends) -> np.ndarray:
    """(sum of p_s, n) derivatives that are not zero, state by state, of (m, p, n)."""
    return np.concatenate([dx[s, np.array(used, dtype=int)] for s, used in enumerate(depends)])


def _laplacians(wanted, images, rows, columns, x_early, x_late, depends: Depends) -> jax.Array:
    """(size, size) sum over states s, t of the Laplacian of W d_s d_t between their derivatives."""
    blocks, size = slope_blocks(depends), _size(depends)
    total = jnp.zeros((size, size))
    pairs = [(s, t) for s in range(len(depends)) for t in range(s, len(depends))]
    for (s, t), (sign, key) in zip(pairs, wanted, strict=True):
        used = blocks[s] if s == t else slice(blocks[s].start, blocks[t].stop)
        product = images[key] @ x_late[:, used]
        at_s, at_t = blocks[s], blocks[t]
        product_s, product_t = product[:, : len(depends[s])], product[:, product.shape[1] - len(depends[t]) :]
        laplacian = (
            (columns[key][:, None] * x_late[:, at_s]).T @ x_late[:, at_t]
            + (rows[key][:, None] * x_early[:, at_s]).T @ x_early[:, at_t]
            - product_s.T @ x_early[:, at_t]
            - x_early[:, at_s].T @ product_t
        )
        at = np.ix_(depends[s], depends[t])
        total = total.at[at].add(sign * laplacian)
        if s != t:
            total = total.at[np.ix_(depends[t], depends[s])].add(sign * laplacian.T)
    return total


@partial(jax.jit, static_argnames=("pair", "order", "robust", "depends", "at_once"))
def _chunk_sums(pair, order, robust, depends, at_once, tiles, weights, rows, columns, frames):
    """Sums over a chunk of tiles (c, TILE, TILE), ``at_once`` of them side by side (1 on a CPU, many on a GPU)."""
    one = partial(_tile_sums, pair, order, robust, depends)
    group = jax.vmap(one, in_axes=(0, None if weights is None else 0, 0, 0, None))

    def step(total, items):
        tile, weight, row, column = items
        return total + group(tile, weight, row, column, frames).sum(axis=0), None

    def split(array):
        return None if array is None else array.reshape(-1, at_once, *array.shape[1:])

    size = _size(depends)
    length = (6 + (3 * size if order else 0) + (size * size if order == 2 else 0)) * (1 if frames[-1] is None else 3)
    return jax.lax.scan(step, jnp.zeros(length), (split(tiles), split(weights), split(rows), split(columns)))[0]


@partial(jax.jit, static_argnames="pair")
def _chunk_values(pair: Pair, rows, columns, x) -> jax.Array:
    """h of every pixel of a chunk of tiles, (c, TILE, TILE)."""

    def one(row, column):
        early = jax.lax.dynamic_slice_in_dim(x, row * TILE, TILE, axis=1)
        late = jax.lax.dynamic_slice_in_dim(x, column * TILE, TILE, axis=1)
        return pair(tuple(late[s][None, :] - early[s][:, None] for s in range(len(pair.exponential))))

    return jax.vmap(one)(rows, columns)


@dataclass(frozen=True)
class WeightedLoss:
    """A robust loss at its scale: weight of a residual divided by the scale."""

    weight: Robust
    scale: float


class PixelSums:
    """Sums over all pixels of a set of maps, chunk by chunk, on all threads.

    Args:
        tiles: (P, n_tiles, TILE, TILE), anything that slices like an array; NaN = not used.
        n: frames.
        weights: like tiles, or None for 1.
        threads: chunks evaluated at the same time. tiles_at_once: see ``hardware``. Neither changes a number beyond 1e-12.
    """

    def __init__(self, tiles, n: int, *, weights=None, threads: int | None = None, tiles_at_once: int = 1) -> None:
        self.tiles, self.weights, self.n = tiles, weights, n
        self.threads = threads or len(os.sched_getaffinity(0))
        self.at_once = tiles_at_once
        self.rows, self.columns = tile_index(n)
        count = len(self.rows)
        # Chunks of equal length keep one compiled shape; several per thread keep the threads busy to the end.
        chunks_per_map = max(1, -(-4 * self.threads // len(tiles)), -(-count // 256))
        length = -(-count // min(chunks_per_map, count))
        self.length = -(-length // tiles_at_once) * tiles_at_once
        self.width = -(-n // TILE) * TILE

    def __call__(
        self,
        pair: Pair,
        depends: Depends,
        x: np.ndarray,
        dx: np.ndarray,
        order: Order,
        reweighting: Reweighting | None = None,
        shot: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> PairSums:
        """Sums of ``pair`` at states x (P, m, n) with derivatives dx (P, m, p, n); dx is not read at order 0.

        With ``shot``, noise s (P, n) and contrast b, (P,) or (P, n) of the frames, the weights w become w^2 s_i s_j (1 + b h): the
        variance that photon counting alone gives the same sums.
        """
        return self.moments(pair, depends, x, dx, order, reweighting, shot, drift=False)[0]

    def moments(
        self,
        pair: Pair,
        depends: Depends,
        x: np.ndarray,
        dx: np.ndarray,
        order: Order,
        reweighting: Reweighting | None = None,
        shot: tuple[np.ndarray, np.ndarray] | None = None,
        *,
        drift: bool,
    ) -> Moments:
        """The same sums, and with ``drift`` those with weights w rho and w rho^2, from one pass."""
        if order == 0:
            depends = ((),) * len(depends)
        packed = np.array([pack_slopes(slope, depends) for slope in dx])
        padding = [(0, 0)] * (x.ndim - 1) + [(0, self.width - x.shape[-1])]
        states = np.pad(x, padding, mode="edge")
        slopes = np.pad(packed, padding, mode="edge").transpose(0, 2, 1)
        previous = None if reweighting is None else np.pad(reweighting.x, padding, mode="edge")
        robust = None if reweighting is None else (reweighting.weight, reweighting.pair)
        rho = self.padded(ramp(self.n)) if drift else None

        def task(angle: int, start: int) -> np.ndarray:
            inputs = None
            if reweighting is not None and previous is not None:
                contrast, offset = self.padded(reweighting.contrast[angle]), reweighting.offset[angle]
                inputs = {"x": previous[angle], "contrast": contrast, "offset": offset, "scale": reweighting.scale}
            tiles, rows, columns = self.chunk(self.tiles, angle, start)
            weights = None if self.weights is None else self.chunk(self.weights, angle, start)[0]
            own = None if shot is None else (np.pad(shot[0][angle], (0, self.width - self.n)), self.padded(shot[1][angle]))
            at = (states[angle], slopes[angle], inputs, own, rho)
            return np.asarray(_chunk_sums(pair, order, robust, depends, self.at_once, tiles, weights, rows, columns, at))

        starts = range(0, len(self.rows), self.length)
        tasks = [(angle, start) for angle in range(len(states)) for start in starts]
        with ThreadPoolExecutor(self.threads) as pool:
            # Shown on a terminal only, and only when a pass is long enough to wonder.
            parts = list(tqdm(pool.map(lambda item: task(*item), tasks), "pass", len(tasks), leave=False, delay=3.0, disable=None))
        totals = np.array(parts).reshape(len(states), len(starts), -1).sum(axis=1)
        each = np.split(totals, 3, axis=-1) if drift else [totals]
        return tuple(unpack_sums(part, _size(depends), order) for part in each)

    def padded(self, values: np.ndarray) -> np.ndarray:
        """(width,) of (n,) numbers of the frames; a single number stays one."""
        return np.pad(values, (0, self.width - self.n), mode="edge") if values.ndim else values

    def pair_means(self, values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(c, TILE, TILE) means of the two frames' numbers (n,) in tiles; a single number stays one."""
        if values.ndim == 0:
            return values
        tiles = self.padded(values).reshape(-1, TILE)
        return 0.5 * (tiles[rows][:, :, None] + tiles[columns][:, None, :])

    def values(self, pair: Pair, x: np.ndarray, angle: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Chunks of one map at its states x (m, n): (c,) tile rows and columns, (c, TILE, TILE) c2 (NaN where not used) and h."""
        states = np.pad(x, [(0, 0), (0, self.width - x.shape[-1])], mode="edge")
        for start in range(0, len(self.rows), self.length):
            tiles, rows, columns = self.chunk(self.tiles, angle, start)
            yield rows, columns, tiles.astype(np.float64), np.asarray(_chunk_values(pair, rows, columns, states))

    def chunk(self, source, angle: int, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        stop = min(start + self.length, len(self.rows))
        tiles, rows, columns = source[angle, start:stop], self.rows[start:stop], self.columns[start:stop]
        missing = self.length - (stop - start)
        if missing:
            tiles = np.concatenate([tiles, np.full((missing, TILE, TILE), np.nan, dtype=tiles.dtype)])
            rows, columns = np.pad(rows, (0, missing)), np.pad(columns, (0, missing))
        return tiles, rows, columns


def unpack_sums(totals: np.ndarray, size: int, order: Order) -> PairSums:
    """PairSums from the flat vectors (..., length) of the compiled kernels."""
    w, y, yy, h, hh, hy = (totals[..., k] for k in range(6))
    values = PairSums(w, y, yy, h, hh, hy)
    if order == 0:
        return values
    d, hd, yd = (totals[..., 6 + k * size : 6 + (k + 1) * size] for k in range(3))
    if order == 1:
        return replace(values, d=d, hd=hd, yd=yd)
    dd = totals[..., 6 + 3 * size :].reshape(*totals.shape[:-1], size, size)
    return replace(values, d=d, hd=hd, yd=yd, dd=dd)
