"""One local fit: a library's trust-region solver on the compressed residual.

With H = R'R the projected Gauss-Newton matrix and R'z = g the gradient of chi2/2, the residual (z, sqrt(chi2 - z'z)) of p + 1 numbers
with Jacobian (R; 0) has the same cost, gradient and Gauss-Newton matrix as the residual of all pixels, so any solver for small
least-squares problems solves the large one. One pass over the pixels per trial point.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy.optimize import least_squares

from ..mode.base import Model
from ..problem import Evaluation

Solver = Literal["scipy", "nlsq"]
STATUS_MAX_PASSES = 0


@dataclass(frozen=True)
class Tolerances:
    """When a local fit stops: relative decrease of chi2, relative step, scaled gradient, and a limit on passes."""

    ftol: float
    xtol: float
    gtol: float
    max_passes: int


@dataclass(frozen=True)
class Local:
    """A local minimum."""

    evaluation: Evaluation
    converged: bool
    passes: int


class Objective(Protocol):
    """What is minimised: a Problem, or one with a term added."""

    @property
    def model(self) -> Model:
        """Its coordinates, their limits and their domain."""
        ...

    def evaluate(self, u: np.ndarray) -> Evaluation:
        """chi2 and its derivatives at u (p,)."""
        ...


StepObserver = Callable[[Evaluation, float, int], None]
"""Called after every accepted step with the new evaluation, the length of the step and the passes made so far."""


def compress(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Residual (p + 1,) and Jacobian (p + 1, p). Directions without information are left out, which cannot fail."""
    hessian, gradient = evaluation.hessian, evaluation.gradient
    diagonal = np.diagonal(hessian)
    scale = np.where(diagonal > 0, np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 1.0)
    values, vectors = np.linalg.eigh(hessian / np.outer(scale, scale))
    kept = values > 1e-13 * max(values[-1], np.finfo(float).tiny)
    root = np.sqrt(np.where(kept, values, 0.0))[:, None] * vectors.T * scale
    z = np.where(kept, vectors.T @ (gradient / scale) / np.sqrt(np.where(kept, values, 1.0)), 0.0)
    rest = np.sqrt(max(evaluation.chi2 - float(z @ z), 0.0))
    return np.append(z, rest), np.vstack([root, np.zeros(len(gradient))])


class _Memory:
    """Evaluations by point, so that residual and Jacobian of one point share one pass."""

    def __init__(self, problem: Objective, observer: StepObserver | None) -> None:
        self.problem, self.observer = problem, observer
        self.passes = 0
        self.best: Evaluation | None = None
        self.last: Evaluation | None = None

    def at(self, u: np.ndarray) -> Evaluation | None:
        u = np.array(u, dtype=np.float64)
        if self.last is not None and np.array_equal(u, self.last.u):
            return self.last
        if not self.problem.model.allowed(u):
            return None
        evaluation = self.problem.evaluate(u)
        self.passes += 1
        if not evaluation.finite:
            return None
        self.last = evaluation
        if self.best is None or evaluation.chi2 < self.best.chi2:
            if self.observer is not None:
                step = 0.0 if self.best is None else float(np.linalg.norm(u - self.best.u))
                self.observer(evaluation, step, self.passes)
            self.best = evaluation
        return evaluation

    def residual(self, u: np.ndarray) -> np.ndarray:
        evaluation = self.at(u)
        return np.full(len(u) + 1, np.inf) if evaluation is None else compress(evaluation)[0]

    def jacobian(self, u: np.ndarray) -> np.ndarray:
        evaluation = self.at(u)
        assert evaluation is not None, "solvers ask for the Jacobian of accepted points only"
        return compress(evaluation)[1]


def minimise(
    problem: Objective, start: np.ndarray, tolerances: Tolerances, *, solver: Solver = "scipy", observer: StepObserver | None = None
) -> Local | None:
    """Minimise chi2 from ``start`` (p,) within the model's box; None when the model is not finite there."""
    lower, upper = problem.model.lower, problem.model.upper
    margin = np.where(np.isfinite(upper - lower), 1e-6 * (upper - lower), 0.0)
    start = np.clip(start, lower + margin, upper - margin)
    memory = _Memory(problem, observer)
    if memory.at(start) is None:
        return None
    if len(start) == 0:
        assert memory.best is not None
        return Local(memory.best, True, memory.passes)
    solve = _solve_scipy if solver == "scipy" else _solve_nlsq
    converged = solve(memory, start, (lower, upper), tolerances)
    assert memory.best is not None
    return Local(memory.best, converged, memory.passes)


def _solve_scipy(memory: _Memory, start: np.ndarray, bounds, tolerances: Tolerances) -> bool:
    result = least_squares(
        memory.residual,
        start,
        jac=memory.jacobian,
        bounds=bounds,
        method="trf",
        x_scale="jac",
        ftol=max(tolerances.ftol, 3e-16),
        xtol=max(tolerances.xtol, 3e-16),
        gtol=max(tolerances.gtol, 3e-16),
        max_nfev=tolerances.max_passes,
    )
    return bool(result.status != STATUS_MAX_PASSES)


def _solve_nlsq(memory: _Memory, start: np.ndarray, bounds, tolerances: Tolerances) -> bool:
    # Imported here: the package takes seconds to load and only this choice needs it.
    import jax
    import jax.numpy as jnp
    from nlsq import LeastSquares

    # It reports every iteration itself; our own lines say the same.
    logging.getLogger("nlsq").setLevel(logging.WARNING)

    size = len(start)
    shapes = (jax.ShapeDtypeStruct((size + 1,), np.float64), jax.ShapeDtypeStruct((size + 1, size), np.float64))

    def residual(u: jax.Array) -> jax.Array:
        return jax.pure_callback(lambda v: memory.residual(np.asarray(v)), shapes[0], u)

    def jacobian(u: jax.Array) -> jax.Array:
        return jax.pure_callback(lambda v: memory.jacobian(np.asarray(v)), shapes[1], u)

    result = LeastSquares().least_squares(
        residual,
        jnp.asarray(start),
        jac=jacobian,
        bounds=bounds,
        method="trf",
        x_scale="jac",
        ftol=max(tolerances.ftol, 3e-16),
        xtol=max(tolerances.xtol, 3e-16),
        gtol=max(tolerances.gtol, 3e-16),
        max_nfev=tolerances.max_passes,
    )
    return bool(result["status"] != STATUS_MAX_PASSES)
