"""How maps are dealt to shards: a pair (i, j), i < j, belongs to the shard that owns frame i of its map.

Strategies, of which all but ``angle`` give every shard a part of every map:

    stride      one of each K neighbouring rows, the longest to the shard that has least so far: every shard sees all ages
    random      the same by chance instead of by balance
    contiguous  blocks of neighbouring rows: every shard sees one range of ages
    angle       whole maps

Rows are balanced by their used pairs: masked ones do not count. The noise of two-time maps is dyadic: all pairs with a frame share its
noise. A row is one frame against all later ones, and these are in every shard. So shards are not independent data: their likelihoods
multiply to the likelihood of all pixels, which is all that a consensus needs, but that shards agree is no evidence of a right model.
"""

from dataclasses import dataclass

import numpy as np

from ..data import Dataset
from ..errors import ConfigError
from ..strips import Strips, dealt_strips, padded
from ..tiles import TILE, tile_index

STRATEGIES = ("stride", "random", "contiguous", "angle")
HEIGHTS = (8, 16, 32, 64)
WORTHWHILE = 1.05
"""A taller strip, which takes fewer steps, is chosen when its padded size is at most this times the smallest."""
MOST_SHARDS = 64
PAIRS_PER_PARAMETER = 1500
DETERMINED = 25.0
"""Least information of a shard over that of the prior: an error of a fifth of the prior's standard deviation."""
BYTES_PER_PAIR = 40
"""In memory while a shard is sampled: its value, the model and derivatives, in float64."""


@dataclass(frozen=True)
class Count:
    """A number of shards, and why."""

    shards: int
    sentence: str


def used_pairs(dataset: Dataset) -> np.ndarray:
    """(P, n) used pairs (i, j), i < j, of each early frame i."""
    rows, _ = tile_index(dataset.n)
    used = np.zeros((len(dataset.phi), int(rows[-1]) + 1, TILE), dtype=np.int64)
    for angle, tiles in enumerate(dataset.tiles):
        np.add.at(used[angle], rows, np.isfinite(tiles).sum(axis=-1))
    return used.reshape(len(used), -1)[:, : dataset.n]


