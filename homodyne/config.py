"""Phase 1: the composed configuration becomes a ``Job`` of validated option objects, before anything is opened.

Every group of ``conf/config.yaml`` names a class by ``_target_``; the class (an ``Option``) knows types and ranges, the YAML knows
values. What does not fit ends here, as one ConfigError that names the full key, what was found and what is accepted.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from .accepted import describe
from .errors import ConfigError
from .groups import GROUPS, KEYS, conf_dir, nearest, options
from .settings import Option

if TYPE_CHECKING:
    from .cmc_backend.base import AbstractCMCBackend
    from .data.base import AbstractData
    from .data.dataset import Dataset
    from .hardware.base import AbstractHardware
    from .mode.base import AbstractMode
    from .noise.base import AbstractNoise
    from .optimizer.base import AbstractOptimizer
    from .per_angle_scaling.base import AbstractPerAngleScaling
    from .posterior.base import AbstractPosterior
    from .report.base import AbstractReport
    from .uncertainty.base import AbstractUncertainty

BASES = {
    "mode": "AbstractMode",
    "per_angle_scaling": "AbstractPerAngleScaling",
    "noise": "AbstractNoise",
    "optimizer": "AbstractOptimizer",
    "uncertainty": "AbstractUncertainty",
    "posterior": "AbstractPosterior",
    "cmc_backend": "AbstractCMCBackend",
    "hardware": "AbstractHardware",
    "data": "AbstractData",
    "report": "AbstractReport",
}
"""What an option of each group must be a subclass of; found in homodyne/<group>/base.py."""


@dataclass(frozen=True)
class Job:
    """Everything a run was asked to do.

    Attributes:
        seed: every random number follows from it.
        resume: continue from the state saved in the run folder.
        inspect: describe the data and stop. forecast: say what errors to expect from a simulated experiment and stop.
        text: the resolved configuration as YAML.
    """

    mode: "AbstractMode"
    per_angle_scaling: "AbstractPerAngleScaling"
    noise: "AbstractNoise"
    optimizer: "AbstractOptimizer"
    uncertainty: "AbstractUncertainty"
    posterior: "AbstractPosterior"
    cmc_backend: "AbstractCMCBackend"
    hardware: "AbstractHardware"
    data: "AbstractData"
    report: "AbstractReport"
    seed: int
    resume: bool
    inspect: bool
    forecast: bool
    text: str


def build(cfg: DictConfig) -> Job:
    """The Job of a composed configuration.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type or is out of range.
    """
    known = (*GROUPS, *KEYS)
    for key in map(str, cfg):
        if key not in known:
            raise ConfigError(f"{key}: unknown key{nearest(key, (*known, 'experiment'))}; accepted: {', '.join(known)}")
    values = _resolved(cfg)
    missing = list(_missing(values))
    if missing:
        raise ConfigError(f"{', '.join(missing)}: missing; give it as {missing[0]}=<value>")
    for key in (*GROUPS, *KEYS):
        if key not in values:
            raise ConfigError(f"{key}: missing; accepted: {key}={' or '.join(options(key)) or '<value>'}")
    if type(values["seed"]) is not int or values["seed"] < 0:
        raise ConfigError(f"seed: found {shown(values['seed'])}; accepted: integer >= 0")
    for key in ("resume", "inspect", "forecast"):
        if type(values[key]) is not bool:
            raise ConfigError(f"{key}: found {shown(values[key])}; accepted: true or false")
    chosen = {group: _make(group, values[group]) for group in GROUPS}
    job = Job(**chosen, **{key: values[key] for key in KEYS}, text=OmegaConf.to_yaml(cfg, resolve=True))
    _check_together(job)
    return job


def option(group: str, name: str, /, **settings: Any) -> Any:
    """One option object with the defaults of its YAML, for notebooks: ``option("data", "aps_u", path="run12.hdf")``.

    Args:
        group: folder in conf/. name: file in it. settings: replace the defaults; a dict replaces only the keys that it has.

    Raises:
        ConfigError: as ``build``.
    """
    if group not in GROUPS:
        raise ConfigError(f"{group}: unknown group{nearest(group, GROUPS)}; accepted: {', '.join(GROUPS)}")
    if name not in options(group):
        raise ConfigError(f"{group}={name}: unknown option{nearest(name, options(group))}; accepted: {', '.join(options(group))}")
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        defaults = compose(config_name=f"{group}/{name}")
    values = _merged(_resolved(defaults[group]), settings)
    missing = list(_missing({group: values}))
    if missing:
        raise ConfigError(f"{', '.join(missing)}: missing; give it as option({group!r}, {name!r}, {missing[0].split('.')[1]}=...)")
    return _make(group, values)


def load(path: str | os.PathLike[str], layout: str = "auto", **settings: Any) -> "Dataset":
    """Read a file in one call: ``load("run12.hdf", q=0.0054)``.

    Args:
        path: the file. layout: an option of the group data that reads files. settings: its keys, see conf/data/<layout>.yaml.

    Raises:
        ConfigError: a setting does not fit.
        DataError: the file does not.
    """
    return option("data", layout, path=os.fspath(path), **settings).load()


def shown(value: Any) -> str:
    """A value as the user would type it, with its type where that may be the trouble."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, str) else str(value)
    short = text if len(text) <= 60 else text[:57] + "..."
    return f"{short} (text)" if isinstance(value, str) else short


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    """Interpolations resolved, as plain containers."""
    try:
        values = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        found = str(error).partition("\n")[0]
        raise ConfigError(f"{error.full_key}: {found}; accepted: a value, or ${{key}} with the full name of a key") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _make(group: str, values: Any) -> Any:
    """The option object of one group."""
    if not isinstance(values, dict) or "_target_" not in values:
        raise ConfigError(f"{group}: found {shown(values)}; accepted: {group}=<option>, one of {', '.join(options(group))}")
    settings = dict(values)
    target = settings.pop("_target_")
    module, _, name = str(target).rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{group}._target_: cannot import {target} ({error}); accepted: package.module.Class") from error
    base = getattr(import_module(f".{group}.base", __package__), BASES[group])
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ConfigError(f"{group}._target_: found {target}; accepted: a subclass of {base.__module__}.{base.__name__}")
    try:
        return _validated(cls, settings)
    except ValidationError as error:
        raise ConfigError(_complaint(group, cls, error)) from error


