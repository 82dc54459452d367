"""A fit as two files: ``fit.json`` (numbers and sentences for people) and ``fit.npz`` (arrays for programs).

``document`` and ``arrays`` make their content, ``read_fit`` turns it back into the same Fit. JSON knows no NaN or infinity: both
are written as null and come back as NaN (as -inf or +inf in a bound). Every field is listed in docs/outputs.md.
"""

import platform
from collections.abc import Mapping
from dataclasses import asdict, fields
from enum import Enum
from importlib.metadata import version
from typing import Any

import numpy as np

from . import __version__
from .correlation import correlation
from .data.dataset import Dataset
from .draws import Answer, Posterior, Shards
from .physics import SHEAR_KERNELS
from .pictures import FULL_LIMIT, Cuts, FullMaps, Maps, Pictures
from .results import (
    Comparison,
    Contour,
    Curve,
    Derived,
    Estimate,
    Fit,
    Goodness,
    Iteration,
    Minimum,
    NoiseFacts,
    Outcome,
    Profile,
    Test,
    Verdict,
)

SCHEMA_VERSION = 3

GOODNESS_ARRAYS = ("lag_edges", "lag", "age", "z", "z_lag", "z_age")
"""What of Goodness is in fit.npz."""

PROFILE_ARRAYS, CONTOUR_ARRAYS = ("value", "rise", "root"), ("edge", "inner", "points", "estimate", "covariance")
"""What of each Profile and Contour is in fit.npz."""

PACKAGES = ("jax", "numpy", "scipy")

# Initial decay of the two kernels: X^2/12 = (X s)^2/(6 pi^2) with s = pi/sqrt(2).
KERNEL_TEXT = {
    "gap_average": "gap_average: shear factor sinc(q L cos(phi0 - phi) Gamma/2)^2, the average over a linear velocity profile across the "
    "gap. homodyne_v2 (the kernel of homodyne 2.x) gives shear rates pi/sqrt(2) = 2.2214 times larger for the same initial decay.",
    "homodyne_v2": "homodyne_v2: shear factor sinc(q L cos(phi0 - phi) Gamma/(2 pi))^4, as homodyne 2.x computes it. gap_average (a linear "
    "velocity profile across the gap) gives shear rates pi/sqrt(2) = 2.2214 times smaller for the same initial decay.",
}
assert set(KERNEL_TEXT) == set(SHEAR_KERNELS)

D0_TEXT = "J(t) = D0 t^alpha + D_offset enters c2 as exp(-q^2 integral of J dt); at equilibrium J is twice the Stokes-Einstein coefficient."
FULL_TEXT = "data, model and residual of every pair are in fit.npz (full_data, full_model, full_residual)."
RECOMPUTE_TEXT = (
    f"The maps have more than {FULL_LIMIT} values and are not stored: homodyne.load_run(folder).model(index) computes the fitted map of "
    "one angle from the parameters; the data are read again from data.path with config.yaml."
)


