"""Dealing maps to shards: nothing lost, nothing twice, shares equal, and how many."""

import numpy as np
import pytest

from homodyne.cmc.shards import (
    BYTES_PER_PAIR,
    MOST_SHARDS,
    PAIRS_PER_PARAMETER,
    STRATEGIES,
    auto_count,
    deal,
    described,
    most_shards,
    rows_of_shards,
    used_pairs,
)
from homodyne.data import Dataset
from homodyne.errors import ConfigError
from homodyne.strips import Strips
from homodyne.tiles import TILE

from ..factory import measured

N, PHI = 171, (0.0, 30.0, 75.0)


def marked(*, masked: bool, n: int = N) -> Dataset:
    """Maps whose value names the pair: (angle n + i) n + j."""
    early, late = np.triu_indices(n, 1)
    maps = np.full((len(PHI), n, n), np.nan)
    for angle in range(len(PHI)):
        maps[angle, early, late] = maps[angle, late, early] = (angle * n + early) * n + late
    if masked:
        maps[np.random.default_rng(0).random(maps.shape) < 0.3] = np.nan
        maps[1, 20:40] = np.nan
        maps[2, 5, :90] = np.nan
        maps = np.where(np.isnan(maps.swapaxes(1, 2)), np.nan, maps)
    return measured(maps, PHI)


def found_in(shard: Strips) -> np.ndarray:
    """What the used values of a shard should be from the rows and blocks it names."""
    columns = shard.blocks[..., None, None] * TILE + np.arange(TILE)
    names = (np.arange(len(shard.values))[:, None, None, None] * shard.n + shard.rows[..., None]) * shard.n + columns
    return np.broadcast_to(names, shard.values.shape)[np.isfinite(shard.values)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("strategy", "count"), [(s, k) for s in STRATEGIES for k in (1, 2, 3, 7, 13, 64) if k <= (3 if s == "angle" else 64)]
)
def test_every_used_pair_is_in_exactly_one_shard_and_where_it_says(strategy: str, count: int, masked: bool) -> None:
    data = marked(masked=masked)
    shards = deal(data, count, strategy, seed=4)
    assert len({shard.values.shape for shard in shards}) == 1
    for shard in shards:
        np.testing.assert_array_equal(shard.values[np.isfinite(shard.values)], found_in(shard))
    everything = np.concatenate([found_in(shard) for shard in shards])
    dense = np.concatenate([np.triu(np.nan_to_num(data.map(k), nan=-1), 1).ravel() for k in range(len(PHI))])
    np.testing.assert_array_equal(np.sort(everything), np.sort(dense[dense > 0]))


@pytest.mark.parametrize("masked", [False, True])
def test_used_pairs_are_counted_as_a_loop_over_the_maps_does(masked: bool) -> None:
    data = marked(masked=masked)
    counted = [[np.isfinite(data.map(k)[i, i + 1 :]).sum() for i in range(N)] for k in range(len(PHI))]
    np.testing.assert_array_equal(used_pairs(data), counted)


def loads(used: np.ndarray, strategy: str, count: int) -> np.ndarray:
    rows = rows_of_shards(used, count, strategy, seed=1)
    return np.array([sum(used[angle, one].sum() for angle, one in enumerate(shard)) for shard in rows])


@pytest.mark.parametrize("count", [2, 7, 16, 64])
def test_stride_makes_equal_shards_to_the_length_difference_of_neighbouring_rows(count: int) -> None:
    """K neighbouring rows differ by less than K pairs."""
    used = np.tile(np.arange(N)[::-1], (len(PHI), 1))
    found = loads(used, "stride", count)
    assert np.ptp(found) <= count
    assert found.sum() == used.sum()


@pytest.mark.parametrize(("strategy", "spread"), [("stride", 0.02), ("random", 0.05), ("contiguous", 0.1)])
def test_shards_are_balanced_by_used_pairs_and_not_by_rows(strategy: str, spread: float) -> None:
    used = used_pairs(marked(masked=True))
    used[0, ::2] //= 5
    found = loads(used, strategy, 8)
    assert np.ptp(found) < spread * found.mean()


