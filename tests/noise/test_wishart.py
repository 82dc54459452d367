"""Maximum likelihood of the frame covariance: derivatives, its covariance, real speckle, and when it is refused."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import homodyne
from homodyne.config import option
from homodyne.noise.base import Minimised
from homodyne.optimizer.loss import LOSSES
from homodyne.optimizer.trust_region import minimise
from homodyne.pairsums import WeightedLoss
from homodyne.problem import PixelSource, Problem, information, states_and_slopes
from homodyne.speckle import Speckle, correlate, drawn_fields, expose, intensities
from homodyne.tiles import pack
from homodyne.wishart import Likelihood, Shot, used_frames

from .. import factory
from ..factory import DT, GAP, LAMINAR, Q, exact_maps, measured
from . import contract

TRUTH = {"D0": 6e4, "alpha": -0.5, "D_offset": 0.0}
PHI = (0.0, 45.0, 90.0)
PIXELS, PHOTONS, CONTRAST = 500, 5.0, 0.2
SCALINGS = ("individual", "averaged", "shrinkage", "constant")


def model_of(n: int):
    return option("mode", "static", parameters=factory.fixed(D_offset=0.0)).bind(factory.times(n), Q, GAP, np.array(PHI))


@cache
def speckled(seed: int, n: int = 60, pixels: int = PIXELS, photons: float | None = PHOTONS):
    """Maps of simulated speckle and photon counts."""
    detector = {"noise": "speckle", "pixels": pixels, "photons": photons, "threads": 1}
    return homodyne.simulate(TRUTH, PHI, q=Q, gap=GAP, dt=DT, frames=n, contrast=CONTRAST, mode="static", seed=seed, **detector)


def minimum(data, scaling: str = "individual", **source) -> Minimised:
    """The least-squares fit of a static Dataset, started at the truth."""
    model = model_of(data.n)
    design, _ = factory.problem_parts(data, scaling)
    problem = Problem(model, design, PixelSource(data, threads=1, tiles_at_once=1, **source))
    local = minimise(problem, model.coordinates_of(TRUTH), contract.TOLERANCES)
    assert local is not None
    pairs = int(data.pairs.sum())
    variance = local.evaluation.chi2 / pairs
    fitted = len(model.coordinates) + design.count
    return Minimised(problem, local.evaluation, information(local.evaluation, problem), None, 1.0, variance, pairs, fitted)


def fit(data, scaling: str = "individual", **settings):
    return option("noise", "wishart", **settings).covariance(minimum(data, scaling))


def masked(data, frames):
    """The same Dataset with frames that are not used."""
    maps = np.array([data.map(k) for k in range(len(data.phi))])
    maps[:, frames], maps[:, :, frames] = np.nan, np.nan
    return replace(data, tiles=pack(maps))


def equal_to_the_model(scaling: str, shot: float, bad=()) -> tuple[Likelihood, np.ndarray]:
    """A likelihood of laminar flow whose measured covariance is its S at the returned numbers."""
    phi, n, pixels = (-50.0, 10.0, 70.0), 20, 300.0
    contrast, static, scale = np.array([0.2, 0.25, 0.3]), np.array([0.0, 0.02, -0.005]), np.array([1.0, 1.1, 0.9])
    if scaling == "averaged":
        contrast, static = np.full(3, 0.2), np.full(3, 0.01)
    maps = exact_maps(LAMINAR, phi, n, contrast=contrast, offset=static + 1)
    maps = 1 + (maps - 1) * (1 - 1 / pixels)
    level = shot * (1 + 0.2 * np.cos(np.arange(n)))
    maps[:, np.arange(n), np.arange(n)] += np.outer(scale, level) * (1 - 1 / pixels)
    data = measured(maps, phi)
    data = masked(replace(data, diagonal=np.diagonal(maps, axis1=1, axis2=2).copy()), list(bad))
    settings = {"contrast": contrast.tolist(), "offset": (1 + static).tolist()} if scaling == "constant" else {}
    problem = factory.problem(data, per_angle_scaling=option("per_angle_scaling", scaling, **settings))
    u = problem.model.coordinates_of(LAMINAR)
    coefficients = {
        "individual": np.stack([static, contrast], axis=1).ravel(),
        "averaged": np.array([static[0], contrast[0]]),
        "shrinkage": np.concatenate([static, contrast]),
        "constant": np.zeros(0),
    }
    used, whole = used_frames(data)
    assert whole
    values = np.concatenate([u, coefficients[scaling], scale])
    known = information(problem.evaluate(u), problem)
    diagonal = Shot(np.zeros((3, n)), np.tile(level, (3, 1)), np.ones(3))
    prior = np.zeros((len(values),) * 2)
    if scaling == "shrinkage":
        prior[len(u) : -3, len(u) : -3] = problem.design.precision[0] / 1e-4
    return Likelihood(problem, known, np.full(3, pixels), diagonal, used, prior, 1), values


def steps_of(values: np.ndarray) -> np.ndarray:
    return 1e-5 * np.maximum(np.abs(values), 0.1)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_score_is_the_derivative_of_the_likelihood(scaling):
    likelihood, values = equal_to_the_model(scaling, 0.3)
    values = values * (1 + 0.02 * np.cos(np.arange(len(values))))
    score = likelihood.at(values).score
    for k, step in enumerate(steps_of(values)):
        ahead, behind = (likelihood.at(values + sign * step * np.eye(len(values))[k]).log_likelihood for sign in (1, -1))
        assert (ahead - behind) / (2 * step) == pytest.approx(score[k], rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_where_data_equal_the_model_the_score_vanishes_and_its_slope_is_the_information(scaling):
    likelihood, values = equal_to_the_model(scaling, 0.3, bad=(3, 4, 17))
    point = likelihood.at(values)
    own = point.score + likelihood.prior @ values
    root = np.sqrt(np.diagonal(point.fisher))
    np.testing.assert_allclose(own / root, 0.0, atol=1e-7)
    for k, step in enumerate(steps_of(values)):
        ahead, behind = (likelihood.at(values + sign * step * np.eye(len(values))[k]).score for sign in (1, -1))
        np.testing.assert_allclose((behind - ahead) / (2 * step) / root / root[k], point.fisher[k] / root / root[k], atol=1e-5)


def test_likelihood_equals_its_definition_on_the_frames_that_are_used():
    likelihood, values = equal_to_the_model("individual", 0.3, bad=(0, 7))
    values = values * 1.01
    kept = np.delete(np.arange(20), [0, 7])
    u = values[: likelihood.information.size]
    model, data = likelihood.problem.model, likelihood.problem.source.dataset
    parameters = dict(zip(model.names, np.asarray(model.parameters(u)), strict=True))
    contrast, offset = likelihood.scaling(values)
    exact = exact_maps(parameters, data.phi, 20, contrast=contrast, offset=offset) - 1
    total = 0.0
    for k in range(3):
        s = exact[k] + values[-3 + k] * np.diag(likelihood.shot.shot[k])
        s = s[np.ix_(kept, kept)]
        c = data.map(k)
        np.fill_diagonal(c, data.diagonal[k])
        m = (c[np.ix_(kept, kept)] - 1) * 300 / 299
        total -= 150 * (np.linalg.slogdet(s)[1] + np.trace(np.linalg.solve(s, m)))
    assert likelihood.at(values).log_likelihood == pytest.approx(total, rel=1e-10)


def score_images(likelihood: Likelihood, values: np.ndarray) -> np.ndarray:
    """(k, n, n) derivative of the score of the first angle by its measured covariance, by single elements of it."""
    data, n = likelihood.problem.source.dataset, likelihood.problem.source.dataset.n
    flat = likelihood.at(values).score
    out = np.zeros((len(values), n, n))
    for i in range(n):
        for j in range(i, n):
            maps, diagonal = data.map(0), data.diagonal.copy()
            maps[i, j] += i != j
            diagonal[0, i] += i == j
            shifted = replace(data, tiles=pack(maps[None]), diagonal=diagonal)
            problem = replace(likelihood.problem, source=PixelSource(shifted, threads=1, tiles_at_once=1))
            change = replace(likelihood, problem=problem).at(values).score - flat
            out[:, i, j] = out[:, j, i] = change * (1 if i == j else 0.5)
    return out


@pytest.mark.parametrize("own_mean", [True, False])
def test_covariance_of_the_score_is_that_of_simulated_speckle(own_mean):
    """3000 small records of few photons and strong contrast, where the fourth cumulant and the means of the frames count."""
    n, pixels, photons, contrast = 8, 400, 0.7, 0.5
    model = option("mode", "static", parameters=factory.fixed(D_offset=0.0)).bind(factory.times(n), Q, GAP, np.zeros(1))
    u = model.coordinates_of({"D0": 1e5, "alpha": -0.3, "D_offset": 0.0})
    x = np.asarray(states_and_slopes(model, np.zeros(1), u, slopes=False)[0])[0, 0]
    data = replace(measured(np.ones((1, n, n)), [0.0]), diagonal=np.ones((1, n)))
    design, source = factory.problem_parts(data)
    problem = Problem(model, design, source)
    shot = Shot(np.zeros((1, n)), np.full((1, n), 1 / photons), np.ones(1))
    used, prior = np.ones((1, n), dtype=bool), np.zeros((5, 5))
    likelihood = Likelihood(problem, information(problem.evaluate(u), problem), np.array([float(pixels)]), shot, used, prior, 1)
    values = np.concatenate([u, [0.0, contrast, 1.0]])
    images = score_images(likelihood, values)
    fields, detector, rng = drawn_fields(x), Speckle(pixels=pixels, photons=photons), np.random.default_rng(5)
    scores = []
    for _ in range(3000):
        c2, counts = correlate(expose(intensities(fields, contrast, detector, rng), detector, rng))
        c2[np.diag_indices(n)] -= 1 / counts if own_mean else 1 / photons
        scores.append(np.tensordot(images, c2))
    expected = np.sqrt(np.diagonal(likelihood.score_covariance(values, 1.0, 1.0, own_mean=own_mean)))
    np.testing.assert_allclose(np.std(scores, axis=0) / expected, 1.0, atol=0.06)
    fisher = np.sqrt(np.diagonal(likelihood.at(values).fisher))
    assert np.max(np.abs(np.std(scores, axis=0) / fisher - 1)) > 0.15


def test_without_contrast_the_covariance_of_the_score_is_the_information():
    """Counts of pixels of unequal brightness (an offset above 1) without any speckle have no cumulants but those of Poisson."""
    likelihood, values = equal_to_the_model("averaged", 0.3)
    size = likelihood.information.size
    values[size : size + 2] = [0.05, 1e-5]
    fisher = likelihood.at(values).fisher
    covariance = likelihood.score_covariance(values, 1.0, 1.0, own_mean=True)
    root = np.sqrt(np.diagonal(fisher))
    np.testing.assert_allclose(covariance / np.outer(root, root), fisher / np.outer(root, root), atol=1e-3)


@cache
def repeats(count: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(count, 2) errors of least squares and of maximum likelihood, and stated errors of the second: ln of the rate, exponent."""
    squares, likely, errors = [], [], []
    for seed in range(count):
        found = minimum(speckled(seed))
        truth = found.problem.model.coordinates_of(TRUTH)
        noise = option("noise", "wishart").covariance(found)
        assert noise.option == "wishart"
        squares.append(found.evaluation.u - truth)
        likely.append(noise.moved.u - truth)
        errors.append(np.sqrt(np.diagonal(noise.covariance)[:2]))
    return np.array(squares), np.array(likely), np.array(errors)


