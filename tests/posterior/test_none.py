"""No posterior: when none is asked for, and when the fit allows none."""

import logging
from dataclasses import replace

import pytest

from homodyne.config import option
from homodyne.errors import ConfigError
from homodyne.results import Outcome

from . import contract


def test_none_gives_none_and_accepts_everything():
    chosen = option("posterior", "none")
    drifting = option("per_angle_scaling", "individual", contrast_drift=True)
    chosen.check(option("mode", "static"), drifting)
    assert chosen.sample(contract.given()) is None


@pytest.mark.parametrize("name", contract.SAMPLERS)
def test_a_fit_that_did_not_converge_has_no_posterior_and_a_sentence_says_so(name, caplog):
    given = contract.given()
    unfinished = replace(given, fit=replace(given.fit, outcome=Outcome.MAX_PASSES))
    with caplog.at_level(logging.INFO, logger="homodyne"):
        assert contract.sampler(name).sample(unfinished) is None
    assert "no posterior: the fit did not converge" in caplog.text


@pytest.mark.parametrize("name", contract.SAMPLERS)
def test_a_contrast_that_drifts_is_refused_before_anything_is_opened(name):
    drifting = option("per_angle_scaling", "individual", contrast_drift=True)
    with pytest.raises(ConfigError, match=r"per_angle_scaling\.contrast_drift: found true; accepted with a posterior: false"):
        contract.sampler(name).check(option("mode", "static"), drifting)
