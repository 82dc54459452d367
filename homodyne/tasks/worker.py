"""A worker: computes tasks one after another and leaves in each folder a result or the reason why there is none."""

import json
import os
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from platform import node
from types import TracebackType
from typing import Any, Self

import numpy as np

from .folder import HEARTBEAT, TASK, Failure, Kind, key_of, read_json, read_result, read_task, write_error, write_result

Beat = Callable[[Mapping[str, float]], None]
"""What the work calls every few seconds with numbers of its progress."""

BEAT_S = 0.5
"""Beats closer than this are not written: a shared file system has better things to do."""


class Attempt:
    """One task under way. As a context it turns what the work raises into error.json; a request to stop passes through.

    Args:
        function: ``package.module:name``. folder: of the task. heard: is told the numbers of every beat.
    """

    def __init__(self, function: str, folder: Path, heard: Beat) -> None:
        self.folder, self.heard = folder, heard
        self.key = key_of(function, read_json(folder / TASK)["digest"])
        self.begin, self.beats, self.written = time.monotonic(), 0, -BEAT_S
        self.numbers: dict[str, float] = {}
        self.where = f"{node()}:{os.getpid()}"
        self._write()

    def beat(self, numbers: Mapping[str, float]) -> None:
        """Give a sign of life."""
        self.beats, self.numbers = self.beats + 1, {name: float(value) for name, value in numbers.items()}
        self.heard(numbers)
        if time.monotonic() - self.written >= BEAT_S:
            self.written = time.monotonic()
            self._write()

    def store(self, result: Mapping[str, np.ndarray]) -> None:
        self._write()
        write_result(self.folder, self.key, result, self.seconds, self.where)

    def fail(self, kind: Kind, text: str) -> None:
        write_error(self.folder, self.key, Failure(kind, text), self.seconds, self.where)

    def _write(self) -> None:
        text = json.dumps({"key": self.key, "beats": self.beats, "numbers": self.numbers})
        # Whole, but not forced to disk: a heartbeat that a crash loses is no loss.
        partial = self.folder / f".{HEARTBEAT}.{secrets.token_hex(4)}.part"
        partial.write_text(text)
        partial.replace(self.folder / HEARTBEAT)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin

    @property
    def finished(self) -> bool:
        return read_result(self.folder, self.key) is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        # The work is somebody else's code: whatever it raises is an answer, and it must not end the tasks behind it.
        if not isinstance(error, Exception | SystemExit):
            return False
        self.fail("exception", "".join(traceback.format_exception(error)))
        return True


def compute(
    function: str, folder: Path, heard: Beat = lambda numbers: None, started: Callable[[Attempt], None] = lambda attempt: None
) -> None:
    """Do one task, unless it is done already.

    Args:
        function: ``package.module:name`` of the work. folder: of the task. heard: is told every beat. started: is given the attempt.
    """
    attempt = Attempt(function, folder, heard)
    started(attempt)
    if attempt.finished:
        return
    with attempt:
        work = imported(function)
        inputs, facts = read_task(folder)
        attempt.store(work(inputs, facts, attempt.beat))


def compute_batch(batch: str, function: str, folders: Sequence[Path], heard: Beat) -> None:
    """Do several tasks in one call of ``batch``; their results count as those of ``function``.

    Args:
        batch, function: ``package.module:name``. folders: of the tasks. heard: is told the numbers of every beat.
    """
    attempts = [Attempt(function, folder, lambda numbers: None) for folder in folders]
    answers: Sequence[Any] = ()
    raised = Caught()
    with raised:
        work = imported(batch)
        answers = work([read_task(folder) for folder in folders], heard)
        if len(answers) != len(folders):
            raise ValueError(f"{batch} gave {len(answers)} answers to {len(folders)} tasks")
    for attempt, answer in zip(attempts, answers if raised.error is None else [raised.error] * len(attempts), strict=True):
        with attempt:
            if isinstance(answer, Exception | SystemExit):
                raise answer
            attempt.store(answer)


class Caught:
    """Keeps what its block raises; a request to stop passes through."""

    error: BaseException | None = None

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if not isinstance(error, Exception | SystemExit):
            return False
        self.error = error
        return True


def imported(name: str) -> Callable[..., Any]:
    """The function ``package.module:name``."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def keep_compiled_code() -> None:
    """Let all workers on processors of one kind share what JAX compiles, if the work uses JAX at all."""
    if "jax" not in sys.modules:
        return
    # Not at the top: a worker must not pay for JAX before it knows that the work needs it.
    import jax

    from ..hardware.base import cache_folder

    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
