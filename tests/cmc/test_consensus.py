"""A consensus of shards is the posterior of all pixels, corrected where it is off, and says what is missing."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from homodyne.bayes import chain_checks
from homodyne.chains import Settings
from homodyne.cmc.combine import Consensus
from homodyne.cmc.consensus import Sampled, _collect, _sample, _verify
from homodyne.cmc.shards import deal
from homodyne.cmc.subposterior import Common, facts_of, packed, sample_shard, sample_shards
from homodyne.draws import Posterior
from homodyne.errors import FitError
from homodyne.posterior.base import Drawn

from ..posterior.contract import data, exact, given, question, sampler


def settings(**changes):
    return sampler("cmc", width="model", **changes)


@cache
def consensus(count: int, power: str = "likelihood", rule: str = "swiss") -> Posterior:
    found = settings(shards=count, power=power, rule=rule).sample(given())
    assert found is not None
    return found


def white_moments(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of draws (C, S, d) in units of the exact ones."""
    _, _, mean, covariance = exact()
    v = question().target.from_u(u.reshape(-1, u.shape[-1]))
    white = np.linalg.solve(np.linalg.cholesky(covariance), (v - mean).T)
    return white.mean(axis=1), np.cov(white)


def assert_exact(u: np.ndarray, size: float) -> None:
    """Moments within four errors of those of brute force, of draws as good as ``size`` independent ones."""
    mean, covariance = white_moments(u)
    np.testing.assert_allclose(mean, 0.0, atol=4 / np.sqrt(size))
    np.testing.assert_allclose(covariance, np.eye(len(mean)), atol=4 * np.sqrt(2 / size))


CASES = [pytest.param(1, "likelihood", marks=pytest.mark.slow), (2, "likelihood"), (8, "likelihood"), (2, "prior"), (8, "prior")]


@pytest.mark.parametrize(("count", "power"), CASES)
def test_any_number_of_shards_gives_the_posterior_of_all_pixels(count, power):
    found = consensus(count, power)
    assert found.exactness == "psis_corrected"
    assert found.numbers["data_fraction"] == 1.0
    assert found.numbers["shards"] == count
    assert_exact(found.answer.u, found.numbers["ess"])


@pytest.mark.parametrize(("count", "power"), CASES)
def test_the_consensus_itself_is_near_the_posterior_before_it_is_corrected(count, power):
    """By its moments: Monte Carlo error of the shards, and the bias of small shards, which no combination mends.

    The squared residuals of a shard are fewer by one for each of its 6 fitted numbers: ln sigma^2 is off by 6 (K - 1)/n, and its
    deviation is sqrt(2/n).
    """
    found = settings(shards=count, power=power, verify="none").sample(given())
    assert found.exactness == "consensus_unverified"
    assert found.statements[-1] == "the consensus was not verified (posterior.verify)"
    mean, covariance = white_moments(found.answer.u)
    bias = 6 * (count - 1) / np.sqrt(2 * data("iid").pairs.sum())
    assert np.abs(mean).max() < 0.2 + bias
    assert np.abs(np.sqrt(np.diagonal(covariance)) - 1).max() < 0.12 + bias


def test_the_table_of_shards_adds_up():
    """Pixels of all shards are those of the maps; each is as wide as its share of the data says."""
    for power, factor in (("likelihood", 1.0), ("prior", 2.0)):
        table = consensus(2, power).shards
        assert table is not None
        assert table.pairs.sum() == data("iid").pairs.sum()
        assert set(table.status) <= {"good", "rerun", "poor"}
        width = np.diagonal(table.covariance, axis1=1, axis2=2)[:, :3].mean(axis=0)
        np.testing.assert_allclose(width / factor, np.diagonal(exact()[3]), rtol=0.35)
        assert table.names[:3] == consensus(2, power).coordinates
        assert len(table.names) == 3 + 4
        ratio = table.parameter_sd[:, consensus(2, power).names.index("alpha")].mean() / consensus(2).answer.summary["alpha"].sd
        np.testing.assert_allclose(ratio, np.sqrt(factor), rtol=0.2)


@cache
def sampled(count: int) -> tuple[list, Sampled]:
    shards = deal(data("iid"), count, "stride", 1)
    return shards, _sample(question(), settings(shards=count), shards)


def test_a_shard_that_is_missing_is_told_and_its_pixels_are_counted():
    shards, whole = sampled(8)
    some = replace(whole, arrays=[None, *whole.arrays[1:]], verdicts=[None, *whole.verdicts[1:]])
    left, (table, numbers), notes = _collect(question(), settings(shards=8, min_success_rate=0.8), shards, some)
    assert len(left) == 7
    assert numbers["data_fraction"] == pytest.approx(1 - shards[0].pairs / sum(shard.pairs for shard in shards))
    assert notes[0].startswith("1 of 8 shards are missing, ")
    assert table.status[0] == "missing"
    assert np.isnan(table.mean[0]).all()
    # As if the maps had been dealt to seven shards: each is narrower by 7/8 in precision.
    kept = whole.arrays[1]
    assert kept is not None
    np.testing.assert_allclose(left[0].covariance, kept["covariance"] * 8 / 7, rtol=1e-9)


