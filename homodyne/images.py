"""Images of what was fitted: derivatives of c2 over pairs of frames, summed over bins of frames, one angle at a time.

A covariance of correlated pixels is made of products of n x n images (speckle.py). Frames between which the states hardly change
share one bin, so an image has as many rows as the record has distinguishable frames, not as many as it has frames. Like the normal
equations, images need no derivative by each parameter at each pixel: with D_s = dh/dx_s and X the derivatives of the states of a frame,

    binned dh/du_k = sum_s (binned D_s)_IJ (X_sk,J - X_sk,I),     X averaged over a bin

Where the contrast drifts, the contrast of a pair is the mean of those of its frames, and there is one more image, rho h (pairsums.py).
Sums over single pixels (``Overlaps``, the kernel's own sums) are exact.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .directions import directions_of
from .pairsums import Depends, Pair, PixelSums, Robust, frame_contrast, pack_slopes, ramp, slope_blocks
from .tiles import TILE

FEWEST_BINS, MOST_BINS = 256, 512
CHANGE = 0.3
"""Largest change of ln h within a bin; errors then differ by less than one per cent from those of single frames."""
STEEPEST = 0.54
"""Largest slope of sinc^2: how fast h changes with a state that does not enter by an exponential."""


@dataclass(frozen=True)
class Bins:
    """Consecutive frames in bins. of: (n,) bin of each frame. size: (b,) frames in each."""

    of: np.ndarray
    size: np.ndarray

    @classmethod
    def by_change(cls, x: np.ndarray, pair: Pair, change: float = CHANGE, most: int = MOST_BINS) -> "Bins":
        """Bins in which h changes by at most ``change``, or as little as ``most`` bins allow; x (m, n) states of one angle."""
        weight = np.array([1.0 if exponential else STEEPEST for exponential in pair.exponential])
        steps = (weight[:, None] * np.abs(np.diff(x, axis=-1))).max(axis=0)
        # What contrast and offset explain as well cancels, so half of the bins follow the change of h and half of them time.
        share = 0.5 * (steps / max(float(steps.sum()), 1e-300) + 1 / len(steps))
        steps = np.maximum(steps, FEWEST_BINS * change * share)
        while True:
            of = np.zeros(len(steps) + 1, dtype=np.int64)
            path = 0.0
            for frame, step in enumerate(steps, start=1):
                path += step
                new = path > change
                of[frame] = of[frame - 1] + new
                path = 0.0 if new else path
            if of[-1] < most:
                return cls(of, np.bincount(of))
            change *= 1.25

    @classmethod
    def uniform(cls, n: int, size: int) -> "Bins":
        """Bins of ``size`` frames."""
        of = np.arange(n) // size
        return cls(of, np.bincount(of))

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(..., b) means of (..., n)."""
        starts = np.flatnonzero(np.diff(self.of, prepend=-1))
        return np.add.reduceat(values, starts, axis=-1) / self.size


@dataclass(frozen=True)
class Classes:
    """Which block of the goodness of fit a pair belongs to.

    Attributes:
        lag: (n,) class of a lag j - i. block: (L, 2 n) block by lag class and i + j, -1 for none. count: number of blocks.
    """

    lag: np.ndarray
    block: np.ndarray
    count: int


@dataclass(frozen=True)
class Point:
    """Fitted map of one angle: states x (m, n), their derivatives dx (m, p, n), offset, contrast and its drift (None: not fitted)."""

    x: np.ndarray
    dx: np.ndarray
    offset: float
    contrast: float
    drift: float | None = None

    @property
    def contrast_along(self) -> np.ndarray:
        """(n,) contrast of the frames when it drifts, a single number when not."""
        if self.drift is None:
            return np.array(self.contrast)
        return frame_contrast(np.array([self.contrast]), np.array([self.drift]), self.x.shape[-1])[0]

    @property
    def fitted(self) -> int:
        """Number k of images by fitted numbers."""
        return self.dx.shape[1] + (2 if self.drift is None else 3)


@dataclass(frozen=True)
class Images:
    """Images of one angle.

    Attributes:
        binned: (k, b, b) symmetric sums over bins of weighted images: derivative by u (p), by offset, by contrast, by drift where it is
            fitted; zero where no pair is used.
        squares: sum r^2; variance: sum of N Var(c2) of the formula; speckle: its part that grows with the speckle size.
        pairs: number of used pairs. neighbours: sums of r_ij r_i,j+1, r_ij^2, h_j,j+1, h_ij h_i,j+1, h_ij^2 over pairs with both used,
            and their number.
    """

    binned: np.ndarray
    squares: float
    variance: float
    speckle: float
    pairs: int
    neighbours: np.ndarray


