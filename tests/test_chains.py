"""Markov chains: right moments, the same draws on any number of threads, and checks that are those of the chains."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from scipy import stats

from homodyne.bayes import chain_checks
from homodyne.chains import BLOCK, Chains, Settings, sample, sample_together
from homodyne.target import Target, locate

from .densities import LOWER, UPPER, Boxed, LogGamma, log_gamma, normal

SETTINGS = Settings(chains=3, warmup=150, draws=400, target_accept=0.8, max_tree_depth=8)
SHORT = Settings(chains=3, warmup=50, draws=50, target_accept=0.8, max_tree_depth=8)
DENSITIES = {"normal": normal(3), "log-gamma": log_gamma(1.5, 4.0, 30.0)}


def watch(done: int, total: int, divergences: int, gradients: int) -> None:
    assert 0 < done <= total


@cache
def target(name: str) -> Target:
    density = DENSITIES[name]
    return locate(density, density.mean, np.ones(3))


def start(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((SETTINGS.chains, 3))


@cache
def chains(name: str, seed: int = 0, threads: int = 1) -> Chains:
    return sample(target(name), SETTINGS, jax.random.key(seed), start(seed), threads, watch)


def assert_moments(draws: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> None:
    """Draws (C, S, d) have these moments, within four errors by their own effective numbers."""
    root = np.linalg.cholesky(covariance)
    white = np.linalg.solve(root, (draws - mean).reshape(-1, len(mean)).T).T.reshape(draws.shape)
    bulk = chain_checks(white)[1]
    squares = chain_checks(white**2)[1]
    assert min(bulk.min(), squares.min()) > 200
    np.testing.assert_array_less(np.abs(white.mean(axis=(0, 1))) * np.sqrt(bulk), 4.0)
    np.testing.assert_array_less(np.abs((white**2).mean(axis=(0, 1)) - 1) * np.sqrt(squares) / (white**2).std(axis=(0, 1)), 4.0)


@pytest.mark.parametrize("name", DENSITIES)
def test_moments_are_the_known_ones_within_monte_carlo_error(name):
    density = DENSITIES[name]
    covariance = density.covariance if isinstance(density, LogGamma) else density.root @ density.root.T
    draws = target(name).mode + chains(name).v @ target(name).root.T
    assert_moments(draws, density.mean, covariance)


def test_numbers_between_limits_have_the_known_quantiles():
    """Beta, Gamma, minus Gamma and normal, sampled without limits and put back."""
    boxed = locate(Boxed(LOWER, UPPER), np.array([4.0, 1.0, -1.0, 0.3]), np.ones(4))
    found = sample(boxed, SETTINGS, jax.random.key(5), np.random.default_rng(0).standard_normal((3, 4)), 1, watch)
    u = np.asarray(jax.vmap(lambda v: boxed.to_u(v)[0])(found.v.reshape(-1, 4)))
    known = [stats.beta(2, 5, 3, 4).cdf, stats.gamma(3, -1).cdf, lambda x: stats.gamma(4).sf(2 - x), stats.norm.cdf]
    for k, cdf in enumerate(known):
        bulk = chain_checks(cdf(u[:, k]).reshape(3, -1, 1))[1]
        assert abs(cdf(u[:, k]).mean() - 0.5) < 4 * np.sqrt(1 / 12 / bulk[0])
        assert abs((cdf(u[:, k]) < 0.05).mean() - 0.05) < 0.03


def test_one_key_gives_the_same_draws_on_any_number_of_threads():
    first, other = chains("log-gamma"), chains("log-gamma", threads=3)
    np.testing.assert_array_equal(first.v, other.v)
    for name, values in first.stats.items():
        np.testing.assert_array_equal(values, other.stats[name])
    assert first.evaluations == other.evaluations


def test_another_key_gives_other_draws_of_the_same_density():
    first, other = chains("log-gamma"), chains("log-gamma", seed=1)
    assert not np.any(first.v[:, -1] == other.v[:, -1])
    density = DENSITIES["log-gamma"]
    assert_moments(target("log-gamma").mode + other.v @ target("log-gamma").root.T, density.mean, density.covariance)


def test_targets_sampled_together_have_the_draws_they_have_alone():
    """To 1e-6 after a hundred steps: rounding differs between the two compiled functions, and a chain multiplies it with every step."""
    shapes = [log_gamma(1.5, 4.0, 30.0), log_gamma(3.0, 9.0, 2.0)]
    targets = [locate(density, density.mean, np.ones(3)) for density in shapes]
    keys, starts = [jax.random.key(0), jax.random.key(1)], [start(0), start(1)]
    together = sample_together(targets, SHORT, keys, starts, watch)
    for found, one, key, begin in zip(together, targets, keys, starts, strict=True):
        alone = sample(one, SHORT, key, begin, 1, watch)
        assert found.v.shape == alone.v.shape
        np.testing.assert_array_equal(found.stats["n_steps"], alone.stats["n_steps"])
        np.testing.assert_allclose(found.v, alone.v, rtol=1e-6, atol=1e-6)
        for name, values in alone.stats.items():
            assert found.stats[name].shape == values.shape


def test_r_hat_and_effective_draws_are_those_of_arviz_and_tell_good_chains_from_bad_ones():
    good = chains("log-gamma").v
    rhat, bulk, tail = chain_checks(good)
    assert rhat.max() < 1.02
    assert min(bulk.min(), tail.min()) > 200
    stuck = good + np.array([0.0, 0.0, 3.0])[:, None, None]
    assert chain_checks(stuck)[0].min() > 1.2
    assert chain_checks(stuck)[1].max() < 20
    # Independent draws are as many as they are.
    independent = chain_checks(np.random.default_rng(0).standard_normal((4, 500, 2)))
    np.testing.assert_allclose(independent[1], 2000, rtol=0.25)


def test_stats_are_those_of_the_draws():
    found, own = chains("log-gamma"), target("log-gamma")
    np.testing.assert_allclose(found.stats["lp"][1, ::97], [float(own(v)) for v in found.v[1, ::97]], rtol=1e-10)
    assert np.all(found.stats["n_steps"] <= 2.0 ** found.stats["tree_depth"])
    assert np.all(found.stats["energy"] >= -found.stats["lp"])
    assert found.stats["diverging"].shape == (3, 400)
    assert not found.stats["diverging"].any()
    assert 0.7 < found.stats["acceptance_rate"].mean() < 0.97
    assert np.unique(found.stats["step_size"][0]).size == 1, "adapted in the warm-up only"
    assert found.evaluations > found.stats["n_steps"].sum(), "the warm-up counts"


def test_a_watch_sees_every_block_and_can_stop_the_chains():
    class StopError(Exception):
        pass

    seen: list[tuple[int, int, int, int]] = []

    def stop(done: int, total: int, divergences: int, gradients: int) -> None:
        seen.append((done, total, divergences, gradients))
        if done >= 200:
            raise StopError

    with pytest.raises(StopError):
        sample(target("log-gamma"), SETTINGS, jax.random.key(0), start(0), 1, stop)
    assert [done for done, *_ in seen] == [BLOCK * k for k in range(1, 5)]
    assert {total for _, total, *_ in seen} == {550}
    assert np.all(np.diff([gradients for *_, gradients in seen]) > 0)


def test_a_part_of_a_block_is_drawn_where_the_number_of_draws_is_not_a_multiple():
    found = sample(target("log-gamma"), replace(SHORT, draws=70), jax.random.key(2), start(0), 2, watch)
    assert found.v.shape == (3, 70, 3)
    assert found.stats["lp"].shape == (3, 70)
