"""Likelihood of the frame covariance of speckle, and the covariance of its maximum.

C - 1 of N detector pixels is a sample covariance matrix of n frames; M = (C - 1) N/(N - 1) takes the mean of each frame into
account. With S = contrast h + diag(fixed + scale * shot) + (offset - 1) 11' of each angle, P = S^-1 and S_a = dS/da,

    log L   -N/2 [log det S + tr(P M)],  summed over angles
    score   N/2 tr(P (M - S) P S_a)
    F       N/2 tr(P S_a P S_b)

Speckle is not Gaussian: the score is a sum over the pixels of C with the images W_a = P S_a P, so covariance.py gives its covariance V,
and that of the maximum is F^-1 V F^-1. The diagonal counts as a factorial moment, c_ii - 1/(mean count). Source: docs/noise.md.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg.lapack import dpocon, dpotrf, dpotri

from .counting import expansion
from .covariance import Frames, map_covariance
from .data import Dataset
from .mode.base import Model
from .pairsums import Pair
from .problem import Information, PixelSource, Problem, invert, states_and_slopes

DECREMENT = 1e-4
"""Stop when twice the expected gain in log L is below this: a hundredth of an error from the maximum."""
MOST_STEPS, MOST_HALVINGS = 30, 12
IMAGES_IN_MEMORY = 7
"""n x n arrays for each fitted number of one angle at the peak, in map_covariance."""


@dataclass(frozen=True)
class Shot:
    """Diagonal of S beside the contrast: fixed + scale * shot, both (P, n); start: (P,) scale expected."""

    fixed: np.ndarray
    shot: np.ndarray
    start: np.ndarray


@dataclass(frozen=True)
class Scored:
    """log L (without its constant), score (q,), Fisher information (q, q) and the largest condition number of S at values (q,)."""

    values: np.ndarray
    log_likelihood: float
    score: np.ndarray
    fisher: np.ndarray
    condition: float


@dataclass(frozen=True)
class Maximum:
    """Where Fisher scoring ended: the point, the number of steps, and why it is no maximum (empty when it is one)."""

    point: Scored
    steps: int
    failure: str


@dataclass(frozen=True)
class _Angle:
    """One angle at a point: products X_a = P S_a (k, n, n) for a = u, offset, contrast, scale; P; condition and log det of S."""

    products: np.ndarray
    inverse: np.ndarray
    condition: float
    log_determinant: float


@dataclass(frozen=True)
class Likelihood:
    """log L of all angles as a function of (u, coefficients, scale of the shot noise of each angle).

    Attributes:
        problem: model, scaling and maps. information: of the least-squares fit, for the order of the coefficients.
        pixels: (P,). shot: see ``Shot``. used: (P, n) bool, frames that are not masked.
        prior: (q, q) inverse covariance of all numbers, zero for none.
        workers: angles in memory at the same time.
    """

    problem: Problem
    information: Information
    pixels: np.ndarray
    shot: Shot
    used: np.ndarray
    prior: np.ndarray
    workers: int

    @property
    def size(self) -> int:
        """Number of numbers but the scales."""
        return len(self.information.bread)

    @property
    def _dataset(self) -> Dataset:
        source = self.problem.source
        assert isinstance(source, PixelSource)
        return source.dataset

    def scaling(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Contrast and offset (P,) of all angles."""
        count = len(self.pixels)
        coefficients = values[self.information.size : self.size]
        both = self.problem.design.constant.T.ravel() + self.information.expand @ coefficients
        return both[count:], both[:count]

    def at(self, values: np.ndarray) -> Scored | None:
        """log L and its derivatives; None where S is not positive definite."""

        def one(angle: int, state: np.ndarray, slope: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, float] | None:
            found = self._angle(angle, values, state, slope)
            if found is None:
                return None
            number, x = self.pixels[angle], found.products
            measured = measured_covariance(self._dataset, angle, self.pixels[angle], self.used[angle])
            value = -0.5 * number * (found.log_determinant + np.sum(found.inverse * measured))
            flat, turned = x.reshape(len(x), -1), x.transpose(0, 2, 1).reshape(len(x), -1)
            score = 0.5 * number * (turned @ (found.inverse @ measured).ravel() - np.trace(x, axis1=1, axis2=2))
            return value, score, 0.5 * number * flat @ turned.T, found.condition

        total, score, fisher, condition = 0.0, np.zeros(len(values)), np.zeros((len(values),) * 2), 1.0
        for angle, part in enumerate(self._each(values, one)):
            if part is None:
                return None
            expand = self._expansion(angle)
            total += part[0]
            score += expand.T @ part[1]
            fisher += expand.T @ part[2] @ expand
            condition = max(condition, part[3])
        away = self.prior @ values
        return Scored(values, float(total - 0.5 * values @ away), score - away, fisher + self.prior, condition)

    def score_covariance(self, values: np.ndarray, r: float, r1: float, *, own_mean: bool) -> np.ndarray:
        """(q, q) covariance of the score by the statistics of speckle and counting.

        Args:
            r, r1: see covariance.Counting. own_mean: the shot noise of a frame is that of its own mean count, not of an average one.
        """

        def one(angle: int, state: np.ndarray, slope: np.ndarray) -> np.ndarray:
            found = self._angle(angle, values, state, slope)
            assert found is not None, "the point is a maximum"
            kept, (contrast, offset) = self.used[angle], self.scaling(values)
            shot = (self.shot.fixed[angle] + values[self.size + angle] * self.shot.shot[angle])[kept]
            field = np.asarray(_field(self.problem.model.pair, state))[np.ix_(kept, kept)]
            frames = Frames(field, shot, float(contrast[angle]), r, r1)
            images, columns = found.products @ found.inverse, found.products.sum(axis=1)
            # The products have as many numbers as the images, and are not needed any more.
            del found
            return self.pixels[angle] * speckle_covariance(images, columns, float(offset[angle]) - 1, frames, own_mean=own_mean)

        total = np.zeros((len(values),) * 2)
        for angle, part in enumerate(self._each(values, one)):
            expand = self._expansion(angle)
            total += expand.T @ part @ expand
        return total

    def _each[T](self, values: np.ndarray, one: Callable[[int, np.ndarray, np.ndarray], T]) -> list[T]:
        """``one`` for every angle with its states (m, n) and their derivatives (m, p, n)."""
        u = values[: self.information.size]
        x, dx = (np.asarray(part) for part in states_and_slopes(self.problem.model, self._dataset.phi, u, slopes=True))
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(one, range(len(x)), x, dx))

    def _expansion(self, angle: int) -> np.ndarray:
        """(p + 3, q): u, offset, contrast and scale of one angle as functions of all numbers."""
        rows = expansion(self.information, angle, len(self.pixels))
        out = np.zeros((len(rows) + 1, self.size + len(self.pixels)))
        out[:-1, : self.size] = rows
        out[-1, self.size + angle] = 1.0
        return out

    def _angle(self, angle: int, values: np.ndarray, x: np.ndarray, dx: np.ndarray) -> _Angle | None:
        kept = self.used[angle]
        contrast, offset = (float(part[angle]) for part in self.scaling(values))
        shot = self.shot.shot[angle][kept]
        h, slopes = (np.asarray(part)[..., kept, :][..., kept] for part in _decay(self.problem.model.pair, x))
        s = contrast * h + (offset - 1)
        s[np.diag_indices_from(s)] += self.shot.fixed[angle][kept] + values[self.size + angle] * shot
        norm = float(np.abs(s).sum(axis=0).max())
        # Transposed: LAPACK then works in place. s is symmetric.
        factor, fail = dpotrf(s.T, lower=1, overwrite_a=1, clean=0)
        if fail:
            return None
        determinant = 2 * float(np.sum(np.log(np.diagonal(factor))))
        condition = 1 / max(float(dpocon(factor, norm, uplo="L")[0]), np.finfo(float).tiny)
        inverse, _ = dpotri(factor, lower=1, overwrite_c=1)
        inverse = np.tril(inverse)
        inverse += np.tril(inverse, -1).T
        size = dx.shape[1]
        products = np.empty((size + 3, *h.shape))
        for k in range(size):
            change = np.zeros_like(h)
            for slope, states in zip(slopes, dx[:, k][:, kept], strict=True):
                if states.any():
                    change += slope * (states[None, :] - states[:, None])
            np.matmul(inverse, contrast * change, out=products[k])
        products[size] = inverse.sum(axis=1)[:, None]
        np.matmul(inverse, h, out=products[size + 1])
        products[size + 2] = inverse * shot
        return _Angle(products, inverse, condition, determinant)


