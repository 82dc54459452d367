"""What every layout of a file must do; ``test_contract.py`` runs it over all options in conf/data."""

from pathlib import Path

import numpy as np

from homodyne.data.dataset import Truth
from homodyne.groups import options
from homodyne.simulation import LAYOUTS, simulate, write

from .files import load

TRUTH = {"D0": 2e4, "alpha": -0.5, "D_offset": 1e3, "gamma_dot_t0": 2e-3, "beta": -0.3, "gamma_dot_t_offset": 2e-4, "phi0": -8.0}
SIMULATION = {"q": 0.0054, "gap": 1.5e6, "dt": 0.1, "contrast": 0.15, "sigma": 0.02, "seed": 3, "diagonal_excess": 0.2}

# What a bare array cannot say.
UNSAID = {"array": {"q": 0.0054, "dt": 0.1, "phi_list": [-60.0, 0.0, 180.0]}}

FILE_LAYOUTS = [name for name in options("data") if name not in ("auto", "simulated")]


def settings(layout: str) -> dict:
    return {"gap": 1.5e6, **(UNSAID[layout] if layout in UNSAID else {})}


def assert_reads_back(folder: Path, layout: str, reader: str) -> None:
    """Writing a simulation and reading it gives the same Dataset, to the precision that the layout stores."""
    assert set(FILE_LAYOUTS) == set(LAYOUTS)
    made = simulate(TRUTH, [-60.0, 0.0, 180.0], frames=129, **SIMULATION)
    path = folder / "no_ending"
    write(made, path, layout, details={"contrast": 0.15})
    read = load(path, reader, **settings(layout))
    tolerance = 1e-7 if layout == "aps_u" else 0
    np.testing.assert_allclose(read.tiles, made.tiles, rtol=tolerance, atol=0)
    np.testing.assert_allclose(read.diagonal, made.diagonal, rtol=tolerance, atol=0)
    for name in ("phi", "t", "frame", "pixels", "counts"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name), err_msg=name)
    assert (read.q, read.gap, read.n) == (made.q, made.gap, made.n)
    assert read.truth == (None if layout == "array" else Truth(TRUTH, "gap_average"))
    assert read.provenance.layout == layout
    assert (read.fingerprint == made.fingerprint) == (layout != "aps_u")
    assert [item.name for item in folder.iterdir()] == ["no_ending"]


def assert_twin(folder: Path, layout: str) -> None:
    """Selections give what they give in the npz file of the same maps."""
    made = simulate(TRUTH, [-60.0, 0.0, 180.0], frames=80, **SIMULATION)
    selection = {"frames": [5, 70], "phi": [[-70, 10]], "bad_frames": [9], "time_origin": 0.7}
    datasets = []
    for name in (layout, "npz"):
        write(made, folder / name, name)
        datasets.append(load(folder / name, name, **settings(name), **selection))
    one, other = datasets
    np.testing.assert_allclose(one.tiles, other.tiles, rtol=1e-7)
    np.testing.assert_allclose(one.diagonal, other.diagonal, rtol=1e-7)
    np.testing.assert_array_equal(one.frame, np.arange(5, 71))
    np.testing.assert_allclose(one.t, other.t, rtol=1e-14)
    assert one.phi.tolist() == [-60, 0]
