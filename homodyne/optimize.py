"""Phase 3: Dataset -> Fit. Model and scaling make the Problem, the optimizer minimises it, the noise option makes the errors."""

import hashlib
import logging
import resource
import sys
import time
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import chdtrc

from .cells import bin_maps
from .data import Dataset
from .goodness import goodness, offset_test
from .identifiability import MOVES, Identified, identify, log_rate_slopes
from .limits import reaches
from .noise.base import Minimised, Noise
from .optimizer.base import Solution, Task
from .optimizer.loss import LOSSES
from .optimizer.progress import Progress
from .optimizer.trust_region import minimise
from .pairsums import Pair, WeightedLoss, frame_contrast
from .per_angle_scaling.base import Design
from .problem import CellSource, Information, PixelSource, Problem, information, states_and_slopes
from .results import QUANTILE, Fit, Goodness, ModelRows, NoiseFacts, Outcome, Verdict
from .uncertainty.base import Estimated
from .verdict import judge

if TYPE_CHECKING:
    from .config import Job

log = logging.getLogger("homodyne")

DOUBT = 0.05
"""ln of a rate known to better than this means a gain in chi2 above 100: no test needed."""
SMALLEST_GAP, LARGEST_GAP = 1e4, 1e9
"""Angstrom: a micrometre and ten centimetres."""
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
        offset = offset_test(self.offset, self.scaling_covariance[:count, :count])
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
        return {name: estimate.value for name, estimate in self.identified.parameters.items()}

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


def fit(job: "Job", dataset: Dataset, folder: Path | None) -> tuple[Fit, ModelRows, Estimated]:
    """Fit a Dataset.

    Args:
        folder: run folder for the checkpoint, None to keep none.

    Returns:
        The Fit, a function that gives rows of the fitted maps, and what group ``posterior`` starts from.

    Raises:
        ConfigError: group ``uncertainty`` names what the record does not hold, or group ``hardware`` what is not there.
        FitError: resume was asked for and the checkpoint does not allow it.
    """
    begin = time.perf_counter()
    job.hardware.configure()
    model = job.mode.bind(dataset.t, dataset.q, dataset.gap, dataset.phi)
    job.uncertainty.check_model(model)
    fine, coarse = bin_maps(dataset.tiles, dataset.n)
    binned = time.perf_counter()
    log.info("%d pairs of frames, %d cells, noise of a pixel %.3g", dataset.pairs.sum(), fine.used, np.sqrt(fine.pixel_variance))
    progress = Progress(folder, _digest(job, dataset), fine.pixel_variance, job.resume)
    hardware = job.hardware
    pixels = PixelSource(dataset, threads=hardware.cores, tiles_at_once=hardware.tiles_at_once)
    first: list[Fitted] = []

    def fit_design(design: Design) -> Fitted:
        started = time.perf_counter()
        state = progress.state(design.name)
        if first and state.candidates is None:
            # A second scaling of the same data starts from the minimum of the first.
            state.candidates, state.found = [first[0].solution.evaluation.u.tolist()], first[0].solution.found
        task = Task(
            problem=Problem(model, design, pixels),
            fine=Problem(model, design.without_drift, CellSource(fine, dataset.phi)),
            coarse=Problem(model, design.without_drift, CellSource(coarse, dataset.phi)),
            mode=job.mode,
            seed=job.seed,
            threads=hardware.cores,
            progress=progress,
            state=state,
        )
        fitted = Fitted(job.optimizer.fit(task), job, dataset, task.fine, time.perf_counter() - started)
        first.append(fitted)
        return fitted

    with progress.watching():
        chosen, others, decision = job.per_angle_scaling.choose(dataset, fine.pixel_variance, fit_design)
    solved = time.perf_counter()
    result = _result(chosen, others, decision, progress, fine.pixel_variance)
    known = time.perf_counter()
    estimated = _estimated(chosen, progress)
    with progress.watching():
        found = job.uncertainty.examine(estimated)
    result = replace(result, derived=found.derived, profiles=found.profiles, contours=found.contours, comparisons=found.comparisons)
    timings = {"cells": binned - begin, "fit": solved - binned, "errors": known - solved, "uncertainty": time.perf_counter() - known}
    return replace(result, timings=timings, peak_memory_mb=_peak_memory()), _model_rows(chosen, dataset), estimated


