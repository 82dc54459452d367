"""Weighted draws: right moments and evidence where weights are reliable, and said to be unreliable where they are not."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import register_dataclass
from scipy import stats

from homodyne.importance import Proposal, Weighted, evaluate, weigh
from homodyne.target import Target, locate

from .densities import log_gamma, normal


def watch(done: int, total: int) -> None:
    assert 0 < done <= total


def standard(size: int) -> Proposal:
    return Proposal(np.zeros(size), np.eye(size))


def located(density):
    return locate(density, density.mean, np.ones(len(density.mean)))


def test_the_proposal_is_the_multivariate_t_of_scipy():
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(np.array([[2.0, 0.5], [0.5, 1.0]]))
    proposal, known = Proposal(np.array([1.0, -2.0]), root), stats.multivariate_t([1.0, -2.0], root @ root.T, df=7)
    drawn = proposal.draw(rng, 20000)
    np.testing.assert_allclose(proposal.log_density(drawn[:50]), known.logpdf(drawn[:50]), rtol=1e-12)
    squared = np.sum(np.linalg.solve(root, (drawn - proposal.center).T) ** 2, axis=0) / 2
    assert stats.kstest(squared, stats.f(2, 7).cdf).pvalue > 0.01


@pytest.mark.parametrize("size", [2, 5])
def test_of_a_normal_density_k_hat_is_small_and_the_evidence_one(size):
    """The density is normalised, so its integral over v is 1/|root|: k-hat < 0.5, evidence to four of its errors."""
    density = normal(size)
    target = located(density)
    found = weigh(target, standard(size), np.random.default_rng(1), 4000, 1, watch)
    assert found.reliable
    assert found.k_hat < 0.5
    exact = -np.linalg.slogdet(target.root)[1]
    assert abs(found.log_evidence - exact) < 4 * np.sqrt(1 / found.size - 1 / 4000)
    mean, covariance = found.moments()
    np.testing.assert_allclose(mean, 0.0, atol=4 / np.sqrt(found.size))
    np.testing.assert_allclose(covariance, np.eye(size), atol=4 * np.sqrt(2 / found.size))


def test_moments_of_a_skewed_density_are_those_of_quadrature():
    """A log-gamma density of shape 2: its mean lies 0.4 deviations below its mode, where the proposal is."""
    density = log_gamma(2.0, 3.0)
    target = located(density)
    found = weigh(target, standard(2), np.random.default_rng(2), 10000, 1, watch)
    assert found.reliable
    u = target.mode + found.v @ target.root.T
    deviation = np.sqrt(np.diagonal(density.covariance))
    np.testing.assert_allclose((found.weights @ u - density.mean) / deviation, 0.0, atol=4 / np.sqrt(found.size))
    spread = found.weights @ (u - density.mean) ** 2
    np.testing.assert_allclose(spread / deviation**2, 1.0, atol=8 * np.sqrt(2 / found.size))
    assert abs(found.log_evidence + np.linalg.slogdet(target.root)[1]) < 0.05
    shift = np.abs(target.mode - density.mean) / deviation
    assert shift.max() > 0.3, "the proposal is not already right"


@pytest.mark.parametrize("away", [5.0, 8.0])
def test_a_proposal_that_is_five_deviations_off_is_called_unreliable(away):
    target = located(normal(4))
    proposal = Proposal(np.array([away, 0.0, 0.0, 0.0]), np.eye(4))
    found = weigh(target, proposal, np.random.default_rng(3), 2000, 1, watch)
    assert not found.reliable
    assert found.k_hat > found.limit
    assert found.size < 200


def test_a_proposal_that_is_too_narrow_is_called_unreliable():
    found = weigh(located(normal(4)), Proposal(np.zeros(4), 0.2 * np.eye(4)), np.random.default_rng(3), 2000, 1, watch)
    assert not found.reliable


@pytest.mark.parametrize(("count", "limit"), [(200, 1 - 1 / np.log10(200)), (1000, 1 - 1 / 3), (10**6, 0.7)])
def test_the_limit_of_k_hat_is_that_of_the_number_of_draws(count, limit):
    empty = np.zeros((count, 1))
    assert Weighted(empty, empty[:, 0], empty[:, 0], empty, 0.0, 0.0, 0.0).limit == pytest.approx(limit)


@partial(register_dataclass, data_fields=(), meta_fields=())
@dataclass(frozen=True)
class Half:
    """A standard normal distribution, cut off below 0: its integral is 1/2."""

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array([-np.inf]), np.array([np.inf])

    def __call__(self, u: jax.Array) -> jax.Array:
        return jnp.where(u[0] >= 0, jax.scipy.stats.norm.logpdf(u[0]), -jnp.inf)

    def with_sums(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self(u), u


def test_points_where_the_density_is_zero_have_no_weight_but_count_in_the_evidence():
    target = Target(Half(), *Half().box, np.zeros(1), np.eye(1))
    found = weigh(target, standard(1), np.random.default_rng(4), 8000, 1, watch)
    assert found.reliable
    assert np.all(found.weights[found.v[:, 0] < 0] == 0)
    assert np.exp(found.log_evidence) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(4000))
    assert found.moments()[0][0] == pytest.approx(np.sqrt(2 / np.pi), abs=4 * 0.6 / np.sqrt(found.size))


@pytest.mark.parametrize("count", [1, 24, 25, 26, 260])
def test_blocks_and_threads_change_no_number(count):
    """Every point at its own place, also in the last, padded block."""
    density = log_gamma(2.0, 3.0)
    target = located(density)
    v = np.random.default_rng(5).standard_normal((count, 2))
    calls: list[tuple[int, int]] = []
    one, sums = evaluate(target, v, 1, lambda done, total: calls.append((done, total)))
    three, _ = evaluate(target, v, 3, watch)
    np.testing.assert_array_equal(one, three)
    np.testing.assert_allclose(sums, target.mode + v @ target.root.T, rtol=1e-12)
    np.testing.assert_allclose(one[-3:], [float(target(point)) for point in v[-3:]], rtol=1e-12)
    assert calls[-1] == (count, count)


def test_resampled_draws_have_the_weighted_moments():
    found = weigh(located(log_gamma(2.0, 3.0)), standard(2), np.random.default_rng(6), 4000, 1, watch)
    chosen = found.resample(np.random.default_rng(7), 4000)
    counts = np.bincount(chosen, minlength=4000)
    # Systematic resampling: each draw is there as often as its weight says, to within one.
    assert np.all(np.abs(counts - 4000 * found.weights) < 1)
    assert abs(np.corrcoef(chosen[:-1], chosen[1:])[0, 1]) < 0.07, "in random order"


def test_a_watch_that_raises_stops_the_evaluation():
    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise StopError

    with pytest.raises(StopError):
        weigh(located(normal(2)), standard(2), np.random.default_rng(0), 100, 1, stop)
