"""Where a run computes: device, threads and how much at a time. It changes speed and memory, and no number.

``configure`` is the first line of a run and of ``optimize.fit``, before anything has touched a device: the platform cannot change after
that. What computes without a job (a model, a source of pixels) calls ``use_float64`` itself.
"""

import os
import re
from abc import ABC, abstractmethod
from pathlib import Path
from platform import machine, node, processor
from typing import Annotated, Literal

import jax
from pydantic import Field
from threadpoolctl import threadpool_limits

from ..errors import ConfigError
from ..settings import Option


class AbstractHardware(Option, ABC):
    """Device and threads of a run."""

    threads: Annotated[int, Field(ge=1)] | None
    """Chunks of pixels evaluated at the same time; None = every core this process may use."""

    compilation_cache: bool
    """Keep compiled code in the user's cache folder."""

    tiles_at_once: Annotated[int, Field(ge=1)]
    """Tiles that one call of the kernel evaluates side by side."""

    @property
    @abstractmethod
    def platform(self) -> Literal["cpu", "gpu"]:
        """The name JAX has for the device."""

    @property
    @abstractmethod
    def advice(self) -> str:
        """What to do when the device is not there."""

    @property
    def cores(self) -> int:
        """Threads to use, with None resolved."""
        return self.threads or available_cores()

    def configure(self) -> None:
        """Switch JAX to float64 on this platform. Calling it again changes nothing.

        Raises:
            ConfigError: the platform is not there, or JAX already computes on another one or in another precision.
        """
        # Angles and chunks of tiles already share the cores; threads of BLAS below them would only wait for each other.
        threadpool_limits(1, user_api="blas")
        use_float64()
        # "cuda", not "gpu": a list of platforms is tried as it stands, and JAX would look for ROCm as well under the name "gpu".
        jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda,cpu"}[self.platform])
        if self.compilation_cache:
            if jax.config.jax_compilation_cache_dir is None:
                jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
        try:
            found = jax.default_backend()
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"hardware={self.platform}: JAX found no such device ({reason}); {self.advice}") from error
        if found != self.platform:
            raise ConfigError(
                f"hardware={self.platform}: JAX computes on {found} (no {self.platform} is visible to it, or this process has already "
                f"used another device); {self.advice}"
            )

    def describe(self) -> dict[str, str | int]:
        """What the run computed on, for the record. Call after ``configure``."""
        return {
            "platform": jax.default_backend(),
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "processor": processor_name(),
            "threads": self.cores,
            "cores_available": available_cores(),
            "tiles_at_once": self.tiles_at_once,
            "host": node(),
        }


def use_float64() -> None:
    """Switch JAX to float64 in every thread of this process; touches no device. Calling it again changes nothing.

    A minimum of chi2 over millions of pixels is not resolved in float32.

    Raises:
        ConfigError: the caller holds JAX in float32.
    """
    # The process-wide value: a block of jax.enable_x64(True) would not reach the threads that sum pixels.
    jax.config.update("jax_enable_x64", True)
    if jax.numpy.result_type(float) != "float64":
        raise ConfigError(
            "hardware: JAX is held in float32 here by jax.enable_x64(False); accepted: to call homodyne outside of that block (it computes "
            "in float64 and switches JAX to it)"
        )


def available_cores() -> int:
    """Cores this process may run on: a batch system gives a job fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def cache_folder() -> Path:
    """Folder of compiled code, by the XDG convention; one per kind of processor.

    Compiled code uses the instructions of the processor it was made on, and the nodes of a cluster share one home folder.
    """
    root = os.environ["XDG_CACHE_HOME"] if "XDG_CACHE_HOME" in os.environ else ""
    kind = re.sub(r"[^a-z0-9]+", "-", processor_name().lower()).strip("-")
    return (Path(root) if root else Path.home() / ".cache") / "homodyne" / "jax" / (kind or "unknown")


def processor_name() -> str:
    """Model name of the processor; Linux keeps it in /proc/cpuinfo, elsewhere the architecture has to do."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return processor() or machine()
