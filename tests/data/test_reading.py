"""How maps are stored, masked and checked while they are read."""

import subprocess
import sys

import h5py
import numpy as np
import pytest

from homodyne.errors import DataError

from .files import N, aps_u, full_map, inspect, load, used


def map_of(path, **settings):
    return load(path, **settings).map(0)


@pytest.mark.parametrize("n", [4, 64, 65, 66, 129, 193])
@pytest.mark.parametrize("half", [np.triu, np.tril, np.asarray], ids=["upper", "lower", "full"])
def test_half_and_full_storage_give_the_same_map_and_the_raw_diagonal(tmp_path, half, n):
    dataset = load(aps_u(tmp_path / "f", [half(full_map(1, n))]))
    np.testing.assert_array_equal(dataset.map(0), used(1, n))
    np.testing.assert_array_equal(dataset.diagonal[0], np.diag(full_map(1, n))[1:])


@pytest.mark.parametrize("half", [np.triu_indices, np.tril_indices])
def test_the_empty_half_may_hold_nan_instead_of_zero(tmp_path, half):
    dense = full_map(1)
    dense[half(N, 1 if half is np.triu_indices else -1)] = np.nan
    np.testing.assert_array_equal(map_of(aps_u(tmp_path / "f", [dense])), used(1))


def test_a_full_matrix_is_never_doubled(tmp_path):
    assert np.nanmax(map_of(aps_u(tmp_path / "f", [full_map(1)]))) < 1.4


@pytest.mark.parametrize(("i", "j"), [(3, 1), (69, 2), (67, 66)])
def test_an_unsymmetric_matrix_is_refused_with_the_place(tmp_path, i, j):
    dense = full_map(1)
    dense[i, j] += 1e-4
    with pytest.raises(DataError, match=rf"c2_00001.*differ.*\({i + 1}, {j + 1}\)"):
        load(aps_u(tmp_path / "f", [dense]))


def test_rounding_below_one_in_a_million_is_symmetric(tmp_path):
    dense = full_map(1)
    dense[50, 10] += 5e-7
    np.testing.assert_array_equal(map_of(aps_u(tmp_path / "f", [dense])), used(1))


@pytest.mark.parametrize("shape", [(N, N + 1), (N,), (2, N, N)])
def test_a_map_that_is_not_square_is_refused(tmp_path, shape):
    with pytest.raises(DataError, match=r"c2_00001.*shape.*accepted: square"):
        load(aps_u(tmp_path / "f", [np.ones(shape)]))


def test_a_complex_map_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"complex128.*accepted: real"):
        load(aps_u(tmp_path / "f", [full_map(1).astype(complex)]))


def test_maps_of_different_sizes_are_refused(tmp_path):
    with pytest.raises(DataError, match="one size"):
        load(aps_u(tmp_path / "f", [full_map(1), full_map(1, N + 1)]))


def test_a_shape_that_no_memory_could_hold_is_refused_before_reading(tmp_path):
    path = aps_u(tmp_path / "f", [full_map(1)], c2_00001=None)
    with h5py.File(path, "r+") as file:
        file.create_dataset("/xpcs/twotime/correlation_map/c2_00001", shape=(2**33, 2**33), chunks=(64, 64), dtype="f4")
    with pytest.raises(DataError, match="accepted: 3 to 65536"):
        load(path)


@pytest.mark.parametrize(("stored", "kept"), [("f4", "f4"), ("f8", "f8"), (">f4", "f8"), ("f2", "f8"), ("i4", "f8")])
def test_only_float32_stays_float32(tmp_path, stored, kept):
    assert load(aps_u(tmp_path / "f", [(1000 * np.triu(full_map(1))).astype(stored)])).tiles.dtype == kept


@pytest.mark.parametrize("nothing", [0.0, np.nan])
@pytest.mark.parametrize("half", [np.triu, np.asarray])
def test_frames_without_any_value_are_masked_and_reported(tmp_path, nothing, half):
    dense = half(full_map(1))
    for frame in (7, 66, 67):
        dense[frame, :] = dense[:, frame] = nothing
    dataset = load(aps_u(tmp_path / "f", [dense]))
    expected = used(1)
    for frame in (7, 66, 67):
        expected[frame - 1, :] = expected[:, frame - 1] = np.nan
    np.testing.assert_array_equal(dataset.map(0), expected)
    assert np.flatnonzero(np.isnan(dataset.diagonal[0])).tolist() == [6, 65, 66]
    assert any("8, 67-68 in every map" in note for note in dataset.provenance.notes)