@dataclass(frozen=True)
class Overlaps:
    """Sums over the pixels of one angle of products of images: e extras, k fitted.

    Extras, not weighted: the directions of directions.py, contrast drift unless it is fitted, the difference of a rival map if one is
    given, the blocks of ``Classes``.

    Attributes:
        binned: (e, b, b) symmetric sums of the extras over bins.
        fitted: (e, k) sum over pairs of extra times derivative. score: (e,) sum of residual times extra.
        shot: (e,) sum over the pairs of a block of s_i s_j (1 + contrast h); NaN for the extras that are smooth, where bins will do.
    """

    binned: np.ndarray
    fitted: np.ndarray
    score: np.ndarray
    shot: np.ndarray


def score_images(
    kernel: PixelSums, pair: Pair, depends: Depends, angle: int, point: Point, bins: Bins, robust: tuple[Robust, float] | None = None
) -> np.ndarray:
    """(k, b, b) images of residual times weighted derivative; their sum over pairs is the score, zero at the minimum."""
    parts, _ = _binned(kernel, pair, angle, point, bins, robust, np.zeros(kernel.n), times_residual=True)
    return _assemble(parts, pair, depends, point, bins)


def derivative_images(
    kernel: PixelSums,
    pair: Pair,
    depends: Depends,
    angle: int,
    point: Point,
    bins: Bins,
    shot: np.ndarray,
    robust: tuple[Robust, float] | None = None,
) -> Images:
    """Images of one map.

    Args:
        shot: (n,) variance of shot noise of each frame, relative to the squared mean, finite.
        robust: weight of the loss and its scale.
    """
    parts, totals = _binned(kernel, pair, angle, point, bins, robust, shot, times_residual=False)
    squares, variance, speckle, pairs = totals[:4]
    binned = _assemble(parts, pair, depends, point, bins)
    return Images(binned, float(squares), float(variance), float(speckle), round(float(pairs)), totals[4:])


def overlaps(
    kernel: PixelSums,
    pair: Pair,
    depends: Depends,
    angle: int,
    point: Point,
    bins: Bins,
    shot: np.ndarray,
    classes: Classes,
    rival: tuple[Pair, Point] | None = None,
) -> Overlaps:
    """Extras of one map; see ``derivative_images``. rival: pair and point of another fit."""
    rival_pair, other = (None, None) if rival is None else rival
    inputs = _frame_inputs(kernel, point, shot, 1.0) | {
        "dx": _padded(kernel, pack_slopes(point.dx, depends)).T,
        "ramp": kernel.padded(ramp(kernel.n)),
        "lag": np.pad(classes.lag, (0, kernel.width - kernel.n), mode="edge"),
        "block": np.pad(classes.block, [(0, 0), (0, 2 * (kernel.width - kernel.n))], constant_values=-1),
    }
    if other is not None:
        inputs["rival"] = (_padded(kernel, other.x), other.offset, kernel.padded(other.contrast_along))
    lead, fitted = len(directions_of(pair)) + (point.drift is None) + (other is not None), point.fitted
    total = (np.zeros((lead, fitted + 2)), np.zeros((classes.count, fitted + 2)))
    for start in range(0, len(kernel.rows), kernel.length):
        tiles, rows, columns = kernel.chunk(kernel.tiles, angle, start)
        total = _chunk_overlaps(pair, depends, rival_pair, classes.count, total, tiles, rows, columns, inputs)
    first, blocks = (np.asarray(part) for part in total)
    both = np.concatenate([first, blocks])
    return Overlaps(
        binned=np.concatenate([_lead_images(kernel, pair, angle, point, bins, rival), _block_images(kernel, angle, bins, classes)]),
        fitted=both[:, :fitted],
        score=both[:, fitted],
        shot=np.concatenate([np.full(lead, np.nan), blocks[:, fitted + 1]]),
    )


def _padded(kernel: PixelSums, values: np.ndarray, mode: str = "edge") -> np.ndarray:
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, kernel.width - kernel.n)], mode=mode)  # type: ignore[call-overload]


