"""What a posterior costs: laplace, psis and nuts on simulated laminar flow, and chains that sample contrast and offset too.

    python benchmarks/posterior_cost.py                                 5 x 300, 23 x 500 and the comparison at 5 x 100
    python benchmarks/posterior_cost.py --sizes 3x100 --explicit none   a short look

Every row is a process of its own that fits (noise iid: one width; individual scaling) and then makes the posterior twice: *cold* with an
empty compilation cache, imports and compilation included, *warm* again in the same process. Seconds are those of the whole posterior,
the draws of all parameters and the predicted cuts included, without the fit; CPU seconds are of all threads. *Evaluations* are passes
over all pixels, for nuts with the gradient. *ESS* is the smallest bulk effective size of what is sampled; of psis that of its weights, of
laplace the number of draws, which are independent draws of an approximation. *Peak* is resident memory of the process, the fit included.

Chains with explicit scaling: the same density before contrast and offset are integrated out, as a NumPyro model over the same sums
(``Density.sums``), priors as ``density.Scaling`` has them: 8 + 2 x angles numbers. *explicit, known metric* has the covariance of the joint
normal approximation as its metric, every advantage that white coordinates give; *explicit, adapted* knows the scales only and leaves
the correlations to NumPyro's warm-up. All begin around the mode. *ms* is the CPU time of one gradient, compiled.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Q, GAP, DT, SIGMA = 0.0054, 2.0e6, 0.1, 0.02
TRUTH = {
    "D0": 1.9e4, "alpha": -0.5, "D_offset": 2000.0, "gamma_dot_t0": 1.6e-3, "beta": -0.4, "gamma_dot_t_offset": 1.0e-4, "phi0": 4.0,
}  # fmt: skip
OPTIONS = ("laplace", "psis", "nuts")
COLUMNS = ("data", "posterior", "cold s", "CPU s", "warm s", "warm CPU s", "evaluations", "ESS", "ESS/s", "check", "exactness", "peak MB")


@dataclass(frozen=True)
class Size:
    """Angles and frames of the simulated maps."""

    angles: int
    frames: int

    @classmethod
    def of(cls, text: str) -> "Size":
        return cls(*map(int, text.split("x")))

    def __str__(self) -> str:
        return f"{self.angles} x {self.frames}"


def given(size: Size, threads: int | None = None) -> Any:
    """A finished fit, as a sampler gets it."""
    from hydra import compose, initialize_config_dir

    from homodyne import build, optimize
    from homodyne.groups import conf_dir
    from homodyne.posterior.base import Given

    phi = np.linspace(-75.0, 80.0, size.angles).round(2).tolist()
    truth = [f"data.parameters.{name}={value}" for name, value in TRUTH.items()]
    settings = [
        *("mode=laminar_flow", "per_angle_scaling=individual", "noise=iid", "data=simulated", "report=off", "seed=1"),
        *(f"data.q={Q}", f"data.gap={GAP}", f"data.dt={DT}", f"data.sigma={SIGMA}", f"data.n_frames={size.frames}", f"data.phi_list={phi}"),
        f"hardware.threads={'null' if threads is None else threads}",
    ]
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        job = build(compose(config_name="config", overrides=[*settings, *truth]))
    job.hardware.configure()
    _, model_rows, estimated = optimize.fit(job, job.data.load(), None)
    return Given(estimated, model_rows, seed=job.seed, threads=job.hardware.cores, folder=None, backend=job.cmc_backend)


def clock() -> np.ndarray:
    """Wall and CPU seconds, the latter of all threads."""
    return np.array([time.perf_counter(), time.process_time()])


def peak_memory() -> float:
    """Largest resident memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def cost(size: Size, name: str) -> dict[str, Any]:
    """One option on one size."""
    fit = given(size)
    from homodyne import option

    sampler = option("posterior", name)
    used = []
    for _ in range(2):
        begin = clock()
        posterior = sampler.sample(fit)
        used.append(clock() - begin)
    (cold, cold_cpu), (warm, warm_cpu) = used
    numbers, draws = posterior.numbers, posterior.answer.u.shape[1]
    found = {
        "laplace": lambda: (draws, draws, ""),
        "psis": lambda: (numbers["evaluations"], numbers["ess"], f"k-hat {numbers['k_hat']:.2f}"),
        "nuts": lambda: (numbers["evaluations"], numbers["ess_bulk"], f"R-hat {numbers['rhat']:.4f}"),
    }[name]()
    evaluations, ess, check = found
    return {
        "data": str(size),
        "posterior": name,
        "cold s": cold,
        "CPU s": cold_cpu,
        "warm s": warm,
        "warm CPU s": warm_cpu,
        "evaluations": 0.0 if name == "laplace" else evaluations,
        "ESS": ess,
        "ESS/s": ess / warm,
        "check": check,
        "exactness": posterior.exactness,
        "peak MB": peak_memory(),
    }


