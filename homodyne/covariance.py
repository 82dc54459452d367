"""Covariance of sums over the pixels of a two-time map of speckle, to order 1/N.

c2 - 1 of N detector pixels is a sample covariance matrix of the frames. With S_ij = contrast h_ij + s_i on the diagonal (s: shot
noise), Gam the signed g1 (h = Gam o Gam), G_a symmetric images with zero diagonal, P_a = G_a o Gam and T_a = Gam P_a Gam,

    N Cov(sum_{i<j} G_a c2, sum_{i<j} G_b c2) = base + fourth + normalisation

    base            tr(S G_a S G_b)/2                                                           Gaussian part
    fourth          3 b^3 <T_a, P_b>/2 + 2 b^2 <diag(s) P_a Gam, P_b> + b <G_a o (h o s s'), G_b>/2
    normalisation   -x_a.l_b - l_a.x_b + l_a' S l_b,   l_a = b rowsum(G_a o h),   x_a = b^2 diag(T_a) + s o l_a

Where the contrast drifts, a_i^2 b at frame i, every cumulant carries one factor a for each frame in it: Gam_ij sqrt(a_i a_j) for Gam.
Fourth cumulant and normalisation by the mean of each frame nearly cancel: half of the correction is worse than none. When a speckle
covers several pixels, r = sum of the squared |field correlation|^2 between pixels and r1 its first power enter where both pixels of
a product carry speckle. Where pixels have unequal means, the product, the mean of a frame in it and the mean that it is divided by carry
different weights, and rowsum(G_a) no longer cancels (``Unequal``). Source: docs/noise.md, docs/theory.md.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import jax.numpy as jnp
import numpy as np

from .data.pixel_weights import PixelWeights
from .images import Bins, Classes, Images, Overlaps, Point, derivative_images, overlaps
from .pairsums import Moments, Pair, WeightedLoss
from .problem import Evaluation, PixelSource, Problem, states_and_slopes
from .projection import linear_gram, slope_grams

STRIP = 16
"""Rows that are transposed at a time."""


@dataclass(frozen=True)
class Counting:
    """What counting photons on a detector adds to a map, for each of P angles.

    Attributes:
        shot: (P, n) variance of shot noise of a frame relative to its squared mean, about 1/(mean count).
        pixels: (P,) detector pixels that were averaged.
        r, r1: sums over a speckle of the squared and of the plain |field correlation|^2 between pixels; 1 for small speckles.
        weights: of unequal pixels, whose baseline is then in ``shot`` and whose effective number is ``pixels``; None: all alike.
    """

    shot: np.ndarray
    pixels: np.ndarray
    r: float = 1.0
    r1: float = 1.0
    weights: PixelWeights | None = None


@dataclass(frozen=True)
class Unequal:
    """Pixels of one angle that are not alike, as in ``PixelWeights``; the values of equal pixels unless given."""

    baseline: float = 1.0
    mixed: float = 1.0
    own: float = 1.0
    shot_once: float = 1.0
    shot_mixed: float = 1.0
    shot_own: float = 1.0

    @classmethod
    def of(cls, weights: PixelWeights | None, angle: int) -> "Unequal":
        return cls() if weights is None else cls(*(float(getattr(weights, one.name)[angle]) for one in fields(cls)))

    def frame_variance(self, contrast: float, shot: float) -> float:
        """N times what the means of its two frames, which do not cancel, add to the variance of a value of the map at long lag."""
        speckle, light = 1 - 2 * self.mixed + self.own, self.shot_once - 2 * self.shot_mixed + self.shot_own
        return 2 * self.baseline * (speckle * contrast + light * shot)


@dataclass(frozen=True)
class Frames:
    """Statistics of the bins of frames of one angle: signed g1 (b, b), shot noise of a bin (b,), contrast, r, r1, pixels."""

    field: np.ndarray
    shot: np.ndarray
    contrast: float
    r: float
    r1: float
    unequal: Unequal = Unequal()


@dataclass(frozen=True)
class AngleSums:
    """One angle: its sums over pixels, and the covariance (k + e, k + e) of its k scores and e extras.

    images: without the binned part. overlaps: None without extras. participation: (tr S)^2/tr S^2, the number of frames that count
    as independent.
    """

    images: Images
    overlaps: Overlaps | None
    covariance: np.ndarray
    participation: float


def map_covariance(binned: np.ndarray, exact_shot: np.ndarray, frames: Frames) -> np.ndarray:
    """N times the covariance (k, k) of the sums that the images stand for.

    Args:
        binned: (k, b, b) images summed over bins of frames. exact_shot: (k, k) sum over single pairs of s_i s_j (1 + b h) G_a G_b,
            which bins smear; NaN where bins will do.
    """
    # In units of the baseline, which multiplies every value of the map.
    unequal, count = frames.unequal, len(binned)
    b, exact_shot = frames.contrast / unequal.baseline, exact_shot / unequal.baseline**2
    gam, s = frames.field.astype(binned.dtype), (frames.shot / unequal.baseline).astype(binned.dtype)
    h = gam**2

    def traces(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(x, y) tr(X_a Y_b) with symmetric Y."""
        return x.reshape(len(x), gam.size) @ y.reshape(count, gam.size).T

    def swapped(x: np.ndarray) -> np.ndarray:
        out = np.empty_like(x)
        for image, turned in zip(x, out, strict=True):
            for first in range(0, len(image), STRIP):
                # In strips that stay in the cache.
                turned[:, first : first + STRIP] = image[first : first + STRIP].T
        return out

    h_g = _products(h, binned)
    mixed = b * unequal.shot_once * traces(h_g * s, binned)
    # Where both pixels of a product carry speckle, r counts pairs of pixels.
    total = 0.5 * frames.r * b**2 * traces(h_g, swapped(h_g)) + 0.5 * (mixed + mixed.T)
    smooth = np.isnan(exact_shot[:, -1])
    shot = exact_shot.copy()
    shot[smooth] = 0.5 * traces(binned[smooth] * np.outer(s, s) * (1 + b * h), binned)
    shot[:, smooth] = shot[smooth].T
    total += np.where(np.isnan(exact_shot), shot, exact_shot)
    del h_g
    p = binned * gam
    gam_p = _products(gam, p)
    total += 0.5 * b**3 * (2 * frames.r1 + frames.r) * traces(gam_p, swapped(gam_p))
    mixed = 2 * b**2 * unequal.shot_once * traces(gam_p * s, p)
    total += 0.5 * (mixed + mixed.T)
    rows = b * (binned * h).sum(axis=2)
    total += _of_means(binned.sum(axis=2), rows, frames.r1 * b**2 * (gam_p * gam).sum(axis=2), frames.r1 * b * h, s, unequal)
    assert total.shape == (count, count)
    return 0.5 * unequal.baseline**2 * (total + total.T).astype(np.float64)


