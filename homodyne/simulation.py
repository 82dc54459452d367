"""Two-time maps from known parameters, as a Dataset and as a file in any layout that can be read.

    c2 = physics.two_time(parameters, phi, t = dt (1 ... n)) + noise,      noise independent, Gaussian, symmetric

A written file has one frame more than the Dataset: it starts at t = 0 with a filler that every reader drops by default, so that
the frames that are used lie at dt, 2 dt, ... as in the Dataset. The filler repeats the first used frame one step earlier.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike

from .data import aps_legacy, aps_u, npz, nxxpcs
from .data.dataset import Dataset, Provenance, Truth
from .data.hdf5 import TRUTH
from .physics import two_time
from .tiles import TILE, pack, tile_count


def simulate(
    parameters: Mapping[str, float],
    phi: ArrayLike,
    *,
    q: float,
    gap: float,
    dt: float,
    frames: int,
    contrast: ArrayLike = 1.0,
    offset: ArrayLike = 1.0,
    sigma: ArrayLike = 0.0,
    mode: str = "laminar_flow",
    shear_kernel: str = "gap_average",
    seed: int = 0,
    diagonal_excess: float = 0.0,
) -> Dataset:
    """Maps of known parameters, with independent Gaussian noise.

    Args:
        parameters: by name, exactly those of the mode; see ``physics.two_time``.
        phi: (P,) degrees, each in (-180, 180].
        q, gap: wavevector, 1/Angstrom, and shear gap, Angstrom.
        dt, frames: time between frames, s, and their number; they are at dt, 2 dt, ..., frames dt.
        contrast, offset, sigma: scalar or (P,); sigma is the standard deviation of the noise of one value.
        mode, shear_kernel: ``laminar_flow`` or ``static``; ``gap_average`` or ``homodyne_v2``.
        seed: of the noise; the noise of an angle does not depend on the angles after it.
        diagonal_excess: added to the diagonal, where shot noise is in measured maps.

    Returns:
        A float64 Dataset whose ``truth`` holds ``parameters``.

    Raises:
        ValueError: a name is missing or unknown, or an argument is out of range.
    """
    angles = np.atleast_1d(np.asarray(phi, dtype=np.float64))
    per_angle = [np.broadcast_to(np.asarray(value, dtype=np.float64), angles.shape) for value in (contrast, offset, sigma)]
    t = dt * np.arange(1, frames + 1)
    tiles, diagonal = np.empty((len(angles), tile_count(frames), TILE, TILE)), np.empty((len(angles), frames))
    generators = np.random.default_rng(seed).spawn(len(angles))
    for k, (angle, scale, base, noise) in enumerate(zip(angles, *per_angle, strict=True)):
        dense = two_time(parameters, angle, t, q=q, gap=gap, mode=mode, shear_kernel=shear_kernel, contrast=scale, offset=base)[0]
        # Noise need not be made symmetric: only the upper triangle and the diagonal are used.
        dense = dense + noise * generators[k].standard_normal(dense.shape) if noise > 0 else dense
        diagonal[k] = np.diagonal(dense) + diagonal_excess
        tiles[k] = pack(dense)
    unknown = np.full(len(angles), np.nan)
    note = f"simulated: {mode}, {shear_kernel}, seed {seed}, sigma {np.max(per_angle[2]):g}"
    return Dataset(
        tiles=tiles,
        phi=angles,
        q=float(q),
        gap=float(gap),
        t=t,
        frame=np.arange(2, frames + 2),
        diagonal=diagonal,
        pixels=unknown,
        counts=unknown,
        provenance=Provenance("simulated", "simulated", (note,)),
        truth=Truth({name: float(value) for name, value in parameters.items()}, "none" if mode == "static" else shear_kernel),
    )


def write(dataset: Dataset, path: str | os.PathLike[str], layout: str, *, details: Mapping[str, object] | None = None) -> None:
    """Write a Dataset so that reading it back with the default settings gives the same Dataset (float32 in aps_u).

    The file appears complete or not at all. A frame that is masked everywhere stays so; other masked values are NaN in the file.
    ``array`` holds the maps only: q, dt, phi and the truth do not go into it.

    Args:
        dataset: maps with ``t`` = dt (1 ... n), as ``simulate`` and the default ``data.time_origin`` give.
        path: the file to write.
        layout: aps_u, aps_legacy, nxxpcs, npz or array.
        details: what to store beside the parameters, e.g. contrast, offset and sigma.

    Raises:
        ValueError: the layout is unknown, or the first frame is not at dt.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; accepted: {', '.join(LAYOUTS)}")
    if abs(dataset.t[0] - dataset.dt) > 1e-6 * dataset.dt:
        raise ValueError(f"the first frame is at {dataset.t[0]:g} s; files are written for a first frame at dt = {dataset.dt:g} s")
    truth = None if dataset.truth is None else json.dumps({**(details or {}), **asdict(dataset.truth)})
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        LAYOUTS[layout](dataset, part, truth)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _dense_maps(dataset: Dataset) -> Iterator[np.ndarray]:
    """Each map as (n + 1, n + 1) with its diagonal and the filler before its first frame."""
    for index, diagonal in enumerate(dataset.diagonal):
        dense = dataset.map(index)
        np.fill_diagonal(dense, diagonal)
        full = np.empty((dataset.n + 1, dataset.n + 1), dtype=dense.dtype)
        full[1:, 1:] = dense
        full[0, 0] = diagonal[0]
        full[0, 1:-1] = full[1:-1, 0] = dense[0, 1:]
        full[0, -1] = full[-1, 0] = dense[0, -1]
        yield full


