"""The covariance of a map whose pixels are not alike against the spread of many simulated maps."""

import numpy as np
import pytest

from homodyne.covariance import Frames, Unequal, map_covariance
from homodyne.data.pixel_weights import pixel_weights
from homodyne.speckle import Speckle, drawn_fields, record

N, B, REPEATS, PIXELS = 24, 0.25, 1000, 480
X0 = np.linspace(0, 6, N)
GAM = np.exp(-0.5 * np.abs(X0[:, None] - X0))


def images() -> np.ndarray:
    """Sums that respond to the offset, the contrast, a rate and to early frames."""
    lag = np.abs(X0[:, None] - X0)
    early = np.linspace(1, -1, N)
    found = np.stack([np.ones((N, N)), GAM**2, (lag - 2) * GAM**2, (early[:, None] + early) * GAM**2])
    found[:, np.arange(N), np.arange(N)] = 0
    return found


@pytest.mark.parametrize(("slope", "static_bins", "photons"), [(1.2, 1, 0.7), (1.2, 1, 6.0), (1.2, 6, 2.0), (0.0, 12, 2.0)])
def test_spread_of_sums_over_maps_is_that_of_the_formula(slope: float, static_bins: int, photons: float) -> None:
    detector = Speckle(pixels=PIXELS, photons=photons, slope=slope, static_bins=static_bins)
    made = list(record([drawn_fields(X0)] * REPEATS, [B] * REPEATS, detector, seed=11, threads=1))
    g = images()
    sums = np.array([0.5 * np.einsum("kij,ij->k", g, one.c2) for one in made])
    weights = pixel_weights([photons * detector.profile], [np.arange(PIXELS)[:, None]], [detector.bins])
    shot = np.full(N, weights.shot[0] * (weights.baseline[0] + B * weights.groups[0]) / photons)
    exact = np.full((len(g),) * 2, np.nan)
    frames = Frames(GAM, shot, B, 1.0, 1.0, Unequal.of(weights, 0))
    expected = np.diagonal(map_covariance(g, exact, frames)) / weights.pixels[0]
    # A thousand repeats are right to 3.2 % in the spread.
    np.testing.assert_allclose(np.sqrt(np.var(sums, axis=0, ddof=1) / expected), 1, atol=0.08)


def test_equal_pixels_are_the_default() -> None:
    g = images()
    exact, shot = np.full((len(g),) * 2, np.nan), np.full(N, 0.5)
    weights = pixel_weights([np.full(10**5, 3.0)], [np.arange(10**5)[:, None]], [np.zeros(10**5)])
    plain = map_covariance(g, exact, Frames(GAM, shot, B, 1.0, 1.0))
    np.testing.assert_allclose(
        map_covariance(g, exact, Frames(GAM, shot, B, 1.0, 1.0, Unequal.of(weights, 0))), plain, rtol=1e-6, atol=1e-9
    )
