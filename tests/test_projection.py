"""Contrast and offset projected out equal dense least squares over everything, with and without active bounds."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import null_space
from scipy.optimize import LinearConstraint, lsq_linear, minimize

from homodyne.groups import options
from homodyne.pairsums import PairSums, PixelSums
from homodyne.problem import Problem, expansion, information
from homodyne.projection import project

from . import factory
from .factory import LAMINAR, dense_decay, dense_pairs, linear_columns, measured, noise_like, option

SCALINGS = [name for name in options("per_angle_scaling") if name != "auto"]
"""auto chooses between two of the others."""
N = 40
CONTRAST, OFFSET = np.array([0.12, 0.15, 0.19, 0.14, 0.16]), np.array([1.0, 1.012, 0.995, 0.99, 1.004])
FREE = {"contrast_bounds": [0.0, 1.0], "offset_bounds": [0.5, 1.5]}
TIGHT = {"contrast_bounds": [0.0, 0.14], "offset_bounds": [0.998, 1.2]}


@cache
def dataset():
    maps = factory.exact_maps(LAMINAR, n=N, contrast=CONTRAST, offset=OFFSET)
    maps = maps + noise_like(maps, 0.02, 1)
    maps[1, 7] = maps[1, :, 7] = np.nan
    return measured(maps, factory.PHI)


@cache
def problem(name: str, tight: bool) -> Problem:
    settings = dict(TIGHT if tight else FREE)
    if name == "constant":
        settings |= {"contrast": CONTRAST.tolist(), "offset": OFFSET.tolist()}
    if name == "fourier":
        settings["order"] = 1
    return factory.problem(dataset(), "laminar_flow", option("per_angle_scaling", name, **settings))


@cache
def point() -> np.ndarray:
    """Coordinates away from the minimum."""
    u = problem("individual", False).model.coordinates_of(LAMINAR)
    return u + 0.1 * np.cos(np.arange(len(u)))


@cache
def dense_model():
    """h (P, pairs), its Jacobian (P, pairs, p), c2 and the mask of all pairs at ``point``."""
    model = problem("individual", False).model

    def h(v):
        return jnp.stack(dense_decay(model, dataset(), v))

    value, jacobian = jax.jit(lambda v: (h(v), jax.jacfwd(h)(v)))(point())
    _, _, used, c2 = dense_pairs(dataset())
    return np.asarray(value), np.asarray(jacobian), np.array(c2), np.array(used)


def dense(made: Problem) -> SimpleNamespace:
    """The whole linear problem, prior rows included: residual target - columns beta, and where every angle's value must be."""
    design = made.design
    h, _, c2, used = dense_model()
    columns = linear_columns(design)
    rows, targets = [], []
    for k in range(len(h)):
        map_rows = columns[k, 0] + h[k][:, None] * columns[k, 1]
        rows.append(map_rows[used[k]])
        targets.append((c2[k] - design.constant[k, 0] - h[k] * design.constant[k, 1])[used[k]])
    size = columns.shape[-1]
    precision = np.zeros((size, size))
    k = design.precision.shape[-1]
    for g, block in enumerate(design.precision):
        precision[g * k : (g + 1) * k, g * k : (g + 1) * k] = block
    values, vectors = np.linalg.eigh(precision) if size else (np.zeros(0), np.zeros((0, 0)))
    prior = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    matrix = np.vstack([*rows, prior])
    target = np.concatenate([*targets, np.zeros(size)])
    # Offset, then contrast of every angle = base + expand @ beta, within low and high.
    expand = np.concatenate([columns[:, 0], columns[:, 1]])
    base = np.concatenate([design.constant[:, 0], design.constant[:, 1]])
    low, high = (np.repeat(bound, len(h)) for bound in (design.lower, design.upper))
    return SimpleNamespace(matrix=matrix, target=target, expand=expand, base=base, low=low, high=high)


def physical_columns(found, system: SimpleNamespace) -> np.ndarray:
    """Derivatives of the rows of ``dense`` with respect to u."""
    _, jacobian, _, used = dense_model()
    rows = [contrast * j[mask] for contrast, j, mask in zip(found.contrast, jacobian, used, strict=True)]
    return np.vstack([*rows, np.zeros((system.expand.shape[1], 7))])


