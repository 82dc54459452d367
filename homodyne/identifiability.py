"""What the data determine, in words: which numbers get an error, and which sentence replaces it where they get none.

Criteria (docs/optimizer.md): a rate is determined when ln R is known to 0.3 at its best time, the flow direction when it is known
to 10 degrees, and amplitude, exponent and offset separately when the exponent is known to 0.3 and the rate is not constant or
logarithmic within its errors.
"""

from dataclasses import dataclass

import jax
import numpy as np

from .mode.base import AbstractMode, Model
from .problem import Information
from .results import Curve, Estimate, Status

RATE_ERROR = 0.3
DIRECTION_ERROR = 10.0
EXPONENT_ERROR = 0.3
LOGARITHMIC_EXPONENT = 0.01


@dataclass(frozen=True)
class Identified:
    """Physical results of a minimum.

    jacobian: (K, p) of the user parameters. hidden: (K,) bool, parameters that get no finite error.
    """

    parameters: dict[str, Estimate]
    rates: dict[str, Estimate]
    curves: dict[str, Curve]
    jacobian: np.ndarray
    hidden: np.ndarray
    statements: tuple[str, ...]
    t_ref: float


@jax.jit
def _values_and_jacobians(model: Model, u: jax.Array) -> dict[str, tuple]:
    functions = {"parameters": model.parameters, "log_rates": model.log_rates, "reference": model.reference}
    return {name: (function(u), jax.jacfwd(function)(u)) for name, function in functions.items()}


def identify(model: Model, mode: AbstractMode, u: np.ndarray, covariance: np.ndarray, info: Information) -> Identified:
    """Parameters, rates and curves with errors from the covariance (p, p) of u; held coordinates have none."""
    results = jax.tree.map(np.asarray, _values_and_jacobians(model, u))
    values, jacobian = results["parameters"]
    statements: list[str] = []
    curves = _curves(model, results["log_rates"], covariance)
    rates, t_ref = _rates(model, results["reference"], covariance, curves)
    status = _law_status(model, u, covariance, info, curves, statements)
    if "phi0" in model.names and mode.parameters["phi0"].fixed is None:
        status["phi0"] = _direction_status(model, u, covariance, info, curves, statements)
    with np.errstate(invalid="ignore", over="ignore"):
        errors = np.sqrt(np.einsum("kp,pq,kq->k", np.nan_to_num(jacobian, posinf=0.0, neginf=0.0), covariance, np.nan_to_num(jacobian)))
    parameters = {}
    for name, unit, value, error in zip(model.names, model.units, values, errors, strict=True):
        settings = mode.parameters[name]
        state: Status = "fixed" if settings.fixed is not None else status[name]
        known = state == "free" and np.isfinite(value)
        parameters[name] = Estimate(name, float(value), float(error) if known else float("nan"), unit, *settings.limits, state)
    hidden = np.array([parameters[name].status != "free" for name in model.names])
    return Identified(parameters, rates, curves, jacobian, hidden, tuple(statements), t_ref)


def _curves(model: Model, log_rates: tuple, covariance: np.ndarray) -> dict[str, Curve]:
    values, slopes = log_rates
    curves = {}
    for name, log_rate in values.items():
        slope = np.asarray(slopes[name])
        error = np.sqrt(np.maximum(np.einsum("tp,pq,tq->t", slope, covariance, slope), 0.0))
        best = int(np.argmin(np.where(error > 0, error, np.inf)))
        rate = np.exp(np.asarray(log_rate))
        determined = bool(0 < error[best] < RATE_ERROR) or not slope.any()
        t = np.asarray(model.t)
        curves[name] = Curve(name, _unit(model, name), t, rate, rate * error, determined, float(t[best]))
    return curves


