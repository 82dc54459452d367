"""Speckle with photon counting, simulated from its fields, and the objects that fit it: what errors and tests must get right."""

from functools import cache

import numpy as np

from homodyne import simulate
from homodyne.config import option
from homodyne.data import Dataset
from homodyne.noise.base import Minimised
from homodyne.optimizer.trust_region import Tolerances, minimise
from homodyne.pairsums import WeightedLoss
from homodyne.problem import PixelSource, Problem, information

from . import factory
from .factory import DT, GAP, Q

TRUTH = {"D0": 6e4, "alpha": 0.0, "D_offset": 0.0}
"""Correlation time of 6 frames."""
PHI = (0.0, 45.0, 90.0)
CONTRAST = 0.2
TOLERANCES = Tolerances(ftol=1e-10, xtol=1e-8, gtol=1e-10, max_passes=60)


def speckle(seed: int, n: int = 60, *, truth=TRUTH, phi=PHI, contrast=CONTRAST, pixels=1000, photons=5.0, **settings) -> Dataset:
    """Simulated maps with pixel numbers, counts and raw diagonal; more settings: ``homodyne.simulate``."""
    given = {"noise": "speckle", "layers": None, "threads": 1, "mode": "static"} | settings
    sample = {"q": Q, "gap": GAP, "dt": DT, "frames": n, "contrast": contrast}
    return simulate(truth, phi, **sample, seed=seed, pixels=pixels, photons=photons, **given)


@cache
def mode(**fixed: float):
    """Static diffusion with D_offset, and what else is given, fixed."""
    return option("mode", "static", parameters=factory.fixed(**{"D_offset": 0.0} | fixed))


def problem(data: Dataset, scaling="individual", chosen=None, **source) -> Problem:
    model = (chosen or mode()).bind(data.t, data.q, data.gap, data.phi)
    design, _ = factory.problem_parts(data, scaling)
    return Problem(model, design, PixelSource(data, **{"threads": 1, "tiles_at_once": 1} | source))


def minimum(data: Dataset, scaling="individual", chosen=None, truth=TRUTH, loss: WeightedLoss | None = None, **source) -> Minimised:
    """The least-squares fit, started at the truth; with a loss its weights are those of the least-squares residuals."""
    made = problem(data, scaling, chosen, **source)
    u = made.model.coordinates_of(truth)
    if loss is not None:
        before = minimise(made, u, TOLERANCES)
        made = Problem(made.model, made.design, made.source.reweighted(made.model, before.evaluation, loss))
    local = minimise(made, u, TOLERANCES)
    assert local is not None
    return at(made, local.evaluation, loss)


def at(made: Problem, evaluation, loss: WeightedLoss | None = None) -> Minimised:
    """What a noise option sees at an evaluation."""
    pairs = int(made.source.dataset.pairs.sum())
    fitted = len(evaluation.u) + made.design.count
    return Minimised(made, evaluation, information(evaluation, made), loss, 1.0, evaluation.chi2 / pairs, pairs, fitted)


def unknown(*names: str, data: Dataset) -> dict[str, np.ndarray]:
    """Fields of a Dataset that say nothing, for ``dataclasses.replace``."""
    return {name: np.full_like(getattr(data, name), np.nan) for name in names}


def pair_covariance(gam: np.ndarray, b: float, s: np.ndarray, r: float = 1.0, r1: float = 1.0) -> np.ndarray:
    """(pairs, pairs) N Cov(c_ij, c_kl) of i < j, k < l, written out index by index from its definition.

    Signed g1 (n, n), contrast b, shot noise s (n,). The third cycle of the fourth cumulant is set to the mean of the other two. With
    large speckles, products that link the two pixels twice carry r or r1; shot noise belongs to one pixel and carries 1.
    """
    n = len(gam)
    pairs = list(zip(*np.triu_indices(n, 1), strict=True))
    h = gam**2

    def same(i, j):
        return float(i == j)

    def level(i, j):
        return b * h[i, j] + same(i, j) * s[i]

    def third(i, j, k, size):
        return 2 * b**2 * size * gam[i, j] * gam[j, k] * gam[k, i]

    def third_with_photons(i, j, k):
        return third(i, j, k, r1) + (same(i, k) * s[i] + same(j, k) * s[j]) * b * h[i, j]

    def cycle(i, j, k, l):
        return gam[i, j] * gam[j, k] * gam[k, l] * gam[l, i]

    def element(i, j, k, l):
        gaussian = level(i, k) * level(j, l) + level(i, l) * level(j, k)
        gaussian += (r - 1) * b**2 * (h[i, k] * h[j, l] + h[i, l] * h[j, k])
        fourth = b**3 * (2 * r1 + r) * (cycle(i, j, k, l) + cycle(i, j, l, k))
        fourth += same(i, k) * s[i] * third(i, j, l, 1) + same(i, l) * s[i] * third(i, j, k, 1)
        fourth += same(j, k) * s[j] * third(i, j, l, 1) + same(j, l) * s[j] * third(i, j, k, 1)
        fourth += (same(i, k) * same(j, l) + same(i, l) * same(j, k)) * s[i] * s[j] * b * h[i, j]
        first, second = b * h[i, j], b * h[k, l]
        means = -first * (third_with_photons(k, l, i) + third_with_photons(k, l, j))
        means -= second * (third_with_photons(i, j, k) + third_with_photons(i, j, l))
        ends = [(x, y) for x in (i, j) for y in (k, l)]
        means += first * second * sum(r1 * b * h[x, y] + same(x, y) * s[x] for x, y in ends)
        return gaussian + fourth + means

    return np.array([[element(*p, *q) for q in pairs] for p in pairs])
