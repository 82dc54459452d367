"""The contract on a real Slurm of one machine, and what only a scheduler can do. One file, so that one process owns it."""

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from homodyne.cmc_backend.board import Status
from homodyne.errors import ConfigError

from . import contract, works
from .contract import WORK, Place, shards, wait_for

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(shutil.which("slurmctld") is None or shutil.which("munged") is None, reason="slurm-wlm and munge are not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the daemons of the test cluster run as root"),
]
SCRIPT = Path(__file__).parent / "slurm" / "cluster.sh"
PLACE = Place(
    "slurm", {"poll_s": 0.2, "settle_s": 0.5, "cpus_per_task": 1, "mem_gb": 0.25, "setup": [f"export PYTHONPATH={contract.ROOT}"]}
)


@pytest.fixture(scope="module", autouse=True)
def _slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            with (folder / "start.log").open("w") as log:
                subprocess.run([SCRIPT, "start", folder, str(free_ports(3))], stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
            yield
        finally:
            subprocess.run([SCRIPT, "stop", folder], stdin=subprocess.DEVNULL, check=True)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    for first in range(21817 + os.getpid() % 1000, 32000, count):
        with socket.socket() as probe:
            if all(probe.connect_ex(("127.0.0.1", first + k)) for k in range(count)):
                return first
    raise AssertionError("no free ports")


def listed() -> list[str]:
    """Jobs that wait or run."""
    done = subprocess.run(["squeue", "--noheader", "--array", "--format=%i"], capture_output=True, text=True, check=True)
    return done.stdout.split()


def in_background(action: threading.Thread) -> threading.Thread:
    action.start()
    return action


def test_numbers_are_those_of_a_direct_call_bit_for_bit(tmp_path: Path) -> None:
    contract.assert_same_numbers(PLACE, tmp_path)
    assert listed() == []


def test_jax_computes_in_double_precision(tmp_path: Path) -> None:
    contract.assert_double_precision(PLACE, tmp_path)


def test_an_exception_returns_its_traceback_and_stops_nothing_else(tmp_path: Path) -> None:
    contract.assert_an_exception_is_an_answer(PLACE, tmp_path)


def test_a_second_run_computes_only_what_is_missing_changed_or_damaged(tmp_path: Path) -> None:
    contract.assert_resumes(PLACE, tmp_path)


def test_a_killed_worker_costs_its_task_only_and_is_tried_again(tmp_path: Path) -> None:
    contract.assert_killed_is_tried_again(PLACE, tmp_path)


def test_a_hang_is_ended_by_the_heartbeat(tmp_path: Path) -> None:
    contract.assert_a_hang_is_ended(PLACE, tmp_path)
    wait_for(lambda: listed() == [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_driver_keeps_what_is_finished_and_leaves_no_job(number: signal.Signals, tmp_path: Path) -> None:
    contract.assert_stops(PLACE, tmp_path, number)
    wait_for(lambda: listed() == [])


def test_short_tasks_share_a_job_and_the_death_of_one_costs_only_that_one(tmp_path: Path) -> None:
    do = {"a": "", "b": "die once", "c": "", "d": "raise"}
    found = PLACE.run(tmp_path, do, tasks_per_job=4, retries=1)
    assert [outcome.failure is None for outcome in found] == [True, True, True, False]
    assert contract.begun(tmp_path, do) == [1, 2, 1, 1]
    # Most expensive first: d and c were done when b died; b and a went into a second job.
    assert found[3].where == found[2].where != found[1].where == found[0].where


def test_a_job_over_its_time_limit_is_not_tried_again(tmp_path: Path) -> None:
    """Slurm itself ends the job: its end time, which is at least a minute away, is moved to now."""
    do = {"a": "hang", "b": ""}

    def out_of_time() -> None:
        wait_for(lambda: contract.begun(tmp_path, do) == [1, 1] and len(listed()) == 1)
        subprocess.run(["scontrol", "update", f"JobId={listed()[0]}", "EndTime=now"], check=True, capture_output=True)

    helper = in_background(threading.Thread(target=out_of_time))
    found = PLACE.run(tmp_path, do, time_min=1, retries=3)
    helper.join()
    assert found[0].failure is not None
    assert found[0].failure.kind == "deadline"
    assert "timeout" in found[0].failure.text
    assert found[1].failure is None
    assert contract.begun(tmp_path, do) == [1, 1]


def test_a_job_that_somebody_cancels_is_reported_as_cancelled(tmp_path: Path) -> None:
    do = {"a": "hang", "b": ""}

    def cancel() -> None:
        wait_for(lambda: contract.begun(tmp_path, do) == [1, 1] and len(listed()) == 1)
        subprocess.run(["scancel", listed()[0]], check=True)

    helper = in_background(threading.Thread(target=cancel))
    found = PLACE.run(tmp_path, do, retries=3)
    helper.join()
    assert found[0].failure is not None
    assert found[0].failure.kind == "cancelled"
    assert contract.begun(tmp_path, do) == [1, 1]


@pytest.mark.slow
def test_a_job_whose_node_is_lost_goes_on_elsewhere(tmp_path: Path) -> None:
    """Slurm itself puts it back into the queue; its silence meanwhile is no hang."""
    do = {"a": "hang once"}

    def lose() -> None:
        wait_for(lambda: contract.begun(tmp_path, do) == [1])
        node = subprocess.run(["squeue", "--noheader", "--format=%N"], capture_output=True, text=True, check=True).stdout.strip()
        subprocess.run(["scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test"], check=True)
        wait_for(lambda: contract.begun(tmp_path, do) == [2], seconds=120)

    helper = in_background(threading.Thread(target=lose))
    (outcome,) = PLACE.run(tmp_path, do)
    helper.join()
    assert outcome.failure is None


def test_the_log_says_why_jobs_wait_and_a_caller_that_raises_ends_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Enough(Exception):  # noqa: N818 (a request)
        pass

    def watch(status: Status) -> None:
        if "BeginTime" in caplog.text:
            assert (status.waiting, status.running) == (1, 0)
            raise Enough

    caplog.set_level(logging.INFO, "homodyne")
    with pytest.raises(Enough):
        PLACE.option(extra={"begin": "now+1hour"}, reason_after_s=0).run(WORK, shards(tmp_path, {"a": ""}), watch)
    assert "1 jobs wait; the scheduler says: BeginTime" in caplog.text
    assert listed() == []


def test_a_job_that_cannot_start_its_worker_dies_with_its_log(tmp_path: Path) -> None:
    (outcome,) = PLACE.run(tmp_path, {"a": ""}, python="/nonexistent/python", retries=1)
    assert outcome.failure is not None
    assert outcome.failure.kind == "died"
    assert "/nonexistent/python" in outcome.failure.text
    assert outcome.attempts == 2


def test_what_sbatch_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sbatch refused the jobs: .*invalid partition"):
        PLACE.run(tmp_path, {"a": ""}, partition="nowhere")


def test_no_folder_name_reaches_a_shell(tmp_path: Path) -> None:
    root = tmp_path / "a 'b\" $(touch pwned) `touch pwned` %a;touch pwned"
    (outcome,) = PLACE.run(root, {"a": ""})
    assert outcome.failure is None
    assert not [path for path in (*tmp_path.rglob("pwned"), Path("pwned")) if path.exists()]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("partition", "debug;touch x"),
        ("account", "--wrap=x"),
        ("qos", "a\n#SBATCH x"),
        ("extra", {"wrap me": "x"}),
        ("extra", {"gres": "-x"}),
    ],
)
def test_no_setting_slips_in_another_option(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"cmc_backend.{key}")):
        PLACE.option(**{key: value})


def test_workers_have_the_cores_that_were_asked_for(tmp_path: Path) -> None:
    (outcome,) = PLACE.option(cpus_per_task=1).run(contract.Work(works.SETTINGS), shards(tmp_path, {"a": ""}), lambda status: None)
    assert outcome.result is not None
    assert str(outcome.result["threads"]) == "1"
