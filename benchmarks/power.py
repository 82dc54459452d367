"""What does the goodness of fit see? Maps of samples that the fitted model does not describe, and how often each test says so.

    python benchmarks/power.py --out outputs/power.jsonl             stop and repeat the command to go on
    python benchmarks/power.py --out outputs/power.jsonl --tables    the table of docs/uncertainty.md

Speckle and photons as in coverage.py: 100 frames, 1000 pixels, contrast 0.2, three angles static or five with shear.
"""

import argparse
import json
import multiprocessing
import os
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import numpy as np
from coverage import DT, FIVE, GAP, Q, Regime, minimum, option, read, truth_of

TESTS = ("lag_age", "lag", "lag_all_angles", "static_field", "second_decay", "stretching", "offset", "contrast_drift", "rival", "together")
WRONG = (
    "null static",
    "null laminar",
    "second relaxation 30 % of the field, 10 x slower",
    "second relaxation 10 % of the field, 10 x slower",
    "oscillation, 5 % of the field, period 1 s",
    "static field 5 %",
    "static field 10 %",
    "static field 20 %",
    "J differs between pixels, sd of ln J 0.5",
    "pixel to pixel intensity, sd 10 %",
    "contrast falls by 30 %",
    "shear kernel homodyne_v2 fitted to nature",
)
PHOTONS = (5.0, 0.5)


def regime_of(name: str, photons: float) -> Regime:
    """The fitted model."""
    flow = "laminar" in name or "kernel" in name
    flowing = {"mode": "laminar_flow", "phi": FIVE, "rate": 6.0, "shear": 40.0}
    return Regime(name, 0, photons=photons, **(flowing if flow else {}))


def simulated(regime: Regime, seed: int):
    """Maps of the wrong truth."""
    import jax.numpy as jnp

    from homodyne import simulate
    from homodyne.physics import cumulative, power_law
    from homodyne.speckle import drawn_fields, mixed_fields

    truth, name = truth_of(regime), regime.name
    detector = {"pixels": regime.pixels, "layers": None, "photons": regime.photons}
    if "sd 10" in name:
        detector["heterogeneity"] = 0.1
    if "contrast falls" in name:
        detector["contrast_drift"] = 0.3
    sample = {"q": Q, "gap": GAP, "dt": DT, "frames": regime.n, "contrast": regime.contrast, "mode": regime.mode}
    data = simulate(truth, regime.phi, **sample, noise="speckle", seed=seed, threads=1, **detector)
    shares = {"30 % of": 0.3, "10 % of": 0.1, "5 % of": 0.05, "static field 5": 0.05, "static field 10": 0.1, "static field 20": 0.2}
    share = next((value for text, value in shares.items() if text in name), None)
    spread = "J differs" in name
    if share is None and not spread:
        return data
    t = np.asarray(data.t)
    x0 = np.asarray(Q**2 * cumulative(power_law(truth["D0"], truth["alpha"], truth["D_offset"], jnp.asarray(t)), jnp.asarray(t)))
    # g1 is (1 - share) exp(-x0/2) + share (...), so amplitudes are the roots of the shares.
    if spread:
        sources = [classes([drawn_fields(factor * x0) for factor in lognormal(0.5)]) for _ in regime.phi]
        return recorded(data, sources, regime, detector, seed)
    second, amplitude = drawn_fields(x0 / 10), np.sqrt(share)
    if "oscillation" in name:
        second, amplitude = drawn_fields(x0), np.sqrt(share) * np.exp(2j * np.pi * t)
    elif "static field" in name:
        second = drawn_fields(np.zeros_like(x0))
    sources = [mixed_fields([(np.sqrt(1 - share), drawn_fields(x0)), (amplitude, second)]) for _ in regime.phi]
    return recorded(data, sources, regime, detector, seed)