def most_shards(used: np.ndarray, strategy: str) -> int:
    """The largest number of shards that leaves none without pixels, nor (but for ``angle``) any without a part of a map.

    Args:
        used: (P, n), see ``used_pairs``.
    """
    there = used[used.any(axis=1)]
    if strategy == "angle":
        return len(there)
    if strategy == "contiguous":
        # A block is as long as the longest row, so that each holds the middle of one.
        return int(min(row.sum() // row.max() for row in there))
    return int(np.count_nonzero(there, axis=1).min())


def rows_of_shards(used: np.ndarray, count: int, strategy: str, seed: int) -> list[list[np.ndarray]]:
    """For each shard and each angle its early frames, ascending. Rows without used pairs belong to nobody.

    Args:
        used: (P, n), see ``used_pairs``. seed: of ``random``.

    Raises:
        ConfigError: of more shards than rows allow, and of an unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"unknown strategy {strategy!r} of shards; accepted: {', '.join(STRATEGIES)}")
    largest = most_shards(used, strategy)
    if not 1 <= count <= largest:
        raise ConfigError(f"{count} shards cannot be made by {strategy!r} from these maps; accepted: 1 to {largest}")
    if strategy == "angle":
        owner = _by_angle(used, count)
    elif strategy == "contiguous":
        owner = _in_blocks(used, count)
    else:
        owner = _in_groups(used, count, np.random.default_rng(seed) if strategy == "random" else None)
    return [[np.flatnonzero(owners == shard) for owners in owner] for shard in range(count)]


def deal(dataset: Dataset, count: int, strategy: str, seed: int) -> list[Strips]:
    """All used pixels in ``count`` shards of one shape, so that one compilation serves all; each pair is in exactly one."""
    rows = rows_of_shards(used_pairs(dataset), count, strategy, seed)
    height = _height(rows, dataset.n)
    shards = [dealt_strips(dataset, some, height) for some in rows]
    length = max(shard.values.shape[1] for shard in shards)
    return [padded(shard, length) for shard in shards]


def described(shards: list[Strips], strategy: str) -> str:
    """How the maps were dealt, with the waste of the packing, and what the strategy cannot do."""
    pairs = [shard.pairs for shard in shards]
    size = sum(shard.values.size for shard in shards)
    height = shards[0].values.shape[2]
    share = f"{min(pairs)} to {max(pairs)} pixels" if len(set(pairs)) > 1 else f"{pairs[0]} pixels"
    packed = f"strips of {height} rows, {100 * (1 - sum(pairs) / size):.0f} % of the packed values are empty"
    sentence = f"{len(shards)} shards by {strategy}, {share} each; {packed}"
    if strategy == "angle" and len(shards) > 1:
        sentence += "; shards hold whole maps: one angle may not determine the flow, nor any other parameter shared by all"
    if strategy == "contiguous" and len(shards) > 1:
        sentence += "; shards hold ranges of ages: one range may not determine how rates change with age"
    return sentence


def auto_count(
    pairs: int, workers: int, dimension: int, largest: int, *, weakest: float | None = None, memory_gb: float | None = None
) -> Count:
    """The number of shards where the user gave none.

    Sharding saves no work, it only spreads it, so there are as many shards as workers, but

    - at most MOST_SHARDS and sqrt(pairs)/10: the mean of a shard is off by a number of order 1/pairs of the shard, hence the consensus
      by K/sqrt(pairs) posterior standard deviations;
    - at most as many as leave a shard that determines the parameters by itself, as the sub-posterior is near Gaussian only then:
      information of DETERMINED times that of the prior in the weakest direction, or PAIRS_PER_PARAMETER where that is not known;
    - more than any of this only where a shard would not fit in memory.

    Args:
        pairs: used pixels. dimension: D of the joint coordinates. largest: see ``most_shards``.
        weakest: smallest eigenvalue of the Fisher information of all pixels in units of the prior's. memory_gb: of one worker.
    """
    enough = f"{PAIRS_PER_PARAMETER} pixels a parameter" if weakest is None else f"information of {DETERMINED:g} times the prior's"
    known = pairs / (PAIRS_PER_PARAMETER * dimension) if weakest is None else weakest / DETERMINED
    limits = {
        "one for each worker": workers,
        f"at most {MOST_SHARDS}": MOST_SHARDS,
        "at most sqrt(pixels)/10": int(np.sqrt(pairs) / 10),
        f"a shard needs {enough}": int(min(known, pairs)),
        "the rows of the maps allow no more": largest,
    }
    reason = min(limits, key=lambda name: limits[name])
    count = max(1, limits[reason])
    needed = 1 if memory_gb is None else -(-int(BYTES_PER_PAIR * pairs) // int(memory_gb * 1e9))
    if needed > count:
        count, reason = min(needed, largest), f"a shard must fit in {memory_gb:g} GB, though {count} would be better: {reason}"
        if needed > largest:
            reason += f"; {needed} would be needed, which the rows of the maps do not allow"
    return Count(count, f"{count} shard{'s' if count > 1 else ''}: {reason}")


def _in_groups(used: np.ndarray, count: int, rng: np.random.Generator | None) -> np.ndarray:
    """(P, n) owners, -1 for none. Each group of ``count`` rows gives one to every shard; a generator deals it by chance."""
    owner = np.full(used.shape, -1)
    load = np.zeros(count, dtype=np.int64)
    for angle, row in enumerate(used):
        rows = np.flatnonzero(row)
        if rng is not None:
            rows = rows[np.argsort(-row[rows], kind="stable")]
        for start in range(0, len(rows), count):
            group = rows[start : start + count]
            if rng is None:
                order = np.argsort(load, kind="stable")[: len(group)]
                group = group[np.argsort(-row[group], kind="stable")]
            else:
                order = rng.permutation(count)[: len(group)]
            owner[angle, group] = order
            load[order] += row[group]
    return owner


def _in_blocks(used: np.ndarray, count: int) -> np.ndarray:
    """(P, n) owners, -1 for none. The middle of a row in the sequence of all pairs says which block it is in."""
    middle = np.cumsum(used, axis=1) - 0.5 * used
    total = np.maximum(used.sum(axis=1, keepdims=True), 1)
    return np.where(used > 0, np.floor(middle * count / total).astype(int), -1)


def _by_angle(used: np.ndarray, count: int) -> np.ndarray:
    """(P, n) owners, -1 for none. The largest map goes to the shard that has least so far."""
    load = np.zeros(count, dtype=np.int64)
    owner = np.full(used.shape, -1)
    for angle in np.argsort(-used.sum(axis=1), kind="stable"):
        least = int(np.argmin(load))
        load[least] += used[angle].sum()
        owner[angle, used[angle] > 0] = least
    return owner


def _height(rows: list[list[np.ndarray]], n: int) -> int:
    """Height of the strips: the tallest of which the padded shards are nearly as small as can be."""
    sizes = {}
    for height in HEIGHTS:
        strips = [sum(-(-n // TILE) - int(first) // TILE for first in one[::height]) for shard in rows for one in shard]
        sizes[height] = height * max(strips)
    return max(height for height, size in sizes.items() if size <= WORTHWHILE * min(sizes.values()))
