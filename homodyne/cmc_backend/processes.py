"""Worker processes on this machine that take the next shard when they are free, the most expensive first."""

import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from platform import node
from typing import Annotated

from pydantic import Field

from ..tasks import Task, Work
from ..tasks.folder import LOG, clear
from .base import AbstractCMCBackend
from .board import Board
from .command import available_cores, command, shares

POLL_S = 0.2


class Processes(AbstractCMCBackend):
    """Fresh processes, not forks: JAX does not survive a fork. Their transport is the folder of the task."""

    workers: Annotated[int, Field(ge=1)] | None
    """Processes at the same time; None = one for every core this process may use."""

    threads_per_worker: Annotated[int, Field(ge=1)] | None
    """Cores of each; None = an equal share."""

    reuse: bool
    """Keep a process for the next shard: it has imported and compiled everything already."""

    deadline_s: Annotated[float, Field(gt=0)] | None
    """Longest time of one shard, s."""

    heartbeat_s: Annotated[float, Field(gt=0)] | None
    """Longest time without a sign of life, s; a worker that starts compiles first."""

    retries: Annotated[int, Field(ge=0)]
    """How often a shard is tried again whose process died."""

    @property
    def places(self) -> int:
        return self.workers or len(available_cores())

    def compute(self, work: Work, tasks: Sequence[Task], board: Board) -> None:
        count = min(self.places, len(tasks))
        pool = [_Worker(work.function, cores) for cores in shares(count, self.threads_per_worker)]
        queue = deque(sorted(tasks, key=lambda task: -task.cost))
        try:
            while queue or any(worker.task for worker in pool):
                for worker in pool:
                    if queue and worker.task is None:
                        task = queue.popleft()
                        clear(task.folder)
                        board.begin(task)
                        with board.interrupts.held():
                            worker.give(task, last=not self.reuse)
                _wait(pool)
                queue += [again for worker in pool if (again := self._again(worker, board)) is not None]
                board.tick()
        finally:
            with board.interrupts.held():
                for worker in pool:
                    worker.kill()

    def _again(self, worker: "_Worker", board: Board) -> Task | None:
        """Look after a worker; its task if that has to be tried again."""
        task = worker.task
        if task is None:
            return None
        if worker.answered:
            worker.rest()
            # Finished without a result that can be read: the disk is full, or somebody else writes there.
            return (
                None if board.settled(task) else self._died(task, board, worker.where, "the worker finished, but left no readable result")
            )
        if (status := worker.ended) is not None:
            where = worker.where
            worker.kill()
            return None if board.settled(task) else self._died(task, board, where, status)
        silent = board.listen(task)
        late = self.deadline_s is not None and worker.seconds > self.deadline_s
        if late or (self.heartbeat_s is not None and silent > self.heartbeat_s):
            where = worker.where
            worker.kill()
            if not board.settled(task):
                limit = f"deadline_s = {self.deadline_s:g} s was reached" if late else f"no sign of life for {silent:.0f} s (heartbeat_s)"
                board.fail(task, "deadline" if late else "heartbeat", limit, where)
        return None

    def _died(self, task: Task, board: Board, where: str, text: str) -> Task | None:
        if board.attempts[task.folder] > self.retries:
            board.fail(task, "died", text, where)
            return None
        board.stop(task)
        return task


@dataclass
class _Worker:
    """A process, or the place for one."""

    function: str
    cores: tuple[int, ...]
    process: "subprocess.Popen[bytes] | None" = None
    task: Task | None = None
    begin: float = 0.0
    answered: bool = False

    def give(self, task: Task, last: bool) -> None:
        """Hand over a task, to a new process if there is none; last: the process ends after it."""
        if self.process is None:
            self.process = self._start(task.folder / LOG)
        self.task, self.begin, self.answered = task, time.monotonic(), False
        assert self.process.stdin is not None
        # A process that has died meanwhile breaks the pipe; ``ended`` says so.
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{task.folder}\n".encode())
            self.process.stdin.flush()
            if last:
                self.process.stdin.close()

    def rest(self) -> None:
        """The task is finished; a process that takes no other is waited for."""
        assert self.process is not None
        self.task = None
        if self.process.stdin is None or self.process.stdin.closed:
            self.kill(patience=5.0)

    @property
    def ended(self) -> str | None:
        """How the process ended, None while it lives."""
        assert self.process is not None
        status = self.process.poll()
        if status is None:
            return None
        return f"the worker was ended by {signal.Signals(-status).name}" if status < 0 else f"the worker ended with status {status}"

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin

    @property
    def where(self) -> str:
        return f"{node()}:{self.process.pid if self.process else 0}"

    def kill(self, patience: float = 0.0) -> None:
        """Leave no process, and none that the work has started."""
        process, self.process, self.task = self.process, None, None
        if process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()

    def _start(self, log: Path) -> "subprocess.Popen[bytes]":
        cores = ",".join(map(str, self.cores))
        arguments = command(len(self.cores), [self.function, "--stdin", "--attached", "--cores", cores])
        with log.open("ab") as stream:
            # A session of its own: Ctrl-C in the terminal is for the driver, which then ends the whole group.
            return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, start_new_session=True)


def _wait(pool: Sequence[_Worker]) -> None:
    """Until a worker answers or ends, or for a moment."""
    with selectors.DefaultSelector() as selector:
        for worker in pool:
            if worker.task is not None and worker.process is not None and worker.process.stdout is not None:
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
        for key, _ in selector.select(POLL_S):
            answer = os.read(key.fd, 65536)
            key.data.answered = bool(answer)
            if not answer:
                # The pipe closes a moment before the process can be waited for.
                time.sleep(0.01)
