"""No Bayesian step: the result is the fit with its covariance."""

from ..draws import Posterior
from ..mode.base import AbstractMode
from ..per_angle_scaling.base import AbstractPerAngleScaling
from .base import AbstractPosterior, Given


class NoPosterior(AbstractPosterior):
    """Stop after the fit."""

    def check(self, mode: AbstractMode, scaling: AbstractPerAngleScaling) -> None:
        """Nothing to check."""

    def sample(self, given: Given) -> Posterior | None:
        return None
