"""A run folder says all that a run found, says it again when read, and is whole or not there."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path

import numpy as np
import pytest

from homodyne.atomic import write_atomic
from homodyne.data.dataset import Dataset
from homodyne.errors import DataError
from homodyne.pictures import block_size, take_pictures
from homodyne.results import Fit
from homodyne.save import load_run, save_run
from homodyne.tiles import pack

from .example_run import ExampleJob, example_dataset, example_fit, rows_of, with_gaps


def saved(folder: Path, fit: Fit, dataset: Dataset) -> Path:
    rows = rows_of(example_fit(dataset), dataset)
    save_run(folder, job=ExampleJob(), dataset=dataset, fit=fit, model_rows=rows)  # type: ignore[arg-type]  # the part of Job it reads
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dataset = example_dataset()
    return saved(tmp_path / "run", example_fit(dataset), dataset)


def assert_same(first: object, second: object, where: str = "fit") -> None:
    """Equal to the last bit, NaN equal to NaN, and of the same kind."""
    if is_dataclass(first):
        for field in fields(first):
            assert_same(getattr(first, field.name), getattr(second, field.name), f"{where}.{field.name}")
    elif isinstance(first, dict):
        assert isinstance(second, dict), where
        assert list(first) == list(second), where
        for key in first:
            assert_same(first[key], second[key], f"{where}[{key!r}]")
    elif isinstance(first, np.ndarray):
        assert isinstance(second, np.ndarray), where
        assert first.dtype == second.dtype, where
        np.testing.assert_array_equal(first, second, err_msg=where)
    elif isinstance(first, tuple):
        assert isinstance(second, tuple), where
        for k, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_same(a, b, f"{where}[{k}]")
    elif isinstance(first, float) and not isinstance(first, Enum):
        assert isinstance(second, float), where
        assert first == second or (np.isnan(first) and np.isnan(second)), where
    else:
        assert first == second, where


@pytest.mark.parametrize("mode", ["laminar_flow", "static"])
def test_a_fit_comes_back_unchanged(tmp_path: Path, mode: str) -> None:
    dataset = example_dataset(mode=mode)
    fit = example_fit(dataset)
    run = load_run(saved(tmp_path, fit, dataset))
    assert_same(fit, run.fit)
    assert dataset.truth is not None
    assert (run.q, run.gap, run.truth, run.provenance) == (dataset.q, dataset.gap, dataset.truth.parameters, dataset.provenance)
    assert run.fingerprint == dataset.fingerprint
    for name in ("phi", "t", "frame"):
        assert_same(getattr(dataset, name), getattr(run, name), name)
    assert run.config["seed"] == ExampleJob().seed


def test_a_failed_fit_comes_back_with_its_nans(tmp_path: Path) -> None:
    dataset = example_dataset()
    fit = with_gaps(example_fit(dataset))
    read = load_run(saved(tmp_path, fit, dataset)).fit
    # JSON has one word for "not a number": an infinite chi2 of a rejected step comes back as NaN.
    expected = replace(fit, history=(*fit.history[:-1], replace(fit.history[-1], chi2=np.nan)))
    assert_same(expected, read)


def test_json_writes_nan_and_infinity_as_null(tmp_path: Path) -> None:
    dataset = example_dataset()
    text = (saved(tmp_path, with_gaps(example_fit(dataset)), dataset) / "fit.json").read_text()
    document = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert document["parameters"]["D0"]["value"] is None
    assert document["parameters"]["D0"]["lower"] is None
    assert document["quality"]["chi2"] is None


def test_json_says_what_the_numbers_depend_on(folder: Path) -> None:
    document = json.loads((folder / "fit.json").read_text())
    assert document["conventions"]["time_origin"].startswith("t = 0 lies 0.1 s (1 time steps) before frame 2,")
    assert "pi/sqrt(2)" in document["conventions"]["shear_kernel"]
    assert document["covariance"]["names"] == list(document["parameters"])
    assert len(document["per_angle"]) == 3
    assert set(document["versions"]) == {"python", "homodyne", "jax", "numpy", "scipy"}
    assert document["peak_memory_mb"] == 812.0


def test_arrays_open_without_pickles(folder: Path) -> None:
    with np.load(folder / "fit.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind in "fiuU" for name in arrays)
        assert arrays["covariance"].shape == (len(arrays["names"]),) * 2


def test_run_model_is_the_map_that_was_fitted(folder: Path) -> None:
    run = load_run(folder)
    assert run.pictures.full is not None
    assert np.max(np.abs(run.model(1) - run.pictures.full.model[1])) < 1e-7
    assert np.allclose(np.diag(run.model(1)), run.fit.contrast[1] + run.fit.offset[1])


def test_full_maps_are_data_minus_model_where_used() -> None:
    dataset = example_dataset()
    full = take_pictures(dataset, rows_of(example_fit(dataset), dataset)).full
    assert full is not None
    for k in range(3):
        np.testing.assert_array_equal(full.data[k], dataset.map(k))
    np.testing.assert_allclose(full.residual, full.data - full.model, atol=2e-7)
    assert np.isnan(full.residual[2, 23]).all()


def test_large_maps_are_replaced_by_a_sentence(tmp_path: Path) -> None:
    dataset = example_dataset(n=1200)
    run = load_run(saved(tmp_path, example_fit(dataset), dataset))
    assert run.pictures.full is None
    assert "load_run(folder).model(index)" in run.document["maps"]
    assert run.pictures.maps.data.shape == (3, 240, 240)


@pytest.mark.parametrize("n", [70, 256, 300, 700])
def test_block_means_equal_numpy_block_means(n: int) -> None:
    dataset = example_dataset(n=n, angles=1, masked=False)
    pictures = take_pictures(dataset, rows_of(example_fit(dataset), dataset))
    size, blocks = block_size(n), -(-n // block_size(n))
    assert pictures.maps.data.shape == (1, blocks, blocks)
    for shown, dense in ((pictures.maps.data[0], dataset.map(0)), (pictures.maps.model[0], _without_diagonal(dataset))):
        for i, j in ((0, 1), (3, 40), (blocks - 1, 2), (5, blocks - 1)):
            block = dense[i * size : (i + 1) * size, j * size : (j + 1) * size]
            assert shown[i, j] == pytest.approx(block.mean(dtype=np.float64), abs=1e-6)
            assert shown[j, i] == shown[i, j]
        if size > 1:
            corner = dense[:size, :size][np.triu_indices(size, 1)]
            assert shown[0, 0] == pytest.approx(corner.mean(dtype=np.float64), abs=1e-6)
        else:
            assert np.isnan(np.diag(shown)).all()


def _without_diagonal(dataset: Dataset) -> np.ndarray:
    dense = rows_of(example_fit(dataset), dataset)(0, 0, dataset.n).copy()
    np.fill_diagonal(dense, np.nan)
    return dense


def test_block_means_respect_masks() -> None:
    dataset = example_dataset(n=300)
    rows = rows_of(example_fit(dataset), dataset)
    maps = take_pictures(dataset, rows).maps
    dense = dataset.map(2)
    residual = dense - rows(2, 0, 300)
    # Frame 100 is masked: of the 2 x 2 pairs of block (50, 10) only those of frame 101 are left.
    assert maps.count[2, 50, 10] == 2
    assert maps.data[2, 50, 10] == pytest.approx(dense[101, 20:22].mean(dtype=np.float64), abs=1e-6)
    assert maps.residual[2, 50, 10] == pytest.approx(residual[101, 20:22].mean(dtype=np.float64), abs=1e-6)
    # The whole square of masked pairs has neither data nor residual, but a model.
    assert maps.count[2, 76, 120] == 0
    assert np.isnan(maps.data[2, 76, 120])
    assert np.isnan(maps.residual[2, 76, 120])
    assert np.isfinite(maps.model[2, 76, 120])
    assert np.array_equal(maps.count.sum(axis=(1, 2)) + np.trace(maps.count, axis1=1, axis2=2), 2 * dataset.pairs)


def test_edges_enclose_every_frame() -> None:
    dataset = example_dataset(n=301, angles=1)
    edges = take_pictures(dataset, rows_of(example_fit(dataset), dataset)).maps.edges
    assert len(edges) == 152
    assert edges[0] == pytest.approx(dataset.t[0] - 0.5 * dataset.dt)
    assert edges[-1] == pytest.approx(dataset.t[-1] + 0.5 * dataset.dt)


@pytest.mark.parametrize("n", [200, 300])
def test_cuts_equal_direct_means(n: int) -> None:
    dataset = example_dataset(n=n)
    rows = rows_of(example_fit(dataset), dataset)
    pictures = take_pictures(dataset, rows)
    i, j = np.triu_indices(n, 1)
    lag, total = j - i, i + j
    for k in (0, 2):
        y, f = dataset.map(k)[i, j].astype(np.float64), rows(k, 0, n)[i, j]
        used = np.isfinite(y)
        for cut, tau in enumerate(pictures.equal_lag.at / dataset.dt):
            # A cut at lag tau holds lags within 4 %; all its bins together are the mean over those diagonals.
            band = used & (lag >= 0.96 * round(tau)) & (lag <= 1.04 * round(tau))
            count = pictures.equal_lag.count[k, cut]
            assert count.sum() == band.sum()
            assert np.nansum(count * pictures.equal_lag.data[k, cut]) == pytest.approx(y[band].sum())
            assert np.nansum(count * pictures.equal_lag.model[k, cut]) == pytest.approx(f[band].sum())
        for cut, age in enumerate(pictures.equal_age.at):
            middle, half = round(2 * (age - dataset.t[0]) / dataset.dt), max(1, round(0.02 * (n - 1)))
            first = used & (np.abs(total - middle) <= half) & (lag == 1)
            assert pictures.equal_age.count[k, cut, 0] == first.sum()
            assert pictures.equal_age.x[k, cut, 0] == pytest.approx(dataset.dt)
            assert pictures.equal_age.data[k, cut, 0] == pytest.approx(y[first].mean())
            scatter = (y - f)[first].std(ddof=1) / np.sqrt(first.sum())
            assert pictures.equal_age.error[k, cut, 0] == pytest.approx(scatter)


@pytest.mark.parametrize("n", [3, 4, 5, 64, 65])
def test_short_records_and_float64_maps_have_pictures(n: int) -> None:
    base = example_dataset(n=n, angles=2, masked=False)
    dense = np.stack([base.map(k) for k in range(2)]).astype(np.float64)
    dataset = replace(base, tiles=pack(dense))
    pictures = take_pictures(dataset, rows_of(example_fit(dataset), dataset))
    assert np.array_equal(pictures.maps.count.sum(axis=(1, 2)), 2 * dataset.pairs)
    assert (pictures.equal_lag.count.sum(axis=-1) > 0).all()


WRITER = """
import sys, time
from pathlib import Path
from homodyne.atomic import write_atomic

