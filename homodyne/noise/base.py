"""What an error bar means: a noise option turns a minimum into the covariance of everything that was fitted."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..counting import Counted, Scatter
from ..pairsums import WeightedLoss
from ..problem import Evaluation, Information, PixelSource, Problem
from ..settings import Option

if TYPE_CHECKING:
    from ..wishart import Likelihood


@dataclass(frozen=True)
class Minimised:
    """A minimum with what its errors are made from.

    Attributes:
        problem: on all pixels, with the final weights. loss: robust loss or None.
        efficiency, score_variance: see optimizer.loss; 1 and the residual variance for least squares.
        pairs, fitted: numbers of pairs used and of numbers fitted.
    """

    problem: Problem
    evaluation: Evaluation
    information: Information
    loss: WeightedLoss | None
    efficiency: float
    score_variance: float
    pairs: int
    fitted: int

    @property
    def source(self) -> PixelSource:
        source = self.problem.source
        assert isinstance(source, PixelSource)
        return source

    @property
    def bread(self) -> np.ndarray:
        """Inverse derivative of the score by all fitted numbers."""
        return self.efficiency * self.information.bread

    @property
    def independent(self) -> np.ndarray:
        """Covariance of all fitted numbers if pixels were independent, their variance taken from the residuals."""
        return self.efficiency**2 * self.score_variance * self.pairs / max(self.pairs - self.fitted, 1) * self.information.bread


@dataclass(frozen=True)
class Noise:
    """Errors of a minimum.

    Attributes:
        option: name of the option in force; ``auto`` names its choice.
        covariance: of (u, coefficients) in the order of ``Information.bread``; NaN when the data cannot tell.
        text: what it assumes, in a sentence. reason: why ``auto`` chose it, else empty.
        statements: what the user should know about the noise. counted, scatter: see counting.py; None when not looked at.
        testable: False where the errors are too rough for tests of hypotheses (equality between angles, offset 1).
        moved: the point of maximum likelihood, when the option has its own. likely: that likelihood, for a posterior.
    """

    option: str
    covariance: np.ndarray
    text: str
    reason: str = ""
    statements: tuple[str, ...] = ()
    counted: Counted | None = None
    scatter: Scatter | None = None
    testable: bool = True
    moved: "Moved | None" = None
    likely: "Likely | None" = None

    @property
    def known(self) -> bool:
        """False when the data cannot tell the errors."""
        return bool(np.isfinite(self.covariance).all())


@dataclass(frozen=True)
class Moved:
    """Another estimate than least squares: all fitted numbers in the order of ``Information.bread``; contrast and offset (P,)."""

    values: np.ndarray
    contrast: np.ndarray
    offset: np.ndarray
    u: np.ndarray


@dataclass(frozen=True)
class Likely:
    """A likelihood of speckle at its maximum.

    Attributes:
        values: (q,) all its numbers: those of ``Moved.values``, then the scale of the shot noise of each angle.
        free: (q,) bool, those that were fitted.
        fisher: (q, q) information with the prior of the scaling. score: (q, q) covariance of the score by the statistics of speckle;
            that of the maximum is fisher^-1 score fisher^-1.
    """

    likelihood: "Likelihood"
    values: np.ndarray
    free: np.ndarray
    fisher: np.ndarray
    score: np.ndarray


class AbstractNoise(Option):
    """Interface of the group."""

    @abstractmethod
    def covariance(self, minimum: Minimised) -> Noise:
        """Covariance of all fitted numbers at a minimum."""
