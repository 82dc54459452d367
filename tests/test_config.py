"""Every option builds from its YAML, and every wrong setting ends in one short message: where, what was found, what is accepted."""

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from pydantic import BaseModel

import homodyne
from homodyne.cli import explain
from homodyne.config import BASES, Job, build
from homodyne.errors import ConfigError
from homodyne.groups import GROUPS, KEYS, conf_dir, options
from homodyne.settings import Option

ALL = [(group, name) for group in GROUPS for name in options(group)]
TOP = ", ".join((*GROUPS, *KEYS))


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        return compose(config_name="config", overrides=list(overrides))


def refusal(*overrides: str) -> str:
    """The message that the command line would print."""
    try:
        build(composed(*overrides))
    except HydraException as error:
        return explain(error)
    except ConfigError as error:
        return str(error)
    raise AssertionError(f"{overrides} was accepted")


@pytest.mark.parametrize(("group", "name"), ALL)
def test_every_option_builds_from_its_yaml(group: str, name: str) -> None:
    chosen = homodyne.option(group, name)
    assert isinstance(chosen, Option)
    assert type(chosen).__module__ == f"homodyne.{group}.{name}"
    assert any(base.__name__ == BASES[group] for base in type(chosen).__mro__)


@pytest.mark.parametrize(("group", "name"), ALL)
def test_no_setting_has_a_default_in_its_class(group: str, name: str) -> None:
    def optional(cls: type[BaseModel]) -> list[str]:
        return [key for key, field in cls.model_fields.items() if not field.is_required()]

    assert optional(type(homodyne.option(group, name))) == []


@pytest.mark.parametrize(("group", "name"), ALL)
def test_every_option_composes_into_a_job(group: str, name: str) -> None:
    job = build(composed(f"{group}={name}"))
    assert type(getattr(job, group)).__module__ == f"homodyne.{group}.{name}"


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_builds(name: str) -> None:
    assert isinstance(build(composed(f"experiment={name}")), Job)


def test_an_experiment_overrides_the_options_and_their_settings() -> None:
    job = build(composed("experiment=tutorial"))
    assert type(job.data).__name__ == "Simulated"
    assert job.data.phi_list == [-60, -30, 0, 30, 60]


def test_options_cannot_be_changed_after_they_are_built() -> None:
    with pytest.raises(ValueError, match="frozen"):
        build(composed()).hardware.threads = 3


