"""Shards through submitit's executor for this machine: the job logic of a cluster, without one."""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ..tasks import Task, Work
from .base import AbstractCMCBackend
from .board import Board
from .command import available_cores, command, shares
from .rounds import JOBS, Limits, Queue, State, run_rounds

if TYPE_CHECKING:
    from submitit import Job


class SubmititLocal(AbstractCMCBackend):
    """A job for every shard, a limited number at the same time; submitit itself would start them all at once."""

    workers: Annotated[int, Field(ge=1)] | None
    """Jobs at the same time; None = one for every core this process may use."""

    threads_per_worker: Annotated[int, Field(ge=1)] | None
    """Cores of each; None = an equal share."""

    time_min: Annotated[int, Field(ge=1)]
    """Longest time of a job, min."""

    heartbeat_s: Annotated[float, Field(gt=0)] | None
    """Longest time without a sign of life, s."""

    retries: Annotated[int, Field(ge=0)]
    """How often a shard is tried again whose process died."""

    @property
    def places(self) -> int:
        return self.workers or len(available_cores())

    def compute(self, work: Work, tasks: Sequence[Task], board: Board) -> None:
        count = min(self.places, len(tasks))
        queue = _Local(work.function, shares(count, self.threads_per_worker), self.time_min, tasks[0].folder.parent / JOBS / "submitit")
        limits = Limits(1, self.retries, self.heartbeat_s, poll_s=0.2, settle_s=0.0, reason_after_s=30.0)
        try:
            run_rounds(queue, limits, work, tasks, board)
        finally:
            with board.interrupts.held():
                queue.close()


@dataclass
class _Place:
    """Cores for one job, and the job that has them."""

    cores: tuple[int, ...]
    name: str
    job: "Job[int]"
    begin: float


class _Local(Queue):
    """Starts a job when cores are free."""

    largest = 1_000_000

    def __init__(self, function: str, free: Sequence[tuple[int, ...]], time_min: int, folder: Path) -> None:
        self.function, self.time_min, self.folder = function, time_min, folder
        self.free = list(free)
        self.waiting: dict[str, Path] = {}
        self.running: dict[str, _Place] = {}
        self.ended: dict[str, State] = {}

    def submit(self, elements: Sequence[Sequence[Task]], name: str) -> list[str]:
        names = [f"{name}-{k}" for k in range(len(elements))]
        self.waiting |= {job: task.folder for job, (task,) in zip(names, elements, strict=True)}
        return names

    def states(self, jobs: Sequence[str]) -> dict[str, State]:
        for place in [place for place in self.running.values() if place.job.done()]:
            self._end(place)
        while self.free and self.waiting:
            name = next(iter(self.waiting))
            self.running[name] = self._start(name, self.waiting.pop(name), self.free.pop(0))
        return {name: self.ended[name] if name in self.ended else State("waiting" if name in self.waiting else "running") for name in jobs}

    def cancel(self, jobs: Sequence[str]) -> None:
        stopped = [self.running[name] for name in jobs if name in self.running]
        for name in jobs:
            self.waiting.pop(name, None)
        for place in stopped:
            place.job.cancel()
        for place in stopped:
            # submitit gives its process a second to end by itself.
            while not place.job.done():
                time.sleep(0.05)
            self._end(place)

    def close(self) -> None:
        """Wait for processes that have a result and are about to end."""
        end = time.monotonic() + 5.0
        while time.monotonic() < end and not all(place.job.done() for place in self.running.values()):
            time.sleep(0.05)
        self.cancel(list(self.running))

    def _start(self, name: str, folder: Path, cores: tuple[int, ...]) -> _Place:
        # Not at the top: only a run that uses submitit should wait for its import.
        from submitit import LocalExecutor

        executor = LocalExecutor(self.folder, max_num_timeout=0)
        executor.update_parameters(timeout_min=self.time_min, signal_delay_s=1)
        arguments = [self.function, str(folder), "--attached", "--cores", ",".join(map(str, cores))]
        # submitit hides all GPUs from its local jobs.
        job = executor.submit(subprocess.call, command(len(cores), arguments, keep=("CUDA_VISIBLE_DEVICES",)))
        return _Place(cores, name, job, time.monotonic())

    def _end(self, place: _Place) -> None:
        seconds = time.monotonic() - place.begin
        late = seconds > 60 * self.time_min - 2
        self.ended[place.name] = State("ended", f"{place.job.state.lower()} after {seconds:.0f} s", "deadline" if late else "died")
        self.free.append(place.cores)
        del self.running[place.name]
