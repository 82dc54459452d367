"""Crashes, confusing messages and silent replacements of two existing programs, each with a test that they do not happen here.

The number in a docstring is that of the failure as it was measured; "table" is how those programs treat bad input.
test_existing_programs_numbers.py has the wrong numbers.
"""

import ast
import json
import os
import subprocess
import sys
import tomllib
import warnings
from collections import Counter
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from types import SimpleNamespace

import h5py
import hydra_plugins
import numpy as np
import pytest
from hydra.errors import HydraException
from packaging.requirements import Requirement

from homodyne.cli import explain
from homodyne.config import build, option
from homodyne.errors import ConfigError, HomodyneError
from homodyne.groups import GROUPS, options
from homodyne.save import load_run, save_run

from .conftest import Command
from .data import files
from .example_run import ExampleJob, example_dataset, example_fit, rows_of
from .factory import DT, Q
from .test_config import composed
from .test_existing_programs_numbers import SHORT, THREE, TRUTH, assert_truth, measure, run_file

ROOT = Path(__file__).parents[1]


def refusal(*overrides: str) -> tuple[int, str]:
    """Exit status and message of a configuration, or of the data that it names."""
    try:
        build(composed(*overrides)).data.load()
    except HydraException as error:
        return ConfigError.exit_status, explain(error)
    except HomodyneError as error:
        return error.exit_status, str(error)
    raise AssertionError(f"{overrides} was accepted")


def assert_refused(status: int, words: list[str], *overrides: str) -> None:
    found, message = refusal(*overrides)
    assert found == status, message
    for word in words:
        assert word in message
    assert len(message.splitlines()) == 1


def test_parameters_are_saved_and_loaded_by_name_so_that_no_vector_is_misread(tmp_path: Path) -> None:
    """Item 9: there the warm start of the posterior took contrast for D0. The order of names means nothing here."""
    dataset = example_dataset(angles=3, n=40)
    fit = example_fit(dataset)
    save_run(tmp_path, job=ExampleJob(), dataset=dataset, fit=fit, model_rows=rows_of(fit, dataset))  # type: ignore[arg-type]
    document = json.loads((tmp_path / "fit.json").read_text())
    document["parameters"] = dict(reversed(document["parameters"].items()))
    (tmp_path / "fit.json").write_text(json.dumps(document))
    loaded = load_run(tmp_path)
    assert {name: e.value for name, e in loaded.fit.parameters.items()} == {name: e.value for name, e in fit.parameters.items()}
    assert list(loaded.fit.parameters) != list(fit.parameters)
    errors = dict(zip(loaded.fit.names, np.sqrt(np.diag(loaded.fit.covariance)), strict=True))
    assert {n: errors[n] for n in errors if n[-1] != "]"} == pytest.approx({n: e.error for n, e in fit.parameters.items()}, nan_ok=True)
    assert [errors[f"contrast[{k}]"] for k in range(3)] == pytest.approx(fit.contrast_error)
    model = option("mode", "laminar_flow").bind(dataset.t, dataset.q, dataset.gap, dataset.phi)
    np.testing.assert_array_equal(model.coordinates_of(TRUTH), model.coordinates_of(dict(reversed(TRUTH.items()))))


def test_a_posterior_that_does_not_exist_is_refused_with_the_options_there_are() -> None:
    """Item 9, 14: nothing runs for minutes to fail at the end."""
    assert refusal("posterior=stan") == (2, "posterior=stan: unknown option; accepted: " + ", ".join(options("posterior")))


# ---- one run as a user starts it ----------------------------------------------------------------------------------------------------