def solve(system: SimpleNamespace) -> np.ndarray:
    """Bounded least squares by SciPy: boxes by lsq_linear, bounds at every angle as inequalities by SLSQP."""
    matrix, target, expand = system.matrix, system.target, system.expand
    if matrix.shape[1] == 0:
        return np.zeros(0)
    if np.all(np.count_nonzero(expand, axis=1) == 1):
        low, high = np.full(matrix.shape[1], -np.inf), np.full(matrix.shape[1], np.inf)
        for row, base, a, b in zip(expand, system.base, system.low, system.high, strict=True):
            at = int(np.flatnonzero(row)[0])
            low[at], high[at] = max(low[at], (a - base) / row[at]), min(high[at], (b - base) / row[at])
        return lsq_linear(matrix, target, (low, high), method="bvls", tol=1e-15).x
    normal, right = matrix.T @ matrix, matrix.T @ target
    size = np.trace(normal)
    limits = LinearConstraint(expand, system.low - system.base, system.high - system.base)
    start = np.linalg.lstsq(expand, np.clip(expand @ np.linalg.solve(normal, right), limits.lb, limits.ub))[0]
    found = minimize(
        lambda b: (0.5 * b @ normal @ b - right @ b) / size,
        start,
        jac=lambda b: (normal @ b - right) / size,
        constraints=[limits],
        method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 500},
    )
    return found.x


@pytest.mark.parametrize("tight", [False, True], ids=["inside", "at bounds"])
@pytest.mark.parametrize("name", SCALINGS)
def test_contrast_offset_and_chi2_equal_dense_bounded_least_squares(name, tight):
    made = problem(name, tight)
    found, system = made.evaluate(point()), dense(made)
    beta = solve(system)
    values = system.base + system.expand @ beta
    chi2 = float(np.sum((system.target - system.matrix @ beta) ** 2))
    general = name == "fourier" and tight
    assert found.chi2 == pytest.approx(chi2, rel=1e-8 if general else 1e-11)
    np.testing.assert_allclose(np.concatenate([found.offset, found.contrast]), values, atol=2e-5 if general else 1e-9)
    # SLSQP stops early; ours must not be the worse one.
    assert found.chi2 <= chi2 * (1 + 1e-12)
    if name != "constant":
        assert np.all(found.contrast <= made.design.upper[1] + 1e-9)
        assert np.all(found.offset >= made.design.lower[0] - 1e-9)
        at_bound = np.isclose(found.contrast, made.design.upper[1], atol=1e-8) | np.isclose(found.offset, made.design.lower[0], atol=1e-8)
        assert at_bound.any() == tight
        np.testing.assert_array_equal(found.projection.at_bound, at_bound)


@pytest.mark.parametrize("tight", [False, True], ids=["inside", "at bounds"])
@pytest.mark.parametrize("name", SCALINGS)
def test_gradient_equals_the_finite_difference_of_the_projected_chi2(name, tight):
    made = problem(name, tight)
    found, step = made.evaluate(point()), 1e-5
    numeric = []
    for axis in np.eye(len(point())):
        plus, minus = (made.evaluate(point() + sign * step * axis, order=0).chi2 for sign in (1, -1))
        numeric.append((plus - minus) / (4 * step))
    np.testing.assert_allclose(found.gradient, numeric, atol=1e-6 * np.abs(numeric).max())


@pytest.mark.parametrize("tight", [False, True], ids=["inside", "at bounds"])
@pytest.mark.parametrize("name", SCALINGS)
def test_hessian_equals_the_schur_complement_of_the_dense_matrix(name, tight):
    """Coefficients may move only where no active bound holds them."""
    made = problem(name, tight)
    found, system = made.evaluate(point()), dense(made)
    physical = physical_columns(found, system)
    values = np.concatenate([found.offset, found.contrast])
    active = np.isclose(values, system.low, atol=1e-8) | np.isclose(values, system.high, atol=1e-8)
    free = null_space(system.expand[active]) if active.any() and system.matrix.shape[1] else np.eye(system.matrix.shape[1])
    linear = system.matrix @ free
    projected = physical - linear @ np.linalg.lstsq(linear, physical)[0]
    expected = projected.T @ projected
    scale = np.sqrt(np.diagonal(expected))
    unit = np.outer(scale, scale)
    np.testing.assert_allclose(found.hessian / unit, expected / unit, atol=1e-8 if name == "fourier" else 1e-10)


