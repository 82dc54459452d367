"""Is a consensus of shards the posterior of all pixels? Laminar flow, 5 angles x 300 frames, against chains on all pixels.

    python benchmarks/consensus.py --out outputs/consensus.jsonl             stop and repeat the command to go on
    python benchmarks/consensus.py --out outputs/consensus.jsonl --tables    the table of docs/posterior.md

Every line is one way to draw from the same posterior, with mean and covariance of its draws in the sampled coordinates. A consensus
has two lines: as combined (``raw``), and corrected by the weights under all pixels. Its shards are kept beside the file, so that the
second line, and another rule for the same shards, sample nothing again.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from coverage import option, read

Q, GAP, DT, FRAMES, SIGMA, PHI = 0.0054, 2.0e6, 0.1, 300, 0.02, (-75.0, -35.0, 0.0, 40.0, 80.0)
TRUTH = {
    "D0": 1.9e4,
    "alpha": -0.5,
    "D_offset": 2000.0,
    "gamma_dot_t0": 1.6e-3,
    "beta": -0.4,
    "gamma_dot_t_offset": 1e-4,
    "phi0": 4.0,
}
REFERENCE, CONTROL = "nuts", "psis"
TARGETS = "shift below 0.1, SD ratios 0.95 to 1.05, correlations within 0.03"


def ways(chains: int, warmup: int, draws: int) -> dict[str, tuple[str, dict[str, object]]]:
    """Name of each line: option of group posterior and its settings."""
    effort = {"chains": chains, "warmup": warmup, "draws": draws}
    found: dict[str, tuple[str, dict[str, object]]] = {
        REFERENCE: ("nuts", effort | {"draws": 2 * draws}),
        CONTROL: ("psis", {"draws": 4000}),
    }
    for count, power, rule in [(k, power, "swiss") for k in (8, 64, 1) for power in ("likelihood", "prior")] + [
        (8, power, "gaussian") for power in ("likelihood", "prior")
    ]:
        settings = effort | {"shards": count, "power": power, "rule": rule, "reruns": 0, "min_success_rate": 1.0, "on_fail": "label"}
        name = f"K = {count}, {power}, {rule}"
        found |= {f"{name}, corrected": ("cmc", settings), f"{name}, raw": ("cmc", settings | {"verify": "none"})}
    return found


@cache
def fitted():
    """The fit from which all start."""
    from homodyne import simulate
    from homodyne.config import Job
    from homodyne.optimize import fit

    data = simulate(TRUTH, PHI, q=Q, gap=GAP, dt=DT, frames=FRAMES, contrast=0.15, sigma=SIGMA)
    names = {"mode": "laminar_flow", "per_angle_scaling": "individual", "noise": "iid", "optimizer": "nlsq", "uncertainty": "standard"}
    names |= {"posterior": "none", "cmc_backend": "serial", "report": "off"}
    chosen = {group: option(group, name) for group, name in names.items()}
    chosen |= {"hardware": option("hardware", "cpu"), "data": option("data", "auto", '{"path": "-"}')}
    job = Job(**chosen, seed=0, resume=False, inspect=False, forecast=False, text="")
    return fit(job, data, None)


def one(name: str, way: tuple[str, Mapping[str, object]], backend: str, folder: Path) -> dict:
    """One line."""
    from homodyne.posterior.base import Given

    _, rows, estimated = fitted()
    kind, settings = way
    sampler = option("posterior", kind, json.dumps({**settings, "width": "model", "predictive": 0}))
    # Shards of the same number and power are the same whatever is done with them.
    shards = folder / f"{settings['shards']}-{settings['power']}" if kind == "cmc" else None
    threads = option("hardware", "cpu").cores
    given = Given(estimated, rows, seed=1, threads=threads, folder=shards, backend=option("cmc_backend", backend))
    begin = time.perf_counter()
    found = sampler.sample(given)
    assert found is not None, "the fit did not converge"
    draws = found.answers["model"].u
    flat = draws.reshape(-1, draws.shape[-1])
    moments = {"mean": flat.mean(axis=0).tolist(), "covariance": np.cov(flat.T).tolist(), "coordinates": list(found.coordinates)}
    said = {"exactness": found.exactness, "numbers": found.numbers, "seconds": time.perf_counter() - begin}
    sampled = {} if found.shards is None else {"ess": float(found.shards.ess.min()), "rhat": float(found.shards.rhat.max())}
    return {"name": name, "settings": dict(settings), **said, "shards": sampled, **moments}


def differences(line: dict, reference: dict) -> tuple[float, float, float, float]:
    """Largest shift in standard deviations of the reference, smallest and largest ratio of deviations, largest change of a correlation."""
    mean, other = (np.array(item["mean"]) for item in (line, reference))
    covariance, true = (np.array(item["covariance"]) for item in (line, reference))
    sd, own = np.sqrt(np.diagonal(true)), np.sqrt(np.diagonal(covariance))
    change = np.abs(covariance / np.outer(own, own) - true / np.outer(sd, sd)).max()
    return float(np.abs((mean - other) / sd).max()), float((own / sd).min()), float((own / sd).max()), float(change)


def passes(line: dict) -> str:
    """Passes over all pixels: gradients of chains, and points that were weighed."""
    numbers = line["numbers"]
    gradients = numbers["shard_passes"] if "shard_passes" in numbers else 0.0
    rest = numbers["evaluations"] if "evaluations" in numbers else 0.0
    if line["name"] == CONTROL:
        return f"{rest:.0f} values"
    return f"{gradients or rest:.0f} gradients" + (f", {rest:.0f} values" if gradients and rest else "")


def table(lines: list[dict]) -> str:
    """Every way against the reference, as Markdown."""
    named = {line["name"]: line for line in lines}
    text = [f"Targets: {TARGETS}.", ""]
    text += ["| draws | shift / SD | SD ratios | correlations | k-hat of the consensus, of the correction | passes over all pixels | s |"]
    text += ["|---" * 7 + "|"]
    for name, line in named.items():
        cells = "- | - | -"
        if REFERENCE in named and name != REFERENCE:
            shift, low, high, change = differences(line, named[REFERENCE])
            cells = f"{shift:.3f} | {low:.3f} to {high:.3f} | {change:.3f}"
        numbers = line["numbers"]
        k_hat = [f"{numbers[key]:.2f}" for key in ("k_hat_consensus", "k_hat") if key in numbers]
        text.append(f"| {name} | {cells} | {', '.join(k_hat)} | {passes(line)} | {line['seconds']:.0f} |")
    if REFERENCE in named:
        numbers = named[REFERENCE]["numbers"]
        size = numbers["ess_bulk"]
        errors = f"{size**-0.5:.3f} SD (shift), {(2 * size) ** -0.5:.3f} (SD ratio), {size**-0.5:.3f} (correlation of 0)"
        text += ["", f"Reference: R-hat {numbers['rhat']:.3f}, bulk ESS {size:.0f} or more. Its own errors are of the order of {errors};"]
        text += ["the largest of 8 or 28 such errors is two or three times that, and the control, independent draws, shows it."]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="one line of JSON for each way; shards lie in a folder beside it")
    parser.add_argument("--backend", default="serial", help="option of group cmc_backend")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--draws", type=int, default=500, help="of each chain of a shard; chains on all pixels have twice as many")
    parser.add_argument("--only", default="", help="ways whose name begins with this")
    parser.add_argument("--tables", action="store_true", help="print the table, run nothing")
    arguments = parser.parse_args()
    if arguments.tables:
        sys.stdout.write(table(read(arguments.out)) + "\n")
        return
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    option("hardware", "cpu").configure()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    done = {line["name"] for line in read(arguments.out)}
    with arguments.out.open("a") as stream:
        for name, way in ways(arguments.chains, arguments.warmup, arguments.draws).items():
            if name in done or not name.startswith(arguments.only):
                continue
            line = one(name, way, arguments.backend, arguments.out.with_suffix(".shards"))
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            print(f"{name}: {line['exactness']}, {line['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
