"""Traps of the caches of existing programs."""

import json

import numpy as np
import pytest

from homodyne.errors import DataError

from .files import N, full_map, load, used


def cache(path, save=np.savez, **changes):
    t = 0.1 * np.arange(N)
    content = {
        "c2_exp": np.array([full_map(1), full_map(2), full_map(3)]),
        "t1": t,
        "t2": t,
        "phi_angles_list": np.array([0.0, 45.0, 90.0]),
        "wavevector_q_list": np.full(3, 0.0054),
        **changes,
    }
    with path.open("wb") as stream:
        save(stream, **{name: value for name, value in content.items() if value is not None})
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_are_read_from_inside_the_archive(tmp_path, save, order):
    path = cache(tmp_path / "f", save, c2_exp=np.asarray([full_map(k) for k in (1, 2, 3)], order=order))
    dataset = load(path, phi=[[40, 100]])
    np.testing.assert_array_equal(dataset.map(0), used(2))
    np.testing.assert_array_equal(dataset.map(1), used(3))
    assert dataset.dt == pytest.approx(0.1, rel=1e-12)


def test_lower_halves_are_read_by_starting_again(tmp_path):
    path = cache(tmp_path / "f", np.savez_compressed, c2_exp=np.array([np.tril(full_map(k)) for k in (1, 2, 3)]))
    np.testing.assert_array_equal(load(path).map(2), used(3))


def test_times_on_a_mesh_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"t1 has shape \(70, 70\); accepted: one axis of 70 times"):
        load(cache(tmp_path / "f", t1=np.zeros((N, N))))


@pytest.mark.parametrize("t", [np.geomspace(1, 2, N), np.zeros(N), -0.1 * np.arange(N)])
def test_times_that_do_not_rise_uniformly_are_refused(tmp_path, t):
    with pytest.raises(DataError, match="t1 and t2 must be equal, rising and uniform"):
        load(cache(tmp_path / "f", t1=t, t2=t))


def test_two_different_time_axes_are_refused(tmp_path):
    with pytest.raises(DataError, match="t1 and t2 must be equal"):
        load(cache(tmp_path / "f", t2=0.2 * np.arange(N)))


@pytest.mark.parametrize("name", ["c2_exp", "phi_angles_list", "cache_metadata_json"])
def test_nothing_is_unpickled(tmp_path, name):
    with pytest.raises(DataError, match="pickled"):
        load(cache(tmp_path / "f", **{name: np.array([{"a": 1}, None], dtype=object)}))


def test_a_list_that_kept_its_length_when_angles_were_filtered_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds 3 maps, wavevector_q_list has shape \(5,\)"):
        load(cache(tmp_path / "f", wavevector_q_list=np.full(5, 0.0054)))


@pytest.mark.parametrize("name", ["t2", "phi_angles_list", "wavevector_q_list"])
def test_a_missing_array_is_named(tmp_path, name):
    with pytest.raises(DataError, match=f"array {name} is missing; found"):
        load(cache(tmp_path / "f", **{name: None}))


def test_a_cache_serves_only_the_q_and_dt_that_it_holds(tmp_path):
    path = cache(tmp_path / "f", cache_metadata_json=np.array(json.dumps({"start_frame": 1000})))
    with pytest.raises(DataError, match=r"nearest q: 0.0054"):
        load(path, q=0.0108)
    with pytest.raises(DataError, match=r"data.dt=9 s, but the file says 0.1 s"):
        load(path, dt=9.0)
    assert any("start_frame" in note for note in load(path).provenance.notes)
