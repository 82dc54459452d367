"""Errors to expect from an experiment, before it is made: the information of its exact maps and the covariance of its speckle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from .config import option
from .counting import fitted_score
from .covariance import Counting, angle_sums
from .data import Dataset
from .errors import ConfigError
from .identifiability import identify
from .mode.base import AbstractMode
from .per_angle_scaling.base import AbstractPerAngleScaling
from .problem import PixelSource, Problem, information
from .results import Curve, Estimate
from .simulation import simulate
from .speckle import speckle_sums
from .table import table, with_error


@dataclass(frozen=True)
class Forecast:
    """What a fit of such data would report, at the truth.

    Attributes:
        parameters, rates, curves, statements: as in ``Fit``. q: 1/Angstrom.
        pixels, photons, speckle_size: detector pixels of each map, mean photons per pixel and frame, sum over a speckle of the squared
            |field correlation|^2.
        frames, dt, phi: of the experiment. ratio: error of each solver coordinate over that of independent pixels.
    """

    q: float
    phi: np.ndarray
    frames: int
    dt: float
    pixels: float
    photons: float
    speckle_size: float
    parameters: dict[str, Estimate]
    rates: dict[str, Estimate]
    curves: dict[str, Curve]
    statements: tuple[str, ...]
    ratio: dict[str, float]

    def __str__(self) -> str:
        shot = "no shot noise" if np.isinf(self.photons) else f"{self.photons:g} photons per pixel and frame"
        lines = [
            f"forecast: {len(self.phi)} angles x {self.frames} frames of {self.dt:g} s, q {self.q:g} 1/Angstrom, "
            f"{self.pixels:g} pixels, {shot}",
            "",
        ]
        for curve in self.curves.values():
            best = int(np.nanargmin(curve.error / curve.value))
            value, error = with_error(float(curve.value[best]), float(curve.error[best]))
            lines.append(f"{curve.name}({curve.t[best]:.3g} s) = {value} +- {error} {curve.unit}")
        lines += ["", *table(self.parameters.values(), {}), ""]
        inflation = np.array([value for value in self.ratio.values() if np.isfinite(value)])
        if len(inflation):
            lines.append(f"errors are {inflation.min():.2g} to {inflation.max():.2g} times those of independent pixels")
        return "\n".join([*lines, *(f"- {statement}" for statement in self.statements)])


def forecast(
    parameters: Mapping[str, float],
    phi: ArrayLike,
    *,
    q: float,
    gap: float,
    dt: float,
    frames: int,
    photons: float,
    pixels: float,
    contrast: ArrayLike = 0.2,
    mode: str = "laminar_flow",
    shear_kernel: str = "gap_average",
    scaling: str = "individual",
    pixels_per_speckle: int = 1,
    fixed: Sequence[str] = (),
) -> Forecast:
    """Errors to expect from an experiment; several q: one call each.

    Args:
        parameters: a guess, by name, all of the mode; see ``physics.two_time``.
        phi: (P,) degrees. q, gap: 1/Angstrom, Angstrom. dt, frames: s, and their number.
        photons: mean per pixel and frame, infinite without shot noise. pixels: detector pixels averaged in each map.
        contrast: scalar or (P,). mode, shear_kernel: as in a fit. scaling: option of per_angle_scaling.
        pixels_per_speckle: along a line of pixels; see ``speckle.speckle_sums``.
        fixed: parameters that the fit would not vary.

    Raises:
        ConfigError, ValueError: an argument is unknown or out of range.
    """
    if not photons > 0 or not pixels > 1:
        raise ConfigError(f"forecast: found photons {photons:g}, pixels {pixels:g}; accepted: photons > 0 (or infinite), pixels > 1")
    # Double precision, in every thread: what a run does first as well.
    option("hardware", "cpu").configure()
    settings = {name: {"fixed": float(parameters[name])} for name in fixed}
    kernel = {"shear_kernel": shear_kernel} if mode != "static" else {}
    exact = simulate(parameters, phi, q=q, gap=gap, dt=dt, frames=frames, contrast=contrast, mode=mode, shear_kernel=shear_kernel)
    planned = replace(exact, pixels=np.full(len(exact.phi), float(pixels)), counts=np.full(len(exact.phi), float(photons)))
    size, long_range = speckle_sums(pixels_per_speckle)
    chosen = option("mode", mode, parameters=settings, **kernel), option("per_angle_scaling", scaling)
    return forecast_of(planned, *chosen, speckle_size=size, long_range=long_range)


def forecast_of(
    dataset: Dataset, mode: AbstractMode, scaling: AbstractPerAngleScaling, *, speckle_size: float = 1.0, long_range: float = 1.0
) -> Forecast:
    """Errors of a least-squares fit with ``noise=sandwich``.

    Args:
        dataset: exact maps with their truth, pixels and counts (mean photons per pixel and frame; infinite without shot noise).
        mode: what would be fitted; fixed parameters are not. scaling: contrast and offset that would be fitted.
        speckle_size, long_range: r and r1 of covariance.Counting.

    Raises:
        ConfigError: the dataset has no truth for this mode.
    """
    truth = dataset.truth
    if truth is None or set(mode.names()) - set(truth.parameters):
        missing = sorted(set(mode.names()) - set(() if truth is None else truth.parameters))
        raise ConfigError(f"forecast: no value for {', '.join(missing)} of mode {mode.name}; accepted: simulated data of the same mode")
    model = mode.bind(dataset.t, dataset.q, dataset.gap, dataset.phi)
    problem = Problem(model, scaling.design(dataset, 1.0), PixelSource(dataset, threads=1, tiles_at_once=1))
    evaluation = problem.evaluate(model.coordinates_of(truth.parameters))
    known = information(evaluation, problem)
    counts = np.broadcast_to(np.asarray(dataset.counts, dtype=np.float64).reshape(len(dataset.phi), -1), dataset.diagonal.shape)
    sums = angle_sums(problem, evaluation, Counting(1 / counts, dataset.pixels, speckle_size, long_range))
    covariance = known.bread @ fitted_score(sums, known) @ known.bread
    # A pixel's variance far from the diagonal, as the residuals of such data would show it.
    variance = sum(part.images.variance / number for part, number in zip(sums, dataset.pixels, strict=True)) / dataset.pairs.sum()
    size = known.size
    independent = variance * np.diagonal(known.bread)[:size]
    found = identify(model, mode, evaluation.u, covariance[:size, :size], known, {})
    ratio = np.sqrt(np.divide(np.diagonal(covariance)[:size], independent, out=np.full(size, np.nan), where=independent > 0))
    return Forecast(
        q=dataset.q,
        phi=dataset.phi,
        frames=dataset.n,
        dt=dataset.dt,
        pixels=float(np.median(dataset.pixels)),
        photons=float(np.median(counts)),
        speckle_size=speckle_size,
        parameters={name: replace(estimate, value=float(truth.parameters[name])) for name, estimate in found.parameters.items()},
        rates=found.rates,
        curves=found.curves,
        statements=found.statements,
        ratio=dict(zip(model.coordinates, ratio.tolist(), strict=True)),
    )
