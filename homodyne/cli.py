"""The command ``homodyne``: Hydra composes the configuration, ``pipeline.run`` does the work, and every run ends with a status.

0 a fit; 2 a setting does not fit (ConfigError, and everything that Hydra itself refuses); 3 the data do not (DataError); 4 no fit;
5 a fit that cannot be meant (both are saved first); 130 interrupted. A sweep ends with the largest status of its runs.
"""

import json
import logging
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from . import __version__
from .errors import ConfigError, FitError, HomodyneError, ModelError
from .groups import GROUPS, KEYS, conf_dir, nearest

log = logging.getLogger(__name__)

STATUS_FILE = "status.json"
INTERRUPTED = 130


def main() -> None:
    """Entry point of the console script and of ``python -m homodyne``."""
    if sys.argv[1:] == ["--version"]:
        print(f"homodyne {__version__}")
        return
    # Hydra then raises what is wrong, instead of printing it in its own words and leaving with status 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # In code, not in config.yaml: the exit status must be right for a user's own --config-name as well.
    ConfigStore.instance().store(
        "config", HydraConf(callbacks={"exit": {"_target_": f"{__name__}.Exit"}}), group="hydra", provider="homodyne"
    )
    # An absolute path: Hydra looks a relative one up as a package when the caller is an installed script.
    command = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)
    try:
        command()
    except (HydraException, OmegaConfBaseException) as error:
        sys.stderr.write(explain(error) + "\n")
        sys.exit(ConfigError.exit_status)
    except ValueError as error:
        # Hydra's words for contradictory flags; once a run has begun, a ValueError is a bug and keeps its traceback.
        if any(frame.name == "run_job" for frame in traceback.extract_tb(error.__traceback__)):
            raise
        sys.stderr.write(f"{error}\n")
        sys.exit(ConfigError.exit_status)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(INTERRUPTED)


def task(cfg: DictConfig) -> int:
    """One run, in this process or wherever a launcher put it; returns its exit status and leaves it in the run folder."""
    # Not at the top: these bring JAX, SciPy and pydantic, seconds that --help, --cfg and tab completion should not cost.
    from .config import build
    from .pipeline import run

    settings = HydraConfig.get()
    folder, alone = Path(settings.runtime.output_dir), settings.mode == RunMode.RUN
    status, message = 0, "good"
    try:
        job = build(cfg)
        if alone:
            _claim(folder, resume=job.resume)
        fit = run(job, folder)
        if fit is not None and fit.verdict.name != "good":
            message = fit.verdict.sentence
        if fit is not None and not fit.success:
            status = ModelError.exit_status if fit.outcome.success else FitError.exit_status
            message = fit.message
            log.error("The fit did not succeed: %s", message)
    except HomodyneError as error:
        status, message = error.exit_status, str(error)
        log.error("%s", message)
        log.debug("", exc_info=True)
        if alone and isinstance(error, ConfigError):
            _discard(folder)
            return status
    overrides = OmegaConf.to_container(settings.overrides.task)
    (folder / STATUS_FILE).write_text(json.dumps({"exit_status": status, "message": message, "overrides": overrides}) + "\n")
    return status


