"""From candidates to an answer: what every optimizer does once it has start points.

An optimizer only says where its candidates come from. The rest is common: polish each distinct one on all pixels, check the other
side of badly determined exponents, respect hard bounds, reweight for a robust loss, resolve symmetries.
"""

import logging
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ..mode.base import AbstractMode
from ..pairsums import WeightedLoss
from ..problem import CellSource, Evaluation, PixelSource, Problem, invert, user_parameters
from ..results import Minimum, Outcome
from ..settings import Option
from .loss import LOSSES, efficiency, median_scale
from .progress import FitInterrupted, Progress, State
from .search import Found, Search, distinct, merge
from .trust_region import Local, Solver, Tolerances, minimise

log = logging.getLogger("homodyne")

UNRESOLVED_EXPONENT = 0.3
ALIASED_PHASE = 2.0
"""rad between neighbouring frames above which a flow has aliases worth a second search."""
ALIKE_CONTRAST, ALIKE_OFFSET = 0.1, 0.005
"""Spread between angles by which solutions are compared: contrast as a fraction of its mean, offset absolute."""
UNLIKE = 0.3
"""Smallest over largest contrast of the angles below which a flow is doubted: a wrong one leaves angles to which it cannot give signal."""
COMPARED_PASSES = 15
"""Passes that a comparison at equal prior may cost for each minimum."""
NEAR, ALIASES = 30.0, 4
"""Rise of chi2 on cells within which aliases are fitted on all pixels, and the largest number of those."""


@dataclass(frozen=True)
class Task:
    """Everything an optimizer may use.

    Attributes:
        problem: on all pixels. fine, coarse: on cells of (lag, age) and of lag (cells.py).
        mode: for the user's start values and bounds. seed: of every random choice. threads: to use at the same time.
    """

    problem: Problem
    fine: Problem
    coarse: Problem
    mode: AbstractMode
    seed: int
    threads: int
    progress: Progress
    state: State

    @property
    def pixel_variance(self) -> float:
        """Noise variance of one pixel, estimated without a model."""
        source = self.fine.source
        assert isinstance(source, CellSource)
        return source.cells.pixel_variance

    @property
    def user_start(self) -> np.ndarray | None:
        """The user's start in solver coordinates, None when it is not complete."""
        start = self.mode.start()
        return None if start is None else self.problem.model.coordinates_of(start)


@dataclass(frozen=True)
class Alternative:
    """Another minimum of the same fit.

    Attributes:
        u: (p,). rise: chi2 above the chosen minimum. alike: the same with the prior that contrasts and offsets are alike; NaN where
            minima were not compared by it. Both in the units of the data.
    """

    u: np.ndarray
    rise: float
    alike: float


@dataclass(frozen=True)
class Solution:
    """A finished fit.

    Attributes:
        problem: as solved, with robust weights if any. scale: of the robust loss, NaN for linear.
        efficiency: mean robust weight over mean derivative of the score; multiplies the inverse Gauss-Newton matrix (1 for linear).
        minima: distinct local minima met, best first; alternatives: all but the chosen one; found: how the search ended, by name.
    """

    problem: Problem
    evaluation: Evaluation
    outcome: Outcome
    passes: int
    minima: tuple[Minimum, ...]
    found: dict[str, float]
    statements: tuple[str, ...]
    score_variance: float
    """Mean square of the weighted residual over mean weight; the residual variance for least squares."""
    scale: float = float("nan")
    efficiency: float = 1.0
    alternatives: tuple[Alternative, ...] = ()


