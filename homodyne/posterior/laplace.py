"""posterior=laplace: a normal distribution at the mode, with the Hessian there."""

from typing import TYPE_CHECKING, Annotated

import jax
import numpy as np
from pydantic import Field

from .base import AbstractSampler, Drawn

if TYPE_CHECKING:
    from ..bayes import Question


class Laplace(AbstractSampler):
    """``draws``: of the normal distribution, in the unbounded coordinates of target.py. Nothing tells whether it is good enough."""

    draws: Annotated[int, Field(ge=100)]

    def draw(self, question: "Question") -> Drawn:
        target = question.target
        v = question.rng("laplace").standard_normal((1, self.draws, len(target.mode)))
        u = np.asarray(jax.vmap(lambda one: target.to_u(one)[0])(v[0]))[None]
        return Drawn("laplace", "approximate", u, {"lp": -0.5 * np.sum(v**2, axis=-1)}, chains=False)
