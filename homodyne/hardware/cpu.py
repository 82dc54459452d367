"""The cores of this machine."""

from typing import Literal

from .base import AbstractHardware


class CPU(AbstractHardware):
    """Compute on the cores of this machine."""

    @property
    def platform(self) -> Literal["cpu", "gpu"]:
        return "cpu"

    @property
    def advice(self) -> str:
        return "start a new process (a JAX device cannot be changed once it has been used)"
