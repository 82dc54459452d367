"""Where chains begin: around the mode, at draws of a variational guide, or at draws of the prior."""

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions
from numpyro.infer import SVI, Trace_ELBO, autoguide, init_to_value
from numpyro.optim import Adam

from .errors import FitError
from .target import Target

if TYPE_CHECKING:
    from .bayes import Question

GUIDE_STEPS, GUIDE_RATE = 500, 0.02


def first_points(question: "Question", init: Literal["fit", "svi", "prior"], chains: int) -> tuple[Target, np.ndarray]:
    """The target in the coordinates in which chains run, and the first point (C, d) of each.

    Raises:
        FitError: init is prior, and the prior has no draws.
    """
    rng, target = question.rng("starts"), question.target
    size = len(target.mode)
    if init == "fit":
        return target, rng.standard_normal((chains, size))
    if init == "svi":
        return _guide(target, jax.random.fold_in(question.key, 3), chains)
    u = question.density.prior.draw(rng, chains)
    if u is None:
        raise FitError("posterior.init: found prior, but the prior is improper or nearly empty; accepted: fit, svi")
    rest = u.shape[1]
    noise = question.start[rest:] + question.spread[rest:] * rng.standard_normal((chains, len(question.start) - rest))
    return target, target.from_u(np.concatenate([u, noise], axis=1))


def _guide(target: Target, key: jax.Array, chains: int) -> tuple[Target, np.ndarray]:
    """Low-rank normal guide (Ong, Nott, Smith 2018) fitted by the evidence bound; it whitens the target in its turn."""
    size = len(target.mode)

    def model() -> None:
        v = numpyro.sample("v", distributions.ImproperUniform(distributions.constraints.real_vector, (), event_shape=(size,)))
        numpyro.factor("log_density", target(v))

    guide = autoguide.AutoLowRankMultivariateNormal(model, init_loc_fn=init_to_value(values={"v": jnp.zeros(size)}), init_scale=0.5)
    first, second = jax.random.split(key)
    found = SVI(model, guide, Adam(GUIDE_RATE), Trace_ELBO()).run(first, GUIDE_STEPS, progress_bar=False)
    normal = guide.get_posterior(found.params)
    center, root = np.asarray(normal.mean), np.linalg.cholesky(np.asarray(normal.covariance_matrix))
    begin = np.asarray(normal.sample(second, (chains,)))
    white = replace(target, mode=target.mode + target.root @ center, root=target.root @ root)
    return white, np.linalg.solve(root, (begin - center).T).T
