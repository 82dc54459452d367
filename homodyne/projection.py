"""Contrast and offset projected out of the least-squares problem, exactly, for every scaling.

For given physics the sums of pairsums.py make (offset, contrast) of each group the solution of a small linear system
N beta = r. The remaining problem in u has

    chi2/2 gradient   -sum_f c_f (yd - o_f d - c_f hd)                          (exact: beta is optimal)
    Gauss-Newton      sum_f c_f^2 dd - T' N^-1 T,    T = X_f' c_f (d, hd)        (the Schur complement of the full matrix)

A contrast that drifts, c_f + e_f rho, is one more linear column rho h, and the three moments of pairsums.py hold all its sums.
Bounds of contrast and offset are respected at every angle, by a drift at both ends of the record; active ones leave the projector.
Leading axes before the P angles are a batch of parameter vectors.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from .pairsums import LEVEL, Moments, PairSums
from .per_angle_scaling.base import Design

RANK_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Projection:
    """The linear solution and what is left for u.

    Attributes:
        chi2: (...) sum of squared residuals plus the prior term.
        contrast, offset: (..., P), the offset relative to LEVEL. drift: (..., P) of the contrast, None when it is not fitted.
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
    drift: np.ndarray | None = None
    gradient: np.ndarray | None = None
    hessian: np.ndarray | None = None
    cross: np.ndarray | None = None


def project(sums: PairSums | Moments, design: Design) -> Projection:
    """Solve for contrast and offset and reduce the sums to the problem in u.

    Args:
        sums: with all three moments when the design has a drift.
    """
    moments = (sums,) if isinstance(sums, PairSums) else sums
    shift = np.array([LEVEL, 0.0, 0.0])[: design.matrix.shape[2]]
    limited, which = limits(design)
    lower, upper, constant = (design.lower - shift[:2])[which], (design.upper - shift[:2])[which], design.constant - shift
    gram = linear_gram(moments)
    targets = np.stack([moments[0].y, *(part.hy for part in moments[:2])], -1) - np.einsum("...pab,pb->...pa", gram, constant)
    grouped, aimed = gram[..., design.members, :, :], targets[..., design.members, :]
    normal = np.einsum("gmak,...gmab,gmbl->...gkl", design.matrix, grouped, design.matrix) + design.precision
    right = np.einsum("gmak,...gma->...gk", design.matrix, aimed)
    inverse = _pseudo_inverse(normal)
    beta = np.einsum("...gkl,...gl->...gk", inverse, right)
    values = constant[design.members] + np.einsum("gmak,...gk->...gma", design.matrix, beta)
    slack = 1e-9 * (upper - lower)
    ends = values @ limited.T if design.drift else values
    violated = np.any((ends < lower - slack) | (ends > upper + slack), axis=(-1, -2)) & (design.matrix.shape[-1] > 0)
    if np.any(violated):
        solve = _solve_box if design.direct and not design.drift else _solve_general
        solve(design, constant, normal, right, lower, upper, beta, inverse, np.argwhere(violated))
        values = constant[design.members] + np.einsum("gmak,...gk->...gma", design.matrix, beta)
        ends = values @ limited.T if design.drift else values
    touching = np.any((ends <= lower + slack) | (ends >= upper - slack), axis=-1)
    offset, contrast, *drifts = (_by_angle(values[..., row], design) for row in range(values.shape[-1]))
    prior = np.einsum("...gk,gkl,...gl->...", beta, design.precision, beta)
    s = moments[0]
    squares = s.yy - 2 * (offset * s.y + contrast * s.hy) + offset**2 * s.w + 2 * offset * contrast * s.h + contrast**2 * s.hh
    for drift in drifts:
        _, once, twice = moments
        squares = squares - 2 * drift * (once.hy - offset * once.h - contrast * once.hh) + drift**2 * twice.hh
    chi2 = np.maximum(prior + np.sum(squares, axis=-1), 0.0)
    solution = Projection(chi2, contrast, offset, beta, inverse, _by_angle(touching, design), *drifts)
    return solution if s.d is None else _derivatives(solution, moments, design)


def limits(design: Design) -> tuple[np.ndarray, list[int]]:
    """(B, R) combinations of offset, contrast and drift that are bounded, the contrast at both ends; and which bounds each has."""
    if design.drift:
        return np.array([[1.0, 0.0, 0.0], [0.0, 1.0, -1.0], [0.0, 1.0, 1.0]]), [0, 1, 1]
    return np.eye(2), [0, 1]


def linear_gram(moments: Moments) -> np.ndarray:
    """(..., P, R, R) weighted sums of products of the linear columns 1, h and, with its moments, rho h."""
    plain = moments[0]
    if len(moments) == 1:
        return np.stack([np.stack([plain.w, plain.h], -1), np.stack([plain.h, plain.hh], -1)], -2)
    _, once, twice = moments
    rows = [(plain.w, plain.h, once.h), (plain.h, plain.hh, once.hh), (once.h, once.hh, twice.hh)]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def slope_grams(moments: Moments, contrast: np.ndarray, drift: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sums of products of the derivatives of c2 by u: with the linear columns (..., P, R, p), with each other (..., P, p, p)."""
    d, hd, _ = zip(*map(_first, moments), strict=True)
    dd = [_second(part) for part in moments]
    scale = contrast[..., None, None]
    slopes, full = scale * np.stack([d[0], hd[0]], -2), scale**2 * dd[0]
    if drift is None:
        return slopes, full
    change = drift[..., None, None]
    slopes = slopes + change * np.stack([d[1], hd[1]], -2)
    along = contrast[..., None] * hd[1] + drift[..., None] * hd[2]
    full = full + 2 * scale * change * dd[1] + change**2 * dd[2]
    return np.concatenate([slopes, along[..., None, :]], -2), full


def _first(sums: PairSums) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums d, hd, yd of a pass with derivatives."""
    assert sums.d is not None
    assert sums.hd is not None
    assert sums.yd is not None
    return sums.d, sums.hd, sums.yd


def _second(sums: PairSums) -> np.ndarray:
    assert sums.dd is not None
    return sums.dd


def _derivatives(solution: Projection, moments: Moments, design: Design) -> Projection:
    contrast, offset = solution.contrast[..., None], solution.offset[..., None]
    (d, hd, yd), *rest = map(_first, moments)
    gradient = -np.sum(contrast * (yd - offset * d - contrast * hd), axis=-2)
    if solution.drift is not None:
        (d, hd, yd), (_, hd_twice, _) = rest
        drift = solution.drift[..., None]
        gradient = gradient - np.sum(drift * (yd - offset * d - 2 * contrast * hd - drift * hd_twice), axis=-2)
    if moments[0].dd is None:
        return Projection(**{**vars(solution), "gradient": gradient})
    slopes, full = slope_grams(moments, solution.contrast, solution.drift)
    cross = np.einsum("gmak,...gmap->...gkp", design.matrix, slopes[..., design.members, :, :])
    full = np.sum(full, axis=-3)
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
    limited, _ = limits(design)
    for index in map(tuple, where):
        group = index[-1]
        rows = (limited @ design.matrix[group]).reshape(-1, beta.shape[-1])
        base = (constant[design.members[group]] @ limited.T).reshape(-1)
        low, high = (np.tile(bound, design.members.shape[1]) - base for bound in (lower, upper))
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
