"""Does the fit find the best minimum? Simulated truths, brute force as the reference, every optimizer compared with it.

    python benchmarks/recovery.py --truths 100 --seed 1 --family base --out outputs/recovery_base.json
    python benchmarks/recovery.py --tables outputs/recovery_*.json
    python benchmarks/recovery.py --confident --truths 15 --seed 1

The last asks another question, of small data in the families CONFIDENT: is a number with an error ever more than five errors off? It
fits with optimizer=nlsq, individual scaling and the right noise option, and counts fits whose shear rate (J without shear) is within
10 % ("right"), fits that give this rate no error ("undetermined"), and fits with a number more than five errors off ("confidently wrong").
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

FAMILIES = (
    "base",
    "correlated",
    "shared_scaling",
    "any_direction",
    "noisy",
    "three_angles",
    "two_angles",
    "narrow_sector",
    "long",
    "fast_shear",
)
CONFIDENT = ("sampled", "aliased", "aliased_speckle", "aliased_few_angles", "aliased_sector", "no_decay", "all_decayed", "no_shear")
OPTIMIZERS = ("nlsq", "nlsq_poor_start", "nlsq_multistart", "nlsq_cmaes")
PARAMETERS = ("D0", "alpha", "D_offset", "gamma_dot_t0", "beta", "gamma_dot_t_offset", "phi0")
Q, GAP, DT = 0.0054, 2.0e6, 0.1


def draw(family: str, rng: np.random.Generator) -> dict:
    """One truth with its angles, frames, contrast and noise (starts of the ranges: docs/optimizer.md)."""
    frames = 400 if family == "long" else int(rng.integers(60, 151))
    count = int(rng.integers(5, 9 if family == "long" else 24))
    t = DT * np.arange(1, frames + 1)
    middle = np.sqrt(t[0] * t[-1])
    alpha, beta = rng.uniform(-1.6, 0.5), rng.uniform(-0.8, 0.5)
    d0 = 10 ** rng.uniform(3, 5)
    share = rng.uniform(0, 0.3) * (-1 if rng.random() < 0.2 else 1)
    rate = 10 ** rng.uniform(-4, -2)
    if family == "fast_shear":
        rate = rng.uniform(0.8, 5.6) / (0.5 * Q * GAP * DT)
    shear_share = rng.uniform(0, 0.3)
    phi = np.sort(rng.uniform(-90, 90, count) if rng.random() < 0.5 else rng.uniform(0, 360, count))
    if family == "three_angles":
        phi = rng.uniform(-90, 90, 3)
    elif family == "two_angles":
        phi = np.array([rng.normal(0, 3), 80 + rng.normal(0, 3)])
    elif family == "narrow_sector":
        phi = np.sort(rng.uniform(-20, 20, count))
    contrast = 10 ** rng.uniform(np.log10(0.02), np.log10(0.4))
    sigma = 10 ** rng.uniform(np.log10(0.005), np.log10(0.05))
    if family == "noisy":
        sigma = contrast * rng.uniform(0.5, 2)
    truth = {
        "D0": d0, "alpha": alpha, "D_offset": share * d0 * middle**alpha,
        "gamma_dot_t0": rate * (1 - shear_share), "beta": beta, "gamma_dot_t_offset": shear_share * rate * middle**beta,
        "phi0": rng.uniform(-90, 90) if family == "any_direction" else rng.uniform(-15, 15),
    }  # fmt: skip
    return {
        "truth": truth, "phi": phi, "t": t, "sigma": sigma, "pixels": int(10 ** rng.uniform(np.log10(300), np.log10(5000))),
        "contrast": contrast * (1 + 0.1 * rng.normal(size=len(phi))).clip(0.5, 1.5), "offset": 1 + 0.002 * rng.normal(size=len(phi)),
    }  # fmt: skip


def small(family: str, rng: np.random.Generator) -> dict:
    """One truth of CONFIDENT: 60 frames, few angles, rates positive."""
    count = int(rng.integers(2, 5)) if family == "aliased_few_angles" else 6
    half = 20.0 if family == "aliased_sector" else 90.0
    t = DT * np.arange(1, 61)
    ranges = {"sampled": (0.1, 1.5), "aliased_speckle": (8.0, 12.0)}
    low, high = ranges.get(family, (3.0, 30.0) if family.startswith("aliased") else (0.1, 3.0))
    rate = 0.0 if family == "no_shear" else np.exp(rng.uniform(np.log(low), np.log(high))) / (0.5 * Q * GAP * DT)
    decays = {"no_decay": (-6.0, -4.0), "all_decayed": (1.0, 2.0)}.get(family, (-2.0, -0.5))
    transport = 10 ** rng.uniform(*decays) / (Q**2 * DT)
    alpha, beta = rng.uniform(-0.8, 0.3), rng.uniform(-0.3, 0.3)
    middle = np.sqrt(t[0] * t[-1])
    truth = {
        "D0": 0.9 * transport * middle**-alpha, "alpha": alpha, "D_offset": 0.1 * transport,
        "gamma_dot_t0": 0.9 * rate * middle**-beta, "beta": beta, "gamma_dot_t_offset": 0.1 * rate, "phi0": rng.uniform(-15, 15),
    }  # fmt: skip
    contrast = rng.uniform(0.1, 0.4) * (1 + 0.05 * rng.normal(size=count))
    return {
        "truth": truth, "phi": np.sort(rng.uniform(-half, half, count)), "t": t, "sigma": rng.uniform(0.01, 0.03), "pixels": 2000,
        "contrast": contrast, "offset": 1 + 0.002 * rng.normal(size=count),
    }  # fmt: skip


def confident(arguments: tuple[str, int, int]) -> dict:
    """The default fit of one small truth: right, undetermined, and numbers more than five errors off."""
    family, seed, index = arguments
    import logging

    logging.getLogger("homodyne").setLevel(logging.ERROR)
    from homodyne import config, optimize
    from homodyne.optimizer.trust_region import minimise
    from homodyne.problem import PixelSource, Problem

    rng = np.random.default_rng([seed, index, len(FAMILIES) + CONFIDENT.index(family)])
    case = small(family, rng)
    dataset = make_dataset(case, "correlated" if family == "aliased_speckle" else family, rng)
    hardware = config.option("hardware", "cpu", threads=1)
    hardware.configure()
    noise = config.option("noise", "auto" if family == "aliased_speckle" else "iid")
    scaling = config.option("per_angle_scaling", "individual")
    job = Job(config.option("mode", "laminar_flow"), scaling, noise, config.option("optimizer", "nlsq"), hardware, seed)
    begin = time.perf_counter()
    fit, _, _ = optimize.fit(job, dataset, None)
    seconds = time.perf_counter() - begin
    model = job.mode.bind(dataset.t, Q, GAP, dataset.phi)
    problem = Problem(model, job.per_angle_scaling.design(dataset, case["sigma"] ** 2), PixelSource(dataset, threads=1, tiles_at_once=1))
    reference = minimise(problem, model.coordinates_of(case["truth"]), job.optimizer.tolerances(float(dataset.pairs.sum())))
    gap = np.nan if reference is None else (problem.evaluate(fit.solution, 0).chi2 - reference.evaluation.chi2) / case["sigma"] ** 2
    truth = dict(case["truth"])
    for curve, names in (("J", PARAMETERS[:3]), ("gamma_dot", PARAMETERS[3:6])):
        time_best = fit.curves[curve].best_time
        amplitude, power, offset = (case["truth"][name] for name in names)
        truth[f"{curve}_best"] = amplitude * time_best**power + offset
    wrong, numbers = {}, {**fit.parameters, **{key: value for key, value in fit.rates.items() if key.endswith("_best")}}
    for key, estimate in numbers.items():
        lower, upper = estimate.interval
        if estimate.status not in ("free", "interval") or lower > upper:
            # An interval through infinity leaves out only what lies between its ends.
            continue
        off = truth[key] - estimate.value
        off = (off + 90) % 180 - 90 if key == "phi0" else off
        half = upper - estimate.value if off > 0 else estimate.value - lower
        # Five errors, where the side of the interval is 1.96 of them.
        if abs(off) > 5 / 1.96 * half:
            wrong[key] = float(1.96 * off / half) if half else float("inf")
    key = "J_best" if family == "no_shear" else "gamma_dot_best"
    right = abs(fit.rates[key].value / truth[key] - 1) < 0.1
    undetermined = fit.rates[key].status == "undetermined"
    facts = {"right": bool(right), "undetermined": undetermined, "wrong": wrong, "gap": float(gap), "seconds": seconds}
    return {"family": family, "index": index, "passes": fit.passes} | facts


def confident_table(records: list[dict]) -> str:
    lines = ["| family | truths | right | undetermined | confidently wrong | passes (median) | s |", "|---|---|---|---|---|---|---|"]
    for family in CONFIDENT:
        rows = [record for record in records if record["family"] == family]
        if rows:
            counts = [sum(bool(row[key]) for row in rows) for key in ("right", "undetermined", "wrong")]
            cost = f"{np.median([row['passes'] for row in rows]):.0f} | {np.median([row['seconds'] for row in rows]):.1f}"
            lines.append(f"| {family} | {len(rows)} | {' | '.join(map(str, counts))} | {cost} |")
    return "\n".join(lines)


def positive(case: dict) -> bool:
    """Both rates positive on every frame."""
    p, t = case["truth"], case["t"][[0, -1]]
    return bool(
        np.all(p["D0"] * t ** p["alpha"] + p["D_offset"] > 0) and np.all(p["gamma_dot_t0"] * t ** p["beta"] + p["gamma_dot_t_offset"] > 0)
    )


def make_dataset(case: dict, family: str, rng: np.random.Generator):
    from homodyne.data.dataset import Dataset, Provenance
    from homodyne.physics import two_time
    from homodyne.tiles import pack

    maps = two_time(case["truth"], case["phi"], case["t"], q=Q, gap=GAP, contrast=case["contrast"], offset=case["offset"])
    n = len(case["t"])
    if family == "correlated":
        # A map as the sample covariance of Gaussian intensities with covariance contrast h + shot noise.
        drawn = []
        for c2, offset in zip(maps, case["offset"], strict=True):
            covariance = c2 - offset + np.eye(n) * case["sigma"] * np.sqrt(case["pixels"])
            root = np.linalg.cholesky(covariance + 1e-10 * np.eye(n))
            x = root @ rng.normal(size=(n, case["pixels"]))
            drawn.append(offset + x @ x.T / case["pixels"])
        maps = np.array(drawn)
    else:
        maps = maps + case["sigma"] * rng.normal(size=maps.shape)
    unknown = np.full((len(maps), n), np.nan)
    return Dataset(pack(maps), case["phi"], Q, GAP, case["t"], np.arange(1, n + 1), unknown, unknown[:, 0], unknown[:, 0],
                   Provenance("simulated", family), case["truth"])  # fmt: skip


def one(arguments: tuple[str, int, int, int]) -> dict:
    """All fits of one truth."""
    family, seed, index, brute = arguments
    import logging

    logging.getLogger("homodyne").setLevel(logging.WARNING)
    from homodyne import config, optimize
    from homodyne.optimizer.base import AbstractOptimizer
    from homodyne.optimizer.trust_region import minimise
    from homodyne.problem import PixelSource, Problem

    hardware = config.option("hardware", "cpu", threads=1)
    hardware.configure()
    rng = np.random.default_rng([seed, index, FAMILIES.index(family)])
    case = draw(family, rng)
    while not positive(case):
        case = draw(family, rng)
    dataset = make_dataset(case, family, rng)
    mode = config.option("mode", "laminar_flow")
    scaling_name = "averaged" if family == "shared_scaling" else "individual"
    scaling = config.option("per_angle_scaling", scaling_name)
    model = mode.bind(dataset.t, Q, GAP, dataset.phi)
    design = scaling.design(dataset, case["sigma"] ** 2)
    problem = Problem(model, design, PixelSource(dataset, threads=1, tiles_at_once=1))
    start = model.coordinates_of(case["truth"])
    variance = case["sigma"] ** 2
    at_truth = problem.evaluate(start)
    if family == "correlated":
        variance = at_truth.chi2 / dataset.pairs.sum()
    record: dict = {"family": family, "index": index, "chi2": {}, "passes": {}, "seconds": {}}
    record["determined"] = determined(model, start, at_truth, variance)

    tolerances: AbstractOptimizer = config.option("optimizer", "nlsq")
    limits = tolerances.tolerances(float(dataset.pairs.sum()))
    local = [minimise(problem, start, limits), minimise(problem, start + 0.01 * rng.normal(size=len(start)), limits)]
    record["chi2"]["from_truth"] = min(l.evaluation.chi2 for l in local if l) / variance
    points = model.starts(rng, 4 * brute)
    screened = sorted(points, key=lambda u: problem.evaluate(u, 0).chi2)[:brute]
    best = [l.evaluation.chi2 / variance for l in (minimise(problem, u, limits) for u in screened) if l]
    record["chi2"]["brute"] = min(best, default=float("inf"))

    poor = dict(case["truth"])
    for name, factor in (("D0", 4.0), ("gamma_dot_t0", 0.2)):
        poor[name] *= factor
    poor |= {"alpha": poor["alpha"] + 0.5, "beta": poor["beta"] - 0.5, "phi0": poor["phi0"] + 20}
    poor |= {"D_offset": 0.0, "gamma_dot_t_offset": 0.0}
    for name in OPTIMIZERS:
        settings = {"parameters": {key: {"start": value} for key, value in poor.items()}} if name == "nlsq_poor_start" else {}
        job = Job(
            config.option("mode", "laminar_flow", **settings), scaling, config.option("noise", "iid"),
            config.option("optimizer", name.removesuffix("_poor_start")), hardware, seed,
        )  # fmt: skip
        begin = time.perf_counter()
        fit, _, _ = optimize.fit(job, dataset, None)
        record["seconds"][name] = time.perf_counter() - begin
        record["chi2"][name] = problem.evaluate(fit.solution, 0).chi2 / variance
        record["passes"][name] = fit.passes
        if name == "nlsq":
            free = {key: e for key, e in fit.parameters.items() if e.status == "free" and np.isfinite(e.error)}
            record["pulls"] = {key: (e.value - case["truth"][key]) / e.error for key, e in free.items()}
            record["named"] = sorted(key for key, e in fit.parameters.items() if e.status == "undetermined")
            record["condition"] = float(np.sqrt(np.linalg.cond(scaled(problem.evaluate(fit.solution).hessian))))
            record["curve_pulls"] = curve_pulls(model, fit, start)
    return record


class Job:
    """The parts of a Job that a fit uses."""

    def __init__(self, mode, per_angle_scaling, noise, optimizer, hardware, seed) -> None:
        from homodyne import config

        self.mode, self.per_angle_scaling, self.noise, self.optimizer, self.hardware = mode, per_angle_scaling, noise, optimizer, hardware
        self.seed, self.resume = seed, False
        self.uncertainty = config.option("uncertainty", "standard")


def scaled(hessian: np.ndarray) -> np.ndarray:
    scale = 1 / np.sqrt(np.maximum(np.diagonal(hessian), np.finfo(float).tiny))
    return hessian * np.outer(scale, scale)


def determined(model, u: np.ndarray, evaluation, variance: float) -> bool:
    """ln J and ln gamma_dot known to 0.3 at their best time and phi0 to 10 degrees, by the Fisher matrix at the truth."""
    import jax

    from homodyne.problem import invert

    covariance = invert(evaluation.hessian).matrix * variance
    slopes = jax.jacfwd(model.log_rates)(u)
    errors = [np.sqrt(np.einsum("tp,pq,tq->t", s, covariance, s).min()) for s in map(np.asarray, slopes.values())]
    return bool(max(errors) < 0.3 and np.sqrt(covariance[-1, -1]) < 10)


def curve_pulls(model, fit, truth_u: np.ndarray) -> dict[str, float]:
    """(fit - truth)/error of each rate at its best time, for determined rates."""
    truth = model.log_rates(truth_u)
    pulls = {}
    for name, curve in fit.curves.items():
        if curve.determined:
            at = int(np.argmin(np.abs(curve.t - curve.best_time)))
            pulls[name] = float((curve.value[at] - np.exp(truth[name][at])) / curve.error[at])
    return pulls


def table(records: list[dict]) -> str:
    """Markdown rows: success within 0.1 (1) of the best known minimum, passes, pulls."""
    lines = ["| family | truths | determined | optimizer | success det. (within 1) | success undet. | passes median (p90) | s median |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for family in dict.fromkeys(r["family"] for r in records):
        chosen = [r for r in records if r["family"] == family]
        det = [r for r in chosen if r["determined"]]
        rest = [r for r in chosen if not r["determined"]]

        def success(rows: list[dict], name: str, gap: float) -> str:
            hits = sum(r["chi2"][name] <= min(r["chi2"].values()) + gap for r in rows)
            return f"{hits}/{len(rows)}" if rows else "-"

        for name in ("from_truth", "brute", *OPTIMIZERS):
            passes = [r["passes"][name] for r in chosen if name in r["passes"]]
            seconds = [r["seconds"][name] for r in chosen if name in r["seconds"]]
            cost = f"{np.median(passes):.0f} ({np.percentile(passes, 90):.0f})" if passes else "-"
            wall = f"{np.median(seconds):.2f}" if seconds else "-"
            found = f"{success(det, name, 0.1)} ({success(det, name, 1.0)}) | {success(rest, name, 0.1)}"
            lines.append(f"| {family} | {len(chosen)} | {len(det)} | {name} | {found} | {cost} | {wall} |")
        pulls = {key: [r["pulls"][key] for r in det if key in r["pulls"]] for key in PARAMETERS}
        pulls |= {key: [r["curve_pulls"][key] for r in det if key in r["curve_pulls"]] for key in ("J", "gamma_dot")}
        text = ", ".join(f"{key} {np.std(v):.2f} (n {len(v)})" for key, v in pulls.items() if len(v) > 4)
        lines.append(f"\nPull standard deviation ({family}, iid errors, J and gamma_dot at their best time): {text}\n")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truths", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--family", choices=FAMILIES, default="base")
    parser.add_argument("--brute", type=int, default=34, help="fits on all pixels for the reference minimum")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--confident", action="store_true", help="count confidently wrong numbers in the small families")
    parser.add_argument("--tables", type=Path, nargs="*", help="print tables of earlier runs")
    options = parser.parse_args()
    if options.tables:
        print(table([record for path in options.tables for record in json.loads(path.read_text())]))
        return 0
    if options.confident:
        records = []
        for index in range(options.truths):
            for family in CONFIDENT:
                records.append(confident((family, options.seed, index)))
                print(json.dumps(records[-1]), file=sys.stderr, flush=True)
        print(confident_table(records))
        return 0
    tasks = [(options.family, options.seed, index, options.brute) for index in range(options.truths)]
    records = []
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for record in pool.map(one, tasks):
            records.append(record)
            gap = record["chi2"]["nlsq"] - min(record["chi2"].values())
            text = f"{record['family']} {record['index']:3d} determined={record['determined']} gap of nlsq {gap:.3f}"
            print(text, file=sys.stderr, flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(records))
    print(table(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