def test_values_are_unbiased_and_scatter_less_than_those_of_least_squares():
    squares, likely, _ = repeats()
    scatter = np.std(likely, axis=0)
    assert np.all(np.abs(likely.mean(axis=0)) < 3 * scatter / np.sqrt(len(likely)))
    assert np.all(scatter < 0.8 * np.std(squares, axis=0))


def test_pulls_of_simulated_speckle_have_standard_deviation_one():
    _, likely, errors = repeats()
    pull = likely / errors
    assert np.all(np.abs(np.sqrt(np.mean(pull**2, axis=0)) - 1) < 0.3)


def test_the_gain_over_least_squares_is_said():
    """The stated ratio of errors is that of the sandwich to those of the result."""
    found = minimum(speckled(0))
    noise, squares = (option("noise", name).covariance(found) for name in ("wishart", "sandwich"))
    gain = np.sqrt(np.diagonal(squares.covariance) / np.diagonal(noise.covariance))
    names = found.problem.model.coordinates
    assert f"{gain[0]:.2f} ({names[0]}), {gain[1]:.2f} ({names[1]})" in noise.statements[-1]
    assert gain[1] > 1.3


def test_values_are_those_of_a_record_without_the_bad_frames():
    """Bad frames at the end, so that the rest is a record of its own."""
    whole = speckled(1)
    cut = slice(0, 50)
    maps = np.array([whole.map(k)[cut, cut] for k in range(3)])
    short = replace(measured(maps, PHI), diagonal=whole.diagonal[:, cut], pixels=whole.pixels, counts=whole.counts[:, cut])
    found = [fit(data) for data in (masked(whole, slice(50, 60)), short)]
    values = [np.asarray(model_of(n).parameters(noise.moved.u)) for n, noise in zip((60, 50), found, strict=True)]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)
    np.testing.assert_allclose(found[0].moved.contrast, found[1].moved.contrast, rtol=1e-5)


