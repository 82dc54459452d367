"""Independent pixels: the textbook covariance, computed densely."""

import jax
import jax.numpy as jnp
import numpy as np

from homodyne.config import option

from ..factory import dense_decay, dense_pairs
from . import contract


def test_errors_equal_the_dense_textbook_covariance():
    """sigma^2 (J'J)^-1 with J of all pixels by all numbers, sigma^2 = chi2/(pairs - numbers)."""
    found = contract.minimum(0)
    model, data, fit = found.problem.model, found.source.dataset, found.evaluation

    def c2(v):
        return jnp.concatenate([v[-2] + v[-1] * h for h in dense_decay(model, data, v[:-2])])

    point = np.append(fit.u, [fit.offset[0], fit.contrast[0]])
    jacobian = np.asarray(jax.jit(jax.jacfwd(c2))(point))
    _, _, _, values = dense_pairs(data)
    residual = np.concatenate(values) - np.asarray(c2(point))
    expected = np.linalg.inv(jacobian.T @ jacobian) * (residual @ residual) / (len(residual) - len(point))
    root = np.sqrt(np.diagonal(expected))
    covariance = option("noise", "iid").covariance(found).covariance
    np.testing.assert_allclose(covariance / np.outer(root, root), expected / np.outer(root, root), atol=1e-8)
