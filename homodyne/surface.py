"""chi2 around its minimum: how far one or two quantities can go before it has risen to a given level.

The end of a profile-likelihood interval of theta(u) at a level T is the extreme of theta on {chi2 <= T}: there the gradients of theta and
of chi2 are parallel. With g, H the gradient and Gauss-Newton matrix of chi2/2 and s the gradient of theta at a point, the step

    d = -H^-1 g + mu H^-1 s,      mu = sqrt((T - chi2 + g' H^-1 g)/(s' H^-1 s))

goes there for a parabola and a linear theta, and a few of them for anything else: one pass over the pixels each. Only the direction of s
counts, so a quantity may be infinite on the way (an amplitude at exponent 0): the walk is in the coordinates of the solver. Of two
quantities, the extremes of all their combinations make the edge of their region.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from .identifiability import values_and_jacobians
from .mode.base import Model
from .optimizer.trust_region import Objective
from .problem import Evaluation, Information, invert

SETTLED = 1e-3
"""What chi2 may still fall with the quantities held, in units of its rise."""
LEVEL = 0.02
"""Share of the rise by which a level may be missed; ends are corrected for it."""
STRIDE = 0.5
"""Longest step in typical uncertainties of the coordinates: farther, nothing is known of chi2."""
MOST_PASSES = 12
"""For one point."""
AT_LIMIT = 1e-5
"""Distance from a limit, in units of the range or of 10, from which a coordinate is held there."""


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
    """A point on the way: value (m,) of the quantities, their slope (m, p), chi2, gradient (p,) of chi2/2 and hessian (p, p)."""

    u: np.ndarray
    value: np.ndarray
    slope: np.ndarray
    chi2: float
    gradient: np.ndarray
    hessian: np.ndarray
    passes: int
    beyond: np.ndarray
    """(m,) whether the quantity has passed through infinity on the way."""

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
    interrupted: Callable[[], None]

    def origin(self, chosen: Sequence[Quantity]) -> Point:
        """The minimum."""
        best, values = self.evaluation, _values(self.problem.model, chosen, self.evaluation.u)
        return Point(best.u, *values, best.chi2, best.gradient, best.hessian, 0, np.zeros(len(chosen), dtype=bool))

    def extreme(self, chosen: Sequence[Quantity], weights: np.ndarray, target: Callable[[Point], float], start: Point) -> Point | None:
        """The extreme of a combination of quantities at a level of chi2; None when nothing there is finite.

        Args:
            weights: (m,) of the gradients of the quantities, each in units of the spread that the curvature of chi2 gives it.
            target: the level, from a point near to it. start: a known point, best one on the way.

        Returns:
            The point; where limits of the model end the way before the level, the last one.
        """
        point, passes = start, 0
        while passes < MOST_PASSES:
            step, fall = self._step(point, weights, target(point))
            unit = max(self.variance, point.chi2 - self.evaluation.chi2)
            ended = float(np.max(np.abs(step) / self.problem.model.spread, initial=0.0)) < 1e-6
            if passes and fall < SETTLED * unit and (ended or abs(point.chi2 - target(point)) < LEVEL * unit):
                break
            # Where the quantities bend much, full steps may go to and fro.
            following = self._go(chosen, point, step if passes < 4 else 0.5 * step)
            passes += 1
            if following is None:
                if passes == 1:
                    return None
                break
            point = following
        # Held where they are, the quantities leave chi2 this much to fall.
        return replace(point, chi2=point.chi2 - self._step(point, weights, target(point))[1], passes=passes)

    def _step(self, point: Point, weights: np.ndarray, target: float) -> tuple[np.ndarray, float]:
        """Step (p,) to the extreme, and what chi2 can still fall with the quantities held."""
        model, gradient, hessian = self.problem.model, point.gradient, point.hessian
        margin = AT_LIMIT * np.minimum(model.upper - model.lower, 10.0)
        at_lower, at_upper = point.u - model.lower < margin, model.upper - point.u < margin
        step, held, falls = np.zeros(len(point.u)), np.zeros(len(point.u), dtype=bool), 0.0
        while not held.all():
            free = ~held
            inverse = invert(hessian[np.ix_(free, free)]).matrix
            push = gradient[free] + hessian[np.ix_(free, held)] @ step[held]
            slope = np.nan_to_num(point.slope[:, free])
            norm = np.sqrt(np.maximum(np.einsum("mp,pq,mq->m", slope, inverse, slope), 0.0))
            pull = (weights / np.where(norm > 0, norm, np.inf)) @ slope
            back, along = -inverse @ push, inverse @ pull
            base = point.chi2 + 2 * gradient[held] @ step[held] + step[held] @ hessian[np.ix_(held, held)] @ step[held]
            room, length = max(target - float(base + push @ back), 0.0), float(pull @ along)
            step[free] = back + (np.sqrt(room / length) * along if length > 0 else 0.0)
            falls = self._fall(push, inverse, slope)
            beyond = (point.u + step < model.lower) | (point.u + step > model.upper)
            outward = free & (beyond | (at_lower & (step < 0)) | (at_upper & (step > 0)))
            if not outward.any():
                break
            held |= outward
            step[held] = np.clip(step[held], np.where(at_lower, 0.0, model.lower - point.u)[held], (model.upper - point.u)[held])
            step[held] = np.minimum(step[held], np.where(at_upper, 0.0, np.inf)[held])
        return step, falls

    @staticmethod
    def _fall(push: np.ndarray, inverse: np.ndarray, slope: np.ndarray) -> float:
        """How much chi2 can fall along directions that leave the quantities alone."""
        response = slope @ inverse
        blocked = response.T @ np.linalg.pinv(response @ slope.T, rcond=1e-12, hermitian=True) @ response
        return max(float(push @ (inverse - blocked) @ push), 0.0)

    def _go(self, chosen: Sequence[Quantity], start: Point, step: np.ndarray) -> Point | None:
        """The point one step away, or less where the way is too long or the model not finite."""
        model = self.problem.model
        share = min(1.0, STRIDE / max(float(np.max(np.abs(step) / model.spread, initial=0.0)), 1e-300))
        for _ in range(6):
            self.interrupted()
            u = start.u + share * step
            if model.allowed(u):
                found = self.problem.evaluate(u)
                value, slope = _values(model, chosen, u)
                if found.finite and np.isfinite(slope).all():
                    # It rises at both ends of the step and is lower after it: between them it was infinite.
                    rise = np.sign(start.slope @ (u - start.u))
                    through = (rise == np.sign(slope @ (u - start.u))) & (rise * (value - start.value) < 0)
                    return Point(found.u, value, slope, found.chi2, found.gradient, found.hessian, 1, start.beyond ^ through)
            share *= 0.3
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

    def force(self, point: Point) -> float:
        """d chi2/d value along the profile of one quantity: its gradient is that many times the quantity's, limits of the box apart."""
        model, slope = self.problem.model, point.slope[0]
        margin = AT_LIMIT * np.minimum(model.upper - model.lower, 10.0)
        free = (point.u - model.lower > margin) & (model.upper - point.u > margin)
        free = free if slope[free].any() else np.ones_like(free)
        weighted = slope[free] @ invert(point.hessian[np.ix_(free, free)]).matrix
        return 2 * float(weighted @ point.gradient[free]) / float(weighted @ slope[free])


def _values(model: Model, chosen: Sequence[Quantity], u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m,) values and (m, p) derivatives."""
    results = jax.tree.map(np.asarray, values_and_jacobians(model, u))
    found = [quantity.at(results) for quantity in chosen]
    return np.array([value for value, _ in found]), np.array([slope for _, slope in found])
