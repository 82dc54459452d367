"""What a running fit shows and keeps: a line per accepted step, a checkpoint, and a clean stop on Ctrl-C or SIGTERM."""

import hashlib
import json
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ..atomic import write_atomic
from ..errors import FitError
from ..problem import Evaluation
from ..results import Iteration

log = logging.getLogger("homodyne")

CHECKPOINT = "checkpoint.json"
SCHEMA = 1


class FitInterrupted(Exception):  # noqa: N818 (a request, not an error)
    """The user or the scheduler asked the fit to stop; raised between two passes."""


@dataclass
class State:
    """Where a fit with one scaling stands; enough to go on without repeating the search.

    candidates: start points of the final fits, None before the search ended; found: numbers that describe the search.
    polished: finished fits (u, chi2, converged, passes). current, chi2: last accepted point of the fit under way.
    """

    candidates: list[list[float]] | None = None
    found: dict[str, float] = field(default_factory=dict)
    polished: list[tuple[list[float], float, bool, int]] = field(default_factory=list)
    current: list[float] | None = None
    chi2: float | None = None


class Progress:
    """Log lines, history, checkpoint and interruption of one run.

    Args:
        folder: run folder for the checkpoint, None to keep none.
        digest: of the data and settings; a checkpoint of anything else is refused.
        pixel_variance: unit of every chi2 that is shown.
        resume: continue from the checkpoint in the folder.

    Raises:
        FitError: the checkpoint is missing, damaged or of other data or settings.
    """

    def __init__(self, folder: Path | None, digest: str, pixel_variance: float, resume: bool = False) -> None:
        self.digest, self.pixel_variance = digest, pixel_variance
        self.path = None if folder is None else folder / CHECKPOINT
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self.history: list[Iteration] = []
        self.states: dict[str, State] = {}
        self.begin = time.perf_counter()
        self._stop = False
        if resume:
            self.states = self._load()
            for name, state in self.states.items():
                count = len(state.candidates or [])
                log.info("continuing %s scaling: %d start points, %d fits finished", name, count, len(state.polished))

    def state(self, scaling: str) -> State:
        """The state of the fit with this scaling, new or restored."""
        return self.states.setdefault(scaling, State())

    def stepped(self, stage: str, evaluation: Evaluation, step: float, state: State) -> None:
        """Record one accepted step; raises FitInterrupted when a stop was asked for."""
        number = sum(1 for item in self.history if item.stage == stage)
        scale = np.sqrt(np.maximum(np.diagonal(evaluation.hessian), np.finfo(float).tiny))
        gradient = float(np.abs(evaluation.gradient / scale).max(initial=0.0) / np.sqrt(max(evaluation.chi2, np.finfo(float).tiny)))
        seconds = time.perf_counter() - self.begin
        chi2 = evaluation.chi2 / self.pixel_variance
        self.history.append(Iteration(stage, number, chi2, step, gradient, seconds))
        log.info("%-26s %3d  chi2 %.9g  step %.2e  gradient %.2e  %.2f s", stage, number, chi2, step, gradient, seconds)
        state.current, state.chi2 = evaluation.u.tolist(), evaluation.chi2
        self.save()
        self.check()

    def check(self) -> None:
        """Raise FitInterrupted when a stop was asked for."""
        if self._stop:
            raise FitInterrupted

    def save(self) -> None:
        """Write the checkpoint: whole or not at all, with a checksum."""
        if self.path is None:
            return
        states = {name: asdict(state) for name, state in self.states.items()}
        payload = json.dumps({"states": states, "history": [asdict(item) for item in self.history]})
        record = {"schema": SCHEMA, "digest": self.digest, "checksum": _checksum(self.digest + payload), "payload": payload}
        write_atomic(self.path, lambda stream: stream.write(json.dumps(record).encode()))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Turn SIGINT and SIGTERM into a stop between two passes; a second SIGINT stops at once."""

        def request(number: int, frame: object) -> None:
            if self._stop and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop = True
            log.warning("%s received: stopping after this pass", signal.Signals(number).name)

        try:
            previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:
            # Only the main thread may install handlers; a fit in a worker thread runs without them.
            previous = {}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _load(self) -> dict[str, State]:
        if self.path is None or not self.path.is_file():
            raise FitError(f"resume=true: no checkpoint at {self.path}; set hydra.run.dir to the folder of the interrupted run")
        try:
            record = json.loads(self.path.read_bytes())
            damaged = record["checksum"] != _checksum(record["digest"] + record["payload"])
        except (ValueError, KeyError, TypeError):
            damaged = True
        if damaged:
            raise FitError(f"{self.path} is damaged (checksum does not match); delete it and run without resume=true")
        if record["schema"] != SCHEMA or record["digest"] != self.digest:
            raise FitError(f"{self.path} was written for other data or settings; repeat the original command with resume=true")
        payload = json.loads(record["payload"])
        self.history = [Iteration(**item) for item in payload["history"]]
        return {name: State(**state) for name, state in payload["states"].items()}


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
