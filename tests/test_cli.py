"""The command as a user runs it: what it prints, what it leaves, and the status it ends with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .conftest import Command

HEAVY = ("jax", "scipy", "matplotlib", "h5py", "pydantic", "numpy")

TINY = ("data=simulated", "data.n_frames=30", "data.phi_list=[0,45,90]", "report=off")

PLUGIN = """
from homodyne.data.base import AbstractData
from homodyne.errors import DataError


class Plugin(AbstractData):
    what: str

    def load(self):
        return self.inspect()

    def inspect(self):
        if self.what == "interrupt":
            raise KeyboardInterrupt
        if self.what == "bug":
            raise ValueError("a bug")
        raise DataError("run12.hdf: found nothing")
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A data option in a user's own package and folder."""
    (tmp_path / "plugin.py").write_text(PLUGIN)
    (tmp_path / "own" / "data").mkdir(parents=True)
    (tmp_path / "own" / "data" / "plugin.yaml").write_text("_target_: plugin.Plugin\nwhat: nothing\n")
    return tmp_path / "own"


def run_folders(root: Path) -> list[Path]:
    """Folders in which a run left something."""
    return sorted(path.parent for path in (root / "outputs").rglob("status.json"))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--cfg", "job"], ["--info", "defaults"], ["--cfg", "hydra"]])
def test_asking_costs_no_heavy_import_and_leaves_nothing(arguments: list[str], tmp_path: Path) -> None:
    script = (
        "import sys\nfrom homodyne.cli import main\n"
        f"sys.argv = ['homodyne', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('imported:', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported: []"
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_group_and_option(command: Command) -> None:
    text = command("--help").stdout
    assert "mode: laminar_flow, static" in text
    assert "hardware: cpu, gpu" in text
    assert len(text.splitlines()) < 40


def test_tab_completes_groups_options_and_keys(command: Command) -> None:
    def complete(line: str) -> list[str]:
        return command("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line))).stdout.split()

    assert complete("homodyne mode=") == ["mode=laminar_flow", "mode=static"]
    assert complete("homodyne hardware.thr") == ["hardware.threads="]


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["optimiser=nlsq"], "optimiser: unknown key, did you mean optimizer?; accepted: mode, "),
        (["optimizer=nlqs"], "optimizer=nlqs: unknown option, did you mean nlsq?; accepted: nlsq, "),
        (["optimizer.max_pases=3"], "optimizer.max_pases: unknown key, did you mean max_passes?; accepted: solver, "),
        (["+optimizer.max_pases=3"], "optimizer.max_pases: unknown key, did you mean max_passes?; accepted: solver, "),
        (["optimizer.max_passes=many"], "optimizer.max_passes: found 'many' (text); accepted: integer >= 1"),
        (["mode=[static"], "mode=[static: cannot be read "),
        (["mode=static,laminar_flow"], "mode=static,laminar_flow: found several values; accepted: --multirun "),
        (["resume=true"], "resume=true: found no earlier run in "),
        (["--config-name=mine"], "Cannot find primary config 'mine'"),
        (["--cfg", "job", "--multirun"], "Only one of --run, --multirun, "),
        (["--multirun", "optimizer.max_pases=1,2"], "optimizer.max_pases: unknown key, did you mean max_passes?"),
        (["optimizer=5"], "Config group override must be a string"),
    ],
)
def test_a_wrong_command_ends_with_status_2_one_line_and_no_folder(arguments: list[str], start: str, command: Command) -> None:
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(start)
    assert len(done.stderr.splitlines()) == 1


def test_a_refused_run_leaves_no_folder(command: Command, tmp_path: Path) -> None:
    assert command("hydra.run.dir=here", "hardware.threads=0").returncode == 2
    assert not (tmp_path / "here").exists()


