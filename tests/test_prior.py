"""The prior that is sampled, in its own coordinates, is the prior that was stated about the user's parameters."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from homodyne.config import option
from homodyne.errors import ConfigError
from homodyne.mode.prior import NEEDS, PriorSettings
from homodyne.prior import ModelPrior, check_priors

from .factory import GAP, STATIC, Q, parameters, times

PHI = np.array([0.0, 40.0])
PROBABILITIES = (0.05, 0.5, 0.95)


def stated(kind: str, *values: float) -> dict[str, object]:
    empty = dict.fromkeys(("mean", "sd", "median", "sigma", "low", "high", "a", "b"))
    return {"kind": kind, **empty, **dict(zip(NEEDS[kind], values, strict=True))}


def scipy_of(kind: str, values: tuple[float, ...]):
    """The distribution as SciPy spells it, before bounds."""
    match kind:
        case "normal":
            return stats.norm(*values)
        case "truncated_normal":
            mean, sd, low, high = values
            return stats.truncnorm((low - mean) / sd, (high - mean) / sd, mean, sd)
        case "lognormal":
            return stats.lognorm(values[1], scale=values[0])
        case "uniform":
            return stats.uniform(values[0], values[1] - values[0])
        case "half_normal":
            return stats.halfnorm(scale=values[0])
        case "beta_scaled":
            return stats.beta(values[0], values[1], values[2], values[3] - values[2])
    raise AssertionError(kind)


D0 = {
    "normal": (1e4, 2e3),
    "truncated_normal": (1e4, 4e3, 5e3, 1.2e4),
    "lognormal": (1e4, 0.5),
    "uniform": (4e3, 2e4),
    "half_normal": (1e4,),
    "beta_scaled": (2.0, 3.0, 2e3, 3e4),
}
ALPHA = {
    "normal": (0.0, 0.3),
    "truncated_normal": (-0.3, 0.4, -0.8, 0.5),
    "lognormal": (0.4, 0.3),
    "uniform": (-0.5, 0.7),
    "half_normal": (0.4,),
    "beta_scaled": (2.0, 2.0, -1.0, 1.0),
}
D_OFFSET = {
    "normal": (2e3, 300.0),
    "truncated_normal": (0.0, 3e3, -500.0, 6e3),
    "lognormal": (1e3, 1.0),
    "uniform": (0.0, 5e3),
    "half_normal": (2e3,),
    "beta_scaled": (1.0, 4.0, 0.0, 8e3),
}
SHEAR = {"gamma_dot_t0": ("lognormal", (2e-3, 0.4)), "beta": ("normal", (0.0, 0.2)), "gamma_dot_t_offset": ("half_normal", (5e-4,))}
BOUNDS = {"D0": (8e3, 1.5e4), "alpha": (-0.1, 0.45), "D_offset": (500.0, 2200.0)}


def everything(kind: str) -> dict[str, tuple[str, tuple[float, ...]]]:
    return {"D0": (kind, D0[kind]), "alpha": (kind, ALPHA[kind]), "D_offset": (kind, D_OFFSET[kind])}


CASES = {f"{kind} of all three": (everything(kind), {}, {}) for kind in NEEDS}
CASES |= {f"{kind} within bounds": (everything(kind), {}, BOUNDS) for kind in NEEDS}
CASES |= {
    "exponent fixed": ({"D0": ("lognormal", (1e4, 0.5)), "D_offset": ("normal", (500.0, 500.0))}, {"alpha": -0.4}, {}),
    "offset fixed": ({"D0": ("half_normal", (1e4,)), "alpha": ("normal", (-0.2, 0.3))}, {"D_offset": 800.0}, {}),
    "offset and exponent fixed": ({"D0": ("uniform", (2e3, 1e4))}, {"D_offset": 0.0, "alpha": 0.5}, {"D0": (3e3, 9e3)}),
    "amplitude fixed": ({"alpha": ("normal", (-0.2, 0.3)), "D_offset": ("half_normal", (900.0,))}, {"D0": 9e3}, {}),
    "exponent zero": ({"D0": ("lognormal", (9e3, 0.5))}, {"alpha": 0.0, "D_offset": 0.0}, {}),
    "laminar flow": (everything("lognormal") | SHEAR | {"phi0": ("normal", (3.0, 20.0))}, {}, {}),
}
SMALL = [name for name in CASES if "all three" not in name]


@cache
def made(case: str) -> ModelPrior:
    beliefs, fixed, bounds = CASES[case]
    mode = "laminar_flow" if "beta" in beliefs else "static"
    settings: dict[str, dict[str, object]] = {name: {"fixed": value} for name, value in fixed.items()}
    for name, (kind, values) in beliefs.items():
        settings[name] = {"prior": stated(kind, *values), "bounds": list(bounds[name]) if name in bounds else None}
    chosen = option("mode", mode, parameters=parameters(**settings))
    return ModelPrior.of(chosen.bind(times(40), Q, GAP, PHI), chosen.parameters)


def stated_share(case: str, name: str, x: np.ndarray) -> np.ndarray:
    """CDF of the stated prior of one parameter, cut off by its bounds, from SciPy."""
    beliefs, _, bounds = CASES[case]
    cdf = scipy_of(*beliefs[name]).cdf
    low, high = bounds[name] if name in bounds else (-np.inf, np.inf)
    return (np.clip(cdf(x), cdf(low), cdf(high)) - cdf(low)) / (cdf(high) - cdf(low))


@jax.jit
def evaluated(prior: ModelPrior, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ln density (S,) and user parameters (S, K) at u (S, p)."""
    return jax.vmap(prior.log_density)(points), jax.vmap(lambda u: prior.parameters(u, prior.to_model(u)))(points)


