"""Profile likelihood of one quantity: how far it goes, everything else fitted again on all pixels, while chi2 rises (surface.py).

Pixels that share frames are correlated, so chi2 rises faster than minus twice a log-likelihood would. With B = g H^-1 g' the variance of
theta that the curvature of chi2 implies (in the unit of chi2) and V = g C g' that of the noise option, g = d theta/d u at the estimate,

    z = sign(theta - estimate) sqrt(rise of chi2 B/V)

is a standard normal deviate to first order, and for a linear theta the interval |z| < z_c is that of the linear error. This is the
vertical scaling of a composite likelihood (Chandler and Bate 2007; Pauli, Racugno and Ventura 2011). The walk goes by z, not by theta:
an amplitude at exponent 0 is passed through infinity. Source: docs/uncertainty.md.
"""

import logging
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .results import Profile
from .surface import Point, Quantity, Surface

log = logging.getLogger("homodyne")

RUNGS = (0.25, 0.5, 0.75, 1.0, 1.25)
"""Points of one side, in units of the quantile of the interval."""
SHORT = 0.05
"""Share of a rung that may lack before the way is said to have ended."""


def profile(surface: Surface, quantity: Quantity, error: float, confidence: float) -> Profile:
    """Interval of a quantity by its profile; error: its linear standard error, NaN where it has none."""
    valley = Valley(surface, quantity, confidence)
    lower, upper = valley.side(-1), valley.side(1)
    points = [*lower.points[:0:-1], *upper.points]
    rise = np.array([point.chi2 - valley.origin.chi2 for point in points])
    sentences = [side.sentence for side in (lower, upper) if side.sentence]
    if rise.min() < -0.1 * valley.unit:
        where = f"chi2 is lower at {quantity.name} = {float(points[int(np.argmin(rise))].value[0]):.6g} than at the fit"
        sentences.append(f"{where}, by {-rise.min() / surface.variance:.2g}: there is another minimum")
    return Profile(
        name=quantity.name,
        unit=quantity.unit,
        value=np.array([point.value[0] for point in points]),
        rise=rise / surface.variance,
        root=np.array([valley.root(point) for point in points]),
        estimate=valley.centre,
        error=error,
        lower=lower.end,
        upper=upper.end,
        confidence=confidence,
        inflation=valley.inflation,
        sentence="; ".join(sentences),
    )


@dataclass(frozen=True)
class Side:
    """One side of a profile: points from the estimate outward, the end of the interval (infinite: none; NaN: not found), and why."""

    points: list[Point]
    end: float
    sentence: str


class Valley:
    """chi2 along one quantity."""

    def __init__(self, surface: Surface, quantity: Quantity, confidence: float) -> None:
        self.surface, self.quantity, self.confidence = surface, quantity, confidence
        self.origin = surface.origin([quantity])
        self.centre = float(self.origin.value[0])
        variance = float(surface.calibration(self.origin)[0, 0])
        spread = float(self.origin.spread[0, 0])
        self.inflation = float(np.sqrt(variance / (spread * surface.variance))) if spread > 0 else float("nan")
        self.unit = surface.variance * (self.inflation**2 if np.isfinite(self.inflation) else 1.0)
        self.quantile = NormalDist().inv_cdf(0.5 * (1 + confidence))

    def side(self, direction: int) -> Side:
        """Points outward, and the end of the interval."""
        points, end, word = [self.origin], direction * float("inf"), "upper" if direction > 0 else "lower"
        none = f"{self.quantity.name} has no {word} limit at {100 * self.confidence:g} %"
        for rung in RUNGS:
            level = self.origin.chi2 + (rung * self.quantile) ** 2 * self.unit
            point = self._climb(direction, level, points[-1])
            if point is None:
                return Side(points, end, self._ended(none, end, points[-1], "the model is not finite beyond"))
            away, last = direction * (point.value[0] - self.centre), direction * (points[-1].value[0] - self.centre)
            if point.beyond[0]:
                beyond = f"it is infinite before {abs(self._height(point)):.2f} standard deviations and comes back from the other side"
                reached = f"to {float(point.value[0]):.4g} there"
                return Side(points, end, "" if np.isfinite(end) else f"{none}: {beyond}, {reached}")
            if point.chi2 < level - SHORT * max(level - self.origin.chi2, self.surface.variance):
                points += [point] if away > last else []
                if self.surface.ends(point) or np.isfinite(end):
                    return Side(points, end, self._ended(none, end, point, "where the model ends"))
                reached = f"the search ended at {float(point.value[0]):.4g}, {self._height(point):.2f} standard deviations away"
                return Side(points, float("nan"), f"the {word} limit of {self.quantity.name} was not found: {reached}")
            points.append(point)
            if rung == 1.0:
                # To first order from the level that was reached.
                end = float(point.value[0]) + (level - point.chi2) / self.surface.force(point)
        return Side(points, end, "")

    def root(self, point: Point) -> float:
        """Signed root of the calibrated rise."""
        return float(np.sign(point.value[0] - self.centre)) * self._height(point)

    def _height(self, point: Point) -> float:
        return float(np.sqrt(max(point.chi2 - self.origin.chi2, 0.0) / self.unit))

    def _ended(self, none: str, end: float, point: Point, why: str) -> str:
        if np.isfinite(end):
            return ""
        return f"{none}: searched to {float(point.value[0]):.4g} ({why}), {self._height(point):.2f} standard deviations away"

    def _climb(self, direction: int, level: float, start: Point) -> Point | None:
        point = self.surface.extreme([self.quantity], np.array([float(direction)]), lambda _: level, start)
        if point is not None:
            name = f"profile {self.quantity.name}"
            log.info("%-26s %-12.6g z %+.3f  %d passes", name, float(point.value[0]), direction * self._height(point), point.passes)
        return point
