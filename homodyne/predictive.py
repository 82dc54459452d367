"""Cuts through the maps as draws of the parameters predict them: means over the very pairs that make the cuts of the data.

Contrast and offset are the same for all pairs of a map, so the mean of a bin is offset + contrast (mean of h over its used pairs), and
only the pairs of the cuts are computed. Used by group ``posterior``; drawn beside the data by report/posterior.py.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .data import Dataset
from .draws import Predictive
from .mode.base import Model
from .pairsums import Pair
from .pictures import Band, cut_bands, stripes
from .problem import states_and_slopes
from .results import ModelRows

KINDS = ("equal_lag", "equal_age")

CHUNK = 2**16
"""Pairs that one compiled call sums; memory of a few such arrays, and one compilation for every size of data."""


@dataclass(frozen=True)
class Drawn:
    """S draws to predict from.

    Attributes:
        u: (S, p) coordinates of the model. contrast, offset: (S, P).
        sigma: (S,) standard deviation of one pixel; NaN: nothing to replicate with.
    """

    u: np.ndarray
    contrast: np.ndarray
    offset: np.ndarray
    sigma: np.ndarray

    def some(self, count: int, rng: np.random.Generator) -> "Drawn":
        """At most ``count`` of them, chosen at random, each at most once."""
        chosen = rng.choice(len(self.u), min(count, len(self.u)), replace=False)
        return Drawn(self.u[chosen], self.contrast[chosen], self.offset[chosen], self.sigma[chosen])


def predict(
    dataset: Dataset, model: Model, model_rows: ModelRows, posterior: Drawn, prior: Drawn | None, *, count: int, seed: int
) -> Predictive:
    """Predicted cuts of the posterior and, where there is one, of the prior.

    Args:
        model_rows: of the fit; its decay places the cuts as in fit.npz. count: largest number of draws of each.
    """
    rng = np.random.default_rng(seed)
    bands = cut_bands(dataset, model_rows)
    drawn = [part.some(count, rng) for part in (posterior, prior) if part is not None]
    decay, pairs = _mean_decay(dataset, model, np.concatenate([part.u for part in drawn]), bands)
    ends = np.cumsum([0, *(len(part.u) for part in drawn)])
    means = [
        {kind: part.offset[..., None, None] + part.contrast[..., None, None] * h[start:stop] for kind, h in decay.items()}
        for part, start, stop in zip(drawn, ends[:-1], ends[1:], strict=True)
    ]
    error = {kind: drawn[0].sigma[:, None, None, None] / np.sqrt(np.maximum(number, 1)) for kind, number in pairs.items()}
    replicated = {kind: mean + error[kind] * rng.standard_normal(mean.shape) for kind, mean in means[0].items()}
    return Predictive(means[0], replicated, {} if prior is None else means[1])


def _mean_decay(
    dataset: Dataset, model: Model, u: np.ndarray, bands: Sequence[Band]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """By kind: mean of h (S, P, C, B) over the used pairs of each bin, NaN where there are none, and their number (P, C, B)."""
    states = np.stack([np.asarray(states_and_slopes(model, dataset.phi, point, slopes=False)[0]) for point in u])
    sizes = [int(np.prod(band.shape)) for band in bands]
    total = sum(sizes)

    def sums(k: int) -> tuple[np.ndarray, np.ndarray]:
        x, h, number = jnp.asarray(states[:, k]), np.zeros((len(u), total)), np.zeros(total)
        for members in _chunks(dataset, k, bands):
            h += np.asarray(_bin_sums(model.pair, total, x, members))
            number += np.bincount(members[2], minlength=total + 1)[:total]
        return h, number

    with ThreadPoolExecutor() as pool:
        h, number = (np.stack(part) for part in zip(*pool.map(sums, range(len(dataset.phi))), strict=True))
    mean = np.divide(h, number[:, None], out=np.full_like(h, np.nan), where=number[:, None] > 0).swapaxes(0, 1)
    means, numbers = {}, {}
    for kind, band, stop, size in zip(KINDS, bands, np.cumsum(sizes), sizes, strict=True):
        means[kind] = mean[..., stop - size : stop].reshape(*mean.shape[:2], *band.shape)
        numbers[kind] = number[:, stop - size : stop].reshape(-1, *band.shape)
    return means, numbers


@partial(jax.jit, static_argnums=(0, 1))
def _bin_sums(pair: Pair, total: int, x: jax.Array, members: jax.Array) -> jax.Array:
    """(S, total) sums of h over the pairs of each bin, for the states x (S, m, n) of every draw."""
    early, late, bins = members

    def one(state: jax.Array) -> jax.Array:
        h = pair(tuple(state[:, late] - state[:, early]))
        return jax.ops.segment_sum(h, bins, total + 1)[:total]

    return jax.lax.map(one, x)


def _chunks(dataset: Dataset, k: int, bands: Sequence[Band]) -> Iterator[np.ndarray]:
    """(3, CHUNK) int32: early frame, late frame and bin of the used pairs of all cuts of one map.

    What fills the last chunk belongs to a bin behind all others.
    """
    waiting = np.zeros((3, 0), dtype=np.int32)
    for start, data in stripes(dataset, k):
        parts, first = [waiting], 0
        for band in bands:
            cuts, bins = band.shape
            for cut, early, late, along in band.members(start, data):
                parts.append(np.stack([early, late, first + cut * bins + band.bins[along]]).astype(np.int32))
            first += cuts * bins
        waiting = np.concatenate(parts, axis=1)
        while waiting.shape[1] >= CHUNK:
            yield waiting[:, :CHUNK]
            waiting = waiting[:, CHUNK:]
    rest = np.tile(np.array([[0], [1], [first]], dtype=np.int32), CHUNK)
    rest[:, : waiting.shape[1]] = waiting
    yield rest
