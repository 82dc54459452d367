"""Directions in which a sample often departs from a model: how c2 changes when a little of something else is mixed in.

    static_field   a part x of the field stands still              g1 -> (1 - x) g1 + x            dh/dx = 2 g1 (1 - g1)
    second_decay   a part x of the field relaxes SLOWER times more slowly, sheared alike           dh/dx = 2 g1 (g1_slow - g1)
    stretching     h -> exp(-X^p) with X the exponent of h: a spread of J over the pixels          dh/dp = -X ln X h

g1 is signed, h = g1^2. Each is one number per angle: the sum of residuals along it, with everything that was fitted projected out
(goodness.py). A mode of whose states none enters h as an exponential has only the first. Source: docs/uncertainty.md.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .pairsums import Pair

SLOWER = 10.0
"""Ratio of the relaxation times of the second decay."""
LARGEST = 700.0
"""Argument whose exponential is still finite in double precision."""

Direction = Callable[[Pair, tuple[jax.Array, ...]], jax.Array]
"""dh of pairs of frames from the differences of their states, elementwise; zero for a pair of one frame with itself."""


def static_field(pair: Pair, difference: tuple[jax.Array, ...]) -> jax.Array:
    """dh/dx of a static part x of the field."""
    field = pair.field(difference)
    return 2 * field * (1 - field)


def second_decay(pair: Pair, difference: tuple[jax.Array, ...]) -> jax.Array:
    """dh/dx of a slower part x of the field."""
    field, exponent = pair.field(difference), _exponent(pair, difference)
    # Where g1 underflows the growing factor must stay finite: 0 times infinity is no number.
    slow = field * jnp.exp(jnp.minimum(0.5 * (1 - 1 / SLOWER) * exponent, LARGEST))
    return 2 * field * (slow - field)


def stretching(pair: Pair, difference: tuple[jax.Array, ...]) -> jax.Array:
    """dh/dp of the exponent's power p at p = 1."""
    exponent = _exponent(pair, difference)
    tame = jnp.where(exponent > 0, exponent, 1.0)
    return -pair(difference) * tame * jnp.log(tame)


DIRECTIONS: dict[str, Direction] = {"static_field": static_field, "second_decay": second_decay, "stretching": stretching}


def directions_of(pair: Pair) -> dict[str, Direction]:
    """Those that a pair has, by name."""
    return DIRECTIONS if any(pair.exponential) else {"static_field": static_field}


def _exponent(pair: Pair, difference: tuple[jax.Array, ...]) -> jax.Array:
    """Sum of the states that enter h as exp(-difference)."""
    return sum((d for d, exponential in zip(difference, pair.exponential, strict=True) if exponential), jnp.zeros_like(difference[0]))
