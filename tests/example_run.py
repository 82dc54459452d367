"""A simulated measurement and a plausible Fit of it, for tests of what is saved and drawn; no optimizer is involved."""

from dataclasses import dataclass, replace

import numpy as np

from homodyne.data.dataset import Dataset, Provenance, Truth
from homodyne.physics import PARAMETERS, SHEAR, TRANSPORT, power_law, two_time
from homodyne.results import Curve, Estimate, Fit, Iteration, Minimum, ModelRows, Outcome
from homodyne.tiles import pack

Q, GAP, DT, SIGMA = 0.0054, 2e6, 0.1, 0.02
TRUTH = {
    "D0": 6000.0,
    "alpha": -0.4,
    "D_offset": 30.0,
    "gamma_dot_t0": 6e-4,
    "beta": -0.27,
    "gamma_dot_t_offset": 1e-5,
    "phi0": -6.7,
}
UNITS = ("Angstrom^2/s", "1", "Angstrom^2/s", "1/s", "1", "1/s", "degrees")


@dataclass(frozen=True)
class ExampleHardware:
    cores: int = 2

    def describe(self) -> dict[str, str | int]:
        return {"platform": "cpu", "threads": self.cores}


@dataclass(frozen=True)
class ExampleJob:
    """The part of a Job that save_run reads."""

    text: str = "mode:\n  _target_: homodyne.mode.laminar_flow.LaminarFlow\nseed: 3\n"
    seed: int = 3
    hardware: ExampleHardware = ExampleHardware()


