"""A Fit as the few lines a person reads first: each number with its error, and beside it the truth when the data were simulated."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from .results import Curve, Estimate, Fit

STATUS_WORDS = {"free": "", "fixed": "fixed", "at_bound": "at bound", "undetermined": "not determined"}


def summary(fit: Fit, truth: Mapping[str, float] | None = None) -> str:
    """The printed result of a run, several lines."""
    lines = ["", *_rates(fit), *_table(fit.parameters.values(), truth or {}), ""]
    lines += [_range("contrast", fit.contrast, fit.contrast_error), _range("offset", fit.offset, fit.offset_error)]
    lines += [
        f"angles {len(fit.phi)}, pairs {fit.pairs}, passes over the pixels {fit.passes}",
        f"shear kernel {fit.shear_kernel}, scaling {fit.scaling}",
        f"chi2 {fit.chi2:.6g}, degrees of freedom {fit.dof}, chi2/dof {fit.reduced_chi2:.4g}, residual of a pixel {fit.sigma:.3g}",
        f"errors: {fit.noise}: {fit.noise_text}",
    ]
    lines += [f"- {statement}" for statement in (*fit.decisions, *fit.statements)]
    lines += ["", f"{'converged' if fit.success else 'NOT CONVERGED: ' + fit.outcome.value}"]
    return "\n".join(lines)


def with_error(value: float, error: float) -> tuple[str, str]:
    """Value and error with the two digits that the error supports; without a finite error, six digits and no error."""
    if not math.isfinite(value):
        return str(value), ""
    if not (math.isfinite(error) and error > 0):
        return f"{value:.6g}", ""
    digits = 1 - math.floor(math.log10(error))
    if float(f"{error:.1e}") >= 10 ** (2 - digits):
        # 0.0998 rounds to 0.10: one decimal fewer holds two digits.
        digits -= 1
    if digits > 6 or max(abs(value), error) >= 1e6:
        exponent = math.floor(math.log10(max(abs(value), error)))
        places = max(0, digits + exponent)
        return f"{value / 10.0**exponent:.{places}f}e{exponent:+03d}", f"{error / 10.0**exponent:.{places}f}e{exponent:+03d}"
    return f"{round(value, digits):.{max(digits, 0)}f}", f"{round(error, digits):.{max(digits, 0)}f}"


def _table(estimates: Iterable[Estimate], truth: Mapping[str, float]) -> list[str]:
    head = ["parameter", "value", "+-", "unit", ""] + (["truth", "pull"] if truth else [])
    rows = [head]
    for estimate in estimates:
        value, error = with_error(estimate.value, estimate.error)
        row = [estimate.name, value, error, estimate.unit, STATUS_WORDS[estimate.status]]
        if truth:
            row += _beside(estimate, truth)
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    right = {1, 2, 5, 6}
    return [
        "  ".join(
            cell.rjust(width) if k in right else cell.ljust(width) for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _beside(estimate: Estimate, truth: Mapping[str, float]) -> list[str]:
    if estimate.name not in truth:
        return ["", ""]
    true = truth[estimate.name]
    determined = math.isfinite(estimate.error) and estimate.error > 0
    return [f"{true:.6g}", f"{(estimate.value - true) / estimate.error:+.1f}" if determined else ""]


def _rates(fit: Fit) -> list[str]:
    """The best determined numbers first: each rate at its best time."""
    lines = []
    for curve in fit.curves.values():
        if curve.determined:
            value, error = with_error(*_at_best(curve))
            lines.append(f"{curve.name}({curve.best_time:.3g} s) = {value} +- {error} {curve.unit}")
    return [*lines, ""] if lines else []


def _at_best(curve: Curve) -> tuple[float, float]:
    return float(np.interp(curve.best_time, curve.t, curve.value)), float(np.interp(curve.best_time, curve.t, curve.error))


def _range(name: str, value: np.ndarray, error: np.ndarray) -> str:
    """Smallest and largest of the angles, with the median error."""
    finite = error[np.isfinite(error)]
    typical = float(np.median(finite)) if finite.size else math.nan
    low, high = (with_error(float(limit), typical) for limit in (np.min(value), np.max(value)))
    values = low[0] if low[0] == high[0] else f"{low[0]} ... {high[0]}"
    return f"{name} {values} +- {low[1]} each" if low[1] else f"{name} {values}"
