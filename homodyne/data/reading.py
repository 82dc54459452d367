"""Maps from an open file into tiles: one pass, 64 rows at a time, one map at a time.

The same pass finds how a map is stored. *Upper half*: everything below the diagonal is zero or NaN. *Lower half*: everything
above is. *Full*: both are there and equal. Only i < j is kept, so nothing is ever added or doubled; the diagonal is kept apart.
"""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..tiles import TILE, first_tile_of_stripe, pack, pack_stripe, tile_count, tile_index
from .contents import Contents, ranges_text

# Largest difference between c2(i, j) and c2(j, i), relative to the larger of 1 and the value, that still is symmetric.
SYMMETRY = 1e-6


@dataclass(frozen=True)
class Maps:
    """Packed maps, and what was found while reading them.

    Attributes:
        tiles: (P, n_tiles, TILE, TILE), NaN where not used.
        diagonal: (P, n) as stored; NaN in masked frames and where the file holds the mean of the neighbours instead.
        kept: (P,) indices of the maps, in the order of the tiles.
        storage: upper half, lower half or full, of the first map.
        notes: one sentence each.
    """

    tiles: np.ndarray
    diagonal: np.ndarray
    kept: np.ndarray
    storage: str
    notes: list[str]


@dataclass(frozen=True)
class Rules:
    """What is used: frames (range of indices in the file), bad (n,) bool, mask file, non-finite policy, storage of the tiles."""

    frames: range
    bad: np.ndarray
    mask: str | None
    nonfinite: str
    storage: str


def read_maps(contents: Contents, chosen: np.ndarray, rules: Rules) -> Maps:
    """Read, check, mask and pack the chosen maps of a file."""
    n = len(rules.frames)
    usable = _pairs(n) if rules.mask is None else _pairs(n) & _read_mask(contents, rules)
    tiles = _allocate((len(chosen), tile_count(n), TILE, TILE), contents.dtype, rules.storage)
    diagonal = np.full((len(chosen), n), np.nan)
    kept: list[int] = []
    notes: list[str] = []
    kinds: list[str] = []
    dead: dict[tuple[int, ...], list[str]] = {}
    replaced = 0
    for index in chosen:
        where = f"{contents.path}, {contents.names[index]}"
        packed, values = tiles[len(kept)], diagonal[len(kept)]
        kind, alive, values[:] = _pack_map(contents, int(index), rules.frames, packed)
        lost = ~alive & ~rules.bad
        used = alive & ~rules.bad
        masked = _mask(packed, usable, used, where, rules)
        if masked is None:
            notes.append(_dead_map(where, rules))
            continue
        if masked:
            notes.append(f"{where}: {masked} values that are not finite are masked (data.nonfinite=mask)")
        if lost.any():
            dead.setdefault(tuple(np.flatnonzero(lost) + rules.frames.start + 1), []).append(contents.names[index])
        if diagonal_is_replaced(packed, values):
            replaced += 1
            values[:] = np.nan
        values[~used] = np.nan
        if contents.baseline:
            packed += contents.baseline
            values += contents.baseline
        kinds.append(kind)
        kept.append(int(index))
    if not kept:
        raise DataError(f"{contents.path}: none of the {len(chosen)} selected maps holds a usable pair of frames")
    notes[:0] = [f"storage: {', '.join(sorted(set(kinds)))}, {contents.dtype}"]
    for frames, names in dead.items():
        which = "every map" if len(names) == len(kept) else ", ".join(names)
        notes.append(f"frames entirely NaN or zero, masked: {ranges_text(frames)} in {which}")
    if rules.mask is not None:
        notes.append(f"pairs masked by {rules.mask}: {np.count_nonzero(_pairs(n)) - np.count_nonzero(usable)}")
    if replaced:
        notes.append(f"the diagonal of {replaced} maps is the mean of its neighbours, not the raw one; it is left out")
    return Maps(tiles[: len(kept)], diagonal[: len(kept)], np.array(kept), kinds[0], notes)


