"""What every scaling must do; ``test_contract.py`` runs it over all options in conf/per_angle_scaling."""

from functools import cache

import numpy as np

from homodyne.config import option
from homodyne.groups import options
from homodyne.physics import SHEAR, TRANSPORT, power_law
from homodyne.results import Fit

from ..factory import LAMINAR, PHI, fitted, simulated, times

SCALINGS = options("per_angle_scaling")
CONTRAST, OFFSET = 0.15, 1.002


def settings(name: str, contrast: float = CONTRAST, offset: float = OFFSET) -> dict[str, object]:
    """What an option cannot know: constant values are right only when they are given."""
    return {"contrast": contrast, "offset": offset} if name == "constant" else {}


@cache
def exact_fit(name: str) -> Fit:
    data = simulated(LAMINAR, PHI, 60, sigma=0.0, contrast=CONTRAST, offset=OFFSET)
    return fitted(data, per_angle_scaling=option("per_angle_scaling", name, **settings(name)))


@cache
def noisy_fit(name: str) -> Fit:
    """Equal contrast and offset at all angles, with noise."""
    data = simulated(LAMINAR, PHI, 60, seed=4, contrast=CONTRAST, offset=OFFSET)
    return fitted(data, per_angle_scaling=option("per_angle_scaling", name, **settings(name)))


def assert_exact_recovery(name: str) -> None:
    """Equal angles without noise: the rates at all times, the direction, contrast and offset."""
    fit = exact_fit(name)
    assert fit.success
    t = times(60)
    for curve, names in (("J", TRANSPORT), ("gamma_dot", SHEAR)):
        np.testing.assert_allclose(fit.curves[curve].value, power_law(*(LAMINAR[n] for n in names), t), rtol=1e-6)
    assert abs(fit.parameters["phi0"].value - LAMINAR["phi0"]) < 1e-6
    np.testing.assert_allclose(fit.contrast, CONTRAST, atol=1e-7)
    np.testing.assert_allclose(fit.offset, OFFSET, atol=1e-7)


def assert_same_physics(name: str) -> None:
    """With noise every scaling is right, so they agree to a fraction of the error of the most flexible one."""
    reference, fit = noisy_fit("individual"), noisy_fit(name)
    for key, estimate in reference.rates.items():
        assert abs(fit.rates[key].value - estimate.value) < 1.5 * estimate.error, key
    direction = reference.parameters["phi0"]
    assert abs(fit.parameters["phi0"].value - direction.value) < 1.5 * direction.error


def assert_numbers_fitted(name: str, scaling: str, count: int) -> None:
    """dof counts the coefficients of the scaling that was used."""
    fit = noisy_fit(name)
    assert fit.scaling == scaling
    assert fit.pairs - fit.dof == 7 + count


def assert_bounds_respected_and_reported(name: str) -> None:
    """A contrast of 0.15 is asked to stay below 0.14 and an offset of 1.002 above 1.003."""
    data = simulated(LAMINAR, PHI, 60, seed=4, contrast=CONTRAST, offset=OFFSET)
    bounds = {"contrast_bounds": [0.0, 0.14], "offset_bounds": [1.003, 1.5]}
    fit = fitted(data, per_angle_scaling=option("per_angle_scaling", name, **bounds, **settings(name, 0.14, 1.003)))
    assert np.all(fit.contrast <= 0.14 + 1e-9)
    assert np.all(fit.offset >= 1.003 - 1e-9)
    if name == "constant":
        return
    touching = np.isclose(fit.contrast, 0.14, atol=1e-8) | np.isclose(fit.offset, 1.003, atol=1e-8)
    assert touching.any()
    text = " ".join(fit.statements)
    assert "at its bound at angle index " + ", ".join(map(str, np.flatnonzero(touching))) in text
    assert np.all(np.isnan(fit.contrast_error[np.isclose(fit.contrast, 0.14, atol=1e-8)]))
