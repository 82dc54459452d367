"""Wrong numbers that two existing programs report as success for the same maps, each with a test that they are right here.

The number in a docstring is that of the failure as it was measured; test_existing_programs_messages.py has the others. Truth comes
from outside: known parameters, a closed form of the model in NumPy, and dense least squares over all pairs i < j.
"""

import json
import os
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import h5py
import jax
import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy.integrate import cumulative_trapezoid
from scipy.special import chdtri

from homodyne import pipeline
from homodyne.config import build, option
from homodyne.data import Dataset
from homodyne.errors import DataError
from homodyne.mode.base import AbstractMode
from homodyne.results import Estimate, Fit
from homodyne.simulation import simulate, write

from . import factory
from .data import files
from .factory import DT, GAP, PHI, Q, fitted, parameters
from .test_config import composed

SIGMA, CONTRAST, OFFSET = 0.02, 0.15, 1.0
# The measurement on which the failures were found, and the two start points given to the programs there.
TRUTH = {"D0": 1.9e4, "alpha": -0.5, "D_offset": 200.0, "gamma_dot_t0": 1.6e-3, "beta": -0.2, "gamma_dot_t_offset": 1e-4, "phi0": 2.0}
NEAR = {"D0": 2.47e4, "alpha": -0.4, "D_offset": 300.0, "gamma_dot_t0": 2.08e-3, "beta": -0.1, "gamma_dot_t_offset": 2e-4, "phi0": 0.0}
POOR = {"D0": 7.6e4, "alpha": -0.3, "D_offset": 2000.0, "gamma_dot_t0": 6.4e-3, "beta": 0.1, "gamma_dot_t_offset": 6e-4, "phi0": -6.0}
MODES = {"static": ("D0", "alpha", "D_offset"), "laminar_flow": tuple(TRUTH)}
# Between 100,000 and 1,000,000 points of the full square.
FRAMES = 230
assert 100_000 < len(PHI) * FRAMES**2 < 1_000_000
SHORT, THREE = 60, (-30.0, 0.0, 30.0)
"""Frames and angles of the small static files."""


# ---- truth from outside -------------------------------------------------------------------------------------------------------------


def closed_form(truth: dict[str, float], phi: np.ndarray, n: int, *, q: float = Q, factor: float = 0.5, power: int = 2) -> np.ndarray:
    """(P, pairs) h of all pairs i < j: exp(-q^2 integral J) sinc(factor q L cos(phi0 - phi) integral gamma_dot)^power."""
    t = DT * np.arange(1, n + 1)
    early, late = np.triu_indices(n, 1)

    def between(amplitude: str, exponent: str, offset: str) -> np.ndarray:
        integral = cumulative_trapezoid(truth[amplitude] * t ** truth[exponent] + truth[offset], t, initial=0.0)
        return integral[late] - integral[early]

    h = np.exp(-(q**2) * between("D0", "alpha", "D_offset"))[None].repeat(len(phi), 0)
    if "phi0" in truth:
        kappa = factor * q * GAP * np.cos(np.deg2rad(truth["phi0"] - np.asarray(phi)))
        h *= np.sinc(kappa[:, None] * between("gamma_dot_t0", "beta", "gamma_dot_t_offset") / np.pi) ** power
    return h


