"""Figures of a posterior: complete, readable, and of the draws that were saved."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from homodyne.draws import Posterior
from homodyne.report.posterior import _density
from homodyne.report.posterior_style import shown
from homodyne.save import Run, load_run, save_run

from ..example_run import TRUTH, ExampleJob, example_dataset, example_fit, rows_of
from ..synthetic_posterior import synthetic_posterior
from .test_figures import SMALLEST_FONT, drawn, drawn_texts, settings, texts

ALWAYS = {"pairs", "prior", "rates", "cuts"}


def run_of(folder: Path, mode: str = "laminar_flow", posterior: Posterior | None = None, **made: Any) -> Run:
    dataset = example_dataset(mode=mode, n=50, angles=2)
    fit = example_fit(dataset)
    found = posterior or synthetic_posterior(dataset, **made)
    save_run(folder, job=ExampleJob(), dataset=dataset, fit=fit, model_rows=rows_of(fit, dataset), posterior=found)  # type: ignore[arg-type]
    return load_run(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of(tmp_path_factory.mktemp("run"), engine="cmc", draws=200, shards=6)


def figures(run: Run, width: float = 7.0) -> dict[str, Figure]:
    found = drawn(run, settings(width=width, angles=1, dpi=100))
    return {name.removeprefix("posterior_"): figure for name, figure in found if name.startswith("posterior_")}


@pytest.mark.parametrize("width", [7.0, 3.4])
@pytest.mark.parametrize("mode", ["laminar_flow", "static"])
def test_no_text_is_cut_off_too_small_or_on_another(tmp_path: Path, run: Run, mode: str, width: float) -> None:
    given = run if mode == "laminar_flow" else run_of(tmp_path, mode, engine="nuts", draws=100)
    for name, figure in figures(given, width).items():
        assert figure.get_size_inches()[0] <= width
        figure.canvas.draw()
        page, boxes = figure.bbox, []
        for text in drawn_texts(figure):
            assert text.get_fontsize() >= SMALLEST_FONT, f"{name}: {text.get_text()!r}"
            box = text.get_window_extent()
            inside = box.x0 >= page.x0 - 1 and box.y0 >= page.y0 - 1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1
            assert inside, f"{name}: {text.get_text()!r} at {box.extents}, page {page.extents}"
            boxes.append((text.get_text(), box.padded(-2)))
        for k, (first, box) in enumerate(boxes):
            over = [second for second, other in boxes[:k] if box.overlaps(other)]
            assert not over, f"{name}: {first!r} is on {over}"


def test_a_consensus_has_every_figure_and_each_says_how_the_draws_were_made(run: Run) -> None:
    found = figures(run)
    assert set(found) == ALWAYS | {"shards", "traces", "sampler"}
    for name, figure in found.items():
        words = " ".join(text.get_text() for text in texts(figure)).replace("\n", " ")
        assert "posterior by cmc, psis corrected" in words, name


def test_independent_draws_have_no_traces_and_no_shards(tmp_path: Path) -> None:
    assert set(figures(run_of(tmp_path, "static", engine="psis", chains=1, draws=300, wider=0))) == ALWAYS


def test_without_prior_predictions_and_rates_only_the_pairs_are_left(tmp_path: Path) -> None:
    dataset = example_dataset(mode="static", n=50, angles=2)
    full = synthetic_posterior(dataset, engine="laplace", draws=100, wider=0)
    answer = replace(full.answer, rates={}, summary={}, stats={})
    bare = replace(full, answers={"model": answer}, prior=None, predictive=None)
    assert set(figures(run_of(tmp_path, "static", bare))) == {"pairs"}


def test_a_calibrated_posterior_alone_has_every_figure(tmp_path: Path) -> None:
    full = synthetic_posterior(example_dataset(mode="static", n=50, angles=2), engine="nuts", draws=60)
    alone = replace(full, answers={"calibrated": full.answers["calibrated"]})
    assert set(figures(run_of(tmp_path, "static", alone))) == ALWAYS | {"traces", "sampler"}


def test_axes_hold_most_draws_in_the_units_that_their_label_says(run: Run) -> None:
    assert run.posterior is not None
    for part in shown(run, run.posterior):
        column = run.posterior.names.index(part.name)
        for width, answer in run.posterior.answers.items():
            np.testing.assert_allclose(part.values[width] * 10.0**part.exponent, answer.parameters[..., column].ravel(), rtol=1e-14)
            inside = (part.values[width] > part.limits[0]) & (part.values[width] < part.limits[1])
            assert inside.mean() > 0.95
        assert part.truth == pytest.approx(TRUTH[part.name] / 10.0**part.exponent)
    labels = {part.name: part.label for part in shown(run, run.posterior)}
    assert labels["D0"] == "$D_0$ (10⁴\u00a0Å²/s)" or labels["D0"] == "$D_0$ (Å²/s)"
    assert labels["alpha"] == r"$\alpha$"


def test_a_parameter_that_does_not_vary_is_not_drawn(tmp_path: Path) -> None:
    dataset = example_dataset(mode="static", n=50, angles=2)
    full = synthetic_posterior(dataset, engine="laplace", draws=100, wider=0)
    held = full.answer.parameters.copy()
    held[..., 1] = -0.4
    answer = replace(full.answer, parameters=held)
    found = figures(run_of(tmp_path, "static", replace(full, answers={"model": answer})))
    assert len(found["pairs"].axes) == 3


@pytest.mark.parametrize("correlation", [0.0, 0.9, -0.999])
def test_contours_hold_the_stated_share_of_normal_draws(correlation: float) -> None:
    """Level of a normal density at one and two standard deviations, however thin: exp(-1/2) and exp(-2) of its top."""
    rng = np.random.default_rng(0)
    factor = np.linalg.cholesky(np.array([[1.0, correlation], [correlation, 1.0]])) * np.array([[1e4], [1e-3]])
    draws = factor @ rng.standard_normal((2, 200_000))
    found = _density(draws, (-4e4, 4e4), (-4e-3, 4e-3))
    assert found is not None
    np.testing.assert_allclose(np.array(found.levels) / found.density.max(), [np.exp(-2), np.exp(-0.5)], rtol=0.05)
    z = np.linalg.solve(factor, found.at.reshape(2, -1))
    edge = np.abs(found.density.ravel() - found.levels[0]) < 0.05 * found.levels[0]
    np.testing.assert_allclose(np.hypot(*z[:, edge]), 2.0, atol=0.15)


@pytest.mark.slow
def test_figures_are_the_same_when_drawn_again(tmp_path: Path) -> None:
    run, option = run_of(tmp_path, "static", engine="nuts", draws=100), settings(angles=1, dpi=60)
    option.write(run.folder)
    first = {path.name: path.read_bytes() for path in (run.folder / "figures").iterdir()}
    option.write(run.folder)
    assert {path.name: path.read_bytes() for path in (run.folder / "figures").iterdir()} == first
    assert {f"posterior_{name}.png" for name in ALWAYS} <= set(first)
