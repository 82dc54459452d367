"""chi2 around its minimum: the lowest value it can have when one or two quantities are given.

The lowest chi2 at a given value of a quantity theta(u) is found by pulling theta towards a target c,

    chi2(u) + (theta(u) - c) K (theta(u) - c)        K: 100 times the curvature of the profile itself

Whatever K is, the minimum of the sum is the lowest chi2 for its own theta: every point lies on the profile exactly, a percent of a step
before its target. So the coordinates of the solver stay what they are, rates can be profiled like parameters, and nothing is
compiled again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from .identifiability import values_and_jacobians
from .mode.base import Model
from .optimizer.trust_region import Local, Objective, Solver, Tolerances, minimise
from .problem import Evaluation, Information, invert

STIFFNESS = 100.0
STRIDE = 0.3


@dataclass(frozen=True)
class Quantity:
    """A user's parameter or a rate: where it is among ``values_and_jacobians``. logarithmic: stored as its logarithm."""

    name: str
    unit: str
    group: str
    curve: str
    index: int
    logarithmic: bool = False

    def at(self, results: dict) -> tuple[float, np.ndarray]:
        """Value and derivative (p,)."""
        found = results[self.group]
        values, slopes = (part[self.curve] for part in found) if self.curve else found
        value, slope = float(values[self.index]), np.asarray(slopes[self.index])
        return (float(np.exp(value)), np.exp(value) * slope) if self.logarithmic else (value, slope)


def quantities(model: Model, best: dict[str, int]) -> dict[str, Quantity]:
    """Everything that can be profiled, by name: user parameters, and of each rate law what ``Fit.rates`` holds.

    best: index of the best determined time of each curve.
    """
    found = [Quantity(name, unit, "parameters", "", k) for k, (name, unit) in enumerate(zip(model.names, model.units, strict=True))]
    for curve, law in model.laws.items():
        found += [Quantity(f"{curve}_best", law.unit, "log_rates", curve, best[curve], True)] if curve in best else []
        found += [Quantity(f"{curve}_ref", law.unit, "reference", curve, 0, True), Quantity(f"dln{curve}_dlnt", "1", "reference", curve, 1)]
    return {quantity.name: quantity for quantity in found}


@dataclass(frozen=True)
class Point:
    """A point of a profile: value (m,) of the quantities, their slope (m, p), chi2, gradient (p,) of chi2/2 and hessian (p, p)."""

    u: np.ndarray
    value: np.ndarray
    slope: np.ndarray
    chi2: float
    gradient: np.ndarray
    hessian: np.ndarray
    passes: int

    @property
    def spread(self) -> np.ndarray:
        """(m, m) variance of the quantities that the curvature of chi2 implies here."""
        return self.slope @ invert(self.hessian).matrix @ self.slope.T


