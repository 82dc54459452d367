"""noise=auto: ``sandwich`` when the file says something about photon counting, else ``frame_clustered``."""

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from ..counting import describes_counting
from .base import AbstractNoise, Minimised, Noise
from .frame_clustered import FrameClustered
from .sandwich import Sandwich


class Auto(AbstractNoise):
    """Settings of both; see ``Sandwich`` and ``FrameClustered``."""

    pixels: Annotated[float, Field(gt=1)] | None
    speckle_size: Annotated[float, Field(ge=1)] | None
    width: Annotated[float, Field(gt=0)]

    def covariance(self, minimum: Minimised) -> Noise:
        held = describes_counting(minimum.source.dataset)
        if self.pixels is not None:
            held = f"{held}, noise.pixels" if held else "noise.pixels"
        if held:
            chosen: AbstractNoise = Sandwich(pixels=self.pixels, speckle_size=self.speckle_size)
            reason = f"noise auto -> sandwich: known are {held}"
        else:
            chosen = FrameClustered(width=self.width)
            reason = "noise auto -> frame_clustered: the file has neither counts, nor pixel numbers, nor the raw diagonal"
        return replace(chosen.covariance(minimum), reason=reason)
