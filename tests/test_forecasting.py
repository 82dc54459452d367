"""The errors that a forecast promises are those that experiments then have."""

import numpy as np
import pytest

from homodyne import ConfigError, forecast
from homodyne.config import option

from . import speckle
from .factory import DT, GAP, Q

SETUP = {"q": Q, "gap": GAP, "dt": DT, "frames": 60, "photons": 5.0, "pixels": 1000, "contrast": speckle.CONTRAST, "mode": "static"}


def promised(**changes):
    return forecast(speckle.TRUTH, speckle.PHI, **(SETUP | {"fixed": ["D_offset"]} | changes))


def test_the_forecast_is_the_spread_of_simulated_experiments():
    """Standard deviation of 60 fits, within four of its own errors (9 %)."""
    fits = np.array([speckle.minimum(speckle.speckle(seed)).evaluation.u for seed in range(60)])
    spread = fits.std(axis=0, ddof=1)
    model = speckle.problem(speckle.speckle(0)).model
    alpha = model.coordinates.index("alpha")
    assert promised().parameters["alpha"].error == pytest.approx(spread[alpha], rel=0.36)


def test_more_detector_pixels_give_smaller_errors_by_the_square_root():
    few, many = promised(pixels=1000), promised(pixels=4000)
    for name in ("D0", "alpha"):
        assert few.parameters[name].error / many.parameters[name].error == pytest.approx(2.0, rel=2e-3)


def test_scarce_photons_make_errors_proportional_to_one_over_their_number():
    """Shot noise s = 1/photons dominates, so errors go as s."""
    scarce, scarcer = promised(photons=2e-3), promised(photons=1e-3)
    assert scarcer.parameters["alpha"].error / scarce.parameters["alpha"].error == pytest.approx(2.0, rel=0.05) or (
        scarcer.rates["J_ref"].status == "undetermined"
    )


def test_independent_pixels_are_what_scarce_photons_leave():
    ratio = list(promised(photons=1e-2).ratio.values())
    np.testing.assert_allclose(ratio, 1.0, atol=0.1)
    assert min(promised(photons=np.inf).ratio.values()) > 3


def test_speckles_larger_than_a_pixel_cost_precision():
    assert promised(pixels_per_speckle=4).parameters["alpha"].error > 1.15 * promised().parameters["alpha"].error


def test_the_text_names_the_experiment_and_the_errors():
    text = str(promised())
    assert "3 angles x 60 frames" in text
    assert "1000 pixels, 5 photons per pixel and frame" in text
    assert "alpha" in text


def test_what_cannot_be_forecast_is_refused():
    with pytest.raises(ConfigError, match="photons 0, pixels 1000; accepted: photons > 0"):
        promised(photons=0.0)
    with pytest.raises(ConfigError, match="data=auto reads a measurement; accepted: data=simulated"):
        option("data", "auto", path="run12.hdf").plan()
    with pytest.raises(ConfigError, match="gaussian, which has no photons"):
        option("data", "simulated").plan()


def test_the_command_forecasts_and_writes_no_result(command, tmp_path):
    done = command(
        "forecast=true", "data=simulated", "data.noise=speckle", "data.photons=1", "mode=static", "data.mode=static", "hydra.run.dir=here"
    )
    assert done.returncode == 0, done.stderr
    assert "forecast: 11 angles x 200 frames" in done.stdout + done.stderr
    assert not (tmp_path / "here" / "fit.json").exists()
