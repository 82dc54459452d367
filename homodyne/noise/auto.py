"""noise=auto: ``sandwich``, and in words what it rests on: the file, or the residuals where the file says nothing of photon counting."""

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from ..counting import describes_counting
from .base import AbstractNoise, Minimised, Noise
from .sandwich import Sandwich


class Auto(AbstractNoise):
    """Settings of ``Sandwich``."""

    pixels: Annotated[float, Field(gt=1)] | None
    speckle_size: Annotated[float, Field(ge=1)] | None

    def covariance(self, minimum: Minimised) -> Noise:
        held = describes_counting(minimum.source.dataset)
        if self.pixels is not None:
            held = f"{held}, noise.pixels" if held else "noise.pixels"
        rests = f"known are {held}" if held else "neither counts, nor pixel numbers, nor the raw diagonal are known, residuals tell"
        found = Sandwich(pixels=self.pixels, speckle_size=self.speckle_size).covariance(minimum)
        return replace(found, reason=f"noise auto -> sandwich: {rests}")
