"""Confidence region of two quantities: chi2 over both, everything else fitted again on all pixels at each point (surface.py).

As for one quantity (profile.py), with the 2 x 2 blocks B and V at the estimate and d the vector from it,

    rise of chi2 (d V^-1 d')/(d B^-1 d')

is a chi-square of two to first order: the vertical scaling of Chandler and Bate (2007), whose factor depends on the direction. The edge is
where it has a given value; it is followed once around, by the direction in which a combination of the two quantities is extreme.
"""

import logging

import numpy as np

from .results import Contour
from .surface import Point, Quantity, Surface

log = logging.getLogger("homodyne")

INNER = 0.6827
"""Confidence of the second edge."""
AROUND = 32
"""Points of an edge."""
SHORT = 0.05
"""Share of the level that may lack before the region is said to be open there."""


def contour(surface: Surface, pair: tuple[Quantity, Quantity], confidence: float) -> Contour | None:
    """Confidence region of two quantities; None when they are one and the same to the data."""
    origin = surface.origin(pair)
    covariance = surface.calibration(origin)
    if not (_separable(covariance) and _separable(origin.spread)):
        return None
    region = _Region(surface, pair, origin, covariance)
    inner = region.trace(_level(INNER), None)
    outer = region.trace(_level(confidence), inner)
    names = (pair[0].name, pair[1].name)
    log.info("region of %s and %s: %d points, %d passes", *names, len(region.points), sum(point.passes for point in region.points))
    open_at = region.open_at(outer, _level(confidence))
    where = f"the region of {names[0]} and {names[1]} at {100 * confidence:g} % is open"
    return Contour(
        names=names,
        units=(pair[0].unit, pair[1].unit),
        edge=region.edge(outer, _level(confidence)),
        inner=region.edge(inner, _level(INNER)),
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
        # Around the ellipse of the noise, and there the normals of that of chi2 in units of the spread of each quantity.
        turn = 2 * np.pi * np.arange(AROUND) / AROUND
        self.ellipse = (np.linalg.cholesky(covariance) @ np.array([np.cos(turn), np.sin(turn)])).T
        self.normals = self.ellipse @ self.curvature * np.sqrt(np.diagonal(origin.spread))
        self.points: list[Point] = [origin]

    def trace(self, level: float, inside: list[Point | None] | None) -> list[Point | None]:
        """Once around at a level of the statistic; inside: the points of a lower level, to start from."""
        found: list[Point | None] = []
        for k, normal in enumerate(self.normals):

            def target(point: Point, k: int = k) -> float:
                away = point.value - self.origin.value
                if not away.any():
                    away = self.ellipse[k]
                return self.origin.chi2 + level * float(away @ self.curvature @ away) / float(away @ self.inverse @ away)

            before = (found[-1] if found else None) if inside is None else inside[k]
            point = self.surface.extreme(self.pair, normal, target, self.origin if before is None else before)
            found.append(point)
            self.points += [] if point is None else [point]
        return found

    def statistic(self, point: Point) -> float:
        """Calibrated rise of chi2."""
        away, rise = point.value - self.origin.value, max(point.chi2 - self.origin.chi2, 0.0)
        return rise * float(away @ self.inverse @ away) / float(away @ self.curvature @ away) if away.any() else 0.0

    def edge(self, found: list[Point | None], level: float) -> np.ndarray:
        """(M, 2) once around the region at a level; NaN where it is open."""
        points = np.array([self._end(point, level) for point in found])
        return np.concatenate([points, points[:1]])

    def open_at(self, found: list[Point | None], level: float) -> list[str]:
        """Where the region has no edge, in words."""
        where = []
        for point in found:
            if point is None:
                where.append("where the model is not finite")
            elif np.isnan(self._end(point, level)).any():
                values = ", ".join(f"{q.name} = {float(value):.4g}" for q, value in zip(self.pair, point.value, strict=True))
                where.append(f"at {values}")
        return where

    def _end(self, point: Point | None, level: float) -> np.ndarray:
        """The point at the level itself, along the line from the centre; NaN where it is not reached or lies beyond infinity."""
        if point is None or point.beyond.any() or self.statistic(point) < (1 - SHORT) * level:
            return np.full(2, np.nan)
        return self.origin.value + np.sqrt(level / self.statistic(point)) * (point.value - self.origin.value)


def _level(confidence: float) -> float:
    """Quantile of a chi-square of two."""
    return float(-2 * np.log(1 - confidence))


def _separable(covariance: np.ndarray) -> bool:
    """Whether two quantities have an ellipse."""
    scale = np.sqrt(np.diagonal(covariance))
    return bool(np.all(scale > 0) and abs(covariance[0, 1]) < (1 - 1e-10) * scale[0] * scale[1])
