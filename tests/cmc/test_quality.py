"""Agreement of shards, of posteriors, of chains with their limits, and what happens when shards are missing."""

import numpy as np
import pytest
from scipy import stats

from homodyne.cmc.combine import Power, SubPosterior
from homodyne.cmc.quality import Effort, Heterogeneity, Limits, agreement, completeness, harder, heterogeneity, moments, verdict
from homodyne.errors import FitError

D = 4
LIMITS = Limits(rhat=1.01, ess=400, divergences=0.01)


def shards(seed: int, count: int, power: Power, draws: int | None, size: int = D) -> list[SubPosterior]:
    """Sub-posteriors of unequal shards of one truth; moments are exact, or those of some draws."""
    generator = np.random.default_rng(seed)
    subs = []
    for _ in range(count):
        a = generator.normal(size=(size, 3 * size))
        covariance = a @ a.T * np.geomspace(1e-6, 1e6, size)[:, None] * np.geomspace(1e-6, 1e6, size)
        mean = np.linalg.cholesky(covariance) @ generator.normal(size=size)
        width = covariance if power == "prior" else covariance / count
        x = mean + generator.normal(size=(draws or 50, size)) @ np.linalg.cholesky(width).T
        known = (x.mean(axis=0), np.cov(x.T)) if draws else (mean, width)
        subs.append(SubPosterior(x, draws or np.inf, *known, power))
    return subs


@pytest.mark.parametrize("power", ["prior", "likelihood"])
@pytest.mark.parametrize(("count", "draws"), [(8, None), (8, 60), (2, 60), (32, 300)])
def test_p_values_of_equal_shards_are_uniform(count: int, draws: int | None, power: Power) -> None:
    found = [heterogeneity(shards(seed, count, power, draws)) for seed in range(200)]
    assert stats.kstest([one.p_value for one in found], "uniform").pvalue > 0.01
    assert stats.kstest([one.shard_p_value[0] for one in found], "uniform").pvalue > 0.01
    worst = np.array([one.worst_p_value for one in found])
    # The others share a mean, so that the least of K is near to independent ones, not quite.
    assert abs(np.mean(worst < 0.1) - 0.1) < 0.07


def test_statistic_is_the_quadratic_form_written_out() -> None:
    subs = shards(0, 5, "prior", None)
    precision = [np.linalg.inv(sub.covariance) for sub in subs]
    mean = np.linalg.solve(sum(precision), sum(p @ sub.mean for p, sub in zip(precision, subs, strict=True)))
    expected = sum((sub.mean - mean) @ p @ (sub.mean - mean) for p, sub in zip(precision, subs, strict=True))
    found = heterogeneity(subs)
    np.testing.assert_allclose(found.statistic, expected, rtol=1e-8)
    assert found.rank == 4 * D
    np.testing.assert_allclose(found.p_value, stats.chi2.sf(expected, 4 * D), rtol=1e-6)


def test_chi_square_of_a_shard_is_that_against_the_others_combined() -> None:
    subs = shards(1, 5, "prior", None)
    rest = [np.linalg.inv(sub.covariance) for sub in subs[1:]]
    covariance = np.linalg.inv(sum(rest))
    mean = covariance @ sum(p @ sub.mean for p, sub in zip(rest, subs[1:], strict=True))
    step = subs[0].mean - mean
    np.testing.assert_allclose(heterogeneity(subs).shard[0], step @ np.linalg.solve(covariance + subs[0].covariance, step), rtol=1e-8)


@pytest.mark.parametrize("power", ["prior", "likelihood"])
def test_a_shard_that_differs_is_named_and_its_coordinate_shows(power: Power) -> None:
    subs = shards(3, 12, power, 500)
    sd = np.sqrt(subs[7].covariance[2, 2] * (1 if power == "prior" else 12))
    moved = subs[7].mean.copy()
    moved[2] += 12 * sd
    subs[7] = SubPosterior(subs[7].draws, subs[7].effective, moved, subs[7].covariance, power)
    found = heterogeneity(subs)
    assert found.worst == 7
    assert found.p_value < 1e-8
    assert found.worst_p_value < 1e-8
    assert int(np.argmax(found.i_squared)) == 2
    assert found.i_squared[2] > 0.5
    assert "8 of 12" in found.sentence


def test_i_squared_is_zero_of_equal_shards_and_one_shard_has_nothing_to_be_compared_with() -> None:
    equal = [SubPosterior(np.zeros((9, 2)), np.inf, np.ones(2), np.eye(2), "prior")] * 4
    np.testing.assert_array_equal(heterogeneity(equal).i_squared, 0)
    found: Heterogeneity = heterogeneity(equal[:1])
    assert (found.p_value, found.rank, found.worst_p_value) == (1.0, 0, 1.0)
    np.testing.assert_array_equal(found.i_squared, 0)


def test_too_few_draws_to_compare_shards_are_refused() -> None:
    with pytest.raises(FitError, match="a shard has 8 effective draws; comparing shards takes more than 8"):
        heterogeneity(shards(0, 3, "prior", 8))


