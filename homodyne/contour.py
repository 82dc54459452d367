"""Confidence region of two quantities: chi2 over both, everything else fitted again on all pixels at each point (surface.py).

As for one quantity (profile.py), with the 2 x 2 blocks B and V at the estimate and d the vector from it,

    rise of chi2 (d V^-1 d')/(d B^-1 d')

is a chi-square of two to first order: the vertical scaling of Chandler and Bate (2007), whose factor depends on the direction. The region
is cut into columns of the first quantity. Each begins where the profile of the first quantity has the second one, so columns follow a
bent or open valley, and is walked up and down until the statistic has passed its quantile. The profile itself gives both ends.
"""

import logging
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from .profile import Line, Valley
from .results import Contour
from .surface import Point, Quantity, Surface

log = logging.getLogger("homodyne")

INNER = 0.6827
"""Confidence of the second edge."""
TURN = np.deg2rad(15.0)
"""Between two columns, as seen from the centre of an ellipse."""
REACH = 10.0
"""Standard errors to which a region is followed."""
AIM = 0.55
"""Of the way to the edge: two points on each side of a column, the outer one outside."""


def contour(surface: Surface, pair: tuple[Quantity, Quantity], confidence: float) -> Contour | None:
    """Confidence region of two quantities; None when they are one and the same to the data."""
    origin = surface.origin(pair)
    covariance = surface.calibration(origin)
    if not (_separable(covariance) and _separable(origin.spread)):
        return None
    region = _Region(surface, pair, origin, covariance, confidence)
    region.cut()
    names = (pair[0].name, pair[1].name)
    where = f"the region of {names[0]} and {names[1]} at {100 * confidence:g} % is open"
    return Contour(
        names=names,
        units=(pair[0].unit, pair[1].unit),
        edge=region.edge(region.level),
        inner=region.edge(_level(INNER)),
        points=np.array([[*point.value, region.statistic(point)] for point in region.points]),
        estimate=origin.value,
        covariance=covariance,
        confidence=confidence,
        closed=not region.open_at,
        sentence=f"{where} {', '.join(region.open_at[:2])}" if region.open_at else "",
    )


Side = list[tuple[np.ndarray, float]]
"""Points (2,) and the roots of their rise above the first."""


@dataclass(frozen=True)
class _Column:
    """Points close to one value of the first quantity, from the middle of the region down and up; base: statistic in the middle."""

    base: float
    down: Side
    up: Side


