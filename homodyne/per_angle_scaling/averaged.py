"""per_angle_scaling=averaged: one contrast and one offset for all angles."""

import numpy as np

from ..data import Dataset
from .base import AbstractPerAngleScaling, Design, shared_basis


class Averaged(AbstractPerAngleScaling):
    """Two coefficients. Right when the angles share optics and mask; biased by a spread of contrast (docs/per_angle_scaling.md)."""

    def design(self, dataset: Dataset, pixel_variance: float) -> Design:
        count = len(dataset.phi)
        return self._make("averaged", np.arange(count)[None], shared_basis(np.ones((count, 1)), self._rows), direct=True)
