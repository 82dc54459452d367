"""per_angle_scaling=fourier: contrast and offset as truncated Fourier series of the angle."""

from typing import Annotated

import numpy as np
from pydantic import Field

from ..data import Dataset
from ..errors import DataError
from .base import AbstractPerAngleScaling, Design, shared_basis


class Fourier(AbstractPerAngleScaling):
    """Rows [1, cos phi, sin phi, ..., cos K phi, sin K phi] for each of contrast and offset; ``order`` is K. Bounds hold at every angle."""

    order: Annotated[int, Field(ge=1)]

    def design(self, dataset: Dataset, pixel_variance: float) -> Design:
        count, size = len(dataset.phi), 1 + 2 * self.order
        if count < size:
            raise DataError(
                f"per_angle_scaling=fourier of order {self.order} needs at least {size} angles, {dataset.provenance.path} gives {count}; "
                "lower per_angle_scaling.order or use per_angle_scaling=individual"
            )
        return self._make("fourier", np.arange(count)[None], shared_basis(fourier_basis(dataset.phi, self.order), self._rows))


def fourier_basis(phi: np.ndarray, order: int) -> np.ndarray:
    """(P, 1 + 2 order) basis at angles phi (degrees)."""
    angle = np.deg2rad(phi)
    return np.stack([np.ones_like(angle), *(f(k * angle) for k in range(1, order + 1) for f in (np.cos, np.sin))], axis=1)
