"""Start values by search on averaged cells: every minimum worth polishing, and how often each was met.

Recipe, ranges and measured success: docs/optimizer.md. Points of a Latin hypercube are screened by their projected cost, the best
are fitted on the cells; batches go on until the best minimum has been reached several times.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import minimum_filter

from ..mode.base import Model
from ..problem import CellSource, Problem
from ..projection import project
from .trust_region import Tolerances, minimise

log = logging.getLogger("homodyne")

SHAPE_EXPONENTS = (-1.5, -0.5, 0.5, 1.5)


@dataclass(frozen=True)
class Found:
    """A local minimum on the cells; chi2 in units of the pixel variance."""

    u: np.ndarray
    chi2: float
    hits: int = 1


@dataclass(frozen=True)
class SearchResult:
    """Minima in order of chi2, best first.

    hits: fits that reached the best within 0.5 in chi2. excess: (chi2 - nu)/sqrt(2 nu) of the best on its cells; above 4 the model
    does not describe the cells to their noise (or that noise is correlated).
    """

    minima: tuple[Found, ...]
    hits: int
    excess: float
    passes: int
    batches: int


@dataclass(frozen=True)
class SearchSettings:
    """Numbers of the recipe: points and fits per batch, batches, and hits that end the search."""

    points: int = 60
    fits: int = 6
    grid_fits: int = 4
    min_batches: int = 2
    max_batches: int = 8
    hits: int = 3
    sure_hits: int = 6


RECIPE = SearchSettings()


class Search:
    """A search on the cells of one Dataset.

    Args:
        fine, coarse: the problem on cells of (lag, age) and of lag only. threads: local fits under way at the same time.
    """

    def __init__(self, fine: Problem, coarse: Problem, threads: int, settings: SearchSettings = RECIPE) -> None:
        self.fine, self.coarse, self.threads, self.settings = fine, coarse, threads, settings
        source = fine.source
        assert isinstance(source, CellSource)
        self.cells = source.cells
        self.variance = self.cells.pixel_variance
        self.passes = 0
        self.minima: list[Found] = []
        degrees = max(self.cells.used - len(fine.model.coordinates) - fine.design.count, 1)
        self.degrees = degrees
        self.tolerances = Tolerances(ftol=0.01 / degrees, xtol=1e-8, gtol=1e-10, max_passes=40)

    def run(self, rng: np.random.Generator, user_start: np.ndarray | None) -> SearchResult:
        """All batches, then the sweep over other shapes of the best."""
        settings = self.settings
        starts = [*self.grid_minima(), *([] if user_start is None else [user_start])]
        batch = 0
        while True:
            batch += 1
            self.fit([*starts, *self._screened(rng)])
            best = self.minima[0].chi2 if self.minima else np.inf
            text = "search %d on %d cells: best chi2 %.6g, reached by %d fits, %d passes"
            log.info(text, batch, self.cells.used, best, self.hits, self.passes)
            starts = []
            hits = self.hits
            settled = (hits >= settings.hits and self.excess < 4) or hits >= settings.sure_hits
            if batch >= settings.max_batches or (batch >= settings.min_batches and settled):
                break
        if self.minima:
            self.fit(self.fine.model.variants(self.minima[0].u, SHAPE_EXPONENTS, self.fine.model.exponents()))
        return SearchResult(tuple(self.minima), self.hits, self.excess, self.passes, batch)

    @property
    def hits(self) -> int:
        """How many fits reached the best chi2 within 0.5."""
        return sum(minimum.hits for minimum in self.minima if minimum.chi2 < self.minima[0].chi2 + 0.5)

    @property
    def excess(self) -> float:
        """How far the best chi2 is above its expectation, in standard deviations."""
        if not self.minima:
            return float("inf")
        return (self.minima[0].chi2 - self.degrees) / np.sqrt(2 * self.degrees)

    def cost(self, problem: Problem, points: np.ndarray) -> np.ndarray:
        """(B,) chi2 in units of the pixel variance at points (B, p); infinite outside the model's domain."""
        source = problem.source
        assert isinstance(source, CellSource)
        chi2 = project(source.batch(problem.model, points), problem.design).chi2 / self.variance
        allowed = np.array([problem.model.allowed(u) for u in points])
        return np.where(allowed & np.isfinite(chi2), chi2, np.inf)

    def grid_minima(self) -> list[np.ndarray]:
        """The deepest local minima of the model's regular grid, on lag cells."""
        grid = self.coarse.model.grid()
        chi2 = self.cost(self.coarse, grid.reshape(int(np.prod(grid.shape[:-1])), grid.shape[-1])).reshape(grid.shape[:-1])
        # The last axis of a flow grid is the flow direction, which repeats after 180 degrees.
        modes = ["nearest"] * (chi2.ndim - 1) + ["wrap" if chi2.ndim > 1 else "nearest"]
        local = np.argwhere((chi2 == minimum_filter(chi2, size=3, mode=modes)) & np.isfinite(chi2))
        best = sorted(map(tuple, local), key=lambda at: chi2[at])[: self.settings.grid_fits]
        return [grid[at] for at in best]

    def fit(self, starts: Sequence[np.ndarray]) -> None:
        """Local fits on the cells, added to the minima in the order of their starts."""
        with ThreadPoolExecutor(self.threads) as pool:
            fits = list(pool.map(lambda start: minimise(self.fine, start, self.tolerances), starts))
        for local in fits:
            if local is not None:
                self.passes += local.passes
                u = self.fine.model.canonical(local.evaluation.u)
                merge(self.minima, Found(u, local.evaluation.chi2 / self.variance), self.fine.model)

    def _screened(self, rng: np.random.Generator) -> np.ndarray:
        points = self.fine.model.starts(rng, self.settings.points)
        chi2 = self.cost(self.fine, points)
        best = np.argsort(chi2)[: self.settings.fits]
        return points[best[np.isfinite(chi2[best])]]


def merge(minima: list[Found], found: Found, model: Model) -> None:
    """Count a minimum as reached again when it is the same as a known one, else add it; best first."""
    for k, other in enumerate(minima):
        if abs(found.chi2 - other.chi2) < 0.5 and np.all(np.abs(found.u - other.u) < 0.2 * model.spread):
            better = found if found.chi2 < other.chi2 else other
            minima[k] = replace(better, hits=other.hits + 1)
            break
    else:
        minima.append(found)
    minima.sort(key=lambda minimum: minimum.chi2)


def distinct(candidates: list[Found], model: Model, limit: int, window: float) -> list[Found]:
    """At most ``limit`` candidates within ``window`` of the best chi2 that differ from each other."""
    chosen: list[Found] = []
    for candidate in candidates:
        near = candidate.chi2 <= candidates[0].chi2 + window
        new = all(np.any(np.abs(candidate.u - other.u) > 0.2 * model.spread) or abs(candidate.chi2 - other.chi2) > 0.05 for other in chosen)
        if near and new and len(chosen) < limit:
            chosen.append(candidate)
    return chosen
