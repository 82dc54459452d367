"""Several shards in one compiled call in this process: for a GPU, or for shards too small to fill the cores."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from ..errors import ConfigError
from ..tasks import Task, Work, compute_batch
from .base import AbstractCMCBackend
from .board import Board


class Vectorized(AbstractCMCBackend):
    """Batches of shards, one batch after another."""

    batch_size: Annotated[int, Field(ge=1)]
    """Shards in one call: memory against speed."""

    def check(self, work: Work) -> None:
        if work.batch is None:
            raise ConfigError(
                f"cmc_backend: found vectorized, but {work.function} cannot do several shards in one call; accepted: serial, processes, "
                "submitit_local, slurm, pbs"
            )

    def compute(self, work: Work, tasks: Sequence[Task], board: Board) -> None:
        assert work.batch is not None
        for start in range(0, len(tasks), self.batch_size):
            batch = tasks[start : start + self.batch_size]
            for task in batch:
                board.begin(task)

            def heard(numbers: Mapping[str, float], first: Task = batch[0]) -> None:
                board.heard(first, numbers)
                board.tick()

            compute_batch(work.batch, work.function, [task.folder for task in batch], heard)
            for task in batch:
                assert board.settled(task)
            board.tick()
