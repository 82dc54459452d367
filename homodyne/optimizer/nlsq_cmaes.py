"""optimizer=nlsq_cmaes: CMA-ES on the projected cost of averaged cells, then trust-region fits on all pixels."""

import logging
from typing import Annotated

import numpy as np
from cmaes import CMA
from pydantic import Field

from .base import AbstractOptimizer, Task
from .search import Found, Search

log = logging.getLogger("homodyne")


class NlsqCmaes(AbstractOptimizer):
    """``restarts`` runs of at most ``evaluations`` cost evaluations with ``population`` points per generation.

    ``sigma`` is the first step in units of the model's coordinate spreads; a run ends when the costs of a generation agree within 0.5.
    """

    population: Annotated[int, Field(ge=4)]
    sigma: Annotated[float, Field(gt=0)]
    restarts: Annotated[int, Field(ge=1)]
    evaluations: Annotated[int, Field(ge=1)]

    def candidates(self, task: Task) -> tuple[list[Found], dict[str, float]]:
        search = Search(task.fine, task.coarse, task.threads)
        for restart in range(self.restarts):
            task.progress.check()
            search.fit([self._run(search, task, task.seed + restart)])
            best = search.minima[0].chi2 if search.minima else np.inf
            log.info("CMA-ES run %d of %d: best chi2 on cells %.6g", restart + 1, self.restarts, best)
        return search.minima, {"cell_passes": float(search.passes), "cell_excess": search.excess, "reached": float(search.hits)}

    def _run(self, search: Search, task: Task, seed: int) -> np.ndarray:
        """Best point of one CMA-ES run, in solver coordinates."""
        model = task.fine.model
        rng = np.random.default_rng(seed)
        centre = task.user_start if task.user_start is not None else np.median(model.starts(rng, 64), axis=0)
        spread = model.spread
        bounds = np.stack([(model.lower - centre) / spread, (model.upper - centre) / spread], axis=1)
        strategy = CMA(np.zeros(len(centre)), self.sigma, bounds=bounds, seed=seed, population_size=self.population)
        best, lowest = centre, np.inf
        for _ in range(max(1, self.evaluations // self.population)):
            steps = np.array([strategy.ask() for _ in range(self.population)])
            points = centre + steps * spread
            cost = search.cost(task.fine, points)
            if cost.min() < lowest:
                best, lowest = points[np.argmin(cost)], float(cost.min())
            finite = np.where(np.isfinite(cost), cost, np.finfo(float).max ** 0.5)
            strategy.tell(list(zip(steps, finite.tolist(), strict=True)))
            if np.ptp(finite) < 0.5 or strategy.should_stop():
                break
        return best