def model(target: Any, center: Any, scale: Any) -> None:
    """The joint density of white coordinates v and of z, the coefficients (G, k) of contrast and offset: center + scale z."""
    import jax.numpy as jnp
    import numpyro
    from numpyro import distributions as dist

    from homodyne.pairsums import LEVEL

    density = target.density
    scaling, prior = density.scaling, density.prior
    real = dist.constraints.real_vector
    v = numpyro.sample("v", dist.ImproperUniform(real, (), event_shape=(len(target.mode),)))
    weight = jnp.asarray(scaling.weight)
    middle = jnp.linalg.solve(weight, jnp.asarray(scaling.aim)[..., None])[..., 0]
    precision = scale[..., None] * weight * scale[..., None, :]
    z = numpyro.sample("z", dist.MultivariateNormal((middle - center) / scale, precision_matrix=precision).to_event(1))
    u, log_slope = target.to_u(v)
    log_prior = prior.log_density(u[:-1])
    w = prior.to_model(u[:-1])
    inside = jnp.isfinite(log_prior) & jnp.all(jnp.isfinite(w))
    sums, fixed = density.sums(jnp.where(inside, w, prior.harmless)), jnp.asarray(density.fixed)
    offset, contrast = (scaling.by_angle(center + scale * z) - jnp.array([LEVEL, 0.0])).T
    count, y, yy, h, hh, hy = *fixed.T, *sums.T
    squares = yy - 2 * (offset * y + contrast * hy) + offset**2 * count + 2 * offset * contrast * h + contrast**2 * hh
    likelihood = -0.5 * jnp.sum(count) * (jnp.log(2 * jnp.pi) + u[-1]) - 0.5 * jnp.sum(squares) * jnp.exp(-u[-1])
    numpyro.factor("density", jnp.where(inside, log_prior + log_slope + likelihood, -jnp.inf))


