"""Traps of boost_corr result files."""

import h5py
import numpy as np
import pytest

from homodyne.errors import DataError

from .files import N, aps_u, full_map, inspect, load, used

GRID = {
    "dynamic_v_list_dim0": np.array([0.005, 0.010]),
    "dynamic_v_list_dim1": np.array([0.0, 60.0, 120.0]),
    "dynamic_num_pts": np.array([2, 3]),
}


def maps(count):
    return [np.triu(full_map(k)) for k in range(1, count + 1)]


def test_a_bin_without_pixels_does_not_shift_the_bins_after_it(tmp_path):
    # Cell (q 0, phi 1) is empty, so label 2 is cell 2 and label 3 is cell 3, which has the other q.
    path = aps_u(tmp_path / "f", maps(5), **GRID, dynamic_index_mapping=np.array([0, 2, 3, 4, 5]))
    first, second = load(path, q=0.005), load(path, q=0.01)
    assert first.phi.tolist() == [0, 120]
    assert second.phi.tolist() == [0, 60, 120]
    np.testing.assert_array_equal(first.map(1), used(2))
    np.testing.assert_array_equal(second.map(0), used(3))


def test_maps_belong_to_the_processed_bins_by_position(tmp_path):
    path = aps_u(tmp_path / "f", maps(4), **GRID, dynamic_index_mapping=np.arange(6), processed_bins=np.array([[1, 3, 4, 6]]))
    dataset = load(path, q=0.0054)
    assert dataset.phi.tolist() == [0, 120]
    np.testing.assert_array_equal(dataset.map(1), used(2))


def test_maps_named_by_their_bin_follow_their_names(tmp_path):
    path = aps_u(tmp_path / "f", [], **GRID, dynamic_index_mapping=np.arange(6), processed_bins=np.array([6, 2]))
    with h5py.File(path, "r+") as file:
        file["/xpcs/twotime/correlation_map/c2_00002"] = full_map(2)
        file["/xpcs/twotime/correlation_map/c2_00006"] = full_map(6)
    dataset = load(path, q=0.005)
    assert dataset.phi.tolist() == [60]
    np.testing.assert_array_equal(dataset.map(0), used(2))


def test_bins_outside_the_grid_are_refused(tmp_path):
    path = aps_u(tmp_path / "f", maps(2), **GRID, dynamic_index_mapping=np.arange(6), processed_bins=np.array([7, 8]))
    with pytest.raises(DataError, match=r"processed_bins holds 7-8; accepted: 1 to 6"):
        load(path)


def test_a_bin_listed_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"bins \[2\] more than once"):
        load(aps_u(tmp_path / "f", maps(3), processed_bins=np.array([1, 2, 2])))


@pytest.mark.parametrize("bins", [[1, 2], [1, 2, 3, 4]])
def test_maps_and_bins_must_have_the_same_number(tmp_path, bins):
    with pytest.raises(DataError, match=rf"processed_bins lists {len(bins)} bins.*holds 3 maps"):
        load(aps_u(tmp_path / "f", maps(3), processed_bins=np.array(bins)))


@pytest.mark.parametrize("name", ["processed_bins", "dynamic_v_list_dim1"])
def test_a_missing_dataset_is_named(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name} is missing"):
        load(aps_u(tmp_path / "f", maps(2), **{name: None}))


def test_a_list_of_angles_that_does_not_fit_the_grid_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"dynamic_num_pts is \[1, 3\], but the axes have \[1, 2\]"):
        load(aps_u(tmp_path / "f", maps(3), dynamic_v_list_dim1=np.array([0.0, 60.0])))


def test_the_axes_of_the_grid_may_be_swapped(tmp_path):
    path = aps_u(
        tmp_path / "f",
        maps(6),
        dynamic_v_list_dim0=np.array([0.0, 60.0, 120.0]),
        dynamic_v_list_dim1=np.array([0.005, 0.010]),
        dynamic_num_pts=np.array([3, 2]),
        dynamic_index_mapping=np.arange(6),
        map_names=[b"phi", b"q"],
    )
    dataset = load(path, q=0.01)
    assert dataset.phi.tolist() == [0, 60, 120]
    np.testing.assert_array_equal(dataset.map(1), used(4))


def test_axes_other_than_q_and_phi_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"map_names.*\['x', 'y'\]; accepted: q and phi"):
        load(aps_u(tmp_path / "f", maps(1), map_names=["x", "y"]))


