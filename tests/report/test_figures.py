"""Every figure is written, fits its page, and shows the numbers of the run folder."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from pydantic import ValidationError

from homodyne.errors import DataError
from homodyne.report.figures import Figures
from homodyne.report.maps import MapFigure, limits
from homodyne.report.plots import correlation_matrix, cut_angles
from homodyne.results import Fit
from homodyne.save import Run, load_run, save_run

from ..example_run import ExampleJob, example_dataset, example_fit, rows_of, with_gaps

SMALLEST_FONT = 7
OTHERS = ("convergence", "correlation", "cuts", "rates", "scaling")


def make_run(folder: Path, mode: str = "laminar_flow", fit: Fit | None = None, **size: Any) -> Run:
    dataset = example_dataset(mode=mode, **size)
    good = example_fit(dataset)
    rows = rows_of(good, dataset)
    save_run(folder, job=ExampleJob(), dataset=dataset, fit=fit or good, model_rows=rows)  # type: ignore[arg-type]  # the part of Job it reads
    return load_run(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"))


def settings(**changes: Any) -> Figures:
    return Figures(**({"width": 7.0, "dpi": 200, "formats": ("png",), "angles": None} | changes))


def drawn(run: Run, option: Figures) -> Iterator[tuple[str, Figure]]:
    with matplotlib.rc_context(option.style):
        yield from option.draw(run)


def texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("width", [7.0, 3.4])
@pytest.mark.parametrize("mode", ["laminar_flow", "static"])
def test_no_text_is_cut_off_or_too_small(tmp_path: Path, mode: str, width: float) -> None:
    for name, figure in drawn(make_run(tmp_path, mode, n=150), settings(width=width)):
        assert figure.get_size_inches()[0] <= width
        figure.canvas.draw()
        page = figure.bbox
        for text in drawn_texts(figure):
            assert text.get_fontsize() >= SMALLEST_FONT, f"{name}: {text.get_text()!r}"
            box = text.get_window_extent()
            inside = box.x0 >= page.x0 - 1 and box.y0 >= page.y0 - 1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1
            assert inside, f"{name}: {text.get_text()!r} at {box.extents}, page {page.extents}"


def drawn_texts(figure: Figure) -> list[Text]:
    """Without the labels of ticks beyond the ends of an axis, which are kept but not drawn."""
    beyond = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                beyond |= {id(tick.label1), id(tick.label2)}
    return [text for text in texts(figure) if id(text) not in beyond]


def test_every_figure_is_written_says_which_kernel_and_is_the_same_when_drawn_again(tmp_path: Path) -> None:
    run, option = make_run(tmp_path, n=20, angles=2), settings(formats=("png", "pdf"))
    option.write(run.folder)
    first = {path.name: path.read_bytes() for path in (run.folder / "figures").iterdir()}
    option.write(run.folder)
    assert {path.name: path.read_bytes() for path in (run.folder / "figures").iterdir()} == first
    written = sorted(path.name for path in (run.folder / "figures").iterdir())
    names = ["maps_000_phi_-75.00", "maps_001_phi_75.00", *OTHERS]
    assert written == sorted(f"{name}.{suffix}" for name in names for suffix in ("png", "pdf"))
    assert all((run.folder / "figures" / name).stat().st_size > 3000 for name in written)
    for name, figure in drawn(run, settings()):
        assert any("gap_average" in text.get_text() for text in texts(figure)), name


def test_every_axis_of_data_has_a_label(run: Run) -> None:
    for name, figure in drawn(run, settings()):
        if name == "correlation":
            continue
        for axes in figure.axes:
            label = axes.get_xlabel() + axes.get_ylabel()
            assert label or axes.get_title() in ("model", "residual"), name


def test_data_and_model_share_one_scale_and_the_residual_is_symmetric(run: Run) -> None:
    with matplotlib.rc_context(settings().style):
        maps = MapFigure(run, 7.0)
        for k in range(3):
            maps.draw(k)
            data, model, residual = (image.get_clim() for image in maps.images)
            assert data == model
            assert residual[0] == -residual[1]
            shown = maps.images[1].get_array()
            assert shown is not None
            # The block means of the model end at the first pairs; all of them are within the scale.
            assert model[0] <= np.nanmin(np.ma.filled(shown, np.nan))
            assert model[1] >= np.nanmax(np.ma.filled(shown, np.nan))


def test_angles_limits_the_number_of_maps(tmp_path: Path) -> None:
    run = make_run(tmp_path, n=20, angles=9)
    names = [name for name, _ in drawn(run, settings(angles=3))]
    assert names[:3] == ["maps_000_phi_-75.00", "maps_004_phi_0.00", "maps_008_phi_75.00"]
    assert len(names) == 3 + len(OTHERS)


@pytest.mark.parametrize("angles", [1, 2])
def test_few_angles_are_drawn(tmp_path: Path, angles: int) -> None:
    assert len(list(drawn(make_run(tmp_path, n=20, angles=angles), settings()))) == angles + len(OTHERS)


def test_a_failed_fit_is_drawn_and_says_so(tmp_path: Path) -> None:
    fit = with_gaps(example_fit(example_dataset(n=20)))
    run = make_run(tmp_path, fit=replace(fit, curves={}, covariance=np.full_like(fit.covariance, np.nan)), n=20)
    for _, figure in drawn(run, settings()):
        assert any("NOT CONVERGED" in text.get_text().replace("\n", " ") for text in texts(figure))


def test_a_run_without_history_is_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path, fit=replace(example_fit(example_dataset(n=20)), history=()), n=20)
    assert len(list(drawn(run, settings()))) == 3 + len(OTHERS)


def test_a_rate_that_is_not_determined_or_reaches_zero_is_drawn(tmp_path: Path) -> None:
    fit = example_fit(example_dataset(n=20))
    lost, zero = fit.curves["J"], fit.curves["gamma_dot"]
    curves = {
        "J": replace(lost, determined=False, error=np.full_like(lost.error, np.nan), best_time=np.nan),
        "gamma_dot": replace(zero, value=np.where(zero.t < 1, 0.0, zero.value)),
    }
    figures = dict(drawn(make_run(tmp_path, fit=replace(fit, curves=curves), n=20), settings()))
    transport, shear = figures["rates"].axes
    assert transport.get_yscale() == "log"
    assert any("not determined" in text.get_text() for text in texts(figures["rates"]))
    assert shear.get_yscale() == "linear"


def test_correlations_are_those_of_the_parameters_and_of_the_means(run: Run) -> None:
    fit, (labels, matrix) = run.fit, correlation_matrix(run)
    assert labels[-2:] == ["mean contrast", "mean offset"]
    scale = np.sqrt(np.diag(fit.covariance))
    assert matrix[0, 1] == pytest.approx(fit.covariance[0, 1] / (scale[0] * scale[1]))
    assert np.isnan(matrix[2]).all()
    # Against draws: the mean of three correlated contrasts with D0.
    rng = np.random.default_rng(0)
    rows = [0, 7, 8, 9]
    draws = rng.multivariate_normal(np.zeros(4), fit.covariance[np.ix_(rows, rows)] / np.outer(scale[rows], scale[rows]), 200_000)
    expected = np.corrcoef(draws[:, 0], (draws[:, 1:] * scale[rows[1:]]).mean(axis=1))[0, 1]
    assert matrix[0, 7] == pytest.approx(expected, abs=0.01)


def test_cuts_are_shown_along_and_across_the_flow(run: Run) -> None:
    parallel, between, across = cut_angles(run, 3)
    closeness = np.abs(np.cos(np.deg2rad(run.phi - run.fit.parameters["phi0"].value)))
    assert closeness[parallel] > closeness[between] > closeness[across]


def test_limits_are_never_empty() -> None:
    assert limits(np.array([np.nan, 1.0, 1.0]), percent=1.0) == (0.5, 1.5)
    assert limits(np.array([np.nan]), percent=1.0) == (-1.0, 1.0)


def test_drawing_leaves_the_settings_of_matplotlib_alone(run: Run) -> None:
    before = dict(matplotlib.rcParams)
    for _ in drawn(run, settings(angles=1)):
        pass
    assert dict(matplotlib.rcParams) == before


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a complete run folder"):
        settings().write(tmp_path)


@pytest.mark.parametrize("wrong", [{"width": 0.5}, {"dpi": 0}, {"formats": ()}, {"formats": ("bmp",)}, {"angles": 0}, {"colour": "red"}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**wrong)
