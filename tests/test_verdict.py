"""All tests of a fit say one thing together, and a fit that cannot be meant has no errors."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from homodyne import simulate
from homodyne.goodness import verdict_p
from homodyne.results import Test

from .conftest import Command
from .factory import DT, GAP, LAMINAR, PHI, STATIC, Q, fitted, measured, simulated


@cache
def sample(mode: str = "static", **speckle):
    """Speckle of 2000 pixels at three photons."""
    truth = STATIC if mode == "static" else LAMINAR
    detector = {"pixels": 2000, "photons": 3.0, "layers": None, **speckle}
    phi = (0.0, 45.0, 90.0) if mode == "static" else PHI
    return simulate(truth, phi, q=Q, gap=GAP, dt=DT, frames=80, contrast=0.2, mode=mode, noise="speckle", seed=4, threads=1, **detector)


def test_a_true_model_is_good_and_says_so_first() -> None:
    found = fitted(sample(), mode="static", noise="auto")
    assert found.verdict.name == "good"
    assert found.success
    assert found.verdict.p_value > found.verdict.level == 0.01
    assert found.statements[0] == found.verdict.sentence
    assert "describes the maps within their noise" in found.verdict.sentence


def test_an_offset_alone_withholds_the_plain_verdict_and_names_both_causes() -> None:
    found = fitted(sample(heterogeneity=0.15), mode="static", noise="auto")
    assert found.verdict.name == "offset"
    assert found.success
    for words in ("pixels of unequal intensity", "static field", "do not quote"):
        assert words in found.verdict.sentence
    assert not any("describes the maps" in line for line in found.statements)


def test_a_wrong_mode_cannot_be_meant_and_has_no_errors() -> None:
    """A sheared sample fitted without shear."""
    found = fitted(sample("laminar_flow"), mode="static", noise="auto")
    assert found.outcome.success
    assert not found.success
    assert found.verdict.name == "failed"
    for estimate in (*found.parameters.values(), *found.rates.values(), *found.derived.quantities.values()):
        assert np.isnan(estimate.error), estimate.name
        assert np.isnan(estimate.interval).all(), estimate.name
        assert estimate.status != "free", estimate.name
    assert np.isnan(found.contrast_error).all()
    assert np.isnan(found.covariance).all()
    assert not any(curve.determined for curve in found.curves.values())


def test_maps_with_another_baseline_cannot_be_meant() -> None:
    data = simulated(STATIC, PHI, 60, sigma=0.01)
    shifted = measured(np.stack([data.map(k) - 1.0 for k in range(5)]), PHI)
    found = fitted(shifted, mode="static")
    assert found.verdict.name == "failed"
    assert "at its bound at 5 of 5 angles" in found.verdict.sentence
    assert "baseline of 1" in found.verdict.sentence


def test_independent_p_values_combine_to_a_p_value() -> None:
    """Of true models it is below 0.05 and 0.01 as often as it says, and one tiny p-value is not drowned."""
    p = np.random.default_rng(3).random((20000, 6))
    together = np.array([verdict_p({str(k): Test(str(k), 0.0, 1, float(v)) for k, v in enumerate(row)})[0] for row in p])
    assert np.mean(together < 0.05) == pytest.approx(0.05, abs=0.006)
    assert np.mean(together < 0.01) == pytest.approx(0.01, abs=0.003)
    tiny = {"a": Test("a", 0.0, 1, 1e-40), "b": Test("b", 0.0, 1, 0.9), "c": Test("c", 0.0, 0, float("nan"))}
    value, telling = verdict_p(tiny)
    assert value == pytest.approx(2e-40, rel=1e-3)
    assert telling == "a"


@pytest.mark.parametrize("good", [0.999, 1 - 1e-9, 1.0])
def test_tests_that_fit_too_well_do_not_outweigh_one_that_rejects(good: float) -> None:
    """Four tests: the smallest p-value times four, Bonferroni's bound, up to what the cut leaves."""
    tests = {name: Test(name, 0.0, 1, p) for name, p in {"a": good, "b": good, "c": 0.5, "offset": 1e-5}.items()}
    value, telling = verdict_p(tests)
    assert value == pytest.approx(4e-5, rel=0.01)
    assert telling == "offset"


def test_the_command_ends_with_5_and_saves_why(command: Command, tmp_path: Path) -> None:
    done = command(
        "mode=static", "data=simulated", "data.noise=speckle", "data.layers=null", "data.photons=5", "data.n_frames=60",
        "data.phi_list=[0,45,90]", "report=off", "hydra.run.dir=here",
    )  # fmt: skip
    assert done.returncode == 5
    assert "CANNOT BE MEANT" in done.stderr
    assert "THE FIT CANNOT BE MEANT" in done.stdout
    status = json.loads((tmp_path / "here" / "status.json").read_text())
    facts = json.loads((tmp_path / "here" / "fit.json").read_text())
    assert status["exit_status"] == 5
    assert status["message"] == facts["outcome"]["message"] == facts["verdict"]["sentence"]
    assert facts["verdict"]["name"] == "failed"
    assert facts["outcome"]["success"] is False


def test_the_gap_is_named_beside_the_shear_rate() -> None:
    from homodyne.table import summary

    found = fitted(replace(sample("laminar_flow"), gap_assumed=True), noise="auto")
    line = next(line for line in summary(found).splitlines() if line.startswith("gamma_dot("))
    assert "gap 2e+06 Angstrom, assumed; q 0.0054 1/Angstrom" in line
    assert any("the gap is assumed" in statement for statement in found.statements)
    odd = fitted(replace(sample("laminar_flow"), gap=200.0), noise="auto")
    assert any("is it in Angstrom?" in statement for statement in odd.statements)


def test_the_offset_that_unequal_pixels_make_is_expected() -> None:
    """Intensities from 1/2 to 3/2 of their mean raise the offset by 1/12: geometry, not static structure."""
    found = fitted(sample(slope=1.0), mode="static", noise="auto")
    assert found.offset.mean() == pytest.approx(1 + 1 / 12, abs=0.01)
    assert found.verdict.name == "good"
