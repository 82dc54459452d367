"""One posterior from the sub-posteriors of K shards.

Shards are sampled in the joint coordinates x and combined there: densities of x may be multiplied, those of the user's parameters may
not. A sub-posterior holds its share of the prior in one of two ways,

    prior        p_k ~ prior^(1/K) L_k      sqrt(K) times as wide as the posterior;   posterior ~ prod_k p_k
    likelihood   p_k ~ prior L_k^K          about as wide as the posterior;           posterior ~ prod_k p_k^(1/K)

so that the prior counts once either way. With s_k = 1 or 1/K, the product of Gaussians has precision sum_k s_k V_k^-1. All of it is
an approximation unless the sub-posteriors are Gaussian: the mean of a skewed shard is off by more the fewer pixels it has, which no
combination of moments can mend. Hence the check against the density of all pixels (verify.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..errors import ConfigError, FitError
from .gaussians import Frame, carried, inverse, is_covariance, middle
from .semiparametric import Shard, product_draws, refuse

Power = Literal["prior", "likelihood"]

RULES = ("gaussian", "swiss", "semiparametric", "barycentre", "geometric_median", "tree")
GROUP = 32
"""Shards whose matrices ``tree`` holds at the same time."""
LEGACY = {"consensus_mc": "gaussian", "robust_consensus_mc": "geometric_median", "hierarchical": "tree"}
"""Names of homodyne 2.x that have an equal here. There each parameter was combined alone; here all are combined together."""
_AVERAGES = "it averages draws element by element, which forgets correlations and is too narrow where shards differ in precision"
REFUSED = {
    "simple_average": _AVERAGES,
    "weighted_average": _AVERAGES,
    "weighted_gaussian": _AVERAGES,
    "consensus_average": _AVERAGES,
    "bimodal": "it weighs modes by the number of shards near them instead of by their evidence",
}
"""Names of homodyne 2.x that would give a wrong posterior, with the reason."""


@dataclass(frozen=True)
class SubPosterior:
    """The sub-posterior of one shard.

    Attributes:
        draws: (S, D). effective: number of independent draws that would know the covariance as well (smallest bulk ESS); infinite when
            mean and covariance are exact.
        mean: (D,). covariance: (D, D). These count as the moments; they may be known better than from the draws.
        power: how the shard holds the prior.
    """

    draws: np.ndarray
    effective: float
    mean: np.ndarray
    covariance: np.ndarray
    power: Power


@dataclass(frozen=True)
class Consensus:
    """The combination. mean: (D,). covariance: (D, D). draws: (size, D) in random order. notes: what was assumed, in words."""

    mean: np.ndarray
    covariance: np.ndarray
    draws: np.ndarray
    rule: str
    notes: tuple[str, ...]


def rule_of(name: str) -> str:
    """The rule that a name stands for.

    Raises:
        ConfigError: of an unknown name, and of one of homodyne 2.x that would give a wrong posterior.
    """
    accepted = f"accepted: {', '.join((*RULES, *LEGACY))}"
    if name in REFUSED:
        raise ConfigError(f"combination {name!r} of homodyne 2.x is refused: {REFUSED[name]}; {accepted}")
    if name not in RULES and name not in LEGACY:
        raise ConfigError(f"unknown combination {name!r}; {accepted}")
    return LEGACY[name] if name in LEGACY else name


def combine(subs: Sequence[SubPosterior], rule: str, rng: np.random.Generator, size: int) -> Consensus:
    """The posterior of all shards.

    Rules: ``gaussian``: product of Gaussians, Gaussian draws. ``swiss``: its moments, draws of the shards moved there by affine maps,
    so that skewness survives. ``tree``: swiss with sums by groups, for many shards. ``semiparametric``: product of densities, for few
    dimensions. ``barycentre``: average by the Wasserstein distance. ``geometric_median``: hardly moved by a few bad shards.

    Args:
        subs: of all shards, with the same power (``left_over`` where some are missing). size: number of draws.
    """
    chosen = rule_of(rule)
    _check(subs)
    if len(subs) == 1:
        only = subs[0]
        return Consensus(only.mean, only.covariance, only.draws[_pick(rng, len(only.draws), size)], chosen, ("one shard, as it is",))
    made = {"semiparametric": _semiparametric, "barycentre": _middle, "geometric_median": _middle}
    consensus = made[chosen](subs, chosen, rng, size) if chosen in made else _product(subs, chosen, rng, size)
    return replace(consensus, draws=rng.permutation(consensus.draws))


def left_over(subs: Sequence[SubPosterior], dealt: int, prior: tuple[np.ndarray, np.ndarray] | None) -> list[SubPosterior]:
    """The shards that are there, as if the maps had been dealt to them only: the others' pixels are left out, the prior counts once.

    With K dealt and k left, to the precision of a shard is added P (1/k - 1/K) (power ``prior``), or it becomes (k/K) V^-1 + (1 - k/K) P
    (``likelihood``), P being the precision of the prior; means likewise; draws follow by an affine map. Exact for Gaussians.

    Args:
        subs: those left. dealt: number of shards the maps were dealt to. prior: mean (D,) and precision (D, D); None: flat.
    """
    if not subs or len(subs) == dealt:
        return list(subs)
    size = len(subs[0].mean)
    centre, precision = prior if prior is not None else (np.zeros(size), np.zeros((size, size)))
    moved = []
    for sub in subs:
        keep, add = (1.0, 1 / len(subs) - 1 / dealt) if sub.power == "prior" else (len(subs) / dealt, 1 - len(subs) / dealt)
        own = inverse(sub.covariance)
        covariance = inverse(keep * own + add * precision)
        mean = sub.mean + covariance @ (add * precision @ (centre - sub.mean))
        draws = carried(sub.draws, sub.mean, sub.covariance, Frame.of(mean, covariance))
        moved.append(replace(sub, draws=draws, mean=mean, covariance=covariance))
    return moved


def shares(subs: Sequence[SubPosterior]) -> np.ndarray:
    """(K,) factors of V_k^-1 in the precision of the product.

    The inverse of a covariance from n Gaussian draws is (n - 1)/(n - D - 2) times too large on average. Errors of K shards average in
    the sum, those of the sum do not in its inverse; 1 - (1 - 1/K) (D + 1)/(n - 1) makes the covariance of the product right on average
    to order 1/n, from (n - D - 2)/(n - 1) for many shards to 1 for one. It assumes draws near Gaussian and n the same for every entry.
    """
    dimension, count = len(subs[0].mean), len(subs)
    effective = np.array([sub.effective for sub in subs])
    return (1 - (1 - 1 / count) * (dimension + 1) / (effective - 1)) * (1.0 if subs[0].power == "prior" else 1 / count)


def product(subs: Sequence[SubPosterior], group: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D) of the product of Gaussians, from sums over ``group`` shards at a time.

    Groups are sums of precisions, not posteriors of their own, so that their size changes nothing but the memory that is used.
    """
    share, about = shares(subs), subs[0].mean
    precision, shift = np.zeros((len(about), len(about))), np.zeros(len(about))
    for start in range(0, len(subs), group):
        some = subs[start : start + group]
        parts = share[start : start + group, None, None] * inverse(np.stack([sub.covariance for sub in some]))
        precision += parts.sum(axis=0)
        # Means are summed about one of them: what they have in common must not cost digits.
        shift += np.einsum("kij,kj->i", parts, np.stack([sub.mean - about for sub in some]))
    covariance = inverse(precision)
    return about + covariance @ shift, covariance


