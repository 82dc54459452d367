"""A Fit as the few lines a person reads first: each number with its error, and beside it the truth when the data were simulated."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from .correlation import correlation
from .draws import Answer, Posterior
from .results import CONFIDENCE, Derived, Estimate, Fit, Profile

STATUS_WORDS = {"free": "", "interval": "", "fixed": "fixed", "at_bound": "at bound", "undetermined": "not determined"}
BEYOND = "longer than the rest of the record"


WIDTH_WORDS = {"model": "as the likelihood gives it", "calibrated": "calibrated for correlated noise"}


def summary(fit: Fit, truth: Mapping[str, float] | None = None, posterior: Posterior | None = None) -> str:
    """The printed result of a run, several lines."""
    lines = ["", *_rates(fit), *table(fit.parameters.values(), truth or {}), ""]
    lines += [*_profiles(fit.profiles.values()), *([] if fit.derived is None else _derived(fit.derived))]
    lines += [_range("contrast", fit.contrast, fit.contrast_error), _range("offset", fit.offset, fit.offset_error)]
    if fit.contrast_drift is not None and fit.contrast_drift_error is not None:
        lines.append(_range("contrast drift", fit.contrast_drift, fit.contrast_drift_error))
    lines += [
        f"angles {len(fit.phi)}, pairs {fit.pairs}, passes over the pixels {fit.passes}",
        f"shear kernel {fit.shear_kernel}, scaling {fit.scaling}",
        f"chi2 {fit.chi2:.6g}, degrees of freedom {fit.dof}, chi2/dof {fit.reduced_chi2:.4g}, residual of a pixel {fit.sigma:.3g}",
        f"errors: {fit.noise}: {fit.noise_text}",
    ]
    derived = () if fit.derived is None else fit.derived.statements
    related = correlation(fit).sentence
    lines += [f"- {statement}" for statement in (*fit.decisions, *fit.statements, *derived, *([related] if related else []))]
    lines += [] if posterior is None else _posterior(posterior)
    return "\n".join([*lines, "", _ending(fit)])


def _ending(fit: Fit) -> str:
    """Whether the fit is one."""
    if not fit.outcome.success:
        return f"NOT CONVERGED: {fit.outcome.value}"
    return "converged" if fit.success else "converged, but THE FIT CANNOT BE MEANT (see above)"


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


def table(estimates: Iterable[Estimate], truth: Mapping[str, float]) -> list[str]:
    """Estimates as aligned lines, a head first; with a truth, it and the pull stand beside each."""
    rows = [["parameter", "value", "+-", "unit", "", *(["truth", "pull"] if truth else [])]]
    rows += [_row(estimate) + (_beside(estimate, truth) if truth else []) for estimate in estimates]
    return _aligned(rows, {1, 2, 5, 6})


def _row(estimate: Estimate) -> list[str]:
    """Name, value, error, unit, and what stands in place of an error; a number that is not determined is not shown."""
    if estimate.status == "undetermined":
        return [estimate.name, "", "", estimate.unit, STATUS_WORDS["undetermined"]]
    if estimate.status in ("free", "interval") and not estimate.symmetric:
        return [estimate.name, f"{estimate.value:.3g}", "", estimate.unit, interval_text(estimate)]
    if estimate.status == "at_bound":
        return [estimate.name, f"{estimate.value:.3g}", "", estimate.unit, STATUS_WORDS["at_bound"]]
    value, error = with_error(estimate.value, estimate.error)
    return [estimate.name, value, error, estimate.unit, STATUS_WORDS[estimate.status]]


def interval_text(estimate: Estimate) -> str:
    """The 95 % interval in words; empty where there is none."""
    lower, upper = estimate.interval
    level = f"{100 * CONFIDENCE:g} %:"
    if math.isnan(lower) or math.isnan(upper):
        return ""
    if lower > upper:
        return f"{level} above {lower:.3g}, or below {upper:.3g}"
    if math.isinf(upper) or math.isinf(lower):
        known = f"above {lower:.3g}" if math.isfinite(lower) else f"below {upper:.3g}" if math.isfinite(upper) else "no limit"
        return f"{level} {known}"
    digits = min(upper - estimate.value, estimate.value - lower)
    return f"{level} {with_error(lower, digits)[0]} ... {with_error(upper, digits)[0]}"


def _aligned(rows: list[list[str]], right: set[int]) -> list[str]:
    """Rows of cells as lines, some columns to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if k in right else cell.ljust(width) for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _profiles(profiles: Iterable[Profile]) -> list[str]:
    """Interval of each profile beside that of the linear error."""
    rows = []
    for found in profiles:
        nearest = min(abs(found.upper - found.estimate), abs(found.estimate - found.lower))
        digits = found.error if math.isfinite(found.error) else 0.5 * nearest
        ends = [
            "not found" if math.isnan(end) else with_error(end, digits)[0] if math.isfinite(end) else "none"
            for end in (found.lower, found.upper, *found.linear)
        ]
        linear = f"linear {ends[2]} ... {ends[3]}" if math.isfinite(found.error) else "no linear error"
        rows.append([f"profile {100 * found.confidence:g} %", found.name, ends[0], "...", ends[1], found.unit, linear])
    return [*_aligned(rows, {2, 4}), ""] if rows else []


