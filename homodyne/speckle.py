"""Real speckle: complex fields of a diffusing, sheared sample, photon counts of a detector, and the map a correlator makes of them.

    field       layers y = (k + 1/2)/layers of the gap, each a complex Gaussian process that decays and turns from frame to frame:
                E_y <- a exp(2 i y dx1) E_y + sqrt(1 - a^2) z,   a = exp(-dx0/2);   the field of a pixel is the sum over layers
    intensity   I = sum over modes of w_k |E_k|^2,   sum w = 1,   sum w^2 = contrast
    counts      n of a pixel and frame: Poisson of mean photons x beam x I
    division    by the mean of each static bin in each frame, where the correlator does so
    map         c2_ij = mean(n_i n_j)/(mean(n_i) mean(n_j)) over the pixels, diagonal included

x0 = q^2 A(t) and x1 = kappa B(t) are the states of ``physics.py``. That g1 of the summed field is exp(-x0/2) sinc(x1) is not put in:
it comes out. Each stage is a function, so that a benchmark can build samples that no model describes (``mixed_fields``).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from math import ceil, sqrt

import numpy as np

from .hardware.base import available_cores

FieldSource = Callable[[int, np.random.Generator], np.ndarray]
"""(pixels, generator) -> (n, pixels) complex64 fields of mean intensity 1, independent from pixel to pixel and from call to call."""

BEAM_OFF = 0.02
"""Beam intensity in a bad frame."""

# Fields that are advanced together: state and fresh noise stay in the cache of a core.
_CELLS = 16384
# Pixels that are correlated together in float64.
_PIXELS = 4096
# Shear phase per layer up to which h of layers is that of a continuous gap within 3/layers^2; at pi they are in phase again.
_PHASE_PER_LAYER = 2.5
# Layers of a covariance: at least, and per radian of shear phase.
_LAYERS, _LAYERS_PER_RADIAN = 256, 4
# Added to the diagonal of a covariance of mean intensity 1: frames that barely differ leave it singular within rounding.
_RIDGE = 1e-10


@dataclass(frozen=True)
class Speckle:
    """What a detector sees of a sample.

    Attributes:
        pixels: detector pixels per angle, all of one region.
        pixels_per_speckle: length of a moving average over the fields along a line of pixels; 1: independent pixels.
        layers: of the sheared gap; None: the summed field is drawn from its covariance, which is the same and much faster.
        photons: mean per pixel and frame; None or infinity: no shot noise.
        beam_drift: relative change of the beam over the record, 0.8: from 1.4 to 0.6.
        bad_frames: numbers (as in ``Dataset.frame`` and in a file: the first is 2) of frames in which the beam is almost off.
        heterogeneity: standard deviation of a constant intensity factor of each pixel; the offset is 1 + its square.
        contrast_drift: the contrast falls linearly to 1 - contrast_drift of its first value, as contrast sqrt(f_i f_j).
        slope: the mean intensity grows linearly along the line of pixels, from 1 - slope/2 to 1 + slope/2.
        static_bins: equal parts of the line of pixels, by the mean of which each frame is divided before pixels are multiplied;
            1: the whole region, as in the plain correlator.

    Raises:
        ValueError: a value is out of range.
    """

    pixels: int = 2000
    pixels_per_speckle: int = 1
    layers: int | None = 64
    photons: float | None = None
    beam_drift: float = 0.0
    bad_frames: Sequence[int] = ()
    heterogeneity: float = 0.0
    contrast_drift: float = 0.0
    slope: float = 0.0
    static_bins: int = 1

    def __post_init__(self) -> None:
        if self.pixels < 2:
            raise ValueError(f"pixels is {self.pixels}; accepted: at least 2")
        if not 1 <= self.pixels_per_speckle <= self.pixels // 2:
            raise ValueError(f"pixels_per_speckle is {self.pixels_per_speckle}; accepted: 1 to {self.pixels // 2}, half the pixels")
        if self.layers is not None and self.layers < 1:
            raise ValueError(f"layers is {self.layers}; accepted: at least 1, or None")
        if self.photons is not None and not self.photons > 0:
            raise ValueError(f"photons is {self.photons}; accepted: above 0, or None")
        if not -2 < self.beam_drift < 2:
            raise ValueError(f"beam_drift is {self.beam_drift}; accepted: between -2 and 2, where the beam never vanishes")
        if not self.heterogeneity >= 0:
            raise ValueError(f"heterogeneity is {self.heterogeneity}; accepted: 0 or more")
        if not 0 <= self.contrast_drift < 1:
            raise ValueError(f"contrast_drift is {self.contrast_drift}; accepted: 0 to below 1")
        if not -2 < self.slope < 2:
            raise ValueError(f"slope is {self.slope}; accepted: between -2 and 2, where no pixel is dark")
        if not 1 <= self.static_bins <= self.pixels // 2:
            raise ValueError(f"static_bins is {self.static_bins}; accepted: 1 to {self.pixels // 2}, half the pixels")

    @property
    def counting(self) -> bool:
        """Whether there is shot noise."""
        return self.photons is not None and np.isfinite(self.photons)

    @property
    def profile(self) -> np.ndarray:
        """(pixels,) mean intensity, 1 on average."""
        return 1 + self.slope * (np.arange(self.pixels) - 0.5 * (self.pixels - 1)) / self.pixels

    @property
    def bins(self) -> np.ndarray:
        """(pixels,) static bin of each, counted from 0."""
        return np.arange(self.pixels) * self.static_bins // self.pixels

    @property
    def baseline(self) -> float:
        """Offset of the map, and factor of its contrast, that unequal pixels make."""
        bins, profile = self.bins, self.profile
        even = profile / (np.bincount(bins, weights=profile) / np.bincount(bins))[bins]
        return float(np.mean(even**2)) * (1 + self.heterogeneity**2)


@dataclass(frozen=True)
class Recording:
    """What a correlator makes of the counts of one angle.

    Attributes:
        c2: (n, n) float64 map with its raw diagonal; NaN in frames without any photon.
        counts: (n,) mean photons per pixel of each frame; infinity without shot noise.
        scattering: (pixels,) float32 mean photons of each pixel over the frames; intensity without shot noise.
    """

    c2: np.ndarray
    counts: np.ndarray
    scattering: np.ndarray


def record(
    fields: Sequence[FieldSource], contrast: Sequence[float], speckle: Speckle, *, seed: int, threads: int | None = None
) -> Iterator[Recording]:
    """The map of each angle, angles side by side in threads.

    Args:
        fields: of each angle.
        contrast: of each angle, in (0, 1].
        speckle: detector and beam.
        seed: an angle depends neither on the angles after it nor on the threads.
        threads: angles at a time; None: one per core.
    """
    seeds = np.random.SeedSequence(seed).spawn(len(fields))

    def one(source: FieldSource, scale: float, child: np.random.SeedSequence) -> Recording:
        generator = np.random.default_rng(child)
        # A factor of each pixel multiplies the speckle as well: c2 = baseline (1 + b h).
        counts = expose(intensities(source, scale / speckle.baseline, speckle, generator), speckle, generator)
        mean, scattering = counts.mean(axis=1, dtype=np.float64), counts.mean(axis=0)
        c2, _ = correlate(evened(counts, speckle) if speckle.static_bins > 1 else counts)
        return Recording(c2, mean if speckle.counting else np.full(len(mean), np.inf), scattering)

    with ThreadPoolExecutor(threads or available_cores()) as pool:
        yield from pool.map(one, fields, contrast, seeds)


def flow_fields(x0: np.ndarray, x1: np.ndarray | None, layers: int | None) -> FieldSource:
    """Layer by layer, or without layers drawn at once."""
    return drawn_fields(x0, x1) if layers is None else layered_fields(x0, x1, layers)


def layered_fields(x0: np.ndarray, x1: np.ndarray | None = None, layers: int = 64) -> FieldSource:
    """Fields of a sample that diffuses by x0 (n,) and, in layers, is sheared by the phase x1 (n,) across its gap.

    Raises:
        ValueError: there are so few layers that they would come into phase again.
    """
    count = 1 if x1 is None else layers
    phase = np.zeros(len(x0)) if x1 is None else np.asarray(x1)
    if np.ptp(phase) > _PHASE_PER_LAYER * count:
        raise ValueError(
            f"layers is {count}, and the shear phase across the gap reaches {np.ptp(phase):.0f} rad; "
            f"accepted: at least {ceil(np.ptp(phase) / _PHASE_PER_LAYER)} layers, or none (the summed field is drawn)"
        )
    passed = np.diff(x0)
    # Turning every layer on by its share of each step is the same as multiplying it by exp(2 i y x1) of the frame.
    step = np.exp(-0.5 * passed[:, None] + 2j * np.outer(np.diff(phase), _heights(count))).astype(np.complex64)
    # Real and imaginary part have half the variance each, and each layer its share of the mean intensity 1.
    fresh = np.sqrt(np.concatenate([[1.0], -np.expm1(-passed)]) / (2 * count)).astype(np.float32)
    width = max(_CELLS // count, 16)

    def draw(pixels: int, generator: np.random.Generator) -> np.ndarray:
        fields = np.empty((len(x0), pixels), dtype=np.complex64)
        for first in range(0, pixels, width):
            part = fields[:, first : first + width]
            state = np.zeros((count, part.shape[1]), dtype=np.complex64)
            noise = np.empty((count, 2 * part.shape[1]), dtype=np.float32)
            for frame, scale in enumerate(fresh):
                generator.standard_normal(out=noise, dtype=np.float32)
                noise *= scale
                if frame:
                    state *= step[frame - 1][:, None]
                state += noise.view(np.complex64)
                np.add.reduce(state, axis=0, out=part[frame])
        return fields

    return draw


def drawn_fields(x0: np.ndarray, x1: np.ndarray | None = None) -> FieldSource:
    """As ``layered_fields`` with very many layers, from the covariance of the summed field.

    A phase that all pixels of a frame share cancels in every intensity. Without that of the middle of the gap the covariance is real.
    """
    covariance = np.exp(-0.5 * np.abs(x0[:, None] - x0[None, :]))
    if x1 is not None:
        layers = max(_LAYERS, ceil(_LAYERS_PER_RADIAN * np.ptp(x1)))
        turn = np.exp(1j * np.outer(2 * _heights(layers) - 1, x1))
        covariance *= (turn.conj().T @ turn).real / layers
    covariance[np.diag_indices_from(covariance)] += _RIDGE
    # Real and imaginary part have half the variance each.
    factor = (np.sqrt(0.5) * np.linalg.cholesky(covariance)).astype(np.float32)

    def draw(pixels: int, generator: np.random.Generator) -> np.ndarray:
        noise = generator.standard_normal((len(x0), 2 * pixels), dtype=np.float32)
        return (factor @ noise).view(np.complex64)

    return draw


def mixed_fields(parts: Sequence[tuple[complex | np.ndarray, FieldSource]]) -> FieldSource:
    """The sum of fields, each times an amplitude: a number, or (n,) one per frame. Squares of amplitudes should add up to 1.

    A slow relaxation is ``layered_fields`` of a smaller x0, a static field of x0 = 0, an oscillation an amplitude exp(i w t).
    """

    def draw(pixels: int, generator: np.random.Generator) -> np.ndarray:
        drawn = [np.asarray(amplitude, dtype=np.complex64)[..., None] * source(pixels, generator) for amplitude, source in parts]
        return np.sum(drawn, axis=0)

    return draw


def mode_weights(contrast: float) -> np.ndarray:
    """Weights of the fewest modes with sum w = 1 and sum w^2 = contrast: equal ones, or one of them weaker.

    Raises:
        ValueError: no speckle has this contrast.
    """
    if not 0 < contrast <= 1:
        raise ValueError(f"contrast is {contrast}; accepted: above 0 and at most 1, the contrast of fully coherent speckle")
    # 1/contrast of a decimal fraction may be an integer but for rounding.
    others = ceil(1 / contrast - 1e-9) - 1
    if not others:
        return np.ones(1)
    weight = (1 + sqrt(max(1 - (others + 1) * (1 - contrast) / others, 0.0))) / (others + 1)
    return np.append(np.full(others, weight), 1 - others * weight)


def speckle_sums(pixels_per_speckle: int) -> tuple[float, float]:
    """(r, r1): sums over all pixels of |field correlation|^4 and of |field correlation|^2 with one pixel; 1, 1 if independent."""
    shared = 1 - np.abs(np.arange(1 - pixels_per_speckle, pixels_per_speckle)) / pixels_per_speckle
    return float(np.sum(shared**4)), float(np.sum(shared**2))


def intensities(source: FieldSource, contrast: float, speckle: Speckle, generator: np.random.Generator) -> np.ndarray:
    """(n, pixels) float32 intensities of mean 1."""

    def mode(weight: float) -> np.ndarray:
        fields = _averaged(source(speckle.pixels, generator), speckle.pixels_per_speckle)
        return np.float32(weight) * (fields.real**2 + fields.imag**2)

    return reduce(np.add, map(mode, mode_weights(contrast)))


def expose(intensity: np.ndarray, speckle: Speckle, generator: np.random.Generator) -> np.ndarray:
    """(n, pixels) float32 photon counts of intensities (n, pixels) of mean 1; intensities in the beam without shot noise."""
    n, pixels = intensity.shape
    # The incoherent part of a beam that loses coherence has no speckle.
    coherent = np.sqrt(np.linspace(1, 1 - speckle.contrast_drift, n))
    spread = speckle.heterogeneity**2
    factor = generator.gamma(1 / spread, spread, pixels) if spread else np.ones(pixels)
    factor = factor * speckle.profile
    counts = np.empty((n, pixels), dtype=np.float32)
    for frame, beam in enumerate(beam_intensity(n, speckle)):
        bright = beam * factor * (1 + coherent[frame] * (intensity[frame] - 1.0))
        counts[frame] = generator.poisson(speckle.photons * bright) if speckle.counting else bright
    return counts


def evened(counts: np.ndarray, speckle: Speckle) -> np.ndarray:
    """(n, pixels) counts divided by the mean of their static bin in their frame; a bin without photons stays dark."""
    starts = np.flatnonzero(np.diff(speckle.bins, prepend=-1))
    mean = np.add.reduceat(counts, starts, axis=1) / np.diff(starts, append=speckle.pixels)
    return counts / np.where(mean > 0, mean, 1)[:, speckle.bins]


def beam_intensity(n: int, speckle: Speckle) -> np.ndarray:
    """(n,) beam of each frame, 1 on average but for the bad frames.

    Raises:
        ValueError: there is no frame of a given number.
    """
    beam = 1 + speckle.beam_drift * np.linspace(0.5, -0.5, n)
    beyond = [number for number in speckle.bad_frames if not 2 <= number <= n + 1]
    if beyond:
        raise ValueError(f"bad_frames names {beyond}; accepted: 2 to {n + 1} (frame 1 of a file is at t = 0 and not simulated)")
    beam[[number - 2 for number in speckle.bad_frames]] *= BEAM_OFF
    return beam


def correlate(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two-time map of counts (n, pixels), each frame divided by its mean: c2 (n, n) with its raw diagonal, and the means (n,)."""
    n, pixels = counts.shape
    products, mean = np.zeros((n, n)), np.zeros(n)
    for first in range(0, pixels, _PIXELS):
        part = counts[:, first : first + _PIXELS].astype(np.float64)
        products += part @ part.T
        mean += part.sum(axis=1)
    mean /= pixels
    scale = np.where(mean > 0, mean, np.nan)
    return products / (pixels * np.outer(scale, scale)), mean


def _heights(layers: int) -> np.ndarray:
    """(layers,) middle of each layer, in units of the gap."""
    return (np.arange(layers) + 0.5) / layers


def _averaged(fields: np.ndarray, length: int) -> np.ndarray:
    """Moving average over pixels, normalised to mean intensity 1. The line is closed, so that no pixel has fewer neighbours."""
    if length == 1:
        return fields
    total = fields.copy()
    for shift in range(1, length):
        total += np.roll(fields, shift, axis=1)
    return total / np.float32(sqrt(length))