def test_divergence_of_gaussians_agrees_with_a_numerical_integral() -> None:
    x = np.linspace(-30, 30, 200_001)
    p, q = stats.norm(0.3, 1.2), stats.norm(-0.5, 2.0)
    expected = 0.5 * np.trapezoid((p.pdf(x) - q.pdf(x)) * (p.logpdf(x) - q.logpdf(x)), x)
    found = agreement(np.array([0.3]), np.array([[1.44]]), np.array([-0.5]), np.array([[4.0]]))
    np.testing.assert_allclose(found.divergence, expected, rtol=1e-6)
    np.testing.assert_allclose((found.shift[0], found.ratio[0]), (0.4, 0.6))


@pytest.mark.parametrize(
    ("shift", "scale", "rho", "passes"),
    [(0.0, 1.0, 0.5, True), (0.09, 1.05, 0.53, True), (0.11, 1.0, 0.5, False), (0.0, 1.12, 0.5, False), (0.0, 0.88, 0.5, False),
     (0.0, 1.0, 0.56, False)],
)  # fmt: skip
def test_two_posteriors_agree_within_the_bands_whatever_the_units(shift: float, scale: float, rho: float, passes: bool) -> None:
    units = np.array([1e9, 1e-9])
    reference = np.array([[1, 0.5], [0.5, 1]]) * np.outer(units, units)
    other = np.array([[1, rho], [rho, 1]]) * np.outer(units, units) * scale**2
    found = agreement(shift * units, other, np.zeros(2), reference)
    assert found.passes is passes
    np.testing.assert_allclose((found.shift, found.ratio), ([shift, shift], [scale, scale]), atol=1e-12)
    np.testing.assert_allclose(found.correlation, abs(rho - 0.5), atol=1e-12)
    assert found.sentence.startswith("agrees" if passes else "does not agree")


def test_moments_of_weighted_draws_are_those_of_the_density_the_weights_lead_to() -> None:
    """Draws of N(0, 4) with weights N(1, 1)/N(0, 4); equal weights give NumPy's moments."""
    x = np.random.default_rng(0).normal(0, 2, size=(400_000, 1))
    weights = 7.0 * (stats.norm.pdf(x[:, 0], 1, 1) / stats.norm.pdf(x[:, 0], 0, 2))
    mean, covariance = moments(x, weights)
    np.testing.assert_allclose((mean[0], covariance[0, 0]), (1, 1), atol=0.01)
    mean, covariance = moments(x[:50] * [[1, 2]], None)
    np.testing.assert_allclose(covariance, np.cov((x[:50] * [[1, 2]]).T))


@pytest.mark.parametrize(
    ("numbers", "reasons"),
    [
        ((1.005, 800, 0.0), ()),
        ((1.02, 800, 0.0), ("R-hat 1.020, limit 1.01",)),
        ((1.005, 90, 0.0), ("90 effective draws, 400 are needed",)),
        ((1.005, 800, 0.05), ("5 % of the transitions diverged, limit 1 %",)),
        ((np.nan, np.nan, np.nan), ("R-hat", "%", "effective draws")),
    ],
)
def test_the_verdict_names_every_limit_that_was_missed(numbers: tuple, reasons: tuple) -> None:
    found = verdict(*numbers, LIMITS)
    assert found.good == (not reasons)
    assert len(found.reasons) == len(reasons)
    assert all(expected in reason for expected, reason in zip(reasons, found.reasons, strict=True))


def test_a_rerun_changes_what_was_missing_and_nothing_else() -> None:
    effort = Effort(target_accept=0.8, warmup=200, draws=500)
    assert harder(effort, verdict(1.0, 500, 0.0, LIMITS)) == effort
    assert harder(effort, verdict(1.0, 100, 0.0, LIMITS)) == Effort(0.8, 200, 1000)
    assert harder(effort, verdict(1.0, 500, 0.3, LIMITS)) == Effort(0.9, 400, 500)
    assert harder(effort, verdict(1.5, 10, 0.3, LIMITS)) == Effort(0.9, 400, 1000)


def test_missing_shards_stop_the_run_or_are_told_and_never_pass_unseen() -> None:
    pairs, there = np.array([100, 100, 200, 100]), np.array([True, True, False, True])
    assert completeness(pairs, np.ones(4, dtype=bool), 1.0).sentence == ""
    found = completeness(pairs, there, 0.75)
    assert (found.data_fraction, found.complete) == (0.6, False)
    assert found.sentence.startswith("1 of 4 shards are missing, 40 % of the pixels: the posterior is that of the pixels that are left")
    with pytest.raises(FitError, match=r"at least 90 % of the shards must succeed \(min_success_rate\)"):
        completeness(pairs, there, 0.9)
    with pytest.raises(FitError, match="4 of 4"):
        completeness(pairs, np.zeros(4, dtype=bool), 0.0)
