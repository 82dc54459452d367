"""What a posterior is made of: draws, how they were made, and what they say. Written to posterior.nc (posterior_record.py)."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Summary:
    """One number over its draws.

    Attributes:
        lower, upper: ends of the central interval of ``Posterior.confidence``.
        rhat, ess_bulk, ess_tail: rank-normalised, of real chains; NaN where draws are not chains (then ``ess_bulk`` is that of the
            importance weights, if any).
    """

    name: str
    unit: str
    mean: float
    sd: float
    median: float
    lower: float
    upper: float
    rhat: float
    ess_bulk: float
    ess_tail: float


@dataclass(frozen=True)
class Answer:
    """Draws of one width of the posterior: C chains of S draws.

    Attributes:
        u: (C, S, d) coordinates that were sampled. parameters: (C, S, K) user parameters.
        contrast, offset: (C, S, P). sigma: (C, S) standard deviation of one pixel, NaN where the likelihood has none.
        rates: by curve name, (C, S, T) at ``Posterior.t``.
        stats: by ArviZ name, (C, S): lp, and of chains energy, diverging, tree_depth, n_steps, acceptance_rate, step_size.
        chains: True when the draws are those of Markov chains; False: independent draws.
        summary: of every user parameter, rate at its best time, contrast, offset and sigma.
    """

    u: np.ndarray
    parameters: np.ndarray
    contrast: np.ndarray
    offset: np.ndarray
    sigma: np.ndarray
    rates: dict[str, np.ndarray]
    stats: dict[str, np.ndarray]
    chains: bool
    summary: dict[str, Summary] = field(default_factory=dict)


@dataclass(frozen=True)
class Prior:
    """Draws of the prior.

    Attributes:
        u: (S, p) coordinates of the model. parameters: (S, K). rates: by curve name, (S, T). contrast, offset: (S, P).
        text: the prior of each parameter in words.
    """

    u: np.ndarray
    parameters: np.ndarray
    rates: dict[str, np.ndarray]
    contrast: np.ndarray
    offset: np.ndarray
    text: dict[str, str]


@dataclass(frozen=True)
class Shards:
    """The sub-posteriors of a consensus, in its joint coordinates: d sampled ones, then the coefficients of contrast and offset.

    Attributes:
        names: (D,) of the joint coordinates. mean: (K, D). covariance: (K, D, D).
        parameter_mean, parameter_sd: (K, number of user parameters).
        pairs: (K,) pixels of each shard. rhat, ess, divergences: (K,) worst over coordinates, from the shard's own chains.
        attempts: (K,). seconds: (K,). status: (K,) ``good``, ``rerun``, ``poor`` or ``missing``, in words.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    covariance: np.ndarray
    parameter_mean: np.ndarray
    parameter_sd: np.ndarray
    pairs: np.ndarray
    rhat: np.ndarray
    ess: np.ndarray
    divergences: np.ndarray
    attempts: np.ndarray
    seconds: np.ndarray
    status: tuple[str, ...]


@dataclass(frozen=True)
class Predictive:
    """Cuts through the maps as the prior and the posterior predict them, B bins of C cuts of each kind (pictures.Cuts).

    Attributes:
        posterior, prior: by kind (``equal_lag``, ``equal_age``), (S, P, C, B) means of the model over the pairs of a bin.
        replicated: like posterior, with the noise of the mean of a bin.
    """

    posterior: dict[str, np.ndarray]
    replicated: dict[str, np.ndarray]
    prior: dict[str, np.ndarray]


@dataclass(frozen=True)
class Posterior:
    """The result of group ``posterior``.

    Attributes:
        engine: that made it; ``auto`` names its choice. exactness: ``exact`` (importance weights or chains on the full-data density
            that pass their checks), ``approximate`` (laplace), ``psis_corrected``, ``consensus_unverified`` or ``failed``.
        names, units: (K,) user parameters. coordinates: (d,) what was sampled. phi: (P,) degrees. t: (T,) s, of the rates.
        answers: by width: ``model`` (as the likelihood gives it) and, where the noise option knows better, ``calibrated``.
        numbers: k_hat, evaluations, seconds and the like, by name. decisions, statements: in words.
        confidence: of intervals.
    """

    engine: str
    exactness: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    coordinates: tuple[str, ...]
    phi: np.ndarray
    t: np.ndarray
    answers: dict[str, Answer]
    prior: Prior | None
    predictive: Predictive | None
    shards: Shards | None
    numbers: dict[str, float]
    decisions: tuple[str, ...]
    statements: tuple[str, ...]
    confidence: float

    @property
    def success(self) -> bool:
        """Whether it may be quoted: its own checks have passed, or it is a stated approximation."""
        return self.exactness not in ("failed", "consensus_unverified")

    @property
    def answer(self) -> Answer:
        """The one to quote: calibrated where there is one."""
        return self.answers["calibrated" if "calibrated" in self.answers else "model"]
