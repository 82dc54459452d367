"""What a fit returns: plain, frozen values that save.py writes and load_run reads back unchanged."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from statistics import NormalDist
from typing import Literal

import numpy as np

Status = Literal["free", "interval", "fixed", "at_bound", "undetermined"]

CONFIDENCE = 0.95
"""Of ``Estimate.interval``."""
QUANTILE = NormalDist().inv_cdf(0.5 * (1 + CONFIDENCE))
SKEWED = 0.15
"""Share of its half-width by which an end of an interval may differ from that of the linear error."""

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
    """One number with its error.

    Attributes:
        error: one standard deviation; NaN where no symmetric error describes the number.
        lower, upper: bounds that the user set.
        status: ``free``: it has an error; ``interval``: only an interval; the others have neither.
        interval: ends of the 95 % interval; an infinite end is open, NaN: there is none. With the first above the second it goes
            through infinity: everything but what lies between the second and the first.
    """

    name: str
    value: float
    error: float
    unit: str
    lower: float
    upper: float
    status: Status
    interval: tuple[float, float] = (float("nan"), float("nan"))

    @property
    def symmetric(self) -> bool:
        """Whether value and error say all that the interval says."""
        half = QUANTILE * self.error
        bend = SKEWED * half + 1e-9 * abs(self.value)
        return bool(np.isfinite(self.error)) and all(np.isnan(end) or abs(abs(end - self.value) - half) < bend for end in self.interval)

    def holds(self, value: float) -> bool:
        """Whether a value is in the interval."""
        lower, upper = self.interval
        return lower <= value <= upper if lower <= upper else value >= lower or value <= upper

    def withheld(self) -> "Estimate":
        """The same number without an error."""
        status: Status = "undetermined" if self.status in ("free", "interval") else self.status
        return replace(self, error=float("nan"), interval=(float("nan"), float("nan")), status=status)


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

    def withheld(self) -> "Curve":
        """The same curve without an error."""
        return replace(self, error=np.full_like(self.error, np.nan), determined=False)


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
class NoiseFacts:
    """What the errors rest on.

    Attributes:
        pixels: (P,) detector pixels of each map that were assumed, NaN where the noise option needs none. pixels_source: in words.
        speckle_size: sum over a speckle of the squared |field correlation|^2 between pixels, NaN where not used.
        shot: (P,) mean shot noise of a frame relative to its squared mean, NaN where not used. shot_source: in words.
        scatter: observed over expected sum of squared residuals, N over the number of pixels that the residuals show; NaN where not used.
        scatter_error: of that. independent_frames: frames that count as independent, mean over angles; NaN where not used.
        effective_pairs: number of independent pixels that would give errors of the same size.
        ratio: error of each solver coordinate over its error if pixels were independent.
    """

    pixels: np.ndarray
    pixels_source: str
    speckle_size: float
    shot: np.ndarray
    shot_source: str
    scatter: float
    scatter_error: float
    independent_frames: float
    effective_pairs: float
    ratio: dict[str, float]


@dataclass(frozen=True)
class Test:
    """A chi-square test: statistic, its degrees of freedom, and the probability of a larger one if the fitted model is true.

    z: of a test in one direction, the signed deviation in standard deviations; else NaN.
    """

    name: str
    statistic: float
    rank: int
    p_value: float
    z: float = float("nan")

    # pytest collects classes by this name unless told not to.
    __test__ = False


@dataclass(frozen=True)
class Goodness:
    """Whether the model describes the maps, with the covariance of speckle for the residuals (goodness.py).

    Attributes:
        tests: lag_age, lag, lag_all_angles, those of directions.py, contrast_drift unless it is fitted, offset, and rival when another
            fit was compared.
        angles: (P,) p-value of lag_age at each angle.
        lag_edges: (L + 1,) frames. lag, age: (B,) class of each block. z: (P, B) standardised block means of the residuals.
        z_lag: (P, L) summed over ages; z_age: (P, A) over lags.
        scatter, scatter_error: observed over expected scatter, NaN where the number of pixels was taken from it.
        scaled: True when the number of pixels was taken from the residuals, which misfit inflates: tests see less.
    """

    tests: dict[str, Test]
    angles: tuple[float, ...]
    lag_edges: np.ndarray
    lag: np.ndarray
    age: np.ndarray
    z: np.ndarray
    z_lag: np.ndarray
    z_age: np.ndarray
    scatter: float
    scatter_error: float
    scaled: bool


Judgement = Literal["good", "offset", "misfit", "failed", "untested"]


@dataclass(frozen=True)
class Verdict:
    """What all tests of a fit together say (verdict.py).

    Attributes:
        name: ``good``: the model describes the maps within their noise; ``offset``: but for an offset that is not the expected one;
            ``misfit``: it does not; ``failed``: the fit cannot be meant and no number has an error; ``untested``: the noise is not known.
        p_value: of all tests together if the model is true, NaN where nothing was tested. level: below it the model is rejected.
        sentence: the verdict in words, causes included.
    """

    name: Judgement
    p_value: float
    level: float
    sentence: str


UNTESTED = Verdict("untested", float("nan"), float("nan"), "")


@dataclass(frozen=True)
class Fit:
    """The result of phase 3.

    Attributes:
        parameters: physical parameters by the user's names, in the order of the mode.
        rates: the best determined numbers of each rate law, reported first: rate at its best time, rate and logarithmic slope at t_ref.
        t_ref: geometric mean of the first and last time, s.
        curves: rates against time.
        phi, contrast, contrast_error, offset, offset_error: (P,) each.
        names, covariance: K names (physical, then contrast[i], then offset[i], then drift[i] where it is fitted) and their (K, K)
            covariance; NaN where a parameter has no finite error.
        noise, noise_text: option that made the errors, and what it assumes.
        sigma: rms residual of a pixel.
        chi2: sum of squared residuals in units of the pixel noise variance, which is estimated without a model (cells.py).
        dof: number of pairs minus number of fitted numbers.
        statements: identifiability, bounds and symmetry, in words.
        decisions: every automatic choice, with its reason.
        alternatives: physical parameters of other scalings that were fitted on the way (``auto``).
        coordinates, solution, solution_covariance: the solver's own variables, their values and covariance.
        noise_facts: what the errors rest on. goodness: None when nothing is known of the noise. verdict: of all its tests together.
        contrast_drift, contrast_drift_error: (P,) half the change of the contrast from the first frame to the last; None: not fitted.
        q, gap, gap_assumed: wavevector, 1/Angstrom, and shear gap, Angstrom, that every shear rate rests on; see ``Dataset``.
        derived: quantities that follow from the parameters. profiles, contours, comparisons: what group ``uncertainty`` was asked for.
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
    noise_facts: NoiseFacts | None = None
    goodness: Goodness | None = None
    derived: "Derived | None" = None
    profiles: "dict[str, Profile]" = field(default_factory=dict)
    contours: "tuple[Contour, ...]" = ()
    comparisons: "tuple[Comparison, ...]" = ()
    contrast_drift: np.ndarray | None = None
    contrast_drift_error: np.ndarray | None = None
    verdict: Verdict = UNTESTED
    q: float = float("nan")
    gap: float = float("nan")
    gap_assumed: bool = False

    @property
    def success(self) -> bool:
        """Whether the minimum was found and can be meant; whether the model holds is said by ``verdict``."""
        return self.outcome.success and self.verdict.name != "failed"


