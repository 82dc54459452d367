"""Fourier scaling: the basis and counts of homodyne 2.23.3, and a smooth angular dependence is recovered."""

import json
from pathlib import Path

import numpy as np
import pytest

from homodyne.errors import DataError
from homodyne.per_angle_scaling.fourier import fourier_basis

from ..factory import LAMINAR, PHI, fitted, option, simulated

GOLDEN = json.loads((Path(__file__).parents[1] / "reference" / "golden_physics.json").read_text())["auxiliary"]["fourier"]


def test_golden_coefficients_are_reproduced():
    basis = fourier_basis(np.array(GOLDEN["phi_deg"]), GOLDEN["order"])
    for values, expected in (("contrast", "contrast_coefficients_c0_c1_s1_c2_s2"), ("offset", "offset_coefficients")):
        np.testing.assert_allclose(np.linalg.lstsq(basis, GOLDEN[values])[0], GOLDEN[expected], atol=1e-13)


@pytest.mark.parametrize("count", [5, 6, 7, 23])
def test_the_number_of_coefficients_is_the_golden_one(count):
    data = simulated({"D0": 1e4, "alpha": 0.0, "D_offset": 0.0}, np.linspace(-80, 80, count), 6)
    design = option("per_angle_scaling", "fourier").design(data, 1.0)
    assert design.count == GOLDEN["effective_coefficient_count_mode_fourier"][str(count)]


def test_too_few_angles_are_refused_with_what_would_do():
    data = simulated({"D0": 1e4, "alpha": 0.0, "D_offset": 0.0}, np.linspace(-80, 80, 4), 6)
    with pytest.raises(DataError, match=r"order 2 needs at least 5 angles, .* gives 4; lower per_angle_scaling.order"):
        option("per_angle_scaling", "fourier").design(data, 1.0)


def test_contrast_that_follows_the_series_is_recovered_exactly():
    phi = np.deg2rad(PHI)
    contrast, offset = 0.15 + 0.02 * np.cos(phi) - 0.01 * np.sin(phi), 1.0 + 0.003 * np.sin(phi)
    data = simulated(LAMINAR, PHI, 60, sigma=0.0, contrast=contrast, offset=offset)
    fit = fitted(data, per_angle_scaling=option("per_angle_scaling", "fourier", order=1))
    np.testing.assert_allclose(fit.contrast, contrast, atol=1e-7)
    np.testing.assert_allclose(fit.offset, offset, atol=1e-7)
    assert fit.parameters["phi0"].value == pytest.approx(LAMINAR["phi0"], abs=1e-6)
