"""The figure of deviations shows the numbers of the goodness of fit, where they belong."""

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from homodyne.report.deviations import AGES, deviations
from homodyne.report.style import STYLE
from homodyne.results import Goodness, Test
from homodyne.save import Run

from .test_figures import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose blocks are numbered, two lags by two ages at each angle; the second angle fits worst."""
    plain = make_run(tmp_path_factory.mktemp("run"))
    angles = len(plain.phi)
    z = np.arange(4.0 * angles).reshape(angles, 4)
    found = Goodness(
        tests={"lag_age": Test("lag_age", 9.0, 4, 3e-12)},
        angles=tuple(0.001 if k == 1 else 0.5 for k in range(angles)),
        lag_edges=np.array([1, 2, 5]),
        lag=np.array([0, 0, 1, 1]),
        age=np.array([0, 1, 0, 1]),
        z=z,
        z_lag=z[:, :2] + 0.5,
        z_age=z[:, 2:] - 0.5,
        scatter=1.0,
        scatter_error=0.1,
        scaled=False,
    )
    return replace(plain, fit=replace(plain.fit, goodness=found))


def test_panels_hold_lags_ages_and_the_worst_angle(run: Run) -> None:
    with matplotlib.rc_context(STYLE):
        figure = deviations(run, 7.0)
        figure.canvas.draw()
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]
    found = run.fit.goodness
    np.testing.assert_array_equal(shown[0], found.z_lag)
    np.testing.assert_array_equal(shown[1], found.z_age)
    np.testing.assert_array_equal(shown[2], [[found.z[1, 0], found.z[1, 2]], [found.z[1, 1], found.z[1, 3]]])


def test_lags_are_in_seconds_and_small_p_values_in_words(run: Run) -> None:
    with matplotlib.rc_context(STYLE):
        figure = deviations(run, 3.4)
    lag = run.t[1] - run.t[0]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [f"{lag:.3g}", f"{2 * lag:.3g}"]
    assert [label.get_text() for label in figure.axes[2].get_yticklabels()] == list(AGES[:2])
    assert "lag age: p < 1e-10" in figure.get_supxlabel().replace("\n", " ")


def test_without_a_test_there_is_no_figure(tmp_path: Path) -> None:
    assert deviations(make_run(tmp_path), 7.0) is None
