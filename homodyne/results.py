"""What a fit returns: plain, frozen values that save.py writes and load_run reads back unchanged."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

import numpy as np

Status = Literal["free", "fixed", "at_bound", "undetermined"]

ModelRows = Callable[[int, int, int], np.ndarray]
"""model_rows(k, start, stop): rows start to stop - 1 of the map of angle k, (stop - start, n) float64; contrast + offset at i = j."""


class Outcome(Enum):
    """How a fit ended; the value is the sentence shown to the user."""

    CONVERGED = "converged"
    MAX_PASSES = "the limit on passes over the pixels was reached before convergence (optimizer.max_passes)"
    INTERRUPTED = "interrupted; the best state so far is saved, repeat with resume=true to continue"
    NOT_FINITE = "the model is not finite at any start value"

    @property
    def success(self) -> bool:
        return self is Outcome.CONVERGED


@dataclass(frozen=True)
class Estimate:
    """One number with its error. error is NaN when the parameter is fixed or not determined by the data."""

    name: str
    value: float
    error: float
    unit: str
    lower: float
    upper: float
    status: Status


@dataclass(frozen=True)
class Curve:
    """A rate against time with its error: J(t) in Angstrom^2/s or gamma_dot(t) in 1/s."""

    name: str
    unit: str
    t: np.ndarray
    value: np.ndarray
    error: np.ndarray
    determined: bool
    best_time: float
    """Time at which the rate is best determined, s."""


@dataclass(frozen=True)
class Iteration:
    """One accepted step of the solver on all pixels; chi2 in the units of Fit.chi2, the step in the solver's coordinates."""

    stage: str
    number: int
    chi2: float
    step: float
    gradient: float
    seconds: float


@dataclass(frozen=True)
class Minimum:
    """A local minimum on all pixels; chi2 in the units of Fit.chi2."""

    parameters: dict[str, float]
    chi2: float
    times_reached: int


@dataclass(frozen=True)
class Fit:
    """The result of phase 3.

    Attributes:
        parameters: physical parameters by the user's names, in the order of the mode.
        rates: the best determined numbers of each rate law, reported first: rate at its best time, rate and logarithmic slope at t_ref.
        t_ref: geometric mean of the first and last time, s.
        curves: rates against time.
        phi, contrast, contrast_error, offset, offset_error: (P,) each.
        names, covariance: K names (physical, then contrast[i], then offset[i]) and their (K, K) covariance; NaN where a
            parameter has no finite error.
        noise, noise_text: option that made the errors, and what it assumes.
        sigma: rms residual of a pixel.
        chi2: sum of squared residuals in units of the pixel noise variance, which is estimated without a model (cells.py).
        dof: number of pairs minus number of fitted numbers.
        statements: identifiability, bounds and symmetry, in words.
        decisions: every automatic choice, with its reason.
        alternatives: physical parameters of other scalings that were fitted on the way (``auto``).
        coordinates, solution, solution_covariance: the solver's own variables, their values and covariance.
    """

    mode: str
    shear_kernel: str
    scaling: str
    parameters: dict[str, Estimate]
    rates: dict[str, Estimate]
    t_ref: float
    curves: dict[str, Curve]
    phi: np.ndarray
    contrast: np.ndarray
    contrast_error: np.ndarray
    offset: np.ndarray
    offset_error: np.ndarray
    names: tuple[str, ...]
    covariance: np.ndarray
    noise: str
    noise_text: str
    sigma: float
    chi2: float
    reduced_chi2: float
    pairs: int
    dof: int
    outcome: Outcome
    message: str
    passes: int
    history: tuple[Iteration, ...]
    minima: tuple[Minimum, ...]
    statements: tuple[str, ...]
    decisions: tuple[str, ...]
    coordinates: tuple[str, ...]
    solution: np.ndarray
    solution_covariance: np.ndarray
    alternatives: dict[str, dict[str, float]] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage."""
    peak_memory_mb: float = float("nan")
    """Largest resident memory of the process up to the end of the fit."""

    @property
    def success(self) -> bool:
        return self.outcome.success
