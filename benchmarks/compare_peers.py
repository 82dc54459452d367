"""This program beside homodyne 2.23.3 and xpcsjax 0.1.8: the same files, the same model, each run as a command.

    python benchmarks/compare_peers.py --sets S Ms M Lm --folder outputs/peers

Both packages are installed by pip, each into a virtual environment of its own in the folder (2 GB each; homodyne 2.x has our package
name, so it must never share an environment with ours). Every row is printed when it is there and kept in results.md and results.json.

Model. All three fit offset + contrast exp(-q^2 Int J) sinc(x)^4 (our kernel ``homodyne_v2``) with Int by the trapezoidal rule on the
frame times t_k = k dt, k = 0 ... N - 1. They differ in frame 0 only: homodyne 2.x and this program do not fit it, xpcsjax does, with
the power laws taken at dt/2 there. A written file therefore holds in row 0 not the filler of ``simulation.write`` but the map of that
rule (``physics.two_time`` with a frame at t = 0), with noise. Rows 1 ... N - 1 do not depend on it, so each program fits a file
that obeys its own equation exactly.

Reference. For each choice of frame 0, Gauss-Newton from the truth on all pairs i < j with a contrast and an offset for every angle, by
numerical derivatives of ``physics.two_time``: no code of any fit that is compared beyond that. The *true standard errors* are those of
this problem at the truth with the known sigma. Columns *from truth* and *from optimum*: largest distance of a physical parameter
from the truth and from the optimum of the frames that the program fits (0 is right), in true standard errors. *error ratio*: median
of reported error / true standard error (1 is right). Rows in parentheses are the optima: how far the noise of this file moves the best
possible fit from the truth; only a program that is farther away than its optimum is wrong.

Task. The peers start from the values near the truth in NEAR, with frames, angles and bounds that do not hide the answer, plots off
where that is possible, and scaling as --peer-scaling says. This program gets the file and no start, with an empty compilation cache
("cold") and again ("warm"). Wall and CPU (user + system, children included) are of the whole command; memory is the resident memory of
all its processes, polled. Linux only. Nothing else should be running: the column *load* is the load average when the command began.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from omegaconf import OmegaConf

from homodyne.data import aps_u
from homodyne.physics import PARAMETERS, two_time
from homodyne.simulation import simulate, write

Q, GAP, DT, SIGMA, KERNEL = 0.0054, 2.0e6, 0.1, 0.02, "homodyne_v2"
BRIGHT = 4.0  # added to the diagonal
TRUTH = {
    "D0": 1.9e4, "alpha": -0.5, "D_offset": 200.0, "gamma_dot_t0": 1.6e-3, "beta": -0.2, "gamma_dot_t_offset": 1.0e-4, "phi0": 2.0,
}  # fmt: skip
NEAR = {
    "D0": 2.47e4, "alpha": -0.4, "D_offset": 300.0, "gamma_dot_t0": 2.08e-3, "beta": -0.1, "gamma_dot_t_offset": 2.0e-4, "phi0": 0.0,
}  # fmt: skip
BOUNDS = {  # those of the peers' own templates
    "contrast": (0.0, 1.0), "offset": (0.5, 1.5), "D0": (100.0, 1.0e5), "alpha": (-2.0, 2.0), "D_offset": (-1.0e5, 1.0e5),
    "gamma_dot_t0": (1.0e-6, 0.5), "beta": (-2.0, 2.0), "gamma_dot_t_offset": (-0.1, 0.1), "phi0": (-10.0, 10.0),
}  # fmt: skip
PEERS = {"homodyne": "2.23.3", "xpcsjax": "0.1.8"}
REFERENCE = "reference"  # status of a row that is not a program
COLUMNS = ("set", "program", "wall s", "CPU s", "peak GiB", "from truth", "from optimum", "error ratio", "status", "load")

Result = tuple[dict[str, tuple[float, float]], str]
"""Value and error of each physical parameter, and the program's own word on how the fit ended."""


