"""Phase 3: Dataset -> Fit. Model and scaling make the Problem, the optimizer minimises it, the noise option makes the errors."""

import hashlib
import logging
import resource
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from .cells import bin_maps
from .data import Dataset
from .fitted import Fitted
from .identifiability import MOVES, Identified
from .optimizer.base import Solution, Task
from .optimizer.progress import Progress
from .pairsums import Pair, frame_contrast
from .per_angle_scaling.base import Design
from .problem import CellSource, PixelSource, Problem, states_and_slopes
from .results import QUANTILE, Fit, ModelRows
from .uncertainty.base import Estimated

if TYPE_CHECKING:
    from .config import Job

log = logging.getLogger("homodyne")

SMALLEST_GAP, LARGEST_GAP = 1e4, 1e9
"""Angstrom: a micrometre and ten centimetres."""


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
