"""Do the shards agree, is each one sampled well, are all of them there, and does the consensus agree with a reference?

Homogeneity of K shards with means m_k and covariances C_k of these means (V_k of power ``prior``, K V_k of power ``likelihood``),

    m = C sum_k C_k^-1 m_k,    C^-1 = sum_k C_k^-1,    Q = sum_k (m_k - m)' C_k^-1 (m_k - m),   chi-square with (K - 1) D

holds when the prior is weak against a shard; a strong one draws the means together and makes Q smaller. Shards share frames, whose noise
they have in common, so that agreement of shards is no evidence that the model or the errors are right; disagreement is evidence of a
misfit, of a shard that was not sampled, or of a posterior that is not Gaussian at the size of a shard.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, fdtrc

from ..errors import FitError
from .combine import SubPosterior
from .gaussians import correlation, deviations, inverse, symmetric_divergence

MOST_SHIFT = 0.1
LEAST_RATIO, MOST_RATIO = 0.9, 1.1
MOST_CORRELATION = 0.05
"""How far two posteriors may differ and still agree: means in SD, SD over SD, any correlation."""


@dataclass(frozen=True)
class Heterogeneity:
    """Scatter of the shards over what their covariances say.

    Attributes:
        statistic, rank, p_value: Q, its degrees of freedom before the correction for estimated covariances, and the probability of a
            larger one if shards are alike.
        shard, shard_p_value: (K,) chi-square with D of each shard against all others, and its p-value.
        worst: index of the shard with the least p-value. worst_p_value: of the least of K.
        i_squared: (D,) part of the scatter of each coordinate that the covariances do not explain.
        sentence: in words.
    """

    statistic: float
    rank: int
    p_value: float
    shard: np.ndarray
    shard_p_value: np.ndarray
    worst: int
    worst_p_value: float
    i_squared: np.ndarray
    sentence: str


@dataclass(frozen=True)
class Agreement:
    """A posterior against a reference.

    Attributes:
        shift: (D,) difference of means over the reference SD. ratio: (D,) SD over the reference SD.
        correlation: largest change of a correlation. divergence: mean of the two Kullback-Leibler divergences of the Gaussians, nats.
        passes: True when all are within the bands. sentence: in words.
    """

    shift: np.ndarray
    ratio: np.ndarray
    correlation: float
    divergence: float
    passes: bool
    sentence: str


@dataclass(frozen=True)
class Limits:
    """What chains of a shard must reach: rank-normalised R-hat, effective draws, and part of the transitions that may diverge."""

    rhat: float
    ess: float
    divergences: float


@dataclass(frozen=True)
class Effort:
    """Settings of a sampler that a rerun changes."""

    target_accept: float
    warmup: int
    draws: int


@dataclass(frozen=True)
class Verdict:
    """Whether a shard may be used, and which limits it missed."""

    good: bool
    mixing: bool
    precise: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Completeness:
    """data_fraction: pixels of the shards that are there over all. complete: nothing is missing. sentence: in words, empty if complete."""

    data_fraction: float
    complete: bool
    sentence: str


def heterogeneity(subs: Sequence[SubPosterior]) -> Heterogeneity:
    """Test of equal shards.

    With covariances from n draws each (m_k - m)' V_k^-1 (m_k - m) is Hotelling's, (n - 1) D/(n - D) F(D, n - D), and m_k has the error of
    n draws besides. Its mean is made D by (n - D - 2)/(n - 1); its variance is then g = (n - 2)/(n - D - 4) times that of chi-square, so
    Q/g is compared with (K - 1) D/g degrees of freedom.
    """
    count, size = len(subs), len(subs[0].mean)
    effective = np.array([sub.effective for sub in subs])
    if effective.min() <= size + 4:
        raise FitError(f"a shard has {effective.min():.0f} effective draws; comparing shards takes more than {size + 4}")
    means = np.stack([sub.mean for sub in subs])
    widen = (1.0 if subs[0].power == "prior" else count) + 1 / effective
    covariances = widen[:, None, None] * np.stack([sub.covariance for sub in subs])
    unbiased = 1 - (size + 1) / (effective - 1)
    covariances = covariances / unbiased[:, None, None]
    precisions = inverse(covariances)
    total = inverse(precisions.sum(axis=0))
    away = means - means[0]
    away = away - total @ np.einsum("kij,kj->i", precisions, away)
    statistic = float(np.einsum("ki,kij,kj->", away, precisions, away))
    excess = float(np.mean(1 + (size + 2) / (effective - size - 4)))
    rank = (count - 1) * size
    p_value = float(chdtrc(rank / excess, statistic / excess)) if rank else 1.0
    shard = np.zeros(count)
    if rank:
        # A shard is part of the mean: its deviation has covariance C_k - C, and the quotient is that against the mean of the others.
        shard = np.einsum("ki,kij,kj->k", away, inverse(covariances - total), away)
    p_shard = _hotelling(shard / unbiased, effective, size)
    worst = int(np.argmin(p_shard))
    p_worst = float(-np.expm1(count * np.log1p(-p_shard[worst]))) if p_shard[worst] < 1 else 1.0
    return Heterogeneity(
        statistic, rank, p_value, shard, p_shard, worst, p_worst, _i_squared(means, covariances),
        _spoken(count, statistic, rank, p_value, worst, p_worst),
    )  # fmt: skip


def moments(draws: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D) of draws (S, D) with weights (S,) that need not add up to 1; None: equal ones."""
    share = np.full(len(draws), 1 / len(draws)) if weights is None else weights / weights.sum()
    mean = share @ draws
    away = draws - mean
    return mean, (share * away.T) @ away / (1 - share @ share)