def _derived(derived: Derived) -> list[str]:
    """Derived quantities; of those at every angle the range."""
    rows, by_time = [["derived", "value", "+-", "unit", ""]], dict[str, list[float]]()
    for name, estimate in derived.quantities.items():
        if name.startswith("relaxation_time["):
            by_time.setdefault(name.partition("]")[2], []).append(estimate.value)
        elif math.isfinite(estimate.value):
            rows.append([name, *_row(estimate)[1:]])
        else:
            rows.append([name, "", "", "", BEYOND])
    lines = _aligned(rows, {1, 2}) if len(rows) > 1 else []
    for time, values in by_time.items():
        known = [value for value in values if math.isfinite(value)]
        parts = [f"{min(known):.3g} ... {max(known):.3g} s"] if known else []
        parts += [f"{BEYOND} at {len(values) - len(known)}"] if len(known) < len(values) else []
        lines.append(f"relaxation_time{time} with shear, at the {len(values)} angles: {', '.join(parts)}")
    return [*lines, ""] if lines else []


def _posterior(posterior: Posterior) -> list[str]:
    """How the draws were made and checked (of the width to quote), a table for each width with that one last, and what to know."""
    made = [f"posterior: {posterior.engine}, {posterior.exactness.replace('_', ' ')}"]
    if "k_hat" in posterior.numbers and math.isfinite(posterior.numbers["k_hat"]):
        made.append(f"k-hat {posterior.numbers['k_hat']:.2f}")
    checked = [row for row in posterior.answer.summary.values() if math.isfinite(row.rhat)]
    if checked:
        made.append(f"R-hat up to {max(row.rhat for row in checked):.3f}, effective draws from {min(row.ess_bulk for row in checked):.0f}")
    lines = ["", ", ".join(made)]
    for width, answer in posterior.answers.items():
        title = [f"{WIDTH_WORDS[width]}:"] if len(posterior.answers) > 1 else []
        lines += [*title, *_quantiles(answer, posterior.confidence), ""]
    return [*lines, *(f"- {text}" for text in (*posterior.decisions, *posterior.statements))]


def _quantiles(answer: Answer, confidence: float) -> list[str]:
    """Medians and intervals; those of single angles are left to posterior.nc."""
    rows = [["parameter", "median", f"{100 * confidence:g} % from", "to", "sd", "unit", "effective"]]
    for name, found in answer.summary.items():
        if "[" in name:
            continue
        # An error of a long tail says little: the digits follow from the interval.
        digits = 0.25 * (found.upper - found.lower)
        numbers = [with_error(value, digits)[0] for value in (found.median, found.lower, found.upper)]
        effective = f"{found.ess_bulk:.0f}" if math.isfinite(found.ess_bulk) else ""
        rows.append([name, *numbers, with_error(found.sd, found.sd)[0], found.unit, effective])
    return _aligned(rows, {1, 2, 3, 4, 6})


def _beside(estimate: Estimate, truth: Mapping[str, float]) -> list[str]:
    if estimate.name not in truth:
        return ["", ""]
    true = truth[estimate.name]
    determined = math.isfinite(estimate.error) and estimate.error > 0
    return [f"{true:.6g}", f"{(estimate.value - true) / estimate.error:+.1f}" if determined else ""]


def _rates(fit: Fit) -> list[str]:
    """The best determined numbers first: each rate at its best time."""
    lines = []
    for name, curve in fit.curves.items():
        best = fit.rates[f"{name}_best"]
        if best.status in ("free", "interval"):
            lines.append(f"{name}({curve.best_time:.3g} s) = {_number(best)}{_rests_on(fit) if name == 'gamma_dot' else ''}")
    if "gamma_dot_along" in fit.rates and fit.rates["gamma_dot_along"].status == "free":
        along = fit.rates["gamma_dot_along"]
        lines.append(f"{along.name} = {_number(along)}{_rests_on(fit)}")
    return [*lines, ""] if lines else []


def _rests_on(fit: Fit) -> str:
    """Gap and wavevector, which scale every shear rate."""
    return f"   (gap {fit.gap:g} Angstrom{', assumed' if fit.gap_assumed else ''}; q {fit.q:g} 1/Angstrom)"


def _number(estimate: Estimate) -> str:
    """Value, error or interval, and unit."""
    unit = "" if estimate.unit == "1" else f" {estimate.unit}"
    if not estimate.symmetric:
        return f"{estimate.value:.3g}{unit} ({interval_text(estimate)})"
    value, error = with_error(estimate.value, estimate.error)
    return f"{value} +- {error}{unit}"


def _range(name: str, value: np.ndarray, error: np.ndarray) -> str:
    """Smallest and largest of the angles, with the median error."""
    finite = error[np.isfinite(error)]
    typical = float(np.median(finite)) if finite.size else math.nan
    low, high = (with_error(float(limit), typical) for limit in (np.min(value), np.max(value)))
    values = low[0] if low[0] == high[0] else f"{low[0]} ... {high[0]}"
    return f"{name} {values} +- {low[1]} each" if low[1] else f"{name} {values}"
