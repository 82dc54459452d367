"""The loop that every scheduler shares: submit what is not done, look until it has ended, say what became of it, submit again.

A scheduler only gives ``submit``, ``states`` and ``cancel``. What it says of a job is a hint: a task is done when its result is
there, and a job that is gone without one has died, whatever its exit status.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from platform import node
from typing import Literal

from ..tasks import Task, Work
from ..tasks.folder import clear, tail
from .board import TICK_S, Board, heartbeat, out_of_time

log = logging.getLogger("homodyne")

JOBS = "jobs"
"""Folder beside the tasks: job scripts, lists and logs."""


@dataclass(frozen=True)
class State:
    """What the scheduler says of a job.

    Attributes:
        phase: where it is. reason: in the scheduler's words.
        kind: what it means when a job has ended and a task has no result.
    """

    phase: Literal["waiting", "running", "ended"]
    reason: str = ""
    kind: Literal["died", "deadline", "cancelled"] = "died"


class Queue(ABC):
    """A scheduler, for one run."""

    largest: int
    """Jobs that one submission may hold."""

    @abstractmethod
    def submit(self, elements: Sequence[Sequence[Task]], name: str) -> list[str]:
        """Submit jobs, each a list of tasks; the scheduler's name of each. name: of the submission, for its files."""

    @abstractmethod
    def states(self, jobs: Sequence[str]) -> dict[str, State]:
        """States of jobs; one that is left out could not be asked for and is asked for again later."""

    @abstractmethod
    def cancel(self, jobs: Sequence[str]) -> None:
        """End jobs; those that have ended already are no error."""

    def log_of(self, job: str) -> Path | None:
        """The log of a job, for those that end before a task has one."""
        return None


@dataclass(frozen=True)
class Limits:
    """How patient the loop is; the words are those of the options."""

    tasks_per_job: int
    retries: int
    heartbeat_s: float | None
    poll_s: float
    settle_s: float
    reason_after_s: float


@dataclass
class _Job:
    """A submitted job. ended: when the scheduler first said so, s. stopped: a task of it gave no sign of life."""

    name: str
    tasks: Sequence[Task]
    state: State = State("waiting")
    ended: float | None = None
    stopped: Task | None = None


def run_rounds(queue: Queue, limits: Limits, work: Work, tasks: Sequence[Task], board: Board) -> None:
    """Bring every task to an outcome; on the way out, whatever the reason, no job is left behind."""
    left, number = list(tasks), 0
    while left:
        jobs: list[_Job] = []
        try:
            for elements in _submissions(left, limits.tasks_per_job, queue.largest):
                number += 1
                for task in (task for element in elements for task in element):
                    clear(task.folder)
                with board.interrupts.held():
                    names = queue.submit(elements, str(number))
                    jobs += [_Job(name, element) for name, element in zip(names, elements, strict=True)]
            left = _follow(queue, limits, work, jobs, board)
        finally:
            with board.interrupts.held():
                queue.cancel([job.name for job in jobs if _must_end(job, board)])


def _submissions(tasks: Sequence[Task], size: int, largest: int) -> Iterable[list[list[Task]]]:
    """Jobs of ``size`` tasks, the most expensive first, in submissions that the scheduler accepts."""
    ordered = sorted(tasks, key=lambda task: -task.cost)
    elements = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return [elements[start : start + largest] for start in range(0, len(elements), largest)]