@dataclass(frozen=True)
class Surface:
    """chi2 around its minimum, and what makes it a likelihood.

    Attributes:
        covariance: (p, p) of u by the noise option. variance: of a residual, the unit in which a rise is reported.
        interrupted: called at every step; may raise.
    """

    problem: Objective
    evaluation: Evaluation
    information: Information
    covariance: np.ndarray
    variance: float
    solver: Solver
    tolerances: Tolerances
    interrupted: Callable[[], None]

    def origin(self, chosen: Sequence[Quantity]) -> Point:
        """The minimum."""
        best = self.evaluation
        return Point(best.u, *_values(self.problem.model, chosen, best.u), best.chi2, best.gradient, best.hessian, 0)

    def seen(self, chosen: Sequence[Quantity], point: Point) -> Point:
        """A point with other quantities."""
        value, slope = _values(self.problem.model, chosen, point.u)
        return replace(point, value=value, slope=slope)

    def reach(self, chosen: Sequence[Quantity], target: np.ndarray, start: Point, unit: float) -> Point | None:
        """The lowest chi2 close to ``target`` (m,), from a known point; None when nothing there is finite.

        unit: of chi2 that counts as a rise. To stay at the start costs more than STIFFNESS of them.
        """
        response = invert(start.hessian).matrix @ start.slope.T
        spread, step = start.slope @ response, target - start.value
        if not (np.isfinite(spread).all() and np.linalg.eigvalsh(spread)[0] > 0):
            # Chi2 does not feel the quantities here.
            spread, response = np.diag(np.maximum(step**2, np.finfo(float).tiny)) / unit, np.zeros_like(response)
        inverse = np.linalg.inv(spread)
        far = float(step @ inverse @ step)
        if far < 1e-12 * unit:
            return start
        stiffness = STIFFNESS * (1 + unit / far) * inverse
        pulled = Pulled(self.problem, chosen, target, stiffness)
        for begin in (start.u + response @ inverse @ step, start.u):
            local = minimise(pulled, begin, self.tolerances, solver=self.solver, observer=self._observe)
            if local is not None:
                return self._point(chosen, target, stiffness, local)
        return None

    def calibration(self, origin: Point) -> np.ndarray:
        """(m, m) covariance of the quantities by the noise option.

        Where their slope is not defined or reaches what the data do not determine, the variance that chi2 implies times the largest
        factor of any combination of coordinates.
        """
        slope, free = origin.slope, ~self.information.held
        unknown = self.information.inverse.unknown(slope) | ~np.isfinite(slope).all(axis=1)
        if not unknown.any():
            covariance = slope @ self.covariance @ slope.T
            if np.all(np.diagonal(covariance) > 0):
                return covariance
        bread = self.information.inverse.matrix[np.ix_(free, free)]
        values, vectors = np.linalg.eigh(bread)
        root = vectors[:, values > 1e-12 * values[-1]] / np.sqrt(values[values > 1e-12 * values[-1]])
        factor = np.linalg.eigvalsh(root.T @ self.covariance[np.ix_(free, free)] @ root)[-1]
        return float(factor) * np.nan_to_num(origin.spread)

    def stride(self, point: Point) -> float:
        """Change of one quantity for which no coordinate moves by more than STRIDE of its spread: farther, nothing is known of chi2."""
        response = invert(point.hessian).matrix @ point.slope[0]
        along = float(point.slope[0] @ response)
        share = float(np.max(np.abs(response) / self.problem.model.spread)) if along > 0 else 0.0
        return STRIDE * along / share if share > 0 else float("inf")

    def _observe(self, evaluation: Evaluation, step: float, passes: int) -> None:
        del evaluation, step, passes
        self.interrupted()

    def _point(self, chosen: Sequence[Quantity], target: np.ndarray, stiffness: np.ndarray, local: Local) -> Point:
        found = local.evaluation
        value, slope = _values(self.problem.model, chosen, found.u)
        short = value - target
        chi2, gradient = found.chi2 - float(short @ stiffness @ short), found.gradient - slope.T @ stiffness @ short
        return Point(found.u, value, slope, chi2, gradient, found.hessian - slope.T @ stiffness @ slope, local.passes)

    def force(self, point: Point) -> float:
        """d chi2/d value along the profile of one quantity: its gradient is that many times the quantity's, limits of the box apart."""
        model, slope = self.problem.model, point.slope[0]
        margin = 1e-5 * np.minimum(model.upper - model.lower, 10.0)
        free = (point.u - model.lower > margin) & (model.upper - point.u > margin)
        free = free if slope[free].any() else np.ones_like(free)
        weighted = slope[free] @ invert(point.hessian[np.ix_(free, free)]).matrix
        return 2 * float(weighted @ point.gradient[free]) / float(weighted @ slope[free])


@dataclass(frozen=True)
class Pulled:
    """An objective whose quantities are pulled towards a target (m,) with a stiffness (m, m)."""

    problem: Objective
    chosen: Sequence[Quantity]
    target: np.ndarray
    stiffness: np.ndarray

    @property
    def model(self) -> Model:
        return self.problem.model

    def evaluate(self, u: np.ndarray) -> Evaluation:
        """chi2 and the pull."""
        found = self.problem.evaluate(u)
        value, slope = _values(self.model, self.chosen, found.u)
        short = value - self.target
        if not (found.finite and np.isfinite(slope).all()):
            return replace(found, chi2=np.inf)
        projection = replace(
            found.projection,
            gradient=found.gradient + slope.T @ self.stiffness @ short,
            hessian=found.hessian + slope.T @ self.stiffness @ slope,
        )
        return replace(found, chi2=found.chi2 + float(short @ self.stiffness @ short), projection=projection)


def _values(model: Model, chosen: Sequence[Quantity], u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m,) values and (m, p) derivatives."""
    results = jax.tree.map(np.asarray, values_and_jacobians(model, u))
    found = [quantity.at(results) for quantity in chosen]
    return np.array([value for value, _ in found]), np.array([slope for _, slope in found])