def _result(chosen: Fitted, others: dict[str, Fitted], decision: str, progress: Progress, pixel_variance: float) -> Fit:
    solution, identified, dataset, job = chosen.solution, chosen.identified, chosen.dataset, chosen.job
    evaluation, model, design = solution.evaluation, chosen.problem.model, chosen.problem.design
    count, dof = len(dataset.phi), chosen.pairs - chosen.fitted
    scaling_error = np.sqrt(np.maximum(np.diagonal(chosen.scaling_covariance), 0.0))
    nothing = (scaling_error == 0) | np.tile(evaluation.projection.at_bound, len(scaling_error) // count)
    moved = np.abs(chosen.reach[:, chosen.information.size :] @ chosen.information.expand.T) > MOVES * QUANTILE * scaling_error
    scaling_error[nothing | moved.any(axis=0) | (chosen.verdict.name == "failed")] = np.nan
    names, covariance = _covariance(chosen, identified, scaling_error)
    chi2 = evaluation.chi2 / pixel_variance
    goodness = chosen.goodness
    decisions = [text for text in (decision, chosen.noise.reason, _reached(solution, tested=goodness is not None)) if text]
    statements = (
        chosen.verdict.sentence,
        *identified.statements,
        *solution.statements,
        *_scaling_statements(evaluation, design),
        *chosen.noise.statements,
        *(_gap_statements(dataset) if "gamma_dot" in model.laws else ()),
    )
    return Fit(
        mode=job.mode.name,
        shear_kernel=job.mode.kernel,
        scaling=design.name,
        parameters=identified.parameters,
        rates=identified.rates,
        t_ref=identified.t_ref,
        curves=identified.curves,
        phi=dataset.phi,
        contrast=chosen.contrast,
        contrast_error=scaling_error[count : 2 * count],
        offset=chosen.offset,
        offset_error=scaling_error[:count],
        names=names,
        covariance=covariance,
        noise=chosen.noise.option,
        noise_text=chosen.noise.text,
        sigma=float(np.sqrt(evaluation.chi2 / dof)),
        chi2=chi2,
        reduced_chi2=chi2 / dof,
        pairs=chosen.pairs,
        dof=dof,
        outcome=solution.outcome,
        message=chosen.verdict.sentence if chosen.verdict.name == "failed" and solution.outcome.success else solution.outcome.value,
        passes=solution.passes + sum(other.solution.passes for other in others.values()),
        history=tuple(progress.history),
        minima=solution.minima,
        statements=statements,
        decisions=tuple(decisions),
        coordinates=model.coordinates,
        solution=chosen.u,
        solution_covariance=chosen.noise.covariance[: chosen.information.size, : chosen.information.size],
        alternatives={name: other.summary for name, other in others.items()},
        noise_facts=chosen.noise_facts,
        goodness=goodness,
        verdict=chosen.verdict,
        q=dataset.q,
        gap=dataset.gap,
        gap_assumed=dataset.gap_assumed,
        contrast_drift=chosen.drift,
        contrast_drift_error=None if chosen.drift is None else scaling_error[2 * count :],
    )


def _estimated(chosen: Fitted, progress: Progress) -> Estimated:
    """The fit as group ``uncertainty`` sees it."""
    return Estimated(
        dataset=chosen.dataset,
        mode=chosen.job.mode,
        minimum=chosen.minimum,
        noise=chosen.noise,
        identified=chosen.identified,
        u=chosen.u,
        noise_option=chosen.job.noise,
        scaling=chosen.job.per_angle_scaling,
        outcome=chosen.solution.outcome,
        solver=chosen.job.optimizer.solver,
        tolerances=chosen.job.optimizer.tolerances(chosen.pairs),
        interrupted=progress.check,
        watching=progress.watching,
        verdict=chosen.verdict,
    )


def _covariance(chosen: Fitted, identified: Identified, scaling_error: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Covariance of physical parameters, contrast, offset (and drift) at every angle; NaN where there is no finite error."""
    size, count = chosen.information.size, len(chosen.dataset.phi)
    words = ("contrast", "offset", "drift")[: len(scaling_error) // count]
    order = np.r_[count : 2 * count, :count, 2 * count : len(scaling_error)]
    jacobian = np.nan_to_num(identified.jacobian, nan=0.0, posinf=0.0, neginf=0.0)
    transform = np.zeros((len(jacobian) + len(order), len(chosen.noise.covariance)))
    transform[: len(jacobian), :size] = jacobian
    transform[len(jacobian) :, size:] = chosen.information.expand[order]
    covariance = transform @ chosen.noise.covariance @ transform.T
    unknown = np.concatenate([identified.hidden, ~np.isfinite(scaling_error[order])])
    covariance[unknown] = np.nan
    covariance[:, unknown] = np.nan
    return (*chosen.problem.model.names, *(f"{word}[{k}]" for word in words for k in range(count))), covariance


def _reached(solution: Solution, *, tested: bool) -> str:
    """How the search ended; its own sign of misfit only where no test with the right noise takes its place."""
    found = solution.found
    if "reached" not in found:
        return ""
    excess = found["cell_excess"]
    text = f"search: best minimum reached by {found['reached']:.0f} fits on cells ({found['cell_passes']:.0f} cell passes)"
    if excess > 10 and not tested:
        text += f"; chi2 on cells is {excess:.0f} standard deviations high: correlated noise, or the model does not describe the map"
    return text


def _gap_statements(dataset: Dataset) -> list[str]:
    """What a shear rate rests on that no map can tell."""
    found = f"{dataset.gap:g} Angstrom ({dataset.gap * 1e-4:g} um)"
    statements = []
    if dataset.gap_assumed:
        statements.append(f"the gap is assumed to be {found}; the shear rate goes as 1/gap: give data.gap")
    if not SMALLEST_GAP <= dataset.gap <= LARGEST_GAP:
        statements.append(f"data.gap is {found}: is it in Angstrom? accepted without this question: {SMALLEST_GAP:g} to {LARGEST_GAP:g}")
    return statements


def _scaling_statements(evaluation, design: Design) -> list[str]:
    touching = np.flatnonzero(evaluation.projection.at_bound)
    if design.count == 0 or len(touching) == 0:
        return []
    where = ", ".join(map(str, touching))
    return [f"contrast or offset is at its bound at angle index {where} (per_angle_scaling.contrast_bounds, offset_bounds)"]


def _model_rows(chosen: Fitted, dataset: Dataset) -> ModelRows:
    model, contrast, offset = chosen.problem.model, chosen.contrast, chosen.offset
    x = np.asarray(states_and_slopes(model, dataset.phi, chosen.u, slopes=False)[0])
    frames = None if chosen.drift is None else frame_contrast(contrast, chosen.drift, dataset.n)

    def rows(angle: int, start: int, stop: int) -> np.ndarray:
        h = np.asarray(_rows(model.pair, x[angle], x[angle][:, start:stop], start))
        scale = contrast[angle] if frames is None else 0.5 * (frames[angle][start:stop, None] + frames[angle][None, :])
        return offset[angle] + scale * h

    return rows


@partial(jax.jit, static_argnums=0)
def _rows(pair: Pair, x: jax.Array, some: jax.Array, start: int) -> jax.Array:
    """h (r, n) of the frames start ... start + r, whose states are ``some`` (m, r), with all frames x (m, n)."""
    later = jnp.arange(x.shape[1])[None, :] >= start + jnp.arange(some.shape[1])[:, None]
    difference = x[:, None, :] - some[:, :, None]
    return pair(tuple(jnp.where(later, d, -d) for d in difference))


def _digest(job: "Job", dataset: Dataset) -> str:
    """Of everything that a saved solver state depends on."""
    parts = [dataset.fingerprint, str(job.seed)]
    parts += [option.model_dump_json() for option in (job.mode, job.per_angle_scaling, job.optimizer)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _peak_memory() -> float:
    """Largest resident memory of this process so far, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
