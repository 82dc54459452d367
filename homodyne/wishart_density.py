"""ln of the posterior density of a fit by the likelihood of the frame covariance (wishart.py), for any sampler.

    ln L = -N/2 [ln|S| + tr(P M)] summed over angles,     S = contrast h + diag(fixed + scale * shot) + (offset - 1) 11',     P = S^-1
    d ln L = -N/2 tr(G dS),     G = P - P M P

Nothing in it is linear, so all numbers are sampled: u (prior.py); the coefficients of contrast and offset with the normal prior of
``density.Scaling``; and the scale of the shot noise of each angle where it is free, with a constant prior wherever S is positive definite.
With d_s = dh/d(x_s,j - x_s,i) the derivatives by the state of a frame are row sums of G d_s with the sign of time: no image is kept.
A frame that is not used is a row of the identity in S and of zeros in M, so it adds nothing.

``Calibration`` gives the likelihood the covariance that its maximum has for speckle, as in density.py but in all numbers; the prior stays.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.tree_util import register_dataclass

from .data import Dataset
from .density import Calibration, Scaling
from .noise.base import Likely
from .pairsums import Pair
from .prior import ModelPrior
from .problem import Information, Inverse, invert
from .wishart import free_inverse, measured_covariance


@partial(register_dataclass, data_fields=("measured", "used", "fixed", "shot", "pixels"), meta_fields=())
@dataclass(frozen=True)
class FrameCovariances:
    """What was measured at P angles, on the device.

    measured: (P, n, n) M, zero where a frame is not used. used: (P, n) 1 or 0. fixed, shot: (P, n) diagonal of S. pixels: (P,) N.
    """

    measured: jax.Array
    used: jax.Array
    fixed: jax.Array
    shot: jax.Array
    pixels: jax.Array

    @classmethod
    def of(cls, dataset: Dataset, likely: Likely) -> "FrameCovariances":
        """Those of all maps. Where the scale is not free its value is in ``fixed`` and ``shot`` is zero."""
        likelihood = likely.likelihood
        measured = np.zeros((len(likelihood.used), dataset.n, dataset.n))
        for angle, used in enumerate(likelihood.used):
            measured[angle][np.ix_(used, used)] = measured_covariance(dataset, angle, likelihood.pixels[angle], used)
        held = np.where(likely.free[likelihood.size :], 0.0, likely.values[likelihood.size :])[:, None]
        fixed = likelihood.shot.fixed + held * likelihood.shot.shot
        shot = np.where(likely.free[likelihood.size :, None], likelihood.shot.shot, 0.0)
        parts = (measured, likelihood.used, fixed, shot, likelihood.pixels)
        return cls(*(jnp.asarray(part, dtype=np.float64) for part in parts))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def log_likelihood(pair: Pair, x: jax.Array, levels: jax.Array, frames: FrameCovariances) -> jax.Array:
    """ln L at states x (P, m, n) and levels (P, 3): offset - 1, contrast, scale. NaN where an S is not positive definite."""

    def one(item) -> jax.Array:
        factor, root = _factors(_model(pair, *item)[0])
        return _value(item[2], factor, jnp.sum((root @ item[2].measured) * root))

    return jnp.sum(jax.lax.map(one, (x, levels, frames)))


def _forward(pair: Pair, x: jax.Array, levels: jax.Array, frames: FrameCovariances):
    values, *slopes = jax.lax.map(lambda item: _value_and_slopes(pair, *item), (x, levels, frames))
    value = jnp.sum(values)
    # Where there is no density the caller multiplies by zero, which NaN would survive.
    return value, [jnp.where(jnp.isfinite(value), slope, 0.0) for slope in slopes]


def _backward(pair: Pair, slopes: list[jax.Array], cotangent: jax.Array):
    return cotangent * slopes[0], cotangent * slopes[1], None


log_likelihood.defvjp(_forward, _backward)


@partial(register_dataclass, data_fields=("prior", "phi", "scaling", "frames", "calibration"), meta_fields=("scaled",))
@dataclass(frozen=True)
class WishartDensity:
    """ln of the posterior density of (u, coefficients, scales), a pytree: equal shapes share one compilation.

    Attributes:
        phi: (P,) degrees. calibration: None for the likelihood as it is; else of all numbers, in coordinates of the model.
        scaled: whether the scales are among the numbers.
    """

    prior: ModelPrior
    phi: np.ndarray
    scaling: Scaling
    frames: FrameCovariances
    calibration: Calibration | None
    scaled: bool

    @classmethod
    def of(cls, prior: ModelPrior, dataset: Dataset, scaling: Scaling, likely: Likely) -> "WishartDensity":
        """The density by the likelihood as it is."""
        scaled = bool(likely.free[likely.likelihood.size :].all())
        return cls(prior, dataset.phi, scaling, FrameCovariances.of(dataset, likely), None, scaled)

    @property
    def names(self) -> tuple[str, ...]:
        """(d,) of the coordinates."""
        linear = tuple(f"coefficient {k}" for k in range(self.scaling.aim.size))
        scales = tuple(f"shot scale {k}" for k in range(len(self.phi))) if self.scaled else ()
        return (*self.prior.coordinates, *linear, *scales)

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Limits (d,) of the coordinates."""
        limits = self.prior.box
        rest = np.full(len(self.names) - len(limits[0]), np.inf)
        return np.append(limits[0], -rest), np.append(limits[1], rest)

    def __call__(self, u: jax.Array) -> jax.Array:
        """ln density at u (d,), up to a constant; -inf where there is none."""
        inner = len(self.prior.coordinates)
        prior = self.prior.log_density(u[:inner])
        y = jnp.concatenate([self.prior.to_model(u[:inner]), u[inner:]])
        power = 1.0
        if self.calibration is not None:
            y = self.calibration.center + self.calibration.turn @ (y - self.calibration.center)
            power = self.calibration.power
        # A point outside of the domain has no states; the likelihood is taken at a harmless one, so that no gradient is NaN.
        inside = jnp.isfinite(prior) & jnp.all(jnp.isfinite(y))
        w = jnp.where(inside, y[:inner], self.prior.harmless)
        total = prior + self._prior_of_coefficients(u) + power * self._log_likelihood(w, jnp.where(inside, y[inner:], 1.0))
        return jnp.where(inside & jnp.isfinite(total), total, -jnp.inf)

    def with_sums(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        """ln density at u (d,); nothing else is needed there."""
        return self(u), jnp.zeros(0)

    def coefficients(self, u: jax.Array) -> jax.Array:
        """(G, k) of contrast and offset at u (d,)."""
        inner, aim = len(self.prior.coordinates), self.scaling.aim
        return u[inner : inner + aim.size].reshape(aim.shape)

    def numbers(self, u: jax.Array, sums: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """What the user knows at u (d,), see ``Density.numbers``; pixels have no sigma of their own here, and nothing is drawn."""
        point = u[: len(self.prior.coordinates)]
        w = self.prior.to_model(point)
        rates = {name: jnp.exp(value) for name, value in self.prior.model.log_rates(w).items()}
        scaling = self.scaling.by_angle(self.coefficients(u))
        return {"parameters": self.prior.parameters(point, w), "scaling": scaling, "sigma": jnp.array(jnp.nan), **rates}

    def _prior_of_coefficients(self, u: jax.Array) -> jax.Array:
        b = self.coefficients(u)
        return jnp.sum(b * self.scaling.aim) - 0.5 * jnp.einsum("gk,gkl,gl->", b, self.scaling.weight, b)

    def _log_likelihood(self, w: jax.Array, rest: jax.Array) -> jax.Array:
        """At coordinates w (p,) of the model and the other numbers."""
        linear, size = self.scaling.aim.shape, self.scaling.aim.size
        both = self.scaling.by_angle(rest[:size].reshape(linear)) - jnp.array([1.0, 0.0])
        scale = rest[size:] if self.scaled else jnp.ones(len(self.phi))
        x = jax.vmap(self.prior.model.states, (None, 0))(w, jnp.asarray(self.phi))
        return log_likelihood(self.prior.model.pair, x, jnp.concatenate([both, scale[:, None]], axis=1), self.frames)


def speckle_calibration(likely: Likely) -> Calibration:
    """The likelihood gets the covariance F^-1 V F^-1 of its maximum in place of F^-1, in all numbers that are sampled."""
    free, size = likely.free, likely.likelihood.size
    # The prior of the scaling is no part of the likelihood that is turned.
    fisher = likely.fisher - likely.likelihood.prior
    own = free_inverse(fisher, free)
    inner = invert(fisher[np.ix_(free, free)])
    null, scale = np.zeros((len(free), inner.null.shape[1])), np.ones(len(free))
    null[free], scale[free] = inner.null, inner.scale
    sampled = slice(None) if free[size:].all() else slice(size)
    information = Information(
        own[sampled, sampled], ~free[sampled], Inverse(own[sampled, sampled], null[sampled], scale[sampled], 1.0), np.zeros((0, 0))
    )
    covariance = (own @ likely.score @ own)[sampled, sampled]
    return Calibration.of(likely.values[sampled], information, information.bread, covariance)


def _model(pair: Pair, x: jax.Array, levels: jax.Array, frames: FrameCovariances) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """S (n, n) and the differences of states, later minus earlier."""
    static, contrast, scale = levels
    sign = _sign(x.shape[1])
    difference = tuple(sign * (state[:, None] - state[None, :]) for state in x)
    diagonal = frames.fixed + scale * frames.shot
    s = contrast * pair(difference) + static + jnp.diag(diagonal)
    both = frames.used[:, None] * frames.used[None, :]
    return jnp.where(both > 0, s, jnp.eye(len(s))), difference


def _factors(s: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Lower Cholesky factor of S and its inverse; NaN where S is not positive definite."""
    factor = jax.lax.linalg.cholesky(s, symmetrize_input=False)
    return factor, solve_triangular(factor, jnp.eye(len(s)), lower=True)


def _value(frames: FrameCovariances, factor: jax.Array, trace: jax.Array) -> jax.Array:
    return -0.5 * frames.pixels * (2 * jnp.sum(jnp.log(jnp.diagonal(factor))) + trace)


def _value_and_slopes(pair: Pair, x: jax.Array, levels: jax.Array, frames: FrameCovariances) -> tuple[jax.Array, jax.Array, jax.Array]:
    """ln L of one angle, and its derivatives by x (m, n) and by levels (3,)."""
    s, difference = _model(pair, x, levels, frames)
    factor, root = _factors(s)
    inverse = root.T @ root
    product = inverse @ frames.measured
    value = _value(frames, factor, jnp.trace(product))
    both = frames.used[:, None] * frames.used[None, :]
    g = -0.5 * frames.pixels * both * (inverse - product @ inverse)
    by_level = jnp.stack([g.sum(), jnp.sum(g * pair(difference)), jnp.diagonal(g) @ frames.shot])
    signed, by_state = 2 * levels[1] * _sign(len(g)) * g, []
    for k in range(len(difference)):
        tangent = tuple(jnp.ones_like(part) if k == other else jnp.zeros_like(part) for other, part in enumerate(difference))
        by_state.append(jnp.sum(signed * jax.jvp(pair, (difference,), (tangent,))[1], axis=1))
    return value, jnp.stack(by_state), by_level


def _sign(n: int) -> jax.Array:
    """(n, n) 1 where the row is later than the column, -1 where it is earlier."""
    index = jnp.arange(n)
    return jnp.sign(index[:, None] - index[None, :]).astype(jnp.float64)
