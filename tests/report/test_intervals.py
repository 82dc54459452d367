"""Figures of profiles, regions and derived quantities: complete, readable, and of the numbers that were saved."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from homodyne.results import Contour, Curve, Derived, Estimate, Fit, Profile
from homodyne.save import Run

from ..example_run import TRUTH, example_dataset, example_fit
from .test_figures import SMALLEST_FONT, drawn, drawn_texts, make_run, settings, texts

NEW = ("contours", "derived", "profiles")


def example_profile(name: str, unit: str, error: float, bend: float) -> Profile:
    """z = s - bend s^2 for s = (value - estimate)/error: without an upper limit when the bend is 0.2."""
    s = np.linspace(-2.2, 2.5, 10)
    s[np.argmin(np.abs(s))] = 0.0
    root = s - bend * s * np.abs(s)
    at = TRUTH[name]
    passed = root[-1] > 1.96
    upper = at + error * float(np.interp(1.96, root, s)) if passed else np.inf
    lower = at + error * float(np.interp(-1.96, root, s))
    known = error if passed else np.nan
    return Profile(name, unit, at + error * s, root**2, root, at, known, lower, upper, 0.95, 1.3, "" if passed else "no upper limit")


def example_contour(first: str, second: str, *, closed: bool) -> Contour:
    centre = np.array([TRUTH[first], TRUTH[second]])
    errors = 0.03 * np.abs(centre)
    covariance = np.outer(errors, errors) * np.array([[1.0, 0.9], [0.9, 1.0]])
    turn = np.linspace(0, 2 * np.pi, 25)
    circle = np.linalg.cholesky(covariance) @ np.array([np.cos(turn), np.sin(turn)])
    edge, inner = (centre + np.sqrt(level) * circle.T for level in (5.99, 2.3))
    if not closed:
        edge[3:5] = np.nan
    points = np.concatenate([np.column_stack([edge, np.full(25, 5.99)]), [[*centre, 0.0]]])
    return Contour((first, second), ("Angstrom^2/s", "1"), edge, inner, points, centre, covariance, 0.95, closed, "" if closed else "open")


def full_fit(**size: int) -> Fit:
    fit = example_fit(example_dataset(**size))
    t = fit.curves["J"].t
    lag = 0.3 * t**0.4
    curves = {
        "relaxation_time": Curve("relaxation_time", "s", t, np.where(t < 5, 4 * lag, np.nan), 0.1 * lag, True, 1.0),
        "strain": Curve("strain", "1", t, 1e-3 * t, 1e-5 * t, True, 1.0),
    }
    for key in ("relaxation_time[0]", "relaxation_time[1]", "relaxation_time[2]"):
        curves[key] = Curve(key, "s", t, (1 + int(key[-2])) * lag, np.full_like(t, np.nan), True, 1.0)
    quantities = {"strain": Estimate("strain", 7e-3, 1e-4, "1", -np.inf, np.inf, "free")}
    profiles = [
        example_profile("D0", "Angstrom^2/s", 300.0, 0.0),
        example_profile("alpha", "1", 0.02, 0.05),
        example_profile("beta", "1", 0.05, 0.2),
        example_profile("phi0", "degrees", 0.5, -0.05),
    ]
    named = {profile.name: profile for profile in profiles}
    contours = (example_contour("D0", "alpha", closed=True), example_contour("D0", "beta", closed=False))
    return replace(fit, derived=Derived(quantities, curves, ("a sentence",)), profiles=named, contours=contours)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"), fit=full_fit())


def figures(run: Run, width: float = 7.0) -> dict[str, Figure]:
    return {name: figure for name, figure in drawn(run, settings(width=width, angles=1)) if name in NEW}


@pytest.mark.parametrize("width", [7.0, 3.4])
def test_no_text_is_cut_off_or_too_small(run: Run, width: float) -> None:
    found = figures(run, width)
    assert sorted(found) == sorted(NEW)
    for name, figure in found.items():
        assert figure.get_size_inches()[0] <= width
        figure.canvas.draw()
        page = figure.bbox
        for text in drawn_texts(figure):
            assert text.get_fontsize() >= SMALLEST_FONT, f"{name}: {text.get_text()!r}"
            box = text.get_window_extent()
            inside = box.x0 >= page.x0 - 1 and box.y0 >= page.y0 - 1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1
            assert inside, f"{name}: {text.get_text()!r} at {box.extents}, page {page.extents}"


def test_every_panel_is_labelled_and_every_foot_names_the_noise(run: Run) -> None:
    for name, figure in figures(run).items():
        assert any("frame_clustered" in text.get_text() for text in texts(figure)), name
        for axes in figure.axes:
            assert axes.get_xlabel(), name
            assert axes.get_ylabel(), name


def test_a_missing_limit_and_an_open_region_are_said(run: Run) -> None:
    found = figures(run)
    assert [axes.get_title() for axes in found["profiles"].axes] == ["", "", "no upper limit", ""]
    assert [axes.get_title() for axes in found["contours"].axes] == ["", "open region"]


def test_profiles_are_drawn_at_the_values_that_were_computed(run: Run) -> None:
    profile = run.fit.profiles["alpha"]
    marks = [line for line in figures(run)["profiles"].axes[1].lines if line.get_marker() == "o"]
    assert len(marks) == 1
    np.testing.assert_array_equal(marks[0].get_xdata(), profile.value)
    np.testing.assert_array_equal(marks[0].get_ydata(), profile.root**2)
    low, high = figures(run)["profiles"].axes[1].get_xlim()
    assert low < profile.lower < profile.upper < high


def test_without_them_there_are_no_figures(tmp_path: Path) -> None:
    assert not [name for name, _ in drawn(make_run(tmp_path, n=20), settings(angles=1)) if name in NEW]
