"""A Bayesian step after the fit: a sampler turns the density of a fit into draws (``AbstractSampler.draw``); the rest is common."""

import logging
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from ..cmc_backend.base import AbstractCMCBackend
from ..draws import Posterior, Shards
from ..errors import ConfigError, FitError
from ..mode.base import AbstractMode
from ..optimizer.progress import FitInterrupted
from ..per_angle_scaling.base import AbstractPerAngleScaling
from ..results import ModelRows
from ..settings import Option
from ..uncertainty.base import Estimated

if TYPE_CHECKING:
    from ..bayes import Question

log = logging.getLogger("homodyne")

Exactness = Literal["exact", "approximate", "psis_corrected", "consensus_unverified", "failed"]


@dataclass(frozen=True)
class Given:
    """What a sampler may use.

    Attributes:
        fit: the finished fit. model_rows: of its maps. seed: of every random choice. threads: to use at the same time.
        folder: of the run, for shards; None to keep none. backend: where shards run.
    """

    fit: Estimated
    model_rows: ModelRows
    seed: int
    threads: int
    folder: Path | None
    backend: AbstractCMCBackend


@dataclass(frozen=True)
class Drawn:
    """Draws of one question.

    Attributes:
        u: (C, S, d) coordinates. stats: by ArviZ name, (C, S). chains: whether they are Markov chains.
        numbers: k_hat, evaluations, ... by name. shards: of a consensus.
    """

    engine: str
    exactness: Exactness
    u: np.ndarray
    stats: dict[str, np.ndarray]
    chains: bool
    numbers: dict[str, float] = field(default_factory=dict)
    decisions: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()
    shards: Shards | None = None


class AbstractPosterior(Option, ABC):
    """Base of the options of group ``posterior``."""

    @abstractmethod
    def check(self, mode: AbstractMode, scaling: AbstractPerAngleScaling) -> None:
        """Settings against the other groups, before anything is opened.

        Raises:
            ConfigError: they do not go together.
        """

    @abstractmethod
    def sample(self, given: Given) -> Posterior | None:
        """The posterior of a fit; None when none is asked for or the fit allows none."""


class AbstractSampler(AbstractPosterior):
    """Settings that every sampler has.

    Attributes:
        width: ``model``: as the likelihood gives it. ``calibrated``: with the covariance of the noise option. ``both``.
        confidence: of the intervals. predictive: draws for which cuts through the maps are predicted; 0: none.
    """

    width: Literal["both", "model", "calibrated"]
    confidence: Annotated[float, Field(ge=0.5, le=0.9999)]
    predictive: Annotated[int, Field(ge=0)]

    @abstractmethod
    def draw(self, question: "Question") -> Drawn:
        """Draws of the density of a question."""

    def check(self, mode: AbstractMode, scaling: AbstractPerAngleScaling) -> None:
        from ..prior import check_priors

        if scaling.contrast_drift:
            raise ConfigError("per_angle_scaling.contrast_drift: found true; accepted with a posterior: false")
        check_priors(mode.parameters, mode.laws())

    def sample(self, given: Given) -> Posterior | None:
        # Here, not at the top: this brings JAX, which a configuration is checked without.
        from ..bayes import finish, questions, refusal

        begin = time.perf_counter()
        why = refusal(given.fit)
        if why:
            log.info("no posterior: %s", why)
            return None
        asked = questions(given, self.width)
        drawn: dict[str, Drawn] = {}
        try:
            with given.fit.watching():
                for question in asked:
                    drawn[question.width] = self.draw(question)
        except FitInterrupted as error:
            if not drawn:
                raise FitError(
                    "posterior interrupted; accepted: hydra.run.dir=<this folder> resume=true, finished shards are kept"
                ) from error
            log.warning("posterior interrupted: only width %s is there", ", ".join(drawn))
        done = finish(given, asked[: len(drawn)], drawn, confidence=self.confidence, predictions=self.predictive)
        return replace(done, numbers=done.numbers | {"seconds": time.perf_counter() - begin})
