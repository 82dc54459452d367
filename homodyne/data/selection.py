"""Which maps, angles and frames of a file are used. Nothing is widened, clipped or replaced: what cannot be had is an error."""

import numpy as np

from ..errors import ConfigError, DataError
from .contents import Contents, ranges_text, values_text

# Angles are compared with this slack (degrees), so that 10.000000001 is inside [-10, 10].
SLACK = 1e-9


def normalise(phi: np.ndarray) -> np.ndarray:
    """Angles (degrees) moved to (-180, 180] by whole turns; angles already there keep every digit."""
    inside = (phi > -180) & (phi <= 180)
    return np.where(inside | ~np.isfinite(phi), phi, 180 - np.mod(180 - phi, 360))


def in_ranges(phi: np.ndarray, ranges: list[list[float]]) -> np.ndarray:
    """(P,) bool: angles modulo 360 inside any of the [low, high] ranges; low > high wraps around."""
    inside = np.zeros(phi.shape, dtype=bool)
    for low, high in ranges:
        span = high - low if high >= low else np.mod(high - low, 360)
        above = np.mod(phi - low, 360)
        inside |= (span >= 360) | (above <= span + SLACK) | (above >= 360 - SLACK)
    return inside


def choose_q(contents: Contents, q: float | None, tolerance: float) -> tuple[np.ndarray, float, list[str]]:
    """Maps of one wavevector.

    Args:
        contents: the open file.
        q: wavevector asked for, 1/Angstrom; None if the file holds one only.
        tolerance: largest relative difference between q and the nearest wavevector of the file.

    Returns:
        Indices of the maps, their wavevector, notes.
    """
    if not np.any(np.isfinite(contents.q)):
        if contents.layout == "array":
            raise ConfigError(f"data.q is missing and {contents.path} does not hold it; accepted: data.q=<1/Angstrom>")
        raise DataError(f"{contents.path}: the q of every map is NaN; accepted: finite q, 1/Angstrom")
    known = np.flatnonzero(np.isfinite(contents.q))
    values = np.unique(contents.q[known])
    listed = values_text(values)
    if q is None and np.ptp(values) > contents.same_q * values[0]:
        raise DataError(f"{contents.path}: holds several q (1/Angstrom): {listed}; choose one with data.q=...")
    target = values[0] if q is None else q
    nearest = values[np.argmin(np.abs(values - target))]
    if abs(nearest - target) > tolerance * target:
        closest = values_text(np.sort(values[np.argsort(np.abs(values - target))[:5]]))
        raise DataError(
            f"{contents.path}: no map within {tolerance:g} (data.q_tolerance, relative) of data.q={target:g} 1/Angstrom; "
            f"nearest q: {closest}"
        )
    chosen = known[np.abs(contents.q[known] - nearest) <= contents.same_q * nearest]
    value = float(np.mean(contents.q[chosen])) if np.ptp(contents.q[chosen]) > 0 else float(nearest)
    notes = [f"q {value:.6g} 1/Angstrom: {len(chosen)} of {len(contents.q)} maps"]
    spread = np.ptp(contents.q[chosen]) / value
    if spread > 0:
        notes.append(f"q of these maps differs by {spread:.2g} (relative); their mean is used")
    if len(known) < len(contents.q):
        notes.append(f"{len(contents.q) - len(known)} maps without a finite q are not used")
    return chosen, value, notes


def choose_phi(contents: Contents, chosen: np.ndarray, ranges: list[list[float]] | None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Of the maps of one q, those inside the angular ranges: indices, angles (degrees, normalised), notes."""
    finite = np.isfinite(contents.phi[chosen])
    if not finite.any():
        if contents.layout == "array":
            raise ConfigError(f"data.phi_list is missing and {contents.path} holds no angles; accepted: one angle (degrees) per map")
        raise DataError(f"{contents.path}: the phi of every map of this q is NaN; accepted: finite phi, degrees")
    notes = [] if finite.all() else [f"{np.count_nonzero(~finite)} maps without a finite phi are not used"]
    chosen = chosen[finite]
    phi = normalise(contents.phi[chosen])
    if ranges is not None:
        inside = in_ranges(phi, ranges)
        if not inside.any():
            raise DataError(f"{contents.path}: no map has phi inside data.phi={ranges}; phi of this q (degrees): {values_text(phi)}")
        notes.append(f"phi: {np.count_nonzero(inside)} of {len(phi)} angles are inside data.phi={ranges}")
        chosen, phi = chosen[inside], phi[inside]
    repeated = np.unique(phi[np.sum(np.abs(phi[:, None] - phi[None, :]) < SLACK, axis=1) > 1])
    if len(repeated):
        notes.append(f"several maps of the file have the same phi ({values_text(repeated)} degrees); all are used")
    return chosen, phi, notes


def choose_frames(contents: Contents, frames: list[int | None] | None, *, keep_first: bool) -> tuple[range, list[str]]:
    """Frames that are used, as a range of indices from 0, and notes; the first selected one is left out unless keep_first."""
    total = contents.n_frames
    first, last = (1, total) if frames is None else (frames[0] or 1, frames[1] or total)
    if first > total or last > total:
        raise DataError(f"{contents.path}: data.frames={frames} goes beyond the {total} frames of the file; accepted: 1 to {total}")
    used = range(first - 1 if keep_first else first, last)
    if len(used) < 3:
        raise DataError(f"{contents.path}: data.frames={frames} leaves {len(used)} frames; at least 3 are needed")
    notes = [f"frames {used.start + 1} to {used.stop} of {total} are used"]
    if not keep_first:
        notes.append(f"frame {first} is at t = 0 and dropped (data.time_origin: null)")
    return used, notes


def choose_dt(contents: Contents, dt: float | None) -> tuple[float, list[str]]:
    """Time between frames, s, and a note on where it comes from."""
    if dt is None and contents.dt is None:
        raise ConfigError(f"data.dt is missing and {contents.path} ({contents.layout}) does not hold it; accepted: data.dt=<seconds>")
    if dt is None:
        return float(contents.dt or 0.0), [f"dt {contents.dt:.6g} s from {contents.dt_source}"]
    if contents.dt is None:
        return dt, [f"dt {dt:.6g} s from data.dt; the file does not hold it"]
    if abs(dt - contents.dt) > 1e-3 * contents.dt:
        raise DataError(
            f"{contents.path}: data.dt={dt:g} s, but the file says {contents.dt:.6g} s ({contents.dt_source}); "
            "accepted: equal within 1e-3, or data.dt=null"
        )
    return dt, [f"dt {dt:.6g} s from data.dt, in agreement with {contents.dt_source}"]


def listed_bad_frames(contents: Contents, bad_frames: list[int], used: range) -> tuple[np.ndarray, list[str]]:
    """(n,) bool over the used frames: which of them data.bad_frames names; and a note."""
    beyond = [number for number in bad_frames if number > contents.n_frames]
    if beyond:
        raise DataError(f"{contents.path}: data.bad_frames names {beyond}; accepted: 1 to {contents.n_frames}")
    bad = np.zeros(len(used), dtype=bool)
    inside = [number for number in set(bad_frames) if number - 1 in used]
    bad[[number - 1 - used.start for number in inside]] = True
    return bad, [f"frames masked by data.bad_frames: {ranges_text(inside)}"] if inside else []