def _check(subs: Sequence[SubPosterior]) -> None:
    if not subs:
        raise FitError("no shard is left to combine")
    dimension = len(subs[0].mean)
    for k, sub in enumerate(subs):
        where = f"shard {k + 1} of {len(subs)}"
        if sub.draws.ndim != 2 or sub.draws.shape[1] != dimension or sub.covariance.shape != (dimension, dimension):
            raise FitError(f"{where}: draws {sub.draws.shape}, covariance {sub.covariance.shape}; {dimension} coordinates are expected")
        if sub.power != subs[0].power:
            raise FitError(f"{where}: the prior is held as {sub.power!r}, in the first one as {subs[0].power!r}")
        if not (np.isfinite(sub.draws).all() and np.isfinite(sub.mean).all() and is_covariance(sub.covariance)):
            raise FitError(f"{where}: draws or moments are not finite, or the covariance is not positive definite")
        if len(subs) > 1 and not sub.effective > dimension + 2:
            raise FitError(f"{where}: {sub.effective:.0f} effective draws; its covariance needs more than {dimension + 2}")


def _product(subs: Sequence[SubPosterior], rule: str, rng: np.random.Generator, size: int) -> Consensus:
    mean, covariance = product(subs, GROUP if rule == "tree" else len(subs))
    frame = Frame.of(mean, covariance)
    fewest = min(sub.effective for sub in subs)
    notes: tuple[str, ...] = (f"product of {len(subs)} Gaussians with full matrices",)
    if np.isfinite(fewest):
        error = _error_of_mean(subs, fewest)
        notes += (f"shards have {fewest:.0f} effective draws or more, so that its mean is known to {error:.2g} SD",)
    if rule == "gaussian":
        return Consensus(mean, covariance, mean + frame.outward(rng.standard_normal((size, len(mean)))), rule, notes)
    if subs[0].power == "likelihood":
        draws = _pooled(subs, frame, np.full(len(subs), 1 / len(subs)), rng, size)
        return Consensus(mean, covariance, draws, rule, (*notes, "draws of the shards, moved to its moments by affine maps"))
    draws = _summed(subs, frame, covariance, rng, size)
    return Consensus(mean, covariance, draws, rule, (*notes, "each draw a weighted sum of one draw of every shard, which has its moments"))


