"""posterior=cmc: shards of the pixels sampled where group ``cmc_backend`` says, combined and verified (homodyne/cmc)."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from ..errors import ConfigError, FitError
from ..settings import Option
from .base import AbstractSampler, Drawn
from .nuts import FullChains

if TYPE_CHECKING:
    from ..bayes import Question


class ConsensusOfShards(Option):
    """Settings of the consensus.

    Attributes:
        shards: their number, or ``auto``. strategy: how rows of the maps are dealt (cmc/shards.py). memory_gb: of one worker, null: no
            limit.
        power: what a shard holds: ``likelihood`` its own to the power of their number with the whole prior, ``prior`` its own with
            a root of the prior. rule: of the combination (cmc/combine.py).
        chains, warmup, draws, target_accept, max_tree_depth: of every shard. rhat, ess, divergences: limits of its chains.
        reruns: of a shard whose chains miss them. min_success_rate: share of the shards that must be there.
        verify: ``psis`` against the density of all pixels, with verify_draws; or none. on_fail: ``escalate`` to chains on all pixels
            (``nuts``: their settings), ``label`` the result as unverified, or ``error``.
    """

    shards: Annotated[int, Field(ge=1)] | Literal["auto"]
    strategy: Literal["stride", "random", "contiguous", "angle"]
    memory_gb: Annotated[float, Field(gt=0)] | None
    power: Literal["likelihood", "prior"]
    rule: str
    chains: Annotated[int, Field(ge=1)]
    warmup: Annotated[int, Field(ge=50)]
    draws: Annotated[int, Field(ge=50)]
    target_accept: Annotated[float, Field(gt=0.5, lt=1)]
    max_tree_depth: Annotated[int, Field(ge=1, le=15)]
    rhat: Annotated[float, Field(gt=1)]
    ess: Annotated[float, Field(gt=0)]
    divergences: Annotated[float, Field(ge=0, le=1)]
    reruns: Annotated[int, Field(ge=0)]
    min_success_rate: Annotated[float, Field(gt=0, le=1)]
    verify: Literal["psis", "none"]
    verify_draws: Annotated[int, Field(ge=200)]
    on_fail: Literal["escalate", "label", "error"]
    nuts: FullChains

    @field_validator("rule")
    @classmethod
    def _known(cls, name: str) -> str:
        from ..cmc.combine import rule_of

        try:
            return rule_of(name)
        except ConfigError as error:
            raise ValueError(str(error)) from error

    def draw(self, question: "Question") -> Drawn:
        # Here, not at the top: this brings NumPyro, which a configuration is checked without.
        from ..cmc.consensus import consensus

        if not question.divisible:
            raise FitError(
                "posterior cmc: the likelihood of noise=wishart is that of whole maps, and shards have some of their rows; "
                "accepted: posterior=psis, nuts or laplace, or another noise option"
            )
        return consensus(question, self)


class Cmc(ConsensusOfShards, AbstractSampler):
    """A consensus as a posterior of its own."""
