"""Consensus Monte Carlo: deal the pixels, sample the shards, combine them, and hold the result against the density of all pixels."""

import logging
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ..bayes import Question
from ..chains import Settings
from ..cmc_backend.board import Status
from ..density import Density
from ..draws import Shards
from ..errors import FitError
from ..importance import Proposal, Weighted, weigh
from ..optimizer.progress import FitInterrupted
from ..posterior.base import Drawn, Exactness
from ..strips import Strips
from ..tasks import Outcome, make_task
from .combine import Consensus, SubPosterior, combine, left_over
from .quality import Agreement, Effort, Limits, Verdict, agreement, completeness, harder, heterogeneity, verdict
from .shards import auto_count, deal, described, most_shards, used_pairs
from .subposterior import WORK, Common, facts_of, packed

if TYPE_CHECKING:
    from ..posterior.cmc import ConsensusOfShards

log = logging.getLogger("homodyne")

WIDER = 1.3
"""Covariance of the second proposal over that of the weighted draws."""
LINE_EVERY = 10.0
"""Seconds between lines of progress."""


@dataclass(frozen=True)
class Sampled:
    """Shards that were sampled: arrays of each (None: missing), verdicts, attempts, seconds and why one is missing."""

    arrays: list[dict[str, np.ndarray] | None]
    verdicts: list[Verdict | None]
    attempts: np.ndarray
    seconds: np.ndarray
    reasons: list[str]


def consensus(question: Question, settings: "ConsensusOfShards") -> Drawn:
    """Draws of a question by way of shards.

    Raises:
        ConfigError: more shards than the maps have rows. FitError: too many shards failed.
    """
    dataset = question.given.fit.dataset
    used = used_pairs(dataset)
    largest = most_shards(used, settings.strategy)
    dimension = len(question.start) + question.density.scaling.aim.size
    if settings.shards == "auto":
        chosen = auto_count(int(used.sum()), question.given.backend.places, dimension, largest, memory_gb=settings.memory_gb)
        count, decision = chosen.shards, chosen.sentence
    else:
        count, decision = settings.shards, f"{settings.shards} shards were asked for"
    shards = deal(dataset, count, settings.strategy, question.given.seed)
    decisions = [f"{question.width}: {decision}; {described(shards, settings.strategy)}"]
    log.info("%s", decisions[0])
    sampled = _sample(question, settings, shards)
    subs, table, notes = _collect(question, settings, shards, sampled)
    useless = [k + 1 for k, sub in enumerate(subs) if not sub.effective > len(sub.mean) + 4]
    if useless:
        why = f"shard {useless[0]} has {subs[useless[0] - 1].effective:.0f} effective draws of {len(subs[0].mean)} numbers"
        found = _without(question, settings, why)
    else:
        combined = combine(subs, settings.rule, question.rng("combination"), settings.verify_draws)
        decisions += [f"{question.width}: {note}" for note in combined.notes]
        found = _verify(question, settings, combined)
    if table[1]["data_fraction"] < 1 and found.exactness in ("exact", "psis_corrected"):
        notes[0] = f"{notes[0].partition(':')[0]}: the check against all pixels made up for them"
    gradients = sum(float(part["gradients"]) for part in sampled.arrays if part is not None)
    numbers = {"shards": float(count), "shard_passes": gradients / count} | found.numbers
    return replace(
        found, numbers=numbers | table[1], decisions=(*decisions, *found.decisions), statements=(*notes, *found.statements), shards=table[0]
    )


def _sample(question: Question, settings: "ConsensusOfShards", shards: Sequence[Strips]) -> Sampled:
    """Run all shards, and those with poor chains again."""
    count, effort = len(shards), [Effort(settings.target_accept, settings.warmup, settings.draws)] * len(shards)
    sampled = Sampled([None] * count, [None] * count, np.zeros(count, dtype=int), np.zeros(count), [""] * count)
    todo = list(range(count))
    with _place(question.given.folder) as place:
        for attempt in range(settings.reruns + 1):
            outcomes = _run(question, settings, shards, todo, effort, Path(place) / "shards" / question.width / f"attempt-{attempt + 1}")
            poor = []
            for k, outcome in zip(todo, outcomes, strict=True):
                sampled.attempts[k] += max(outcome.attempts, 1)
                sampled.seconds[k] += outcome.seconds
                if outcome.result is None:
                    assert outcome.failure is not None
                    sampled.reasons[k] = f"{outcome.failure.kind}: {outcome.failure.text.strip().splitlines()[-1]}"
                    log.error("shard %d of %d is missing: %s", k + 1, count, sampled.reasons[k])
                    continue
                limits = Limits(settings.rhat, settings.ess, settings.divergences)
                part = outcome.result
                sampled.arrays[k] = part
                found = sampled.verdicts[k] = verdict(float(part["rhat"]), float(part["ess"]), float(part["divergences"]), limits)
                if not found.good and attempt < settings.reruns:
                    effort[k] = harder(effort[k], found)
                    poor.append(k)
                    log.info("shard %d of %d again, %s: %s", k + 1, count, effort[k], "; ".join(found.reasons))
            todo = poor
            if not todo:
                break
    return sampled


