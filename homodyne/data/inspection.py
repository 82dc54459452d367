"""What a file holds, in a few aligned lines: ``python -m homodyne ... inspect`` prints it."""

import numpy as np

from .contents import Contents
from .reading import Rules, read_maps
from .selection import normalise


def describe(contents: Contents) -> str:
    """Text of an open file. One map is read, for the storage and the diagonal."""
    dt = "not in the file; set data.dt" if contents.dt is None else f"{contents.dt:.6g} s ({contents.dt_source})"
    lines = [
        ("file", contents.path),
        ("layout", contents.layout),
        ("maps", f"{len(contents.names)}, {contents.names[0]} ... {contents.names[-1]}"),
        ("frames", str(contents.n_frames)),
        ("dt", dt),
        ("stored as", f"{contents.dtype}, {_storage(contents)}"),
    ]
    if contents.pixels is not None:
        lines.append(("pixels", f"{np.nanmin(contents.pixels):.0f} to {np.nanmax(contents.pixels):.0f} per map"))
    if contents.counts is not None:
        lines.append(("counts", f"{np.nanmin(contents.counts):.3g} to {np.nanmax(contents.counts):.3g} photons per pixel and frame"))
    if contents.truth is not None:
        lines.append(("truth", ", ".join(f"{name} {value:g}" for name, value in contents.truth.parameters.items())))
    lines += [("note", note) for note in contents.notes]
    return "\n".join([*(f"{name:<10} {text}" for name, text in lines), *_angles_by_q(contents)])


def _storage(contents: Contents) -> str:
    """Storage and diagonal of the first map that can be read."""
    frames = range(contents.n_frames)
    rules = Rules(frames, np.zeros(len(frames), dtype=bool), None, "mask", "memory")
    for index in range(len(contents.names)):
        maps = read_maps(contents, np.array([index]), rules)
        if len(maps.kept):
            diagonal = "already replaced by the mean of its neighbours" if np.all(np.isnan(maps.diagonal)) else "raw"
            return f"{maps.storage}, diagonal {diagonal}"
    return "every map is empty"


def _angles_by_q(contents: Contents) -> list[str]:
    """A table: each q with the angles that have a map."""
    lines = [f"{'q 1/A':<10} {'maps':>5}  phi, degrees"]
    phi = normalise(contents.phi)
    if not np.any(np.isfinite(contents.q)):
        return [*lines, f"{'unknown':<10} {len(phi):>5}  " + _angles_text(phi)]
    for q in np.unique(contents.q[np.isfinite(contents.q)]):
        here = contents.q == q
        lines.append(f"{q:<10.6g} {np.count_nonzero(here):>5}  " + _angles_text(phi[here]))
    return lines


def _angles_text(phi: np.ndarray) -> str:
    return " ".join("unknown" if np.isnan(angle) else f"{angle:.4g}" for angle in phi)
