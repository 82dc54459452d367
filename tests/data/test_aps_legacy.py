"""Traps of data-exchange result files."""

import h5py
import numpy as np
import pytest

from homodyne.errors import DataError

from .files import full_map, legacy, load, used


def test_names_without_padding_follow_their_numbers(tmp_path):
    maps = {f"g2_{k}": np.triu(full_map(k)) for k in range(1, 13)}
    dataset = load(legacy(tmp_path / "f", maps, [0.005] * 12, [10.0 * k for k in range(1, 13)]))
    for k in range(12):
        assert dataset.phi[k] == 10 * (k + 1)
        np.testing.assert_array_equal(dataset.map(k), used(k + 1))


@pytest.mark.parametrize(("q", "phi"), [([0.005] * 3, [0, 30]), ([0.005] * 2, [0, 30, 60]), ([0.005] * 4, [0, 30, 60, 90])])
def test_maps_and_lists_must_have_the_same_number(tmp_path, q, phi):
    maps = {f"g2_{k:05d}": full_map(k) for k in range(1, 4)}
    with pytest.raises(DataError, match=rf"holds 3 maps, /xpcs/dqlist {len(q)} and /xpcs/dphilist {len(phi)} values"):
        load(legacy(tmp_path / "f", maps, q, phi))


def test_fewer_than_five_angles_do_not_bring_in_another_q(tmp_path):
    maps = {f"g2_{k:05d}": full_map(k) for k in range(1, 7)}
    dataset = load(legacy(tmp_path / "f", maps, [0.0054] * 3 + [0.0108] * 3, [0, 30, 60] * 2), q=0.0054)
    assert dataset.phi.tolist() == [0, 30, 60]
    assert dataset.q == 0.0054


def test_dt_counts_stride_and_average(tmp_path):
    more = {"/xpcs/stride_frames": np.array([[2]]), "/xpcs/avg_frames": np.array([[4]])}
    assert load(legacy(tmp_path / "f", {"g2_00001": full_map(1)}, [0.005], [0], **more)).dt == pytest.approx(0.8)


def test_a_file_without_maps_is_refused(tmp_path):
    path = legacy(tmp_path / "f", {}, [0.005], [0])
    with h5py.File(path, "r+") as file:
        file.create_group("/exchange/C2T_all")
    with pytest.raises(DataError, match="there are no maps"):
        load(path)
