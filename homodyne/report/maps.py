"""Data, model and residual of one angle, as block means on axes of time."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from ..pictures import block_size
from ..save import Run
from .style import ONE_COLUMN, angle, foot, settle

MASKED = "0.8"


class MapFigure:
    """One figure that is refilled for each angle: its layout is solved once, which is most of the time of a figure.

    Data and model share one colour scale; the residual has one that is symmetric about 0, in units of the rms residual of a pixel.
    """

    def __init__(self, run: Run, width: float) -> None:
        self.run = run
        side_by_side = width >= ONE_COLUMN
        self.figure = Figure(figsize=(width, 0.285 * width + 1.6) if side_by_side else (width, 2.55 * width), layout="constrained")
        FigureCanvasAgg(self.figure)
        axes = self.figure.subplots(1, 3, sharey=True) if side_by_side else self.figure.subplots(3, 1, sharex=True)
        self.images = [self._image(panel, name) for panel, name in zip(axes, ("data", "model", "residual"), strict=True)]
        for panel in axes if not side_by_side else axes[:1]:
            panel.set_ylabel("$t_1$ (s)")
        for panel in axes if side_by_side else axes[2:]:
            panel.set_xlabel("$t_2$ (s)")
        where = {"orientation": "horizontal", "location": "bottom", "aspect": 30} if side_by_side else {"aspect": 25}
        self.figure.colorbar(self.images[1], ax=list(axes[:2]), label="$c_2$", extend="both", **where)
        where = where | {"aspect": 15 if side_by_side else 12}
        self.sigma = run.fit.sigma if np.isfinite(run.fit.sigma) and run.fit.sigma > 0 else None
        label = "residual" if self.sigma is None else f"residual / σ   (σ = {self.sigma:.3g})"
        self.figure.colorbar(self.images[2], ax=axes[2], label=label, extend="both", ticks=MaxNLocator(4), **where)
        self.title = self.figure.suptitle(" ")
        size = block_size(len(run.t))
        means = f"means of {size} × {size} frames" if size > 1 else "single pixels"
        foot(self.figure, run, width, means, "grey: not used")
        self.solved = False

    def draw(self, index: int) -> Figure:
        """The figure of one angle."""
        run, maps = self.run, self.run.pictures.maps
        data, model = maps.data[index], maps.model[index]
        residual = maps.residual[index] / (self.sigma or 1.0)
        # The model is free of noise: all of it belongs on the scale, be the peak as thin as it may.
        low, high = limits(data, percent=1.0)
        bottom, top = limits(model, percent=0.0)
        low, high = min(low, bottom), max(high, top)
        extreme = max(abs(value) for value in limits(residual, percent=0.5))
        scales = ((low, high), (low, high), (-extreme, extreme))
        for image, values, scale in zip(self.images, (data, model, residual), scales, strict=True):
            image.set_data(values)
            image.set_clim(*scale)
        self.title.set_text(f"{angle(run.phi[index])},   q = {run.q:.4g} Å⁻¹")
        if not self.solved:
            settle(self.figure)
            self.figure.set_layout_engine("none")
            for image in self.images:
                # Smoothing is for blocks smaller than a dot; above that it would only beat with the grid of dots.
                dots = image.axes.get_window_extent().width
                image.set_interpolation("nearest" if dots >= len(maps.edges) - 1 else "hanning")
            self.solved = True
        return self.figure

    def _image(self, panel: Axes, name: str) -> AxesImage:
        edges = self.run.pictures.maps.edges
        blocks = len(edges) - 1
        # The last block may be narrower than the others: it is drawn full and cut off by the limits of the axes.
        far = edges[0] + blocks * (edges[1] - edges[0])
        colours = colormaps["RdBu_r" if name == "residual" else "viridis"].with_extremes(bad=MASKED)
        image = panel.imshow(
            np.zeros((blocks, blocks)),
            origin="lower",
            extent=(edges[0], far, edges[0], far),
            cmap=colours,
        )
        panel.set(xlim=(edges[0], edges[-1]), ylim=(edges[0], edges[-1]), title=name)
        panel.locator_params(nbins=5)
        return image


def limits(values: np.ndarray, *, percent: float) -> tuple[float, float]:
    """A range that leaves out this much of the finite values at either end, never empty."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return -1.0, 1.0
    low, high = (float(value) for value in np.percentile(finite, (percent, 100 - percent)))
    return (low, high) if high > low else (low - 0.5, high + 0.5)
