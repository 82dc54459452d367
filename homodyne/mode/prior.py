"""What a user may state about a parameter before the data. The densities are in homodyne/prior.py."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..settings import Option

NEEDS = {
    "normal": ("mean", "sd"),
    "truncated_normal": ("mean", "sd", "low", "high"),
    "lognormal": ("median", "sigma"),
    "uniform": ("low", "high"),
    "half_normal": ("sd",),
    "beta_scaled": ("a", "b", "low", "high"),
}
"""Keys of each kind. Every kind is cut off by the bounds of its parameter, where it has any."""

Positive = Annotated[float, Field(gt=0)]


class PriorSettings(Option):
    """One prior: ``kind`` and the keys that it needs.

    Attributes:
        mean, sd: of a normal distribution; sd also of the half above 0. median, sigma: exp(normal), sigma that of the logarithm.
        low, high: limits. a, b: of the Beta distribution that is stretched to the limits.
    """

    kind: Literal["normal", "truncated_normal", "lognormal", "uniform", "half_normal", "beta_scaled"]
    mean: float | None = None
    sd: Positive | None = None
    median: Positive | None = None
    sigma: Positive | None = None
    low: float | None = None
    high: float | None = None
    a: Positive | None = None
    b: Positive | None = None

    @model_validator(mode="after")
    def _complete(self) -> "PriorSettings":
        given = {name for name in type(self).model_fields if name != "kind" and getattr(self, name) is not None}
        needed = NEEDS[self.kind]
        if given != set(needed):
            raise ValueError(
                f"kind {self.kind} with {', '.join(sorted(given)) or 'nothing else'}; accepted: kind {self.kind} with {', '.join(needed)}"
            )
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low is {self.low}, high is {self.high}; the first must be smaller")
        return self

    @property
    def values(self) -> tuple[float, ...]:
        """The numbers, in the order of NEEDS."""
        return tuple(getattr(self, name) for name in NEEDS[self.kind])