def _frame_inputs(kernel: PixelSums, point: Point, shot: np.ndarray, scale: float) -> dict:
    fit = (point.offset, kernel.padded(point.contrast_along), scale)
    return {"x": _padded(kernel, point.x), "shot": _padded(kernel, shot, "constant"), "fit": fit}


def _binned(kernel: PixelSums, pair: Pair, angle: int, point: Point, bins: Bins, robust, shot: np.ndarray, *, times_residual: bool):
    """(m' + 2, b, b) upper sums over bins of w D_s of the states that need one, w and w h; and the totals (10,).

    With a drift, D_s is multiplied by the contrast of the pair, and w rho h is the last.
    """
    weigh, scale = (None, 1.0) if robust is None else robust
    inputs = _frame_inputs(kernel, point, shot, scale)
    if point.drift is not None:
        inputs["ramp"] = kernel.padded(ramp(kernel.n))
    totals = np.zeros(10)
    parts: np.ndarray | None = None
    for start in range(0, len(kernel.rows), kernel.length):
        tiles, rows, columns = kernel.chunk(kernel.tiles, angle, start)
        weights = None if kernel.weights is None else kernel.chunk(kernel.weights, angle, start)[0]
        images, sums = _chunk_images(pair, weigh, times_residual, tiles, weights, rows, columns, inputs)
        totals += np.asarray(sums)
        parts = _add_tiles(parts, np.asarray(images), rows, columns, bins)
    assert parts is not None
    return parts, totals


def _add_tiles(parts: np.ndarray | None, images: np.ndarray, rows: np.ndarray, columns: np.ndarray, bins: Bins) -> np.ndarray:
    """Add tiles (c, k, TILE, TILE) to sums over bins (k, b, b)."""
    if parts is None:
        parts = np.zeros((images.shape[1], len(bins.size), len(bins.size)))
    for image, row, column in zip(images, rows, columns, strict=True):
        of_row, of_column = (bins.of[k * TILE : (k + 1) * TILE] for k in (row, column))
        summed = image[:, : len(of_row), : len(of_column)]
        if len(bins.size) < len(bins.of):
            summed = np.add.reduceat(summed, np.flatnonzero(np.diff(of_column, prepend=-1)), axis=2)
            summed = np.add.reduceat(summed, np.flatnonzero(np.diff(of_row, prepend=-1)), axis=1)
        parts[:, of_row[0] : of_row[-1] + 1, of_column[0] : of_column[-1] + 1] += summed
    return parts


def _assemble(parts: np.ndarray, pair: Pair, depends: Depends, point: Point, bins: Bins) -> np.ndarray:
    """Symmetric images by u, offset, contrast and drift from ``_binned``."""
    linear = parts[-2:] if point.drift is None else parts[-3:]
    derivatives = iter(parts)
    x = bins.mean(point.dx)
    upper = np.zeros((point.fitted, *linear[0].shape))
    for s, exponential in enumerate(pair.exponential):
        if exponential:
            derivative = -_times_contrast(linear, point)
        else:
            derivative = next(derivatives) if point.drift is not None else point.contrast * next(derivatives)
        for k in depends[s]:
            upper[k] += derivative * (x[s, k][None, :] - x[s, k][:, None])
    upper[-len(linear) :] = linear
    return upper + upper.transpose(0, 2, 1)


def _times_contrast(linear: np.ndarray, point: Point) -> np.ndarray:
    """(b, b) sum of w contrast h from those of w, w h and, with a drift, w rho h."""
    return point.contrast * linear[1] if point.drift is None else point.contrast * linear[1] + point.drift * linear[2]


def _lead_images(kernel: PixelSums, pair: Pair, angle: int, point: Point, bins: Bins, rival: tuple[Pair, Point] | None) -> np.ndarray:
    """(l, b, b) directions, drift unless it is fitted, and rival."""

    def linear(of: Pair, at: Point) -> np.ndarray:
        parts, _ = _binned(kernel, of, angle, at, bins, None, np.zeros(kernel.n), times_residual=False)
        return parts[-2:] if at.drift is None else parts[-3:]

    own = linear(pair, point)
    x, along = bins.mean(point.x), bins.mean(np.broadcast_to(point.contrast_along, kernel.n))
    contrast = 0.5 * (along[None, :] + along[:, None])
    # Within a bin h hardly changes, so the number of pairs times the value between the middles will do.
    difference = tuple(jnp.asarray(np.abs(state[None, :] - state[:, None])) for state in x)
    upper = [own[0] * contrast * np.asarray(direction(pair, difference)) for direction in directions_of(pair).values()]
    if point.drift is None:
        along = bins.mean(ramp(kernel.n))
        upper.append(0.5 * own[1] * (along[None, :] + along[:, None]))
    if rival is not None:
        other = linear(*rival)
        upper.append((rival[1].offset - point.offset) * own[0] + _times_contrast(other, rival[1]) - _times_contrast(own, point))
    images = np.array(upper)
    return images + images.transpose(0, 2, 1)


