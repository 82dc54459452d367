"""posterior=auto: ``psis`` where its weights are reliable, else ``nuts``; ``cmc`` where those would take too long."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from .base import AbstractSampler, Drawn
from .cmc import ConsensusOfShards
from .nuts import FullChains
from .psis import Weighing

if TYPE_CHECKING:
    from ..bayes import Question

TYPICAL_GRADIENTS = 8.0
"""Gradients of one step of a chain in the white coordinates."""


class Auto(AbstractSampler):
    """Settings of all three; see there.

    Attributes:
        time_s, memory_gb: budget of one width. Above it shards are sampled where group ``cmc_backend`` says.
    """

    time_s: Annotated[float, Field(gt=0)]
    memory_gb: Annotated[float, Field(gt=0)]
    psis: Weighing
    nuts: FullChains
    cmc: ConsensusOfShards

    def draw(self, question: "Question") -> Drawn:
        seconds, gigabytes = question.cost
        need = f"a pass takes {1e3 * seconds:.3g} ms and the pixels {gigabytes:.2g} GB"
        if question.divisible and (seconds * self.psis.draws > self.time_s or gigabytes > self.memory_gb):
            return self._said(
                self.cmc.draw(question), f"cmc: {need}, beyond posterior.time_s = {self.time_s:g} or memory_gb = {self.memory_gb:g}"
            )
        drawn = self.psis.draw(question)
        k_hat = f"k-hat {drawn.numbers['k_hat']:.2f}"
        if drawn.exactness == "exact":
            return self._said(drawn, f"psis: {k_hat} is below {drawn.numbers['k_hat_limit']:.2f}")
        steps = self.nuts.chains * (self.nuts.warmup + self.nuts.draws)
        if question.divisible and 2 * seconds * steps * TYPICAL_GRADIENTS > self.time_s:
            return self._said(
                self.cmc.draw(question), f"cmc: {k_hat} is too large for psis, and nuts would take longer than {self.time_s:g} s"
            )
        return self._said(self.nuts.draw(question), f"nuts: {k_hat} is too large for psis")

    @staticmethod
    def _said(drawn: Drawn, decision: str) -> Drawn:
        return replace(drawn, decisions=(f"posterior auto -> {decision}", *drawn.decisions))
