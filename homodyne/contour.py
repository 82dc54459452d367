"""Confidence region of two quantities: chi2 over both, everything else fitted again on all pixels at each point (surface.py).

As for one quantity (profile.py), with the 2 x 2 blocks B and V at the estimate and d the vector from it,

    rise of chi2 (d V^-1 d')/(d B^-1 d')

is a chi-square of two to first order: the vertical scaling of Chandler and Bate (2007), whose factor depends on the direction. The edge is
where it has a given value. From one point it is followed along its tangent, so it may be bent; where a limit of the model or infinity
ends the way, it is followed the other way round as well and the region is open.
"""

import logging

import numpy as np

from .results import Contour
from .surface import Point, Quantity, Surface

log = logging.getLogger("homodyne")

INNER = 0.6827
"""Confidence of the second edge."""
STRIDE = 0.25
"""From point to point, in standard deviations of the noise times the root of the level."""
MOST_POINTS = 60
"""Of an edge, in each direction."""
NEAR = 0.02
"""Share of the level by which a point may miss it; it is moved there along the ray from the centre."""
CORRECTIONS = 3
"""Steps back to the edge after a step along it."""


NOWHERE = ["everywhere"]


def contour(surface: Surface, pair: tuple[Quantity, Quantity], confidence: float) -> Contour | None:
    """Confidence region of two quantities; None when they are one and the same to the data."""
    origin = surface.origin(pair)
    covariance = surface.calibration(origin)
    if not (_separable(covariance) and _separable(origin.spread)):
        return None
    region = _Region(surface, pair, origin, covariance)
    inner, _ = region.trace(_level(INNER))
    outer, open_at = region.trace(_level(confidence))
    inner, outer = (np.full((1, 2), np.nan) if crosses(edge) else edge for edge in (inner, outer))
    if np.isnan(outer).all() and open_at != NOWHERE:
        open_at = ["in places: chi2 has several valleys there, and its edge could not be followed"]
    names = (pair[0].name, pair[1].name)
    log.info("region of %s and %s: %d points, %d passes", *names, len(region.points), sum(point.passes for point in region.points))
    where = f"the region of {names[0]} and {names[1]} at {100 * confidence:g} % is open"
    return Contour(
        names=names,
        units=(pair[0].unit, pair[1].unit),
        edge=outer,
        inner=inner,
        points=np.array([[*point.value, region.statistic(point)] for point in region.points]),
        estimate=origin.value,
        covariance=covariance,
        confidence=confidence,
        closed=not open_at,
        sentence=f"{where} {', '.join(open_at[:2])}" if open_at else "",
    )


