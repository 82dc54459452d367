"""What a Fit says of itself: counts, units, covariance, curves and the fitted map."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from homodyne import optimize
from homodyne.physics import two_time

from .factory import GAP, LAMINAR, PHI, Q, exact_maps, fitted, job, measured, noise_like, problem, simulated, times


@cache
def data():
    maps = exact_maps(LAMINAR) + noise_like(exact_maps(LAMINAR), 0.003, 21)
    maps[1, 30] = maps[1, :, 30] = np.nan
    return measured(maps, PHI)


@cache
def fit_and_rows():
    return optimize.fit(job(), data(), None)


def fit():
    return fit_and_rows()[0]


def test_degrees_of_freedom_are_used_pairs_minus_numbers_fitted():
    assert fit().pairs == 5 * 60 * 59 // 2 - 59
    assert fit().dof == fit().pairs - 7 - 10


def test_chi2_is_in_units_of_the_pixel_noise_and_sigma_is_the_noise():
    """sqrt(2/dof) is the statistical uncertainty of both."""
    assert fit().reduced_chi2 == pytest.approx(1.0, abs=0.05)
    assert fit().sigma == pytest.approx(0.003, rel=0.03)
    made = problem(data())
    assert made.evaluate(fit().solution).chi2 / fit().dof == pytest.approx(fit().sigma ** 2, rel=1e-12)


def test_rows_of_the_fitted_map_are_the_maps_of_the_fitted_parameters():
    rows = fit_and_rows()[1]
    values = {name: estimate.value for name, estimate in fit().parameters.items()}
    expected = two_time(values, PHI, times(60), q=Q, gap=GAP, contrast=fit().contrast, offset=fit().offset)
    for angle in (0, 3):
        dense = np.concatenate([rows(angle, 0, 25), rows(angle, 25, 60)])
        np.testing.assert_allclose(dense, expected[angle], rtol=1e-8)


def test_the_covariance_holds_the_errors_of_every_named_number():
    names, covariance = fit().names, fit().covariance
    assert names == (*LAMINAR, *(f"contrast[{k}]" for k in range(5)), *(f"offset[{k}]" for k in range(5)))
    error = np.sqrt(np.diagonal(covariance))
    # A number that has an interval instead of an error is NaN in both.
    np.testing.assert_allclose(error[:7], [fit().parameters[name].error for name in LAMINAR], rtol=1e-9)
    np.testing.assert_allclose(error[7:12], fit().contrast_error, rtol=1e-9)
    np.testing.assert_allclose(error[12:], fit().offset_error, rtol=1e-9)
    correlation = covariance / np.outer(error, error)
    np.testing.assert_allclose(correlation, correlation.T, atol=1e-12)
    assert np.nanmax(np.abs(correlation)) < 1 + 1e-9
    # Contrast and offset of one map compete for the same level.
    assert np.all(np.diagonal(correlation[7:12, 12:]) < 0)


def test_parameters_are_within_four_errors_of_the_truth():
    for name, truth in LAMINAR.items():
        estimate = fit().parameters[name]
        assert estimate.status in ("free", "interval")
        lower, upper = (end - estimate.value for end in estimate.interval)
        assert 2 * lower < truth - estimate.value < 2 * upper, name
    for values, errors, truth in ((fit().contrast, fit().contrast_error, 0.15), (fit().offset, fit().offset_error, 1.0)):
        assert np.all(np.abs(values - truth) < 4 * errors)


def test_curves_are_the_rates_of_the_parameters_with_their_errors():
    values = {name: estimate.value for name, estimate in fit().parameters.items()}
    t = times(60)
    for curve, (a, e, c) in {"J": ("D0", "alpha", "D_offset"), "gamma_dot": ("gamma_dot_t0", "beta", "gamma_dot_t_offset")}.items():
        found = fit().curves[curve]
        np.testing.assert_allclose(found.value, values[a] * t ** values[e] + values[c], rtol=1e-7)
        truth = LAMINAR[a] * t ** LAMINAR[e] + LAMINAR[c]
        assert np.all(np.abs(found.value - truth) < 4.5 * found.error)
        at = int(np.argmin(found.error / found.value))
        assert found.best_time == pytest.approx(t[at])
        best = fit().rates[f"{curve}_best"]
        assert (best.value, best.error) == (found.value[at], found.error[at])
    assert fit().t_ref == pytest.approx(np.sqrt(t[0] * t[-1]))
    slope = (fit().rates["dlnJ_dlnt"].value, fit().rates["J_ref"].value)
    law = values["D0"] * fit().t_ref ** values["alpha"]
    assert slope[1] == pytest.approx(law + values["D_offset"], rel=1e-7)
    assert slope[0] == pytest.approx(values["alpha"] * law / slope[1], rel=1e-6)


def test_float32_maps_give_the_same_fit():
    single = fitted(replace(data(), tiles=data().tiles.astype(np.float32)))
    error = np.sqrt(np.diagonal(fit().solution_covariance))
    np.testing.assert_allclose((single.solution - fit().solution) / error, 0.0, atol=0.01)


def test_a_map_without_used_pairs_is_left_out_of_the_answer():
    """Its contrast and offset get no error; the physics is that of the other maps."""
    maps = np.stack([data().map(k) for k in range(5)])
    maps[4] = np.nan
    found = fitted(measured(maps, PHI))
    assert found.success
    assert found.pairs == fit().pairs - 60 * 59 // 2
    assert np.isnan(found.contrast_error[4])
    assert np.isnan(found.offset_error[4])
    difference = found.rates["J_best"].value - fit().rates["J_best"].value
    assert abs(difference) < 3 * found.rates["J_best"].error


def test_perfect_data_are_not_called_undetermined():
    """Without noise chi2 is rounding, and everything is determined."""
    found = fitted(simulated(LAMINAR, PHI, 60, sigma=0.0))
    assert found.success
    assert found.statements == (found.verdict.sentence,)
    for name, truth in LAMINAR.items():
        assert found.parameters[name].status == "free"
        assert found.parameters[name].value == pytest.approx(truth, rel=1e-4)
