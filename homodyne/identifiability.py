"""What the data determine, in words: which numbers get an error, and which sentence replaces it where they get none.

Criteria (docs/uncertainty.md): a rate is determined when ln R is known to 0.3 at its best time, the flow direction when it is known
to 10 degrees, and amplitude, exponent and offset separately when the exponent is known to 0.6 and the rate is not constant within its
errors. Amplitude and offset then have the interval of region.py. A number that moves with a coordinate at its limit (limits.py) has no
error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import jax
import numpy as np

from .limits import logarithms
from .mode.base import AbstractMode, Model
from .mode.rate_law import RateLaw
from .problem import Information
from .region import Interval, flow_intervals, law_intervals
from .results import QUANTILE, Curve, Estimate, Status

RATE_ERROR = 0.3
DIRECTION_ERROR = 10.0
EXPONENT_ERROR = 0.6
CONSTANT = 2.0
"""Standard deviations of ln of the change along the record below which a rate is constant."""
VAGUE = 1.0
"""Error of ln of a rate from which on there is not even an interval."""
MOVES = 0.3
"""Share of its interval by which a number may move with a coordinate at its limit and keep its error."""


@dataclass(frozen=True)
class Identified:
    """Physical results of a minimum.

    jacobian: (K, p) of the user parameters. hidden: (K,) bool, parameters that get no finite error. known: of u.
    constant: by curve, whether the rate is constant within its errors. moved: parameters and rates that lost their error because they
    move with a coordinate at its limit.
    """

    parameters: dict[str, Estimate]
    rates: dict[str, Estimate]
    curves: dict[str, Curve]
    jacobian: np.ndarray
    statements: tuple[str, ...]
    t_ref: float
    known: "Knowledge"
    constant: Mapping[str, bool]
    moved: tuple[str, ...] = ()

    @property
    def hidden(self) -> np.ndarray:
        return np.array([estimate.status != "free" for estimate in self.parameters.values()])

    def withheld(self) -> "Identified":
        """The same without any error, of a fit that cannot be meant."""
        return replace(
            self,
            parameters={name: estimate.withheld() for name, estimate in self.parameters.items()},
            rates={name: estimate.withheld() for name, estimate in self.rates.items()},
            curves={name: curve.withheld() for name, curve in self.curves.items()},
            statements=(),
        )


@jax.jit
def values_and_jacobians(model: Model, u: jax.Array) -> dict[str, tuple]:
    """User parameters, ln of each rate (n,), and ln rate and slope at the reference time, each with its derivative by u."""
    functions = {"parameters": model.parameters, "log_rates": model.log_rates, "reference": model.reference}
    return {name: (function(u), jax.jacfwd(function)(u)) for name, function in functions.items()}


@jax.jit
def log_rate_slopes(model: Model, u: jax.Array) -> dict[str, jax.Array]:
    """(n, p) derivatives of ln of each rate."""
    return jax.jacfwd(model.log_rates)(u)


@dataclass(frozen=True)
class Knowledge:
    """What is known of u (p,), and through its derivative of every other quantity.

    reach: (h, p) changes of u when each of the h coordinates at a limit goes back inward (limits.py).
    """

    covariance: np.ndarray
    info: Information
    reach: np.ndarray

    def error(self, slope: np.ndarray) -> np.ndarray:
        """(k,) standard errors of quantities with derivative slope (k, p); infinite where the data do not determine them."""
        spread = self._spread(slope)
        unknown = self.info.inverse.unknown(np.nan_to_num(slope)) | self.moves(slope) | ~np.isfinite(slope).all(axis=1)
        return np.where(unknown | np.isnan(spread), np.inf, spread)

    def moves(self, slope: np.ndarray) -> np.ndarray:
        """(k,) whether a quantity moves with a coordinate at its limit by more than its error can bear."""
        slope = np.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0)
        return np.any(np.abs(slope @ self.reach.T) > MOVES * QUANTILE * self._spread(slope)[:, None], axis=1)

    def _spread(self, slope: np.ndarray) -> np.ndarray:
        known = np.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0)
        return np.sqrt(np.maximum(np.einsum("kp,pq,kq->k", known, self.covariance, known), 0.0))


def identify(
    model: Model,
    mode: AbstractMode,
    u: np.ndarray,
    covariance: np.ndarray,
    info: Information,
    absent: dict[str, str],
    reach: np.ndarray | None = None,
) -> Identified:
    """Parameters, rates and curves with errors from the covariance (p, p) of u.

    absent: curves that the data do not need, with the reason. reach: see ``Knowledge``; None: no coordinate is at a limit.
    """
    results = jax.tree.map(np.asarray, values_and_jacobians(model, u))
    known = Knowledge(covariance, info, np.zeros((0, len(u))) if reach is None else reach)
    findings = _Findings(model, mode, u, results, known, absent)
    findings.look_at_laws()
    if "phi0" in model.names and mode.parameters["phi0"].fixed is None:
        findings.look_at_direction()
    return findings.finish()


@dataclass
class _Findings:
    """What has been found out so far: status and interval of each parameter, sentences."""

    model: Model
    mode: AbstractMode
    u: np.ndarray
    results: dict
    known: Knowledge
    absent: dict[str, str]
    status: dict[str, Status] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    statements: list[str] = field(default_factory=list)
    constant: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values, self.jacobian = self.results["parameters"]
        self.status = dict.fromkeys(self.model.names, "free")
        self.curves = {name: self._curve(name) for name in self.model.laws}
        self.rates: dict[str, Estimate] = {}
        for name in self.curves:
            self._add_rates(name)

    def finish(self) -> Identified:
        errors = self.known.error(self.jacobian)
        moves = self.known.moves(self.jacobian)
        moved = [name for name, gone in zip(self.model.names, moves, strict=True) if gone and self.status[name] in ("free", "interval")]
        self.status |= dict.fromkeys(moved, "undetermined")
        vague = [n for n, error in zip(self.model.names, errors, strict=True) if self.status[n] == "free" and not np.isfinite(error)]
        if vague:
            self.statements.append(f"{' and '.join(vague)} are not separately determined: only a combination of them is")
            self.status |= dict.fromkeys(vague, "undetermined")
        moved += self._moved_rates()
        if moved:
            held = [name for name, at_limit in zip(self.model.coordinates, self.known.info.held, strict=True) if at_limit]
            self.statements.append(f"{', '.join(moved)} would move with what is at a limit ({', '.join(held)}), so no error is quoted")
        parameters = {
            name: self._estimate(name, unit, float(value), float(error))
            for name, unit, value, error in zip(self.model.names, self.model.units, self.values, errors, strict=True)
        }
        t = self.model.t
        t_ref = float(np.sqrt(t[0] * t[-1]))
        statements = tuple(self.statements)
        return Identified(parameters, self.rates, self.curves, self.jacobian, statements, t_ref, self.known, self.constant, tuple(moved))

    def _estimate(self, name: str, unit: str, value: float, error: float) -> Estimate:
        settings = self.mode.parameters[name]
        status: Status = "fixed" if settings.fixed is not None else self.status[name]
        if status == "free" and name in self.intervals:
            interval = self.intervals[name].lower, self.intervals[name].upper
        else:
            interval = (value - QUANTILE * error, value + QUANTILE * error)
        if status == "free" and name in self.intervals and not self.intervals[name].straight:
            return Estimate(name, value, np.nan, unit, *settings.limits, "interval", interval)
        if status != "free":
            return Estimate(name, value, np.nan, unit, *settings.limits, status)
        return Estimate(name, value, error, unit, *settings.limits, status, interval)

    def _curve(self, name: str) -> Curve:
        values, slopes = self.results["log_rates"]
        error = self.known.error(slopes[name])
        best = int(np.argmin(error))
        rate, t = np.exp(values[name]), np.asarray(self.model.t)
        determined = bool(error[best] < RATE_ERROR) and name not in self.absent
        return Curve(name, self.model.laws[name].unit, t, rate, rate * error, determined, float(t[best]))

    def _add_rates(self, name: str) -> None:
        """Rate at its best determined time, rate and logarithmic slope at the geometric mean time."""
        curve = self.curves[name]
        values, slopes = (part[name] for part in self.results["reference"])
        error = self.known.error(slopes)
        best = int(np.argmin(np.abs(curve.t - curve.best_time)))
        self._add_rate(f"{name}_best", float(curve.value[best]), float(curve.error[best] / curve.value[best]), curve)
        self._add_rate(f"{name}_ref", float(np.exp(values[0])), float(error[0]), curve)
        free = curve.determined and np.isfinite(error[1])
        slope, half = float(values[1]), QUANTILE * float(error[1])
        interval = (slope - half, slope + half) if free else (np.nan, np.nan)
        key = f"dln{name}_dlnt"
        status: Status = "free" if free else "undetermined"
        self.rates[key] = Estimate(key, slope, float(error[1]) if free else np.nan, "1", -np.inf, np.inf, status, interval)

    def _add_rate(self, key: str, rate: float, relative: float, curve: Curve) -> None:
        """A rate with the interval of its logarithm, in which chi2 is close to a parabola."""
        needed = curve.name not in self.absent and relative < VAGUE
        factor = float(np.exp(QUANTILE * relative)) if needed else np.nan
        # Not only where the error is small: such errors go with rates that fluctuate upward.
        status: Status = "free" if curve.determined and np.isfinite(relative) else "interval" if needed else "undetermined"
        error = rate * relative if status == "free" else np.nan
        self.rates[key] = Estimate(key, rate, error, curve.unit, -np.inf, np.inf, status, (rate / factor, rate * factor))

    def _moved_rates(self) -> list[str]:
        """Rates that lost their error to a coordinate at its limit."""
        moved = []
        for name, curve in self.curves.items():
            gone = self.known.moves(self.results["reference"][1][name])
            lost = (f"{name}_ref", gone[0]), (f"dln{name}_dlnt", gone[1])
            moved += [key for key, moves in lost if moves and curve.determined]
            if not curve.determined and name not in self.absent and self.known.moves(self.results["log_rates"][1][name]).all():
                moved.insert(0, f"{name}_best")
        return moved

    def look_at_laws(self) -> None:
        """Status of amplitude, exponent and offset of each law, with a sentence for each that is not simply free."""
        begin = 0
        for name, law in self.model.laws.items():
            at = slice(begin, begin + len(law.coordinates))
            begin = at.stop
            self.constant[name] = self._is_constant(name, law, at)
            reason, vague = self._inseparable(name, law, at)
            if not self.curves[name].determined:
                reason, vague = self._undetermined(name), law.names
            self.status |= dict.fromkeys(vague, "undetermined")
            if reason:
                self.statements.append(reason)
            held = self.known.info.held[at]
            touched = [coordinate for coordinate, at_limit in zip(law.coordinates, held, strict=True) if at_limit]
            if self.constant[name]:
                # An exponent that shapes nothing may end anywhere.
                touched = [coordinate for coordinate in touched if coordinate not in law.names]
            if touched:
                self.statements.append(f"at a limit of what the record can resolve, or at a bound that was set: {', '.join(touched)}")
            if self.curves[name].determined:
                self.status |= dict.fromkeys((coordinate for coordinate in touched if coordinate in law.names), "at_bound")
                if any(coordinate not in law.names for coordinate in touched):
                    self.status |= dict.fromkeys((law.names[0], law.names[2]), "undetermined")

    def _undetermined(self, name: str) -> str:
        curve = self.curves[name]
        relative = np.min(curve.error / curve.value)
        nothing = "nothing in them fixes its size" if np.isfinite(self.known.covariance).all() else "their noise is not known"
        why = f"its error is {100 * relative:.0f} % at the best time" if np.isfinite(relative) else nothing
        return f"{name}(t) is not determined by these data: {self.absent[name] if name in self.absent else why}"

    def _is_constant(self, name: str, law: RateLaw, at: slice) -> bool:
        """Whether ln of the change along the record is 0 within its errors."""
        held = [c for c, at_limit in zip(law.coordinates, self.known.info.held[at], strict=True) if at_limit]
        if any(coordinate in logarithms(self.model) for coordinate in held):
            return False
        values, slopes = (part[name] for part in self.results["log_rates"])
        slope = slopes[-1] - slopes[0]
        # Not ``known.error``: an exponent that shapes nothing may stand at its limit.
        error = float(np.sqrt(max(float(slope @ self.known.covariance @ slope), 0.0)))
        return bool(abs(float(values[-1] - values[0])) <= CONSTANT * error)

    def _inseparable(self, name: str, law: RateLaw, at: slice) -> tuple[str | None, tuple[str, ...]]:
        """Why amplitude, exponent and offset mean nothing separately (None when they do), and which of them get no error."""
        if law.form != "two_rate":
            return None, ()
        curve, p, held = self.curves[name], self.u[at], self.known.info.held[at]
        amplitude, exponent_name, offset = law.names
        parts = f"{amplitude}, {exponent_name} and {offset} are not separately determined"
        if self.constant[name]:
            best = int(np.argmin(curve.error))
            rate = f"{curve.value[best]:.4g} +- {curve.error[best]:.2g} {law.unit}"
            return f"{name} is constant within errors ({rate}): only {amplitude} + {offset} is determined", law.names
        k = law.exponent_at
        if k is None:
            return None, ()
        covariance = self.known.covariance[at, at]
        unit = np.zeros((1, len(self.u)))
        unit[0, at.start + k] = 1.0
        error = float(np.sqrt(max(covariance[k, k], 0.0)))
        if held[k]:
            return f"{parts}: {exponent_name} is at its limit {p[k]:.3g}", law.names
        if error > EXPONENT_ERROR:
            return f"{parts}: the error of {exponent_name} is {error:.2g}; {self._reference(name)}", law.names
        if held.any() or not np.isfinite(self.known.error(unit)[0]):
            return None, ()
        found = law_intervals(law, p, covariance, QUANTILE)
        self.intervals |= dict(zip(law.names, found, strict=False))
        self._bend(name, *found[3:])
        found = found[:3]
        if all(interval.lower <= interval.upper < np.inf for interval in found):
            return None, ()
        near = f"{exponent_name} = {p[k]:.2g} +- {error:.2g} reaches 0, where {name}(t) is logarithmic and both are infinite"
        boundless = tuple(law.names[k] for k in (0, 2) if not np.isfinite(found[k].lower))
        return f"{amplitude} and {offset} have no limit on one side: {near}; {self._reference(name)}", boundless

    def _bend(self, name: str, rate: Interval, slope: Interval) -> None:
        """Rate and slope at the reference time with the interval of the region, where they have an error at all."""
        for key, interval, logarithmic in ((f"{name}_ref", rate, True), (f"dln{name}_dlnt", slope, False)):
            found, ends = self.rates[key], (interval.lower, interval.upper)
            if found.status == "free":
                ends = (float(np.exp(ends[0])), float(np.exp(ends[1]))) if logarithmic else ends
                self.rates[key] = replace(found, interval=ends)

    def _reference(self, name: str) -> str:
        """Rate and slope at the reference time, in numbers."""
        rate, slope = self.rates[f"{name}_ref"], self.rates[f"dln{name}_dlnt"]
        t = self.model.t
        parts = [f"{value.value:.4g} +- {value.error:.2g}" if np.isfinite(value.error) else "not determined" for value in (rate, slope)]
        return f"{name}({np.sqrt(t[0] * t[-1]):.3g} s) = {parts[0]} {rate.unit} and its slope dln{name}/dlnt = {parts[1]} are known better"

    def look_at_direction(self) -> None:
        """Status of phi0, the last coordinate, with a sentence when it is not simply free, and what it does to the shear rate."""
        if self.known.info.held[-1]:
            self.statements.append("phi0 is at its bound")
            self.status["phi0"] = "at_bound"
            return
        directions = np.unique(np.round(np.mod(self.model.phi, 180.0), 6))  # type: ignore[attr-defined]
        slope, relative, angle, _ = self._product()
        if len(directions) == 1:
            self._only_product("phi0 and the shear rate are not separately determined, all angles are collinear")
            return
        if "gamma_dot" in self.absent or not relative < RATE_ERROR:
            self.statements.append("phi0 is not determined: there is no determined shear")
            self.status["phi0"] = "undetermined"
            return
        if len(directions) == 2 and self.curves["gamma_dot"].determined:
            self.statements.append(_mirror(self.model, directions, float(self.u[-1])))
        if not np.isfinite(self.known.error(np.eye(len(self.u))[-1:])[0]):
            self._only_product("phi0 is not determined")
            return
        turned = np.zeros(len(self.u))
        turned[-1] = np.deg2rad(1.0)
        pair = np.array([slope, turned])
        turn = float(np.deg2rad(self.u[-1] - self.model.phi[angle]))  # type: ignore[attr-defined]
        rate, direction = flow_intervals(turn, pair @ self.known.covariance @ pair.T, QUANTILE)
        low, high = (float(self.u[-1] + np.rad2deg(end)) for end in (direction.lower, direction.upper))
        if high - low > 2 * QUANTILE * DIRECTION_ERROR or not self.curves["gamma_dot"].determined:
            self._only_product(f"phi0 is not determined, it may be {low:.0f} to {high:.0f} degrees (95 %)")
            return
        self.intervals["phi0"] = Interval(low, high, direction.straight)
        if not rate.straight:
            self._turned(rate, relative, angle)

    def _product(self) -> tuple[np.ndarray, float, int, int]:
        """Slope (p,) and error of ln of gamma_dot |cos(phi0 - phi)| at the time and angle where it is known best, and their indices."""
        slopes = self.results["log_rates"][1]["gamma_dot"]
        turn = np.deg2rad(self.u[-1] - self.model.phi)  # type: ignore[attr-defined]
        along = np.repeat(slopes[None], len(turn), axis=0)
        along[..., -1] -= np.deg2rad(np.tan(turn))[:, None]
        error = np.array([self.known.error(slope) for slope in along])
        angle, time = (int(k) for k in np.unravel_index(int(np.argmin(error)), error.shape))
        return along[angle, time], float(error[angle, time]), angle, time

    def _only_product(self, why: str) -> None:
        """Only the rate along one angle is known: its number takes the place of the rate's."""
        curve, (_, relative, angle, time) = self.curves["gamma_dot"], self._product()
        phi = float(self.model.phi[angle])  # type: ignore[attr-defined]
        value = float(curve.value[time] * abs(np.cos(np.deg2rad(self.u[-1] - phi))))
        name = f"gamma_dot({curve.t[time]:.3g} s) |cos(phi0 {'+' if phi < 0 else '-'} {abs(phi):.4g})|"
        self.curves["gamma_dot"] = curve.withheld()
        self.rates |= {key: rate.withheld() for key, rate in self.rates.items() if key in ("gamma_dot_best", "gamma_dot_ref")}
        self._add_rate("gamma_dot_along", value, relative, replace(curve, determined=relative < RATE_ERROR))
        self.rates["gamma_dot_along"] = replace(self.rates["gamma_dot_along"], name=name)
        product = f"{name} = {value:.4g} +- {value * relative:.2g} 1/s" if relative < RATE_ERROR else "gamma_dot |cos(phi0 - phi)|"
        self.statements.append(f"{why}: only the product gamma_dot |cos(phi0 - phi)| is known; {product}")
        shear = self.model.laws["gamma_dot"].names
        self.status |= dict.fromkeys((shear[0], shear[2], "phi0"), "undetermined")

    def _turned(self, found: Interval, relative: float, angle: int) -> None:
        """Where phi0 is known to some degrees only, the shear rate follows the valley of a constant component along one angle."""
        for key in ("gamma_dot_best", "gamma_dot_ref"):
            rate = self.rates[key]
            interval = (rate.value * np.exp(found.lower), rate.value * np.exp(found.upper))
            self.rates[key] = replace(rate, error=np.nan, status="interval", interval=interval)
        self.curves["gamma_dot"] = self.curves["gamma_dot"].withheld()
        shear = self.model.laws["gamma_dot"].names
        self.status |= dict.fromkeys((shear[0], shear[2]), "undetermined")
        phi = f"{float(self.model.phi[angle]):.4g}"  # type: ignore[attr-defined]
        self.statements.append(
            f"phi0 is known to a few degrees only, so the shear rate has an interval instead of an error; its component along phi = {phi} "
            f"degrees is known to {100 * relative:.2g} %"
        )


def _mirror(model, directions: np.ndarray, phi0: float) -> str:
    """With two directions |gamma cos| at each is known, not their relative sign: a second flow fits equally well."""
    first, second = np.deg2rad(directions)
    a, b = np.cos(np.deg2rad(phi0) - first), np.cos(np.deg2rad(phi0) - second)
    x, y = np.linalg.solve([[np.cos(first), np.sin(first)], [np.cos(second), np.sin(second)]], [a, -b])
    mirrored = np.rad2deg(np.arctan2(y, x))
    wrapped = float(model.nominal) + (mirrored - float(model.nominal) + 90) % 180 - 90
    mirror = f"phi0 = {wrapped:.4g} degrees, shear rate times {np.hypot(x, y):.4g}"
    return f"two measured directions allow a mirror solution with equal chi2: {mirror}"
