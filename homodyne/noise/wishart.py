"""noise=wishart: maximum likelihood of the frame covariance (homodyne/wishart.py), started at the least-squares fit."""

import logging
import time
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ..counting import Counted
from ..wishart import IMAGES_IN_MEMORY, Likelihood, Maximum, Scored, Shot, free_inverse, maximise, used_frames
from .base import AbstractNoise, Likely, Minimised, Moved, Noise
from .sandwich import Sandwich

log = logging.getLogger("homodyne")

LEAST_SHOT = 1e-6
"""In units of the contrast: below, the diagonal gets this much so that S can be inverted, and its free part is measured from there."""
FEWEST_USED = 10
"""Frames that an angle must have."""
DISAGREE = 3.0
"""Standard deviations from which a sentence is written."""
TESTABLE = 0.2
"""Smallest share of the variance of least squares that must be gained before the shift of the values is tested."""


class Wishart(AbstractNoise):
    """Values and errors of maximum likelihood; of least squares, with a sentence, where the likelihood does not hold.

    Attributes:
        pixels, speckle_size: see ``Sandwich``.
        shot: ``free_scale``: the shot noise of each angle has one factor that is fitted; ``fixed``: it is known from the mean counts.
        memory_gb: more angles are treated at the same time while they fit.
        most_frames: of a map; the time grows with their third power. worst_condition: of the frame covariance.
    """

    pixels: Annotated[float, Field(gt=1)] | None
    speckle_size: Annotated[float, Field(ge=1)] | None
    shot: Literal["free_scale", "fixed"]
    memory_gb: Annotated[float, Field(gt=0)]
    most_frames: Annotated[int, Field(ge=10)]
    worst_condition: Annotated[float, Field(gt=1)]

    def covariance(self, minimum: Minimised) -> Noise:
        squares = Sandwich(pixels=self.pixels, speckle_size=self.speckle_size).covariance(minimum)
        likelihood = self._prepare(minimum, squares)
        best = likelihood if isinstance(likelihood, str) else self._maximise(likelihood, minimum, squares)
        if isinstance(best, str):
            refusal = f"wishart refused: {best}; values are those of least squares and errors those of sandwich"
            return replace(squares, statements=(*squares.statements, refusal))
        return best

    def _prepare(self, minimum: Minimised, squares: Noise) -> Likelihood | str:
        """The likelihood, or why there is none."""
        dataset, counted, evaluation = minimum.source.dataset, squares.counted, minimum.evaluation
        if minimum.loss is not None or minimum.source.reweighting is not None:
            return "a robust loss is in use, and the likelihood knows no outliers"
        if minimum.source.kernel.weights is not None:
            return "pixels have weights of the user"
        if minimum.problem.design.drift:
            return "the contrast drifts (per_angle_scaling.contrast_drift), and the likelihood has no such number"
        if dataset.n > self.most_frames:
            return f"{dataset.n} frames; accepted: at most {self.most_frames} (noise.most_frames)"
        workers = self._workers(dataset.n, minimum)
        if not workers:
            need = self._need_gb(dataset.n, minimum)
            return f"one angle of {dataset.n} frames needs {need:.1f} GB, noise.memory_gb is {self.memory_gb:g}"
        if not squares.known or counted is None:
            return "least squares has no errors"
        if not counted.known.all():
            return "the number of pixels is unknown; accepted: noise.pixels"
        used, whole = used_frames(dataset)
        if not whole:
            return "pairs of frames are masked (a mask, or a cut of lags); only whole frames may be"
        if used.sum(axis=1).min() < FEWEST_USED:
            return f"an angle has {used.sum(axis=1).min()} frames; accepted: at least {FEWEST_USED}"
        if not np.isfinite(dataset.diagonal[used]).all():
            return "the raw diagonal is not known, or was replaced"
        reason = self._diagonal(minimum, squares, counted)
        if reason:
            return reason
        if evaluation.projection.at_bound.any():
            return "contrast or offset is at its bound at an angle"
        pixels = counted.counting.pixels
        size, angles = len(minimum.information.bread), len(pixels)
        prior = np.zeros((size + angles,) * 2)
        inner = minimum.information.size
        for group, precision in enumerate(minimum.problem.design.precision):
            at = slice(inner + group * len(precision), inner + (group + 1) * len(precision))
            prior[at, at] = precision / minimum.score_variance
        shot = _shot(counted.counting.shot * (pixels / (pixels - 1))[:, None], evaluation.contrast)
        return Likelihood(minimum.problem, minimum.information, pixels, shot, used, prior, workers)

    def _diagonal(self, minimum: Minimised, squares: Noise, counted: Counted) -> str:
        """What speaks against the raw diagonal, or empty."""
        if counted.statements:
            return counted.statements[0]
        if _counts_known(minimum):
            return ""
        if self.shot == "fixed":
            return "noise.shot=fixed needs mean counts; accepted: free_scale"
        scatter = squares.scatter
        excess = scatter is not None and scatter.ratio > 1 + DISAGREE * scatter.error
        if excess or counted.explained:
            return "residuals scatter more than the raw diagonal allows: it may have been replaced, or the model does not describe the map"
        return ""

    def _need_gb(self, n: int, minimum: Minimised) -> float:
        return 8e-9 * n**2 * (IMAGES_IN_MEMORY * (minimum.information.size + 3) + 6)

    def _workers(self, n: int, minimum: Minimised) -> int:
        most = min(minimum.source.kernel.threads, len(minimum.source.dataset.phi))
        return int(min(most, self.memory_gb // self._need_gb(n, minimum)))

    def _maximise(self, likelihood: Likelihood, minimum: Minimised, squares: Noise) -> Noise | str:
        """Errors at the maximum, or why there is none."""
        start, free = self._start(likelihood, minimum)
        begin, first = time.perf_counter(), []

        def report(steps: int, point: Scored, decrement: float) -> None:
            first.append(point.log_likelihood)
            gain, seconds = point.log_likelihood - first[0], time.perf_counter() - begin
            log.info("wishart %3d  log L %+.6g  decrement %.2e  %.2f s", steps, gain, decrement, seconds)

        best = maximise(likelihood, start, free, report)
        if best is None:
            return "the frame covariance of the least-squares fit is not positive definite"
        if best.failure:
            return best.failure
        if best.point.condition > self.worst_condition:
            return f"the frame covariance has condition number {best.point.condition:.1g}; accepted: at most {self.worst_condition:.0e}"
        reason = _left_behind(likelihood, best.point, minimum)
        if reason:
            return reason
        design = minimum.problem.design
        scaling = np.stack(likelihood.scaling(best.point.values)[::-1], axis=1)
        if np.any(scaling < design.lower) or np.any(scaling > design.upper):
            return "contrast or offset of maximum likelihood is out of its bounds at an angle"
        assert squares.counted is not None
        counting = squares.counted.counting
        score = likelihood.score_covariance(best.point.values, counting.r, counting.r1, own_mean=_own_mean(minimum))
        log.info("wishart errors %.2f s", time.perf_counter() - begin)
        bread = free_inverse(best.point.fisher, free)
        noise = _noise(likelihood, best, bread @ score @ bread, minimum, squares)
        assert noise.moved is not None
        values = np.concatenate([noise.moved.values, best.point.values[likelihood.size :]])
        return replace(noise, likely=Likely(likelihood, values, free, best.point.fisher, score))

    def _start(self, likelihood: Likelihood, minimum: Minimised) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of least squares, and which of them move."""
        start = np.concatenate([minimum.evaluation.u, minimum.evaluation.projection.beta.ravel(), likelihood.shot.start])
        free = np.ones(len(start), dtype=bool)
        free[: likelihood.information.size] = ~likelihood.information.held
        if self.shot == "fixed":
            free[likelihood.size :] = False
        return start, free


def _left_behind(likelihood: Likelihood, point: Scored, minimum: Minimised) -> str:
    """Which coordinates least squares holds at a limit that the likelihood would leave, or empty."""
    model, held = minimum.problem.model, likelihood.information.held
    everything = free_inverse(point.fisher, np.ones(len(point.values), dtype=bool))
    step, spread = everything @ point.score, np.sqrt(np.diagonal(everything))
    left = []
    for k in np.flatnonzero(held):
        inward = 1.0 if point.values[k] - model.lower[k] < model.upper[k] - point.values[k] else -1.0
        if inward * step[k] > DISAGREE * spread[k] > 0:
            left.append(model.coordinates[k])
    return f"the likelihood would leave the limit at which least squares holds {' and '.join(left)}" if left else ""


def _noise(likelihood: Likelihood, best: Maximum, covariance: np.ndarray, minimum: Minimised, squares: Noise) -> Noise:
    values, size, inner = best.point.values, likelihood.size, likelihood.information.size
    contrast, offset = likelihood.scaling(values)
    u = minimum.problem.model.canonical(values[:inner])
    moved = Moved(np.concatenate([u, values[inner:size]]), contrast, offset, u)
    names = minimum.problem.model.coordinates
    statements = [_gain(names, covariance, squares.covariance)]
    statements += _shift(names, values[:inner] - minimum.evaluation.u, squares.covariance, covariance)
    statements += _scale(values[size:], np.sqrt(np.diagonal(covariance)[size:]), likelihood.shot)
    return Noise(
        "wishart",
        covariance[:size, :size],
        f"maximum likelihood of the frame covariance ({best.steps} steps); {squares.text}",
        statements=(*squares.statements, *statements),
        counted=squares.counted,
        moved=moved,
    )


def _shot(shot: np.ndarray, contrast: np.ndarray) -> Shot:
    """What is fixed and what is scaled on the diagonal: all of the shot noise, or with none an additional part that starts at zero."""
    level = np.maximum(contrast, np.finfo(float).tiny)[:, None]
    some = np.mean(shot, axis=1, keepdims=True) > LEAST_SHOT * level
    full = np.maximum(shot, LEAST_SHOT * level)
    return Shot(np.where(some, 0.0, full), np.where(some, full, level), some[:, 0].astype(np.float64))


def _counts_known(minimum: Minimised) -> bool:
    """Whether the shot noise is that of mean counts."""
    counts = np.asarray(minimum.source.dataset.counts, dtype=np.float64)
    return not np.isnan(counts.reshape(len(counts), -1)).all(axis=1).any()


def _own_mean(minimum: Minimised) -> bool:
    """Whether counts are those of each frame of each map: not one number per map, and no course in time that all maps share."""
    counts = np.asarray(minimum.source.dataset.counts, dtype=np.float64)
    if counts.ndim < 2 or not _counts_known(minimum):
        return False
    inverse = np.where(counts > 0, 1 / np.where(counts > 0, counts, 1.0), 0.0)
    course = inverse / np.maximum(inverse.mean(axis=1, keepdims=True), np.finfo(float).tiny)
    shared = 1.0 if len(course) == 1 else course[:1]
    return bool(np.any(np.abs(course - shared) > 1e-6))


def _gain(names: tuple[str, ...], likely: np.ndarray, squares: np.ndarray) -> str:
    variance = np.diagonal(likely)
    gains = [f"{np.sqrt(squares[k, k] / variance[k]):.2f} ({name})" for k, name in enumerate(names) if variance[k] > 0]
    return f"errors of least squares over those of maximum likelihood: {', '.join(gains)}"


def _shift(names: tuple[str, ...], moved: np.ndarray, squares: np.ndarray, likely: np.ndarray) -> list[str]:
    """Hausman's test: both estimates are right if the model is, and the better one explains the difference of their variances."""
    lines = []
    for k, name in enumerate(names):
        gained = squares[k, k] - likely[k, k]
        if gained <= TESTABLE * squares[k, k]:
            continue
        z = float(moved[k] / np.sqrt(gained))
        if abs(z) > DISAGREE:
            lines.append(
                f"{name} of maximum likelihood is {z:+.1f} standard deviations from that of least squares: the model or the noise is not "
                "what the likelihood assumes"
            )
    return lines


def _scale(scale: np.ndarray, error: np.ndarray, shot: Shot) -> list[str]:
    lines = []
    for k, (value, spread) in enumerate(zip(scale, error, strict=True)):
        if not abs(value - shot.start[k]) > DISAGREE * spread > 0:
            continue
        found = f"{value:.3f} +- {spread:.2g} times the shot noise expected"
        if not shot.start[k]:
            found = f"{value:.2g} +- {spread:.1g} times the contrast where no shot noise is expected"
        lines.append(f"angle index {k}: the raw diagonal holds {found}: dead time, a gain that is not 1, or decay within a frame")
    return lines
