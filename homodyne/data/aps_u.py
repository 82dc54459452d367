"""Result files of APS 8-ID since 2024 (boost_corr, "nexus"): one half matrix per processed bin of a (q, phi) grid.

The k-th map belongs to bin label ``processed_bins[k]``; ``dynamic_index_mapping`` turns a label into a cell of the grid, because
bins without pixels have no label. dt = frame_time x stride_frame x avg_frame.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from ..errors import DataError
from . import hdf5, units
from .base import AbstractFile
from .contents import Contents, check_maps, ranges_text
from .pixel_weights import PixelWeights, pixel_weights

PATHS = {
    "maps": "/xpcs/twotime/correlation_map",
    "bins": "/xpcs/twotime/processed_bins",
    "stride": "/xpcs/twotime/config/stride_frame",
    "average": "/xpcs/twotime/config/avg_frame",
    "axis0": "/xpcs/qmap/dynamic_v_list_dim0",
    "axis1": "/xpcs/qmap/dynamic_v_list_dim1",
    "mapping": "/xpcs/qmap/dynamic_index_mapping",
    "grid": "/xpcs/qmap/dynamic_num_pts",
    "axis_names": "/xpcs/qmap/map_names",
    "axis_units": "/xpcs/qmap/map_units",
    "regions": "/xpcs/qmap/dynamic_roi_map",
    "mask": "/xpcs/qmap/mask",
    "scattering": "/xpcs/temporal_mean/scattering_2d",
    "smooth": "/xpcs/twotime/config/smooth",
    "static": "/xpcs/qmap/static_roi_map",
    "intensity": "/xpcs/spatial_mean/intensity_vs_time",
    "frame_time": "/entry/instrument/detector_1/frame_time",
}
MARKERS = (PATHS["maps"], PATHS["axis0"])


class ApsU(AbstractFile):
    """data=aps_u."""

    @contextmanager
    def open(self, path: Path) -> Iterator[Contents]:
        """What the file holds, while it is open."""
        with hdf5.opened(path) as file:
            yield _contents(file, str(path))


def _contents(file: h5py.File, path: str) -> Contents:
    maps = hdf5.members(file, PATHS["maps"])
    names = [str(item.name) for item in maps]
    n_frames, dtype = check_maps(path, names, [item.shape for item in maps], [item.dtype for item in maps])
    bins, notes = _bins(file, path, names)
    q, phi, more = _positions(file, path, bins)
    average = hdf5.positive_or(file, PATHS["average"], 1)
    pixels, counts, weights, even_more = _pixels_and_counts(file, bins, average, n_frames)
    dt, source = _dt(file, path, average)
    return Contents(
        path=path,
        layout="aps_u",
        names=tuple(names),
        q=q,
        phi=phi,
        n_frames=n_frames,
        dtype=dtype,
        read_rows=hdf5.row_reader(maps),
        dt=dt,
        dt_source=source,
        pixels=pixels,
        counts=counts,
        weights=weights,
        notes=(*notes, *more, *even_more),
        truth=hdf5.truth(file),
    )


def _bins(file: h5py.File, path: str, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """(M,) label of each map, counted from 1."""
    bins = hdf5.whole_numbers(file, PATHS["bins"])
    if len(bins) != len(names):
        raise DataError(
            f"{path}: {PATHS['bins']} lists {len(bins)} bins, but {PATHS['maps']} holds {len(names)} maps; accepted: one map per bin"
        )
    values, counts = np.unique(bins, return_counts=True)
    if np.any(counts > 1):
        raise DataError(f"{path}: {PATHS['bins']} lists bins {values[counts > 1].tolist()} more than once; accepted: each bin once")
    numbers = ["".join(c for c in name.rsplit("_", 1)[-1] if c.isdigit()) for name in names]
    if not all(numbers):
        return bins, []
    labels = np.array([int(number) for number in numbers])
    # Names count the processed bins. Where they can only be the labels themselves, they say more than the position.
    if set(labels) == set(bins.tolist()) and not np.array_equal(labels, np.arange(1, len(labels) + 1)) and np.any(labels != bins):
        return labels, [f"maps are named by their bin; {PATHS['bins']} lists the bins in another order, the names are used"]
    return bins, []


def _positions(file: h5py.File, path: str, bins: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """q (M,) in 1/Angstrom and phi (M,) in degrees of bins, from the grid."""
    axes = [hdf5.vector(file, PATHS["axis0"]), hdf5.vector(file, PATHS["axis1"])]
    shape = [len(axis) for axis in axes]
    notes = []
    if PATHS["grid"] in file:
        grid = hdf5.whole_numbers(file, PATHS["grid"]).tolist()
        if grid != shape[: len(grid)] or shape[len(grid) :] not in ([], [1]):
            raise DataError(f"{path}: {PATHS['grid']} is {grid}, but the axes have {shape} values; accepted: equal")
    if PATHS["mapping"] in file:
        mapping = hdf5.whole_numbers(file, PATHS["mapping"])
        if len(mapping) and not 0 <= mapping.min() <= mapping.max() < shape[0] * shape[1]:
            raise DataError(
                f"{path}: {PATHS['mapping']} holds {mapping.min()} to {mapping.max()}; accepted: 0 to {shape[0] * shape[1] - 1} "
                f"for a grid of {shape[0]} x {shape[1]}"
            )
    else:
        mapping = np.arange(shape[0] * shape[1])
        notes.append(f"no {PATHS['mapping']}: bins are taken to fill the {shape[0]} x {shape[1]} grid")
    outside = bins[(bins < 1) | (bins > len(mapping))]
    if len(outside):
        found = ranges_text(outside.tolist())
        raise DataError(f"{path}: {PATHS['bins']} holds {found}; accepted: 1 to {len(mapping)}, the bins of the grid")
    cell = np.unravel_index(mapping[bins - 1], shape)
    kinds, spellings, more = _axes(file, path)
    converted = {}
    for kind, values, spelling, key, index in zip(kinds, axes, spellings, ("axis0", "axis1"), cell, strict=True):
        convert = units.per_angstrom if kind == "q" else units.degrees
        converted[kind] = convert(values, spelling, f"{path}, {PATHS[key]}")[index]
    return converted["q"], converted["phi"], [*notes, *more]


def _axes(file: h5py.File, path: str) -> tuple[list[str], list[str | None], list[str]]:
    """What the two axes are, "q" and "phi" in some order; their units; notes."""
    notes = []
    if PATHS["axis_names"] in file:
        kinds = [name.strip().lower() for name in hdf5.texts(file[PATHS["axis_names"]][()])]
    else:
        kinds = ["q", "phi"]
        notes.append(f"no {PATHS['axis_names']}: the axes are taken as q, phi")
    if sorted(kinds) != ["phi", "q"]:
        raise DataError(f"{path}: the axes of the bins ({PATHS['axis_names']}) are {kinds}; accepted: q and phi, in either order")
    listed: list[str | None] = list(hdf5.texts(file[PATHS["axis_units"]][()])) if PATHS["axis_units"] in file else [None, None]
    if len(listed) != 2:
        raise DataError(f"{path}: {PATHS['axis_units']} holds {listed}; accepted: two units")
    own = [hdf5.unit(file[PATHS[key]]) for key in ("axis0", "axis1")]
    spellings = [first or second for first, second in zip(own, listed, strict=True)]
    if spellings[kinds.index("q")] is None:
        notes.append("the file gives no unit of q: taken as 1/Angstrom")
    return kinds, spellings, notes


def _dt(file: h5py.File, path: str, average: float) -> tuple[float | None, str]:
    if PATHS["frame_time"] not in file:
        return None, "nothing"
    unit = hdf5.unit(file[PATHS["frame_time"]])
    frame_time = units.seconds(hdf5.positive(file, PATHS["frame_time"]), unit, f"{path}, {PATHS['frame_time']}")
    stride = hdf5.positive_or(file, PATHS["stride"], 1)
    return frame_time * stride * average, f"frame_time {frame_time:g} s x stride_frame {stride:g} x avg_frame {average:g}"


def _pixels_and_counts(
    file: h5py.File, bins: np.ndarray, average: float, n_frames: int
) -> tuple[np.ndarray | None, np.ndarray | None, PixelWeights | None, list[str]]:
    """Pixels (M,) and mean photons per pixel and frame of the maps, (M,) or (M, n_frames), and their weights, where the file says."""
    if PATHS["regions"] not in file:
        return None, None, None, []
    regions = np.asarray(hdf5.dataset(file, PATHS["regions"])[()]).astype(np.int64)
    if PATHS["mask"] in file:
        mask = np.asarray(hdf5.dataset(file, PATHS["mask"])[()])
        if mask.shape != regions.shape:
            return None, None, None, [f"{PATHS['mask']} has shape {mask.shape}, the regions {regions.shape}: pixels are not counted"]
        regions = np.where(mask > 0, regions, 0)
    pixels = hdf5.pixels_of_regions(regions, bins)
    if PATHS["scattering"] not in file:
        return pixels, None, None, []
    scattering = np.squeeze(np.asarray(hdf5.dataset(file, PATHS["scattering"])[()], dtype=np.float64))
    if scattering.shape != regions.shape:
        return (
            pixels,
            None,
            None,
            [f"{PATHS['scattering']} has shape {scattering.shape}, the regions {regions.shape}: photons are not counted"],
        )
    sums = np.bincount(regions.ravel(), weights=np.nan_to_num(scattering).ravel(), minlength=int(bins.max()) + 1)[bins]
    # Frames that are averaged are averaged here too, per detector frame; a frame of the map has the photons of `average` of them.
    counts = sums / pixels * average
    course, notes = _course(file, n_frames)
    weights, more = _weights(file, regions, bins, scattering * average)
    return pixels, counts if course is None else counts[:, None] * course, weights, [*notes, *more]


def _weights(file: h5py.File, regions: np.ndarray, bins: np.ndarray, scattering: np.ndarray) -> tuple[PixelWeights | None, list[str]]:
    """Of the pixels of each map, by the means that its correlator divided by: ``smooth`` is sqmap (static bins) or dqmap (regions)."""
    if PATHS["smooth"] not in file:
        return None, []
    smooth = hdf5.texts(hdf5.dataset(file, PATHS["smooth"])[()])[0].strip()
    if smooth not in ("sqmap", "dqmap"):
        return None, [f"{PATHS['smooth']} is {smooth!r}, not sqmap or dqmap: pixels of a region are taken as alike"]
    groups = regions
    if smooth == "sqmap":
        if PATHS["static"] not in file:
            return None, [f"no {PATHS['static']}: pixels of a region are taken as alike"]
        groups = np.asarray(hdf5.dataset(file, PATHS["static"])[()]).astype(np.int64)
        if groups.shape != regions.shape:
            return None, [f"{PATHS['static']} has shape {groups.shape}, the regions {regions.shape}: pixels are taken as alike"]
    order = np.argsort(regions, axis=None, kind="stable")
    ends = np.searchsorted(regions.ravel()[order], [bins, bins + 1])
    inside = [order[first:last] for first, last in ends.T]
    places = [np.stack(np.unravel_index(one, regions.shape), axis=1) for one in inside]
    flat = np.nan_to_num(scattering).ravel()
    return pixel_weights([flat[one] for one in inside], places, [groups.ravel()[one] for one in inside]), []


def _course(file: h5py.File, n_frames: int) -> tuple[np.ndarray | None, list[str]]:
    """(n_frames,) intensity of each frame over its mean, over the pixels of all regions together, where the file says."""
    if PATHS["intensity"] not in file:
        return None, []
    found = np.asarray(hdf5.dataset(file, PATHS["intensity"])[()], dtype=np.float64)
    # Two rows: number of the frame, intensity.
    if found.shape != (2, n_frames):
        return None, [f"{PATHS['intensity']} has shape {found.shape}, not (2, {n_frames}): counts are means over all frames"]
    intensity = found[1]
    if not np.all(np.isfinite(intensity)) or np.any(intensity < 0) or not np.any(intensity > 0):
        return None, [f"{PATHS['intensity']} holds values that are no intensities: counts are means over all frames"]
    return intensity / intensity.mean(), [f"counts of each frame: mean of the region x course of {PATHS['intensity']}"]
