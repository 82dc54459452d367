"""optimizer=nlsq_multistart: Latin hypercube screened by chi2 over all pixels, the best fitted on all pixels."""

import logging
from typing import Annotated

import numpy as np
from pydantic import Field

from .base import AbstractOptimizer, Task
from .search import Found

log = logging.getLogger("homodyne")


class NlsqMultistart(AbstractOptimizer):
    """``points`` start points, of which ``polish`` are fitted. Independent of the cells that ``nlsq`` searches on."""

    points: Annotated[int, Field(ge=1)]

    def candidates(self, task: Task) -> tuple[list[Found], dict[str, float]]:
        points = list(task.problem.model.starts(np.random.default_rng(task.seed), self.points))
        if task.user_start is not None:
            points.insert(0, task.user_start)
        found = []
        for count, u in enumerate(points):
            task.progress.check()
            if count % 50 == 0:
                log.info("screening %d of %d start points on all pixels", count, len(points))
            if task.problem.model.allowed(u):
                found.append(Found(u, task.problem.evaluate(u, order=0).chi2 / task.pixel_variance))
        finite = sorted((f for f in found if np.isfinite(f.chi2)), key=lambda f: f.chi2)
        # The window of ``distinct`` is for fitted minima; screened points differ by far more than that.
        level = [Found(f.u, 0.0) for f in finite[: self.polish]]
        return level, {"screened": float(len(points))}
