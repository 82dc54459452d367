"""The options that need no scheduler keep the contract; test_slurm.py and test_pbs.py do the same for the other two."""

import os
import signal
from pathlib import Path

import pytest

from homodyne.groups import options

from . import contract
from .contract import Place

PLACES = {
    "serial": Place("serial", apart=False),
    "vectorized": Place("vectorized", {"batch_size": 2}, apart=False),
    "processes": Place("processes", {"workers": 2}),
    "submitit_local": Place("submitit_local", {"workers": 2}),
}
APART = [name for name, place in PLACES.items() if place.apart]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Workers find the work of the tests, and keep compiled code out of the home of whoever runs them."""
    monkeypatch.setenv("PYTHONPATH", str(contract.ROOT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_every_option_is_under_contract() -> None:
    tested = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert set(options("cmc_backend")) <= {*PLACES, *tested}


@pytest.mark.parametrize("name", PLACES)
def test_numbers_are_those_of_a_direct_call_bit_for_bit(name: str, tmp_path: Path) -> None:
    contract.assert_same_numbers(PLACES[name], tmp_path)


@pytest.mark.parametrize("name", PLACES)
def test_jax_computes_in_double_precision_and_workers_share_compiled_code(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_ENABLE_X64", "false")
    cache = contract.assert_double_precision(PLACES[name], tmp_path)
    if PLACES[name].apart:
        assert cache.startswith(str(tmp_path / "cache" / "homodyne" / "jax"))
        assert list(Path(cache).iterdir())
    assert os.environ["JAX_ENABLE_X64"] == "false"


@pytest.mark.parametrize("name", PLACES)
def test_an_exception_returns_its_traceback_and_stops_nothing_else(name: str, tmp_path: Path) -> None:
    contract.assert_an_exception_is_an_answer(PLACES[name], tmp_path)


@pytest.mark.parametrize("name", PLACES)
def test_a_second_run_computes_only_what_is_missing_changed_or_damaged(name: str, tmp_path: Path) -> None:
    contract.assert_resumes(PLACES[name], tmp_path)


@pytest.mark.parametrize("name", PLACES)
def test_two_drivers_do_not_share_a_folder(name: str, tmp_path: Path) -> None:
    contract.assert_one_driver(PLACES[name], tmp_path)


@pytest.mark.parametrize("name", ["serial", *APART])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_driver_keeps_what_is_finished_and_leaves_no_process(name: str, number: signal.Signals, tmp_path: Path) -> None:
    contract.assert_stops(PLACES[name], tmp_path, number)


@pytest.mark.parametrize("name", APART)
def test_a_killed_worker_costs_its_task_only_and_is_tried_again(name: str, tmp_path: Path) -> None:
    contract.assert_killed_is_tried_again(PLACES[name], tmp_path)


@pytest.mark.parametrize("name", APART)
def test_a_hang_is_ended_by_the_heartbeat(name: str, tmp_path: Path) -> None:
    contract.assert_a_hang_is_ended(PLACES[name], tmp_path)
