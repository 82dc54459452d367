"""The groups of options, the keys beside them, and where their YAML is. Imported by the command line: it must stay cheap."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

GROUPS = ("mode", "per_angle_scaling", "noise", "optimizer", "uncertainty", "posterior", "cmc_backend", "hardware", "data", "report")
KEYS = ("seed", "resume", "inspect", "forecast")


def conf_dir() -> Path:
    """The folder of the YAML files: beside the modules in an installed package, one level up in a checkout."""
    here = Path(__file__).resolve().parent
    installed = here / "conf"
    return installed if installed.is_dir() else here.parent / "conf"


def options(group: str) -> list[str]:
    """Names of the options of a group."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def nearest(name: str, names: Iterable[str]) -> str:
    """A clause ", did you mean x?" when a valid name is close, else nothing."""
    matches = get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f", did you mean {matches[0]}?" if matches else ""
