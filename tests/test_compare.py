"""Comparisons accept the simpler model when it is true, and reject it when it is not."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from homodyne.compare import RIVALS, compare
from homodyne.config import option
from homodyne.errors import ConfigError
from homodyne.results import Outcome
from homodyne.uncertainty.base import Estimated

from . import speckle
from .factory import LAMINAR, fixed


def estimated(data, mode, truth, scaling="individual", noise="sandwich") -> Estimated:
    """A fit as group ``uncertainty`` sees it, started at the truth."""
    minimum = speckle.minimum(data, scaling, mode, truth)
    made = option("noise", noise)
    return Estimated(
        dataset=data,
        mode=mode,
        minimum=minimum,
        noise=made.covariance(minimum),
        identified=None,
        u=minimum.evaluation.u,
        noise_option=made,
        scaling=option("per_angle_scaling", scaling),
        outcome=Outcome.CONVERGED,
        solver="scipy",
        tolerances=speckle.TOLERANCES,
        interrupted=lambda: None,
        watching=nullcontext,
    )


def test_p_values_of_true_simpler_models_are_uniform():
    """averaged against individual scaling, and no offset against a free one, on 60 simulated measurements."""
    mode = option("mode", "static")
    found = [estimated(speckle.speckle(seed, photons=1.0), mode, speckle.TRUTH | {"D_offset": 1.0}) for seed in range(60)]
    p_values = [compare(here, "averaged").p_value for here in found]
    assert kstest(p_values, "uniform").pvalue > 1e-3


def test_a_scaling_that_is_not_averaged_is_seen():
    data = speckle.speckle(1, contrast=[0.2, 0.25, 0.2], photons=1.0)
    here = estimated(data, speckle.mode(), speckle.TRUTH)
    found = compare(here, "averaged")
    assert found.p_value < 1e-4
    assert found.extra == -4
    assert found.bic > 0
    assert "averaged is rejected in favour of this fit" in found.text


def test_a_fuller_model_is_compared_the_other_way_round():
    """The same two fits give the same statistic, whichever is the one that is reported."""
    data = speckle.speckle(2, photons=1.0)
    simple, full = (estimated(data, speckle.mode(), speckle.TRUTH, scaling) for scaling in ("averaged", "individual"))
    up, down = compare(simple, "individual"), compare(full, "averaged")
    assert up.extra == -down.extra == 4
    assert up.statistic == pytest.approx(-down.statistic, rel=0.02)
    assert up.p_value == pytest.approx(down.p_value, abs=0.02)
    assert up.bic == pytest.approx(-down.bic, rel=0.02)


FLOW = LAMINAR | {"D_offset": 0.0, "gamma_dot_t_offset": 0.0}


def flowing(seed: int):
    return speckle.speckle(seed, truth=FLOW, phi=(-60.0, 0.0, 45.0), mode="laminar_flow", photons=5.0)


def test_flow_and_its_kernel_are_told_apart():
    mode = option("mode", "laminar_flow", parameters=fixed(D_offset=0.0, gamma_dot_t_offset=0.0))
    here = estimated(flowing(0), mode, FLOW)
    assert compare(here, "static").p_value < 1e-10
    kernel = compare(here, "other_kernel")
    assert "other_kernel is rejected" in kernel.text
    assert np.isnan(kernel.bic)
    wrong = estimated(flowing(0), mode.model_copy(update={"shear_kernel": "homodyne_v2"}), FLOW)
    assert "this fit is rejected" in compare(wrong, "other_kernel").text


def test_what_cannot_be_compared_is_refused():
    here = estimated(speckle.speckle(0), speckle.mode(), speckle.TRUTH)
    for name, reason in {
        "static": "has no flow to leave out",
        "no_offsets": "no rate offset is fitted",
        "other_kernel": "has no shear kernel",
        "individual": "this is the scaling of the fit",
    }.items():
        with pytest.raises(ConfigError, match=reason):
            compare(here, name)


def test_every_rival_of_the_setting_exists():
    field = type(option("uncertainty", "standard")).model_fields["compare"]
    assert all(name in str(field.annotation) for name in RIVALS)


def test_a_comparison_follows_the_noise_option():
    """With independent pixels chi2 rises by sigma^2 for each number, so the statistic is the rise itself."""
    here = estimated(speckle.speckle(3, photons=0.05), speckle.mode(), speckle.TRUTH, noise="iid")
    found = compare(here, "averaged")
    problem = replace(here.minimum.problem, design=option("per_angle_scaling", "averaged").design(here.dataset, 1.0))
    from homodyne.optimizer.trust_region import minimise

    rise = minimise(problem, here.u, speckle.TOLERANCES).evaluation.chi2 - here.minimum.evaluation.chi2
    assert found.statistic == pytest.approx(rise / here.minimum.score_variance, rel=0.02)
