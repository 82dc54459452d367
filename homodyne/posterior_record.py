"""``posterior.nc``: a Posterior as a NetCDF-4 file that ArviZ and xarray open (``arviz.from_netcdf``), and back unchanged.

Groups and variables are listed in docs/outputs.md. A group of the second width has the suffix ``_calibrated``. A variable has the
name of its number where tools can take it, with dots, spaces and brackets made underscores; the exact name is its ``long_name``.
This module alone imports xarray: load it only when there is a posterior.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from . import __version__
from .atomic import write_atomic
from .data.dataset import Dataset
from .draws import Answer, Posterior, Predictive, Prior, Shards, Summary
from .errors import DataError
from .pictures import Pictures
from .results import Fit

SCHEMA_VERSION = 1
DRAW = ("chain", "draw")
CUTS = {"equal_lag": ("angle", "lag", "age_bin"), "equal_age": ("angle", "age", "lag_bin")}
SUMMARY = tuple(field.name for field in fields(Summary))
SHARD_COLUMNS = ("pairs", "rhat", "ess", "divergences", "attempts", "seconds")


def save_posterior(path: Path, posterior: Posterior, *, dataset: Dataset, fit: Fit, pictures: Pictures) -> None:
    """Write a Posterior with the data that it is of.

    Args:
        fit: knows the units of the rates. pictures: of the fit; the cuts of the data are saved beside the predicted ones.
    """
    units = {name: curve.unit for name, curve in fit.curves.items()}
    groups = {"constant_data": _constant(posterior, dataset), "observed_data": _observed(pictures), "numbers": _numbers(posterior.numbers)}
    for width, answer in posterior.answers.items():
        suffix = _suffix(width)
        groups |= {name + suffix: group for name, group in _answer(posterior, answer, units).items()}
    if posterior.prior is not None:
        groups |= _prior(posterior, posterior.prior, units)
    if posterior.predictive is not None:
        groups |= _predictive(posterior.predictive)
    if posterior.shards is not None:
        groups["shards"] = _shards(posterior, posterior.shards)
    attributes = {
        "schema_version": SCHEMA_VERSION,
        "creation_library": "homodyne",
        "creation_library_version": __version__,
        "data_fingerprint": dataset.fingerprint,
        "engine": posterior.engine,
        "exactness": posterior.exactness,
        "confidence": posterior.confidence,
        "widths": _words(posterior.answers),
        "parameters": _words(posterior.names),
        "units": _words(posterior.units),
        "sampled": _words(posterior.coordinates),
        "decisions": _words(posterior.decisions),
        "statements": _words(posterior.statements),
    }
    tree = xr.DataTree.from_dict({"/": xr.Dataset(attrs=attributes), **groups})
    content = tree.to_netcdf(engine="h5netcdf", format="NETCDF4")
    write_atomic(path, lambda file: file.write(content))


def load_posterior(path: Path) -> Posterior:
    """The Posterior that was saved.

    Raises:
        DataError: the file is missing, damaged or of another version.
    """
    try:
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            version = tree.attrs["schema_version"]
            if version != SCHEMA_VERSION:
                raise DataError(f"{path} has schema_version {version}; this version of homodyne reads {SCHEMA_VERSION}")
            attributes = {str(name): value for name, value in tree.attrs.items()}
            return _read({name: node.to_dataset() for name, node in tree.children.items()}, attributes)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is missing, damaged or not a posterior of this program: {error}") from error


def variable_names(names: Iterable[str]) -> list[str]:
    """Names that Python, ArviZ and NetCDF take, one for each; those that would be equal get their number."""
    words = [re.sub(r"\W+", "_", name).strip("_") for name in names]
    return [word if words.count(word) == 1 else f"{word}_{k}" for k, word in enumerate(words)]


def _suffix(width: str) -> str:
    return "" if width == "model" else f"_{width}"


def _words(words: Iterable[str]) -> str:
    """Words as one attribute: NetCDF would give a list of one back as a word."""
    return json.dumps(list(words), ensure_ascii=False)


def _split(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def _named(names: Iterable[str], arrays: Iterable[np.ndarray], dims: tuple[str, ...], units: Iterable[str] | None = None) -> dict[str, Any]:
    """Variables of several arrays of the same dimensions."""
    labels = list(names)
    attributes = [{"long_name": label} for label in labels]
    if units is not None:
        attributes = [found | {"units": unit} for found, unit in zip(attributes, units, strict=True)]
    return {name: (dims, array, found) for name, array, found in zip(variable_names(labels), arrays, attributes, strict=True)}


def _columns(array: np.ndarray) -> list[np.ndarray]:
    """(..., K) as K arrays."""
    return list(np.moveaxis(array, -1, 0))


def _group(variables: Mapping[str, Any], attributes: Mapping[str, Any], **coordinates: Any) -> xr.Dataset:
    """A group; dimensions without given coordinates count from 0."""
    found = xr.Dataset(variables, dict(coordinates), dict(attributes))
    return found.assign_coords({name: np.arange(size) for name, size in found.sizes.items() if name not in found.coords})


def _curves(rates: Mapping[str, np.ndarray], t: np.ndarray, units: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Variables of the rates, and their times."""
    times = {"time": ("time", t, {"units": "s"})} if rates else {}
    return _named(rates, rates.values(), (*DRAW, "time"), [units[name] for name in rates]), times


