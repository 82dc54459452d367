"""Work for the tests: importable by name in any process, with a line in a file for every time it was done."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Beat = Callable[[Mapping[str, float]], None]

DRAW = f"{__name__}:draw"
DRAW_BATCH = f"{__name__}:draw_batch"
SETTINGS = f"{__name__}:settings"


def draw(inputs: dict[str, np.ndarray], facts: dict[str, Any], beat: Beat) -> dict[str, np.ndarray]:
    """Random numbers of a seed beside a solution of linear equations; ``do`` says what goes wrong on the way."""
    folder = Path(facts["diary"])
    with (folder / facts["name"]).open("a") as diary:
        diary.write(f"{os.getpid()}\n")
    print(f"shard {facts['name']}")
    beat({"done": 0.5, "divergences": 2})
    if facts["do"] == "raise":
        raise ValueError("the shard is bad")
    if facts["do"] == "exit":
        sys.exit(3)
    if facts["do"] == "die" or (facts["do"] == "die once" and times(folder, facts["name"]) == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if facts["do"] == "hang" or (facts["do"] == "hang once" and times(folder, facts["name"]) == 1):
        time.sleep(300)
    beat({"done": 1.0, "divergences": 3})
    rng = np.random.default_rng(facts["seed"])
    matrix = rng.standard_normal((40, 40)) + inputs["file"]
    return {"draws": rng.standard_normal((3, 5)), "x": np.linalg.solve(matrix, rng.standard_normal(40)), "n": np.array(facts["seed"])}


def draw_batch(pairs: Sequence[tuple[dict[str, np.ndarray], dict[str, Any]]], beat: Beat) -> list[dict[str, np.ndarray] | Exception]:
    """One after the other, with what goes wrong in place."""
    found: list[dict[str, np.ndarray] | Exception] = []
    for inputs, facts in pairs:
        try:
            found.append(draw(inputs, facts, beat))
        except ValueError as error:
            found.append(error)
    return found


def settings(inputs: dict[str, np.ndarray], facts: dict[str, Any], beat: Beat) -> dict[str, np.ndarray]:
    """What the worker was given."""
    return {"cores": np.array(sorted(os.sched_getaffinity(0))), "threads": np.array(os.environ["OPENBLAS_NUM_THREADS"])}


def times(folder: Path, name: str) -> int:
    """How often a shard was begun."""
    path = folder / name
    return len(path.read_text().splitlines()) if path.is_file() else 0


def processes(folder: Path) -> list[int]:
    """Processes that have begun shards and live."""
    pids = {int(line) for path in folder.iterdir() for line in path.read_text().splitlines()}
    return sorted(pid for pid in pids if _lives(pid))


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
