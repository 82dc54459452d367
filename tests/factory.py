"""Small simulated measurements with known truth, and the objects that fit them."""

from dataclasses import replace
from functools import cache

import numpy as np

from homodyne import optimize
from homodyne.cells import bin_maps
from homodyne.config import Job, option
from homodyne.data import Dataset
from homodyne.data.dataset import Provenance
from homodyne.mode.base import Model
from homodyne.per_angle_scaling.base import Design
from homodyne.physics import PARAMETERS, two_time
from homodyne.problem import PixelSource, Problem
from homodyne.results import Fit
from homodyne.tiles import pack

Q, GAP, DT, SIGMA = 0.0054, 2e6, 0.1, 0.02
LAMINAR = {
    "D0": 1.9e4,
    "alpha": -0.5,
    "D_offset": 2000.0,
    "gamma_dot_t0": 1.6e-3,
    "beta": -0.4,
    "gamma_dot_t_offset": 1e-4,
    "phi0": 4.0,
}
STATIC = {"D0": 1.5e4, "alpha": -0.5, "D_offset": 3000.0}
PHI = (-75.0, -35.0, 0.0, 40.0, 80.0)


def times(n: int, dt: float = DT) -> np.ndarray:
    """Frame times that start one frame after zero."""
    return dt * np.arange(1, n + 1)


def measured(maps: np.ndarray, phi, *, q: float = Q, gap: float = GAP, dt: float = DT) -> Dataset:
    """A Dataset of dense maps (P, n, n); NaN = not used."""
    count, n = maps.shape[:2]
    unknown = np.full((count, n), np.nan)
    return Dataset(
        tiles=pack(maps),
        phi=np.array(phi, dtype=np.float64),
        q=q,
        gap=gap,
        t=times(n, dt),
        frame=np.arange(1, n + 1),
        diagonal=unknown,
        pixels=unknown[:, 0],
        counts=unknown[:, 0],
        provenance=Provenance("simulated", "memory"),
    )


def exact_maps(truth, phi=PHI, n: int = 60, *, contrast=0.15, offset=1.0, q=Q, gap=GAP, dt=DT, **settings) -> np.ndarray:
    """(P, n, n) maps without noise; settings go to ``physics.two_time``."""
    mode = "static" if set(truth) == set(PARAMETERS["static"]) else "laminar_flow"
    return two_time(truth, phi, times(n, dt), q=q, gap=gap, mode=mode, contrast=contrast, offset=offset, **settings)


def noise_like(maps: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """Symmetric Gaussian noise, independent for every pair."""
    draw = np.triu(np.random.default_rng(seed).normal(0.0, sigma, maps.shape), 1)
    return draw + draw.swapaxes(-1, -2)


def simulated(truth, phi=PHI, n: int = 60, *, sigma=SIGMA, seed=0, q=Q, gap=GAP, dt=DT, **settings) -> Dataset:
    """A Dataset with independent Gaussian noise; settings as in ``exact_maps``."""
    maps = exact_maps(truth, phi, n, q=q, gap=gap, dt=dt, **settings)
    return measured(maps + noise_like(maps, sigma, seed), phi, q=q, gap=gap, dt=dt)


def parameters(**settings: dict[str, object]) -> dict[str, dict[str, object]]:
    """Settings of some parameters for ``option("mode", ...)``; the others keep their defaults."""
    empty = {"start": None, "bounds": None, "fixed": None, "prior": None}
    return {name: empty | setting for name, setting in settings.items()}


def fixed(**values: float) -> dict[str, dict[str, object]]:
    """Parameter settings that keep these values."""
    return parameters(**{name: {"fixed": value} for name, value in values.items()})


@cache
def _default(group: str, name: str):
    given = {"data": {"path": "-"}}
    return option(group, name, **(given[group] if group in given else {}))


def job(
    mode="laminar_flow",
    per_angle_scaling="individual",
    noise="iid",
    optimizer="nlsq",
    uncertainty="standard",
    *,
    seed: int = 0,
    resume: bool = False,
) -> Job:
    """A Job; each group is the name of an option or an option object."""
    chosen = {"mode": mode, "per_angle_scaling": per_angle_scaling, "noise": noise, "optimizer": optimizer, "uncertainty": uncertainty}
    chosen |= {"posterior": "none", "cmc_backend": "serial", "hardware": "cpu", "data": "auto", "report": "off"}
    made = {group: _default(group, value) if isinstance(value, str) else value for group, value in chosen.items()}
    made["hardware"] = made["hardware"].model_copy(update={"threads": 1})
    return Job(**made, seed=seed, resume=resume, inspect=False, forecast=False, text="")


def fitted(dataset: Dataset, folder=None, **groups) -> Fit:
    """The Fit of a Dataset; groups as in ``job``."""
    return optimize.fit(job(**groups), dataset, folder)[0]


def problem(dataset: Dataset, mode="laminar_flow", per_angle_scaling="individual") -> Problem:
    """The least-squares problem on all pixels."""
    model = job(mode).mode.bind(dataset.t, dataset.q, dataset.gap, dataset.phi)
    return Problem(model, *problem_parts(dataset, per_angle_scaling))


def problem_parts(dataset: Dataset, per_angle_scaling="individual") -> tuple[Design, PixelSource]:
    """What a Problem has besides its model."""
    scaling = job(per_angle_scaling=per_angle_scaling).per_angle_scaling
    design = scaling.design(dataset, bin_maps(dataset.tiles, dataset.n)[0].pixel_variance)
    return design, PixelSource(dataset, threads=1, tiles_at_once=1)


def reordered(dataset: Dataset, order) -> Dataset:
    """The same maps in another order of angles."""
    order = np.asarray(order)
    return replace(
        dataset,
        tiles=dataset.tiles[order],
        phi=dataset.phi[order],
        diagonal=dataset.diagonal[order],
        pixels=dataset.pixels[order],
        counts=dataset.counts[order],
    )


def dense_pairs(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Frames i < j of all pairs, and per angle which of them are used and their c2."""
    early, late = np.triu_indices(dataset.n, 1)
    values = [dataset.map(k)[early, late].astype(np.float64) for k in range(len(dataset.phi))]
    return early, late, [np.isfinite(v) for v in values], values


def dense_decay(model: Model, dataset: Dataset, u) -> list:
    """Per angle h of all pairs i < j, from the model's states alone; traceable."""
    early, late = np.triu_indices(dataset.n, 1)
    return [model.pair(tuple(x[late] - x[early] for x in model.states(u, phi))) for phi in dataset.phi]


def linear_columns(design: Design) -> np.ndarray:
    """(P, 2, G k): how offset and contrast of each angle depend on all coefficients."""
    groups, _, _, size = design.matrix.shape
    columns = np.zeros((design.members.size, 2, groups * size))
    for g, members in enumerate(design.members):
        columns[members, :, g * size : (g + 1) * size] = design.matrix[g]
    return columns
