"""Small files for the tests: every map is known in closed form, so that each number read can be checked."""

from pathlib import Path

import h5py
import numpy as np

from homodyne.config import option
from homodyne.data import Dataset

N = 70
"""Frames: more than one tile, and not a multiple of it."""


def load(path: Path, layout: str = "auto", **settings: object) -> Dataset:
    """Read a file with the defaults of conf/data and these settings."""
    return option("data", layout, path=str(path), **settings).load()


def inspect(path: Path, layout: str = "auto", **settings: object) -> str:
    """What there is in a file."""
    return option("data", layout, path=str(path), **settings).inspect()


def full_map(k: float, n: int = N) -> np.ndarray:
    """Symmetric map number k: no two maps, and no two pairs of frames of a map, have the same value."""
    i, j = np.indices((n, n))
    return 1 + 0.3 * np.exp(-0.02 * k * abs(i - j)) + 0.001 * (i + j) / n + 0.5 * (i == j)


def used(k: float, n: int = N) -> np.ndarray:
    """What is read of map k by default: without the first frame, NaN on the diagonal."""
    dense = full_map(k, n)[1:, 1:].copy()
    np.fill_diagonal(dense, np.nan)
    return dense


def aps_u(path: Path, maps: list[np.ndarray], **changes: object) -> Path:
    """A boost_corr file with one q and one phi per map; a change replaces a dataset (by path) or, if None, removes it."""
    count = len(maps)
    content: dict[str, object] = {
        "/xpcs/twotime/processed_bins": np.arange(1, count + 1),
        "/xpcs/qmap/dynamic_v_list_dim0": np.array([0.005]),
        "/xpcs/qmap/dynamic_v_list_dim1": 60.0 * np.arange(count),
        "/xpcs/qmap/dynamic_index_mapping": np.arange(count),
        "/xpcs/qmap/dynamic_num_pts": np.array([1, count]),
        "/xpcs/qmap/map_names": [b"q", b"phi"],
        "/xpcs/twotime/config/stride_frame": 1,
        "/xpcs/twotime/config/avg_frame": 1,
        "/entry/instrument/detector_1/frame_time": np.array([[0.1]]),
    }
    content |= {f"/xpcs/twotime/correlation_map/c2_{k:05d}": dense for k, dense in enumerate(maps, start=1)}
    return hdf5(path, content, changes)


def legacy(path: Path, maps: dict[str, np.ndarray], q: list[float], phi: list[float], **changes: object) -> Path:
    """A data-exchange file."""
    content: dict[str, object] = {f"/exchange/C2T_all/{name}": dense for name, dense in maps.items()}
    content |= {
        "/xpcs/dqlist": np.array([q]),
        "/xpcs/dphilist": np.array([phi]),
        "/measurement/instrument/detector/exposure_period": np.array([[0.1]]),
    }
    return hdf5(path, content, changes)


def hdf5(path: Path, content: dict[str, object], changes: dict[str, object]) -> Path:
    """A file of datasets by path; the last part of a path is enough to name a change."""
    for key, value in changes.items():
        full = next((name for name in content if name.endswith("/" + key)), key)
        content[full] = value
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            if value is not None:
                file[name] = value
    return path
