"""Does the model hold? Block means of the residuals against the covariance that speckle gives them.

Pairs are put into blocks of (lag, age). With z the block sums of residuals, Q their indicator images, C = Q'G the overlap with the
derivatives of all fitted numbers, A^-1 their inverse Gauss-Newton matrix and D, M the covariance of the noise of blocks with scores and of
scores (covariance.py),

    Z = cov(z) = Qcov - C A^-1 D' - D A^-1 C' + C A^-1 M A^-1 C',        T = z' Z^+ z,  chi-square with the rank of Z

The same algebra serves every other direction: contrast that drifts, the difference of a rival model. Source: docs/uncertainty.md.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.special import chdtrc

from .counting import FEWEST_FRAMES, SILENT, count, expansion, fitted_score, scatter, settle_pixels
from .covariance import AngleSums, angle_sums
from .directions import directions_of
from .images import Classes, Point
from .noise.base import Minimised, Noise
from .pairsums import Pair
from .results import Goodness, Test

AGES = 4
FEWEST_PAIRS = 15
MOST_LAGS = 12
FIT_HOLDS = 0.01
"""p-value below which a sentence says that the model fails."""
RANK = 1e-3
"""Eigenvalues of the correlation matrix below this are not counted."""
TOO_GOOD = 0.99
"""p-values above this count as this when tests are combined: noise that is thought too large must not outweigh a test that rejects."""


@dataclass(frozen=True)
class Blocks:
    """Blocks of (lag, age): lag_edges (L + 1,) in frames; lag, age (B,) class of each block."""

    classes: Classes
    lag_edges: np.ndarray
    lag: np.ndarray
    age: np.ndarray


def lag_age_blocks(n: int) -> Blocks:
    """Lags 1 2 3 5 8 13 ... n, each split into up to four classes of age; blocks of fewer than FEWEST_PAIRS pairs are left out."""
    edges = [1, 2]
    while edges[-1] < n:
        edges.append(min(edges[-1] + edges[-2], n))
    if len(edges) - 1 > MOST_LAGS:
        edges = list(np.unique(np.geomspace(1, n, MOST_LAGS + 1).round().astype(int)))
    lags = len(edges) - 1
    of_lag = np.searchsorted(edges, np.arange(n), side="right") - 1
    block = np.full((lags, 2 * n), -1)
    lag_of: list[int] = []
    age_of: list[int] = []
    for k, (first, last) in enumerate(pairwise(edges)):
        # Sums i + j of the pairs of a lag run from lag to 2 (n - 1) - lag in steps of 2.
        lag = np.arange(first, last)
        total = np.arange(2 * n)[None, :]
        inside = (total >= lag[:, None]) & (total <= 2 * (n - 1) - lag[:, None]) & ((total - lag[:, None]) % 2 == 0)
        pairs = np.cumsum(inside.sum(axis=0))
        ages = int(np.clip(pairs[-1] // FEWEST_PAIRS, 0, AGES))
        for age in range(ages):
            within = (pairs > pairs[-1] * age / ages) & (pairs <= pairs[-1] * (age + 1) / ages) & inside.any(axis=0)
            block[k, within] = len(lag_of)
            lag_of.append(k)
            age_of.append(age)
    return Blocks(Classes(of_lag, block, len(lag_of)), np.array(edges), np.array(lag_of, dtype=np.int64), np.array(age_of, dtype=np.int64))


@dataclass(frozen=True)
class Directions:
    """Sums of residuals over extras of all angles: z (P, e) and their covariance (P e, P e), what was fitted taken into account.

    raw: (P e, P e) covariance before that.
    """

    z: np.ndarray
    covariance: np.ndarray
    raw: np.ndarray

    def test(self, name: str, combine: np.ndarray) -> Test:
        """Chi-square test of linear combinations (r, P e) of the sums."""
        z, covariance = combine @ self.z.ravel(), combine @ self.covariance @ combine.T
        spread = np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
        kept = spread > 1e-9 * spread.max() if len(spread) else np.zeros(0, dtype=bool)
        scaled = z[kept] / spread[kept]
        values, vectors = np.linalg.eigh(covariance[np.ix_(kept, kept)] / np.outer(spread[kept], spread[kept]))
        used = values > RANK
        statistic = float(np.sum((vectors[:, used].T @ scaled) ** 2 / values[used]))
        rank = int(used.sum())
        return Test(name, statistic, rank, float(chdtrc(rank, statistic)) if rank else float("nan"))

    def directed(self, name: str, combine: np.ndarray) -> Test:
        """Test of one combination (1, P e), with the sign of the deviation."""
        z, variance = float((combine @ self.z.ravel())[0]), float((combine @ self.covariance @ combine.T)[0, 0])
        # A direction that was fitted as well leaves nothing to test.
        if not variance > RANK**2 * float(np.sum(combine**2 * np.diagonal(self.raw))):
            return Test(name, float("nan"), 0, float("nan"))
        score = z / np.sqrt(variance)
        return Test(name, score**2, 1, float(chdtrc(1, score**2)), score)

    @property
    def standardised(self) -> np.ndarray:
        """(P, e) sums over their standard deviations, NaN where there is none."""
        variance = np.diagonal(self.covariance).reshape(self.z.shape)
        return np.divide(self.z, np.sqrt(np.maximum(variance, 0.0)), out=np.full_like(self.z, np.nan), where=variance > 0)


def directions(sums: list[AngleSums], minimum: Minimised) -> Directions:
    """Extras of all angles, in the order of images.Overlaps."""
    information, bread, angles = minimum.information, minimum.bread, len(sums)
    score = fitted_score(sums, information)
    found = [part.overlaps for part in sums if part.overlaps is not None]
    extras, fitted = found[0].fitted.shape
    total = np.zeros((angles, extras, angles, extras))
    overlap, shared = np.zeros((2, angles, extras, len(bread)))
    for k, (part, own) in enumerate(zip(sums, found, strict=True)):
        expand = expansion(information, k, angles)
        total[k, :, k, :] = part.covariance[fitted:, fitted:]
        shared[k] = part.covariance[fitted:, :fitted] @ expand
        overlap[k] = own.fitted @ expand
    shared, overlap = shared.reshape(-1, len(bread)), overlap.reshape(-1, len(bread))
    along = overlap @ bread
    raw = total.reshape(angles * extras, -1)
    covariance = raw - along @ shared.T - shared @ along.T + along @ score @ along.T
    return Directions(np.stack([own.score for own in found]), covariance, raw)


def goodness(minimum: Minimised, noise: Noise, rival: tuple[Pair, list[Point]] | None = None) -> Goodness | None:
    """Tests of a fit; None when the data cannot tell the noise. ``rival``: pair and points of another fit, for a directed test."""
    problem, evaluation, dataset = minimum.problem, minimum.evaluation, minimum.source.dataset
    found = noise.counted or count(problem, evaluation, dataset, None, minimum.loss)
    blocks = lag_age_blocks(dataset.n)
    if not blocks.classes.count:
        return None
    sums = angle_sums(problem, evaluation, found.counting, minimum.loss, blocks.classes, rival)
    if noise.counted is None:
        found, sums, seen = settle_pixels(found, sums, minimum.information)
    else:
        seen = scatter(sums, minimum.information, found.counting)
    known = found.known.all() or noise.counted is not None
    silent = minimum.score_variance < (SILENT * np.abs(evaluation.contrast).max()) ** 2
    if silent or not seen.ratio > 0 or (not known and seen.participation < FEWEST_FRAMES):
        return None
    every = directions(sums, minimum)
    angles, extras = every.z.shape
    first = extras - blocks.classes.count

    def rows(weights: np.ndarray) -> np.ndarray:
        """(r P, P e): the same combination (r, e) at each angle."""
        return np.kron(np.eye(angles), weights)

    def select(mask: np.ndarray) -> np.ndarray:
        return np.pad(mask, [(0, 0), (first, 0)])

    by_lag = select((np.arange(len(blocks.lag_edges) - 1)[:, None] == blocks.lag).astype(float))
    by_age = select((np.arange(AGES)[:, None] == blocks.age).astype(float))
    each = select(np.eye(blocks.classes.count))
    unit = np.eye(extras)
    tests = [
        every.test("lag_age", rows(each)),
        every.test("lag", rows(by_lag)),
        every.test("lag_all_angles", np.tile(by_lag, angles)),
    ]
    pair = problem.model.pair
    directed = list(directions_of(pair))
    tests += [every.directed(name, np.tile(unit[k : k + 1], angles)) for k, name in enumerate(directed)]
    if evaluation.drift is None:
        tests.append(every.test("contrast_drift", rows(unit[len(directed) : len(directed) + 1])))
    if rival is not None:
        tests.append(every.test("rival", np.tile(unit[first - 1 : first], angles)))
    blocked = replace(
        every,
        z=every.z[:, first:],
        covariance=every.covariance.reshape(angles, extras, angles, extras)[:, first:, :, first:].reshape(angles * (extras - first), -1),
    )
    return Goodness(
        tests={test.name: test for test in tests},
        angles=tuple(every.test(f"angle {k}", rows(each)[k * len(each) : (k + 1) * len(each)]).p_value for k in range(angles)),
        lag_edges=blocks.lag_edges,
        lag=blocks.lag,
        age=blocks.age,
        z=blocked.standardised,
        z_lag=_standard(every, rows(by_lag), angles),
        z_age=_standard(every, rows(by_age), angles),
        scatter=seen.ratio if found.known.all() else float("nan"),
        scatter_error=seen.error,
        scaled=not found.known.all(),
    )


def _standard(every: Directions, combine: np.ndarray, angles: int) -> np.ndarray:
    """(P, r) standardised combinations."""
    variance = np.sum((combine @ every.covariance) * combine, axis=1)
    z = combine @ every.z.ravel()
    return np.divide(z, np.sqrt(np.maximum(variance, 0.0)), out=np.full_like(z, np.nan), where=variance > 0).reshape(angles, -1)


def offset_test(offset: np.ndarray, covariance: np.ndarray, expected: np.ndarray | float = 1.0) -> Test:
    """Is the offset the expected one at every angle? The test for static structure, which blocks cannot see because the offset is fitted.

    Args:
        offset: (P,). covariance: (P, P) of it, singular where angles share one offset. expected: 1, or what unequal pixels make of it.
    """
    known = np.diagonal(covariance) > 0
    if not known.any() or not np.isfinite(covariance).all():
        return Test("offset", float("nan"), 0, float("nan"))
    values, vectors = np.linalg.eigh(covariance[np.ix_(known, known)])
    used = values > 1e-9 * values[-1]
    statistic = float(np.sum((vectors[:, used].T @ (offset - expected)[known]) ** 2 / values[used]))
    rank = int(used.sum())
    return Test("offset", statistic, rank, float(chdtrc(rank, statistic)))


def verdict_p(tests: dict[str, Test]) -> tuple[float, str]:
    """p-value of all tests together, whatever their correlation, and the name of the most telling one.

    The mean of tan(pi (1/2 - p)) is nearly Cauchy in the tail (Liu and Xie 2020), p cut at TOO_GOOD.
    """
    known = {name: test.p_value for name, test in tests.items() if np.isfinite(test.p_value)}
    if not known:
        return float("nan"), ""
    p = np.clip(np.array(list(known.values())), 1e-300, TOO_GOOD)
    # tan(pi (1/2 - p)) of a small p, without the cancellation.
    statistic = np.mean(np.where(p < 1e-8, 1 / (np.pi * p), np.tan(np.pi * (0.5 - p))))
    together = 1 / (np.pi * statistic) if statistic > 1e8 else 0.5 - np.arctan(statistic) / np.pi
    return float(together), min(known, key=lambda name: known[name])


def p_text(p_value: float) -> str:
    """A p-value in words."""
    return f"p = {p_value:.2g}" if p_value >= 1e-10 else "p < 1e-10"


def where_text(found: Goodness, dt: float, phi: np.ndarray) -> str:
    """The lag, age and angle of the largest deviation, in words."""
    angle, block = np.unravel_index(int(np.nanargmax(np.abs(found.z))), found.z.shape)
    lag = found.lag_edges[[found.lag[block], found.lag[block] + 1]] - [0, 1]
    ages = int(np.sum(found.lag == found.lag[block]))
    quarter = ("youngest", "younger", "older", "oldest")[found.age[block]]
    share = f"{quarter} quarter" if ages == AGES else f"part {found.age[block] + 1} of {ages} by age"
    sign = "above" if found.z[angle, block] > 0 else "below"
    lags = f"lag {lag[0] * dt:.4g} s" if lag[0] == lag[1] else f"lags {lag[0] * dt:.4g} to {lag[1] * dt:.4g} s"
    bad = int(np.sum(np.array(found.angles) < FIT_HOLDS / len(found.angles)))
    size = abs(found.z[angle, block])
    affected = f"{bad} of {len(phi)} angles fail alone" if bad else "no angle fails alone, all together do"
    return f"data are {sign} the fit by {size:.1f} standard deviations at {lags}, {share}, phi = {phi[angle]:.4g} degrees; {affected}"
