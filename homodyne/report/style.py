"""How every figure looks: sizes for print, names with their symbols and units, and the line at the foot that says what was fitted."""

from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..save import Run

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "figure.titlesize": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.0,
    "lines.markersize": 2.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    # An offset such as "+1" above an axis of c2 is read as its value.
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-3, 4),
    "axes.formatter.use_mathtext": True,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    "savefig.facecolor": "white",
    "savefig.dpi": "figure",
    # Journals want fonts that can be edited, not outlines of type 3.
    "pdf.fonttype": 42,
}

SYMBOLS = {
    "D0": r"$D_0$",
    "alpha": r"$\alpha$",
    "D_offset": r"$D_\mathrm{offset}$",
    "gamma_dot_t0": r"$\dot\gamma_0$",
    "beta": r"$\beta$",
    "gamma_dot_t_offset": r"$\dot\gamma_\mathrm{offset}$",
    "phi0": r"$\phi_0$",
    "J": r"$J$",
    "gamma_dot": r"$\dot\gamma$",
}
UNITS = {"Angstrom^2/s": "Å²/s", "1/s": "s⁻¹", "degrees": "°"}
KERNELS = {
    # Spaces that do not break: the foot line may be wrapped.
    "gap_average": "sinc²[qL\u00a0cos(φ₀\u00a0−\u00a0φ)\u00a0Γ/2]",
    "homodyne_v2": "sinc⁴[qL\u00a0cos(φ₀\u00a0−\u00a0φ)\u00a0Γ/2π] as in homodyne 2.x",
}
ONE_COLUMN = 5.0
"""Below this width, inches, panels are stacked."""

BLUE, ORANGE, GREY = "#0a5ba6", "#c8500a", "0.55"


def angle(degrees: float) -> str:
    """An azimuth as a title."""
    return f"φ = {degrees:.2f}°".replace("-", "−")


def symbol(name: str) -> str:
    """A parameter or rate as it is written in print."""
    return SYMBOLS[name] if name in SYMBOLS else name


def unit(name: str) -> str:
    """A unit as it is written in print."""
    return UNITS[name] if name in UNITS else name


def new_figure(run: Run, width: float, height: float, *notes: str, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with its foot line, and its panels row by row; all in one column when narrow. Height is that of one row, inches."""
    if width < ONE_COLUMN:
        rows, columns = rows * columns, 1
    figure = Figure(figsize=(width, height * rows + 0.25), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    foot(figure, run, width, *notes)
    return figure, list(np.ravel(axes))


def settle(figure: Figure) -> None:
    """Solve the layout. A draw may choose other ticks than its layout was made for, so that the next one fits: draw twice."""
    for _ in range(2):
        figure.draw_without_rendering()


def foot(figure: Figure, run: Run, width: float, *notes: str) -> None:
    """Say at the foot of a figure what was fitted; part of the layout, so it never covers anything."""
    fit = run.fit
    parts = [fit.mode.replace("_", " ")]
    if fit.shear_kernel in KERNELS:
        parts.append(f"shear kernel {fit.shear_kernel}: {KERNELS[fit.shear_kernel]}")
    if not fit.success:
        parts.append(f"NOT CONVERGED ({fit.outcome.name})")
    parts += notes
    text = fill("; ".join(parts), int(width * 19))
    figure.supxlabel(text, x=0.005, ha="left", fontsize=7, color="0.35")