class AbstractOptimizer(Option):
    """Settings that every optimizer has.

    Attributes:
        solver: library that makes the steps, ``scipy`` or ``nlsq``. start: ``search``, or ``config`` for the user's start alone.
        loss: of a residual in units of loss_scale. loss_scale: null for 1.4826 times the median absolute residual.
        shape_check: refit with other exponents where the data hardly determine them.
        polish: largest number of candidates fitted on all pixels.
        max_passes, xtol, ftol, gtol: limits of one local fit on all pixels.
    """

    solver: Solver
    start: Literal["search", "config"]
    loss: Literal["linear", "soft_l1", "huber", "cauchy"]
    loss_scale: Annotated[float, Field(gt=0)] | None
    shape_check: bool
    polish: Annotated[int, Field(ge=1)]
    max_passes: Annotated[int, Field(ge=1)]
    xtol: Annotated[float, Field(gt=0)]
    ftol: Annotated[float, Field(gt=0)]
    gtol: Annotated[float, Field(gt=0)]

    @abstractmethod
    def candidates(self, task: Task) -> tuple[list[Found], dict[str, float]]:
        """Start points for the final fits, best first, and numbers that describe the search."""

    def fit(self, task: Task) -> Solution:
        """Minimise on all pixels from every candidate worth it. An interrupted fit returns its best state so far."""
        run = _Run(self, task)
        try:
            return run.solve()
        except FitInterrupted:
            return run.interrupted()

    def tolerances(self, pairs: float) -> Tolerances:
        """Limits of a fit on all pixels; ftol is relative to a chi2 that grows with the number of pairs."""
        return Tolerances(min(self.ftol, 1e-3 / max(pairs, 1.0)), self.xtol, self.gtol, self.max_passes)


