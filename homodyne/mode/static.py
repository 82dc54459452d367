"""mode=static: diffusion without flow, three parameters."""

import numpy as np

from ..physics import PARAMETERS
from .base import AbstractMode, Model
from .flow import FlowModel


class Static(AbstractMode):
    """D0, alpha, D_offset; the same for every angle."""

    @property
    def kernel(self) -> str:
        return "none"

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return PARAMETERS["static"]

    def bind(self, t: np.ndarray, q: float, gap: float, phi: np.ndarray) -> Model:
        return FlowModel.bind(self.parameters, t, q, gap, phi, None)