def typical(case: str) -> dict[str, float]:
    beliefs, fixed, bounds = CASES[case]
    middle = {name: float(scipy_of(*belief).median()) for name, belief in beliefs.items()} | fixed
    return {name: float(np.clip(value, *bounds[name])) if name in bounds else value for name, value in middle.items()}


@cache
def integrated(case: str) -> tuple[np.ndarray, np.ndarray]:
    """User parameters (S, K) and weights (S,) of points in the sampled coordinates: importance sampling of the prior alone."""
    prior, rng = made(case), np.random.default_rng(1)
    center = prior.from_model(prior.model.coordinates_of(typical(case)))
    root = np.diag([{"phi0": 20.0, "D_offset": 500.0}[name] if name in ("phi0", "D_offset") else 0.5 for name in prior.coordinates])
    for count in (20_000, 50_000, 200_000):
        scale = np.sqrt(4.0 / rng.chisquare(4.0, (count, 1)))
        white = rng.standard_normal((count, len(center))) * scale
        log_density, found = (np.asarray(part) for part in evaluated(prior, center + white @ root.T))
        log_weight = log_density + 0.5 * (4.0 + len(center)) * np.log1p(np.sum(white**2, axis=1) / 4.0)
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        away = white @ root.T - weight @ white @ root.T
        center = center + weight @ white @ root.T
        root = np.linalg.cholesky(1.2 * (weight[:, None] * away).T @ away)
    assert 1 / np.sum(weight**2) > 20_000
    return found, weight


