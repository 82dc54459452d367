"""Tiles hold every pair once, and the pair sums equal dense sums with an automatic Jacobian, however the work is cut up."""

from dataclasses import fields, replace
from functools import cache

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homodyne import pairsums, problem
from homodyne.optimizer.loss import LOSSES
from homodyne.pairsums import LEVEL, PairSums, PixelSums, Reweighting
from homodyne.tiles import TILE, pack, tile_count, tile_index, unpack

from . import factory
from .factory import LAMINAR, STATIC, dense_decay, exact_maps, measured, noise_like

N = 130
"""Frames: three stripes of tiles, the last nearly empty."""
PHI = (-40.0, 25.0)
KINDS = {"static": ("static", {}), "gap_average": ("laminar_flow", {}), "homodyne_v2": ("laminar_flow", {"shear_kernel": "homodyne_v2"})}
SUMS = tuple(field.name for field in fields(PairSums))


@pytest.mark.parametrize("n", [3, 63, 64, 65, 130])
def test_unpacking_gives_back_every_pair_and_nan_on_the_diagonal(n):
    dense = np.random.default_rng(n).normal(size=(2, n, n))
    dense = dense + dense.swapaxes(1, 2)
    dense[:, 0, n - 1] = dense[:, n - 1, 0] = np.nan
    tiles = pack(dense)
    assert tiles.shape == (2, tile_count(n), TILE, TILE)
    expected = dense.copy()
    expected[:, np.arange(n), np.arange(n)] = np.nan
    np.testing.assert_array_equal([unpack(t, n) for t in tiles], expected)


