"""Profiles and regions: exact for a linear problem, and otherwise what a dense scan of the same residuals finds."""

from dataclasses import dataclass, replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import register_dataclass
from scipy.optimize import brentq, least_squares
from scipy.optimize import minimize as solve

from homodyne.config import option
from homodyne.contour import contour
from homodyne.mode.base import Model
from homodyne.optimizer.progress import FitInterrupted
from homodyne.optimizer.trust_region import Tolerances, minimise
from homodyne.problem import Evaluation, Information, Inverse, Problem, invert
from homodyne.profile import profile
from homodyne.projection import Projection
from homodyne.results import Fit
from homodyne.surface import Quantity, Surface

from .factory import STATIC, Q, dense_pairs, fitted, fixed, problem_parts, simulated, times

TOLERANCES = Tolerances(1e-12, 1e-12, 1e-12, 100)
MATRIX = np.array([[1.0, 0.4, -0.2], [0.0, 2.0, 0.5], [0.3, 0.0, 1.0]])
CENTRE = np.array([3.0, -1.0, 0.5])


@partial(register_dataclass, data_fields=("matrix",), meta_fields=("pole", "box"))
@dataclass(frozen=True, eq=False)
class LinearModel:
    """Parameters a, b, c = matrix u; with a pole the first one is 1/(pole - u_0)."""

    matrix: np.ndarray
    pole: float | None = None
    box: float = np.inf

    names = ("a", "b", "c")
    laws = ()

    @property
    def lower(self) -> np.ndarray:
        return np.full(3, -np.inf)

    @property
    def upper(self) -> np.ndarray:
        return np.array([self.box, np.inf, np.inf])

    @property
    def spread(self) -> np.ndarray:
        return np.full(3, 100.0)

    def allowed(self, u: np.ndarray) -> bool:
        return True

    def parameters(self, u: jax.Array) -> jax.Array:
        linear = jnp.asarray(self.matrix) @ u
        return linear if self.pole is None else jnp.stack([1 / (self.pole - u[0]), *linear[1:]])

    def log_rates(self, u: jax.Array) -> dict[str, jax.Array]:
        return {}

    def reference(self, u: jax.Array) -> dict[str, jax.Array]:
        return {}


@dataclass(frozen=True)
class Bowl:
    """chi2 = 50 + (u - CENTRE)' hessian (u - CENTRE)."""

    model: Model
    hessian: np.ndarray

    def evaluate(self, u: np.ndarray) -> Evaluation:
        away = np.asarray(u) - CENTRE
        chi2, none = np.asarray(50 + away @ self.hessian @ away), np.zeros(0)
        projection = Projection(chi2, none, none, none, none, none, gradient=self.hessian @ away, hessian=self.hessian)
        return Evaluation(np.array(u), float(chi2), none, none, projection, none)


def bowl(pole: float | None = None, covariance: np.ndarray | None = None, box: float = np.inf) -> Surface:
    """A quadratic chi2 whose noise is not that of its curvature."""
    rng = np.random.default_rng(4)
    root = rng.normal(size=(3, 3))
    hessian = root @ root.T + np.eye(3)
    made = Bowl(LinearModel(MATRIX, pole, box), hessian)  # type: ignore[arg-type]  # the part of a Model that is needed
    other = rng.normal(size=(3, 3))
    covariance = other @ other.T + 0.1 * np.eye(3) if covariance is None else covariance
    known = Inverse(invert(hessian).matrix, np.zeros((3, 0)), np.ones(3), 1.0)
    information = Information(known.matrix, np.zeros(3, dtype=bool), known, np.zeros((0, 3)))
    return Surface(made, made.evaluate(CENTRE), information, covariance, 0.7, "scipy", TOLERANCES, lambda: None)


def parameter(k: int) -> Quantity:
    return Quantity("abc"[k], "1", "parameters", "", k)