def test_averaged_scaling_of_maps_measured_twice_halves_the_variance():
    once = factory.reordered(speckled(2), [0, 1])
    twice = factory.reordered(once, [0, 1, 0, 1])
    single, double = (fit(data, "averaged", shot="fixed", speckle_size=1.0) for data in (once, twice))
    np.testing.assert_allclose(double.moved.values, single.moved.values, rtol=1e-4)
    root = np.sqrt(np.diagonal(single.covariance))
    np.testing.assert_allclose(2 * double.covariance / np.outer(root, root), single.covariance / np.outer(root, root), atol=1e-3)


def test_an_excess_on_the_diagonal_is_found_by_a_free_scale_and_moves_only_a_fixed_one():
    data = speckled(3)
    brighter = replace(data, diagonal=data.diagonal + 0.025)
    free, fixed = (fit(brighter, shot=shot) for shot in ("free_scale", "fixed"))
    plain = fit(data)
    error = np.sqrt(np.diagonal(plain.covariance)[:2])
    assert np.all(np.abs(free.moved.u - plain.moved.u) < 0.2 * error)
    assert np.max(np.abs(fixed.moved.u - plain.moved.u) / error) > 1
    assert sum("the raw diagonal holds 1.1" in sentence for sentence in free.statements) == 3
    assert not any("the raw diagonal holds" in sentence for sentence in plain.statements)


