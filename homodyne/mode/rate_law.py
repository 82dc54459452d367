"""One rate law, amplitude t^exponent + offset, in the coordinates that a solver likes.

``two_rate``: (ln R_a, ln R_b, exponent) with R_a, R_b the rates at the first and last time. With l = ln(t/t_a) and
B(e, l) = (exp(e l) - 1)/e,

    R(t) = R_a + (R_b - R_a) B(e, l)/B(e, l_b)

The law is monotone in t, so R_a, R_b > 0 is the same as R > 0 on all frames, a negative offset included; exponent 0 (a
logarithmic law) is an ordinary point. The condition number stays near 20 where amplitude, exponent and offset reach 1e13.
``power``: (ln of the power term at t_ref, exponent), when the offset is fixed. ``raw``: the user's own parameters, when the
amplitude is fixed, when the exponent is fixed at 0, or when hard bounds on amplitude or offset are active.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass

from ..physics import power_law

Form = Literal["two_rate", "power", "raw"]


# inline=True keeps the trace: this is traced in every compiled function, and tracing is most of the start-up of a fit.
@partial(jax.jit, inline=True)
def exponential_integral(exponent: jax.Array, log_time: jax.Array) -> jax.Array:
    """B(e, l) = (exp(e l) - 1)/e, equal to l at e = 0, with derivatives that are exact there."""
    x = exponent * log_time
    small = jnp.abs(x) < 1e-2
    tame = jnp.where(small, x, 0.0)
    series = 1 + tame / 2 * (1 + tame / 3 * (1 + tame / 4 * (1 + tame / 5 * (1 + tame / 6 * (1 + tame / 7)))))
    safe = jnp.where(small, 1.0, x)
    return log_time * jnp.where(small, series, jnp.expm1(safe) / safe)


@partial(register_dataclass, data_fields=("t", "scale", "low", "high", "fixed", "bounds"), meta_fields=("names", "form", "unit"))
@dataclass(frozen=True, eq=False)
class RateLaw:
    """A rate law on the times of one Dataset.

    Attributes:
        names: amplitude, exponent, offset as the user calls them.
        t: (n,) s. scale: dimensionless rate per unit of rate (q^2 for J, q L times the phase factor for the shear rate).
        low, high: limits of scale * rate * duration and of scale * rate * dt, which make the box of the solver.
        fixed: value or None of amplitude, exponent, offset. bounds: the user's limits of the same three.
    """

    names: tuple[str, str, str]
    t: np.ndarray
    scale: float
    low: float
    high: float
    fixed: tuple[float | None, float | None, float | None]
    bounds: tuple[tuple[float, float], ...]
    form: Form
    unit: str
    """Of the rate."""

    @classmethod
    def choose(cls, *, fixed, **settings) -> "RateLaw":
        """The best conditioned form that the fixed parameters allow."""
        amplitude, exponent, offset = fixed
        if amplitude is None and offset is None and exponent != 0:
            form: Form = "two_rate"
        elif amplitude is None and offset is not None:
            form = "power"
        else:
            form = "raw"
        return cls(fixed=fixed, form=form, **settings)

    def with_hard_bounds(self) -> "RateLaw":
        """The same law in the user's own parameters, so that their bounds are a box."""
        return replace(self, form="raw")

    @property
    def t_ref(self):
        """Geometric mean of the first and last time, s."""
        return (self.t[0] * self.t[-1]) ** 0.5

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of the solver's coordinates."""
        amplitude, exponent, _ = self.names
        if self.form == "two_rate":
            ends = (f"ln rate[{amplitude}] at first time", f"ln rate[{amplitude}] at last time")
            return ends if self.fixed[1] is not None else (*ends, exponent)
        if self.form == "power":
            return (f"ln {amplitude} t_ref^{exponent}",) + ((exponent,) if self.fixed[1] is None else ())
        return tuple(name for name, value in zip(self.names, self.fixed, strict=True) if value is None)

    @property
    def exponent_at(self) -> int | None:
        """Index of the exponent among the coordinates, None when it is fixed."""
        return self.coordinates.index(self.names[1]) if self.names[1] in self.coordinates else None

    def rate(self, p: jax.Array) -> jax.Array:
        """(n,) rate at coordinates p."""
        if self.form != "two_rate":
            amplitude, exponent, offset = self.parameters(p)
            return power_law(amplitude, exponent, offset, self.t)
        first, last = jnp.exp(p[0]), jnp.exp(p[1])
        return first + (last - first) * self._weight(self._exponent(p), jnp.log(self.t / self.t[0]))

    def parameters(self, p: jax.Array) -> jax.Array:
        """(3,) amplitude, exponent, offset; amplitude and offset diverge at exponent 0 in the two_rate form."""
        if self.form == "two_rate":
            exponent = self._exponent(p)
            first, last = jnp.exp(p[0]), jnp.exp(p[1])
            span = exponential_integral(exponent, jnp.log(self.t[-1] / self.t[0]))
            lift = (last - first) / (exponent * span)
            return jnp.stack([lift * self.t[0] ** -exponent, exponent, first - lift])
        if self.form == "power":
            exponent = p[1] if self.fixed[1] is None else jnp.asarray(self.fixed[1])
            return jnp.stack([jnp.exp(p[0]) * self.t_ref**-exponent, exponent, jnp.asarray(self.fixed[2])])
        free = iter(p)
        return jnp.stack([next(free) if value is None else jnp.asarray(value) for value in self.fixed])

    def coordinates_of(self, amplitude: float, exponent: float, offset: float) -> np.ndarray:
        """Coordinates of given parameters, moved into the box; fixed parameters override the given ones."""
        values = [given if value is None else value for given, value in zip((amplitude, exponent, offset), self.fixed, strict=True)]
        tiny, huge = self.rate_limits
        if self.form == "two_rate":
            ends = np.clip(values[0] * self.t[[0, -1]] ** values[1] + values[2], tiny, huge)
            p = [*np.log(ends), values[1]][: len(self.coordinates)]
        elif self.form == "power":
            p = [np.log(np.clip(values[0] * self.t_ref ** values[1], tiny, huge)), values[1]][: len(self.coordinates)]
        else:
            p = [value for value, fixed in zip(values, self.fixed, strict=True) if fixed is None]
        return np.clip(np.array(p, dtype=np.float64), *self.box)

    @property
    def rate_limits(self) -> tuple[float, float]:
        """Smallest and largest rate that the record can resolve."""
        dt = self.t[1] - self.t[0]
        return self.low / (self.scale * dt * len(self.t)), self.high / (self.scale * dt)

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper limits of the coordinates."""
        tiny, huge = self.rate_limits
        rate, exponent = (np.log(tiny), np.log(huge)), (max(-2.0, self.bounds[1][0]), min(2.0, self.bounds[1][1]))
        if self.form == "two_rate":
            limits = [rate, rate, exponent][: len(self.coordinates)]
        elif self.form == "power":
            limits = [rate, exponent][: len(self.coordinates)]
        else:
            hard = (self.bounds[0], exponent, self.bounds[2])
            limits = [bound for bound, value in zip(hard, self.fixed, strict=True) if value is None]
        array = np.array(limits, dtype=np.float64).reshape(-1, 2)
        return array[:, 0], array[:, 1]

    @property
    def spread(self) -> np.ndarray:
        """(k,) typical uncertainty of each coordinate before any fit; the steps of a global search."""
        if self.form == "raw":
            typical = float(np.prod(self.rate_limits)) ** 0.5
            steps = [value for value, fixed in zip((typical, 1.0, typical), self.fixed, strict=True) if fixed is None]
        else:
            steps = [1.0 if name == self.names[1] else 3.0 for name in self.coordinates]
        return np.array(steps)

    def allowed(self, p: np.ndarray) -> bool:
        """False where the law is negative on a frame; a solver must not step there."""
        if self.form == "two_rate":
            return True
        amplitude, exponent, offset = np.asarray(_parameters(self, p))
        return bool(np.all(amplitude * self.t[[0, -1]] ** exponent + offset >= 0))

    def from_shape(self, rate: float, slope: float, exponent: float) -> np.ndarray:
        """Coordinates of the law with this rate and logarithmic slope at t_ref and this exponent; rates kept positive."""
        moment = np.log(self.t[[0, -1]] / self.t_ref)
        lift = np.expm1(exponent * moment) / exponent if exponent else moment
        tiny, huge = self.rate_limits
        ends = np.clip(rate * (1 + slope * lift), max(tiny, 0.02 * rate), huge)
        return np.clip(np.array([*np.log(ends), exponent]), *self.box)

    def rate_and_slope(self, p: jax.Array) -> jax.Array:
        """(2,) ln R and d ln R/d ln t at t_ref."""
        if self.form != "two_rate":
            amplitude, exponent, offset = self.parameters(p)
            power = amplitude * self.t_ref**exponent
            return jnp.stack([jnp.log(power + offset), exponent * power / (power + offset)])
        exponent = self._exponent(p)
        first, last = jnp.exp(p[0]), jnp.exp(p[1])
        log_ref = jnp.log(self.t_ref / self.t[0])
        rate = first + (last - first) * self._weight(exponent, log_ref)
        span = exponential_integral(exponent, jnp.log(self.t[-1] / self.t[0]))
        return jnp.stack([jnp.log(rate), (last - first) * jnp.exp(exponent * log_ref) / span / rate])

    def _exponent(self, p: jax.Array) -> jax.Array:
        return p[2] if self.fixed[1] is None else jnp.asarray(self.fixed[1])

    def _weight(self, exponent: jax.Array, log_time: jax.Array) -> jax.Array:
        return exponential_integral(exponent, log_time) / exponential_integral(exponent, jnp.log(self.t[-1] / self.t[0]))


_parameters = jax.jit(lambda law, p: law.parameters(p))
