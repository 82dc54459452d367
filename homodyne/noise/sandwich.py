"""noise=sandwich: least squares with the covariance of a speckle map, A^-1 V A^-1 (covariance.py)."""

from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field

from ..counting import FEWEST_FRAMES, SILENT, Counted, Scatter, count, fitted_score, settle_pixels
from ..covariance import AngleSums, angle_sums
from ..excess import growth
from .base import AbstractNoise, Minimised, Noise

# Between r1 = 1 + 2.28 (r - 1), pixels along a line of four per speckle, and r1 = 2 r of large Gaussian speckles.
LONG_RANGE = 2.3
# Error of r above which r is not used: where shot noise prevails r hardly enters, but what the scatter says of it may be anything.
MOST_UNCERTAIN = 1.0
# Errors by which the scatter must grow with h before speckles are taken to be larger than a pixel.
GROWS = 3.0


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
        if found.known.all() and seen.ratio > 1 + 3 * seen.error and self.speckle_size is None:
            doubled = measured(_with_size(found, 2.0))[1]
            found, cause = self._explained(found, self._size(found, sums, doubled, seen, minimum), seen, minimum)
            statements.append(f"{cause}, or the model does not describe the map")
            found, sums, seen = measured(found)
        if found.known.all() and seen.ratio * (1 + 3 * seen.error) < 1:
            pixels = f"{np.median(found.counting.pixels):.0f} pixels do"
            why = "a wrong number of pixels, or maps that were smoothed"
            statements.append(f"residuals scatter only {seen.ratio:.2g} times what {pixels}: {why}")
        total = fitted_score(sums, information)
        covariance = minimum.bread @ total @ minimum.bread
        return Noise(self.name, covariance, _text(found), statements=tuple(statements), counted=found, scatter=seen)

    @staticmethod
    def _explained(found: Counted, size: tuple[float, float], seen: Scatter, minimum: Minimised) -> tuple[Counted, str]:
        """Counting with which residuals scatter as they do, and in words what was found; ``size`` is r and its error from the excess."""
        excess = f"residuals scatter {seen.ratio:.2f} times what {np.median(found.counting.pixels):.0f} independent pixels do"
        slope, error = growth(minimum.problem, minimum.evaluation, found.counting)
        if slope > GROWS * error and size[1] < MOST_UNCERTAIN:
            return _with_size(found, size[0]), f"{excess}, the more the higher the correlation: speckles larger than a pixel (r = {size[0]:.2f} is used)"
        excess = f"{excess}, at every correlation alike"
        if found.diagonal_agrees:
            # The diagonal confirms the shot noise, so it is the number of pixels that is too large.
            counting = replace(found.counting, pixels=found.counting.pixels / seen.ratio)
            return replace(found, counting=counting), f"{excess}: pixels that are not alike (they are counted as so many fewer)"
        b = np.maximum(minimum.evaluation.contrast, 0.0)[:, None]
        shot = (b + found.counting.shot) * np.sqrt(seen.ratio) - b
        return replace(found, counting=replace(found.counting, shot=shot)), f"{excess}: more shot noise than the counts say (so much more is used)"

    @staticmethod
    def _size(found: Counted, sums: list[AngleSums], doubled: list[AngleSums], seen: Scatter, minimum: Minimised) -> tuple[float, float]:
        """r that makes the expected scatter equal to the observed one, and its error; ``doubled`` are the sums with r = 2."""
        information = minimum.information
        speckle = sum(part.images.speckle / number for part, number in zip(sums, found.counting.pixels, strict=True))
        slope = speckle - float(np.sum(information.bread * (fitted_score(doubled, information) - fitted_score(sums, information))))
        observed = sum(part.images.squares for part in sums)
        if not slope > 0:
            return 1.0, np.inf
        return 1 + max(observed - observed / seen.ratio, 0.0) / slope, observed * seen.error / slope

    def _unknown(self, minimum: Minimised, found: Counted, why: str) -> Noise:
        covariance = np.full_like(minimum.information.bread, np.nan)
        return Noise(self.name, covariance, f"no errors: {why}", statements=(f"no parameter has an error: {why}",), counted=found)


def _with_size(found: Counted, size: float) -> Counted:
    return replace(found, counting=replace(found.counting, r=size, r1=1 + LONG_RANGE * (size - 1)))


def _text(found: Counted) -> str:
    pixels = found.counting.pixels
    number = f"{pixels.min():.7g}" if np.ptp(pixels) < 0.5 else f"{pixels.min():.4g} to {pixels.max():.4g}"
    size = f", speckle size r = {found.counting.r:.2f}" if found.counting.r != 1 else ""
    return f"correlated pixels of speckle; {number} detector pixels ({found.pixels_text}){size}, shot noise from {found.shot_text}"
