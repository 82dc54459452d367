"""The compressed residual is the residual of all pixels as far as a solver can tell."""

import numpy as np
import pytest

from homodyne.optimizer.trust_region import Tolerances, compress, minimise

from .. import factory
from ..factory import LAMINAR
from . import contract

TOLERANCES = Tolerances(ftol=1e-12, xtol=1e-10, gtol=1e-12, max_passes=100)


def test_the_compressed_residual_has_the_cost_gradient_and_matrix_of_all_pixels():
    made = factory.problem(contract.data("laminar_flow"))
    found = made.evaluate(made.model.coordinates_of(LAMINAR) + 0.1)
    residual, jacobian = compress(found)
    assert len(residual) == 8
    assert residual @ residual == pytest.approx(found.chi2, rel=1e-12)
    scale = np.sqrt(np.diagonal(found.hessian))
    np.testing.assert_allclose(jacobian.T @ residual / scale, found.gradient / scale, atol=1e-10 * np.sqrt(found.chi2))
    np.testing.assert_allclose(jacobian.T @ jacobian / np.outer(scale, scale), found.hessian / np.outer(scale, scale), atol=1e-10)


@pytest.mark.parametrize("solver", ["scipy", "nlsq"])
def test_a_local_fit_ends_where_the_gradient_vanishes(solver):
    made = factory.problem(contract.data("laminar_flow"))
    local = minimise(made, made.model.coordinates_of(LAMINAR), TOLERANCES, solver=solver)
    assert local is not None
    assert local.converged
    found = local.evaluation
    scaled = found.gradient / np.sqrt(np.diagonal(found.hessian)) / 0.01
    np.testing.assert_allclose(scaled, 0.0, atol=1e-3)