def test_the_job_keeps_the_resolved_yaml() -> None:
    job = build(composed("seed=7", "mode.parameters.alpha.fixed=0"))
    assert "seed: 7" in job.text
    assert job.mode.parameters["alpha"].fixed == 0.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sed=3", f"sed: unknown key, did you mean seed?; accepted: {TOP}, experiment"),
        ("optimiser=nlsq", f"optimiser: unknown key, did you mean optimizer?; accepted: {TOP}, experiment"),
        ("optimiser.max_passes=3", f"optimiser: unknown key, did you mean optimizer?; accepted: {TOP}, experiment"),
        ("+mod.x=3", f"mod: unknown key, did you mean mode?; accepted: {TOP}"),
        ("mode=statik", "mode=statik: unknown option, did you mean static?; accepted: laminar_flow, static"),
        ("hardware.thread=3", "hardware.thread: unknown key, did you mean threads?; accepted: threads, compilation_cache, tiles_at_once"),
        ("+hardware.thread=3", "hardware.thread: unknown key, did you mean threads?; accepted: threads, compilation_cache, tiles_at_once"),
        ("+posterior.draws=3", "posterior.draws: unknown key; accepted: none, this option has no settings"),
        ("+mode.parameters.D0.strt=3", "mode.parameters.D0.strt: unknown key, did you mean start?; accepted: start, bounds, fixed, prior"),
        ("hardware.threads=two", "hardware.threads: found 'two' (text); accepted: integer >= 1 or null"),
        ("hardware.threads=2.5", "hardware.threads: found 2.5; accepted: integer >= 1 or null"),
        ("hardware.threads='2'", "hardware.threads: found '2' (text); accepted: integer >= 1 or null"),
        ("hardware.threads=0", "hardware.threads: found 0; accepted: integer >= 1 or null"),
        ("hardware.compilation_cache=1", "hardware.compilation_cache: found 1; accepted: true or false"),
        ("hardware.tiles_at_once=null", "hardware.tiles_at_once: found null; accepted: integer >= 1"),
        ("mode.shear_kernel=gap", "mode.shear_kernel: found 'gap' (text); accepted: gap_average, homodyne_v2"),
        ("mode.parameters.D0=3", "mode.parameters.D0: found 3; accepted: the keys start, bounds, fixed, prior"),
        ("mode.parameters.D0.start=x", "mode.parameters.D0.start: found 'x' (text); accepted: number or null"),
        ("mode.parameters.D0.start=.inf", "mode.parameters.D0.start: found '.inf' (text); accepted: number or null"),
        ("mode.parameters.D0.start=inf", "mode.parameters.D0.start: found inf; accepted: number or null"),
        ("mode.parameters.D0.bounds=[1]", "mode.parameters.D0.bounds: found [1]; accepted: list [number, number] or null"),
        ("mode.parameters.D0.bounds=[3,1]", "mode.parameters.D0: bounds are [3.0, 1.0]; the lower one must be smaller"),
        ("~mode", "mode: missing; accepted: mode=laminar_flow or static"),
        ("~hardware.tiles_at_once", "hardware.tiles_at_once: missing key; accepted: integer >= 1"),
        ("hardware.threads=???", "hardware.threads: missing; give it as hardware.threads=<value>"),
        ("seed=-1", "seed: found -1; accepted: integer >= 0"),
        ("seed=true", "seed: found true; accepted: integer >= 0"),
        ("inspect=yes", "inspect: found 'yes' (text); accepted: true or false"),
        ("resume=1", "resume: found 1; accepted: true or false"),
        ("data.path=${run}", "data.path: Interpolation key 'run' not found; accepted: a value, or ${key} with the full name of a key"),
        ("mode=static,laminar_flow", "mode=static,laminar_flow: found several values; accepted: --multirun to sweep over them, "
         "mode=[static,laminar_flow] for a list, 'mode=\"static,laminar_flow\"' for text"),
        ("data.path=/x/a(1).h5", "data.path=/x/a(1).h5: cannot be read (mismatched input '(' expecting <EOF>); "
         "text with special characters needs quotes: 'data.path=\"/x/a(1).h5\"'"),
        ("hydra.run.dri=x", "hydra.run.dri: unknown key, did you mean dir?; accepted: dir"),
        ("mode._target_=os.getcwd", "mode._target_: found os.getcwd; accepted: a subclass of homodyne.mode.base.AbstractMode"),
        ("mode._target_=homodyne.cmc_backend.serial.Serial",
         "mode._target_: found homodyne.cmc_backend.serial.Serial; accepted: a subclass of homodyne.mode.base.AbstractMode"),
        ("mode._target_=homodyne.mode.no.No",
         "mode._target_: cannot import homodyne.mode.no.No (No module named 'homodyne.mode.no'); accepted: package.module.Class"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_with_key_finding_and_what_is_accepted(override: str, message: str) -> None:
    assert refusal(override) == message


def test_every_wrong_key_is_named_once() -> None:
    assert refusal("hardware.threads=0", "+hardware.gpu=1").splitlines() == [
        "hardware.threads: found 0; accepted: integer >= 1 or null",
        "hardware.gpu: unknown key; accepted: threads, compilation_cache, tiles_at_once",
    ]


def test_start_from_the_configuration_needs_start_values() -> None:
    message = refusal("mode=static", "optimizer.start=config", "mode.parameters.D0.start=1e4", "mode.parameters.alpha.fixed=0")
    assert message == "optimizer.start: found config, but mode.parameters.D_offset.start are null; accepted: search, or a start for each"


@pytest.mark.parametrize(
    ("group", "name", "settings", "message"),
    [
        ("mod", "static", {}, "mod: unknown group, did you mean mode?; accepted: " + ", ".join(GROUPS)),
        ("mode", "statik", {}, "mode=statik: unknown option, did you mean static?; accepted: laminar_flow, static"),
        ("hardware", "cpu", {"threads": 0}, "hardware.threads: found 0; accepted: integer >= 1 or null"),
        ("hardware", "cpu", {"thread": 1}, "hardware.thread: unknown key, did you mean threads?; accepted: "
         "threads, compilation_cache, tiles_at_once"),
        ("mode", "static", {"parameters": {"D0": {"fixd": 1.0}}}, "mode.parameters.D0.fixd: unknown key, did you mean fixed?; accepted: "
         "start, bounds, fixed, prior"),
    ],
)  # fmt: skip
def test_option_refuses_as_the_command_line_does(group: str, name: str, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        homodyne.option(group, name, **settings)
    assert str(caught.value) == message


def test_option_replaces_only_the_keys_that_are_given() -> None:
    mode = homodyne.option("mode", "static", parameters={"alpha": {"fixed": 0.0}})
    assert mode.parameters["alpha"].fixed == 0.0
    assert mode.parameters["D0"].fixed is None


def test_option_accepts_tuples_paths_and_numpy_numbers() -> None:
    data = homodyne.option("data", "auto", path=Path("run12.hdf"), q=np.float32(0.5), bad_frames=(np.int64(3), 4))
    assert (data.path, data.q, data.bad_frames) == ("run12.hdf", 0.5, [3, 4])
