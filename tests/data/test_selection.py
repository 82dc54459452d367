"""Which q, angles, frames and times are used."""

import numpy as np
import pytest

from homodyne.data.selection import in_ranges, normalise
from homodyne.errors import ConfigError, DataError

from .files import N, aps_u, full_map, legacy, load, option


@pytest.fixture
def two_q(tmp_path):
    """q 0.005 with maps 1, 2, 3 at 0, 60, 120 degrees; q 0.010 with maps 4, 5, 6."""
    return aps_u(
        tmp_path / "two_q",
        [full_map(k) for k in range(1, 7)],
        dynamic_v_list_dim0=np.array([0.005, 0.010]),
        dynamic_v_list_dim1=np.array([0.0, 60.0, 120.0]),
        dynamic_num_pts=np.array([2, 3]),
    )


def test_several_q_have_to_be_chosen_from_a_list(two_q):
    with pytest.raises(DataError, match=r"several q.*0.005, 0.01; choose one with data.q="):
        load(two_q)


def test_the_nearest_q_is_used_alone_whatever_the_number_of_its_maps(two_q):
    dataset = load(two_q, q=0.0054)
    assert dataset.q == 0.005
    assert dataset.phi.tolist() == [0, 60, 120]


def test_a_q_that_is_not_in_the_file_is_an_error_that_names_the_nearest(two_q):
    with pytest.raises(DataError, match=r"data.q=0.02 .*nearest q: 0.005, 0.01"):
        load(two_q, q=0.02)
    assert load(two_q, q=0.02, q_tolerance=0.5).q == 0.01


def test_two_q_within_the_tolerance_are_never_mixed(tmp_path):
    maps = {f"g2_{k:05d}": full_map(k) for k in range(1, 5)}
    path = legacy(tmp_path / "f", maps, [0.0054, 0.0056, 0.0054, 0.0056], [0, 0, 90, 90])
    dataset = load(path, q=0.0055)
    assert dataset.q in (0.0054, 0.0056)
    assert len(dataset.phi) == 2


def test_q_of_one_ring_may_differ_by_a_thousandth_and_the_spread_is_reported(tmp_path):
    maps = {f"g2_{k:05d}": full_map(k) for k in range(1, 4)}
    dataset = load(legacy(tmp_path / "f", maps, [0.0054, 0.005402, 0.0108], [0, 90, 0]), q=0.0054)
    assert dataset.q == pytest.approx(0.005401, rel=1e-9)
    assert any("q of these maps differs by 0.00037" in note for note in dataset.provenance.notes)


def test_bins_without_q_or_phi_are_left_out_with_a_note(tmp_path):
    maps = {f"g2_{k:05d}": full_map(k) for k in range(1, 5)}
    dataset = load(legacy(tmp_path / "f", maps, [0.005, np.nan, 0.005, 0.005], [0, 30, np.nan, 90]))
    assert dataset.phi.tolist() == [0, 90]
    assert any("1 maps without a finite q" in note for note in dataset.provenance.notes)
    assert any("1 maps without a finite phi" in note for note in dataset.provenance.notes)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(-180, 180), (180, 180), (190, -170), (350, -10), (-175, -175), (540, 180), (10.1, 10.1), (-360, 0)],
)
def test_angles_are_moved_to_the_half_open_circle(given, expected):
    assert normalise(np.array([float(given)]))[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([[170, 190]], [-175, 175, -170]),
        ([[170, -170]], [-175, 175, -170]),
        ([[350, 10]], [0, -10]),
        ([[-10, 10]], [0, -10]),
        ([[0, 360]], [-175, 0, 175, -170, -10]),
        ([[-180, 180]], [-175, 0, 175, -170, -10]),
        ([[0, 0]], [0]),
        ([[0, 0], [-10.0000000001, -10.0000000001]], [0, -10]),
        ([[0, 1], [170, 176]], [0, 175]),
    ],
)
def test_ranges_are_inclusive_and_wrap_around(ranges, expected):
    phi = normalise(np.array([-175.0, 0, 175, 190, 350]))
    assert phi[in_ranges(phi, ranges)].tolist() == expected


