"""data=simulated: maps made from known parameters instead of read, with independent Gaussian noise; see ``homodyne/simulation.py``."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..errors import DataError
from ..physics import PARAMETERS, SHEAR_KERNELS
from ..simulation import LAYOUTS, simulate, write
from .base import AbstractData, Positive
from .contents import values_text
from .dataset import Dataset


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
        sigma: standard deviation of the noise of a value.
        diagonal_excess: what the diagonal has above contrast + offset (shot noise).
        mode: laminar_flow or static.
        shear_kernel: gap_average or homodyne_v2.
        seed: of the noise.
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
    sigma: Annotated[float, Field(ge=0)]
    diagonal_excess: Annotated[float, Field(ge=0)]
    mode: str
    shear_kernel: str
    seed: Annotated[int, Field(ge=0)]
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

    def load(self) -> Dataset:
        """The simulated maps; written to a file as well if ``write`` names one."""
        dataset = simulate(
            self._parameters(),
            self.phi_list,
            q=self.q,
            gap=self.gap,
            dt=self.dt,
            frames=self.n_frames,
            contrast=self.contrast,
            offset=self.offset,
            sigma=self.sigma,
            mode=self.mode,
            shear_kernel=self.shear_kernel,
            seed=self.seed,
            diagonal_excess=self.diagonal_excess,
        )
        if self.write is not None:
            details = self.model_dump(exclude={"parameters", "phi_list", "write", "layout"})
            try:
                write(dataset, Path(self.write).expanduser(), self.layout, details=details)
            except OSError as error:
                raise DataError(f"{self.write}: cannot be written ({error}); accepted: a new or existing file (data.write)") from error
        return dataset

    def inspect(self) -> str:
        """What would be simulated, in a few lines of text."""
        lines = [
            ("layout", "simulated"),
            ("maps", f"{len(self.phi_list)}, of {self.n_frames} frames, dt {self.dt:g} s"),
            ("q, gap", f"{self.q:g} 1/Angstrom, {self.gap:g} Angstrom"),
            ("phi", f"{values_text(self.phi_list)} degrees"),
            ("mode", f"{self.mode}, shear kernel {self.shear_kernel}"),
            ("truth", ", ".join(f"{name} {value:g}" for name, value in self._parameters().items())),
            ("scaling", f"contrast {self.contrast:g}, offset {self.offset:g}"),
            ("noise", f"sigma {self.sigma:g}, diagonal excess {self.diagonal_excess:g}, seed {self.seed}"),
            ("write", "nothing" if self.write is None else f"{self.write} ({self.layout}; known: {', '.join(LAYOUTS)})"),
        ]
        return "\n".join(f"{name:<10} {text}" for name, text in lines)

    def _parameters(self) -> dict[str, float]:
        """Those of the mode: the static mode ignores the shear of the defaults."""
        return {name: float(self.parameters[name]) for name in PARAMETERS[self.mode]}
