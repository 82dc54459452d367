"""Two-time maps from known parameters, as a Dataset and as a file in any layout that can be read.

    gaussian   c2 = physics.two_time(parameters, phi, t = dt (1 ... n)) + noise,      noise independent, Gaussian, symmetric
    speckle    c2 = what a correlator makes of the photons that a sample scatters onto N pixels (``speckle.py``)

A written file has one frame more than the Dataset: it starts at t = 0 with a filler that every reader drops by default, so that
the frames that are used lie at dt, 2 dt, ... as in the Dataset. The filler repeats the first used frame one step earlier.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
from numpy.typing import ArrayLike

from .data import aps_legacy, aps_u, npz, nxxpcs
from .data.contents import ranges_text
from .data.dataset import Dataset, Provenance, Truth
from .data.hdf5 import TRUTH
from .data.pixel_weights import PixelWeights, pixel_weights
from .physics import SHEAR, SHEAR_KERNELS, TRANSPORT, cumulative, phase_per_strain, power_law, two_time
from .speckle import BEAM_OFF, FieldSource, Recording, Speckle, beam_intensity, flow_fields, record
from .tiles import TILE, pack, tile_count

NOISES = ("gaussian", "speckle")


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
    noise: str = "gaussian",
    threads: int | None = None,
    **speckle: Any,
) -> Dataset:
    """Maps of known parameters, with independent Gaussian noise or of real speckle.

    Args:
        parameters: by name, exactly those of the mode; see ``physics.two_time``.
        phi: (P,) degrees, each in (-180, 180].
        q, gap: wavevector, 1/Angstrom, and shear gap, Angstrom.
        dt, frames: time between frames, s, and their number; they are at dt, 2 dt, ..., frames dt.
        contrast: scalar or (P,).
        offset, sigma: scalar or (P,), Gaussian noise only; sigma is the standard deviation of the noise of one value.
        mode, shear_kernel: ``laminar_flow`` or ``static``; ``gap_average`` or ``homodyne_v2``.
        seed: of the noise; the noise of an angle does not depend on the angles after it.
        diagonal_excess: Gaussian noise only: added to the diagonal, where shot noise is in measured maps.
        noise: ``gaussian`` or ``speckle``.
        threads: angles computed side by side with speckle; None: one per core. Changes no number.
        **speckle: with ``noise="speckle"``: the fields of ``speckle.Speckle``, e.g. pixels, photons, slope, static_bins.

    Returns:
        A float64 Dataset whose ``truth`` holds ``parameters``; with speckle also ``pixels`` and the ``counts`` of each frame.

    Raises:
        ValueError: a name is missing or unknown, or an argument is out of range or belongs to the other noise.
    """
    if noise not in NOISES:
        raise ValueError(f"noise is {noise!r}; accepted: {', '.join(NOISES)}")
    angles = np.atleast_1d(np.asarray(phi, dtype=np.float64))
    scale, base, spread = (np.broadcast_to(np.asarray(value, dtype=np.float64), angles.shape) for value in (contrast, offset, sigma))
    kernel = "none" if mode == "static" else shear_kernel
    sample = {"q": q, "gap": gap, "mode": mode, "shear_kernel": shear_kernel}
    t = dt * np.arange(1, frames + 1)
    note = f"simulated: {mode}, {shear_kernel}, seed {seed}"
    if noise == "gaussian":
        if speckle:
            raise ValueError(f"{', '.join(speckle)}: for noise='speckle' only, and noise is 'gaussian'")
        maps = _gaussian(parameters, angles, t, np.array([scale, base, spread]), seed, diagonal_excess, sample)
        pixels, notes, detector = np.full(len(angles), np.nan), [f"{note}, sigma {np.max(spread):g}"], Speckle()
    else:
        detector = _detector(speckle)
        check_speckle(scale, base, kernel, frames, detector)
        if np.any(spread != 0) or diagonal_excess:
            raise ValueError("sigma and diagonal_excess are for noise='gaussian' only: speckle and photons make their own noise")
        sources = _field_sources(parameters, angles, t, detector.layers, sample)
        maps = record(sources, [float(value) for value in scale], detector, seed=seed, threads=threads)
        pixels, notes = np.full(len(angles), float(detector.pixels)), _speckle_notes(note, mode, detector)
    tiles, diagonal = np.empty((len(angles), tile_count(frames), TILE, TILE)), np.empty((len(angles), frames))
    counts, scattering = np.empty((len(angles), frames)), [np.zeros(0)] * len(angles)
    for k, made in enumerate(maps):
        tiles[k], diagonal[k], counts[k], scattering[k] = pack(made.c2), np.diagonal(made.c2), made.counts, made.scattering
    return Dataset(
        tiles=tiles,
        phi=angles,
        q=float(q),
        gap=float(gap),
        t=t,
        frame=np.arange(2, frames + 2),
        diagonal=diagonal,
        pixels=pixels,
        counts=counts if noise == "speckle" else pixels,
        provenance=Provenance("simulated", "simulated", tuple(notes)),
        truth=Truth({name: float(value) for name, value in parameters.items()}, kernel),
        weights=_weights(scattering, detector),
    )


def _weights(scattering: list[np.ndarray], detector: Speckle) -> PixelWeights | None:
    """As a reader of the mean of each pixel finds them; None where pixels are alike."""
    if not detector.slope and detector.static_bins == 1:
        return None
    places = np.arange(detector.pixels)[:, None]
    return pixel_weights(scattering, [places] * len(scattering), [detector.bins] * len(scattering))


def _gaussian(
    parameters: Mapping[str, float],
    phi: np.ndarray,
    t: np.ndarray,
    scaling: np.ndarray,
    seed: int,
    diagonal_excess: float,
    sample: dict[str, Any],
) -> Iterator[Recording]:
    """The model with noise; scaling (3, P) is contrast, offset and sigma."""
    generators = np.random.default_rng(seed).spawn(len(phi))
    for angle, (scale, base, spread), generator in zip(phi, scaling.T, generators, strict=True):
        dense = two_time(parameters, angle, t, contrast=scale, offset=base, **sample)[0]
        # Noise need not be made symmetric: only the upper triangle and the diagonal are used.
        dense = dense + spread * generator.standard_normal(dense.shape) if spread > 0 else dense
        dense[np.diag_indices_from(dense)] += diagonal_excess
        yield Recording(dense, np.full(len(t), np.nan), np.zeros(0))


def _detector(speckle: dict[str, Any]) -> Speckle:
    accepted = [setting.name for setting in fields(Speckle)]
    unknown = [name for name in speckle if name not in accepted]
    if unknown:
        raise ValueError(f"unknown argument {', '.join(unknown)}; accepted with noise='speckle': {', '.join(accepted)}")
    return Speckle(**speckle)


def check_speckle(contrast: np.ndarray, offset: np.ndarray, kernel: str, frames: int, speckle: Speckle) -> None:
    """Refuse what no speckle has.

    Raises:
        ValueError: contrast, offset, shear kernel or a bad frame is out of range.
    """
    beam_intensity(frames, speckle)
    if np.any((contrast <= 0) | (contrast > 1)):
        raise ValueError(f"contrast is {contrast}; accepted with noise='speckle': above 0 and at most 1")
    if np.any(offset != 1):
        raise ValueError(
            f"offset is {offset}; accepted with noise='speckle': 1. An offset of 1 + s^2 comes from pixels of unequal mean "
            "intensity: heterogeneity=s"
        )
    if kernel == "homodyne_v2":
        raise ValueError("shear_kernel is 'homodyne_v2', which no sample has; accepted with noise='speckle': gap_average")


def _field_sources(
    parameters: Mapping[str, float], phi: np.ndarray, t: np.ndarray, layers: int | None, sample: dict[str, Any]
) -> list[FieldSource]:
    """Fields of each angle, from the integrals of the model's own rates."""
    # For its checks of every argument.
    two_time(parameters, phi, t[:2], **sample)
    with jax.enable_x64(True):
        x0 = sample["q"] ** 2 * _integral(TRANSPORT, parameters, t)
        if sample["mode"] == "static":
            return [flow_fields(x0, None, layers)] * len(phi)
        phase = SHEAR_KERNELS["gap_average"].phase_factor * sample["q"] * sample["gap"]
        kappa = np.asarray(phase_per_strain(phi, parameters["phi0"], phase))
        strain = _integral(SHEAR, parameters, t)
    return [flow_fields(x0, turn * strain, layers) for turn in kappa]