def lognormal(spread: float, count: int = 16) -> np.ndarray:
    """Quantiles of a log-normal distribution of mean 1."""
    from statistics import NormalDist

    z = np.array([NormalDist().inv_cdf((k + 0.5) / count) for k in range(count)])
    factor = np.exp(spread * z)
    return factor / factor.mean()


def classes(sources):
    """Fields of pixels of several kinds, as many of each."""

    def draw(pixels: int, generator: np.random.Generator) -> np.ndarray:
        parts = np.array_split(np.arange(pixels), len(sources))
        return np.concatenate([source(len(part), generator) for source, part in zip(sources, parts, strict=True)], axis=1)

    return draw


def recorded(data, sources, regime: Regime, detector: dict, seed: int):
    """The Dataset of what a detector sees of other fields."""
    from homodyne.speckle import Speckle, record
    from homodyne.tiles import pack

    made = list(record(sources, [regime.contrast] * len(regime.phi), Speckle(**detector), seed=seed, threads=1))
    maps = np.stack([recording.c2 for recording in made])
    diagonal = np.stack([np.diagonal(recording.c2) for recording in made])
    return replace(data, tiles=pack(maps), diagonal=diagonal, counts=np.stack([recording.counts for recording in made]))


def one(name: str, photons: float, seed: int) -> dict:
    """p-value of every test of one repeat."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from homodyne.covariance import fitted_points
    from homodyne.goodness import goodness, offset_test, verdict_p

    regime = regime_of(name, photons)
    data = simulated(regime, seed)
    found = minimum(regime, data)
    rival = None
    if "kernel" in name:
        # The rival is nature's kernel; what is tested is the fit with the other one, from its own minimum.
        true = found
        found = minimum(replace(regime, details={"shear_kernel": "homodyne_v2"}), data)
        rival = true.problem.model.pair, fitted_points(true.problem, true.evaluation)
    noise = option("noise", "sandwich").covariance(found)
    tests = goodness(found, noise, rival)
    size, count = found.information.size, len(regime.phi)
    shared = found.information.expand[:count]
    covariance = shared @ noise.covariance[size:, size:] @ shared.T
    every = tests.tests | {"offset": offset_test(found.evaluation.offset, covariance)}
    p = {key: test.p_value for key, test in every.items()} | {"together": verdict_p(every)[0]}
    return {"regime": name, "photons": photons, "seed": seed, "p": p, "z": {key: test.z for key, test in every.items()}}


def table(lines: list[dict]) -> str:
    """Share of p below 0.05 for each truth, photons and test, as Markdown."""
    groups = defaultdict(list)
    for line in lines:
        groups[line["regime"], line["photons"]].append(line["p"])
    text = [f"| truth | photons | repeats | {' | '.join(TESTS)} |", "|---" * (3 + len(TESTS)) + "|"]
    for (name, photons), group in groups.items():
        shares = [f"{np.mean([p[test] < 0.05 for p in group]):.3f}" if test in group[0] else "" for test in TESTS]
        text.append(f"| {name} | {photons:g} | {len(group)} | {' | '.join(shares)} |")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--only", default="", help="truths whose name contains this")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tables", action="store_true")
    arguments = parser.parse_args()
    if arguments.tables:
        sys.stdout.write(table(read(arguments.out)) + "\n")
        return
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    done = {(line["regime"], line["photons"], line["seed"]) for line in read(arguments.out)}
    wanted = [(name, photons, seed) for name in WRONG if arguments.only in name for photons in PHOTONS for seed in range(arguments.repeats)]
    todo = [item for item in wanted if item not in done]
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    with arguments.out.open("a") as stream, ProcessPoolExecutor(arguments.workers, multiprocessing.get_context("spawn")) as pool:
        for count, task in enumerate(as_completed([pool.submit(one, *item) for item in todo]), start=1):
            stream.write(json.dumps(task.result()) + "\n")
            stream.flush()
            if count % 50 == 0:
                print(f"{count} of {len(todo)}", flush=True)


if __name__ == "__main__":
    main()
