"""The folder of a task is evidence: damage, other inputs, another driver or a dead one are all seen."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from platform import node

import numpy as np
import pytest

from homodyne.cmc_backend.interrupts import Interrupts
from homodyne.errors import FitError
from homodyne.tasks import compute, make_task, owned
from homodyne.tasks.folder import key_of, read_result, read_task, write_result

from . import works
from .contract import ROOT, begun, shards, wait_for

ARRAYS = {
    "file": np.arange(6.0).reshape(2, 3),
    "allow_pickle": np.array(1 + 2j),
    "text": np.array(["a", "bc"]),
    "none": np.zeros((0, 3), np.float32),
}


def test_inputs_and_results_come_back_as_they_were(tmp_path: Path) -> None:
    task = make_task(tmp_path / "t", ARRAYS, {"numbers": [1, 2.5, None, "x"]}, 1.0)
    inputs, facts = read_task(task.folder)
    assert facts == {"numbers": [1, 2.5, None, "x"]}
    write_result(task.folder, "key", ARRAYS, 1.5, "here")
    found = read_result(task.folder, "key")
    assert found is not None
    for arrays in (inputs, found[0]):
        assert list(arrays) == list(ARRAYS)
        for name, array in ARRAYS.items():
            assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
            assert arrays[name].tobytes() == array.tobytes()
    assert found[1:] == (1.5, "here")


def test_the_digest_sees_every_change_of_inputs_and_facts_and_nothing_else(tmp_path: Path) -> None:
    def digest(arrays: dict[str, np.ndarray], facts: dict[str, object]) -> str:
        return make_task(tmp_path / "t", arrays, facts, 1.0).digest

    base = digest({"x": np.zeros(4), "y": np.ones(2)}, {"a": 1, "b": 2})
    assert digest({"y": np.ones(2), "x": np.zeros(4)}, {"b": 2, "a": 1}) == base
    assert make_task(tmp_path / "t", {"x": np.zeros(8)[::2], "y": np.ones(2)}, {"a": 1, "b": 2}, cost=7.0).digest == base
    others = [
        digest({"x": np.zeros(4) - 0.0, "y": np.ones(2) + 1e-16 + 2**-52}, {"a": 1, "b": 2}),
        digest({"x": np.zeros((2, 2)), "y": np.ones(2)}, {"a": 1, "b": 2}),
        digest({"x": np.zeros(4, np.int64), "y": np.ones(2)}, {"a": 1, "b": 2}),
        digest({"z": np.zeros(4), "y": np.ones(2)}, {"a": 1, "b": 2}),
        digest({"x": np.zeros(4), "y": np.ones(2)}, {"a": 1, "b": "2"}),
    ]
    assert len({base, *others}) == 6


def test_objects_are_no_inputs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle=False"):
        make_task(tmp_path / "t", {"x": np.array([None])}, {}, 1.0)


def test_a_result_of_another_function_or_other_inputs_is_not_taken(tmp_path: Path) -> None:
    task = shards(tmp_path, {"a": ""})[0]
    compute(works.DRAW, task.folder)
    assert read_result(task.folder, key_of(works.DRAW, task.digest)) is not None
    assert read_result(task.folder, key_of(works.SETTINGS, task.digest)) is None
    other = shards(tmp_path, {"a": ""}, shift=1.0)[0]
    assert read_result(other.folder, key_of(works.DRAW, other.digest)) is None


def test_no_flipped_byte_of_a_result_changes_its_numbers(tmp_path: Path) -> None:
    """At every position of the file: either it is seen, or it was in a place that holds no number."""
    write_result(tmp_path, "key", {"x": np.arange(5.0)}, 1.0, "here")
    path = tmp_path / "result.npz"
    whole, seen = path.read_bytes(), 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        found = read_result(tmp_path, "key")
        seen += found is None
        if found is not None:
            np.testing.assert_array_equal(found[0].get("x", np.arange(5.0)), np.arange(5.0))
            assert list(found[0]) == ["x"]
    assert seen > len(whole) / 2
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert read_result(tmp_path, "key") is None


def test_damaged_inputs_and_those_of_other_code_are_reported_not_used(tmp_path: Path) -> None:
    task = make_task(tmp_path / "t", {"x": np.zeros(3)}, {}, 1.0)
    record = json.loads((task.folder / "task.json").read_text())
    (task.folder / "task.json").write_text(json.dumps({**record, "code": "0.0.1 (abc)"}))
    with pytest.raises(ValueError, match=r"made by homodyne 0.0.1 \(abc\), but this is"):
        read_task(task.folder)
    (task.folder / "task.json").write_text(json.dumps({**record, "facts": {"more": 1}}))
    with pytest.raises(ValueError, match="delete the folder and start again"):
        read_task(task.folder)


def test_a_worker_leaves_finished_tasks_alone_and_survives_exit_in_the_work(tmp_path: Path) -> None:
    do = {"a": "", "b": "exit", "c": ""}
    tasks = shards(tmp_path, do)
    for _ in range(2):
        subprocess.run([sys.executable, "-m", "homodyne.tasks", works.DRAW, *[str(task.folder) for task in tasks]], cwd=ROOT, check=True)
    assert begun(tmp_path, do) == [1, 2, 1]
    assert "SystemExit: 3" in json.loads((tasks[1].folder / "error.json").read_text())["text"]
    assert (tasks[0].folder / "worker.log").read_text() == "shard a\n"


def test_work_that_does_not_exist_is_the_error_of_the_task(tmp_path: Path) -> None:
    (task,) = shards(tmp_path, {"a": ""})
    subprocess.run([sys.executable, "-m", "homodyne.tasks", "nowhere.at_all:x", str(task.folder)], cwd=ROOT, check=True)
    assert "No module named 'nowhere'" in json.loads((task.folder / "error.json").read_text())["text"]


def test_the_signal_before_a_time_limit_is_recorded_even_while_the_work_does_not_listen(tmp_path: Path) -> None:
    (task,) = shards(tmp_path, {"a": "hang"})
    # Ignored signals are inherited: a job script may have left it so.
    script = ["bash", "-c", 'trap "" USR2; exec "$@"', "-", sys.executable, "-m", "homodyne.tasks", works.DRAW, str(task.folder)]
    worker = subprocess.Popen(script, cwd=ROOT)
    wait_for(lambda: begun(tmp_path, {"a": ""}) == [1])
    worker.send_signal(signal.SIGUSR2)
    assert worker.wait(60) == 124
    assert json.loads((task.folder / "error.json").read_text())["kind"] == "deadline"


def test_the_lock_names_its_holder_and_survives_no_dead_one(tmp_path: Path) -> None:
    holder = multiprocessing.get_context("spawn").Process(target=_hold, args=(tmp_path,))
    holder.start()
    wait_for((tmp_path / "held").exists)
    with pytest.raises(FitError, match=f"in use by process {holder.pid} on this host"), owned(tmp_path):
        pass
    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join()
    with owned(tmp_path):
        assert json.loads((tmp_path / "driver.lock").read_text())["pid"] == os.getpid()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held"]


def test_a_lock_of_another_host_or_of_unknown_origin_is_respected(tmp_path: Path) -> None:
    for text, message in (
        (json.dumps({"host": f"not-{node()}", "pid": 1}), f"in use by process 1 on not-{node()}; if that has ended, delete"),
        ("hello", "is not a lock that homodyne wrote"),
    ):
        (tmp_path / "driver.lock").write_text(text)
        with pytest.raises(FitError, match=message), owned(tmp_path):
            pass
        assert (tmp_path / "driver.lock").read_text() == text


def test_an_interrupt_waits_while_something_must_be_whole(tmp_path: Path) -> None:
    interrupts, before, done = Interrupts(), signal.getsignal(signal.SIGTERM), []

    def submit() -> None:
        with interrupts.caught(), interrupts.held():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            done.append("whole")

    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        submit()
    assert done == ["whole"]
    assert signal.getsignal(signal.SIGTERM) is before


def _hold(folder: Path) -> None:
    with owned(folder):
        (folder / "held").touch()
        time.sleep(60)