class _Run:
    """One fit in progress: the mutable half of AbstractOptimizer.fit."""

    def __init__(self, optimizer: AbstractOptimizer, task: Task) -> None:
        self.optimizer, self.task = optimizer, task
        source = task.problem.source
        assert isinstance(source, PixelSource)
        self.source = source
        self.tolerances = optimizer.tolerances(float(source.dataset.pairs.sum()))
        self.problem = task.problem
        self.locals: list[Local] = []
        self.alike: list[float] = []
        self.found: dict[str, float] = dict(task.state.found)
        self.passes = 0
        self.running = 0

    def solve(self) -> Solution:
        for candidate in self.start_points():
            self.polish(np.array(candidate), "polish")
        if not self.locals:
            return self.not_finite()
        if self.optimizer.shape_check:
            self.check_shapes()
        if self.optimizer.start == "search":
            self.check_mirrors()
            self.check_aliases()
        statements = self.respect_bounds()
        robust = {} if self.optimizer.loss == "linear" else self.reweight()
        best = self.best
        outcome = Outcome.CONVERGED if best.converged else Outcome.MAX_PASSES
        return self.solution(best.evaluation, outcome, statements, **robust)

    def start_points(self) -> list[list[float]]:
        state = self.task.state
        if state.candidates is None:
            if self.optimizer.start == "config":
                user = self.task.user_start
                assert user is not None, "config.build refuses start: config without start values"
                state.candidates = [user.tolist()]
            else:
                candidates, self.found = self.optimizer.candidates(self.task)
                window = 15.0
                chosen = distinct(candidates, self.problem.model, self.optimizer.polish, window)
                state.candidates, state.found = [candidate.u.tolist() for candidate in chosen], self.found
            self.task.progress.save()
            self.task.progress.check()
        return state.candidates

    def polish(self, start: np.ndarray, stage: str) -> None:
        """One fit on all pixels, restored from the checkpoint where it was finished or begun before."""
        state, number = self.task.state, len(self.locals)
        if number < len(state.polished):
            u, _, converged, passes = state.polished[number]
            self.passes += passes
            self.locals.append(Local(self.problem.evaluate(np.array(u)), converged, passes))
            return
        if state.current is not None and number == len(state.polished):
            start = np.array(state.current)
        label = f"{self.problem.design.name} {stage} {number + 1}"
        local = self.minimise(start, label)
        if local is not None:
            self.locals.append(local)
            state.polished.append((local.evaluation.u.tolist(), local.evaluation.chi2, local.converged, local.passes))
        state.current = None
        self.task.progress.save()

    def minimise(self, start: np.ndarray, label: str) -> Local | None:
        progress, state = self.task.progress, self.task.state

        def observe(evaluation: Evaluation, step: float, passes: int) -> None:
            self.running = passes
            progress.stepped(label, evaluation, step, state)

        local = minimise(self.problem, start, self.tolerances, solver=self.optimizer.solver, observer=observe)
        if local is None:
            return None
        self.passes, self.running = self.passes + local.passes, 0
        canonical = self.problem.model.canonical(local.evaluation.u)
        return replace(local, evaluation=replace(local.evaluation, u=canonical))

    @property
    def best(self) -> Local:
        """Of the lowest chi2, at equal prior where minima were compared so."""
        compared = self.alike if len(self.alike) == len(self.locals) else [local.evaluation.chi2 for local in self.locals]
        return self.locals[int(np.argmin(compared))]

    def check_mirrors(self) -> None:
        """Fit the flows that two angles cannot tell from the best, where the cells do not exclude them."""
        best, fine = self.best.evaluation, self.task.fine
        signal = np.abs(best.contrast) * np.sqrt(np.maximum(best.decay, 0.0))
        mirrors = fine.model.mirrors(best.u, np.argsort(signal)[-4:].tolist())
        search = Search(fine, self.task.coarse, self.task.threads)
        if not mirrors:
            return
        chi2 = search.cost(fine, np.array([best.u, *mirrors]))
        window = 10.0 * max(1.0, chi2[0] / search.degrees)
        nearest = 1 + int(np.argmin(chi2[1:]))
        if chi2[nearest] < chi2[0] + window:
            self.polish(mirrors[nearest - 1], "mirror")

    def check_aliases(self) -> None:
        """Search again where frames hardly sample the flow, with contrasts that are alike, and choose by that prior."""
        model, best = self.problem.model, self.best.evaluation
        unlike = self.problem.design.count > 2 and best.contrast.min() < UNLIKE * best.contrast.max()
        if np.max(model.frame_phase(best.u)) < ALIASED_PHASE and not ("gamma_dot" in model.laws and unlike):
            return
        variance = best.chi2 / max(float(self.source.dataset.pairs.sum()), 1.0)
        contrast = float(np.average(best.contrast, weights=np.maximum(best.decay, 1e-9)))
        fine, coarse = (
            replace(part, model=part.model.faster(), design=part.design.alike(variance, ALIKE_CONTRAST * contrast, ALIKE_OFFSET))
            for part in (self.task.fine, self.task.coarse)
        )
        result = Search(fine, coarse, self.task.threads).run(np.random.default_rng(self.task.seed), best.u)
        for candidate in distinct(list(result.minima), model, ALIASES, NEAR * max(1.0, result.minima[0].chi2 / self.degrees(fine))):
            self.polish(candidate.u, "alias")
        if self.problem.design.drift:
            return
        alike = replace(self.problem, design=self.problem.design.alike(variance, ALIKE_CONTRAST * contrast, ALIKE_OFFSET))
        self.alike = [self.compared(alike, local.evaluation.u) for local in self.locals]

    def compared(self, alike: Problem, u: np.ndarray) -> float:
        """chi2 of the minimum near u with contrasts that are alike."""
        local = minimise(alike, u, replace(self.tolerances, ftol=1e-6, max_passes=COMPARED_PASSES), solver=self.optimizer.solver)
        self.passes += 0 if local is None else local.passes
        return float("inf") if local is None else local.evaluation.chi2

    @staticmethod
    def degrees(problem: Problem) -> int:
        source = problem.source
        assert isinstance(source, CellSource)
        return max(source.cells.used - len(problem.model.coordinates) - problem.design.count, 1)

    def check_shapes(self) -> None:
        """Refit from the other side of every exponent that the data hardly determine; keep the lowest."""
        model, best = self.problem.model, self.best.evaluation
        variance = best.chi2 / max(float(self.source.dataset.pairs.sum()), 1.0)
        inverse = invert(best.hessian)
        error = np.sqrt(np.maximum(np.diagonal(inverse.matrix) * variance, 0.0))
        near_bound = (best.u - model.lower < 0.1) | (model.upper - best.u < 0.1)
        loose = model.exponents() & ((error > UNRESOLVED_EXPONENT) | inverse.unknown(np.eye(len(error))) | near_bound)
        for restart in model.variants(best.u, (-1.5, 1.5), loose):
            self.polish(restart, "shape check")

    def respect_bounds(self) -> tuple[str, ...]:
        """Refit in the user's own parameters when the answer violates their bounds on an amplitude or offset."""
        parameters = self.named(self.best.evaluation.u)
        bounds = {name: settings.limits for name, settings in self.task.mode.parameters.items()}
        bounded = self.problem.model.hard_bounds(parameters, bounds)
        if bounded is None:
            return ()
        violated = [name for name, value in parameters.items() if not bounds[name][0] <= value <= bounds[name][1]]
        free, self.problem = self.problem, self.problem.with_model(bounded)
        clipped = {name: float(np.clip(value, *bounds[name])) for name, value in parameters.items()}
        local = self.minimise(bounded.coordinates_of(clipped), f"{self.problem.design.name} bounds")
        if local is None:
            self.problem = free
            return (f"bounds not respected: those of {', '.join(violated)} exclude every model with positive rates near the best fit",)
        self.locals = [local]
        return (f"without its bounds {', '.join(violated)} would be {', '.join(f'{parameters[name]:.4g}' for name in violated)}",)

    def reweight(self) -> dict[str, float]:
        """Iterated reweighting: fit, weigh by the residuals, repeat until the parameters stand still."""
        loss = LOSSES[self.optimizer.loss]
        fit, pairs = self.best.evaluation, float(self.source.dataset.pairs.sum())
        scale = self.optimizer.loss_scale or median_scale(self.residuals(fit), float(np.sqrt(fit.chi2 / pairs)))
        for repeat in range(50):
            self.problem = replace(self.problem, source=self.source.reweighted(self.problem.model, fit, WeightedLoss(loss.weight, scale)))
            local = self.minimise(fit.u, f"{self.problem.design.name} {self.optimizer.loss} {repeat + 1}")
            assert local is not None
            step = local.evaluation.u - fit.u
            fit, self.locals = local.evaluation, [local]
            # In units of the variance: a step of 1e-4 standard deviations.
            if step @ fit.hessian @ step < 1e-8 * fit.chi2 / pairs:
                break
        ratio, variance = efficiency(loss, self.residuals(fit), scale)
        return {"scale": scale, "efficiency": ratio, "score_variance": variance}

    def residuals(self, fit: Evaluation):
        """Residuals at a fit, as often as they are asked for."""
        return lambda: self.source.residuals(self.problem.model, fit)

    def named(self, u: np.ndarray) -> dict[str, float]:
        model = self.problem.model
        return dict(zip(model.names, np.asarray(user_parameters(model, u)).tolist(), strict=True))

    def solution(self, evaluation: Evaluation, outcome: Outcome, statements: tuple[str, ...] = (), **robust: float) -> Solution:
        minima: list[Found] = []
        for local in self.locals:
            chi2 = local.evaluation.chi2 / self.task.pixel_variance
            merge(minima, Found(local.evaluation.u, chi2), self.problem.model)
        named = tuple(Minimum(self.named(found.u), found.chi2, found.hits) for found in minima)
        numbers = {"score_variance": evaluation.chi2 / max(float(self.source.dataset.pairs.sum()), 1.0)} | robust
        passes = self.passes + self.running
        alternatives = self.alternatives(evaluation)
        return Solution(self.problem, evaluation, outcome, passes, named, self.found, statements, alternatives=alternatives, **numbers)

    def alternatives(self, chosen: Evaluation) -> tuple[Alternative, ...]:
        """The other minima, lowest first."""
        alike = self.alike if len(self.alike) == len(self.locals) else [float("nan")] * len(self.locals)
        base = min(alike, default=float("nan"))
        pairs = zip(self.locals, alike, strict=True)
        others = [Alternative(local.evaluation.u, local.evaluation.chi2 - chosen.chi2, value - base) for local, value in pairs]
        return tuple(sorted((other for other in others if not np.array_equal(other.u, chosen.u)), key=lambda other: other.rise))

    def interrupted(self) -> Solution:
        """The best state so far, or the start of the search when there is none."""
        state = self.task.state
        points = [local.evaluation.u for local in self.locals]
        points += [np.array(u) for u in ([state.current] if state.current is not None else [])]
        points += [np.array(u) for u in (state.candidates or [])[: 1 if not points else 0]]
        if not points:
            points = [self.any_start()]
        evaluations = [self.problem.evaluate(u) for u in points]
        best = min(evaluations, key=lambda evaluation: evaluation.chi2)
        return self.solution(best, Outcome.INTERRUPTED)

    def not_finite(self) -> Solution:
        return self.solution(self.problem.evaluate(self.any_start()), Outcome.NOT_FINITE)

    def any_start(self) -> np.ndarray:
        """The user's start, or a random one."""
        start = self.task.user_start
        return self.problem.model.starts(np.random.default_rng(self.task.seed), 1)[0] if start is None else start
