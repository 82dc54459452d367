"""NXxpcs says in attributes how maps are stored."""

import h5py
import numpy as np
import pytest

from homodyne.errors import DataError

from .files import full_map, load, used

SAID = {
    "storage_mode": "one_array_q_first",
    "baseline_reference": 1,
    "time_origin_location": "upper_left",
    "populated_elements": "all",
}


def nxxpcs(path, maps, **said):
    with h5py.File(path, "w") as file:
        if isinstance(maps, dict):
            for name, dense in maps.items():
                file[f"/entry/twotime/two_time_corr_func/{name}"] = dense
        else:
            file["/entry/twotime/two_time_corr_func"] = maps
        attributes = {**SAID, **said}
        file["/entry/twotime/two_time_corr_func"].attrs.update({key: value for key, value in attributes.items() if value is not None})
        file["/entry/instrument/masks/dynamic_q_list"] = [0.05, 0.05]
        file["/entry/instrument/masks/dynamic_q_list"].attrs["units"] = "1/nm"
        file["/entry/instrument/masks/dynamic_phi_list"] = [0.0, 90.0]
        file["/entry/instrument/masks/dynamic_phi_list"].attrs["units"] = "1/nm"
        file["/entry/instrument/masks/dynamic_roi_map"] = np.array([[0, 1, 1], [2, 0, 1]])
        file["/entry/instrument/eiger/frame_time"] = 100.0
        file["/entry/instrument/eiger/frame_time"].attrs["units"] = "ms"
        file["/entry/instrument/eiger"].attrs["NX_class"] = b"NXdetector"
    return path


def check(dataset):
    np.testing.assert_allclose(dataset.map(0), used(1), rtol=1e-15)
    np.testing.assert_allclose(dataset.map(1), used(2), rtol=1e-15)
    np.testing.assert_allclose(dataset.diagonal[1], np.diag(full_map(2))[1:], rtol=1e-15)


def stack(half=np.asarray, baseline=1):
    return np.array([half(full_map(k) + baseline - 1) for k in (1, 2)])


def test_the_region_or_key_may_come_first_last_or_by_name(tmp_path):
    check(load(nxxpcs(tmp_path / "a", stack())))
    check(load(nxxpcs(tmp_path / "b", np.moveaxis(stack(), 0, 2), storage_mode="one_array_q_last")))
    keys = {"c2_00001": full_map(1), "c2_00002": full_map(2)}
    check(load(nxxpcs(tmp_path / "c", keys, storage_mode="data_exchange_keys")))


@pytest.mark.parametrize(("half", "word"), [(np.triu, "upper_half"), (np.tril, "lower_half"), (np.asarray, "all")])
@pytest.mark.parametrize("baseline", [0, 1])
@pytest.mark.parametrize("origin", ["upper_left", "lower_left"])
def test_half_baseline_and_origin_are_obeyed_together(tmp_path, half, word, baseline, origin):
    maps = stack(half, baseline)
    maps = maps[:, ::-1] if origin == "lower_left" else maps
    said = {"populated_elements": word, "baseline_reference": baseline, "time_origin_location": origin}
    check(load(nxxpcs(tmp_path / "f", maps, **said)))


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("value", [None, "other"])
def test_a_missing_or_unknown_attribute_is_refused_with_the_accepted_words(tmp_path, name, value):
    with pytest.raises(DataError, match=rf"attribute {name} of /entry/twotime/two_time_corr_func .*accepted: "):
        load(nxxpcs(tmp_path / "f", stack(), **{name: value}))


def test_units_detector_and_regions_are_read(tmp_path):
    dataset = load(nxxpcs(tmp_path / "f", stack()))
    assert dataset.q == pytest.approx(0.005)
    assert dataset.phi.tolist() == [0, 90]
    assert dataset.dt == pytest.approx(0.1)
    assert dataset.pixels.tolist() == [3, 1]


def test_maps_and_lists_must_have_the_same_number(tmp_path):
    with pytest.raises(DataError, match=r"holds 3 maps.*dynamic_q_list 2"):
        load(nxxpcs(tmp_path / "f", np.array([full_map(k) for k in (1, 2, 3)])))
