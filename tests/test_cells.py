"""Cells keep every pair, their means and scatter are those of the pixels, and their sums differentiate correctly."""

from functools import cache

import numpy as np
import pytest

from homodyne.cells import AGE_EDGES, CellSums, bin_maps, lag_edges
from homodyne.tiles import pack

from . import factory
from .factory import LAMINAR, PHI, STATIC, dense_pairs, exact_maps, measured, noise_like, simulated

N = 60


@cache
def dataset():
    maps = exact_maps(LAMINAR) + noise_like(exact_maps(LAMINAR), 0.02, 8)
    maps[2, 11] = maps[2, :, 11] = np.nan
    maps[0, 20:25, 40:50] = maps[0, 40:50, 20:25] = np.nan
    return measured(maps, PHI)


def test_every_used_pair_is_in_one_cell():
    fine, coarse = bin_maps(dataset().tiles, N)
    for cells in (fine, coarse):
        np.testing.assert_array_equal(cells.weight.sum(axis=1), dataset().pairs)
    assert coarse.used < fine.used < 0.3 * dataset().pairs.sum()


def test_cell_means_equal_means_over_their_pairs():
    """Weight, mean of c2 and mean frame indices of every cell of lag and age, computed pair by pair."""
    fine, _ = bin_maps(dataset().tiles, N)
    early, late, used, values = dense_pairs(dataset())
    lag = np.searchsorted(lag_edges(N), late - early, side="right")
    age = np.searchsorted(AGE_EDGES, (late + early) / (2 * N - 2), side="right")
    for angle in range(len(PHI)):
        direct = []
        for cell in sorted(set(zip(lag[used[angle]].tolist(), age[used[angle]].tolist(), strict=True))):
            mask = (lag == cell[0]) & (age == cell[1]) & used[angle]
            direct.append([mask.sum(), *(v[mask].mean() for v in (values[angle] - 1.0, early, late))])
        found = np.stack([fine.weight, fine.mean, fine.early, fine.late], -1)[angle]
        np.testing.assert_allclose(found[found[:, 0] > 0], direct, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("truth", "mode"), [(LAMINAR, "laminar_flow"), (STATIC, "static")], ids=["laminar", "static"])
@pytest.mark.parametrize("sigma", [0.005, 0.02, 0.1])
def test_pixel_variance_is_the_noise_variance_to_three_percent(truth, mode, sigma):
    """Without a model; the decay inside a cell and the median over cells must both stay below that."""
    maps = exact_maps(truth, PHI, 200)
    noise = noise_like(maps, sigma, 5)
    early, late = np.triu_indices(200, 1)
    fine, coarse = bin_maps(pack(maps + noise), 200)
    assert fine.pixel_variance == pytest.approx(np.var(noise[:, early, late]), rel=0.03)
    assert coarse.pixel_variance == fine.pixel_variance


def test_lag_edges_are_single_lags_first_and_then_grow_by_a_quarter():
    edges = lag_edges(500)
    np.testing.assert_array_equal(edges[:5], [1, 2, 3, 4, 5])
    assert edges[-1] == 500
    steps = np.diff(edges)
    assert np.all(steps >= 1)
    assert np.all(edges[1:] <= np.maximum(edges[:-1] + 1, 1.25 * edges[:-1]))


@cache
def cell_sums():
    fine, _ = bin_maps(dataset().tiles, N)
    model = factory.problem(dataset()).model
    u = model.coordinates_of(LAMINAR)
    return CellSums(fine, dataset().phi), model, u + 0.05 * np.cos(np.arange(len(u)))


def test_derivatives_of_cell_sums_equal_finite_differences():
    kernel, model, u = cell_sums()
    found = kernel(model, u, 2)
    for k, axis in enumerate(np.eye(len(u))):
        plus, minus = (kernel(model, u + sign * 1e-5 * axis, 2) for sign in (1, -1))
        for value, slope in ((plus.h - minus.h, found.d), ((plus.hh - minus.hh) / 2, found.hd), (plus.hy - minus.hy, found.yd)):
            np.testing.assert_allclose(value / 2e-5, slope[:, k], atol=1e-7 * np.abs(slope).max())


def test_gauss_newton_sums_of_cells_are_products_of_their_slopes():
    """dd = D'D has rank at most the number of cells, and its diagonal bounds (sum w h dh)^2 by Cauchy and Schwarz."""
    kernel, model, u = cell_sums()
    found = kernel(model, u, 2)
    np.testing.assert_allclose(found.dd, found.dd.swapaxes(1, 2), rtol=1e-12)
    assert np.linalg.eigvalsh(found.dd).min() > -1e-9 * np.linalg.eigvalsh(found.dd).max()
    diagonal = np.einsum("fpp->fp", found.dd)
    assert np.all(found.hd**2 <= found.hh[:, None] * diagonal * (1 + 1e-12))
    assert np.all(found.d**2 <= found.w[:, None] * diagonal * (1 + 1e-12))


def test_a_batch_of_points_gives_the_sums_of_each():
    kernel, model, u = cell_sums()
    points = np.stack([u, u + 0.1, u - 0.2])
    batch = kernel.batch(model, points)
    for k, point in enumerate(points):
        single = kernel(model, point, 2)
        for name in ("w", "y", "yy", "h", "hh", "hy"):
            np.testing.assert_allclose(getattr(batch, name)[k], getattr(single, name), rtol=1e-12, atol=1e-12)


def test_the_model_in_cells_is_the_mean_of_the_model_over_their_pixels():
    """Exact data binned: chi2 of the truth on cells is far below one unit of a noise of 0.02 per pixel."""
    exact = simulated(LAMINAR, sigma=0.0)
    fine, _ = bin_maps(exact.tiles, N)
    model = factory.problem(exact).model
    sums = CellSums(fine, exact.phi)(model, model.coordinates_of(LAMINAR), 2)
    chi2 = np.sum(sums.yy - 2 * 0.15 * sums.hy + 0.15**2 * sums.hh) / 0.02**2
    assert chi2 < 0.05 * fine.used