def test_too_many_missing_shards_are_an_error():
    shards, whole = sampled(8)
    some = replace(whole, arrays=[None, None, *whole.arrays[2:]])
    with pytest.raises(FitError, match=r"2 of 8 shards are missing, .* at least 90 % of the shards must succeed"):
        _collect(question(), settings(shards=8), shards, some)


def test_diagnostics_are_those_of_the_chains_of_a_shard():
    """Not of draws that were made from its moments, whose R-hat is always 1: of the same draws in another order it is."""
    _, whole = sampled(8)
    for part in whole.arrays:
        assert part is not None
        chains = part["x"][:, :3].reshape(4, -1, 3)
        rhat, bulk, _ = chain_checks(chains)
        assert float(part["rhat"]) >= rhat.max()
        assert float(part["ess"]) <= bulk.min()
        mixed = np.random.default_rng(0).permutation(part["x"][:, :3]).reshape(4, -1, 3)
        assert chain_checks(mixed)[1].min() > float(part["ess"])
    assert np.isnan([summary.rhat for summary in consensus(8).answer.summary.values()]).all()


def test_poor_chains_are_run_again_harder_and_named_if_that_does_not_help():
    found = settings(shards=2, ess=1e6, reruns=1, verify="none").sample(given())
    assert found.shards is not None
    assert found.shards.status == ("poor", "poor")
    np.testing.assert_array_equal(found.shards.attempts, 2)
    assert any("2 of 2 shards have poor chains after 1 reruns, shard 1:" in text for text in found.statements)


@pytest.mark.slow
def test_shards_sampled_together_have_the_moments_they_have_alone():
    """The same sub-posterior, to Monte Carlo error: rounding makes other draws of it."""
    made = question()
    shards = deal(data("iid"), 2, "stride", 1)
    density = replace(made.density, data_power=2.0)
    common = Common(density, made.target.mode, made.target.root)
    chains = Settings(4, 200, 500, 0.8, 10)
    items = [(packed(common, shard, made.start, made.spread), facts_of(chains, [1, 2, k])) for k, shard in enumerate(shards)]
    together = sample_shards(items, lambda numbers: None)
    for item, found in zip(items, together, strict=True):
        assert isinstance(found, dict)
        alone = sample_shard(*item, lambda numbers: None)
        assert set(found) == set(alone)
        sd = np.sqrt(np.diagonal(alone["covariance"]))
        error = np.sqrt(1 / float(alone["ess"]) + 1 / float(found["ess"]))
        np.testing.assert_allclose((found["mean"] - alone["mean"]) / sd, 0.0, atol=4 * error)
        np.testing.assert_allclose(np.sqrt(np.diagonal(found["covariance"])) / sd, 1.0, atol=4 * error)


def shifted(deviations: float) -> Consensus:
    """A consensus that is as wide as the posterior and off by this many deviations in one direction; coefficients do not matter."""
    _, _, mean, covariance = exact()
    wrong = mean + deviations * np.linalg.cholesky(covariance)[:, 0]
    joint = np.eye(7)
    joint[:3, :3] = covariance
    center = np.append(wrong, np.zeros(4))
    draws = np.random.default_rng(0).multivariate_normal(center, joint, 2000)
    return Consensus(center, joint, draws, "swiss", ())


@cache
def verified(deviations: float) -> Drawn:
    return _verify(question(), settings(), shifted(deviations))


@pytest.mark.parametrize("deviations", [5.0, 25.0])
def test_a_shifted_consensus_is_found_out_and_the_answer_is_right_all_the_same(deviations):
    found = verified(deviations)
    assert found.numbers["k_hat_consensus"] > found.numbers["k_hat_limit"]
    assert found.exactness in ("psis_corrected", "exact")
    assert "consensus does not agree with the reference" in found.decisions[0]
    assert found.numbers["consensus_shift"] == pytest.approx(deviations, rel=0.15)
    size = found.numbers["ess_bulk"] if found.engine == "nuts" else found.numbers["ess"]
    assert_exact(found.u, size)


def test_one_that_is_too_far_off_to_be_corrected_is_escalated_to_chains_on_all_pixels():
    found = verified(25.0)
    assert found.engine == "nuts"
    assert found.exactness == "exact"
    assert "full-data nuts instead" in found.decisions[0]
    assert found.chains


def test_on_fail_label_keeps_it_and_says_so_and_error_is_an_error():
    kept = _verify(question(), settings(on_fail="label"), shifted(25.0))
    assert kept.exactness == "consensus_unverified"
    assert "the consensus is too far from the posterior of all pixels to be corrected" in kept.statements[0]
    np.testing.assert_allclose(question().target.from_u(kept.u[0]), shifted(25.0).draws[:, :3], atol=1e-6)
    with pytest.raises(FitError, match=r"k-hat .* accepted: fewer shards, or posterior.on_fail=escalate"):
        _verify(question(), settings(on_fail="error"), shifted(25.0))


def test_an_exact_consensus_is_confirmed():
    found = verified(0.0)
    assert found.exactness == "psis_corrected"
    assert "consensus agrees with the reference" in found.decisions[0]
    assert found.numbers["k_hat"] < 0.5
    assert_exact(found.u, found.numbers["ess"])
