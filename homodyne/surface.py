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
from .limits import logarithms
from .mode.base import Model
from .optimizer.trust_region import Objective, Solver, Tolerances, minimise
from .problem import Evaluation, Information, invert

SETTLED = 1e-3
"""What chi2 may still fall with the quantities held, in units of its rise."""
LEVEL = 0.02
"""Share of the rise by which a level may be missed; ends are corrected for it."""
STRIDE = 0.5
"""Longest step in typical uncertainties of the coordinates: farther, nothing is known of chi2."""
PATIENCE = 6
"""Steps after which a point that is not settled is looked for by value, with a library's solver: where a coordinate hardly shapes the
maps (an exponent of a rate that is nearly constant), the Gauss-Newton matrix says little of the way."""
RAISED = 8.0
"""Of the logarithm of a rate at its lower limit, where chi2 no longer feels it: also tried as a start."""
SHAPES = (-1.5, 1.5)
NEAR_LIMIT = 0.1
"""Exponents to start from where one is this close to its limit."""
MOST_VALUES = 5
"""Values that are tried then."""
STIFFNESS = 50.0
"""To hold a quantity: a rise for each part 1/STIFFNESS of its distance from the estimate."""
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
    solver: Solver
    tolerances: Tolerances
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
        while passes < PATIENCE:
            step, fall = self._step(point, weights, target(point))
            unit = max(self.variance, point.chi2 - self.evaluation.chi2)
            ended = float(np.max(np.abs(step) / self.problem.model.spread, initial=0.0)) < 1e-6
            if passes and fall < SETTLED * unit and (ended or abs(point.chi2 - target(point)) < LEVEL * unit):
                if self._loose(point.u).any():
                    # An exponent at its limit shapes little: another one may do better.
                    break
                return replace(point, chi2=point.chi2 - fall, passes=passes)
            # Where the quantities bend much, whole steps go to and fro.
            following = self._go(chosen, point, step if passes < PATIENCE // 2 else 0.5 * step)
            passes += 1
            if following is None:
                return None if passes == 1 else replace(point, passes=passes)
            point = following
        # Beyond infinity a value says nothing of the way.
        return replace(point, passes=passes) if point.beyond.any() else self._by_value(chosen, target, point, passes)

    def _by_value(self, chosen: Sequence[Quantity], target: Callable[[Point], float], point: Point, passes: int) -> Point:
        """The point of the profile at a level, on the ray of the quantities from the estimate."""
        centre, value = self.origin(chosen).value, point.value
        for _ in range(MOST_VALUES):
            point, more = self._polish(chosen, value, point)
            passes += more
            rise, wanted = point.chi2 - self.evaluation.chi2, target(point) - self.evaluation.chi2
            if abs(rise - wanted) < LEVEL * max(self.variance, rise) or not rise > 0:
                break
            # The root of the rise goes as the distance, to first order.
            value = centre + (point.value - centre) * float(np.clip(np.sqrt(wanted / rise), 0.5, 2.0))
        return replace(point, passes=passes)

    def shifted(self, chosen: Sequence[Quantity], change: np.ndarray, start: Point) -> Point | None:
        """The lowest chi2 where the quantities have changed by ``change`` (m,), by one step; None when the model is not finite there."""

        def solve(push: np.ndarray, inverse: np.ndarray, slope: np.ndarray, base: float, held: np.ndarray) -> np.ndarray:
            response = slope @ inverse
            inner = invert(response @ slope.T).matrix
            return -(inverse - response.T @ inner @ response) @ push + response.T @ inner @ (change - held)

        return self._go(chosen, start, self._bounded(start, solve))

    def slope_of_rise(self, point: Point) -> np.ndarray:
        """(m,) d chi2/d value of the quantities along the profile."""
        inverse = invert(point.hessian).matrix
        response = point.slope @ inverse
        return 2 * invert(response @ point.slope.T).matrix @ response @ point.gradient

    def _step(self, point: Point, weights: np.ndarray, target: float) -> tuple[np.ndarray, float]:
        """Step (p,) to the extreme, and what chi2 can still fall with the quantities held."""
        falls = [0.0]

        def solve(push: np.ndarray, inverse: np.ndarray, slope: np.ndarray, base: float, held: np.ndarray) -> np.ndarray:
            response = slope @ inverse
            blocked = response.T @ invert(response @ slope.T).matrix @ response
            falls[0] = max(float(push @ (inverse - blocked) @ push), 0.0)
            norm = np.sqrt(np.maximum(np.einsum("mp,mp->m", response, slope), 0.0))
            pull = (weights / np.where(norm > 0, norm, np.inf)) @ slope
            back, along = -inverse @ push, inverse @ pull
            room, length = max(target - float(base + push @ back), 0.0), float(pull @ along)
            return back + (np.sqrt(room / length) * along if length > 0 else 0.0)

        return self._bounded(point, solve), falls[0]

    def _bounded(self, point: Point, solve: Callable[..., np.ndarray]) -> np.ndarray:
        """A step (p,) within the limits of the model; coordinates that would leave are held at them, the others are solved for again.

        solve: (gradient, inverse Gauss-Newton matrix, slope of the quantities, chi2, change of the quantities) of the held part and the
        free coordinates to the step of those.
        """
        model, gradient, hessian = self.problem.model, point.gradient, point.hessian
        margin = AT_LIMIT * np.minimum(model.upper - model.lower, 10.0)
        least = np.where(point.u - model.lower < margin, 0.0, model.lower - point.u)
        most = np.where(model.upper - point.u < margin, 0.0, model.upper - point.u)
        step, held, whole = np.zeros(len(point.u)), np.zeros(len(point.u), dtype=bool), np.nan_to_num(point.slope)
        while not held.all():
            free = ~held
            base = point.chi2 + 2 * gradient[held] @ step[held] + step[held] @ hessian[np.ix_(held, held)] @ step[held]
            push = gradient[free] + hessian[np.ix_(free, held)] @ step[held]
            inverse = invert(hessian[np.ix_(free, free)]).matrix
            step[free] = solve(push, inverse, whole[:, free], float(base), whole[:, held] @ step[held])
            outward = free & ((step < least) | (step > most))
            if not outward.any():
                break
            held |= outward
            step[held] = np.clip(step[held], least[held], most[held])
        return step

    def _polish(self, chosen: Sequence[Quantity], target: np.ndarray, point: Point) -> tuple[Point, int]:
        """The lowest chi2 for values of the quantities close to the target, and the passes it took."""
        unit = max(self.variance, point.chi2 - self.evaluation.chi2)
        away = np.maximum(np.abs(target - self.origin(chosen).value), 1e-12 * np.abs(target))
        stiffness = np.diag(unit * (STIFFNESS / np.where(away > 0, away, 1.0)) ** 2)
        limits = replace(self.tolerances, ftol=max(self.tolerances.ftol, 0.1 * SETTLED * unit / point.chi2))
        pulled = Pulled(self.problem, chosen, target, stiffness)
        fits = [minimise(pulled, u, limits, solver=self.solver, observer=lambda *_: self.interrupted()) for u in self._starts(point.u)]
        locals_ = [fit for fit in fits if fit is not None]
        if not locals_:
            return point, 0
        found, passes = min(locals_, key=lambda fit: fit.evaluation.chi2).evaluation, sum(fit.passes for fit in locals_)
        value, slope = _values(self.problem.model, chosen, found.u)
        short = value - target
        chi2, gradient = found.chi2 - float(short @ stiffness @ short), found.gradient - slope.T @ stiffness @ short
        hessian = found.hessian - slope.T @ stiffness @ slope
        return Point(found.u, value, slope, chi2, gradient, hessian, passes, point.beyond), passes

    def _starts(self, u: np.ndarray) -> list[np.ndarray]:
        """The point itself; where rates stand at their lower limit one with them raised, where exponents do others of other shape."""
        model = self.problem.model
        if self._loose(u).any():
            return [u, *model.variants(u, SHAPES, self._loose(u))]
        rates = np.isin(model.coordinates, logarithms(model)) if model.laws else np.zeros(len(u), dtype=bool)
        lowest = rates & (u - model.lower < 1.0)
        return [u, np.where(lowest, u + RAISED, u)] if lowest.any() else [u]

    def _loose(self, u: np.ndarray) -> np.ndarray:
        """(p,) exponents at their limits."""
        model = self.problem.model
        if not model.laws:
            return np.zeros(len(u), dtype=bool)
        return model.exponents() & ((u - model.lower < NEAR_LIMIT) | (model.upper - u < NEAR_LIMIT))

    def ends(self, point: Point) -> bool:
        """Whether a coordinate of a point stands at its limit."""
        model = self.problem.model
        margin = 1e-3 * np.minimum(model.upper - model.lower, 10.0)
        return bool(np.any((point.u - model.lower < margin) | (model.upper - point.u < margin)))

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
        bread = self.information.inverse.matrix[np.ix_(free, free)]
        if not unknown.any():
            covariance = slope @ self.covariance @ slope.T
            if np.all(np.diagonal(covariance) > 0):
                if free.all():
                    return covariance
                # The noise option holds what is at a limit, the profile does not: only the ratio to the curvature goes over.
                conditional = slope[:, free] @ bread @ slope[:, free].T
                ratio = np.sqrt(np.diagonal(covariance) / np.diagonal(conditional))
                return np.outer(ratio, ratio) * np.nan_to_num(origin.spread)
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


@dataclass(frozen=True)
class Pulled:
    """An objective whose quantities are pulled towards a target (m,) with a stiffness (m, m).

    Whatever the stiffness, its minimum is the lowest chi2 for its own values of the quantities.
    """

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