def _integral(names: tuple[str, str, str], parameters: Mapping[str, float], t: np.ndarray) -> np.ndarray:
    amplitude, exponent, offset = (parameters[name] for name in names)
    return np.asarray(cumulative(power_law(amplitude, exponent, offset, t), t))


def _speckle_notes(note: str, mode: str, speckle: Speckle) -> list[str]:
    """One sentence for the speckle, and one for each thing that is wrong with the beam or the detector."""
    photons = f"{speckle.photons:g} photons per pixel and frame" if speckle.counting else "no shot noise"
    gap = "" if mode == "static" else " of very many layers" if speckle.layers is None else f" of {speckle.layers} layers"
    notes = [f"{note}, speckle{gap} on {speckle.pixels} pixels, {speckle.pixels_per_speckle} per speckle, {photons}"]
    if speckle.beam_drift:
        notes.append(f"simulated beam from {1 + speckle.beam_drift / 2:g} to {1 - speckle.beam_drift / 2:g}")
    if speckle.bad_frames:
        notes.append(f"simulated frames with {100 * BEAM_OFF:g} % of the beam: {ranges_text(speckle.bad_frames)}")
    if speckle.slope:
        notes.append(f"simulated region from {1 - speckle.slope / 2:g} to {1 + speckle.slope / 2:g} of its mean intensity")
    if speckle.static_bins > 1:
        notes.append(f"simulated correlator divides by the means of {speckle.static_bins} static bins in each frame")
    if speckle.heterogeneity:
        notes.append(f"simulated pixels of unequal intensity (sd {speckle.heterogeneity:g}): offset {1 + speckle.heterogeneity**2:g}")
    if speckle.contrast_drift:
        notes.append(f"simulated contrast falls to {1 - speckle.contrast_drift:g} of its first value")
    return notes