@dataclass(frozen=True)
class Comparison:
    """A rival of the fit on the same pixels.

    Attributes:
        statistic: rise of chi2 in its calibrated unit (nested models), or the directed chi-square of this fit. extra: numbers that the
            rival fits more (negative: fewer). p_value: of the simpler model; of this fit when neither contains the other.
        bic: BIC of the rival minus that of the fit, NaN when not nested. text: the verdict in words.
    """

    name: str
    statistic: float
    extra: int
    p_value: float
    bic: float
    text: str


@dataclass(frozen=True)
class Derived:
    """What follows from the fitted numbers, with errors by the delta method (derived.py).

    Attributes:
        quantities: by name, for example ``relaxation_time(5 s)``; the error is NaN where the data do not determine one.
        curves: relaxation time at each age and strain so far, s and 1; NaN where the map does not decay within the record.
        statements: what was assumed or could not be worked out, in words.
    """

    quantities: dict[str, Estimate]
    curves: dict[str, Curve]
    statements: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """chi2 along one parameter, everything else fitted again at each value (profile.py).

    Attributes:
        value: (K,) ascending, the estimate among them. rise: (K,) of chi2, in units of the residual variance.
        root: (K,) signed root of the calibrated rise: a standard normal deviate.
        estimate, error: value and linear standard error, NaN where there is none.
        lower, upper: ends of the interval; infinite where there is none, NaN where the search did not find it.
        inflation: standard error over that of independent pixels, which calibrates the rise.
        sentence: where an end is missing and how far it was searched, or empty.
    """

    name: str
    unit: str
    value: np.ndarray
    rise: np.ndarray
    root: np.ndarray
    estimate: float
    error: float
    lower: float
    upper: float
    confidence: float
    inflation: float
    sentence: str

    @property
    def quantile(self) -> float:
        """Standard normal deviate at the ends of the interval."""
        return NormalDist().inv_cdf(0.5 * (1 + self.confidence))

    @property
    def linear(self) -> tuple[float, float]:
        """The interval of the linear error."""
        return self.estimate - self.quantile * self.error, self.estimate + self.quantile * self.error


@dataclass(frozen=True)
class Contour:
    """chi2 over two parameters, everything else fitted again at each point (contour.py).

    Attributes:
        names, units: of the two. edge, inner: (M, 2) once around the region and around that of 68.27 %; NaN where it is open.
        points: (N, 3) every point that was computed, with its calibrated rise of chi2.
        estimate: (2,). covariance: (2, 2) of the linear ellipse.
        closed: False when the region reaches the end of the search; sentence: where, or empty.
    """

    names: tuple[str, str]
    units: tuple[str, str]
    edge: np.ndarray
    inner: np.ndarray
    points: np.ndarray
    estimate: np.ndarray
    covariance: np.ndarray
    confidence: float
    closed: bool
    sentence: str
