"""Errors from residuals: the fast sums equal the sums they stand for, and correlated frames are noticed."""

from dataclasses import replace

import numpy as np
import pytest

from homodyne.config import option
from homodyne.covariance import fitted_points
from homodyne.images import Bins, score_images
from homodyne.noise.frame_clustered import bartlett
from homodyne.optimizer.trust_region import minimise
from homodyne.problem import information

from .. import factory
from ..factory import STATIC, exact_maps, measured
from . import contract


@pytest.mark.parametrize("width", [1, 2, 5, 17, 40])
def test_bartlett_forms_equal_their_definition(width):
    """tr(K U_a K U_b)/2 and u_a' K u_b with K_mm' = max(0, 1 - |m - m'|/L), by matrix products."""
    rng = np.random.default_rng(width)
    image = rng.normal(size=(3, 23, 23))
    image = np.triu(image, 1) + np.triu(image, 1).swapaxes(1, 2)
    index = np.arange(23)
    kernel = np.maximum(0.0, 1 - np.abs(index[:, None] - index[None, :]) / width)
    tensor = [[np.trace(kernel @ a @ kernel @ b) / 2 for b in image] for a in image]
    rows = image.sum(axis=2)
    both, either = bartlett(image, width)
    np.testing.assert_allclose(both, tensor, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(either, rows @ kernel @ rows.T, rtol=1e-10, atol=1e-10)


def test_score_images_sum_to_zero_at_the_minimum():
    """The minimum is where the sum of residual times derivative vanishes for every number, offset and contrast included."""
    found = contract.minimum(0)
    problem, data = found.problem, found.source.dataset
    points = fitted_points(problem, found.evaluation)
    total, size = np.zeros((2, len(found.evaluation.u) + 2))
    for angle, point in enumerate(points):
        images = score_images(found.source.kernel, problem.model.pair, problem.model.depends, angle, point, Bins.uniform(data.n, 1))
        total += images.sum(axis=(1, 2))
        size += np.abs(images).sum(axis=(1, 2))
    np.testing.assert_allclose(total / size, 0.0, atol=1e-6)


@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize("bin_size", [2, 4])
def test_binned_forms_are_close_to_unbinned_ones(bin_size, width):
    """For images that are correlated along frames and kernels of at least four bins."""
    image = np.zeros((2, 128, 128))
    rng = np.random.default_rng(3)
    smooth = np.exp(-0.5 * (np.subtract.outer(np.arange(128), np.arange(128)) / 6.0) ** 2)
    for k in range(2):
        upper = np.triu(smooth @ rng.normal(size=(128, 128)) @ smooth, 1)
        image[k] = upper + upper.T
    binned = image.reshape(2, 128 // bin_size, bin_size, 128 // bin_size, bin_size).sum(axis=(2, 4))
    for fine, coarse in zip(bartlett(image, width), bartlett(binned, width // bin_size), strict=True):
        scale = np.sqrt(np.outer(np.diagonal(fine), np.diagonal(fine)))
        np.testing.assert_allclose(coarse / scale, fine / scale, atol=0.05)


def test_bins_are_at_most_a_quarter_of_the_kernel_and_one_frame_in_small_maps():
    """Up to 500 frames; in larger maps memory may ask for more, up to the 64 frames of a tile."""
    size = option("noise", "frame_clustered")._bin_size
    assert size(200, 100.0) == 1
    for width in (2.0, 10.0, 64.0, 300.0):
        for n in (300, 500):
            assert size(n, width) <= max(1, width / 4)
        assert size(20000, width) in (1, 2, 4, 8, 16, 32, 64)
    assert size(20000, 3000.0) > 1


def test_independent_pixels_get_about_the_textbook_errors():
    ratios = []
    for seed in range(10):
        found = contract.minimum(seed)
        clustered, iid = (np.diagonal(option("noise", name).covariance(found).covariance) for name in ("frame_clustered", "iid"))
        ratios.append(np.sqrt(clustered / iid))
    assert 0.85 < np.mean(ratios) < 1.35


def correlated(seed: int):
    """A fit of maps whose noise is the same within blocks of 4 x 4 frames: a sixteenth of the independent numbers."""
    rng = np.random.default_rng(seed)
    maps = exact_maps(STATIC, contract.PHI, contract.N)
    blocks = np.triu(rng.normal(0, 0.02, (3, 15, 15)))
    noise = np.repeat(np.repeat(blocks, 4, axis=1), 4, axis=2)
    upper = np.triu(noise, 1)
    data = measured(maps + upper + upper.swapaxes(1, 2), contract.PHI)
    made = factory.problem(data, "static", "averaged")
    local = minimise(made, made.model.coordinates_of(STATIC), contract.TOLERANCES)
    pairs = int(data.pairs.sum())
    variance = local.evaluation.chi2 / pairs
    return replace(
        contract.minimum(0),
        problem=made,
        evaluation=local.evaluation,
        information=information(local.evaluation, made),
        score_variance=variance,
    )


def test_errors_of_correlated_pixels_are_larger_and_nearer_the_truth():
    """iid errors are too small by about four here; clustered errors must be more than twice as large."""
    truth = np.append(contract.minimum(0).problem.model.coordinates_of(STATIC), [1.0, 0.15])
    pulls = {"iid": [], "frame_clustered": []}
    for seed in range(20):
        found = correlated(seed)
        values = np.append(found.evaluation.u, [found.evaluation.offset[0], found.evaluation.contrast[0]])
        for name, out in pulls.items():
            out.append((values - truth) / np.sqrt(np.diagonal(option("noise", name).covariance(found).covariance)))
    spread = {name: float(np.median(np.sqrt(np.mean(np.square(out), axis=0)))) for name, out in pulls.items()}
    assert spread["iid"] > 2
    assert spread["frame_clustered"] < 0.6 * spread["iid"]
