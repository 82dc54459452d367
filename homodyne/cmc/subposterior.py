"""One shard, sampled wherever it is told to: the work of group ``cmc_backend``.

What travels is the density of the shard (its pixels and the small objects that it needs), the white coordinates of the full fit, in
which all shards answer, and the settings of the sampler. The answer holds draws, their moments and the checks of the shard's own chains.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..bayes import chain_checks
from ..chains import Chains, Settings, sample, sample_together
from ..decay_sums import fixed_sums, pixels_of
from ..density import Density
from ..hardware.base import available_cores, use_float64
from ..strips import Strips
from ..target import Target, from_box, locate
from ..tasks import Work

WORK = Work("homodyne.cmc.subposterior:sample_shard", "homodyne.cmc.subposterior:sample_shards")

Inputs = Mapping[str, np.ndarray]
Beat = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True)
class Common:
    """What all shards of a consensus share: the full density without its pixels, and the white coordinates of its mode."""

    density: Density
    mode: np.ndarray
    root: np.ndarray


def packed(common: Common, strips: Strips, start: np.ndarray, spread: np.ndarray) -> dict[str, np.ndarray]:
    """Inputs of one shard. start, spread: (d,) of its coordinates."""
    everything = {**vars(common.density), "pixels": None, "fixed": None}
    # Copies, so that the text depends on numbers alone and not on which arrays are the same object: it is part of the digest.
    text = pickle.dumps(jax.tree.map(lambda part: np.array(part, order="C"), (everything, common.mode, common.root)))
    own = {"values": strips.values, "rows": strips.rows, "blocks": strips.blocks, "frames": np.array(strips.n)}
    return own | {"common": np.frombuffer(text, dtype=np.uint8), "start": start, "spread": spread}


def facts_of(settings: Settings, seed: Sequence[int]) -> dict[str, Any]:
    """Facts of one shard. seed: words of its random key."""
    return {"settings": vars(settings), "seed": list(map(int, seed))}


def sample_shard(inputs: Inputs, facts: Mapping[str, Any], beat: Beat) -> dict[str, np.ndarray]:
    """Draws of one shard; see ``_answer`` for what is returned."""
    ready, settings = _prepared(inputs, facts), Settings(**facts["settings"])
    return _answer(ready, sample(ready.target, settings, ready.key, ready.start, available_cores(), _reporter(beat)))


def sample_shards(items: Sequence[tuple[Inputs, Mapping[str, Any]]], beat: Beat) -> list[dict[str, np.ndarray] | Exception]:
    """The same for shards of one shape, all chains of all shards in one compiled call."""
    ready = [_prepared(inputs, facts) for inputs, facts in items]
    settings = Settings(**items[0][1]["settings"])
    targets, keys, starts = ([getattr(part, name) for part in ready] for name in ("target", "key", "start"))
    found = sample_together(targets, settings, keys, starts, _reporter(beat))
    return [_answer(part, chains) for part, chains in zip(ready, found, strict=True)]


@dataclass(frozen=True)
class _Ready:
    """A shard before its chains: the target at the shard's own mode, first points (C, d), key."""

    common: Common
    target: Target
    start: np.ndarray
    key: jax.Array


def _prepared(inputs: Inputs, facts: Mapping[str, Any]) -> _Ready:
    use_float64()
    everything, mode, root = pickle.loads(inputs["common"].tobytes())
    strips = Strips(inputs["values"], inputs["rows"], inputs["blocks"], int(inputs["frames"]))
    density = Density(**{**everything, "pixels": pixels_of(strips), "fixed": fixed_sums(strips)})
    target = locate(density, inputs["start"], inputs["spread"])
    chains = facts["settings"]["chains"]
    start = np.random.default_rng(facts["seed"]).standard_normal((chains, len(mode)))
    key = jax.random.wrap_key_data(jnp.asarray(np.random.SeedSequence(facts["seed"]).generate_state(2), dtype=jnp.uint32))
    return _Ready(Common(density, mode, root), target, start, key)


def _reporter(beat: Beat) -> Callable[[int, int, int, int], None]:
    def report(done: int, total: int, divergences: int, gradients: int) -> None:
        beat({"done": done / total, "divergences": float(divergences), "gradients": float(gradients)})

    return report


def _answer(ready: _Ready, found: Chains) -> dict[str, np.ndarray]:
    """Arrays of a shard.

    x (S, D): white coordinates of the full fit, then coefficients of contrast and offset; mean (D,) and covariance (D, D), the
    coefficients' own scatter integrated, not drawn; parameter_mean, parameter_sd (K,); rhat, ess, divergences, gradients: ().
    """
    common, target, density = ready.common, ready.target, ready.common.density
    chains, count, size = found.v.shape
    numbers = jax.tree.map(np.asarray, _evaluate(target, density, jnp.asarray(found.v.reshape(-1, size))))
    z = from_box(numbers["u"], target.lower, target.upper)
    v = np.linalg.solve(common.root, (z - common.mode).T).T
    mean, own = numbers["mean"].reshape(len(v), -1), numbers["covariance"]
    groups, k = own.shape[1:3]
    inner = np.zeros((groups * k, groups * k))
    noise = np.random.default_rng(len(v)).standard_normal((len(v), groups, k))
    coefficients = mean.copy()
    for g in range(groups):
        at = slice(g * k, (g + 1) * k)
        inner[at, at] = own[:, g].mean(axis=0)
        coefficients[:, at] += np.einsum("skl,sl->sk", np.linalg.cholesky(own[:, g]), noise[:, g])
    joint = np.concatenate([v, mean], axis=1)
    covariance = np.cov(joint.T).reshape(joint.shape[1], -1)
    covariance[v.shape[1] :, v.shape[1] :] += inner
    rhat, bulk, _ = chain_checks(joint.reshape(chains, count, -1))
    return {
        "x": np.concatenate([v, coefficients], axis=1),
        "mean": joint.mean(axis=0),
        "covariance": covariance,
        "parameter_mean": numbers["parameters"].mean(axis=0),
        "parameter_sd": numbers["parameters"].std(axis=0),
        "rhat": np.array(np.nanmax(rhat)),
        "ess": np.array(np.nanmin(bulk)),
        "divergences": np.array(found.stats["diverging"].mean()),
        "gradients": np.array(found.evaluations),
        "power": np.array(density.data_power),
    }


@jax.jit
def _evaluate(target: Target, density: Density, points: jax.Array) -> dict[str, jax.Array]:
    def one(v: jax.Array) -> dict[str, jax.Array]:
        u, _ = target.to_u(v)
        mean, covariance = density.coefficient_moments(u, density.with_sums(u)[1])
        parameters = density.prior.parameters(u[:-1], density.prior.to_model(u[:-1]))
        return {"u": u, "mean": mean, "covariance": covariance, "parameters": parameters}

    return jax.lax.map(one, points)
