"""What every place for shards must do; the option tests run it on serial, vectorized, processes, submitit_local, Slurm and emulated PBS."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homodyne.cmc_backend.base import AbstractCMCBackend
from homodyne.cmc_backend.board import Status
from homodyne.config import option
from homodyne.errors import FitError
from homodyne.tasks import Outcome, Task, Work, make_task

from . import works, works_jax

ROOT = Path(__file__).parents[2]
WORK = Work(works.DRAW, works.DRAW_BATCH)
FINE = {"a": "", "b": "", "c": ""}


@dataclass(frozen=True)
class Place:
    """An option with the settings that make its tests fast. apart: its workers are processes of their own."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    apart: bool = True

    def option(self, **settings: Any) -> AbstractCMCBackend:
        backend = option("cmc_backend", self.name, **{**self.settings, **settings})
        assert isinstance(backend, AbstractCMCBackend)
        return backend

    def run(self, root: Path, do: Mapping[str, str], **settings: Any) -> list[Outcome]:
        return self.option(**settings).run(WORK, shards(root, do), lambda status: None)


def shards(root: Path, do: Mapping[str, str], shift: float = 0.0) -> list[Task]:
    """A task for every name, and what goes wrong in it."""
    (root / "diary").mkdir(parents=True, exist_ok=True)
    return [
        make_task(
            root / "tasks" / name,
            # "file" is a name that NumPy's own writer of archives keeps for itself.
            {"file": np.eye(40) * (k + shift)},
            {"seed": k, "name": name, "do": what, "diary": str(root / "diary")},
            cost=1.0 + k,
        )
        for k, (name, what) in enumerate(do.items())
    ]


def begun(root: Path, names: Mapping[str, str]) -> list[int]:
    return [works.times(root / "diary", name) for name in names]


def expected(root: Path, do: Mapping[str, str]) -> list[dict[str, np.ndarray]]:
    """The results of the function, called here."""
    (root / "here").mkdir(exist_ok=True)
    facts = [{"seed": k, "name": name, "do": "", "diary": str(root / "here")} for k, name in enumerate(do)]
    return [works.draw({"file": np.eye(40) * k}, facts[k], lambda numbers: None) for k in range(len(do))]


def assert_results(found: list[Outcome], wanted: list[dict[str, np.ndarray]]) -> None:
    """Bit for bit, in order."""
    for outcome, arrays in zip(found, wanted, strict=True):
        assert outcome.failure is None, outcome.failure
        assert outcome.result is not None
        assert list(outcome.result) == list(arrays)
        for name, array in arrays.items():
            assert outcome.result[name].dtype == array.dtype
            assert outcome.result[name].tobytes() == array.tobytes()


def assert_same_numbers(place: Place, root: Path) -> None:
    """The numbers of a direct call, in order; progress to the end; the environment of this process as before."""
    environment, affinity, told = dict(os.environ), os.sched_getaffinity(0), list[Status]()
    found = place.option().run(WORK, shards(root, FINE), told.append)
    assert_results(found, expected(root, FINE))
    assert [outcome.folder.name for outcome in found] == list(FINE)
    assert [outcome.attempts for outcome in found] == [1, 1, 1]
    assert all(outcome.where and outcome.seconds > 0 for outcome in found)
    assert (told[0].done, told[0].waiting, told[0].eta) == (0, 3, None)
    assert (told[-1].done, told[-1].running, told[-1].failed, told[-1].waiting, told[-1].eta) == (3, 0, 0, 0, 0.0)
    assert {status.done + status.running + status.failed + status.waiting for status in told} == {3}
    assert dict(os.environ) == environment
    assert os.sched_getaffinity(0) == affinity


def assert_double_precision(place: Place, root: Path) -> str:
    """JAX computes in float64 there, whatever it does here; where it keeps compiled code."""
    (outcome,) = place.option().run(Work(works_jax.THIRD, works_jax.THIRD_BATCH), shards(root, {"a": ""}), lambda status: None)
    assert outcome.result is not None, outcome.failure
    assert outcome.result["third"].dtype == np.float64
    assert float(outcome.result["third"]) == 1 / 3
    return str(outcome.result["cache"])