@pytest.mark.parametrize("name", SCALINGS)
def test_full_covariance_equals_the_inverse_of_the_dense_normal_matrix(name):
    made = problem(name, False)
    found, system = made.evaluate(point()), dense(made)
    physical = physical_columns(found, system)
    whole = np.hstack([physical, system.matrix])
    scale = np.linalg.norm(whole, axis=0)
    expected = np.linalg.inv((whole / scale).T @ (whole / scale))
    info = information(found, made)
    assert not info.held.any()
    root = np.sqrt(np.diagonal(expected))
    np.testing.assert_allclose(info.bread * np.outer(scale, scale) / np.outer(root, root), expected / np.outer(root, root), atol=1e-8)
    np.testing.assert_allclose(expansion(made.design), system.expand)


@pytest.mark.parametrize("tight", [False, True], ids=["inside", "at bounds"])
@pytest.mark.parametrize("name", SCALINGS)
def test_a_map_without_decay_gives_a_finite_chi2(name, tight):
    """h = 1 for every pair: contrast and offset cannot be told apart; only their sum is fitted."""
    made = problem(name, tight)
    model = made.model
    count, size = len(dataset().phi), len(model.coordinates)
    kernel = PixelSums(dataset().tiles, N, threads=1)
    flat = kernel(model.pair, model.depends, np.zeros((count, 2, N)), np.ones((count, 2, size, N)), 2)
    np.testing.assert_array_equal(flat.h, flat.w)
    found = project(flat, made.design)
    for value in (found.chi2, found.contrast, found.offset, found.gradient, found.hessian):
        assert np.all(np.isfinite(value))
    if name == "individual" and not tight:
        _, _, used, c2 = dense_pairs(dataset())
        assert found.chi2 == pytest.approx(sum(float(np.sum((v[m] - v[m].mean()) ** 2)) for v, m in zip(c2, used, strict=True)), rel=1e-10)


@pytest.mark.parametrize("name", SCALINGS)
def test_an_angle_without_used_pairs_changes_nothing(name):
    """A map that is masked altogether adds no number to chi2 and no information."""
    made = problem(name, False)
    sums = made.source.sums(made.model, point(), 2)
    keep = np.array([1.0, 1.0, 0.0, 1.0, 1.0])
    emptied = PairSums(**{key: value * keep.reshape(-1, *[1] * (value.ndim - 1)) for key, value in vars(sums).items()})
    found = project(emptied, made.design)
    assert np.isfinite(found.chi2)
    assert np.all(np.isfinite(found.hessian))
    assert np.linalg.eigvalsh(found.hessian).min() > 0
    if name == "individual":
        parts = [project(PairSums(**{k: v[[a]] for k, v in vars(sums).items()}), one_angle(made, a)) for a in (0, 1, 3, 4)]
        assert found.chi2 == pytest.approx(sum(float(part.chi2) for part in parts), rel=1e-12)
        np.testing.assert_allclose(found.hessian, sum(part.hessian for part in parts), rtol=1e-9)


def one_angle(made: Problem, angle: int):
    """The individual design of one angle alone."""
    kept = {name: getattr(made.design, name)[[angle]] for name in ("matrix", "constant", "precision")}
    return replace(made.design, members=np.zeros((1, 1), dtype=int), **kept)


@pytest.mark.parametrize("name", ["averaged", "individual"])
def test_a_batch_of_sums_is_projected_like_each_of_them(name):
    made = problem(name, True)
    points = [point(), point() + 0.05, point() - 0.2]
    sums = [made.source.sums(made.model, u, 0) for u in points]
    batch = PairSums(**{k: np.stack([getattr(s, k) for s in sums]) for k in ("w", "y", "yy", "h", "hh", "hy")})
    np.testing.assert_allclose(project(batch, made.design).chi2, [project(s, made.design).chi2 for s in sums], rtol=1e-13)
