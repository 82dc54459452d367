"""posterior=psis: independent draws from a multivariate t at the mode, with Pareto-smoothed importance weights (importance.py)."""

from typing import TYPE_CHECKING, Annotated

import jax
import numpy as np
from pydantic import Field

from ..settings import Option
from .base import AbstractSampler, Drawn

if TYPE_CHECKING:
    from ..bayes import Question
    from ..importance import Weighted

FEWEST_ESS = 400
"""Effective draws below which quantiles are not worth their name, as for chains."""
FIRST = 0.25
"""Share of the draws after which the proposal takes the mean and covariance that they found."""


class Weighing(Option):
    """``draws``: of the proposal, each one pass over the pixels; as many equally weighted ones are kept."""

    draws: Annotated[int, Field(ge=200)]

    def draw(self, question: "Question") -> Drawn:
        found, evaluations = self.weigh(question)
        chosen = found.resample(question.rng("resampling"), self.draws)
        u = np.asarray(jax.vmap(lambda one: question.target.to_u(one)[0])(found.v[chosen]))[None]
        good = found.reliable and found.size >= FEWEST_ESS
        text = f"k-hat {found.k_hat:.2f} (limit {found.limit:.2f}), {found.size:.0f} effective of {self.draws} draws"
        numbers = {"k_hat": found.k_hat, "k_hat_limit": found.limit, "ess": found.size, "evaluations": float(evaluations)}
        return Drawn(
            "psis",
            "exact" if good else "failed",
            u,
            {"lp": found.log_density[chosen][None]},
            chains=False,
            numbers=numbers | {"log_evidence": found.log_evidence},
            decisions=(f"{question.width}: {text}",),
            statements=()
            if good
            else (f"importance weights are not reliable in width {question.width}: {text}; accepted: posterior=nuts{question.hint}",),
        )

    def weigh(self, question: "Question") -> tuple["Weighted", int]:
        """Weighted draws, and how many points were evaluated."""
        # Here, not at the top: ArviZ, which a configuration is checked without.
        from ..importance import Proposal, weigh

        target, rng, threads = question.target, question.rng("proposal"), question.given.threads
        watch = question.watch("psis")
        size, first = len(target.mode), max(100, int(FIRST * self.draws))
        rough = weigh(target, Proposal(np.zeros(size), np.eye(size)), rng, first, threads, watch)
        proposal = Proposal(np.zeros(size), np.eye(size))
        # With too few effective draws their covariance would be worse than the Hessian's.
        if rough.size > 10 * size:
            mean, covariance = rough.moments()
            proposal = Proposal(mean, np.linalg.cholesky(covariance))
        return weigh(target, proposal, rng, self.draws, threads, watch), first + self.draws


class Psis(Weighing, AbstractSampler):
    """Weighted draws as a posterior of their own."""
