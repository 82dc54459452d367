"""The least-squares problem of one Dataset: a model, a scaling, and where its pair sums come from.

``PixelSource`` sums over every pixel, ``CellSource`` over averaged cells; a Problem on either is the same function of u, so the
search and the final fit share every line.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from .cells import Cells, CellSums
from .data import Dataset
from .hardware.base import use_float64
from .mode.base import Model
from .pairsums import LEVEL, Moments, Order, PairSums, PixelSums, Reweighting, WeightedLoss, frame_contrast
from .per_angle_scaling.base import Design
from .projection import Projection, project


@partial(jax.jit, static_argnames="slopes")
def states_and_slopes(model: Model, phi: jax.Array, u: jax.Array, slopes: bool) -> tuple[jax.Array, jax.Array]:
    """States (P, m, n) of all angles and their derivatives (P, m, p, n); p = 0 without slopes."""

    def states(v: jax.Array) -> jax.Array:
        return jax.vmap(model.states, (None, 0))(v, phi)

    x = states(u)
    if not slopes:
        return x, jnp.zeros((*x.shape[:2], 0, x.shape[2]))
    return x, jnp.moveaxis(jax.jacfwd(states)(u), -1, 2)


@jax.jit
def user_parameters(model: Model, u: jax.Array) -> jax.Array:
    """(K,) parameters as the user knows them."""
    return model.parameters(u)


class Source(Protocol):
    """Where pair sums come from."""

    def sums(self, model: Model, u: np.ndarray, order: Order) -> PairSums:
        """Sums over all used pairs at u (p,)."""
        ...


class PixelSource:
    """Every pixel of a Dataset.

    Args:
        threads, tiles_at_once: see ``hardware``. weights: like dataset.tiles, or None for 1.
        reweighting: robust weights held fixed, or None.
    """

    def __init__(self, dataset: Dataset, *, threads: int, tiles_at_once: int, weights=None, reweighting: Reweighting | None = None) -> None:
        use_float64()
        self.dataset, self.reweighting = dataset, reweighting
        self.kernel = PixelSums(dataset.tiles, dataset.n, weights=weights, threads=threads, tiles_at_once=tiles_at_once)

    def sums(self, model: Model, u: np.ndarray, order: Order) -> PairSums:
        return self.moments(model, u, order, drift=False)[0]

    def moments(self, model: Model, u: np.ndarray, order: Order, *, drift: bool) -> Moments:
        """The same sums, and with ``drift`` those that a drift of the contrast needs."""
        x, dx = states_and_slopes(model, self.dataset.phi, u, slopes=order > 0)
        return self.kernel.moments(model.pair, model.depends, np.asarray(x), np.asarray(dx), order, self.reweighting, drift=drift)

    def shot_moments(self, model: Model, fit: "Evaluation", shot: np.ndarray) -> Moments:
        """Variance of the normal equations' right side at a fit by photon counting alone; shot (P, n). See ``PixelSums``."""
        x, dx = (np.asarray(part) for part in states_and_slopes(model, self.dataset.phi, fit.u, slopes=True))
        light = (shot, np.maximum(fit.contrast_along(self.dataset.n), 0.0))
        return self.kernel.moments(model.pair, model.depends, x, dx, 2, self.reweighting, light, drift=fit.drift is not None)

    def residuals(self, model: Model, fit: "Evaluation") -> Iterator[np.ndarray]:
        """Residuals c2 - model of all used pixels, unweighted, chunk by chunk."""
        x = np.asarray(states_and_slopes(model, self.dataset.phi, fit.u, slopes=False)[0])
        contrast = fit.contrast_along(self.dataset.n)
        for angle in range(len(x)):
            for rows, columns, c2, h in self.kernel.values(model.pair, x[angle], angle):
                residual = c2 - (fit.offset[angle] + self.kernel.pair_means(contrast[angle], rows, columns) * h)
                yield residual[np.isfinite(residual)]

    def reweighted(self, model: Model, fit: "Evaluation", loss: WeightedLoss) -> "PixelSource":
        """The same pixels with robust weights from the residuals of a fit."""
        x, _ = states_and_slopes(model, self.dataset.phi, fit.u, slopes=False)
        source = copy(self)
        contrast = fit.contrast_along(self.dataset.n)
        source.reweighting = Reweighting(loss.weight, model.pair, np.asarray(x), contrast, fit.offset - LEVEL, loss.scale)
        return source


class CellSource:
    """Cells of a Dataset (cells.py)."""

    def __init__(self, cells: Cells, phi: np.ndarray) -> None:
        use_float64()
        self.cells = cells
        self._kernel = CellSums(cells, phi)

    def sums(self, model: Model, u: np.ndarray, order: Order) -> PairSums:
        return self._kernel(model, u, order)

    def batch(self, model: Model, points: np.ndarray) -> PairSums:
        """Sums of order 0 at many points (B, p)."""
        return self._kernel.batch(model, points)


@dataclass(frozen=True)
class Evaluation:
    """One pass at u (p,): chi2 = sum w (c2 - model)^2 with contrast and offset solved, and its derivatives.

    contrast, offset: (P,), absolute. gradient (p,) of chi2/2, hessian (p, p) Gauss-Newton; None for a value-only pass.
    """

    u: np.ndarray
    chi2: float
    contrast: np.ndarray
    offset: np.ndarray
    projection: Projection
    decay: np.ndarray
    """(P,) weighted mean of h over the used pairs."""
    drift: np.ndarray | None = None
    """(P,) of the contrast: half its change from the first frame to the last; None when it is not fitted."""

    def contrast_along(self, n: int) -> np.ndarray:
        """(P, n) contrast of the frames when it drifts, (P,) when not."""
        return self.contrast if self.drift is None else frame_contrast(self.contrast, self.drift, n)

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.chi2))

    @property
    def gradient(self) -> np.ndarray:
        assert self.projection.gradient is not None
        return self.projection.gradient

    @property
    def hessian(self) -> np.ndarray:
        assert self.projection.hessian is not None
        return self.projection.hessian


