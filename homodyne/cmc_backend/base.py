"""Where the shards of one consensus Monte Carlo run are sampled. It changes when they are ready, and no number.

A shard is a task: a folder with its inputs (``homodyne.tasks``). ``run`` computes the tasks that have no valid result and returns one
outcome for each, in their order, so a run that was interrupted goes on with the same call, here or on another option.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from ..settings import Option
from ..tasks import Outcome, Task, Work, owned
from ..tasks.folder import clear
from .board import Board, Watch
from .command import available_cores
from .interrupts import Interrupts


class AbstractCMCBackend(Option, ABC):
    """Base of the options of group ``cmc_backend``."""

    def run(self, work: Work, tasks: Sequence[Task], watch: Watch) -> list[Outcome]:
        """Compute all tasks that have no valid result.

        Args:
            work: what is done. tasks: in folders side by side. watch: is told the status about once a second, and may raise to stop.

        Raises:
            ConfigError: this option cannot do it here.
            FitError: another driver uses the folder.
            KeyboardInterrupt: SIGINT or SIGTERM; workers are stopped, finished results stay.
        """
        self.check(work)
        if not tasks:
            return []
        folders = {task.folder for task in tasks}
        (root,) = {folder.parent for folder in folders}
        assert len(folders) == len(tasks), "two tasks share a folder"
        interrupts = Interrupts()
        board = Board(work, tasks, watch, interrupts)
        with owned(root), interrupts.caught():
            for task in tasks:
                # A failure of an earlier run is tried again: its cause may be gone.
                clear(task.folder)
            left = [task for task in tasks if not board.settled(task)]
            board.tick(now=True)
            if left:
                self.compute(work, left, board)
                board.tick(now=True)
        return [board.outcomes[task.folder] for task in tasks]

    @property
    def places(self) -> int:
        """Tasks at the same time, or the cores where one task takes them all; where only a scheduler knows, what it usually lets run."""
        return len(available_cores())

    def check(self, work: Work) -> None:
        """Raise ConfigError when this option cannot do the work here."""

    @abstractmethod
    def compute(self, work: Work, tasks: Sequence[Task], board: Board) -> None:
        """Bring each of these tasks to an outcome on the board; whatever interrupts it, stop all workers."""