def test_a_single_zero_is_a_value(tmp_path):
    dense = np.triu(full_map(1))
    dense[3, 9] = 0
    assert map_of(aps_u(tmp_path / "f", [dense]))[2, 8] == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_single_non_finite_value_is_an_error_or_masked_as_asked(tmp_path, value):
    dense = np.triu(full_map(1))
    dense[3, 68] = value
    path = aps_u(tmp_path / "f", [dense])
    with pytest.raises(DataError, match=r"c2_00001: 1 values are not finite, first at frames \(4, 69\).*data.nonfinite=mask"):
        load(path)
    dataset = load(path, nonfinite="mask")
    assert np.argwhere(np.isnan(dataset.map(0)) & ~np.eye(N - 1, dtype=bool)).tolist() == [[2, 67], [67, 2]]
    assert load(path, bad_frames=[4]).pairs[0] == (N - 2) * (N - 3) // 2


def test_a_dead_map_is_an_error_or_left_out_as_asked(tmp_path):
    path = aps_u(tmp_path / "f", [full_map(1), np.full((N, N), np.nan), full_map(3)])
    with pytest.raises(DataError, match=r"c2_00002.*no pair of frames is usable"):
        load(path)
    dataset = load(path, nonfinite="mask")
    assert dataset.phi.tolist() == [0, 120]
    np.testing.assert_array_equal(dataset.map(1), used(3))
    assert any("left out" in note and "c2_00002" in note for note in dataset.provenance.notes)
    with pytest.raises(DataError, match="none of the 1 selected maps"):
        load(path, nonfinite="mask", phi=[[50, 70]])


def test_bad_frames_are_masked_by_their_number_in_the_file(tmp_path):
    path = aps_u(tmp_path / "f", [full_map(1)])
    dataset = load(path, bad_frames=[1, 12], frames=[10, 30])
    bad = dataset.frame == 12
    expected = full_map(1)[10:30, 10:30].copy()
    expected[bad[:, None] | bad | np.eye(20, dtype=bool)] = np.nan
    np.testing.assert_array_equal(dataset.map(0), expected)
    with pytest.raises(DataError, match=r"data.bad_frames names \[71\]; accepted: 1 to 70"):
        load(path, bad_frames=[71])


def test_a_mask_file_says_which_pairs_are_used(tmp_path):
    keep = np.ones((N, N), dtype=bool)
    keep[5, 68] = keep[68, 5] = False
    np.save(tmp_path / "mask.npy", keep)
    path = aps_u(tmp_path / "f", [np.triu(full_map(1))])
    expected = used(1)
    expected[4, 67] = expected[67, 4] = np.nan
    np.testing.assert_array_equal(load(path, mask=str(tmp_path / "mask.npy")).map(0), expected)


@pytest.mark.parametrize("mask", [np.ones((N, N)), np.ones((3, 3), dtype=bool), np.triu(np.ones((N, N), dtype=bool))])
def test_a_mask_of_another_kind_is_refused(tmp_path, mask):
    np.save(tmp_path / "mask.npy", mask)
    with pytest.raises(DataError, match=r"data.mask=.*accepted: .npy, bool, \(70, 70\), symmetric"):
        load(aps_u(tmp_path / "f", [full_map(1)]), mask=str(tmp_path / "mask.npy"))


def test_a_diagonal_that_is_the_mean_of_its_neighbours_is_not_taken_for_raw(tmp_path):
    dense = full_map(1)
    beside = np.diag(dense, 1)
    np.fill_diagonal(dense, np.concatenate([beside[:1], 0.5 * (beside[1:] + beside[:-1]), beside[-1:]]))
    path = aps_u(tmp_path / "f", [np.triu(dense).astype("f4")])
    dataset = load(path)
    assert np.all(np.isnan(dataset.diagonal))
    assert any("mean of its neighbours" in note for note in dataset.provenance.notes)
    assert "diagonal already replaced" in inspect(path)
    assert "upper half, diagonal raw" in inspect(aps_u(tmp_path / "g", [np.triu(full_map(1))]))


def test_disk_storage_holds_the_same_numbers_in_a_file(tmp_path):
    path = aps_u(tmp_path / "f", [full_map(1), full_map(2)])
    on_disk = load(path, storage="disk")
    assert isinstance(on_disk.tiles, np.memmap)
    np.testing.assert_array_equal(on_disk.tiles, load(path).tiles)
    assert on_disk.fingerprint == load(path).fingerprint


def test_disk_storage_leaves_nothing_behind(tmp_path):
    path = aps_u(tmp_path / "f", [full_map(1)])
    spool = tmp_path / "spool"
    spool.mkdir()
    program = (
        "import sys, os; from homodyne.config import option;"
        "option('data', 'aps_u', path=sys.argv[1], storage='disk').load(); print(len(os.listdir(sys.argv[2])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), str(spool)],
        env={"TMPDIR": str(spool), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1"]
    assert list(spool.iterdir()) == []


def test_only_selected_maps_are_read(tmp_path):
    # The second map cannot be read at all: its filter does not exist.
    broken = full_map(2)
    broken[3, 9] = np.nan
    path = aps_u(tmp_path / "f", [full_map(1), broken])
    np.testing.assert_array_equal(load(path, phi=[[0, 10]]).map(0), used(1))
