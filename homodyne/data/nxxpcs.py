"""NXxpcs files (contributed NeXus definition): how the maps are stored is said by four attributes, which are obeyed.

Map k belongs to region k + 1 of the detector, whose q and phi are entry k of two lists.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from ..errors import DataError
from . import hdf5, units
from .base import AbstractFile
from .contents import Contents, check_maps

PATHS = {
    "maps": "/entry/twotime/two_time_corr_func",
    "q": "/entry/instrument/masks/dynamic_q_list",
    "phi": "/entry/instrument/masks/dynamic_phi_list",
    "regions": "/entry/instrument/masks/dynamic_roi_map",
    "instrument": "/entry/instrument",
}
MARKERS = (PATHS["maps"],)

ATTRIBUTES = {
    "storage_mode": ("one_array_q_first", "one_array_q_last", "data_exchange_keys"),
    "baseline_reference": ("0", "1"),
    "time_origin_location": ("upper_left", "lower_left"),
    "populated_elements": ("all", "upper_half", "lower_half"),
}


class NxXpcs(AbstractFile):
    """data=nxxpcs."""

    @contextmanager
    def open(self, path: Path) -> Iterator[Contents]:
        """What the file holds, while it is open."""
        with hdf5.opened(path) as file:
            yield _contents(file, str(path))


def _contents(file: h5py.File, path: str) -> Contents:
    if PATHS["maps"] not in file:
        raise DataError(f"{path}: {PATHS['maps']} is missing; accepted: NXxpcs with two-time maps")
    said = {name: _attribute(file[PATHS["maps"]], name, path) for name in ATTRIBUTES}
    names, shapes, dtypes, read_rows = _maps(file, path, said["storage_mode"])
    n_frames, dtype = check_maps(path, names, shapes, dtypes)
    q, phi = hdf5.vector(file, PATHS["q"]), hdf5.vector(file, PATHS["phi"])
    if not len(q) == len(phi) == len(names):
        raise DataError(
            f"{path}: {PATHS['maps']} holds {len(names)} maps, {PATHS['q']} {len(q)} and {PATHS['phi']} {len(phi)} values; "
            f"accepted: equal numbers (storage_mode is {said['storage_mode']})"
        )
    dt, source = _dt(file, path)
    pixels = None
    if PATHS["regions"] in file:
        pixels = hdf5.pixels_of_regions(np.asarray(file[PATHS["regions"]][()]).astype(np.int64), np.arange(1, len(names) + 1))
    notes = [f"{name}: {value}" for name, value in said.items()]
    return Contents(
        path=path,
        layout="nxxpcs",
        names=tuple(names),
        q=units.per_angstrom(q, hdf5.unit(file[PATHS["q"]]), f"{path}, {PATHS['q']}"),
        phi=_angles(phi, hdf5.unit(file[PATHS["phi"]]), path),
        n_frames=n_frames,
        dtype=dtype,
        read_rows=_flipped(read_rows, n_frames) if said["time_origin_location"] == "lower_left" else read_rows,
        dt=dt,
        dt_source=source,
        same_q=1e-3,
        baseline=1.0 - float(said["baseline_reference"]),
        pixels=pixels,
        notes=("; ".join(notes),),
        truth=hdf5.truth(file),
    )


def _attribute(found: h5py.HLObject, name: str, path: str) -> str:
    accepted = ATTRIBUTES[name]
    value = hdf5.texts(found.attrs[name])[0] if name in found.attrs else None
    if value not in accepted:
        what = "is missing" if value is None else f"is {value!r}"
        raise DataError(f"{path}: attribute {name} of {found.name} {what}; accepted: {', '.join(accepted)}")
    return value


def _maps(
    file: h5py.File, path: str, mode: str
) -> tuple[list[str], list[tuple[int, ...]], list[np.dtype], Callable[[int, int, int], np.ndarray]]:
    """Names, shapes, types and row reader of the maps."""
    if mode == "data_exchange_keys":
        maps = hdf5.members(file, PATHS["maps"])
        return [str(item.name) for item in maps], [item.shape for item in maps], [item.dtype for item in maps], hdf5.row_reader(maps)
    stack = hdf5.dataset(file, PATHS["maps"])
    if stack.ndim == 2:
        return [PATHS["maps"]], [stack.shape], [stack.dtype], hdf5.row_reader([stack])
    if stack.ndim != 3:
        raise DataError(f"{path}, {PATHS['maps']}: shape {stack.shape}; accepted: three axes for storage_mode {mode}")
    last = mode == "one_array_q_last"
    count = stack.shape[2] if last else stack.shape[0]
    shape = stack.shape[:2] if last else stack.shape[1:]

    def read(index: int, start: int, stop: int) -> np.ndarray:
        return stack[start:stop, :, index] if last else stack[index, start:stop]

    return [f"{PATHS['maps']}[{k}]" for k in range(count)], [shape] * count, [stack.dtype] * count, read


def _flipped(read_rows: Callable[[int, int, int], np.ndarray], n: int) -> Callable[[int, int, int], np.ndarray]:
    """Rows of maps whose first stored row is the last frame."""

    def read(index: int, start: int, stop: int) -> np.ndarray:
        return read_rows(index, n - stop, n - start)[::-1]

    return read


def _angles(phi: np.ndarray, unit: str | None, path: str) -> np.ndarray:
    # The definition declares the list of angles "per length", a slip that writers copy; it cannot be anything but an angle.
    if unit is not None and ("1/" in unit or "-1" in unit or "\u207b" in unit or "length" in unit.lower()):
        unit = None
    return units.degrees(phi, unit, f"{path}, {PATHS['phi']}")


def _dt(file: h5py.File, path: str) -> tuple[float | None, str]:
    """Frame time of the detector: the group of class NXdetector, whatever its name."""
    if PATHS["instrument"] not in file:
        return None, "nothing"
    for group in file[PATHS["instrument"]].values():
        is_detector = "NX_class" in group.attrs and hdf5.texts(group.attrs["NX_class"])[0] == "NXdetector"
        if is_detector and "frame_time" in group:
            where = f"{group.name}/frame_time"
            return units.seconds(hdf5.positive(file, where), hdf5.unit(file[where]), f"{path}, {where}"), where
    return None, "nothing"