def _answer(posterior: Posterior, answer: Answer, units: Mapping[str, str]) -> dict[str, xr.Dataset]:
    rates, times = _curves(answer.rates, posterior.t, units)
    variables = _named(posterior.names, _columns(answer.parameters), DRAW, posterior.units) | rates
    variables |= {name: ((*DRAW, "angle"), getattr(answer, name), {"units": "1"}) for name in ("contrast", "offset")}
    variables["sigma"] = (DRAW, answer.sigma, {"units": "1", "long_name": "standard deviation of one pixel"})
    chains = {"chains": int(answer.chains), "rates": _words(answer.rates)}
    table = {name: ("quantity", _column(answer.summary, name)) for name in SUMMARY}
    return {
        "posterior": _group(variables, chains, **times),
        "unconstrained_posterior": _group(_named(posterior.coordinates, _columns(answer.u), DRAW), {}),
        "sample_stats": _group(_named(answer.stats, answer.stats.values(), DRAW), {"names": _words(answer.stats)}),
        "summary": xr.Dataset(table, {"quantity": _strings(answer.summary)}),
    }


def _column(summary: Mapping[str, Summary], name: str) -> np.ndarray:
    values = [getattr(found, name) for found in summary.values()]
    return _strings(values) if name in ("name", "unit") else np.array(values, dtype=np.float64)


def _strings(values: Iterable[str]) -> np.ndarray:
    return np.array(list(values), dtype=np.str_)


def _prior(posterior: Posterior, prior: Prior, units: Mapping[str, str]) -> dict[str, xr.Dataset]:
    rates, times = _curves({name: rate[None] for name, rate in prior.rates.items()}, posterior.t, units)
    variables = _named(posterior.names, _columns(prior.parameters[None]), DRAW, posterior.units) | rates
    variables |= {name: ((*DRAW, "angle"), getattr(prior, name)[None], {"units": "1"}) for name in ("contrast", "offset")}
    attributes = {"text": json.dumps(prior.text, ensure_ascii=False), "rates": _words(prior.rates)}
    columns = _columns(prior.u[None])
    return {
        "prior": _group(variables, attributes, **times),
        # The coordinates of the model come first among those that were sampled.
        "unconstrained_prior": _group(_named(posterior.coordinates[: len(columns)], columns, DRAW), {}),
    }


def _predictive(predictive: Predictive) -> dict[str, xr.Dataset]:
    def cuts(found: Mapping[str, np.ndarray], suffix: str) -> dict[str, Any]:
        return {kind + suffix: ((*DRAW, *CUTS[kind]), values[None]) for kind, values in found.items()}

    posterior = cuts(predictive.replicated, "") | cuts(predictive.posterior, "_mean")
    kinds = {"kinds": _words(predictive.posterior), "replicated": _words(predictive.replicated)}
    prior = _group(cuts(predictive.prior, "_mean"), {"kinds": _words(predictive.prior)})
    return {"posterior_predictive": _group(posterior, kinds), "prior_predictive": prior}


def _observed(pictures: Pictures) -> xr.Dataset:
    """Cuts of the data, with the same names as the replicated ones."""
    variables: dict[str, Any] = {}
    for kind, dims in CUTS.items():
        cuts = getattr(pictures, kind)
        variables[kind] = (dims, cuts.data)
        variables |= {f"{kind}_{part}": (dims, getattr(cuts, part)) for part in ("x", "error", "count")}
    seconds = {"lag": ("lag", pictures.equal_lag.at, {"units": "s"}), "age": ("age", pictures.equal_age.at, {"units": "s"})}
    return _group(variables, {"error": "of the mean of a bin, as if pairs of frames were independent"}, **seconds)


def _constant(posterior: Posterior, dataset: Dataset) -> xr.Dataset:
    variables = {
        "phi": ("angle", posterior.phi, {"units": "degrees"}),
        "q": ((), dataset.q, {"units": "1/Angstrom"}),
        "gap": ((), dataset.gap, {"units": "Angstrom"}),
        "frame_time": ("frame", dataset.t, {"units": "s"}),
        "pairs": ("angle", dataset.pairs),
    }
    return _group(variables, {}, time=("time", posterior.t, {"units": "s"}), frame=dataset.frame)


def _numbers(numbers: Mapping[str, float]) -> xr.Dataset:
    return xr.Dataset(_named(numbers, map(np.asarray, numbers.values()), ()), attrs={"names": _words(numbers)})


