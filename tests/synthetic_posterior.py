"""A plausible Posterior of a simulated measurement, skewed and correlated as real ones are; nothing is sampled."""

from dataclasses import replace

import jax
import numpy as np
from arviz_stats import ess, rhat

from homodyne.config import option
from homodyne.data import Dataset
from homodyne.draws import Answer, Posterior, Prior, Shards, Summary
from homodyne.mode.base import Model
from homodyne.predictive import Drawn, predict
from homodyne.results import Fit

from .example_run import SIGMA, example_fit, rows_of

CONFIDENCE = 0.95
BINS = 40


def synthetic_posterior(
    dataset: Dataset, *, engine: str = "nuts", chains: int = 4, draws: int = 300, wider: float = 1.7, shards: int = 0, seed: int = 0
) -> Posterior:
    """Chains around the truth; ``wider`` is the ratio of the second width, 0 for none; ``shards`` 0 for none."""
    fit, rng = example_fit(dataset), np.random.default_rng(seed)
    model = option("mode", fit.mode).bind(dataset.t, dataset.q, dataset.gap, dataset.phi)
    markov = engine in ("nuts", "cmc")
    centre = model.coordinates_of({name: estimate.value for name, estimate in fit.parameters.items()})
    moves = _moves(rng, model, (chains, draws), 0.6 if markov else 0.0)
    t = dataset.t[:: max(1, dataset.n // 50)]
    stats = _stats(rng, moves, markov)
    answers = {"model": _answer(model, fit, dataset, centre, moves, stats, markov, seed)}
    if wider:
        answers["calibrated"] = _answer(model, fit, dataset, centre, wider * moves, stats, markov, seed)
    prior = _prior(rng, model, fit, dataset, centre)
    drawn = [Drawn(part.u.reshape(-1, part.u.shape[-1])[:, : len(centre)], *_flat(part)) for part in (answers["model"],)]
    before = Drawn(prior.u, prior.contrast, prior.offset, np.full(len(prior.u), np.nan))
    posterior = Posterior(
        engine=engine,
        exactness="exact" if engine != "cmc" else "psis_corrected",
        names=model.names,
        units=model.units,
        coordinates=(*model.coordinates, "ln sigma^2"),
        phi=dataset.phi,
        t=t,
        answers=answers,
        prior=prior,
        predictive=predict(dataset, model, rows_of(fit, dataset), drawn[0], before, count=60, seed=1),
        shards=None,
        numbers={"k_hat": 0.31, "evaluations": 2000.0, "seconds": 12.5, "ess": float("nan")},
        decisions=("auto: psis, k-hat 0.31 is below 0.7",),
        statements=("contrast and offset are integrated out exactly", "the interval to quote is the calibrated one"),
        confidence=CONFIDENCE,
    )
    return replace(posterior, shards=_shards(rng, posterior, shards)) if shards else posterior


def _moves(rng: np.random.Generator, model: Model, shape: tuple[int, int], memory: float) -> np.ndarray:
    """(C, S, p + 1) skewed steps from the centre: correlated rates and exponent, chains that remember."""
    size = len(model.coordinates)
    z = rng.standard_normal((*shape, size + 1))
    for s in range(1, shape[1]):
        z[:, s] = memory * z[:, s - 1] + np.sqrt(1 - memory**2) * z[:, s]
    z += 0.18 * (z**2 - 1)
    mixing = np.eye(size + 1) + 0.5 * np.tri(size + 1, k=-1) * rng.choice([-1, 1], (size + 1, size + 1))
    scale = np.array([0.5 if name == "phi0" else 0.03 for name in model.coordinates] + [0.01])
    return scale * (z @ mixing.T)


def _answer(
    model: Model, fit: Fit, dataset: Dataset, centre: np.ndarray, moves: np.ndarray, stats: dict[str, np.ndarray], markov: bool, seed: int
) -> Answer:
    rng, shape, t = np.random.default_rng(seed), moves.shape[:2], dataset.t[:: max(1, dataset.n // 50)]
    u = np.concatenate([centre, [2 * np.log(SIGMA)]]) + moves
    flat = u.reshape(-1, u.shape[-1])[:, : len(centre)]
    parameters, log_rates = jax.vmap(lambda v: (model.parameters(v), model.log_rates(v)))(flat)
    contrast, offset = (
        value + error * rng.standard_normal((*shape, len(value)))
        for value, error in ((fit.contrast, fit.contrast_error), (fit.offset, fit.offset_error))
    )
    step = max(1, dataset.n // 50)
    rates = {name: np.exp(np.asarray(rate))[:, ::step].reshape(*shape, len(t)) for name, rate in log_rates.items()}
    answer = Answer(u, np.asarray(parameters).reshape(*shape, -1), contrast, offset, np.exp(0.5 * u[..., -1]), rates, stats, chains=markov)
    return replace(answer, summary=_summary(model, fit, answer, t))


def _summary(model: Model, fit: Fit, answer: Answer, t: np.ndarray) -> dict[str, Summary]:
    numbers = {name: (unit, answer.parameters[..., k]) for k, (name, unit) in enumerate(zip(model.names, model.units, strict=True))}
    for name, rate in answer.rates.items():
        at = int(np.argmin(np.abs(t - fit.curves[name].best_time)))
        numbers[f"{name}({t[at]:.3g} s)"] = fit.curves[name].unit, rate[..., at]
    for k in range(len(fit.phi)):
        numbers |= {f"contrast[{k}]": ("1", answer.contrast[..., k]), f"offset[{k}]": ("1", answer.offset[..., k])}
    numbers["sigma"] = "1", answer.sigma
    return {name: _row(name, unit, values, answer.chains) for name, (unit, values) in numbers.items()}


def _row(name: str, unit: str, values: np.ndarray, markov: bool) -> Summary:
    low, middle, high = np.quantile(values, [0.5 - CONFIDENCE / 2, 0.5, 0.5 + CONFIDENCE / 2]).tolist()
    row = Summary(name, unit, float(values.mean()), float(values.std()), middle, low, high, np.nan, 0.8 * values.size, np.nan)
    if markov:
        tail = float(ess(values, method="tail", prob=(0.05, 0.95)))
        row = replace(row, rhat=float(rhat(values)), ess_bulk=float(ess(values)), ess_tail=tail)
    return row


def _stats(rng: np.random.Generator, moves: np.ndarray, markov: bool) -> dict[str, np.ndarray]:
    shape = moves.shape[:2]
    lp = -0.5 * rng.chisquare(moves.shape[-1], shape)
    if not markov:
        return {"lp": lp}
    energy = -lp + 0.5 * rng.chisquare(moves.shape[-1], shape)
    rate, steps = rng.uniform(0.7, 1.0, shape), rng.integers(1, 4, shape)
    stats = {"lp": lp, "energy": energy, "diverging": rng.random(shape) < 0.01, "tree_depth": steps, "n_steps": 2**steps - 1}
    return stats | {"acceptance_rate": rate, "step_size": np.full(shape, 0.6)}


def _prior(rng: np.random.Generator, model: Model, fit: Fit, dataset: Dataset, centre: np.ndarray, count: int = 800) -> Prior:
    width = np.array([30.0 if name == "phi0" else 0.5 if name in ("alpha", "beta") else 1.2 for name in model.coordinates])
    u = centre + 0.5 * width + width * rng.standard_normal((count, len(centre)))
    parameters, log_rates = jax.vmap(lambda v: (model.parameters(v), model.log_rates(v)))(u)
    step = max(1, dataset.n // 50)
    return Prior(
        u=u,
        parameters=np.asarray(parameters),
        rates={name: np.exp(np.asarray(rate))[:, ::step] for name, rate in log_rates.items()},
        contrast=rng.uniform(0.05, 0.5, (count, len(fit.phi))),
        offset=1 + 0.05 * rng.standard_normal((count, len(fit.phi))),
        text={name: f"{name}: by its coordinates, see docs/posterior.md" for name in model.names},
    )


def _flat(answer: Answer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = answer.contrast.shape[-1]
    return answer.contrast.reshape(-1, count), answer.offset.reshape(-1, count), answer.sigma.ravel()


def _shards(rng: np.random.Generator, posterior: Posterior, count: int) -> Shards:
    """Sub-posteriors sqrt(K) as wide as the whole; one was run again and one is poor."""
    answer, angles = posterior.answers["model"], len(posterior.phi)
    joint = (*posterior.coordinates, *(f"{word}[{k}]" for word in ("contrast", "offset") for k in range(angles)))
    middle = np.median(answer.parameters, axis=(0, 1))
    spread = 0.5 * np.diff(np.quantile(answer.parameters, [0.16, 0.84], axis=(0, 1)), axis=0)[0] * np.sqrt(count)
    mean = rng.standard_normal((count, len(joint)))
    factor = rng.standard_normal((count, len(joint), 2 * len(joint)))
    status = ["good"] * count
    status[1], status[-1] = "rerun", "poor"
    return Shards(
        names=joint,
        mean=mean,
        covariance=factor @ factor.swapaxes(1, 2) / (2 * len(joint)),
        parameter_mean=middle + spread * rng.standard_normal((count, len(middle))),
        parameter_sd=spread * rng.uniform(0.8, 1.2, (count, len(middle))),
        pairs=rng.integers(500, 520, count),
        rhat=1 + 0.01 * rng.random(count),
        ess=rng.uniform(400, 900, count),
        divergences=rng.integers(0, 3, count),
        attempts=np.where(np.arange(count) == 1, 2, 1),
        seconds=rng.uniform(1, 2, count),
        status=tuple(status),
    )
