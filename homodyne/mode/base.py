"""What a mode is: parameters, the states of a frame, and h of a pair of frames. Fitters see nothing else.

A new mode subclasses ``AbstractMode`` (its settings) and returns from ``bind`` an object that satisfies ``Model`` (its physics on
the times of one Dataset). docs/mode.md shows one.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

import jax
import numpy as np
from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ..pairsums import Depends, Pair
from ..settings import Option
from .prior import PriorSettings
from .rate_law import RateLaw


class ParameterSettings(Option):
    """Settings of one physical parameter.

    Attributes:
        start: start value, or null: the search chooses.
        bounds: [lower, upper] that the answer must respect, or null for the physical ones only (rates that the record
            can resolve, |exponent| <= 2).
        fixed: value to keep, or null to fit.
        prior: what is known before the data, for group ``posterior``, or null: see docs/posterior.md.
    """

    start: float | None
    bounds: Annotated[list[float], Field(min_length=2, max_length=2)] | None
    fixed: float | None
    prior: PriorSettings | None

    @model_validator(mode="after")
    def _check(self) -> "ParameterSettings":
        if self.bounds is None:
            return self
        low, high = self.bounds
        if not low < high:
            raise ValueError(f"bounds are [{low}, {high}]; the lower one must be smaller")
        for label, value in (("start", self.start), ("fixed", self.fixed)):
            if value is not None and not low <= value <= high:
                raise ValueError(f"{label} is {value}, outside its bounds [{low}, {high}]")
        return self

    @property
    def limits(self) -> tuple[float, float]:
        """Bounds with infinities for null."""
        return (-np.inf, np.inf) if self.bounds is None else (self.bounds[0], self.bounds[1])


class Model(Protocol):
    """A mode on the times, q and gap of one Dataset, in the p coordinates u of the solver. Arrays are float64.

    Registered as a JAX pytree whose leaves are the numbers of the Dataset, so that equal shapes share one compilation.
    """

    @property
    def t(self) -> np.ndarray:
        """(n,) frame times, s."""
        ...

    @property
    def pair(self) -> Pair:
        """h of a pair of frames."""
        ...

    @property
    def depends(self) -> Depends:
        """Per state: the coordinates it depends on."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """(K,) user parameters, fixed ones included."""
        ...

    @property
    def units(self) -> tuple[str, ...]:
        """Of the user parameters."""
        ...

    @property
    def coordinates(self) -> tuple[str, ...]:
        """(p,) what the solver varies, in words."""
        ...

    @property
    def lower(self) -> np.ndarray:
        """(p,) lower limits of the coordinates."""
        ...

    @property
    def upper(self) -> np.ndarray:
        """(p,) upper limits of the coordinates."""
        ...

    @property
    def spread(self) -> np.ndarray:
        """(p,) typical uncertainty of each coordinate before any fit. A fifth of it tells two minima apart."""
        ...

    @property
    def period(self) -> np.ndarray:
        """(p,) period of the model in each coordinate; infinite where it has none or a bound forbids to go around."""
        ...

    @property
    def laws(self) -> dict[str, RateLaw]:
        """Rate laws by the name of their curve; their coordinates come first, in this order."""
        ...

    def states(self, u: jax.Array, phi: jax.Array) -> jax.Array:
        """(m, n) states at angle phi (degrees); traceable and differentiable in u."""
        ...

    def parameters(self, u: jax.Array) -> jax.Array:
        """(K,) user parameters, fixed ones included; traceable."""
        ...

    def coordinates_of(self, parameters: Mapping[str, float]) -> np.ndarray:
        """(p,) coordinates of user parameters, moved into the box."""
        ...

    def allowed(self, u: np.ndarray) -> bool:
        """False outside the domain of the model (a negative rate)."""
        ...

    def starts(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """(count, p) start points that cover everything the record can resolve."""
        ...

    def grid(self) -> np.ndarray:
        """(..., p) points on a regular grid of the simplest models; the search takes its local minima."""
        ...

    def exponents(self) -> np.ndarray:
        """(p,) True at coordinates that shape a rate law and may hide a second minimum."""
        ...

    def variants(self, u: np.ndarray, exponents: Sequence[float], which: np.ndarray) -> list[np.ndarray]:
        """Restarts from u with other values of the exponents marked in ``which`` (p,), keeping rate and slope at t_ref."""
        ...

    def canonical(self, u: np.ndarray) -> np.ndarray:
        """u with every exact symmetry resolved by the stated convention."""
        ...

    def log_rates(self, u: jax.Array) -> dict[str, jax.Array]:
        """ln of each rate curve (n,), by name; traceable."""
        ...

    def reference(self, u: jax.Array) -> dict[str, jax.Array]:
        """(2,) ln of the rate and logarithmic slope at the reference time, by curve name; traceable."""
        ...

    def without(self, curve: str) -> "Model | None":
        """The model without one rate law, whose coordinates come after those that are left; None when there is no such model."""
        ...

    def frame_phase(self, u: np.ndarray) -> np.ndarray:
        """(P,) flow phase between neighbouring frames at each angle, rad, median over the record; zero without flow."""
        ...

    def faster(self) -> "Model":
        """The same model whose starts and grid reach flows that only near-perpendicular angles see; itself without flow."""
        ...

    def mirrors(self, u: np.ndarray, angles: Sequence[int]) -> list[np.ndarray]:
        """Flows that each pair of these angles cannot tell from u, because only the size of a phase is seen; none without flow."""
        ...

    def hard_bounds(self, parameters: Mapping[str, float], bounds: Mapping[str, tuple[float, float]]) -> "Model | None":
        """None when the parameters respect the user's bounds, else the model in coordinates where those bounds are a box."""
        ...


class AbstractMode(Option):
    """Settings of a mode."""

    parameters: dict[str, ParameterSettings]

    @abstractmethod
    def bind(self, t: np.ndarray, q: float, gap: float, phi: np.ndarray) -> Model:
        """The model on frame times t (n,) s, wavevector q (1/Angstrom), gap (Angstrom) and measured angles phi (P,) degrees."""

    @property
    @abstractmethod
    def kernel(self) -> str:
        """Name of the shear kernel, ``none`` without shear; part of what D0 and the shear rate mean."""

    @classmethod
    @abstractmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the physical parameters, in order."""

    @classmethod
    def laws(cls) -> tuple[tuple[str, ...], ...]:
        """Names of amplitude, exponent and offset of each rate law."""
        names = cls.names()
        return tuple(names[k : k + 3] for k in range(0, len(names) - len(names) % 3, 3))

    @field_validator("parameters", mode="before")
    @classmethod
    def _check_names(cls, parameters: Any) -> Any:
        names = cls.names()
        for name in parameters if isinstance(parameters, Mapping) else ():
            if name not in names:
                raise PydanticCustomError("unknown_name", "{name}", {"name": name, "names": names})
        if isinstance(parameters, Mapping) and set(parameters) != set(names):
            missing = [name for name in names if name not in parameters]
            raise ValueError(f"{', '.join(missing)} missing; accepted: {', '.join(names)}")
        return parameters

    def start(self) -> dict[str, float] | None:
        """The user's start values with fixed ones in place, or None when not all are given."""
        values = {name: s.fixed if s.fixed is not None else s.start for name, s in self.parameters.items()}
        given = {name: value for name, value in values.items() if value is not None}
        return given if len(given) == len(values) else None
