"""Simulated speckle is what theory says of speckle: mean, covariance, diagonal, contrast, offset and speckle size."""

import itertools
import time

import numpy as np
import pytest

from homodyne.physics import two_time
from homodyne.simulation import simulate
from homodyne.speckle import (
    Speckle,
    correlate,
    drawn_fields,
    expose,
    layered_fields,
    mixed_fields,
    mode_weights,
    record,
    speckle_sums,
)

from .factory import DT, GAP, LAMINAR, STATIC, Q

SHEARED = LAMINAR | {"gamma_dot_t0": 2e-3, "gamma_dot_t_offset": 0.0}
SAMPLE = {"q": Q, "gap": GAP, "dt": DT, "noise": "speckle"}


def maps(source, count: int, contrast: float, speckle: Speckle, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Maps (count, n, n) and mean counts (count, n) of independent repeats."""
    made = list(record([source] * count, [contrast] * count, speckle, seed=seed))
    return np.array([one.c2 for one in made]), np.array([one.counts for one in made])


def mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over repeats, and its standard error."""
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))


def test_the_mean_of_many_maps_is_the_gap_average_and_nothing_else():
    n, repeats = 16, 20
    angles = np.repeat([4.0, 64.0], repeats)
    dataset = simulate(SHEARED, angles, **SAMPLE, frames=n, pixels=2500, layers=64, seed=1)
    pairs = np.triu_indices(n, 1)
    measured = np.array([dataset.map(k)[pairs] for k in range(len(angles))]).reshape(2, repeats, -1)
    for k, values in enumerate(measured):
        mean, error = mean_and_error(values)
        deviation = {}
        for kernel in ("gap_average", "homodyne_v2"):
            model = two_time(SHEARED, angles[k * repeats], dataset.t, q=Q, gap=GAP, shear_kernel=kernel)[0][pairs]
            deviation[kernel] = (mean - model) / error
        # Pairs are correlated: about 2 n independent ones, of a t distribution with 19 degrees of freedom.
        assert 0.5 < np.mean(deviation["gap_average"] ** 2) < 1.8
        assert np.abs(deviation["gap_average"]).max() < 5
        assert np.abs(deviation["homodyne_v2"]).max() > 25


def test_layers_and_the_covariance_of_their_sum_give_the_same_field():
    x0, x1 = np.linspace(0, 1.5, 9), np.linspace(0, 9, 9) ** 1.2
    pixels = 40000
    generator = np.random.default_rng(2)
    # Layers keep the phase of the middle of the gap, which all pixels of a frame share.
    fields = layered_fields(x0, x1, 64)(pixels, generator) * np.exp(-1j * x1)[:, None]
    layered, drawn = (each @ each.conj().T / pixels for each in (fields, drawn_fields(x0, x1)(pixels, generator)))
    # Real and imaginary part of an element have a standard deviation below 1/sqrt(pixels), the difference of two sqrt(2) of it.
    assert np.abs((layered - drawn).real).max() < 4.5 * np.sqrt(2 / pixels)
    assert np.abs((layered - drawn).imag).max() < 4.5 * np.sqrt(2 / pixels)
    # The sign changes of the average over the gap are there.
    assert layered.real.min() < -0.1


def theory(h: np.ndarray, signed: np.ndarray, b: float, shot: float, quadruple: tuple[int, int, int, int]) -> float:
    """N Cov(c_ij, c_kl) to order 1/N: docs/noise.md, section 3 of the design study, with all three cycles."""
    i, j, k, l = quadruple
    same = np.eye(len(h))
    speckle = b * h
    total = speckle + shot * same

    def third(a, c, d):
        coherent = 2 * b**2 * signed[a, c] * signed[c, d] * signed[d, a]
        return coherent + (same[a, d] + same[c, d]) * shot * speckle[a, c]

    def cycle(a, c, d, e):
        return signed[a, c] * signed[c, d] * signed[d, e] * signed[e, a]

    def fourth():
        value = 2 * b**3 * (cycle(i, j, k, l) + cycle(i, j, l, k) + cycle(i, k, j, l))
        for one, other, p, r in ((i, k, j, l), (i, l, j, k), (j, k, i, l), (j, l, i, k)):
            value += same[one, other] * shot * 2 * b**2 * signed[one, p] * signed[p, r] * signed[r, one]
        return value + (same[i, k] * same[j, l] + same[i, l] * same[j, k]) * shot**2 * speckle[i, j]

    base = total[i, k] * total[j, l] + total[i, l] * total[j, k]
    frames = -speckle[i, j] * (third(k, l, i) + third(k, l, j)) - speckle[k, l] * (third(i, j, k) + third(i, j, l))
    both = speckle[i, j] * speckle[k, l] * (total[i, k] + total[i, l] + total[j, k] + total[j, l])
    return base + fourth() + frames + both