def measured_covariance(dataset: Dataset, angle: int, pixels: float, used: np.ndarray) -> np.ndarray:
    """(C - 1) N/(N - 1) of the used frames of one angle, with its raw diagonal."""
    dense = dataset.map(angle)[np.ix_(used, used)].astype(np.float64)
    np.fill_diagonal(dense, dataset.diagonal[angle][used])
    dense -= 1.0
    dense *= pixels / (pixels - 1)
    return dense


def used_frames(dataset: Dataset) -> tuple[np.ndarray, bool]:
    """(P, n) bool, frames with any used pair; and whether all pairs of those are used."""
    used = np.zeros((len(dataset.phi), dataset.n), dtype=bool)
    whole = True
    for angle in range(len(dataset.phi)):
        finite = np.isfinite(dataset.map(angle))
        used[angle] = finite.any(axis=1)
        count = int(used[angle].sum())
        whole = whole and int(finite.sum()) == count * (count - 1)
    return used, whole


def maximise(likelihood: Likelihood, start: np.ndarray, free: np.ndarray, report: Callable[[int, Scored, float], None]) -> Maximum | None:
    """Fisher scoring; steps are halved until S is positive definite, u is inside the box of the model and log L rises.

    Args:
        start: (q,). free: (q,) bool, numbers that move. report: called with the number of steps, the point and its Newton decrement.

    Returns:
        None when S is not positive definite at the start.
    """
    model, size = likelihood.problem.model, likelihood.information.size
    point = likelihood.at(start)
    if point is None:
        return None
    for steps in range(MOST_STEPS + 1):
        step = free_inverse(point.fisher, free) @ point.score
        decrement = float(step @ point.score)
        report(steps, point, decrement)
        if decrement < DECREMENT:
            return Maximum(point, steps, "")
        if steps == MOST_STEPS:
            break
        for halving in range(MOST_HALVINGS):
            values = point.values + 0.5**halving * step
            trial = likelihood.at(values) if _inside(model, values[:size]) else None
            if trial is not None and trial.log_likelihood > point.log_likelihood:
                point = trial
                break
        else:
            return Maximum(point, steps, f"Fisher scoring stops {np.sqrt(decrement):.2g} errors away from the maximum")
    return Maximum(point, MOST_STEPS, f"Fisher scoring does not converge within {MOST_STEPS} steps")


