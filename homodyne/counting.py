"""Shot noise and pixel numbers of a measurement, from the best source that the file has, and a check of one against the other.

Shot noise of a frame relative to its squared mean, s_i, in order of preference: (1 - 1/N)/mean count; the raw diagonal of the map,
c2_ii - offset - contrast; with N known, the scatter of the residuals; without, how far residuals that share a frame agree, which is
contrast h/(contrast + s) and needs no N. Source: docs/noise.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq

from .covariance import AngleSums, Counting, angle_sums
from .data import Dataset
from .images import Bins
from .pairsums import Pair, WeightedLoss, ramp
from .problem import Evaluation, Information, Problem, information

FEWEST_FRAMES = 10.0
"""Independent frames below which the scatter of the residuals says nothing about N."""
CONTRADICTION = 3.0
"""Factor between contrast + shot noise of the diagonal and of the residuals from which the residuals are believed."""
SILENT = 1e-6
"""Residuals smaller than this part of the contrast are rounding: there is no noise to test against."""
MOST_SHOT = 1e4
"""Largest shot noise, in units of the contrast, that correlations of residuals are asked about."""

FEW_BINS = 128
"""Bins of frames for what the fit takes away from residuals."""


@dataclass(frozen=True)
class Counted:
    """Counting, and where it came from.

    Attributes:
        known: (P,) bool, the number of pixels is that of the file or of the settings.
        pixels_text, shot_text: the sources, in words. statements: what disagrees.
        diagonal_agrees: the raw diagonal is known and confirms the shot noise.
        explained: what was changed, in words, so that residuals scatter as they do; empty when nothing was.
    """

    counting: Counting
    known: np.ndarray
    pixels_text: str
    shot_text: str
    statements: tuple[str, ...] = ()
    diagonal_agrees: bool = False
    explained: str = ""


@dataclass(frozen=True)
class Scatter:
    """Residual scatter against what the covariance formula expects.

    Attributes:
        ratio: observed over expected sum of squares; N/N_hat when N is known, 1/N_hat when the formula was given N = 1.
        error: of the ratio, relative. participation: independent frames, mean over angles.
    """

    ratio: float
    error: float
    participation: float


def describes_counting(dataset: Dataset) -> str:
    """What the file holds of photon counting, in words; empty when nothing."""
    parts = []
    if not np.isnan(_counts(dataset)).all(axis=1).any():
        parts.append("mean counts")
    if np.isfinite(dataset.diagonal).any(axis=1).all():
        parts.append("the raw diagonal")
    if np.isfinite(dataset.pixels).all():
        parts.append("the number of pixels")
    return ", ".join(parts)


def count(problem: Problem, evaluation: Evaluation, dataset: Dataset, pixels: float | None, loss: WeightedLoss | None = None) -> Counted:
    """Shot noise and pixel number of every angle; pixels are 1 where unknown (``Counted.known``).

    Args:
        pixels: overrides those of the file.
    """
    given = np.asarray(dataset.pixels, dtype=np.float64) if pixels is None else np.full(len(dataset.phi), float(pixels))
    known = np.isfinite(given) & (given > 0)
    if not known.all():
        known[:] = False
    number = np.where(known, given, 1.0)
    weights = dataset.weights if dataset.weights is not None and dataset.weights.known and known.all() else None
    pixels_text = "noise.pixels" if pixels is not None else "pixel counts of the file" if known.all() else "the scatter of the residuals"
    counts = _counts(dataset)
    diagonal = np.asarray(dataset.diagonal, dtype=np.float64)
    excess = diagonal - (evaluation.offset + evaluation.contrast)[:, None]
    if evaluation.drift is not None:
        excess = excess - evaluation.drift[:, None] * ramp(dataset.n)
    bias = np.where(known, 1 - 1 / np.maximum(number, 1.0), 1.0)[:, None]
    if not np.isnan(counts).all(axis=1).any():
        single = bias / np.where(counts > 0, counts, np.nan)
        shot, seen_there, text = single, single, "mean counts of the file"
        if weights is not None:
            longer = (weights.baseline + evaluation.contrast * weights.groups)[:, None] / np.where(counts > 0, counts, np.nan)
            shot, seen_there = weights.shot[:, None] * longer, weights.on_diagonal[:, None] * longer
            number, text = number * weights.pixels / dataset.pixels, "mean counts of the file and the means that it was divided by"
            pixels_text = f"effective number, from {pixels_text}"
        statements = _disagreement(excess, seen_there, number, evaluation.contrast, dataset.pairs > 0) if known.all() else []
    elif np.isfinite(diagonal).any(axis=1).all():
        weights = None
        level = np.maximum(np.nanmean(excess, axis=1, keepdims=True), 0.0)
        shot, text, statements = np.broadcast_to(level, diagonal.shape), "the raw diagonal", []
        if not known.all():
            shown, seen = _from_residuals(problem, evaluation, number, known, loss)
            b = float(np.mean(evaluation.contrast))
            if b + shown.mean() > CONTRADICTION * (b + level.mean()):
                shot, text = shown, seen
                statements = [
                    f"the raw diagonal shows a shot noise of {level.mean():.3g}, but residuals that share a frame agree far less than "
                    "that allows: the diagonal is not that of a speckle map, and is not used",
                ]
    else:
        weights = None
        shot, text = _from_residuals(problem, evaluation, number, known, loss)
        statements = []
    middle = np.array([[np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else 0.0] for row in shot])
    # A frame without photons is masked everywhere: its shot noise meets no image.
    shot = np.where(np.isfinite(shot), shot, middle)
    agrees = not statements and bool(np.isfinite(diagonal).any(axis=1).all())
    return Counted(Counting(shot, number, weights=weights), known, pixels_text, text, tuple(statements), agrees)


def scatter(sums: Sequence[AngleSums], information: Information, counting: Counting) -> Scatter:
    """Observed against expected sum of squared residuals, the part that the fit took away included."""
    variance, score = _variance(sums, counting) / counting.pixels, fitted_score(sums, information)
    expected = float(np.sum(variance)) - float(np.sum(information.bread * score))
    observed = sum(part.images.squares for part in sums)
    participation = float(np.mean([part.participation for part in sums]))
    ratio = observed / expected if expected > 0 else np.nan
    # The expectation goes as (contrast + s)^2, and the fitted contrast has an error of its own.
    size, angles = information.size, len(sums)
    contrast = information.expand[angles : 2 * angles] @ (information.bread @ score @ information.bread)[size:, size:]
    pairs = np.array([part.images.pairs for part in sums])
    slope = 2 * np.sqrt(variance * pairs / counting.pixels) / max(float(variance.sum()), 1e-300)
    own = float(slope @ contrast @ information.expand[angles : 2 * angles].T @ slope) * ratio
    error = float(np.hypot(2 / (participation * np.sqrt(angles)), np.sqrt(max(own, 0.0))))
    return Scatter(ratio, error, participation)


def _variance(sums: Sequence[AngleSums], counting: Counting) -> np.ndarray:
    """(P,) N times the expected sum of squares of the noise."""
    return np.array([part.images.variance + (counting.r - 1) * part.images.speckle for part in sums])


def settle_pixels(found: Counted, sums: list[AngleSums], information: Information) -> tuple[Counted, list[AngleSums], Scatter]:
    """Where the number of pixels is not known: that of each angle at which its residuals scatter as expected.

    The part of the scatter that the fit took away is shared out between the angles in proportion.

    Returns:
        The same three with covariances for that number; unchanged where the pixels are known or the residuals do not scatter.
    """
    seen = scatter(sums, information, found.counting)
    squares = np.array([part.images.squares for part in sums])
    if found.known.all() or not seen.ratio > 0:
        return found, sums, seen
    variance = _variance(sums, found.counting)
    usual = squares.sum() / variance.sum()
    each = np.where(squares > 0, squares / np.where(variance > 0, variance, 1.0), usual)
    pixels = usual / (seen.ratio * each)
    settled = [replace(part, covariance=part.covariance / number) for part, number in zip(sums, pixels, strict=True)]
    return replace(found, counting=replace(found.counting, pixels=pixels)), settled, seen


def fitted_score(sums: Sequence[AngleSums], information: Information) -> np.ndarray:
    """(q, q) covariance of the score of all fitted numbers; angles are independent."""
    total = np.zeros_like(information.bread)
    for angle, part in enumerate(sums):
        expand = expansion(information, angle, len(sums))
        fitted = len(expand)
        total += expand.T @ part.covariance[:fitted, :fitted] @ expand
    return total


def expansion(information: Information, angle: int, angles: int) -> np.ndarray:
    """(k, q): u, offset, contrast (and drift) of one angle as functions of all fitted numbers."""
    size, linear = information.size, information.expand[angle::angles]
    expand = np.zeros((size + len(linear), len(information.bread)))
    expand[:size, :size] = np.eye(size)
    expand[size:, size:] = linear
    return expand


def _counts(dataset: Dataset) -> np.ndarray:
    """(P, n) mean counts per pixel and frame; NaN where unknown."""
    counts = np.asarray(dataset.counts, dtype=np.float64)
    return np.broadcast_to(counts if counts.ndim == 2 else counts[:, None], dataset.diagonal.shape)


def _disagreement(excess: np.ndarray, shot: np.ndarray, pixels: np.ndarray, contrast: np.ndarray, used: np.ndarray) -> list[str]:
    """Whether the raw diagonal is what the counts say: dead time, hot pixels and gain show there."""
    statements = []
    for k in range(len(excess)):
        found = excess[k] - shot[k]
        found = found[np.isfinite(found)] if used[k] else found[:0]
        if len(found) < 3:
            continue
        level = float(np.nanmean(shot[k]))
        # The variance of a diagonal element; neighbours are correlated, so its mean is no better than from a tenth of the frames.
        spread = np.sqrt((2 + level) / pixels[k]) * (contrast[k] + level) / np.sqrt(max(len(found) / 10, 1))
        if abs(found.mean()) > 5 * spread:
            statements.append(
                f"angle index {k}: the raw diagonal is {found.mean():+.3g} off contrast + offset + 1/(mean count) "
                f"(expected within {spread:.2g}): dead time, hot pixels, a gain that is not 1, or decay within a frame"
            )
    return statements


def _from_residuals(
    problem: Problem, evaluation: Evaluation, pixels: np.ndarray, known: np.ndarray, loss: WeightedLoss | None
) -> tuple[np.ndarray, str]:
    """(P, n) shot noise from residuals alone: their variance when N is known, else the correlation of those that share a frame."""
    found, shape = _Residuals.of(problem, evaluation, loss), (len(pixels), len(problem.model.t))
    b = np.maximum(evaluation.contrast, 1e-12)
    if known.all():
        levels = [found.level_of_scatter(angle, number) for angle, number in enumerate(pixels)]
        return np.broadcast_to((levels * b)[:, None], shape), "the scatter of the residuals and the number of pixels"
    level = found.level_of_neighbours()
    shot = np.broadcast_to((level * b)[:, None], shape)
    if level >= MOST_SHOT:
        return shot, "residuals that share a frame, which do not agree at all: of shot noise and pixel number only shot^2/pixels is known"
    if level == 0:
        return shot, "nothing, set to zero: residuals that share a frame agree as closely as without shot noise"
    return shot, "how far residuals that share a frame agree: neither counts nor the raw diagonal are known"


@dataclass(frozen=True)
class _Residuals:
    """Second moments of the residuals, seen and expected with one pixel per map, as polynomials of the shot noise in units of the contrast.

    The fit takes away part of what it is fitted to, tr(A^-1 V): of the sum of squares, and as much of the products of neighbours, because
    derivatives hardly change from one frame to the next. Both expectations contain what speckle adds near the diagonal.

    Attributes:
        squares, products: (P,) seen, sum of r_ij^2 and, over the pairs that have a neighbour, of r_ij r_i,j+1. usual: (P,) sum of
            r_ij^2 over those pairs. pairs: (P,) their number. share: (P,) of all pairs.
        variance, covariance: (P, 3) what N times squares and N times products are expected to be: coefficients of level^2, level, 1.
    """

    squares: np.ndarray
    products: np.ndarray
    usual: np.ndarray
    pairs: np.ndarray
    share: np.ndarray
    variance: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, problem: Problem, evaluation: Evaluation, loss: WeightedLoss | None) -> "_Residuals":
        # Everything is quadratic in the shot noise, so three levels tell it for all.
        levels, count, n = np.array([0.0, 2.0, 10.0]), len(evaluation.contrast), len(problem.model.t)
        b, fitted = np.maximum(evaluation.contrast, 1e-12), information(evaluation, problem)
        variance, taken = np.empty((2, len(levels), count))

        def coarse(x: np.ndarray, pair: Pair) -> Bins:
            # What the fit takes away is smooth, and a small part.
            return Bins.uniform(n, -(-n // FEW_BINS))

        for at, level in enumerate(levels):
            shot = np.broadcast_to((level * b)[:, None], (count, n))
            sums = angle_sums(problem, evaluation, Counting(shot, np.ones(count)), loss, bins_of=coarse)
            for k, part in enumerate(sums):
                expand = expansion(fitted, k, count)
                size = len(expand)
                variance[at, k] = part.images.variance
                taken[at, k] = np.sum(fitted.bread * (expand.T @ part.covariance[:size, :size] @ expand))
        variance, taken = (np.linalg.solve(np.vander(levels, 3), part).T for part in (variance, taken))
        squares, every, speckle = (np.array([getattr(part.images, name) for part in sums]) for name in ("squares", "pairs", "speckle"))
        products, usual, h_next, hh_next, _, pairs = np.array([part.images.neighbours for part in sums]).T
        # Near the diagonal pixels have b^3 (4 h - 4 h^2 + 2 h^3) + b^2 s (2 h - h^2) in common with their neighbours, twice the last in
        # their own variance.
        share = np.divide(pairs, every, out=np.zeros(count), where=every > 0)
        near = share * (variance[:, 2] - speckle), 0.5 * share * (variance[:, 1] - 2 * b**2 * every)
        common = np.stack([np.zeros(count), b**2 * h_next + near[1], b**2 * (h_next + hh_next) + near[0]], axis=1)
        return cls(squares, products, usual, pairs, share, variance - taken, common - share[:, None] * taken)

    def level_of_scatter(self, angle: int, pixels: float) -> float:
        """Shot noise over contrast of one angle at which its residuals scatter as expected of so many pixels; 0 where they scatter less."""
        a, half, c = self.variance[angle] * [1.0, 0.5, 1.0] - [0.0, 0.0, pixels * self.squares[angle]]
        return float((-half + np.sqrt(half**2 - a * c)) / a) if a > 0 and c < 0 else 0.0

    def level_of_neighbours(self) -> float:
        """The same from how far residuals that share a frame agree, all angles together: that of one is too uncertain to divide by."""
        # Without a contrast there is no speckle that residuals could share.
        used = np.flatnonzero((self.usual > 0) & (self.pairs > 0) & (self.variance[:, 2] > 0))
        weight = self.pairs[used]
        seen = float(weight @ (self.products[used] / self.usual[used]))

        def excess(logarithm: float) -> float:
            powers = np.expm1(logarithm) ** np.array([2, 1, 0])
            scale = self.share[used] * (self.variance[used] @ powers)
            return seen - float(weight @ (self.covariance[used] @ powers / scale))

        most = float(np.log1p(MOST_SHOT))
        if not len(used) or excess(0.0) >= 0:
            return 0.0
        return MOST_SHOT if excess(most) <= 0 else float(np.expm1(brentq(excess, 0.0, most, xtol=1e-4)))
