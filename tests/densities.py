"""Densities of which everything is known, as samplers see them."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats
from jax.tree_util import register_dataclass
from scipy.special import digamma, polygamma


@partial(register_dataclass, data_fields=("shape", "turn", "shift"), meta_fields=())
@dataclass(frozen=True)
class LogGamma:
    """u = shift + turn x with independent x_k, exp(x_k) of a Gamma distribution of shape a_k: skewed to the left, normalised."""

    shape: np.ndarray
    turn: np.ndarray
    shift: np.ndarray

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        return np.full(len(self.shape), -np.inf), np.full(len(self.shape), np.inf)

    def __call__(self, u: jax.Array) -> jax.Array:
        x = jnp.linalg.solve(self.turn, u - self.shift)
        log = self.shape * x - jnp.exp(x) - jax.scipy.special.gammaln(self.shape)
        return jnp.sum(log) - jnp.linalg.slogdet(self.turn)[1]

    def with_sums(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The sums are u itself, so that a test sees where they were taken."""
        return self(u), u

    @property
    def mode(self) -> np.ndarray:
        return self.shift + self.turn @ np.log(self.shape)

    @property
    def mean(self) -> np.ndarray:
        return self.shift + self.turn @ digamma(self.shape)

    @property
    def covariance(self) -> np.ndarray:
        return self.turn * polygamma(1, self.shape) @ self.turn.T


def log_gamma(*shape: float) -> LogGamma:
    """In as many dimensions as there are shapes, with correlations of about 0.7 and unequal scales."""
    size = len(shape)
    turn = np.diag(10.0 ** np.arange(size)) @ (np.eye(size) + 0.7 * np.tri(size, k=-1))
    return LogGamma(np.array(shape), turn, np.linspace(-3.0, 5.0, size))


@partial(register_dataclass, data_fields=("mean", "root"), meta_fields=())
@dataclass(frozen=True)
class Normal:
    """Normalised normal distribution. root: (d, d) lower triangular, of the covariance."""

    mean: np.ndarray
    root: np.ndarray

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        return np.full(len(self.mean), -np.inf), np.full(len(self.mean), np.inf)

    def __call__(self, u: jax.Array) -> jax.Array:
        return jnp.sum(stats.norm.logpdf(jnp.linalg.solve(self.root, u - self.mean))) - jnp.linalg.slogdet(self.root)[1]

    def with_sums(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self(u), u


def normal(size: int) -> Normal:
    """With correlations near 0.9 and unequal scales."""
    return Normal(np.arange(size) - 1.0, np.diag(10.0 ** np.arange(size)) @ (0.5 * np.eye(size) + np.tri(size)))


LOWER, UPPER = np.array([3.0, -1.0, -np.inf, -np.inf]), np.array([7.0, np.inf, 2.0, np.inf])


@partial(register_dataclass, data_fields=("lower", "upper"), meta_fields=())
@dataclass(frozen=True)
class Boxed:
    """Independent: Beta(2, 5) between 3 and 7, Gamma(3) above -1, minus Gamma(4) below 2, a normal distribution without limits."""

    lower: np.ndarray
    upper: np.ndarray

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        return self.lower, self.upper

    def __call__(self, u: jax.Array) -> jax.Array:
        first, second = stats.beta.logpdf(u[0], 2.0, 5.0, 3.0, 4.0), stats.gamma.logpdf(u[1], 3.0, -1.0)
        return first + second + stats.gamma.logpdf(2.0 - u[2], 4.0) + stats.norm.logpdf(u[3])

    def with_sums(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self(u), u
