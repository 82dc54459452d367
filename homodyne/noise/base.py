"""What an error bar means: a noise option turns a minimum into the covariance of everything that was fitted."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from ..pairsums import WeightedLoss
from ..problem import Evaluation, Information, PixelSource, Problem
from ..settings import Option


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


@dataclass(frozen=True)
class Noise:
    """Covariance of (u, coefficients) in the order of ``Information.bread``, and what it assumes, in a sentence."""

    covariance: np.ndarray
    text: str


class AbstractNoise(Option):
    """Interface of the group."""

    @abstractmethod
    def covariance(self, minimum: Minimised) -> Noise:
        """Covariance of all fitted numbers at a minimum."""
