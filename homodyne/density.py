"""ln of the posterior density of a fit, with contrast and offset integrated out, for any sampler.

Pixels independent with variance s2, values of a map y = offset + contrast h linear in the coefficients b of its group, b ~ N(W^-1 v, W^-1):

    A = N/s2 + W,    a = r/s2 + v        (N, r: normal matrix and right side, from the sums of decay_sums.py)
    ln L = -n/2 ln(2 pi s2) - (S_yy/s2 - a' A^-1 a)/2 - ln|A|/2,            b | rest ~ N(A^-1 a, A^-1), exactly

With prior^s L^m, s and m any powers, the same holds for A = N m/s2 + W s and a = r m/s2 + v s, m multiplying all but ln|A|.

Sampled are u (prior.py) and ln s2, whose prior is constant. Pixels of a speckle map are not independent, so this posterior is too
narrow; ``Calibration`` keeps the prior and gives the likelihood the covariance V that the noise option found instead of its own S:

    L*(u) = L(u0 + C (u - u0))^(1/c),     C' S^-1 C = c V^-1,     c = (|V|/|S|)^(1/p), S^-1/2 C S^1/2 symmetric

(magnitude and curvature adjustment of a composite likelihood: Ribatet, Cooley, Davison 2012). Source: docs/posterior.md.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass

from .decay_sums import Pixels, decay_sums, fixed_sums, pixels_of
from .pairsums import LEVEL
from .per_angle_scaling.base import Design
from .prior import ModelPrior
from .problem import Information
from .strips import Strips


@partial(register_dataclass, data_fields=("members", "matrix", "constant", "weight", "aim", "lower", "upper"), meta_fields=())
@dataclass(frozen=True)
class Scaling:
    """Contrast and offset as in per_angle_scaling.base.Design, with the prior of the coefficients of each group.

    Attributes:
        members (G, M), matrix (G, M, 2, k), constant (P, 2), the offset relative to LEVEL. lower, upper: (2,), absolute.
        weight: (G, k, k) W. aim: (G, k) v.
    """

    members: np.ndarray
    matrix: np.ndarray
    constant: np.ndarray
    weight: np.ndarray
    aim: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    @classmethod
    def of(cls, design: Design, pixel_variance: float) -> "Scaling":
        """Offset and contrast of all angles have a normal prior in the middle of their bounds, as wide as those; and that of the design."""
        middle, width = 0.5 * (design.lower + design.upper), design.upper - design.lower
        constant = design.constant - np.array([LEVEL, 0.0])
        rows = design.matrix / width[:, None]
        share = 1.0 / design.members.shape[1]
        weight = share * np.einsum("gmrk,gmrl->gkl", rows, rows) + design.precision / pixel_variance
        missing = (middle - np.array([LEVEL, 0.0]) - constant[design.members]) / width
        aim = share * np.einsum("gmrk,gmr->gk", rows, missing)
        return cls(design.members, design.matrix, constant, weight, aim, design.lower, design.upper)

    def by_angle(self, coefficients: jax.Array) -> jax.Array:
        """(P, 2) absolute offset and contrast from coefficients (G, k)."""
        values = jnp.einsum("gmrk,gk->gmr", self.matrix, coefficients)
        return (jnp.asarray(self.constant) + jnp.array([LEVEL, 0.0])).at[self.members].add(values)


@partial(register_dataclass, data_fields=("center", "turn", "power", "slope", "spread"), meta_fields=())
@dataclass(frozen=True)
class Calibration:
    """How the likelihood is given another covariance; see the module.

    Attributes:
        center: (p,) u0, in coordinates of the model. turn: (p, p) C. power: 1/c.
        slope: (G k, p) of the coefficients with w - center, beside what the turned likelihood gives. spread: (G k, G k) root of the
            covariance of the coefficients at given w.
    """

    center: np.ndarray
    turn: np.ndarray
    power: float
    slope: np.ndarray
    spread: np.ndarray

    @property
    def inflation(self) -> float:
        """c: geometric mean of the ratio of variances."""
        return 1 / self.power

    @classmethod
    def of(cls, center: np.ndarray, information: Information, independent: np.ndarray, covariance: np.ndarray) -> "Calibration":
        """From the covariances of (u, coefficients): of independent pixels, and of the noise option."""
        size, inverse = information.size, information.inverse
        kept = np.flatnonzero(~information.held & ~inverse.unknown(np.eye(size)))
        turn, power = np.eye(size), 1.0
        if len(kept):
            at = np.ix_(kept, kept)
            root = _power(independent[:size, :size][at], -0.5)
            back = _power(independent[:size, :size][at], 0.5)
            ratio = root @ covariance[:size, :size][at] @ root
            inflation = float(np.exp(np.mean(np.log(np.linalg.eigvalsh(ratio)))))
            power = 1 / inflation
            turn[at] = back @ _power(ratio / inflation, -0.5) @ root
        plain, target = independent[size:, :size], covariance[size:, :size]
        slope, spread = np.zeros_like(plain), covariance[size:, size:].copy()
        if len(kept):
            inner = np.linalg.inv(covariance[:size, :size][np.ix_(kept, kept)])
            own = np.linalg.inv(independent[:size, :size][np.ix_(kept, kept)])
            slope[:, kept] = target[:, kept] @ inner - plain[:, kept] @ own @ turn[np.ix_(kept, kept)]
            spread -= target[:, kept] @ inner @ target[:, kept].T
        return cls(center, turn, power, slope, _power(spread, 0.5))


@partial(
    register_dataclass,
    data_fields=("prior", "phi", "scaling", "pixels", "fixed", "calibration", "prior_power", "data_power"),
    meta_fields=(),
)
@dataclass(frozen=True)
class Density:
    """ln of the posterior density of (u, ln s2), a pytree: equal shapes share one compilation.

    Attributes:
        phi: (P,) degrees. fixed: (P, 3) sums of 1, y, y^2.
        calibration: None for the likelihood as it is.
        prior_power, data_power: powers s and m of prior and likelihood; a shard of K has 1/K and 1, or 1 and K.
    """

    prior: ModelPrior
    phi: np.ndarray
    scaling: Scaling
    pixels: Pixels
    fixed: np.ndarray
    calibration: Calibration | None
    prior_power: float
    data_power: float

    @classmethod
    def of(cls, prior: ModelPrior, phi, scaling: Scaling, strips: Strips, calibration: Calibration | None = None) -> "Density":
        """The density of all pixels of strips."""
        return cls(prior, phi, scaling, pixels_of(strips), fixed_sums(strips), calibration, 1.0, 1.0)

    @property
    def names(self) -> tuple[str, ...]:
        """(d,) of the coordinates."""
        return (*self.prior.coordinates, "ln sigma^2")

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Limits (d,) of the coordinates."""
        lower, upper = self.prior.box
        return np.append(lower, -np.inf), np.append(upper, np.inf)

    def __call__(self, u: jax.Array) -> jax.Array:
        """ln density at u (d,), up to a constant; -inf where there is none."""
        return self.with_sums(u)[0]

    def with_sums(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        """ln density at u (d,), and the sums (P, 3) that the coefficients there need."""
        prior = self.prior.log_density(u[:-1])
        w = self._turned(u)
        # A point outside of the domain has no states; the likelihood is taken at a harmless one, so that no gradient is NaN.
        inside = jnp.isfinite(prior) & jnp.all(jnp.isfinite(w))
        w = jnp.where(inside, w, self.prior.harmless)
        sums = self.sums(w)
        total = self.prior_power * prior + self.log_likelihood(sums, u[-1])
        return jnp.where(inside & jnp.isfinite(total), total, -jnp.inf), sums

    def sums(self, w: jax.Array) -> jax.Array:
        """(P, 3) sums of h, h^2, h y at coordinates w (p,) of the model."""
        x = jax.vmap(self.prior.model.states, (None, 0))(w, jnp.asarray(self.phi))
        return decay_sums(self.prior.model.pair, x, self.pixels)

    @property
    def power(self):
        """m: power of the likelihood, that of a calibration included."""
        return self.data_power if self.calibration is None else self.data_power * self.calibration.power

    def log_likelihood(self, sums: jax.Array, log_variance: jax.Array) -> jax.Array:
        """ln of the likelihood of all maps with its power, coefficients integrated out with the power of their prior."""
        squares, normal, right = self._linear(sums)
        precision = self.power * jnp.exp(-log_variance)
        inverse, aim, log_determinant = self._coefficients(normal, right, precision)
        explained = jnp.einsum("gk,gkl,gl->", aim, inverse, aim)
        level = self.power * self.fixed[:, 0].sum() * (jnp.log(2 * jnp.pi) + log_variance)
        return -0.5 * (level + squares * precision - explained + log_determinant)

    def coefficients(self, u: jax.Array, sums: jax.Array, key: jax.Array) -> jax.Array:
        """(G, k) one draw of the coefficients at u (d,) with its sums (P, 3)."""
        _, normal, right = self._linear(sums)
        inverse, aim, _ = self._coefficients(normal, right, self.power * jnp.exp(-u[-1]))
        mean = jnp.einsum("gkl,gl->gk", inverse, aim)
        noise = jax.random.normal(key, mean.shape)
        if self.calibration is None:
            return mean + jnp.einsum("gkl,gl->gk", jnp.linalg.cholesky(inverse), noise)
        away = self.prior.to_model(u[:-1]) - self.calibration.center
        return mean + (self.calibration.slope @ away + self.calibration.spread @ noise.ravel()).reshape(mean.shape)

    def numbers(self, u: jax.Array, sums: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """What the user knows at u (d,): parameters (K,), scaling (P, 2) offset and contrast, one draw of it, sigma, rates (n,) by name."""
        w = self.prior.to_model(u[:-1])
        rates = {name: jnp.exp(value) for name, value in self.prior.model.log_rates(w).items()}
        scaling = self.scaling.by_angle(self.coefficients(u, sums, key))
        parameters = self.prior.parameters(u[:-1], w)
        return {"parameters": parameters, "scaling": scaling, "sigma": jnp.exp(0.5 * u[-1]), **rates}

    def coefficient_moments(self, u: jax.Array, sums: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean (G, k) and covariance (G, k, k) of the coefficients at u (d,), of the likelihood with its power."""
        _, normal, right = self._linear(sums)
        inverse, aim, _ = self._coefficients(normal, right, self.power * jnp.exp(-u[-1]))
        return jnp.einsum("gkl,gl->gk", inverse, aim), inverse

    def _turned(self, u: jax.Array) -> jax.Array:
        w = self.prior.to_model(u[:-1])
        if self.calibration is None:
            return w
        return self.calibration.center + self.calibration.turn @ (w - self.calibration.center)

    def _linear(self, sums: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Sum of squares of the data beside the constant part; normal matrices (G, k, k) and right sides (G, k)."""
        scaling, fixed = self.scaling, jnp.asarray(self.fixed)
        gram = jnp.stack([jnp.stack([fixed[:, 0], sums[:, 0]], -1), jnp.stack([sums[:, 0], sums[:, 1]], -1)], -2)
        target = jnp.stack([fixed[:, 1], sums[:, 2]], -1)
        constant = jnp.asarray(scaling.constant)
        known = jnp.einsum("pab,pb->pa", gram, constant)
        squares = jnp.sum(fixed[:, 2]) + jnp.sum(constant * (known - 2 * target))
        normal = jnp.einsum("gmak,gmab,gmbl->gkl", scaling.matrix, gram[scaling.members], scaling.matrix)
        right = jnp.einsum("gmak,gma->gk", scaling.matrix, (target - known)[scaling.members])
        return squares, normal, right

    def _coefficients(self, normal: jax.Array, right: jax.Array, precision: jax.Array):
        """A^-1 (G, k, k), a (G, k) and ln|A| summed over groups."""
        if normal.shape[-1] == 0:
            return normal, right, 0.0
        matrix = normal * precision + self.prior_power * self.scaling.weight
        aim = right * precision + self.prior_power * self.scaling.aim
        scale = jnp.sqrt(jnp.diagonal(matrix, axis1=1, axis2=2))
        scaled = matrix / scale[:, :, None] / scale[:, None, :]
        root = jnp.linalg.cholesky(scaled)
        inverse = jnp.linalg.inv(scaled) / scale[:, :, None] / scale[:, None, :]
        logs = jnp.log(jnp.diagonal(root, axis1=1, axis2=2)) + jnp.log(scale)
        return inverse, aim, 2 * jnp.sum(logs)


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a symmetric positive semi-definite matrix."""
    if not len(matrix):
        return matrix
    values, vectors = np.linalg.eigh(matrix)
    values = np.maximum(values, np.finfo(float).tiny if exponent < 0 else 0.0)
    return (vectors * values**exponent) @ vectors.T
