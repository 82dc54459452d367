"""What every noise option must do; ``test_contract.py`` runs it over all options in conf/noise."""

from functools import cache

import numpy as np

from homodyne.config import option
from homodyne.groups import options
from homodyne.noise.base import Minimised
from homodyne.optimizer.trust_region import Tolerances, minimise
from homodyne.problem import information

from .. import factory
from ..factory import SIGMA, STATIC, simulated

NOISES = options("noise")
PHI = (0.0, 45.0, 90.0)
N = 60
REPEATS = 60
TOLERANCES = Tolerances(ftol=1e-12, xtol=1e-10, gtol=1e-12, max_passes=60)


@cache
def minimum(seed: int, sigma: float = SIGMA) -> Minimised:
    """A static fit started at the truth, as the optimizer hands it to a noise option."""
    data = simulated(STATIC, PHI, N, sigma=sigma, seed=seed)
    made = factory.problem(data, "static", "averaged")
    local = minimise(made, made.model.coordinates_of(STATIC), TOLERANCES)
    assert local is not None
    pairs = int(data.pairs.sum())
    variance = local.evaluation.chi2 / pairs
    return Minimised(made, local.evaluation, information(local.evaluation, made), None, 1.0, variance, pairs, 5)


def assert_covariance(name: str) -> None:
    """Symmetric, positive, of all fitted numbers, and in the units of the numbers: errors scale with the noise."""
    first, second = (option("noise", name).covariance(minimum(0, sigma)) for sigma in (SIGMA, SIGMA / 10))
    assert first.text
    assert first.covariance.shape == (5, 5)
    np.testing.assert_allclose(first.covariance, first.covariance.T, rtol=1e-9, atol=1e-18)
    assert np.linalg.eigvalsh(first.covariance).min() > -1e-12 * np.linalg.eigvalsh(first.covariance).max()
    ratio = np.sqrt(np.diagonal(first.covariance) / np.diagonal(second.covariance))
    np.testing.assert_allclose(ratio, 10.0, rtol=0.35)


def assert_described(name: str) -> None:
    """The option that made the errors, what it assumes in a sentence, and for ``auto`` why it was chosen."""
    found = option("noise", name).covariance(minimum(0))
    assert found.option in NOISES
    assert found.option == name or found.reason.startswith("noise auto") or any("refused" in line for line in found.statements)
    assert bool(found.reason) == (name == "auto")
    assert found.text
    assert found.known


def pulls(name: str) -> np.ndarray:
    """(REPEATS, 5) deviation from the truth over its error: two rates, the exponent, offset and contrast."""
    out = []
    for seed in range(REPEATS):
        found = minimum(seed)
        truth = np.append(found.problem.model.coordinates_of(STATIC), [1.0, 0.15])
        values = np.append(found.evaluation.u, [found.evaluation.offset[0], found.evaluation.contrast[0]])
        out.append((values - truth) / np.sqrt(np.diagonal(option("noise", name).covariance(found).covariance)))
    return np.array(out)


def assert_pulls(name: str) -> None:
    """With independent pixels the standard deviation of the pulls is 1."""
    found = pulls(name)
    assert abs(float(np.sqrt(np.mean(found**2))) - 1) < 0.15
    assert np.all(np.abs(found.mean(axis=0)) < 0.45)
