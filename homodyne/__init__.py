"""Transport coefficient, shear rate and flow direction from X-ray photon correlation two-time maps.

    import homodyne
    dataset = homodyne.load("run12.hdf", q=0.0054)
    mode = homodyne.option("mode", "static")            # any option of any group, with the defaults of its YAML
    result = homodyne.load_run("outputs/2026-11-20/17-33-39")

Importing this package imports nothing else: a name brings its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Job, build, load, option
    from .data import Dataset
    from .errors import ConfigError, DataError, FitError, HomodyneError
    from .forecasting import forecast
    from .groups import conf_dir
    from .physics import two_time
    from .results import Fit
    from .save import load_run
    from .simulation import simulate

__version__ = "0.1.0"

_HOME = {
    "ConfigError": "errors",
    "DataError": "errors",
    "Dataset": "data",
    "Fit": "results",
    "FitError": "errors",
    "HomodyneError": "errors",
    "Job": "config",
    "build": "config",
    "conf_dir": "groups",
    "forecast": "forecasting",
    "load": "config",
    "load_run": "save",
    "option": "config",
    "simulate": "simulation",
    "two_time": "physics",
}
"""Module of each public name."""

__all__ = [
    "ConfigError",
    "DataError",
    "Dataset",
    "Fit",
    "FitError",
    "HomodyneError",
    "Job",
    "__version__",
    "build",
    "conf_dir",
    "forecast",
    "load",
    "load_run",
    "option",
    "simulate",
    "two_time",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