@dataclass(frozen=True)
class Problem:
    """chi2 as a function of the model's coordinates u, contrast and offset projected out."""

    model: Model
    design: Design
    source: Source

    def evaluate(self, u: np.ndarray, order: Order = 2) -> Evaluation:
        """One pass over the source."""
        u = np.asarray(u, dtype=np.float64)
        if self.design.drift:
            assert isinstance(self.source, PixelSource), "cells know no drift"
            moments = self.source.moments(self.model, u, order, drift=True)
        else:
            moments = (self.source.sums(self.model, u, order),)
        projection = project(moments, self.design)
        decay = moments[0].h / np.maximum(moments[0].w, 1.0)
        offset = projection.offset + LEVEL
        return Evaluation(u, float(projection.chi2), projection.contrast, offset, projection, decay, projection.drift)

    def with_model(self, model: Model) -> "Problem":
        return replace(self, model=model)


@dataclass(frozen=True)
class Inverse:
    """Inverse of a Gauss-Newton matrix (p, p) on what the data determine.

    Attributes:
        matrix: (p, p) inverse, zero along null directions.
        null: (p, r) directions that the data do not determine at all, orthonormal in scaled coordinates; scale: (p,) of those.
        condition: ratio of the extreme singular values of the column-scaled matrix.
    """

    matrix: np.ndarray
    null: np.ndarray
    scale: np.ndarray
    condition: float

    def unknown(self, slope: np.ndarray) -> np.ndarray:
        """(k,) True where a quantity with derivative slope (k, p) moves along a null direction."""
        scaled = np.nan_to_num(slope) * self.scale
        along = np.linalg.norm(scaled @ self.null, axis=-1)
        return along > 1e-5 * np.linalg.norm(scaled, axis=-1)


def invert(hessian: np.ndarray, tolerance: float = 1e-11) -> Inverse:
    """Scale to unit diagonal, and leave out eigenvalues below ``tolerance`` times the largest."""
    diagonal = np.diagonal(hessian)
    scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 1.0)
    values, vectors = np.linalg.eigh(hessian * np.outer(scale, scale))
    kept = values > tolerance * max(values[-1], np.finfo(float).tiny) if len(values) else np.zeros(0, dtype=bool)
    matrix = np.outer(scale, scale) * (vectors[:, kept] / values[kept] @ vectors[:, kept].T)
    condition = 1.0 if not len(values) else float(np.sqrt(values[-1] / values[0])) if kept.all() else float("inf")
    return Inverse(matrix, vectors[:, ~kept], scale, condition)


@dataclass(frozen=True)
class Information:
    """The Gauss-Newton matrix of all fitted numbers, inverted at a minimum.

    Numbers are ordered u (p,), then the coefficients of contrast and offset (G k,) group by group.

    Attributes:
        bread: (p + G k, p + G k) inverse; covariance = sigma^2 bread for independent pixels. Zero for held coordinates.
        held: (p,) bool, coordinates at a limit of the box.
        inverse: of the projected matrix of the free coordinates, in all of them.
        expand: (R P, G k) offset, contrast and, where it is fitted, drift of every angle from the coefficients: rows offset[0..P),
            contrast[0..P), drift[0..P).
    """

    bread: np.ndarray
    held: np.ndarray
    inverse: Inverse
    expand: np.ndarray

    @property
    def size(self) -> int:
        """Number of coordinates u."""
        return len(self.held)


def information(evaluation: Evaluation, problem: Problem) -> Information:
    """Invert the full matrix by its Schur complement: cost linear in the number of angles."""
    projection, model, design = evaluation.projection, problem.model, problem.design
    assert projection.cross is not None
    margin = 1e-3 * np.minimum(model.upper - model.lower, 10.0)
    held = (evaluation.u - model.lower < margin) | (model.upper - evaluation.u < margin)
    size, groups, k = len(held), *projection.beta.shape
    free = invert(evaluation.hessian[np.ix_(~held, ~held)])
    inverse = np.zeros((size, size))
    inverse[np.ix_(~held, ~held)] = free.matrix
    cross = np.einsum("gkl,glp->gkp", projection.inverse, projection.cross).reshape(groups * k, size)
    bread = np.zeros((size + groups * k,) * 2)
    bread[:size, :size] = inverse
    bread[size:, :size] = -cross @ inverse
    bread[:size, size:] = bread[size:, :size].T
    bread[size:, size:] = cross @ inverse @ cross.T
    for g in range(groups):
        at = slice(size + g * k, size + (g + 1) * k)
        bread[at, at] += projection.inverse[g]
    null = np.zeros((size, free.null.shape[1]))
    null[~held] = free.null
    scale = np.ones(size)
    scale[~held] = free.scale
    return Information(bread, held, Inverse(inverse, null, scale, free.condition), expansion(design))


def expansion(design: Design) -> np.ndarray:
    """(R P, G k): offset of every angle, then contrast, then drift if there is one, as linear functions of the coefficients."""
    groups, _, rows, k = design.matrix.shape
    count = design.members.size
    expand = np.zeros((rows * count, groups * k))
    for g in range(groups):
        at = slice(g * k, (g + 1) * k)
        for row in range(rows):
            expand[row * count + design.members[g], at] = design.matrix[g, :, row]
    return expand
