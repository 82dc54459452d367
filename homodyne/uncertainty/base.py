"""What is worked out of a finished fit: intervals, regions and derived quantities."""

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np

from ..data import Dataset
from ..identifiability import Identified
from ..mode.base import AbstractMode, Model
from ..noise.base import AbstractNoise, Minimised, Noise
from ..optimizer.trust_region import Solver, Tolerances
from ..per_angle_scaling.base import AbstractPerAngleScaling
from ..results import UNTESTED, Comparison, Contour, Derived, Outcome, Profile, Verdict
from ..settings import Option


@dataclass(frozen=True)
class Estimated:
    """A finished fit, as this group sees it.

    Attributes:
        u: (p,) the estimate. minimum: of chi2, which is at u unless the noise option moved it.
        noise_option, scaling: what was asked for, for fits to compare with.
        interrupted: raises FitInterrupted when a stop was asked for, within ``watching``, which turns signals into that.
    """

    dataset: Dataset
    mode: AbstractMode
    minimum: Minimised
    noise: Noise
    identified: Identified
    u: np.ndarray
    noise_option: AbstractNoise
    scaling: AbstractPerAngleScaling
    outcome: Outcome
    solver: Solver
    tolerances: Tolerances
    interrupted: Callable[[], None]
    watching: Callable[[], AbstractContextManager[None]]
    verdict: Verdict = UNTESTED

    @property
    def model(self) -> Model:
        return self.minimum.problem.model

    @property
    def covariance(self) -> np.ndarray:
        """(p, p) of u by the noise option."""
        size = self.minimum.information.size
        return self.noise.covariance[:size, :size]


@dataclass(frozen=True)
class Examined:
    """What was worked out; the fields of ``Fit`` of the same names."""

    derived: Derived | None = None
    profiles: dict[str, Profile] = field(default_factory=dict)
    contours: tuple[Contour, ...] = ()
    comparisons: tuple[Comparison, ...] = ()


class AbstractUncertainty(Option):
    """Interface of the group."""

    @abstractmethod
    def check(self, mode: AbstractMode) -> None:
        """Settings against the mode, before anything is opened.

        Raises:
            ConfigError: a setting names something that the mode does not fit.
        """

    @abstractmethod
    def check_model(self, model: Model) -> None:
        """Settings against the record, before the fit.

        Raises:
            ConfigError: a setting names something that is not in the record.
        """

    @abstractmethod
    def examine(self, fit: Estimated) -> Examined:
        """Work it out."""
