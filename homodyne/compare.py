"""Is a simpler or another model as good? Each comparison refits the same pixels and weighs the rise of chi2 with the right noise.

With correlated pixels the rise of chi2 from a fit with q numbers to one with k fewer is not sigma^2 times a chi-square of k; its mean
is c k with c k = tr(A^-1 V) of the full fit - tr(A^-1 V) of the simpler one, so T = rise/c is compared with a chi-square of k (Satorra
and Bentler 1994). BIC counts T + k ln(effective pairs) in the same units. Models that are not nested (the other shear kernel) are
compared by direction: the sum of residuals over the difference of the two fitted maps, zero on average for the true one.
Source: docs/uncertainty.md.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.special import chdtrc

from .covariance import fitted_points
from .errors import ConfigError
from .goodness import goodness, p_text
from .mode.base import AbstractMode, Model
from .noise.base import Minimised, Noise
from .optimizer.trust_region import minimise
from .per_angle_scaling.averaged import Averaged
from .per_angle_scaling.base import AbstractPerAngleScaling
from .per_angle_scaling.individual import Individual
from .physics import SHEAR_KERNELS
from .problem import Problem, information, user_parameters
from .results import Comparison
from .uncertainty.base import Estimated

log = logging.getLogger("homodyne")

OFFSETS = ("D_offset", "gamma_dot_t_offset")


def compare(here: Estimated, name: str) -> Comparison:
    """Refit with a rival and compare.

    Args:
        name: one of RIVALS.

    Raises:
        ConfigError: the fit has no such rival.
    """
    problem, start = RIVALS[name](here)
    log.info("comparison with %s", name)
    local = minimise(problem, start, here.tolerances, solver=here.solver)
    if local is None:
        raise ConfigError(f"uncertainty.compare: {name} has no finite start from this fit; accepted: {', '.join(RIVALS)}")
    fitted = len(local.evaluation.u) + problem.design.count
    other = replace(
        here.minimum,
        problem=problem,
        evaluation=local.evaluation,
        information=information(local.evaluation, problem),
        fitted=fitted,
        score_variance=here.minimum.score_variance * local.evaluation.chi2 / here.minimum.evaluation.chi2,
    )
    rise = local.evaluation.chi2 - here.minimum.evaluation.chi2
    fewer = here.minimum.fitted - fitted
    if fewer == 0:
        return _by_direction(name, here, other, rise)
    noise = here.noise_option.covariance(other)
    spent, spent_other = _spent(here.minimum, here.noise), _spent(other, noise)
    mean = (spent - spent_other) / fewer
    if not mean > 0:
        # Curvature or bounds: the average over all numbers is the next best scale.
        mean = spent / here.minimum.fitted
    statistic = rise / mean
    effective = here.minimum.pairs * here.minimum.score_variance * here.minimum.fitted / spent
    simpler, fuller = (name, "this fit") if fewer > 0 else ("this fit", name)
    p_value = float(chdtrc(abs(fewer), max(statistic * np.sign(fewer), 0.0)))
    bic = statistic - fewer * np.log(effective)
    if p_value > 0.05:
        verdict = f"{simpler} describes the data as well ({p_text(p_value)})"
    else:
        verdict = f"{simpler} is rejected in favour of {fuller} ({p_text(p_value)})"
    text = f"{name}: {verdict}; T = {abs(statistic):.1f} for {abs(fewer)}, BIC({name}) - BIC(this fit) = {bic:+.1f}"
    return Comparison(name, float(statistic), -fewer, p_value, float(bic), text)


def _parameters(here: Estimated) -> dict[str, float]:
    """The least-squares parameters by name."""
    values = np.asarray(user_parameters(here.model, here.minimum.evaluation.u))
    return dict(zip(here.model.names, map(float, values), strict=True))


def _by_direction(name: str, here: Estimated, other: Minimised, rise: float) -> Comparison:
    """Neither model contains the other: test each against the difference of the two fitted maps."""

    def test(tested: Minimised, rival: Minimised, noise: Noise) -> tuple[float, float]:
        found = goodness(tested, noise, (rival.problem.model.pair, fitted_points(rival.problem, rival.evaluation)))
        if found is None:
            return float("nan"), float("nan")
        return found.tests["rival"].statistic, found.tests["rival"].p_value

    statistic, p_here = test(here.minimum, other, here.noise)
    _, p_other = test(other, here.minimum, here.noise_option.covariance(other))
    words = f"this fit {p_text(p_here)}, {name} {p_text(p_other)} in the direction of their difference"
    worse, (low, high) = (name, (p_other, p_here)) if p_other < p_here else ("this fit", (p_here, p_other))
    verdict = f"{worse} is rejected" if low < 0.05 and low < 1e-2 * high else "no decision"
    text = f"{name}: {verdict} ({words}); chi2 changes by {rise / here.minimum.score_variance:+.1f}"
    return Comparison(name, statistic, 0, p_here, float("nan"), text)


def _spent(minimum: Minimised, noise: Noise) -> float:
    """tr(A^-1 V) = tr(A cov): how much chi2 the fitted numbers took away, in units of c2^2."""
    bread = minimum.bread
    scale = np.sqrt(np.maximum(np.diagonal(bread), 0.0))
    scale = np.where(scale > 0, scale, 1.0)
    inverse = np.linalg.pinv(bread / np.outer(scale, scale), rcond=1e-10, hermitian=True)
    return float(np.sum(inverse * (noise.covariance / np.outer(scale, scale))))


def _static(here: Estimated) -> tuple[Problem, np.ndarray]:
    simpler = here.model.without("gamma_dot") if "gamma_dot" in here.model.laws else None
    if simpler is None:
        raise ConfigError(f"uncertainty.compare: static: mode {here.mode.name} has no flow to leave out; accepted: a mode with shear")
    return here.minimum.problem.with_model(simpler), here.minimum.evaluation.u[: len(simpler.coordinates)]


def _no_offsets(here: Estimated) -> tuple[Problem, np.ndarray]:
    names = [name for name in OFFSETS if name in here.mode.parameters and here.mode.parameters[name].fixed is None]
    if not names:
        raise ConfigError("uncertainty.compare: no_offsets: no rate offset is fitted; accepted: a fit with a free D_offset")
    parameters = dict(here.mode.parameters)
    for name in names:
        parameters[name] = parameters[name].model_copy(update={"fixed": 0.0})
    return _with_mode(here, here.mode.model_copy(update={"parameters": parameters}))


def _other_kernel(here: Estimated) -> tuple[Problem, np.ndarray]:
    if here.mode.kernel not in SHEAR_KERNELS:
        raise ConfigError(f"uncertainty.compare: other_kernel: mode {here.mode.name} has no shear kernel; accepted: a mode with shear")
    other = next(kernel for kernel in SHEAR_KERNELS if kernel != here.mode.kernel)
    factor = SHEAR_KERNELS[here.mode.kernel]
    rival = SHEAR_KERNELS[other]
    # Equal initial decay, power kappa^2, is where the other kernel's minimum lies.
    stretch = np.sqrt(factor.power / rival.power) * factor.phase_factor / rival.phase_factor
    changed = {name: stretch * _parameters(here)[name] for name in ("gamma_dot_t0", "gamma_dot_t_offset")}
    return _with_mode(here, here.mode.model_copy(update={"shear_kernel": other}), changed)


def _scaled(kind: type[AbstractPerAngleScaling]) -> Callable[[Estimated], tuple[Problem, np.ndarray]]:
    def build(here: Estimated) -> tuple[Problem, np.ndarray]:
        shared = {name: getattr(here.scaling, name) for name in AbstractPerAngleScaling.model_fields}
        design = kind(**shared).design(here.minimum.source.dataset, here.minimum.score_variance)
        if design.name == here.minimum.problem.design.name:
            raise ConfigError(f"uncertainty.compare: {design.name}: this is the scaling of the fit; accepted: another one")
        return replace(here.minimum.problem, design=design), here.minimum.evaluation.u

    return build


def _with_mode(here: Estimated, mode: AbstractMode, changed: dict[str, float] | None = None) -> tuple[Problem, np.ndarray]:
    dataset = here.minimum.source.dataset
    model: Model = mode.bind(dataset.t, dataset.q, dataset.gap, dataset.phi)
    return here.minimum.problem.with_model(model), model.coordinates_of(_parameters(here) | (changed or {}))


RIVALS: dict[str, Callable[[Estimated], tuple[Problem, np.ndarray]]] = {
    "static": _static,
    "averaged": _scaled(Averaged),
    "individual": _scaled(Individual),
    "no_offsets": _no_offsets,
    "other_kernel": _other_kernel,
}
"""What a fit can be compared with: a problem on the same pixels, and a start."""
