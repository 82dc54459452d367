"""What every sampler must do; ``test_contract.py`` runs it over all options in conf/posterior but ``none``."""

from functools import cache

import numpy as np

from homodyne import optimize
from homodyne.bayes import Question, questions
from homodyne.config import option
from homodyne.data import Dataset
from homodyne.draws import Answer, Posterior
from homodyne.groups import options
from homodyne.importance import evaluate
from homodyne.posterior.base import Given

from .. import factory
from ..factory import STATIC, simulated
from ..speckle import mode as speckle_mode
from ..speckle import speckle

SAMPLERS = tuple(name for name in options("posterior") if name != "none")
QUICK = {"nuts": {"draws": 500}, "cmc": {"shards": 2}}
"""Fewer draws; an option that is not named runs with its defaults."""
LABELS = {"laplace": "approximate", "psis": "exact", "nuts": "exact", "cmc": "psis_corrected", "auto": "exact"}
BIAS = {"laplace": 0.15}
"""By which a mean may be off, in standard deviations: a normal distribution at the mode knows no skewness."""
PHI = (0.0, 60.0)


def two_parameters():
    """D0 and alpha, D_offset kept."""
    return option("mode", "static", parameters=factory.fixed(D_offset=STATIC["D_offset"]))


@cache
def data(kind: str) -> Dataset:
    return speckle(2, 40, phi=PHI) if kind == "speckle" else simulated(STATIC, PHI, 50, sigma=0.015, seed=3)


@cache
def given(kind: str = "iid", seed: int = 1, contrast: float = 1.0) -> Given:
    """What group posterior starts from: independent pixels, or speckle with the errors of the sandwich; contrast: its upper bound."""
    mode, noise = (two_parameters(), "iid") if kind == "iid" else (speckle_mode(), "sandwich")
    scaling = option("per_angle_scaling", "individual", contrast_bounds=[0.0, contrast])
    job = factory.job(mode=mode, per_angle_scaling=scaling, noise=noise)
    _, rows, estimated = optimize.fit(job, data(kind), None)
    return Given(estimated, rows, seed, 1, None, option("cmc_backend", "serial"))


def sampler(name: str, **settings):
    return option("posterior", name, **({"predictive": 0} | (QUICK[name] if name in QUICK else {}) | settings))


@cache
def posterior(name: str, kind: str = "iid", seed: int = 1, contrast: float = 1.0) -> Posterior:
    found = sampler(name).sample(given(kind, seed, contrast))
    assert found is not None
    return found


@cache
def question(kind: str = "iid") -> Question:
    return questions(given(kind), "model")[0]


@cache
def exact() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Brute force: u (S, 3) of a grid over +-6 deviations of everything that is sampled, weights (S,), mean and covariance in v.

    The density is smooth, so that the sum over a grid of 0.5 deviations is its integral.
    """
    target = question().target
    axis = np.arange(-6.0, 6.1, 0.5)
    v = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    log, _ = evaluate(target, v, 1, lambda done, total: None)
    weights = np.exp(log - log.max())
    weights /= weights.sum()
    mean = weights @ v
    return target.mode + v @ target.root.T, weights, mean, (weights[:, None] * (v - mean)).T @ (v - mean)


def exact_moments() -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the user's numbers on the grid."""
    u, weights, _, _ = exact()
    # Coordinates of D0 and alpha with D_offset kept: ln D0 t_ref^alpha, alpha. Limits are so far away that z is u but for a logit.
    low, high = (np.append(side[:2], np.nan) for side in question().density.box)
    place = 1 / (1 + np.exp(-u[:, :2]))
    first, alpha = (low[:2] + (high - low)[:2] * place).T
    t = given().fit.model.t
    values = {"D0": np.exp(first) * (t[0] * t[-1]) ** (-0.5 * alpha), "alpha": alpha, "sigma": np.exp(0.5 * u[:, 2])}
    means = {name: float(weights @ value) for name, value in values.items()}
    return {name: (means[name], float(np.sqrt(weights @ (value - means[name]) ** 2))) for name, value in values.items()}


def effective(found: Posterior, name: str) -> float:
    """Number of independent draws that a mean is as good as."""
    summary = found.answer.summary[name]
    return summary.ess_bulk if found.answer.chains else found.numbers["ess"] if "ess" in found.numbers else found.answer.sigma.size


def assert_brute_force(name: str) -> None:
    """Means within four errors, standard deviations likewise: of parameters and the noise level."""
    found = posterior(name)
    bias = BIAS[name] if name in BIAS else 0.0
    for parameter, (mean, sd) in exact_moments().items():
        summary, size = found.answer.summary[parameter], effective(found, parameter)
        assert abs(summary.mean - mean) < (bias + 4 / np.sqrt(size)) * sd, parameter
        assert abs(summary.sd / sd - 1) < bias + 4 / np.sqrt(2 * size), parameter