class Exit(Callback):
    """Ends the process with the status of the run, or the largest of a sweep.

    Hydra turns an exception of a callback into a warning, but lets SystemExit pass.
    """

    def __init__(self) -> None:
        self.before: dict[Path, int] = {}

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        # A run that raised has no return value; Hydra raises it after this.
        if kwargs["job_return"].status.name == "COMPLETED" and kwargs["job_return"].return_value:
            sys.exit(kwargs["job_return"].return_value)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.before = self._written(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        # Through files: the runs may have been in other processes or on other machines.
        new = [path for path, when in self._written(config).items() if path not in self.before or self.before[path] != when]
        records = {path.parent: json.loads(path.read_text()) for path in new}
        failed = {folder: record for folder, record in records.items() if record["exit_status"]}
        if failed:
            lines = [f"{len(failed)} of {len(records)} runs failed:"]
            for folder, record in failed.items():
                reason = record["message"].partition("\n")[0]
                lines.append(f"  {folder}  [{' '.join(record['overrides'])}]  status {record['exit_status']}: {reason}")
            sys.stderr.write("\n".join(lines) + "\n")
            sys.exit(max(record["exit_status"] for record in failed.values()))

    def _written(self, config: DictConfig) -> dict[Path, int]:
        found = sorted(Path(config.hydra.sweep.dir).rglob(STATUS_FILE), key=lambda path: (len(str(path)), str(path)))
        return {path: path.stat().st_mtime_ns for path in found}


class BelowError(logging.Filter):
    """Keeps errors off stdout: they go to stderr (conf/hydra/job_logging/plain.yaml)."""

    def filter(self, record: logging.LogRecord) -> bool:
        """True for records that belong on stdout."""
        return record.levelno < logging.ERROR


def explain(error: HydraException | OmegaConfBaseException) -> str:
    """What Hydra or OmegaConf refused, in the words of the other messages: where, what was found, what is accepted."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, name = error.missing_cfg_file.rpartition("/")
        accepted = ", ".join(sorted(error.options)) or "none, this group is empty"
        return f"{group}={name}: unknown option{nearest(name, error.options)}; accepted: {accepted}"
    if isinstance(error, OverrideParseException):
        key, equals, value = error.override.partition("=")
        reason = str(error.message).splitlines()
        why = next((line for line in reason if "at input" in line or "mismatched" in line or "missing" in line), reason[0])
        hint = f"; text with special characters needs quotes: '{key}=\"{value}\"'" if equals else "; accepted: key=value"
        return f"{error.override}: cannot be read ({why}){hint}"
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and cause.parent_node is not None:
        full_key = str(cause.full_key)
        if full_key.startswith("hydra/"):
            return f"{full_key}: unknown group; homodyne --hydra-help lists those of Hydra"
        names = [str(name) for name in cause.parent_node if name not in ("_target_", "hydra")]
        if "." not in full_key:
            names = [*GROUPS, *KEYS, "experiment"]
        name = full_key.rpartition(".")[2]
        return f"{full_key}: unknown key{nearest(name, names)}; accepted: {', '.join(names) or 'none, it has no keys'}"
    if isinstance(cause, OmegaConfBaseException):
        return f"{cause.full_key}: {str(cause).splitlines()[0]}"
    text = str(error)
    if text.startswith("Ambiguous value for argument"):
        found = text.split("'")[1]
        key, _, value = found.partition("=")
        ways = f"--multirun to sweep over them, {key}=[{value}] for a list, '{key}=\"{value}\"' for text"
        return f"{found}: found several values; accepted: {ways}"
    return " ".join(text.split("Config search path:")[0].split())


def _claim(folder: Path, *, resume: bool) -> None:
    """Refuse to write over another run, and to resume none. Exclusive creation, so that of two runs started in one second one fails."""
    path = folder / STATUS_FILE
    if resume:
        if not path.exists():
            raise ConfigError(
                f"resume=true: found no earlier run in {folder}; "
                "accepted: the folder of one, as in hydra.run.dir=outputs/2026-11-20/17-33-39 resume=true"
            )
        return
    try:
        with path.open("x") as file:
            json.dump({"exit_status": 1, "message": "not finished", "overrides": []}, file)
    except FileExistsError as error:
        raise ConfigError(
            f"hydra.run.dir={folder}: found another run in this folder; accepted: a new folder, or resume=true to continue that run"
        ) from error


def _discard(folder: Path) -> None:
    """Remove the folder of a run that never began, if it holds nothing but Hydra's own files."""
    if {path.name for path in folder.iterdir()} <= {".hydra", "run.log"}:
        shutil.rmtree(folder)
