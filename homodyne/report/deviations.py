"""Where the model fails: standardised block means of the residuals by lag, age and angle."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..goodness import p_text
from ..results import Goodness
from ..save import Run
from .style import angle, new_figure

SCALE = 4.0
"""Standard deviations at the ends of the colour scale."""
AGES = ("youngest", "younger", "older", "oldest")


def deviations(run: Run, width: float) -> Figure | None:
    """By angle and lag, by angle and age, and by lag and age at the angle that fits worst; None without a test."""
    found = run.fit.goodness
    if found is None:
        return None
    tests = [f"{name.replace('_', ' ')}: {p_text(test.p_value)}" for name, test in found.tests.items() if np.isfinite(test.p_value)]
    figure, axes = new_figure(run, width, 2.6, "blocks of residuals / their standard deviation", *tests, columns=3)
    worst = int(np.nanargmin(found.angles)) if np.isfinite(found.angles).any() else 0
    lags, angles = _lags(run, found), [f"{value:.3g}" for value in run.phi]
    ages = list(AGES[: found.z_age.shape[1]])
    image = _panel(axes[0], found.z_lag, "lag (s)", lags, "φ (°)", angles, "all ages")
    _panel(axes[1], found.z_age, "age", ages, "φ (°)", angles, "all lags")
    blocks = np.full((len(ages), len(lags)), np.nan)
    blocks[found.age, found.lag] = found.z[worst]
    _panel(axes[2], blocks, "lag (s)", lags, "age", ages, f"{angle(run.phi[worst])}, {p_text(found.angles[worst])}")
    figure.colorbar(image, ax=axes, label="standard deviations", extend="both", aspect=25 if len(axes) == 3 and width >= 5 else 40)
    return figure


def _lags(run: Run, found: Goodness) -> list[str]:
    """First lag of each class, s."""
    dt = run.t[1] - run.t[0]
    return [f"{edge * dt:.3g}" for edge in found.lag_edges[:-1]]


def _panel(panel: Axes, values: np.ndarray, across: str, columns: list[str], up: str, rows: list[str], title: str):
    colours = colormaps["RdBu_r"].with_extremes(bad="0.8")
    image = panel.imshow(values, aspect="auto", origin="lower", cmap=colours, vmin=-SCALE, vmax=SCALE, interpolation="nearest")
    step = max(1, -(-len(columns) // 6))
    panel.set_xticks(range(0, len(columns), step), columns[::step], rotation=45 if len(columns[0]) > 6 else 0)
    step = max(1, -(-len(rows) // 12))
    panel.set_yticks(range(0, len(rows), step), rows[::step])
    panel.set(xlabel=across, ylabel=up, title=title)
    return image