@dataclass(frozen=True)
class Case:
    """One simulated measurement: its name, mode, number of angles and number of frames in the file."""

    name: str
    mode: str
    angles: int
    frames: int

    @property
    def names(self) -> tuple[str, ...]:
        return PARAMETERS[self.mode]

    @property
    def truth(self) -> np.ndarray:
        return np.array([TRUTH[name] for name in self.names])

    @property
    def phi(self) -> np.ndarray:
        return -90 + 180 * (np.arange(self.angles) + 0.5) / self.angles

    @property
    def scaling(self) -> tuple[np.ndarray, np.ndarray]:
        """Contrast (within 10 %) and offset (within 0.003) of each angle."""
        spread = np.random.default_rng(11).uniform(-1, 1, (2, self.angles))
        return 0.15 * (1 + 0.1 * spread[0]), 1 + 0.003 * spread[1]

    def h(self, values: np.ndarray, angle: int, t: np.ndarray) -> np.ndarray:
        """(n, n) map of one angle with contrast 1 and offset 0."""
        parameters = dict(zip(self.names, map(float, values), strict=True))
        return two_time(parameters, self.phi[angle], t, q=Q, gap=GAP, mode=self.mode, shear_kernel=KERNEL, offset=0.0)[0]


CASES = {
    case.name: case
    for case in (
        Case("S", "static", 3, 100),
        Case("Ms", "laminar_flow", 5, 140),
        Case("M", "laminar_flow", 5, 300),
        Case("Lm", "laminar_flow", 23, 220),
        Case("L", "laminar_flow", 23, 500),
        Case("XL", "laminar_flow", 23, 1000),
    )
}


@dataclass(frozen=True)
class Reference:
    """True standard errors and optimum (p,) of the fit that starts with frame 0 or 1."""

    errors: np.ndarray
    optimum: np.ndarray


@dataclass(frozen=True)
class Usage:
    """What a command used: seconds, GiB, and how it ended ('' for exit status 0)."""

    wall: float
    cpu: float
    peak: float
    ending: str


@dataclass(frozen=True)
class Row:
    """One line of the table; fields in the order of COLUMNS, NaN where there is nothing to compare."""

    case: str
    program: str
    wall: float
    cpu: float
    peak: float
    truth: float
    optimum: float
    ratio: float
    status: str
    load: float

    def markdown(self) -> str:
        used = [f"{value:.{digits}f}" if np.isfinite(value) else "-" for value, digits in ((self.wall, 1), (self.cpu, 1), (self.peak, 2))]
        far = [f"{value:.3g}" if np.isfinite(value) else "-" for value in (self.truth, self.optimum, self.ratio)]
        cells = [self.case, self.program, *used, *far, self.status, f"{self.load:.1f}"]
        return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class Program:
    """How a program is run and read.

    Attributes:
        command: (case, file, folder) -> command line; the folder is empty and the working directory.
        read: (case, folder) -> result.
        first: first frame that it fits, counted from 0.
        clear: also start with an empty compilation cache.
    """

    name: str
    command: Callable[[Case, Path, Path], list[str]]
    read: Callable[[Case, Path], Result]
    first: int
    environment: dict[str, str]
    clear: Path | None = None


# ------------------------------------------------------------------------------------------------------------------ files


def make_file(case: Case, folder: Path) -> Path:
    """The simulated file of a case, in the APS-U layout: upper halves, bright diagonal, frame 0 as xpcsjax takes it."""
    path = folder / f"{case.name}.hdf"
    contrast, offset = case.scaling
    dataset = simulate(
        {name: TRUTH[name] for name in case.names},
        case.phi,
        q=Q,
        gap=GAP,
        dt=DT,
        frames=case.frames - 1,
        contrast=contrast,
        offset=offset,
        sigma=SIGMA,
        mode=case.mode,
        shear_kernel=KERNEL,
        seed=7,
        diagonal_excess=BRIGHT,
    )
    write(dataset, path, "aps_u")
    noise = SIGMA * np.random.default_rng(8).standard_normal((case.angles, case.frames))
    with h5py.File(path, "r+") as file:
        for angle, name in enumerate(sorted(file[aps_u.PATHS["maps"]])):
            row = offset[angle] + contrast[angle] * case.h(case.truth, angle, DT * np.arange(case.frames))[0] + noise[angle]
            row[0] += BRIGHT
            file[aps_u.PATHS["maps"]][name][0] = row
    return path


def read_maps(path: Path, first: int) -> list[np.ndarray]:
    with h5py.File(path) as file:
        maps = file[aps_u.PATHS["maps"]]
        return [maps[name][first:, first:].astype(np.float64) for name in sorted(maps)]


# -------------------------------------------------------------------------------------------------------------- reference


