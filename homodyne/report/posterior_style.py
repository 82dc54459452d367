"""What the figures of a posterior share: its parameters on axes with short numbers, colours of the widths, and the foot."""

from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..draws import Posterior
from ..save import Run
from .style import BLUE, ORANGE, foot, symbol, unit

COLOURS = {"model": BLUE, "calibrated": ORANGE}
LABELS = {"model": "likelihood", "calibrated": "calibrated"}
TAIL, MARGIN = 0.02, 0.15
"""Share of the draws that each end of an axis may leave out, and what is added to the range of the others."""
PRIOR_TAIL = 0.1
"""The same of the prior, which may have no end."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Shown:
    """A parameter as it is drawn, in units of 10^exponent.

    Attributes:
        values: by width, (C S,). fit: of the run. truth: None when not known. prior: (S,) or None.
        limits: of its axis.
    """

    name: str
    unit: str
    exponent: int
    values: dict[str, np.ndarray]
    fit: float
    truth: float | None
    prior: np.ndarray | None
    limits: tuple[float, float]

    @property
    def power(self) -> str:
        """The power of ten, with a space before the unit; empty for 1."""
        return f"10{str(self.exponent).translate(SUPERSCRIPTS)}\u00a0" if self.exponent else ""

    @property
    def of(self) -> str:
        """Unit of its numbers; empty for 1."""
        return (self.power + ("" if self.unit == "1" else unit(self.unit))).strip()

    @property
    def label(self) -> str:
        return f"{symbol(self.name)} ({self.of})" if self.of else symbol(self.name)


def shown(run: Run, posterior: Posterior) -> list[Shown]:
    """The parameters that vary, each on an axis for its posterior."""
    return [_scaled(run, posterior, k, _ends(draws)) for k, draws in _varying(posterior)]


def shown_with_prior(run: Run, posterior: Posterior) -> list[Shown]:
    """The same on axes that hold most of the prior as well; none without a prior."""
    if posterior.prior is None:
        return []
    found = []
    for k, draws in _varying(posterior):
        prior = np.quantile(posterior.prior.parameters[:, k], [PRIOR_TAIL, 1 - PRIOR_TAIL])
        found.append(_scaled(run, posterior, k, [*_ends(draws), *prior]))
    return found


def _ends(draws: list[np.ndarray]) -> list[float]:
    """Ends of the axes of several sets of draws."""
    ends = []
    for values in draws:
        low, high = np.quantile(values, [TAIL, 1 - TAIL])
        ends += [low - MARGIN * (high - low), high + MARGIN * (high - low)]
    return ends


def _varying(posterior: Posterior) -> list[tuple[int, list[np.ndarray]]]:
    """Index and draws of each width."""
    columns = [(k, [answer.parameters[..., k].ravel() for answer in posterior.answers.values()]) for k in range(len(posterior.names))]
    return [(k, draws) for k, draws in columns if any(np.ptp(values) > 0 for values in draws)]


def _scaled(run: Run, posterior: Posterior, k: int, ends: list[float]) -> Shown:
    name, low, high = posterior.names[k], float(min(ends)), float(max(ends))
    size = int(np.floor(np.log10(max(abs(low), abs(high)))))
    exponent = 0 if -1 <= size <= 3 else size
    power = 10.0**exponent
    return Shown(
        name=name,
        unit=posterior.units[k],
        exponent=exponent,
        values={width: answer.parameters[..., k].ravel() / power for width, answer in posterior.answers.items()},
        fit=run.fit.parameters[name].value / power,
        truth=run.truth[name] / power if run.truth is not None and name in run.truth else None,
        prior=None if posterior.prior is None else posterior.prior.parameters[:, k] / power,
        limits=(low / power, high / power),
    )


def blank_figure(run: Run, width: float, height: float, *remarks: str, rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    """A figure with its foot line and (rows, columns) panels, at any width; height of the whole, inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    foot(figure, run, width, *remarks)
    return figure, axes.tolist()


def notes(posterior: Posterior) -> tuple[str, ...]:
    """How the draws were made, for the foot."""
    found = f"posterior by {posterior.engine}, {posterior.exactness.replace('_', ' ')}"
    k_hat = posterior.numbers["k_hat"] if "k_hat" in posterior.numbers else np.nan
    return (found, f"Pareto k = {k_hat:.2f}") if np.isfinite(k_hat) else (found,)


def quoted(posterior: Posterior) -> str:
    """The width to quote."""
    return next(width for width, answer in posterior.answers.items() if answer is posterior.answer)


def width_handles(posterior: Posterior) -> list[Artist]:
    """Legend of the widths."""
    return [Patch(color=COLOURS[width], alpha=0.7, label=LABELS[width]) for width in posterior.answers]
