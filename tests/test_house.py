"""The rules of docs/architecture.md that a machine can check, read from the source tree."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import homodyne
from homodyne.groups import GROUPS, conf_dir, options

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "homodyne"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL = [(group, name) for group in GROUPS for name in options(group)]
FILE_LINES, FUNCTION_LINES = 450, 80


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_at_the_top(path: Path) -> Iterator[str]:
    """Modules of this package that importing the file imports: not those for type checkers, not those inside functions."""
    package = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]
    known = {dotted(source) for source in SOURCES}
    for node in tree(path).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
            module = f"{base}.{node.module}" if node.module else base
            for alias in node.names:
                yield f"{module}.{alias.name}" if f"{module}.{alias.name}" in known else module


def run_alone(script: str, folder: Path) -> None:
    """Run a script in a process whose home, cache and working folder are the given one."""
    places = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder), "MPLCONFIGDIR": str(folder / "m")}
    env = {**os.environ, **places, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", script], cwd=folder, env=env, check=True)


GRAPH = {dotted(path): set(imported_at_the_top(path)) for path in SOURCES}


@pytest.mark.parametrize(("group", "name"), ALL)
def test_conf_package_and_docs_say_the_same_words(group: str, name: str) -> None:
    assert (PACKAGE / group / f"{name}.py").is_file()
    target = OmegaConf.load(conf_dir() / group / f"{name}.yaml")["_target_"]
    assert re.fullmatch(rf"homodyne\.{group}\.{name}\.[A-Z]\w*", target), target
    assert re.search(rf"\b{name}\b", (ROOT / "docs" / f"{group}.md").read_text(encoding="utf-8"))


def test_every_group_of_config_yaml_is_a_folder_of_options() -> None:
    defaults = [key for entry in OmegaConf.load(conf_dir() / "config.yaml").defaults if OmegaConf.is_dict(entry) for key in entry]
    assert [key for key in defaults if not key.startswith("override ")] == [*GROUPS, "experiment"]
    folders = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    assert folders == {*GROUPS, "experiment", "hydra"}


def test_imports_make_no_circle() -> None:
    def circle(module: str, above: tuple[str, ...]) -> tuple[str, ...] | None:
        if module in above:
            return (*above[above.index(module) :], module)
        if module in finished:
            return None
        for lower in sorted(GRAPH[module] if module in GRAPH else ()):
            found = circle(lower, (*above, module))
            if found:
                return found
        finished.add(module)
        return None

    finished: set[str] = set()
    assert [found for module in GRAPH if (found := circle(module, ()))] == []


@pytest.mark.parametrize(
    ("upper", "importers"),
    [
        ("cli", {"__main__"}),
        ("pipeline", set()),
        ("config", {"forecasting", "pipeline"}),
        ("optimize", {"pipeline"}),
        ("table", {"forecasting", "pipeline"}),
    ],
)
def test_upper_modules_are_imported_only_from_above(upper: str, importers: set[str]) -> None:
    found = {module for module, imports in GRAPH.items() if f"homodyne.{upper}" in imports}
    assert found <= {f"homodyne.{name}" for name in importers}


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_knows_other_groups_by_their_base_only(group: str) -> None:
    leaves = {f"homodyne.{other}.{name}" for other, name in ALL if other != group}
    found = {module: imports & leaves for module, imports in GRAPH.items() if module.startswith(f"homodyne.{group}.")}
    assert {module: imports for module, imports in found.items() if imports} == {}


@pytest.mark.parametrize("path", SOURCES, ids=dotted)
def test_a_module_says_what_it_is_and_hides_nothing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    module = tree(path)
    assert ast.get_docstring(module), "no module docstring"
    for node in ast.walk(module):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert not re.search(r"\b(everything|Exception|BaseException)\b", caught), f"line {node.lineno} catches {caught}"
        if isinstance(node, ast.ImportFrom):
            assert node.level or not (node.module or "").startswith("homodyne"), f"line {node.lineno}: the import is not relative"
    assert '.get("' not in text, "a missing key must not pass unseen"


def test_importing_the_package_imports_nothing_heavy_and_touches_nothing(tmp_path: Path) -> None:
    script = (
        "import os, sys\nbefore = dict(os.environ)\nimport homodyne\n"
        "heavy = [name for name in ('jax', 'matplotlib', 'scipy', 'numpy', 'h5py', 'pydantic', 'hydra') if name in sys.modules]\n"
        "assert not heavy, heavy\nassert dict(os.environ) == before\n"
    )
    run_alone(script, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_importing_every_module_uses_no_device(tmp_path: Path) -> None:
    names = [dotted(path) for path in SOURCES if path.name != "__main__.py"]
    script = (
        f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)\n"
        "import jax._src.xla_bridge as bridge\nassert not bridge._backends, bridge._backends\n"
    )
    run_alone(script, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name != "m"] == []


def test_public_names_are_what_the_package_gives() -> None:
    for name in homodyne.__all__:
        assert name in dir(homodyne)
        assert getattr(homodyne, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'two_times'"):
        _ = homodyne.two_times  # type: ignore[attr-defined]


def test_no_file_names_a_place_on_somebodys_machine_or_a_package_index() -> None:
    texts = [ROOT / name for name in ("README.md", "pyproject.toml", "constraints.txt", "Makefile", ".ci/run")]
    for folder in ("homodyne", "conf", "docs", "tests"):
        texts += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml", ".md")]
    texts.remove(Path(__file__))
    pattern = re.compile(r"/(home|root|work|Users)/\w|https?://[^\s]*/simple|index-url")
    found = {path.name: match.group() for path in texts if (match := pattern.search(path.read_text(encoding="utf-8")))}
    assert found == {}


def test_files_and_functions_can_be_read_at_one_sitting() -> None:
    """Limits for the reader, wide enough not to split what belongs together."""
    long = [f"{dotted(path)} {count}" for path in SOURCES if (count := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LINES]
    for path in SOURCES:
        functions = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)]
        lengths = [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in functions]
        long += [f"{dotted(path)}.{name} {count}" for name, count in lengths if count > FUNCTION_LINES]
    assert long == [], f"longer than {FILE_LINES} lines a file, {FUNCTION_LINES} a function"
