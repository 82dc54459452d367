"""per_angle_scaling=constant: contrast and offset of every angle kept at given or estimated values."""

import numpy as np
from pydantic import field_validator

from ..data import Dataset
from ..errors import ConfigError
from .base import AbstractPerAngleScaling, Design
from .quantile import estimate_all


class Constant(AbstractPerAngleScaling):
    """``contrast`` and ``offset``: one value for all angles, a list with one per angle, or null for the quantile estimate.

    Nothing is fitted, so an error of these values goes straight into the physics.
    """

    contrast: float | list[float] | None
    offset: float | list[float] | None

    @field_validator("contrast_drift")
    @classmethod
    def _nothing_fitted(cls, drift: bool) -> bool:
        if drift:
            raise ValueError("found true; accepted: false (constant fits nothing), or another per_angle_scaling")
        return drift

    def design(self, dataset: Dataset, pixel_variance: float) -> Design:
        count = len(dataset.phi)
        given = {"contrast": self.contrast, "offset": self.offset}
        values = {name: self._values(name, value, count) for name, value in given.items() if value is not None}
        if len(values) < 2:
            contrast, offset = estimate_all(dataset, self.contrast_bounds, self.offset_bounds)
            values = {"contrast": contrast, "offset": offset} | values
        constant = np.stack([values["offset"], values["contrast"]], axis=1)
        return self._make("constant", np.arange(count)[None], np.zeros((1, count, 2, 0)), constant=constant)

    @staticmethod
    def _values(name: str, value: float | list[float], count: int) -> np.ndarray:
        if isinstance(value, list) and len(value) != count:
            raise ConfigError(f"per_angle_scaling.{name} has {len(value)} values; the data have {count} angles")
        return np.broadcast_to(np.asarray(value, dtype=np.float64), (count,)).copy()
