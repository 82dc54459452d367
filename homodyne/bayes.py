"""From a fit to questions for a sampler, and from draws to a Posterior."""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base.array import array_stats

from . import predictive
from .density import Calibration, Density, Scaling
from .draws import Answer, Posterior, Predictive, Prior, Summary
from .errors import FitError
from .noise.base import Likely, Noise
from .posterior.base import Drawn, Given
from .prior import ModelPrior
from .results import Outcome
from .strips import Strips, all_strips
from .target import Target, locate, seconds_of_a_pass
from .uncertainty.base import Estimated
from .wishart import free_inverse
from .wishart_density import WishartDensity, speckle_calibration

log = logging.getLogger("homodyne")

TIMES = 60
"""Most times at which draws of the rates are kept."""
PRIOR_DRAWS = 2000
BLOCK = 250

Kind = tuple[Density | WishartDensity, np.ndarray, np.ndarray]
"""A density, where to begin, and rough standard deviations there."""


@dataclass(frozen=True)
class Question:
    """One width of the posterior: a density, where to begin, and what a sampler may use.

    Attributes:
        starts: (m, d) points from which the mode is looked for, that of the fit first. spread: (d,) of the coordinates.
        key: of every random choice.
    """

    width: str
    density: Density | WishartDensity
    strips: Strips
    starts: np.ndarray
    spread: np.ndarray
    given: Given
    key: jax.Array

    @cached_property
    def target(self) -> Target:
        """The density in white coordinates at its mode.

        Raises:
            FitError: no mode near the fit.
        """
        begin = time.perf_counter()
        steps: list[float] = []
        target = self._located(steps.append)
        seconds = time.perf_counter() - begin
        log.info("posterior %s: mode after %d Newton steps, first of %.2g sd, %.1f s", self.width, len(steps), steps[0], seconds)
        return target

    def _located(self, stepped: Callable[[float], None]) -> Target:
        """The mode from the start of highest density, or from the next one that leads to it."""
        starts, failures = self.starts, []
        if len(starts) > 1:
            starts = starts[np.argsort([-float(_log_density(self.density, point)) for point in starts], kind="stable")]
        for start in starts:
            try:
                return locate(self.density, start, self.spread, lambda _, size: stepped(size))
            except FitError as error:
                failures.append(error)
        raise failures[0]

    @property
    def start(self) -> np.ndarray:
        """(d,) of the fit."""
        return self.starts[0]

    @cached_property
    def cost(self) -> tuple[float, float]:
        """Seconds of a pass with derivatives on all threads, and GB of the pixels."""
        return seconds_of_a_pass(self.target) / self.given.threads, 1e-9 * self.strips.values.nbytes

    @property
    def divisible(self) -> bool:
        """Whether the likelihood is a product over pixels, so that shards of them have one each."""
        return isinstance(self.density, Density)

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator that follows from the key, with a stream of its own for each purpose."""
        return np.random.default_rng([*np.asarray(jax.random.key_data(self.key)).tolist(), crc32(purpose.encode())])

    @property
    def hint(self) -> str:
        """What would make the density easier, or empty."""
        fit, fixed = self.given.fit, []
        for curve, law in fit.model.laws.items():
            if fit.identified.constant[curve] and law.exponent_at is not None and law.fixed[2] is None:
                fixed += [f"mode.parameters.{law.names[1]}.fixed=0 mode.parameters.{law.names[2]}.fixed=0"]
        return f" or, as the rate is constant within its errors, {' '.join(fixed)}" if fixed else ""

    def watch(self, what: str) -> Callable[..., None]:
        """A function that logs progress every few seconds and stops when asked: (done, all, text)."""
        return _Watch(f"{what} {self.width}", self.given.fit.interrupted)


class _Watch:
    """Progress lines, seconds apart."""

    def __init__(self, what: str, interrupted: Callable[[], None], every: float = 5.0) -> None:
        self.what, self.interrupted, self.every = what, interrupted, every
        self.begin = self.last = time.perf_counter()
        self.first: tuple[int, float] | None = None

    def __call__(self, done: int, total: int, text: str = "") -> None:
        self.interrupted()
        now = time.perf_counter()
        if self.first is None:
            # Whatever was compiled before the first report says nothing about the rest.
            self.first = done, now
        if now - self.last > self.every and self.first[0] < done < total:
            self.last = now
            left = (total - done) * (now - self.first[1]) / (done - self.first[0])
            log.info("%s %d of %d%s, %.0f s, about %.0f s left", self.what, done, total, text, now - self.begin, left)


def refusal(fit: Estimated) -> str:
    """Why there is no posterior of a fit, or empty."""
    if fit.outcome is not Outcome.CONVERGED:
        return "the fit did not converge"
    if fit.verdict.name == "failed":
        return "the fit cannot be meant"
    if fit.minimum.loss is not None or fit.minimum.source.reweighting is not None:
        return "the likelihood knows no outliers; accepted: optimizer.loss=linear"
    if fit.minimum.source.kernel.weights is not None:
        return "pixels have weights of the user, and the likelihood has none"
    return ""


def questions(given: Given, width: str) -> list[Question]:
    """The densities to sample: as the likelihood gives it, and with the covariance of the noise option."""
    keys = jax.random.split(jax.random.key(given.seed), 2)
    kinds = _of_pixels(given.fit) if given.fit.noise.likely is None else _of_frames(given.fit, given.fit.noise.likely)
    strips = all_strips(given.fit.dataset)
    asked = [
        Question(name, density, strips, starts, spread, given, key)
        for name, (density, starts, spread), key in zip(("model", "calibrated"), kinds, keys, strict=False)
    ]
    return asked if width == "both" or len(asked) == 1 else [asked[("model", "calibrated").index(width)]]


def _of_pixels(fit: Estimated) -> list[Kind]:
    """Independent pixels, and where the noise option knows better, with its covariance."""
    minimum, model, variance = fit.minimum, fit.model, fit.minimum.score_variance
    prior = ModelPrior.of(model, fit.mode.parameters, minimum.evaluation.u)
    plain = Density.of(prior, fit.dataset.phi, Scaling.of(minimum.problem.design, variance), all_strips(fit.dataset))
    starts = np.array([np.append(point, np.log(variance)) for point in prior.starts(minimum.evaluation.u)])
    errors = np.sqrt(np.maximum(np.diagonal(minimum.independent)[: len(starts[0]) - 1], 0.0))
    known = np.isfinite(errors) & (errors > 0) & np.array([name in model.coordinates for name in prior.coordinates])
    spread = np.append(np.where(known, errors, 0.01), np.sqrt(2 / minimum.pairs))
    turned = _calibration(fit, fit.noise)
    kinds: list[Kind] = [(plain, starts, spread)]
    return kinds if turned is None else [*kinds, (replace(plain, calibration=turned), starts, spread * turned.inflation**0.5)]


@jax.jit
def _log_density(density: Density | WishartDensity, u: jax.Array) -> jax.Array:
    return density(u)


def _of_frames(fit: Estimated, likely: Likely) -> list[Kind]:
    """The likelihood of the frame covariance, and the same with the covariance that its maximum has for speckle."""
    prior = ModelPrior.of(fit.model, fit.mode.parameters, fit.u)
    scaling = Scaling.of(fit.minimum.problem.design, fit.minimum.score_variance)
    plain = WishartDensity.of(prior, fit.dataset, scaling, likely)
    turned = speckle_calibration(likely)
    inner, size = len(prior.coordinates), len(plain.names)
    starts = np.array([np.concatenate([point, likely.values[inner:size]]) for point in prior.starts(likely.values[:inner])])
    errors = np.sqrt(np.diagonal(free_inverse(likely.fisher, likely.free))[:size])
    same = np.append(np.array([name in fit.model.coordinates for name in prior.coordinates]), np.ones(size - inner, dtype=bool))
    spread = np.where(same & (errors > 0), errors, 0.01)
    return [(plain, starts, spread), (replace(plain, calibration=turned), starts, spread * turned.inflation**0.5)]


def _calibration(fit: Estimated, noise: Noise) -> Calibration | None:
    """None where the noise option knows nothing better than independent pixels."""
    if noise.option == "iid" or not noise.known or noise.moved is not None:
        return None
    return Calibration.of(fit.minimum.evaluation.u, fit.minimum.information, fit.minimum.independent, noise.covariance)


def finish(given: Given, asked: list[Question], drawn: Mapping[str, Drawn], *, confidence: float, predictions: int) -> Posterior:
    """A Posterior of the draws of all widths."""
    fit = given.fit
    model, dataset = fit.model, fit.dataset
    at = np.unique(np.geomspace(1, len(model.t), TIMES).round().astype(int)) - 1
    answers = {question.width: _answer(question, drawn[question.width], at, confidence) for question in asked}
    quoted = asked[-1]
    main, prior = drawn[quoted.width], quoted.density.prior
    before = _prior(quoted, at)
    return Posterior(
        engine=main.engine,
        exactness=main.exactness,
        names=model.names,
        units=model.units,
        coordinates=quoted.density.names,
        phi=dataset.phi,
        t=np.asarray(model.t)[at],
        answers=answers,
        prior=before,
        predictive=_predictive(quoted, answers[quoted.width], before, predictions),
        shards=main.shards,
        numbers=_named(drawn, quoted.width),
        decisions=tuple(dict.fromkeys(text for part in drawn.values() for text in part.decisions)) + _width_text(quoted, prior),
        statements=(*_likelihood_text(fit), *dict.fromkeys(text for part in drawn.values() for text in part.statements)),
        confidence=confidence,
    )


def _named(drawn: Mapping[str, Drawn], quoted: str) -> dict[str, float]:
    """Numbers of the width that is quoted by their names, those of the other with its name added."""
    return {name if width == quoted else f"{name}_{width}": value for width, part in drawn.items() for name, value in part.numbers.items()}


def _likelihood_text(fit: Estimated) -> tuple[str, ...]:
    """Which likelihood it is, where another than that of independent pixels was asked for."""
    if fit.noise.likely is not None:
        return ("posterior by the likelihood of the frame covariance (noise=wishart)",)
    if fit.noise_option.name == "wishart":
        return ("posterior by the likelihood of independent pixels, because that of noise=wishart was refused",)
    return ()


def _width_text(question: Question, prior: ModelPrior) -> tuple[str, ...]:
    lines = [f"prior of {name}: {text}" for name, text in prior.text.items()]
    calibration = question.density.calibration
    if calibration is not None:
        covariance = f"covariance of noise option {question.given.fit.noise.option}"
        own = "independent pixels" if question.divisible else "the likelihood of Gaussian speckle"
        lines.append(f"width calibrated: likelihood with the {covariance}, {calibration.inflation**0.5:.2f} times the errors of {own}")
    return tuple(lines)


def _answer(question: Question, drawn: Drawn, at: np.ndarray, confidence: float) -> Answer:
    """User parameters, scaling and rates of every draw."""
    density, given = question.density, question.given
    chains, count, size = drawn.u.shape
    u = drawn.u.reshape(-1, size)
    keys = jax.random.split(jax.random.fold_in(question.key, 1), len(u))
    found = _numbers(question, u, keys)
    scaling = found["scaling"]
    limits = density.scaling
    inside = np.all((scaling >= limits.lower) & (scaling <= limits.upper), axis=(1, 2)).reshape(chains, count)
    chosen = _kept(inside, question.rng("replacement"))

    def shaped(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values.reshape(chains, count, -1), chosen[..., None], axis=1).reshape(chains, count, *values.shape[1:])

    names = [name for name in found if name not in ("parameters", "scaling", "sigma")]
    both = shaped(scaling)
    answer = Answer(
        u=shaped(u),
        parameters=shaped(found["parameters"]),
        contrast=both[..., 1],
        offset=both[..., 0],
        sigma=shaped(found["sigma"]),
        rates={name: shaped(found[name][:, at]) for name in names},
        stats={name: np.take_along_axis(values, chosen, axis=1) for name, values in drawn.stats.items()},
        chains=drawn.chains,
    )
    if not inside.all():
        log.info("%.2g %% of the draws had contrast or offset out of bounds and were replaced by others", 100 * (1 - inside.mean()))
    return Answer(**{**vars(answer), "summary": summaries(answer, given.fit, at, confidence)})


def _numbers(question: Question, u: np.ndarray, keys: jax.Array) -> dict[str, np.ndarray]:
    """``Density.numbers`` of draws u (S, d), block by block on all threads."""
    threads, density = question.given.threads, question.density
    blocks = -(-len(u) // BLOCK)
    extra = blocks * BLOCK - len(u)
    points = np.concatenate([u, np.repeat(u[-1:], extra, axis=0)]).reshape(blocks, BLOCK, -1)
    each = jnp.concatenate([keys, jnp.repeat(keys[-1:], extra, axis=0)]).reshape(blocks, BLOCK)
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(lambda item: jax.tree.map(np.asarray, _evaluate(density, *item)), zip(points, each, strict=True)))
    return {name: np.concatenate([part[name] for part in parts])[: len(u)] for name in parts[0]}


@jax.jit
def _evaluate(density: Density, points: jax.Array, keys: jax.Array) -> dict[str, jax.Array]:
    def one(item: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        u, key = item
        return density.numbers(u, density.with_sums(u)[1], key)

    return jax.lax.map(one, (points, keys))


def _kept(inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(C, S) index of a draw of the same chain within bounds: itself, or another where it is not.

    The density of u has contrast and offset integrated over all values; leaving out what is beyond the bounds makes it exact.
    """
    chosen = np.tile(np.arange(inside.shape[1]), (len(inside), 1))
    for chain, good in zip(chosen, inside, strict=True):
        if good.any():
            chain[~good] = rng.choice(np.flatnonzero(good), np.count_nonzero(~good))
    return chosen


