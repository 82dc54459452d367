"""A density in the coordinates of a sampler: unbounded, and white at its mode.

z     u, with the logit of its place between two limits where it has both, ln of its distance from one
v     (d,) z = mode + root v,     root root' = inverse of the Hessian of -ln density at the mode
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass

from .errors import FitError

STEPS, HALVINGS = 40, 30
DIFFERENCE = 1e-3
"""Steps of the differences of the gradient, in standard deviations."""
SETTLED = 1e-3
"""Newton steps end when the mode moves by less than this many standard deviations."""
LEAST = 1e-3
"""Least curvature of a Newton step in the coordinates of the one before: a scale grows by 30 at most."""
MARGIN = 1e-4
"""Share of the box that a start keeps from its limits."""


class LogDensity(Protocol):
    """What can be sampled: a pytree."""

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Limits (d,) of the coordinates, infinite for none."""
        ...

    def __call__(self, u: jax.Array) -> jax.Array:
        """ln density at u (d,); -inf outside its domain."""
        ...

    def with_sums(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        """ln density, and what ``coefficients`` needs there."""
        ...


@partial(register_dataclass, data_fields=("density", "lower", "upper", "mode", "root"), meta_fields=())
@dataclass(frozen=True)
class Target:
    """A density with its white coordinates. mode: (d,) in z. root: (d, d) lower triangular."""

    density: LogDensity
    lower: np.ndarray
    upper: np.ndarray
    mode: np.ndarray
    root: np.ndarray

    def to_u(self, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Coordinates u (d,) and ln|du/dz| there."""
        return to_box(jnp.asarray(self.mode) + jnp.asarray(self.root) @ v, self.lower, self.upper)

    def __call__(self, v: jax.Array) -> jax.Array:
        """ln density of v (d,), up to a constant."""
        u, log_slope = self.to_u(v)
        return self.density(u) + log_slope

    def with_sums(self, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The same with the density's sums."""
        u, log_slope = self.to_u(v)
        value, sums = self.density.with_sums(u)
        return value + log_slope, sums

    def from_u(self, u: np.ndarray) -> np.ndarray:
        """v (..., d) of coordinates u."""
        return np.linalg.solve(self.root, (from_box(u, self.lower, self.upper) - self.mode)[..., None])[..., 0]


def to_box(z: jax.Array, lower: np.ndarray, upper: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """u (d,) within its limits and ln|du/dz|."""
    low, high = jnp.isfinite(lower), jnp.isfinite(upper)
    width = jnp.where(low & high, upper - lower, 1.0)
    base, top = jnp.where(low, lower, 0.0), jnp.where(high, upper, 0.0)
    growth = jnp.exp(jnp.where(low ^ high, z, 0.0))
    u = jnp.where(low & high, base + width * jax.nn.sigmoid(z), jnp.where(low, base + growth, jnp.where(high, top - growth, z)))
    bounded = jnp.log(width) + jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z)
    return u, jnp.sum(jnp.where(low & high, bounded, jnp.where(low ^ high, z, 0.0)))


def from_box(u: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """z (..., d) of coordinates u, kept from the limits by MARGIN."""
    low, high = np.isfinite(lower), np.isfinite(upper)
    both = low & high
    width = np.where(both, upper - lower, 1.0)
    share = np.clip((u - np.where(low, lower, 0.0)) / width, MARGIN, 1 - MARGIN)
    distance = np.maximum(np.where(low, u - np.where(low, lower, 0.0), np.where(high, upper, 0.0) - u), MARGIN)
    return np.where(both, np.log(share) - np.log1p(-share), np.where(low ^ high, np.log(distance), u))


@jax.jit
def _value_and_gradient(target: Target, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.value_and_grad(lambda x: target(x))(v)


def locate(density: LogDensity, start: np.ndarray, spread: np.ndarray, report: Callable[[int, float], None] | None = None) -> Target:
    """The mode of a density by Newton steps from u (d,), and the white coordinates there.

    Args:
        spread: (d,) rough standard deviations of u at the start.

    Raises:
        FitError: the density has no maximum near the start.
    """
    lower, upper = density.box
    z = from_box(start, lower, upper)
    slope = np.abs(np.asarray(_slopes(lower, upper, z)))
    # The logit of a bounded number has a width of about 1 at most; a number without limits has any.
    scale = np.clip(spread / np.where(slope > 0, slope, 1.0), 1e-8, np.where(np.isfinite(lower) | np.isfinite(upper), 1.0, np.inf))
    target = Target(density, lower, upper, z, np.diag(scale))
    for step in range(STEPS):
        value, gradient = (np.asarray(part) for part in _value_and_gradient(target, jnp.zeros(len(z))))
        if not np.isfinite(value) or not np.isfinite(gradient).all():
            raise FitError(
                f"the posterior density is {value:g} at the fit: a prior or a bound excludes it; accepted: priors that allow the fit"
            )
        hessian = _hessian(target)
        values, vectors = np.linalg.eigh(hessian)
        # A direction of negative curvature gets the one it would have if its present scale were right, one of little gets a wider scale.
        curvature = np.where(values > 0, np.maximum(values, LEAST), np.maximum(np.abs(values), 1.0))
        move = vectors @ ((vectors.T @ gradient) / curvature)
        size = float(np.sqrt(np.sum(curvature * (vectors.T @ move) ** 2)))
        share = _climb(target, move, float(value), float(gradient @ move))
        if report is not None:
            report(step + 1, size)
        root = np.linalg.cholesky(target.root @ (vectors / curvature) @ vectors.T @ target.root.T)
        target = replace(target, mode=target.mode + target.root @ (share * move), root=root)
        if size < SETTLED and step > 0 and values.min() > 0.5:
            return target
    raise FitError(
        f"the mode of the posterior was not found in {STEPS} Newton steps: the data and the priors do not determine it; "
        "accepted: a prior for, or a value of, what the fit calls not determined"
    )


def seconds_of_a_pass(target: Target) -> float:
    """Seconds that the density and its gradient take on one thread, the best of three."""
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        jax.block_until_ready(_value_and_gradient(target, jnp.zeros(len(target.mode))))
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _climb(target: Target, move: np.ndarray, value: float, rise: float) -> float:
    """Share of a Newton step that raises the density."""
    share = 1.0
    for _ in range(HALVINGS):
        found = float(_value_and_gradient(target, jnp.asarray(share * move))[0])
        if np.isfinite(found) and found >= value + 1e-4 * share * rise - 1e-9 * abs(value):
            return share
        share *= 0.5
    return 0.0


def _hessian(target: Target) -> np.ndarray:
    """(d, d) of -ln density by v at 0, from central differences of the gradient."""
    size = len(target.mode)
    points = DIFFERENCE * np.concatenate([np.eye(size), -np.eye(size)])
    values, gradients = (
        np.array(part) for part in zip(*(_value_and_gradient(target, jnp.asarray(point)) for point in points), strict=True)
    )
    hessian = -(gradients[:size] - gradients[size:]) / (2 * DIFFERENCE)
    if not (np.isfinite(values).all() and np.isfinite(hessian).all()):
        raise FitError(
            "the posterior has no curvature at its mode: it lies at the edge of a prior or bound; accepted: priors that allow the fit"
        )
    return 0.5 * (hessian + hessian.T)


def _slopes(lower: np.ndarray, upper: np.ndarray, z: np.ndarray) -> jax.Array:
    """du/dz (d,)."""
    return jax.vmap(jax.grad(lambda one, low, high: to_box(one[None], low[None], high[None])[0][0]))(jnp.asarray(z), lower, upper)
