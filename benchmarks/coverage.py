"""Are the error bars true? Simulated speckle and photons, fitted, counted: coverage of intervals and width of pulls.

    python benchmarks/coverage.py --out outputs/coverage.jsonl                    every regime; stop and repeat the command to go on
    python benchmarks/coverage.py --out outputs/coverage.jsonl --only laminar     regimes whose name contains a text
    python benchmarks/coverage.py --out outputs/coverage.jsonl --tables           the tables of docs/uncertainty.md

Each line of the file is one repeat: the error in each number divided by its standard error, for every noise option, and the p-values
of the goodness of fit. Fits start at the truth (whether the search finds the minimum is another question: benchmarks/recovery.py).
Numbers: ln of each rate at the geometric mean time, exponents, phi0 (those that the regime fits), contrast and offset of the first angle.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

Q, GAP, DT = 0.0054, 2.0e6, 0.1
LIMITS = {"ln J": 0.3, "ln gamma_dot": 0.3, "alpha": 0.3, "beta": 0.3, "phi0": 10.0}
"""Median standard errors above which a number is not determined (docs/optimizer.md) and not counted."""
NOISES = ("iid", "frame_clustered", "sandwich", "wishart")


@dataclass(frozen=True)
class Regime:
    """What is simulated and what is fitted. rate: J in units of 1/(q^2 duration) at the middle time; shear: total phase q L Gamma/2."""

    name: str
    repeats: int
    mode: str = "static"
    alpha: float = -0.5
    photons: float | None = 5.0
    n: int = 100
    phi: tuple[float, ...] = (0.0, 45.0, 90.0)
    pixels: int = 1000
    contrast: float = 0.2
    scaling: str = "individual"
    per_speckle: int = 1
    offsets: bool = False
    rate: float = 14.0
    shear: float = 6.0
    beta: float = -0.2
    slope: float = 0.0
    static_bins: int = 1
    details: dict = field(default_factory=dict)


FOUR = (0.0, 45.0, 90.0, 135.0)
FIVE = (-75.0, -35.0, 0.0, 40.0, 80.0)
PHOTONS = {"0.05": 0.05, "0.5": 0.5, "5": 5.0, "inf": None}


def regimes() -> list[Regime]:
    """The list of docs/uncertainty.md."""
    found = []
    flow = {"mode": "laminar_flow", "phi": FIVE, "rate": 6.0, "shear": 40.0}
    for label, photons in PHOTONS.items():
        shared = {"photons": photons, "pixels": 4000 if label == "0.05" else 1000}
        found += [Regime(f"static alpha {alpha:g} kbar {label}", 400, alpha=alpha, **shared) for alpha in (-0.5, 0.0, 0.3, -1.5)]
        found += [Regime(f"laminar alpha {alpha:g} kbar {label}", 100, alpha=alpha, **flow, **shared) for alpha in (-0.5, 0.0)]
        found.append(Regime(f"static averaged kbar {label}", 200, scaling="averaged", **shared))
        found.append(Regime(f"laminar averaged kbar {label}", 100, scaling="averaged", **flow, **shared))
    # Named so that --only "maps alone" picks them; nothing but the maps is known.
    alone = {"details": {"alone": True}}
    for label in ("0.5", "5"):
        photons = {"photons": PHOTONS[label]}
        found += [Regime(f"maps alone static alpha {alpha:g} kbar {label}", 60, alpha=alpha, **photons, **alone) for alpha in (-0.5, -1.5)]
        found.append(Regime(f"maps alone laminar kbar {label}", 60, **flow, **photons, **alone))
    for label in ("0.5", "5", "inf"):
        photons = {"photons": PHOTONS[label]}
        found.append(Regime(f"static 4 pixels per speckle kbar {label}", 200, per_speckle=4, **photons))
        found.append(Regime(f"static n 300 kbar {label}", 100, n=300, rate=20.0, **photons))
        found.append(Regime(f"laminar n 300 kbar {label}", 40, **(flow | photons | {"n": 300, "shear": 80.0})))
        found.append(Regime(f"static three parameters kbar {label}", 100, offsets=True, alpha=-0.8, n=150, **photons))
        found.append(Regime(f"laminar seven parameters kbar {label}", 60, offsets=True, **(flow | photons | {"n": 150, "shear": 60.0})))
        found.append(Regime(f"static fourier kbar {label}", 100, scaling="fourier", phi=FIVE, **photons))
    found.append(Regime("static 60 pixels kbar 5", 200, pixels=60))
    found.append(Regime("static contrast 0.05 kbar 5", 200, contrast=0.05))
    found.append(Regime("static contrast 1/3 kbar 5", 200, contrast=1 / 3))
    unequal = {"photons": 0.5, "pixels": 480, "contrast": 0.25, "alpha": -0.3, "rate": 8.0, "phi": FOUR}
    regions = {"sqmap": (1.0, 6), "plain": (1.0, 1), "sqmap even": (0.0, 6), "plain even": (0.0, 1)}
    for label in ("0.05", "0.5", "5"):
        shared = unequal | {"photons": PHOTONS[label], "pixels": 4000 if label == "0.05" else 480}
        for name, (slope, static_bins) in regions.items():
            found.append(Regime(f"region {name} kbar {label}", 100, slope=slope, static_bins=static_bins, **shared))
        found.append(Regime(f"region bare kbar {label}", 100, slope=1.0, static_bins=6, **shared, details={"bare": True}))
        shared["pixels"] = 4000 if label == "0.05" else 1000
        found.append(Regime(f"region speckle size not given kbar {label}", 100, per_speckle=4, **shared, details={"size": None}))
    found.append(Regime("static masked frames and lags kbar 5", 200, details={"masked": True}))
    return found


def truth_of(regime: Regime) -> dict[str, float]:
    """Parameters whose rates at the geometric mean time are those of the regime."""
    t = DT * np.arange(1, regime.n + 1)
    middle = np.sqrt(t[0] * t[-1])

    def law(names: tuple[str, str, str], exponent: float, total: float) -> dict[str, float]:
        shape = (t / middle) ** exponent
        rate = total / np.sum(0.5 * (shape[1:] + shape[:-1]) * DT)
        share = 0.2 if regime.offsets else 0.0
        return dict(zip(names, ((1 - share) * rate * middle**-exponent, exponent, share * rate), strict=True))

    truth = law(("D0", "alpha", "D_offset"), regime.alpha, regime.rate / Q**2)
    if regime.mode == "laminar_flow":
        shear = regime.shear / (0.5 * Q * GAP)
        truth |= law(("gamma_dot_t0", "beta", "gamma_dot_t_offset"), regime.beta, shear) | {"phi0": 6.0}
    return truth


def simulated(regime: Regime, seed: int):
    """The Dataset of one repeat."""
    from dataclasses import replace

    from homodyne import simulate
    from homodyne.tiles import pack

    detector = {"pixels": regime.pixels, "pixels_per_speckle": regime.per_speckle, "layers": None, "photons": regime.photons}
    detector |= {"slope": regime.slope, "static_bins": regime.static_bins}
    sample = {"q": Q, "gap": GAP, "dt": DT, "frames": regime.n, "contrast": regime.contrast, "mode": regime.mode}
    data = simulate(truth_of(regime), regime.phi, **sample, noise="speckle", seed=seed, threads=1, **detector)
    if "bare" in regime.details:
        data = replace(data, pixels=np.full(len(data.phi), np.nan), counts=np.full(data.diagonal.shape, np.nan), weights=None)
    if "masked" in regime.details:
        i = np.arange(regime.n)
        hidden = np.abs(i[:, None] - i) <= 3
        hidden |= np.isin(i, np.linspace(5, regime.n - 5, 12).astype(int))[:, None]
        maps = np.stack([np.where(hidden | hidden.T, np.nan, data.map(k)) for k in range(len(regime.phi))])
        data = replace(data, tiles=pack(maps))
    if "alone" in regime.details:
        data = replace(data, **{name: np.full_like(getattr(data, name), np.nan) for name in ("counts", "diagonal", "pixels")})
    return data


def minimum(regime: Regime, data):
    """The least-squares minimum next to the truth."""
    from homodyne.noise.base import Minimised
    from homodyne.optimizer.trust_region import Tolerances, minimise
    from homodyne.problem import PixelSource, Problem, information

    fixed = {} if regime.offsets else {name: {"fixed": 0.0} for name in truth_of(regime) if name.endswith("offset")}
    kernel = {key: value for key, value in regime.details.items() if key == "shear_kernel"}
    mode = option("mode", regime.mode, json.dumps({"parameters": fixed, **kernel}))
    model = mode.bind(data.t, data.q, data.gap, data.phi)
    design = option("per_angle_scaling", regime.scaling).design(data, 1e-3)
    problem = Problem(model, design, PixelSource(data, threads=1, tiles_at_once=1))
    tolerances = Tolerances(ftol=1e-10, xtol=1e-8, gtol=1e-10, max_passes=80)
    local = minimise(problem, model.coordinates_of(truth_of(regime)), tolerances)
    pairs = int(data.pairs.sum())
    fitted = len(local.evaluation.u) + design.count
    known = information(local.evaluation, problem)
    return Minimised(problem, local.evaluation, known, None, 1.0, local.evaluation.chi2 / pairs, pairs, fitted)


def numbers(regime: Regime, model, u: np.ndarray):
    """Names, values and derivatives by u of what is counted."""
    import jax
    import jax.numpy as jnp

    def function(v):
        reference = model.reference(v)
        parameters = dict(zip(model.names, model.parameters(v), strict=True))
        found = {f"ln {name}": value[0] for name, value in reference.items()}
        exponents = {"J": "alpha", "gamma_dot": "beta"}
        found |= {exponents[name]: parameters[exponents[name]] for name in reference}
        return found | ({"phi0": parameters["phi0"]} if "phi0" in parameters else {})

    values, slopes = function(jnp.asarray(u)), jax.jacfwd(function)(jnp.asarray(u))
    return list(values), np.array([values[name] for name in values]), np.array([slopes[name] for name in values])


@cache
def option(group: str, name: str, settings: str = "{}"):
    """An option; composing its YAML each time would take as long as a fit."""
    from homodyne.config import option as make

    return make(group, name, **json.loads(settings))


def one(regime: Regime, seed: int) -> dict:
    """One repeat: pulls by noise option, statuses, p-values."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from homodyne.counting import expansion
    from homodyne.goodness import goodness, offset_test

    begin = time.perf_counter()
    found = minimum(regime, simulated(regime, seed))
    model = found.problem.model
    names, true, _ = numbers(regime, model, model.coordinates_of(truth_of(regime)))
    true = np.append(true, [regime.contrast, baseline(regime)])
    line: dict = {"regime": regime.name, "seed": seed, "names": [*names, "contrast", "offset"], "pull": {}, "error": {}}
    for name in NOISES:
        given = regime.per_speckle > 1 and "size" not in regime.details and name not in ("iid", "frame_clustered")
        settings = {"speckle_size": speckle_size(regime)} if given else {}
        noise = option("noise", name, json.dumps(settings)).covariance(found)
        at = found.evaluation.u if noise.moved is None else noise.moved.u
        offset, contrast = (found.evaluation if noise.moved is None else noise.moved).offset, None
        contrast = (found.evaluation if noise.moved is None else noise.moved).contrast
        _, values, slopes = numbers(regime, model, at)
        expand = expansion(found.information, 0, len(regime.phi))
        size = found.information.size
        transform = np.zeros((len(names) + 2, len(noise.covariance)))
        transform[: len(names), :size] = slopes
        transform[len(names) :] = expand[[size + 1, size]]
        error = np.sqrt(np.maximum(np.einsum("ka,ab,kb->k", transform, noise.covariance, transform), 0.0))
        pull = (np.append(values, [contrast[0], offset[0]]) - true) / error
        line["pull"][name], line["error"][name] = pull.tolist(), error.tolist()
        if name == "wishart":
            line["refused"] = noise.option != "wishart"
        if name == "sandwich":
            line["scatter"] = None if noise.scatter is None else [noise.scatter.ratio, noise.scatter.error]
            tests = goodness(found, noise)
            if tests is not None:
                count = len(regime.phi)
                shared = found.information.expand[:count]
                covariance = shared @ noise.covariance[size:, size:] @ shared.T
                line["p"] = {key: test.p_value for key, test in tests.tests.items()}
                line["p"]["offset"] = offset_test(found.evaluation.offset, covariance).p_value
    line["seconds"] = time.perf_counter() - begin
    return line


