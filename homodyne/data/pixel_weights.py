"""How unequal pixels and the means that a correlator divides by enter the noise of a map.

A correlator divides each frame by the mean of a group of pixels (the region, or each of its static bins), multiplies frames, averages
over the region and divides by the mean of each frame. With the time mean mu_k of pixel k, f_k its ratio to the mean of its group,
u_k = f_k^2/sum f^2 and p_k = (sum of u over the group) f_k/sum over the group of f, c2 to first order is

    c_ij/B = 1 + sum_k [u_k (d_ik d_jk + d_ik + d_jk) - p_k (1 + b h_ij)(d_ik + d_jk)],      d: relative deviation of a pixel

and B = <f^2> is the baseline. Equal pixels have u = p = 1/N. A mean over m pixels is itself counted: shot noise becomes
(1/mu)(1 - 1/m)(1 + (b + 1/mu)/m), and one pixel of each group is lost. Source: docs/noise.md, "Pixels that are not alike".
"""

from dataclasses import dataclass, fields

import numpy as np

# Terms of a polynomial of second order in two coordinates; a region must have many times more pixels.
_FEWEST = 60


@dataclass(frozen=True)
class PixelWeights:
    """Of P maps; every array (P,), NaN where unknown.

    Attributes:
        baseline: B, the offset that the unequal pixels make, above 1 where the correlator leaves them unequal.
        pixels: effective number, (1 - groups/N)/sum u^2.
        shot: of two frames, in units of 1/(mean count of the region): sqrt(sum u^2/mu^2 / sum u^2), times the mean count.
        on_diagonal: sum u/mu, times the mean count: shot noise of the raw diagonal.
        groups: mean of 1/m: the share of the contrast by which every shot noise is longer.
        mixed, own: sum u p/sum u^2 and sum p^2/sum u^2, 1 of equal pixels.
        shot_once, shot_mixed, shot_own: sums u^2/mu, u p/mu, p^2/mu over sum u^2 and over the shot noise of two frames.
    """

    baseline: np.ndarray
    pixels: np.ndarray
    shot: np.ndarray
    on_diagonal: np.ndarray
    groups: np.ndarray
    mixed: np.ndarray
    own: np.ndarray
    shot_once: np.ndarray
    shot_mixed: np.ndarray
    shot_own: np.ndarray

    def of(self, kept: np.ndarray) -> "PixelWeights":
        """Those of some maps: indices or a mask (P,)."""
        return PixelWeights(*(getattr(self, one.name)[kept] for one in fields(self)))

    @property
    def known(self) -> bool:
        """Whether they are known at every map."""
        return bool(np.isfinite(self.pixels).all())


def pixel_weights(scattering: list[np.ndarray], places: list[np.ndarray], groups: list[np.ndarray]) -> PixelWeights:
    """From the time mean of every pixel.

    Args:
        scattering: of each map, (N,) mean photons of its pixels per frame of the map.
        places: of each map, (N, 1) or (N, 2) places of its pixels on the detector.
        groups: of each map, (N,) label of the group whose mean each pixel is divided by.
    """
    return PixelWeights(*np.array([_one(*each) for each in zip(scattering, places, groups, strict=True)]).T)


def smooth(scattering: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(N,) mean of each pixel without the noise of its counts: a polynomial of second order, never below a tenth of the mean.

    The mean square of the counted means is that of the true ones and of their noise, which is as large as a mild unevenness.
    """
    if len(scattering) < _FEWEST:
        return np.full(len(scattering), scattering.mean())
    spread = np.ptp(places, axis=0)
    x = (places - places.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    terms = [np.ones(len(x)), *x.T, *(x.T[a] * x.T[b] for a in range(x.shape[1]) for b in range(a + 1))]
    design = np.stack(terms, axis=1)
    fitted = design @ np.linalg.lstsq(design, scattering, rcond=None)[0]
    return np.maximum(fitted, 0.1 * scattering.mean())


def _one(scattering: np.ndarray, places: np.ndarray, groups: np.ndarray) -> tuple[float, ...]:
    """The numbers of one map, in the order of ``PixelWeights``."""
    if not len(scattering) or not scattering.mean() > 0:
        return (np.nan,) * len(fields(PixelWeights))
    number = len(scattering)
    mu = smooth(scattering.astype(np.float64), places)
    _, at, size = np.unique(groups, return_inverse=True, return_counts=True)
    f = mu / (np.bincount(at, weights=mu) / size)[at]
    square = float(f @ f)
    u = f * f / square
    p = np.bincount(at, weights=u)[at] * f / size[at]
    m = size[at]
    two = float(u @ u)
    # Bins of one pixel are constant: their pixels are lost.
    light = (1 - 1 / m) * (1 + 1 / (mu * m)) / mu
    shot = np.sqrt(float(np.sum((u * light) ** 2)) / two)
    scale = two * shot if shot > 0 else np.nan
    return (
        square / number,
        (1 - len(size) / number) / two,
        shot * mu.mean(),
        float(u @ light) * mu.mean(),
        float(np.sum(u / m)),
        float(u @ p) / two,
        float(p @ p) / two,
        float(np.sum(u * u * light)) / scale,
        float(np.sum(u * p * light)) / scale,
        float(np.sum(p * p * light)) / scale,
    )