TUTORIAL = """
import sys
from homodyne.cli import main
sys.argv = ["homodyne", "experiment=tutorial", "report=off", "hydra.run.dir=run"]
main()
print("imported:", [name for name in ("matplotlib", "pytest") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> SimpleNamespace:
    """The shipped experiment, run once in a process of its own: its folder, its output and its documents."""
    folder = tmp_path_factory.mktemp("tutorial")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run([sys.executable, "-c", TUTORIAL], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    return SimpleNamespace(
        folder=folder / "run",
        printed=printed[:-1],
        imported=printed[-1],
        errors=done.stderr,
        log=(folder / "run" / "run.log").read_text(encoding="utf-8").splitlines(),
        document=json.loads((folder / "run" / "fit.json").read_text(encoding="utf-8")),
        settings=build(composed("experiment=tutorial")).data,
    )


def test_null_start_values_run(tutorial: SimpleNamespace) -> None:
    """Item 13: there a null start ended in "object of type 'NoneType' has no len()"."""
    for mode in options("mode"):
        assert all(settings.start is None for settings in build(composed(f"mode={mode}")).mode.parameters.values())
    assert tutorial.document["outcome"]["success"]
    free = {name: estimate for name, estimate in tutorial.document["parameters"].items() if estimate["status"] == "free"}
    assert {"alpha", "beta", "phi0"} <= set(free)
    for name, estimate in free.items():
        assert abs(estimate["value"] - tutorial.document["truth"][name]) < 4 * estimate["error"]


def test_results_and_all_figures_of_several_angles_are_written(tmp_path: Path) -> None:
    """Item 14: there the result of more than one angle was never written and no diagnostic figure was drawn."""
    dataset = example_dataset(angles=5, n=40)
    fit = example_fit(dataset)
    save_run(tmp_path, job=ExampleJob(), dataset=dataset, fit=fit, model_rows=rows_of(fit, dataset))  # type: ignore[arg-type]
    document = json.loads((tmp_path / "fit.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert [entry["phi"] for entry in document["per_angle"]] == fit.phi.tolist()
    option("report", "figures", dpi=50, angles=1).write(tmp_path)
    drawn = sorted(path.stem.partition("_")[0] for path in (tmp_path / "figures").iterdir())
    assert drawn == ["convergence", "correlation", "cuts", "maps", "rates", "scaling"]


@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        ("mode.parameters.D_ofset.start=3", "mode.parameters.D_ofset", "did you mean D_offset?; accepted: D0, alpha, D_offset, "),
        ("+mode.parameters.D_ofset.start=3", "mode.parameters.D_ofset", "did you mean D_offset?; accepted: D0, alpha, D_offset, "),
        ("mode=statik", "mode=statik", "did you mean static?; accepted: laminar_flow, static"),
        ("mode=laminarflow", "mode=laminarflow", "did you mean laminar_flow?; accepted: laminar_flow, static"),
        ("data.q_tolerence=0.2", "data.q_tolerence", "did you mean q_tolerance?; accepted: path, q, "),
        ("data=aps", "data=aps", "did you mean aps_u?; accepted: aps_legacy, aps_u, "),
    ],
)
def test_a_typo_is_refused_and_the_nearest_name_is_given(override: str, key: str, words: str) -> None:
    """Item 15: there a typo was a KeyError of another name."""
    status, message = refusal(override)
    assert status == 2
    assert message.startswith(f"{key}: unknown ")
    assert words in message


def test_no_angle_is_left_out_unless_asked(tutorial: SimpleNamespace, tmp_path: Path) -> None:
    """Item 16: there the templates kept 2 of 5 angles."""
    assert [entry["phi"] for entry in tutorial.document["per_angle"]] == tutorial.settings.phi_list
    assert {build(composed(f"data={name}")).data.phi for name in options("data") if name != "simulated"} == {None}
    angles = np.array([-75.0, -30, 0, 45, 90])
    path = files.aps_u(tmp_path / "run12.hdf", [files.full_map(k) for k in range(5)], dynamic_v_list_dim1=angles)
    assert files.load(path).phi.tolist() == angles.tolist()
    asked = files.load(path, phi=[[-10, 10], [85, 95]])
    assert asked.phi.tolist() == [0, 90]
    assert any("2 of 5 angles are inside data.phi=" in note for note in asked.provenance.notes)


def test_report_off_makes_no_figures_and_imports_no_matplotlib(tutorial: SimpleNamespace) -> None:
    """Item 17."""
    assert tutorial.imported == "imported: []"
    assert not (tutorial.folder / "figures").exists()
    assert list(tutorial.folder.rglob("*.png")) == []


def test_fit_json_holds_contrast_and_offset_of_each_angle_with_errors_the_mode_and_the_timings(tutorial: SimpleNamespace) -> None:
    """Item 18: there only means, or param_0 and param_1, mode "unknown", time 0.0."""
    document, settings = tutorial.document, tutorial.settings
    assert [entry["phi"] for entry in document["per_angle"]] == settings.phi_list
    for entry in document["per_angle"]:
        assert 0 < abs(entry["contrast"] - settings.contrast) < 4 * entry["contrast_error"] < 0.1
        assert 0 < abs(entry["offset"] - settings.offset) < 4 * entry["offset_error"] < 0.01
    assert list(document["parameters"]) == list(TRUTH)
    assert (document["mode"], document["shear_kernel"]) == ("laminar_flow", "gap_average")
    assert {"cells", "fit", "errors"} <= document["timings"].keys()
    assert all(seconds > 0 for seconds in document["timings"].values())


def test_each_log_line_is_said_once_and_iterations_are_shown(tutorial: SimpleNamespace) -> None:
    """Item 19: there every line came twice, once with colour codes, and long fits were silent."""
    said = [line[32:] for line in tutorial.log]
    assert said == tutorial.printed
    assert [line for line, count in Counter(line for line in said if line.strip()).items() if count > 1] == []
    assert not any("\x1b" in line or " DEBUG " in line for line in tutorial.log)
    history = tutorial.document["history"]
    assert len(history) >= 2
    for step in history:
        [line] = [line for line in said if line.startswith(step["stage"]) and line[len(step["stage"]) :].split()[0] == str(step["number"])]
        assert float(line.partition("chi2 ")[2].split()[0]) == pytest.approx(step["chi2"], rel=1e-8)
    for stage in {step["stage"] for step in history}:
        chi2 = [step["chi2"] for step in history if step["stage"] == stage]
        assert chi2 == sorted(chi2, reverse=True)


def test_a_shipped_yaml_runs_without_complaint(tutorial: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    """Item 20: there the program warned about its own template."""
    assert tutorial.errors == ""
    assert {line[24:].split()[0] for line in tutorial.log} == {"INFO"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for group in GROUPS:
            for name in options(group):
                build(composed(f"{group}={name}"))
    assert caplog.records == []


DEVELOPMENT = "pytest mypy ruff black flake8 pylint pre-commit tox coverage sphinx jupyter notebook ipython ipykernel pyside6 pyqt5 pyqt6"


def test_runtime_requirements_hold_no_development_tool_and_each_is_used() -> None:
    """Item 21: there 260 packages and 2 GB, with Qt, Jupyter, Sphinx and pytest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {Requirement(text).name for text in project["dependencies"]}
    tools = {*DEVELOPMENT.split(), *(Requirement(text).name for text in project["optional-dependencies"]["test"])}
    installed, waiting = set(), set(declared)
    while waiting:
        name = waiting.pop()
        installed.add(name)
        needed = [Requirement(text) for text in requires(name) or []]
        waiting |= {n.name.lower() for n in needed if n.marker is None or n.marker.evaluate({"extra": ""})} - installed
    assert {name for name in installed if name.lower() in tools or name.lower().startswith(("sphinx", "pytest", "jupyter"))} == set()
    assert len(installed) < 50
    assert declared <= {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    # A plugin of Hydra is imported by Hydra, and what the plugin imports is imported through it; xarray imports its engine by name.
    modules = packages_distributions()
    sources = [path for folder in (ROOT / "homodyne", *map(Path, hydra_plugins.__path__)) for path in folder.rglob("*.py")]
    imported = {"hydra_plugins", "h5netcdf"} | {name.partition(".")[0] for path in sources for name in imports(path)}
    unused = declared - {distribution for module in imported & modules.keys() for distribution in modules[module]}
    assert unused == set()


def imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}