@pytest.mark.parametrize("confidence", [0.68, 0.95])
@pytest.mark.parametrize("k", [0, 1, 2])
def test_of_a_linear_problem_the_profile_is_the_linear_interval(k: int, confidence: float) -> None:
    surface = bowl()
    error = float(np.sqrt(MATRIX[k] @ surface.covariance @ MATRIX[k]))
    found = profile(surface, parameter(k), error, confidence)
    np.testing.assert_allclose((found.lower, found.upper), found.linear, rtol=1e-6)
    np.testing.assert_allclose(found.root, (found.value - MATRIX[k] @ CENTRE) / error, atol=1e-6)
    curvature = float(MATRIX[k] @ invert(surface.problem.hessian).matrix @ MATRIX[k])  # type: ignore[attr-defined]
    assert found.inflation == pytest.approx(error / np.sqrt(0.7 * curvature))
    np.testing.assert_allclose(found.rise, (found.value - found.estimate) ** 2 / curvature / 0.7, atol=1e-6)
    assert found.sentence == ""


def test_of_a_linear_problem_the_region_is_the_ellipse_of_the_noise() -> None:
    surface = bowl()
    found = contour(surface, (parameter(0), parameter(1)), 0.95)
    assert found is not None
    expected = MATRIX[:2] @ surface.covariance @ MATRIX[:2].T
    np.testing.assert_allclose(found.covariance, expected)

    def distance(points: np.ndarray) -> np.ndarray:
        away = points - MATRIX[:2] @ CENTRE
        return np.einsum("ki,ij,kj->k", away, np.linalg.inv(expected), away)

    np.testing.assert_allclose(found.points[:, 2], distance(found.points[:, :2]), atol=1e-6)
    np.testing.assert_allclose(distance(found.edge), 5.9915, rtol=0.01)
    np.testing.assert_allclose(distance(found.inner), 2.2957, rtol=0.01)
    assert (found.closed, found.sentence) == (True, "")
    assert len(found.points) < 90


def test_a_quantity_beyond_whose_pole_chi2_stays_low_has_no_upper_limit() -> None:
    """a = 1/(4 - u_0) is 1 at the minimum and infinite at u_0 = 4, half a standard deviation away."""
    hessian = bowl().problem.hessian  # type: ignore[attr-defined]
    covariance = invert(hessian).matrix
    unit = 4.0 / covariance[0, 0]
    surface = bowl(pole=4.0, covariance=covariance * unit)
    found = profile(surface, parameter(0), float("nan"), 0.95)
    assert found.upper == np.inf
    assert "has no upper limit at 95 %" in found.sentence
    # u_0 of the lower end is two standard deviations of 2 below the minimum.
    assert found.lower == pytest.approx(1 / (4.0 - (3.0 - 1.95996 * 2.0)), rel=2e-3)
    np.testing.assert_allclose(found.root, (4.0 - 1 / found.value - 3.0) / 2.0, atol=1e-5)


def test_the_limit_of_a_model_ends_the_search_and_is_said() -> None:
    surface = bowl(box=3.4)
    surface = bowl(box=3.4, covariance=invert(surface.problem.hessian).matrix)  # type: ignore[attr-defined]
    free = np.sqrt(surface.covariance[0, 0])
    direct = Quantity("a", "1", "parameters", "", 0)
    identity = bowl(covariance=surface.covariance)
    assert profile(identity, direct, float("nan"), 0.95).upper < np.inf
    box = LinearModel(np.eye(3), None, 3.0 + 0.5 * float(free))
    limited = Bowl(box, surface.problem.hessian)  # type: ignore[arg-type, attr-defined]
    made = Surface(limited, limited.evaluate(CENTRE), surface.information, surface.covariance, 1.0, "scipy", TOLERANCES, lambda: None)
    found = profile(made, direct, float("nan"), 0.95)
    assert found.upper == np.inf
    assert "where the model ends" in found.sentence
    assert found.value[-1] == pytest.approx(box.box, abs=1e-3)
    assert found.root[-1] == pytest.approx(0.5, abs=1e-3)


