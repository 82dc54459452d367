"""The layout is recognised by content."""

import h5py
import numpy as np
import pytest

from homodyne.errors import ConfigError, DataError

from .files import aps_u, full_map, inspect, legacy, load


def test_the_ending_of_the_name_means_nothing(tmp_path):
    dataset = load(aps_u(tmp_path / "f.npz", [full_map(1)]))
    assert dataset.provenance.layout == "aps_u"
    assert dataset.provenance.notes[0].startswith("layout aps_u: the file holds /xpcs/twotime/correlation_map")


def test_a_file_that_fits_two_layouts_is_the_newer_one_and_says_so(tmp_path):
    path = legacy(tmp_path / "f", {"g2_00001": full_map(2)}, [0.005], [0])
    other = aps_u(tmp_path / "g", [full_map(1)])
    with h5py.File(path, "r+") as file, h5py.File(other) as source:
        source.copy("/xpcs/twotime", file["/xpcs"])
        source.copy("/xpcs/qmap", file["/xpcs"])
        source.copy("/entry", file)
    assert "also fits aps_legacy" in load(path).provenance.notes[0]


def test_an_unknown_hdf5_file_is_refused_with_what_was_looked_for_and_what_it_holds(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["/measured/c2"] = np.ones((4, 4))
        file["/info"] = 1
    with pytest.raises(DataError, match=r"f\.h5: HDF5 of an unknown layout; it holds /info, /measured; looked for aps_u: /xpcs/twotime"):
        load(tmp_path / "f.h5")


def test_multi_tau_results_without_maps_are_an_unknown_layout(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["/xpcs/multitau/normalized_g2"] = np.ones((4, 4))
        file["/xpcs/qmap/dynamic_v_list_dim0"] = [0.1]
    with pytest.raises(DataError, match="unknown layout"):
        load(tmp_path / "f.h5")


def test_an_unknown_npz_file_is_refused_with_its_arrays(tmp_path):
    np.savez(tmp_path / "f.npz", g2=1, tau=2)
    with pytest.raises(DataError, match=r"'g2', 'tau'.*accepted: c2_exp"):
        load(tmp_path / "f.npz")


def test_angles_are_not_set_for_files_that_hold_them(tmp_path):
    with pytest.raises(ConfigError, match=r"data.phi_list is set"):
        load(aps_u(tmp_path / "f", [full_map(1)]), phi_list=[0.0])


def test_inspection_lists_every_q_with_its_angles_without_choosing(tmp_path):
    maps = {f"g2_{k:05d}": full_map(k) for k in range(1, 4)}
    text = inspect(legacy(tmp_path / "f", maps, [0.0054, 0.0054, 0.0108], [0, 200, 0]))
    assert "0.0054         2  0 -160" in text
    assert "0.0108         1  0" in text