@pytest.mark.parametrize("n", [3, 63, 64, 65, 130])
def test_tiles_are_nan_exactly_where_i_is_not_before_j(n):
    i, j = np.indices((n, n))
    tiles = pack((1000.0 * i + j).astype(np.float32))
    assert tiles.dtype == np.float32
    for tile, row, column in zip(tiles, *tile_index(n), strict=True):
        early, late = np.ogrid[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        inside = (early < late) & (late < n)
        np.testing.assert_array_equal(np.isfinite(tile), inside)
        np.testing.assert_array_equal(tile[inside], (1000.0 * early + late)[inside])


@cache
def dataset(kind: str):
    """Two maps with noise, a masked frame in one and masked pixels in both."""
    truth = STATIC if kind == "static" else LAMINAR
    maps = exact_maps(truth, PHI, N)
    maps = maps + noise_like(maps, 0.02, 3)
    maps[0, 17] = maps[0, :, 17] = np.nan
    hidden = np.triu(np.random.default_rng(4).random(maps.shape) < 0.1, 1)
    maps[hidden | hidden.swapaxes(1, 2)] = np.nan
    return measured(maps, PHI)


@cache
def bound(kind: str):
    """The Problem of a kind at a point away from its minimum: problem, u, states and their derivatives."""
    name, settings = KINDS[kind]
    made = factory.problem(dataset(kind), factory.option("mode", name, **settings))
    truth = dataset("static" if kind == "static" else "gap_average")
    assert truth.n == N
    u = made.model.coordinates_of(STATIC if kind == "static" else LAMINAR)
    u = u + 0.03 * np.cos(np.arange(len(u)))
    x, dx = problem.states_and_slopes(made.model, made.source.dataset.phi, u, slopes=True)
    return made, u, np.asarray(x), np.asarray(dx)


@cache
def dense(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """h (P, pairs) and its Jacobian (P, pairs, p) by automatic differentiation of the pixelwise model over the parameters."""
    made, u, _, _ = bound(kind)

    def h(v):
        return jnp.stack(dense_decay(made.model, dataset(kind), v))

    value, jacobian = jax.jit(lambda v: (h(v), jax.jacfwd(h)(v)))(u)
    return np.asarray(value), np.asarray(jacobian)


def dense_sums(c2: np.ndarray, weight: np.ndarray, h: np.ndarray, jacobian: np.ndarray) -> dict[str, np.ndarray]:
    """The sums over pairs (P, pairs) as they are defined, and the sums of the absolute terms in the same order."""
    w = np.where(np.isfinite(c2), weight, 0.0)
    y = np.where(np.isfinite(c2), c2 - LEVEL, 0.0)
    terms = {"w": w, "y": w * y, "yy": w * y * y, "h": w * h, "hh": w * h * h, "hy": w * h * y}
    out = {name: (term.sum(-1), np.abs(term).sum(-1)) for name, term in terms.items()}
    for name, factor in {"d": w, "hd": w * h, "yd": w * y}.items():
        out[name] = tuple(np.einsum("fc,fcp->fp", f(factor), f(jacobian)) for f in (np.array, np.abs))
    out["dd"] = tuple(np.einsum("fc,fcp,fcq->fpq", w, f(jacobian), f(jacobian)) for f in (np.array, np.abs))
    return out


def assert_equal_sums(found: PairSums, expected: dict, tolerance: float = 1e-10) -> None:
    """To ``tolerance`` of the sum of absolute terms."""
    for name in SUMS:
        value, size = expected[name]
        assert np.all(np.abs(getattr(found, name) - value) <= tolerance * size), name


def pairs_of(array: np.ndarray) -> np.ndarray:
    """(P, pairs) values i < j of maps (P, n, n)."""
    return array[:, *np.triu_indices(array.shape[-1], 1)].astype(np.float64)


def stored_pairs(tiles) -> np.ndarray:
    return pairs_of(np.array([unpack(np.asarray(t), N) for t in tiles]))


@pytest.mark.parametrize("kind", KINDS)
def test_sums_equal_dense_sums_with_an_automatic_jacobian(kind):
    made, _, x, dx = bound(kind)
    found = PixelSums(dataset(kind).tiles, N, threads=1)(made.model.pair, made.model.depends, x, dx, 2)
    assert_equal_sums(found, dense_sums(stored_pairs(dataset(kind).tiles), 1.0, *dense(kind)))


def test_lower_orders_give_the_same_sums_without_the_rest():
    made, _, x, dx = bound("gap_average")
    kernel = PixelSums(dataset("gap_average").tiles, N, threads=1)
    found = kernel(made.model.pair, made.model.depends, x, dx, 2)
    for order, names in ((0, SUMS[:6]), (1, SUMS[:9])):
        partial = kernel(made.model.pair, made.model.depends, x, dx, order)
        for name in SUMS:
            assert (getattr(partial, name) is None) == (name not in names)
        for name in names:
            np.testing.assert_allclose(getattr(partial, name), getattr(found, name), rtol=1e-12, atol=1e-12)


def test_weighted_sums_of_single_precision_maps_equal_dense_sums():
    """float32 maps and weights are read as the float64 numbers that they are: no digit is lost in the sums."""
    made, _, x, dx = bound("gap_average")
    weights = np.random.default_rng(5).uniform(0.2, 3.0, (2, N, N)).astype(np.float32)
    tiles = dataset("gap_average").tiles.astype(np.float32)
    found = PixelSums(tiles, N, weights=pack(weights), threads=1)(made.model.pair, made.model.depends, x, dx, 2)
    assert_equal_sums(found, dense_sums(stored_pairs(tiles), pairs_of(weights), *dense("gap_average")))


def test_sums_do_not_depend_on_where_tiles_come_from_or_how_they_are_cut(tmp_path):
    """Memory, memory map and HDF5; 1 and 2 threads; chunks of 2, 3 and 4 tiles; 1 and 4 tiles at once: equal to 1e-12."""
    made, _, x, dx = bound("gap_average")
    tiles = dataset("gap_average").tiles
    scale = dense_sums(stored_pairs(tiles), 1.0, *dense("gap_average"))
    np.save(tmp_path / "tiles.npy", tiles)
    with h5py.File(tmp_path / "tiles.h5", "w") as file:
        sources = {"map": np.load(tmp_path / "tiles.npy", mmap_mode="r"), "file": file.create_dataset("tiles", data=tiles)}
        assert isinstance(sources["map"], np.memmap)
        first, *variants = (
            PixelSums(tiles, N, threads=1),
            PixelSums(sources["map"], N, threads=1),
            PixelSums(sources["file"], N, threads=1),
            PixelSums(sources["file"], N, threads=2),
            PixelSums(tiles, N, threads=2),
            PixelSums(tiles, N, threads=1, tiles_at_once=4),
        )
        assert {kernel.length for kernel in (first, *variants)} == {3, 2, 4}
        expected = first(made.model.pair, made.model.depends, x, dx, 2)
        for variant in variants:
            found = variant(made.model.pair, made.model.depends, x, dx, 2)
            for name in SUMS:
                difference = np.abs(getattr(found, name) - getattr(expected, name))
                assert np.all(difference <= 1e-12 * scale[name][1]), name


def test_padding_does_not_add_pairs_when_the_last_chunk_is_short():
    made, _, x, dx = bound("gap_average")
    kernel = PixelSums(dataset("gap_average").tiles, N, threads=1, tiles_at_once=4)
    assert tile_count(N) % kernel.length != 0
    assert kernel(made.model.pair, made.model.depends, x, dx, 0).w.sum() == dataset("gap_average").pairs.sum()


@pytest.mark.parametrize("loss", LOSSES)
def test_robust_sums_equal_sums_with_the_same_weights_given(loss):
    """Weights of residuals at the states, contrast and offset of the iterate before, made inside the pass."""
    made, u, x, dx = bound("gap_average")
    before = np.asarray(problem.states_and_slopes(made.model, dataset("gap_average").phi, u + 0.02, slopes=True)[0])
    contrast, offset, scale = np.array([0.14, 0.16]), np.array([0.01, -0.01]), 0.015
    found = PixelSums(dataset("gap_average").tiles, N, threads=1)(
        made.model.pair, made.model.depends, x, dx, 2, Reweighting(LOSSES[loss].weight, made.model.pair, before, contrast, offset, scale)
    )
    early, late = np.triu_indices(N, 1)
    h = np.exp(-(before[:, 0, late] - before[:, 0, early])) * np.sinc((before[:, 1, late] - before[:, 1, early]) / np.pi) ** 2
    c2 = stored_pairs(dataset("gap_average").tiles)
    z = ((c2 - LEVEL - offset[:, None] - contrast[:, None] * h) / scale) ** 2
    # Derivatives of scipy.optimize.least_squares' rho(z): the weight of a squared residual.
    rho = {"soft_l1": (1 + z) ** -0.5, "huber": np.where(z <= 1, 1.0, np.maximum(z, 1e-300) ** -0.5), "cauchy": 1 / (1 + z)}
    assert_equal_sums(found, dense_sums(c2, rho[loss], *dense("gap_average")))


def test_the_gradient_of_the_sums_equals_their_finite_difference():
    """d and hd are derivatives of h and hh/2, so the kernel agrees with itself at neighbouring parameters."""
    made, u, x, dx = bound("gap_average")
    kernel = PixelSums(dataset("gap_average").tiles, N, threads=1)
    sums = kernel(made.model.pair, made.model.depends, x, dx, 2)
    direction = np.linspace(0.5, 1.5, len(u))

    def at(step):
        moved = problem.states_and_slopes(made.model, dataset("gap_average").phi, u + step * direction, slopes=True)[0]
        return kernel(made.model.pair, made.model.depends, np.asarray(moved), dx, 0)

    plus, minus = at(1e-5), at(-1e-5)
    for value, slope in ((plus.h - minus.h, sums.d), ((plus.hh - minus.hh) / 2, sums.hd), (plus.hy - minus.hy, sums.yd)):
        np.testing.assert_allclose(value / 2e-5, slope @ direction, rtol=1e-6)


def test_a_second_measurement_of_equal_shape_compiles_nothing():
    """q, gap, times, angles and maps are data of the compiled pass, not part of it."""
    first = dataset("gap_average")
    maps = exact_maps(LAMINAR, (10.0, 70.0), N, q=0.01, gap=1e6, dt=0.02) + 0.01
    second = measured(maps, (10.0, 70.0), q=0.01, gap=1e6, dt=0.02)
    counts = []
    for data in (first, second):
        made = factory.problem(data, "laminar_flow")
        evaluation = made.evaluate(made.model.coordinates_of(LAMINAR))
        assert evaluation.finite
        counts.append((pairsums._chunk_sums._cache_size(), problem.states_and_slopes._cache_size()))
    assert counts[0] == counts[1]
    made = factory.problem(replace(second, phi=np.array([0.0, 1.0])), "laminar_flow")
    for step in (0.0, 0.1):
        made.evaluate(made.model.coordinates_of(LAMINAR) + step)
    assert (pairsums._chunk_sums._cache_size(), problem.states_and_slopes._cache_size()) == counts[0]