def test_a_request_to_stop_is_heard_at_every_step() -> None:
    def stop() -> None:
        raise FitInterrupted

    with pytest.raises(FitInterrupted):
        profile(replace(bowl(), interrupted=stop), parameter(0), 1.0, 0.95)


@cache
def noisy():
    return simulated(STATIC, (0.0, 60.0), 40, sigma=0.02, seed=1)


@cache
def noisy_fit() -> Fit:
    asked = option("uncertainty", "standard", profile=["D0", "alpha", "J_ref"], contour=[["D0", "alpha"]])
    return fitted(noisy(), mode="static", per_angle_scaling="averaged", uncertainty=asked)


@pytest.mark.parametrize("name", ["D0", "alpha"])
def test_every_point_is_the_minimum_of_the_fit_with_the_parameter_fixed(name: str) -> None:
    """The same lowest chi2 by other coordinates: the mode's own, with the value as a fixed parameter."""
    design, source = problem_parts(noisy(), "averaged")
    found, here = noisy_fit().profiles[name], noisy_fit()
    for value, rise in zip(found.value, found.rise, strict=True):
        mode = option("mode", "static", parameters=fixed(**{name: float(value)}))
        made = Problem(mode.bind(noisy().t, Q, noisy().gap, noisy().phi), design, source)
        start = made.model.coordinates_of({key: estimate.value for key, estimate in here.parameters.items()})
        local = minimise(made, start, TOLERANCES)
        assert local is not None
        sigma2 = here.sigma**2 * here.dof / here.pairs
        best = here.sigma**2 * here.dof
        assert (local.evaluation.chi2 - best) / sigma2 == pytest.approx(rise, abs=2e-3)


def scan(amplitude: float, exponent: float | None = None) -> float:
    """chi2 of all pixels at this D0 (and alpha), everything else fitted by SciPy to a model written in NumPy."""
    early, late, used, c2 = dense_pairs(noisy())
    t = times(40)

    def residual(p: np.ndarray) -> np.ndarray:
        rate = amplitude * t ** (p[0] if exponent is None else exponent) + p[1]
        travelled = np.concatenate([[0.0], np.cumsum(0.05 * (rate[1:] + rate[:-1]))])
        h = np.exp(-(Q**2) * (travelled[late] - travelled[early]))
        return np.concatenate([(values - p[2] - p[3] * h)[where] for values, where in zip(c2, used, strict=True)])

    start = [-0.5, 3000.0, 1.0, 0.15]
    solved = least_squares(residual, start, x_scale=[0.1, 1e3, 0.01, 0.01], xtol=1e-12, ftol=1e-12, gtol=1e-12)
    return 2 * float(solved.cost)


def test_an_asymmetric_interval_is_that_of_a_dense_scan() -> None:
    found, here = noisy_fit().profiles["D0"], noisy_fit()
    best = here.sigma**2 * here.dof
    variance = here.sigma**2
    for value, root in zip(found.value, found.root, strict=True):
        assert abs(root) == pytest.approx(np.sqrt(max(scan(value) - best, 0.0) / variance), abs=2e-3)
    level = found.quantile**2
    lower = brentq(lambda value: (scan(value) - best) / variance - level, found.value[0], found.estimate, xtol=1.0)
    upper = brentq(lambda value: (scan(value) - best) / variance - level, found.estimate, found.value[-1], xtol=1.0)
    assert (found.lower, found.upper) == pytest.approx((lower, upper), rel=2e-3)
    # It is asymmetric: the linear interval would not do.
    assert found.upper - found.estimate > 1.2 * (found.estimate - found.lower)