def agreement(mean: np.ndarray, covariance: np.ndarray, reference_mean: np.ndarray, reference_covariance: np.ndarray) -> Agreement:
    """A posterior, by mean (D,) and covariance (D, D), against a reference."""
    sd = deviations(reference_covariance)
    shift, ratio = (mean - reference_mean) / sd, deviations(covariance) / sd
    change = float(np.abs(correlation(covariance) - correlation(reference_covariance)).max())
    divergence = symmetric_divergence(mean, covariance, reference_mean, reference_covariance)
    largest = float(np.abs(shift).max())
    passes = largest < MOST_SHIFT and ratio.min() > LEAST_RATIO and ratio.max() < MOST_RATIO and change < MOST_CORRELATION
    numbers = f"means within {largest:.2g} SD, SD ratios {ratio.min():.3g} to {ratio.max():.3g}, correlations within {change:.2g}"
    bands = f"bands {MOST_SHIFT:g} SD, {LEAST_RATIO:g} to {MOST_RATIO:g}, {MOST_CORRELATION:g}"
    sentence = f"{'agrees' if passes else 'does not agree'} with the reference: {numbers} ({bands})"
    return Agreement(shift, ratio, change, divergence, bool(passes), sentence)


def verdict(rhat: float, ess: float, divergences: float, limits: Limits) -> Verdict:
    """Of the chains of one shard: the worst R-hat and ESS over its coordinates, and the part of its transitions that diverged.

    A number that is NaN misses its limit.
    """
    reasons = []
    if not rhat < limits.rhat:
        reasons.append(f"R-hat {rhat:.3f}, limit {limits.rhat:g}")
    if not divergences <= limits.divergences:
        reasons.append(f"{100 * divergences:.2g} % of the transitions diverged, limit {100 * limits.divergences:g} %")
    mixing = not reasons
    precise = ess >= limits.ess
    if not precise:
        reasons.append(f"{ess:.0f} effective draws, {limits.ess:g} are needed")
    return Verdict(mixing and precise, mixing, precise, tuple(reasons))


def harder(effort: Effort, found: Verdict) -> Effort:
    """Settings of the next attempt at a shard.

    Chains that do not mix or diverge: half the distance from target_accept to 1, and twice the warm-up. Too few effective draws: twice
    the draws. Both where both are missed; nothing where nothing is.
    """
    accept = effort.target_accept if found.mixing else 0.5 * (1 + effort.target_accept)
    return Effort(accept, effort.warmup * (1 if found.mixing else 2), effort.draws * (1 if found.precise else 2))


def completeness(pairs: np.ndarray, there: np.ndarray, min_success_rate: float) -> Completeness:
    """What is left when shards failed.

    Args:
        pairs: (K,) pixels of each shard. there: (K,) bool. min_success_rate: part of the shards that must be there.

    Raises:
        FitError: when fewer are. Otherwise the consensus goes on with the pixels that are left (``combine.left_over``) and says so.
    """
    rate, fraction = float(there.mean()), float(pairs[there].sum() / pairs.sum())
    if there.all():
        return Completeness(fraction, True, "")
    missing = f"{int((~there).sum())} of {len(there)} shards are missing, {100 * (1 - fraction):.3g} % of the pixels"
    if rate < min_success_rate or not there.any():
        raise FitError(f"{missing}; at least {100 * min_success_rate:g} % of the shards must succeed (min_success_rate)")
    return Completeness(fraction, False, f"{missing}: the posterior is that of the pixels that are left, with the prior counted once")


def _hotelling(squared: np.ndarray, effective: np.ndarray, size: int) -> np.ndarray:
    """P-values of squared distances measured with covariances from a number of draws; chi-square where that is infinite."""
    p_values = chdtrc(size, squared)
    some = np.isfinite(effective)
    own = effective[some]
    p_values[some] = fdtrc(size, own - size, squared[some] * (own - size) / (size * (own - 1)))
    return p_values


def _i_squared(means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """(D,) from each coordinate's own scatter."""
    if len(means) == 1:
        return np.zeros(means.shape[1])
    precision = deviations(covariances) ** -2
    scatter = (precision * (means - (precision * means).sum(axis=0) / precision.sum(axis=0)) ** 2).sum(axis=0)
    return 1 - (len(means) - 1) / np.maximum(scatter, len(means) - 1)


def _spoken(count: int, statistic: float, rank: int, p_value: float, worst: int, p_worst: float) -> str:
    if not rank:
        return "one shard: nothing to compare"
    scatter = f"shards scatter with chi-square {statistic:.4g} for {rank} (p = {p_value:.2g})"
    return f"{scatter}; the one that is farthest from the others is {worst + 1} of {count} (p = {p_worst:.2g})"
