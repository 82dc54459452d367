"""Cost of the errors and of the goodness of fit, against passes over the pixels, in one run.

    pytest benchmarks/bench_errors.py --benchmark-enable --benchmark-only --benchmark-columns=min,median,rounds --benchmark-group-by=param

Warm: what is compiled is compiled. Laminar flow, averaged scaling, maps of known parameters with counts of 1 photon per pixel and frame.
"""

import resource
from dataclasses import replace

import numpy as np
import pytest

from homodyne import option, simulate
from homodyne.goodness import goodness
from homodyne.noise.base import Minimised
from homodyne.problem import PixelSource, Problem, information

TRUTH = {"D0": 1.9e4, "alpha": -0.5, "D_offset": 200.0, "gamma_dot_t0": 1.6e-3, "beta": -0.2, "gamma_dot_t_offset": 1e-4, "phi0": 2.0}
SIZES = ((5, 300), (23, 500), (23, 1000))


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def minimum(request) -> Minimised:
    """The evaluation at the truth, as a noise option sees it."""
    option("hardware", "cpu").configure()
    angles, frames = request.param
    phi = np.linspace(-80, 80, angles)
    data = simulate(TRUTH, phi, q=0.0054, gap=2e6, dt=0.1, frames=frames, contrast=0.15, sigma=0.036)
    data = replace(data, pixels=np.full(angles, 1000.0), counts=np.ones((angles, frames)))
    model = option("mode", "laminar_flow").bind(data.t, data.q, data.gap, data.phi)
    cores = option("hardware", "cpu").cores
    problem = Problem(model, option("per_angle_scaling", "averaged").design(data, 1e-3), PixelSource(data, threads=cores, tiles_at_once=1))
    evaluation = problem.evaluate(model.coordinates_of(TRUTH))
    pairs = int(data.pairs.sum())
    return Minimised(problem, evaluation, information(evaluation, problem), None, 1.0, evaluation.chi2 / pairs, pairs, 9)


def test_0_three_passes(benchmark, minimum: Minimised) -> None:
    """The yardstick: three normal-equation passes."""
    problem, u = minimum.problem, minimum.evaluation.u
    benchmark(lambda: [problem.evaluate(u + 1e-9 * k) for k in range(3)])


@pytest.mark.parametrize("name", ["frame_clustered", "sandwich"])
def test_1_errors(benchmark, minimum: Minimised, name: str) -> None:
    noise = option("noise", name)
    noise.covariance(minimum)
    benchmark.pedantic(lambda: noise.covariance(minimum), rounds=3)
    benchmark.extra_info["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def test_2_goodness(benchmark, minimum: Minimised) -> None:
    noise = option("noise", "sandwich").covariance(minimum)
    goodness(minimum, noise)
    benchmark.pedantic(lambda: goodness(minimum, noise), rounds=3)
    benchmark.extra_info["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
