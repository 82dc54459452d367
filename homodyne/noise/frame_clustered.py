"""noise=frame_clustered: errors from the residuals alone, for pixels that are correlated along frames.

With U_a the image of residual times the derivative of c2 by number a, and a Bartlett kernel K over frames of half-width L,

    tensor      V_ab = tr(K U_a K U_b)/2          pairs (i, j), (k, l) with i near k and j near l
    two-way     V_ab = u_a' K u_b - tensor        u = row sums of U: i near k or j near l, counted once
    covariance  A^-1 V A^-1

and each standard error is the larger of the two. L is ``width`` times the correlation time 1 + mean row sum of the fitted h, at
most a third of the record. Source: docs/noise.md.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.ndimage import uniform_filter1d

from ..counting import expansion
from ..covariance import fitted_points
from ..images import Bins, score_images
from ..tiles import TILE
from .base import AbstractNoise, Minimised, Noise

MEMORY_BINS, ENOUGH_BINS = 512, 256
ROUGH = (
    "errors of noise=frame_clustered are too short where correlations are strong (docs/noise.md): whether the offset is 1 and whether "
    "contrast and offset differ between angles is not tested; accepted: noise=auto or noise=sandwich"
)
"""Its residuals have lost what the fit took away, and a record holds few correlation times."""


class FrameClustered(AbstractNoise):
    """``width``: half-width of the kernel in correlation times; a correlation time is the mean row sum of h."""

    width: Annotated[float, Field(gt=0)]

    def covariance(self, minimum: Minimised) -> Noise:
        problem, information, kernel = minimum.problem, minimum.information, minimum.source.kernel
        n = minimum.source.dataset.n
        correlation = 1 + float(np.mean(minimum.evaluation.decay)) * (n - 1)
        width = float(np.clip(self.width * correlation, 1.0, n / 3))
        # ``correlation`` counts both sides of a frame: h has fallen to 1/e after half of it.
        if 1.5 * correlation > n:
            why = f"the record of {n} frames is shorter than three correlation times ({correlation / 2:.0f} frames each)"
            unknown = np.full_like(information.bread, np.nan)
            return Noise(self.name, unknown, f"no errors: {why}", statements=(f"no parameter has an error: {why}",))
        bin_size = self._bin_size(n, width)
        bins, half = Bins.uniform(n, bin_size), max(1, round(width / bin_size))
        robust = None if minimum.loss is None else (minimum.loss.weight, minimum.loss.scale)
        points = fitted_points(problem, minimum.evaluation)

        def forms(angle: int) -> tuple[np.ndarray, np.ndarray]:
            # One angle for each thread, so that no two images wait in memory.
            image = score_images(kernel, problem.model.pair, problem.model.depends, angle, points[angle], bins, robust)
            return bartlett(image, half)

        tensor, score = np.zeros_like(information.bread), np.zeros_like(information.bread)
        with ThreadPoolExecutor(kernel.threads) as pool:
            for angle, (both, either) in enumerate(pool.map(forms, range(len(points)))):
                expand = expansion(information, angle, len(points))
                tensor += expand.T @ both @ expand
                score += expand.T @ either @ expand
        first, second = minimum.bread @ tensor @ minimum.bread, minimum.bread @ (score - tensor) @ minimum.bread
        base = np.sqrt(np.maximum(np.diagonal(first), 0.0))
        larger = np.sqrt(np.maximum(np.maximum(np.diagonal(first), np.diagonal(second)), 0.0))
        stretch = np.where(base > 0, larger / np.where(base > 0, base, 1.0), 1.0)
        text = f"from residuals, correlated within {width:.0f} frames; larger of tensor and two-way clustering"
        return Noise(self.name, np.outer(stretch, stretch) * first, text, statements=(ROUGH,), testable=False)

    @staticmethod
    def _bin_size(n: int, width: float) -> int:
        """Frames per bin, a power of two: as many as MEMORY_BINS bins need, and more while a bin stays below a quarter of the kernel.

        Where memory sets the size above the kernel's width, the kernel becomes one bin: clusters of whole bins.
        """
        size = 1
        while size < TILE and (n / size > MEMORY_BINS or (n / size > ENOUGH_BINS and 8 * size <= width)):
            size *= 2
        return size


def bartlett(image: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Tensor and frame-score forms of V (a, a) from symmetric images (a, b, b), zero diagonal pairs; kernel half-width in bins.

    K_mm' = max(0, 1 - |m - m'|/L) is 1/L times the overlap of two windows of L bins, so both are sums over moving windows.
    """
    rows = _windows(image.sum(axis=2), width, 1)
    moving = _windows(_windows(image, width, 1), width, 2).reshape(len(image), -1)
    return 0.5 * moving @ moving.T / width**2, rows @ rows.T / width


def _windows(image: np.ndarray, width: int, axis: int) -> np.ndarray:
    """Sums over all windows of ``width`` along an axis, those that overhang the ends included."""
    overhang = [(width, width) if k == axis else (0, 0) for k in range(image.ndim)]
    return width * uniform_filter1d(np.pad(image, overhang), width, axis=axis, mode="constant")