class _Region:
    """One region in progress."""

    def __init__(self, surface: Surface, pair: tuple[Quantity, Quantity], origin: Point, covariance: np.ndarray, confidence: float) -> None:
        self.surface, self.pair, self.origin = surface, pair, origin
        self.level = _level(confidence)
        self.inverse, self.curvature = np.linalg.inv(covariance), np.linalg.inv(origin.spread)
        self.unit = 0.5 * float(np.trace(covariance @ self.curvature))
        # The valley of the statistic is that of chi2, turned by the difference of the two ellipses.
        self.turn = covariance[0, 1] / covariance[0, 0] - origin.spread[0, 1] / origin.spread[0, 0]
        # Of the second quantity at a given first one: standard error over what the curvature of chi2 implies.
        self.inflation = _width(covariance) / _width(origin.spread)
        self.points: list[Point] = [origin]
        self.columns: list[_Column] = []
        self.open_at: list[str] = []
        valley = Valley(surface, pair[0], 2 * NormalDist().cdf(float(np.sqrt(self.level))) - 1)
        sides = []
        for direction, word in ((-1, "below"), (1, "above")):
            points, why = valley.side(direction, REACH)
            sides.append(points)
            if why:
                self.open_at.append(f"{word} {pair[0].name} = {float(points[-1].value[0]):.4g} ({why})")
        self.ends_open = tuple(abs(valley.root(points[-1])) < valley.quantile for points in sides)
        self.valley = [surface.seen(pair, point) for point in (*sides[0][:0:-1], *sides[1])]
        self.root = np.maximum.accumulate([valley.root(point) for point in (*sides[0][:0:-1], *sides[1])])
        self.x, y = np.array([point.value for point in self.valley]).T
        self.y = y + self.turn * (self.x - origin.value[0])

    def cut(self) -> None:
        """All columns."""
        for x in self._places():
            column = self._column(x)
            if column is not None:
                self.columns.append(column)
        log.info("region of %s and %s: %d columns, %d points", self.pair[0].name, self.pair[1].name, len(self.columns), len(self.points))

    def statistic(self, point: Point) -> float:
        """Calibrated rise of chi2."""
        away, rise = point.value - self.origin.value, max(point.chi2 - self.origin.chi2, 0.0)
        return rise * float(away @ self.inverse @ away) / float(away @ self.curvature @ away) if away.any() else 0.0

    def edge(self, level: float) -> np.ndarray:
        """(M, 2) once around the region at a level; NaN where it is open."""
        within = [column for column in self.columns if column.base < level]
        low = [_crossing(column.down, level - column.base) for column in within]
        high = [_crossing(column.up, level - column.base) for column in within]
        first, last = self._tip(-np.sqrt(level)), self._tip(np.sqrt(level))
        return np.array([first, *low, last, *high[::-1], first])

    def _places(self) -> list[float]:
        """Where columns are: at equal angles of the two ellipses, and at every point of the profile where the region is open."""
        sines = np.sin(np.arange(-np.pi / 2 + TURN, np.pi / 2 - 0.5 * TURN, TURN))
        outer, inner = np.sqrt(self.level) * sines, np.sqrt(_level(INNER)) * sines
        aims = [aim for aim in (*outer, *inner[np.abs(sines) > 0.8]) if self.root[0] < aim < self.root[-1]]
        places = [float(np.interp(aim, self.root, self.x)) for aim in aims]
        centre = self.origin.value[0]
        for is_open, side in zip(self.ends_open, (self.x[self.x < centre], self.x[self.x > centre]), strict=True):
            places += side.tolist() if is_open else []
        return sorted(places)

    def _column(self, x: float) -> _Column | None:
        """Points across the region at one value of the first quantity; None when it is outside."""
        nearest = self.valley[int(np.argmin(np.abs(self.x - x)))]
        middle = self._reach(np.array([x, np.interp(x, self.x, self.y)]), nearest)
        if middle is None or self.statistic(middle) >= self.level:
            return None
        base, at = self.statistic(middle), float(middle.value[0])

        def height(point: Point) -> float:
            return float(np.sqrt(max(self.statistic(point) - base, 0.0)))

        goal = float(np.sqrt(self.level - base))
        width = self.inflation * _width(middle.spread)
        if not width > 0:
            return None
        line = Line(
            index=1,
            reach=lambda y, start: self._reach(np.array([at, y]), start),
            height=height,
            goal=goal,
            first=AIM * goal * width,
            aim=AIM,
            longest=lambda point: np.inf,
            level=np.inf,
            limit=REACH * goal * width,
        )
        sides = []
        for direction in (-1, 1):
            points, why = line.outward(middle, direction)
            if why:
                self.open_at.append(f"at {self.pair[1].name} = {float(points[-1].value[1]):.4g}, {self.pair[0].name} = {at:.4g} ({why})")
            sides.append([(point.value, height(point)) for point in points])
            self.points += points[1:]
        self.points.append(middle)
        return _Column(base, *sides)

    def _reach(self, target: np.ndarray, start: Point) -> Point | None:
        return self.surface.reach(self.pair, target, start, self.unit)

    def _tip(self, aim: float) -> list[float]:
        """Where the profile of the first quantity has this root, NaN where it ends before."""
        if not self.root[0] <= aim <= self.root[-1]:
            return [float("nan"), float("nan")]
        x = float(np.interp(aim, self.root, self.x))
        return [x, float(np.interp(x, self.x, self.y))]


def _crossing(side: Side, rise: float) -> np.ndarray:
    """(2,) where the height is the root of the rise; NaN where the column ends before."""
    goal = np.sqrt(rise)
    for k, ((point, inner), (beyond, outer)) in enumerate(pairwise(side)):
        if not inner <= goal <= outer:
            continue
        linear = point + (goal - inner) / (outer - inner) * (beyond - point)
        # A third point bends the line: the place is a parabola in the height.
        third, height = side[k - 1] if k else side[min(2, len(side) - 1)]
        if min(abs(height - inner), abs(height - outer)) < 0.1 * (outer - inner):
            return linear
        bend = ((third - point) / (height - inner) - (beyond - point) / (outer - inner)) / (height - outer)
        return np.clip(linear + bend * (goal - inner) * (goal - outer), np.minimum(point, beyond), np.maximum(point, beyond))
    return np.full(2, np.nan)


def _level(confidence: float) -> float:
    """Quantile of a chi-square of two."""
    return float(-2 * np.log(1 - confidence))


def _width(covariance: np.ndarray) -> float:
    """Standard deviation of the second quantity at a given first one."""
    return float(np.sqrt(max(covariance[1, 1] - covariance[0, 1] ** 2 / covariance[0, 0], 0.0))) if covariance[0, 0] > 0 else 0.0


def _separable(covariance: np.ndarray) -> bool:
    """Whether two quantities have an ellipse."""
    scale = np.sqrt(np.diagonal(covariance))
    return bool(np.all(scale > 0) and abs(covariance[0, 1]) < (1 - 1e-10) * scale[0] * scale[1])
