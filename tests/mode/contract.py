"""What every mode must do, checked on the Model it binds; ``test_contract.py`` runs it over all options in conf/mode."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from homodyne.config import option
from homodyne.groups import options
from homodyne.mode.base import Model
from homodyne.optimizer.trust_region import Tolerances, minimise
from homodyne.problem import Problem

from .. import factory
from ..factory import LAMINAR, PHI, STATIC, simulated

MODES = options("mode")
TRUTH = {"static": STATIC, "laminar_flow": LAMINAR}
TIGHT = Tolerances(ftol=1e-15, xtol=1e-12, gtol=1e-13, max_passes=100)


@cache
def exact_data(mode: str):
    return simulated(TRUTH[mode], PHI, 60, sigma=0.0)


def bind(mode: str, **settings) -> Model:
    data = exact_data(mode)
    return option("mode", mode, **settings).bind(data.t, data.q, data.gap, data.phi)


def points(model: Model, count: int = 6) -> np.ndarray:
    """Start points away from exponent 0, where amplitude and offset are infinite."""
    u = model.starts(np.random.default_rng(2), 40 * count)
    shapes = model.exponents()
    u = u[np.all(np.abs(u[:, shapes]) > 0.1, axis=1)]
    # Inside the box, so that no end rate was moved onto its limit.
    inside = np.all((u > model.lower + 0.1) & (u < model.upper - 0.1), axis=1)
    return u[inside][:count]


def assert_states_differentiate(mode: str) -> None:
    """Derivatives of the states equal central differences, at ordinary points, at exponent 0 and very close to it."""
    model = bind(mode)
    states, slopes = jax.jit(model.states), jax.jit(jax.jacfwd(model.states))
    cases = list(points(model, 3))
    for exponent in (0.0, 1e-9, -1e-9, 1e-3):
        special = cases[0].copy()
        special[model.exponents()] = exponent
        cases.append(special)
    for u in cases:
        step = 1e-5
        numeric = np.stack([(states(u + step * e, 20.0) - states(u - step * e, 20.0)) / (2 * step) for e in np.eye(len(u))], -1)
        scale = np.abs(np.asarray(states(u, 20.0))).max(axis=1)[:, None, None]
        np.testing.assert_allclose(np.asarray(slopes(u, 20.0)) / scale, numeric / scale, atol=2e-8)


def assert_dependence_is_declared(mode: str) -> None:
    """States have no derivative with respect to coordinates that ``depends`` does not name."""
    model = bind(mode)
    slopes = np.asarray(jax.jacfwd(model.states)(jnp.asarray(points(model, 1)[0]), 20.0))
    assert len(model.depends) == len(slopes) == len(model.pair.exponential)
    for slope, used in zip(slopes, model.depends, strict=True):
        unused = np.setdiff1d(np.arange(slope.shape[1]), used)
        np.testing.assert_array_equal(slope[:, unused], 0.0)
        assert np.all(np.abs(slope[:, list(used)]).max(axis=0) > 0)


def assert_round_trip(mode: str) -> None:
    """u -> parameters -> u."""
    model = bind(mode)
    found = points(model)
    assert len(found) >= 3
    for u in found:
        parameters = dict(zip(model.names, np.asarray(model.parameters(u)).tolist(), strict=True))
        np.testing.assert_allclose(model.coordinates_of(parameters), u, rtol=1e-8, atol=1e-8)


def assert_box_contains_starts(mode: str) -> None:
    model = bind(mode)
    starts, grid = model.starts(np.random.default_rng(0), 200), model.grid().reshape(-1, len(model.lower))
    for u in (*starts, *grid):
        assert np.all((u >= model.lower) & (u <= model.upper))
        assert model.allowed(u)
    # Every direction of the box is explored.
    assert np.all(np.ptp(starts, axis=0) > model.spread / 2)


def assert_fixed_stays(mode: str, name: str) -> None:
    """A fixed parameter has its value at any u and takes no coordinate of its own."""
    value = TRUTH[mode][name]
    free, model = bind(mode), bind(mode, parameters=factory.fixed(**{name: value}))
    assert len(model.lower) == len(free.lower) - 1
    for u in model.starts(np.random.default_rng(0), 3):
        assert float(model.parameters(u)[model.names.index(name)]) == value


def assert_canonical_keeps_chi2(mode: str) -> None:
    """Wrapping by the convention changes no map, and is the same for equivalent points."""
    made = factory.problem(exact_data(mode), mode)
    u = made.model.coordinates_of(TRUTH[mode]) + 0.1
    turned = u.copy()
    if "phi0" in made.model.coordinates:
        turned[-1] += 540.0
    wrapped = made.model.canonical(turned)
    np.testing.assert_allclose(made.evaluate(wrapped).chi2, made.evaluate(u).chi2, rtol=1e-9)
    np.testing.assert_allclose(wrapped, made.model.canonical(u), atol=1e-9)
    np.testing.assert_allclose(made.model.canonical(wrapped), wrapped, atol=1e-9)


def scaled_condition(problem: Problem, u: np.ndarray) -> float:
    """Condition number of the column-scaled projected Jacobian."""
    hessian = problem.evaluate(u, 2).hessian
    scale = np.sqrt(np.diagonal(hessian))
    return float(np.sqrt(np.linalg.cond(hessian / np.outer(scale, scale))))


def assert_condition_at_exponent_zero(mode: str) -> None:
    """Where amplitude and offset diverge the coordinates of the solver do not notice."""
    made = factory.problem(exact_data(mode), mode)
    u = made.model.coordinates_of(TRUTH[mode])
    u[made.model.exponents()] = 1e-8
    assert scaled_condition(made, u) < 1e3


def assert_recovers(mode: str, **values: float) -> None:
    """Fixing these at their true values, a fit of exact data from a displaced start gives all others."""
    model = bind(mode, parameters=factory.fixed(**values))
    truth = TRUTH[mode] | values
    data = factory.simulated(truth, PHI, 60, sigma=0.0)
    made = Problem(model, *factory.problem_parts(data))
    start = model.coordinates_of(truth)
    # Amplitudes and offsets themselves move by a share of their value, their logarithms, exponents and degrees by a number.
    linear = np.array([name in truth and name not in ("alpha", "beta", "phi0") for name in model.coordinates], dtype=bool)
    moved = start + 0.1 * np.where(linear, start, 1.0)
    assert model.allowed(moved)
    local = minimise(made, moved, TIGHT)
    assert local is not None
    found = dict(zip(model.names, np.asarray(model.parameters(local.evaluation.u)).tolist(), strict=True))
    for name, value in truth.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-3 if name == "phi0" else 1e-9, err_msg=name)
