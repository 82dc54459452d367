"""A density in white, unbounded coordinates: its mode, its curvature there, and the Jacobian on the way."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import register_dataclass
from scipy.optimize import minimize
from scipy.special import expit

from homodyne.errors import FitError
from homodyne.target import Target, from_box, locate, to_box

from .densities import LOWER, UPPER, Boxed, log_gamma, normal

BOXED = Boxed(LOWER, UPPER)
START = np.array([4.0, 1.0, -1.0, 0.3])


def white(target: Target) -> np.ndarray:
    """(d, d) Hessian of -ln density by v at the mode, by automatic differentiation."""
    return -np.asarray(jax.hessian(lambda v: target(v))(jnp.zeros(len(target.mode))))


@pytest.mark.parametrize("shift", [0.0, 0.5, -2.0])
def test_the_mode_of_a_skewed_density_is_found_from_a_few_deviations_away(shift):
    density = log_gamma(1.5, 4.0, 30.0)
    deviation = np.sqrt(np.diagonal(density.covariance))
    found = locate(density, density.mean + shift * deviation, deviation)
    exact = np.linalg.inv(density.turn.T) @ np.diag(density.shape) @ np.linalg.inv(density.turn)
    # In units of the curvature: 1e-3 is where the steps end, and the last one is taken.
    away = np.linalg.cholesky(exact).T @ (found.mode - density.mode)
    np.testing.assert_allclose(away, 0.0, atol=1e-5)
    np.testing.assert_allclose(white(found), np.eye(3), atol=5e-3)


def test_a_wrong_scale_at_the_start_costs_a_few_steps_and_changes_nothing():
    density = normal(4)
    steps: list[float] = []
    for scale in (1e-3, 1.0):
        steps.clear()
        found = locate(density, density.mean + 2.0, np.full(4, scale), lambda _, size: steps.append(size))
        np.testing.assert_allclose(found.mode, density.mean, atol=1e-6)
        np.testing.assert_allclose(found.root @ found.root.T, density.root @ density.root.T, rtol=1e-6, atol=1e-6)
        assert len(steps) <= 7


def test_white_coordinates_go_there_and_back_and_keep_sums():
    target = locate(BOXED, START, np.ones(4))
    v = np.random.default_rng(0).standard_normal((20, 4))
    u = np.array([target.to_u(one)[0] for one in v])
    np.testing.assert_allclose(target.from_u(u), v, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(target.from_u(u[0]), v[0], rtol=1e-9)
    value, sums = target.with_sums(v[3])
    np.testing.assert_allclose(sums, u[3], rtol=1e-12)
    assert value == target(v[3])


def test_limits_become_the_transforms_that_are_documented():
    """A logit between two limits, ln of the distance from one, nothing without."""
    z = np.array([0.3, -0.7, 0.4, 5.0])
    u, log_slope = to_box(z, LOWER, UPPER)
    np.testing.assert_allclose(u, [3 + 4 * expit(0.3), -1 + np.exp(-0.7), 2 - np.exp(0.4), 5.0], rtol=1e-14)
    numeric = [(to_box(z + e, LOWER, UPPER)[0] - to_box(z - e, LOWER, UPPER)[0])[k] / 2e-6 for k, e in enumerate(1e-6 * np.eye(4))]
    assert float(log_slope) == pytest.approx(np.log(np.abs(numeric)).sum(), abs=1e-8)
    np.testing.assert_allclose(from_box(np.asarray(u), LOWER, UPPER), z, rtol=1e-12)


@pytest.mark.parametrize("z", [-800.0, -40.0, 40.0, 800.0])
def test_far_out_nothing_is_nan_and_points_at_a_limit_are_kept_from_it(z):
    lower, upper = np.array([0.0, 0.0]), np.array([1.0, np.inf])
    u, log_slope = to_box(np.array([z, min(z, 40.0)]), lower, upper)
    assert np.isfinite([*u, log_slope]).all()
    gradient = jax.grad(lambda z: to_box(z, lower, upper)[1])(jnp.array([z, min(z, 40.0)]))
    assert np.isfinite(gradient).all()
    edge = from_box(np.array([[0.0, 0.0], [1.0, 7.0]]), lower, upper)
    assert np.isfinite(edge).all()
    inside = np.array([to_box(row, lower, upper)[0] for row in edge])
    assert np.all((inside > lower) & (inside < upper))


def test_the_density_of_a_bounded_number_still_integrates_to_one():
    """Over z on a grid: the Jacobian of each kind of limit."""
    z = np.linspace(-20.0, 20.0, 4001)
    others = np.array([4.0, 1.0, -1.0, 0.0])
    rest = from_box(others, LOWER, UPPER)
    for k in range(4):
        points = np.tile(rest, (len(z), 1))
        points[:, k] = z

        def log(point, k=k):
            u, _ = to_box(point, LOWER, UPPER)
            own = to_box(point[k : k + 1], LOWER[k : k + 1], UPPER[k : k + 1])[1]
            return BOXED(jnp.asarray(others).at[k].set(u[k])) - BOXED(jnp.asarray(others)) + own

        total = np.exp(jax.vmap(log)(points)).sum() * (z[1] - z[0])
        density = np.exp([_marginal(k, others[k])])[0]
        assert total * density == pytest.approx(1.0, rel=1e-6)


def _marginal(k: int, value: float) -> float:
    """ln of the marginal density of one coordinate of BOXED, by SciPy."""
    from scipy import stats

    known = [stats.beta(2, 5, 3, 4), stats.gamma(3, -1), stats.gamma(4), stats.norm()]
    return float(known[k].logpdf(2.0 - value if k == 2 else value))


def test_the_mode_within_limits_is_that_of_the_unbounded_coordinates():
    """Of density times Jacobian, as a minimiser of SciPy finds it."""
    found = locate(BOXED, START, np.ones(4))
    start = from_box(START, LOWER, UPPER)

    def minus_log(z):
        u, log_slope = to_box(z, LOWER, UPPER)
        return -(BOXED(u) + log_slope)

    exact = minimize(jax.jit(minus_log), start, jac=jax.jit(jax.grad(minus_log)), tol=1e-10).x
    np.testing.assert_allclose(found.mode, exact, atol=1e-5)
    np.testing.assert_allclose(white(found), np.eye(4), atol=5e-3)


@partial(register_dataclass, data_fields=("edge",), meta_fields=())
@dataclass(frozen=True)
class Cut:
    """exp(-u) from an edge on, zero below."""

    edge: float

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array([-np.inf]), np.array([np.inf])

    def __call__(self, u: jax.Array) -> jax.Array:
        return jnp.where(u[0] >= self.edge, -u[0], -jnp.inf)

    def with_sums(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self(u), u


def test_a_prior_that_excludes_the_fit_is_named_as_the_cause():
    with pytest.raises(FitError, match="the posterior density is -inf at the fit: a prior or a bound excludes it; accepted: priors that"):
        locate(Cut(1.0), np.array([0.5]), np.array([0.1]))


def test_a_mode_at_the_edge_of_a_prior_is_said_to_lie_there():
    with pytest.raises(FitError, match="edge of a prior or bound"):
        locate(Cut(1.0), np.array([1.0]), np.array([0.1]))


def test_a_density_without_a_maximum_is_refused():
    with pytest.raises(FitError, match="was not found in 40 Newton steps: the data and the priors do not determine it"):
        locate(Cut(-1e9), np.array([0.0]), np.array([1.0]))
