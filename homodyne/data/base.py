"""What every data option is and can be asked; the settings that all layouts of a file share; from an open file to a Dataset.

A layout is a class with one method, ``open``, that says what the file holds (``contents.py``); selection, masking and packing
are the same for all.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator

from ..errors import ConfigError, DataError
from ..settings import Option
from . import selection
from .contents import Contents
from .dataset import Dataset, Provenance
from .frame_checks import frame_notes
from .inspection import describe
from .reading import Rules, read_maps

Positive = Annotated[float, Field(gt=0)]
Frame = Annotated[int, Field(ge=1)]

ASSUMED_GAP = 2.0e6
"""Angstrom, where the user gives none: the gap of the cells that most shear measurements are made in. No file says it."""


class AbstractData(Option, ABC):
    """A source of two-time maps."""

    @abstractmethod
    def load(self) -> Dataset:
        """The maps of one wavevector, selected, masked and packed."""

    @abstractmethod
    def inspect(self) -> str:
        """What there is to load, in a few lines of text."""

    def plan(self) -> tuple[Dataset, int]:
        """Exact maps of an experiment that is not made yet, with its pixels and counts, and the pixels per speckle.

        Raises:
            ConfigError: this data option reads a measurement.
        """
        raise ConfigError(f"forecast=true: data={self.name} reads a measurement; accepted: data=simulated data.noise=speckle")


class AbstractFile(AbstractData, ABC):
    """Two-time maps in a file; ``docs/data.md`` explains each setting.

    Attributes:
        path: the file.
        q: wavevector, 1/Angstrom; null if the file holds one only.
        q_tolerance: largest relative difference between q and the nearest wavevector of the file.
        phi: null or [low, high] ranges, degrees modulo 360, inclusive; low > high wraps around.
        frames: null or [first, last], counted from 1, inclusive; last may be null.
        bad_frames: numbers of frames that are masked.
        mask: null or an .npy file, (frames, frames) bool, True = use.
        nonfinite: what an isolated non-finite value is: an error, or masked.
        dt: time between frames, s; null = as the file says.
        gap: shear gap, Angstrom; null: ASSUMED_GAP, and the result says that it is assumed.
        time_origin: null: the first selected frame is t = 0 and dropped; else its time, s, and nothing is dropped.
        storage: where the packed maps are kept: memory, or disk (a temporary folder).
    """

    path: str | None
    q: Positive | None
    q_tolerance: Annotated[float, Field(ge=0)]
    phi: Annotated[list[list[float]], Field(min_length=1)] | None
    frames: Annotated[list[Frame | None], Field(min_length=2, max_length=2)] | None
    bad_frames: list[Frame]
    mask: str | None
    nonfinite: Literal["error", "mask"]
    dt: Positive | None
    gap: Positive | None
    time_origin: Positive | None
    storage: Literal["memory", "disk"]

    @field_validator("phi")
    @classmethod
    def _ranges_have_two_ends(cls, phi: list[list[float]] | None) -> list[list[float]] | None:
        if phi is not None and any(len(ends) != 2 for ends in phi):
            raise ValueError(f"{phi} is not a list of [low, high] ranges in degrees, e.g. [[-10, 10], [170, -170]]")
        return phi

    @field_validator("frames")
    @classmethod
    def _frames_are_in_order(cls, frames: list[int | None] | None) -> list[int | None] | None:
        if frames is not None and frames[1] is not None and (frames[0] or 1) >= frames[1]:
            raise ValueError(f"{frames} selects fewer than two frames; accepted: [first, last], counted from 1, first < last")
        return frames

    @abstractmethod
    def open(self, path: Path) -> AbstractContextManager[Contents]:
        """What the file holds, while it is open."""

    def load(self) -> Dataset:
        """The maps of one wavevector, selected, masked and packed."""
        with self.open(self._existing_file()) as contents:
            return self._read(contents)

    def inspect(self) -> str:
        """Layout, maps, q, phi, frames, dt and storage of the file, in a few lines of text."""
        with self.open(self._existing_file()) as contents:
            return describe(contents)

    def _existing_file(self) -> Path:
        if self.path is None:
            raise ConfigError("data.path is missing; accepted: the path of a file with two-time maps")
        path = Path(self.path).expanduser()
        if path.is_dir():
            raise DataError(f"{path}: is a directory; accepted: a file with two-time maps (data.path)")
        if not path.is_file():
            raise DataError(f"{path}: no such file (data.path)")
        return path

    def _read(self, contents: Contents) -> Dataset:
        chosen, q, notes = selection.choose_q(contents, self.q, self.q_tolerance)
        chosen, _, more = selection.choose_phi(contents, chosen, self.phi)
        notes += more
        frames, more = selection.choose_frames(contents, self.frames, keep_first=self.time_origin is not None)
        notes += more
        dt, more = selection.choose_dt(contents, self.dt)
        notes += more
        bad, more = selection.listed_bad_frames(contents, self.bad_frames, frames)
        notes += more
        maps = read_maps(contents, chosen, Rules(frames, bad, self.mask, self.nonfinite, self.storage))
        steps = np.arange(len(frames))
        t = dt * (steps + 1) if self.time_origin is None else self.time_origin + dt * steps
        # The parameters of a simulation are those of its own clock, on which frame k (from 0) is at k dt.
        same_clock = abs(t[0] - dt * frames.start) < 1e-6 * dt
        if contents.truth is not None and not same_clock:
            notes.append("the parameters of the simulation are left out: they do not hold for this time origin")
        unknown = np.full(len(maps.kept), np.nan)
        pixels = unknown if contents.pixels is None else contents.pixels[maps.kept]
        counts = unknown if contents.counts is None else contents.counts[maps.kept]
        counts = counts[:, frames.start : frames.stop] if counts.ndim == 2 else counts
        number = np.arange(frames.start + 1, frames.stop + 1)
        checked = frame_notes(number, counts, maps.diagonal, pixels, self.bad_frames)
        return Dataset(
            tiles=maps.tiles,
            phi=selection.normalise(contents.phi[maps.kept]).astype(np.float64),
            q=q,
            gap=ASSUMED_GAP if self.gap is None else self.gap,
            gap_assumed=self.gap is None,
            t=t,
            frame=number,
            diagonal=maps.diagonal,
            pixels=pixels,
            counts=counts,
            weights=None if contents.weights is None else contents.weights.of(maps.kept),
            provenance=Provenance(contents.path, contents.layout, (*contents.notes, *notes, *maps.notes, *checked)),
            truth=contents.truth if same_clock else None,
        )
