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
from .identifiability import Identified, identify, log_rate_slopes
from .noise.base import Minimised, Noise
from .optimizer.base import Solution, Task
from .optimizer.loss import LOSSES
from .optimizer.progress import Progress
from .optimizer.trust_region import minimise
from .pairsums import Pair, WeightedLoss
from .per_angle_scaling.base import Design
from .problem import CellSource, Information, PixelSource, Problem, information, states_and_slopes
from .results import Fit, ModelRows, Outcome

if TYPE_CHECKING:
    from .config import Job

log = logging.getLogger("homodyne")

DOUBT = 0.05
"""ln of a rate known to better than this means a gain in chi2 above 100: no test needed."""
PRESENCE = 0.01
"""p-value above which a rate law is not needed."""


@dataclass(frozen=True)
class Fitted:
    """A minimum with one scaling, its information and its errors."""

    solution: Solution
    job: "Job"
    dataset: Dataset
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
    def noise(self) -> Noise:
        """Covariance of (u, coefficients) by the noise option."""
        solution, name = self.solution, self.job.optimizer.loss
        loss = None if name == "linear" or not np.isfinite(solution.scale) else WeightedLoss(LOSSES[name].weight, solution.scale)
        minimum = Minimised(
            problem=self.problem,
            evaluation=solution.evaluation,
            information=self.information,
            loss=loss,
            efficiency=solution.efficiency,
            score_variance=solution.score_variance,
            pairs=self.pairs,
            fitted=self.fitted,
        )
        return self.job.noise.covariance(minimum)

    @property
    def pairs(self) -> int:
        return int(self.dataset.pairs.sum())

    @property
    def fitted(self) -> int:
        """Number of fitted numbers, contrast and offset included."""
        return len(self.solution.evaluation.u) + self.problem.design.count

    @cached_property
    def identified(self) -> Identified:
        size = self.information.size
        covariance = self.noise.covariance[:size, :size]
        return identify(self.problem.model, self.job.mode, self.solution.evaluation.u, covariance, self.information, self.absent)

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
        """(2 P, 2 P) of offset, then contrast, at all angles."""
        size, expand = self.information.size, self.information.expand
        return expand @ self.noise.covariance[size:, size:] @ expand.T

    def equality_test(self) -> tuple[float, int, float]:
        """Wald test of equal contrast and offset at all angles, with this fit's covariance."""
        count = len(self.dataset.phi)
        values = np.concatenate([self.solution.evaluation.offset, self.solution.evaluation.contrast])
        contrast = np.zeros((2 * (count - 1), 2 * count))
        for block in range(2):
            rows = slice(block * (count - 1), (block + 1) * (count - 1))
            contrast[rows, block * count] = -1.0
            contrast[rows, block * count + 1 : (block + 1) * count] = np.eye(count - 1)
        difference = contrast @ values
        covariance = contrast @ self.scaling_covariance @ contrast.T
        statistic = float(difference @ np.linalg.pinv(covariance, hermitian=True) @ difference)
        degrees = int(np.linalg.matrix_rank(covariance, hermitian=True))
        return statistic, degrees, float(chdtrc(degrees, statistic))


def fit(job: "Job", dataset: Dataset, folder: Path | None) -> tuple[Fit, ModelRows]:
    """Fit a Dataset.

    Args:
        folder: run folder for the checkpoint, None to keep none.

    Returns:
        The Fit, and a function that gives rows of the fitted maps.

    Raises:
        FitError: resume was asked for and the checkpoint does not allow it.
    """
    begin = time.perf_counter()
    model = job.mode.bind(dataset.t, dataset.q, dataset.gap, dataset.phi)
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
            fine=Problem(model, design, CellSource(fine, dataset.phi)),
            coarse=Problem(model, design, CellSource(coarse, dataset.phi)),
            mode=job.mode,
            seed=job.seed,
            threads=hardware.cores,
            progress=progress,
            state=state,
        )
        fitted = Fitted(job.optimizer.fit(task), job, dataset, time.perf_counter() - started)
        first.append(fitted)
        return fitted

    with progress.watching():
        chosen, others, decision = job.per_angle_scaling.choose(dataset, fine.pixel_variance, fit_design)
    solved = time.perf_counter()
    result = _result(chosen, others, decision, progress, fine.pixel_variance)
    timings = {"cells": binned - begin, "fit": solved - binned, "errors": time.perf_counter() - solved}
    return replace(result, timings=timings, peak_memory_mb=_peak_memory()), _model_rows(chosen, dataset)


