"""What the jobs of Slurm and PBS have in common: settings, the script, and calling the scheduler's commands."""

import json
import os
import shlex
import shutil
import subprocess
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..atomic import write_atomic
from ..errors import ConfigError
from ..tasks import Task, Work
from .base import AbstractCMCBackend
from .board import Board
from .command import command
from .rounds import JOBS, Limits, Queue, run_rounds

Word = Annotated[str, Field(pattern=r"^\w[\w.:@+,/=%-]*$")]
"""A name as schedulers have them. Nothing goes through a shell, but an option may not be slipped in as the value of another."""

Key = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]


USUAL = 16
"""Jobs that run at the same time where the number is left to the scheduler."""


class AbstractScheduler(AbstractCMCBackend):
    """Settings that every scheduler understands."""

    time_min: Annotated[int, Field(ge=1)]
    """Time limit of a job, min."""

    mem_gb: Annotated[float, Field(gt=0)] | None
    """Memory of a job, GiB; None = what the site gives."""

    cpus_per_task: Annotated[int, Field(ge=1)]
    """Cores of a job."""

    array_parallelism: Annotated[int, Field(ge=1)] | None
    """Jobs at the same time; None = as many as the scheduler lets run."""

    tasks_per_job: Annotated[int, Field(ge=1)]
    """Shards that one job does in turn: more when they are short."""

    setup: tuple[str, ...]
    """Lines of shell before the worker, e.g. ``module load conda``; the only setting that a shell sees."""

    python: str | None
    """Interpreter of the job; None = the one of this process."""

    poll_s: Annotated[float, Field(gt=0)]
    """Time between two looks at the queue and the folders, s."""

    settle_s: Annotated[float, Field(ge=0)]
    """How long a result may take to show up on the shared file system after the end of its job, s."""

    heartbeat_s: Annotated[float, Field(gt=0)] | None
    """Longest time without a sign of life of a job that runs, s."""

    retries: Annotated[int, Field(ge=0)]
    """How often a shard is tried again whose job died."""

    reason_after_s: Annotated[float, Field(ge=0)]
    """When the log says why jobs wait, s."""

    @property
    def places(self) -> int:
        return self.array_parallelism or USUAL

    @property
    @abstractmethod
    def commands(self) -> tuple[str, ...]:
        """The scheduler's commands that are used."""

    @abstractmethod
    def scheduler(self, script: "Script") -> Queue:
        """The scheduler, for one run."""

    def check(self, work: Work) -> None:
        missing = [name for name in self.commands if shutil.which(name) is None]
        if missing:
            raise ConfigError(
                f"cmc_backend: found {self.name}, but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not on the PATH of "
                "this machine; run where jobs are submitted, or use cmc_backend=processes inside a job"
            )

    def compute(self, work: Work, tasks: Sequence[Task], board: Board) -> None:
        folder = tasks[0].folder.parent / JOBS
        folder.mkdir(exist_ok=True)
        script = Script(folder, work.function, self.cpus_per_task, self.setup, self.python)
        limits = Limits(self.tasks_per_job, self.retries, self.heartbeat_s, self.poll_s, self.settle_s, self.reason_after_s)
        run_rounds(self.scheduler(script), limits, work, tasks, board)


class Script:
    """Writes job scripts.

    Args:
        folder: for scripts, lists and logs. function: of the work. cores: of a job. setup: lines of shell. python: interpreter.
    """

    def __init__(self, folder: Path, function: str, cores: int, setup: Sequence[str], python: str | None) -> None:
        self.folder, self.function, self.cores, self.setup, self.python = folder, function, cores, setup, python

    def write(self, elements: Sequence[Sequence[Task]], name: str, start: str, index: str, before: Sequence[str] = ()) -> Path:
        """The script of a submission: element ``index`` of a list of folders, its output in a log of its own.

        Args:
            elements: tasks of each job. name: of the submission. start, index: variables of the scheduler with the folder it was
                submitted in and the number of the job, 0 if unset. before: words in front of the worker's command.
        """
        listed = self.folder / f"{name}.json"
        write_atomic(listed, lambda stream: stream.write(json.dumps([[str(task.folder) for task in e] for e in elements]).encode()))
        worker = shlex.join([*before, *command(self.cores, [self.function, "--list", str(listed)], self.python)])
        lines = [
            "#!/bin/bash",
            f'cd "${start}" || exit',
            f"element=${{{index}:-0}}",
            # The scheduler's own files come late or not at all, and its names for them do not take every path.
            f'exec >{shlex.quote(str(self.folder / name))}-"$element".log 2>&1',
            *self.setup,
            f'exec {worker} --element "$element"',
        ]
        script = self.folder / f"{name}.sh"
        write_atomic(script, lambda stream: stream.write(("\n".join(lines) + "\n").encode()))
        return script

    def log_of(self, name: str, element: int) -> Path:
        return self.folder / f"{name}-{element}.log"


def call(arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run a command of the scheduler; not in the terminal's process group, so that Ctrl-C cannot cut a submission in two."""
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, start_new_session=True)


def submitted(arguments: Sequence[str], option: str) -> str:
    """What a submission printed.

    Raises:
        ConfigError: the scheduler refused it.
    """
    done = call(arguments)
    if done.returncode:
        raise ConfigError(f"cmc_backend={option}: {arguments[0]} refused the jobs: {' '.join(done.stderr.split())}")
    return done.stdout.strip()
