"""No-U-Turn sampling (Hoffman and Gelman 2014) of a Target by NumPyro: chains on threads, in blocks that can be watched and stopped."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.hmc import hmc

from .target import Target

BLOCK = 50
"""Steps of a chain between two looks at the clock: the unit in which a run can be stopped."""


@dataclass(frozen=True)
class Settings:
    """Of the sampler. target_accept: mean acceptance that the step size aims at."""

    chains: int
    warmup: int
    draws: int
    target_accept: float
    max_tree_depth: int


@dataclass(frozen=True)
class Chains:
    """v: (C, S, d). stats: by ArviZ name, (C, S). evaluations: of the gradient, warm-up included. seconds: wall time."""

    v: np.ndarray
    stats: dict[str, np.ndarray]
    evaluations: int
    seconds: float


Kept = tuple[np.ndarray, ...]
"""Of a block of steps: v, potential energy, energy, steps of the trajectory, acceptance, divergence, step size."""
STEPS, DIVERGING = 3, 5

Watch = Callable[[int, int, int, int], None]
"""Called with steps done, steps in all, divergences after the warm-up, gradients so far. May raise to stop."""


def sample(target: Target, settings: Settings, key: jax.Array, start: np.ndarray, threads: int, watch: Watch) -> Chains:
    """Draws of a Target.

    Args:
        start: (C, d) first v of each chain. key: of all chains; the same key gives the same draws on any number of threads.
    """
    begin = time.perf_counter()
    initialise, step = _sampler(settings.warmup, settings.target_accept, settings.max_tree_depth)
    keys = jax.random.split(key, settings.chains)
    states = [initialise(target, jnp.asarray(first), one) for first, one in zip(start, keys, strict=True)]

    def advance(states: list[Any], length: int) -> tuple[list[Any], list[Kept]]:
        results = list(pool.map(lambda state: step(target, state, length), states))
        return [state for state, _ in results], [tuple(map(np.asarray, kept)) for _, kept in results]

    with ThreadPoolExecutor(threads) as pool:
        blocks, gradients = _blocks(advance, states, settings, watch)
    joined = tuple(np.stack(part) for part in zip(*blocks, strict=True))
    return _chains(joined, gradients, time.perf_counter() - begin)


def sample_together(
    targets: Sequence[Target], settings: Settings, keys: Sequence[jax.Array], starts: Sequence[np.ndarray], watch: Watch
) -> list[Chains]:
    """Draws of several targets of one shape, as ``sample`` makes them, all chains side by side in one compiled call."""
    begin = time.perf_counter()
    initialise, step = _sampler(settings.warmup, settings.target_accept, settings.max_tree_depth)
    together = jax.tree.map(lambda *parts: jnp.stack([jnp.asarray(part) for part in parts]), *targets)
    own = jnp.stack([jax.random.split(key, settings.chains) for key in keys])
    first = jax.vmap(jax.vmap(initialise, (None, 0, 0)))(together, jnp.asarray(np.array(starts)), own)

    def advance(states: Any, length: int) -> tuple[Any, list[Kept]]:
        states, kept = _step_together(step, together, states, length)
        return states, [tuple(map(np.asarray, kept))]

    blocks, gradients = _blocks(advance, first, settings, watch)
    seconds = time.perf_counter() - begin
    return [_chains(tuple(part[k] for part in blocks[0]), gradients // len(targets), seconds) for k in range(len(targets))]


@partial(jax.jit, static_argnames=("step", "length"))
def _step_together(step: Callable[..., Any], together: Target, states: Any, length: int) -> tuple[Any, Any]:
    """``length`` steps of all chains of all targets; ``step`` is the same object for equal settings, so this is compiled once."""
    return jax.vmap(jax.vmap(lambda target, state: step(target, state, length), (None, 0)))(together, states)


def _blocks(advance: Callable[[Any, int], tuple[Any, list[Kept]]], states: Any, settings: Settings, watch: Watch) -> tuple[list[Kept], int]:
    """What all steps after the warm-up left, for each entry that ``advance`` returns, and the number of gradients."""
    lengths = [min(BLOCK, part - at) for part in (settings.warmup, settings.draws) for at in range(0, part, BLOCK)]
    found: list[list[Kept]] = []
    done = gradients = divergences = 0
    for length in lengths:
        warm = done < settings.warmup
        states, kept = advance(states, length)
        done += length
        gradients += sum(int(part[STEPS].sum()) for part in kept)
        divergences += 0 if warm else sum(int(part[DIVERGING].sum()) for part in kept)
        if not warm:
            found.append(kept)
        watch(done, sum(lengths), divergences, gradients)
    axis = found[0][0][STEPS].ndim - 1
    joined = [tuple(np.concatenate(parts, axis=axis) for parts in zip(*blocks, strict=True)) for blocks in zip(*found, strict=True)]
    return joined, gradients


def _chains(kept: Kept, gradients: int, seconds: float) -> Chains:
    v, potential, energy, steps, accept, diverging, size = kept
    stats = {"lp": -potential, "energy": energy, "n_steps": steps, "acceptance_rate": accept, "diverging": diverging, "step_size": size}
    stats["tree_depth"] = np.ceil(np.log2(steps + 1)).astype(np.int64)
    return Chains(v, stats, gradients, seconds)


@cache
def _sampler(warmup: int, target_accept: float, max_tree_depth: int):
    """Compiled functions: the first state of a chain, and one step of it."""
    initialise, advance = hmc(potential_fn_gen=_potential, algo="NUTS")

    @jax.jit
    def first(target: Target, v: jax.Array, key: jax.Array):
        return initialise(
            v,
            num_warmup=warmup,
            step_size=0.5,
            adapt_mass_matrix=True,
            dense_mass=True,
            target_accept_prob=target_accept,
            max_tree_depth=max_tree_depth,
            find_heuristic_step_size=False,
            rng_key=key,
            model_args=(target,),
        )

    @partial(jax.jit, static_argnames="length")
    def step(target: Target, state, length: int):
        def one(state, _):
            state = advance(state, model_args=(target,))
            kept = (
                state.z,
                state.potential_energy,
                state.energy,
                state.num_steps,
                state.accept_prob,
                state.diverging,
                state.adapt_state.step_size,
            )
            return state, kept

        return jax.lax.scan(one, state, None, length=length)

    return first, step


def _potential(target: Target):
    return lambda v: -target(v)