def _result(chosen: Fitted, others: dict[str, Fitted], decision: str, progress: Progress, pixel_variance: float) -> Fit:
    solution, identified, dataset, job = chosen.solution, chosen.identified, chosen.dataset, chosen.job
    evaluation, model, design = solution.evaluation, chosen.problem.model, chosen.problem.design
    count, dof = len(dataset.phi), chosen.pairs - chosen.fitted
    scaling_error = np.sqrt(np.maximum(np.diagonal(chosen.scaling_covariance), 0.0))
    scaling_error[(scaling_error == 0) | np.tile(evaluation.projection.at_bound, 2)] = np.nan
    names, covariance = _covariance(chosen, identified, scaling_error)
    chi2 = evaluation.chi2 / pixel_variance
    decisions = [text for text in (decision, _reached(solution)) if text]
    return Fit(
        mode=job.mode.name,
        shear_kernel=job.mode.kernel,
        scaling=design.name,
        parameters=identified.parameters,
        rates=identified.rates,
        t_ref=identified.t_ref,
        curves=identified.curves,
        phi=dataset.phi,
        contrast=evaluation.contrast,
        contrast_error=scaling_error[count:],
        offset=evaluation.offset,
        offset_error=scaling_error[:count],
        names=names,
        covariance=covariance,
        noise=job.noise.name,
        noise_text=chosen.noise.text,
        sigma=float(np.sqrt(evaluation.chi2 / dof)),
        chi2=chi2,
        reduced_chi2=chi2 / dof,
        pairs=chosen.pairs,
        dof=dof,
        outcome=solution.outcome,
        message=solution.outcome.value,
        passes=solution.passes + sum(other.solution.passes for other in others.values()),
        history=tuple(progress.history),
        minima=solution.minima,
        statements=(*identified.statements, *solution.statements, *_scaling_statements(evaluation, design)),
        decisions=tuple(decisions),
        coordinates=model.coordinates,
        solution=evaluation.u,
        solution_covariance=chosen.noise.covariance[: chosen.information.size, : chosen.information.size],
        alternatives={name: other.summary for name, other in others.items()},
    )


def _covariance(chosen: Fitted, identified: Identified, scaling_error: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Covariance of physical parameters, contrast and offset at every angle; NaN where there is no finite error."""
    size, count = chosen.information.size, len(chosen.dataset.phi)
    expand = np.concatenate([chosen.information.expand[count:], chosen.information.expand[:count]])
    jacobian = np.nan_to_num(identified.jacobian, nan=0.0, posinf=0.0, neginf=0.0)
    transform = np.zeros((len(jacobian) + 2 * count, len(chosen.noise.covariance)))
    transform[: len(jacobian), :size] = jacobian
    transform[len(jacobian) :, size:] = expand
    covariance = transform @ chosen.noise.covariance @ transform.T
    unknown = np.concatenate([identified.hidden, ~np.isfinite(scaling_error[count:]), ~np.isfinite(scaling_error[:count])])
    covariance[unknown] = np.nan
    covariance[:, unknown] = np.nan
    names = (*chosen.problem.model.names, *(f"contrast[{k}]" for k in range(count)), *(f"offset[{k}]" for k in range(count)))
    return names, covariance


def _reached(solution: Solution) -> str:
    found = solution.found
    if "reached" not in found:
        return ""
    excess = found["cell_excess"]
    text = f"search: best minimum reached by {found['reached']:.0f} fits on cells ({found['cell_passes']:.0f} cell passes)"
    if excess > 10:
        text += f"; chi2 on cells is {excess:.0f} standard deviations high: correlated noise, or the model does not describe the map"
    return text


def _scaling_statements(evaluation, design: Design) -> list[str]:
    touching = np.flatnonzero(evaluation.projection.at_bound)
    if design.count == 0 or len(touching) == 0:
        return []
    where = ", ".join(map(str, touching))
    return [f"contrast or offset is at its bound at angle index {where} (per_angle_scaling.contrast_bounds, offset_bounds)"]


def _model_rows(chosen: Fitted, dataset: Dataset) -> ModelRows:
    model, evaluation = chosen.problem.model, chosen.solution.evaluation
    x = np.asarray(states_and_slopes(model, dataset.phi, evaluation.u, slopes=False)[0])

    def rows(angle: int, start: int, stop: int) -> np.ndarray:
        h = _rows(model.pair, x[angle], x[angle][:, start:stop], start)
        return evaluation.offset[angle] + evaluation.contrast[angle] * np.asarray(h)

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
