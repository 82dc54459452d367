"""Is everything that is printed with an error or an interval where it says? Speckle, fitted by the whole program, counted by name.

    python benchmarks/printed.py --out outputs/printed.jsonl                          every regime; stop and repeat the command to go on
    python benchmarks/printed.py --out outputs/printed.jsonl --only flow --repeats 30 regimes whose name contains a text
    python benchmarks/printed.py --out outputs/printed.jsonl --tables                 what was counted, as Markdown

A fit is that of a user: defaults, search and choice of the scaling included, all offsets free (benchmarks/coverage.py starts at the
truth and asks each noise option instead). Each line of the file is one fit: for every parameter, rate, slope, derived quantity,
contrast and offset its value, error, 95 % interval and truth. The interval is the printed one, else value +- 1.96 errors. A pull is the
distance to the truth over the half of the interval on that side, in units of 1.96, so the 68 % of an uneven interval are approximate.
"""

import argparse
import json
import multiprocessing
import os
import re
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from coverage import FIVE, GAP, Q, Regime, read, simulated, truth_of

Z68, Z95 = 0.9945, 1.96
KBAR = {"0.05": 0.05, "0.5": 0.5, "5": 5.0}
BLIND = " no counts"
"""Ending of the names of regimes whose files hold neither counts, nor the raw diagonal, nor the number of pixels."""
PRODUCT = re.compile(r"gamma_dot\((.+) s\) \|cos\(phi0 - (.+)\)\|")
"""What takes the place of the shear rate where its direction is not determined."""
FIRST_SEED = 100_000
"""Not the seeds of benchmarks/coverage.py."""


def regimes() -> list[Regime]:
    """What is simulated; every rate has a constant part of a fifth at the middle time, and that is fitted."""
    found = []
    for label, photons in KBAR.items():
        shared = {"photons": photons, "pixels": 4000 if label == "0.05" else 1000, "offsets": True}
        found += [Regime(f"static alpha {alpha:g} kbar {label}", 200, alpha=alpha, **shared) for alpha in (-0.5, 0.3)]
        found.append(Regime(f"flow kbar {label}", 200, mode="laminar_flow", phi=FIVE, rate=6.0, shear=40.0, **shared))
        if label != "0.05":
            found += [replace(regime, name=regime.name + BLIND) for regime in (found[-3], found[-1])]
    found.append(replace(found[-1], name=f"static alpha -1.5 kbar 5{BLIND}", mode="static", alpha=-1.5, phi=(0.0, 45.0, 90.0), rate=14.0))
    return found


@cache
def job(mode: str):
    """What the command would do with defaults; one object for all fits, as in a sweep."""
    from hydra import compose, initialize_config_dir

    import homodyne

    overrides = [f"mode={mode}", "hardware.threads=1", "data=simulated", "uncertainty.times=[2.0]"]
    with initialize_config_dir(str(homodyne.conf_dir()), version_base="1.3"):
        made = homodyne.build(compose("config", overrides))
    made.hardware.configure()
    return made


@dataclass(frozen=True)
class Nature:
    """True rates, integrals and decays of a regime, by NumPy alone. t: frames of the record, s."""

    regime: Regime
    t: np.ndarray

    @property
    def parameters(self) -> dict[str, float]:
        return truth_of(self.regime)

    def rate(self, name: str, t) -> np.ndarray:
        names = {"J": ("D0", "alpha", "D_offset"), "gamma_dot": ("gamma_dot_t0", "beta", "gamma_dot_t_offset")}
        amplitude, exponent, offset = (self.parameters[key] for key in names[name])
        return amplitude * np.asarray(t) ** exponent + offset

    def slope(self, name: str, t: float) -> float:
        """d ln rate/d ln t."""
        step = 1e-5
        high, low = np.log(self.rate(name, t * np.exp([step, -step])))
        return float((high - low) / (2 * step))

    def integral(self, name: str, t) -> np.ndarray:
        rate = self.rate(name, self.t)
        whole = np.append(0.0, np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(self.t)))
        return np.interp(t, self.t, whole)

    def relaxation(self, age: float, angle: int | None) -> float:
        """Lag after which h has fallen to 1/e; with shear at an angle, else by diffusion alone. NaN where it has not."""
        fine = np.linspace(age, self.t[-1], 200_001)
        decay = Q**2 * (self.integral("J", fine) - self.integral("J", age))
        if angle is not None:
            turn = 0.5 * Q * GAP * np.cos(np.deg2rad(self.parameters["phi0"] - self.regime.phi[angle]))
            phase = turn * (self.integral("gamma_dot", fine) - self.integral("gamma_dot", age))
            decay = decay - 2 * np.log(np.maximum(np.abs(np.sinc(phase / np.pi)), 1e-300))
        fallen = decay >= 1
        return float(fine[fallen.argmax()] - age) if fallen.any() else float("nan")