class _Region:
    """One region in progress."""

    def __init__(self, surface: Surface, pair: tuple[Quantity, Quantity], origin: Point, covariance: np.ndarray) -> None:
        self.surface, self.pair, self.origin = surface, pair, origin
        self.inverse, self.curvature = np.linalg.inv(covariance), np.linalg.inv(origin.spread)
        self.root = np.linalg.cholesky(covariance)
        self.points: list[Point] = [origin]

    def trace(self, level: float) -> tuple[np.ndarray, list[str]]:
        """Once around at a level of the statistic: (M, 2), NaN between its ends where it is open; and where that is, in words."""
        nothing = np.full((1, 2), np.nan)
        start = self._start(level)
        if start is None:
            return nothing, NOWHERE
        forward, closed = self._follow(start, level, 1)
        if closed:
            return np.array([self._end(point, level) for point in (start, *forward, start)]), []
        backward, _ = self._follow(start, level, -1)
        line = [*backward[::-1], start, *forward]
        return np.concatenate([[self._end(point, level) for point in line], nothing]), [self._words(line[-1]), self._words(line[0])]

    def statistic(self, point: Point) -> float:
        """Calibrated rise of chi2."""
        away, rise = point.value - self.origin.value, max(point.chi2 - self.origin.chi2, 0.0)
        return rise * float(away @ self.inverse @ away) / float(away @ self.curvature @ away) if away.any() else 0.0

    def _gradient(self, point: Point) -> np.ndarray:
        """(2,) derivative of the statistic by the two quantities."""
        away, rise = point.value - self.origin.value, point.chi2 - self.origin.chi2
        noise, curve = self.inverse @ away, self.curvature @ away
        width = float(away @ curve)
        factor = float(away @ noise) / width
        return factor * self.surface.slope_of_rise(point) + 2 * rise / width * (noise - factor * curve)

    def _start(self, level: float) -> Point | None:
        """A point of the edge: where one of the two quantities is extreme."""
        for turn in (0.5 * np.pi * k for k in range(4)):
            ray = self.root @ np.array([np.cos(turn), np.sin(turn)])
            normal = ray @ self.curvature * np.sqrt(np.diagonal(self.origin.spread))

            def target(point: Point, ray: np.ndarray = ray) -> float:
                away = point.value - self.origin.value
                away = away if away.any() else ray
                return self.origin.chi2 + level * float(away @ self.curvature @ away) / float(away @ self.inverse @ away)

            point = self.surface.extreme(self.pair, normal, target, self.origin)
            if point is not None and not point.beyond.any() and abs(self.statistic(point) - level) < 2 * NEAR * level:
                self.points.append(point)
                return point
        return None

    def _follow(self, start: Point, level: float, sense: int) -> tuple[list[Point], bool]:
        """Points along the edge from a start, and whether they came back to it."""
        found: list[Point] = []
        last, stride = start, STRIDE * np.sqrt(level)
        whole, turned = stride, 0.0
        while len(found) < MOST_POINTS and stride > 0.05 * whole:
            normal = self.root.T @ self._gradient(last)
            tangent = sense * np.array([-normal[1], normal[0]]) / max(float(np.linalg.norm(normal)), 1e-300)
            point = self._corrected(self.surface.shifted(self.pair, stride * self.root @ tangent, last), level)
            if point is None:
                stride *= 0.5
                continue
            before, after, first = (np.linalg.solve(self.root, p.value - self.origin.value) for p in (last, point, start))
            turned += sense * float(np.arctan2(before[0] * after[1] - before[1] * after[0], before @ after))
            if turned > 1.5 * np.pi and float(np.linalg.norm(after - first)) < 1.5 * stride:
                return found, True
            found.append(point)
            self.points.append(point)
            last, stride = point, min(1.5 * stride, whole)
        return found, False

    def _corrected(self, point: Point | None, level: float) -> Point | None:
        """A point near to the edge moved onto it, along the gradient; None where that fails."""
        for _ in range(CORRECTIONS):
            if point is None or point.beyond.any():
                return None
            lacking = level - self.statistic(point)
            if abs(lacking) < NEAR * level:
                return point
            slope = self._gradient(point)
            way = self.root @ self.root.T @ slope
            point = self.surface.shifted(self.pair, lacking * way / max(float(slope @ way), 1e-300), point)
        return point if point is not None and abs(self.statistic(point) - level) < NEAR * level else None

    def _end(self, point: Point, level: float) -> np.ndarray:
        """The edge itself, along the line from the centre."""
        return self.origin.value + np.sqrt(level / self.statistic(point)) * (point.value - self.origin.value)

    def _words(self, point: Point) -> str:
        return "at " + ", ".join(f"{q.name} = {float(value):.4g}" for q, value in zip(self.pair, point.value, strict=True))


def crosses(edge: np.ndarray) -> bool:
    """Whether a line (M, 2) crosses itself."""
    line = edge[~np.isnan(edge).any(axis=1)]
    if len(line) < 4:
        return False
    line = (line - line.mean(axis=0)) / np.maximum(line.std(axis=0), 1e-300)
    first, step = line[:-1], np.diff(line, axis=0)

    def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]

    between = first[None, :] - first[:, None]
    area = cross(step[:, None], step[None, :])
    with np.errstate(divide="ignore", invalid="ignore"):
        s, t = cross(between, step[None, :]) / area, cross(between, step[:, None]) / area
    k = np.arange(len(step))
    apart = np.abs(k[:, None] - k) > 1
    apart &= (k[:, None] + k) != len(step) - 1 if np.allclose(line[0], line[-1]) else True
    return bool(np.any(apart & (s > 0) & (s < 1) & (t > 0) & (t < 1)))


def _level(confidence: float) -> float:
    """Quantile of a chi-square of two."""
    return float(-2 * np.log(1 - confidence))


def _separable(covariance: np.ndarray) -> bool:
    """Whether two quantities have an ellipse."""
    scale = np.sqrt(np.diagonal(covariance))
    return bool(np.all(scale > 0) and abs(covariance[0, 1]) < (1 - 1e-10) * scale[0] * scale[1])
