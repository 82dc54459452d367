"""Is the posterior right? Simulation-based calibration of every sampler, and coverage of its intervals under real speckle.

    python benchmarks/sbc.py --out outputs/sbc.jsonl                       everything; stop and repeat the command to go on
    python benchmarks/sbc.py --out outputs/sbc.jsonl --only "gaussian static (psis|nuts)"    what a pattern finds
    python benchmarks/sbc.py --out outputs/sbc.jsonl --tables              the tables of docs/posterior.md

Calibration (Talts et al. 2018): the truth is drawn from the prior, data from the truth, and the rank of the truth among 99 thinned
draws of the posterior is uniform if prior, likelihood and sampler are what they claim. Priors are drawn here by NumPy, not by the code
that is tested. Pixels have independent Gaussian noise of known size; ln sigma^2, whose prior is improper, has no rank.
Speckle: a fixed truth, photons counted on pixels, noise=sandwich; where the truth lies in the draws of both widths.
Each line of the file is one data set with one sampler. A fit that fails is a line too. Settings of the samplers are small on purpose.
"""

import argparse
import json
import os
import re
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from coverage import FIVE, Regime, option, read, truth_of
from coverage import simulated as speckle_data

Q, GAP, DT, FRAMES = 0.0054, 2.0e6, 0.1, 72
PHI = {"static": (0.0, 60.0), "laminar_flow": (-40.0, 5.0, 55.0)}
SIGMA = {"static": 0.02, "laminar_flow": 0.01}
BOUNDS = {"contrast": (0.05, 0.3), "offset": (0.95, 1.05)}
PRIORS: dict[str, dict[str, tuple[str, float, float]]] = {
    "static": {"D0": ("lognormal", 5e4, 0.3), "alpha": ("normal", -0.5, 0.3), "D_offset": ("normal", 1e4, 5e3)},
    "laminar_flow": {
        "D0": ("lognormal", 2e4, 0.3),
        "alpha": ("normal", -0.5, 0.15),
        "D_offset": ("normal", 4e3, 2e3),
        "gamma_dot_t0": ("lognormal", 8e-4, 0.3),
        "beta": ("normal", -0.3, 0.15),
        "gamma_dot_t_offset": ("normal", 1e-4, 5e-5),
        "phi0": ("normal", 4.0, 8.0),
    },
}
RANKED = 99
"""Draws among which the truth has a rank: 0 to 99."""
LEVELS = (0.9, 0.95)

CHAINS = {"chains": 2, "warmup": 100}
SMALL = CHAINS | {"draws": 300}
# No shard is sampled again and none is refused: the weights under all pixels have to make up for poor shards, or say that they cannot.
LENIENT = {"rhat": 10.0, "ess": 1.0, "divergences": 1.0, "reruns": 0, "verify_draws": 1000}
SAMPLERS: dict[str, tuple[str, dict[str, object]]] = {"psis": ("psis", {"draws": 1000}), "nuts": ("nuts", SMALL)} | {
    f"cmc K = {count}": ("cmc", CHAINS | LENIENT | {"draws": 150, "shards": count, "nuts": SMALL}) for count in (4, 16, 64)
}
REPEATS = {"psis": 200, "nuts": 200, "cmc K = 4": 200, "cmc K = 16": 60, "cmc K = 64": 20}


@dataclass(frozen=True)
class Item:
    """One line of the file. kind: the mode with Gaussian noise, or a regime of speckle."""

    kind: str
    sampler: str
    seed: int
    share: float
    """How far through its repeats it is: all kinds advance together."""

    @property
    def name(self) -> str:
        return f"{self.kind if self.kind in SPECKLE else 'gaussian ' + self.kind} {self.sampler}"


