"""The folder of a task: the contract between those who ask, those who compute and those who collect.

    inputs.npz      arrays                                result.npz      arrays, and the key they belong to
    task.json       facts, digest, cost, code version     error.json      why there is no result
    heartbeat.json  last sign of life                     worker.log      what the worker printed

A task is done when result.npz is whole and holds the key of function and digest. Nothing else is evidence: not the exit
status of a worker, not what a scheduler says. Files appear whole or not at all.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from .. import __version__
from ..atomic import write_atomic

INPUTS, TASK, RESULT, ERROR, HEARTBEAT, LOG = "inputs.npz", "task.json", "result.npz", "error.json", "heartbeat.json", "worker.log"

STAMP = "homodyne:stamp"
"""Entry of result.npz beside the arrays of the work: key, seconds and place, as JSON."""

DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What reading a file may raise that is missing, cut off or changed."""

Kind = Literal["exception", "died", "deadline", "heartbeat", "cancelled"]


@dataclass(frozen=True)
class Work:
    """What is done to every task, by name, so that any process can import it.

    Attributes:
        function: ``package.module:name`` of ``function(inputs, facts, beat) -> arrays``.
        batch: of ``batch([(inputs, facts), ...], beat) -> [arrays or exception, ...]``, which does several at once; None: there is none.
    """

    function: str
    batch: str | None = None


@dataclass(frozen=True)
class Task:
    """One piece of work. cost: expected effort in any unit; only ratios between tasks matter."""

    folder: Path
    digest: str
    cost: float


@dataclass(frozen=True)
class Failure:
    """Why there is no result.

    Attributes:
        kind: ``exception`` the work raised; ``died`` the process ended without a word (killed, out of memory, lost node);
            ``deadline`` the time limit was reached; ``heartbeat`` no sign of life; ``cancelled`` somebody removed the job.
        text: traceback, or what is known with the last lines of the log.
    """

    kind: Kind
    text: str


@dataclass(frozen=True)
class Outcome:
    """What became of a task: ``result`` or ``failure``, never both, never neither.

    Attributes:
        attempts: in this run; 0 when the result was there before. seconds: of the computation. where: host and process.
    """

    folder: Path
    result: dict[str, np.ndarray] | None
    failure: Failure | None
    attempts: int
    seconds: float
    where: str


def make_task(folder: Path, inputs: Mapping[str, np.ndarray], facts: Mapping[str, Any], cost: float) -> Task:
    """Write the folder of a task; one that already holds the same inputs and facts, for the same code, is left as it is.

    Args:
        folder: of this task alone; those of one run lie side by side in one folder. inputs: arrays without objects.
        facts: what JSON can hold. cost: expected effort.
    """
    folder = folder.absolute()
    digest = _digest(inputs, facts)
    task = Task(folder, digest, float(cost))
    if (folder / INPUTS).is_file() and _stored_digest(folder) == digest:
        return task
    folder.mkdir(parents=True, exist_ok=True)
    # What says what the inputs are goes first and comes last: an interruption leaves no task with the inputs of another.
    for name in (TASK, RESULT, ERROR, HEARTBEAT, LOG):
        (folder / name).unlink(missing_ok=True)
    write_atomic(folder / INPUTS, lambda stream: write_arrays(stream, inputs))
    text = json.dumps({"digest": digest, "cost": task.cost, "code": code_version(), "facts": facts}, indent=1)
    write_atomic(folder / TASK, lambda stream: stream.write(text.encode()))
    return task


def read_task(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Inputs and facts of a task.

    Raises:
        ValueError: the files are not those that were made, or the code is not that of the driver.
    """
    record = read_json(folder / TASK)
    if record["code"] != code_version():
        raise ValueError(
            f"{folder}: made by homodyne {record['code']}, but this is {code_version()}; drivers and workers need the same code"
        )
    inputs = read_arrays(folder / INPUTS)
    if _digest(inputs, record["facts"]) != record["digest"]:
        raise ValueError(f"{folder / INPUTS} is not what {TASK} was written with: damaged; delete the folder and start again")
    return inputs, record["facts"]


def key_of(function: str, digest: str) -> str:
    """What a result must hold to be that of this function of these inputs."""
    return hashlib.blake2b(f"{function}\n{digest}".encode(), digest_size=20).hexdigest()


def write_result(folder: Path, key: str, result: Mapping[str, np.ndarray], seconds: float, where: str) -> None:
    """Write result.npz whole, stamped with its key."""
    stamp = np.array(json.dumps({"key": key, "seconds": seconds, "where": where}))
    write_atomic(folder / RESULT, lambda stream: write_arrays(stream, {**result, STAMP: stamp}))


def read_result(folder: Path, key: str) -> tuple[dict[str, np.ndarray], float, str] | None:
    """Arrays, seconds and place of the result with this key; None when there is none, or a damaged one, or that of another task."""
    try:
        arrays = read_arrays(folder / RESULT)
        stamp = json.loads(str(arrays.pop(STAMP)))
        return (arrays, float(stamp["seconds"]), str(stamp["where"])) if stamp["key"] == key else None
    except DAMAGED:
        return None


def write_error(folder: Path, key: str, failure: Failure, seconds: float, where: str) -> None:
    """Write error.json whole."""
    text = json.dumps({"key": key, "kind": failure.kind, "text": failure.text, "seconds": seconds, "where": where}, indent=1)
    write_atomic(folder / ERROR, lambda stream: stream.write(text.encode()))


def read_error(folder: Path, key: str) -> tuple[Failure, float, str] | None:
    """Failure, seconds and place that a worker left; None when there are none."""
    try:
        record = read_json(folder / ERROR)
        found = Failure(record["kind"], record["text"]), float(record["seconds"]), str(record["where"])
        return found if record["key"] == key else None
    except DAMAGED:
        return None


def clear(folder: Path) -> None:
    """Remove what an earlier attempt left: its signs of life, its error, and what it was writing when it was killed."""
    for path in (folder / ERROR, folder / HEARTBEAT, *folder.glob(".*.part")):
        path.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def write_arrays(stream: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz archive. NumPy's own writer takes names as keywords, two of which it needs for itself."""
    with zipfile.ZipFile(stream, "w") as archive:
        for name, value in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(value), allow_pickle=False)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz archive; every byte of them is checked by the sums that the archive holds."""
    # NumPy leaves a file open that it opened itself and then cannot read.
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, or nothing."""
    try:
        text = path.read_bytes()[-8000:].decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


@cache
def code_version() -> str:
    """Version of the package with a hash of its source: an edited function does not take the results of the old one for its own."""
    root = Path(__file__).parents[1]
    found = hashlib.blake2b(digest_size=6)
    for path in sorted(root.rglob("*.py")):
        found.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return f"{__version__} ({found.hexdigest()})"


def _digest(inputs: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> str:
    found = hashlib.blake2b(f"{code_version()}\n{json.dumps(facts, sort_keys=True)}".encode(), digest_size=20)
    for name in sorted(inputs):
        array = np.asanyarray(inputs[name])
        found.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _stored_digest(folder: Path) -> str | None:
    try:
        return str(read_json(folder / TASK)["digest"])
    except DAMAGED:
        return None
