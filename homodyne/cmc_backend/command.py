"""The command line of a worker: double precision, its share of the cores, and nothing inherited that pins it elsewhere."""

import os
import sys
from collections.abc import Sequence

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

PINS = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""Would put every worker on the same cores."""


def command(threads: int, arguments: Sequence[str], python: str | None = None, keep: Sequence[str] = ()) -> list[str]:
    """``env ... python -m homodyne.tasks ...``: the variables are those of the child; this process keeps its own.

    Args:
        threads: of its libraries. arguments: of the worker. python: interpreter, None = this one.
        keep: variables that the child has as this process has them, whatever is between the two.
    """
    absent = [name for name in keep if name not in os.environ]
    forget = [part for name in (*PINS, *absent) for part in ("-u", name)]
    values = [f"{name}={os.environ[name]}" for name in keep if name in os.environ]
    values += [f"{name}={threads}" for name in VARIABLES] + ["JAX_ENABLE_X64=true"]
    return ["env", *forget, *values, python or sys.executable, "-m", "homodyne.tasks", *arguments]


def available_cores() -> list[int]:
    """Cores this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def shares(workers: int, threads: int | None) -> list[tuple[int, ...]]:
    """Cores of each worker; they overlap only when more are asked for than there are.

    Args:
        workers: how many. threads: cores of each, None = an equal share.
    """
    cores = available_cores()
    size = min(threads or max(1, len(cores) // workers), len(cores))
    return [tuple(cores[(worker * size + k) % len(cores)] for k in range(size)) for worker in range(workers)]
