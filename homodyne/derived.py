"""Quantities that follow from a fit, with errors by the delta method: error^2 = g C g', g = d quantity/d u by JAX, C of the noise option.

    J(5 s), gamma_dot(5 s)    rates at the times asked for, ln R interpolated linearly in ln t between frames
    relaxation_time(5 s)      lag at which h = |g1|^2 of a frame of that age has fallen to 1/e by diffusion alone (q^2 times the integral
                              of J over the lag is 1); relaxation_time[k] with shear, at the angle of map k
    strain, strain(5 s)       integral of gamma_dot from the first frame used to the last, and to the time asked for
    D_Stokes-Einstein         J/2 where it is best known, when J is constant within its errors (equilibrium); else ``J/2 at the last time``,
                              which is the Stokes-Einstein coefficient only if the sample has come to equilibrium by then
    gamma_dot_best[kernel]    shear rate that the other shear kernel would report for the same initial decay (record.KERNEL_TEXT)

States of frames are linear between frames. A relaxation time is NaN where h does not fall to 1/e before the record ends, and has no
error where what it rests on is not determined.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .identifiability import Identified, Knowledge, values_and_jacobians
from .mode.base import Model
from .physics import SHEAR_KERNELS, ShearKernel
from .problem import states_and_slopes
from .results import QUANTILE, Curve, Derived, Estimate, Status

Decay = Callable[[tuple[jax.Array, ...]], jax.Array]
"""h of a pair of frames from the differences of their states."""

FALLEN = float(np.exp(-1.0))
ROWS = 256
"""Ages whose pairs are computed at the same time."""


def derive(model: Model, u: np.ndarray, identified: Identified, *, q: float, phi: np.ndarray, kernel: str, times: np.ndarray) -> Derived:
    """Derived quantities of an estimate u (p,).

    Args:
        q: 1/Angstrom. phi: (P,) angle of each map, degrees. kernel: name of the shear kernel. times: (T,) s, in the record.
    """
    # A law that reaches zero has no logarithm there, and no error.
    with np.errstate(divide="ignore", invalid="ignore"):
        return _derive(model, u, identified, q, phi, kernel, times)


def _derive(model: Model, u: np.ndarray, identified: Identified, q: float, phi: np.ndarray, kernel: str, times: np.ndarray) -> Derived:
    t, found = np.asarray(model.t), _Collection(identified.known, times)
    values, slopes = jax.tree.map(np.asarray, values_and_jacobians(model, u))["log_rates"]
    rates = {name: Series(t, values[name], slopes[name]).exponential for name in model.laws}
    determined = {name: curve.determined for name, curve in identified.curves.items()}
    if "J" in rates:
        _stokes_einstein(rates["J"], found, determined["J"], constant=identified.constant["J"])
    if "gamma_dot" in rates:
        strain = rates["gamma_dot"].integral
        found.add("strain", strain.at(t[-1:]), "1", determined["gamma_dot"])
        found.curve("strain", strain, "1", determined["gamma_dot"])
        for other, rate in _converted(identified, kernel):
            found.quantities[other] = rate
    for name, law in model.laws.items():
        found.at_times(name, rates[name].at(found.times, logarithmic=True), law.unit, determined[name])
    if "gamma_dot" in rates:
        found.at_times("strain", strain.at(found.times), "1", determined["gamma_dot"])
    if "J" in rates:
        transport = rates["J"].integral
        alone = States(t, q**2 * transport.value[None], q**2 * transport.slope.T[None])
        _relaxation("relaxation_time", alone, _exponential, found, determined=determined["J"])
    if "gamma_dot" in rates:
        x, dx = (np.asarray(part) for part in states_and_slopes(model, phi, u, slopes=True))
        for k in range(len(phi)):
            _relaxation(f"relaxation_time[{k}]", States(t, x[k], dx[k]), model.pair, found, determined=True)
    return Derived(found.quantities, found.curves, tuple(found.statements))


@dataclass(frozen=True)
class Series:
    """A quantity at each of k times: value (k,), slope (k, p)."""

    t: np.ndarray
    value: np.ndarray
    slope: np.ndarray

    def __getitem__(self, part: slice) -> "Series":
        return Series(self.t[part], self.value[part], self.slope[part])

    @property
    def exponential(self) -> "Series":
        value = np.exp(self.value)
        return Series(self.t, value, value[:, None] * self.slope)

    @property
    def integral(self) -> "Series":
        """From the first time, by the trapezoidal rule."""
        width = 0.5 * np.diff(self.t)
        value = np.cumsum(width * (self.value[1:] + self.value[:-1]))
        slope = np.cumsum(width[:, None] * (self.slope[1:] + self.slope[:-1]), axis=0)
        return Series(self.t, np.append(0.0, value), np.concatenate([np.zeros_like(slope[:1]), slope]))

    def at(self, times: np.ndarray, *, logarithmic: bool = False) -> "Series":
        """Linear between its times; ``logarithmic``: its logarithm linear between theirs, exact for a power law."""
        if logarithmic:
            relative = Series(np.log(self.t), np.log(self.value), self.slope / self.value[:, None]).at(np.log(times)).exponential
            return Series(times, relative.value, relative.slope)
        left, share = _between(self.t, times)
        value = (1 - share) * self.value[left] + share * self.value[left + 1]
        return Series(times, value, (1 - share)[:, None] * self.slope[left] + share[:, None] * self.slope[left + 1])


@dataclass(frozen=True)
class States:
    """States of the frames at one angle, x (m, n), with their derivatives dx (m, p, n)."""

    t: np.ndarray
    x: np.ndarray
    dx: np.ndarray

    def relaxation(self, pair: Decay, ages: np.ndarray) -> Series:
        """Lag after which h of a frame of each age (a,) has fallen to 1/e; NaN where it has not within the record."""
        begin, change = self._at(ages)
        later, fallen = self._first(pair, ages, begin)
        # The step in which it falls: from the frame before, or from the age itself, to that frame.
        left = np.maximum(self.t[later - 1], ages)
        from_left = self._at(left)[0] - begin
        within = self.x[:, later] - self.x[:, later - 1]
        to_right = self.x[:, later] - begin
        share, slope = (np.asarray(part) for part in _crossing(pair, from_left, to_right))
        end = left + share * (self.t[later] - left)
        speed = np.sum(slope * within, axis=0) / (self.t[later] - self.t[later - 1])
        # By the implicit function theorem: h stays 1/e when u changes.
        push = np.einsum("ma,mpa->ap", slope, self._at(end)[1] - change)
        return Series(ages, np.where(fallen, end - ages, np.nan), np.where(fallen[:, None], -push / speed[:, None], np.nan))

    def _at(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """States (m, a) and their derivatives (m, p, a) at other times."""
        left, share = _between(self.t, times)
        x, dx = ((1 - share) * part[..., left] + share * part[..., left + 1] for part in (self.x, self.dx))
        return x, dx

    def _first(self, pair: Decay, ages: np.ndarray, begin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Index (a,) of the first frame after each age whose h is at most 1/e, and whether there is one."""
        later, fallen = np.full(len(ages), len(self.t) - 1), np.zeros(len(ages), dtype=bool)
        for at in range(0, len(ages), ROWS):
            rows = slice(at, at + ROWS)
            below = np.asarray(_below(pair, self.x, begin[:, rows])) & (self.t[None, :] > ages[rows, None])
            fallen[rows] = below.any(axis=1)
            later[rows] = np.where(fallen[rows], below.argmax(axis=1), later[rows])
        return later, fallen


