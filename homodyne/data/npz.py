"""Caches of homodyne 1.x/2.x and xpcsjax: c2_exp, t1, t2, phi_angles_list, wavevector_q_list in an .npz file.

Rows are read from inside the archive, so that one map at a time is held however large the file is. Nothing is unpickled.
"""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import DataError
from .base import AbstractFile
from .contents import Contents, check_maps
from .hdf5 import TRUTH, truth_of

NAMES = {"maps": "c2_exp", "t1": "t1", "t2": "t2", "phi": "phi_angles_list", "q": "wavevector_q_list"}
METADATA = "cache_metadata_json"

Rows = Callable[[int, int, int], np.ndarray]
"""(index, start, stop) -> rows of a map, as ``Contents.read_rows``."""


class Npz(AbstractFile):
    """data=npz."""

    @contextmanager
    def open(self, path: Path) -> Iterator[Contents]:
        """What the file holds, while it is open."""
        with archive(path) as file:
            yield _contents(file, str(path))


@contextmanager
def archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """An .npz file, open for reading; whatever cannot be read is a DataError with the path."""
    try:
        with zipfile.ZipFile(path) as file:
            yield file
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataError(f"{path}: is not an .npz file, or is truncated or damaged ({error})") from error


def array_names(file: zipfile.ZipFile) -> list[str]:
    """Names of the arrays of an .npz file."""
    return [name.removesuffix(".npy") for name in file.namelist() if name.endswith(".npy")]


def small_array(file: zipfile.ZipFile, path: str, name: str) -> np.ndarray:
    """One array of an .npz file, whole."""
    if name not in array_names(file):
        raise DataError(f"{path}: array {name} is missing; found {array_names(file)}")
    with file.open(f"{name}.npy") as stream:
        try:
            return np.lib.format.read_array(stream, allow_pickle=False)
        except ValueError as error:
            raise DataError(f"{path}: array {name} cannot be read ({error}); accepted: plain arrays, nothing pickled") from error


def streamed_maps(file: zipfile.ZipFile, path: str, name: str) -> tuple[tuple[int, ...], np.dtype, Rows]:
    """Shape, type and row reader of an (n, n) or (P, n, n) array of an .npz file, read piece by piece."""
    if name not in array_names(file):
        raise DataError(f"{path}: array {name} is missing; found {array_names(file)}")
    with file.open(f"{name}.npy") as stream:
        shape, by_columns, dtype = _header(stream, path, name)
        first = stream.tell()
    if by_columns:
        whole = small_array(file, path, name).reshape(-1, *shape[-2:])
        return shape, dtype, lambda index, start, stop: whole[index, start:stop]
    member, n = _Member(file, f"{name}.npy"), shape[-1]

    def read(index: int, start: int, stop: int) -> np.ndarray:
        size = (stop - start) * n * dtype.itemsize
        data = member.read(first + (index * n * n + start * n) * dtype.itemsize, size)
        if len(data) != size:
            raise DataError(f"{path}: array {name} ends early; the file is truncated")
        return np.frombuffer(data, dtype=dtype).reshape(stop - start, n)

    return shape, dtype, read


class _Member:
    """Bytes of one member of an archive. Going forward unpacks everything once; going back starts again."""

    def __init__(self, file: zipfile.ZipFile, name: str) -> None:
        self.file, self.name = file, name
        self.stream, self.position = file.open(name), 0

    def read(self, offset: int, size: int) -> bytes:
        if offset < self.position:
            self.stream.close()
            self.stream, self.position = self.file.open(self.name), 0
        # Skipped by reading: seeking in members fails in some Python versions, and packed ones have to be unpacked anyway.
        while self.position < offset:
            step = len(self.stream.read(min(offset - self.position, 2**20)))
            if step == 0:
                return b""
            self.position += step
        data = self.stream.read(size)
        self.position += len(data)
        return data


def _header(stream: IO[bytes], path: str, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = reader(stream)
    except ValueError as error:
        raise DataError(f"{path}: array {name} has a damaged header ({error})") from error
    if dtype.hasobject:
        raise DataError(f"{path}: array {name} is pickled and is not read; accepted: an array of numbers")
    if len(shape) not in (2, 3):
        raise DataError(f"{path}: array {name} has shape {shape}; accepted: (n, n) or (P, n, n)")
    return shape, by_columns and len(shape) > 1, dtype


def _contents(file: zipfile.ZipFile, path: str) -> Contents:
    shape, dtype, read_rows = streamed_maps(file, path, NAMES["maps"])
    if len(shape) != 3:
        raise DataError(f"{path}: {NAMES['maps']} has shape {shape}; accepted: (maps, frames, frames)")
    names = [f"{NAMES['maps']}[{k}]" for k in range(shape[0])]
    n_frames, kept_type = check_maps(path, names, [shape[1:]] * shape[0], [dtype] * shape[0])
    q, phi = small_array(file, path, NAMES["q"]), small_array(file, path, NAMES["phi"])
    if not q.shape == phi.shape == (shape[0],):
        raise DataError(
            f"{path}: {NAMES['maps']} holds {shape[0]} maps, {NAMES['q']} has shape {q.shape} and {NAMES['phi']} {phi.shape}; "
            "accepted: one q and one phi per map"
        )
    notes = []
    if METADATA in array_names(file):
        notes.append(f"cache metadata: {small_array(file, path, METADATA)}; frames are counted within the cache")
    truth = truth_of(str(small_array(file, path, TRUTH))) if TRUTH in array_names(file) else None
    return Contents(
        path=path,
        layout="npz",
        names=tuple(names),
        q=q.astype(np.float64),
        phi=phi.astype(np.float64),
        n_frames=n_frames,
        dtype=kept_type,
        read_rows=read_rows,
        dt=_dt(file, path, n_frames),
        dt_source="t1",
        same_q=1e-3,
        notes=tuple(notes),
        truth=truth,
    )


def _dt(file: zipfile.ZipFile, path: str, n_frames: int) -> float:
    """Step of the time axes, which must be one and the same, uniform and as long as the maps."""
    axes = [small_array(file, path, NAMES[key]) for key in ("t1", "t2")]
    for key, axis in zip(("t1", "t2"), axes, strict=True):
        if axis.shape != (n_frames,):
            raise DataError(f"{path}: {key} has shape {axis.shape}; accepted: one axis of {n_frames} times, (n,), no mesh grid")
    steps = np.diff(axes[0].astype(np.float64))
    if not np.array_equal(axes[0], axes[1]) or not np.all(steps > 0) or np.ptp(steps) > 1e-5 * steps.mean():
        raise DataError(f"{path}: t1 and t2 must be equal, rising and uniform; t1 steps are {steps.min():g} to {steps.max():g} s")
    # Where the axis starts at 0, its first step has every digit.
    return float(axes[0][1] if axes[0][0] == 0 else (axes[0][-1] - axes[0][0]) / len(steps))