def write(file):
    for _ in range(1000):
        file.write(b"x" * 1000)
        file.flush()
        print("working", flush=True)
        time.sleep(0.01)

write_atomic(Path(sys.argv[1]), write)
"""


@pytest.mark.parametrize("before", [None, b"the older file"])
def test_a_killed_write_leaves_the_file_as_it_was(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "state.npz"
    if before is not None:
        path.write_bytes(before)
    root = Path(__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, cwd=root) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"working\n"
        time.sleep(0.05)
        os.kill(writer.pid, signal.SIGKILL)
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_failing_write_leaves_no_trace_and_the_error_is_seen(tmp_path: Path) -> None:
    def write(file) -> None:  # type: ignore[no-untyped-def]
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(tmp_path / "fit.json", write)
    assert list(tmp_path.iterdir()) == []


def test_written_files_are_readable_by_the_group_as_the_umask_says(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_atomic(tmp_path / "fit.json", lambda file: None)
    finally:
        os.umask(old)
    assert (tmp_path / "fit.json").stat().st_mode & 0o777 == 0o644


def test_saving_leaves_no_other_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "fit.json", "fit.npz"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist: config\.yaml, fit\.json, fit\.npz missing"):
        load_run(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.yaml", "fit.json", "fit.npz"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"not a complete run folder: {name} missing"):
        load_run(folder)


@pytest.mark.parametrize("name", ["fit.json", "fit.npz"])
def test_a_file_cut_short_is_named(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=name):
        load_run(folder)


def test_a_damaged_config_is_named(folder: Path) -> None:
    (folder / "config.yaml").write_text("mode: [1, 2")
    with pytest.raises(DataError, match=r"config\.yaml is damaged"):
        load_run(folder)


def test_arrays_of_another_save_are_refused(folder: Path, tmp_path: Path) -> None:
    dataset = example_dataset(mode="static")
    other = saved(tmp_path / "other", example_fit(dataset), dataset)
    (other / "fit.npz").replace(folder / "fit.npz")
    with pytest.raises(DataError, match=r"is not the file that fit\.json was saved with"):
        load_run(folder)


def edited(folder: Path, **changes: object) -> Path:
    document = json.loads((folder / "fit.json").read_text())
    kept = {key: value for key, value in (document | changes).items() if value != "removed"}
    (folder / "fit.json").write_text(json.dumps(kept))
    return folder


def test_another_schema_version_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="schema_version 99; this version of homodyne reads 3"):
        load_run(edited(folder, schema_version=99))


def test_a_missing_field_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match="field 'quality' is missing"):
        load_run(edited(folder, quality="removed"))


def test_a_field_of_the_wrong_form_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="wrong form"):
        load_run(edited(folder, parameters={"D0": {"value": 1}}))
