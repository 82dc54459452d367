"""Covariance of a speckle map: the fast contractions equal the four-index sum that they stand for, and that equals nature."""

from dataclasses import replace

import numpy as np
import pytest

from homodyne import simulate
from homodyne.covariance import Counting, Frames, angle_sums, map_covariance
from homodyne.images import Bins
from homodyne.mode.flow import Decay
from homodyne.physics import two_time

from . import factory, speckle
from .factory import DT, GAP, Q, exact_maps, measured
from .speckle import pair_covariance

SIZES = ((1.0, 1.0), (1.77, 2.75))


def signed_field(n: int, reach: float = 9.0) -> np.ndarray:
    """g1 of decay and shear whose sinc passes two zeros."""
    difference = (0.15 * np.arange(n), np.linspace(0, reach, n))
    return np.asarray(Decay(2).field(tuple(np.abs(x[None, :] - x[:, None]) for x in difference)))


def random_images(count: int, n: int, seed: int = 0) -> np.ndarray:
    made = np.triu(np.random.default_rng(seed).normal(size=(count, n, n)), 1)
    return made + made.swapaxes(1, 2)


def exact_shot(images: np.ndarray, b: float, h: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Sum over i < j of s_i s_j (1 + b h) G_a G_b."""
    weight = 0.5 * np.outer(s, s) * (1 + b * h)
    return np.einsum("aij,ij,bij->ab", images, weight, images)


def fast(images, gam, b, s, r=1.0, r1=1.0) -> np.ndarray:
    return map_covariance(images, exact_shot(images, b, gam**2, s), Frames(gam, s, b, r, r1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shot", [0.0, 0.4])
@pytest.mark.parametrize("n", [3, 6, 8])
def test_contractions_equal_the_sum_over_four_indices(n, shot, size):
    gam = signed_field(n)
    assert n < 6 or gam.min() < -0.05
    s = shot * (1 + 0.3 * np.cos(np.arange(n)))
    images = random_images(4, n)
    pairs = images[:, *np.triu_indices(n, 1)]
    expected = pairs @ pair_covariance(gam, 0.3, s, *size) @ pairs.T
    found = fast(images, gam, 0.3, s, *size)
    scale = np.sqrt(np.outer(np.diagonal(expected), np.diagonal(expected)))
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-12)


def test_binned_shot_noise_stands_in_where_no_exact_sum_is_given():
    gam, s, images = signed_field(7), np.linspace(0.2, 0.6, 7), random_images(3, 7)
    without = map_covariance(images, np.full((3, 3), np.nan), Frames(gam, s, 0.3, 1.0, 1.0))
    np.testing.assert_allclose(without, fast(images, gam, 0.3, s), rtol=1e-12)


def test_no_image_has_no_covariance():
    found = fast(np.zeros((2, 7, 7)), signed_field(7), 0.3, np.full(7, 0.5))
    np.testing.assert_array_equal(found, 0.0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shot", [0.0, 0.05, 5.0])
def test_covariance_of_many_images_is_positive(shot, size):
    """More images than there are pairs: the whole matrix of the map, at a contrast that is common."""
    images = np.array([np.eye(12)[[i, j]].T @ np.eye(12)[[j, i]] for i, j in zip(*np.triu_indices(12, 1), strict=True)])
    values = np.linalg.eigvalsh(fast(images, signed_field(12), 0.2, np.full(12, shot), *size))
    assert values.min() > -1e-9 * values.max()


def test_frames_that_are_the_same_may_share_a_bin():
    """Speckle that does not change within pairs of frames: bins of two give the same numbers, whatever the images."""
    gam, s = signed_field(5), np.zeros(5)
    images = random_images(3, 10)
    twice, shot = np.kron(gam, np.ones((2, 2))), np.repeat(s, 2)
    whole = fast(images, twice, 0.3, shot)
    binned = images.reshape(3, 5, 2, 5, 2).sum(axis=(2, 4))
    found = map_covariance(binned, exact_shot(images, 0.3, twice**2, shot), Frames(gam, s / 2, 0.3, 1.0, 1.0))
    np.testing.assert_allclose(found, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("photons", "contrast"), [(None, 1 / 3), (1.0, 1 / 3)])
def test_formula_equals_the_scatter_of_simulated_maps(photons, contrast):
    """2000 maps of sheared speckle, 8 frames and 200 pixels, per-frame normalisation included; five images, 8 % (2.5 sd of each)."""
    truth = {"D0": 3e4, "alpha": 0.0, "D_offset": 0.0, "gamma_dot_t0": 4e-3, "beta": 0.0, "gamma_dot_t_offset": 0.0, "phi0": 0.0}
    n, repeats, pixels = 8, 2000, 200
    detector = {"noise": "speckle", "layers": None, "pixels": pixels, "photons": photons, "threads": 1}
    data = simulate(truth, [0.0] * repeats, q=Q, gap=GAP, dt=DT, frames=n, contrast=contrast, seed=7, **detector)
    early, late = np.triu_indices(n, 1)
    c2 = np.array([tile[0, :n, :n][early, late] for tile in data.tiles])
    i, j = np.indices((n, n))
    near, far = (np.abs(i - j) < 3) & (i != j), np.abs(i - j) >= 3
    images = np.array([near, far, near * (i + j - 7), i != j, random_images(1, n)[0]], dtype=float)
    made = factory.problem(measured(exact_maps(truth, (0.0,), n), (0.0,)))
    states = np.asarray(made.model.states(made.model.coordinates_of(truth), 0.0))
    gam = np.asarray(Decay(2).field(tuple(np.abs(x[None, :] - x[:, None]) for x in states)))
    np.testing.assert_allclose(gam**2, two_time(truth, 0.0, data.t, q=Q, gap=GAP, offset=0.0)[0], atol=1e-9)
    assert gam.min() < -0.1
    shot = np.zeros(n) if photons is None else np.full(n, (1 - 1 / pixels) / photons)
    spread = np.std(images[:, early, late] @ c2.T, axis=1)
    expected = np.sqrt(np.diagonal(fast(images, gam, contrast, shot)) / pixels)
    np.testing.assert_allclose(spread / expected, 1.0, atol=0.08)


@pytest.mark.parametrize(
    ("rate", "alpha", "photons"),
    [
        (6e4, 0.0, 5.0),
        (1.5e3, -0.3, 5.0),
        (1.5e3, -0.3, 0.5),
        (150.0, 0.0, np.inf),
        (3e3, -1.4, 5.0),
        (3e4, -1.4, np.inf),
        (1.2e4, 0.3, 5.0),
    ],
)
def test_errors_with_bins_are_those_of_single_frames(rate, alpha, photons):
    """Within 3 %, from one relaxation in 6 frames to one in several records, ageing fast or not at all."""
    n, truth = 520, {"D0": rate, "alpha": alpha, "D_offset": 0.0}
    maps = exact_maps(truth, (0.0,), n, contrast=0.2)
    made = speckle.problem(measured(maps, (0.0,)))
    evaluation = made.evaluate(made.model.coordinates_of(truth))
    bread = speckle.at(made, evaluation).information.bread
    counting = Counting(np.full((1, n), 1 / photons), np.array([1000.0]))
    binned = angle_sums(made, evaluation, counting)[0].covariance
    single = angle_sums(made, evaluation, counting, bins_of=lambda x, _: Bins.uniform(x.shape[-1], 1))[0].covariance
    found, expected = (np.sqrt(np.diagonal(bread @ part @ bread)) for part in (binned, single))
    np.testing.assert_allclose(found, expected, rtol=0.03)


@pytest.mark.parametrize("kernel", ["gap_average", "homodyne_v2"])
def test_the_square_of_the_field_is_the_pair(kernel):
    power = {"gap_average": 2, "homodyne_v2": 4}[kernel]
    difference = (np.linspace(0, 2, 400), np.linspace(0, 15, 400))
    field = np.asarray(Decay(power).field(difference))
    np.testing.assert_allclose(field**2, np.asarray(Decay(power)(difference)), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(np.asarray(Decay(0).field(difference[:1])) ** 2, np.asarray(Decay(0)(difference[:1])), rtol=1e-12)
    # sin x/x is negative between its first two zeros; its square, the reference's kernel, never.
    between = (difference[1] > 3.2) & (difference[1] < 6.2)
    assert np.all(field[between] < 0) if kernel == "gap_average" else np.all(field >= 0)


def test_participation_counts_independent_frames():
    """(tr S)^2/tr S^2: n without correlation, about the record over the correlation time otherwise."""
    data = measured(exact_maps(speckle.TRUTH, (0.0,), 100, contrast=0.2), (0.0,))
    made = speckle.problem(data)
    evaluation = made.evaluate(made.model.coordinates_of(speckle.TRUTH))
    h = (exact_maps(speckle.TRUTH, (0.0,), 100, contrast=1.0)[0] - 1) * (1 - np.eye(100)) + np.eye(100)
    for shot in (0.0, 0.3, 1e6):
        s = 0.2 * h + shot * np.eye(100)
        found = angle_sums(made, evaluation, Counting(np.full((1, 100), shot), np.ones(1)))[0].participation
        np.testing.assert_allclose(found, np.trace(s) ** 2 / np.sum(s * s), rtol=1e-3)


def test_covariance_is_inverse_to_the_number_of_pixels():
    made = speckle.problem(measured(exact_maps(speckle.TRUTH, (0.0, 50.0), 40, contrast=0.2), (0.0, 50.0)))
    evaluation = made.evaluate(made.model.coordinates_of(speckle.TRUTH))
    one = Counting(np.full((2, 40), 0.3), np.array([1.0, 1.0]))
    many = replace(one, pixels=np.array([500.0, 2000.0]))
    for first, second, number in zip(angle_sums(made, evaluation, one), angle_sums(made, evaluation, many), many.pixels, strict=True):
        np.testing.assert_allclose(first.covariance, second.covariance * number, rtol=1e-12, atol=1e-15)
