"""One shard after another in this process."""

from collections.abc import Mapping, Sequence

from ..tasks import Task, Work, compute
from .base import AbstractCMCBackend
from .board import Board


class Serial(AbstractCMCBackend):
    """The reference every other place is compared with."""

    def compute(self, work: Work, tasks: Sequence[Task], board: Board) -> None:
        for task in tasks:
            board.begin(task)

            def heard(numbers: Mapping[str, float], task: Task = task) -> None:
                board.heard(task, numbers)
                board.tick()

            compute(work.function, task.folder, heard)
            assert board.settled(task)
            board.tick()
