"""What the data determine: derived quantities against time, profiles of single quantities, regions of two."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from ..results import Contour, Curve, Profile
from ..save import Run
from .style import BLUE, GREY, ONE_COLUMN, ORANGE, angle, new_figure, symbol, unit

MOST_LABELLED = 8
"""Angles that still get a legend."""
WIDE = 20.0
"""Ratio of values from which an axis is logarithmic."""


def derived(run: Run, width: float) -> Figure | None:
    """Relaxation time against age, without and with shear, and strain; None when there are none."""
    found = {} if run.fit.derived is None else run.fit.derived.curves
    times = {key: curve for key, curve in found.items() if key.startswith("relaxation_time") and np.isfinite(curve.value).any()}
    panels = [bool(times), "strain" in found]
    if not any(panels):
        return None
    notes = ("relaxation time: h = |g₁|² falls to 1/e", f"noise option {run.fit.noise}")
    figure, axes = new_figure(run, min(width, 3.5 * sum(panels)), 2.6, *notes, columns=sum(panels))
    if times:
        _relaxation(axes[0], run, times)
    if "strain" in found:
        strain = found["strain"]
        _band(axes[-1], strain, BLUE if strain.determined else GREY, "±1σ")
        axes[-1].set(xlabel="time (s)", ylabel="strain Γ since the first frame")
    return figure


def profiles(run: Run, width: float) -> Figure | None:
    """Calibrated rise of chi2 along each quantity, with the interval that it gives and the linear one; None when none was asked for."""
    found = list(run.fit.profiles.values())
    if not found:
        return None
    columns = min(len(found), 3)
    rows = -(-len(found) // columns)
    figure, axes = new_figure(run, min(width, 3.2 * columns), 2.2, f"noise option {run.fit.noise}", rows=rows, columns=columns)
    for panel, profile in zip(axes, found, strict=False):
        _draw_profile(panel, profile, None if run.truth is None or profile.name not in run.truth else run.truth[profile.name])
    for panel in axes[len(found) :]:
        panel.remove()
    handles = [
        Line2D([], [], color=BLUE, marker="o", label="profile"),
        Line2D([], [], color=ORANGE, linestyle="--", label="linear error"),
        Line2D([], [], color=GREY, linestyle=":", label=f"{100 * found[0].confidence:g} %"),
    ]
    handles += [Line2D([], [], color="black", linestyle="-.", label="truth")] if run.truth else []
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles) if width >= ONE_COLUMN else 2)
    return figure


def contours(run: Run, width: float) -> Figure | None:
    """Region of each pair of quantities, with the linear ellipse; None when none was asked for."""
    found = run.fit.contours
    if not found:
        return None
    columns = min(len(found), 3)
    rows = -(-len(found) // columns)
    figure, axes = new_figure(run, min(width, 3.5 * columns), 2.7, f"noise option {run.fit.noise}", rows=rows, columns=columns)
    for panel, contour in zip(axes, found, strict=False):
        _draw_contour(panel, contour, run.truth)
    for panel in axes[len(found) :]:
        panel.remove()
    level = f"{100 * found[0].confidence:g} %"
    handles = [
        Line2D([], [], color=BLUE, label=f"profile, {level}"),
        Line2D([], [], color=BLUE, alpha=0.5, label="profile, 68 %"),
        Line2D([], [], color=ORANGE, linestyle="--", label=f"linear, {level}"),
        Line2D([], [], color=BLUE, marker="o", linestyle="", label="fit"),
    ]
    handles += [Line2D([], [], color="black", marker="x", markersize=4, linestyle="", label="truth")] if run.truth else []
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles) if width >= ONE_COLUMN else 2)
    return figure


def _relaxation(panel: Axes, run: Run, times: dict[str, Curve]) -> None:
    shear = [key for key in times if key != "relaxation_time"]
    for key, colour in zip(shear, colormaps["viridis"](np.linspace(0, 0.88, max(len(shear), 1))), strict=False):
        label = angle(run.phi[int(key.partition("[")[2][:-1])]) if len(shear) <= MOST_LABELLED else None
        _band(panel, times[key], colour, label)
    if "relaxation_time" in times:
        alone = times["relaxation_time"]
        _band(panel, alone, "black" if alone.determined else GREY, "diffusion alone" if shear else None)
    logarithmic = all(np.nanmin(curve.value) > 0 for curve in times.values())
    panel.set(xlabel="age (s)", ylabel="relaxation time (s)", xscale="log", yscale="log" if logarithmic else "linear")
    if shear:
        panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=0.8)


def _band(panel: Axes, curve: Curve, colour, label: str | None) -> None:
    error = np.where(np.isfinite(curve.error), curve.error, 0.0)
    panel.fill_between(curve.t, curve.value - error, curve.value + error, color=colour, alpha=0.25, linewidth=0)
    panel.plot(curve.t, curve.value, color=colour, label=label)


def _draw_profile(panel: Axes, profile: Profile, truth: float | None) -> None:
    x = np.linspace(profile.value[0], profile.value[-1], 400)
    level = profile.quantile**2
    panel.plot(x, np.interp(x, profile.value, profile.root) ** 2, color=BLUE)
    panel.plot(profile.value, profile.root**2, "o", color=BLUE)
    low, high = profile.linear
    if np.isfinite(profile.error):
        parabola = np.linspace(min(low, x[0]), max(high, x[-1]), 400)
        panel.plot(parabola, ((parabola - profile.estimate) / profile.error) ** 2, "--", color=ORANGE)
        panel.plot([low, high], [level, level], "|", color=ORANGE, markersize=8)
    panel.axhline(level, color=GREY, linestyle=":", linewidth=0.8, zorder=0)
    ends = [end for end in (profile.lower, profile.upper) if np.isfinite(end)]
    panel.vlines(ends, 0, level, color=BLUE, linewidth=0.8)
    inside = [end if np.isfinite(end) else edge for end, edge in ((profile.lower, x[0]), (profile.upper, x[-1]))]
    panel.axvspan(*inside, color=BLUE, alpha=0.1, linewidth=0)
    if truth is not None:
        panel.axvline(truth, color="black", linestyle="-.", linewidth=0.8)
    limits = _range(profile)
    if profile.value[0] > 0 and profile.value[-1] > WIDE * profile.value[0]:
        limits = max(limits[0], 0.9 * profile.value[0]), limits[1]
        panel.set_xscale("log")
        panel.xaxis.set_minor_formatter(NullFormatter())
    else:
        panel.xaxis.set_major_locator(MaxNLocator(5, prune="both"))
    panel.set(xlim=limits, ylim=(0, 1.5 * level), xlabel=_label(profile.name, profile.unit), ylabel="calibrated Δχ²")
    sides = (("lower", profile.lower), ("upper", profile.upper))
    none, lost = [word for word, end in sides if np.isinf(end)], [word for word, end in sides if np.isnan(end)]
    words = [f"no {' and no '.join(none)} limit"] if none else []
    words += [f"{' and '.join(lost)} limit not found"] if lost else []
    panel.set_title(", ".join(words))


def _range(profile: Profile) -> tuple[float, float]:
    """From a little below to a little above both intervals; of a side without limit, as much as four times the other."""
    marks = [end for end in (profile.lower, profile.upper, *profile.linear, profile.estimate) if np.isfinite(end)]
    low, high = min(marks), max(marks)
    # Where only the estimate is known, a tenth of it on either side.
    width = max(high - low, 0.025 * abs(profile.estimate), 1e-12)
    if not np.isfinite(profile.lower):
        low = max(float(profile.value[0]), min(low, high - 4 * width))
    if not np.isfinite(profile.upper):
        high = min(float(profile.value[-1]), max(high, low + 4 * width))
    margin = max(0.15 * (high - low), 0.5 * width if high - low < width else 0.0)
    return low - margin, high + margin


def _draw_contour(panel: Axes, contour: Contour, truth: dict[str, float] | None) -> None:
    panel.plot(*contour.edge.T, color=BLUE)
    panel.plot(*contour.inner.T, color=BLUE, alpha=0.5)
    level = -2 * np.log(1 - contour.confidence)
    turn = np.linspace(0, 2 * np.pi, 200)
    circle = np.sqrt(level) * np.array([np.cos(turn), np.sin(turn)])
    ellipse = contour.estimate[:, None] + np.linalg.cholesky(contour.covariance) @ circle
    panel.plot(*ellipse, "--", color=ORANGE)
    panel.plot(*contour.estimate, "o", color=BLUE)
    if truth is not None and all(name in truth for name in contour.names):
        panel.plot(*(truth[name] for name in contour.names), "x", color="black", markersize=4)
    panel.xaxis.set_major_locator(MaxNLocator(5, prune="both"))
    labels = [_label(name, of) for name, of in zip(contour.names, contour.units, strict=True)]
    panel.set(xlabel=labels[0], ylabel=labels[1], title="" if contour.closed else "open region")


def _label(name: str, of: str) -> str:
    """A parameter, or a rate by its name in Fit.rates, with its unit."""
    stem, _, which = name.rpartition("_")
    text = symbol(name)
    if which in ("ref", "best") and stem:
        text = rf"{symbol(stem)}$(t_\mathrm{{{which}}})$"
    elif name.startswith("dln"):
        text = f"d ln {symbol(name[3:].removesuffix('_dlnt'))} / d ln t"
    return text if of == "1" else f"{text} ({unit(of)})"
