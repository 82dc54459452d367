"""Result files of APS 8-ID before 2024 ("data exchange"): one half matrix per bin, one q and one phi per bin in two lists.

The k-th map, by natural order of the names, belongs to the k-th entry of both lists.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from ..errors import DataError
from . import hdf5, units
from .base import AbstractFile
from .contents import Contents, check_maps

PATHS = {
    "maps": "/exchange/C2T_all",
    "q": "/xpcs/dqlist",
    "phi": "/xpcs/dphilist",
    "stride": "/xpcs/stride_frames",
    "average": "/xpcs/avg_frames",
    "period": "/measurement/instrument/detector/exposure_period",
}
MARKERS = (PATHS["maps"], PATHS["q"])


class ApsLegacy(AbstractFile):
    """data=aps_legacy."""

    @contextmanager
    def open(self, path: Path) -> Iterator[Contents]:
        """What the file holds, while it is open."""
        with hdf5.opened(path) as file:
            yield _contents(file, str(path))


def _contents(file: h5py.File, path: str) -> Contents:
    maps = hdf5.members(file, PATHS["maps"])
    names = [str(item.name) for item in maps]
    n_frames, dtype = check_maps(path, names, [item.shape for item in maps], [item.dtype for item in maps])
    q, phi = hdf5.vector(file, PATHS["q"]), hdf5.vector(file, PATHS["phi"])
    if not len(q) == len(phi) == len(names):
        raise DataError(
            f"{path}: {PATHS['maps']} holds {len(names)} maps, {PATHS['q']} {len(q)} and {PATHS['phi']} {len(phi)} values; "
            "accepted: equal numbers"
        )
    dt, source = _dt(file, path)
    return Contents(
        path=path,
        layout="aps_legacy",
        names=tuple(names),
        q=units.per_angstrom(q, hdf5.unit(file[PATHS["q"]]), f"{path}, {PATHS['q']}"),
        phi=units.degrees(phi, hdf5.unit(file[PATHS["phi"]]), f"{path}, {PATHS['phi']}"),
        n_frames=n_frames,
        dtype=dtype,
        read_rows=hdf5.row_reader(maps),
        dt=dt,
        dt_source=source,
        same_q=1e-3,
        truth=hdf5.truth(file),
    )


def _dt(file: h5py.File, path: str) -> tuple[float | None, str]:
    if PATHS["period"] not in file:
        return None, "nothing"
    unit = hdf5.unit(file[PATHS["period"]])
    period = units.seconds(hdf5.positive(file, PATHS["period"]), unit, f"{path}, {PATHS['period']}")
    stride, average = hdf5.positive_or(file, PATHS["stride"], 1), hdf5.positive_or(file, PATHS["average"], 1)
    return period * stride * average, f"exposure_period {period:g} s x stride_frames {stride:g} x avg_frames {average:g}"
