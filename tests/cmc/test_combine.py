"""Combination of sub-posteriors against known products, and what every rule has to satisfy."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.special import digamma, polygamma

from homodyne.cmc.combine import LEGACY, REFUSED, RULES, Consensus, Power, SubPosterior, combine, left_over, product, rule_of
from homodyne.cmc.gaussians import inverse
from homodyne.errors import ConfigError, FitError

POWERS: tuple[Power, ...] = ("prior", "likelihood")
CASES = [(rule, power) for rule in RULES for power in POWERS if (rule, power) != ("semiparametric", "likelihood")]
PRODUCTS = ("gaussian", "swiss", "tree")
D = 3


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def spd(generator: np.random.Generator, size: int) -> np.ndarray:
    a = generator.normal(size=(size, size + 3))
    return a @ a.T


def exact_draws(mean, covariance, count: int, generator) -> np.ndarray:
    """Gaussian draws whose sample mean and covariance are the given ones."""
    raw = generator.normal(size=(count, len(mean)))
    raw = raw - raw.mean(axis=0)
    white = np.linalg.solve(np.linalg.cholesky(raw.T @ raw / (count - 1)), raw.T).T
    return mean + white @ np.linalg.cholesky(covariance).T


class Linear:
    """y = X b + noise of known variance in K shards, b ~ N(b0, P0^-1): posterior and sub-posteriors in closed form."""

    def __init__(self, count: int, size: int = D, seed: int = 1, sizes: int = 40) -> None:
        generator = rng(seed)
        self.b0, self.p0 = generator.normal(size=size), spd(generator, size)
        truth = generator.normal(size=size)
        self.x = [generator.normal(size=(sizes + k, size)) @ spd(generator, size) for k in range(count)]
        self.y = [x @ truth + generator.normal(size=len(x)) for x in self.x]

    def posterior(self, shards, prior_power: float, likelihood_power: float) -> tuple[np.ndarray, np.ndarray]:
        precision = prior_power * self.p0 + likelihood_power * sum(self.x[k].T @ self.x[k] for k in shards)
        right = prior_power * self.p0 @ self.b0 + likelihood_power * sum(self.x[k].T @ self.y[k] for k in shards)
        covariance = np.linalg.inv(precision)
        return covariance @ right, covariance

    def subs(self, power: Power, draws: int = 200, effective: float = np.inf) -> list[SubPosterior]:
        count, made = len(self.x), []
        for k in range(count):
            mean, covariance = self.posterior([k], *((1 / count, 1.0) if power == "prior" else (1.0, float(count))))
            made.append(SubPosterior(exact_draws(mean, covariance, draws, rng(k)), effective, mean, covariance, power))
        return made


def gamma_subs(count: int, shape: float, power: Power, draws: int = 4000) -> tuple[list[SubPosterior], tuple[float, float, float]]:
    """Sub-posteriors of ln x where x has a gamma posterior of this shape, and mean, SD and skewness of that posterior.

    A density x^a exp(-b x) of ln x has power p with a p and b p; all shards are given the same b.
    """
    subs = []
    for k in range(count):
        a, b = (shape / count, 1 / count) if power == "prior" else (shape, 1.0)
        x = np.log(stats.gamma.rvs(a, size=draws, random_state=rng(100 + k)) / b)[:, None]
        mean, variance = np.array([digamma(a) - np.log(b)]), np.array([[polygamma(1, a)]])
        subs.append(SubPosterior(x, np.inf, mean, variance, power))
    truth = float(digamma(shape)), float(np.sqrt(polygamma(1, shape))), float(polygamma(2, shape) / polygamma(1, shape) ** 1.5)
    return subs, truth


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("rule", PRODUCTS)
@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_linear_gaussian_posterior_is_exact_for_any_number_of_shards_with_the_prior_once(rule: str, power: Power, count: int) -> None:
    made = Linear(count)
    mean, covariance = made.posterior(range(count), 1.0, 1.0)
    found = combine(made.subs(power), rule, rng(), 500)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-8)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-8)


@pytest.mark.parametrize("power", POWERS)
def test_shards_without_data_give_back_the_prior(power: Power) -> None:
    p0, b0 = spd(rng(3), D), np.arange(D) - 1.0
    covariance = np.linalg.inv(p0) * (5 if power == "prior" else 1)
    subs = [SubPosterior(exact_draws(b0, covariance, 2000, rng(k)), np.inf, b0, covariance, power) for k in range(5)]
    for rule in (rule for rule, some in CASES if some == power):
        found = combine(subs, rule, rng(), 4000)
        tolerance = 0.1 if rule == "semiparametric" else 1e-8
        np.testing.assert_allclose(found.covariance @ p0, np.eye(D), atol=tolerance)
        np.testing.assert_allclose((found.mean - b0) / np.sqrt(np.diag(np.linalg.inv(p0))), 0, atol=tolerance)


@pytest.mark.parametrize("power", POWERS)
def test_tree_equals_swiss_and_both_have_the_moments_of_gaussian(power: Power) -> None:
    subs = Linear(99).subs(power, effective=150.0)
    swiss, tree, gaussian = (combine(subs, rule, rng(5), 700) for rule in ("swiss", "tree", "gaussian"))
    for other in (tree, gaussian):
        np.testing.assert_allclose(other.mean, swiss.mean, rtol=1e-10)
        np.testing.assert_allclose(other.covariance, swiss.covariance, rtol=1e-10)
    np.testing.assert_allclose(tree.draws, swiss.draws, rtol=1e-9)
    for group in (1, 2, 50):
        np.testing.assert_allclose(product(subs, group)[1], swiss.covariance, rtol=1e-10)


@pytest.mark.parametrize(("rule", "power"), CASES)
def test_draws_have_the_mean_and_covariance_that_are_stated(rule: str, power: Power) -> None:
    found = combine(Linear(6).subs(power, draws=1500), rule, rng(), 3000)
    sd = np.sqrt(np.diag(found.covariance))
    np.testing.assert_allclose((found.draws.mean(axis=0) - found.mean) / sd, 0, atol=0.08)
    np.testing.assert_allclose(np.cov((found.draws / sd).T), found.covariance / np.outer(sd, sd), atol=0.12)


@pytest.mark.parametrize(("rule", "power"), CASES)
def test_rules_contract(rule: str, power: Power) -> None:
    subs = Linear(6).subs(power)
    found, again, other = (combine(subs, rule, rng(seed), 301) for seed in (7, 7, 8))
    assert (found.mean.shape, found.covariance.shape, found.draws.shape, found.rule) == ((D,), (D, D), (301, D), rule)
    assert found.notes
    np.testing.assert_array_equal(found.draws, again.draws)
    assert not np.array_equal(found.draws, other.draws)
    assert np.linalg.eigvalsh(found.covariance).min() > 0


@pytest.mark.parametrize(("rule", "power"), CASES)
def test_order_of_shards_does_not_matter(rule: str, power: Power) -> None:
    subs = Linear(6).subs(power, draws=1000)
    first, second = combine(subs, rule, rng(1), 2000), combine(subs[::-1], rule, rng(2), 2000)
    if rule != "semiparametric":
        np.testing.assert_allclose(second.mean, first.mean, rtol=1e-8)
        np.testing.assert_allclose(second.covariance, first.covariance, rtol=1e-8)
    sd = np.sqrt(np.diag(first.covariance))
    for a, b in zip((first.draws / sd).T, (second.draws / sd).T, strict=True):
        assert stats.ks_2samp(a, b).pvalue > 1e-3


@pytest.mark.parametrize(("rule", "power"), CASES)
@pytest.mark.parametrize("units", [False, True])
def test_an_affine_change_of_coordinates_changes_the_answer_by_itself(rule: str, power: Power, units: bool) -> None:
    """With ``units`` one coordinate is rescaled by 1e9 and another by 1e-9: there are no absolute floors."""
    matrix = np.diag([1e9, 1.0, 1e-9]) if units else rng(9).normal(size=(D, D)) + 2 * np.eye(D)
    shift = matrix @ np.array([3.0, -2.0, 0.5])
    subs = Linear(5).subs(power, effective=150.0)
    moved = [
        replace(sub, draws=sub.draws @ matrix.T + shift, mean=matrix @ sub.mean + shift, covariance=matrix @ sub.covariance @ matrix.T)
        for sub in subs
    ]
    first, second = combine(subs, rule, rng(3), 400), combine(moved, rule, rng(3), 400)
    sd = np.sqrt(np.diag(first.covariance))
    back = np.linalg.inv(matrix)
    # What is drawn from Gaussian numbers is drawn in a frame that turns with the coordinates: equal in distribution only.
    moments = 1e-6 if rule != "semiparametric" or units else 0.2
    np.testing.assert_allclose((back @ (second.mean - shift) - first.mean) / sd, 0, atol=moments)
    np.testing.assert_allclose(back @ second.covariance @ back.T / np.outer(sd, sd), first.covariance / np.outer(sd, sd), atol=moments)
    if rule not in ("gaussian", "semiparametric") or units:
        np.testing.assert_allclose(((second.draws - shift) @ back.T - first.draws) / sd, 0, atol=1e-5)


@pytest.mark.parametrize(("rule", "power"), CASES)
def test_one_shard_is_returned_as_it_is(rule: str, power: Power) -> None:
    only = Linear(1).subs(power, effective=30.0)
    found = combine(only, rule, rng(), 200)
    np.testing.assert_array_equal(found.mean, only[0].mean)
    np.testing.assert_array_equal(found.covariance, only[0].covariance)
    np.testing.assert_array_equal(np.sort(found.draws, axis=0), np.sort(only[0].draws, axis=0))


@pytest.mark.parametrize(("rule", "power"), CASES)
def test_a_correlation_of_99_percent_survives(rule: str, power: Power) -> None:
    covariance = np.array([[1.0, 0.99], [0.99, 1.0]])
    widen = 8 if power == "prior" else 1
    subs = [SubPosterior(exact_draws(np.zeros(2), widen * covariance, 500, rng(k)), np.inf, np.zeros(2), widen * covariance, power)
            for k in range(8)]  # fmt: skip
    found = combine(subs, rule, rng(), 4000)
    assert abs(found.covariance[0, 1] / np.sqrt(np.prod(np.diag(found.covariance))) - 0.99) < 1e-3
    assert abs(np.corrcoef(found.draws.T)[0, 1] - 0.99) < 2e-3


@pytest.mark.parametrize("rule", [*PRODUCTS, "barycentre"])
def test_999_log_normal_shards_of_relative_width_one_half_are_not_biased(rule: str) -> None:
    """In logarithms they are Gaussian; combined in the parameter itself they would be 14 standard deviations off."""
    count, width, draws = 999, 0.5, 4000
    posterior_sd = width / np.sqrt(count)
    subs = []
    for k in range(count):
        x = rng(k).normal(rng(10_000 + k).normal(0.0, width), width, size=(draws, 1))
        subs.append(SubPosterior(x, draws, x.mean(axis=0), np.cov(x.T).reshape(1, 1), "prior"))
    expected = np.mean([rng(10_000 + k).normal(0.0, width) for k in range(count)])
    found = combine(subs, rule, rng(), 2000)
    assert abs(found.mean[0] - expected) < 0.1 * posterior_sd
    assert abs(np.sqrt(found.covariance[0, 0]) / posterior_sd - 1) < 0.02


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize(("rule", "kept"), [("swiss", True), ("tree", True), ("gaussian", False)])
def test_draws_keep_the_skewness_of_the_known_product_but_for_gaussian(rule: str, kept: bool, power: Power) -> None:
    subs, (_, _, skewness) = gamma_subs(8, 40.0, power)
    found = float(stats.skew(combine(subs, rule, rng(), 40_000).draws[:, 0]))
    assert abs(found - (skewness if kept else 0.0)) < 0.06
    assert abs(skewness) > 0.15


def test_semiparametric_is_nearer_to_a_skewed_product_than_gaussian() -> None:
    """The Gaussian product of gamma shards of shape 2 is nearly a standard deviation off."""
    subs, (mean, sd, _) = gamma_subs(8, 16.0, "prior")
    gaussian, found = (combine(subs, rule, rng(), 1000) for rule in ("gaussian", "semiparametric"))
    assert abs(gaussian.mean[0] - mean) > 0.9 * sd
    assert abs(found.mean[0] - mean) < 0.4 * sd
    assert abs(np.sqrt(found.covariance[0, 0]) / sd - 1) < 0.1


@pytest.mark.parametrize(("size", "count"), [(1, 16), (6, 8), (10, 32)])
def test_semiparametric_leaves_gaussian_shards_as_they_are_up_to_its_limits(size: int, count: int) -> None:
    made = Linear(count, size=size)
    mean, covariance = made.posterior(range(count), 1.0, 1.0)
    found = combine(made.subs("prior", draws=2000), "semiparametric", rng(), 1500)
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((found.mean - mean) / sd, 0, atol=0.2)
    np.testing.assert_allclose(np.sqrt(np.diag(found.covariance)) / sd, 1, atol=0.1)


def scattered(count: int, generator, size: int = 4) -> list[SubPosterior]:
    """Equal shards of power ``likelihood`` of a posterior N(0, 1): centres scatter with sqrt(K)."""
    subs = []
    for _ in range(count):
        mean = generator.normal(0, np.sqrt(count), size)
        subs.append(SubPosterior(exact_draws(mean, np.eye(size), 100, generator), np.inf, mean, np.eye(size), "likelihood"))
    return subs


@pytest.mark.parametrize("width", [1e-8, 1.0, 1e3])
def test_one_wrong_shard_of_16_moves_the_geometric_median_less_than_one_sd_but_destroys_gaussian(width: float) -> None:
    subs = scattered(16, rng(2))
    wrong = SubPosterior(1000 + width * subs[0].draws, np.inf, np.full(4, 1000.0), width**2 * np.eye(4), "likelihood")
    clean, soiled = (combine([*subs[:15], last], "geometric_median", rng(), 800) for last in (subs[15], wrong))
    assert np.abs(soiled.mean - clean.mean).max() < 1.0
    np.testing.assert_allclose(np.sqrt(np.diag(soiled.covariance)), 1, atol=0.15)
    assert np.abs(soiled.draws).max() < 10
    assert "shard 16" in " ".join(soiled.notes)
    gaussian = combine([*subs[:15], wrong], "gaussian", rng(), 10)
    if width < 1e3:
        assert np.abs(gaussian.mean).min() > 30


def test_the_precision_of_estimated_covariances_is_corrected() -> None:
    """Without it the product of 64 shards with 40 draws each would be (n - 1)/(n - D - 2) times too precise."""
    count, draws, size = 64, 40, 6
    ratios = []
    for repeat in range(60):
        subs = []
        for _ in range(count):
            x = rng(repeat * 1000 + len(subs)).normal(size=(draws, size)) * np.sqrt(count)
            subs.append(SubPosterior(x, draws, x.mean(axis=0), np.cov(x.T), "prior"))
        ratios.append(np.diag(combine(subs, "gaussian", rng(), 1).covariance))
    assert abs(np.mean(ratios) - 1) < 0.02


@pytest.mark.parametrize("count", [2, 4])
def test_the_covariance_of_few_shards_is_right_on_average_as_well(count: int) -> None:
    draws, size = 60, 4
    ratios = []
    for repeat in range(400):
        generator = rng(repeat)
        subs = []
        for _ in range(count):
            x = generator.normal(size=(draws, size)) * np.sqrt(count)
            subs.append(SubPosterior(x, draws, x.mean(axis=0), np.cov(x.T), "prior"))
        ratios.append(np.diag(product(subs, count)[1]).mean())
    assert abs(np.mean(ratios) - 1) < 4 * np.std(ratios) / np.sqrt(len(ratios)) + 0.01


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("count", [2, 12])
def test_the_mean_is_as_far_from_that_of_exact_moments_as_the_note_says(count: int, power: Power) -> None:
    draws, size, off, said = 200, 4, [], ""
    width = np.sqrt(count) if power == "prior" else 1.0
    for repeat in range(120):
        generator, subs, exact = rng(repeat), [], []
        for _ in range(count):
            mean = np.sqrt(count) * generator.normal(size=size)
            x = mean + width * generator.normal(size=(draws, size))
            subs.append(SubPosterior(x, draws, x.mean(axis=0), np.cov(x.T), power))
            exact.append(mean)
        found = combine(subs, "gaussian", generator, 1)
        off.append(found.mean - np.mean(exact, axis=0))
        said = found.notes[1]
    stated = float(said.split(" SD")[0].split()[-1])
    assert abs(np.sqrt(np.mean(np.square(off))) / stated - 1) < 0.15


@pytest.mark.parametrize(("size", "excess"), [(1, 1.45), (8, 1.07)])
def test_the_geometric_median_is_as_much_less_precise_as_its_note_says(size: int, excess: float) -> None:
    means = []
    for repeat in range(300):
        generator = rng(repeat)
        centres = 8 * generator.normal(size=(64, size))
        subs = [SubPosterior(centre + np.zeros((9, size)), np.inf, centre, np.eye(size), "likelihood") for centre in centres]
        means.append(combine(subs, "geometric_median", generator, 1).mean)
    assert abs(np.mean(np.square(means)) - excess) < 0.25 / np.sqrt(size)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("rule", PRODUCTS)
def test_what_is_left_when_shards_are_missing_is_the_posterior_of_their_pixels(rule: str, power: Power) -> None:
    made = Linear(9, sizes=4)
    mean, covariance = made.posterior([0, 2, 3, 7], 1.0, 1.0)
    subs = made.subs(power)
    left = left_over([subs[k] for k in (0, 2, 3, 7)], 9, (made.b0, made.p0))
    found = combine(left, rule, rng(), 400)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-8)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-8)
    np.testing.assert_allclose(np.cov(left[1].draws.T), left[1].covariance, rtol=1e-8)
    for one, there in zip(left_over(subs, 9, None), subs, strict=True):
        assert one is there


def test_every_old_name_leads_to_a_rule_or_to_a_reason() -> None:
    assert {rule_of(name) for name in RULES} == set(RULES)
    assert [rule_of(name) for name in LEGACY] == ["gaussian", "geometric_median", "tree"]
    for name in REFUSED:
        with pytest.raises(ConfigError, match=f"{name}.*refused: it .*accepted: gaussian, swiss"):
            rule_of(name)
    with pytest.raises(ConfigError, match="unknown combination 'mean'"):
        rule_of("mean")


def broken(**changes: object) -> list[SubPosterior]:
    subs = Linear(4).subs("prior", effective=100.0)
    return [*subs[:2], replace(subs[2], **changes), subs[3]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"effective": 5.0}, "shard 3 of 4: 5 effective draws; its covariance needs more than 5"),
        ({"effective": np.nan}, "shard 3 of 4: nan effective draws"),
        ({"mean": np.full(D, np.nan)}, "shard 3 of 4: draws or moments are not finite"),
        ({"covariance": np.ones((D, D))}, "not positive definite"),
        ({"power": "likelihood"}, "the prior is held as 'likelihood'"),
        ({"draws": np.zeros((5, D + 1))}, "3 coordinates are expected"),
    ],
)
def test_a_shard_that_cannot_be_used_is_named_and_never_dropped(changes: dict, message: str) -> None:
    with pytest.raises(FitError, match=message):
        combine(broken(**changes), "swiss", rng(), 10)
    with pytest.raises(FitError, match="no shard"):
        combine([], "swiss", rng(), 10)


def test_semiparametric_refuses_what_it_cannot_do() -> None:
    for subs, reason in (
        (Linear(2, size=11).subs("prior"), "at most 10 dimensions"),
        (Linear(33).subs("prior"), "at most 32 shards"),
        (Linear(3).subs("likelihood"), "needs shards of power 'prior'"),
    ):
        with pytest.raises(ConfigError, match=reason):
            combine(subs, "semiparametric", rng(), 10)


def test_barycentre_of_commuting_covariances_is_the_square_of_the_mean_root() -> None:
    """Closed form: standard deviations average."""
    sds = rng(4).uniform(0.5, 2, size=(5, D))
    turn = np.linalg.qr(rng(5).normal(size=(D, D)))[0]
    subs = [SubPosterior(np.zeros((9, D)), np.inf, np.full(D, k), turn @ np.diag(sd**2) @ turn.T, "likelihood") for k, sd in enumerate(sds)]
    found: Consensus = combine(subs, "barycentre", rng(), 10)
    np.testing.assert_allclose(found.covariance, turn @ np.diag(sds.mean(axis=0) ** 2) @ turn.T, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.mean, 2.0)


def test_inverse_keeps_its_digits_when_units_differ_by_eighteen_orders() -> None:
    matrix, scale = spd(rng(6), 4), np.array([1e9, 1.0, 1e-9, 1e3])
    found = inverse(matrix * np.outer(scale, scale)) * np.outer(scale, scale)
    np.testing.assert_allclose(found, np.linalg.inv(matrix), rtol=1e-11)
