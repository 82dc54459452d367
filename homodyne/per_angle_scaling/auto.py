"""per_angle_scaling=auto: one contrast and offset for all angles if the data do not reject it, else one per angle."""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from ..data import Dataset
from .averaged import Averaged
from .base import AbstractPerAngleScaling, Design, Fitted
from .individual import Individual


class Auto(AbstractPerAngleScaling):
    """Fits individually, tests whether the values differ between angles with the noise option's covariance, and decides once.

    ``significance``: equality is rejected below this p-value. Fewer than three angles are always individual.
    """

    significance: Annotated[float, Field(gt=0, lt=1)]

    def design(self, dataset: Dataset, pixel_variance: float) -> Design:
        return self._candidate(Individual).design(dataset, pixel_variance)

    def choose[F: Fitted](self, dataset: Dataset, pixel_variance: float, fit: Callable[[Design], F]) -> tuple[F, dict[str, F], str]:
        individual = fit(self.design(dataset, pixel_variance))
        if len(dataset.phi) < 3:
            return individual, {}, f"per_angle_scaling auto -> individual: {len(dataset.phi)} angles, fewer than 3"
        if not individual.finished:
            return individual, {}, "per_angle_scaling auto -> individual: interrupted before the test"
        statistic, dof, p_value = individual.equality_test()
        test = f"equal contrast and offset at all angles: Wald chi2 {statistic:.1f} for {dof}, p = {p_value:.2g}"
        if not dof:
            return individual, {}, "per_angle_scaling auto -> individual: equality of the angles is not tested, the errors do not bear it"
        if p_value < self.significance:
            return individual, {}, f"per_angle_scaling auto -> individual ({test}, below {self.significance:g})"
        averaged = fit(self._candidate(Averaged).design(dataset, pixel_variance))
        return averaged, {"individual": individual}, f"per_angle_scaling auto -> averaged ({test}, not below {self.significance:g})"

    def _candidate[S: AbstractPerAngleScaling](self, scaling: type[S]) -> S:
        return scaling(contrast_bounds=self.contrast_bounds, offset_bounds=self.offset_bounds, contrast_drift=self.contrast_drift)