def dense(dataset: Dataset, fit: Fit) -> SimpleNamespace:
    """Residuals over the pairs i < j, each pair once, and the Gauss-Newton errors of every fitted number by name."""
    early, late = np.triu_indices(dataset.n, 1)
    c2 = np.stack([dataset.map(k)[early, late] for k in range(len(dataset.phi))])
    values = {name: estimate.value for name, estimate in fit.parameters.items()}
    free = [name for name, estimate in fit.parameters.items() if estimate.status in ("free", "interval")]
    h, count = closed_form(values, dataset.phi, dataset.n), len(dataset.phi)
    columns = []
    for name in free:
        step = 1e-5 * max(abs(values[name]), 1e-6)
        up, down = (closed_form(values | {name: values[name] + sign * step}, dataset.phi, dataset.n) for sign in (1, -1))
        columns.append((fit.contrast[:, None] * (up - down) / (2 * step)).ravel())
    columns += [(np.eye(count)[k][:, None] * h).ravel() for k in range(count)]
    columns += [(np.eye(count)[k][:, None] * np.ones_like(h)).ravel() for k in range(count)]
    jacobian = np.stack(columns, 1)
    residual = (c2 - fit.offset[:, None] - fit.contrast[:, None] * h).ravel()
    scale = np.linalg.norm(jacobian, axis=0)
    inverse = np.linalg.inv((jacobian / scale).T @ (jacobian / scale)) / np.outer(scale, scale)
    sigma = np.sqrt(residual @ residual / (len(residual) - len(columns)))
    names = (*free, *(f"{word}[{k}]" for word in ("contrast", "offset") for k in range(count)))
    return SimpleNamespace(errors=dict(zip(names, sigma * np.sqrt(np.diag(inverse)), strict=True)), chi2=residual @ residual, pairs=c2.size)


def excess(
    dataset: Dataset, fit: Fit, truth: dict[str, float], contrast: ArrayLike = CONTRAST, offset: ArrayLike = OFFSET, **kernel: float
) -> float:
    """chi2 of given parameters above that of the fit, with the residual variance of the fit as unit."""
    early, late = np.triu_indices(dataset.n, 1)
    known = {name: truth[name] for name in fit.parameters}
    h, count = closed_form(known, dataset.phi, dataset.n, q=dataset.q, **kernel), len(dataset.phi)
    model = np.broadcast_to(offset, count)[:, None] + np.broadcast_to(contrast, count)[:, None] * h
    c2 = np.stack([dataset.map(k)[early, late] for k in range(count)])
    return float(np.nansum((c2 - model) ** 2)) / fit.sigma**2 - fit.dof


def assert_truth(
    dataset: Dataset, fit: Fit, truth: dict[str, float], contrast: ArrayLike = CONTRAST, offset: ArrayLike = OFFSET, **kernel: float
) -> None:
    """The fit succeeded, is no worse than the truth, and is within its errors of it."""
    assert fit.success
    assert 0 <= excess(dataset, fit, truth, contrast, offset, **kernel) < chdtri(fit.pairs - fit.dof, 1e-4)
    for name, estimate in fit.parameters.items():
        assert within(estimate, truth[name]), name
    assert np.all(np.abs(fit.contrast - contrast) < 4 * fit.contrast_error)
    assert np.all(np.abs(fit.offset - offset) < 4 * fit.offset_error)


def within(estimate: Estimate, truth: float, times: float = 2.0) -> bool:
    """Whether the truth is in the 95 % interval, stretched."""
    lower, upper = (end - estimate.value for end in estimate.interval)
    return times * lower < truth - estimate.value < times * upper


# ---- measurements and fits ----------------------------------------------------------------------------------------------------------


def measure(mode: str = "laminar_flow", phi: tuple[float, ...] = PHI, n: int = FRAMES, seed: int = 3, **settings: object) -> Dataset:
    truth = {name: settings.pop(name, TRUTH[name]) for name in MODES[mode]}
    scaling = {"contrast": CONTRAST, "offset": OFFSET, "sigma": SIGMA} | settings
    return simulate(truth, phi, q=Q, gap=GAP, dt=DT, frames=n, mode=mode, seed=seed, **scaling)


@cache
def measured(mode: str = "laminar_flow") -> Dataset:
    return measure(mode)


def started(mode: str, start: dict[str, float]) -> AbstractMode:
    return option("mode", mode, parameters=parameters(**{name: {"start": start[name]} for name in MODES[mode]}))


@cache
def from_near(mode: str = "laminar_flow") -> Fit:
    """A fit that begins at the near start values, without a search."""
    return fitted(measured(mode), mode=started(mode, NEAR), optimizer=option("optimizer", "nlsq", start="config"))