# ---- bad input: the table -----------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_one_line_and_status_3(command: Command) -> None:
    """Table: there a traceback and the same message several times."""
    done = command("data.path=run12.hdf", "report=off")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "run12.hdf: no such file (data.path)\n")


def test_a_key_typo_is_one_line_and_status_2_before_the_file_is_looked_for(command: Command) -> None:
    """Item 15, table: there the run went on with built-in values."""
    done = command("data.path=run12.hdf", "data.wavevecor_q=0.0054")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("data.wavevecor_q: unknown key; accepted: path, q, q_tolerance, ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("layout", ["auto", "aps_u"])
def test_a_file_that_is_not_hdf5_is_named(layout: str, tmp_path: Path) -> None:
    """Table: there no file name."""
    (tmp_path / "run12.hdf").write_text("no matrix in here\n")
    assert_refused(3, ["run12.hdf: is not ", "HDF5", "accepted: "], f"data={layout}", f"data.path={tmp_path / 'run12.hdf'}")


def test_a_wrong_hdf5_layout_names_what_is_there_and_what_was_looked_for(tmp_path: Path) -> None:
    """Table: there "unknown"."""
    path = files.hdf5(tmp_path / "other.hdf", {"/mine/c2": np.eye(3)}, {})
    assert_refused(3, ["other.hdf", "it holds /mine", "/xpcs/twotime/correlation_map", "/exchange/C2T_all"], f"data.path={path}")


def static_file(path: Path, phi: tuple[float, ...] = THREE, **changes: object) -> Path:
    """Simulated static maps in an APS-U file, then changed as ``files.aps_u`` does."""
    dataset = measure("static", phi, SHORT)
    maps = [np.pad(np.nan_to_num(dataset.map(k)), ((1, 0), (1, 0)), constant_values=1.0) for k in range(len(phi))]
    qmap = {"dynamic_v_list_dim0": np.array([Q]), "dynamic_v_list_dim1": np.array(phi)}
    return files.aps_u(path, [np.triu(dense_map) for dense_map in maps], **(qmap | changes))


def test_one_nan_pixel_is_refused_and_fitted_around_when_asked(tmp_path: Path) -> None:
    """Table: there fitted with an ERROR line, or no way to go on."""
    path = static_file(tmp_path / "run12.hdf")
    with h5py.File(path, "r+") as file:
        file["/xpcs/twotime/correlation_map/c2_00002"][5, 9] = np.nan
    assert_refused(3, ["c2_00002: 1 values are not finite, first at frames (6, 10)", "data.nonfinite=mask"], f"data.path={path}")
    fit = run_file(path, tmp_path / "run", "mode=static", "noise=iid", "data.nonfinite=mask")
    assert fit.pairs == len(THREE) * SHORT * (SHORT - 1) // 2 - 1
    assert_truth(files.load(path, nonfinite="mask"), fit, TRUTH)


def test_the_number_of_masked_nan_pixels_is_said(tmp_path: Path) -> None:
    """Table: nothing is masked in silence."""
    path = static_file(tmp_path / "run12.hdf")
    with h5py.File(path, "r+") as file:
        file["/xpcs/twotime/correlation_map/c2_00002"][5, 9:11] = np.nan
    notes = files.load(path, nonfinite="mask").provenance.notes
    assert [note for note in notes if "2" in note and "not finite" in note and "masked" in note] != []


def test_a_whole_nan_angle_is_refused_and_left_out_when_asked(tmp_path: Path) -> None:
    """Table: there the mean contrast was 0.106 instead of 0.157."""
    path = static_file(tmp_path / "run12.hdf", (*THREE, 60.0), c2_00002=np.full((SHORT + 1, SHORT + 1), np.nan))
    assert_refused(3, ["c2_00002: no pair of frames is usable", "data.phi", "data.nonfinite=mask"], f"data.path={path}")
    fit = run_file(path, tmp_path / "run", "mode=static", "noise=iid", "data.nonfinite=mask")
    assert fit.phi.tolist() == [-30, 30, 60]
    assert_truth(files.load(path, nonfinite="mask"), fit, TRUTH)
    assert any("left out" in note and "c2_00002" in note for note in load_run(tmp_path / "run").provenance.notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dynamic_v_list_dim1": np.array([0.0, 60.0])}, ["/xpcs/qmap/dynamic_num_pts is [1, 3]", "[1, 2]"]),
        ({"dynamic_index_mapping": np.arange(2)}, ["/xpcs/twotime/processed_bins holds 3", "accepted: 1 to 2"]),
        ({"c2_00002": None}, ["lists 3 bins", "holds 2 maps"]),
    ],
    ids=["too few angles", "too few bins in the map", "one matrix missing"],
)
def test_a_list_that_does_not_fit_the_maps_is_refused_with_both_numbers(
    changes: dict[str, object], words: list[str], tmp_path: Path
) -> None:
    """Table: angle list too short, one c2 matrix missing; there an angle was dropped."""
    assert_refused(3, ["run12.hdf", *words], f"data.path={static_file(tmp_path / 'run12.hdf', **changes)}")


