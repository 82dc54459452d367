"""Work for the tests that uses JAX; a module of its own, because workers of other tests should not wait for its import."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .works import Beat

THIRD = f"{__name__}:third"
THIRD_BATCH = f"{__name__}:third_batch"


def third(inputs: dict[str, np.ndarray], facts: dict[str, Any], beat: Beat) -> dict[str, np.ndarray]:
    """1/3 by JAX, to see its precision, and where compiled code is kept."""
    return {"third": np.asarray(jax.jit(lambda x: x / 3)(jnp.ones(()))), "cache": np.array(str(jax.config.jax_compilation_cache_dir))}


def third_batch(pairs: Sequence[tuple[dict[str, np.ndarray], dict[str, Any]]], beat: Beat) -> list[dict[str, np.ndarray]]:
    return [third(inputs, facts, beat) for inputs, facts in pairs]