def write(dataset: Dataset, path: str | os.PathLike[str], layout: str, *, details: Mapping[str, object] | None = None) -> None:
    """Write a Dataset so that reading it back with the default settings gives the same Dataset (float32 in aps_u).

    The file appears complete or not at all. A frame that is masked everywhere stays so; other masked values are NaN in the file.
    ``array`` holds the maps only: q, dt, phi and the truth do not go into it. ``aps_u`` and ``nxxpcs`` hold the pixels of each map;
    ``aps_u`` holds counts as its correlator saves them: the mean of each map, and a course in time that all maps share.

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
        regions = _regions(dataset)
        if regions is not None:
            _set(file, paths["regions"], regions)
            _set(file, paths["mask"], regions > 0)
            _set_photons(file, dataset, regions)
        _set_truth(file, truth)


def _regions(dataset: Dataset) -> np.ndarray | None:
    """(height, width) detector on which map k has its pixels in region k + 1; None where their number is unknown."""
    if not np.all(np.isfinite(dataset.pixels)):
        return None
    count = dataset.pixels.astype(np.int64)
    labels = np.repeat(np.arange(1, len(count) + 1, dtype=np.uint16), count)
    width = math.ceil(math.sqrt(len(labels)))
    regions = np.zeros((-(-len(labels) // width), width), dtype=np.uint16)
    regions.ravel()[: len(labels)] = labels
    return regions


def _set_photons(file: h5py.File, dataset: Dataset, regions: np.ndarray) -> None:
    """What the correlator saves of the photons: their mean over time per pixel, and their mean over all pixels per frame."""
    counts = np.asarray(dataset.counts)
    if not np.all(np.isfinite(counts)):
        return
    if counts.ndim == 2:
        # The filler has the photons of the frame that it repeats.
        counts = np.concatenate([counts[:, :1], counts], axis=1)
        frames = np.arange(counts.shape[1])
        spatial = np.array([frames, np.average(counts, axis=0, weights=dataset.pixels)])
        _set(file, aps_u.PATHS["intensity"], spatial.astype(np.float32))
        counts = counts.mean(axis=1)
    _set(file, aps_u.PATHS["scattering"], np.concatenate([[0.0], counts])[regions][None].astype(np.float32))


def add_pixels(path: str | os.PathLike[str], scattering: Sequence[np.ndarray], detector: Speckle) -> None:
    """Give an aps_u file that ``write`` made the time mean of every pixel and the means that its correlator divided by.

    Args:
        scattering: of each map, (pixels,) as ``speckle.Recording`` holds it. detector: of the recordings.
    """
    paths = aps_u.PATHS
    with h5py.File(path, "r+") as file:
        regions = file[paths["regions"]][()]
        mean, static = np.zeros(regions.shape, dtype=np.float32), np.zeros(regions.shape, dtype=np.uint16)
        for k, values in enumerate(scattering):
            mean[regions == k + 1], static[regions == k + 1] = values, 1 + k * detector.static_bins + detector.bins
        del file[paths["scattering"]]
        _set(file, paths["scattering"], mean[None])
        _set(file, paths["static"], static)
        _set(file, paths["smooth"], "sqmap" if detector.static_bins > 1 else "dqmap")


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
        regions = _regions(dataset)
        if regions is not None:
            _set(file, paths["regions"], regions)
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

__all__: Sequence[str] = ("LAYOUTS", "add_pixels", "simulate", "write")
