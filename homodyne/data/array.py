"""Bare arrays: .npy, .npz with one array, or a square text table. What the file does not say, the settings must: dt, q, phi_list."""

import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..errors import DataError
from .base import AbstractFile
from .contents import Contents, check_maps
from .npz import Rows, archive, array_names, streamed_maps

NPY_START = b"\x93NUMPY"


class Array(AbstractFile):
    """data=array: (n, n) or (P, n, n).

    Attributes:
        phi_list: azimuth of each map, degrees, in the order of the file.
    """

    phi_list: list[float] | None

    @contextmanager
    def open(self, path: Path) -> Iterator[Contents]:
        """What the file holds, while it is open."""
        with path.open("rb") as stream:
            is_npy = stream.read(len(NPY_START)) == NPY_START
        if zipfile.is_zipfile(path):
            with archive(path) as file:
                names = array_names(file)
                if len(names) != 1:
                    raise DataError(f"{path}: holds the arrays {names}; accepted: one array (data=array), or a cache (data=npz)")
                yield self._contents(str(path), *streamed_maps(file, str(path), names[0]))
            return
        values = _npy(path) if is_npy else _text(path)
        maps = values.reshape(-1, *values.shape[-2:]) if values.ndim in (2, 3) else values
        yield self._contents(str(path), values.shape, values.dtype, lambda index, start, stop: maps[index, start:stop])

    def _contents(self, path: str, shape: tuple[int, ...], dtype: np.dtype, read_rows: Rows) -> Contents:
        if len(shape) not in (2, 3):
            raise DataError(f"{path}: an array of shape {shape}; accepted: (n, n) or (P, n, n)")
        count = shape[0] if len(shape) == 3 else 1
        names = ["the array"] if len(shape) == 2 else [f"[{k}]" for k in range(count)]
        n_frames, kept_type = check_maps(path, names, [shape[-2:]] * count, [dtype] * count)
        if self.phi_list is not None and len(self.phi_list) != count:
            raise DataError(f"{path}: holds {count} maps, data.phi_list {len(self.phi_list)} angles; accepted: one angle per map")
        return Contents(
            path=path,
            layout="array",
            names=tuple(names),
            q=np.full(count, np.nan if self.q is None else self.q),
            phi=np.full(count, np.nan) if self.phi_list is None else np.array(self.phi_list, dtype=np.float64),
            n_frames=n_frames,
            dtype=kept_type,
            read_rows=read_rows,
            dt=None,
            dt_source="nothing",
            notes=("q and phi are those of the settings",),
        )


def _npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: the .npy file is truncated, damaged or pickled ({error})") from error


def _text(path: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            # A file without a number is only a warning for numpy.
            warnings.simplefilter("error", UserWarning)
            return np.loadtxt(path, ndmin=2)
    except (ValueError, UserWarning) as error:
        raise DataError(f"{path}: is not .npy, not .npz and not a table of numbers ({str(error)[:120]}); accepted: one of these") from error