def document(*, seed: int, hardware: Mapping[str, Any], dataset: Dataset, fit: Fit) -> dict[str, Any]:
    """The content of fit.json, still with NaN and infinity (see ``plain``)."""
    return {
        "schema_version": SCHEMA_VERSION,
        "outcome": {
            "name": fit.outcome.name,
            "success": fit.success,
            "sentence": fit.outcome.value,
            "message": fit.message,
            "passes": fit.passes,
        },
        "mode": fit.mode,
        "shear_kernel": fit.shear_kernel,
        "scaling": fit.scaling,
        "parameters": _by_name(fit.parameters),
        "t_ref": fit.t_ref,
        "rates": _by_name(fit.rates),
        "per_angle": _per_angle(dataset, fit),
        "quality": {
            "sigma": fit.sigma,
            "chi2": fit.chi2,
            "reduced_chi2": fit.reduced_chi2,
            "pairs": fit.pairs,
            "dof": fit.dof,
        },
        "noise": {"option": fit.noise, "text": fit.noise_text} | ({} if fit.noise_facts is None else asdict(fit.noise_facts)),
        "verdict": asdict(fit.verdict),
        "goodness": None if fit.goodness is None else _goodness(fit.goodness),
        "statements": fit.statements,
        "decisions": fit.decisions,
        "conventions": {
            "time_origin": time_origin_text(dataset),
            "shear_kernel": kernel_text(fit.shear_kernel),
            "D0": D0_TEXT,
        },
        "covariance": _physical_covariance(fit),
        "curves": _curve_facts(fit.curves),
        "derived": None if fit.derived is None else _derived(fit.derived),
        "profiles": {name: _without(found, PROFILE_ARRAYS) for name, found in fit.profiles.items()},
        "contours": [_without(found, CONTOUR_ARRAYS) for found in fit.contours],
        "comparisons": [asdict(found) for found in fit.comparisons],
        "alternatives": fit.alternatives,
        "minima": [asdict(minimum) for minimum in fit.minima],
        "history": [asdict(iteration) for iteration in fit.history],
        "data": _data(dataset),
        "truth": None if dataset.truth is None else dataset.truth.comparable(fit.shear_kernel),
        "maps": FULL_TEXT if len(dataset.phi) * dataset.n**2 <= FULL_LIMIT else RECOMPUTE_TEXT,
        "seed": seed,
        "versions": {"homodyne": __version__, "python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "hardware": dict(hardware),
        "timings": fit.timings,
        "peak_memory_mb": fit.peak_memory_mb,
    }


def posterior_facts(posterior: Posterior) -> dict[str, Any]:
    """The block ``posterior`` of fit.json; the draws are in posterior.nc."""

    def width(answer: Answer) -> dict[str, Any]:
        summary = {name: asdict(found) for name, found in answer.summary.items()}
        return {"chains": answer.chains, "draws": answer.sigma.size, "summary": summary}

    return {
        "engine": posterior.engine,
        "exactness": posterior.exactness,
        "confidence": posterior.confidence,
        "numbers": posterior.numbers,
        "widths": {name: width(answer) for name, answer in posterior.answers.items()},
        "prior": None if posterior.prior is None else posterior.prior.text,
        "shards": None if posterior.shards is None else _shard_rows(posterior.shards, posterior.names),
        "decisions": posterior.decisions,
        "statements": posterior.statements,
    }


def arrays(dataset: Dataset, fit: Fit, pictures: Pictures) -> dict[str, np.ndarray]:
    """The content of fit.npz: numbers and text only, so that it opens without pickles."""
    content = {
        "q": np.float64(dataset.q),
        "gap": np.float64(dataset.gap),
        "t": dataset.t,
        "frame": dataset.frame,
        "diagonal": dataset.diagonal,
        "pixels": dataset.pixels,
        "counts": dataset.counts,
        "pairs": dataset.pairs,
        "phi": fit.phi,
        "contrast": fit.contrast,
        "contrast_error": fit.contrast_error,
        "offset": fit.offset,
        "offset_error": fit.offset_error,
        **_drift(fit),
        "names": np.array(fit.names, dtype=np.str_),
        "covariance": fit.covariance,
        "coordinates": np.array(fit.coordinates, dtype=np.str_),
        "solution": fit.solution,
        "solution_covariance": fit.solution_covariance,
    }
    content |= _curve_arrays("curve", fit.curves) | ({} if fit.derived is None else _curve_arrays("derived", fit.derived.curves))
    for key, profile in fit.profiles.items():
        content |= {f"profile_{key}_{name}": getattr(profile, name) for name in PROFILE_ARRAYS}
    for k, contour in enumerate(fit.contours):
        content |= {f"contour_{k}_{name}": getattr(contour, name) for name in CONTOUR_ARRAYS}
    if fit.goodness is not None:
        content |= {f"goodness_{name}": getattr(fit.goodness, name) for name in GOODNESS_ARRAYS}
    groups = {"maps": pictures.maps, "equal_lag": pictures.equal_lag, "equal_age": pictures.equal_age}
    for prefix, group in (groups | ({} if pictures.full is None else {"full": pictures.full})).items():
        content |= {f"{prefix}_{name}": array for name, array in vars(group).items()}
    return {key: np.asarray(value) for key, value in content.items()}


def read_fit(document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Fit:
    """The Fit that ``document`` and ``arrays`` were made from. A missing field is a KeyError or TypeError."""
    quality, outcome = document["quality"], document["outcome"]
    return Fit(
        mode=document["mode"],
        shear_kernel=document["shear_kernel"],
        scaling=document["scaling"],
        parameters=_estimates(document["parameters"]),
        t_ref=number(document["t_ref"]),
        rates=_estimates(document["rates"]),
        curves=_curves("curve", document["curves"], arrays),
        phi=arrays["phi"],
        contrast=arrays["contrast"],
        contrast_error=arrays["contrast_error"],
        offset=arrays["offset"],
        offset_error=arrays["offset_error"],
        names=tuple(arrays["names"].tolist()),
        covariance=arrays["covariance"],
        noise=document["noise"]["option"],
        noise_text=document["noise"]["text"],
        sigma=number(quality["sigma"]),
        chi2=number(quality["chi2"]),
        reduced_chi2=number(quality["reduced_chi2"]),
        pairs=quality["pairs"],
        dof=quality["dof"],
        outcome=Outcome[outcome["name"]],
        message=outcome["message"],
        passes=outcome["passes"],
        history=tuple(_iteration(facts) for facts in document["history"]),
        minima=tuple(Minimum(numbers(m["parameters"]), number(m["chi2"]), m["times_reached"]) for m in document["minima"]),
        statements=tuple(document["statements"]),
        decisions=tuple(document["decisions"]),
        coordinates=tuple(arrays["coordinates"].tolist()),
        solution=arrays["solution"],
        solution_covariance=arrays["solution_covariance"],
        alternatives={name: numbers(values) for name, values in document["alternatives"].items()},
        timings=numbers(document["timings"]),
        peak_memory_mb=number(document["peak_memory_mb"]),
        noise_facts=_noise_facts(document["noise"]),
        verdict=_verdict(document["verdict"]),
        q=float(arrays["q"]),
        gap=float(arrays["gap"]),
        gap_assumed=document["data"]["gap_assumed"],
        goodness=None if document["goodness"] is None else _read_goodness(document["goodness"], arrays),
        **{name: arrays[name] for name in ("contrast_drift", "contrast_drift_error") if name in arrays},
        derived=None if document["derived"] is None else _read_derived(document["derived"], arrays),
        profiles={name: _read_profile(name, facts, arrays) for name, facts in document["profiles"].items()},
        contours=tuple(_read_contour(k, facts, arrays) for k, facts in enumerate(document["contours"])),
        comparisons=tuple(_comparison(facts) for facts in document["comparisons"]),
    )


def read_pictures(arrays: Mapping[str, np.ndarray]) -> Pictures:
    """The Pictures of fit.npz. A missing field is a KeyError."""

    def group(cls: type, prefix: str) -> Any:
        return cls(**{field.name: arrays[f"{prefix}_{field.name}"] for field in fields(cls)})

    full = group(FullMaps, "full") if "full_data" in arrays else None
    return Pictures(group(Maps, "maps"), group(Cuts, "equal_lag"), group(Cuts, "equal_age"), full)


def plain(value: Any) -> Any:
    """A value as JSON knows it: NumPy numbers and arrays as Python's, tuples as lists, enums by name, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value


def number(value: float | None) -> float:
    """A JSON number as float; null is NaN."""
    return float("nan") if value is None else float(value)


def numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    """JSON numbers by name; null is NaN."""
    return {name: number(value) for name, value in values.items()}


def kernel_text(shear_kernel: str) -> str:
    """What the shear kernel is, and the factor to the other one."""
    return KERNEL_TEXT[shear_kernel] if shear_kernel in KERNEL_TEXT else "no shear in this mode."


def time_origin_text(dataset: Dataset) -> str:
    """Where t = 0 is, and which parameters depend on it."""
    return (
        f"t = 0 lies {dataset.t[0]:g} s ({dataset.t[0] / dataset.dt:.6g} time steps) before frame {int(dataset.frame[0])}, the first used. "
        "D0, alpha, gamma_dot_t0 and beta refer to this origin and change with it; the rate at a given frame does not."
    )


def _by_name(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    """An interval that is not there is null as a whole, an open end of one is null."""
    return {key: asdict(estimate) | {"interval": _ends(estimate)} for key, estimate in estimates.items()}


def _ends(estimate: Estimate) -> tuple[float, float] | None:
    return None if np.isnan(estimate.interval).any() else estimate.interval


def _per_angle(dataset: Dataset, fit: Fit) -> list[dict[str, Any]]:
    columns = {
        "phi": fit.phi,
        "contrast": fit.contrast,
        "contrast_error": fit.contrast_error,
        "offset": fit.offset,
        "offset_error": fit.offset_error,
        **_drift(fit),
        "pairs": dataset.pairs,
        "pixels": dataset.pixels,
    }
    return [{name: column[k] for name, column in columns.items()} for k in range(len(fit.phi))]


def _drift(fit: Fit) -> dict[str, np.ndarray]:
    """What is only there when a drift of the contrast was fitted."""
    found = {"contrast_drift": fit.contrast_drift, "contrast_drift_error": fit.contrast_drift_error}
    return {name: values for name, values in found.items() if values is not None}


def _noise_facts(facts: Mapping[str, Any]) -> NoiseFacts | None:
    if "pixels" not in facts:
        return None
    arrays = {name: np.array([number(value) for value in facts[name]]) for name in ("pixels", "shot")}
    single = ("speckle_size", "scatter", "scatter_error", "independent_frames", "effective_pairs")
    values: dict[str, Any] = arrays | {name: number(facts[name]) for name in single}
    return NoiseFacts(**values, pixels_source=facts["pixels_source"], shot_source=facts["shot_source"], ratio=numbers(facts["ratio"]))


def _verdict(facts: Mapping[str, Any]) -> Verdict:
    return Verdict(facts["name"], number(facts["p_value"]), number(facts["level"]), facts["sentence"])


def _goodness(found: Goodness) -> dict[str, Any]:
    tests = {name: {"statistic": t.statistic, "rank": t.rank, "p_value": t.p_value, "z": t.z} for name, t in found.tests.items()}
    rest = {name: getattr(found, name) for name in ("angles", "scatter", "scatter_error", "scaled")}
    return {"tests": tests} | rest


def _read_goodness(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Goodness:
    return Goodness(
        tests={
            name: Test(name, number(t["statistic"]), t["rank"], number(t["p_value"]), number(t["z"])) for name, t in facts["tests"].items()
        },
        angles=tuple(number(value) for value in facts["angles"]),
        scatter=number(facts["scatter"]),
        scatter_error=number(facts["scatter_error"]),
        scaled=facts["scaled"],
        **{name: arrays[f"goodness_{name}"] for name in GOODNESS_ARRAYS},
    )


def _comparison(facts: Mapping[str, Any]) -> Comparison:
    numbers = {name: number(facts[name]) for name in ("statistic", "p_value", "bic")}
    return Comparison(name=facts["name"], extra=facts["extra"], text=facts["text"], **numbers)


def _shard_rows(shards: Shards, names: tuple[str, ...]) -> list[dict[str, Any]]:
    columns = {name: getattr(shards, name) for name in ("status", "pairs", "rhat", "ess", "divergences", "attempts", "seconds")}
    spread = {"mean": shards.parameter_mean, "sd": shards.parameter_sd}
    rows = [{name: column[k] for name, column in columns.items()} for k in range(len(shards.status))]
    for k, row in enumerate(rows):
        row["parameters"] = {name: {word: values[k, at] for word, values in spread.items()} for at, name in enumerate(names)}
    return rows


def _physical_covariance(fit: Fit) -> dict[str, Any]:
    """Names, covariance and correlation of the physical parameters; the covariance of all numbers is in fit.npz."""
    found = correlation(fit)
    facts = {"correlation": found.matrix, "condition": found.condition, "sentence": found.sentence}
    return {"names": found.names, "matrix": found.covariance} | facts


def _derived(derived: Derived) -> dict[str, Any]:
    return {"quantities": _by_name(derived.quantities), "curves": _curve_facts(derived.curves), "statements": derived.statements}


def _read_derived(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Derived:
    return Derived(_estimates(facts["quantities"]), _curves("derived", facts["curves"], arrays), tuple(facts["statements"]))


def _without(found: Profile | Contour, left_out: tuple[str, ...]) -> dict[str, Any]:
    """The fields that are not in fit.npz."""
    return {name: value for name, value in asdict(found).items() if name not in left_out}


def _read_profile(key: str, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Profile:
    values: dict[str, Any] = {name: arrays[f"profile_{key}_{name}"] for name in PROFILE_ARRAYS}
    values |= {name: number(facts[name]) for name in ("estimate", "error", "confidence", "inflation")}
    values |= {"lower": _bound(facts["lower"], -np.inf), "upper": _bound(facts["upper"], np.inf)}
    return Profile(facts["name"], facts["unit"], **values, sentence=facts["sentence"])


def _read_contour(k: int, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Contour:
    values: dict[str, Any] = {name: arrays[f"contour_{k}_{name}"] for name in CONTOUR_ARRAYS}
    values |= {name: tuple(facts[name]) for name in ("names", "units")}
    return Contour(**values, confidence=number(facts["confidence"]), closed=facts["closed"], sentence=facts["sentence"])


def _data(dataset: Dataset) -> dict[str, Any]:
    source = dataset.provenance
    return {
        "path": source.path,
        "layout": source.layout,
        "notes": source.notes,
        "fingerprint": dataset.fingerprint,
        "q": dataset.q,
        "gap": dataset.gap,
        "gap_assumed": dataset.gap_assumed,
        "angles": len(dataset.phi),
        "frames": dataset.n,
        "first_frame": int(dataset.frame[0]),
        "last_frame": int(dataset.frame[-1]),
        "t_first": float(dataset.t[0]),
        "t_last": float(dataset.t[-1]),
        "dt": dataset.dt,
    }


def _estimates(documents: Mapping[str, Any]) -> dict[str, Estimate]:
    return {key: _estimate(**facts) for key, facts in documents.items()}


def _estimate(name: str, value: Any, error: Any, unit: str, lower: Any, upper: Any, status: Any, interval: Any) -> Estimate:
    bounds = _bound(lower, -np.inf), _bound(upper, np.inf)
    ends = (np.nan, np.nan) if interval is None else (_bound(interval[0], -np.inf), _bound(interval[1], np.inf))
    return Estimate(name, number(value), number(error), unit, *bounds, status, ends)


def _bound(value: float | None, infinity: float) -> float:
    """A JSON number as float; null is no bound."""
    return infinity if value is None else float(value)


def _curve_facts(curves: Mapping[str, Curve]) -> dict[str, dict[str, Any]]:
    return {key: {"name": c.name, "unit": c.unit, "determined": c.determined, "best_time": c.best_time} for key, c in curves.items()}


def _curve_arrays(prefix: str, curves: Mapping[str, Curve]) -> dict[str, np.ndarray]:
    return {f"{prefix}_{key}_{part}": getattr(curve, part) for key, curve in curves.items() for part in ("t", "value", "error")}


def _curves(prefix: str, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Curve]:
    return {key: _curve(f"{prefix}_{key}", item, arrays) for key, item in facts.items()}


def _curve(key: str, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Curve:
    t, value, error = (arrays[f"{key}_{part}"] for part in ("t", "value", "error"))
    return Curve(facts["name"], facts["unit"], t, value, error, facts["determined"], number(facts["best_time"]))


def _iteration(facts: Mapping[str, Any]) -> Iteration:
    sizes = (number(facts[name]) for name in ("chi2", "step", "gradient", "seconds"))
    return Iteration(facts["stage"], facts["number"], *sizes)