@pytest.mark.parametrize(
    ("where", "spelling", "factor"),
    [
        ("unit", "Å⁻¹", 1),
        ("units", "1/Angstrom", 1),
        ("map_units", "A^-1", 1),
        ("unit", "\u212b^-1", 1),
        ("unit", "nm^-1", 0.1),
        ("units", "1/nm", 0.1),
        ("map_units", "nm⁻¹", 0.1),
        ("unit", b"nm-1", 0.1),
    ],
)
def test_q_is_converted_from_the_unit_that_the_file_names(tmp_path, where, spelling, factor):
    path = aps_u(tmp_path / "f", maps(1))
    with h5py.File(path, "r+") as file:
        if where == "map_units":
            text = spelling if isinstance(spelling, bytes) else spelling.encode()
            file["/xpcs/qmap/map_units"] = [text, b"deg"]
        else:
            file["/xpcs/qmap/dynamic_v_list_dim0"].attrs[where] = spelling
    assert load(path).q == pytest.approx(0.005 * factor, rel=1e-12)


def test_an_unknown_unit_is_refused(tmp_path):
    with pytest.raises(DataError, match="dynamic_v_list_dim0: unit 'furlong' is not known; accepted: 1/Angstrom or 1/nm"):
        load(aps_u(tmp_path / "f", maps(1), **{"/xpcs/qmap/map_units": ["furlong", "deg"]}))


def test_angles_in_radians_are_converted(tmp_path):
    path = aps_u(tmp_path / "f", maps(2), dynamic_v_list_dim1=np.array([0.0, np.pi / 2]), **{"/xpcs/qmap/map_units": ["1/A", "rad"]})
    np.testing.assert_allclose(load(path).phi, [0, 90], atol=1e-12)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_dt_is_frame_time_times_stride_times_average(tmp_path, shape):
    values = {"frame_time": 0.02, "stride_frame": 3, "avg_frame": 5}
    path = aps_u(tmp_path / "f", maps(1), **{name: np.full(shape, value) for name, value in values.items()})
    assert load(path).dt == pytest.approx(0.3, rel=1e-12)


def test_pixels_and_photons_are_those_of_the_regions_inside_the_mask(tmp_path):
    regions = np.array([[1, 1, 2, 2], [1, 2, 2, 0]], dtype="u1")
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], dtype=bool)
    scattering = np.array([[[1.0, 2.0, 3.0, 100.0], [3.0, 6.0, 3.0, 50.0]]])
    path = aps_u(
        tmp_path / "f",
        maps(2),
        **{"/xpcs/qmap/dynamic_roi_map": regions, "/xpcs/qmap/mask": mask, "/xpcs/temporal_mean/scattering_2d": scattering},
        avg_frame=2,
    )
    dataset = load(path)
    assert dataset.pixels.tolist() == [3, 3]
    assert dataset.counts.tolist() == [4, 8]
    assert "pixels     3 to 3 per map" in inspect(path)


def test_pixels_and_photons_are_unknown_where_the_file_does_not_say(tmp_path):
    dataset = load(aps_u(tmp_path / "f", maps(2)))
    assert np.all(np.isnan(dataset.pixels))
    assert np.all(np.isnan(dataset.counts))


def test_packed_chunks_give_the_same_map(tmp_path):
    path = aps_u(tmp_path / "f", [])
    with h5py.File(path, "r+") as file:
        del file["/xpcs/twotime/processed_bins"], file["/xpcs/qmap/dynamic_index_mapping"]
        del file["/xpcs/qmap/dynamic_v_list_dim1"], file["/xpcs/qmap/dynamic_num_pts"]
        file["/xpcs/twotime/processed_bins"] = [1]
        file["/xpcs/qmap/dynamic_v_list_dim1"] = [0.0]
        file.create_dataset("/xpcs/twotime/correlation_map/c2_00001", data=full_map(1), chunks=(N, 9), compression="gzip")
    np.testing.assert_array_equal(load(path).map(0), used(1))


def test_a_map_behind_a_broken_link_is_named(tmp_path):
    path = aps_u(tmp_path / "f", maps(1))
    with h5py.File(path, "r+") as file:
        file["/xpcs/twotime/correlation_map/c2_00002"] = h5py.ExternalLink("elsewhere.hdf", "/map")
    with pytest.raises(DataError, match="c2_00002"):
        load(path)