def test_without_shot_noise_values_scatter_far_less_than_those_of_least_squares():
    found = [minimum(speckled(seed, photons=None)) for seed in range(4)]
    noises = [option("noise", "wishart").covariance(item) for item in found]
    assert {noise.option for noise in noises} == {"wishart"}
    truth = found[0].problem.model.coordinates_of(TRUTH)
    squares = np.array([item.evaluation.u - truth for item in found])
    likely = np.array([noise.moved.u - truth for noise in noises])
    assert np.all(np.sqrt(np.mean(likely**2, axis=0)) < 0.5 * np.sqrt(np.mean(squares**2, axis=0)))


def test_shot_noise_of_an_unknown_mean_count_is_taken_from_the_diagonal():
    """Its scale is fitted in any case; what is lost is how it differs from frame to frame."""
    data = speckled(4)
    known, unknown = fit(data), fit(replace(data, counts=np.full(3, np.nan)))
    assert unknown.option == "wishart"
    assert np.all(np.abs(unknown.moved.u - known.moved.u) < np.sqrt(np.diagonal(known.covariance)[:2]))


def test_mean_map_and_counts_give_the_truth_back_however_few_the_pixels():
    """What 30 pixels give on average: each covariance is short by 1/30, and so is the shot noise."""
    n, pixels, counts = 40, 30.0, np.full((3, 40), 0.5)
    maps = exact_maps(TRUTH, PHI, n, contrast=CONTRAST)
    maps = 1 + (maps - 1) * (1 - 1 / pixels)
    diagonal = np.diagonal(maps, axis1=1, axis2=2) + (1 - 1 / pixels) / counts
    noisy = maps + factory.noise_like(maps, 1e-7, 0)
    data = replace(measured(noisy, PHI), diagonal=diagonal, pixels=np.full(3, pixels), counts=counts)
    for shot in ("fixed", "free_scale"):
        moved = fit(data, shot=shot).moved
        np.testing.assert_allclose(moved.u, model_of(n).coordinates_of(TRUTH), atol=1e-4)
        np.testing.assert_allclose(moved.contrast, CONTRAST, rtol=1e-4)


