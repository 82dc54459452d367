"""Shards as job arrays of PBS (OpenPBS, PBS Professional), through qsub, qstat and qdel."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from ..tasks import Task
from .job import AbstractScheduler, Key, Script, Word, call, submitted
from .rounds import Queue, State

log = logging.getLogger("homodyne")

UNKNOWN = (35, 153)
"""Exit statuses of qstat for jobs that have ended and those it does not know (any more)."""


class PBS(AbstractScheduler):
    """One array for every round of shards; a single shard is a plain job."""

    queue: Word | None
    """Queue."""

    account: Word | None

    signal_delay_s: Annotated[int, Field(ge=1)]
    """PBS gives no warning: the worker is told this long before the time limit, s, and records it."""

    chunk: dict[Key, Word | int | bool]
    """Further resources of the chunk: {ngpus: 1, system: polaris} becomes select=1:...:ngpus=1:system=polaris."""

    extra: dict[Key, Word | int | bool]
    """Further resources of the job, each as -l: {filesystems: "home:eagle", place: scatter}."""

    @model_validator(mode="after")
    def _in_time(self) -> "PBS":
        if self.signal_delay_s >= 60 * self.time_min:
            raise ValueError(f"signal_delay_s = {self.signal_delay_s} is not shorter than time_min = {self.time_min} min")
        return self

    @property
    def commands(self) -> tuple[str, ...]:
        return ("qsub", "qstat", "qdel")

    def scheduler(self, script: Script) -> Queue:
        return _PBS(self, script)

    @property
    def arguments(self) -> list[str]:
        """Options of qsub."""
        chunk = {"ncpus": self.cpus_per_task, **({} if self.mem_gb is None else {"mem": f"{round(1024 * self.mem_gb)}mb"}), **self.chunk}
        select = ":".join(["select=1", *(f"{name}={_word(value)}" for name, value in chunk.items())])
        asked = ["-l", select, "-l", f"walltime={self.time_min // 60:02d}:{self.time_min % 60:02d}:00"]
        asked += [part for name, value in self.extra.items() for part in ("-l", f"{name}={_word(value)}")]
        asked += ["-q", self.queue] if self.queue else []
        return asked + (["-A", self.account] if self.account else [])


class _PBS(Queue):
    """Jobs are called 12[3].server: element of an array, or 12.server."""

    # The server's max_array_size is 10000 unless the site says otherwise.
    largest = 1000

    def __init__(self, option: PBS, script: Script) -> None:
        self.option, self.script = option, script
        self.names: dict[str, str] = {}

    def submit(self, elements: Sequence[Sequence[Task]], name: str) -> list[str]:
        seconds = 60 * self.option.time_min - self.option.signal_delay_s
        before = ["timeout", "--signal=USR2", f"--kill-after={self.option.signal_delay_s}", str(seconds)]
        script = self.script.write(elements, name, "PBS_O_WORKDIR", "PBS_ARRAY_INDEX", before)
        limit = f"%{self.option.array_parallelism}" if self.option.array_parallelism else ""
        # -J 0-0 is illegal: one job is no array.
        array = ["-J", f"0-{len(elements) - 1}{limit}"] if len(elements) > 1 else []
        own = ["-N", "homodyne", "-o", "/dev/null", "-j", "oe", *array]
        found = submitted(["qsub", *self.option.arguments, *own, str(script)], "pbs")
        self.names[found] = name
        return [found.replace("[]", f"[{k}]") for k in range(len(elements))]

    def states(self, jobs: Sequence[str]) -> dict[str, State]:
        found: dict[str, State] = {}
        for array in dict.fromkeys(_array(job) for job in jobs):
            done = call(["qstat", "-x", "-t", "-f", "-F", "json", array])
            if done.returncode and done.returncode not in UNKNOWN:
                log.warning("qstat failed, asking again: %s", " ".join(done.stderr.split()))
                continue
            listed = _listed(done.stdout) if not done.returncode else {}
            if listed is None:
                log.warning("qstat gave no JSON that can be read, asking again")
                continue
            gone = State("ended", "no longer known to PBS")
            found |= {job: _state(listed[job]) if job in listed else gone for job in jobs if _array(job) == array}
        return found

    def cancel(self, jobs: Sequence[str]) -> None:
        if jobs:
            call(["qdel", *jobs])

    def log_of(self, job: str) -> Path:
        element = job.partition("[")[2].partition("]")[0]
        return self.script.log_of(self.names[_array(job)], int(element or 0))


def _word(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _array(job: str) -> str:
    """12[].server of 12[3].server; a single job is its own."""
    head, bracket, rest = job.partition("[")
    return f"{head}[]{rest.partition(']')[2]}" if bracket else job


def _listed(text: str) -> dict[str, dict[str, Any]] | None:
    try:
        record = json.loads(text, strict=False)
        return dict(record["Jobs"]) if "Jobs" in record else {}
    except ValueError:
        return None


def _state(record: dict[str, Any]) -> State:
    letter, comment = str(record["job_state"]), str(record["comment"]) if "comment" in record else ""
    if letter in "FX":
        # A deleted job may show status 0: no status is evidence of anything, 271 (ended by SIGTERM) least of all.
        status = f"Exit_status {record['Exit_status']}" if "Exit_status" in record else "ended"
        return State("ended", f"{status}; {comment}" if comment else status)
    return State("running", comment) if letter in "RE" else State("waiting", comment)