def _block_images(kernel: PixelSums, angle: int, bins: Bins, classes: Classes) -> np.ndarray:
    """(B, b, b) used pairs of each block in each pair of bins, symmetric."""
    size = len(bins.size)
    total = np.zeros(classes.count * size * size)
    for start in range(0, len(kernel.rows), kernel.length):
        tiles, rows, columns = kernel.chunk(kernel.tiles, angle, start)
        tile, i, j = np.nonzero(~np.isnan(tiles))
        i, j = rows[tile] * TILE + i, columns[tile] * TILE + j
        block = classes.block[classes.lag[j - i], i + j]
        index = (block * size + bins.of[i]) * size + bins.of[j]
        total += np.bincount(index[block >= 0], minlength=len(total))
    upper = total.reshape(classes.count, size, size)
    return upper + upper.transpose(0, 2, 1)


class _Tile:
    """What every sum over one tile begins with: used pairs, weights w, h and residuals r, all (TILE, TILE).

    contrast: a number, or where it drifts that of each pair.
    """

    def __init__(self, pair, weigh, tile, weight, row, column, inputs) -> None:
        self.early, self.late = row * TILE, column * TILE
        offset, contrast, scale = inputs["fit"]
        self.contrast = self.mean(contrast)
        self.difference = self.differences(inputs["x"])
        self.used = ~jnp.isnan(tile)
        self.h = jnp.where(self.used, pair(self.difference), 0.0)
        self.r = jnp.where(self.used, tile.astype(jnp.float64) - offset - self.contrast * self.h, 0.0)
        self.w = self.used.astype(jnp.float64)
        if weight is not None:
            self.w = jnp.where(self.used, weight.astype(jnp.float64), 0.0)
        if weigh is not None:
            self.w = self.w * weigh(self.r / scale)

    def at_late(self, values):
        return jax.lax.dynamic_slice_in_dim(values, self.late, TILE)

    def at_early(self, values):
        return jax.lax.dynamic_slice_in_dim(values, self.early, TILE)

    def mean(self, values):
        """Of the two frames of each pair; a single number stays one."""
        return values if values.ndim == 0 else 0.5 * (self.at_late(values)[None, :] + self.at_early(values)[:, None])

    def differences(self, states):
        return tuple(self.at_late(state)[None, :] - self.at_early(state)[:, None] for state in states)

    def derivative(self, pair, s: int):
        """dh by the difference of state s."""
        if pair.exponential[s]:
            return -self.h
        tangent = tuple(jnp.ones_like(d) if k == s else jnp.zeros_like(d) for k, d in enumerate(self.difference))
        return jnp.where(self.used, jax.jvp(pair, (self.difference,), (tangent,))[1], 0.0)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _chunk_images(pair, weigh, times_residual: bool, tiles, weights, rows, columns, inputs):
    """(c, m' + 2 or 3, TILE, TILE) images of ``_binned``, and the totals of the chunk."""
    contrast = inputs["fit"][1]
    drifts = contrast.ndim > 0

    def one(tile, weight, row, column):
        here = _Tile(pair, weigh, tile, weight, row, column, inputs)
        w = here.w * here.r if times_residual else here.w
        slopes = [here.derivative(pair, s) for s, exponential in enumerate(pair.exponential) if not exponential]
        # Without the barrier XLA would evaluate pair again inside every reduction below.
        here.h, here.r, w, slopes = jax.lax.optimization_barrier((here.h, here.r, w, slopes))
        if drifts:
            images = [w * here.contrast * slope for slope in slopes] + [w, w * here.h, w * here.h * here.mean(inputs["ramp"])]
        else:
            images = [*(w * slope for slope in slopes), w, w * here.h]
        s_i, s_j = here.at_early(inputs["shot"])[:, None], here.at_late(inputs["shot"])[None, :]
        after = jax.lax.dynamic_slice_in_dim(inputs["x"], here.late, TILE, axis=1)
        h_next = pair(tuple(state[1:] - state[:-1] for state in after))
        own = (here.at_early(contrast)[:, None], here.at_late(contrast)[None, :]) if drifts else (contrast, contrast)
        return jnp.stack(images), _totals(here.contrast, own, here.used, here.h, here.r, s_i, s_j, h_next)

    images, totals = jax.lax.map(lambda item: one(*item), (tiles, weights, rows, columns))
    return images, totals.sum(axis=0)


