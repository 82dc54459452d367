"""noise=sandwich: least squares with the covariance of a speckle map, A^-1 V A^-1 (covariance.py)."""

from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field

from ..counting import FEWEST_FRAMES, SILENT, Counted, Scatter, count, fitted_score, settle_pixels
from ..covariance import AngleSums, angle_sums
from ..excess import speckle_growth
from .base import AbstractNoise, Minimised, Noise

# Between r1 = 1 + 2.28 (r - 1), pixels along a line of four per speckle, and r1 = 2 r of large Gaussian speckles.
LONG_RANGE = 2.3
# Errors by which single values must scatter too much before block means are asked (two goodness-of-fit passes), and by which r must
# exceed 1 before speckles are taken to be larger than a pixel.
GROWS = 2.0
# Errors by which the speckle size of single values may differ from that of block means.
AGREE = 2.5
# Errors by which single values must scatter too much before shot noise or pixels are changed.
EXCESS = 3.0


class Sandwich(AbstractNoise):
    """Errors from the statistics of speckle and photon counting.

    Attributes:
        pixels: detector pixels averaged in each map; null: those of the file, else from the scatter of the residuals.
        speckle_size: sum over a speckle of the squared |field correlation|^2 between pixels, 1 when speckles are smaller than a
            pixel; null: 1, unless the residuals scatter more than that allows.
    """

    pixels: Annotated[float, Field(gt=1)] | None
    speckle_size: Annotated[float, Field(ge=1)] | None

    def covariance(self, minimum: Minimised) -> Noise:
        problem, evaluation, information = minimum.problem, minimum.evaluation, minimum.information
        found = count(problem, evaluation, minimum.source.dataset, self.pixels, minimum.loss)
        statements = list(found.statements)
        if self.speckle_size is not None:
            found = _with_size(found, self.speckle_size)

        def measured(counted: Counted) -> tuple[Counted, list[AngleSums], Scatter]:
            return settle_pixels(counted, angle_sums(problem, evaluation, counted.counting, minimum.loss), information)

        found, sums, seen = measured(found)
        silent = minimum.score_variance < (SILENT * np.abs(evaluation.contrast).max()) ** 2
        if (silent and not found.known.all()) or not seen.ratio > 0:
            return self._unknown(minimum, found, f"residuals do not scatter (chi2 = {evaluation.chi2:.3g})")
        if not found.known.all() and seen.participation < FEWEST_FRAMES:
            why = f"the record holds only {seen.participation:.1f} independent frames"
            return self._unknown(minimum, found, f"{why}; accepted: noise.pixels, the detector pixels averaged in each map")
        if found.known.all() and seen.ratio > 1 + GROWS * seen.error and self.speckle_size is None:
            found, cause = _explained(found, sums, seen, minimum)
            if cause:
                statements.append(f"{cause}, or the model does not describe the map")
                found, sums, seen = measured(replace(found, explained=cause))
        if found.known.all() and seen.ratio * (1 + 3 * seen.error + _approximate(found)) < 1:
            pixels = f"{np.median(found.counting.pixels):.0f} pixels do"
            why = "a wrong number of pixels, or maps that were smoothed"
            statements.append(f"residuals scatter only {seen.ratio:.2g} times what {pixels}: {why}")
        total = fitted_score(sums, information)
        covariance = minimum.bread @ total @ minimum.bread
        return Noise(self.name, covariance, _text(found), statements=tuple(statements), counted=found, scatter=seen)

    def _unknown(self, minimum: Minimised, found: Counted, why: str) -> Noise:
        covariance = np.full_like(minimum.information.bread, np.nan)
        return Noise(self.name, covariance, f"no errors: {why}", statements=(f"no parameter has an error: {why}",), counted=found)


def _approximate(found: Counted) -> float:
    """Relative part of the expected scatter that is only known to first order in 1/(photons of a static bin)."""
    weights = found.counting.weights
    return 0.0 if weights is None else float(np.mean(np.maximum(weights.shot - 1, 0.0)))


def _size_of_scatter(found: Counted, sums: list[AngleSums], seen: Scatter) -> tuple[float, float]:
    """r with which single values would scatter as they do, and its error; what the fit takes away in proportion."""
    pixels = found.counting.pixels
    speckle, variance = (np.array([getattr(part.images, name) for part in sums]) / pixels for name in ("speckle", "variance"))
    observed = float(sum(part.images.squares for part in sums))
    expected = observed / seen.ratio
    slope = float(speckle.sum()) * expected / max(float(variance.sum()), 1e-300)
    return (1 + (observed - expected) / slope, observed * seen.error / slope) if slope > 0 else (1.0, np.inf)


def _explained(found: Counted, sums: list[AngleSums], seen: Scatter, minimum: Minimised) -> tuple[Counted, str]:
    """Counting with which residuals scatter as they do, and in words what was found; empty when nothing was."""
    much = f"residuals scatter {seen.ratio:.2f} times what {np.median(found.counting.pixels):.0f} independent pixels do"
    growth, (single, spread) = speckle_growth(found, LONG_RANGE, minimum), _size_of_scatter(found, sums, seen)
    # A model that does not describe the map makes block means scatter as well, but single values less than such speckles would.
    alike = abs(growth.r - single) < AGREE * np.hypot(growth.error, spread)
    if growth.r > 1 + GROWS * growth.error and growth.by_size > growth.by_number and alike:
        size = f"r = {growth.r:.2f} +- {growth.error:.2g}"
        return _with_size(found, growth.r), f"{much}, and their means over blocks more: speckles larger than a pixel ({size} is used)"
    if seen.ratio < 1 + EXCESS * seen.error:
        return found, ""
    much = f"{much}, at every correlation alike"
    if found.diagonal_agrees:
        # The diagonal confirms the shot noise, so it is the number of pixels that is too large.
        counting = replace(found.counting, pixels=found.counting.pixels / seen.ratio)
        return replace(found, counting=counting), f"{much}: pixels that are not alike (they are counted as so many fewer)"
    b = np.maximum(minimum.evaluation.contrast, 0.0)[:, None]
    shot = (b + found.counting.shot) * np.sqrt(seen.ratio) - b
    return replace(
        found, counting=replace(found.counting, shot=shot)
    ), f"{much}: more shot noise than the counts say (so much more is used)"


def _with_size(found: Counted, size: float) -> Counted:
    return replace(found, counting=replace(found.counting, r=size, r1=1 + LONG_RANGE * (size - 1)))


def _text(found: Counted) -> str:
    pixels = found.counting.pixels
    number = f"{pixels.min():.7g}" if np.ptp(pixels) < 0.5 else f"{pixels.min():.4g} to {pixels.max():.4g}"
    size = f", speckle size r = {found.counting.r:.2f}" if found.counting.r != 1 else ""
    return f"correlated pixels of speckle; {number} detector pixels ({found.pixels_text}){size}, shot noise from {found.shot_text}"