@cache
def searched() -> Fit:
    """A fit without any start value."""
    return fitted(measured())


def run_file(path: Path, folder: Path, *overrides: str) -> Fit:
    """All phases of a run on a file, without figures."""
    folder.mkdir()
    platform = f"hardware={jax.default_backend()}"
    fit = pipeline.run(build(composed(f"data.path={path}", "report=off", platform, "hardware.compilation_cache=false", *overrides)), folder)
    assert fit is not None
    return fit


# ---- wrong numbers reported as success ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_fit_of_100k_to_1m_points_returns_the_truth_and_not_its_start(mode: str) -> None:
    """Item 1."""
    fit = from_near(mode)
    assert_truth(measured(mode), fit, TRUTH)
    assert excess(measured(mode), fit, NEAR) > 500
    assert all(np.isfinite(estimate.interval).all() for estimate in fit.parameters.values())


@pytest.mark.parametrize("mode", MODES)
def test_errors_count_each_pair_of_frames_once(mode: str) -> None:
    """Item 2: both triangles would give 1/sqrt(2) of the dense errors."""
    fit, expected = from_near(mode), dense(measured(mode), from_near(mode))
    assert fit.pairs == expected.pairs == len(PHI) * FRAMES * (FRAMES - 1) // 2
    errors = np.sqrt(np.diag(fit.covariance))
    ratio = {name: errors[fit.names.index(name)] / error for name, error in expected.errors.items()}
    # Amplitudes and offsets have crooked intervals instead.
    crooked = {name for name, estimate in fit.parameters.items() if estimate.status == "interval"}
    assert crooked <= {"D0", "D_offset", "gamma_dot_t0", "gamma_dot_t_offset"}
    ratio = {name: value for name, value in ratio.items() if name not in crooked}
    assert len(ratio) == len(MODES[mode]) + 2 * len(PHI) - len(crooked)
    assert ratio == pytest.approx(dict.fromkeys(ratio, 1.0), rel=1e-3)
    for name in set(fit.parameters) - crooked:
        assert fit.parameters[name].error == pytest.approx(errors[fit.names.index(name)])


@pytest.mark.parametrize(("mode", "sigma"), [("static", 0.02), ("static", 0.005), ("laminar_flow", 0.005)])
def test_reduced_chi2_is_1_within_its_own_error_when_the_model_holds(mode: str, sigma: float) -> None:
    """Item 3: its own error is its scatter over repeated measurements."""
    values, optimizer = [], option("optimizer", "nlsq", start="config")
    for seed in range(6):
        fit = fitted(measure(mode, seed=seed, sigma=sigma), mode=started(mode, NEAR), optimizer=optimizer)
        # The residuals know the noise to sqrt(1/2 dof).
        assert abs(fit.sigma / sigma - 1) < 4 / np.sqrt(2 * fit.dof)
        values.append(fit.reduced_chi2)
    own_error = np.std(values, ddof=1)
    assert own_error < 0.01
    assert abs(np.mean(values) - 1) < 2.5 * own_error


def test_chi2_rises_by_the_known_amount_when_phi0_is_held_at_a_wrong_value() -> None:
    """Item 3: there the right fit and one 8.5 standard deviations off had the same chi2."""
    best, data = from_near(), measured()
    wrong = best.parameters["phi0"].value - 8.5 * best.parameters["phi0"].error
    settings = {name: {"start": value} for name, value in NEAR.items()} | {"phi0": {"fixed": wrong}}
    mode = option("mode", "laminar_flow", parameters=parameters(**settings))
    held = fitted(data, mode=mode, optimizer=option("optimizer", "nlsq", start="config"))
    variance = best.sigma**2 * best.dof / best.chi2
    rise = held.chi2 - best.chi2
    assert rise == pytest.approx((dense(data, held).chi2 - dense(data, best).chi2) / variance, rel=1e-4)
    # The map is not quite linear in phi0 over so large a step.
    assert rise * variance / best.sigma**2 == pytest.approx(8.5**2, rel=0.05)
    assert held.reduced_chi2 - best.reduced_chi2 == pytest.approx(rise / best.dof, rel=0.05)


