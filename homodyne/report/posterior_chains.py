"""Whether the chains of the width to quote have mixed: traces, ranks, energies and effective draws."""

import numpy as np
from arviz_stats import ess  # type: ignore[attr-defined]  # its public name, though not in __all__
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from ..draws import Answer
from ..save import Run
from .posterior_style import LABELS, Shown, blank_figure, notes, quoted, shown
from .style import BLUE, GREY, ONE_COLUMN, ORANGE, symbol

RANK_BINS = 20
PARTS = 10
"""Points along the effective number of draws."""
ENOUGH = 400
"""Effective draws from which quantiles and R-hat can be trusted."""
FAR = 0.003
"""Share of the draws that each end of a trace may leave out: one far draw would hide the others."""
MOST_POINTS = 1000
"""Points of a trace that print can still show."""


def traces(run: Run, width: float) -> Figure | None:
    """Draws of each parameter in order and ranks of each chain; None when the draws are not chains."""
    posterior = run.posterior
    if posterior is None or not posterior.answer.chains:
        return None
    found, answer, name = shown(run, posterior), posterior.answer, quoted(posterior)
    shape = answer.sigma.shape
    ranks = "right: draws of a chain in each twentieth of all ranks, over their expectation; band: ±2σ if independent"
    remarks = (*notes(posterior), f"{shape[0]} chains, {LABELS[name]}", ranks)
    figure, axes = blank_figure(run, width, 0.95 * len(found) + 0.8, *remarks, rows=len(found), columns=2)
    for (left, right), part in zip(axes, found, strict=True):
        values = part.values[name].reshape(shape)
        _draw_trace(left, part, values)
        _draw_ranks(right, values)
        if part.name in answer.summary:
            summary = answer.summary[part.name]
            left.set_title(f"$\\hat R$ = {summary.rhat:.3f}, effective draws {summary.ess_bulk:.0f}", pad=2)
        for panel in (left, right):
            panel.tick_params(labelbottom=part is found[-1])
    axes[0][1].set_title("ranks", pad=2)
    axes[-1][0].set_xlabel("draw")
    axes[-1][1].set_xlabel("rank (%)")
    figure.align_labels()
    return figure


def sampler(run: Run, width: float) -> Figure | None:
    """Energies that the chains visit against those that a step can change, and effective draws against draws."""
    posterior = run.posterior
    if posterior is None or not posterior.answer.chains:
        return None
    answer, energy = posterior.answer, "energy" in posterior.answer.stats
    columns = 2 if energy and width >= ONE_COLUMN else 1
    rows = 2 if energy and columns == 1 else 1
    remarks = (*notes(posterior), *_counted(answer), LABELS[quoted(posterior)])
    figure, axes = blank_figure(run, min(width, 3.5 * columns), 2.4 * rows + 0.7, *remarks, rows=rows, columns=columns)
    panels = [panel for line in axes for panel in line]
    if energy:
        _draw_energy(panels[0], answer.stats["energy"])
    _draw_effective(panels[-1], shown(run, posterior), quoted(posterior), answer.sigma.shape)
    return figure


def _draw_trace(panel: Axes, part: Shown, values: np.ndarray) -> None:
    chains, draws = values.shape
    step = -(-draws // MOST_POINTS)
    for chain, colour in zip(values, _colours(chains), strict=True):
        panel.plot(np.arange(0, draws, step), chain[::step], color=colour, linewidth=0.4, alpha=0.8)
    low, high = np.quantile(values, [FAR, 1 - FAR])
    panel.set(xlim=(0, draws), ylim=(low - 0.1 * (high - low), high + 0.1 * (high - low)), ylabel=part.label)
    panel.yaxis.set_major_locator(MaxNLocator(3))
    panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _draw_ranks(panel: Axes, values: np.ndarray) -> None:
    chains, draws = values.shape
    share = rankdata(values).reshape(values.shape) / values.size
    expected = draws / RANK_BINS
    spread = 2 * np.sqrt(expected * (1 - 1 / chains)) / expected
    panel.axhspan(1 - spread, 1 + spread, color="0.92", linewidth=0, zorder=0)
    panel.axhline(1.0, color=GREY, linewidth=0.6, linestyle="--", zorder=0)
    edges = np.linspace(0, 100, RANK_BINS + 1)
    for chain, colour in zip(share, _colours(chains), strict=True):
        panel.stairs(np.histogram(100 * chain, edges)[0] / expected, edges, color=colour, linewidth=0.8)
    panel.set(xlim=(0, 100), ylim=(0, None))
    panel.yaxis.set_major_locator(MaxNLocator(3))


def _draw_energy(panel: Axes, energy: np.ndarray) -> None:
    change = np.diff(energy, axis=1)
    low, high = np.quantile(np.concatenate([energy.ravel() - energy.mean(), change.ravel()]), [0.001, 0.999])
    edges = np.linspace(low, high, 41).tolist()
    panel.hist(energy.ravel() - energy.mean(), edges, density=True, color=BLUE, alpha=0.35, label="energy − mean")
    panel.hist(change.ravel(), edges, density=True, histtype="step", color=ORANGE, label="change in one step")
    fraction = np.mean(change**2, axis=1) / np.var(energy, axis=1)
    panel.set(xlabel="energy", ylabel="density", title=f"smallest BFMI of a chain {fraction.min():.2f}")
    panel.legend()


def _draw_effective(panel: Axes, found: list[Shown], width: str, shape: tuple[int, int]) -> None:
    ends = np.unique(np.linspace(shape[1] / PARTS, shape[1], PARTS).round().astype(int))
    ends = ends[ends >= 4]
    for part, colour in zip(found, _colours(len(found)), strict=True):
        values = part.values[width].reshape(shape)
        effective = [float(ess(values[:, :end])) for end in ends]
        panel.plot(shape[0] * ends, effective, "o-", color=colour, label=symbol(part.name))
    panel.axhline(ENOUGH, color=GREY, linestyle="--", linewidth=0.7, zorder=0)
    panel.set(
        xlabel="draws of all chains", ylabel="effective draws", xlim=(0, None), ylim=(0, None), title=f"dashed: {ENOUGH} effective draws"
    )
    panel.legend(ncols=2)


def _counted(answer: Answer) -> tuple[str, ...]:
    if "diverging" not in answer.stats:
        return ()
    return (f"{int(answer.stats['diverging'].sum())} of {answer.sigma.size} steps diverged",)


def _colours(count: int):
    return colormaps["viridis"](np.linspace(0, 0.88, count))
