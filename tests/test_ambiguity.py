"""Flows that frames hardly sample: the solution whose contrasts are alike is chosen, and no error spans two solutions."""

from functools import cache

import numpy as np
import pytest

from .factory import DT, GAP, LAMINAR, PHI, Q, fitted, problem, simulated

FAST = LAMINAR | {"beta": 0.0, "gamma_dot_t_offset": 0.0, "D0": 3e3, "D_offset": 300.0}


@cache
def fast(phase: float):
    rate = phase / (0.5 * Q * GAP * DT)
    return fitted(simulated(FAST | {"gamma_dot_t0": rate}, (*PHI, 88.0, -80.0), 60, sigma=0.01, seed=4))


@pytest.mark.parametrize("phase", [4.0, 12.0, 25.0])
def test_no_number_with_an_error_is_far_from_the_truth_where_frames_do_not_sample_the_flow(phase):
    fit = fast(phase)
    truth = FAST | {"gamma_dot_t0": phase / (0.5 * Q * GAP * DT)}
    for name, estimate in fit.parameters.items():
        if estimate.status == "free":
            assert abs(estimate.value - truth[name]) < 5 * estimate.error, name
    best = fit.rates["gamma_dot_best"]
    if best.status == "free":
        assert abs(best.value - truth["gamma_dot_t0"]) < 5 * best.error
    assert any("flow phase" in statement for statement in fit.statements)


def test_two_angles_cannot_tell_a_flow_from_its_mirror():
    made = problem(simulated(LAMINAR, (0.0, 60.0), 60, sigma=0.005, seed=2))
    u = made.model.coordinates_of(LAMINAR)
    (mirror,) = made.model.mirrors(u, [0, 1])
    assert abs(mirror[-1] - u[-1]) > 5
    assert made.evaluate(mirror).chi2 == pytest.approx(made.evaluate(u).chi2, rel=1e-9)


def test_the_phase_between_frames_is_rate_times_gap_wavevector_and_cosine():
    made = problem(simulated(FAST, PHI, 60, sigma=0.01, seed=2))
    u = made.model.coordinates_of(FAST)
    expected = 0.5 * Q * GAP * DT * FAST["gamma_dot_t0"] * np.abs(np.cos(np.deg2rad(FAST["phi0"] - np.array(PHI))))
    np.testing.assert_allclose(made.model.frame_phase(u), expected, rtol=1e-6)