def summaries(answer: Answer, fit: Estimated, at: np.ndarray, confidence: float) -> dict[str, Summary]:
    """Every number that has draws: fitted parameters, rates at their best time, contrast, offset, sigma."""
    columns: dict[str, tuple[str, np.ndarray]] = {}
    for k, (name, unit) in enumerate(zip(fit.model.names, fit.model.units, strict=True)):
        if fit.mode.parameters[name].fixed is None:
            columns[name] = (unit, answer.parameters[..., k])
    t = np.asarray(fit.model.t)[at]
    for name, curve in fit.identified.curves.items():
        best = int(np.argmin(np.abs(t - curve.best_time))) if np.isfinite(curve.best_time) else len(t) // 2
        columns[f"{name}({t[best]:.4g} s)"] = (curve.unit, answer.rates[name][..., best])
    for k in range(answer.contrast.shape[-1]):
        columns[f"contrast[{k}]"] = ("1", answer.contrast[..., k])
        columns[f"offset[{k}]"] = ("1", answer.offset[..., k])
    if np.isfinite(answer.sigma).all():
        columns["sigma"] = ("1", answer.sigma)
    values = np.stack([column for _, column in columns.values()], axis=-1)
    tail = (0.5 * (1 - confidence), 0.5 * (1 + confidence))
    low, middle, high = np.quantile(values, (tail[0], 0.5, tail[1]), axis=(0, 1))
    mean, sd = values.mean(axis=(0, 1)), values.std(axis=(0, 1), ddof=1)
    moves = sd > 0
    checks = np.full((3, len(columns)), np.nan)
    if answer.chains:
        checks[:, moves] = chain_checks(values[..., moves])
    rows = zip(columns.items(), mean, sd, middle, low, high, *checks, strict=True)
    return {name: Summary(name, unit, *map(float, numbers)) for (name, (unit, _)), *numbers in rows}