def normal_equations(case: Case, maps: Sequence[np.ndarray], t: np.ndarray, values: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """chi2, J'J (p, p) and J'r (p,) over all pairs i < j, contrast and offset of every angle projected out."""
    count, upper = len(values), np.triu_indices(len(t), 1)
    steps = 1e-4 * np.abs(case.truth)
    chi2, matrix, gradient = 0.0, np.zeros((count, count)), np.zeros(count)
    for angle, c2 in enumerate(maps):
        h = case.h(values, angle, t)[upper]
        slopes = np.empty((len(h), count))
        for k, step in enumerate(steps * np.eye(count)):
            slopes[:, k] = (case.h(values + step, angle, t) - case.h(values - step, angle, t))[upper] / (2 * steps[k])
        # Orthonormal basis of (1, h): what it explains is taken out of data and slopes. Least squares for offset and contrast.
        basis, triangle = np.linalg.qr(np.column_stack([np.ones_like(h), h]))
        explained = basis.T @ c2[upper]
        contrast = explained[1] / triangle[1, 1]
        residual = c2[upper] - basis @ explained
        slopes = contrast * (slopes - basis @ (basis.T @ slopes))
        chi2 += float(residual @ residual)
        matrix += slopes.T @ slopes
        gradient += slopes.T @ residual
    return chi2, matrix, gradient


def reference(case: Case, path: Path, first: int) -> Reference:
    """Errors at the truth, and the optimum by damped Gauss-Newton from there."""
    maps, t, values = read_maps(path, first), DT * np.arange(first, case.frames), case.truth
    state = normal_equations(case, maps, t, values)
    scale = 1 / np.sqrt(np.diagonal(state[1]))
    errors = SIGMA * scale * np.sqrt(np.diagonal(np.linalg.inv(state[1] * np.outer(scale, scale))))
    for _ in range(30):
        step = scale * np.linalg.solve(state[1] * np.outer(scale, scale), scale * state[2])
        length = np.sqrt(step @ state[1] @ step) / SIGMA
        trial = normal_equations(case, maps, t, values + step)
        while trial[0] > state[0] and length > 1e-3:
            step, length = step / 2, length / 2
            trial = normal_equations(case, maps, t, values + step)
        if trial[0] <= state[0]:
            values, state = values + step, trial
        if length < 1e-3:
            return Reference(errors, values)
    raise RuntimeError(f"{case.name}: Gauss-Newton from the truth did not converge")


# --------------------------------------------------------------------------------------------------------------- programs


def environment(**extra: str) -> dict[str, str]:
    """The caller's, without what would mix the packages or their caches."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "JAX_COMPILATION_CACHE_DIR")
    return {name: value for name, value in os.environ.items() if name not in dropped} | {"MPLBACKEND": "Agg"} | extra


def our_command(case: Case, path: Path, folder: Path) -> list[str]:
    settings = [
        f"mode={case.mode}",
        "per_angle_scaling=individual",
        "report=off",
        f'data.path="{path}"',
        f'hydra.run.dir="{folder / "out"}"',
    ]
    kernel = [f"mode.shear_kernel={KERNEL}"] if case.mode == "laminar_flow" else []
    return [sys.executable, "-m", "homodyne", *settings, *kernel]


def our_result(case: Case, folder: Path) -> Result:
    facts = json.loads((folder / "out" / "fit.json").read_text())
    found = {name: facts["parameters"][name] for name in case.names}
    named = [name for name, estimate in found.items() if estimate["status"] != "free"]
    word = facts["outcome"]["name"].lower() + (f" ({', '.join(named)} not free)" if named else "")
    return {name: (number(e["value"]), number(e["error"])) for name, e in found.items()}, word


def peer_settings(case: Case, path: Path, folder: Path, scaling: str) -> dict[str, Any]:
    """The settings file that both peers read."""
    bounds = [{"name": name, "min": BOUNDS[name][0], "max": BOUNDS[name][1]} for name in ("contrast", "offset", *case.names)]
    out = str(folder / "out")
    return {
        "analysis_mode": case.mode,
        "analyzer_parameters": {
            "dt": DT,
            "start_frame": 1,
            "end_frame": case.frames,
            "scattering": {"wavevector_q": Q},
            "geometry": {"stator_rotor_gap": GAP},
        },
        "experimental_data": {
            "data_folder_path": str(path.parent),
            "data_file_name": path.name,
            "phi_angles_path": out,
            "cache_file_path": out,
            "cache_directory": out,
            "use_caching": False,
        },
        "v2_features": {"cache_strategy": "none"},
        "phi_filtering": {"enabled": False},
        "initial_parameters": {"parameter_names": list(case.names), "values": [NEAR[name] for name in case.names]},
        "parameter_space": {"model": case.mode, "bounds": bounds},
        "optimization": {"method": "nlsq", "nlsq": {"anti_degeneracy": {"enable": True, "per_angle_mode": scaling}}},
        "output": {"directory": out},
    }


def homodyne_command(executable: Path, scaling: str, case: Case, path: Path, folder: Path) -> list[str]:
    settings = write_settings(peer_settings(case, path, folder, scaling), folder)
    return [str(executable), "--method", "nlsq", "--config", str(settings), "--output-dir", str(folder / "out")]


def xpcsjax_command(executable: Path, scaling: str, case: Case, path: Path, folder: Path) -> list[str]:
    mode = "static_anisotropic" if case.mode == "static" else case.mode
    settings = write_settings(peer_settings(case, path, folder, scaling) | {"analysis_mode": mode}, folder)
    return [str(executable), "--config", str(settings), "--output", str(folder / "out"), "--no-plot"]


def write_settings(settings: dict[str, Any], folder: Path) -> Path:
    path = folder / "settings.yaml"
    OmegaConf.save(OmegaConf.create(settings), path)
    (folder / "out").mkdir()
    return path


def homodyne_result(case: Case, folder: Path) -> Result:
    facts = json.loads((folder / "out" / "nlsq" / "parameters.json").read_text())
    return peer_parameters(case, facts), str(facts["convergence_status"])


def xpcsjax_result(case: Case, folder: Path) -> Result:
    # In its parameters.json they are called param_0, param_1, ...; here they have names.
    found = peer_parameters(case, json.loads((folder / "out" / "nlsq_result.json").read_text()))
    return found, str(json.loads((folder / "out" / "convergence_metrics.json").read_text())["status"])


def peer_parameters(case: Case, facts: dict[str, Any]) -> dict[str, tuple[float, float]]:
    return {name: (number(facts["parameters"][name]["value"]), number(facts["parameters"][name]["uncertainty"])) for name in case.names}


def number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def install(package: str, folder: Path) -> Path:
    """The command of a peer, from an environment of its own, which is made if it is not there."""
    home = folder / f"venv_{package}"
    executable = home / "bin" / package
    if not executable.exists():
        print(f"installing {package}=={PEERS[package]} into {home} (minutes)", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, env=environment())
        subprocess.run([str(home / "bin" / "pip"), "install", "-q", f"{package}=={PEERS[package]}"], check=True, env=environment())
    return executable


def make_programs(chosen: Sequence[str], folder: Path, scaling: str) -> list[Program]:
    programs = []
    if "ours" in chosen:
        cache, path = folder / "cache", str(Path(__file__).resolve().parents[1])
        own = environment(XDG_CACHE_HOME=str(cache), PYTHONPATH=path)
        programs += [
            Program("this, cold", our_command, our_result, 1, own, clear=cache),
            Program("this, warm", our_command, our_result, 1, own),
        ]
    peers = {"homodyne": (homodyne_command, homodyne_result, 1), "xpcsjax": (xpcsjax_command, xpcsjax_result, 0)}
    for package in (name for name in peers if name in chosen):
        command, read, first = peers[package]
        bound = partial(command, install(package, folder), scaling)
        programs.append(Program(f"{package} {PEERS[package]}, {scaling}", bound, read, first, environment()))
    return programs


# -------------------------------------------------------------------------------------------------------------- measuring


def resident(session: int) -> float:
    """Resident memory of all processes of a session, GiB. Shared pages count once for each process."""
    pages = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the name in parentheses: state, ppid, pgrp, session, ..., rss as the 22nd.
            found = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pages += int(found[21]) if int(found[3]) == session else 0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def measure(command: list[str], folder: Path, env: dict[str, str], limit: float, memory: float) -> Usage:
    """Run a command in a session of its own; killed, children included, beyond ``limit`` seconds or ``memory`` GiB."""
    begin = time.perf_counter()
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            peak, ending = watch(process.pid, begin + limit, memory)
        finally:
            # The limit, or an interrupt here, which does not reach another session. A zombie keeps the number until it is waited for.
            os.killpg(process.pid, signal.SIGKILL)
            _, status, used = os.wait4(process.pid, 0)
            wall = time.perf_counter() - begin
            process.returncode = os.waitstatus_to_exitcode(status)
    ending = ending or (f"exit {process.returncode}" if process.returncode else "")
    return Usage(wall, used.ru_utime + used.ru_stime, max(peak, used.ru_maxrss / 2**20), ending)


def watch(pid: int, until: float, memory: float) -> tuple[float, str]:
    """Peak memory, GiB, and why to kill it, '' when it has ended by itself."""
    peak = 0.0
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        peak = max(peak, resident(pid))
        if peak > memory:
            return peak, f"killed above {memory:g} GiB"
        if time.perf_counter() > until:
            return peak, "killed at the time limit"
        time.sleep(0.1)
    return peak, ""


def run(case: Case, path: Path, program: Program, expected: Reference, folder: Path, limit: float, memory: float) -> Row:
    """One program on one file."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if program.clear is not None:
        shutil.rmtree(program.clear, ignore_errors=True)
    load = os.getloadavg()[0]
    usage = measure(program.command(case, path, folder), folder, program.environment, limit, memory)
    comparison, word = (float("nan"),) * 3, ""
    try:
        found, word = program.read(case, folder)
        comparison = compare(case, found, expected)
    except FileNotFoundError:
        word = "no result file"
    except (OSError, KeyError, TypeError, ValueError) as error:
        word = f"unreadable result ({type(error).__name__}: {error})"
    status = "; ".join(text for text in (usage.ending, word) if text)
    return Row(case.name, program.name, usage.wall, usage.cpu, usage.peak, *comparison, status, load)


def compare(case: Case, found: dict[str, tuple[float, float]], expected: Reference) -> tuple[float, float, float]:
    """Largest distance from truth and from the optimum, and median error, in true standard errors."""
    values, errors = np.array([found[name] for name in case.names]).T
    distances = [float(np.max(np.abs(values - target) / expected.errors)) for target in (case.truth, expected.optimum)]
    ratios = (errors / expected.errors)[np.isfinite(errors)]
    return distances[0], distances[1], float(np.median(ratios)) if len(ratios) else float("nan")


def table(rows: Sequence[Row]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *(row.markdown() for row in rows)]
    return "\n".join(lines) + "\n"


def reference_row(case: Case, first: int, expected: Reference) -> Row:
    """The optimum itself, as the best that a program can do with this noise."""
    exact = dict(zip(case.names, zip(expected.optimum, expected.errors, strict=True), strict=True))
    unused = (float("nan"),) * 3
    return Row(case.name, f"(optimum from frame {first})", *unused, *compare(case, exact, expected), REFERENCE, os.getloadavg()[0])


def replaced(rows: Sequence[Row], row: Row) -> list[Row]:
    """The rows with one more, in place of an earlier one of that set and program; sets in the order of CASES, optima first."""
    others = [old for old in rows if (old.case, old.program) != (row.case, row.program)]
    return sorted([*others, row], key=lambda each: (list(CASES).index(each.case), each.status != REFERENCE))


def keep(rows: Sequence[Row], folder: Path) -> None:
    (folder / "results.md").write_text(table(rows))
    (folder / "results.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))


def earlier(folder: Path) -> list[Row]:
    """Rows of earlier calls with this folder."""
    path = folder / "results.json"
    names = [field.name for field in fields(Row)]
    return [Row(**{name: row[name] for name in names}) for row in json.loads(path.read_text())] if path.exists() else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=list(CASES), default=["S", "Ms", "M", "Lm"])
    parser.add_argument("--programs", nargs="+", choices=["ours", *PEERS], default=["ours", *PEERS])
    parser.add_argument("--peer-scaling", choices=["individual", "auto"], default="individual", help="auto is their default")
    parser.add_argument("--folder", type=Path, default=Path("outputs/peers"))
    parser.add_argument("--time-limit", type=float, default=600.0, help="seconds for each command")
    parser.add_argument("--max-gb", type=float, default=12.0, help="resident memory of a command, GiB")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    programs = make_programs(options.programs, folder, options.peer_scaling)
    rows = earlier(folder)
    for case in (CASES[name] for name in options.sets):
        path = make_file(case, folder)
        expected = {first: reference(case, path, first) for first in {program.first for program in programs}}
        for first, best in expected.items():
            rows = replaced(rows, reference_row(case, first, best))
        for program in programs:
            place = folder / case.name / program.name.replace(", ", "_").replace(" ", "_")
            row = run(case, path, program, expected[program.first], place, options.time_limit, options.max_gb)
            print(row.markdown(), file=sys.stderr, flush=True)
            rows = replaced(rows, row)
            keep(rows, folder)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
