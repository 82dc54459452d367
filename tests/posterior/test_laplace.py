"""A normal distribution at the mode, and what every posterior holds besides its draws."""

import numpy as np
import pytest

from homodyne import optimize
from homodyne.posterior.base import Given

from .. import factory
from ..factory import STATIC, simulated
from .contract import PHI, given, posterior, question, sampler, two_parameters


def test_draws_are_standard_normal_in_the_white_coordinates():
    answer = posterior("laplace").answer
    v = question().target.from_u(answer.u[0])
    size = len(v)
    np.testing.assert_allclose(v.mean(axis=0), 0.0, atol=4 / np.sqrt(size))
    np.testing.assert_allclose(np.cov(v.T), np.eye(3), atol=4 * np.sqrt(2 / size))
    np.testing.assert_allclose(answer.stats["lp"][0], -0.5 * np.sum(v**2, axis=1), rtol=1e-6)


def test_draws_of_the_prior_fill_box_and_bounds_and_are_independent():
    """Two coordinates and one map: as many random numbers for u as for offset and contrast, which must be other ones."""
    data = simulated(STATIC, PHI[:1], 50, sigma=0.015, seed=3)
    _, rows, estimated = optimize.fit(factory.job(mode=two_parameters()), data, None)
    prior = sampler("laplace").sample(Given(estimated, rows, 1, 1, None, given().backend)).prior
    assert prior is not None
    both = np.stack([prior.u[:, 0], prior.u[:, 1], prior.contrast[:, 0], prior.offset[:, 0]])
    np.testing.assert_allclose(np.corrcoef(both), np.eye(4), atol=4 / np.sqrt(both.shape[1]))
    np.testing.assert_allclose(np.median(prior.u[:, 1]), 0.0, atol=0.15)
    assert prior.u[:, 1].std() == pytest.approx(4 / np.sqrt(12), rel=0.05)


def test_an_interval_of_another_confidence_is_another_quantile():
    narrow = sampler("laplace", confidence=0.68).sample(given())
    assert narrow.confidence == 0.68
    for key, summary in narrow.answer.summary.items():
        wide = posterior("laplace").answer.summary[key]
        ratio = (summary.upper - summary.lower) / (wide.upper - wide.lower)
        # 0.9945 and 1.9600 deviations of a normal distribution.
        assert ratio == pytest.approx(0.9945 / 1.96, rel=0.1), key
