"""Pairs per second of the pair-sum kernel, against the bare elementwise function, in one run.

    pytest benchmarks/bench_kernel.py --benchmark-only --benchmark-columns=min,median,rounds --benchmark-sort=name

``extra_info`` of each benchmark holds millions of pairs per second (from the fastest round). 23 angles x 1000 frames, float32 maps.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homodyne import option
from homodyne.mode.flow import FlowModel
from homodyne.pairsums import PixelSums
from homodyne.physics import two_time
from homodyne.problem import states_and_slopes
from homodyne.tiles import TILE, pack

TRUTH = {"D0": 1.9e4, "alpha": -0.5, "D_offset": 200.0, "gamma_dot_t0": 1.6e-3, "beta": -0.2, "gamma_dot_t_offset": 1e-4, "phi0": 2.0}
Q, GAP = 0.0054, 2.0e6


@dataclass(frozen=True)
class Case:
    """States and maps of one size."""

    model: FlowModel
    kernel: PixelSums
    x: np.ndarray
    dx: np.ndarray
    pairs: float


def make(angles: int, frames: int) -> Case:
    option("hardware", "cpu").configure()
    t, phi = 0.1 * np.arange(1, frames + 1), np.linspace(-80, 80, angles)
    model = option("mode", "laminar_flow").bind(t, Q, GAP, phi)
    rng = np.random.default_rng(0)
    tiles = np.stack([pack(two_time(TRUTH, [a], t, q=Q, gap=GAP, contrast=0.15)[0], dtype=np.float32) for a in phi])
    tiles += (0.02 * rng.normal(size=tiles.shape)).astype(np.float32)
    x, dx = states_and_slopes(model, phi, model.coordinates_of(TRUTH), slopes=True)
    return Case(model, PixelSums(tiles, frames), np.asarray(x), np.asarray(dx), angles * frames * (frames - 1) / 2)


@pytest.fixture(scope="module")
def case() -> Case:
    return make(23, 1000)


def rate(benchmark, pairs: float) -> None:
    benchmark.extra_info["million_pairs_per_second"] = round(pairs / benchmark.stats.stats.min / 1e6, 1)


def test_0_bare_exp_sinc2(benchmark, case: Case) -> None:
    """The cost of evaluating h alone, summed, over the same tiles and threads."""
    kernel = case.kernel
    states = np.pad(case.x, [(0, 0), (0, 0), (0, kernel.width - case.x.shape[-1])], mode="edge")

    @jax.jit
    def bare(x0, x1, rows, columns):
        def step(total, at):
            row, column = at
            cut = jax.lax.dynamic_slice_in_dim
            d1 = cut(x1, column * TILE, TILE)[None, :] - cut(x1, row * TILE, TILE)[:, None]
            d0 = cut(x0, column * TILE, TILE)[None, :] - cut(x0, row * TILE, TILE)[:, None]
            sinc = jnp.where(jnp.abs(d1) < 1e-4, 1 - d1 * d1 / 6, jnp.sin(d1) / d1)
            return total + (jnp.exp(-d0) * sinc * sinc).sum(), None

        return jax.lax.scan(step, 0.0, (rows, columns))[0]

    def run() -> None:
        with ThreadPoolExecutor(kernel.threads) as pool:
            list(pool.map(lambda s: bare(s[0], s[1], kernel.rows, kernel.columns).block_until_ready(), states))

    run()
    benchmark(run)
    rate(benchmark, case.pairs)


@pytest.mark.parametrize("order", [0, 1, 2], ids=["1_value", "2_gradient", "3_normal_equations"])
def test_pass(benchmark, case: Case, order) -> None:
    model = case.model
    benchmark(case.kernel, model.pair, model.depends, case.x, case.dx, order)
    rate(benchmark, case.pairs)


def test_4_normal_equations_with_three_more_parameters(benchmark, case: Case) -> None:
    """A transport law with six parameters instead of three."""
    rng = np.random.default_rng(1)
    more = np.concatenate([case.dx, np.cumsum(rng.normal(size=(*case.dx.shape[:2], 3, case.dx.shape[3])), axis=-1)], axis=2)
    depends = ((0, 1, 2, 7, 8, 9), (3, 4, 5, 6))
    benchmark(case.kernel, case.model.pair, depends, case.x, more, 2)
    rate(benchmark, case.pairs)


@pytest.mark.parametrize("frames", [250, 500, 2000])
def test_5_normal_equations_of_other_sizes(benchmark, frames: int) -> None:
    other = make(max(1, int(23 * (1000 / frames) ** 2) if frames > 1000 else 23), frames)
    benchmark(other.kernel, other.model.pair, other.model.depends, other.x, other.dx, 2)
    rate(benchmark, other.pairs)
