"""Shards as job arrays of Slurm, through sbatch, squeue and scancel; accounting (sacct) is not needed."""

import logging
from collections.abc import Sequence
from pathlib import Path

from ..tasks import Task
from .job import AbstractScheduler, Key, Script, Word, call, submitted
from .rounds import Queue, State

log = logging.getLogger("homodyne")

WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT", "CONFIGURING"}

ENDED = {"COMPLETED", "FAILED", "BOOT_FAIL", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "CANCELLED", "TIMEOUT", "DEADLINE"}


class Slurm(AbstractScheduler):
    """One array for every round of shards."""

    partition: Word | None
    account: Word | None
    qos: Word | None

    extra: dict[Key, Word | int | bool]
    """Further options of sbatch by their long names: {gres: "gpu:1", exclusive: true}."""

    @property
    def commands(self) -> tuple[str, ...]:
        return ("sbatch", "squeue", "scancel")

    def scheduler(self, script: Script) -> Queue:
        return _Slurm(self, script)

    @property
    def arguments(self) -> list[str]:
        """Options of sbatch, each one word, its value behind the sign."""
        found = {"partition": self.partition, "account": self.account, "qos": self.qos}
        asked = [f"--{name}={value}" for name, value in found.items() if value is not None]
        asked += [f"--time={self.time_min}", f"--cpus-per-task={self.cpus_per_task}", "--ntasks=1"]
        asked += [f"--mem={round(1024 * self.mem_gb)}M"] if self.mem_gb is not None else []
        more = [f"--{name}" if value is True else f"--{name}={value}" for name, value in self.extra.items() if value is not False]
        return asked + more


class _Slurm(Queue):
    """Jobs are called 123_4: array and element."""

    # MaxArraySize of Slurm is 1001 unless the site says otherwise; indices stay below it.
    largest = 1000

    def __init__(self, option: Slurm, script: Script) -> None:
        self.option, self.script = option, script
        self.names: dict[str, str] = {}

    def submit(self, elements: Sequence[Sequence[Task]], name: str) -> list[str]:
        script = self.script.write(elements, name, "SLURM_SUBMIT_DIR", "SLURM_ARRAY_TASK_ID")
        limit = f"%{self.option.array_parallelism}" if self.option.array_parallelism else ""
        # Last, so that no entry of extra can replace what the loop relies on.
        own = ["--parsable", f"--array=0-{len(elements) - 1}{limit}", "--job-name=homodyne", "--output=/dev/null", "--error=/dev/null"]
        array = submitted(["sbatch", *self.option.arguments, *own, str(script)], "slurm").partition(";")[0]
        self.names[array] = name
        return [f"{array}_{k}" for k in range(len(elements))]

    def states(self, jobs: Sequence[str]) -> dict[str, State]:
        found: dict[str, State] = {}
        for array in dict.fromkeys(job.partition("_")[0] for job in jobs):
            done = call(["squeue", "--noheader", "--array", "--states=all", f"--jobs={array}", "--format=%i|%T|%r"])
            if done.returncode and "Invalid job id" not in done.stderr:
                log.warning("squeue failed, asking again: %s", " ".join(done.stderr.split()))
                continue
            listed = {}
            for line in done.stdout.splitlines() if not done.returncode else []:
                name, word, reason = line.strip().split("|", 2)
                listed[name] = _state(word, reason)
            # Ended jobs are forgotten after MinJobAge.
            gone = State("ended", "no longer known to Slurm")
            found |= {job: listed[job] if job in listed else gone for job in jobs if job.partition("_")[0] == array}
        return found

    def cancel(self, jobs: Sequence[str]) -> None:
        if jobs:
            call(["scancel", *jobs])

    def log_of(self, job: str) -> Path:
        array, _, element = job.partition("_")
        return self.script.log_of(self.names[array], int(element))


def _state(word: str, reason: str) -> State:
    text = word.lower() if reason in ("None", "") else f"{word.lower()}, {reason}"
    if word in ENDED:
        return State("ended", text, "deadline" if word in ("TIMEOUT", "DEADLINE") else "cancelled" if word == "CANCELLED" else "died")
    return State("waiting", reason) if word in WAITING else State("running", reason)
