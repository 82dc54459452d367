"""Simulated maps are the model plus the noise that was asked for."""

import re
import time

import h5py
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
        ({"photons": 0.5, "heterogeneity": 0.1}, "photons, heterogeneity: for noise=speckle only"),
        ({"noise": "speckle", "offset": 1.01}, "heterogeneity"),
        ({"noise": "speckle", "diagonal_excess": 0.2}, "for noise=gaussian only"),
        ({"noise": "speckle", "shear_kernel": "homodyne_v2"}, "which no sample has"),
        ({"noise": "speckle", "contrast": 1.5}, "at most 1"),
        ({"noise": "speckle", "bad_frames": [202]}, "accepted: 2 to 201"),
        ({"noise": "speckle", "contrast_drift": 1.0}, "contrast_drift"),
        ({"noise": "white"}, "gaussian"),
    ],
)
def test_settings_are_checked_before_anything_is_made(settings, words):
    with pytest.raises(ConfigError, match=words):
        option("data", "simulated", **settings)


PHOTONS = {"noise": "speckle", "photons": 0.8, "pixels": 700, "layers": None, "contrast": 0.3}


def speckled(**settings):
    """Speckle with a beam that falls, as a Dataset."""
    sample = {**SHAPE, **PHOTONS, "seed": 2} | settings
    return simulate(TRUTH, [-60.0, 0.0, 40.0], **sample)


@pytest.mark.parametrize("layout", ["aps_u", "auto"])
def test_speckle_comes_back_from_an_aps_file_with_its_pixels_and_counts(tmp_path, layout):
    made = speckled(beam_drift=0.8)
    write(made, tmp_path / "f", "aps_u", details={"photons": 0.8})
    read = load(tmp_path / "f", layout)
    np.testing.assert_allclose(read.tiles, made.tiles, rtol=1e-7)
    np.testing.assert_allclose(read.diagonal, made.diagonal, rtol=1e-7)
    np.testing.assert_array_equal(read.pixels, [700, 700, 700])
    np.testing.assert_array_equal(read.frame, made.frame)
    assert read.truth == made.truth
    # The file holds the mean of each map and a course in time that all maps share, both with the filler, and both as float32.
    filled = np.concatenate([made.counts[:, :1], made.counts], axis=1)
    shared = filled.mean(axis=1)[:, None] * filled.mean(axis=0) / filled.mean()
    np.testing.assert_allclose(read.counts, shared[:, 1:], rtol=1e-6)
    # Which is what each map counted, but for its own photons and speckle.
    np.testing.assert_allclose(read.counts, made.counts, rtol=5 * np.sqrt((0.3 + 1 / 0.4) / 700))


def test_frames_that_are_not_read_are_not_counted(tmp_path):
    made = speckled(beam_drift=0.8)
    write(made, tmp_path / "f", "aps_u")
    whole, part = load(tmp_path / "f"), load(tmp_path / "f", frames=[20, 60], phi=[[-10, 50]])
    np.testing.assert_array_equal(part.frame, np.arange(21, 61))
    np.testing.assert_array_equal(part.counts, whole.counts[1:, 19:59])


def test_averaged_frames_have_the_photons_of_all_of_them(tmp_path):
    made = speckled()
    write(made, tmp_path / "f", "aps_u")
    with h5py.File(tmp_path / "f", "r+") as file:
        file["/xpcs/twotime/config/avg_frame"][()] = 4
    np.testing.assert_allclose(load(tmp_path / "f").counts.mean(), 4 * 0.8, rtol=0.02)


@pytest.mark.parametrize(
    ("course", "words"),
    [
        (np.ones((2, 70)), r"shape \(2, 70\), not \(2, 71\)"),
        (np.ones(71), r"shape \(71,\)"),
        (np.zeros((2, 71)), "no intensities"),
        (np.full((2, 71), np.nan), "no intensities"),
    ],
)
def test_a_course_that_does_not_fit_is_left_out_and_named(tmp_path, course, words):
    made = speckled()
    write(made, tmp_path / "f", "aps_u")
    with h5py.File(tmp_path / "f", "r+") as file:
        del file["/xpcs/spatial_mean/intensity_vs_time"]
        file["/xpcs/spatial_mean/intensity_vs_time"] = course
    read = load(tmp_path / "f")
    np.testing.assert_allclose(read.counts, made.counts.mean(axis=1), rtol=0.01)
    assert any(re.search(words, note) for note in read.provenance.notes)


