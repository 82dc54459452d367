"""One NVIDIA GPU. Worth it for data-centre cards: consumer cards have a 1:32 or 1:64 rate in float64."""

from typing import Literal

from .base import AbstractHardware


class GPU(AbstractHardware):
    """Compute on the GPU that JAX sees."""

    @property
    def platform(self) -> Literal["cpu", "gpu"]:
        return "gpu"

    @property
    def advice(self) -> str:
        return 'install the CUDA build of JAX with pip install "homodyne[gpu]", check that nvidia-smi lists a GPU, or use hardware=cpu'