def test_phi0_started_at_0_reaches_the_optimum() -> None:
    """Item 4: there it stayed at 0.02 with an error of 0.17."""
    assert NEAR["phi0"] == 0
    found, best = from_near().parameters["phi0"], searched().parameters["phi0"]
    assert found.value == pytest.approx(best.value, abs=0.01 * best.error)
    assert abs(found.value - TRUTH["phi0"]) < 4 * found.error
    assert found.value > 10 * found.error


def test_a_contrast_spread_of_10_percent_does_not_bias_phi0_with_auto() -> None:
    """Item 5: there auto averaged the contrasts and phi0 was 14.6 standard deviations off."""
    contrast = CONTRAST * (1 + 0.1 * np.sin(np.deg2rad(PHI)))
    offset = OFFSET + 0.003 * np.cos(np.arange(len(PHI)))
    data = measure(contrast=contrast, offset=offset)
    fit = fitted(data, per_angle_scaling="auto")
    assert fit.scaling == "individual"
    assert any("auto -> individual" in decision for decision in fit.decisions)
    assert_truth(data, fit, TRUTH, contrast, offset)
    # The spread is one that averaging does not survive.
    phi0 = fitted(data, per_angle_scaling="averaged").parameters["phi0"]
    assert abs(phi0.value - TRUTH["phi0"]) > 4 * phi0.error


@pytest.mark.parametrize(("kernel", "factor", "power"), [("gap_average", 0.5, 2), ("homodyne_v2", 0.5 / np.pi, 4)])
def test_each_shear_kernel_is_available_is_its_formula_and_is_named_in_fit_json(
    kernel: str, factor: float, power: int, tmp_path: Path
) -> None:
    """Item 6: maps of the formula as written in NumPy come back with their parameters."""
    h = closed_form(TRUTH, np.array(PHI), FRAMES, factor=factor, power=power)
    maps = np.zeros((len(PHI), FRAMES, FRAMES))
    maps[:, *np.triu_indices(FRAMES, 1)] = OFFSET + CONTRAST * h
    maps += maps.swapaxes(1, 2) + (OFFSET + CONTRAST) * np.eye(FRAMES)
    dataset = factory.measured(maps + factory.noise_like(maps, 0.005, 1), PHI)
    write(dataset, tmp_path / "known.npz", "npz")
    starts = [f"mode.parameters.{name}.start={value}" for name, value in NEAR.items()]
    settings = ("optimizer.start=config", "per_angle_scaling=individual", "noise=iid", f"mode.shear_kernel={kernel}")
    fit = run_file(tmp_path / "known.npz", tmp_path / "run", *settings, *starts)
    assert_truth(dataset, fit, TRUTH, factor=factor, power=power)
    document = json.loads((tmp_path / "run" / "fit.json").read_text())
    assert document["shear_kernel"] == kernel
    assert document["conventions"]["shear_kernel"].startswith(f"{kernel}: ")
    assert "pi/sqrt(2) = 2.2214" in document["conventions"]["shear_kernel"]


def test_a_replaced_data_file_is_fitted_again(tmp_path: Path) -> None:
    """Item 7: same name, same size and same time stamp; there the cached maps of the old file were fitted."""
    folder = tmp_path / "data"
    folder.mkdir()
    path, old, new = folder / "run12.hdf", TRUTH | {"D0": 1.2e4}, TRUTH | {"D0": 4e4}
    fingerprints = set()
    for truth, other in ((old, new), (new, old)):
        write(measure("static", THREE, SHORT, D0=truth["D0"]), path, "aps_u")
        os.utime(path, (1e9, 1e9))
        run = tmp_path / f"D0 = {truth['D0']:g}"
        fit = run_file(path, run, "mode=static", "noise=iid")
        assert_truth(files.load(path), fit, truth)
        assert excess(files.load(path), fit, other) > 500
        fingerprints.add(json.loads((run / "fit.json").read_text())["data"]["fingerprint"])
    assert len(fingerprints) == 2
    assert [item.name for item in folder.iterdir()] == ["run12.hdf"]