def test_a_dphilist_that_is_too_short_is_refused_with_both_numbers(tmp_path: Path) -> None:
    """Table: there "index 2 is out of bounds for axis 0 with size 2"."""
    path = files.legacy(tmp_path / "old.hdf", {f"g2_{k:05d}": files.full_map(k) for k in (1, 2, 3)}, [Q] * 3, [0.0, 30.0])
    assert_refused(3, ["old.hdf", "3 maps", "/xpcs/dqlist 3", "/xpcs/dphilist 2"], f"data.path={path}")


def test_angles_given_beside_the_file_are_refused_unless_they_fit(tmp_path: Path) -> None:
    """Table: phi_angles_file; there never read, and overwritten."""
    path = static_file(tmp_path / "run12.hdf")
    assert_refused(2, ["data.phi_list is set", "run12.hdf holds its own angles"], f"data.path={path}", "data.phi_list=[0,45,90]")
    np.save(tmp_path / "bare.npy", np.stack([files.full_map(k) for k in (1, 2, 3)]))
    bare = (f"data.path={tmp_path / 'bare.npy'}", f"data.q={Q}", f"data.dt={DT}")
    assert_refused(3, ["bare.npy", "holds 3 maps, data.phi_list 2 angles"], *bare, "data.phi_list=[0,45]")


