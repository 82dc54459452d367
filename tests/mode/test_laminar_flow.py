"""Laminar flow beyond the contract: both kernels, the direction, and hard bounds."""

import numpy as np
import pytest

from homodyne.physics import SHEAR_KERNELS, two_time

from ..factory import GAP, LAMINAR, PHI, Q, option, times

N = 60


def bind(phi=PHI, **settings):
    return option("mode", "laminar_flow", **settings).bind(times(N), Q, GAP, np.array(phi))


@pytest.mark.parametrize("kernel", SHEAR_KERNELS)
def test_the_model_gives_the_maps_of_two_time(kernel):
    model = bind(shear_kernel=kernel)
    u = model.coordinates_of(LAMINAR)
    early, late = np.triu_indices(N, 1)
    maps = two_time(LAMINAR, PHI, times(N), q=Q, gap=GAP, shear_kernel=kernel, offset=0.0)
    for phi, expected in zip(PHI, maps, strict=True):
        x = np.asarray(model.states(u, phi))
        h = model.pair((x[0, late] - x[0, early], x[1, late] - x[1, early]))
        np.testing.assert_allclose(h, expected[early, late], rtol=1e-9, atol=1e-12)


def test_phi0_is_reported_within_90_degrees_of_the_start_or_of_zero():
    free, started = bind(), bind(parameters={"phi0": {"start": 170.0}})
    for phi0 in (-1000.0, -91.0, 0.0, 89.0, 91.0, 260.0):
        u = free.coordinates_of(LAMINAR | {"phi0": phi0})
        assert -90 <= free.canonical(u)[-1] <= 90
        assert 80 <= started.canonical(u)[-1] <= 260
        assert (free.canonical(u)[-1] - phi0) % 180 == pytest.approx(0, abs=1e-9) or (free.canonical(u)[-1] - phi0) % 180 == pytest.approx(
            180
        )


def test_bounds_on_phi0_are_a_box_and_are_not_wrapped_away():
    model = bind(parameters={"phi0": {"bounds": [100.0, 120.0]}})
    u = model.coordinates_of(LAMINAR | {"phi0": 119.0})
    assert model.canonical(u)[-1] == u[-1] == 119.0
    assert (model.lower[-1], model.upper[-1]) == (100.0, 120.0)
    starts = model.starts(np.random.default_rng(0), 100)[:, -1]
    assert np.all((starts >= 100.0) & (starts <= 120.0))


def test_starts_cover_a_narrow_range_of_phi0_instead_of_its_ends():
    """A start outside bounds is as good as none; clipping all of them onto two points searches two directions only."""
    model = bind(parameters={"phi0": {"bounds": [100.0, 120.0]}})
    starts = model.starts(np.random.default_rng(0), 100)[:, -1]
    assert len(np.unique(starts)) > 10


def test_hard_bounds_are_asked_for_only_when_they_are_violated():
    model = bind()
    free = dict.fromkeys(LAMINAR, (-np.inf, np.inf))
    assert model.hard_bounds(LAMINAR, free | {"D0": (0.0, 1e5)}) is None
    bounded = bind(parameters={"D0": {"bounds": [0.0, 1e4]}}).hard_bounds(LAMINAR, free | {"D0": (0.0, 1e4)})
    assert bounded is not None
    at = bounded.coordinates.index("D0")
    assert bounded.upper[at] == 1e4
    assert bounded.shear.form == "two_rate"