def test_without_shot_noise_a_file_has_no_photons(tmp_path):
    made = speckled(photons=None)
    assert np.all(np.isinf(made.counts))
    write(made, tmp_path / "f", "aps_u")
    read = load(tmp_path / "f")
    assert np.all(np.isnan(read.counts))
    np.testing.assert_array_equal(read.pixels, made.pixels)


@pytest.mark.parametrize("layout", ["nxxpcs", "aps_legacy", "npz", "array"])
def test_other_layouts_keep_what_they_can_hold_of_speckle(tmp_path, layout):
    made = speckled()
    write(made, tmp_path / "f", layout)
    read = load(tmp_path / "f", **({"q": 0.0054, "dt": 0.1, "phi_list": [-60.0, 0.0, 40.0]} if layout == "array" else {}))
    assert read.fingerprint == made.fingerprint
    np.testing.assert_array_equal(read.diagonal, made.diagonal)
    np.testing.assert_array_equal(read.pixels, made.pixels if layout == "nxxpcs" else [np.nan] * 3)


def test_a_frame_without_beam_is_named_by_the_number_that_leaves_it_out(tmp_path):
    made = speckled(bad_frames=[9, 41])
    write(made, tmp_path / "f", "aps_u")
    read = load(tmp_path / "f")
    assert [note for note in read.provenance.notes if "leave" in note] == [
        "frames 9, 41: intensity 1.8 to 2.1 % of the median: leave them out with data.bad_frames=[9,41]"
    ]
    without = load(tmp_path / "f", bad_frames=[9, 41])
    assert not [note for note in without.provenance.notes if "leave" in note]
    assert np.flatnonzero(np.all(np.isnan(without.diagonal), axis=0)).tolist() == [7, 39]


def test_a_frame_without_any_photon_is_masked(tmp_path):
    made = speckled(photons=0.01, bad_frames=[9])
    dark = np.flatnonzero(np.all(np.isnan(made.diagonal), axis=0))
    assert 7 in dark
    write(made, tmp_path / "f", "aps_u")
    read = load(tmp_path / "f")
    assert np.all(np.isnan(read.map(0)[7]))
    masked = [note for note in read.provenance.notes if note.startswith("frames entirely NaN or zero, masked")]
    assert len(masked) == 3
    assert all(re.search(r"\b9\b.* in ", note) for note in masked)


def test_the_option_simulates_speckle_and_says_so(tmp_path):
    settings = {**PHOTONS, "n_frames": 30, "phi_list": [0.0, 30.0], "bad_frames": [5], "beam_drift": 0.4}
    data = option("data", "simulated", **settings, write=str(tmp_path / "f.hdf"))
    made = data.load()
    same = simulate(data.parameters, [0.0, 30.0], q=0.0054, gap=2e6, dt=0.1, frames=30, **PHOTONS, bad_frames=[5], beam_drift=0.4)
    assert made.fingerprint == same.fingerprint
    assert "simulated frames with 2 % of the beam: 5" in made.provenance.notes
    assert "speckle, pixels 700" in data.inspect()
    np.testing.assert_allclose(load(tmp_path / "f.hdf").tiles, made.tiles, rtol=1e-7)


def test_too_few_layers_are_refused_with_the_number_that_would_do():
    with pytest.raises(ConfigError, match=r"layers is 10, .* accepted: at least 23 layers"):
        option("data", "simulated", noise="speckle", layers=10).load()


def test_23_maps_of_1000_frames_take_seconds():
    start = time.perf_counter()
    dataset = simulate(TRUTH, np.linspace(-75, 75, 23), frames=1000, **SIMULATION)
    assert dataset.tiles.shape == (23, 136, 64, 64)
    assert time.perf_counter() - start < 15
