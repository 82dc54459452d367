"""The contract on an emulator of qsub, qstat and qdel that really runs jobs (pbs_emulator). It is not PBS: none is packaged for tests."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from homodyne.cmc_backend.board import Status
from homodyne.cmc_backend.pbs import PBS
from homodyne.config import option
from homodyne.errors import ConfigError

from . import contract
from .contract import WORK, Place, shards, wait_for

EMULATOR = Path(__file__).parent / "pbs_emulator" / "emulator.py"
PLACE = Place(
    "pbs",
    {
        "poll_s": 0.2,
        "settle_s": 0.5,
        "cpus_per_task": 1,
        "mem_gb": 0.25,
        "signal_delay_s": 5,
        "setup": [f"export PYTHONPATH={contract.ROOT}"],
    },
)


@pytest.fixture(autouse=True, params=["history", "no history"])
def _pbs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The three commands on the PATH; a server of its own for each test, that forgets ended jobs or does not."""
    home, commands = tmp_path / "pbs", tmp_path / "bin"
    home.mkdir()
    commands.mkdir()
    (home / "cpus").write_text("2")
    if request.param == "history":
        (home / "history").touch()
    for name in ("qsub", "qstat", "qdel"):
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {EMULATOR} {name} "$@"\n')
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PBS_EMULATOR", str(home))
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(home))


once = pytest.mark.parametrize("_pbs", ["no history"], indirect=True)


def running(home: Path) -> list[str]:
    """Elements that have begun and not ended."""
    return [str(path) for path in home.glob("pbs/*/*.run") if not path.with_suffix(".end").exists()]


def test_numbers_are_those_of_a_direct_call_bit_for_bit(tmp_path: Path) -> None:
    contract.assert_same_numbers(PLACE, tmp_path)


def test_an_exception_returns_its_traceback_and_stops_nothing_else(tmp_path: Path) -> None:
    contract.assert_an_exception_is_an_answer(PLACE, tmp_path)


def test_a_killed_worker_costs_its_task_only_and_is_tried_again(tmp_path: Path) -> None:
    contract.assert_killed_is_tried_again(PLACE, tmp_path)


@once
def test_jax_computes_in_double_precision(tmp_path: Path) -> None:
    cache = contract.assert_double_precision(PLACE, tmp_path)
    assert cache.startswith(str(tmp_path / "pbs" / ".cache" / "homodyne" / "jax"))


@once
def test_a_second_run_computes_only_what_is_missing_changed_or_damaged(tmp_path: Path) -> None:
    contract.assert_resumes(PLACE, tmp_path)


@once
def test_a_hang_is_ended_by_the_heartbeat(tmp_path: Path) -> None:
    contract.assert_a_hang_is_ended(PLACE, tmp_path)
    wait_for(lambda: running(tmp_path) == [])


@once
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_driver_keeps_what_is_finished_and_leaves_no_job(number: signal.Signals, tmp_path: Path) -> None:
    contract.assert_stops(PLACE, tmp_path, number)
    wait_for(lambda: running(tmp_path) == [])


@once
def test_the_worker_is_told_of_the_time_limit_and_says_so(tmp_path: Path) -> None:
    """PBS gives no warning, so the script does: two seconds into a job of one minute."""
    do = {"a": "hang", "b": ""}
    found = PLACE.run(tmp_path, do, time_min=1, signal_delay_s=58, retries=3)
    assert found[0].failure is not None
    assert found[0].failure.kind == "deadline"
    assert "the time limit was reached after" in found[0].failure.text
    assert found[1].failure is None
    assert contract.begun(tmp_path, do) == [1, 1]


@once
def test_a_task_that_was_cut_short_by_those_before_it_gets_another_job(tmp_path: Path) -> None:
    found = PLACE.run(tmp_path, {"a": "hang once", "b": ""}, time_min=1, signal_delay_s=58, tasks_per_job=2, retries=0)
    assert [outcome.failure for outcome in found] == [None, None]
    assert [outcome.attempts for outcome in found] == [2, 1]


@once
def test_a_deleted_job_has_died_whatever_its_exit_status_says(tmp_path: Path) -> None:
    """PBS shows status 0 for it, or nothing; only the missing result is evidence."""
    do = {"a": "hang once", "b": ""}

    def delete() -> None:
        wait_for(lambda: contract.begun(tmp_path, do) == [1, 1])
        subprocess.run(["qdel", "1[1].emulator"], check=True)

    helper = threading.Thread(target=delete)
    helper.start()
    found = PLACE.run(tmp_path, do, retries=1)
    helper.join()
    assert [outcome.attempts for outcome in found] == [2, 1]
    assert contract.begun(tmp_path, do) == [2, 1]


@once
def test_the_log_says_why_a_job_waits_for_ever(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Enough(Exception):  # noqa: N818 (a request)
        pass

    def watch(status: Status) -> None:
        if "Can Never Run" in caplog.text:
            raise Enough

    caplog.set_level(logging.INFO, "homodyne")
    with pytest.raises(Enough):
        PLACE.option(chunk={"impossible": True}, reason_after_s=0).run(WORK, shards(tmp_path, {"a": "", "b": ""}), watch)
    assert "2 jobs wait; the scheduler says: Can Never Run: Insufficient amount of resource" in caplog.text


@once
def test_what_qsub_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="qsub refused the jobs: qsub: Unknown queue"):
        PLACE.run(tmp_path, {"a": ""}, queue="nowhere")


@once
def test_no_folder_name_reaches_a_shell(tmp_path: Path) -> None:
    root = tmp_path / "a 'b\" $(touch pwned) `touch pwned` ^array_index^;touch pwned"
    found = PLACE.run(root, {"a": "", "b": ""})
    assert [outcome.failure for outcome in found] == [None, None]
    assert not [path for path in (*tmp_path.rglob("pwned"), Path("pwned")) if path.exists()]


@once
@pytest.mark.parametrize("count", [1, 2, 5])
def test_one_shard_is_no_array_and_the_limit_of_an_array_is_kept(tmp_path: Path, count: int) -> None:
    found = PLACE.run(tmp_path, {f"s{k}": "" for k in range(count)}, array_parallelism=1)
    assert [outcome.failure for outcome in found] == [None] * count
    assert len([path for path in (tmp_path / "pbs").iterdir() if path.name.isdigit()]) == 1


@once
def test_resources_are_written_as_pbs_reads_them() -> None:
    pbs = option(
        "cmc_backend", "pbs", time_min=90, mem_gb=8, queue="prod", account="XPCS", chunk={"ngpus": 1}, extra={"filesystems": "home:eagle"}
    )
    assert isinstance(pbs, PBS)
    select, walltime, files = "select=1:ncpus=4:mem=8192mb:ngpus=1", "walltime=01:30:00", "filesystems=home:eagle"
    assert pbs.arguments == ["-l", select, "-l", walltime, "-l", files, "-q", "prod", "-A", "XPCS"]


@once
def test_a_warning_that_is_longer_than_the_time_limit_is_refused() -> None:
    with pytest.raises(ConfigError, match="signal_delay_s = 60 is not shorter than time_min = 1 min"):
        option("cmc_backend", "pbs", time_min=1)


@once
def test_without_the_commands_it_says_where_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("qsub") is None
    with pytest.raises(ConfigError, match="found pbs, but qsub and qstat and qdel are not on the PATH"):
        PLACE.run(tmp_path, {"a": ""})
