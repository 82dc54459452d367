"""mode=laminar_flow: diffusion and shear, seven parameters."""

from typing import Literal

import numpy as np

from ..physics import PARAMETERS
from .base import AbstractMode, Model
from .flow import FlowModel


class LaminarFlow(AbstractMode):
    """D0, alpha, D_offset, gamma_dot_t0, beta, gamma_dot_t_offset, phi0.

    ``shear_kernel``: ``gap_average`` (sinc^2, the average over a linear velocity profile) or ``homodyne_v2`` (sinc^4, to compare
    with fits of homodyne 2.x, whose shear rates are about 2.2 times larger).
    """

    shear_kernel: Literal["gap_average", "homodyne_v2"]

    @property
    def kernel(self) -> str:
        return self.shear_kernel

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return PARAMETERS["laminar_flow"]

    def bind(self, t: np.ndarray, q: float, gap: float, phi: np.ndarray) -> Model:
        return FlowModel.bind(self.parameters, t, q, gap, phi, self.shear_kernel)