def truth(nature: Nature, name: str, fit, times: dict[str, float]) -> float | None:
    """The true value of what is printed under a name; None for a name that is not known here."""
    last = nature.t[-1]
    root = name.partition("[")[0]
    stem, _, at = name.partition("(")
    if name in nature.parameters:
        return nature.parameters[name]
    if product := PRODUCT.fullmatch(name):
        seconds, angle = map(float, product.groups())
        return float(nature.rate("gamma_dot", seconds)) * abs(np.cos(np.deg2rad(nature.parameters["phi0"] - angle)))
    if name in ("D_Stokes-Einstein", "J/2 at the last time"):
        return 0.5 * float(nature.rate("J", times["J"] if name.startswith("D_") else last))
    if root in ("contrast", "offset"):
        return {"contrast": nature.regime.contrast, "offset": 1.0}[root]
    if at:
        seconds = float(at.removesuffix(" s)"))
        if stem in ("J", "gamma_dot"):
            return float(nature.rate(stem, seconds))
        if stem == "strain":
            return float(nature.integral("gamma_dot", seconds))
        if stem.startswith("relaxation_time"):
            return nature.relaxation(seconds, int(stem[len("relaxation_time[") : -1]) if "[" in stem else None)
    if name == "strain":
        return float(nature.integral("gamma_dot", last))
    for rate in times:
        if name in (f"{rate}_best", f"{rate}_ref"):
            return float(nature.rate(rate, times[rate] if name.endswith("best") else fit.t_ref))
        if name == f"dln{rate}_dlnt":
            return nature.slope(rate, fit.t_ref)
    return None


def printed(fit) -> dict[str, list[float]]:
    """[value, error, low, high] of everything that could carry an error, NaN where it has none."""
    estimates = [*fit.parameters.values(), *fit.rates.values(), *([] if fit.derived is None else fit.derived.quantities.values())]
    found = {}
    for estimate in estimates:
        if estimate.status == "fixed" or "[homodyne_v2]" in estimate.name:
            continue
        low, high = estimate.interval
        if np.isnan(low) and np.isnan(high):
            low, high = estimate.value - Z95 * estimate.error, estimate.value + Z95 * estimate.error
        found[estimate.name] = [estimate.value, estimate.error, low, high]
    for name, values, errors in (("contrast", fit.contrast, fit.contrast_error), ("offset", fit.offset, fit.offset_error)):
        for k, (value, error) in enumerate(zip(values, errors, strict=True)):
            found[f"{name}[{k}]"] = [value, error, value - Z95 * error, value + Z95 * error]
    return found


