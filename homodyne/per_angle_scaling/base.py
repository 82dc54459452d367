"""Contrast and offset of every angle as linear functions of a few coefficients: one code path for every scaling.

    (offset_f, contrast_f) = constant_f + X_f beta_g,      f an angle of group g

Groups share no coefficient, so the linear solve is one small system per group: individual scaling has one group per angle,
averaged scaling one group with all angles. With ``contrast_drift`` there is a third row, the drift: contrast + drift rho, where rho runs
from -1 at the first frame to 1 at the last.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Protocol

import numpy as np
from pydantic import Field, field_validator

from ..data import Dataset
from ..errors import ConfigError
from ..settings import Option

Bounds = Annotated[list[float], Field(min_length=2, max_length=2)]


@dataclass(frozen=True)
class Design:
    """A scaling on the angles of one Dataset.

    Attributes:
        name: of the scaling.
        members: (G, M) index of the M angles of each of G groups.
        matrix: (G, M, R, k) X_f, rows offset, contrast and, where it is fitted, drift.
        constant: (P, R) the same where beta = 0.
        lower, upper: (2,) bounds of offset and contrast.
        precision: (G, k, k) inverse covariance of a Gaussian prior on beta in units of the pixel variance, zero for none.
        direct: True when beta is (offset, contrast), with its drift, itself.
    """

    name: str
    members: np.ndarray
    matrix: np.ndarray
    constant: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    precision: np.ndarray
    direct: bool

    @property
    def count(self) -> int:
        """Number of fitted coefficients."""
        return self.matrix.shape[0] * self.matrix.shape[3]

    @property
    def drift(self) -> bool:
        """Whether a drift of the contrast is fitted."""
        return self.matrix.shape[2] == 3

    @property
    def without_drift(self) -> "Design":
        """The same scaling of a contrast that does not change."""
        if not self.drift:
            return self
        kept = np.any(self.matrix[:, :, :2] != 0, axis=(0, 1, 2))
        precision = self.precision[:, kept][:, :, kept]
        return replace(self, matrix=self.matrix[:, :, :2, kept], constant=self.constant[:, :2], precision=precision)

    def alike(self, variance: float, contrast: float, offset: float) -> "Design":
        """Contrast and offset of every angle with a prior that they are alike; itself where all angles share them.

        Args:
            variance: of a pixel. contrast, offset: standard deviations between angles.
        """
        if self.count <= 2 or self.drift:
            return self
        count = self.members.size
        deviation, precision = np.eye(count) - 1.0 / count, np.zeros((1, 2 * count, 2 * count))
        for row, spread in enumerate((offset, max(contrast, 1e-6))):
            at = slice(row * count, (row + 1) * count)
            precision[0, at, at] = deviation * variance / spread**2
        matrix = shared_basis(np.eye(count))
        return replace(self, name="alike", members=np.arange(count)[None], matrix=matrix, precision=precision, direct=False)


class Fitted(Protocol):
    """What ``choose`` may ask of a fit with one design."""

    @property
    def finished(self) -> bool:
        """False when the fit was interrupted."""
        ...

    def equality_test(self) -> tuple[float, int, float]:
        """Wald statistic, degrees of freedom and p-value of "contrast and offset are the same at all angles"."""
        ...


class AbstractPerAngleScaling(Option):
    """Settings that every scaling has: bounds of contrast and offset, and whether the contrast drifts along the record."""

    contrast_bounds: Bounds
    offset_bounds: Bounds
    contrast_drift: bool

    @field_validator("contrast_bounds", "offset_bounds")
    @classmethod
    def _ordered(cls, bounds: list[float]) -> list[float]:
        if not bounds[0] < bounds[1]:
            raise ValueError(f"found {bounds}; the first must be smaller than the second")
        return bounds

    @abstractmethod
    def design(self, dataset: Dataset, pixel_variance: float) -> Design:
        """The design on these angles; pixel_variance is the noise variance of c2 estimated from the data."""

    def choose[F: Fitted](self, dataset: Dataset, pixel_variance: float, fit: Callable[[Design], F]) -> tuple[F, dict[str, F], str]:
        """Fit with this scaling.

        Returns:
            The fit to report, other fits made on the way by scaling name, and the decision in words (empty when none was made).
        """
        return fit(self.design(dataset, pixel_variance)), {}, ""

    @property
    def _rows(self) -> int:
        """Rows of the matrix of a design."""
        return 3 if self.contrast_drift else 2

    def _make(self, name: str, members, matrix, constant=None, precision=None, direct=False) -> Design:
        members, matrix = np.asarray(members), np.asarray(matrix, dtype=np.float64)
        groups, _, rows, size = matrix.shape
        if rows != self._rows:
            raise ConfigError(f"per_angle_scaling.contrast_drift: {name} fits no drift; accepted: false")
        lower, upper = np.array([self.offset_bounds, self.contrast_bounds], dtype=np.float64).T
        return Design(
            name=name,
            members=members,
            matrix=matrix,
            constant=np.tile([1.0, 0.0, 0.0][:rows], (members.size, 1)) if constant is None else constant,
            lower=lower,
            upper=upper,
            precision=np.zeros((groups, size, size)) if precision is None else precision,
            direct=direct,
        )


def shared_basis(basis: np.ndarray, rows: int = 2) -> np.ndarray:
    """(1, P, R, R r) matrix of one group in which offset, contrast (and drift) use the same basis (P, r): offset coefficients first."""
    count, size = basis.shape
    matrix = np.zeros((1, count, rows, rows * size))
    for row in range(rows):
        matrix[0, :, row, row * size : (row + 1) * size] = basis
    return matrix
