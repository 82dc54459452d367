"""Sums over the pixels that a posterior needs, inside compiled code, with their derivatives by the states of the frames.

    S_h = sum h,     S_hh = sum h^2,     S_hy = sum h y,        y = c2 - LEVEL, over the used pixels of each map

With d_s = dh/d(x_s,j - x_s,i) their derivatives by the state of a frame are row and column sums of d_s, 2 h d_s and y d_s: n-vectors.
Everything that depends on parameters comes after that by the chain rule in one dimension, so nothing of the size of a map is kept.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass

from .pairsums import LEVEL, Pair
from .strips import Strips
from .tiles import TILE


@partial(register_dataclass, data_fields=("values", "rows", "blocks"), meta_fields=("width",))
class Pixels:
    """Strips as arguments of compiled code.

    values: (P, T, R, TILE), NaN = not used. rows: (P, T, R). blocks: (P, T). width: frames, rounded up to whole tiles.
    """

    def __init__(self, values, rows, blocks, width: int) -> None:
        self.values, self.rows, self.blocks, self.width = values, rows, blocks, width


def pixels_of(strips: Strips) -> Pixels:
    """Strips on the device."""
    return Pixels(jnp.asarray(strips.values), jnp.asarray(strips.rows), jnp.asarray(strips.blocks), -(-strips.n // TILE) * TILE)


def fixed_sums(strips: Strips) -> np.ndarray:
    """(P, 3) sums of 1, y and y^2 over the used pixels."""
    y = strips.values.astype(np.float64) - LEVEL
    return np.stack([np.isfinite(y).sum(axis=(1, 2, 3)), np.nansum(y, axis=(1, 2, 3)), np.nansum(y * y, axis=(1, 2, 3))], axis=1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def decay_sums(pair: Pair, x: jax.Array, pixels: Pixels) -> jax.Array:
    """(P, 3) S_h, S_hh, S_hy at states x (P, m, n)."""
    return _sums(pair, x, pixels)


def _forward(pair: Pair, x: jax.Array, pixels: Pixels):
    totals, slopes = _sums_and_slopes(pair, x, pixels)
    return totals, (slopes[..., : x.shape[-1]], pixels)


def _backward(pair: Pair, kept, cotangent: jax.Array):
    slopes, pixels = kept
    return jnp.einsum("pk,pmkn->pmn", cotangent, slopes), jax.tree.map(_no_tangent, pixels)


decay_sums.defvjp(_forward, _backward)


def _no_tangent(array: jax.Array):
    kind = array.dtype if jnp.issubdtype(array.dtype, jnp.floating) else jax.dtypes.float0
    return np.zeros(array.shape, kind) if kind == jax.dtypes.float0 else jnp.zeros_like(array)


def _sums(pair: Pair, x: jax.Array, pixels: Pixels) -> jax.Array:
    """Totals (P, 3)."""
    return jax.lax.map(lambda item: _map_sums(pair, False, *item)[0], _by_map(x, pixels))


def _sums_and_slopes(pair: Pair, x: jax.Array, pixels: Pixels) -> tuple[jax.Array, jax.Array]:
    """Totals (P, 3) and their derivatives (P, m, 3, width) by the states."""
    return jax.lax.map(lambda item: _map_sums(pair, True, *item), _by_map(x, pixels))


def _by_map(x: jax.Array, pixels: Pixels) -> tuple[jax.Array, ...]:
    states = jnp.pad(x, [(0, 0), (0, 0), (0, pixels.width - x.shape[-1])], mode="edge")
    return states, pixels.values, pixels.rows, pixels.blocks


def _map_sums(pair: Pair, slopes: bool, x: jax.Array, values: jax.Array, rows: jax.Array, blocks: jax.Array):
    count, width = x.shape

    def step(carry, strip):
        value, row, block = strip
        late = jax.lax.dynamic_slice_in_dim(x, block * TILE, TILE, axis=1)
        early = x[:, row]
        used = ~jnp.isnan(value)
        y = jnp.where(used, value.astype(jnp.float64) - LEVEL, 0.0)
        difference = tuple(late[s][None, :] - early[s][:, None] for s in range(count))
        images = _images(pair, difference, y, used, slopes=slopes)
        # Without the barrier XLA would evaluate pair again inside every reduction below.
        names, held = list(images), jax.lax.optimization_barrier(tuple(images.values()))
        along = {name: image @ jnp.ones(TILE) for name, image in zip(names, held, strict=True)}
        totals = carry[0] + jnp.stack([along[name].sum() for name in ("h", "hh", "hy")])
        if not slopes:
            return (totals,), None
        down = {name: jnp.ones(image.shape[0]) @ image for name, image in zip(names, held, strict=True)}
        wanted = _wanted(pair)
        by_row = jnp.stack([jnp.stack([-factor * along[name] for factor, name in state]) for state in wanted])
        by_column = jnp.stack([jnp.stack([factor * down[name] for factor, name in state]) for state in wanted])
        return (totals, carry[1].at[:, :, row].add(by_row), carry[2].at[block].add(by_column)), None

    empty = (jnp.zeros((count, 3, width)), jnp.zeros((width // TILE, count, 3, TILE))) if slopes else ()
    result = jax.lax.scan(step, (jnp.zeros(3), *empty), (values, rows, blocks))[0]
    if not slopes:
        return result[0], None
    totals, early, late = result
    return totals, early + jnp.moveaxis(late, 0, 2).reshape(early.shape)


def _images(pair: Pair, difference: tuple[jax.Array, ...], y: jax.Array, used: jax.Array, *, slopes: bool) -> dict[str, jax.Array]:
    """h, h^2, h y, and for each state whose partial is not -h: d, h d, y d; zero where not used."""
    h = jnp.where(used, pair(difference), 0.0)
    images = {"h": h, "hh": h * h, "hy": h * y}
    if not slopes:
        return images
    for s, exponential in enumerate(pair.exponential):
        if not exponential:
            tangent = tuple(jnp.ones_like(part) if k == s else jnp.zeros_like(part) for k, part in enumerate(difference))
            d = jnp.where(used, jax.jvp(pair, (difference,), (tangent,))[1], 0.0)
            images |= {f"d{s}": d, f"hd{s}": h * d, f"yd{s}": y * d}
    return images


def _wanted(pair: Pair) -> list[list[tuple[float, str]]]:
    """For each state, the images of dS_h, dS_hh and dS_hy with their factors."""
    wanted = []
    for s, exponential in enumerate(pair.exponential):
        sign, names = (-1.0, ("h", "hh", "hy")) if exponential else (1.0, (f"d{s}", f"hd{s}", f"yd{s}"))
        wanted.append([(sign * factor, name) for factor, name in zip((1.0, 2.0, 1.0), names, strict=True)])
    return wanted