def test_shrinkage_without_spread_is_averaged_scaling():
    data = speckled(5)
    narrow = option("per_angle_scaling", "shrinkage", contrast_spread=1e-4, offset_spread=1e-6)
    averaged, shrunk = (fit(data, scaling) for scaling in ("averaged", narrow))
    np.testing.assert_allclose(shrunk.moved.u, averaged.moved.u, atol=1e-3)
    np.testing.assert_allclose(shrunk.moved.contrast, averaged.moved.contrast, rtol=1e-3)


def replaced_diagonal(data):
    """The mean of the neighbours, as many programs leave it."""
    off = np.array([np.diagonal(data.map(k), 1) for k in range(3)])
    left, right = np.pad(off, [(0, 0), (1, 0)], mode="edge"), np.pad(off, [(0, 0), (0, 1)], mode="edge")
    return replace(data, diagonal=0.5 * (left + right))


def without_first_lag(data):
    maps = np.array([data.map(k) for k in range(3)])
    lag = np.abs(np.subtract.outer(np.arange(data.n), np.arange(data.n)))
    return replace(data, tiles=pack(np.where(lag == 1, np.nan, maps)))


UNKNOWN = np.full(3, np.nan)
REFUSALS = {
    "pixels is unknown": (lambda data: replace(data, pixels=UNKNOWN), {}),
    "raw diagonal is not known": (lambda data: replace(data, diagonal=np.full_like(data.diagonal, np.nan)), {}),
    "dead time": (replaced_diagonal, {}),
    "more than the raw diagonal allows": (lambda data: replace(replaced_diagonal(data), counts=UNKNOWN), {}),
    "needs mean counts": (lambda data: replace(data, counts=UNKNOWN), {"shot": "fixed"}),
    "pairs of frames are masked": (without_first_lag, {}),
    "an angle has 8 frames": (lambda data: masked(data, slice(8, 60)), {}),
    "noise.memory_gb is 0.001": (lambda data: data, {"memory_gb": 0.001}),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_where_the_likelihood_does_not_hold_the_result_is_that_of_sandwich_and_says_why(reason):
    change, settings = REFUSALS[reason]
    assert_refused(minimum(change(speckled(0))), reason, **settings)


def assert_refused(found: Minimised, reason: str, **settings) -> None:
    noise, squares = (option("noise", name, **given).covariance(found) for name, given in (("wishart", settings), ("sandwich", {})))
    assert noise.option == "sandwich"
    assert noise.moved is None
    np.testing.assert_array_equal(noise.covariance, squares.covariance)
    assert noise.statements[:-1] == squares.statements
    assert noise.statements[-1].startswith("wishart refused: ")
    assert reason in noise.statements[-1]


def test_robust_loss_and_weights_are_refused():
    found = minimum(speckled(0))
    assert_refused(replace(found, loss=WeightedLoss(LOSSES["huber"].weight, 0.02)), "robust loss")
    weights = np.ones_like(speckled(0).tiles)
    assert_refused(minimum(speckled(0), weights=weights), "weights of the user")


def test_a_contrast_that_drifts_is_refused():
    drifting = option("per_angle_scaling", "individual", contrast_drift=True)
    assert_refused(minimum(speckled(0), drifting), "the contrast drifts")


def bounded(low: float, high: float, alpha: float, *, minimised: bool) -> Minimised:
    """A fit with bounds of alpha, or a point at which alpha is at one of them."""
    found = minimum(speckled(0))
    parameters = factory.fixed(D_offset=0.0) | factory.parameters(alpha={"bounds": [low, high]})
    model = option("mode", "static", parameters=parameters).bind(factory.times(60), Q, GAP, np.array(PHI))
    problem, start = replace(found.problem, model=model), model.coordinates_of(TRUTH | {"alpha": alpha})
    local = minimise(problem, start, contract.TOLERANCES)
    assert local is not None
    at = local.evaluation if minimised else problem.evaluate(start)
    held = information(at, problem)
    assert held.held[1]
    return replace(found, problem=problem, evaluation=at, information=held)


def test_a_coordinate_that_least_squares_holds_at_a_limit_stays_there_without_an_error():
    found = bounded(-0.1, 0.5, -0.05, minimised=True)
    noise = option("noise", "wishart").covariance(found)
    assert noise.moved.u[1] == found.evaluation.u[1]
    assert noise.covariance[1, 1] == 0
    assert noise.covariance[0, 0] > 0


def test_a_limit_that_the_likelihood_would_leave_is_a_reason_to_refuse():
    assert_refused(bounded(-1.0, 0.5, -1.0, minimised=False), "would leave the limit at which least squares holds alpha")


def test_limits_of_size_and_condition_are_kept():
    found = minimum(speckled(0))
    assert_refused(found, "condition number", worst_condition=10.0)
    assert_refused(found, "60 frames; accepted: at most 50", most_frames=50)


def test_estimates_that_disagree_are_said_and_those_that_agree_are_not():
    """Contrast that falls along the record moves alpha of the two by different amounts."""
    detector = {"noise": "speckle", "pixels": PIXELS, "photons": PHOTONS, "threads": 1, "contrast_drift": 0.8}
    data = homodyne.simulate(TRUTH, PHI, q=Q, gap=GAP, dt=DT, frames=60, contrast=0.5, mode="static", seed=1, **detector)
    assert any("standard deviations from that of least squares" in sentence for sentence in fit(data).statements)
    assert not any("standard deviations from that of least squares" in sentence for sentence in fit(speckled(1)).statements)


def test_scoring_that_does_not_converge_is_refused():
    """Maps of a model that is far from the one fitted: static laws cannot make a correlation that returns."""
    data = speckled(0)
    lag = np.subtract.outer(data.t, data.t)
    echo = 1 + 0.9 * np.cos(2.5 * lag) ** 2
    maps = np.array([data.map(k) for k in range(3)]) * 0 + echo
    changed = replace(data, tiles=pack(maps), diagonal=np.full_like(data.diagonal, 1.9), counts=np.full_like(data.diagonal, np.inf))
    noise = option("noise", "wishart").covariance(minimum(changed))
    assert noise.option == "sandwich"
    assert noise.statements[-1].startswith("wishart refused: ")