@pytest.mark.parametrize("photons", [None, 2.0])
def test_the_covariance_of_map_values_is_that_of_speckle_and_photons(photons):
    x0, x1 = 0.15 * np.arange(6), 0.9 * np.arange(6)
    b, pixels, repeats = 1 / 3, 600, 5000
    c2, _ = maps(drawn_fields(x0, x1), repeats, b, Speckle(pixels=pixels, photons=photons), seed=3)
    difference = x1[:, None] - x1[None, :]
    signed = np.exp(-0.5 * np.abs(x0[:, None] - x0[None, :])) * np.sinc(difference / np.pi)
    shot = 0.0 if photons is None else 1 / photons
    pairs = [(0, 1), (1, 2), (0, 5), (2, 4), (3, 5), (0, 3)]
    centred = {pair: c2[:, pair[0], pair[1]] - c2[:, pair[0], pair[1]].mean() for pair in pairs}
    deviations = []
    for one, other in itertools.combinations_with_replacement(pairs, 2):
        mean, error = mean_and_error(pixels * centred[one] * centred[other])
        deviations.append((mean - theory(signed**2, signed, b, shot, (*one, *other))) / error)
    # 21 covariances, 6 of them variances; 12 of them share a frame. What the formula leaves out is of order 1/N.
    assert np.abs(deviations).max() < 4
    assert 0.3 < np.mean(np.square(deviations)) < 2


def test_leaving_out_the_fourth_cumulant_or_the_normalisation_would_be_seen():
    """The accuracy of the test above: each part of the formula is many standard errors."""
    h = np.exp(-0.15 * np.abs(np.subtract.outer(np.arange(3), np.arange(3))))
    whole = theory(h, np.sqrt(h), 1 / 3, 0.5, (0, 1, 0, 1))
    gaussian = (1 / 3 + 0.5) ** 2 + (h[0, 1] / 3) ** 2
    # The excess near the diagonal in closed form.
    b, s, g = 1 / 3, 0.5, h[0, 1]
    excess = 4 * b**3 * g - 4 * b**3 * g**2 + 2 * b**3 * g**3 + 2 * b**2 * (2 * g - g**2) * s + b * g * s**2
    np.testing.assert_allclose(whole - gaussian, excess, rtol=1e-12)
    assert excess > 0.2 * gaussian


def test_speckles_of_four_pixels_widen_the_speckle_part_of_the_variance():
    b, pixels, repeats = 0.2, 800, 300
    source = drawn_fields(40.0 * np.arange(12))
    far = np.triu_indices(12, 1)
    for photons, shot in ((None, 0.0), (1.0, 1.0)):
        speckle = Speckle(pixels=pixels, pixels_per_speckle=4, photons=photons)
        values = maps(source, repeats, b, speckle, seed=4)[0][:, far[0], far[1]]
        variance = pixels * values.var(axis=0, ddof=1).mean()
        r, r1 = speckle_sums(4)
        assert (r, r1) == pytest.approx((1.765625, 2.75))
        # 66 uncorrelated pairs x 300 repeats: the standard deviation of the mean variance is 1 percent.
        assert variance == pytest.approx((b + shot) ** 2 + (r - 1) * b**2, rel=0.04)


@pytest.mark.parametrize("photons", [None, 0.5])
def test_the_diagonal_is_contrast_and_shot_noise(photons):
    b, pixels = 0.25, 500
    c2, counts = maps(drawn_fields(np.arange(20.0)), 400, b, Speckle(pixels=pixels, photons=photons), seed=5)
    s = 0.0 if photons is None else 1 / photons
    mean, error = mean_and_error(np.diagonal(c2, axis1=1, axis2=2).mean(axis=1))
    # Dividing by the mean over 500 pixels costs order 1/500: mean(n^2) and its covariance with the squared mean.
    third = 2 * b**2 + 3 * b * s + s**2
    expected = 1 + b + s + (-(b + s) - 2 * third + 3 * (b + s) ** 2) / pixels
    assert abs(mean - expected) < 4 * error
    assert error < 0.006
    if photons is None:
        assert np.all(np.isinf(counts))
    else:
        np.testing.assert_allclose(counts.mean(), photons, rtol=4 * np.sqrt((b + s) / counts.size / pixels))