@pytest.mark.parametrize("strategy", ["stride", "random"])
def test_each_shard_sees_all_angles_and_all_ages(strategy: str) -> None:
    used = used_pairs(marked(masked=False))
    for shard in rows_of_shards(used, 10, strategy, seed=2):
        for rows in shard:
            assert np.array_equal(np.unique(rows), rows)
            # With ten shards every ten neighbouring rows hold one of each; two groups may have it at their far ends.
            assert np.diff(rows).max() < 20


def test_contiguous_shards_are_blocks_of_neighbouring_rows() -> None:
    for shard in rows_of_shards(used_pairs(marked(masked=False)), 10, "contiguous", seed=0):
        assert all(np.array_equal(rows, np.arange(rows[0], rows[-1] + 1)) for rows in shard)


def test_random_shards_are_those_of_their_seed() -> None:
    used = used_pairs(marked(masked=False))
    first, again, other = (rows_of_shards(used, 5, "random", seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True))
    assert not np.array_equal(first[0][0], other[0][0])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_largest_count_works_and_one_more_is_refused_with_the_largest_named(strategy: str) -> None:
    used = used_pairs(marked(masked=True))
    largest = most_shards(used, strategy)
    found = rows_of_shards(used, largest, strategy, seed=0)
    assert all(any(len(rows) for rows in shard) if strategy == "angle" else all(len(rows) for rows in shard) for shard in found)
    with pytest.raises(ConfigError, match=f"accepted: 1 to {largest}"):
        rows_of_shards(used, largest + 1, strategy, seed=0)


def test_unknown_strategy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="accepted: stride, random, contiguous, angle"):
        rows_of_shards(np.ones((1, 5)), 2, "stratified", seed=0)


def test_an_angle_without_pixels_does_not_limit_the_others() -> None:
    used = used_pairs(marked(masked=False))
    used[1] = 0
    assert most_shards(used, "angle") == 2
    assert most_shards(used, "stride") == N - 1
    assert loads(used, "stride", 20).sum() == used.sum()


def test_the_description_states_the_waste_of_the_packed_values() -> None:
    shards = deal(marked(masked=False), 6, "stride", seed=0)
    pixels = len(PHI) * N * (N - 1) // 2
    packed = sum(shard.values.size for shard in shards)
    assert f"{100 * (1 - pixels / packed):.0f} % of the packed values are empty" in described(shards, "stride")
    assert packed < 2 * pixels
    assert "may not determine the flow" in described(deal(marked(masked=False), 3, "angle", seed=0), "angle")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"workers": 8}, 8),
        ({"workers": 500}, MOST_SHARDS),
        ({"workers": 500, "largest": 11}, 11),
        ({"workers": 500, "pairs": 90_000, "dimension": 1}, 30),
        ({"workers": 500, "pairs": 150_000, "dimension": 10}, 150_000 // (10 * PAIRS_PER_PARAMETER)),
        ({"workers": 500, "weakest": 25.0 * 9}, 9),
        ({"workers": 500, "weakest": 3.0}, 1),
        ({"workers": 2, "memory_gb": BYTES_PER_PAIR * 4e6 / 1e9 / 5}, 5),
        ({"workers": 2, "memory_gb": BYTES_PER_PAIR * 4e6 / 1e9}, 2),
    ],
)
def test_the_number_of_shards_follows_the_stated_rule(settings: dict, expected: int) -> None:
    given = {"pairs": 4_000_000, "dimension": 8, "largest": 900, "workers": 4} | settings
    keywords = {name: given.pop(name) for name in ("weakest", "memory_gb") if name in given}
    found = auto_count(**given, **keywords)
    assert found.shards == expected
    assert found.sentence.startswith(f"{expected} shard")
