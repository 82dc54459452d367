"""The density of a posterior equals the joint density with contrast and offset integrated numerically, and plain NumPy at the fit."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from homodyne.cmc.shards import deal
from homodyne.data import Dataset
from homodyne.density import Calibration, Density, Scaling
from homodyne.per_angle_scaling.base import Design
from homodyne.physics import two_time
from homodyne.prior import ModelPrior
from homodyne.problem import Information, expansion, invert
from homodyne.strips import all_strips

from . import factory
from .factory import GAP, LAMINAR, SIGMA, STATIC, Q, exact_maps, measured, noise_like, parameters, times

N, PHI = 24, (0.0, 40.0)
BOUNDED = parameters(D0={"bounds": [5e3, 3e4]})
VARIANCE = SIGMA**2


@cache
def dataset(mode: str = "static") -> Dataset:
    """Two maps of different contrast with noise and masked pixels."""
    maps = exact_maps(STATIC if mode == "static" else LAMINAR, PHI, N, contrast=[0.15, 0.2], offset=[1.0, 1.02])
    maps = maps + noise_like(maps, SIGMA, 8)
    hidden = np.triu(np.random.default_rng(4).random(maps.shape) < 0.1, 1)
    maps[hidden | hidden.swapaxes(1, 2)] = np.nan
    return measured(maps, PHI)


@cache
def design(name: str, mode: str = "static") -> Design:
    return factory.problem_parts(dataset(mode), name)[0]


@cache
def density(scaling: str = "individual", mode: str = "static") -> Density:
    chosen = factory.option("mode", mode, **({"parameters": BOUNDED} if mode == "static" else {}))
    data = dataset(mode)
    prior = ModelPrior.of(chosen.bind(data.t, Q, GAP, data.phi), chosen.parameters)
    return Density.of(prior, data.phi, Scaling.of(design(scaling, mode), VARIANCE), all_strips(data))


def point(made: Density, k: int) -> np.ndarray:
    """Some u, with another noise level each."""
    u = made.prior.model.coordinates_of(STATIC if len(made.prior.model.names) == 3 else LAMINAR)
    return np.append(u + 0.02 * np.sin(np.arange(len(u)) + k), 2 * np.log(SIGMA * (1 + 0.1 * k)))


value = jax.jit(lambda made, u: made(u))
with_sums = jax.jit(lambda made, u: made.with_sums(u))
moments = jax.jit(lambda made, u: made.coefficient_moments(u, made.with_sums(u)[1]))
draws = jax.jit(lambda made, u, keys: jax.vmap(lambda key: made.coefficients(u, made.with_sums(u)[1], key))(keys))


def written_out(made: Density, u: np.ndarray, data: Dataset | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """h and c2 of the used pairs of each map, from the closed model alone."""
    data = dataset("static" if len(made.prior.model.names) == 3 else "laminar_flow") if data is None else data
    names = made.prior.model.names
    given = dict(zip(names, map(float, made.prior.model.parameters(u[:-1])), strict=True))
    mode = "static" if len(names) == 3 else "laminar_flow"
    h = two_time(given, data.phi, data.t, q=Q, gap=GAP, mode=mode, contrast=1.0, offset=0.0)
    early, late = np.triu_indices(data.n, 1)
    c2 = np.stack([data.map(k)[early, late] for k in range(len(data.phi))])
    return [(h[k][early, late][np.isfinite(c2[k])], c2[k][np.isfinite(c2[k])]) for k in range(len(data.phi))]


def log_joint(made: Density, scaling: str, u: np.ndarray, coefficients: np.ndarray, group: int, powers: tuple[float, float]) -> np.ndarray:
    """ln of prior^s likelihood^m of one group on a grid of coefficients (..., k), prior without its constant; written out."""
    chosen, s2 = design(scaling), np.exp(u[-1])
    middle, width = 0.5 * (chosen.lower + chosen.upper), chosen.upper - chosen.lower
    total = -0.5 * powers[0] * np.einsum("...k,kl,...l->...", coefficients, chosen.precision[group], coefficients) / VARIANCE
    for place, angle in enumerate(chosen.members[group]):
        offset, contrast = np.moveaxis(chosen.constant[angle] + coefficients @ chosen.matrix[group, place].T, -1, 0)
        away = (np.stack([offset, contrast], -1) - middle) / width
        total = total - 0.5 * powers[0] * np.sum(away**2, axis=-1) / len(chosen.members[group])
        h, c2 = written_out(made, u)[angle]
        squares = sum((y - offset - contrast * x) ** 2 for x, y in zip(h, c2, strict=True))
        total = total - 0.5 * powers[1] * (squares / s2 + len(h) * np.log(2 * np.pi * s2))
    return total


def quadrature(made: Density, scaling: str, u: np.ndarray, powers=(1.0, 1.0)) -> tuple[float, np.ndarray, np.ndarray]:
    """ln of the integral over all coefficients, their mean (G, k) and covariance (G, k, k), by the trapezoidal rule.

    Its error falls exponentially with the number of points for a function like a Gaussian; 81 points over 18 SD are plenty.
    """
    mean, covariance = (np.asarray(part) for part in moments(replace(made, prior_power=powers[0], data_power=powers[1]), u))
    total, means, covariances = 0.0, [], []
    for group in range(len(mean)):
        root = np.linalg.cholesky(covariance[group])
        axis = np.linspace(-9.0, 9.0, 81)
        white = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
        # A shifted and stretched grid, so that what it finds does not rest on where it was put.
        grid = mean[group] + (1.1 * white + 0.3) @ root.T
        log = log_joint(made, scaling, u, grid, group, powers)
        weight = np.exp(log - log.max())
        cell = (axis[1] - axis[0]) ** 2 * 1.1**2 * np.linalg.det(root)
        total += log.max() + np.log(weight.sum() * cell)
        weight /= weight.sum()
        center = np.einsum("ij,ijk->k", weight, grid)
        means.append(center)
        covariances.append(np.einsum("ij,ijk,ijl->kl", weight, grid - center, grid - center))
    return total, np.array(means), np.array(covariances)


SHARES = [(1.0, 1.0), (0.25, 1.0), (1.0, 4.0)]
"""Powers of prior and likelihood: of all pixels, and of one shard of four in either way."""


@pytest.mark.parametrize("powers", SHARES)
@pytest.mark.parametrize("scaling", ["individual", "averaged"])
def test_the_density_is_the_integral_over_contrast_and_offset(scaling, powers):
    """Differences between points to 1e-8 of ln density: the prior of coefficients counts with its own power, likelihood with its."""
    made = density(scaling)
    found, exact = [], []
    for k in range(3):
        u = point(made, k)
        found.append(float(value(replace(made, prior_power=powers[0], data_power=powers[1]), u)))
        exact.append(quadrature(made, scaling, u, powers)[0])
    np.testing.assert_allclose(np.diff(found), np.diff(exact), rtol=0, atol=1e-8 * abs(exact[0]))
    np.testing.assert_allclose(np.diff(found), np.diff(exact), rtol=1e-7)


@pytest.mark.parametrize("scaling", ["individual", "averaged", "shrinkage"])
def test_the_density_is_that_of_a_dense_normal_distribution_of_the_pixels(scaling):
    """y ~ N(X b0, s2 + X W^-1 X'): SciPy with the full covariance of all pixels, constants included."""
    made, chosen = density(scaling), design(scaling)
    columns = factory.linear_columns(chosen)
    for k in range(2):
        u = point(made, k)
        rows, values, base = [], [], []
        for angle, (h, c2) in enumerate(written_out(made, u)):
            both = np.stack([np.ones_like(h), h], -1)
            rows.append(both @ columns[angle])
            base.append(both @ chosen.constant[angle])
            values.append(c2)
        weight = made.scaling.weight
        size = weight.shape[0] * weight.shape[1]
        precision = np.zeros((size, size))
        for g, part in enumerate(weight):
            at = slice(g * len(part), (g + 1) * len(part))
            precision[at, at] = part
        design_rows, v = np.concatenate(rows), made.scaling.aim.ravel()
        center = np.linalg.solve(precision, v)
        covariance = np.exp(u[-1]) * np.eye(len(design_rows)) + design_rows @ np.linalg.solve(precision, design_rows.T)
        exact = stats.multivariate_normal(np.concatenate(base) + design_rows @ center, covariance).logpdf(np.concatenate(values))
        # The code leaves out what makes the prior of the coefficients a density.
        exact += -0.5 * np.linalg.slogdet(precision)[1] + 0.5 * v @ center
        assert float(value(made, u)) == pytest.approx(exact, rel=1e-10)


def test_offset_and_contrast_have_a_wide_normal_prior_in_the_middle_of_their_bounds():
    """W and v say that: minus the second derivatives, and the maximum, of ln prior of (offset, contrast)."""
    chosen = design("individual")
    center = np.linalg.solve(density().scaling.weight, density().scaling.aim[..., None])[..., 0]
    np.testing.assert_allclose(center + np.array([1.0, 0.0]), np.tile(0.5 * (chosen.lower + chosen.upper), (2, 1)), rtol=1e-12)
    expected = np.diag((chosen.upper - chosen.lower) ** -2.0)
    np.testing.assert_allclose(density().scaling.weight, [expected] * 2, rtol=1e-12)
    # One prior for the one pair of numbers of two maps, not two.
    np.testing.assert_allclose(density("averaged").scaling.weight, [expected], rtol=1e-12)


@pytest.mark.parametrize("powers", SHARES)
@pytest.mark.parametrize("scaling", ["individual", "averaged"])
def test_coefficients_have_the_moments_of_the_joint_density(scaling, powers):
    made = density(scaling)
    u = point(made, 1)
    own = replace(made, prior_power=powers[0], data_power=powers[1])
    _, mean, covariance = quadrature(made, scaling, u, powers)
    found = [np.asarray(part) for part in moments(own, u)]
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    np.testing.assert_allclose((found[0] - mean) / sd, 0.0, atol=1e-6)
    np.testing.assert_allclose(found[1] / sd[:, :, None] / sd[:, None, :], covariance / sd[:, :, None] / sd[:, None, :], atol=1e-8)


@pytest.mark.parametrize("scaling", ["individual", "averaged"])
def test_drawn_coefficients_have_the_same_moments(scaling):
    made = density(scaling)
    u = point(made, 0)
    mean, covariance = (np.asarray(part) for part in moments(made, u))
    found = np.asarray(draws(made, u, jax.random.split(jax.random.key(1), 4000)))
    for g in range(len(mean)):
        white = np.linalg.solve(np.linalg.cholesky(covariance[g]), (found[:, g] - mean[g]).T)
        # Four errors of a mean and of a variance of 4000.
        np.testing.assert_allclose(white.mean(axis=1), 0.0, atol=4 / np.sqrt(4000))
        np.testing.assert_allclose(np.cov(white), np.eye(2), atol=4 * np.sqrt(2 / 4000))


def test_kept_contrast_and_offset_leave_the_plain_likelihood():
    chosen = factory.option("mode", "static")
    data = dataset()
    kept = factory.option("per_angle_scaling", "constant").design(data, VARIANCE)
    made = Density.of(
        ModelPrior.of(chosen.bind(data.t, Q, GAP, data.phi), chosen.parameters), data.phi, Scaling.of(kept, VARIANCE), all_strips(data)
    )
    u = point(made, 2)
    exact = 0.0
    for (h, c2), (offset, contrast) in zip(written_out(made, u), kept.constant, strict=True):
        exact += stats.norm(offset + contrast * h, np.exp(0.5 * u[-1])).logpdf(c2).sum()
    assert float(value(made, u)) == pytest.approx(exact, rel=1e-12)


def test_a_map_and_its_upper_triangle_have_the_same_density():
    """c2(t1, t2) and c2(t2, t1) are one measurement."""
    full = exact_maps(STATIC, PHI, N) + noise_like(np.zeros((2, N, N)), SIGMA, 1)
    made = density()
    values = [float(value(replace_pixels(made, measured(maps, PHI)), point(made, 0))) for maps in (full, np.triu(full, 1))]
    assert values[0] == values[1]


def replace_pixels(made: Density, data: Dataset) -> Density:
    return Density.of(made.prior, data.phi, made.scaling, all_strips(data))


def test_the_likelihood_squared_is_that_of_every_pixel_twice():
    """Two equal maps that share contrast and offset, against one of them with power 2."""
    once = measured(exact_maps(STATIC, PHI[:1], N) + noise_like(np.zeros((1, N, N)), SIGMA, 1), PHI[:1])
    twice = measured(np.repeat(np.stack([once.map(0)]), 2, axis=0), (0.0, 0.0))
    chosen = factory.option("mode", "static")
    prior = ModelPrior.of(chosen.bind(once.t, Q, GAP, once.phi), chosen.parameters)
    made = [
        Density.of(prior, data.phi, Scaling.of(factory.problem_parts(data, "averaged")[0], VARIANCE), all_strips(data))
        for data in (once, twice)
    ]
    for k in range(2):
        u = point(made[0], k)
        assert float(value(replace(made[0], data_power=2.0), u)) == pytest.approx(float(value(made[1], u)), rel=1e-12)


@pytest.mark.parametrize("strategy", ["stride", "contiguous"])
@pytest.mark.parametrize("scaling", ["individual", "averaged"])
def test_shards_with_a_root_of_the_prior_multiply_to_the_joint_density_of_all_pixels(scaling, strategy):
    """At any u, ln s2 and coefficients, up to one constant: what a consensus rests on."""
    whole, count = density(scaling), 4
    parts = [
        replace(Density.of(whole.prior, whole.phi, whole.scaling, strips), prior_power=1 / count)
        for strips in deal(dataset(), count, strategy, seed=0)
    ]

    def joint(made: Density, u: np.ndarray, step: float) -> float:
        center, _ = (np.asarray(part) for part in moments(whole, point(whole, 0)))
        mean, covariance = (np.asarray(part) for part in moments(made, u))
        own = zip(center + step * 1e-3, mean, covariance, strict=True)
        return float(value(made, u)) + sum(stats.multivariate_normal(m, c).logpdf(b) for b, m, c in own)

    at = [(point(whole, k), step) for k, step in ((0, 0.0), (1, 1.0), (3, -2.0))]
    found = [sum(joint(part, u, step) for part in parts) for u, step in at]
    exact = [joint(whole, u, step) for u, step in at]
    np.testing.assert_allclose(np.diff(found), np.diff(exact), rtol=1e-8, atol=1e-8)


def test_the_variance_has_an_inverse_gamma_distribution_where_coefficients_have_no_prior():
    """With a constant prior of ln s2: shape (n - k)/2, scale half the sum of squares that a fit of the coefficients leaves."""
    made = density()
    flat = replace(made, scaling=replace(made.scaling, weight=0 * made.scaling.weight, aim=0 * made.scaling.aim))
    u = point(made, 0)
    left, count = 0.0, 0
    for h, c2 in written_out(made, u):
        left += np.linalg.lstsq(np.stack([np.ones_like(h), h], -1), c2, rcond=None)[1][0]
        count += len(h)
    known = stats.invgamma((count - 4) / 2, scale=left / 2)
    for k in range(1, 4):
        other = np.append(u[:-1], u[-1] + 0.05 * k)
        exact = known.logpdf(np.exp(other[-1])) + other[-1] - known.logpdf(np.exp(u[-1])) - u[-1]
        assert float(value(flat, other) - value(flat, u)) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(("mode", "scaling"), [("static", "individual"), ("static", "averaged"), ("laminar_flow", "individual")])
def test_the_gradient_is_that_of_finite_differences(mode, scaling):
    made = density(scaling, mode)
    u = point(made, 1)
    steps = 1e-5 * np.eye(len(u))
    numeric = [(float(value(made, u + e)) - float(value(made, u - e))) / 2e-5 for e in steps]
    np.testing.assert_allclose(jax.jit(jax.grad(Density.__call__, argnums=1))(made, u), numeric, rtol=2e-6, atol=1e-4)


def test_beyond_bounds_the_density_is_zero_and_no_derivative_is_nan():
    """A bound of the user, a rate that the record cannot resolve, an exponent beyond 2, and a noise level of nothing."""
    made = density()
    slope = jax.jit(jax.value_and_grad(Density.__call__, argnums=1))
    u = point(made, 0)
    for at, new in ((0, u[0] + 1.0), (0, -5.0), (1, 60.0), (2, 2.1)):
        beyond = u.copy()
        beyond[at] = new
        found, gradient = slope(made, beyond)
        assert found == -np.inf
        assert np.isfinite(gradient).all()
    inside, gradient = slope(made, u)
    assert np.isfinite(inside)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("mode", ["static", "laminar_flow"])
def test_the_density_at_known_parameters_is_what_numpy_makes_of_them(mode):
    """With no prior of the coefficients, ln density is the profile likelihood and the volume of the coefficients: no number is lost
    on the way through coordinates, strips and sums."""
    made = density("individual", mode)
    flat = replace(made, scaling=replace(made.scaling, weight=0 * made.scaling.weight, aim=0 * made.scaling.aim))
    u = point(made, 0)
    exact = 0.0
    for h, c2 in written_out(made, u):
        both = np.stack([np.ones_like(h), h], -1)
        squares = np.linalg.lstsq(both, c2, rcond=None)[1][0]
        exact -= 0.5 * (len(h) * np.log(2 * np.pi * np.exp(u[-1])) + squares / np.exp(u[-1]))
        exact -= 0.5 * np.linalg.slogdet(both.T @ both / np.exp(u[-1]))[1]
    assert float(value(flat, u)) == pytest.approx(exact, rel=1e-11)


def test_numbers_of_a_draw_are_those_of_the_user():
    made = density()
    u = point(made, 1)
    found = jax.jit(lambda made, u: made.numbers(u, made.with_sums(u)[1], jax.random.key(0)))(made, u)
    parameters = np.asarray(made.prior.model.parameters(u[:-1]))
    np.testing.assert_allclose(found["parameters"], parameters, rtol=1e-12)
    np.testing.assert_allclose(found["sigma"], SIGMA * 1.1, rtol=1e-12)
    np.testing.assert_allclose(found["J"], parameters[0] * times(N) ** parameters[1] + parameters[2], rtol=1e-9)
    coefficients = np.asarray(draws(made, u, jax.random.split(jax.random.key(0), 1)[:1]))
    assert found["scaling"].shape == (2, 2)
    np.testing.assert_allclose(made.scaling.by_angle(coefficients[0]), coefficients[0] + [1.0, 0.0], rtol=1e-12)
    assert made.names == ("ln rate[D0] at first time", "ln rate[D0] at last time", "alpha", "ln sigma^2")


def profile(made: Density, u: jax.Array) -> jax.Array:
    """ln likelihood with coefficients at their best, which is what the covariance of a fit belongs to: without the volume ln|A|."""
    _, covariance = made.coefficient_moments(u, made.with_sums(u)[1])
    return made(u) - 0.5 * jnp.sum(jnp.linalg.slogdet(covariance)[1])


slope_of_profile = jax.jit(jax.grad(profile, argnums=1))


def curvature_of_profile(made: Density, u: np.ndarray) -> np.ndarray:
    """(p, p) Hessian of -ln likelihood by the parameters, from differences of the gradient."""
    steps = 1e-5 * np.eye(len(u))[:-1]
    hessian = -np.array([(slope_of_profile(made, u + e) - slope_of_profile(made, u - e))[:-1] / 2e-5 for e in steps])
    return 0.5 * (hessian + hessian.T)


@cache
def curved() -> tuple[Density, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Density, its best u, and there the Hessian of -ln L by w, d E[b]/dw (G k, p) and the covariance of b: all by differences."""
    made = density()
    made = replace(made, scaling=replace(made.scaling, weight=0 * made.scaling.weight, aim=0 * made.scaling.aim))
    u = point(made, 0)
    for _ in range(15):
        u[:-1] += np.linalg.solve(curvature_of_profile(made, u), slope_of_profile(made, u)[:-1])
    steps = 1e-5 * np.eye(len(u))[:-1]
    ends = [np.array([moments(made, u + sign * e)[0] for e in steps]) for sign in (1, -1)]
    inner = np.zeros((4, 4))
    inner[:2, :2], inner[2:, 2:] = np.asarray(moments(made, u)[1])
    return made, u, curvature_of_profile(made, u), ((ends[0] - ends[1]) / 2e-5).reshape(len(steps), -1).T, inner


def independent() -> np.ndarray:
    """(p + 4, p + 4) covariance of (w, b) that the likelihood itself has at its maximum."""
    _, _, curvature, plain, inner = curved()
    own = np.linalg.inv(curvature)
    return np.block([[own, own @ plain.T], [plain @ own, inner + plain @ own @ plain.T]])


def other_covariance() -> np.ndarray:
    """Another one: wider, and turned."""
    rng = np.random.default_rng(3)
    root = np.linalg.cholesky(independent())
    turn = 2.0 * np.eye(7) + 0.4 * rng.standard_normal((7, 7))
    return root @ turn @ turn.T @ root.T


def facts(held: list[bool]) -> Information:
    size = len(held)
    return Information(np.zeros((size + 4, size + 4)), np.array(held), invert(np.eye(size)), expansion(design("individual")))


def calibrated(covariance: np.ndarray) -> Density:
    made, u, *_ = curved()
    return replace(made, calibration=Calibration.of(u[:-1], facts([False] * 3), independent(), covariance))


def test_the_curvature_of_the_calibrated_likelihood_is_the_inverse_of_the_given_covariance():
    made, (_, u, *_) = calibrated(other_covariance()), curved()
    size = len(u) - 1
    own = np.linalg.cholesky(other_covariance()[:size, :size])
    np.testing.assert_allclose(own.T @ curvature_of_profile(made, u) @ own, np.eye(size), atol=1e-5)
    np.testing.assert_allclose(own.T @ slope_of_profile(made, u)[:-1], 0.0, atol=1e-5)
    assert made.calibration is not None
    ratio = np.linalg.det(other_covariance()[:size, :size]) / np.linalg.det(independent()[:size, :size])
    assert made.calibration.inflation == pytest.approx(ratio ** (1 / size), rel=1e-9)


def test_calibration_to_its_own_covariance_changes_nothing():
    made, (plain, u, *_) = calibrated(independent()), curved()
    for k in range(3):
        other = u + 0.01 * np.sin(np.arange(4) + k)
        assert float(value(made, other)) == pytest.approx(float(value(plain, other)), rel=1e-12)
        for found, exact in zip(moments(made, other), moments(plain, other), strict=True):
            np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-14)
    calibration = made.calibration
    assert calibration is not None
    np.testing.assert_allclose(calibration.turn, np.eye(3), atol=1e-8)
    np.testing.assert_allclose(calibration.spread @ calibration.spread, curved()[4], atol=1e-7 * np.abs(curved()[4]).max())


def test_parameters_and_coefficients_together_have_the_given_covariance():
    """w from a normal distribution of its covariance, coefficients drawn there: joint covariance to Monte Carlo error."""
    made, (_, u, *_), covariance = calibrated(other_covariance()), curved(), other_covariance()
    # A hundredth of the deviations of w, for which the coefficients are linear in w; their own scatter is divided out after.
    small, count = 0.01, 20000
    w = np.random.default_rng(0).multivariate_normal(np.zeros(3), covariance[:3, :3], count)
    keys = jax.random.split(jax.random.key(4), count)

    @jax.jit
    def drawn(made, away, keys):
        def one(item):
            step, key = item
            at = jnp.append(u[:-1] + small * step, u[-1])
            return made.coefficients(at, made.with_sums(at)[1], key).ravel()

        return jax.lax.map(one, (away, keys), batch_size=100)

    assert made.calibration is not None
    noise = np.asarray(drawn(made, 0 * w, keys))
    linear = (np.asarray(drawn(made, w, keys)) - noise) / small
    joint = np.concatenate([w, linear + noise - noise.mean(axis=0)], axis=1)
    root = np.linalg.cholesky(covariance)
    white = np.linalg.solve(root, joint.T)
    np.testing.assert_allclose(np.cov(white), np.eye(7), atol=4 * np.sqrt(2 / count))


def test_a_coordinate_at_a_limit_is_not_turned():
    _, u, *_ = curved()
    held = Calibration.of(u[:-1], facts([False, False, True]), independent(), other_covariance())
    np.testing.assert_array_equal(held.turn[2], [0.0, 0.0, 1.0])
    np.testing.assert_array_equal(held.turn[:, 2], [0.0, 0.0, 1.0])
    np.testing.assert_array_equal(held.slope[:, 2], 0.0)
    turn, kept = held.turn[:2, :2], np.ix_([0, 1], [0, 1])
    expected = np.linalg.inv(other_covariance()[kept]) * held.inflation
    np.testing.assert_allclose(turn.T @ np.linalg.inv(independent()[kept]) @ turn, expected, rtol=1e-8)