@pytest.mark.parametrize("contrast", [1.0, 0.7, 0.5, 0.35, 1 / 3, 0.2, 0.15, 0.013])
def test_modes_have_the_contrast_asked_for(contrast):
    weights = mode_weights(contrast)
    assert weights.min() > 0
    np.testing.assert_allclose([weights.sum(), np.sum(weights**2)], [1, contrast], rtol=1e-12)
    assert len(weights) == np.ceil(1 / contrast - 1e-9)
    assert len(np.unique(np.round(weights, 12))) == (1 if contrast in (1.0, 0.5, 1 / 3, 0.2) else 2)


def test_a_contrast_between_two_numbers_of_modes_is_seen_on_the_map():
    c2, _ = maps(drawn_fields(0.001 * np.arange(3)), 200, 0.4, Speckle(pixels=2000), seed=6)
    mean, error = mean_and_error(c2[:, 0, 1])
    assert abs(mean - 1.4) < 4 * error + 2 / 2000
    assert error < 0.003


def test_pixels_of_unequal_intensity_raise_the_offset_and_leave_the_contrast():
    speckle = Speckle(pixels=2000, photons=4.0, heterogeneity=0.3)
    c2, _ = maps(drawn_fields(np.array([0.0, 1e-3, 40.0])), 300, 0.2, speckle, seed=7)
    near, far = (mean_and_error(c2[:, 0, j]) for j in (1, 2))
    assert abs(far[0] - 1.09) < 4 * far[1] + 0.5 / 2000
    assert abs(near[0] - 1.29) < 4 * near[1] + 2 / 2000
    assert max(near[1], far[1]) < 0.002


def test_a_falling_contrast_acts_on_both_frames_of_a_pair():
    n = 11
    c2, _ = maps(drawn_fields(np.zeros(n)), 200, 0.5, Speckle(pixels=2000, contrast_drift=0.6), seed=8)
    falling = np.linspace(1, 0.4, n)
    mean, error = mean_and_error(c2)
    assert np.abs(mean - 1 - 0.5 * np.sqrt(np.outer(falling, falling))).max() < 4.5 * error.max() + 2 / 2000


def test_beam_and_bad_frames_are_in_the_counts_and_not_in_the_mean_map():
    speckle = Speckle(pixels=1000, photons=1.0, beam_drift=0.8, bad_frames=(2, 6))
    c2, counts = maps(drawn_fields(0.3 * np.arange(9)), 600, 0.2, speckle, seed=9)
    expected = np.linspace(1.4, 0.6, 9)
    expected[[0, 4]] *= 0.02
    np.testing.assert_allclose(counts.mean(axis=0), expected, rtol=4 * np.sqrt(50 / (600 * 1000)))
    mean, error = mean_and_error(c2)
    i, j = np.triu_indices(9, 1)
    # Of order 1/(N x counts of a bad frame).
    assert np.all(
        np.abs(mean - 1 - 0.2 * np.exp(-0.3 * np.abs(np.subtract.outer(np.arange(9), np.arange(9)))))[i, j] < 4 * error[i, j] + 0.003
    )
    # Shot noise of the frames in question.
    np.testing.assert_allclose(np.diagonal(mean)[[0, 4]], 1.2 + 1 / expected[[0, 4]], rtol=0.15)


def test_a_frame_without_photons_is_not_used():
    counts = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [2.0, 0.0, 1.0]])
    c2, mean = correlate(counts)
    np.testing.assert_allclose(mean, [2, 0, 1])
    np.testing.assert_allclose(c2[0, 0], (1 + 4 + 9) / 3 / 4)
    np.testing.assert_allclose(c2[0, 2], (2 + 0 + 3) / 3 / 2)
    assert np.all(np.isnan(c2[1]))
    assert np.all(np.isnan(c2[:, 1]))


def test_fields_that_no_model_describes_can_be_mixed():
    """A slow part, a static part and an oscillation: g1 is the sum of theirs."""
    x0 = 0.5 * np.arange(8)
    turning = np.exp(0.7j * np.arange(8))
    still = layered_fields(np.zeros(8))
    parts = [
        (np.sqrt(0.6), layered_fields(x0)),
        (np.sqrt(0.2), layered_fields(0.1 * x0)),
        (np.sqrt(0.1), still),
        (np.sqrt(0.1) * turning, still),
    ]
    c2, _ = maps(mixed_fields(parts), 60, 1.0, Speckle(pixels=3000), seed=10)
    lag = np.abs(np.subtract.outer(np.arange(8), np.arange(8)))
    g1 = 0.6 * np.exp(-0.25 * lag) + 0.2 * np.exp(-0.025 * lag) + 0.1 + 0.1 * np.exp(0.7j * lag)
    mean, error = mean_and_error(c2)
    off = lag > 0
    assert np.abs((mean - 1 - np.abs(g1) ** 2) / error)[off].max() < 4.5


