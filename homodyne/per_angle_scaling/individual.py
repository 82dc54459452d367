"""per_angle_scaling=individual: a contrast and an offset for every angle."""

import numpy as np

from ..data import Dataset
from .base import AbstractPerAngleScaling, Design


class Individual(AbstractPerAngleScaling):
    """Two coefficients per angle, each angle a group of its own."""

    def design(self, dataset: Dataset, pixel_variance: float) -> Design:
        count = len(dataset.phi)
        return self._make("individual", np.arange(count)[:, None], np.tile(np.eye(self._rows), (count, 1, 1, 1)), direct=True)
