"""The posterior of a fit: parameters in pairs, prior against posterior, rates and predicted cuts.

Blue is the posterior as the likelihood gives it, orange the calibrated one where there is one. A long tail is cut off by the axis.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter, NullLocator
from scipy.ndimage import gaussian_filter

from ..draws import Posterior
from ..physics import power_law
from ..pictures import Cuts
from ..save import Run
from .plots import CUT_ANGLES, LAWS, cut_angles
from .posterior_style import COLOURS, Shown, blank_figure, notes, shown, shown_with_prior, width_handles
from .style import ONE_COLUMN, angle, new_figure, symbol, unit

MASSES = (0.393, 0.865)
"""Share of the draws inside the contours: one and two standard deviations of a normal density in two dimensions."""
REACH, CELLS = 4.5, 90
"""The density of two parameters is counted on CELLS^2 cells within so many standard deviations, along its own axes."""
WIDE = 20.0
"""Ratio of values from which an axis is logarithmic."""
FEW_DECADES = 40.0
"""Ratio of values below which powers of ten alone are too few labels."""


def pairs(run: Run, width: float) -> Figure | None:
    """Every two parameters: contours around 39 and 86\u00a0% of the draws; on the diagonal histograms with the interval."""
    posterior = _of(run)
    found = shown(run, posterior)
    if not found:
        return None
    count = len(found)
    size = min(width, 1.3 * count + 1.0)
    small = size / count < 0.8
    extra = ("units: " + ", ".join(f"{part.name} {part.of}" for part in found if part.of),) if small else ()
    percent = f"contours around 39 and 86\u00a0% of the draws, shaded: interval of {100 * posterior.confidence:g}\u00a0%"
    figure, axes = blank_figure(run, size, size + (0.7 if small else 0.3), *notes(posterior), percent, *extra, rows=count, columns=count)
    for row, column in np.ndindex(count, count):
        panel, x, y = axes[row][column], found[column], found[row]
        if column > row:
            panel.remove()
            continue
        panel.set(xlim=x.limits)
        panel.xaxis.set_major_locator(MaxNLocator(2 if small else 3, prune="both"))
        if column == row:
            _histogram(panel, x, posterior)
        else:
            panel.set(ylim=y.limits)
            panel.yaxis.set_major_locator(MaxNLocator(2 if small else 3, prune="both"))
            _contours(panel, x, y, 2.0 if small else 2.5)
        panel.tick_params(axis="x", rotation=90, labelbottom=row == count - 1)
        panel.tick_params(axis="y", labelleft=column == 0 and row > 0)
        if row == count - 1:
            panel.set_xlabel(symbol(x.name) if small else x.label)
        if column == 0 and row > 0:
            panel.set_ylabel(symbol(y.name) if small else y.label)
    figure.align_labels()
    handles = [*width_handles(posterior), Line2D([], [], color="black", marker="o", markersize=3, linestyle="", label="fit")]
    handles += [Line2D([], [], color="black", marker="x", markersize=4, linestyle="", label="truth")] if run.truth else []
    if count > 2:
        figure.legend(handles=handles, loc="upper right")
    else:
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def prior_posterior(run: Run, width: float) -> Figure | None:
    """Prior and posterior of each parameter, each over its maximum along the axis."""
    posterior = _of(run)
    found = shown_with_prior(run, posterior)
    if not found:
        return None
    columns = min(len(found), 3 if width >= ONE_COLUMN else 2)
    rows = -(-len(found) // columns)
    percent = "width: interquartile range of the posterior over that of the prior"
    figure, axes = blank_figure(run, width, 1.45 * rows + 0.6, *notes(posterior), percent, rows=rows, columns=columns)
    panels = [panel for line in axes for panel in line]
    for panel, part in zip(panels, found, strict=False):
        _against_prior(panel, part)
    for panel in panels[len(found) :]:
        panel.remove()
    handles = [Patch(color="0.8", label="prior"), *width_handles(posterior)]
    handles += [Line2D([], [], color="black", linestyle="-.", linewidth=0.8, label="truth")] if run.truth else []
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles) if width >= ONE_COLUMN else 2)
    return figure


def rates(run: Run, width: float) -> Figure | None:
    """Median and 68 and 95 % bands of each rate, over the 95 % band of the prior."""
    posterior = _of(run)
    names = list(posterior.answer.rates)
    if not names:
        return None
    extra = "bands of 68 and 95\u00a0%"
    figure, axes = new_figure(run, min(width, 3.5 * len(names)), 2.7, *notes(posterior), extra, columns=len(names))
    for panel, name in zip(axes, names, strict=True):
        _draw_rate(panel, name, run, posterior)
    handles = width_handles(posterior)
    handles += [Patch(color="0.93", label="prior")] if posterior.prior is not None else []
    handles += [Line2D([], [], color="black", linestyle="--", label="truth")] if run.truth else []
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles) if width >= ONE_COLUMN else 2)
    return figure


def cuts(run: Run, width: float) -> Figure | None:
    """The cuts of the data, and what the posterior predicts for them: medians, and 95 % bands with the noise of a mean."""
    predictive = _of(run).predictive
    if predictive is None:
        return None
    chosen = cut_angles(run, CUT_ANGLES if width >= ONE_COLUMN else 2)
    extra = (
        "lines: predicted median; bands: 95\u00a0% with noise",
        "noise and error bars of a mean as if pairs of frames were independent",
    )
    figure, axes = new_figure(run, width, 2.0, *notes(_of(run)), *extra, rows=len(chosen), columns=2)
    for k, (left, right) in zip(chosen, zip(axes[::2], axes[1::2], strict=True), strict=True):
        _draw_cuts(left, run.pictures.equal_lag, k, predictive.posterior["equal_lag"], predictive.replicated["equal_lag"])
        left.set(title=f"{angle(run.phi[k])}, equal lag", xlabel="age (s)", ylabel="$c_2$")
        _draw_cuts(right, run.pictures.equal_age, k, predictive.posterior["equal_age"], predictive.replicated["equal_age"])
        right.set(title=f"{angle(run.phi[k])}, equal age", xlabel="lag (s)", ylabel="$c_2$", xscale="log")
    for panel, title in zip(axes[:2], ("lag (s)", "age (s)"), strict=True):
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.17), "ncols": 6}
        panel.legend(title=title, title_fontsize=7, columnspacing=0.8, handlelength=0.8, handletextpad=0.4, borderaxespad=0, **place)
    return figure


def _of(run: Run) -> Posterior:
    assert run.posterior is not None, "drawn only where there is a posterior"
    return run.posterior


def _histogram(panel: Axes, part: Shown, posterior: Posterior) -> None:
    edges = np.linspace(*part.limits, 31)
    for width, values in part.values.items():
        tail = 0.5 * (1 - posterior.confidence)
        panel.hist(values, edges.tolist(), density=True, histtype="step", color=COLOURS[width])
        panel.axvspan(*np.quantile(values, [tail, 1 - tail]), color=COLOURS[width], alpha=0.12, linewidth=0)
    panel.axvline(part.fit, color="black", linestyle=":", linewidth=0.8)
    if part.truth is not None:
        panel.axvline(part.truth, color="black", linestyle="-.", linewidth=0.8)
    panel.yaxis.set_major_locator(NullLocator())


def _contours(panel: Axes, x: Shown, y: Shown, mark: float) -> None:
    for width in x.values:
        grid = _density(np.stack([x.values[width], y.values[width]]), x.limits, y.limits)
        if grid is None:
            continue
        if width == "model":
            colours = [colormaps["Blues"](0.3), colormaps["Blues"](0.6)]
            panel.contourf(*grid.at, grid.density, [*grid.levels, grid.density.max() * 1.01], colors=colours)
        panel.contour(*grid.at, grid.density, grid.levels, colors=COLOURS[width], linewidths=0.8)
    panel.plot(x.fit, y.fit, "o", color="black", markersize=mark)
    if x.truth is not None and y.truth is not None:
        panel.plot(x.truth, y.truth, "x", color="black", markersize=1.6 * mark)


@dataclass(frozen=True)
class _Density:
    """at: x and y of the cells. density on them. levels: ascending, around MASSES of the draws."""

    at: np.ndarray
    density: np.ndarray
    levels: list[float]


def _density(draws: np.ndarray, x_limits: tuple[float, float], y_limits: tuple[float, float]) -> _Density | None:
    """Of draws (2, S), counted along their own axes: a thin ridge stays thin. None where they lie on a line."""
    limits = np.array([x_limits, y_limits])
    # As much again beyond either end: a cut at the end of the axis would show in the contours, far draws would make the cells coarse.
    span = np.diff(limits)
    kept = draws[:, ((draws >= limits[:, :1] - span) & (draws <= limits[:, 1:] + span)).all(axis=0)]
    centre, spread = kept.mean(axis=1), kept.std(axis=1)
    if kept.shape[1] < 10 or not np.all(spread > 0):
        return None
    values, vectors = np.linalg.eigh(np.cov((kept - centre[:, None]) / spread[:, None]))
    axes = spread[:, None] * vectors * np.sqrt(np.maximum(values, 1e-12))
    edges = np.linspace(-REACH, REACH, CELLS + 1)
    first, second = np.linalg.solve(axes, kept - centre[:, None])
    counts = np.histogram2d(first, second, bins=[edges, edges])[0]
    density = gaussian_filter(counts, CELLS / (2 * REACH) * kept.shape[1] ** (-1 / 6), mode="constant")
    ordered = np.sort(density.ravel())[::-1]
    mass = np.cumsum(ordered) / ordered.sum()
    levels = [float(ordered[np.searchsorted(mass, share)]) for share in sorted(MASSES, reverse=True)]
    middle = 0.5 * (edges[1:] + edges[:-1])
    at = centre[:, None, None] + np.einsum("ij,jab->iab", axes, np.stack(np.meshgrid(middle, middle, indexing="ij")))
    return _Density(at, density, levels) if levels[0] < levels[1] else None


def _against_prior(panel: Axes, part: Shown) -> None:
    assert part.prior is not None
    low, high = part.limits
    forward, backward, name = _axis(part)
    edges = backward(np.linspace(forward(low), forward(high), 101))
    edges[0], edges[-1] = low, high
    _peaked(panel, part.prior, edges[::4], color="0.8", histtype="stepfilled")
    for width, values in part.values.items():
        _peaked(panel, values, edges, color=COLOURS[width], histtype="step")
    if part.truth is not None:
        panel.axvline(part.truth, color="black", linestyle="-.", linewidth=0.8)
    panel.set_xscale(name)
    if name == "log":
        _few_labels(panel.xaxis, high / low)
    else:
        panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.set(xlim=(low, high), ylim=(0, 1.08), xlabel=part.label, title=_narrowing(part))
    panel.yaxis.set_major_locator(NullLocator())


def _draw_rate(panel: Axes, name: str, run: Run, posterior: Posterior) -> None:
    t, lowest, highest = posterior.t, [], []
    # The calibrated bands are the wider ones: they go below.
    for width, answer in reversed(posterior.answers.items()):
        values = answer.rates[name].reshape(-1, len(t))
        bands = np.quantile(values, [0.025, 0.16, 0.5, 0.84, 0.975], axis=0)
        for k in (0, 1):
            panel.fill_between(t, bands[k], bands[4 - k], color=COLOURS[width], alpha=0.22, linewidth=0, zorder=2)
        panel.plot(t, bands[2], color=COLOURS[width], zorder=3)
        lowest.append(bands[0].min())
        highest.append(bands[4].max())
    low, high = min(lowest), max(highest)
    if run.truth is not None and name in LAWS and all(part in run.truth for part in LAWS[name]):
        amplitude, exponent, offset = (run.truth[part] for part in LAWS[name])
        known = np.asarray(power_law(amplitude, exponent, offset, t))
        panel.plot(t, known, "--", color="black", zorder=4)
        low, high = min(low, known.min()), max(high, known.max())
    if posterior.prior is not None and name in posterior.prior.rates:
        panel.fill_between(t, *np.quantile(posterior.prior.rates[name], [0.025, 0.975], axis=0), color="0.93", linewidth=0, zorder=0)
    panel.set(xlabel="time (s)", ylabel=f"{symbol(name)} ({unit(run.fit.curves[name].unit)})", xlim=(t[0], t[-1]))
    if low > 0 and t[0] > 0:
        # The prior may be wider than any axis: it does not decide the range.
        panel.set(xscale="log", yscale="log", ylim=(low / 1.5, high * 1.5))
        _few_labels(panel.xaxis, t[-1] / t[0])
        _few_labels(panel.yaxis, high / low)
    else:
        panel.set(ylim=(low - 0.3 * (high - low), high + 0.3 * (high - low)))


def _few_labels(axis, ratio: float) -> None:
    """Of a logarithmic axis: powers of ten, and 2 and 5 where there are few."""
    if ratio < FEW_DECADES:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
    axis.set_minor_formatter(NullFormatter())


def _draw_cuts(panel: Axes, cut: Cuts, k: int, means: np.ndarray, replicated: np.ndarray) -> None:
    colours = colormaps["viridis"](np.linspace(0, 0.88, len(cut.at)))
    for c, colour in enumerate(colours):
        used = cut.count[k, c] > 0
        x, y = cut.x[k, c, used], cut.data[k, c, used]
        error = np.where(np.isfinite(cut.error[k, c, used]), cut.error[k, c, used], 0.0)
        panel.errorbar(x, y, error, fmt="o", color=colour, markersize=2.2, elinewidth=0.6, alpha=0.75, markeredgewidth=0)
        # Not only the used bins: a gap in the data is a gap in the line.
        low, high = np.quantile(replicated[:, k, c], [0.025, 0.975], axis=0)
        panel.fill_between(cut.x[k, c], low, high, color=colour, alpha=0.25, linewidth=0)
        panel.plot(cut.x[k, c], np.median(means[:, k, c], axis=0), color=colour, label=f"{cut.at[c]:.3g}")


def _axis(part: Shown):
    """Scale of an axis that shows the prior: how it stretches values, back, and its name."""
    low, high = part.limits
    if low > 0 and high > WIDE * low:
        return np.log, np.exp, "log"
    return (lambda x: x), (lambda y: y), "linear"


def _peaked(panel: Axes, values: np.ndarray, edges: np.ndarray, **style) -> None:
    """A histogram over its highest column."""
    counts = np.histogram(values, edges)[0].astype(float)
    panel.hist(edges[:-1], edges.tolist(), weights=counts / max(counts.max(), 1.0), **style)


def _narrowing(part: Shown) -> str:
    assert part.prior is not None
    draws = part.values["calibrated" if "calibrated" in part.values else "model"]
    (a, b), (c, d) = np.quantile(draws, [0.25, 0.75]), np.quantile(part.prior, [0.25, 0.75])
    return f"width {(b - a) / (d - c):.2g}" if d > c else ""
