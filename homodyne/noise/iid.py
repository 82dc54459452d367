"""noise=iid: every pixel independent, of equal variance."""

from .base import AbstractNoise, Minimised, Noise


class Iid(AbstractNoise):
    """The textbook covariance, sigma^2 (J'J)^-1, sigma^2 from the residuals.

    Pixels that share frames are correlated, so these errors are lower limits: too short by 1.1-1.2 when photons are scarce and by
    up to ten when they are plentiful (docs/noise.md).
    """

    def covariance(self, minimum: Minimised) -> Noise:
        return Noise(self.name, minimum.independent, "assumes independent pixels: a lower limit of the errors")
