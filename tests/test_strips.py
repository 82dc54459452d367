"""Strips hold each used pixel once and say which it is."""

import numpy as np
import pytest

from homodyne.data import Dataset
from homodyne.strips import Strips, all_strips, dealt_strips, padded
from homodyne.tiles import TILE

from .factory import measured

PHI = (0.0, 50.0)


def named(n: int) -> Dataset:
    """Maps of which each value names its pair, some masked."""
    early, late = np.indices((n, n))
    maps = np.stack([(angle * n + np.minimum(early, late)) * n + np.maximum(early, late) for angle in range(len(PHI))]).astype(float)
    hidden = np.triu(np.random.default_rng(n).random(maps.shape) < 0.2, 1)
    maps[hidden | hidden.swapaxes(1, 2)] = np.nan
    return measured(maps, PHI)


def names(strips: Strips) -> tuple[np.ndarray, np.ndarray]:
    """Used values, and the names of the pairs at which they claim to be."""
    columns = strips.blocks[:, :, None, None] * TILE + np.arange(TILE)
    angle = np.arange(len(strips.values))[:, None, None, None]
    claimed = np.broadcast_to((angle * strips.n + strips.rows[..., None]) * strips.n + columns, strips.values.shape)
    used = np.isfinite(strips.values)
    return strips.values[used], claimed[used]


def pairs(data: Dataset, rows: list[np.ndarray]) -> np.ndarray:
    """Names of the used pairs whose early frame is one of rows, from the dense maps."""
    found = [np.triu(np.nan_to_num(data.map(k)), 1)[rows[k]] for k in range(len(PHI))]
    return np.sort(np.concatenate([part[part > 0] for part in found]))


@pytest.mark.parametrize("n", [3, 63, 64, 65, 130])
def test_all_strips_hold_every_used_pixel_once_where_they_say(n):
    data = named(n)
    strips = all_strips(data)
    values, claimed = names(strips)
    np.testing.assert_array_equal(values, claimed)
    np.testing.assert_array_equal(np.sort(values), pairs(data, [np.arange(n)] * 2))
    assert strips.pairs == len(values) == data.pairs.sum()
    assert strips.rows.max() < n


@pytest.mark.parametrize("height", [1, 8, 64])
@pytest.mark.parametrize("n", [3, 65, 130])
def test_dealt_strips_hold_the_pairs_of_the_chosen_rows_and_no_others(n, height):
    data = named(n)
    rng = np.random.default_rng(height)
    rows = [np.flatnonzero(rng.random(n) < share) for share in (0.4, 0.1)]
    strips = dealt_strips(data, rows, height)
    values, claimed = names(strips)
    np.testing.assert_array_equal(values, claimed)
    np.testing.assert_array_equal(np.sort(values), pairs(data, rows))
    assert strips.values.shape[2:] == (height, TILE)
    assert strips.values.dtype == data.tiles.dtype


def test_a_map_without_rows_and_one_of_no_map_at_all_hold_nothing():
    data = named(65)
    some = dealt_strips(data, [np.array([], dtype=int), np.array([4, 9])], 8)
    assert not np.isfinite(some.values[0]).any()
    np.testing.assert_array_equal(np.sort(names(some)[0]), pairs(data, [np.array([], dtype=int), np.array([4, 9])]))
    assert dealt_strips(data, [np.array([], dtype=int)] * 2, 8).pairs == 0


def test_padding_adds_strips_that_hold_nothing_and_refuses_to_cut():
    strips = all_strips(named(130))
    longer = padded(strips, 11)
    assert longer.values.shape[1] == longer.rows.shape[1] == longer.blocks.shape[1] == 11
    for found, given in zip(names(longer), names(strips), strict=True):
        np.testing.assert_array_equal(found, given)
    with pytest.raises(ValueError, match="6 strips do not fit in 5"):
        padded(strips, 5)