def _of_means(plain: np.ndarray, rows: np.ndarray, third: np.ndarray, between: np.ndarray, s: np.ndarray, unequal: Unequal) -> np.ndarray:
    """(k, k) what the means of frames add: those inside the products, and those that the products are divided by.

    Args:
        plain, rows: (k, b) row sums of the images, and of the images times contrast and h. third: (k, b) third cumulant of a product
            with a frame, without shot noise. between: (b, b) covariance of frames without shot noise. s: (b,) shot noise.
    """
    divided = rows + plain
    if unequal == Unequal():
        # Of equal pixels both means are the same, and the plain row sums cancel.
        plain, divided = np.zeros_like(plain), rows
    inside = (third + unequal.shot_once * s * rows) @ plain.T
    cross = inside - (unequal.mixed * third + unequal.shot_mixed * s * rows) @ divided.T
    total = cross + cross.T
    total += plain @ (between @ plain.T + unequal.shot_once * s[:, None] * plain.T)
    both = plain @ (unequal.mixed * between @ divided.T + unequal.shot_mixed * s[:, None] * divided.T)
    total += divided @ (unequal.own * between @ divided.T + unequal.shot_own * s[:, None] * divided.T)
    return total - both - both.T


def _products(matrix: np.ndarray, images: np.ndarray) -> np.ndarray:
    """(k, b, b) matrix times each symmetric image; of an image that is zero outside a small patch only the patch is multiplied."""
    out = np.zeros_like(images)
    for image, product in zip(images, out, strict=True):
        upper = np.triu(image != 0)
        rows, columns = (np.flatnonzero(upper.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            continue
        r, c = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        patch = image[r, c] * upper[r, c]
        if 4 * patch.size > image.size:
            product[:] = matrix @ image
            continue
        product[:, c] += matrix[:, r] @ patch
        product[:, r] += matrix[:, c] @ np.triu(image, 1)[r, c].T
    return out


def angle_sums(
    problem: Problem,
    evaluation: Evaluation,
    counting: Counting,
    loss: WeightedLoss | None = None,
    classes: Classes | None = None,
    rival: tuple[Pair, list[Point]] | None = None,
    bins_of: Callable[[np.ndarray, Pair], Bins] = Bins.by_change,
) -> list[AngleSums]:
    """Sums and covariances of all angles at a fit; covariances are divided by the number of pixels.

    Args:
        loss: robust loss with its scale. classes: blocks of the goodness of fit, None for no extras. rival: pair and points of
            another fit, one more extra. bins_of: bins of the frames of an angle from its states (m, n) and pair.
    """
    source = problem.source
    assert isinstance(source, PixelSource)
    points = fitted_points(problem, evaluation)
    contrast = np.maximum(evaluation.contrast, 0.0)
    exact = shot_gram(source.shot_moments(problem.model, evaluation, counting.shot), evaluation)
    robust = None if loss is None else (loss.weight, loss.scale)
    pair, depends = problem.model.pair, problem.model.depends

    def one(angle: int) -> AngleSums:
        point, shot, gram = points[angle], counting.shot[angle], exact[angle]
        bins = bins_of(point.x, pair)
        images = derivative_images(source.kernel, pair, depends, angle, point, bins, shot, robust)
        binned, extras = images.binned, None
        if classes is not None:
            other = None if rival is None else (rival[0], rival[1][angle])
            extras = overlaps(source.kernel, pair, depends, angle, point, bins, shot, classes, other)
            binned = np.concatenate([binned, extras.binned])
            gram = _with_extras(gram, extras.shot)
            extras = replace(extras, binned=extras.binned[:, :0, :0])
        x = bins.mean(point.x)
        difference = tuple(np.abs(state[None, :] - state[:, None]) for state in x)
        field = np.asarray(pair.field(tuple(jnp.asarray(d) for d in difference)))
        if point.drift is not None and point.contrast > 0:
            along = np.maximum(bins.mean(point.contrast_along) / point.contrast, 0.0)
            field = field * np.outer(along, along) ** 0.25
        unequal = Unequal.of(counting.weights, angle)
        frames = Frames(field, bins.mean(shot) / bins.size, contrast[angle], counting.r, counting.r1, unequal)
        covariance = map_covariance(binned, gram, frames) / counting.pixels[angle]
        variance = images.variance + images.pairs * unequal.frame_variance(frames.contrast, float(shot.mean()))
        images = replace(images, binned=images.binned[:, :0, :0], variance=variance)
        return AngleSums(images, extras, covariance, _participation(frames, bins, shot))

    with ThreadPoolExecutor(source.kernel.threads) as pool:
        return list(pool.map(one, range(len(points))))


def _with_extras(gram: np.ndarray, shot: np.ndarray) -> np.ndarray:
    """(k + e, k + e) exact sums of shot noise: extras that are blocks share no pair; the rest is smooth and left to the bins (NaN)."""
    count = len(gram)
    total = np.full((count + len(shot),) * 2, np.nan)
    total[:count, :count] = gram
    blocks = count + np.flatnonzero(np.isfinite(shot))
    total[np.ix_(blocks, blocks)] = np.diag(shot[np.isfinite(shot)])
    return total


def shot_gram(moments: Moments, evaluation: Evaluation) -> np.ndarray:
    """(P, k, k) sums over single pairs of s_i s_j (1 + b h) G_a G_b, from the kernel's sums with those weights."""
    slopes, full = slope_grams(moments, evaluation.contrast, evaluation.drift)
    return np.block([[full, slopes.swapaxes(-1, -2)], [slopes, linear_gram(moments)]])


def fitted_points(problem: Problem, evaluation: Evaluation) -> list[Point]:
    """The fitted map of each angle, with the derivatives of its states."""
    source = problem.source
    assert isinstance(source, PixelSource)
    x, dx = (np.asarray(part) for part in states_and_slopes(problem.model, source.dataset.phi, evaluation.u, slopes=True))
    drift = [None] * len(x) if evaluation.drift is None else evaluation.drift.tolist()
    return [Point(x[k], dx[k], float(evaluation.offset[k]), float(evaluation.contrast[k]), drift[k]) for k in range(len(x))]


def _participation(frames: Frames, bins: Bins, shot: np.ndarray) -> float:
    b, size = frames.contrast, bins.size
    trace = np.sum(b + shot)
    square = b**2 * size @ frames.field**4 @ size + np.sum(2 * b * shot + shot**2)
    return float(trace**2 / square) if square > 0 else 1.0