def joint_normal(target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean (G, k) of the coefficients at the mode, and the covariance of (v, coefficients) there."""
    import jax
    import jax.numpy as jnp

    size, step = len(target.mode), 1e-2

    @jax.jit
    def moments(target, v):
        return target.density.coefficient_moments(target.to_u(v)[0], target.with_sums(v)[1])

    middle, blocks = map(np.asarray, moments(target, jnp.zeros(size)))
    slope = np.stack([(moments(target, e)[0] - moments(target, -e)[0]).ravel() / (2 * step) for e in step * np.eye(size)], axis=1)
    groups, count = middle.shape
    own = np.zeros((groups * count, groups * count))
    for g in range(groups):
        own[g * count : (g + 1) * count, g * count : (g + 1) * count] = blocks[g]
    return middle, np.block([[np.eye(size), slope.T], [slope, own + slope @ slope.T]])


@dataclass(frozen=True)
class Sampled:
    """Chains: numbers (C, S, K) of u and the coefficients, gradients with those of the warm-up, CPU seconds of one."""

    label: str
    values: np.ndarray
    gradients: int
    divergences: int
    seconds: float

    @property
    def sd(self) -> np.ndarray:
        return self.values.std(axis=(0, 1), ddof=1)

    @property
    def effective(self) -> np.ndarray:
        """(K,) bulk effective sizes."""
        from homodyne.bayes import chain_checks

        return chain_checks(self.values)[1]


def seconds_of(function: Any, *arguments: Any) -> float:
    """CPU seconds of a call, of fifty after the first."""
    import jax

    jax.block_until_ready(function(*arguments))
    begin = clock()
    for _ in range(50):
        jax.block_until_ready(function(*arguments))
    return float((clock() - begin)[1]) / 50


def integrated(question: Any, start: np.ndarray, warmup: int, draws: int) -> Sampled:
    """As posterior=nuts samples, with coefficients drawn afterwards."""
    import jax
    import jax.numpy as jnp

    from homodyne.chains import Settings, sample

    target = question.target

    @jax.jit
    def numbers(target, points, keys):
        def one(item):
            v, key = item
            u, sums = target.to_u(v)[0], target.with_sums(v)[1]
            return jnp.concatenate([u, target.density.coefficients(u, sums, key).ravel()])

        return jax.lax.map(one, (points, keys))

    found = sample(target, Settings(len(start), warmup, draws, 0.8, 10), question.key, start, 1, lambda *_: None)
    flat = jnp.asarray(found.v.reshape(-1, found.v.shape[-1]))
    values = np.asarray(numbers(target, flat, jax.random.split(jax.random.key(4), len(flat))))
    gradient = jax.jit(jax.value_and_grad(lambda v, target: target(v)))
    seconds = seconds_of(gradient, jnp.asarray(start[0]), target)
    shaped = values.reshape(*found.v.shape[:2], -1)
    return Sampled("integrated", shaped, found.evaluations, int(found.stats["diverging"].sum()), seconds)


def explicit(question: Any, label: str, start: np.ndarray, *, known: bool, warmup: int, draws: int) -> Sampled:
    """As a model that samples everything, with the metric of the joint normal, or adapted from one that knows the scales."""
    import jax
    import jax.numpy as jnp
    from numpyro.infer import MCMC, NUTS
    from numpyro.infer.util import log_density

    target = question.target
    middle, covariance = joint_normal(target)
    size = len(target.mode)
    unit = np.append(np.ones(size), np.sqrt(np.diagonal(covariance)[size:]))
    white = covariance / np.outer(unit, unit)
    center = jnp.asarray(middle), jnp.asarray(unit[size:].reshape(middle.shape))
    first = {"v": jnp.asarray(start), "z": jnp.asarray((start @ white[:size, size:]).reshape(len(start), *middle.shape))}
    metric = {"inverse_mass_matrix": {("v", "z"): jnp.asarray(white)}, "adapt_mass_matrix": False} if known else {}
    sampler = MCMC(
        NUTS(model, dense_mass=[("v", "z")], target_accept_prob=0.8, max_tree_depth=10, step_size=0.5, **metric),
        num_warmup=warmup,
        num_samples=draws,
        num_chains=len(start),
        chain_method="sequential",
        progress_bar=False,
        jit_model_args=True,
    )
    kept = ("num_steps", "diverging")
    sampler.warmup(jax.random.key(5), target, *center, init_params=first, extra_fields=kept, collect_warmup=True)
    steps = int(np.sum(sampler.get_extra_fields()["num_steps"]))
    sampler.run(sampler.post_warmup_state.rng_key, target, *center, extra_fields=kept)
    found, fields = sampler.get_samples(group_by_chain=True), sampler.get_extra_fields()
    u = np.asarray(jax.vmap(jax.vmap(lambda v: target.to_u(v)[0]))(found["v"]))
    coefficients = np.asarray(center[0] + center[1] * found["z"]).reshape(*u.shape[:2], -1)
    values = np.concatenate([u, coefficients], axis=-1)
    gradient = jax.jit(jax.value_and_grad(lambda point, *parts: log_density(model, parts, {}, point)[0]))
    seconds = seconds_of(gradient, {name: part[0] for name, part in first.items()}, target, *center)
    return Sampled(label, values, steps + int(np.sum(fields["num_steps"])), int(np.sum(fields["diverging"])), seconds)


def explicit_against_integrated(size: Size, warmup: int, draws: int) -> list[dict[str, Any]]:
    """Are the marginals the same, and what does a draw cost?"""
    fit = given(size, threads=1)
    from homodyne.bayes import questions

    (question,) = questions(fit, "model")
    start = question.rng("explicit").standard_normal((4, len(question.target.mode)))
    ours = integrated(question, start, warmup, draws)
    others = [
        explicit(question, label, start, known=known, warmup=warmup, draws=draws)
        for label, known in (("explicit, known metric", True), ("explicit, adapted", False))
    ]
    return [compared(size, ours, part, len(question.density.names)) for part in (ours, *others)]


def compared(size: Size, ours: Sampled, part: Sampled, integrated_dimension: int) -> dict[str, Any]:
    """What chains cost, and how their marginals differ from the integrated ones."""
    shift = np.abs(part.values.mean(axis=(0, 1)) - ours.values.mean(axis=(0, 1))) / ours.sd
    effective = part.effective
    return {
        "data": str(size),
        "label": part.label,
        "numbers": integrated_dimension if part is ours else part.values.shape[-1],
        "gradients": part.gradients,
        "ms": 1e3 * part.seconds,
        "ess": float(effective.min()),
        "divergences": part.divergences,
        "shift": float(shift.max()),
        "shift in errors": float(np.max(shift / np.sqrt(1 / ours.effective + 1 / effective))),
        "sd ratio": [float(np.min(part.sd / ours.sd)), float(np.max(part.sd / ours.sd))],
    }


def markdown(row: dict[str, Any]) -> str:
    numbers = dict.fromkeys(("cold s", "CPU s", "warm s", "warm CPU s"), ".1f") | {
        "evaluations": ".0f",
        "ESS": ".0f",
        "ESS/s": ".0f",
        "peak MB": ".0f",
    }
    return f"| {' | '.join(format(row[name], numbers[name]) if name in numbers else row[name] for name in COLUMNS)} |"


def explicit_text(rows: list[dict[str, Any]]) -> str:
    """The table of the comparison. The shift of a mean is also in Monte Carlo standard errors."""
    head = ("scaling", "numbers", "gradients", "ms", "ESS", "divergences", "gradients per ESS", "CPU per ESS", "largest shift", "sd ratio")
    lines = [f"Explicit against integrated scaling, {rows[0]['data']}:", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    unit = rows[0]["gradients"] * rows[0]["ms"] / rows[0]["ess"]
    for row in rows:
        per, (low, high) = row["gradients"] / row["ess"], row["sd ratio"]
        cells = [row["label"], row["numbers"], row["gradients"], f"{row['ms']:.2f}", f"{row['ess']:.0f}", row["divergences"], f"{per:.1f}"]
        cells += [
            f"x {per * row['ms'] / unit:.1f}",
            f"{row['shift']:.3f} sd ({row['shift in errors']:.1f} errors)",
            f"{low:.3f}-{high:.3f}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def alone(function: Any, *arguments: Any) -> Any:
    """What a function returns in a new process with an empty compilation cache; an exception is returned, not raised."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            future = pool.submit(function, *arguments)
            error = future.exception()
            return future.result() if error is None else error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", type=Size.of, default=[Size(5, 300), Size(23, 500)], help="angles x frames, as 5x300")
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--explicit", default="5x100", help="size of the comparison with explicit scaling, or none")
    parser.add_argument("--warmup", type=int, default=500, help="of each chain of the comparison")
    parser.add_argument("--draws", type=int, default=1000, help="of each chain of the comparison")
    parser.add_argument("--out", type=Path, help="also write the rows to this JSON file")
    options = parser.parse_args()
    rows: list[Any] = []
    print(f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", sep="\n", flush=True)
    for size in options.sizes:
        for name in options.options:
            found = alone(cost, size, name)
            print(f"| {size} | {name} | failed: {found} |" if isinstance(found, BaseException) else markdown(found), flush=True)
            rows += [] if isinstance(found, BaseException) else [found]
    if options.explicit != "none":
        found = alone(explicit_against_integrated, Size.of(options.explicit), options.warmup, options.draws)
        print("\n" + (f"Explicit scaling failed: {found}" if isinstance(found, BaseException) else explicit_text(found)), flush=True)
        rows += [] if isinstance(found, BaseException) else found
    print(f"\nload average {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} cores")
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
