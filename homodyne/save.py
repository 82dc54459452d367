"""Phase 4: a run folder is written here, and read back as a ``Run``.

    config.yaml     the resolved configuration          fit.json        numbers and sentences, for people
    figures/        drawn by report/ from this folder   fit.npz         arrays, for programs
                                                        posterior.nc    draws, when there is a posterior

(`run.log` and `.hydra/` come from the command line.) fit.json is written last and holds the hashes of the array files, so a folder
with a fit.json is complete and its files belong together. Every file appears whole or not at all (``write_atomic``).
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]  # comes with OmegaConf, without types

from .atomic import write_atomic
from .data.dataset import Dataset, Provenance
from .draws import Posterior
from .errors import DataError
from .pairsums import frame_contrast
from .physics import two_time
from .pictures import Pictures, take_pictures
from .record import SCHEMA_VERSION, arrays, document, numbers, plain, posterior_facts, read_fit, read_pictures
from .results import Fit, ModelRows

if TYPE_CHECKING:
    from .config import Job

CONFIG, NUMBERS, ARRAYS, POSTERIOR = "config.yaml", "fit.json", "fit.npz", "posterior.nc"


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder.

    Attributes:
        config: the resolved configuration, as plain containers.
        q: wavevector, 1/Angstrom. gap: shear gap, Angstrom. phi: (P,) degrees. t: (n,) s. frame: (n,) numbers in the file, from 1.
        fingerprint: hash of the data that were fitted.
        truth: parameters by name when the data were simulated, else None.
        document: fit.json as plain containers (everything in it, null for NaN).
        pictures: block means and cuts of data, model and residual.
    """

    folder: Path
    config: dict[str, Any]
    fit: Fit
    q: float
    gap: float
    phi: np.ndarray
    t: np.ndarray
    frame: np.ndarray
    provenance: Provenance
    fingerprint: str
    truth: dict[str, float] | None
    document: dict[str, Any]
    pictures: Pictures

    @cached_property
    def posterior(self) -> Posterior | None:
        """What group ``posterior`` found, read from posterior.nc when first asked for; None when the run has none.

        Raises:
            DataError: posterior.nc is missing, damaged or of another save.
        """
        if "posterior" not in self.document:
            return None
        # xarray takes half a second to load: only where there is something to read.
        from .posterior_record import load_posterior

        path = self.folder / POSTERIOR
        if not path.is_file():
            raise DataError(f"{path} is missing; {NUMBERS} says that this run has a posterior")
        _check_hash(path, self.document["posterior"]["blake2b"])
        return load_posterior(path)

    def model(self, index: int) -> np.ndarray:
        """The fitted map (n, n) of one angle from the saved parameters; contrast + offset on the diagonal."""
        fit, contrast, offset = self.fit, self.fit.contrast[index], self.fit.offset[index]
        if fit.contrast_drift is None:
            return self._two_time(index, contrast, offset)
        frames = frame_contrast(fit.contrast, fit.contrast_drift, len(self.t))[index]
        return offset + 0.5 * (frames[:, None] + frames[None, :]) * self._two_time(index, 1.0, 0.0)

    def _two_time(self, index: int, contrast: float, offset: float) -> np.ndarray:
        fit = self.fit
        # static has no shear and ignores the kernel.
        kernel = {"shear_kernel": fit.shear_kernel} if fit.mode != "static" else {}
        return two_time(
            {name: estimate.value for name, estimate in fit.parameters.items()},
            self.phi[index],
            self.t,
            q=self.q,
            gap=self.gap,
            mode=fit.mode,
            contrast=contrast,
            offset=offset,
            **kernel,
        )[0]


def save_run(folder: Path, *, job: "Job", dataset: Dataset, fit: Fit, model_rows: ModelRows, posterior: Posterior | None = None) -> None:
    """Write config.yaml, fit.npz, posterior.nc if there is a posterior, and fit.json into a folder, which is made if needed.

    Args:
        model_rows: rows of the fitted map of one angle, see ``results.ModelRows``; asked for one stripe of rows at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = take_pictures(dataset, model_rows)
    content = arrays(dataset, fit, pictures)
    facts = document(seed=job.seed, hardware=job.hardware.describe(), dataset=dataset, fit=fit)
    write_atomic(folder / CONFIG, lambda file: file.write(job.text.encode()))
    write_atomic(folder / ARRAYS, lambda file: np.savez(file, **content))  # type: ignore[arg-type]  # no array is named allow_pickle
    facts["arrays"] = {"file": ARRAYS, "blake2b": _hash(folder / ARRAYS)}
    if posterior is not None:
        from .posterior_record import save_posterior

        save_posterior(folder / POSTERIOR, posterior, dataset=dataset, fit=fit, pictures=pictures)
        facts["posterior"] = posterior_facts(posterior) | {"file": POSTERIOR, "blake2b": _hash(folder / POSTERIOR)}
    text = json.dumps(plain(facts), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(folder / NUMBERS, lambda file: file.write(text.encode()))
    if posterior is None:
        # Of an older save into the same folder.
        (folder / POSTERIOR).unlink(missing_ok=True)


def load_run(folder: str | os.PathLike[str]) -> Run:
    """Read a run folder.

    Raises:
        DataError: the folder or a file in it is missing, damaged, or of another version.
    """
    root = Path(folder)
    missing = [name for name in (CONFIG, NUMBERS, ARRAYS) if not (root / name).is_file()]
    if missing:
        found = "is not a complete run folder" if root.is_dir() else "does not exist"
        raise DataError(f"{root} {found}: {', '.join(missing)} missing; a finished run leaves {CONFIG}, {NUMBERS} and {ARRAYS}")
    facts = _read_document(root / NUMBERS)
    try:
        _check_hash(root / ARRAYS, facts["arrays"]["blake2b"])
        with np.load(root / ARRAYS, allow_pickle=False) as file:
            content = dict(file)
        return _run(root, facts, content)
    except KeyError as error:
        raise DataError(f"{root}: field {error} is missing in {NUMBERS} or {ARRAYS}; accepted: the fields in docs/outputs.md") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{root / NUMBERS}: a field has the wrong form ({error}); accepted: the fields in docs/outputs.md") from error


def _run(root: Path, facts: dict[str, Any], content: Mapping[str, np.ndarray]) -> Run:
    data = facts["data"]
    return Run(
        folder=root,
        config=_read_config(root / CONFIG),
        fit=read_fit(facts, content),
        q=float(content["q"]),
        gap=float(content["gap"]),
        phi=content["phi"],
        t=content["t"],
        frame=content["frame"],
        provenance=Provenance(data["path"], data["layout"], tuple(data["notes"])),
        fingerprint=data["fingerprint"],
        truth=None if facts["truth"] is None else numbers(facts["truth"]),
        document=facts,
        pictures=read_pictures(content),
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise DataError(f"{path} is damaged: found {type(config).__name__}, expected keys and values")
    return {str(key): value for key, value in config.items()}


def _read_document(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if not isinstance(facts, dict) or "schema_version" not in facts:
        raise DataError(f"{path} has no schema_version: it was not written by a run")
    if facts["schema_version"] != SCHEMA_VERSION:
        found = facts["schema_version"]
        raise DataError(f"{path} has schema_version {found}; this version of homodyne reads {SCHEMA_VERSION}")
    return facts


def _check_hash(path: Path, expected: str) -> None:
    if _hash(path) != expected:
        raise DataError(f"{path} is not the file that {NUMBERS} was saved with: damaged, or a later save was interrupted")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