def chain_checks(values: np.ndarray) -> np.ndarray:
    """(3, K) rank-normalised split R-hat, bulk ESS and tail ESS (Vehtari et al. 2021) of chains (C, S, K)."""
    axes = {"chain_axis": 0, "draw_axis": 1}
    tail = array_stats.ess(values, method="tail", prob=(0.05, 0.95), **axes)
    return np.array([array_stats.rhat(values, **axes), array_stats.ess(values, method="bulk", **axes), tail])


def _prior(question: Question, at: np.ndarray) -> Prior | None:
    """Draws of the prior, None where it is improper."""
    prior, scaling = question.density.prior, question.density.scaling
    rng = question.rng("prior")
    u = prior.draw(rng, PRIOR_DRAWS)
    if u is None:
        return None
    numbers = jax.tree.map(np.asarray, _prior_numbers(prior, jnp.asarray(u)))
    both = scaling.lower + (scaling.upper - scaling.lower) * rng.random((len(u), len(question.density.phi), 2))
    rates = {name: numbers[name][:, at] for name in numbers if name != "parameters"}
    return Prior(u, numbers["parameters"], rates, both[..., 1], both[..., 0], prior.text)


@jax.jit
def _prior_numbers(prior: ModelPrior, u: jax.Array) -> dict[str, jax.Array]:
    def one(point: jax.Array) -> dict[str, jax.Array]:
        w = prior.to_model(point)
        return {"parameters": prior.parameters(point, w)} | {name: jnp.exp(value) for name, value in prior.model.log_rates(w).items()}

    return jax.vmap(one)(u)


def _predictive(question: Question, answer: Answer, before: Prior | None, count: int) -> Predictive | None:
    """Predicted cuts of the draws of one width."""
    if not count:
        return None
    given, prior = question.given, question.density.prior
    to_model = jax.jit(jax.vmap(prior.to_model))
    u = answer.u[..., : len(prior.coordinates)]
    flat = [part.reshape(-1, *part.shape[2:]) for part in (u, answer.contrast, answer.offset, answer.sigma)]
    after = predictive.Drawn(np.asarray(to_model(flat[0])), *flat[1:])
    nothing = np.full(0 if before is None else len(before.u), np.nan)
    earlier = None if before is None else predictive.Drawn(np.asarray(to_model(before.u)), before.contrast, before.offset, nothing)
    return predictive.predict(given.fit.dataset, given.fit.model, given.model_rows, after, earlier, count=count, seed=given.seed)
