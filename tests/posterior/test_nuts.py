"""Chains on all pixels: where they begin does not matter, and too few of them are called too few."""

import numpy as np
import pytest

from . import contract
from .contract import effective, given, posterior, sampler


@pytest.mark.parametrize("init", [pytest.param("svi", marks=pytest.mark.slow), "prior"])
def test_chains_that_begin_elsewhere_reach_the_same_posterior(init):
    """At draws of a variational guide, or of the prior, which here is a thousand times as wide as the posterior."""
    found = sampler("nuts", init=init).sample(given())
    assert found.exactness == "exact", found.statements
    for key, summary in found.answer.summary.items():
        reference = posterior("nuts").answer.summary[key]
        error = np.sqrt(1 / summary.ess_bulk + 1 / effective(posterior("nuts"), key))
        assert abs(summary.mean - reference.mean) < 4 * error * reference.sd, key
        assert summary.sd == pytest.approx(reference.sd, rel=4 * error), key


def test_diagnostics_of_every_number_are_those_of_its_own_chains():
    answer = posterior("nuts").answer
    alpha = answer.parameters[..., 1]
    between, within = 500 * alpha.mean(axis=1).var(ddof=1), alpha.var(axis=1, ddof=1).mean()
    # The plain R-hat of Gelman and Rubin, which the rank-normalised one equals for a normal distribution.
    plain = np.sqrt(((499 / 500) * within + between / 500) / within)
    assert answer.summary["alpha"].rhat == pytest.approx(plain, abs=0.01)
    assert posterior("nuts").numbers["rhat"] < 1.01
    assert posterior("nuts").numbers["evaluations"] > answer.stats["n_steps"].sum()


def test_too_few_draws_are_marked_as_failed_with_numbers_and_limits():
    found = sampler("nuts", draws=50, chains=2, width="model").sample(given())
    assert found.exactness == "failed"
    (statement,) = found.statements
    assert "chains are not good enough in width model: R-hat" in statement
    assert "accepted: R-hat < 1.01, ESS >= 400, divergences <= 1 %" in statement


def test_a_width_that_is_not_there_is_the_model():
    """Independent pixels have no other width."""
    found = contract.sampler("laplace", width="calibrated").sample(given())
    assert set(found.answers) == {"model"}
