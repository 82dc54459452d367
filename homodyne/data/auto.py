"""Recognise the layout of a file by what is in it, never by its name or ending."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py

from ..errors import ConfigError, DataError
from . import aps_legacy, aps_u, hdf5, npz, nxxpcs
from .aps_legacy import ApsLegacy
from .aps_u import ApsU
from .array import NPY_START, Array
from .base import AbstractFile
from .contents import Contents
from .npz import Npz
from .nxxpcs import NxXpcs

# In the order in which they are looked for; a file that fits two is the first, and says so.
_HDF5 = {"aps_u": (ApsU, aps_u.MARKERS), "nxxpcs": (NxXpcs, nxxpcs.MARKERS), "aps_legacy": (ApsLegacy, aps_legacy.MARKERS)}


class Auto(AbstractFile):
    """data=auto.

    Attributes:
        phi_list: azimuth of each map, degrees, if the file turns out to be a bare array; see ``array.py``.
    """

    phi_list: list[float] | None

    @contextmanager
    def open(self, path: Path) -> Iterator[Contents]:
        """What the file holds, while it is open."""
        layout, note = _recognise(path)
        if layout is not Array and self.phi_list is not None:
            raise ConfigError(f"data.phi_list is set, but {path} holds its own angles ({note}); accepted: null, or data=array")
        settings = {name: getattr(self, name) for name in layout.model_fields}
        with layout(**settings).open(path) as contents:
            yield replace(contents, notes=(note, *contents.notes))


def _recognise(path: Path) -> tuple[type[AbstractFile], str]:
    """The layout of a file, and why."""
    if h5py.is_hdf5(path):
        return _recognise_hdf5(path)
    if zipfile.is_zipfile(path):
        with npz.archive(path) as file:
            names = npz.array_names(file)
        if npz.NAMES["maps"] in names:
            return Npz, f"layout npz: the file holds {npz.NAMES['maps']}"
        if len(names) == 1:
            return Array, f"layout array: an .npz file with one array, {names[0]}"
        raise DataError(f"{path}: .npz with the arrays {names}; accepted: {', '.join(npz.NAMES.values())}, or one array")
    with path.open("rb") as stream:
        start = stream.read(4096)
    if start.startswith(NPY_START):
        return Array, "layout array: an .npy file"
    if _is_table(start):
        return Array, "layout array: a text table"
    raise DataError(
        f"{path}: is not HDF5, .npz, .npy or a text table of numbers ({len(start)} bytes looked at), or is truncated; "
        "accepted: one of these, see docs/data.md"
    )


def _recognise_hdf5(path: Path) -> tuple[type[AbstractFile], str]:
    with hdf5.opened(path) as file:
        found = [name for name, (_, markers) in _HDF5.items() if all(marker in file for marker in markers)]
        if not found:
            looked_for = "; ".join(f"{name}: {' and '.join(markers)}" for name, (_, markers) in _HDF5.items())
            groups = ", ".join(f"/{name}" for name in file) or "nothing"
            raise DataError(f"{path}: HDF5 of an unknown layout; it holds {groups}; looked for {looked_for}")
    layout, markers = _HDF5[found[0]]
    also = f" (also fits {', '.join(found[1:])})" if found[1:] else ""
    return layout, f"layout {found[0]}: the file holds {' and '.join(markers)}{also}"


def _is_table(start: bytes) -> bool:
    """Whether the first line that is no comment is numbers."""
    lines = [line for line in start.split(b"\n") if line.strip() and not line.lstrip().startswith(b"#")]
    if not lines:
        return False
    # The last word may be cut where the bytes looked at end.
    words = lines[0].split()[: -1 if len(lines) == 1 else None] or lines[0].split()
    try:
        [float(word) for word in words]
    except ValueError:
        return False
    return True