def _follow(queue: Queue, limits: Limits, work: Work, jobs: Sequence[_Job], board: Board) -> list[Task]:
    """Wait for jobs; the tasks that have to be submitted again."""
    again: list[Task] = []
    open_jobs, begin, explained = list(jobs), time.monotonic(), ""
    while open_jobs:
        states = queue.states([job.name for job in open_jobs])
        for job in open_jobs:
            if job.name in states and job.ended is None:
                job.state = states[job.name]
            if job.state.phase == "ended" and job.ended is None:
                job.ended = time.monotonic()
            _look(job, limits, work, board)
        over = [job for job in open_jobs if _over(job, limits, board)]
        queue.cancel([job.name for job in over if _must_end(job, board)])
        for job in over:
            open_jobs.remove(job)
            again += _unfinished(job, limits, board, queue.log_of(job.name))
        reasons = sorted({job.state.reason for job in open_jobs if job.state.phase == "waiting" and job.state.reason})
        if reasons and "; ".join(reasons) != explained and time.monotonic() - begin > limits.reason_after_s:
            explained = "; ".join(reasons)
            log.info("%d jobs wait; the scheduler says: %s", sum(job.state.phase == "waiting" for job in open_jobs), explained)
        _pause(limits.poll_s if open_jobs else 0.0, board)
    return again


def _look(job: _Job, limits: Limits, work: Work, board: Board) -> None:
    """Take in what the tasks of a job have left since the last look."""
    for task in job.tasks:
        if task.folder in board.outcomes:
            continue
        if task.folder not in board.running and heartbeat(task, work) is not None:
            board.begin(task)
        if task is not job.tasks[0] and out_of_time(task, work):
            # Told of the time limit, but tasks before it had used the time.
            job.state, job.ended = State("ended", "time limit", "deadline"), job.ended or time.monotonic()
            continue
        if board.settled(task) or task.folder not in board.running:
            continue
        silent = board.listen(task)
        if job.state.phase != "running":
            # Requeued by the scheduler, or not yet known to run: silence means nothing.
            board.running[task.folder].seen = time.monotonic()
        elif limits.heartbeat_s is not None and silent > limits.heartbeat_s:
            board.fail(task, "heartbeat", f"no sign of life for {silent:.0f} s (heartbeat_s)", f"{node()}: job {job.name}")
            job.stopped = task


def _over(job: _Job, limits: Limits, board: Board) -> bool:
    """Nothing more will come: all tasks have an outcome, or the job is gone, and the file system has had time to show it."""
    if job.stopped is not None or all(task.folder in board.outcomes for task in job.tasks):
        return True
    return job.ended is not None and time.monotonic() - job.ended >= limits.settle_s


def _must_end(job: _Job, board: Board) -> bool:
    """A job that still has something to do; one whose tasks all have an outcome ends by itself, unless it is stuck."""
    return job.state.phase != "ended" and (job.stopped is not None or any(task.folder not in board.outcomes for task in job.tasks))


def _unfinished(job: _Job, limits: Limits, board: Board, printed: Path | None) -> list[Task]:
    """Settle or give back the tasks of a job that is over."""
    left = [task for task in job.tasks if task.folder not in board.outcomes]
    begun = [task for task in left if task.folder in board.running]
    again = []
    if left and not begun and job.stopped is None and job.state.kind == "died" and len(left) == len(job.tasks):
        # It died before its first task: all of them were in its hands.
        for task in left:
            board.begin(task)
        begun = left
    for task in left:
        text = f"job {job.name} ended without a result" + (f" ({job.state.reason})" if job.state.reason else "")
        words = tail(printed) if printed is not None else ""
        text += f"; its log:\n{words}" if words else ""
        if job.stopped is None and job.state.kind == "cancelled":
            board.fail(task, "cancelled", text, f"job {job.name}")
        elif job.stopped is None and job.state.kind == "deadline" and task is job.tasks[0]:
            board.fail(task, "deadline", text, f"job {job.name}")
        elif job.stopped is None and job.state.kind == "died" and task in begun and board.attempts[task.folder] > limits.retries:
            board.fail(task, "died", text, f"job {job.name}")
        else:
            # Not begun, or not alone to blame for the time that the job took: again, in another job.
            board.stop(task)
            again.append(task)
    return again


def _pause(seconds: float, board: Board) -> None:
    """Wait for the next look, telling the caller about once a second."""
    end = time.monotonic() + seconds
    board.tick()
    while (rest := end - time.monotonic()) > 0:
        time.sleep(min(rest, TICK_S))
        board.tick()