def example_dataset(*, mode: str = "laminar_flow", n: int = 70, angles: int = 3, masked: bool = True) -> Dataset:
    """Maps with Gaussian noise; the last angle lacks one frame and a square of pairs when masked."""
    rng = np.random.default_rng(7)
    t, phi = DT * np.arange(1, n + 1), np.linspace(-75, 75, angles)
    contrast = 0.2 * (1 + 0.1 * np.sin(np.arange(angles)))
    truth = {name: TRUTH[name] for name in PARAMETERS[mode]}
    tiles = []
    for angle, scale in zip(phi, contrast, strict=True):
        c2 = two_time(truth, angle, t, q=Q, gap=GAP, mode=mode, contrast=scale, offset=1.0)[0]
        noisy = c2 + np.triu(rng.normal(0, SIGMA, c2.shape), 1)
        if masked and angle == phi[-1]:
            noisy[n // 3] = noisy[:, n // 3] = np.nan
            noisy[n // 2 : n // 2 + n // 10, 3 * n // 4 :] = np.nan
        tiles.append(pack(noisy.astype(np.float32)))
    return Dataset(
        tiles=np.stack(tiles),
        phi=phi,
        q=Q,
        gap=GAP,
        t=t,
        frame=np.arange(2, n + 2),
        diagonal=np.full((angles, n), 1.4),
        pixels=np.full(angles, 1000.0),
        counts=np.full(angles, np.nan),
        provenance=Provenance("run12.hdf", "simulated", ("frame 1 was dropped: t = 0", "1 frame is masked at phi = 75")),
        truth=Truth(truth, "none" if mode == "static" else "gap_average"),
    )


def example_fit(dataset: Dataset) -> Fit:
    """Values one error from the truth; D_offset is undetermined and, in laminar flow, gamma_dot_t_offset is fixed."""
    assert dataset.truth is not None
    truth = dataset.truth.parameters
    names, count = tuple(truth), len(dataset.phi)
    laminar = len(names) == 7
    scaling = [f"{word}[{k}]" for word in ("contrast", "offset") for k in range(count)]
    covariance = _covariance(names, count)
    errors = np.sqrt(np.diag(covariance))
    scale = errors[len(names) :]
    parameters = {}
    for name, unit, error in zip(names, UNITS, errors, strict=False):
        status = "undetermined" if name == "D_offset" else "fixed" if name == "gamma_dot_t_offset" else "free"
        bounds = (-2.0, 2.0) if name in ("alpha", "beta") else (-np.inf, np.inf)
        moved = truth[name] + (0.5 * error if np.isfinite(error) else 0.0)
        parameters[name] = Estimate(name, moved, float(error), unit, *bounds, status)
    laws = {"J": (TRANSPORT, "Angstrom^2/s"), "gamma_dot": (SHEAR, "1/s")}
    curves, rates = {}, {}
    t_ref = float(np.sqrt(dataset.t[0] * dataset.t[-1]))
    for curve, (law, unit) in list(laws.items())[: 2 if laminar else 1]:
        value = np.asarray(power_law(*(parameters[name].value for name in law), dataset.t), dtype=np.float64)
        error = value * (0.01 + 0.02 * np.abs(np.log(dataset.t / t_ref)))
        curves[curve] = Curve(curve, unit, dataset.t, value, error, True, t_ref)
        rates[f"{curve}_best"] = Estimate(f"{curve}_best", float(np.interp(t_ref, dataset.t, value)), 3.0, unit, 0.0, np.inf, "free")
    pairs = int(dataset.pairs.sum())
    dof = pairs - len(names) - 2 * count
    return Fit(
        q=dataset.q,
        gap=dataset.gap,
        mode="laminar_flow" if laminar else "static",
        shear_kernel="gap_average" if laminar else "none",
        scaling="individual",
        parameters=parameters,
        t_ref=t_ref,
        rates=rates,
        curves=curves,
        phi=dataset.phi,
        contrast=0.2 * (1 + 0.1 * np.sin(np.arange(count))) + 0.3 * scale[:count],
        contrast_error=scale[:count],
        offset=np.ones(count) - 0.4 * scale[count:],
        offset_error=scale[count:],
        names=(*names, *scaling),
        covariance=covariance,
        noise="frame_clustered",
        noise_text="errors from residuals; pixels that share a frame may be correlated",
        sigma=SIGMA,
        chi2=dof * SIGMA**2,
        reduced_chi2=SIGMA**2,
        pairs=pairs,
        dof=dof,
        outcome=Outcome.CONVERGED,
        message="relative change of chi2 below 1e-10",
        passes=13,
        history=_history(dof * SIGMA**2),
        minima=(Minimum(dict(truth), dof * SIGMA**2, 4), Minimum(dict(truth) | {"D0": 2e4}, dof * SIGMA**2 * 1.01, 1)),
        statements=("only D0 + D_offset is determined",),
        decisions=("individual scaling: one contrast for all angles is rejected, p = 1e-9",),
        coordinates=("ln rate[D0] at first time", "ln rate[D0] at last time", "alpha"),
        solution=np.array([10.1, 8.2, -0.57]),
        solution_covariance=np.diag([1e-4, 1e-4, np.nan]),
        alternatives={"averaged": dict(truth)},
        timings={"read": 0.2, "search": 1.5},
        peak_memory_mb=812.0,
    )


def with_gaps(fit: Fit) -> Fit:
    """A fit that failed: NaN and infinities wherever a float may be one."""
    lost = {name: replace(estimate, value=np.nan, error=np.nan) for name, estimate in fit.parameters.items()}
    history = (*fit.history, Iteration("all pixels", 99, np.inf, np.nan, np.nan, 0.1))
    return replace(fit, parameters=lost, chi2=np.nan, reduced_chi2=np.nan, sigma=np.nan, history=history, outcome=Outcome.NOT_FINITE)


def rows_of(fit: Fit, dataset: Dataset) -> ModelRows:
    """The model_rows that a run hands to save_run."""
    parameters = {name: estimate.value for name, estimate in fit.parameters.items()}
    cache: dict[int, np.ndarray] = {}

    def rows(k: int, start: int, stop: int) -> np.ndarray:
        if k not in cache:
            cache.clear()
            cache[k] = two_time(
                parameters,
                fit.phi[k],
                dataset.t,
                q=dataset.q,
                gap=dataset.gap,
                mode=fit.mode,
                contrast=fit.contrast[k],
                offset=fit.offset[k],
            )[0]
        return cache[k][start:stop]

    return rows


def _covariance(names: tuple[str, ...], count: int) -> np.ndarray:
    """Relative errors of 2 %, correlated amplitude and exponent, NaN for what is fixed or undetermined."""
    rng = np.random.default_rng(1)
    size = len(names) + 2 * count
    errors = np.array([0.02 * max(abs(TRUTH[name]), 1e-5) for name in names] + [4e-4] * count + [2e-4] * count)
    mixing = np.eye(size) + 0.12 * rng.normal(size=(size, size))
    mixing[1, 0] = -2.0
    mixing[len(names) + count :, len(names) : len(names) + count] -= 0.3 / count
    correlation = mixing @ mixing.T
    scale = errors / np.sqrt(np.diag(correlation))
    covariance = correlation * np.outer(scale, scale)
    lost = [k for k, name in enumerate(names) if name in ("D_offset", "gamma_dot_t_offset")]
    covariance[lost] = covariance[:, lost] = np.nan
    return covariance


def _history(best: float) -> tuple[Iteration, ...]:
    steps = [Iteration("minimum 1", k, best * (1 + 0.5 * 8.0**-k), 3.0 * 4.0**-k, 1e4 * 7.0**-k, 0.2) for k in range(6)]
    steps += [Iteration("minimum 2", k, best * (1.01 + 0.5 * 6.0**-k), 2.0 * 4.0**-k, 2e4 * 7.0**-k, 0.2) for k in range(4)]
    steps += [
        Iteration("all pixels", k, best * (1 + (1e-4 * 9.0**-k if k < 3 else 0.0)), 0.1 * 4.0**-k, 30 * 7.0**-k, 0.3) for k in range(4)
    ]
    return tuple(steps)
