"""A run computes where it was asked to, in float64, or stops."""

from pathlib import Path

import jax
import pytest

import homodyne
from homodyne.hardware.base import available_cores, cache_folder

from ..conftest import Command


def test_cpu_gives_float64_and_may_be_configured_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    hardware = homodyne.option("hardware", "cpu", compilation_cache=False)
    hardware.configure()
    hardware.configure()
    assert jax.default_backend() == "cpu"
    assert jax.numpy.zeros(()).dtype == "float64"
    assert hardware.describe()["platform"] == "cpu"


def test_threads_are_those_this_process_may_use_unless_given() -> None:
    assert homodyne.option("hardware", "cpu").cores == available_cores()
    assert homodyne.option("hardware", "cpu", threads=3).cores == 3


def test_the_cache_follows_the_xdg_convention(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().parent == tmp_path / "homodyne" / "jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder().parent == tmp_path / "home" / ".cache" / "homodyne" / "jax"


def test_a_gpu_that_is_not_there_ends_with_status_2_and_advice(command: Command) -> None:
    done = command("hardware=gpu", "data=simulated", "inspect=true", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr.startswith("hardware=gpu: JAX ")
    assert 'pip install "homodyne[gpu]"' in done.stderr


def test_compiled_code_is_kept_in_the_cache_folder(command: Command, cache: Path) -> None:
    tiny = ("data=simulated", "data.n_frames=20", "data.phi_list=[0,45,90]", "report=off")
    assert command(*tiny).returncode in (0, 4)
    assert list((cache / "homodyne" / "jax").rglob("*-cache"))