@partial(jax.jit, static_argnums=range(4), donate_argnums=4)
def _chunk_overlaps(pair, depends, rival_pair, blocks: int, carry, tiles, rows, columns, inputs):
    """Add a chunk of tiles to sums over pairs of directions, drift, rival and each block, times [derivatives, residual, shot noise]."""
    offset, drifts = inputs["fit"][0], inputs["fit"][1].ndim > 0
    parameters = 1 + max((k for state in depends for k in state), default=-1)

    def step(total, item):
        tile, row, column = item
        here = _Tile(pair, None, tile, None, row, column, inputs)
        slope = jnp.zeros((parameters, TILE, TILE))
        for s, block in enumerate(slope_blocks(depends)):
            change = here.at_late(inputs["dx"])[:, block].T[:, None, :] - here.at_early(inputs["dx"])[:, block].T[:, :, None]
            slope = slope.at[np.array(depends[s], dtype=int)].add(here.derivative(pair, s) * change)
        drift = here.h * here.mean(inputs["ramp"])
        lead = [jnp.where(here.used, here.contrast * of(pair, here.difference), 0.0) for of in directions_of(pair).values()]
        linear = [here.used, here.h, drift] if drifts else [here.used, here.h]
        lead += [] if drifts else [drift]
        if rival_pair is not None:
            x, rival_offset, rival_contrast = inputs["rival"]
            other = rival_offset + here.mean(rival_contrast) * rival_pair(here.differences(x))
            lead.append(jnp.where(here.used, other - offset - here.contrast * here.h, 0.0))
        light = here.at_early(inputs["shot"])[:, None] * here.at_late(inputs["shot"])[None, :] * (1 + here.contrast * here.h)
        light = jnp.where(here.used, light, 0.0)
        columns = jnp.concatenate([here.contrast * slope, jnp.stack([*linear, here.r, light])]).reshape(-1, TILE * TILE)
        i, j = here.early + jnp.arange(TILE)[:, None], here.late + jnp.arange(TILE)[None, :]
        block = inputs["block"][inputs["lag"][jnp.maximum(j - i, 0)], i + j].ravel()
        inside = (block == jnp.arange(blocks)[:, None]).astype(jnp.float64)
        first = jnp.array(lead).reshape(len(lead), TILE * TILE)
        columns, inside, first = jax.lax.optimization_barrier((columns, inside, first))
        return (total[0] + first @ columns.T, total[1] + inside @ columns.T), None

    return jax.lax.scan(step, carry, (tiles, rows, columns))[0]


def _totals(b, own, used, h, r, s_i, s_j, h_next):
    """(10,) see ``Images``: residuals, N times the variance of a pixel (docs/noise.md), neighbouring columns.

    b: contrast of the pairs. own: of the early and the late frame.
    """
    gaussian = (own[0] + s_i) * (own[1] + s_j) + (b * h) ** 2
    speckle = 2 * b**3 * h * (2 - 2 * h + h * h)
    mixed = b**2 * (2 * h - h * h) * (s_i + s_j) + b * h * s_i * s_j
    both = (used[:, 1:] & used[:, :-1]).astype(jnp.float64)
    left, right = r[:, :-1], r[:, 1:]
    each = jnp.stack([r * r, used * (gaussian + speckle + mixed), used * b * b * (1 + h * h), used.astype(jnp.float64)])
    h_left, h_right = h[:, :-1], h[:, 1:]
    mean_squares = (0.5 * both * (left**2 + right**2), 0.5 * both * (h_left**2 + h_right**2))
    neighbours = jnp.stack([both * left * right, mean_squares[0], both * h_next, both * h_left * h_right, mean_squares[1], both])
    # As products with a vector: a sum along the fast axis would not be vectorised.
    return jnp.concatenate([each.reshape(4, -1) @ jnp.ones(each[0].size), neighbours.reshape(6, -1) @ jnp.ones(neighbours[0].size)])
