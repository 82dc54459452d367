"""per_angle_scaling=shrinkage: a contrast and an offset for every angle, drawn towards their means by a Gaussian prior."""

from typing import Annotated

import numpy as np
from pydantic import Field

from ..data import Dataset
from .base import AbstractPerAngleScaling, Design, shared_basis
from .quantile import estimate_all


class Shrinkage(AbstractPerAngleScaling):
    """Between averaged (spread 0) and individual (spread infinite).

    ``contrast_spread``: expected standard deviation between angles, as a fraction of the mean contrast; of its drift, if any, as well.
    ``offset_spread``: expected standard deviation between angles, absolute.
    """

    contrast_spread: Annotated[float, Field(gt=0)]
    offset_spread: Annotated[float, Field(gt=0)]

    def design(self, dataset: Dataset, pixel_variance: float) -> Design:
        count = len(dataset.phi)
        contrast, _ = estimate_all(dataset, self.contrast_bounds, self.offset_bounds)
        deviation = np.eye(count) - 1.0 / count
        precision = np.zeros((1, self._rows * count, self._rows * count))
        spreads = (self.offset_spread, self.contrast_spread * contrast.mean(), self.contrast_spread * contrast.mean())
        for row, spread in enumerate(spreads[: self._rows]):
            at = slice(row * count, (row + 1) * count)
            precision[0, at, at] = deviation * pixel_variance / spread**2
        return self._make("shrinkage", np.arange(count)[None], shared_basis(np.eye(count), self._rows), precision=precision)