def baseline(regime: Regime) -> float:
    """Offset of the simulated maps."""
    from homodyne.speckle import Speckle

    return Speckle(pixels=regime.pixels, slope=regime.slope, static_bins=regime.static_bins).baseline


def speckle_size(regime: Regime) -> float:
    """r of the simulated speckle, as a user would give it."""
    from homodyne.speckle import speckle_sums

    return speckle_sums(regime.per_speckle)[0]


def run(chosen: list[Regime], out: Path, workers: int) -> None:
    """Do what the file does not hold yet, in fresh processes of one thread each."""
    done = {(line["regime"], line["seed"]) for line in read(out)}
    todo = [(regime, seed) for regime in chosen for seed in range(regime.repeats) if (regime.name, seed) not in done]
    # Fifty of each before more of any: a run that is stopped has the whole table.
    todo.sort(key=lambda item: item[1] // 50)
    print(f"{len(todo)} repeats to do, {len(done)} done", flush=True)
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    begin = time.perf_counter()
    with out.open("a") as stream, ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        tasks = [pool.submit(one, regime, seed) for regime, seed in todo]
        for count, task in enumerate(as_completed(tasks), start=1):
            stream.write(json.dumps(task.result()) + "\n")
            stream.flush()
            if count % 50 == 0:
                spent = time.perf_counter() - begin
                print(f"{count} of {len(todo)}, {spent:.0f} s, {spent / count * (len(todo) - count):.0f} s to go", flush=True)


def read(out: Path) -> list[dict]:
    """The lines of the file; none when there is no file."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def overview(groups: dict[str, list[dict]]) -> list[str]:
    """One line for each regime: coverage of 95 % intervals, all determined numbers together, and the widest pull."""
    text = ["| regime | repeats | ± | " + " | ".join(NOISES) + " | widest pull, sandwich | widest pull, wishart |", "|---" * 9 + "|"]
    for regime, group in groups.items():
        names = np.array(group[0]["names"])
        errors = np.nanmedian(np.array([line["error"]["sandwich"] for line in group], dtype=float), axis=0)
        kept = np.array([name not in LIMITS or errors[k] < LIMITS[name] for k, name in enumerate(names)])
        cells, widest = [], {}
        for noise in NOISES:
            used = [line["pull"][noise] for line in group if noise != "wishart" or not line["refused"]]
            pulls = np.array(used, dtype=float).reshape(-1, len(names))[:, kept]
            pulls = pulls[np.isfinite(pulls).all(axis=1)]
            if len(pulls) < 10:
                cells.append("-")
                continue
            width = np.sqrt(np.mean(pulls**2, axis=0))
            widest[noise] = f"{names[kept][np.argmax(width)]} {width.max():.2f}"
            cells.append(f"{np.mean(np.abs(pulls) < 1.96):.3f}")
        last = [widest[noise] if noise in widest else "-" for noise in ("sandwich", "wishart")]
        text.append(f"| {regime} | {len(group)} | {np.sqrt(0.95 * 0.05 / len(group)):.3f} | {' | '.join([*cells, *last])} |")
    return text


def reported(groups: dict[str, list[dict]]) -> list[str]:
    """Root mean square of the reported errors over the true spread, for the regimes whose pixels are not alike."""
    text = ["| regime | repeats | ± | sandwich: reported over true spread by number |", "|---|---|---|---|"]
    for regime, group in groups.items():
        if not regime.startswith("region "):
            continue
        error = np.array([line["error"]["sandwich"] for line in group], dtype=float)
        off = np.array([line["pull"]["sandwich"] for line in group], dtype=float) * error
        kept = np.isfinite(off).all(axis=1)
        ratio = np.sqrt(np.mean(error[kept] ** 2, axis=0)) / np.std(off[kept], axis=0, ddof=1)
        cells = ", ".join(f"{name} {value:.2f}" for name, value in zip(group[0]["names"], ratio, strict=True))
        text.append(f"| {regime} | {kept.sum()} | {1 / np.sqrt(2 * kept.sum()):.2f} | {cells} |")
    return text


def tables(lines: list[dict]) -> str:
    """Coverage and pulls by regime and noise option, and p-values under the truth, as Markdown."""
    groups = defaultdict(list)
    for line in lines:
        groups[line["regime"]].append(line)
    groups = {regime.name: groups[regime.name] for regime in regimes() if regime.name in groups}
    text = [
        *overview(groups),
        "",
        *reported(groups),
        "",
        "| regime | repeats | noise | 68 % | 95 % | pull width by number |",
        "|---|---|---|---|---|---|",
    ]
    for regime, group in groups.items():
        every = group[0]["names"]
        errors = np.nanmedian(np.array([line["error"]["sandwich"] for line in group], dtype=float), axis=0)
        kept = [k for k, name in enumerate(every) if name not in LIMITS or errors[k] < LIMITS[name]]
        names = [every[k] for k in kept]
        if len(kept) < len(every):
            lost = ", ".join(name for k, name in enumerate(every) if k not in kept)
            text.append(f"| {regime} | | | | | not determined, not counted: {lost} |")
        for noise in NOISES:
            lines_used = [line["pull"][noise] for line in group if noise != "wishart" or not line["refused"]]
            pulls = np.array(lines_used, dtype=float).reshape(-1, len(every))[:, kept]
            known = pulls[np.isfinite(pulls).all(axis=1)] if len(pulls) else pulls
            if len(known) < 10:
                text.append(f"| {regime} | {len(group)} | {noise} | - | - | no errors given ({len(known)} of {len(group)}) |")
                continue
            narrow, wide = (np.mean(np.abs(known) < z) for z in (0.9945, 1.96))
            # Numbers of one repeat are correlated: the binomial error of a single number is the honest one.
            error = np.sqrt(0.95 * 0.05 / len(known))
            width = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, np.sqrt(np.mean(known**2, axis=0)), strict=True))
            text.append(f"| {regime} | {len(known)} | {noise} | {narrow:.3f} | {wide:.3f} ± {error:.3f} | {width} |")
    columns = "sd(wishart)/sd(sandwich) by number | scatter | p < 0.01 | p < 0.05 | p < 0.5 (lag_age) | p < 0.05 (lag, all angles, offset)"
    text += ["", f"| regime | {columns} |"]
    text.append("|---|---|---|---|---|---|---|")
    for regime, group in groups.items():
        used = [line for line in group if not line["refused"]] or group
        spread = {
            noise: np.nanstd([np.array(line["pull"][noise], dtype=float) * line["error"][noise] for line in used], axis=0)
            for noise in ("sandwich", "wishart")
        }
        gain = ", ".join(f"{value:.2f}" for value in spread["wishart"] / spread["sandwich"])
        gain = "refused" if len(used) < 10 or all(line["refused"] for line in group) else gain
        p = {key: np.array([line["p"][key] for line in group if "p" in line]) for key in ("lag_age", "lag", "lag_all_angles", "offset")}
        scatter = np.mean([line["scatter"][0] for line in group if line["scatter"]])
        below = " | ".join(f"{np.mean(p['lag_age'] < limit):.3f}" for limit in (0.01, 0.05, 0.5))
        others = ", ".join(f"{np.mean(p[key] < 0.05):.3f}" for key in ("lag", "lag_all_angles", "offset"))
        text.append(f"| {regime} | {gain} | {scatter:.3f} | {below} | {others} |")
    every = np.array([line["p"]["lag_age"] for line in lines if "p" in line])
    if len(every) > 20:
        from scipy.stats import kstest

        text += ["", f"All {len(every)} null maps: Kolmogorov-Smirnov p of the p-values of lag_age {kstest(every, 'uniform').pvalue:.2g}."]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="one line of JSON for each repeat")
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
        chosen = [Regime(**{**vars(regime), "repeats": min(regime.repeats, arguments.repeats)}) for regime in chosen]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    run(chosen, arguments.out, arguments.workers)


if __name__ == "__main__":
    main()