def speckle_regimes() -> dict[str, Regime]:
    """Offsets of rates fixed at 0: what is left is determined by the data, so that intervals must cover."""
    flow = {"mode": "laminar_flow", "phi": FIVE, "rate": 6.0, "shear": 40.0}
    chosen = {}
    for photons in (5.0, 0.5):
        for mode, more in (("static", {}), ("laminar", flow)):
            name = f"speckle {mode} kbar {photons:g}"
            chosen[name] = Regime(name, 100, n=FRAMES, photons=photons, **more)
    return chosen


SPECKLE = speckle_regimes()


def items() -> list[Item]:
    """Everything, in the order in which it is done."""
    found = [Item(mode, name, seed, seed / count) for mode in PRIORS for name, count in REPEATS.items() for seed in range(count)]
    found += [Item(name, "psis", seed, seed / regime.repeats) for name, regime in SPECKLE.items() for seed in range(regime.repeats)]
    return sorted(found, key=lambda item: (round(20 * item.share), item.kind, item.seed))


def drawn_truth(mode: str, rng: np.random.Generator) -> dict[str, float]:
    """Parameters from the prior, on the domain of the model: rates that the record can resolve, |exponent| <= 2."""
    model = bound_mode(mode).bind(DT * np.arange(1, FRAMES + 1), Q, GAP, np.array(PHI[mode]))
    for _ in range(1000):
        truth = {}
        for name, (kind, center, width) in PRIORS[mode].items():
            step = width * rng.standard_normal()
            truth[name] = float(center * np.exp(step) if kind == "lognormal" else center + step)
        inside = True
        for law in model.laws.values():
            amplitude, exponent, offset = (truth[name] for name in law.names)
            ends = amplitude * law.t[[0, -1]] ** exponent + offset
            inside &= bool(np.all((ends > law.rate_limits[0]) & (ends < law.rate_limits[1])) and abs(exponent) <= 2)
        if inside:
            return truth
    raise AssertionError("the prior misses the domain of the model")