def assert_an_exception_is_an_answer(place: Place, root: Path) -> None:
    """The traceback comes back, once; the others are not touched."""
    do = {"a": "", "b": "raise", "c": ""}
    found = place.run(root, do)
    assert [outcome.result is None for outcome in found] == [False, True, False]
    failure = found[1].failure
    assert failure is not None
    assert failure.kind == "exception"
    assert "in draw\n" in failure.text
    assert failure.text.endswith("ValueError: the shard is bad\n")
    assert begun(root, do) == [1, 1, 1]


def assert_killed_is_tried_again(place: Place, root: Path) -> None:
    """SIGKILL costs the task it hits, which is tried ``retries`` times more; what else was done stays done."""
    do = {"a": "", "b": "die once", "c": "die", "d": ""}
    found = place.run(root, do, retries=1)
    assert_results([found[0], found[1], found[3]], [expected(root, do)[k] for k in (0, 1, 3)])
    assert [outcome.attempts for outcome in found] == [1, 2, 2, 1]
    assert found[2].failure is not None
    assert found[2].failure.kind == "died"
    assert "shard c" in found[2].failure.text
    assert begun(root, do) == [1, 2, 2, 1]


def assert_a_hang_is_ended(place: Place, root: Path) -> None:
    """Without a sign of life a task is given up, its process is ended, and the others are done."""
    do = {"a": "", "b": "hang", "c": ""}
    found = place.run(root, do, heartbeat_s=1.5)
    assert [outcome.failure is None for outcome in found] == [True, False, True]
    assert found[1].failure is not None
    assert found[1].failure.kind == "heartbeat"
    assert_no_processes(root)


def assert_resumes(place: Place, root: Path) -> None:
    """Nothing is done twice, wherever it was done; what changed, is damaged or failed is done again, and only that."""
    do = {"a": "", "b": "", "c": "raise"}
    Place("serial", apart=False).run(root, do)
    again = place.run(root, do)
    assert [outcome.attempts for outcome in again] == [0, 0, 1]
    assert begun(root, do) == [1, 1, 2]
    content = (root / "tasks" / "b" / "result.npz").read_bytes()
    (root / "tasks" / "b" / "result.npz").write_bytes(content[: len(content) // 2])
    mended = place.run(root, FINE)
    assert_results(mended, expected(root, FINE))
    assert [outcome.attempts for outcome in mended] == [0, 1, 1]
    other = place.option().run(WORK, shards(root, FINE, shift=1.0), lambda status: None)
    assert [outcome.attempts for outcome in other] == [1, 1, 1]


def assert_stops(place: Place, root: Path, number: signal.Signals) -> None:
    """The driver is interrupted while one task hangs: the finished result stays, no process does, and the rest can be done later."""
    do = {"a": "", "b": "hang once"}
    asked = {"option": place.name, "settings": dict(place.settings), "root": str(root), "do": do}
    driver = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.driver", json.dumps(asked)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: begun(root, do) == [1, 1] and (root / "tasks" / "a" / "result.npz").exists())
    driver.send_signal(number)
    printed, complained = driver.communicate(timeout=30)
    assert driver.returncode == 130, complained
    assert f"interrupted by {number.name}" in printed
    assert_no_processes(root)
    assert not (root / "tasks" / "driver.lock").exists()
    found = place.run(root, do)
    assert [outcome.attempts for outcome in found] == [0, 1]
    assert_results(found, expected(root, do))


def assert_one_driver(place: Place, root: Path) -> None:
    """A second driver is refused while the first one runs; the message names it."""
    refused: list[str] = []

    def second(status: Status) -> None:
        if not refused:
            with pytest.raises(FitError) as caught:
                place.run(root, FINE)
            refused.append(str(caught.value))

    place.option().run(WORK, shards(root, FINE), second)
    assert f"in use by process {os.getpid()} on this host" in refused[0]


def assert_no_processes(root: Path) -> None:
    """Workers notice within a second that they have been left, if they were not ended at once."""
    wait_for(lambda: works.processes(root / "diary") == [])


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
