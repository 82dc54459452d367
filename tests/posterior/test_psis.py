"""Weighted draws: their evidence, and a posterior that they cannot represent."""

from functools import cache

import numpy as np
import pytest

from homodyne import optimize
from homodyne.posterior.base import Given

from .. import factory
from ..factory import STATIC, simulated
from .contract import PHI, exact, given, posterior, question, sampler, two_parameters


def test_the_evidence_is_that_of_brute_force():
    """Sum of the density over the grid of white coordinates, 0.5 apart in three dimensions."""
    u, weights, _, _ = exact()
    top = int(np.argmax(weights))
    log_top = float(question().target(np.linalg.solve(question().target.root, u[top] - question().target.mode)))
    expected = log_top - np.log(weights[top]) + 3 * np.log(0.5)
    found = posterior("psis").numbers
    assert found["log_evidence"] == pytest.approx(expected, abs=4 / np.sqrt(found["ess"]))


@cache
def scarce() -> Given:
    """So much noise that the posterior has tails that no t distribution at its mode covers."""
    data = simulated(STATIC, PHI, 40, sigma=0.06, seed=3)
    _, rows, estimated = optimize.fit(factory.job(mode=two_parameters()), data, None)
    return Given(estimated, rows, 1, 1, None, given().backend)


def test_weights_that_are_not_reliable_are_a_failure():
    found = sampler("psis").sample(scarce())
    assert found.numbers["k_hat"] > found.numbers["k_hat_limit"]
    assert found.exactness == "failed"
    (statement,) = found.statements
    assert "importance weights are not reliable in width model: k-hat" in statement
    assert statement.endswith("accepted: posterior=nuts")


def test_auto_then_takes_chains_and_says_why():
    found = sampler("auto").sample(scarce())
    assert found.engine == "nuts"
    assert "is too large for psis" in found.decisions[0]


def test_auto_deals_shards_where_a_run_would_take_longer_or_not_fit():
    settings = sampler("auto").cmc.model_copy(update={"shards": 2})
    for budget in ({"time_s": 1e-9}, {"memory_gb": 1e-9}):
        found = sampler("auto", cmc=settings.model_dump(), **budget).sample(given())
        assert found.engine == "cmc"
        assert found.decisions[0].startswith("posterior auto -> cmc: a pass takes")
        assert found.numbers["shards"] == 2
