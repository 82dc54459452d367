"""What a fit needs to know of a measurement: packed maps, angles, times, and where they came from."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..errors import DataError
from ..tiles import TILE, tile_count, unpack
from .pixel_weights import PixelWeights


@dataclass(frozen=True)
class Provenance:
    """Where a Dataset came from and what was done to it."""

    path: str
    layout: str
    notes: tuple[str, ...] = ()
    """What was found, chosen, dropped or masked, one sentence each; printed and saved."""


@dataclass(frozen=True)
class Truth:
    """What simulated maps were made from: parameters by name, and the shear kernel (``none`` without shear)."""

    parameters: dict[str, float]
    shear_kernel: str

    def comparable(self, shear_kernel: str) -> dict[str, float] | None:
        """The parameters, if they mean the same in a fit with this shear kernel."""
        return self.parameters if shear_kernel == self.shear_kernel else None


@dataclass(frozen=True)
class Dataset:
    """The two-time maps of one wavevector.

    Attributes:
        tiles: (P, n_tiles, TILE, TILE) float32 or float64, the pairs i < j of P maps (see tiles.py); NaN = not used.
            An array, a memory map, or anything that slices like one along the first two axes.
        phi: (P,) azimuth of each map, degrees.
        q: wavevector, 1/Angstrom.
        gap: shear gap L (stator to rotor), Angstrom. gap_assumed: nobody has given it.
        t: (n,) time of each frame, s, uniform and > 0; t = 0 is one step before the first frame unless time_origin was set.
        frame: (n,) number of each frame in the file, counted from 1.
        diagonal: (P, n) raw diagonal c2(i, i) as stored; NaN where unknown.
        pixels: (P,) detector pixels averaged in each map; NaN where unknown.
        counts: (P,) or (P, n) mean photons per pixel and frame; NaN where unknown.
        truth: of simulated maps, else None.
        weights: how unequal pixels enter the noise; None where the file does not say.
    """

    tiles: np.ndarray
    phi: np.ndarray
    q: float
    gap: float
    t: np.ndarray
    frame: np.ndarray
    diagonal: np.ndarray
    pixels: np.ndarray
    counts: np.ndarray
    provenance: Provenance
    truth: Truth | None = field(default=None)
    gap_assumed: bool = False
    weights: PixelWeights | None = None

    def __post_init__(self) -> None:
        n, count = len(self.t), len(self.phi)
        where = f"{self.provenance.path} ({self.provenance.layout})"
        if n < 3:
            raise DataError(f"{where}: {n} frames are left after selection; at least 3 are needed")
        if count == 0:
            raise DataError(f"{where}: no map is left after selection")
        expected = (count, tile_count(n), TILE, TILE)
        if self.tiles.shape != expected:
            raise DataError(f"{where}: tiles have shape {self.tiles.shape}, expected {expected}")
        if not (np.all(np.isfinite(self.phi)) and np.isfinite(self.q) and self.q > 0 and np.isfinite(self.gap) and self.gap > 0):
            found = f"q={self.q}, gap={self.gap}, phi={self.phi}"
            raise DataError(f"{where}: q, gap and every phi must be finite, q and gap positive; found {found}")
        steps = np.diff(self.t)
        if self.t[0] <= 0 or np.any(steps <= 0) or np.ptp(steps) > 1e-6 * steps.mean():
            raise DataError(f"{where}: frame times must be positive and uniformly spaced; found {self.t[0]} ... {self.t[-1]} s")

    @property
    def n(self) -> int:
        """Number of frames."""
        return len(self.t)

    @property
    def dt(self) -> float:
        """Time between frames, s."""
        return float((self.t[-1] - self.t[0]) / (len(self.t) - 1))

    def map(self, index: int) -> np.ndarray:
        """The symmetric (n, n) map of one angle; NaN on the diagonal and where masked."""
        return unpack(np.asarray(self.tiles[index]), self.n)

    @cached_property
    def pairs(self) -> np.ndarray:
        """(P,) number of used pairs i < j of each map."""
        return np.array([np.count_nonzero(np.isfinite(tiles)) for tiles in self.tiles])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every number a fit depends on: maps, angles, times, q and gap."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.phi, self.t, np.array([self.q, self.gap])):
            digest.update(np.ascontiguousarray(array, dtype=np.float64))
        for tiles in self.tiles:
            digest.update(np.ascontiguousarray(tiles))
        return digest.hexdigest()
