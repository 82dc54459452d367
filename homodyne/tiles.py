"""How a symmetric map is stored: the square tiles of its upper triangle, with NaN for every value that is not used.

A map c2(i, j) of n frames is cut into tiles of TILE x TILE. Only tiles with column index >= row index are kept, row by row
of tiles, so ``(n_tiles, TILE, TILE)`` holds all pairs i < j once. The diagonal, everything below it, the padding beyond frame
n and every masked pair are NaN: the weight of a value is 1 where it is finite and 0 where it is NaN, and no other mask exists.
"""

import numpy as np

TILE = 64


def tile_count(n: int) -> int:
    """Number of tiles of the upper triangle of an (n, n) map."""
    stripes = -(-n // TILE)
    return stripes * (stripes + 1) // 2


def tile_index(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every tile, each (n_tiles,) int32, in storage order."""
    rows, columns = np.triu_indices(-(-n // TILE))
    return rows.astype(np.int32), columns.astype(np.int32)


def first_tile_of_stripe(stripe: int, n: int) -> int:
    """Storage index of the diagonal tile of a stripe (a row of tiles)."""
    stripes = -(-n // TILE)
    return stripe * stripes - stripe * (stripe - 1) // 2


def pack_stripe(tiles: np.ndarray, stripe: int, rows: np.ndarray) -> None:
    """Store one stripe of a map.

    Args:
        tiles: (n_tiles, TILE, TILE) array to write into.
        stripe: index of the stripe; its first row is frame stripe * TILE.
        rows: (r, n) full-length rows of the map, r = TILE except in the last stripe. Columns left of the stripe are ignored.
    """
    n = rows.shape[1]
    start = stripe * TILE
    width = -(-n // TILE) * TILE
    padded = np.full((TILE, width - start), np.nan, dtype=tiles.dtype)
    padded[: rows.shape[0], : n - start] = rows[:, start:]
    padded[:, :TILE][np.tril_indices(TILE)] = np.nan
    first = first_tile_of_stripe(stripe, n)
    count = padded.shape[1] // TILE
    tiles[first : first + count] = padded.reshape(TILE, count, TILE).swapaxes(0, 1)


def pack(maps: np.ndarray, dtype: type | np.dtype | None = None) -> np.ndarray:
    """Tiles (..., n_tiles, TILE, TILE) of maps (..., n, n); of each map only i < j is read."""
    n = maps.shape[-1]
    flat = maps.reshape(-1, n, n)
    tiles = np.empty((len(flat), tile_count(n), TILE, TILE), dtype=dtype or maps.dtype)
    for packed, dense in zip(tiles, flat, strict=True):
        for stripe in range(-(-n // TILE)):
            pack_stripe(packed, stripe, dense[stripe * TILE : (stripe + 1) * TILE])
    return tiles.reshape(*maps.shape[:-2], *tiles.shape[1:])


def unpack(tiles: np.ndarray, n: int) -> np.ndarray:
    """The symmetric (n, n) map of (n_tiles, TILE, TILE) tiles; NaN on the diagonal and where masked."""
    width = -(-n // TILE) * TILE
    dense = np.full((width, width), np.nan, dtype=tiles.dtype)
    for tile, row, column in zip(tiles, *tile_index(n), strict=True):
        dense[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = tile
    dense = dense[:n, :n]
    lower = np.tril_indices(n, -1)
    dense[lower] = dense.T[lower]
    return dense
