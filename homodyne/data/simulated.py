"""data=simulated: maps made from known parameters instead of read; see ``homodyne/simulation.py`` and ``homodyne/speckle.py``."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from ..errors import ConfigError, DataError
from ..physics import PARAMETERS, SHEAR_KERNELS
from ..simulation import LAYOUTS, check_speckle, simulate, write
from ..speckle import Speckle
from .base import AbstractData, Frame, Positive
from .contents import values_text
from .dataset import Dataset

ONLY_SPECKLE: dict[str, object] = {
    "pixels_per_speckle": 1,
    "photons": None,
    "beam_drift": 0,
    "bad_frames": [],
    "heterogeneity": 0,
    "contrast_drift": 0,
}
"""Settings that gaussian noise has no use for, and the values that ask for nothing."""


class Simulated(AbstractData):
    """data=simulated.

    Attributes:
        parameters: by name, all of the mode.
        phi_list: azimuth of each map, degrees.
        n_frames: frames of each map; the first is at t = dt.
        dt: time between frames, s.
        q: wavevector, 1/Angstrom.
        gap: shear gap, Angstrom.
        contrast, offset: of every map.
        mode: laminar_flow or static.
        shear_kernel: gap_average or homodyne_v2.
        noise: gaussian, independent for every value, or speckle, from photons on a detector.
        seed: of the noise.
        sigma: gaussian: standard deviation of the noise of a value.
        diagonal_excess: gaussian: what the diagonal has above contrast + offset (shot noise).
        pixels: speckle: detector pixels of each map.
        pixels_per_speckle: speckle: size of a speckle along a line of pixels.
        layers: speckle: layers of the gap; null: the summed field is drawn from its covariance.
        photons: speckle: mean per pixel and frame; null: no shot noise.
        beam_drift: speckle: relative change of the beam over the record.
        bad_frames: speckle: numbers, in the file, of frames with hardly any beam.
        heterogeneity: speckle: standard deviation of a constant intensity factor of each pixel.
        contrast_drift: speckle: the contrast falls to 1 - contrast_drift of its first value.
        write: null, or a file to write the maps to.
        layout: layout of that file.
    """

    parameters: dict[str, float]
    phi_list: Annotated[list[float], Field(min_length=1)]
    n_frames: Annotated[int, Field(ge=3)]
    dt: Positive
    q: Positive
    gap: Positive
    contrast: Positive
    offset: float
    mode: str
    shear_kernel: str
    noise: Literal["gaussian", "speckle"]
    seed: Annotated[int, Field(ge=0)]
    sigma: Annotated[float, Field(ge=0)]
    diagonal_excess: Annotated[float, Field(ge=0)]
    pixels: Annotated[int, Field(ge=2)]
    pixels_per_speckle: Annotated[int, Field(ge=1)]
    layers: Annotated[int, Field(ge=1)] | None
    photons: Positive | None
    beam_drift: Annotated[float, Field(gt=-2, lt=2)]
    bad_frames: list[Frame]
    heterogeneity: Annotated[float, Field(ge=0)]
    contrast_drift: Annotated[float, Field(ge=0, lt=1)]
    write: str | None
    layout: Literal["aps_u", "aps_legacy", "nxxpcs", "npz", "array"]

    @model_validator(mode="after")
    def _names_are_known(self) -> "Simulated":
        if self.mode not in PARAMETERS:
            raise ValueError(f"mode is {self.mode!r}; accepted: {', '.join(PARAMETERS)}")
        if self.shear_kernel not in SHEAR_KERNELS:
            raise ValueError(f"shear_kernel is {self.shear_kernel!r}; accepted: {', '.join(SHEAR_KERNELS)}")
        missing = [name for name in PARAMETERS[self.mode] if name not in self.parameters]
        unknown = [name for name in self.parameters if name not in PARAMETERS["laminar_flow"]]
        if missing or unknown:
            raise ValueError(f"parameters: missing {missing}, unknown {unknown}; mode {self.mode} needs {list(PARAMETERS[self.mode])}")
        return self

    @model_validator(mode="after")
    def _noise_has_what_it_needs(self) -> "Simulated":
        if self.noise == "gaussian":
            given = [name for name, value in self.model_dump(include=set(ONLY_SPECKLE)).items() if value != ONLY_SPECKLE[name]]
            if given:
                raise ValueError(f"{', '.join(given)}: for noise=speckle only, and noise is gaussian")
            return self
        if self.diagonal_excess:
            raise ValueError(f"diagonal_excess is {self.diagonal_excess}: for noise=gaussian only; accepted with noise=speckle: 0")
        kernel = "none" if self.mode == "static" else self.shear_kernel
        check_speckle(np.array(self.contrast), np.array(self.offset), kernel, self.n_frames, Speckle(**self._speckle()))
        return self

    def load(self) -> Dataset:
        """The simulated maps; written to a file as well if ``write`` names one."""
        try:
            dataset = simulate(
                self._parameters(),
                self.phi_list,
                q=self.q,
                gap=self.gap,
                dt=self.dt,
                frames=self.n_frames,
                contrast=self.contrast,
                offset=self.offset,
                mode=self.mode,
                shear_kernel=self.shear_kernel,
                noise=self.noise,
                seed=self.seed,
                **self._noise(),
            )
        except ValueError as error:
            raise ConfigError(f"data=simulated: {error}") from error
        if self.write is not None:
            details = self.model_dump(exclude={"parameters", "phi_list", "write", "layout"})
            try:
                write(dataset, Path(self.write).expanduser(), self.layout, details=details)
            except OSError as error:
                raise DataError(f"{self.write}: cannot be written ({error}); accepted: a new or existing file (data.write)") from error
        return dataset

    def plan(self) -> tuple[Dataset, int]:
        """Maps without noise, with the pixels and photons of the settings."""
        if self.noise != "speckle":
            raise ConfigError("forecast=true: data.noise is gaussian, which has no photons; accepted: data.noise=speckle")
        exact = simulate(
            self._parameters(),
            self.phi_list,
            q=self.q,
            gap=self.gap,
            dt=self.dt,
            frames=self.n_frames,
            contrast=self.contrast,
            mode=self.mode,
            shear_kernel=self.shear_kernel,
        )
        per_angle = np.ones(len(exact.phi))
        photons = np.inf if self.photons is None else self.photons
        return replace(exact, pixels=self.pixels * per_angle, counts=photons * per_angle), self.pixels_per_speckle

    def inspect(self) -> str:
        """What would be simulated, in a few lines of text."""
        noise = ", ".join(f"{name} {'null' if value is None else value}" for name, value in self._noise().items())
        lines = [
            ("layout", "simulated"),
            ("maps", f"{len(self.phi_list)}, of {self.n_frames} frames, dt {self.dt:g} s"),
            ("q, gap", f"{self.q:g} 1/Angstrom, {self.gap:g} Angstrom"),
            ("phi", f"{values_text(self.phi_list)} degrees"),
            ("mode", f"{self.mode}, shear kernel {self.shear_kernel}"),
            ("truth", ", ".join(f"{name} {value:g}" for name, value in self._parameters().items())),
            ("scaling", f"contrast {self.contrast:g}, offset {self.offset:g}"),
            ("noise", f"{self.noise}, {noise}, seed {self.seed}"),
            ("write", "nothing" if self.write is None else f"{self.write} ({self.layout}; known: {', '.join(LAYOUTS)})"),
        ]
        return "\n".join(f"{name:<10} {text}" for name, text in lines)

    def _noise(self) -> dict[str, Any]:
        """Settings of the chosen noise."""
        return {"sigma": self.sigma, "diagonal_excess": self.diagonal_excess} if self.noise == "gaussian" else self._speckle()

    def _speckle(self) -> dict[str, Any]:
        return self.model_dump(include={setting.name for setting in fields(Speckle)})

    def _parameters(self) -> dict[str, float]:
        """Those of the mode: the static mode ignores the shear of the defaults."""
        return {name: float(self.parameters[name]) for name in PARAMETERS[self.mode]}
