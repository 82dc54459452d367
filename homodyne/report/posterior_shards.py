"""The sub-posteriors of a consensus beside what they were combined to."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..draws import Posterior, Shards
from ..save import Run
from .posterior_style import COLOURS, LABELS, Shown, blank_figure, notes, shown
from .style import BLUE, GREY, ONE_COLUMN

MARK: dict[str, Any] = {"color": BLUE, "marker": "o", "markersize": 2.5}
STATUS: dict[str, dict[str, Any]] = {
    "good": {"markerfacecolor": BLUE},
    "rerun": {"markerfacecolor": "white"},
    "poor": {"color": "#b01717", "marker": "D"},
}
"""Marks of the shards; a missing one has none."""


def shards(run: Run, width: float) -> Figure | None:
    """Mean and standard deviation of each parameter in each shard, above them the combination; None without shards."""
    posterior = run.posterior
    if posterior is None or posterior.shards is None:
        return None
    found = shown(run, posterior)
    columns = min(len(found), 4 if width >= ONE_COLUMN else 2)
    rows = -(-len(found) // columns)
    count = len(posterior.shards.status)
    height = rows * (min(0.11 * (count + 4), 4.0) + 0.7) + 0.6
    above = f"above the shards: interval of {100 * posterior.confidence:g} %, fit ±1σ; shards: ±1σ"
    figure, axes = blank_figure(run, width, height, *notes(posterior), above, rows=rows, columns=columns)
    panels = [panel for line in axes for panel in line]
    for k, (panel, part) in enumerate(zip(panels, found, strict=False)):
        _draw(panel, part, posterior, posterior.shards, run)
        panel.tick_params(labelleft=k % columns == 0)
        if k % columns == 0:
            panel.set_ylabel("shard")
    for panel in panels[len(found) :]:
        panel.remove()
    used = [word for word in STATUS if word in posterior.shards.status]
    handles = [Line2D([], [], **(MARK | STATUS[word]), linestyle="", label=word) for word in used]
    handles += [Line2D([], [], color=COLOURS[name], linewidth=2, label=LABELS[name]) for name in posterior.answers]
    handles += [Line2D([], [], color="black", marker="o", markersize=3, label="fit")]
    handles += [Line2D([], [], color="black", linestyle="-.", linewidth=0.8, label="truth")] if run.truth else []
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles) if width >= ONE_COLUMN else 3)
    return figure


def _draw(panel: Axes, part: Shown, posterior: Posterior, found: Shards, run: Run) -> None:
    column, size, count = posterior.names.index(part.name), 10.0**part.exponent, len(found.status)
    mean, sd = found.parameter_mean[:, column] / size, found.parameter_sd[:, column] / size
    for k, status in enumerate(found.status):
        if status != "missing":
            panel.errorbar(mean[k], k + 1, xerr=sd[k], elinewidth=0.6, **(MARK | STATUS[status]))
    tail = 0.5 * (1 - posterior.confidence)
    for row, (width, values) in enumerate(part.values.items(), start=1):
        low, middle, high = np.quantile(values, [tail, 0.5, 1 - tail])
        panel.plot([low, high], [-row, -row], color=COLOURS[width], linewidth=3, solid_capstyle="butt")
        panel.plot(middle, -row, "|", color="white", markersize=3)
    error = run.fit.parameters[part.name].error / size
    panel.errorbar(part.fit, -len(part.values) - 1, xerr=error if np.isfinite(error) else None, fmt="o", color="black", elinewidth=0.8)
    panel.axhline(0.0, color=GREY, linewidth=0.6)
    if part.truth is not None:
        panel.axvline(part.truth, color="black", linestyle="-.", linewidth=0.8, zorder=0)
    panel.set(ylim=(count + 1, -len(part.values) - 2), xlabel=part.label)
    panel.set_yticks([k for k in MaxNLocator(6, integer=True).tick_values(1, count) if 1 <= k <= count])
    panel.xaxis.set_major_locator(MaxNLocator(3, prune="both"))