def _rates(model: Model, reference: tuple, covariance: np.ndarray, curves: dict[str, Curve]) -> tuple[dict[str, Estimate], float]:
    """Rate and logarithmic slope at the geometric mean time, and the rate at its best determined time."""
    values, slopes = reference
    rates: dict[str, Estimate] = {}
    t_ref = float(np.sqrt(model.t[0] * model.t[-1]))

    def add(name: str, value: float, error: float, unit: str, curve: Curve) -> None:
        known = curve.determined and np.isfinite(error)
        rates[name] = Estimate(name, value, error if known else float("nan"), unit, -np.inf, np.inf, "free" if known else "undetermined")

    for name, pair in values.items():
        curve, slope = curves[name], np.asarray(slopes[name])
        error = np.sqrt(np.maximum(np.einsum("kp,pq,kq->k", slope, covariance, slope), 0.0))
        rate = float(np.exp(pair[0]))
        at = int(np.argmin(np.abs(curve.t - curve.best_time)))
        add(f"{name}_best", float(curve.value[at]), float(curve.error[at]), curve.unit, curve)
        add(f"{name}_ref", rate, rate * float(error[0]), curve.unit, curve)
        add(f"dln{name}_dlnt", float(pair[1]), float(error[1]), "1", curve)
    return rates, t_ref


def _law_status(model, u, covariance, info: Information, curves, statements: list[str]) -> dict[str, Status]:
    """Status of amplitude, exponent and offset of each law, with a sentence for each that is not simply free."""
    status: dict[str, Status] = {}
    begin = 0
    for curve_name, law in model.laws.items():
        at = slice(begin, begin + len(law.coordinates))
        begin = at.stop
        p, cov, held = u[at], covariance[at, at], info.held[at]
        curve = curves[curve_name]
        reason = None
        bound = [name for name, touching in zip(law.coordinates, held, strict=True) if touching]
        if not curve.determined:
            reason = f"{curve_name}(t) is not determined by these data: its error is {100 * _best_error(curve):.0f} % at the best time"
        elif law.form == "two_rate":
            reason = _inseparable(curve_name, law, p, cov, held)
        for name in law.names:
            status[name] = "undetermined" if reason else "free"
        if reason:
            statements.append(reason)
        if bound:
            statements.append(f"at a limit of what the record can resolve or of the bounds set: {', '.join(bound)}")
            for name in law.names:
                if name in bound or any(name in coordinate for coordinate in bound):
                    status[name] = "at_bound"
    return status


def _inseparable(curve_name: str, law, p: np.ndarray, cov: np.ndarray, held: np.ndarray) -> str | None:
    """Why amplitude, exponent and offset mean nothing separately, or None when they do."""
    amplitude, exponent_name, offset = law.names
    rate = np.exp(p[:2])
    spread = np.sqrt(max(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1], 0.0))
    parts = f"{amplitude}, {exponent_name} and {offset} are not separately determined"
    if abs(p[0] - p[1]) < 2 * spread:
        return f"{curve_name} is constant within errors ({rate.mean():.4g} {_UNIT[curve_name]}): only {amplitude} + {offset} is determined"
    at = law.exponent_at
    if at is None:
        return None
    error = float(np.sqrt(max(cov[at, at], 0.0)))
    if held[at]:
        return f"{parts}: {exponent_name} is at its limit {p[at]:.3g}"
    if error > EXPONENT_ERROR:
        return f"{parts}: the error of {exponent_name} is {error:.2g}; {curve_name} at the reference time and its slope are"
    # The amplitude has the sign of (last rate - first rate)/exponent.
    crossed = (p[1] - p[0]) * p[at] < 0 and abs(p[at]) < 2 * error
    if abs(p[at]) < LOGARITHMIC_EXPONENT or crossed:
        return f"{parts}: {curve_name}(t) is logarithmic in t within errors ({exponent_name} = {p[at]:.2g} +- {error:.2g})"
    return None


def _direction_status(model, u, covariance, info: Information, curves, statements: list[str]) -> Status:
    if info.held[-1]:
        statements.append("phi0 is at its bound")
        return "at_bound"
    error = float(np.sqrt(covariance[-1, -1]))
    if not curves["gamma_dot"].determined:
        statements.append("phi0 is not determined: there is no determined shear")
        return "undetermined"
    directions = np.unique(np.round(np.mod(model.phi, 180.0), 6))
    if len(directions) == 1:
        product = "only gamma_dot |cos(phi0 - phi)| is"
        statements.append(f"phi0 and the shear rate are not separately determined, all angles are collinear: {product}")
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


def _best_error(curve: Curve) -> float:
    relative = curve.error / np.where(curve.value > 0, curve.value, np.nan)
    return float(min(np.nanmin(np.where(relative > 0, relative, np.nan), initial=99.0), 99.0))


_UNIT = {"J": "Angstrom^2/s", "gamma_dot": "1/s"}


def _unit(model: Model, curve: str) -> str:
    return _UNIT[curve]