def _run(
    question: Question, settings: "ConsensusOfShards", shards: Sequence[Strips], todo: list[int], effort: Sequence[Effort], folder: Path
) -> list[Outcome]:
    """Outcomes of the shards named in ``todo``."""
    count, given, target = len(shards), question.given, question.target
    assert isinstance(question.density, Density), "posterior=cmc refuses others"
    powers = {"prior": (1 / count, 1.0), "likelihood": (1.0, float(count))}[settings.power]
    common = Common(replace(question.density, prior_power=powers[0], data_power=powers[1]), target.mode, target.root)
    at = np.asarray(target.to_u(jnp.zeros(len(target.mode)))[0])
    spread = question.spread * (count**0.5 if settings.power == "prior" else 1.0)
    words = np.asarray(jax.random.key_data(question.key)).tolist()
    tasks = []
    for k in todo:
        chains = Settings(settings.chains, effort[k].warmup, effort[k].draws, effort[k].target_accept, settings.max_tree_depth)
        facts = facts_of(chains, [*words, k])
        tasks.append(make_task(folder / f"{k:04d}", packed(common, shards[k], at, spread), facts, cost=shards[k].pairs * effort[k].draws))
    progress = _Progress(question)
    try:
        return given.backend.run(WORK, tasks, progress)
    except KeyboardInterrupt as error:
        raise FitInterrupted from error


class _Progress:
    """A line about the shards, seconds apart."""

    def __init__(self, question: Question) -> None:
        self.question, self.last = question, time.perf_counter()

    def __call__(self, status: Status) -> None:
        self.question.given.fit.interrupted()
        if time.perf_counter() - self.last < LINE_EVERY:
            return
        self.last = time.perf_counter()
        left = "" if status.eta is None else f", about {status.eta:.0f} s left"
        divergences = int(status.beats["divergences"]) if "divergences" in status.beats else 0
        text = f"{status.done} done, {status.running} running, {status.waiting} waiting, {status.failed} failed, {divergences} divergences"
        log.info("shards %s: %s%s", self.question.width, text, left)


def _collect(
    question: Question, settings: "ConsensusOfShards", shards: Sequence[Strips], sampled: Sampled
) -> tuple[list[SubPosterior], tuple[Shards, dict[str, float]], list[str]]:
    """Sub-posteriors to combine, their table with numbers, and what the user should know."""
    pairs, there = np.array([part.pairs for part in shards]), np.array([part is not None for part in sampled.arrays])
    whole = completeness(pairs, there, settings.min_success_rate)
    notes = [whole.sentence] if whole.sentence else []
    some = [part for part in sampled.arrays if part is not None]
    made = [SubPosterior(part["x"], float(part["ess"]), part["mean"], part["covariance"], settings.power) for part in some]
    left = left_over(made, len(shards), None)
    poor = [k for k, found in enumerate(sampled.verdicts) if found is not None and not found.good]
    if poor:
        (first, *_), reasons = poor, sampled.verdicts[poor[0]]
        assert reasons is not None
        missed = f"shard {first + 1}: {'; '.join(reasons.reasons)}"
        notes.append(f"{len(poor)} of {len(shards)} shards have poor chains after {settings.reruns} reruns, {missed}")
    numbers = {"data_fraction": whole.data_fraction}
    # Shards share frames: with the covariance of correlated pixels they scatter less than it says, which means nothing.
    comparable = all(sub.effective > len(sub.mean) + 4 for sub in left)
    if len(left) > 1 and comparable and question.density.calibration is None:
        scatter = heterogeneity(left)
        numbers |= {"heterogeneity": scatter.statistic, "heterogeneity_p": scatter.p_value}
        notes.append(scatter.sentence)
    return left, (_table(question, sampled, pairs, settings), numbers), notes


def _table(question: Question, sampled: Sampled, pairs: np.ndarray, settings: "ConsensusOfShards") -> Shards:
    """What is kept of the shards."""
    size = question.density.scaling.aim.size
    names = (*question.density.names, *(f"coefficient {k}" for k in range(size)))
    count = len(pairs)
    status = []
    for arrays, found, attempts in zip(sampled.arrays, sampled.verdicts, sampled.attempts, strict=True):
        good = "missing" if arrays is None or found is None else "poor" if not found.good else "rerun" if attempts > 1 else "good"
        status.append(good)

    def stacked(name: str, *shape: int) -> np.ndarray:
        return np.stack([np.full(shape, np.nan) if part is None else part[name] for part in sampled.arrays])

    kinds = len(question.density.prior.model.names)
    return Shards(
        names=names,
        mean=stacked("mean", len(names)),
        covariance=stacked("covariance", len(names), len(names)),
        parameter_mean=stacked("parameter_mean", kinds),
        parameter_sd=stacked("parameter_sd", kinds),
        pairs=pairs,
        rhat=stacked("rhat"),
        ess=stacked("ess"),
        divergences=stacked("divergences"),
        attempts=sampled.attempts,
        seconds=sampled.seconds,
        status=tuple(status[:count]),
    )


