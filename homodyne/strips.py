"""Pixels as strips: some rows of a map against a block of columns, so that any set of rows can be packed without holes.

A tile (tiles.py) is a strip of TILE neighbouring rows. A shard of a map takes rows that lie apart; each strip names its own. As
everywhere, NaN marks a value that is not used.
"""

from dataclasses import dataclass

import numpy as np

from .data import Dataset
from .tiles import TILE, tile_index


@dataclass(frozen=True)
class Strips:
    """Pixels of P maps of n frames in T strips of R rows and TILE columns each.

    Attributes:
        values: (P, T, R, TILE) c2; NaN = not used.
        rows: (P, T, R) int32, frame of each row. blocks: (P, T) int32; column c of a strip is frame block * TILE + c.
        n: frames.
    """

    values: np.ndarray
    rows: np.ndarray
    blocks: np.ndarray
    n: int

    @property
    def pairs(self) -> int:
        """Number of used pixels."""
        return int(np.isfinite(self.values).sum())


def all_strips(dataset: Dataset) -> Strips:
    """Every pixel of a Dataset."""
    rows, columns = tile_index(dataset.n)
    count = len(dataset.phi)
    frames = np.minimum(rows[:, None] * TILE + np.arange(TILE, dtype=np.int32), dataset.n - 1)
    return Strips(np.asarray(dataset.tiles), np.tile(frames, (count, 1, 1)), np.tile(columns, (count, 1)), dataset.n)


def dealt_strips(dataset: Dataset, rows: list[np.ndarray], height: int) -> Strips:
    """The pairs (i, j), i < j, of chosen early frames i.

    Args:
        rows: for each map its chosen early frames, ascending; may be empty. height: rows of a strip.
    """
    count, n = len(dataset.phi), dataset.n
    width = -(-n // TILE) * TILE
    strips: list[list[tuple[np.ndarray, np.ndarray, int]]] = [[] for _ in range(count)]
    for angle in range(count):
        dense = np.full((n, width), np.nan, dtype=dataset.tiles.dtype)
        dense[:, :n] = dataset.map(angle)
        for start in range(0, len(rows[angle]), height):
            chosen = rows[angle][start : start + height]
            part = np.full((height, width), np.nan, dtype=dense.dtype)
            part[: len(chosen)] = np.where(np.arange(width) > chosen[:, None], dense[chosen], np.nan)
            frames = np.full(height, chosen[-1], dtype=np.int32)
            frames[: len(chosen)] = chosen
            for block in range(int(chosen[0]) // TILE, width // TILE):
                piece = part[:, block * TILE : (block + 1) * TILE]
                if np.isfinite(piece).any():
                    strips[angle].append((piece, frames, block))
    return _stacked(strips, height, n, dataset.tiles.dtype)


def padded(strips: Strips, length: int) -> Strips:
    """The same with ``length`` strips for each map; those that are added hold nothing."""
    missing = length - strips.values.shape[1]
    if missing < 0:
        raise ValueError(f"{strips.values.shape[1]} strips do not fit in {length}")
    edges = [(0, 0), (0, missing)]
    values = np.pad(strips.values, [*edges, (0, 0), (0, 0)], constant_values=np.nan)
    return Strips(values, np.pad(strips.rows, [*edges, (0, 0)]), np.pad(strips.blocks, edges), strips.n)


def _stacked(strips: list[list[tuple[np.ndarray, np.ndarray, int]]], height: int, n: int, dtype: np.dtype) -> Strips:
    """Arrays from lists of strips, one list for each map, padded to the longest."""
    length = max(1, *(len(part) for part in strips))
    values = np.full((len(strips), length, height, TILE), np.nan, dtype=dtype)
    rows, blocks = np.zeros((len(strips), length, height), dtype=np.int32), np.zeros((len(strips), length), dtype=np.int32)
    for angle, part in enumerate(strips):
        for k, (piece, frames, block) in enumerate(part):
            values[angle, k], rows[angle, k], blocks[angle, k] = piece, frames, block
    return Strips(values, rows, blocks, n)
