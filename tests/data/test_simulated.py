"""Simulated maps are the model plus the noise that was asked for."""

import time

import numpy as np
import pytest

from homodyne.config import option
from homodyne.data.dataset import Truth
from homodyne.errors import ConfigError, DataError
from homodyne.physics import two_time
from homodyne.simulation import simulate, write

from .contract import SIMULATION, TRUTH
from .files import load

SHAPE = {"q": 0.0054, "gap": 2e6, "dt": 0.1, "frames": 70}


def test_without_noise_the_maps_are_the_model_at_dt_two_dt_and_so_on():
    dataset = simulate(TRUTH, [-30.0, 90.0], **SHAPE, contrast=[0.1, 0.2], offset=1.02, diagonal_excess=0.5)
    model = two_time(TRUTH, [-30.0, 90.0], 0.1 * np.arange(1, 71), q=0.0054, gap=2e6, contrast=[0.1, 0.2], offset=1.02)
    for k in range(2):
        np.testing.assert_allclose(dataset.diagonal[k], np.diag(model[k]) + 0.5, rtol=1e-13)
        np.fill_diagonal(model[k], np.nan)
        np.testing.assert_allclose(dataset.map(k), model[k], rtol=1e-13)
    assert dataset.truth == Truth(TRUTH, "gap_average")


def test_noise_has_the_standard_deviation_asked_for_and_is_reproducible():
    clean = simulate(TRUTH, [0.0, 40.0], **SHAPE)
    noisy = [simulate(TRUTH, [0.0, 40.0], **SHAPE, sigma=[0.01, 0.05], seed=seed) for seed in (1, 1, 2)]
    assert noisy[0].fingerprint == noisy[1].fingerprint != noisy[2].fingerprint
    difference = noisy[0].tiles - clean.tiles
    # 2415 values each: the standard deviation of a standard deviation is 1.4 percent.
    np.testing.assert_allclose(np.nanstd(difference, axis=(1, 2, 3)), [0.01, 0.05], rtol=0.06)
    assert abs(np.nanmean(difference[1])) < 4 * 0.05 / np.sqrt(2415)


def test_static_maps_need_no_shear_parameters():
    static = {name: TRUTH[name] for name in ("D0", "alpha", "D_offset")}
    dataset = simulate(static, [0.0, 90.0], **SHAPE, mode="static")
    np.testing.assert_array_equal(dataset.tiles[0], dataset.tiles[1])


def test_the_truth_goes_with_the_time_origin_for_which_it_holds(tmp_path):
    write(simulate(TRUTH, [0.0], **SHAPE), tmp_path / "f", "npz")
    assert load(tmp_path / "f", frames=[1, 50]).truth == Truth(TRUTH, "gap_average")
    assert load(tmp_path / "f", frames=[11, 50], time_origin=1.0).truth == Truth(TRUTH, "gap_average")
    moved = load(tmp_path / "f", frames=[11, 50])
    assert moved.truth is None
    assert any("do not hold for this time origin" in note for note in moved.provenance.notes)


def test_a_file_is_not_written_for_another_time_origin(tmp_path):
    made = simulate(TRUTH, [0.0], **SHAPE)
    write(made, tmp_path / "f", "npz")
    moved = load(tmp_path / "f", time_origin=0.5)
    with pytest.raises(ValueError, match=r"the first frame is at 0.5 s"):
        write(moved, tmp_path / "g", "npz")
    with pytest.raises(ValueError, match="layout is 'hdf'; accepted: aps_u"):
        write(made, tmp_path / "g", "hdf")
    assert not (tmp_path / "g").exists()


def test_the_option_simulates_and_writes_what_can_be_read_with_its_truth(tmp_path):
    data = option("data", "simulated", n_frames=66, phi_list=[0.0, 30.0], write=str(tmp_path / "new" / "f.hdf"), layout="aps_legacy")
    made = data.load()
    read = load(tmp_path / "new" / "f.hdf")
    assert read.fingerprint == made.fingerprint
    assert read.truth == made.truth == Truth(data.parameters, "gap_average")
    assert "truth      D0 20000" in data.inspect()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    data = option("data", "simulated", n_frames=5, write=str(tmp_path / "file" / "f.hdf"))
    with pytest.raises(DataError, match="cannot be written"):
        data.load()


def test_the_static_option_takes_its_parameters_from_the_defaults():
    assert set(option("data", "simulated", mode="static", n_frames=5).load().truth.parameters) == {"D0", "alpha", "D_offset"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"parameters": {"D1": 1.0}}, "D1"),
        ({"mode": "statik"}, "accepted: static, laminar_flow"),
        ({"shear_kernel": "v2"}, "accepted: gap_average, homodyne_v2"),
        ({"sigma": -1.0}, "sigma"),
        ({"layout": "h5"}, "layout"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_settings_are_checked_before_anything_is_made(settings, words):
    with pytest.raises(ConfigError, match=words):
        option("data", "simulated", **settings)


def test_23_maps_of_1000_frames_take_seconds():
    start = time.perf_counter()
    dataset = simulate(TRUTH, np.linspace(-75, 75, 23), frames=1000, **SIMULATION)
    assert dataset.tiles.shape == (23, 136, 64, 64)
    assert time.perf_counter() - start < 15