def _error_of_mean(subs: Sequence[SubPosterior], effective: float) -> float:
    """Standard error of the mean of the product from n draws of each shard, over its standard deviation.

    The means of the shards give 1/n of its variance (1/(K n) of power ``likelihood``), and the errors of the precisions, by which the
    scatter of the K shards is weighed, (1 - 1/K) (D + 1)/n.
    """
    count = len(subs)
    means = 1.0 if subs[0].power == "prior" else 1 / count
    return float(np.sqrt((means + (1 - 1 / count) * (len(subs[0].mean) + 1)) / effective))


def _summed(subs: Sequence[SubPosterior], frame: Frame, covariance: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """Draws from shards of power ``prior``.

    Such a shard is sqrt(K) times as skewed as the posterior and an affine map would keep that. The sum of G_k (x_k - m_k) with
    G_k = s_k^1/2 V V_k^-1 has covariance sum_k s_k V V_k^-1 V = V and third cumulant that of the product to leading order.
    """
    steps = np.zeros((size, len(frame.mean)))
    for sub, share in zip(subs, shares(subs), strict=True):
        chosen = sub.draws[_pick(rng, len(sub.draws), size)] - sub.mean
        steps += np.sqrt(share) * chosen @ inverse(sub.covariance) @ covariance
    return frame.mean + steps


def _pooled(subs: Sequence[SubPosterior], frame: Frame, weights: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """Draws of shards of power ``likelihood``, as many of each as its weight says, moved to the mean and covariance of a frame."""
    ends = np.floor(np.cumsum(weights)[:-1] * size + rng.random()).astype(int)
    parts = []
    for sub, count in zip(subs, np.diff(np.minimum(ends, size), prepend=0, append=size), strict=True):
        chosen = sub.draws[_pick(rng, len(sub.draws), count)]
        parts.append(carried(chosen, sub.mean, sub.covariance, frame))
    return np.concatenate(parts)


def _middle(subs: Sequence[SubPosterior], rule: str, rng: np.random.Generator, size: int) -> Consensus:
    """Barycentre or geometric median of sub-posteriors that are as wide as the posterior."""
    narrow = 1 / len(subs) if subs[0].power == "prior" else 1.0
    means, covariances = np.stack([sub.mean for sub in subs]), narrow * np.stack([sub.covariance for sub in subs])
    mean, covariance, weights = middle(means, covariances, robust=rule == "geometric_median")
    frame = Frame.of(mean, covariance)
    notes = [f"{rule.replace('_', ' ')} of {len(subs)} Gaussians by the Wasserstein distance; shards count alike, whatever their precision"]
    if rule == "geometric_median":
        least = int(np.argmin(weights))
        notes.append(f"the least weight, {weights[least] * len(subs):.2g} of an equal share, is that of shard {least + 1}")
        notes.append("its centre is less precise than the mean of good shards, by 45 % in variance in one dimension, 7 % in eight")
    if narrow == 1.0:
        return Consensus(mean, covariance, _pooled(subs, frame, weights, rng, size), rule, tuple(notes))
    draws = np.tile(mean, (size, 1))
    for sub, weight in zip(subs, weights, strict=True):
        chosen = sub.draws[_pick(rng, len(sub.draws), size)]
        draws += np.sqrt(weight) * (carried(chosen, sub.mean, sub.covariance, frame) - mean)
    notes.append("shards were narrowed by sqrt(K) about their means, as power K of a Gaussian is")
    return Consensus(mean, covariance, draws, rule, tuple(notes))


def _semiparametric(subs: Sequence[SubPosterior], rule: str, rng: np.random.Generator, size: int) -> Consensus:
    refuse(len(subs[0].mean), len(subs))
    if subs[0].power != "prior":
        reason = "roots of a kernel estimate have no closed product"
        raise ConfigError(
            f"combination semiparametric needs shards of power 'prior': {reason}; accepted: swiss, gaussian, tree, barycentre"
        )
    shards = [Shard(Frame.of(sub.mean, sub.covariance), sub.draws, sub.effective) for sub in subs]
    mean, covariance, draws, bandwidth = product_draws(Frame.of(*product(subs, len(subs))), shards, rng, size)
    kernels = f"kernel estimates of bandwidth {bandwidth:.2g} SD of a shard"
    return Consensus(mean, covariance, draws, rule, (f"product of {len(subs)} Gaussians, each corrected by {kernels}",))


def _pick(rng: np.random.Generator, draws: int, count: int) -> np.ndarray:
    """(count,) indices in random order, each as often as any other to within one."""
    return np.concatenate([rng.permutation(draws) for _ in range(-(-count // draws))])[:count] if count else np.zeros(0, dtype=int)
