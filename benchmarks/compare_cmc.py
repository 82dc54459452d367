"""The posterior of this program beside the Consensus Monte Carlo of homodyne 2.23.3: the same file, each run as a command.

    python benchmarks/compare_cmc.py --case Ls --folder outputs/cmc
    python benchmarks/compare_cmc.py --case M --folder outputs/cmc --time-limit 1200

File, truth, optimum, true standard errors, installation and start values are those of benchmarks/compare_peers.py (M: 5 angles x 300
frames; Ls: 3 x 100; XSs: 3 x 60). Kernel ``homodyne_v2``, both programs without frame 0.

homodyne runs as its manual recommends: its own laminar template with our file, bounds and start values, first ``--method nlsq``, then
``--method cmc`` with that result as the warm start (``--warmstart inline`` lets the second command fit again by itself, ``none`` goes
without). Its number of shards, warm-up, draws and chains are those of the template unless --shards, --warmup, --draws or --chains
say otherwise. ``--unstratified`` sets optimization.stratification.enabled to false, without which its NLSQ returns the start values
between 100 000 and 1 000 000 points (docs/benchmarks.md). Its CMC counts every pixel twice and has one contrast and one offset for
all angles.

This program runs posterior=nuts with noise=iid and individual scaling, no start values, with an empty compilation cache and again.
Rows of earlier calls with the same folder and case stay in the tables.

Wall and CPU are of whole commands. CPU of workers that were alive when a command was killed is not in it. What homodyne says about shards,
divergences and convergence is copied from its log and its diagnostics.json. Linux only; nothing else should be running.
"""

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from compare_peers import (
    CASES,
    KERNEL,
    PEERS,
    Case,
    Usage,
    environment,
    homodyne_result,
    install,
    make_file,
    measure,
    number,
    peer_settings,
    reference,
)
from omegaconf import OmegaConf

