"""Every layout keeps the contract."""

import pytest

from homodyne.errors import DataError

from . import contract
from .files import inspect, load


@pytest.mark.parametrize("reader", ["own", "auto"])
@pytest.mark.parametrize("layout", contract.FILE_LAYOUTS)
def test_what_is_written_is_read_back(tmp_path, layout, reader):
    contract.assert_reads_back(tmp_path, layout, layout if reader == "own" else "auto")


@pytest.mark.parametrize("layout", contract.FILE_LAYOUTS)
def test_selections_mean_the_same_in_every_layout(tmp_path, layout):
    contract.assert_twin(tmp_path, layout)


@pytest.mark.parametrize("layout", contract.FILE_LAYOUTS)
def test_inspection_names_layout_maps_frames_and_angles(tmp_path, layout):
    made = contract.simulate(contract.TRUTH, [-60.0, 0.0, 180.0], frames=20, **contract.SIMULATION)
    contract.write(made, tmp_path / "f", layout)
    text = inspect(tmp_path / "f", "auto", **contract.settings(layout))
    for words in (f"layout     {layout}", "frames     21", "diagonal raw", "0.0054         3  -60 0 180"):
        assert words in text


@pytest.mark.parametrize("layout", [*contract.FILE_LAYOUTS, "auto"])
@pytest.mark.parametrize("content", [b"", b"hello, this is no data\n", b"\x00\x01\x02\xff" * 100, b"PK\x03\x04 nothing"])
def test_a_file_of_another_kind_is_refused_with_its_path(tmp_path, layout, content):
    (tmp_path / "odd.hdf").write_bytes(content)
    with pytest.raises(DataError, match=r"odd\.hdf.*accepted|odd\.hdf.*truncated"):
        load(tmp_path / "odd.hdf", layout, **contract.settings(layout))


@pytest.mark.parametrize(("reader", "part"), [("own", 0.5), ("auto", 0.1), ("auto", 0.999)])
@pytest.mark.parametrize("layout", contract.FILE_LAYOUTS)
def test_a_truncated_file_is_refused_with_its_path(tmp_path, layout, reader, part):
    made = contract.simulate(contract.TRUTH, [-60.0, 0.0, 180.0], frames=20, **contract.SIMULATION)
    contract.write(made, tmp_path / "cut.hdf", layout)
    content = (tmp_path / "cut.hdf").read_bytes()
    (tmp_path / "cut.hdf").write_bytes(content[: int(part * len(content))])
    with pytest.raises(DataError, match=r"cut\.hdf.*truncated"):
        load(tmp_path / "cut.hdf", layout if reader == "own" else "auto", **contract.settings(layout))
