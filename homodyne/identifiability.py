"""What the data determine, in words: which numbers get an error, and which sentence replaces it where they get none.

Criteria (docs/optimizer.md): a rate is determined when ln R is known to 0.3 at its best time, the flow direction when it is known
to 10 degrees, and amplitude, exponent and offset separately when the exponent is known to 0.3 and the rate is not constant or
logarithmic within its errors.
"""

from dataclasses import dataclass

import jax
import numpy as np

from .mode.base import AbstractMode, Model
from .mode.rate_law import RateLaw
from .problem import Information
from .results import Curve, Estimate, Status

RATE_ERROR = 0.3
DIRECTION_ERROR = 10.0
EXPONENT_ERROR = 0.3
LOGARITHMIC_EXPONENT, LOGARITHMIC_ERRORS = 0.01, 4.0


@dataclass(frozen=True)
class Identified:
    """Physical results of a minimum.

    jacobian: (K, p) of the user parameters. hidden: (K,) bool, parameters that get no finite error. known: of u.
    """

    parameters: dict[str, Estimate]
    rates: dict[str, Estimate]
    curves: dict[str, Curve]
    jacobian: np.ndarray
    hidden: np.ndarray
    statements: tuple[str, ...]
    t_ref: float
    known: "Knowledge"


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

    limited: (p,) bool, coordinates at the limit of what the record can resolve; they are not known, unlike those that a user's
    bound holds.
    """

    covariance: np.ndarray
    info: Information
    limited: np.ndarray

    def error(self, slope: np.ndarray) -> np.ndarray:
        """(k,) standard errors of quantities with derivative slope (k, p); infinite where the data do not determine them."""
        known = np.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0)
        variance = np.einsum("kp,pq,kq->k", known, self.covariance, known)
        error = np.sqrt(np.where(variance < 0, 0.0, variance))
        unknown = self.info.inverse.unknown(known) | (np.abs(known[:, self.limited]).sum(axis=1) > 0.1) | ~np.isfinite(slope).all(axis=1)
        return np.where(unknown | np.isnan(error), np.inf, error)


def identify(
    model: Model, mode: AbstractMode, u: np.ndarray, covariance: np.ndarray, info: Information, absent: dict[str, str]
) -> Identified:
    """Parameters, rates and curves with errors from the covariance (p, p) of u.

    absent: curves that the data do not need, with the reason.
    """
    results = jax.tree.map(np.asarray, values_and_jacobians(model, u))
    known = Knowledge(covariance, info, _limited(model, info))
    values, jacobian = results["parameters"]
    statements: list[str] = []
    curves = {name: _curve(model, name, results["log_rates"], known, name in absent) for name in model.laws}
    rates, t_ref = _rates(model, results["reference"], known, curves)
    status = _law_status(model, u, known, curves, absent, statements)
    if "phi0" in model.names and mode.parameters["phi0"].fixed is None:
        status["phi0"] = _direction_status(model, u, known, curves, statements)
    errors = known.error(jacobian)
    vague = [name for name, error in zip(model.names, errors, strict=True) if status[name] == "free" and not np.isfinite(error)]
    if vague:
        statements.append(f"{' and '.join(vague)} are not separately determined: only a combination of them is")
        status |= dict.fromkeys(vague, "undetermined")
    parameters = {}
    for name, unit, value, error in zip(model.names, model.units, values, errors, strict=True):
        settings = mode.parameters[name]
        state: Status = "fixed" if settings.fixed is not None else status[name]
        parameters[name] = Estimate(name, float(value), float(error) if state == "free" else np.nan, unit, *settings.limits, state)
    hidden = np.array([parameters[name].status != "free" for name in model.names])
    return Identified(parameters, rates, curves, jacobian, hidden, tuple(statements), t_ref, known)


def _limited(model: Model, info: Information) -> np.ndarray:
    """Held coordinates that are logarithms of rates: their limits are the record's, not the user's."""
    limited = []
    for law in model.laws.values():
        limited += [law.form != "raw" and name not in law.names for name in law.coordinates]
    limited += [False] * (len(info.held) - len(limited))
    return info.held & np.array(limited, dtype=bool)


def _curve(model: Model, name: str, log_rates: tuple[dict, dict], known: Knowledge, absent: bool) -> Curve:
    values, slopes = log_rates
    error = known.error(slopes[name])
    best = int(np.argmin(error))
    rate = np.exp(values[name])
    t = np.asarray(model.t)
    return Curve(name, model.laws[name].unit, t, rate, rate * error, bool(error[best] < RATE_ERROR) and not absent, float(t[best]))


def _rates(model: Model, reference: tuple[dict, dict], known: Knowledge, curves: dict[str, Curve]) -> tuple[dict[str, Estimate], float]:
    """Rate at its best determined time, rate and logarithmic slope at the geometric mean time."""
    values, slopes = reference
    rates: dict[str, Estimate] = {}

    def add(name: str, value: float, error: float, unit: str, curve: Curve) -> None:
        free = curve.determined and np.isfinite(error)
        rates[name] = Estimate(name, value, error if free else np.nan, unit, -np.inf, np.inf, "free" if free else "undetermined")

    for name, curve in curves.items():
        log_rate, log_slope = (float(value) for value in values[name])
        error = known.error(slopes[name])
        at = int(np.argmin(np.abs(curve.t - curve.best_time)))
        add(f"{name}_best", float(curve.value[at]), float(curve.error[at]), curve.unit, curve)
        add(f"{name}_ref", float(np.exp(log_rate)), float(np.exp(log_rate) * error[0]), curve.unit, curve)
        add(f"dln{name}_dlnt", log_slope, float(error[1]), "1", curve)
    return rates, float(np.sqrt(model.t[0] * model.t[-1]))


def _law_status(
    model: Model, u: np.ndarray, known: Knowledge, curves: dict[str, Curve], absent: dict[str, str], statements: list[str]
) -> dict[str, Status]:
    """Status of amplitude, exponent and offset of each law, with a sentence for each that is not simply free."""
    status: dict[str, Status] = dict.fromkeys(model.names, "free")
    begin = 0
    for name, law in model.laws.items():
        at = slice(begin, begin + len(law.coordinates))
        begin = at.stop
        held = known.info.held[at]
        reason, vague = _inseparable(curves[name], law, u[at], known.covariance[at, at], held)
        if not curves[name].determined:
            relative = np.min(curves[name].error / curves[name].value)
            nothing = "nothing in them fixes its size" if np.isfinite(known.covariance).all() else "their noise is not known"
            why = f"its error is {100 * relative:.0f} % at the best time" if np.isfinite(relative) else nothing
            reason = f"{name}(t) is not determined by these data: {absent[name] if name in absent else why}"
            vague = law.names
        status |= dict.fromkeys(vague, "undetermined")
        if reason:
            statements.append(reason)
        touched = [coordinate for coordinate, at_limit in zip(law.coordinates, held, strict=True) if at_limit]
        if touched:
            statements.append(f"at a limit of what the record can resolve, or at a bound that was set: {', '.join(touched)}")
        if curves[name].determined:
            status |= dict.fromkeys((coordinate for coordinate in touched if coordinate in law.names), "at_bound")
            if any(coordinate not in law.names for coordinate in touched):
                status |= dict.fromkeys((law.names[0], law.names[2]), "at_bound")
    return status


def _inseparable(found: Curve, law: RateLaw, p: np.ndarray, covariance: np.ndarray, held: np.ndarray) -> tuple[str | None, tuple[str, ...]]:
    """Why amplitude, exponent and offset mean nothing separately (None when they do), and which of them get no error."""
    if law.form != "two_rate":
        return None, ()
    curve = found.name
    amplitude, exponent_name, offset = law.names
    spread = np.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0.0))
    ends = amplitude, offset
    parts = f"{amplitude}, {exponent_name} and {offset} are not separately determined"
    if abs(p[0] - p[1]) < 2 * spread:
        best = int(np.argmin(found.error))
        rate = f"{found.value[best]:.4g} +- {found.error[best]:.2g} {law.unit}"
        return f"{curve} is constant within errors ({rate}): only {amplitude} + {offset} is determined", law.names
    at = law.exponent_at
    if at is None:
        return None, ()
    error = float(np.sqrt(max(covariance[at, at], 0.0)))
    if held[at]:
        return f"{parts}: {exponent_name} is at its limit {p[at]:.3g}", law.names
    if error > EXPONENT_ERROR:
        return f"{parts}: the error of {exponent_name} is {error:.2g}; {curve} at the reference time and its slope are", law.names
    # Amplitude and offset diverge at exponent 0, so within a few errors of it they have no error worth the name.
    if abs(p[at]) < max(LOGARITHMIC_EXPONENT, LOGARITHMIC_ERRORS * error):
        near = f"{exponent_name} = {p[at]:.2g} +- {error:.2g} is too near 0, where {curve}(t) is logarithmic and both diverge"
        return f"{amplitude} and {offset} are not separately determined: {near}", ends
    return None, ()


def _direction_status(model, u: np.ndarray, known: Knowledge, curves: dict[str, Curve], statements: list[str]) -> Status:
    """Status of phi0, the last coordinate, with a sentence when it is not simply free."""
    if known.info.held[-1]:
        statements.append("phi0 is at its bound")
        return "at_bound"
    error = float(known.error(np.eye(len(u))[-1:])[0])
    directions = np.unique(np.round(np.mod(model.phi, 180.0), 6))
    if len(directions) == 1:
        product = "only gamma_dot |cos(phi0 - phi)| is"
        statements.append(f"phi0 and the shear rate are not separately determined, all angles are collinear: {product}")
        return "undetermined"
    if not curves["gamma_dot"].determined:
        statements.append("phi0 is not determined: there is no determined shear")
        return "undetermined"
    if len(directions) == 2:
        statements.append(_mirror(model, directions, float(u[-1])))
    if error > DIRECTION_ERROR:
        statements.append(f"phi0 is not determined: its error is {error:.0f} degrees")
        return "undetermined"
    return "free"


def _mirror(model, directions: np.ndarray, phi0: float) -> str:
    """With two directions |gamma cos| at each is known, not their relative sign: a second flow fits equally well."""
    first, second = np.deg2rad(directions)
    a, b = np.cos(np.deg2rad(phi0) - first), np.cos(np.deg2rad(phi0) - second)
    x, y = np.linalg.solve([[np.cos(first), np.sin(first)], [np.cos(second), np.sin(second)]], [a, -b])
    mirrored = np.rad2deg(np.arctan2(y, x))
    wrapped = float(model.nominal) + (mirrored - float(model.nominal) + 90) % 180 - 90
    mirror = f"phi0 = {wrapped:.4g} degrees, shear rate times {np.hypot(x, y):.4g}"
    return f"two measured directions allow a mirror solution with equal chi2: {mirror}"