def diagonal_is_replaced(tiles: np.ndarray, diagonal: np.ndarray) -> bool:
    """Whether a diagonal (n,) is the mean of its neighbours in the map with these tiles, as most programs leave it."""
    n = len(diagonal)
    i = np.arange(n - 1)
    first = np.array([first_tile_of_stripe(int(stripe), n) for stripe in i // TILE])
    beside = tiles[first + (i + 1) // TILE - i // TILE, i % TILE, (i + 1) % TILE].astype(np.float64)
    means = 0.5 * (beside[1:] + beside[:-1])
    inner = diagonal[1:-1]
    known = np.isfinite(means) & np.isfinite(inner)
    # A map without any change along the diagonal cannot tell.
    if np.count_nonzero(known) < 3 or np.ptp(means[known]) < 1e-4:
        return False
    return bool(np.all(np.abs(inner[known] - means[known]) <= 2e-6 * np.maximum(1, np.abs(means[known]))))


def _pack_map(contents: Contents, index: int, frames: range, tiles: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
    """Pack one map; returns its storage, (n,) bool which frames are not entirely NaN or zero, and its diagonal (n,)."""
    columns = slice(frames.start, frames.stop)

    def rows(start: int, stop: int) -> np.ndarray:
        return contents.read_rows(index, start + frames.start, stop + frames.start)[:, columns]

    upper, lower, difference, diagonal = _pack_rows(rows, len(frames), tiles)
    if lower and not upper.any():
        # The transpose needs all rows at once: the only case in which a whole map is held.
        whole = np.ascontiguousarray(rows(0, len(frames)).T)
        upper, _, _, diagonal = _pack_rows(lambda start, stop: whole[start:stop], len(frames), tiles)
        return "lower half", upper, diagonal
    if lower and difference is not None:
        i, j = (int(frame) + frames.start + 1 for frame in difference)
        raise DataError(
            f"{contents.path}, {contents.names[index]}: both triangles are filled and differ, first at frames ({i}, {j}); "
            f"accepted: one half, or a matrix symmetric within {SYMMETRY:g}"
        )
    return "full" if lower else "upper half", upper, diagonal


def _pack_rows(
    rows: Callable[[int, int], np.ndarray], n: int, tiles: np.ndarray
) -> tuple[np.ndarray, bool, tuple[int, int] | None, np.ndarray]:
    """Pack stripes; returns live frames of the upper half (n,), life below the diagonal, its first asymmetry, the diagonal (n,)."""
    stripes = -(-n // TILE)
    alive = np.zeros(stripes * TILE, dtype=np.int64)
    diagonal = np.empty(n)
    lower, difference = False, None
    for stripe in range(stripes):
        start, stop = stripe * TILE, min((stripe + 1) * TILE, n)
        values = rows(start, stop)
        pack_stripe(tiles, stripe, values)
        diagonal[start:stop] = values[np.arange(stop - start), np.arange(start, stop)]
        first = first_tile_of_stripe(stripe, n)
        packed = tiles[first : first + stripes - stripe]
        live = np.isfinite(packed) & (packed != 0)
        alive[start : start + TILE] += live.sum(axis=(0, 2))
        alive[start:] += live.sum(axis=1).ravel()
        if _live_below(values, start):
            lower = True
            if difference is None:
                difference = _first_difference(values, tiles, stripe, n)
    return alive[:n] > 0, lower, difference, diagonal


def _live_below(values: np.ndarray, start: int) -> bool:
    """Whether any value below the diagonal is finite and not zero, in full rows (r, n) from frame start on."""
    below = np.tril(values[:, : start + len(values)], start - 1)
    return bool(np.any(np.isfinite(below) & (below != 0)))


def _first_difference(values: np.ndarray, tiles: np.ndarray, stripe: int, n: int) -> tuple[int, int] | None:
    """First (i, j), i > j, of a stripe of rows whose value is not that of (j, i), which is packed already."""
    count = len(values)
    mirror = np.concatenate([tiles[first_tile_of_stripe(k, n) + stripe - k].T[:count] for k in range(stripe + 1)], axis=1)
    below = values[:, : stripe * TILE + count]
    mirror = mirror[:, : below.shape[1]]
    # NaN compares false: a value that one triangle lacks is not a difference, the non-finite policy deals with it.
    with np.errstate(invalid="ignore"):
        unequal = np.abs(below - mirror) > SYMMETRY * np.maximum(1, np.abs(mirror))
    found = np.argwhere(unequal)
    return (int(found[0, 0]) + stripe * TILE, int(found[0, 1])) if len(found) else None


def _mask(tiles: np.ndarray, usable: np.ndarray, used: np.ndarray, where: str, rules: Rules) -> int | None:
    """Set everything that is not used to NaN, by the rules; returns how many non-finite values that hit, None if no pair is left."""
    n = len(used)
    i, j = _frames(n)
    padded = np.append(used, np.zeros(-n % TILE, dtype=bool))
    wanted = usable & padded[i][:, :, None] & padded[j][:, None, :]
    finite = np.isfinite(tiles)
    missing = wanted & ~finite
    count = int(np.count_nonzero(missing))
    if not np.any(wanted & finite):
        return None
    if count and rules.nonfinite == "error":
        tile, row, column = np.argwhere(missing)[0]
        first = (int(i[tile, row]) + rules.frames.start + 1, int(j[tile, column]) + rules.frames.start + 1)
        raise DataError(
            f"{where}: {count} values are not finite, first at frames {first}; accepted: finite values, "
            "data.bad_frames, data.mask, or data.nonfinite=mask"
        )
    tiles[~(wanted & finite)] = np.nan
    return count


def _dead_map(where: str, rules: Rules) -> str:
    """What happens to a map in which nothing is left."""
    if rules.nonfinite == "error":
        raise DataError(
            f"{where}: no pair of frames is usable (all NaN, zero or masked); accepted: select other angles with data.phi, "
            "or data.nonfinite=mask to leave the map out"
        )
    return f"left out, no pair of frames is usable: {where}"


def _frames(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column frame of every tile, each (n_tiles, TILE)."""
    rows, columns = tile_index(n)
    return rows[:, None] * TILE + np.arange(TILE), columns[:, None] * TILE + np.arange(TILE)


def _pairs(n: int) -> np.ndarray:
    """(n_tiles, TILE, TILE) bool: i < j < n."""
    i, j = _frames(n)
    return (i[:, :, None] < j[:, None, :]) & (j < n)[:, None, :]


def _read_mask(contents: Contents, rules: Rules) -> np.ndarray:
    """(n_tiles, TILE, TILE) bool of the mask file; True = use."""
    shape = (contents.n_frames, contents.n_frames)
    accepted = f"accepted: .npy, bool, {shape}, symmetric, True = use"
    try:
        mask = np.load(rules.mask or "", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"data.mask={rules.mask} cannot be read ({error}); {accepted}") from error
    if not isinstance(mask, np.ndarray) or mask.shape != shape or mask.dtype != np.bool_:
        found = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else "several arrays"
        raise DataError(f"data.mask={rules.mask} holds {found}; {accepted}")
    part = np.asarray(mask[rules.frames.start : rules.frames.stop, rules.frames.start : rules.frames.stop])
    if not np.array_equal(part, part.T):
        raise DataError(f"data.mask={rules.mask} is not symmetric; {accepted}")
    return pack(part, np.float32) == 1


def _allocate(shape: tuple[int, ...], dtype: np.dtype, storage: str) -> np.ndarray:
    """Room for the tiles, in memory or in a temporary folder that is removed at exit."""
    if storage == "memory":
        return np.empty(shape, dtype=dtype)
    folder = tempfile.mkdtemp(prefix="homodyne_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return np.memmap(Path(folder) / "tiles.bin", dtype=dtype, mode="w+", shape=shape)