def test_cmaes_from_a_poor_start_runs_and_reaches_the_minimum() -> None:
    """Item 8: there it was skipped and the result 56 standard deviations off."""
    fit = fitted(measured(), mode=started("laminar_flow", POOR), optimizer="nlsq_cmaes")
    assert fit.success
    assert any("search: best minimum reached by" in decision for decision in fit.decisions)
    assert fit.chi2 == pytest.approx(searched().chi2, abs=0.01)
    for name, estimate in searched().parameters.items():
        assert fit.parameters[name].value == pytest.approx(estimate.value, abs=0.005 * np.ptp(estimate.interval))
    assert excess(measured(), fit, POOR) > 500
    assert_truth(measured(), fit, TRUTH)


def test_full_matrices_are_recognised_and_not_doubled(tmp_path: Path) -> None:
    """Item 10."""
    full = [files.full_map(k) for k in (1, 2)]
    halves = (np.asarray, np.triu, np.tril)
    stored = [files.load(files.aps_u(tmp_path / f"{half.__name__}.hdf", [half(m) for m in full])) for half in halves]
    np.testing.assert_array_equal(stored[0].map(1), files.used(2))
    assert len({dataset.fingerprint for dataset in stored}) == 1
    assert any("storage: full" in note for note in stored[0].provenance.notes)


def legacy_of_two_q(path: Path) -> Path:
    """Three angles at each of two wavevectors, maps by the closed form."""
    n = SHORT + 1
    truth, maps = {name: TRUTH[name] for name in MODES["static"]}, {}
    for k, q in enumerate([Q] * 3 + [2 * Q] * 3, start=1):
        used = np.zeros((SHORT, SHORT))
        used[np.triu_indices(SHORT, 1)] = OFFSET + CONTRAST * closed_form(truth, np.zeros(1), SHORT, q=q)[0]
        dense_map = np.zeros((n, n))
        dense_map[1:, 1:] = used + np.triu(np.random.default_rng(k).normal(0, SIGMA, used.shape), 1)
        maps[f"g2_{k:05d}"] = dense_map
    return files.legacy(path, maps, [Q] * 3 + [2 * Q] * 3, [*THREE, *THREE])


def test_fewer_than_five_angles_never_bring_in_another_q(tmp_path: Path) -> None:
    """Item 11: there the ten nearest (q, phi) were mixed, and no result was written although the exit status was 0."""
    path = legacy_of_two_q(tmp_path / "old.hdf")
    with pytest.raises(DataError, match=r"holds several q \(1/Angstrom\): 0\.0054, 0\.0108; choose one with data\.q="):
        files.load(path)
    for k, q in enumerate((Q, 2 * Q)):
        fit = run_file(path, tmp_path / f"run{k}", "mode=static", "noise=iid", f"data.q={q}")
        assert_truth(files.load(path, q=q), fit, TRUTH)
        document = json.loads((tmp_path / f"run{k}" / "fit.json").read_text())
        assert [entry["phi"] for entry in document["per_angle"]] == list(THREE)
        assert document["data"]["q"] == q


def test_unpadded_names_are_paired_with_angles_by_their_numbers(tmp_path: Path) -> None:
    """Item 12: in the order of the file, g2_10 comes before g2_2."""
    angles = [10.0 * k for k in range(1, 13)]
    path = files.legacy(tmp_path / "old.hdf", {f"g2_{k}": np.triu(files.full_map(k)) for k in range(1, 13)}, [Q] * 12, angles)
    with h5py.File(path) as file:
        assert list(file["/exchange/C2T_all"])[:2] == ["g2_1", "g2_10"]
    dataset = files.load(path)
    assert dataset.phi.tolist() == angles
    for k in range(12):
        np.testing.assert_array_equal(dataset.map(k), files.used(k + 1))
