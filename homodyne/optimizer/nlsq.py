"""optimizer=nlsq: search on averaged cells, then trust-region fits on all pixels. The default."""

import numpy as np

from .base import AbstractOptimizer, Task
from .search import Found, Search


class Nlsq(AbstractOptimizer):
    """The whole recipe of docs/optimizer.md; no settings of its own."""

    def candidates(self, task: Task) -> tuple[list[Found], dict[str, float]]:
        result = Search(task.fine, task.coarse, task.threads).run(np.random.default_rng(task.seed), task.user_start)
        described = {
            "reached": float(result.hits),
            "batches": float(result.batches),
            "cell_passes": float(result.passes),
            "cell_excess": result.excess,
        }
        return list(result.minima), described