def drawn_scaling(name: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) contrasts or offsets: normal around the middle of the bounds, as wide as those, cut off at them."""
    low, high = BOUNDS[name]
    found: list[float] = []
    while len(found) < count:
        value = 0.5 * (low + high) + (high - low) * rng.standard_normal()
        found += [float(value)] * (low <= value <= high)
    return np.array(found)


@lru_cache(maxsize=8)
def bound_mode(mode: str):
    """The mode with its priors."""
    keys = {"lognormal": ("median", "sigma"), "normal": ("mean", "sd")}
    stated = {
        name: {"prior": {"kind": kind} | dict(zip(keys[kind], values, strict=True))} for name, (kind, *values) in PRIORS[mode].items()
    }
    return option("mode", mode, json.dumps({"parameters": stated}))


@lru_cache(maxsize=2)
def fitted(kind: str, seed: int):
    """Truth by name of what is counted, outcome of the fit, and what a sampler starts from. Samplers of one data set share it."""
    from homodyne import simulate
    from homodyne.optimize import fit

    if kind in SPECKLE:
        regime = SPECKLE[kind]
        data, truth = speckle_data(regime, seed), truth_of(regime)
        scaling = {"contrast": np.full(len(regime.phi), regime.contrast), "offset": np.ones(len(regime.phi))}
        fixed = {name: {"fixed": 0.0} for name in truth if name.endswith("offset")}
        job = job_of(option("mode", regime.mode, json.dumps({"parameters": fixed})), "{}", "sandwich")
    else:
        rng = np.random.default_rng([seed, len(PHI[kind])])
        truth = drawn_truth(kind, rng)
        scaling = {name: drawn_scaling(name, len(PHI[kind]), rng) for name in BOUNDS}
        sample = {"q": Q, "gap": GAP, "dt": DT, "frames": FRAMES, "sigma": SIGMA[kind], "mode": kind}
        data = simulate(truth, PHI[kind], **sample, **scaling, seed=int(rng.integers(2**31)))
        job = job_of(bound_mode(kind), json.dumps({f"{name}_bounds": bounds for name, bounds in BOUNDS.items()}), "iid")
    result, rows, estimated = fit(job, data, None)
    return truth, scaling, result, rows, estimated


def job_of(mode, bounds: str, noise: str):
    """A Job for one thread."""
    from homodyne.config import Job

    chosen = {"mode": mode, "per_angle_scaling": option("per_angle_scaling", "individual", bounds), "noise": option("noise", noise)}
    names = {"optimizer": "nlsq", "uncertainty": "standard", "posterior": "none", "cmc_backend": "serial", "report": "off"}
    chosen |= {group: option(group, name) for group, name in names.items()}
    chosen |= {"hardware": option("hardware", "cpu", '{"threads": 1}'), "data": option("data", "auto", '{"path": "-"}')}
    return Job(**chosen, seed=0, resume=False, inspect=False, forecast=False, text="")


def one(item: Item, backend: str) -> dict:
    """One line: place of every true number among the draws, and what the sampler says of itself."""
    from homodyne.errors import FitError
    from homodyne.optimizer.progress import FitInterrupted
    from homodyne.posterior.base import Given

    begin = time.perf_counter()
    truth, scaling, result, rows, estimated = fitted(item.kind, item.seed)
    name, settings = SAMPLERS[item.sampler]
    width = "both" if item.kind in SPECKLE else "model"
    sampler = option("posterior", name, json.dumps(settings | {"width": width, "predictive": 0}))
    # Another seed than that of the data, or draws would know their noise.
    given = Given(estimated, rows, seed=10_000 + item.seed, threads=1, folder=None, backend=option("cmc_backend", backend))
    line = {"kind": item.kind, "sampler": item.sampler, "seed": item.seed, "outcome": result.outcome.name, "failure": ""}
    started = time.perf_counter()
    try:
        found = sampler.sample(given)
        line["failure"] = "" if found is not None else "no posterior: the fit did not converge"
    except FitError as error:
        # A run that was stopped is no result.
        if isinstance(error.__cause__, FitInterrupted):
            raise
        found, line["failure"] = None, str(error)
    line |= {"fit_seconds": started - begin, "seconds": time.perf_counter() - started}
    if found is None:
        return line
    line |= {"engine": found.engine, "exactness": found.exactness, "numbers": found.numbers}
    free = [key for key in truth if estimated.mode.parameters[key].fixed is None]
    line["places"] = {key: places(answer, found, truth, free, scaling) for key, answer in found.answers.items()}
    return line


def places(answer, found, truth: dict[str, float], free: list[str], scaling: dict[str, np.ndarray]) -> dict[str, int | float]:
    """Of every number: draws below the truth among RANKED thinned ones, and (name + " all") the share of all that are."""
    columns = {name: (answer.parameters[..., found.names.index(name)], truth[name]) for name in free}
    for curve, names in (("J", ("D0", "alpha", "D_offset")), ("gamma_dot", ("gamma_dot_t0", "beta", "gamma_dot_t_offset"))):
        if curve in answer.rates:
            amplitude, exponent, offset = (truth[name] for name in names)
            at = next(k for key in answer.summary if key.startswith(f"{curve}(") for k in [nearest(found.t, key)])
            columns[f"{curve}_best"] = (answer.rates[curve][..., at], amplitude * found.t[at] ** exponent + offset)
    for name, values in scaling.items():
        columns |= {f"{name}[{k}]": (getattr(answer, name)[..., k], float(value)) for k, value in enumerate(values)}
    made: dict[str, int | float] = {}
    for name, (draws, value) in columns.items():
        flat = draws.ravel()
        thinned = flat[np.linspace(0, len(flat) - 1, RANKED).round().astype(int)]
        made |= {name: int(np.sum(thinned < value)), f"{name} all": float(np.mean(flat < value))}
    return made


def nearest(t: np.ndarray, label: str) -> int:
    """Index of the time in a label like ``J(0.84 s)``."""
    return int(np.argmin(np.abs(t - float(label.partition("(")[2].partition(" ")[0]))))


def uniformity(kind: str, sampler: str, group: list[dict]) -> list[tuple]:
    """Mode, sampler, number, mean and deviation of its ranks as shares, p-values (chi-square, Kolmogorov-Smirnov) of each number."""
    from scipy.stats import chisquare, kstest

    good = [line["places"]["model"] for line in group if "places" in line]
    if len(good) < 10:
        return []
    rows = []
    bins = 20 if len(good) >= 100 else 10 if len(good) >= 50 else 5
    for name in [name for name in good[0] if not name.endswith(" all")]:
        ranks = np.array([line[name] for line in good])
        counts = np.histogram(ranks, bins=np.linspace(-0.5, RANKED + 0.5, bins + 1))[0]
        p = chisquare(counts).pvalue, kstest((ranks + 0.5) / (RANKED + 1), "uniform").pvalue
        rows.append((kind, sampler, name, ranks.mean() / RANKED, ranks.std() / RANKED, *map(float, p)))
    return rows


def calibration(groups: dict[tuple[str, str], list[dict]]) -> list[str]:
    """Uniformity of ranks, by mode and sampler and then by number."""
    rows = {key: uniformity(*key, group) for key, group in groups.items()}
    every = [row for own in rows.values() for row in own]
    text = ["| mode | sampler | data sets | no posterior | mean ranks | smallest p, chi-square | smallest p, KS | of |", "|---" * 8 + "|"]
    for key, group in groups.items():
        lost, own = sum("places" not in line for line in group), rows[key]
        cells = ["-", "-", "-"]
        if own:
            low = [min(own, key=lambda row, k=k: row[k]) for k in (5, 6)]
            cells = [f"{min(row[3] for row in own):.3f} to {max(row[3] for row in own):.3f}"]
            cells += [f"{row[k]:.2g} ({row[2]})" for row, k in zip(low, (5, 6), strict=True)]
        text.append(f"| {' | '.join(key)} | {len(group)} | {lost} | {' | '.join(cells)} | {len(own)} |")
    if not every:
        return text
    smallest = min(p for row in every for p in row[5:])
    bound = min(1.0, 2 * len(every) * smallest)
    verdict = f"{'PASS' if bound > 0.05 else 'FAIL'}: smallest of {2 * len(every)} p-values {smallest:.2g}, Bonferroni {bound:.2g}."
    expected = f"Uniform ranks: mean 0.5, sd {np.sqrt((1 + 2 / RANKED) / 12):.3f}."
    text += [
        "",
        f"{verdict} {expected}",
        "",
        "| mode | sampler | number | mean rank | sd of ranks | p chi-square | p KS |",
        "|---" * 7 + "|",
    ]
    return text + [f"| {a} | {b} | {name} | {mean:.3f} | {sd:.3f} | {p:.2g} | {q:.2g} |" for a, b, name, mean, sd, p, q in every]


def effort(groups: dict[tuple[str, str], list[dict]]) -> list[str]:
    """What the samplers say of themselves: weights, escalations, distance of the consensus before correction (medians)."""
    columns = "k-hat good at once | after adaptation | escalated to nuts | chains short of limits | shift | SD ratios | correlation | s"
    text = [f"| mode | sampler | {columns} |", "|---" * 10 + "|"]
    for key, group in groups.items():
        good = [line for line in group if "places" in line]
        numbers = [line["numbers"] for line in good]
        cells = [""] * 7
        if good and key[1].startswith("cmc"):
            cells[:2] = [f"{np.mean([one[k] < one['k_hat_limit'] for one in numbers]):.2f}" for k in ("k_hat_consensus", "k_hat")]
            cells[2] = f"{np.mean([line['engine'] == 'nuts' for line in good]):.2f}"
            names = ("shift", "sd_ratio_low", "sd_ratio_high", "correlation")
            shift, low, high, change = (np.median([one[f"consensus_{name}"] for one in numbers]) for name in names)
            cells[4:] = [f"{shift:.2f}", f"{low:.2f} to {high:.2f}", f"{change:.2f}"]
        elif good and key[1] == "psis":
            cells[0] = f"{np.mean([one['k_hat'] < one['k_hat_limit'] for one in numbers]):.2f}"
        if good and key[1] != "psis":
            cells[3] = f"{np.mean([line['exactness'] == 'failed' for line in good]):.2f}"
        if good:
            text.append(f"| {' | '.join([*key, *cells])} | {np.median([line['seconds'] for line in good]):.2g} |")
    return text


def coverage(groups: dict[tuple[str, str], list[dict]]) -> list[str]:
    """Coverage of central intervals under speckle, both widths side by side."""
    columns = " | ".join(f"calibrated {100 * level:g} % | model {100 * level:g} %" for level in LEVELS)
    text = [f"| regime | data sets | number | {columns} | ± |", "|---" * (4 + 2 * len(LEVELS)) + "|"]
    for (kind, _), group in groups.items():
        good = [line["places"] for line in group if "places" in line and "calibrated" in line["places"]]
        every = [name for name in (good[0]["model"] if good else []) if name.endswith(" all")]
        label = {name: name.partition("[")[0].removesuffix(" all") for name in every}
        for wanted in dict.fromkeys(label.values()):
            cells = []
            for level in LEVELS:
                for width in ("calibrated", "model"):
                    below = np.array([[line[width][name] for name in every if label[name] == wanted] for line in good])
                    cells.append(f"{np.mean(np.abs(below - 0.5) <= 0.5 * level):.3f}")
            error = np.sqrt(0.95 * 0.05 / len(good))
            text.append(f"| {kind} | {len(good)} of {len(group)} | {wanted} | {' | '.join(cells)} | {error:.3f} |")
    return text


def tables(lines: list[dict]) -> str:
    """All tables, as Markdown."""
    groups = defaultdict(list)
    for line in lines:
        groups[line["kind"], line["sampler"]].append(line)
    order = {(kind, sampler): k for k, kind in enumerate([*PRIORS, *SPECKLE]) for sampler in SAMPLERS}
    groups = {key: groups[key] for key in sorted(groups, key=lambda key: (order[key], list(SAMPLERS).index(key[1])))}
    drawn = {key: group for key, group in groups.items() if key[0] in PRIORS}
    real = {key: group for key, group in groups.items() if key[0] in SPECKLE}
    return "\n".join([*calibration(drawn), "", *effort(drawn), "", *coverage(real)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="one line of JSON for each data set and sampler")
    parser.add_argument("--only", default="", help="regular expression found in the name, as of speckle laminar kbar 5 psis")
    parser.add_argument("--repeats", type=int, help="at most so many of each")
    parser.add_argument("--backend", default="serial", help="option of group cmc_backend")
    parser.add_argument("--seconds", type=float, default=np.inf, help="start nothing after that long")
    parser.add_argument("--tables", action="store_true", help="print the tables, run nothing")
    arguments = parser.parse_args()
    if arguments.tables:
        sys.stdout.write(tables(read(arguments.out)) + "\n")
        return
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    option("hardware", "cpu").configure()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    done = {(line["kind"], line["sampler"], line["seed"]) for line in read(arguments.out)}
    todo = [item for item in items() if re.search(arguments.only, item.name)]
    todo = [item for item in todo if arguments.repeats is None or item.seed < arguments.repeats]
    todo = [item for item in todo if (item.kind, item.sampler, item.seed) not in done]
    begin = time.perf_counter()
    with arguments.out.open("a") as stream:
        for count, item in enumerate(todo):
            if time.perf_counter() - begin > arguments.seconds:
                break
            stream.write(json.dumps(one(item, arguments.backend)) + "\n")
            stream.flush()
            if count % 20 == 0:
                print(f"{count} of {len(todo)}, {time.perf_counter() - begin:.0f} s: {item.name} {item.seed}", flush=True)


if __name__ == "__main__":
    main()
