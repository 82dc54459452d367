"""Contrast and offset projected out of the least-squares problem, exactly, for every scaling.

For given physics the sums of pairsums.py make (offset, contrast) of each group the solution of a small linear system
N beta = r. The remaining problem in u has

    chi2/2 gradient   -sum_f c_f (yd - o_f d - c_f hd)                          (exact: beta is optimal)
    Gauss-Newton      sum_f c_f^2 dd - T' N^-1 T,    T = X_f' c_f (d, hd)        (the Schur complement of the full matrix)

Bounds of contrast and offset are respected at every angle; active ones leave the projector. Leading axes before the P angles
are a batch of parameter vectors.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from .pairsums import LEVEL, PairSums
from .per_angle_scaling.base import Design

RANK_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Projection:
    """The linear solution and what is left for u.

    Attributes:
        chi2: (...) sum of squared residuals plus the prior term.
        contrast, offset: (..., P), the offset relative to LEVEL.
        beta: (..., G, k). inverse: (..., G, k, k) of N on the free coefficients, zero along active bounds and null directions.
        at_bound: (..., P) bool, contrast or offset of the angle is at a bound.
        gradient: (..., p) of chi2/2. hessian: (..., p, p) Gauss-Newton matrix. cross: (..., G, k, p) T. Empty at order 0.
    """

    chi2: np.ndarray
    contrast: np.ndarray
    offset: np.ndarray
    beta: np.ndarray
    inverse: np.ndarray
    at_bound: np.ndarray
    gradient: np.ndarray | None = None
    hessian: np.ndarray | None = None
    cross: np.ndarray | None = None


def project(sums: PairSums, design: Design) -> Projection:
    """Solve for contrast and offset and reduce the sums to the problem in u."""
    shift = np.array([LEVEL, 0.0])
    lower, upper, constant = design.lower - shift, design.upper - shift, design.constant - shift
    moments = np.stack([np.stack([sums.w, sums.h], -1), np.stack([sums.h, sums.hh], -1)], -2)
    targets = np.stack([sums.y, sums.hy], -1) - np.einsum("...pab,pb->...pa", moments, constant)
    grouped, aimed = moments[..., design.members, :, :], targets[..., design.members, :]
    normal = np.einsum("gmak,...gmab,gmbl->...gkl", design.matrix, grouped, design.matrix) + design.precision
    right = np.einsum("gmak,...gma->...gk", design.matrix, aimed)
    inverse = _pseudo_inverse(normal)
    beta = np.einsum("...gkl,...gl->...gk", inverse, right)
    values = constant[design.members] + np.einsum("gmak,...gk->...gma", design.matrix, beta)
    slack = 1e-9 * (upper - lower)
    violated = np.any((values < lower - slack) | (values > upper + slack), axis=(-1, -2)) & (design.matrix.shape[-1] > 0)
    if np.any(violated):
        solve = _solve_box if design.direct else _solve_general
        solve(design, constant, normal, right, lower, upper, beta, inverse, np.argwhere(violated))
        values = constant[design.members] + np.einsum("gmak,...gk->...gma", design.matrix, beta)
    touching = np.any((values <= lower + slack) | (values >= upper - slack), axis=-1)
    offset, contrast = _by_angle(values[..., 0], design), _by_angle(values[..., 1], design)
    prior = np.einsum("...gk,gkl,...gl->...", beta, design.precision, beta)
    chi2 = prior + np.sum(
        sums.yy - 2 * (offset * sums.y + contrast * sums.hy) + offset**2 * sums.w + 2 * offset * contrast * sums.h + contrast**2 * sums.hh,
        axis=-1,
    )
    chi2 = np.maximum(chi2, 0.0)
    solution = Projection(chi2, contrast, offset, beta, inverse, _by_angle(touching, design))
    return solution if sums.d is None else _derivatives(solution, sums, design)


def _derivatives(solution: Projection, sums: PairSums, design: Design) -> Projection:
    assert sums.d is not None
    assert sums.hd is not None
    assert sums.yd is not None
    contrast, offset = solution.contrast[..., None], solution.offset[..., None]
    gradient = -np.sum(contrast * (sums.yd - offset * sums.d - contrast * sums.hd), axis=-2)
    if sums.dd is None:
        return Projection(**{**vars(solution), "gradient": gradient})
    slopes = contrast[..., None, :] * np.stack([sums.d, sums.hd], -2)
    cross = np.einsum("gmak,...gmap->...gkp", design.matrix, slopes[..., design.members, :, :])
    full = np.sum(contrast[..., None] ** 2 * sums.dd, axis=-3)
    hessian = full - np.einsum("...gkp,...gkl,...glq->...pq", cross, solution.inverse, cross)
    return Projection(**{**vars(solution), "gradient": gradient, "hessian": 0.5 * (hessian + np.swapaxes(hessian, -1, -2)), "cross": cross})


def _by_angle(values: np.ndarray, design: Design) -> np.ndarray:
    """(..., P) from (..., G, M)."""
    out = np.empty((*values.shape[:-2], design.members.size), dtype=values.dtype)
    out[..., design.members] = values
    return out


def _pseudo_inverse(normal: np.ndarray) -> np.ndarray:
    """Inverse of symmetric matrices (..., k, k) scaled to unit diagonal; null directions (no decay in the map) are left out."""
    diagonal = np.diagonal(normal, axis1=-2, axis2=-1)
    scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 0.0)
    if normal.shape[-1] == 0:
        return normal
    values, vectors = np.linalg.eigh(normal * scale[..., :, None] * scale[..., None, :])
    inverse = np.where(values > RANK_TOLERANCE * values[..., -1:], 1 / np.where(values == 0, 1.0, values), 0.0)
    return scale[..., :, None] * scale[..., None, :] * np.einsum("...ik,...k,...jk->...ij", vectors, inverse, vectors)


def _solve_box(design, constant, normal, right, lower, upper, beta, inverse, where) -> None:
    """Exact bounded solution of two variables (offset, contrast): the best of the four edges."""
    at = tuple(where.T)
    n, r = normal[at], right[at]
    candidates = []
    for held in (0, 1):
        free = 1 - held
        for bound in (lower[held], upper[held]):
            point = np.empty_like(r)
            point[:, held] = bound
            curvature = np.maximum(n[:, free, free], np.finfo(float).tiny)
            point[:, free] = np.clip((r[:, free] - n[:, 0, 1] * bound) / curvature, lower[free], upper[free])
            candidates.append(point)
    points = np.array(candidates)
    value = 0.5 * np.einsum("cek,ekl,cel->ce", points, n, points) - np.einsum("cek,ek->ce", points, r)
    best = points[np.argmin(value, axis=0), np.arange(len(r))]
    beta[at] = best
    free = (best > lower) & (best < upper)
    curvature = np.where(free, np.diagonal(n, axis1=1, axis2=2), 1.0)
    inverse[at] = np.where(free, 1 / np.maximum(curvature, np.finfo(float).tiny), 0.0)[:, :, None] * np.eye(2)


def _solve_general(design, constant, normal, right, lower, upper, beta, inverse, where) -> None:
    """Bounds at every angle as inequalities on beta: least-distance programming (Lawson and Hanson 1974, chapter 23)."""
    for index in map(tuple, where):
        group = index[-1]
        rows = design.matrix[group].reshape(-1, beta.shape[-1])
        base = constant[design.members[group]].reshape(-1)
        low, high = np.tile(lower, len(base) // 2) - base, np.tile(upper, len(base) // 2) - base
        inequality, least = np.concatenate([rows, -rows]), np.concatenate([low, -high])
        matrix = normal[index] + 1e-12 * np.diag(np.maximum(np.diagonal(normal[index]), 1e-300))
        root = np.linalg.cholesky(matrix)
        free = np.linalg.solve(matrix, right[index])
        system = np.linalg.solve(root, inequality.T)
        short = least - inequality @ free
        scale = max(1.0, float(np.abs(short).max()))
        dual, _ = nnls(np.concatenate([system, short[None] / scale]), np.concatenate([np.zeros(len(free)), [1.0]]))
        residual = 1.0 - float(short @ dual) / scale
        beta[index] = free + np.linalg.solve(root.T, system @ dual) * scale / residual
        active = inequality[dual > 1e-10 * max(dual.max(), 1e-300)]
        inverse[index] = _restricted_inverse(matrix, active)


def _restricted_inverse(matrix: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Inverse of a positive matrix on the directions that keep the active constraints."""
    if len(active) == 0:
        return np.linalg.inv(matrix)
    q, r = np.linalg.qr(active.T, mode="complete")
    rank = int(np.sum(np.abs(np.diagonal(r)) > 1e-10 * np.abs(r).max()))
    free = q[:, rank:]
    return free @ np.linalg.inv(free.T @ matrix @ free) @ free.T
