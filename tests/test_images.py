"""Images of derivatives, residuals and blocks equal dense sums by their definition, however frames are binned and work is cut up."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from homodyne.covariance import fitted_points, shot_gram
from homodyne.goodness import lag_age_blocks
from homodyne.images import MOST_BINS, Bins, Point, derivative_images, overlaps, score_images
from homodyne.mode.flow import Decay
from homodyne.optimizer.loss import LOSSES
from homodyne.pairsums import PixelSums
from homodyne.problem import PixelSource
from homodyne.tiles import TILE, pack

from .test_pairsums import KINDS, N, bound, dataset, dense, pairs_of, stored_pairs

EARLY, LATE = np.triu_indices(N, 1)
SHOT = 0.3 + 0.2 * np.cos(np.arange(N))
OFFSET, CONTRAST = 1.002, 0.16
LOSS, SCALE = LOSSES["cauchy"].weight, 0.015
SOURCES = ("float32", "weighted", "robust")


def straddling() -> Bins:
    """Bins of 1 to 7 frames, one of them across each border of tiles."""
    size = np.array([1, 2, 3, 5, 7] * 8)
    size = size[: np.searchsorted(np.cumsum(size), N) + 1]
    size[-1] -= size.sum() - N
    edges = np.cumsum(size)
    assert not {TILE, 2 * TILE} & set(edges.tolist())
    return Bins(np.repeat(np.arange(len(size)), size), size)


def image(values: np.ndarray, bins: Bins) -> np.ndarray:
    """Symmetric (b, b) sums over bins of the pairs (pairs,)."""
    total = np.zeros((len(bins.size),) * 2)
    np.add.at(total, (bins.of[EARLY], bins.of[LATE]), values)
    return total + total.T


def assert_close(found, expected, tolerance=1e-10) -> None:
    """To ``tolerance`` of the largest element of each image."""
    size = np.abs(expected).max(axis=(-2, -1), keepdims=True)
    assert np.all(np.abs(found - expected) <= tolerance * np.where(size > 0, size, 1.0))


class Case:
    """One angle of a kind with its kernel, and the same things densely."""

    def __init__(self, kind: str, source: str = "plain", angle: int = 0, **cut) -> None:
        made, self.u, x, dx = bound(kind)
        self.pair, self.depends, self.angle = made.model.pair, made.model.depends, angle
        tiles, weights = dataset(kind).tiles, np.ones((2, N, N))
        if source == "float32":
            tiles = tiles.astype(np.float32)
        if source == "weighted":
            weights = np.random.default_rng(6).uniform(0.2, 3.0, weights.shape)
        self.kernel = PixelSums(tiles, N, **{"weights": pack(weights) if source == "weighted" else None, "threads": 1} | cut)
        self.robust = (LOSS, SCALE) if source == "robust" else None
        self.point = Point(x[angle], dx[angle], OFFSET, CONTRAST)
        c2 = stored_pairs(tiles)[angle]
        self.used = np.isfinite(c2)
        h, jacobian = dense(kind)
        self.h = np.where(self.used, h[angle], 0.0)
        self.r = np.where(self.used, c2 - OFFSET - CONTRAST * h[angle], 0.0)
        self.w = np.where(self.used, pairs_of(weights)[angle], 0.0)
        if source == "robust":
            self.w = self.w * np.asarray(LOSS(self.r / SCALE))
        self.fitted = np.array([*CONTRAST * jacobian[angle].T, np.ones_like(h[angle]), h[angle]]) * self.used

    @property
    def arguments(self):
        return self.kernel, self.pair, self.depends, self.angle, self.point

    def images(self, bins: Bins, shot=SHOT):
        return derivative_images(*self.arguments, bins, shot, robust=self.robust)


def rival_of(case: Case) -> tuple[Decay, Point]:
    """Another fitted map of the same angle."""
    return Decay(0), Point(1.1 * case.point.x[:1] + 0.3, case.point.dx[:1], 0.999, 0.17)


@pytest.mark.parametrize(("kind", "source"), [*((kind, "plain") for kind in KINDS), *(("gap_average", source) for source in SOURCES)])
def test_images_of_single_frames_equal_weighted_derivatives(kind, source):
    for angle in (0, 1):
        case = Case(kind, source, angle)
        single = Bins.uniform(N, 1)
        assert_close(case.images(single).binned, np.array([image(case.w * row, single) for row in case.fitted]))
        assert_close(
            score_images(*case.arguments, single, case.robust), np.array([image(case.w * case.r * row, single) for row in case.fitted])
        )


@pytest.mark.parametrize("kind", KINDS)
def test_bins_across_tile_borders_sum_pairs_into_the_right_place(kind):
    """Offset and contrast exactly; derivatives by u as the sum of derivatives by a state times the difference of mean slopes."""
    case, bins = Case(kind, "weighted"), straddling()
    x, mean = case.point.x, bins.mean(case.point.dx)
    difference = tuple(x[:, LATE] - x[:, EARLY])
    change = mean[:, :, bins.of[LATE]] - mean[:, :, bins.of[EARLY]]
    slopes = []
    for s in range(len(x)):
        tangent = tuple(np.full_like(d, float(k == s)) for k, d in enumerate(difference))
        slopes.append(np.where(case.used, np.asarray(jax.jvp(case.pair, (difference,), (tangent,))[1]), 0.0))
    rows = np.concatenate([CONTRAST * np.einsum("sc,spc->pc", slopes, change), case.fitted[-2:]])
    for found, weight in ((case.images(bins).binned, case.w), (score_images(*case.arguments, bins), case.w * case.r)):
        assert_close(found, np.array([image(weight * row, bins) for row in rows]))


@pytest.mark.parametrize("kind", ["static", "gap_average"])
def test_totals_equal_sums_over_used_pairs(kind):
    """Residuals, N times the variance of a pixel as docs/noise.md writes it, its speckle part, and neighbours in a tile column."""
    case = Case(kind, angle=1)
    found = case.images(straddling())
    b, h, s_i, s_j = CONTRAST, case.h, SHOT[EARLY], SHOT[LATE]
    variance = (b + s_i) * (b + s_j) + (b * h) ** 2 + 4 * b**3 * h - 4 * b**3 * h**2 + 2 * b**3 * h**3
    variance += b**2 * (2 * h - h**2) * (s_i + s_j) + b * h * s_i * s_j
    assert found.pairs == case.used.sum()
    for value, expected in (
        (found.squares, case.r @ case.r),
        (found.variance, variance @ case.used),
        (found.speckle, b**2 * (1 + h**2) @ case.used),
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-11)
    r, whole, used = np.zeros((N, N)), np.zeros((N, N)), np.zeros((N, N), dtype=bool)
    r[EARLY, LATE], whole[EARLY, LATE], used[EARLY, LATE] = case.r, case.h, case.used
    both = used[:, 1:] & used[:, :-1] & ((np.arange(1, N) % TILE) != 0)
    x = case.point.x
    after = np.asarray(case.pair(tuple(x[:, 1:] - x[:, :-1])))
    products = (r[:, 1:] * r[:, :-1], 0.5 * (r[:, 1:] ** 2 + r[:, :-1] ** 2), np.broadcast_to(after, both.shape))
    products += (whole[:, 1:] * whole[:, :-1], 0.5 * (whole[:, 1:] ** 2 + whole[:, :-1] ** 2), np.ones(both.shape))
    np.testing.assert_allclose(found.neighbours, [product[both].sum() for product in products], rtol=1e-10)


@pytest.mark.parametrize(("kind", "source"), [("static", "plain"), ("gap_average", "weighted")])
def test_exact_shot_noise_equals_its_sum_over_pairs(kind, source):
    """sum over pairs of w^2 s_i s_j (1 + b h) G_a G_b, for both angles."""
    made, u, _, _ = bound(kind)
    weights = None if source == "plain" else Case(kind, source).kernel.weights
    pixels = PixelSource(dataset(kind), threads=1, tiles_at_once=1, weights=weights)
    shot, fit = np.array([SHOT, 2 * SHOT]), replace(made.evaluate(u), contrast=np.full(2, CONTRAST))
    found = shot_gram(pixels.shot_moments(made.model, fit, shot), fit)
    for angle in (0, 1):
        case = Case(kind, source, angle)
        light = case.w**2 * shot[angle, EARLY] * shot[angle, LATE] * (1 + CONTRAST * case.h)
        expected = (case.fitted * light) @ case.fitted.T
        size = np.sqrt(np.outer(np.diagonal(expected), np.diagonal(expected)))
        np.testing.assert_allclose(found[angle] / size, expected / size, atol=1e-11)


def departures(pair, difference) -> np.ndarray:
    """(3, pairs) 2 g1 (1 - g1), 2 g1 (g1 of a tenth of the exponent - g1) and -X ln X h, in NumPy."""
    g1, x = np.asarray(pair.field(difference)), np.asarray(difference[0])
    tame = np.where(x > 0, x, 1.0)
    return np.array([2 * g1 * (1 - g1), 2 * g1**2 * (np.exp(0.45 * x) - 1), -(g1**2) * x * np.log(tame)])


@pytest.mark.parametrize("kind", ["static", "gap_average"])
def test_extras_equal_dense_sums(kind):
    """Drift, rival and blocks: unweighted sums with derivatives and residuals, shot noise of the blocks, and their images."""
    case, bins, blocks = Case(kind), straddling(), lag_age_blocks(N).classes
    pair, other = rival_of(case)
    rival = other.offset + other.contrast * np.asarray(pair(tuple(other.x[:, LATE] - other.x[:, EARLY])))
    along = np.linspace(-1, 1, N)
    block = blocks.block[blocks.lag[LATE - EARLY], EARLY + LATE]
    difference = tuple(case.point.x[:, LATE] - case.point.x[:, EARLY])
    lead = departures(case.pair, difference)
    extras = [
        *(CONTRAST * lead * case.used),
        0.5 * (along[EARLY] + along[LATE]) * case.h,
        np.where(case.used, rival - OFFSET - CONTRAST * case.h, 0.0),
    ]
    extras = np.array([*extras, *((block == k) & case.used for k in range(blocks.count))])
    found = overlaps(*case.arguments, bins, SHOT, blocks, (pair, other))
    for value, expected, size in (
        (found.fitted, extras @ case.fitted.T, np.abs(extras) @ np.abs(case.fitted.T)),
        (found.score, extras @ case.r, np.abs(extras) @ np.abs(case.r)),
    ):
        assert np.all(np.abs(value - expected) <= 1e-11 * size)
    light = SHOT[EARLY] * SHOT[LATE] * (1 + CONTRAST * case.h)
    assert np.isnan(found.shot[:5]).all()
    np.testing.assert_allclose(found.shot[5:], extras[5:] @ light, rtol=1e-11)
    of = np.array([along[bins.of == k].mean() for k in range(len(bins.size))])
    middle = bins.mean(case.point.x)
    extras[:3] = CONTRAST * departures(case.pair, tuple(np.abs(middle[:, bins.of[LATE]] - middle[:, bins.of[EARLY]]))) * case.used
    extras[3] = 0.5 * (of[bins.of[EARLY]] + of[bins.of[LATE]]) * case.h
    assert_close(found.binned, np.array([image(row, bins) for row in extras]))


def test_nothing_depends_on_chunks_or_threads():
    single, blocks = Bins.uniform(N, 1), lag_age_blocks(N).classes
    results = []
    for cut in ({"threads": 1}, {"threads": 2}, {"threads": 1, "tiles_at_once": 4}):
        case = Case("gap_average", "weighted", 1, **cut)
        found, more = case.images(single), overlaps(*case.arguments, single, SHOT, blocks, rival_of(case))
        totals = np.array([found.squares, found.variance, found.speckle, found.pairs, *found.neighbours])
        results.append([found.binned, totals, more.binned, more.fitted, more.score, more.shot])
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            np.testing.assert_allclose(second, first, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("duration", [0.0, 1e-3, 1.0, 1e3])
def test_bins_are_consecutive_and_not_more_than_memory_allows(duration):
    for n in (3, 60, 1500):
        x = duration * np.array([np.linspace(0, 1, n) ** 2, np.linspace(0, 1, n) ** 0.5])
        bins = Bins.by_change(x, Decay(2))
        assert bins.of[0] == 0
        assert set(np.diff(bins.of).tolist()) <= {0, 1}
        np.testing.assert_array_equal(bins.size, np.bincount(bins.of))
        assert len(bins.size) <= MOST_BINS
        np.testing.assert_allclose(bins.mean(x)[0], [x[0, bins.of == k].mean() for k in range(len(bins.size))])


def test_fitted_points_are_those_of_the_evaluation():
    made, u, x, dx = bound("gap_average")
    fit = made.evaluate(u)
    for k, point in enumerate(fitted_points(made, fit)):
        np.testing.assert_allclose(point.x, x[k], rtol=1e-12)
        np.testing.assert_allclose(point.dx, dx[k], rtol=1e-9, atol=1e-12)
        assert (point.offset, point.contrast) == (fit.offset[k], fit.contrast[k])