SHORT = (Case("XSs", "laminar_flow", 3, 60), Case("Ls", "laminar_flow", 3, 100))
ALL = {case.name: case for case in SHORT} | {name: case for name, case in CASES.items() if case.mode == "laminar_flow"}
TOLD = re.compile(r"shard|diverg|r_hat|R-hat|estimat|warm.?start|converge|WARNING|ERROR|CRITICAL|Traceback|Error:", re.IGNORECASE)
LINE = re.compile(r"^\d{4}-\S+ \S+ \| (\w+)\s*\| [\w.]+ \| (.*)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
MOST_LINES = 60

Estimates = dict[str, tuple[float, float]]
"""Mean and standard deviation of each physical parameter."""


@dataclass(frozen=True)
class Row:
    """One command: what it used, what it found and how it ended."""

    name: str
    usage: Usage
    found: Estimates
    word: str


def settings_file(case: Case, path: Path, folder: Path, executable: Path, options: argparse.Namespace) -> Path:
    """The laminar template of homodyne itself, with what it cannot know and what the options change."""
    template = next(executable.resolve().parents[1].glob("lib/python*/site-packages/homodyne/config/templates/homodyne_laminar_flow.yaml"))
    changed: dict[str, Any] = {"optimization": {}}
    sampling = {"num_warmup": options.warmup, "num_samples": options.draws, "num_chains": options.chains}
    given = {name: value for name, value in sampling.items() if value is not None}
    # The command line copies optimization.mcmc over optimization.cmc.per_shard_mcmc.
    changed["optimization"]["mcmc"] = given
    changed["optimization"]["cmc"] = {"per_shard_mcmc": given}
    if options.unstratified:
        changed["optimization"]["stratification"] = {"enabled": False}
    merged = OmegaConf.merge(OmegaConf.load(template), peer_settings(case, path, folder, "auto"), changed)
    OmegaConf.save(merged, folder / "settings.yaml")
    return folder / "settings.yaml"


def run_peer(case: Case, path: Path, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Its fit, then its consensus."""
    executable = install("homodyne", options.folder)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "out").mkdir(parents=True)
    settings = settings_file(case, path, folder, executable, options)
    base = [str(executable), "--config", str(settings), "--output-dir", str(folder / "out")]
    version = f"homodyne {PEERS['homodyne']}"
    if options.warmstart == "file":
        used = measure([*base, "--method", "nlsq"], folder, environment(), options.time_limit, options.max_gb)
        shutil.move(folder / "log.txt", folder / "log_nlsq.txt")
        yield row(f"{version}, nlsq", used, folder / "out" / "nlsq" / "parameters.json", lambda: homodyne_result(case, folder))
    extra = {"file": ["--nlsq-result", str(folder / "out")], "inline": [], "none": ["--no-nlsq-warmstart"]}[options.warmstart]
    shards = [] if options.shards is None else ["--cmc-num-shards", str(options.shards)]
    used = measure([*base, "--method", "cmc", *extra, *shards], folder, environment(), options.time_limit, options.max_gb)
    yield row(f"{version}, cmc", used, folder / "out" / "cmc" / "parameters.json", lambda: peer_posterior(case, folder))


def row(name: str, used: Usage, path: Path, read: Any) -> Row:
    """A command with its result, if it left one."""
    if not path.exists():
        return Row(name, used, {}, f"no {path.parent.name}/{path.name}")
    try:
        return Row(name, used, *read())
    except (OSError, KeyError, TypeError, ValueError) as error:
        return Row(name, used, {}, f"unreadable result ({type(error).__name__}: {error})")


def peer_posterior(case: Case, folder: Path) -> tuple[Estimates, str]:
    facts = json.loads((folder / "out" / "cmc" / "parameters.json").read_text())
    entries = facts["parameters"]
    found = {name: (number(entries[name]["mean"]), number(entries[name]["std"])) for name in case.names}
    return found, f"sampling {facts['sampling_summary']}, convergence {facts['convergence']}"


def run_ours(case: Case, path: Path, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Chains on all pixels, with an empty compilation cache and again."""
    cache = options.folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    env = environment(XDG_CACHE_HOME=str(cache), PYTHONPATH=str(Path(__file__).resolve().parents[1]))
    for label in ("cold", "warm"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [
            *(sys.executable, "-m", "homodyne", "mode=laminar_flow", f"mode.shear_kernel={KERNEL}", "per_angle_scaling=individual"),
            *("noise=iid", "posterior=nuts", "report=off", f'data.path="{path}"', f'hydra.run.dir="{folder / "out"}"'),
        ]
        used = measure(command, folder, env, options.time_limit, options.max_gb)
        yield row(f"this, nuts, {label}", used, folder / "out" / "fit.json", lambda: our_posterior(case, folder))


def our_posterior(case: Case, folder: Path) -> tuple[Estimates, str]:
    facts = json.loads((folder / "out" / "fit.json").read_text())["posterior"]
    summary = facts["widths"]["model"]["summary"]
    numbers = ", ".join(f"{name} {facts['numbers'][name]:.4g}" for name in ("rhat", "ess_bulk", "divergences", "evaluations"))
    return {name: (summary[name]["mean"], summary[name]["sd"]) for name in case.names}, f"{facts['exactness']}; {numbers}"


def estimates_table(case: Case, rows: list[Row], known: dict[str, Estimates]) -> str:
    """Mean and standard deviation of every parameter in every column."""
    columns = known | {found.name: found.found for found in rows if found.found}
    lines = [f"| parameter | truth | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for name, truth in zip(case.names, case.truth, strict=True):
        cells = [f"{column[name][0]:.5g} +- {column[name][1]:.2g}" for column in columns.values()]
        lines.append(f"| {name} | {truth:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def distance_table(case: Case, rows: list[Row], known: dict[str, Estimates]) -> str:
    """How far from the posterior of this program, in its standard deviations, and how wide beside it."""
    ours = next((found.found for found in rows if found.name.startswith("this") and found.found), {})
    others = known | {found.name: found.found for found in rows if found.found and not found.name.startswith("this")}
    if not ours:
        return ""
    lines = ["| beside this, nuts | largest shift of a mean / sd | parameter | sd ratio, smallest | largest |", "|---" * 5 + "|"]
    for label, column in others.items():
        shift = np.array([(column[name][0] - ours[name][0]) / ours[name][1] for name in case.names])
        ratio = np.array([column[name][1] / ours[name][1] for name in case.names])
        worst = int(np.argmax(np.abs(shift)))
        lines.append(f"| {label} | {shift[worst]:+.2f} | {case.names[worst]} | {ratio.min():.3g} | {ratio.max():.3g} |")
    return "\n".join(lines)


def usage_table(rows: list[Row]) -> str:
    lines = ["| command | wall s | CPU s | peak GiB | ended | says |", "|---" * 6 + "|"]
    for found in rows:
        used = found.usage
        cells = [found.name, f"{used.wall:.1f}", f"{used.cpu:.1f}", f"{used.peak:.2f}", used.ending or "by itself", found.word]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def told(log: Path) -> list[str]:
    """Lines of a log about shards, divergences and trouble, each once, and the last state of its progress bar."""
    lines = [COLOUR.sub("", line).strip() for line in re.split(r"[\r\n]+", log.read_text(errors="replace"))]
    bars = [line.rpartition("CMC shards:")[2] for line in lines if "CMC shards:" in line]
    # Every record is written twice, the second time without its time.
    records = [match.groups() for line in lines if (match := LINE.match(line))]
    kept = [f"{level}: {text}" for level, text in records if level != "DEBUG" and TOLD.search(f"{level} {text}")]
    return [*dict.fromkeys(kept), *(f"CMC shards: {bar}" for bar in bars[-1:])]


def report(case: Case, rows: list[Row], known: dict[str, Estimates], options: argparse.Namespace) -> str:
    parts = [usage_table(rows), estimates_table(case, rows, known), distance_table(case, rows, known)]
    log = options.folder / f"{case.name}_homodyne" / "log.txt"
    if log.exists():
        lines = told(log)
        parts.append("\n".join(["What homodyne said:", "", *(f"    {line[:240]}" for line in lines[-MOST_LINES:])]))
    diagnostics = options.folder / f"{case.name}_homodyne" / "out" / "cmc" / "diagnostics.json"
    if diagnostics.exists():
        parts.append("diagnostics.json of homodyne:\n\n    " + json.dumps(json.loads(diagnostics.read_text())["convergence"])[:3000])
    parts.append(f"load average {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} cores")
    return "\n\n".join(part for part in parts if part) + "\n"


def earlier(path: Path) -> list[Row]:
    """Rows of earlier calls with this folder and case."""
    rows = json.loads(path.read_text()) if path.exists() else []
    return [
        Row(row["name"], Usage(**row["usage"]), {name: (value[0], value[1]) for name, value in row["found"].items()}, row["word"])
        for row in rows
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(ALL), default="Ls")
    parser.add_argument("--programs", nargs="+", choices=["ours", "homodyne"], default=["ours", "homodyne"])
    parser.add_argument("--warmstart", choices=["file", "inline", "none"], default="file")
    parser.add_argument("--unstratified", action="store_true")
    parser.add_argument("--shards", type=int, help="of homodyne; its own choice by default")
    parser.add_argument("--chains", type=int, help="of homodyne; its template by default")
    parser.add_argument("--warmup", type=int, help="of homodyne; its template by default")
    parser.add_argument("--draws", type=int, help="of homodyne; its template by default")
    parser.add_argument("--folder", type=Path, default=Path("outputs/cmc"))
    parser.add_argument("--time-limit", type=float, default=1200.0, help="seconds for each command")
    parser.add_argument("--max-gb", type=float, default=12.0, help="resident memory of a command, GiB")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    case = ALL[options.case]
    path = make_file(case, options.folder)
    best = reference(case, path, 1)
    known = {"optimum, true errors": dict(zip(case.names, zip(best.optimum.tolist(), best.errors.tolist(), strict=True), strict=True))}
    rows = earlier(options.folder / f"{case.name}.json")
    runs = {"ours": run_ours, "homodyne": run_peer}
    for program in options.programs:
        for found in runs[program](case, path, options.folder / f"{case.name}_{program}", options):
            rows = [*(row for row in rows if row.name != found.name), found]
            print(usage_table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    text = report(case, rows, known, options)
    (options.folder / f"{case.name}.md").write_text(text)
    (options.folder / f"{case.name}.json").write_text(json.dumps([asdict(found) for found in rows], indent=1))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