def assert_same_as_another(name: str, other: str) -> None:
    """Contrast, offset and rates as well, and the ends of the intervals."""
    first, second = posterior(name), posterior(other)
    assert list(first.answer.summary) == list(second.answer.summary)
    bias = max(BIAS[one] if one in BIAS else 0.0 for one in (name, other))
    for key, summary in first.answer.summary.items():
        reference = second.answer.summary[key]
        error = np.sqrt(1 / effective(first, key) + 1 / effective(second, key))
        for what, factor in (("mean", 1.0), ("median", 1.25), ("lower", 2.7), ("upper", 2.7)):
            difference = abs(getattr(summary, what) - getattr(reference, what)) / reference.sd
            assert difference < 1.5 * bias + 4 * factor * error, (key, what)


def assert_shapes(found: Posterior) -> None:
    answer = found.answer
    chains, count = answer.sigma.shape
    assert answer.u.shape == (chains, count, len(found.coordinates))
    assert answer.parameters.shape == (chains, count, len(found.names))
    assert answer.contrast.shape == answer.offset.shape == (chains, count, len(found.phi))
    assert answer.rates["J"].shape == (chains, count, len(found.t))
    assert all(values.shape == (chains, count) for values in answer.stats.values())
    assert all(np.isfinite(part).all() for part in (answer.u, answer.parameters, answer.contrast, answer.offset, answer.sigma))


def assert_intervals(answer: Answer, confidence: float) -> None:
    """Ends of the intervals are quantiles of the draws, and the rates those of the parameters of the same draw."""
    names = ("D0", "alpha", "D_offset")
    for k, name in enumerate(names[:2]):
        summary, tail = answer.summary[name], 0.5 * (1 - confidence)
        draws = np.sort(answer.parameters[..., k].ravel())
        for end, probability in ((summary.lower, tail), (summary.median, 0.5), (summary.upper, 1 - tail)):
            assert abs((draws <= end).mean() - probability) < 2 / len(draws)
        assert abs(summary.mean - np.mean(answer.parameters[..., k])) < 1e-9 * summary.sd
    D0, alpha, offset = np.moveaxis(answer.parameters, -1, 0)
    t = given().fit.model.t
    np.testing.assert_allclose(answer.rates["J"][..., -1], D0 * t[-1] ** alpha + offset, rtol=1e-9)


def assert_reproducible(name: str) -> None:
    again, other = sampler(name).sample(given()), posterior(name, seed=2)
    assert again is not None
    for found, expected in zip(vars(again.answer).items(), vars(posterior(name).answer).items(), strict=True):
        if isinstance(found[1], np.ndarray):
            np.testing.assert_array_equal(found[1], expected[1], err_msg=found[0])
    assert not np.array_equal(other.answer.parameters, posterior(name).answer.parameters)


def assert_both_widths(name: str) -> None:
    """On speckle: the calibrated answer has the covariance of the noise option, the other that of independent pixels."""
    found, fit = posterior(name, "speckle"), given("speckle").fit
    assert set(found.answers) == {"model", "calibrated"}
    assert found.answer is found.answers["calibrated"]
    for width, covariance in (("model", fit.minimum.independent), ("calibrated", fit.noise.covariance)):
        answer = found.answers[width]
        # Coefficients of individual scaling are offset and contrast, angle by angle.
        both = np.stack([answer.offset, answer.contrast], -1).reshape(answer.sigma.size, -1)
        joint = np.concatenate([answer.u[..., :-1].reshape(answer.sigma.size, -1), both], axis=1)
        ratio = np.sqrt(np.diagonal(np.cov(joint.T)) / np.diagonal(covariance))
        np.testing.assert_allclose(ratio, 1.0, atol=0.2, err_msg=width)
        scale = np.sqrt(np.outer(np.diagonal(covariance), np.diagonal(covariance)))
        np.testing.assert_allclose(np.corrcoef(joint.T), covariance / scale, atol=0.15, err_msg=width)
    wider = np.sqrt(np.diagonal(fit.noise.covariance) / np.diagonal(fit.minimum.independent))[: len(fit.u)]
    assert wider.min() > 1.5, "otherwise nothing is tested"
    assert any("width calibrated: likelihood with the covariance of noise option sandwich" in text for text in found.decisions)


def assert_bounds_of_contrast(name: str) -> None:
    """Draws are those of the density without the bound, as far as they are within it."""
    bound = 0.148
    free, bounded = posterior(name).answer, posterior(name, contrast=bound).answer
    assert bounded.contrast.max() <= bound < free.contrast.max()
    allowed = np.all(free.contrast <= bound, axis=-1)
    assert 0.05 < allowed.mean() < 0.6
    sd = free.contrast[allowed].std(axis=0)
    np.testing.assert_allclose((bounded.contrast.mean(axis=(0, 1)) - free.contrast[allowed].mean(axis=0)) / sd, 0.0, atol=0.35)


def assert_labelled(name: str) -> None:
    found = posterior(name)
    assert found.exactness == LABELS[name]
    assert found.engine == ("psis" if name == "auto" else name)
    assert found.answer.chains == (name == "nuts")
    checked = [summary.rhat for summary in found.answer.summary.values()]
    assert np.isfinite(checked).all() if name == "nuts" else np.isnan(checked).all()
    assert found.numbers["seconds"] > 0
    assert any("prior of alpha: uniform in [-2, 2]" in text for text in found.decisions)