@pytest.mark.parametrize("case", CASES)
def test_quantiles_of_the_sampled_prior_are_the_stated_ones_in_the_users_parameters(case):
    """5 %, 50 % and 95 % of every kind, with and without bounds: this is what the Jacobians are for."""
    found, weight = integrated(case)
    beliefs, _, _ = CASES[case]
    for name in beliefs:
        values = found[:, made(case).model.names.index(name)]
        grid = np.sort(values[weight > 0])[:: max(1, np.count_nonzero(weight) // 4000)]
        exact = stated_share(case, name, grid)
        for probability in PROBABILITIES:
            quantile = np.interp(probability, exact, grid)
            assert abs(weight[values <= quantile].sum() - probability) < 0.012, (name, probability)


@pytest.mark.parametrize("case", CASES)
def test_draws_of_the_prior_have_the_stated_distributions(case):
    """Kolmogorov and Smirnov's distance of 4000 draws; 0.03 is exceeded once in a thousand times."""
    drawn = made(case).draw(np.random.default_rng(3), 4000)
    assert drawn is not None
    found = np.asarray(evaluated(made(case), drawn)[1])
    for name in CASES[case][0]:
        values = found[:, made(case).model.names.index(name)]
        distance = stats.kstest(values, lambda x, name=name: stated_share(case, name, x)).statistic
        assert distance < 0.031, name


@pytest.mark.parametrize("case", [*SMALL, "lognormal of all three"])
def test_the_jacobian_is_that_of_finite_differences(case):
    """ln density in u minus that of SciPy in the user's parameters is ln|d parameters/du| and a constant."""
    prior = made(case)
    beliefs, _, _ = CASES[case]
    drawn = prior.draw(np.random.default_rng(5), 40)
    at = [prior.model.names.index(name) for name in prior.model.names if name in beliefs]
    excess = []
    for u in drawn:
        log_density, found = (np.asarray(part)[0] for part in evaluated(prior, u[None]))
        steps = 1e-6 * np.eye(len(u))
        plus, minus = (np.asarray(evaluated(prior, u + sign * steps)[1])[:, at] for sign in (1, -1))
        jacobian = (plus - minus) / 2e-6
        log_pdf = sum(scipy_of(*belief).logpdf(found[prior.model.names.index(name)]) for name, belief in beliefs.items())
        # Found and expected are both relative to the scale of the parameters, so that the determinant keeps its digits.
        scale = np.abs(jacobian).max(axis=0)
        log_slope = np.log(np.abs(np.linalg.det(jacobian / scale))) + np.log(scale).sum()
        excess.append(log_density - log_pdf - log_slope)
    np.testing.assert_allclose(excess, excess[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_coordinates_of_the_model_and_back_are_the_same_point_with_the_same_parameters(case):
    prior = made(case)
    for u in prior.draw(np.random.default_rng(7), 30):
        w = np.asarray(prior.to_model(u))
        if abs(u[min(1, len(u) - 1)]) < 0.01:
            # Near exponent 0 the two rates do not tell amplitude from offset.
            continue
        back = prior.from_model(w)
        inside = np.abs(back) < 10
        np.testing.assert_allclose(back[inside], u[inside], rtol=1e-7, atol=1e-7)
        exact = np.asarray(prior.model.parameters(w))
        np.testing.assert_allclose(prior.parameters(u, w), exact, rtol=1e-6, atol=1e-6 * np.abs(exact).max())


def test_exponent_zero_is_an_ordinary_point_of_stated_priors():
    """Density, derivatives and rates go through alpha = 0, where the amplitude and offset of the rates at two times diverge."""
    prior = made("normal of all three")
    slope = jax.jit(jax.value_and_grad(prior.log_density))
    u = prior.from_model(prior.model.coordinates_of({"D0": 1e4, "alpha": -0.3, "D_offset": 2e3}))
    values, gradients, ends = [], [], []
    for alpha in (-1e-6, -1e-12, 0.0, 1e-12, 1e-6):
        u[1] = alpha
        value, gradient = slope(u)
        values.append(value)
        gradients.append(gradient)
        ends.append(prior.to_model(u)[:2])
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values, values[2], atol=1e-4)
    np.testing.assert_allclose(gradients, np.tile(gradients[2], (5, 1)), rtol=1e-4)
    np.testing.assert_allclose(ends, u[0], atol=1e-5)
    exact = prior.parameters(u * [1, 0, 1], prior.to_model(u * [1, 0, 1]))
    np.testing.assert_allclose(exact[0] + exact[2], np.exp(u[0]), rtol=1e-12)


@pytest.mark.parametrize("beyond", [[9.0, -0.3, 3.0], [9.0, 0.3, -5.0], [-3.0, 0.1, 0.1], [9.0, 2.1, 0.1]])
def test_outside_of_the_domain_the_density_is_zero_and_no_derivative_is_nan(beyond):
    """Rates that are negative at one end, that the record cannot resolve, and an exponent that the mode has not."""
    value, gradient = jax.value_and_grad(made("normal of all three").log_density)(jnp.array(beyond))
    assert value == -np.inf
    assert np.isfinite(gradient).all()


def test_an_exponent_alone_may_have_a_prior_and_rates_are_then_constant_in_their_logarithms():
    """At exponent 0 as well, where amplitude and offset diverge."""
    chosen = option("mode", "static", parameters=parameters(alpha={"prior": stated("normal", 0.1, 0.3)}))
    prior = ModelPrior.of(chosen.bind(times(40), Q, GAP, PHI), chosen.parameters)
    assert prior.coordinates == prior.model.coordinates
    for alpha in (-0.4, 0.0):
        value, gradient = jax.value_and_grad(prior.log_density)(jnp.array([9.0, 9.3, alpha]))
        assert value == pytest.approx(stats.norm(0.1, 0.3).logpdf(alpha), rel=1e-12)
        np.testing.assert_allclose(gradient, [0.0, 0.0, (0.1 - alpha) / 0.09], atol=1e-12)


def test_without_a_prior_draws_fill_the_box_and_phi0_a_half_turn():
    chosen = option("mode", "laminar_flow")
    prior = ModelPrior.of(chosen.bind(times(40), Q, GAP, PHI), chosen.parameters)
    drawn = prior.draw(np.random.default_rng(0), 4000)
    lower, upper = prior.box
    for k, name in enumerate(prior.coordinates):
        low, width = (-90.0, 180.0) if name == "phi0" else (lower[k], upper[k] - lower[k])
        assert stats.kstest(drawn[:, k], stats.uniform(low, width).cdf).statistic < 0.031


def test_one_of_the_starts_has_a_density_where_the_fit_is_excluded_by_the_prior():
    """A rate that rises with a negative exponent has an amplitude below 0, which lognormal excludes."""
    prior = made("laminar flow")
    w = prior.model.coordinates_of(dict(zip(prior.model.names, (-1e3, -0.3, 2e4, 1e-3, -0.2, 1e-4, 3.0), strict=True)))
    starts = prior.starts(w)
    densities = [float(prior.log_density(point)) for point in starts]
    assert densities[0] == -np.inf
    best = starts[int(np.argmax(densities))]
    assert np.isfinite(max(densities))
    reference = [float(prior.model.reference(jnp.asarray(x))["J"][0]) for x in (w, prior.to_model(jnp.asarray(best)))]
    assert reference[1] == pytest.approx(reference[0], abs=1e-9)


def test_there_are_no_draws_of_a_prior_that_is_improper():
    chosen = option("mode", "static", parameters=parameters(D0={"fixed": 1e4}))
    prior = ModelPrior.of(chosen.bind(times(40), Q, GAP, PHI), chosen.parameters)
    assert "D_offset" in prior.coordinates
    assert prior.draw(np.random.default_rng(0), 10) is None


def test_there_are_no_draws_of_a_prior_beyond_what_the_record_can_resolve():
    settings = {"D0": {"prior": stated("normal", 1e12, 1e9)}, "D_offset": {"fixed": 0.0}}
    chosen = option("mode", "static", parameters=parameters(**settings))
    prior = ModelPrior.of(chosen.bind(times(40), Q, GAP, PHI), chosen.parameters)
    assert prior.draw(np.random.default_rng(0), 10) is None


def rescaled(length: float) -> ModelPrior:
    """The same experiment and beliefs with all lengths in units that are ``length`` times as large; offsets of either sign."""
    unit = length**-2
    settings = {
        "D0": {"prior": stated("lognormal", 1e4 * unit, 0.5)},
        "alpha": {"prior": stated("normal", 0.0, 0.4)},
        "D_offset": {"prior": stated("normal", -1e3 * unit, 3e3 * unit)},
    }
    chosen = option("mode", "static", parameters=parameters(**settings))
    return ModelPrior.of(chosen.bind(times(40), Q * length, GAP / length, PHI), chosen.parameters)


@pytest.mark.parametrize("length", [1e9, 1e-9])
def test_the_unit_of_length_changes_nothing(length):
    """No absolute floor hides in the prior: draws and densities are the same in other units."""
    first, other = rescaled(1.0), rescaled(length)
    drawn, same = (prior.draw(np.random.default_rng(2), 500) for prior in (first, other))
    shift = np.array([-2 * np.log(length), 0.0, 0.0])
    np.testing.assert_allclose(same - shift, drawn, rtol=1e-9, atol=1e-9)
    difference = np.asarray(evaluated(other, same)[0]) - np.asarray(evaluated(first, drawn)[0])
    np.testing.assert_allclose(difference, difference[0], rtol=0, atol=1e-7)


@pytest.mark.parametrize(("given", "without"), [("D0", "D_offset"), ("D_offset", "D0"), ("gamma_dot_t_offset", "gamma_dot_t0")])
def test_amplitude_and_offset_have_a_prior_both_or_neither(given, without):
    chosen = option("mode", "laminar_flow", parameters=parameters(**{given: {"prior": stated("half_normal", 1.0)}}))
    with pytest.raises(ConfigError, match=rf"mode.parameters.{without}.prior: null, but {given} has one"):
        check_priors(chosen.parameters, chosen.laws())
    with pytest.raises(ConfigError, match=without):
        option("posterior", "laplace").check(chosen, option("per_angle_scaling", "individual"))
    fixed = chosen.parameters[without].model_copy(update={"fixed": 1.0})
    held = chosen.model_copy(update={"parameters": chosen.parameters | {without: fixed}})
    check_priors(held.parameters, held.laws())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "normal", "mean": 1.0}, "kind normal with mean; accepted: kind normal with mean, sd"),
        ({"kind": "uniform", "low": 1.0, "high": 2.0, "sd": 1.0}, "accepted: kind uniform with low, high"),
        ({"kind": "half_normal"}, "nothing else; accepted: kind half_normal with sd"),
        ({"kind": "uniform", "low": 2.0, "high": 1.0}, "low is 2.0, high is 1.0"),
        ({"kind": "lognormal", "median": -1.0, "sigma": 1.0}, "greater than 0"),
        ({"kind": "cauchy"}, "kind"),
    ],
)
def test_a_prior_with_the_wrong_keys_says_which_are_right(settings, message):
    with pytest.raises(ValueError, match=message):
        PriorSettings(**settings)


def test_priors_are_told_in_words():
    text = made("lognormal within bounds").text
    assert text["D0"] == "lognormal (median 10000, sigma 0.5), within [8000, 15000]"
    chosen = option("mode", "laminar_flow", parameters=parameters(alpha={"bounds": [-1.0, 3.0]}, beta={"fixed": 0.0}))
    plain = ModelPrior.of(chosen.bind(times(40), Q, GAP, PHI), chosen.parameters).text
    assert plain["alpha"] == "uniform in [-1, 2]"
    assert plain["D0"] == plain["D_offset"] == "ln J constant at the first and the last time"
    assert plain["phi0"] == "uniform"
    assert "beta" not in plain


def test_a_fit_near_exponent_zero_starts_with_an_offset_within_ten_times_the_rate():
    prior = made("normal of all three")
    w = prior.model.coordinates_of(STATIC)
    w[2] = 1e-7
    u = prior.from_model(w)
    assert abs(u[2]) == 10.0
    np.testing.assert_allclose(u[:2], [np.asarray(prior.model.laws["J"].rate_and_slope(w))[0], 1e-7], rtol=1e-12)
