"""posterior=nuts: Markov chains on the full-data density by the No-U-Turn sampler (chains.py)."""

from typing import TYPE_CHECKING, Annotated, Literal

import jax
import numpy as np
from pydantic import Field

from ..settings import Option
from .base import AbstractSampler, Drawn

if TYPE_CHECKING:
    from ..bayes import Question
    from ..chains import Chains

WORST_RHAT, FEWEST_ESS, MOST_DIVERGENCES = 1.01, 400, 0.01
"""Limits of chains that can be trusted; divergences as a share of the draws after the warm-up."""


class FullChains(Option):
    """Settings of chains on all pixels.

    Attributes:
        chains, warmup, draws: of each chain. target_accept: mean acceptance that the step size aims at.
        max_tree_depth: of the trajectory, which has at most 2^depth steps.
        init: where chains begin: ``fit``, around the mode; ``svi``, at draws of a variational guide; ``prior``, at draws of the prior.
    """

    chains: Annotated[int, Field(ge=1)]
    warmup: Annotated[int, Field(ge=50)]
    draws: Annotated[int, Field(ge=50)]
    target_accept: Annotated[float, Field(gt=0.5, lt=1)]
    max_tree_depth: Annotated[int, Field(ge=1, le=15)]
    init: Literal["fit", "svi", "prior"]

    def draw(self, question: "Question") -> Drawn:
        from ..bayes import chain_checks
        from ..starts import first_points

        target, start = first_points(question, self.init, self.chains)
        found = self.run(question, target, start)
        u = np.asarray(jax.vmap(jax.vmap(lambda one: target.to_u(one)[0]))(found.v))
        rhat, bulk, tail = chain_checks(found.v)
        divergent = float(found.stats["diverging"].mean())
        good = rhat.max() < WORST_RHAT and min(bulk.min(), tail.min()) >= FEWEST_ESS and divergent <= MOST_DIVERGENCES
        text = f"R-hat {rhat.max():.3f}, bulk ESS {bulk.min():.0f}, tail ESS {tail.min():.0f}, {found.stats['diverging'].sum()} divergences"
        limits = f"R-hat < {WORST_RHAT}, ESS >= {FEWEST_ESS}, divergences <= {100 * MOST_DIVERGENCES:g} %"
        return Drawn(
            "nuts",
            "exact" if good else "failed",
            u,
            found.stats,
            chains=True,
            numbers={
                "rhat": float(rhat.max()),
                "ess_bulk": float(bulk.min()),
                "ess_tail": float(tail.min()),
                "divergences": float(found.stats["diverging"].sum()),
                "evaluations": float(found.evaluations),
                "sampling_seconds": found.seconds,
            },
            decisions=(f"{question.width}: {text}",),
            statements=()
            if good
            else (f"chains are not good enough in width {question.width}: {text}; accepted: {limits}{question.hint}",),
        )

    def run(self, question: "Question", target, start: np.ndarray) -> "Chains":
        """The chains of a target from start (C, d)."""
        from ..chains import Settings, sample

        watch = question.watch("nuts")

        def report(done: int, total: int, divergences: int, gradients: int) -> None:
            watch(done, total, f" steps, {divergences} divergences, {gradients} gradients")

        settings = Settings(self.chains, self.warmup, self.draws, self.target_accept, self.max_tree_depth)
        return sample(target, settings, jax.random.fold_in(question.key, 2), start, question.given.threads, report)


class Nuts(FullChains, AbstractSampler):
    """Chains as a posterior of their own."""
