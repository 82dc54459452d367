"""Reading HDF5 files so that whatever is missing or odd is named by file and dataset path."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from ..errors import DataError
from .contents import natural_order
from .dataset import Truth

TRUTH = "homodyne_truth"
"""Group of a simulated file; its attribute of the same name is a JSON object with the entry ``parameters``."""

# Room for the chunks of one row of chunks, so that reading a map stripe by stripe unpacks each chunk once.
_CHUNK_CACHE = 256 * 2**20


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file, open for reading; whatever the library cannot read is a DataError with the path."""
    if not h5py.is_hdf5(path):
        raise DataError(f"{path}: is not an HDF5 file, or is truncated at its head; accepted: HDF5")
    try:
        with h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE) as file:
            yield file
    except OSError as error:
        raise DataError(f"{path}: is HDF5, but truncated, damaged or locked ({error})") from error


def dataset(file: h5py.Group, path: str) -> h5py.Dataset:
    """The dataset at a path of a file."""
    if path not in file:
        raise DataError(f"{file.file.filename}: dataset {path} is missing; accepted: a dataset there")
    found = _linked(file, path)
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{file.file.filename}: {path} is a group; accepted: a dataset there")
    return found


def vector(file: h5py.Group, path: str) -> np.ndarray:
    """All numbers of a dataset as (k,) float64, whatever its shape: (k,), (1, k), (k, 1) or a scalar."""
    found = dataset(file, path)
    if found.dtype.kind not in "fiub":
        raise DataError(f"{file.file.filename}: {path} has type {found.dtype}; accepted: numbers")
    return np.asarray(found[()], dtype=np.float64).ravel()


def whole_numbers(file: h5py.Group, path: str) -> np.ndarray:
    """As ``vector``, as (k,) int64; a value that is not whole is an error."""
    values = vector(file, path)
    if not np.all(np.isfinite(values)) or np.any(values != np.round(values)):
        raise DataError(f"{file.file.filename}: {path} holds values that are not whole numbers: {values[:10]}")
    return values.astype(np.int64)


def positive(file: h5py.Group, path: str) -> float:
    """The one positive number of a dataset: a scalar, (1,) or (1, 1)."""
    values = vector(file, path)
    if values.size != 1 or not np.isfinite(values[0]) or values[0] <= 0:
        raise DataError(f"{file.file.filename}: {path} holds {values[:10]}; accepted: one positive number")
    return float(values[0])


def positive_or(file: h5py.Group, path: str, default: float) -> float:
    """As ``positive``; the default where the dataset does not exist."""
    return positive(file, path) if path in file else default


def texts(value: object) -> list[str]:
    """Strings of a dataset or attribute value: bytes or str, one or several."""
    return [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in np.asarray(value, dtype=object).ravel()]


def unit(found: h5py.Dataset) -> str | None:
    """The attribute ``units`` or ``unit`` of a dataset."""
    for name in ("units", "unit"):
        if name in found.attrs:
            return texts(found.attrs[name])[0]
    return None


def members(file: h5py.Group, path: str) -> list[h5py.Dataset]:
    """The datasets of a group, by natural order of their names."""
    where = f"{file.file.filename}: {path}"
    if path not in file:
        raise DataError(f"{where} is missing; accepted: a group with one dataset per map")
    group = file[path]
    if not isinstance(group, h5py.Group):
        raise DataError(f"{where} is a dataset; accepted: a group with one dataset per map")
    found = [_linked(group, name) for name in natural_order(group)]
    odd = [item.name for item in found if not isinstance(item, h5py.Dataset)]
    if odd:
        raise DataError(f"{where} holds groups {odd}; accepted: one dataset per map")
    return found


def row_reader(maps: Sequence[h5py.Dataset]) -> Callable[[int, int, int], np.ndarray]:
    """``Contents.read_rows`` for maps that are one dataset each."""

    def read(index: int, start: int, stop: int) -> np.ndarray:
        return maps[index][start:stop]

    return read


def truth(file: h5py.Group) -> Truth | None:
    """Truth of a simulated file."""
    if TRUTH not in file:
        return None
    return truth_of(texts(file[TRUTH].attrs[TRUTH])[0])


def truth_of(text: str) -> Truth:
    """The truth of a simulation, as ``simulation.write`` stores it."""
    stored = json.loads(text)
    return Truth({str(name): float(value) for name, value in stored["parameters"].items()}, str(stored["shear_kernel"]))


def pixels_of_regions(regions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(M,) number of detector pixels with each of the labels; NaN where there is none."""
    found = np.bincount(regions.ravel(), minlength=int(labels.max()) + 1)[labels].astype(np.float64)
    return np.where(found > 0, found, np.nan)


def _linked(group: h5py.Group, name: str) -> h5py.HLObject:
    """What is at a name, where links to other files may lead nowhere."""
    try:
        return group[name]
    except KeyError as error:
        raise DataError(f"{group.file.filename}: {group.name.rstrip('/')}/{name.lstrip('/')} cannot be opened ({error})") from error