def test_no_angle_in_range_is_an_error_that_lists_the_angles(two_q):
    with pytest.raises(DataError, match=r"data.phi=.*phi of this q .*0, 60, 120"):
        load(two_q, q=0.005, phi=[[70, 80]])
    assert load(two_q, q=0.005, phi=[[110, 70]]).phi.tolist() == [0, 60, 120]


def test_a_range_needs_two_ends(two_q):
    with pytest.raises(ConfigError, match="phi"):
        load(two_q, phi=[[1, 2, 3]])


def test_two_maps_at_one_angle_are_both_kept_with_a_note(tmp_path):
    maps = {f"g2_{k:05d}": full_map(k) for k in range(1, 4)}
    dataset = load(legacy(tmp_path / "f", maps, [0.005] * 3, [0, 30, 360]))
    assert dataset.phi.tolist() == [0, 30, 0]
    assert any("same phi" in note for note in dataset.provenance.notes)


def test_frames_are_counted_from_one_and_inclusive(tmp_path):
    path = aps_u(tmp_path / "f", [full_map(1)])
    dataset = load(path, frames=[3, 8], time_origin=0.5)
    assert dataset.frame.tolist() == [3, 4, 5, 6, 7, 8]
    np.testing.assert_allclose(dataset.t, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0], rtol=1e-14)
    assert dataset.map(0)[0, 1] == full_map(1)[2, 3]


def test_by_default_the_first_selected_frame_is_dropped_and_the_next_is_at_dt(tmp_path):
    path = aps_u(tmp_path / "f", [full_map(1)])
    dataset = load(path, frames=[3, 8])
    assert dataset.frame.tolist() == [4, 5, 6, 7, 8]
    np.testing.assert_allclose(dataset.t, [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-14)
    assert dataset.map(0)[0, 1] == full_map(1)[3, 4]
    assert any("frame 3 is at t = 0 and dropped" in note for note in dataset.provenance.notes)


def test_the_end_of_the_file_is_null_and_nothing_is_clipped(tmp_path):
    path = aps_u(tmp_path / "f", [full_map(1)])
    assert load(path, frames=[5, None]).frame[-1] == N
    with pytest.raises(DataError, match=r"data.frames=\[1, 71\] goes beyond the 70 frames"):
        load(path, frames=[1, 71])
    with pytest.raises(DataError, match="leaves 2 frames"):
        load(path, frames=[1, 3])
    for frames in ([0, 5], [5, 3], [5], [-1, 4]):
        with pytest.raises(ConfigError, match="frames"):
            load(path, frames=frames)


def test_dt_of_the_file_and_of_the_settings_must_agree(tmp_path):
    path = aps_u(tmp_path / "f", [full_map(1)])
    with pytest.raises(DataError, match=r"data.dt=0.2 s, but the file says 0.1 s"):
        load(path, dt=0.2)
    assert load(path, dt=0.10005).dt == pytest.approx(0.10005)


def test_a_dt_that_nobody_knows_is_an_error(tmp_path):
    path = aps_u(tmp_path / "f", [full_map(1)], frame_time=None)
    with pytest.raises(ConfigError, match=r"data.dt is missing"):
        load(path)
    assert load(path, dt=0.3).dt == pytest.approx(0.3)


def test_a_path_is_needed_and_must_be_a_file(tmp_path):
    with pytest.raises(ConfigError, match=r"data.path is missing"):
        option("data", "aps_u").load()
    with pytest.raises(DataError, match=r"nowhere.hdf: no such file"):
        load(tmp_path / "nowhere.hdf")
    with pytest.raises(DataError, match="is a directory"):
        load(tmp_path)


def test_a_setting_with_a_typing_error_is_refused_with_the_accepted_names(two_q):
    with pytest.raises(ConfigError, match=r"data.wavevecor_q: unknown key.*accepted: .*q_tolerance"):
        load(two_q, wavevecor_q=0.005)