def _shards(posterior: Posterior, shards: Shards) -> xr.Dataset:
    variables: dict[str, Any] = {name: ("shard", getattr(shards, name)) for name in SHARD_COLUMNS}
    variables |= {
        "mean": (("shard", "joint"), shards.mean),
        "covariance": (("shard", "joint", "joint_other"), shards.covariance),
        "parameter_mean": (("shard", "parameter"), shards.parameter_mean),
        "parameter_sd": (("shard", "parameter"), shards.parameter_sd),
        "status": ("shard", _strings(shards.status)),
    }
    names = {"joint": _strings(shards.names), "joint_other": _strings(shards.names), "parameter": _strings(posterior.names)}
    return _group(variables, {"text": "sub-posteriors as they were sampled"}, **names)


def _read(groups: Mapping[str, xr.Dataset], attributes: Mapping[str, Any]) -> Posterior:
    names, coordinates = (_split(attributes[key]) for key in ("parameters", "sampled"))
    widths = _split(attributes["widths"])
    numbers, labels = groups["numbers"], _split(groups["numbers"].attrs["names"])
    return Posterior(
        engine=attributes["engine"],
        exactness=attributes["exactness"],
        names=names,
        units=_split(attributes["units"]),
        coordinates=coordinates,
        phi=groups["constant_data"]["phi"].to_numpy(),
        t=groups["constant_data"]["time"].to_numpy(),
        answers={width: _read_answer(groups, _suffix(width), names, coordinates) for width in widths},
        prior=_read_prior(groups, names, coordinates) if "prior" in groups else None,
        predictive=_read_predictive(groups) if "posterior_predictive" in groups else None,
        shards=_read_shards(groups["shards"]) if "shards" in groups else None,
        numbers={label: float(numbers[name]) for label, name in zip(labels, variable_names(labels), strict=True)},
        decisions=_split(attributes["decisions"]),
        statements=_split(attributes["statements"]),
        confidence=float(attributes["confidence"]),
    )


def _by_name(group: xr.Dataset, names: Iterable[str]) -> dict[str, np.ndarray]:
    labels = list(names)
    return {label: group[name].to_numpy() for label, name in zip(labels, variable_names(labels), strict=True)}


def _stacked(group: xr.Dataset, names: Iterable[str]) -> np.ndarray:
    return np.stack(list(_by_name(group, names).values()), axis=-1)


def _read_answer(groups: Mapping[str, xr.Dataset], suffix: str, names: tuple[str, ...], coordinates: tuple[str, ...]) -> Answer:
    found, stats, table = (groups[name + suffix] for name in ("posterior", "sample_stats", "summary"))
    columns = [table[name].to_numpy().tolist() for name in SUMMARY]
    return Answer(
        u=_stacked(groups[f"unconstrained_posterior{suffix}"], coordinates),
        parameters=_stacked(found, names),
        contrast=found["contrast"].to_numpy(),
        offset=found["offset"].to_numpy(),
        sigma=found["sigma"].to_numpy(),
        rates=_by_name(found, _split(found.attrs["rates"])),
        stats=_by_name(stats, _split(stats.attrs["names"])),
        chains=bool(found.attrs["chains"]),
        summary={key: Summary(*row) for key, *row in zip(table["quantity"].to_numpy().tolist(), *columns, strict=True)},
    )


def _read_prior(groups: Mapping[str, xr.Dataset], names: tuple[str, ...], coordinates: tuple[str, ...]) -> Prior:
    found, u = groups["prior"], groups["unconstrained_prior"]
    return Prior(
        u=_stacked(u, coordinates[: len(u.data_vars)])[0],
        parameters=_stacked(found, names)[0],
        rates={name: rate[0] for name, rate in _by_name(found, _split(found.attrs["rates"])).items()},
        contrast=found["contrast"].to_numpy()[0],
        offset=found["offset"].to_numpy()[0],
        text=json.loads(found.attrs["text"]),
    )


def _read_predictive(groups: Mapping[str, xr.Dataset]) -> Predictive:
    def cuts(group: xr.Dataset, attribute: str, suffix: str) -> dict[str, np.ndarray]:
        return {kind: group[kind + suffix].to_numpy()[0] for kind in _split(group.attrs[attribute])}

    posterior, prior = groups["posterior_predictive"], groups["prior_predictive"]
    return Predictive(cuts(posterior, "kinds", "_mean"), cuts(posterior, "replicated", ""), cuts(prior, "kinds", "_mean"))


def _read_shards(group: xr.Dataset) -> Shards:
    arrays = (*SHARD_COLUMNS, "mean", "covariance", "parameter_mean", "parameter_sd")
    return Shards(
        names=tuple(group["joint"].to_numpy().tolist()),
        status=tuple(group["status"].to_numpy().tolist()),
        **{name: group[name].to_numpy() for name in arrays},
    )
