"""uncertainty=standard: derived quantities, and the profiles and regions that were asked for."""

import re
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ..compare import compare
from ..contour import contour
from ..derived import derive
from ..errors import ConfigError
from ..groups import nearest
from ..mode.base import AbstractMode, Model
from ..optimizer.progress import FitInterrupted
from ..profile import profile
from ..results import Comparison, Contour, Outcome, Profile
from ..surface import Quantity, Surface, quantities
from .base import AbstractUncertainty, Estimated, Examined

RATES = re.compile(r"\w+_(ref|best)|dln\w+_dlnt")
RATE_WORDS = "and of a rate law J: J_best, J_ref, dlnJ_dlnt"


class Standard(AbstractUncertainty):
    """What is worked out of the fit beside its errors.

    Attributes:
        profile: parameters or rates whose profile likelihood is followed on all pixels; about 20 passes each. Rates are those of
            ``Fit.rates``: J_best, J_ref, dlnJ_dlnt and the same of gamma_dot. auto: each rate at its best time, then the free exponents.
        contour: pairs of them whose confidence region is drawn; about 100 passes each.
        compare: other models that are fitted to the same pixels and tested against this one.
        times: s; J, shear rate, relaxation time and strain are listed at these times.
        confidence: of intervals and regions.
    """

    profile: tuple[str, ...] | Literal["auto"]
    contour: tuple[tuple[str, str], ...]
    compare: tuple[Literal["static", "averaged", "individual", "no_offsets", "other_kernel"], ...]
    times: tuple[Annotated[float, Field(gt=0)], ...]
    confidence: Annotated[float, Field(ge=0.5, le=0.9999)]

    def check(self, mode: AbstractMode) -> None:
        free = [name for name, settings in mode.parameters.items() if settings.fixed is None]
        accepted = f"{', '.join(free)}, {RATE_WORDS}"
        for key, name in self._named():
            if name in free or RATES.fullmatch(name):
                continue
            if name in mode.parameters:
                raise ConfigError(f"uncertainty.{key}: {name} is fixed (mode.parameters.{name}.fixed); accepted: {accepted}")
            raise ConfigError(f"uncertainty.{key}: {name} is not in mode {mode.name}{nearest(name, free)}; accepted: {accepted}")
        for first, second in self.contour:
            if first == second:
                raise ConfigError(f"uncertainty.contour: found [{first}, {second}]; accepted: pairs of two different ones")

    def check_model(self, model: Model) -> None:
        known = list(quantities(model, dict.fromkeys(model.laws, 0)))
        for key, name in self._named():
            if name not in known:
                raise ConfigError(f"uncertainty.{key}: {name} is not in this fit{nearest(name, known)}; accepted: {', '.join(known)}")
        begin, end = float(model.t[0]), float(model.t[-1])
        for time in self.times:
            # Times are given with few digits: the last frame at 19.999 s is meant by 20.
            if not (1 - 1e-3) * begin <= time <= (1 + 1e-3) * end:
                raise ConfigError(f"uncertainty.times: found {time:g} s; accepted: {begin:g} to {end:g} s, the frames that are used")

    def examine(self, fit: Estimated) -> Examined:
        if fit.outcome is Outcome.NOT_FINITE:
            return Examined()
        kernel, dataset = fit.mode.kernel, fit.dataset
        times = np.clip(self.times, fit.model.t[0], fit.model.t[-1])
        derived = derive(fit.model, fit.u, fit.identified, q=dataset.q, phi=dataset.phi, kernel=kernel, times=times)
        refusal = self._refusal(fit)
        if refusal or not (self.profile or self.contour or self.compare):
            return Examined(replace(derived, statements=(*derived.statements, *([refusal] if refusal else []))))
        profiles: dict[str, Profile] = {}
        contours: list[Contour] = []
        comparisons: list[Comparison] = []
        statements = list(derived.statements)
        try:
            comparisons += [compare(fit, name) for name in self.compare]
            chosen, surface = _quantities(fit), _surface(fit)
            for name in self._profiled(fit.model):
                profiles[name] = profile(surface, chosen[name], _error(fit, name), self.confidence)
            for first, second in self.contour:
                region = contour(surface, (chosen[first], chosen[second]), self.confidence)
                if region is None:
                    statements.append(f"no region of {first} and {second}: the data do not tell them apart at all")
                else:
                    contours.append(region)
        except FitInterrupted:
            statements.append("interrupted: not all profiles, regions and comparisons that were asked for are there")
        statements += [found.text for found in comparisons]
        statements += [found.sentence for found in profiles.values() if found.sentence]
        statements += [found.sentence for found in contours if found.sentence]
        return Examined(replace(derived, statements=tuple(statements)), profiles, tuple(contours), tuple(comparisons))

    def _refusal(self, fit: Estimated) -> str:
        """Why there is no profile, region or comparison, or empty."""
        if not (self.profile or self.contour or self.compare):
            return ""
        if fit.outcome is not Outcome.CONVERGED:
            return "no profiles and comparisons: the fit did not converge"
        if fit.verdict.name == "failed":
            return "no profiles and comparisons: the fit cannot be meant"
        if not fit.noise.known:
            return "no profiles and comparisons: the noise is not known, so nothing says how far chi2 may rise"
        if fit.noise.moved is not None:
            moved = f"noise={fit.noise.option} has moved the values off its minimum"
            return f"no profiles and comparisons: they follow chi2, and {moved}; accepted: noise=sandwich"
        return ""

    def _profiled(self, model: Model) -> tuple[str, ...]:
        """What is profiled of a model."""
        if self.profile != "auto":
            return self.profile
        exponents = [law.names[1] for law in model.laws.values() if law.names[1] in law.coordinates]
        return (*(f"{curve}_best" for curve in model.laws), *exponents)

    def _named(self) -> list[tuple[str, str]]:
        """Key and name of everything that was asked for."""
        named = () if self.profile == "auto" else self.profile
        return [("profile", name) for name in named] + [("contour", name) for pair in self.contour for name in pair]


def _quantities(fit: Estimated) -> dict[str, Quantity]:
    curves = fit.identified.curves
    return quantities(fit.model, {name: int(np.argmin(np.abs(curve.t - curve.best_time))) for name, curve in curves.items()})


def _surface(fit: Estimated) -> Surface:
    minimum = fit.minimum
    # A root of 2 to three digits needs chi2 to a thousandth of its unit.
    tight = replace(fit.tolerances, ftol=0.1 * fit.tolerances.ftol)
    problem, evaluation, known = minimum.problem, minimum.evaluation, minimum.information
    return Surface(problem, evaluation, known, fit.covariance, minimum.score_variance, fit.solver, tight, fit.interrupted)


def _error(fit: Estimated, name: str) -> float:
    known = fit.identified.parameters | fit.identified.rates
    return known[name].error