def test_the_edge_of_a_bent_region_is_that_of_a_dense_scan() -> None:
    """At every point of the edge, chi2 fitted by SciPy to a model written in NumPy has risen to the quantile."""
    (region,) = noisy_fit().contours
    here = noisy_fit()
    best, variance = here.sigma**2 * here.dof, here.sigma**2
    assert region.closed
    for edge, level in ((region.edge, 5.9915), (region.inner, 2.2957)):
        rises = [(scan(first, second) - best) / variance for first, second in edge]
        np.testing.assert_allclose(rises, level, rtol=0.04)
    # It is bent: the linear ellipse would not do.
    ellipse = np.einsum("ki,ij,kj->k", region.edge - region.estimate, np.linalg.inv(region.covariance), region.edge - region.estimate)
    assert ellipse.max() > 2 * 5.9915


def test_a_rate_is_profiled_like_a_parameter() -> None:
    found, rate = noisy_fit().profiles["J_ref"], noisy_fit().rates["J_ref"]
    assert (found.estimate, found.error) == (rate.value, rate.error)
    # J at the reference time is what the data determine best: nearly linear.
    np.testing.assert_allclose((found.lower, found.upper), found.linear, rtol=0.02)


@cache
def constant():
    """A sample whose J does not change, so that the exponent shapes hardly anything."""
    return simulated({"D0": 6000.0, "alpha": 0.0, "D_offset": 0.0}, (0.0, 60.0), 40, sigma=0.005, seed=3)


@pytest.mark.parametrize("name", ["J_ref", "J_best"])
def test_where_the_exponent_is_free_to_move_the_profile_is_that_of_another_solver(name: str) -> None:
    """SciPy's SLSQP, with the rate held by an equality constraint and several exponents to start from."""
    asked = option("uncertainty", "standard", profile=[name])
    fit = fitted(constant(), mode="static", per_angle_scaling="averaged", uncertainty=asked)
    found = fit.profiles[name]
    assert len(found.value) <= 11
    assert np.isfinite((found.lower, found.upper)).all()
    # An exponent at its limit holds the linear error short; chi2 does not.
    half, linear = 0.5 * (found.upper - found.lower), 0.5 * (found.linear[1] - found.linear[0])
    assert 0.95 * linear < half < 1.3 * linear
    made = Problem(option("mode", "static").bind(constant().t, Q, constant().gap, constant().phi), *problem_parts(constant(), "averaged"))
    best, variance = made.evaluate(fit.solution).chi2, fit.sigma**2 * fit.dof / fit.pairs
    at = int(np.argmin(np.abs(constant().t - fit.curves["J"].best_time)))

    def log_rate(u: np.ndarray) -> float:
        return float(made.model.reference(u)["J"][0] if name == "J_ref" else made.model.log_rates(u)["J"][at])

    box = list(zip(made.model.lower, made.model.upper, strict=True))
    for value, rise in zip(found.value[1::3], found.rise[1::3], strict=True):
        rises = []
        for exponent in (-1.0, 0.0, 1.0):
            start = fit.solution * [1, 1, 0] + [0, 0, exponent]
            solved = solve(
                lambda u: (made.evaluate(u, 1).chi2 - best) / variance,
                start,
                jac=lambda u: 2 * made.evaluate(u, 1).gradient / variance,
                bounds=box,
                constraints={"type": "eq", "fun": lambda u, value=value: log_rate(u) - np.log(value)},
                method="SLSQP",
                options={"ftol": 1e-8, "maxiter": 200},
            )
            rises.append(solved.fun)
        assert np.sqrt(rise) == pytest.approx(np.sqrt(max(min(rises), 0.0)), abs=0.03)


def test_an_amplitude_is_followed_through_infinity_and_this_is_said() -> None:
    asked = option("uncertainty", "standard", profile=["D0"])
    data = simulated({"D0": 6000.0, "alpha": -0.1, "D_offset": 0.0}, (0.0, 60.0), 40, sigma=0.01, seed=3)
    found = fitted(data, mode="static", per_angle_scaling="averaged", uncertainty=asked).profiles["D0"]
    assert not np.isfinite((found.lower, found.upper)).all()
    assert "comes back from the other side" in found.sentence
    assert len(found.value) <= 11
    assert np.all(np.diff(found.value) > 0)