def test_a_good_run_prints_the_result_beside_the_truth_and_ends_with_0(command: Command, tmp_path: Path) -> None:
    done = command(*TINY, "hydra.run.dir=here")
    assert (done.returncode, done.stderr) == (0, "")
    assert "truth" in done.stdout
    assert done.stdout.splitlines()[-1] == "Run folder: here"
    assert json.loads((tmp_path / "here" / "status.json").read_text())["exit_status"] == 0
    printed = done.stdout.splitlines()
    logged = [line[32:] for line in (tmp_path / "here" / "run.log").read_text().splitlines()]
    assert logged == printed
    assert "\x1b" not in done.stdout


def test_a_fit_that_does_not_converge_is_saved_and_ends_with_4(command: Command, tmp_path: Path) -> None:
    done = command(
        *TINY, "optimizer.max_passes=1", "optimizer.xtol=1e-15", "optimizer.ftol=1e-15", "optimizer.gtol=1e-300", "hydra.run.dir=here"
    )
    assert done.returncode == 4
    assert done.stderr.startswith("The fit did not succeed: ")
    assert (tmp_path / "here" / "fit.json").exists()


def test_a_run_is_not_written_over(command: Command, tmp_path: Path) -> None:
    first = ("inspect=true", "data=simulated", "hydra.run.dir=here")
    assert command(*first).returncode == 0
    again = command(*first)
    assert again.returncode == 2
    assert "found another run in this folder; accepted: a new folder, or resume=true" in again.stderr
    assert (tmp_path / "here" / "status.json").exists()


def test_a_missing_file_ends_with_status_3_and_is_recorded(command: Command, tmp_path: Path) -> None:
    done = command("data.path=run12.hdf", "inspect=true")
    assert done.returncode == 3
    assert done.stderr == "run12.hdf: no such file (data.path)\n"
    [folder] = run_folders(tmp_path)
    assert json.loads((folder / "status.json").read_text())["exit_status"] == 3
    assert "ERROR" in (folder / "run.log").read_text()


def test_a_plugin_is_an_option_like_any_other(command: Command, plugin: Path) -> None:
    done = command("--config-dir", str(plugin), "data=plugin", "inspect=true")
    assert (done.returncode, done.stderr) == (3, "run12.hdf: found nothing\n")
    typo = command("--config-dir", str(plugin), "data=plugin", "+data.wat=1")
    assert (typo.returncode, typo.stderr) == (2, "data.wat: unknown key, did you mean what?; accepted: what\n")


def test_verbose_shows_the_traceback_behind_a_message(command: Command, plugin: Path) -> None:
    done = command("--config-dir", str(plugin), "data=plugin", "inspect=true", "hydra.verbose=homodyne")
    assert done.returncode == 3
    assert "Traceback" in done.stdout


def test_an_interrupted_run_ends_with_130_and_no_traceback(command: Command, plugin: Path) -> None:
    done = command("--config-dir", str(plugin), "data=plugin", "data.what=interrupt", "inspect=true")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_bug_keeps_its_traceback(command: Command, plugin: Path) -> None:
    done = command("--config-dir", str(plugin), "data=plugin", "data.what=bug", "inspect=true")
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("ValueError: a bug")


@pytest.mark.parametrize("launcher", ["basic", "submitit_local"])
def test_a_sweep_finishes_lists_what_failed_and_ends_with_the_largest_status(launcher: str, command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", np.ones((20, 20)))
    sweep = ("--multirun", f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep", "inspect=true")
    done = command(*sweep, "data.path=good.npy,no.npy", "hardware.threads=1,0")
    assert done.returncode == 3
    records = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "sweep").rglob("status.json")}
    assert {name: record["exit_status"] for name, record in records.items()} == {"0": 0, "1": 2, "2": 3, "3": 2}
    listed = done.stderr.splitlines()[-4:]
    assert listed[0] == "3 of 4 runs failed:"
    assert listed[2] == "  sweep/2  [inspect=True data.path=no.npy hardware.threads=1]  status 3: no.npy: no such file (data.path)"