@dataclass
class _Collection:
    """What has been derived so far."""

    known: Knowledge
    times: np.ndarray
    quantities: dict[str, Estimate] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    statements: list[str] = field(default_factory=list)

    def add(self, name: str, series: Series, unit: str, determined: bool) -> None:
        """A single number, the first of the series."""
        value, error = float(series.value[0]), float(self.known.error(series.slope[:1])[0])
        depends = bool(np.any(series.slope[0] != 0))
        if not depends or not (determined and np.isfinite(error)):
            status: Status = "undetermined" if depends else "fixed"
            self.quantities[name] = Estimate(name, value, np.nan, unit, -np.inf, np.inf, status)
            return
        # All of these are positive, and chi2 is closer to a parabola in their logarithm.
        factor = float(np.exp(QUANTILE * error / value)) if value > 0 else np.nan
        self.quantities[name] = Estimate(name, value, error, unit, -np.inf, np.inf, "free", (value / factor, value * factor))

    def at_times(self, name: str, series: Series, unit: str, determined: bool) -> None:
        """One number for each time asked for."""
        for k, time in enumerate(self.times):
            self.add(f"{name}({time:g} s)", series[k : k + 1], unit, determined)

    def curve(self, name: str, series: Series, unit: str, determined: bool) -> None:
        """The whole series."""
        error = self.known.error(series.slope)
        error = np.where(np.isfinite(error) & np.isfinite(series.value), error, np.nan)
        relative = np.where(series.value > 0, error / series.value, np.nan)
        best = float(series.t[np.nanargmin(relative)]) if np.isfinite(relative).any() else float("nan")
        self.curves[name] = Curve(name, unit, series.t, series.value, error, determined and bool(np.isfinite(error).any()), best)