def one(regime: Regime, seed: int) -> dict:
    """One fit: all that was printed, with its truth, and the p-values."""
    import logging

    from homodyne.optimize import fit as fit_dataset

    logging.getLogger("homodyne").setLevel(logging.ERROR)
    chosen = job(regime.mode)
    data = simulated(regime, FIRST_SEED + seed)
    if regime.name.endswith(BLIND):
        data = replace(data, **{name: np.full_like(getattr(data, name), np.nan) for name in ("counts", "diagonal", "pixels")})
    begin = time.perf_counter()
    fit, _, _ = fit_dataset(chosen, data, None)
    seconds = time.perf_counter() - begin
    nature, times = Nature(regime, np.asarray(data.t)), {name: curve.best_time for name, curve in fit.curves.items()}
    numbers, unknown = {}, []
    for name, found in printed(fit).items():
        true = truth(nature, name, fit, times)
        if true is None:
            unknown.append(name)
            continue
        if name == "phi0":
            # One flow has phi0 and phi0 + 180 degrees; the printed one is within 90 degrees of the nominal one.
            true = found[0] + (true - found[0] + 90) % 180 - 90
        numbers[name] = [*found, true]
    tests = {} if fit.goodness is None else {name: test.p_value for name, test in fit.goodness.tests.items()}
    line = {"regime": regime.name, "seed": seed, "numbers": numbers, "unknown": unknown, "p": tests, "scaling": fit.scaling}
    line |= {"noise": fit.noise, "success": fit.success, "outcome": fit.outcome.name, "statements": list(fit.statements)}
    return _plain(line | {"decisions": list(fit.decisions), "seconds": seconds})


