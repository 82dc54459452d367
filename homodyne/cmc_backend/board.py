"""What a driver knows of its tasks while they run, and what it tells the caller about once a second."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..tasks import Failure, Kind, Outcome, Task, Work
from ..tasks.folder import DAMAGED, HEARTBEAT, LOG, key_of, read_error, read_json, read_result, tail
from .interrupts import Interrupts

TICK_S = 1.0

FRACTION = "done"
"""Number of a beat that says how much of its task is done, 0 to 1."""


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        done, running, failed, waiting: numbers of tasks.
        eta: s until the last one, from costs and times so far; None when nothing has finished yet.
        beats: numbers that the work gave with its last sign of life, summed over all tasks that gave one in this run.
    """

    done: int
    running: int
    failed: int
    waiting: int
    eta: float | None
    beats: dict[str, float]


Watch = Callable[[Status], None]


@dataclass
class Life:
    """Signs of life of a task under way: when it began, when the driver saw the last new beat (its own clock, s), and how many."""

    begin: float
    seen: float
    beats: int = 0


@dataclass
class Board:
    """Outcomes so far, by folder.

    Attributes:
        running: tasks under way. numbers: of the last beat of each. attempts: that were charged to a task.
    """

    work: Work
    tasks: Sequence[Task]
    watch: Watch
    interrupts: Interrupts
    outcomes: dict[Path, Outcome] = field(default_factory=dict)
    running: dict[Path, Life] = field(default_factory=dict)
    numbers: dict[Path, dict[str, float]] = field(default_factory=dict)
    attempts: Counter[Path] = field(default_factory=Counter)
    first: float | None = None
    last: float = -np.inf

    def settled(self, task: Task) -> bool:
        """Whether the task has an outcome, once its folder has been looked at."""
        if task.folder in self.outcomes:
            return True
        attempts, key = self.attempts[task.folder], key_of(self.work.function, task.digest)
        result, error = read_result(task.folder, key), read_error(task.folder, key)
        if result is None and error is None:
            return False
        record = heartbeat(task, self.work)
        if record is not None and record["beats"]:
            self.heard(task, record["numbers"])
        if result is not None:
            arrays, seconds, where = result
            outcome = Outcome(task.folder, arrays, None, attempts, seconds, where)
        else:
            assert error is not None
            outcome = Outcome(task.folder, None, error[0], attempts, error[1], error[2])
        self._settle(task, outcome)
        return True

    def begin(self, task: Task) -> None:
        """An attempt is under way."""
        self.attempts[task.folder] += 1
        now = time.monotonic()
        self.first = now if self.first is None else self.first
        self.running[task.folder] = Life(now, now)

    def stop(self, task: Task) -> None:
        """The attempt has ended without an outcome."""
        self.running.pop(task.folder, None)

    def fail(self, task: Task, kind: Kind, text: str, where: str) -> None:
        """Give up a task, with the last lines of its log."""
        seconds = time.monotonic() - self.running[task.folder].begin if task.folder in self.running else 0.0
        log = tail(task.folder / LOG)
        failure = Failure(kind, f"{text}; the last lines of {LOG}:\n{log}" if log else text)
        self._settle(task, Outcome(task.folder, None, failure, self.attempts[task.folder], seconds, where))

    def heard(self, task: Task, numbers: Mapping[str, float]) -> None:
        """The work gave numbers."""
        self.numbers[task.folder] = dict(numbers)

    def listen(self, task: Task) -> float:
        """Read the heartbeat of a task under way; s since the last new one."""
        life = self.running[task.folder]
        record = heartbeat(task, self.work)
        if record is not None and record["beats"] != life.beats:
            life.beats, life.seen = record["beats"], time.monotonic()
            self.heard(task, record["numbers"])
        return time.monotonic() - life.seen

    def tick(self, now: bool = False) -> None:
        """Tell the caller, unless that was less than a second ago."""
        if now or time.monotonic() - self.last >= TICK_S:
            self.last = time.monotonic()
            self.watch(self.status())

    def status(self) -> Status:
        failed = sum(outcome.failure is not None for outcome in self.outcomes.values())
        waiting = len(self.tasks) - len(self.outcomes) - len(self.running)
        names = {name for numbers in self.numbers.values() for name in numbers}
        beats = {name: sum(numbers[name] for numbers in self.numbers.values() if name in numbers) for name in sorted(names)}
        return Status(len(self.outcomes) - failed, len(self.running), failed, waiting, self._eta(), beats)

    def _part(self, task: Task) -> float:
        """How much of a task under way is done, if the work says so."""
        if task.folder not in self.running or task.folder not in self.numbers or FRACTION not in self.numbers[task.folder]:
            return 0.0
        return min(max(self.numbers[task.folder][FRACTION], 0.0), 1.0)

    def _settle(self, task: Task, outcome: Outcome) -> None:
        self.running.pop(task.folder, None)
        self.outcomes[task.folder] = outcome

    def _eta(self) -> float | None:
        """Cost that is left over the cost per second so far, results that were there before left out."""
        done = left = 0.0
        for task in self.tasks:
            if task.folder in self.outcomes:
                done += task.cost if self.outcomes[task.folder].attempts else 0.0
            else:
                part = self._part(task)
                done, left = done + task.cost * part, left + task.cost * (1 - part)
        if left == 0:
            return 0.0
        return None if done == 0 or self.first is None else (time.monotonic() - self.first) * left / done


def heartbeat(task: Task, work: Work) -> dict[str, Any] | None:
    """The last sign of life of this task in this work, None before the first."""
    try:
        record = read_json(task.folder / HEARTBEAT)
        return record if record["key"] == key_of(work.function, task.digest) else None
    except DAMAGED:
        return None


def out_of_time(task: Task, work: Work) -> bool:
    """Whether the worker was told of a time limit in the middle of this task."""
    error = read_error(task.folder, key_of(work.function, task.digest))
    return error is not None and error[0].kind == "deadline"
