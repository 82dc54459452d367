"""A minimum with everything that follows from it: errors, tests, verdict, what is identified. Each is worked out when first asked for."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import chdtrc

from .ambiguity import declare
from .data import Dataset
from .goodness import goodness, offset_test
from .identifiability import Identified, identify, log_rate_slopes
from .limits import reaches
from .noise.base import Minimised, Noise
from .optimizer.base import Solution
from .optimizer.loss import LOSSES
from .optimizer.trust_region import minimise
from .pairsums import WeightedLoss
from .problem import CellSource, Information, Problem, information, user_parameters
from .results import QUANTILE, Goodness, NoiseFacts, Outcome, Verdict
from .verdict import judge

if TYPE_CHECKING:
    from .config import Job

DOUBT = 0.05
"""ln of a rate known to better than this means a gain in chi2 above 100: no test needed."""
PRESENCE = 0.01
"""p-value above which a rate law is not needed."""


@dataclass(frozen=True)
class Fitted:
    """A minimum with one scaling, its information and its errors. cells: the same problem on averaged cells."""

    solution: Solution
    job: "Job"
    dataset: Dataset
    cells: Problem
    seconds: float

    @property
    def finished(self) -> bool:
        return self.solution.outcome is not Outcome.INTERRUPTED

    @property
    def problem(self) -> Problem:
        return self.solution.problem

    @cached_property
    def information(self) -> Information:
        return information(self.solution.evaluation, self.problem)

    @cached_property
    def minimum(self) -> Minimised:
        """What a noise option needs to know."""
        solution, name = self.solution, self.job.optimizer.loss
        loss = None if name == "linear" or not np.isfinite(solution.scale) else WeightedLoss(LOSSES[name].weight, solution.scale)
        return Minimised(
            problem=self.problem,
            evaluation=solution.evaluation,
            information=self.information,
            loss=loss,
            efficiency=solution.efficiency,
            score_variance=solution.score_variance,
            pairs=self.pairs,
            fitted=self.fitted,
        )

    @cached_property
    def noise(self) -> Noise:
        """Covariance of (u, coefficients) by the noise option."""
        return self.job.noise.covariance(self.minimum)

    @property
    def pairs(self) -> int:
        return int(self.dataset.pairs.sum())

    @property
    def fitted(self) -> int:
        """Number of fitted numbers, contrast and offset included."""
        return len(self.solution.evaluation.u) + self.problem.design.count

    @cached_property
    def reach(self) -> np.ndarray:
        """(h, q) changes of all fitted numbers when each coordinate at a limit goes back inward as far as the data allow."""
        if not self.information.held.any():
            return np.zeros((0, len(self.information.bread)))
        return reaches(self.problem, self.solution.evaluation, self.information, QUANTILE**2 * self.unit)

    @property
    def unit(self) -> float:
        """Rise of chi2 that counts as one: the residual variance times the inflation of errors by correlated pixels."""
        known = np.diagonal(self.minimum.independent) > 0
        ratio = np.diagonal(self.noise.covariance)[known] / np.diagonal(self.minimum.independent)[known]
        return self.solution.score_variance * max(1.0, float(np.median(ratio)) if known.any() and self.noise.known else 1.0)

    @cached_property
    def identified(self) -> Identified:
        """Numbers with their errors; without, where the fit cannot be meant."""
        size = self.information.size
        covariance, reach = self.noise.covariance[:size, :size], self.reach[:, :size]
        found = identify(self.problem.model, self.job.mode, self.u, covariance, self.information, self.absent, reach)
        found = declare(found, self.problem.model, self.u, self.contrast, self.solution.alternatives, self.unit)
        return found.withheld() if self.verdict.name == "failed" else found

    @property
    def u(self) -> np.ndarray:
        """(p,) the estimate: least squares, or what the noise option made of it."""
        return self.solution.evaluation.u if self.noise.moved is None else self.noise.moved.u

    @property
    def contrast(self) -> np.ndarray:
        """(P,) of the estimate."""
        return self.solution.evaluation.contrast if self.noise.moved is None else self.noise.moved.contrast

    @property
    def offset(self) -> np.ndarray:
        """(P,) of the estimate."""
        return self.solution.evaluation.offset if self.noise.moved is None else self.noise.moved.offset

    @property
    def drift(self) -> np.ndarray | None:
        """(P,) of the contrast, None when it is not fitted."""
        return self.solution.evaluation.drift

    @cached_property
    def goodness(self) -> Goodness | None:
        """Tests of the least-squares fit; None without noise to test it against."""
        if not self.finished or not self.noise.known:
            return None
        found = goodness(self.minimum, self.noise)
        if found is None:
            return None
        if not self.noise.testable:
            return found
        count = len(self.dataset.phi)
        weights = self.dataset.weights
        # Pixels that the correlator left unequal raise the offset: geometry, not static structure.
        expected = 1.0 if weights is None or not weights.known else weights.baseline
        offset = offset_test(self.offset, self.scaling_covariance[:count, :count], expected)
        return replace(found, tests=found.tests | {offset.name: offset})

    @cached_property
    def verdict(self) -> Verdict:
        """What all tests together say; whether the fit can be meant."""
        evaluation = self.solution.evaluation
        return judge(
            self.goodness,
            unexplained=self._unexplained(),
            at_bound=evaluation.projection.at_bound,
            scaled=self.problem.design.count > 0,
            offset=self.offset,
            dt=self.dataset.dt,
            phi=self.dataset.phi,
        )

    def _unexplained(self) -> float:
        """Share of the variance of the cells, noise apart, that the fit leaves; 0 where noise is all there is."""
        source = self.cells.source
        assert isinstance(source, CellSource)
        cells = source.cells
        noise = cells.pixel_variance * cells.used
        centre = np.sum(cells.weight * cells.mean, axis=1, keepdims=True) / np.maximum(cells.weight.sum(axis=1, keepdims=True), 1.0)
        structure = float(np.sum(cells.weight * (cells.mean - centre) ** 2)) - noise
        left = self.cells.evaluate(self.solution.evaluation.u, 0).chi2 - noise
        return max(left, 0.0) / structure if structure > 3 * noise / np.sqrt(cells.used / 2) else 0.0

    @property
    def noise_facts(self) -> NoiseFacts:
        """What the errors rest on."""
        noise, independent = self.noise, self.minimum.independent
        size, none = self.information.size, np.full(len(self.dataset.phi), np.nan)
        known = np.diagonal(independent) > 0
        ratio = np.sqrt(np.diagonal(noise.covariance)[known] / np.diagonal(independent)[known])
        inflation = np.full(len(independent), np.nan)
        inflation[known] = ratio
        counted, scatter = noise.counted, noise.scatter
        return NoiseFacts(
            pixels=none if counted is None or not (noise.known or counted.known.all()) else counted.counting.pixels,
            pixels_source="" if counted is None else counted.pixels_text,
            speckle_size=np.nan if counted is None else counted.counting.r,
            shot=none if counted is None else counted.counting.shot.mean(axis=1),
            shot_source="" if counted is None else counted.shot_text,
            scatter=np.nan if scatter is None or counted is None or not counted.known.all() else scatter.ratio,
            scatter_error=np.nan if scatter is None else scatter.error,
            independent_frames=np.nan if scatter is None else scatter.participation,
            effective_pairs=float(self.pairs / np.mean(ratio**2)) if len(ratio) else np.nan,
            ratio=dict(zip(self.problem.model.coordinates, inflation[:size].tolist(), strict=True)),
        )

    @cached_property
    def absent(self) -> dict[str, str]:
        """Rate laws without which the data are described as well, with the chi2 they gain.

        A rate enters h by its square where it is small, so a rate that is zero still gets an error of about half its fitted value:
        only the gain in chi2 tells. Tested where the error alone leaves a doubt.
        """
        if not self.finished:
            return {}
        reasons = {}
        information, u = self.information, self.solution.evaluation.u
        iid = np.diagonal(information.inverse.matrix) * self.solution.score_variance
        spread = np.diagonal(self.noise.covariance)[: len(u)]
        known = iid > 0
        inflation = max(1.0, float(np.median(spread[known] / iid[known]))) if known.any() else 1.0
        for name in self.problem.model.laws:
            simpler = self.problem.model.without(name)
            if simpler is None or not self._doubtful(name):
                continue
            kept = len(simpler.coordinates)
            limits = self.job.optimizer.tolerances(self.pairs)
            local = minimise(self.problem.with_model(simpler), u[:kept], limits, solver=self.job.optimizer.solver)
            if local is None:
                continue
            gain = (local.evaluation.chi2 - self.solution.evaluation.chi2) / self.solution.score_variance / inflation
            p_value = float(chdtrc(len(u) - kept, max(gain, 0.0)))
            if p_value > PRESENCE:
                reasons[name] = f"without it chi2 rises by only {gain:.1f} (p = {p_value:.2g})"
        return reasons

    def _doubtful(self, name: str) -> bool:
        """ln of the rate is known to no better than DOUBT at its best time, independent pixels assumed."""
        slopes = np.asarray(log_rate_slopes(self.problem.model, self.solution.evaluation.u)[name])
        variance = np.einsum("tp,pq,tq->t", slopes, self.information.inverse.matrix, slopes) * self.solution.score_variance
        return bool(np.sqrt(variance.min()) > DOUBT or self.information.held.any())

    @property
    def summary(self) -> dict[str, float]:
        """Parameters by the user's names."""
        model = self.problem.model
        return dict(zip(model.names, np.asarray(user_parameters(model, self.u)).tolist(), strict=True))

    @property
    def scaling_covariance(self) -> np.ndarray:
        """(R P, R P) of offset, then contrast, then drift where it is fitted, at all angles."""
        size, expand = self.information.size, self.information.expand
        return expand @ self.noise.covariance[size:, size:] @ expand.T

    def equality_test(self) -> tuple[float, int, float]:
        """Wald test of equal contrast and offset at all angles, with this fit's covariance; NaN when that does not bear a test."""
        count = len(self.dataset.phi)
        if not self.noise.known or not self.noise.testable:
            return np.nan, 0, np.nan
        values = np.concatenate([self.offset, self.contrast])
        contrast = np.zeros((2 * (count - 1), 2 * count))
        for block in range(2):
            rows = slice(block * (count - 1), (block + 1) * (count - 1))
            contrast[rows, block * count] = -1.0
            contrast[rows, block * count + 1 : (block + 1) * count] = np.eye(count - 1)
        difference = contrast @ values
        covariance = contrast @ self.scaling_covariance[: 2 * count, : 2 * count] @ contrast.T
        statistic = float(difference @ np.linalg.pinv(covariance, hermitian=True) @ difference)
        degrees = int(np.linalg.matrix_rank(covariance, hermitian=True))
        return statistic, degrees, float(chdtrc(degrees, statistic))
