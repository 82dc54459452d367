"""The sums of a posterior equal those of the fit, whatever the packing, with exact derivatives and no Jacobian of pixels."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homodyne.cmc.shards import deal
from homodyne.data import Dataset
from homodyne.decay_sums import Pixels, decay_sums, fixed_sums, pixels_of
from homodyne.strips import all_strips, dealt_strips, padded
from homodyne.tiles import TILE

from . import factory
from .factory import LAMINAR, STATIC, exact_maps, measured, noise_like

N = 70
"""Frames: two stripes of tiles, the last nearly empty."""
PHI = (-40.0, 25.0)
KINDS = {"static": ("static", {}), "gap_average": ("laminar_flow", {}), "homodyne_v2": ("laminar_flow", {"shear_kernel": "homodyne_v2"})}


@cache
def dataset(kind: str) -> Dataset:
    """Two maps with noise, a masked frame in one and masked pixels in both."""
    maps = exact_maps(STATIC if kind == "static" else LAMINAR, PHI, N)
    maps = maps + noise_like(maps, 0.02, 3)
    maps[0, 17] = maps[0, :, 17] = np.nan
    hidden = np.triu(np.random.default_rng(4).random(maps.shape) < 0.1, 1)
    maps[hidden | hidden.swapaxes(1, 2)] = np.nan
    return measured(maps, PHI)


@cache
def bound(kind: str):
    """The Problem of a kind and a point away from its minimum."""
    name, settings = KINDS[kind]
    made = factory.problem(dataset(kind), factory.option("mode", name, **settings))
    u = made.model.coordinates_of(STATIC if kind == "static" else LAMINAR)
    return made, u + 0.03 * np.cos(np.arange(len(u)))


@jax.jit
def sums_and_slopes(model, u, pixels):
    def sums(v):
        return decay_sums(model.pair, jax.vmap(model.states, (None, 0))(v, jnp.array(PHI)), pixels)

    return sums(u), jax.jacrev(sums)(u)


def sums_at(kind: str, strips) -> tuple[np.ndarray, ...]:
    """Sums (P, 3) and their derivatives (P, 3, p) by reverse mode through decay_sums."""
    made, u = bound(kind)
    return tuple(np.asarray(part) for part in sums_and_slopes(made.model, u, pixels_of(strips)))


@cache
def whole(kind: str) -> tuple[np.ndarray, ...]:
    return sums_at(kind, all_strips(dataset(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_sums_and_their_derivatives_are_those_of_the_fit(kind):
    made, u = bound(kind)
    expected = made.source.sums(made.model, u, 1)
    found, slopes = whole(kind)
    np.testing.assert_allclose(found, np.stack([expected.h, expected.hh, expected.hy], 1), rtol=1e-12)
    # The fit leaves out the factor 2 of d(h^2).
    exact = np.stack([expected.d, 2 * expected.hd, expected.yd], 1)
    np.testing.assert_allclose(slopes, exact, rtol=1e-9, atol=1e-11 * np.abs(exact).max())
    fixed = fixed_sums(all_strips(dataset(kind)))
    np.testing.assert_allclose(fixed, np.stack([expected.w, expected.y, expected.yy], 1), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_equal_finite_differences_of_sums_written_out_over_pairs(kind):
    made, u = bound(kind)
    early, late = np.triu_indices(N, 1)
    values = np.stack([dataset(kind).map(k)[early, late] for k in range(len(PHI))])
    used, y = np.isfinite(values), np.nan_to_num(values.astype(float) - 1.0)

    @jax.jit
    def dense(v):
        h = jnp.stack(factory.dense_decay(made.model, dataset(kind), v)) * used
        return jnp.stack([h.sum(1), (h * h).sum(1), (h * y).sum(1)], 1)

    found, slopes = whole(kind)
    np.testing.assert_allclose(found, dense(u), rtol=1e-12)
    numeric = np.stack([(dense(u + e) - dense(u - e)) / 2e-5 for e in 1e-5 * np.eye(len(u))], -1)
    np.testing.assert_allclose(slopes, numeric, rtol=1e-6, atol=1e-7 * np.abs(numeric).max())


@pytest.mark.parametrize("strategy", ["stride", "random", "contiguous"])
def test_sums_of_all_shards_add_up_to_those_of_all_pixels(strategy):
    kind = "gap_average"
    shards = deal(dataset(kind), 5, strategy, seed=1)
    parts = [sums_at(kind, shard) for shard in shards]
    for found, expected in zip(zip(*parts, strict=True), whole(kind), strict=True):
        np.testing.assert_allclose(np.sum(found, axis=0), expected, rtol=1e-11, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_allclose(sum(fixed_sums(shard) for shard in shards), fixed_sums(all_strips(dataset(kind))), rtol=1e-12)


def test_strips_that_hold_nothing_and_the_order_of_strips_change_nothing():
    kind = "gap_average"
    strips = dealt_strips(dataset(kind), [np.arange(N)] * 2, 8)
    turned = type(strips)(strips.values[:, ::-1], strips.rows[:, ::-1], strips.blocks[:, ::-1], strips.n)
    for other in (padded(strips, strips.values.shape[1] + 3), turned):
        for found, expected in zip(sums_at(kind, other), whole(kind), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12 * np.abs(expected).max())


def test_a_map_stored_in_single_precision_is_summed_in_double():
    kind = "gap_average"
    strips = all_strips(dataset(kind))
    single = type(strips)(strips.values.astype(np.float32), strips.rows, strips.blocks, strips.n)
    double = type(strips)(single.values.astype(np.float64), strips.rows, strips.blocks, strips.n)
    for found, expected in zip(sums_at(kind, single), sums_at(kind, double), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(fixed_sums(single), fixed_sums(double))


def sizes(jaxpr) -> list[int]:
    """Elements of every array that a jaxpr makes, those of the bodies of its loops included."""
    found = []
    for equation in jaxpr.eqns:
        found += [int(np.prod(variable.aval.shape)) for variable in equation.outvars]
        for value in equation.params.values():
            for part in value if isinstance(value, (tuple, list)) else (value,):
                inner = part.jaxpr if hasattr(part, "jaxpr") else part
                if hasattr(inner, "eqns"):
                    found += sizes(inner)
    return found


def test_the_gradient_keeps_no_array_of_pixels_times_parameters():
    """Traced and compiled, not run, for 6 maps of 640 frames and 7 parameters: beside one map at a time it holds next to nothing."""
    _, u = bound("gap_average")
    n, count = 640, 6
    model = factory.job("laminar_flow").mode.bind(factory.times(n), factory.Q, factory.GAP, np.zeros(count))
    strips = n // TILE * (n // TILE + 1) // 2
    values = jax.ShapeDtypeStruct((count, strips, TILE, TILE), np.float64)
    rows, blocks = jax.ShapeDtypeStruct((count, strips, TILE), np.int32), jax.ShapeDtypeStruct((count, strips), np.int32)

    def total(v, values, rows, blocks):
        states = jax.vmap(model.states, (None, 0))(v, jnp.zeros(count))
        return decay_sums(model.pair, states, Pixels(values, rows, blocks, n)).sum()

    pixels = int(np.prod(values.shape))
    made = sizes(jax.make_jaxpr(jax.grad(total))(u, values, rows, blocks).jaxpr)
    # Zero derivatives by the pixels themselves, which no caller asks for, are all that is as large as a map.
    assert {size for size in made if size > pixels // count} == {pixels}
    memory = jax.jit(jax.grad(total)).lower(u, values, rows, blocks).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2 * 8 * pixels / count
