"""report=figures: the pictures of a fit, in ``figures/`` of the run folder.

maps_<index>_phi_<phi>   data, model and residual of one angle
cuts                     equal-lag and equal-age cuts with the model
rates                    J(t) and gamma_dot(t)
correlation              correlation matrix of the parameters
scaling                  contrast and offset of each angle
convergence              how the solver came to the minimum
deviations               where the model fails: residuals by lag, age and angle
derived                  relaxation times and strain
profiles, contours       what group ``uncertainty`` was asked for
posterior_<what>         the posterior, where there is one: pairs, prior, rates, cuts, shards, traces, sampler
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from pydantic import Field

from ..atomic import write_atomic
from ..save import Run, load_run
from .base import AbstractReport
from .deviations import deviations
from .intervals import contours, derived, profiles
from .maps import MapFigure
from .plots import convergence, correlation, cuts, rates, scaling
from .style import STYLE, settle

PLOTS = {
    "cuts": cuts,
    "rates": rates,
    "correlation": correlation,
    "scaling": scaling,
    "convergence": convergence,
    "deviations": deviations,
    "derived": derived,
    "profiles": profiles,
    "contours": contours,
}


class Figures(AbstractReport):
    """Figures sized for print."""

    width: Annotated[float, Field(ge=3.0, le=20.0)]
    """Inches. Below 5 the panels of a figure are stacked for one column of a journal."""

    dpi: Annotated[int, Field(ge=50, le=1200)]

    formats: Annotated[tuple[Literal["png", "pdf"], ...], Field(min_length=1)]

    angles: Annotated[int, Field(ge=1)] | None
    """Largest number of map figures, spread over the angles; None = one for every angle."""

    def write(self, folder: Path) -> None:
        run = load_run(folder)
        target = folder / "figures"
        target.mkdir(exist_ok=True)
        with matplotlib.rc_context(self.style):
            for name, figure in self.draw(run):
                for suffix in self.formats:
                    self._save(figure, target / f"{name}.{suffix}")

    def draw(self, run: Run) -> Iterator[tuple[str, Figure]]:
        """Name and figure, one after the other; a map figure is valid until the next one is asked for."""
        maps = MapFigure(run, self.width)
        for index in self.drawn_angles(len(run.phi)):
            # The index keeps apart two angles that print alike.
            yield f"maps_{index:03d}_phi_{run.phi[index]:.2f}", maps.draw(index)
        for name, plot in (PLOTS | _posterior_plots(run)).items():
            figure = plot(run, self.width)
            if figure is not None:
                settle(figure)
                yield name, figure

    @property
    def style(self) -> dict[str, Any]:
        """Settings of matplotlib in which ``draw`` and every use of its figures must happen."""
        return STYLE | {"figure.dpi": self.dpi}

    def drawn_angles(self, count: int) -> list[int]:
        """Indices of the angles that get a map figure."""
        if self.angles is None or self.angles >= count:
            return list(range(count))
        return np.linspace(0, count - 1, self.angles).round().astype(int).tolist()

    def _save(self, figure: Figure, path: Path) -> None:
        suffix = path.suffix[1:]
        # A date in the file would make two equal runs differ.
        metadata = {"CreationDate": None} if suffix == "pdf" else {}
        write_atomic(path, lambda file: figure.savefig(file, format=suffix, metadata=metadata))


def _posterior_plots(run: Run) -> dict[str, Callable[[Run, float], Figure | None]]:
    """Figures of the posterior; without one, nothing is imported for them."""
    if run.posterior is None:
        return {}
    from . import posterior, posterior_chains, posterior_shards

    return {
        "posterior_pairs": posterior.pairs,
        "posterior_prior": posterior.prior_posterior,
        "posterior_rates": posterior.rates,
        "posterior_cuts": posterior.cuts,
        "posterior_shards": posterior_shards.shards,
        "posterior_traces": posterior_chains.traces,
        "posterior_sampler": posterior_chains.sampler,
    }