def _relaxation(name: str, states: States, pair: Decay, found: _Collection, *, determined: bool) -> None:
    count = len(states.t)
    both = states.relaxation(pair, np.concatenate([states.t, found.times]))
    found.curve(name, both[:count], "s", determined)
    found.at_times(name, both[count:], "s", determined)


def _stokes_einstein(transport: Series, found: _Collection, determined: bool, *, constant: bool) -> None:
    """J/2, by the name that it deserves; whether J is constant has been decided (identifiability.py)."""
    ends = np.log(transport.value[-1] / transport.value[0])
    relative = transport.slope / transport.value[:, None]
    error = float(found.known.error(relative[-1:] - relative[:1])[0])
    half = Series(transport.t, 0.5 * transport.value, 0.5 * transport.slope)
    at = int(np.argmin(found.known.error(relative))) if constant else len(half.t) - 1
    found.add("D_Stokes-Einstein" if constant else "J/2 at the last time", half[at:], "Angstrom^2/s", determined)
    if not determined or constant:
        return
    if not np.isfinite(error):
        found.statements.append("how much J changes over the record is not determined, so J/2 need not be a Stokes-Einstein coefficient")
        return
    low, high = np.exp(ends - QUANTILE * error), np.exp(ends + QUANTILE * error)
    change = f"J changes by a factor {np.exp(ends):.3g} over the record (95 %: {low:.2g} ... {high:.2g})"
    found.statements.append(f"{change}: no equilibrium, so J/2 is not a Stokes-Einstein coefficient unless ageing has ended")


def _converted(identified: Identified, kernel: str) -> list[tuple[str, Estimate]]:
    """Shear rates in the conventions of the other kernels: equal initial decay, power kappa^2 the same."""
    if kernel not in SHEAR_KERNELS:
        return []

    def decay(of: ShearKernel) -> float:
        return of.power**0.5 * of.phase_factor

    converted = []
    for other in SHEAR_KERNELS:
        for name in ("gamma_dot_best", "gamma_dot_ref"):
            factor, rate = decay(SHEAR_KERNELS[kernel]) / decay(SHEAR_KERNELS[other]), identified.rates[name]
            if other != kernel:
                ends = (factor * rate.interval[0], factor * rate.interval[1])
                changed = replace(rate, name=f"{name}[{other}]", value=factor * rate.value, error=factor * rate.error, interval=ends)
                converted.append((changed.name, changed))
    return converted


def _between(grid: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the point of the grid before each time, and the share of the next one."""
    left = np.clip(np.searchsorted(grid, times, side="right") - 1, 0, len(grid) - 2)
    return left, (times - grid[left]) / (grid[left + 1] - grid[left])


def _exponential(difference: tuple[jax.Array, ...]) -> jax.Array:
    return jnp.exp(-difference[0])


@partial(jax.jit, static_argnums=0)
def _below(pair: Decay, x: jax.Array, begin: jax.Array) -> jax.Array:
    """(a, n) whether h of frames with states begin (m, a) and x (m, n) is at most 1/e."""
    return pair(tuple(x[:, None, :] - begin[:, :, None])) <= FALLEN


@partial(jax.jit, static_argnums=0)
def _crossing(pair: Decay, left: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Share (a,) of the way from differences left (m, a), h above 1/e, to right where h is 1/e, and d ln h/d difference (m, a) there."""

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        fallen = pair(tuple(left + middle * (right - left))) <= FALLEN
        return jnp.where(fallen, low, middle), jnp.where(fallen, middle, high)

    none = jnp.zeros(left.shape[1])
    low, high = jax.lax.fori_loop(0, 53, halve, (none, none + 1))
    share = 0.5 * (low + high)
    slope = jax.grad(lambda difference: jnp.log(pair(tuple(difference))).sum())(left + share * (right - left))
    return share, slope
