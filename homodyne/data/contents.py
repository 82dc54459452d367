"""What a file holds, as its layout says it: the only thing that selection, reading and inspection know of a file.

A layout (``aps_u.py``, ``npz.py``, ...) opens a file and fills in a ``Contents``; everything after that is shared.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from .dataset import Truth
from .pixel_weights import PixelWeights

# A map of this many frames is 17 GB in float32; a larger shape is a damaged header or another kind of data.
MOST_FRAMES = 65536


@dataclass(frozen=True)
class Contents:
    """The maps of one open file.

    Attributes:
        path: the file.
        layout: name of the layout.
        names: (M,) dataset path or array name of each map, for messages.
        q: (M,) wavevector of each map, 1/Angstrom; NaN where the file has none.
        phi: (M,) azimuth of each map, degrees; NaN where the file has none.
        n_frames: frames of every map.
        dtype: float32 if every map is stored as float32, else float64.
        read_rows: (index, start, stop) -> (stop - start, n_frames) rows of a map as stored. Rows are asked for in rising order.
        dt: time between frames, s, or None.
        dt_source: where dt comes from.
        same_q: relative difference up to which two maps have the same q: rounding on a grid, more in a list with one q per map.
        baseline: what has to be added to every stored value for a baseline of 1.
        pixels: (M,) detector pixels of each map, or None.
        counts: (M,) or (M, n_frames) mean photons per pixel and frame, or None.
        weights: of M maps, how unequal pixels enter the noise, or None.
        notes: what the layout found, one sentence each.
        truth: if the file is a simulation.
    """

    path: str
    layout: str
    names: tuple[str, ...]
    q: np.ndarray
    phi: np.ndarray
    n_frames: int
    dtype: np.dtype
    read_rows: Callable[[int, int, int], np.ndarray]
    dt: float | None
    dt_source: str
    same_q: float = 1e-6
    baseline: float = 0.0
    pixels: np.ndarray | None = None
    counts: np.ndarray | None = None
    weights: PixelWeights | None = None
    notes: tuple[str, ...] = ()
    truth: Truth | None = None


def check_maps(path: str, names: Sequence[str], shapes: Sequence[tuple[int, ...]], dtypes: Iterable[np.dtype]) -> tuple[int, np.dtype]:
    """Number of frames and storage type of maps that must be real, square and of one size.

    Args:
        path: the file, for messages.
        names: (M,) name of each map, for messages.
        shapes: (M,) shape of each map.
        dtypes: (M,) stored type of each map.

    Raises:
        DataError: there is no map, or one is not a real square matrix of the size of the first.
    """
    if not names:
        raise DataError(f"{path}: there are no maps; accepted: at least one (frames, frames) array")
    types = [np.dtype(dtype) for dtype in dtypes]
    for name, shape, dtype in zip(names, shapes, types, strict=True):
        where = f"{path}, {name}"
        if len(shape) != 2 or shape[0] != shape[1]:
            raise DataError(f"{where}: shape {shape} is not a two-time map; accepted: square (frames, frames)")
        if dtype.kind not in "fiu":
            raise DataError(f"{where}: values of type {dtype} are not a two-time map; accepted: real numbers")
        if not 2 < shape[0] <= MOST_FRAMES:
            raise DataError(f"{where}: {shape[0]} frames; accepted: 3 to {MOST_FRAMES}")
        if shape != shapes[0]:
            raise DataError(f"{where}: shape {shape}, but {names[0]} has {shapes[0]}; accepted: one size for all maps of a file")
    single = all(dtype == np.float32 for dtype in types)
    return shapes[0][0], np.dtype(np.float32 if single else np.float64)


def natural_order(names: Iterable[str]) -> list[str]:
    """Names sorted so that numbers in them count: g2_2 before g2_10."""

    def key(name: str) -> list[tuple[int, int, str]]:
        return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]

    return sorted(names, key=key)


def ranges_text(numbers: Iterable[int]) -> str:
    """Sorted integers in words, runs joined: 3, 5-9."""
    values = sorted(numbers)
    cuts = [i for i in range(1, len(values)) if values[i] != values[i - 1] + 1]
    runs = [values[a:b] for a, b in zip([0, *cuts], [*cuts, len(values)], strict=True)]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs if run)


def values_text(values: Iterable[float]) -> str:
    """Numbers in words, at most 12 of them."""
    listed = [f"{value:.6g}" for value in values]
    return ", ".join(listed if len(listed) <= 12 else [*listed[:11], f"... ({len(listed)} in all)"])