def _plain(value):
    """For JSON: NaN becomes null, infinities their names."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return None if np.isnan(value) else float(value) if np.isfinite(value) else str(float(value))
    return value


def kind(name: str) -> str:
    """Under which name it is counted: angles and the two names of J/2 together."""
    if name in ("D_Stokes-Einstein", "J/2 at the last time"):
        return "D_Stokes-Einstein or J/2"
    if PRODUCT.fullmatch(name):
        return "gamma_dot abs(cos(phi0 - phi))"
    stem, _, rest = name.partition("[")
    return stem + rest.partition("]")[2]


def counted(lines: list[dict]) -> dict[str, np.ndarray]:
    """(K, 4) by kind: pull (NaN without), truth inside the interval, has an interval, has a finite error."""
    found = defaultdict(list)
    for line in lines:
        for name, numbers in line["numbers"].items():
            value, error, low, high, true = (np.nan if number is None else float(number) for number in numbers)
            has = not (np.isnan(low) or np.isnan(high)) and np.isfinite(true)
            # An interval whose ends are exchanged goes through infinity.
            through = low > high
            inside = (true >= low or true <= high) if through else low <= true <= high
            half = (high - value if true > value else value - low) / Z95
            # A side without an end has no pull.
            pull = (value - true) / half if has and not through and np.isfinite(half) and half > 0 else np.nan
            found[kind(name)].append([pull, has and inside, has, np.isfinite(error)])
    return {name: np.array(rows, dtype=float) for name, rows in found.items()}


def tables(lines: list[dict]) -> str:
    """Coverage by regime and name, and how often tests reject the truth."""
    groups = defaultdict(list)
    for line in lines:
        groups[line["regime"]].append(line)
    groups = {regime.name: groups[regime.name] for regime in regimes() if regime.name in groups}
    text = ["| regime | fits | number | 68 % | 95 % | ± | pull width | pull mean | without | interval only |", "|---" * 10 + "|"]
    summary = ["| regime | fits | 68 %, all | 95 %, all | largest pull | lowest 95 % | seconds |", "|---" * 7 + "|"]
    tests = ["| regime | noise | p < 0.01 lag_age | p < 0.05 lag_age, lag, all angles, offset | scaling averaged |", "|---" * 5 + "|"]
    for name, group in groups.items():
        everything, lowest = [], (2.0, "-")
        for number, rows in counted(group).items():
            has, pulls = rows[rows[:, 2] > 0], rows[np.isfinite(rows[:, 0]), 0]
            missing, uneven = 1 - rows[:, 2].mean(), np.mean((rows[:, 2] > 0) & (rows[:, 3] == 0))
            if len(has) < 5:
                text.append(f"| {name} | {len(group)} | {number} | - | - | - | - | - | {missing:.2f} | {uneven:.2f} |")
                continue
            # Of intervals that are all open on the side of the truth no pull is left.
            pulls = pulls if len(pulls) else np.array([np.nan])
            inside, narrow = has[:, 1].mean(), np.mean(np.abs(pulls) < Z68)
            width, mean = np.sqrt(np.mean(pulls**2)), pulls.mean()
            everything.append(has)
            lowest = min(lowest, (inside, number))
            # Angles of one fit are nearly independent, its other numbers are not.
            error = np.sqrt(0.95 * 0.05 / len(has))
            cells = f"{narrow:.3f} | {inside:.3f} | {error:.3f} | {width:.2f} | {mean:+.2f} | {missing:.2f} | {uneven:.2f}"
            text.append(f"| {name} | {len(group)} | {number} | {cells} |")
        if not everything:
            continue
        rows = np.concatenate(everything)
        narrow, seconds = np.mean(np.abs(rows[np.isfinite(rows[:, 0]), 0]) < Z68), np.median([line["seconds"] for line in group])
        extreme = np.nanmax(np.abs(rows[:, 0]))
        totals = f"{narrow:.3f} | {rows[:, 1].mean():.3f} | {extreme:.1f} | {lowest[1]} {lowest[0]:.3f} | {seconds:.2f}"
        summary.append(f"| {name} | {len(group)} | {totals} |")
        p = {key: np.array([line["p"][key] for line in group if key in line["p"] and line["p"][key] is not None]) for key in
             ("lag_age", "lag", "lag_all_angles", "offset")}  # fmt: skip
        below = ", ".join(f"{np.mean(values < 0.05):.2f}" if len(values) else "-" for values in p.values())
        first = f"{np.mean(p['lag_age'] < 0.01):.2f}" if len(p["lag_age"]) else "-"
        averaged = np.mean([line["scaling"] == "averaged" for line in group])
        noises = ", ".join(sorted({line["noise"] for line in group}))
        tests.append(f"| {name} | {noises} | {first} | {below} | {averaged:.2f} |")
    unknown = sorted({name for line in lines for name in line["unknown"]})
    end = [f"Printed, but its truth is not known to this program: {', '.join(unknown)}."] if unknown else []
    return "\n".join([*summary, "", *tests, "", *text, "", *end])


def run(chosen: list[Regime], out: Path, workers: int) -> None:
    """Do what the file does not hold yet, in fresh processes of one thread each."""
    done = {(line["regime"], line["seed"]) for line in read(out)}
    todo = [(regime, seed) for regime in chosen for seed in range(regime.repeats) if (regime.name, seed) not in done]
    # Ten of each before more of any: a run that is stopped has the whole table.
    todo.sort(key=lambda item: item[1] // 10)
    print(f"{len(todo)} fits to do, {len(done)} done", flush=True)
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    begin = time.perf_counter()
    with out.open("a") as stream, ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        tasks = [pool.submit(one, regime, seed) for regime, seed in todo]
        for count, task in enumerate(as_completed(tasks), start=1):
            if task.exception():
                pool.shutdown(cancel_futures=True)
            stream.write(json.dumps(task.result()) + "\n")
            stream.flush()
            if count % 20 == 0:
                spent = time.perf_counter() - begin
                print(f"{count} of {len(todo)}, {spent:.0f} s, {spent / count * (len(todo) - count):.0f} s to go", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="one line of JSON for each fit")
    parser.add_argument("--only", default="", help="regimes whose name contains this")
    parser.add_argument("--repeats", type=int, help="at most so many of each regime")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tables", action="store_true", help="print the tables, run nothing")
    arguments = parser.parse_args()
    if arguments.tables:
        sys.stdout.write(tables(read(arguments.out)) + "\n")
        return
    chosen = [regime for regime in regimes() if arguments.only in regime.name]
    if arguments.repeats is not None:
        chosen = [replace(regime, repeats=min(regime.repeats, arguments.repeats)) for regime in chosen]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    run(chosen, arguments.out, arguments.workers)


if __name__ == "__main__":
    main()
