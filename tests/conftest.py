"""What all tests share: float64, and the command run as a user runs it, in an empty folder with a cache folder of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

jax.config.update("jax_enable_x64", True)

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of a test session keep compiled code: not in the home of whoever runs the tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def command(tmp_path: Path, cache: Path) -> Command:
    """``command("mode=static", ...)`` runs ``python -m homodyne`` in tmp_path, where plug-in modules may lie as well."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(Path(__file__).parents[1]), str(tmp_path)])
        env = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(cache), **environment}
        return subprocess.run(
            [sys.executable, "-m", "homodyne", *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False
        )

    return run
