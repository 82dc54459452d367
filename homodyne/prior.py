"""The prior of a model: what the user states about D0, alpha, ... as a density of the coordinates that are sampled.

A rate law whose amplitude and offset have no prior is sampled in the coordinates of the solver (mode/rate_law.py), in which the prior
is constant within the limits of what the record can resolve: ln R_a, ln R_b and the exponent. Where they have one, the coordinates are

    (l, e, s) = (ln R(t_ref), exponent, offset/R(t_ref)),      amplitude = exp(l) (1 - s) t_ref^-e,     offset = s exp(l),

which are regular at exponent 0, where amplitude and offset mean nothing apart; d(amplitude, offset)/d(l, s) = exp(2 l) t_ref^-e.
Every stated density is one of the user's parameter, so its Jacobian is part of the prior. Bounds cut it off.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats
from jax.tree_util import register_dataclass

from .errors import ConfigError
from .mode.base import Model, ParameterSettings
from .mode.prior import NEEDS
from .mode.rate_law import RateLaw

FEW = 64
"""Draws of a prior that may all miss the domain of the model before it is called empty, in thousands."""


@dataclass(frozen=True)
class Belief:
    """The stated prior of one parameter: kind and numbers as in ``mode.prior``, cut off at low and high."""

    name: str
    kind: str
    values: tuple[float, ...]
    low: float
    high: float

    def log_density(self, x: jax.Array) -> jax.Array:
        """ln of the density at x without the factor that the bounds make; -inf outside."""
        values = self.values
        match self.kind:
            case "normal":
                log = stats.norm.logpdf(x, *values)
            case "truncated_normal":
                log = jnp.where((x >= values[2]) & (x <= values[3]), stats.norm.logpdf(x, *values[:2]), -jnp.inf)
            case "lognormal":
                above = jnp.where(x > 0, x, values[0])
                log = jnp.where(x > 0, stats.norm.logpdf(jnp.log(above), np.log(values[0]), values[1]) - jnp.log(above), -jnp.inf)
            case "uniform":
                log = stats.uniform.logpdf(x, values[0], values[1] - values[0])
            case "half_normal":
                log = jnp.where(x >= 0, stats.norm.logpdf(x, 0.0, values[0]), -jnp.inf)
            case "beta_scaled":
                a, b, low, high = values
                inside = (x > low) & (x < high)
                log = jnp.where(inside, stats.beta.logpdf(jnp.where(inside, x, 0.5 * (low + high)), a, b, low, high - low), -jnp.inf)
            case _:
                raise AssertionError(self.kind)
        return jnp.where((x >= self.low) & (x <= self.high), log, -jnp.inf)

    def quantile(self, probability: np.ndarray) -> np.ndarray:
        """Quantiles of the prior, its bounds included."""
        # scipy.stats takes a second to import and is needed for draws of a prior only.
        from scipy import stats as distributions

        values = self.values
        match self.kind:
            case "normal":
                found = distributions.norm(*values)
            case "truncated_normal":
                mean, sd, low, high = values
                found = distributions.truncnorm((low - mean) / sd, (high - mean) / sd, mean, sd)
            case "lognormal":
                found = distributions.lognorm(values[1], scale=values[0])
            case "uniform":
                found = distributions.uniform(values[0], values[1] - values[0])
            case "half_normal":
                found = distributions.halfnorm(scale=values[0])
            case "beta_scaled":
                a, b, low, high = values
                found = distributions.beta(a, b, low, high - low)
            case _:
                raise AssertionError(self.kind)
        below, above = found.cdf(self.low), found.cdf(self.high)
        return found.ppf(below + (above - below) * probability)

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} {value:g}" for name, value in zip(NEEDS[self.kind], self.values, strict=True))
        limits = f", within [{self.low:g}, {self.high:g}]" if np.isfinite([self.low, self.high]).any() else ""
        return f"{self.kind} ({numbers}){limits}"


@partial(register_dataclass, data_fields=("model", "bounds", "limits"), meta_fields=("beliefs", "stated"))
@dataclass(frozen=True)
class ModelPrior:
    """The prior of one model, and the coordinates u (p,) in which it is sampled.

    Attributes:
        model: whose coordinates w (p,) the likelihood takes.
        beliefs: stated ones. stated: curves in the coordinates (l, e, s).
        bounds: (K, 2) of the user's parameters, infinite for none. limits: (2, p) box of the model's coordinates.
    """

    model: Model
    beliefs: tuple[Belief, ...]
    stated: tuple[str, ...]
    bounds: np.ndarray
    limits: np.ndarray

    @classmethod
    def of(cls, model: Model, settings: Mapping[str, ParameterSettings], fitted: np.ndarray | None = None) -> "ModelPrior":
        """The prior of the settings of a mode (``check_priors`` has passed).

        Args:
            fitted: (p,) coordinates of the fit. A periodic coordinate has one period, around its prior's median or else the fit; with
                neither, around what the mode calls nominal.
        """
        beliefs = tuple(
            Belief(name, given.prior.kind, given.prior.values, *given.limits)
            for name, given in settings.items()
            if given.prior is not None and given.fixed is None
        )
        named = {belief.name for belief in beliefs}
        stated = tuple(name for name, law in model.laws.items() if law.form == "two_rate" and law.names[0] in named)
        bounds = np.array([settings[name].limits for name in model.names])
        nominal = model.canonical(np.zeros(len(model.lower))) if fitted is None else fitted
        limits, half = np.array([model.lower, model.upper]), 0.5 * model.period
        for k in np.flatnonzero(np.isfinite(half)):
            own = [belief for belief in beliefs if belief.name == model.coordinates[k]]
            middle = float(own[0].quantile(np.array(0.5))) if own else nominal[k]
            limits[:, k] = middle - half[k], middle + half[k]
        return cls(model, beliefs, stated, bounds, limits)

    @property
    def coordinates(self) -> tuple[str, ...]:
        """(p,) names of what is sampled."""
        names: list[str] = []
        for curve, law in self.model.laws.items():
            if curve in self.stated:
                names += [f"ln {curve} at t_ref", *law.coordinates[2:], f"{law.names[2]}/{curve} at t_ref"]
            else:
                names += law.coordinates
        return (*names, *self.model.coordinates[len(names) :])

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper limits (p,) of the coordinates; infinite for none."""
        lower, upper = np.array(self.limits)
        for curve, at in self._slices().items():
            if curve in self.stated:
                lower[at.stop - 1], upper[at.stop - 1] = -np.inf, np.inf
                exponent = self.model.laws[curve].exponent_at
                if exponent is not None:
                    lower[at.start + 1], upper[at.start + 1] = self.limits[:, at.start + exponent]
        return lower, upper

    @property
    def harmless(self) -> jax.Array:
        """(p,) coordinates of the model at which it can be evaluated."""
        lower, upper = jnp.asarray(self.limits)
        return 0.5 * (jnp.where(jnp.isfinite(lower), lower, 0.0) + jnp.where(jnp.isfinite(upper), upper, 0.0))

    def to_model(self, u: jax.Array) -> jax.Array:
        """Coordinates w (p,) of the model; NaN where a rate is not positive."""
        parts = []
        for curve, at in self._slices().items():
            law, p = self.model.laws[curve], u[at]
            parts.append(_two_rate(law, p) if curve in self.stated else p)
        return jnp.concatenate([*parts, u[sum(map(len, parts)) :]])

    def from_model(self, w: np.ndarray) -> np.ndarray:
        """Coordinates u (p,) of model coordinates; offsets of laws near exponent 0 are kept within ten times their rate."""
        u = np.array(w, dtype=np.float64)
        around = np.flatnonzero(np.isfinite(self.model.period))
        u[around] = self.limits[0, around] + np.mod(u[around] - self.limits[0, around], self.model.period[around])
        for curve, at in self._slices().items():
            if curve in self.stated:
                law = self.model.laws[curve]
                log_rate, slope = np.asarray(law.rate_and_slope(jnp.asarray(w[at])))
                exponent = law.fixed[1] if law.fixed[1] is not None else w[at.start + 2]
                share = float(np.clip(1 - slope / exponent if exponent else 0.0, -10.0, 10.0))
                u[at] = [log_rate, exponent, share] if law.fixed[1] is None else [log_rate, share]
        return u

    def starts(self, w: np.ndarray) -> np.ndarray:
        """(m, p) coordinates near the fit w (p,), the fit first.

        What the data hardly determine the fit may have put where a prior has nothing. So each law with stated priors is also begun at its
        rate of the fit, with the offset's share of the prior's medians, at the exponent of the fit and at that of the prior, 0 for none.
        """
        medians = {belief.name: float(belief.quantile(np.array(0.5))) for belief in self.beliefs}
        points = [self.from_model(w)]
        for curve, at in self._slices().items():
            if curve not in self.stated:
                continue
            law = self.model.laws[curve]
            amplitude, exponent, offset = law.names
            for point in tuple(points):
                fitted = point[at.start + 1] if law.fixed[1] is None else law.fixed[1]
                usual = fitted if law.fixed[1] is not None else medians[exponent] if exponent in medians else 0.0
                for power in dict.fromkeys((fitted, usual)):
                    rate = medians[amplitude] * law.t_ref**power
                    own = [power, medians[offset] / (rate + medians[offset])]
                    moved = point.copy()
                    moved[at.start + 1 : at.stop] = own if law.fixed[1] is None else own[1:]
                    points.append(moved)
        return np.array(points)

    def log_density(self, u: jax.Array) -> jax.Array:
        """ln of the prior density at u (p,), up to a constant; -inf outside the domain of the model and outside of bounds."""
        w = self.to_model(u)
        parameters = self.parameters(u, w)
        values = dict(zip(self.model.names, parameters, strict=True))
        lower, upper = jnp.asarray(self.limits)
        low, high = jnp.asarray(self.bounds).T
        # A parameter that is not finite (amplitude and offset at exponent 0) is outside of any bound that it has.
        inside = jnp.all((w >= lower) & (w <= upper)) & jnp.all(
            (jnp.isinf(low) | (parameters >= low)) & (jnp.isinf(high) | (parameters <= high))
        )
        total = jnp.where(inside, 0.0, -jnp.inf)
        for belief in self.beliefs:
            total += belief.log_density(values[belief.name])
        named = {belief.name for belief in self.beliefs}
        for curve, at in self._slices().items():
            law, p = self.model.laws[curve], u[at]
            if curve in self.stated:
                total += 2 * p[0] - (law.fixed[1] if law.fixed[1] is not None else p[1]) * jnp.log(law.t_ref)
            elif law.form == "power" and law.names[0] in named:
                total += jnp.log(values[law.names[0]])
            if law.form != "two_rate":
                total += jnp.where(jnp.min(law.rate(p)[jnp.array([0, -1])]) > 0, 0.0, -jnp.inf)
        return total

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray | None:
        """(count, p) draws of the prior within the domain of the model; None where it is improper or has next to nothing there."""
        lower, upper = self.box
        kept: list[np.ndarray] = []
        density = jax.jit(jax.vmap(self.log_density))
        for _ in range(FEW):
            u = self._propose(rng, 1000, lower, upper)
            if not np.isfinite(u).all():
                return None
            kept.append(u[np.isfinite(np.asarray(density(u)))])
            if sum(map(len, kept)) >= count:
                return np.concatenate(kept)[:count]
        return None

    @property
    def text(self) -> dict[str, str]:
        """The prior of each fitted parameter, in words."""
        named = {belief.name: str(belief) for belief in self.beliefs}
        lines: dict[str, str] = {}
        for curve, law in self.model.laws.items():
            rates = f"ln {curve} constant at the first and the last time" if law.form == "two_rate" else "constant in its coordinate"
            for name, fixed in zip(law.names, law.fixed, strict=True):
                if fixed is None:
                    low, high = self.bounds[self.model.names.index(name)]
                    plain = f"uniform in [{max(low, -2.0):g}, {min(high, 2.0):g}]" if name == law.names[1] else rates
                    lines[name] = named[name] if name in named else plain
        if "phi0" in self.model.coordinates:
            lines["phi0"] = named["phi0"] if "phi0" in named else "uniform"
        return lines

    def parameters(self, u: jax.Array, w: jax.Array) -> jax.Array:
        """(K,) user parameters at u and the model's w = to_model(u).

        Amplitude and offset of a law without a stated prior have no derivative: they diverge at exponent 0.
        """
        values, names = jax.lax.stop_gradient(self.model.parameters(w)), self.model.names
        for curve, at in self._slices().items():
            law, p = self.model.laws[curve], u[at]
            first = names.index(law.names[0])
            if curve in self.stated:
                values = values.at[first : first + 3].set(_amplitude_and_offset(law, p))
            elif law.form != "two_rate":
                values = values.at[first : first + 3].set(law.parameters(p))
            elif law.exponent_at is not None:
                values = values.at[first + 1].set(p[law.exponent_at])
        return values.at[names.index("phi0")].set(u[-1]) if "phi0" in self.model.coordinates else values

    def _slices(self) -> dict[str, slice]:
        """Coordinates of each rate law."""
        slices, begin = {}, 0
        for curve, law in self.model.laws.items():
            slices[curve] = slice(begin, begin + len(law.coordinates))
            begin = slices[curve].stop
        return slices

    def _propose(self, rng: np.random.Generator, count: int, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """(count, p) draws before the domain of the model is looked at."""
        uniform = rng.random((count, len(lower)))
        beliefs = {belief.name: belief for belief in self.beliefs}
        with np.errstate(invalid="ignore", over="ignore"):
            u = lower + (upper - lower) * uniform
        for curve, at in self._slices().items():
            law = self.model.laws[curve]
            drawn = {name: beliefs[name].quantile(rng.random(count)) for name in law.names if name in beliefs}
            exponent = law.exponent_at
            if law.names[1] in drawn and exponent is not None:
                u[:, at.start + (1 if curve in self.stated else exponent)] = drawn[law.names[1]]
            power = u[:, at.start + 1] if exponent is not None else law.fixed[1]
            if curve in self.stated:
                amplitude, offset = (drawn[law.names[k]] for k in (0, 2))
                rate = amplitude * law.t_ref**power + offset
                u[:, at.start] = np.log(np.where(rate > 0, rate, 1e-300))
                u[:, at.stop - 1] = np.where(rate > 0, offset, 0.0) / np.where(rate > 0, rate, 1.0)
            elif law.form == "power" and law.names[0] in drawn:
                u[:, at.start] = np.log(np.maximum(drawn[law.names[0]], 1e-300) * law.t_ref ** np.asarray(power))
            elif law.form == "raw":
                for k, name in enumerate(law.coordinates):
                    if name in drawn:
                        u[:, at.start + k] = drawn[name]
        if "phi0" in self.model.coordinates:
            u[:, -1] = beliefs["phi0"].quantile(uniform[:, -1]) if "phi0" in beliefs else u[:, -1]
        return u


def check_priors(settings: Mapping[str, ParameterSettings], laws: tuple[tuple[str, ...], ...]) -> None:
    """Amplitude and offset of a law have a prior both or neither, for one alone leaves the other improper.

    Raises:
        ConfigError: one has.
    """
    for amplitude, _, offset in laws:
        free = [name for name in (amplitude, offset) if settings[name].fixed is None]
        without = [name for name in free if settings[name].prior is None]
        if len(free) == 2 and len(without) == 1:
            (other,) = set(free) - set(without)
            raise ConfigError(f"mode.parameters.{without[0]}.prior: null, but {other} has one; accepted: a prior for both, or for neither")


def _two_rate(law: RateLaw, p: jax.Array) -> jax.Array:
    """ln of the rates at the first and last time, and the exponent where it is fitted, from (l, e, s)."""
    power, share = _exponent_and_share(law, p)
    ends = (1 - share) * jnp.exp(power * jnp.log(law.t[np.array([0, -1])] / law.t_ref)) + share
    # In two steps, so that the derivative is 0 and not NaN where a rate is not positive.
    logs = p[0] + jnp.where(ends > 0, jnp.log(jnp.where(ends > 0, ends, 1.0)), jnp.nan)
    return jnp.concatenate([logs, p[1:2]]) if law.fixed[1] is None else logs


def _amplitude_and_offset(law: RateLaw, p: jax.Array) -> jax.Array:
    """(3,) amplitude, exponent and offset from (l, e, s)."""
    power, share = _exponent_and_share(law, p)
    rate = jnp.exp(p[0])
    return jnp.stack([rate * (1 - share) * law.t_ref**-power, jnp.asarray(power), rate * share])


def _exponent_and_share(law: RateLaw, p: jax.Array):
    return (p[1], p[2]) if law.fixed[1] is None else (jnp.asarray(law.fixed[1]), p[1])
