"""What worker processes are given, how they share the work, and what limits them."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from homodyne.cmc_backend.board import Status
from homodyne.cmc_backend.command import available_cores, command, shares
from homodyne.errors import ConfigError
from homodyne.tasks import Work

from . import contract, works
from .contract import WORK, Place, begun, shards, wait_for

PLACE = Place("processes", {"workers": 1})


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(contract.ROOT))


def pids(found: list) -> list[str]:
    return [outcome.where for outcome in found]


def test_a_process_is_kept_for_the_next_task_or_not_as_asked(tmp_path: Path) -> None:
    assert len(set(pids(PLACE.run(tmp_path / "kept", contract.FINE, reuse=True)))) == 1
    assert len(set(pids(PLACE.run(tmp_path / "fresh", contract.FINE, reuse=False)))) == 3


def test_the_most_expensive_task_is_first(tmp_path: Path) -> None:
    PLACE.run(tmp_path, contract.FINE)
    ended = [(tmp_path / "tasks" / name / "result.npz").stat().st_mtime_ns for name in contract.FINE]
    assert ended == sorted(ended, reverse=True)


def test_a_free_worker_takes_what_is_left(tmp_path: Path) -> None:
    """While one worker hangs in the most expensive task, the other one does all the rest."""
    do = {"a": "", "b": "", "c": "", "d": "hang"}
    found = PLACE.run(tmp_path, do, workers=2, deadline_s=2.5)
    assert len({*pids(found[:3])}) == 1
    assert found[3].failure is not None
    assert found[3].failure.kind == "deadline"
    assert "deadline_s = 2.5 s was reached" in found[3].failure.text
    assert found[3].seconds >= 2.4


def test_workers_get_their_share_of_the_cores_and_threads(tmp_path: Path) -> None:
    found = PLACE.option(workers=2).run(Work(works.SETTINGS), shards(tmp_path, {"a": "", "b": ""}), lambda status: None)
    size = max(1, len(available_cores()) // 2)
    for outcome in found:
        assert outcome.result is not None
        assert str(outcome.result["threads"]) == str(size)
        assert len(outcome.result["cores"]) == size
        assert set(outcome.result["cores"].tolist()) <= set(available_cores())


@pytest.mark.parametrize(("workers", "threads"), [(1, None), (2, None), (3, None), (2, 1), (5, 2), (1, 10_000)])
def test_shares_are_disjoint_while_there_are_enough_cores(workers: int, threads: int | None) -> None:
    cores = available_cores()
    found = shares(workers, threads)
    assert len(found) == workers
    assert all(len(set(share)) == len(share) == min(threads or max(1, len(cores) // workers), len(cores)) for share in found)
    used = [core for share in found for core in share]
    assert len(set(used)) == min(len(used), len(cores))
    np.testing.assert_array_less([used.count(core) for core in used], -(-len(used) // len(cores)) + 1)


def test_nothing_that_pins_the_parent_pins_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    monkeypatch.setenv("OMP_PLACES", "{0}")
    words = command(3, [], keep=("HOME", "NO_SUCH_VARIABLE"))
    printed = subprocess.run([*words[: words.index(sys.executable)], "env"], capture_output=True, text=True, check=True).stdout.splitlines()
    given = dict(line.split("=", 1) for line in printed if "=" in line)
    assert not {"OMP_PROC_BIND", "OMP_PLACES"} & set(given)
    assert (given["OMP_NUM_THREADS"], given["JAX_ENABLE_X64"], given["HOME"]) == ("3", "true", os.environ["HOME"])


def test_progress_adds_up_and_the_time_left_follows_the_costs(tmp_path: Path) -> None:
    """One worker: c (cost 3) is done and half of b (2), which hangs, while a (1) waits: what is left is half of what was done."""
    begin, told = time.monotonic(), list[tuple[Status, float]]()
    PLACE.run(tmp_path / "warm", {"a": ""})
    PLACE.option(heartbeat_s=2.5).run(
        WORK, shards(tmp_path, {"a": "", "b": "hang", "c": ""}), lambda status: told.append((status, time.monotonic() - begin))
    )
    during = [(status, at) for status, at in told if (status.done, status.running, status.failed, status.waiting) == (1, 1, 0, 1)]
    assert during
    for (status, at), (later, at_later) in pairwise(during):
        assert status.eta is not None
        assert later.eta is not None
        np.testing.assert_allclose(later.eta - status.eta, (at_later - at) / 2, atol=0.05)
    # c gave 1 and 3 with its last beat, b 0.5 and 2 with its only one.
    assert during[-1][0].beats == {"divergences": 5.0, "done": 1.5}
    assert (told[-1][0].done, told[-1][0].failed, told[-1][0].eta) == (2, 1, 0.0)


def test_workers_do_not_outlive_a_driver_that_was_killed(tmp_path: Path) -> None:
    asked = {"option": "processes", "settings": {"workers": 1}, "root": str(tmp_path), "do": {"a": "hang"}}
    driver = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.driver", json.dumps(asked)], cwd=contract.ROOT, stdout=subprocess.DEVNULL
    )
    wait_for(lambda: begun(tmp_path, {"a": ""}) == [1])
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    contract.assert_no_processes(tmp_path)


def test_vectorized_refuses_work_that_cannot_be_batched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found vectorized, but .* cannot do several shards in one call; accepted: serial, processes"):
        Place("vectorized").option().run(Work(works.DRAW), shards(tmp_path, {"a": ""}), lambda status: None)
