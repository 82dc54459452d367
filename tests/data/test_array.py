"""Bare arrays need the settings to say what they are."""

import numpy as np
import pytest

from homodyne.errors import ConfigError, DataError

from .files import N, full_map, inspect, load, used

SAID = {"q": 0.0054, "dt": 0.1, "phi_list": [10.0]}


def saved(path, array, kind):
    with path.open("wb") as stream:
        {"npy": np.save, "npz": np.savez, "text": np.savetxt}[kind](stream, array)
    return path


@pytest.mark.parametrize("layout", ["array", "auto"])
@pytest.mark.parametrize("kind", ["npy", "npz", "text"])
def test_one_map_may_be_npy_npz_or_text(tmp_path, kind, layout):
    dataset = load(saved(tmp_path / "f", full_map(1), kind), layout, **SAID)
    np.testing.assert_allclose(dataset.map(0), used(1), rtol=1e-15)
    assert (dataset.q, dataset.phi.tolist(), dataset.dt) == (0.0054, [10.0], pytest.approx(0.1))


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_several_maps_come_first(tmp_path, kind):
    path = saved(tmp_path / "f", np.array([full_map(1), full_map(2)]), kind)
    dataset = load(path, **{**SAID, "phi_list": [0.0, 350.0]})
    np.testing.assert_array_equal(dataset.map(1), used(2))
    assert dataset.phi.tolist() == [0, -10]


@pytest.mark.parametrize("name", SAID)
def test_what_the_file_does_not_say_must_be_set(tmp_path, name):
    path = saved(tmp_path / "f", full_map(1), "npy")
    with pytest.raises(ConfigError, match=f"data.{name} is missing"):
        load(path, "array", **{key: value for key, value in SAID.items() if key != name})
    assert "frames     70" in inspect(path)


def test_one_angle_per_map(tmp_path):
    with pytest.raises(DataError, match=r"holds 1 maps, data.phi_list 2 angles"):
        load(saved(tmp_path / "f", full_map(1), "npy"), **{**SAID, "phi_list": [0.0, 1.0]})


@pytest.mark.parametrize("shape", [(N,), (2, 2, N, N), (N, N - 1)])
def test_other_shapes_are_refused(tmp_path, shape):
    with pytest.raises(DataError, match=r"accepted: .*n, n|accepted: square"):
        load(saved(tmp_path / "f", np.ones(shape), "npy"), **SAID)


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "f.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="pickled"):
        load(tmp_path / "f.npy", **SAID)


def test_several_arrays_in_one_file_are_refused(tmp_path):
    np.savez(tmp_path / "f.npz", a=full_map(1), b=full_map(2))
    for layout in ("array", "auto"):
        with pytest.raises(DataError, match=r"\['a', 'b'\]"):
            load(tmp_path / "f.npz", layout, **SAID)