def _set(file: h5py.File, path: str, value: object, **attributes: object) -> None:
    file[path] = value
    file[path].attrs.update(attributes)


def _set_truth(file: h5py.File, truth: str | None) -> None:
    if truth is not None:
        file.create_group(TRUTH).attrs[TRUTH] = truth


def _write_aps_u(dataset: Dataset, path: Path, truth: str | None) -> None:
    paths = aps_u.PATHS
    count = len(dataset.phi)
    with h5py.File(path, "w") as file:
        for k, dense in enumerate(_dense_maps(dataset), start=1):
            file.create_dataset(f"{paths['maps']}/c2_{k:05d}", data=np.triu(dense).astype(np.float32))
        _set(file, paths["bins"], np.arange(1, count + 1))
        _set(file, paths["stride"], 1)
        _set(file, paths["average"], 1)
        _set(file, paths["frame_time"], np.array([[dataset.t[0]]]))
        _set(file, paths["axis0"], np.array([dataset.q]), unit="Å⁻¹")
        _set(file, paths["axis1"], dataset.phi, unit="deg")
        _set(file, paths["axis_names"], [b"q", b"phi"])
        _set(file, paths["axis_units"], ["Å⁻¹".encode(), b"deg"])
        _set(file, paths["mapping"], np.arange(count))
        _set(file, paths["grid"], np.array([1, count]))
        _set_truth(file, truth)


def _write_aps_legacy(dataset: Dataset, path: Path, truth: str | None) -> None:
    paths = aps_legacy.PATHS
    with h5py.File(path, "w") as file:
        for k, dense in enumerate(_dense_maps(dataset), start=1):
            file.create_dataset(f"{paths['maps']}/g2_{k:05d}", data=np.triu(dense))
        _set(file, paths["q"], np.full((1, len(dataset.phi)), dataset.q))
        _set(file, paths["phi"], dataset.phi[None, :])
        _set(file, paths["period"], np.array([[dataset.t[0]]]))
        _set_truth(file, truth)


def _write_nxxpcs(dataset: Dataset, path: Path, truth: str | None) -> None:
    paths = nxxpcs.PATHS
    n = dataset.n + 1
    with h5py.File(path, "w") as file:
        stack = file.create_dataset(paths["maps"], shape=(len(dataset.phi), n, n), dtype=dataset.tiles.dtype)
        for k, dense in enumerate(_dense_maps(dataset)):
            stack[k] = dense
        stack.attrs.update(
            storage_mode="one_array_q_first", baseline_reference=1, time_origin_location="upper_left", populated_elements="all"
        )
        _set(file, "/entry/definition", "NXxpcs")
        _set(file, paths["q"], np.full(len(dataset.phi), dataset.q), units="1/angstrom")
        _set(file, paths["phi"], dataset.phi, units="deg")
        _set(file, f"{paths['instrument']}/detector/frame_time", dataset.t[0], units="s")
        file[f"{paths['instrument']}/detector"].attrs["NX_class"] = "NXdetector"
        _set_truth(file, truth)


def _stacked(dataset: Dataset) -> np.ndarray:
    stack = np.empty((len(dataset.phi), dataset.n + 1, dataset.n + 1), dtype=dataset.tiles.dtype)
    for k, dense in enumerate(_dense_maps(dataset)):
        stack[k] = dense
    return stack


def _write_npz(dataset: Dataset, path: Path, truth: str | None) -> None:
    t = dataset.t[0] * np.arange(dataset.n + 1)
    named: dict[str, Any] = {
        npz.NAMES["maps"]: _stacked(dataset),
        npz.NAMES["t1"]: t,
        npz.NAMES["t2"]: t,
        npz.NAMES["phi"]: dataset.phi,
        npz.NAMES["q"]: np.full(len(dataset.phi), dataset.q),
    }
    if truth is not None:
        named[TRUTH] = np.array(truth)
    # An open file, because savez appends an ending to a name.
    with path.open("wb") as stream:
        np.savez(stream, **named)


def _write_array(dataset: Dataset, path: Path, truth: str | None) -> None:
    with path.open("wb") as stream:
        np.save(stream, _stacked(dataset))


LAYOUTS: dict[str, Callable[[Dataset, Path, str | None], None]] = {
    "aps_u": _write_aps_u,
    "aps_legacy": _write_aps_legacy,
    "nxxpcs": _write_nxxpcs,
    "npz": _write_npz,
    "array": _write_array,
}
"""How each layout is written."""

__all__: Sequence[str] = ("LAYOUTS", "simulate", "write")