def test_an_angle_depends_on_the_seed_only():
    settings = {**SAMPLE, "frames": 12, "pixels": 300, "layers": 8, "contrast": [0.2, 0.5, 0.35], "photons": 0.5}
    sheared = SHEARED | {"gamma_dot_t0": 5e-4}
    all_angles = simulate(sheared, [0.0, 30.0, 80.0], **settings, seed=1, threads=1)
    again = simulate(sheared, [0.0, 30.0, 80.0], **settings, seed=1, threads=3)
    fewer = simulate(sheared, [0.0, 30.0], **(settings | {"contrast": [0.2, 0.5]}), seed=1)
    other = simulate(sheared, [0.0, 30.0], **(settings | {"contrast": [0.2, 0.5]}), seed=2)
    assert all_angles.fingerprint == again.fingerprint
    np.testing.assert_array_equal(all_angles.counts, again.counts)
    np.testing.assert_array_equal(all_angles.tiles[:2], fewer.tiles)
    assert np.nanmin(np.abs(fewer.tiles - other.tiles)) < np.nanmax(np.abs(fewer.tiles - other.tiles))
    assert fewer.fingerprint != other.fingerprint


def test_a_simulated_dataset_says_what_was_counted():
    dataset = simulate(STATIC, [0.0, 20.0], **SAMPLE, frames=30, mode="static", contrast=0.3, pixels=900, photons=3.0, beam_drift=0.4)
    assert dataset.pixels.tolist() == [900, 900]
    assert dataset.counts.shape == dataset.diagonal.shape == (2, 30)
    np.testing.assert_allclose(dataset.counts, 3 * np.linspace(1.2, 0.8, 30)[None].repeat(2, axis=0), rtol=0.2)
    np.testing.assert_allclose(dataset.diagonal - 1 - 1 / dataset.counts, 0.3, atol=0.15)
    assert dataset.truth is not None
    assert dataset.truth.shear_kernel == "none"
    assert "900 pixels" in dataset.provenance.notes[0]


def test_the_beam_alone_makes_counts_without_shot_noise():
    intensity = np.ones((3, 5), dtype=np.float32)
    counts = expose(intensity, Speckle(pixels=5, beam_drift=1.0), np.random.default_rng(0))
    np.testing.assert_allclose(counts[:, 0], [1.5, 1.0, 0.5])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"noise": "poisson"}, "accepted: gaussian, speckle"),
        ({"noise": "gaussian", "photons": 1.0}, "photons: for noise='speckle' only"),
        ({"photon": 1.0}, "unknown argument photon; accepted with noise='speckle': pixels"),
        ({"sigma": 0.1}, "for noise='gaussian' only"),
        ({"offset": 1.02}, "heterogeneity"),
        ({"contrast": 1.1}, "above 0 and at most 1"),
        ({"shear_kernel": "homodyne_v2"}, "which no sample has"),
        ({"bad_frames": [1]}, "accepted: 2 to 21"),
        ({"beam_drift": 2.0}, "between -2 and 2"),
        ({"pixels": 7, "pixels_per_speckle": 4}, "accepted: 1 to 3"),
        ({"layers": 8}, "accepted: at least"),
        ({"photons": 0.0}, "photons is 0.0"),
    ],
)
def test_what_no_speckle_can_be_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        simulate(SHEARED, [0.0], **({**SAMPLE, "frames": 20, "pixels": 20} | change))


def test_a_static_sample_does_not_mind_the_kernel():
    simulate(STATIC, [0.0], **SAMPLE, frames=5, pixels=20, mode="static", shear_kernel="homodyne_v2")


def test_five_angles_of_200_frames_and_2000_pixels_take_seconds():
    # Processor time of all threads, which a busy machine does not stretch.
    start = time.process_time()
    simulate(SHEARED, [-60.0, -30.0, 0.0, 30.0, 60.0], **SAMPLE, frames=200, pixels=2000, contrast=0.2, photons=0.5, layers=None)
    assert time.process_time() - start < 10
