"""Profile likelihood of one quantity: chi2 along it, everything else fitted again on all pixels at each value (surface.py).

Pixels that share frames are correlated, so chi2 rises faster than minus twice a log-likelihood would. With B = g H^-1 g' the variance of
theta that the curvature of chi2 implies (in the unit of chi2) and V = g C g' that of the noise option, g = d theta/d u at the estimate,

    z = sign(theta - estimate) sqrt(rise of chi2 B/V)

is a standard normal deviate to first order, and for a linear theta the interval |z| < z_c is that of the linear error. This is the
vertical scaling of a composite likelihood (Chandler and Bate 2007; Pauli, Racugno and Ventura 2011). Source: docs/uncertainty.md.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .results import Profile
from .surface import Point, Quantity, Surface

log = logging.getLogger("homodyne")

STEP = 0.28
"""Of the way to the end of a linear interval: four points on each side, the last one outside."""
REACH = 100.0
"""Standard errors to which a search goes."""
LEVEL = 10.0
"""Standard errors after which a profile that rises no more is left."""
MOST_POINTS = 40
"""On one side."""


def profile(surface: Surface, quantity: Quantity, error: float, confidence: float) -> Profile:
    """Interval of a quantity by its profile; error: its linear standard error, NaN where it has none."""
    valley = Valley(surface, quantity, confidence)
    sides, ends, sentences = [], [], []
    for direction, word in ((-1, "lower"), (1, "upper")):
        points, why = valley.side(direction)
        sides.append(points)
        ends.append(valley.crossing(points, direction))
        if not np.isfinite(ends[-1]):
            away = f"{abs(valley.root(points[-1])):.2f} standard deviations away"
            searched = f"searched to {float(points[-1].value[0]):.4g} ({why}), {away}"
            sentences.append(f"{quantity.name} has no {word} limit at {100 * confidence:g} %: {searched}")
    points = [*sides[0][:0:-1], *sides[1]]
    rise = np.array([point.chi2 - valley.origin.chi2 for point in points])
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
        lower=ends[0],
        upper=ends[1],
        confidence=confidence,
        inflation=valley.inflation,
        sentence="; ".join(sentences),
    )


@dataclass(frozen=True)
class Line:
    """A way outward along one quantity.

    Attributes:
        index: of the quantity in ``Point.value``. reach: the point close to a value, from a known one.
        height: distance of a point from the start in standard deviations; goal: where the search ends.
        first: length of the first step. aim: rise in height of every step, in goals. longest: step from a point.
        level: way after which a line that rises no more is left. limit: way to go.
    """

    index: int
    reach: Callable[[float, Point], Point | None]
    height: Callable[[Point], float]
    goal: float
    first: float
    aim: float
    longest: Callable[[Point], float]
    level: float
    limit: float

    def outward(self, start: Point, direction: int) -> tuple[list[Point], str]:
        """Points from the start until one is higher than the goal, the last step not too long to interpolate, and why it ended before."""
        points, why = self._climb(start, direction)
        for _ in range(10):
            inner, outer = points[-2:] if len(points) > 1 else (start, start)
            rise = self.height(outer) - self.height(inner)
            if self.height(outer) < self.goal or rise < 2 * self.aim * self.goal:
                break
            middle = self.reach(0.5 * (self._at(inner) + self._at(outer)), inner)
            if middle is None or not 0 < (self._at(middle) - self._at(inner)) / (self._at(outer) - self._at(inner)) < 1:
                break
            points = [*points[:-1], middle] if self.height(middle) >= self.goal else [*points[:-1], middle, outer]
        return points, why

    def _climb(self, start: Point, direction: int) -> tuple[list[Point], str]:
        points, step, failed = [start], self.first, 0
        while len(points) < MOST_POINTS:
            last = points[-1]
            gone = abs(self._at(last) - self._at(start))
            if gone >= 0.99 * self.limit:
                return points, "the end of the search"
            step = min(step, 1.02 * self.limit - gone, self.longest(last))
            point = self.reach(self._at(last) + direction * step, last)
            moved = 0.0 if point is None else direction * (self._at(point) - self._at(last))
            if point is None or moved < 0.3 * step:
                # Too long a step may cross the pole of an amplitude, or leave the domain of the model.
                step, failed = 0.3 * step, failed + 1
                if failed < 3:
                    continue
                return points, "where the model ends"
            points.append(point)
            failed = 0
            gained, gone = self.height(point) - self.height(last), gone + moved
            if self.height(point) >= self.goal:
                return points, ""
            if gone > self.level and self.height(point) + 3 * max(gained, 0.0) / moved * gone < 0.95 * self.goal:
                # An amplitude at whose infinity the law is another one rises like a - b/value: by slope times value in all.
                return points, "where it levels off"
            step = moved * float(np.clip(self.aim * self.goal / max(gained, 0.1 * self.aim * self.goal), 0.3, 2.0))
        return points, f"{MOST_POINTS} points"

    def _at(self, point: Point) -> float:
        return float(point.value[self.index])


class Valley:
    """chi2 along one quantity."""

    def __init__(self, surface: Surface, quantity: Quantity, confidence: float) -> None:
        self.surface, self.quantity = surface, quantity
        self.origin = surface.origin([quantity])
        self.centre = float(self.origin.value[0])
        variance = float(surface.calibration(self.origin)[0, 0])
        spread = float(self.origin.spread[0, 0])
        self.inflation = float(np.sqrt(variance / (spread * surface.variance))) if spread > 0 else float("nan")
        # Without a scale of its own, a tenth of the value.
        self.scale = float(np.sqrt(variance)) if np.isfinite(variance) and variance > 0 else 0.1 * max(abs(self.centre), 1e-3)
        self.unit = surface.variance * (self.inflation**2 if np.isfinite(self.inflation) else 1.0)
        self.quantile = NormalDist().inv_cdf(0.5 * (1 + confidence))

    def side(self, direction: int, reach: float = REACH) -> tuple[list[Point], str]:
        """Points from the estimate until the quantile is passed, and why it was not, or empty; reach: standard errors to go."""
        line = Line(
            index=0,
            reach=self._reach,
            height=lambda point: abs(self.root(point)),
            goal=self.quantile,
            first=STEP * self.quantile * self.scale,
            aim=STEP,
            longest=self.surface.stride,
            level=LEVEL * self.scale,
            # A direction and its opposite are the same flow.
            limit=min(reach * self.scale, 90.0 if self.quantity.unit == "degrees" else np.inf),
        )
        return line.outward(self.origin, direction)

    def root(self, point: Point) -> float:
        """Signed root of the calibrated rise."""
        rise = max(point.chi2 - self.origin.chi2, 0.0) / self.unit
        return float(np.sign(point.value[0] - self.centre) * np.sqrt(rise))

    def crossing(self, points: list[Point], direction: int) -> float:
        """Where the root passes the quantile, by a cubic through the last two points and their slopes; infinite when it does not."""
        if abs(self.root(points[-1])) < self.quantile:
            return direction * float("inf")
        inner, outer = points[-2:]
        width = float(outer.value[0] - inner.value[0])
        ends = np.abs([self.root(inner), self.root(outer)])
        # Slopes beyond three times the secant would make the cubic turn (Fritsch and Carlson 1980).
        slopes = np.clip(np.array([self._slope(inner), self._slope(outer)]) * abs(width), 0.0, 3 * (ends[1] - ends[0]))
        s = np.linspace(0.0, 1.0, 1001)
        cubic = ends[0] + s * slopes[0] + s**2 * (3 * np.diff(ends) - 2 * slopes[0] - slopes[1]) + s**3 * (slopes.sum() - 2 * np.diff(ends))
        return float(inner.value[0]) + width * float(np.interp(self.quantile, cubic, s))

    def _slope(self, point: Point) -> float:
        """d root/d value."""
        root = self.root(point)
        return self.surface.force(point) / (2 * root * self.unit) if root else 1 / self.scale

    def _reach(self, value: float, start: Point) -> Point | None:
        point = self.surface.reach([self.quantity], np.array([value]), start, self.unit)
        if point is not None:
            name = f"profile {self.quantity.name}"
            log.info("%-26s %-12.6g z %+.3f  %d passes", name, float(point.value[0]), self.root(point), point.passes)
        return point
