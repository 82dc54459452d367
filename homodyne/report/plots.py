"""One function per figure of the whole fit; each takes a Run and a width in inches and returns a figure."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter

from ..physics import SHEAR, TRANSPORT, power_law
from ..pictures import Cuts
from ..results import Curve
from ..save import Run
from .style import BLUE, GREY, ONE_COLUMN, ORANGE, angle, new_figure, symbol, unit

LAWS = {"J": TRANSPORT, "gamma_dot": SHEAR}
CUT_ANGLES = 3
"""Most angles shown in the figure of cuts."""

MOST_STAGES = 8
"""Stages of a fit that still get a legend."""


def cuts(run: Run, width: float) -> Figure:
    """Points: means of the data with the error of the mean. Lines: means of the fitted map over the same pairs."""
    chosen = cut_angles(run, CUT_ANGLES if width >= ONE_COLUMN else 2)
    notes = (f"q = {run.q:.4g} Å⁻¹", "error bars as if pixels were independent")
    figure, axes = new_figure(run, width, 2.0, *notes, rows=len(chosen), columns=2)
    for k, (left, right) in zip(chosen, zip(axes[::2], axes[1::2], strict=True), strict=True):
        _draw_cuts(left, run.pictures.equal_lag, k)
        left.set(title=f"{angle(run.phi[k])}, equal lag", xlabel="age (s)", ylabel="$c_2$")
        _draw_cuts(right, run.pictures.equal_age, k)
        right.set(title=f"{angle(run.phi[k])}, equal age", xlabel="lag (s)", ylabel="$c_2$", xscale="log")
    # The cuts are the same for every angle: one legend for each kind.
    for panel, title in zip(axes[:2], ("lag (s)", "age (s)"), strict=True):
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.17), "ncols": 6}
        panel.legend(title=title, title_fontsize=7, columnspacing=0.8, handlelength=0.8, handletextpad=0.4, borderaxespad=0, **place)
    return figure


def rates(run: Run, width: float) -> Figure:
    """Each rate against time with its error band, and the truth where it is known."""
    count = max(len(run.fit.curves), 1)
    figure, axes = new_figure(run, min(width, 3.5 * count), 2.6, f"noise option {run.fit.noise}", columns=count)
    for panel, (key, curve) in zip(axes, run.fit.curves.items(), strict=False):
        _draw_rate(panel, key, curve, run.truth)
    return figure


def correlation(run: Run, width: float) -> Figure:
    """Correlation matrix of the physical parameters and of the mean contrast and offset; grey: fixed or not determined."""
    names, matrix = correlation_matrix(run)
    size = min(width, 0.45 * len(names) + 1.2)
    figure, (panel,) = new_figure(run, size, size - 0.2, "grey: fixed or not determined")
    panel.imshow(matrix, cmap=colormaps["RdBu_r"].with_extremes(bad="0.85"), vmin=-1, vmax=1)
    for row, column in np.ndindex(matrix.shape):
        value = matrix[row, column]
        if np.isfinite(value):
            # 100 is kept for a parameter with itself: two that are nearly the same number must not look exactly so.
            percent = 100 if row == column else int(np.clip(np.round(100 * value), -99, 99))
            text = str(percent).replace("-", "−")
            panel.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if abs(value) > 0.6 else "black")
    panel.set_title("correlation (%)")
    panel.set_xticks(range(len(names)), names, rotation=90)
    panel.set_yticks(range(len(names)), names)
    panel.tick_params(length=0)
    return figure


def scaling(run: Run, width: float) -> Figure:
    """Contrast and offset of each angle."""
    fit = run.fit
    figure, axes = new_figure(run, width, 2.3, f"scaling {fit.scaling}", f"noise option {fit.noise}", "bars: ±1σ", columns=2)
    values = (("contrast", fit.contrast, fit.contrast_error, BLUE), ("offset", fit.offset, fit.offset_error, ORANGE))
    for panel, (name, value, error, colour) in zip(axes, values, strict=True):
        known = np.where(np.isfinite(error), error, 0.0)
        panel.errorbar(fit.phi, value, known, fmt="o", color=colour, elinewidth=0.8, capsize=1.5, capthick=0.8)
        panel.axhline(np.nanmean(value) if np.isfinite(value).any() else 0.0, color=GREY, linewidth=0.7, linestyle="--", zorder=0)
        panel.set(xlabel="φ (°)", ylabel=name)
        panel.margins(y=0.15)
    return figure


def convergence(run: Run, width: float) -> Figure:
    """chi2 above the best of its stage, length of the step and size of the gradient at each accepted step.

    Stages may fit different scalings, whose chi2 cannot be compared. The best step of a stage is 0, which a log axis leaves out.
    """
    figure, axes = new_figure(run, width, 2.2, f"{run.fit.passes} passes over the pixels", columns=3)
    history = run.fit.history
    stages = list(dict.fromkeys(iteration.stage for iteration in history))
    best = {stage: min((i.chi2 for i in history if i.stage == stage and np.isfinite(i.chi2)), default=np.nan) for stage in stages}
    columns = {
        "χ² − best of stage": np.array([iteration.chi2 - best[iteration.stage] for iteration in history]),
        "step": np.array([iteration.step for iteration in history]),
        "gradient": np.array([iteration.gradient for iteration in history]),
    }
    colours = colormaps["viridis"](np.linspace(0, 0.85, max(len(stages), 1)))
    position = np.arange(1, len(history) + 1)
    for panel, (name, values) in zip(axes, columns.items(), strict=True):
        for stage, colour in zip(stages, colours, strict=False):
            here = np.array([iteration.stage == stage for iteration in history]) & (values > 0)
            panel.plot(position[here], values[here], "o-", color=colour, label=stage)
        panel.set(xlabel="accepted step", ylabel=name, yscale="log" if np.any(values > 0) else "linear", xlim=(0, len(history) + 1))
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if 0 < len(stages) <= MOST_STAGES:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4 if width >= ONE_COLUMN else 2)
    return figure


def cut_angles(run: Run, count: int) -> list[int]:
    """At most ``count`` angles along, between and across the flow; without flow, spread over the angles."""
    count = min(count, len(run.phi))
    parameters = run.fit.parameters
    if "phi0" in parameters and np.isfinite(parameters["phi0"].value):
        order = np.argsort(-np.abs(np.cos(np.deg2rad(run.phi - parameters["phi0"].value))), kind="stable")
    else:
        order = np.arange(len(run.phi))
    return [int(order[k]) for k in np.linspace(0, len(order) - 1, count).round().astype(int)]


def correlation_matrix(run: Run) -> tuple[list[str], np.ndarray]:
    """Symbols and correlations of the physical parameters, mean contrast and mean offset; NaN for what has no error."""
    fit = run.fit
    physical = [name for name in fit.names if name in fit.parameters]
    means = {f"mean {word}": [k for k, name in enumerate(fit.names) if name.startswith(f"{word}[")] for word in ("contrast", "offset")}
    selected = [[fit.names.index(name)] for name in physical] + [members for members in means.values() if members]
    # A mean is a linear function, so its covariances are means of covariances; np.mean keeps NaN where one is missing.
    covariance = np.array([[fit.covariance[np.ix_(a, b)].mean() for b in selected] for a in selected]).reshape(len(selected), len(selected))
    variance = np.diag(covariance)
    error = np.sqrt(np.where(variance > 0, variance, np.nan))
    labels = [symbol(name) for name in physical] + [name for name, members in means.items() if members]
    return labels, covariance / np.outer(error, error)


def _draw_cuts(panel: Axes, cut: Cuts, k: int) -> None:
    colours = colormaps["viridis"](np.linspace(0, 0.88, len(cut.at)))
    for c, colour in enumerate(colours):
        used = cut.count[k, c] > 0
        x, y = cut.x[k, c, used], cut.data[k, c, used]
        error = np.where(np.isfinite(cut.error[k, c, used]), cut.error[k, c, used], 0.0)
        panel.errorbar(x, y, error, fmt="o", color=colour, markersize=2.2, elinewidth=0.6, alpha=0.75, markeredgewidth=0)
        # Not only the used bins: a gap in the data is a gap in the line.
        panel.plot(cut.x[k, c], cut.model[k, c], color=colour, label=f"{cut.at[c]:.3g}")


def _draw_rate(panel: Axes, key: str, curve: Curve, truth: dict[str, float] | None) -> None:
    value, error = curve.value, np.where(np.isfinite(curve.error), curve.error, 0.0)
    logarithmic = bool(np.all(value > 0) and np.all(curve.t > 0))
    colour, known = BLUE if curve.determined else GREY, None
    if np.isfinite(curve.error).any():
        panel.fill_between(curve.t, value - error, value + error, color=colour, alpha=0.25, linewidth=0, label="±1σ")
    panel.plot(curve.t, value, color=colour, label="fit" if curve.determined else "fit (not determined)")
    if truth is not None and key in LAWS and all(name in truth for name in LAWS[key]):
        amplitude, exponent, offset = (truth[name] for name in LAWS[key])
        known = np.asarray(power_law(amplitude, exponent, offset, curve.t))
        panel.plot(curve.t, known, "--", color="black", label="truth")
        logarithmic = logarithmic and bool(np.all(known > 0))
    if np.isfinite(curve.best_time):
        panel.axvline(curve.best_time, color=GREY, linewidth=0.6, linestyle=":", label="best determined")
    panel.set(xlabel="time (s)", ylabel=f"{symbol(key)} ({unit(curve.unit)})")
    if logarithmic:
        # A band that reaches below zero must not decide the range of a logarithmic axis.
        shown = [np.maximum(value - error, 0.3 * value), np.minimum(value + error, 3 * value), *([] if known is None else [known])]
        low, high = min(float(line.min()) for line in shown), max(float(line.max()) for line in shown)
        panel.set(xscale="log", yscale="log", ylim=(low / 1.15, high * 1.15))
        if high < 100 * low:
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
        panel.yaxis.set_minor_formatter(NullFormatter())
    panel.legend()