def _verify(question: Question, settings: "ConsensusOfShards", combined: Consensus) -> Drawn:
    """Weights of the consensus under the density of all pixels; corrected, escalated or labelled."""
    size = len(question.target.mode)
    mean, covariance = combined.mean[:size], combined.covariance[:size, :size]
    if settings.verify == "none":
        return _drawn(
            question, combined.draws[:, :size], "consensus_unverified", {}, ("the consensus was not verified (posterior.verify)",), ()
        )
    watch, rng, threads = question.watch("verification"), question.rng("verification"), question.given.threads
    found = weigh(question.target, Proposal(mean, np.linalg.cholesky(covariance)), rng, settings.verify_draws, threads, watch)
    first, evaluations = found, settings.verify_draws
    if not found.reliable or not agreement(mean, covariance, *found.moments()).passes:
        # The weighted moments are nearer to the posterior than the consensus, however bad the weights are; and a consensus that is too
        # narrow hides what its own draws do not reach.
        mixed, wide = _adapted(found, mean, covariance)
        found = weigh(question.target, Proposal(mixed, np.linalg.cholesky(wide)), rng, settings.verify_draws, threads, watch)
        evaluations += settings.verify_draws
    numbers = {
        "k_hat": found.k_hat,
        "k_hat_limit": found.limit,
        "ess": found.size,
        "k_hat_consensus": first.k_hat,
        "evaluations": float(evaluations),
    }
    if found.reliable:
        near = agreement(mean, covariance, *found.moments())
        tail = f"k-hat {first.k_hat:.2f}, after correction {found.k_hat:.2f} (limit {found.limit:.2f})"
        text = f"{question.width}: consensus {near.sentence}; {tail}"
        chosen = found.resample(rng, settings.verify_draws)
        return _drawn(question, found.v[chosen], "psis_corrected", numbers | _differences(near), (), (text,))
    bad = f"k-hat {found.k_hat:.2f} is above {found.limit:.2f}: the consensus is too far from the posterior of all pixels to be corrected"
    if settings.on_fail == "error":
        raise FitError(f"posterior {question.width}: {bad}; accepted: fewer shards, or posterior.on_fail=escalate")
    if settings.on_fail == "label":
        return _drawn(question, combined.draws[:, :size], "consensus_unverified", numbers, (f"{question.width}: {bad}",), ())
    log.info("posterior %s: %s; chains on all pixels decide", question.width, bad)
    drawn = settings.nuts.draw(question)
    near = agreement(mean, covariance, *_moments(question, drawn.u))
    decision = f"{question.width}: {bad}; full-data nuts instead; consensus {near.sentence}"
    return replace(drawn, numbers=numbers | drawn.numbers | _differences(near), decisions=(decision, *drawn.decisions))


def _without(question: Question, settings: "ConsensusOfShards", why: str) -> Drawn:
    """Chains on all pixels where the shards give no consensus.

    Raises:
        FitError: they were not asked for.
    """
    if settings.on_fail != "escalate":
        raise FitError(f"posterior {question.width}: no consensus, {why}; accepted: more posterior.draws, or posterior.on_fail=escalate")
    log.info("posterior %s: no consensus, %s; chains on all pixels decide", question.width, why)
    drawn = settings.nuts.draw(question)
    return replace(drawn, decisions=(f"{question.width}: no consensus, {why}; full-data nuts instead", *drawn.decisions))


def _adapted(found: Weighted, mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moments of the weighted draws, the covariance with that of the consensus mixed in as far as weights are few."""
    center, scatter = found.moments()
    share = min(1.0, found.size / (10.0 * len(mean)))
    away = (center - mean)[:, None] * (center - mean)[None, :]
    return center, WIDER * (share * scatter + (1 - share) * (covariance + away))


def _moments(question: Question, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance in white coordinates of draws u (C, S, d)."""
    v = question.target.from_u(u.reshape(-1, u.shape[-1]))
    return v.mean(axis=0), np.cov(v.T)


def _differences(near: Agreement) -> dict[str, float]:
    ratios = near.ratio
    return {
        "consensus_shift": float(np.abs(near.shift).max()),
        "consensus_sd_ratio_low": float(ratios.min()),
        "consensus_sd_ratio_high": float(ratios.max()),
        "consensus_correlation": near.correlation,
        "consensus_divergence": near.divergence,
    }


def _drawn(
    question: Question,
    v: np.ndarray,
    exactness: Exactness,
    numbers: dict[str, float],
    statements: tuple[str, ...],
    decisions: tuple[str, ...],
) -> Drawn:
    u = np.asarray(jax.vmap(lambda one: question.target.to_u(one)[0])(v))[None]
    return Drawn("cmc", exactness, u, {}, chains=False, numbers=numbers, decisions=decisions, statements=statements)


def _place(folder: Path | None) -> AbstractContextManager[str]:
    """The run folder, or one that is removed."""
    return tempfile.TemporaryDirectory(prefix="homodyne-") if folder is None else nullcontext(str(folder))