def free_inverse(matrix: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Inverse on the numbers that are free, zero elsewhere."""
    out = np.zeros_like(matrix)
    out[np.ix_(free, free)] = invert(matrix[np.ix_(free, free)]).matrix
    return out


def speckle_covariance(images: np.ndarray, columns: np.ndarray, static: float, frames: Frames, *, own_mean: bool) -> np.ndarray:
    """N times the covariance (k, k) of sum_ij W_ij c_ij/2 for images W = P S_a P (k, n, n) with diagonal.

    Args:
        columns: (k, n) column sums of P S_a. static: offset - 1, a rank-one part of S. own_mean: see ``Likelihood.score_covariance``.
    """
    contrast, s = frames.contrast, frames.shot
    flat = images.reshape(len(images), -1)
    exact = 0.5 * (flat * (s[:, None] * s * (1 + contrast * frames.field**2)).ravel()) @ flat.T
    total = map_covariance(images, exact, frames)
    # With (S - static 11') W = (P S_a)' - static 1 (W 1)': what the rank-one part adds to tr(S W S W)/2.
    rows = images.sum(axis=2)
    once = static * rows @ columns.T
    total += 0.5 * (once + once.T) - 0.5 * static**2 * np.outer(rows.sum(axis=1), rows.sum(axis=1))
    if not own_mean:
        total += _common_mean(images, frames)
    return total


def _common_mean(images: np.ndarray, frames: Frames) -> np.ndarray:
    """What fluctuations of the mean count of a frame add when its shot noise is taken from an average: c_ii moves by -s_i d_i."""
    b, gam, s = frames.contrast, frames.field, frames.shot
    level = -0.5 * np.diagonal(images, axis1=1, axis2=2) * s
    rows = b * (images * gam**2).sum(axis=2)
    x = frames.r1 * b**2 * ((gam @ (images * gam)) * gam).sum(axis=2) + s * rows
    between = frames.r1 * b * gam**2 + np.diag(s)
    cross = level @ (x - rows @ between).T
    return level @ between @ level.T + cross + cross.T


def _inside(model: Model, u: np.ndarray) -> bool:
    return bool(np.all(u >= model.lower) and np.all(u <= model.upper)) and model.allowed(u)


@partial(jax.jit, static_argnums=0)
def _decay(pair: Pair, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """h (n, n), and its derivative (m, n, n) by x_j - x_i for each state x (m, n)."""
    difference, sign = _later_minus_earlier(x)
    slopes = []
    for s in range(len(difference)):
        tangent = tuple(jnp.ones_like(d) if k == s else jnp.zeros_like(d) for k, d in enumerate(difference))
        slopes.append(sign * jax.jvp(pair, (difference,), (tangent,))[1])
    return pair(difference), jnp.stack(slopes)


@partial(jax.jit, static_argnums=0)
def _field(pair: Pair, x: jax.Array) -> jax.Array:
    """Signed g1 (n, n)."""
    return pair.field(_later_minus_earlier(x)[0])


def _later_minus_earlier(x: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
    index = jnp.arange(x.shape[1])
    sign = jnp.where(index[None, :] >= index[:, None], 1.0, -1.0)
    return tuple(sign * (state[None, :] - state[:, None]) for state in x), sign