@pytest.mark.parametrize(
    ("status", "override", "words"),
    [
        (3, "data.q=0.02", ["data.q=0.02", "nearest q: 0.0054"]),
        (3, "data.frames=[1,500]", ["data.frames=[1, 500]", f"{SHORT + 1} frames", f"accepted: 1 to {SHORT + 1}"]),
        (2, "data.wavevecor_q=0.0054", ["data.wavevecor_q: unknown key", "accepted: path, q, "]),
        (2, "optimizer.max_iteratons=5", ["optimizer.max_iteratons: unknown key", "max_passes"]),
        (2, "optimizer.los=huber", ["optimizer.los: unknown key, did you mean loss?"]),
        (2, "optimizer.loss=soft_l2", ["optimizer.loss: found 'soft_l2'", "accepted: linear, soft_l1, huber, cauchy"]),
        (2, "per_angle_scaling=indivdual", ["per_angle_scaling=indivdual: unknown option, did you mean individual?"]),
    ],
)
def test_what_cannot_be_had_is_refused_and_not_replaced(status: int, override: str, words: list[str], tmp_path: Path) -> None:
    """Table: q not in the file, last frame beyond the data, and typos; there silently replaced, clipped or ignored."""
    assert_refused(status, words, f"data.path={static_file(tmp_path / 'run12.hdf')}", override)


def test_a_missing_dt_names_the_key(tmp_path: Path) -> None:
    """Table."""
    path = static_file(tmp_path / "run12.hdf", frame_time=None)
    assert_refused(2, ["data.dt is missing", "run12.hdf", "data.dt=<seconds>"], f"data.path={path}")


def test_a_start_value_outside_its_bounds_names_the_parameter() -> None:
    """Table: there clipped, and named by its index."""
    settings = ("mode.parameters.alpha.start=-3", "mode.parameters.alpha.bounds=[-2,0]")
    assert_refused(2, ["mode.parameters.alpha: start is -3.0, outside its bounds [-2.0, 0.0]"], *settings)