def _check_together(job: Job) -> None:
    """What no group can see alone."""
    if job.optimizer.start == "config" and job.mode.start() is None:
        missing = [f"mode.parameters.{name}.start" for name, p in job.mode.parameters.items() if p.start is None and p.fixed is None]
        raise ConfigError(f"optimizer.start: found config, but {', '.join(missing)} are null; accepted: search, or a start for each")
    job.uncertainty.check(job.mode)
    job.posterior.check(job.mode, job.per_angle_scaling)


def _validated(cls: type[Option], settings: dict[str, Any]) -> Option:
    """Strict validation by the rules of JSON, which are those of YAML: a list may become a tuple and text a path, 3.0 not an integer.

    Arrays and other objects, which only a notebook can pass, have no JSON form and are validated as they are.
    """
    try:
        text = json.dumps(settings, default=_scalar)
    except TypeError:
        return cls.model_validate(settings)
    return cls.model_validate_json(text)


def _scalar(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError


def _complaint(group: str, cls: type[Option], error: ValidationError) -> str:
    """One line for each wrong key."""
    lines: dict[str, str] = {}
    for item in error.errors(include_url=False):
        field = describe(cls, item["loc"])
        key = ".".join((group, *field.path))
        if item["type"] == "extra_forbidden":
            name = str(item["loc"][-1])
            accepted = ", ".join(field.siblings) or "none, this option has no settings"
            text = f"unknown key{nearest(name, field.siblings)}; accepted: {accepted}"
        elif item["type"] == "unknown_name":
            name, names = item["ctx"]["name"], item["ctx"]["names"]
            key, text = f"{key}.{name}", f"unknown key{nearest(name, names)}; accepted: {', '.join(names)}"
        elif item["type"] == "missing":
            text = f"missing key; accepted: {field.accepted}"
        elif item["type"] in ("value_error", "assertion_error"):
            text = item["msg"].partition(", ")[2]
        else:
            text = f"found {shown(item['input'])}; accepted: {field.accepted or item['msg']}"
        # A union reports once per member; the first line already lists all of them.
        if key not in lines:
            lines[key] = f"{key}: {text}"
    return "\n".join(lines.values())


def _merged(defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(defaults)
    for key, value in settings.items():
        deeper = isinstance(value, Mapping) and isinstance(defaults[key] if key in defaults else None, Mapping)
        merged[key] = _merged(defaults[key], value) if deeper else value
    return merged


def _missing(values: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Full keys whose value must be given (??? in the YAML)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _missing(value, f"{where}{key}.")
        elif isinstance(value, str) and value == "???":
            yield f"{where}{key}"
