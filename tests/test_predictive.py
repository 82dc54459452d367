"""Predicted cuts are means of the model over the pairs of the saved cuts."""

from dataclasses import replace

import numpy as np
import pytest

from homodyne.config import option
from homodyne.data import Dataset
from homodyne.mode.base import Model
from homodyne.physics import two_time
from homodyne.pictures import take_pictures
from homodyne.predictive import Drawn, predict

from .example_run import GAP, TRUTH, Q, example_dataset, example_fit, rows_of

SIGMA = 0.03


def bound(dataset: Dataset, mode: str = "laminar_flow") -> Model:
    return option("mode", mode).bind(dataset.t, dataset.q, dataset.gap, dataset.phi)


def scattered(model: Model, count: int, angles: int) -> Drawn:
    rng = np.random.default_rng(3)
    u = model.coordinates_of(TRUTH) + 0.05 * rng.standard_normal((count, len(model.coordinates)))
    contrast, offset = 0.2 + 0.01 * rng.standard_normal((count, angles)), 1 + 0.001 * rng.standard_normal((count, angles))
    return Drawn(u, contrast, offset, np.full(count, SIGMA))


@pytest.mark.parametrize("mode", ["laminar_flow", "static"])
def test_the_fit_as_its_only_draw_gives_the_saved_cuts_of_the_model(mode: str) -> None:
    dataset = example_dataset(mode=mode, n=130)
    fit = example_fit(dataset)
    rows = rows_of(fit, dataset)
    model = bound(dataset, mode)
    u = model.coordinates_of({name: estimate.value for name, estimate in fit.parameters.items()})
    drawn = Drawn(u[None], fit.contrast[None], fit.offset[None], np.array([SIGMA]))
    predicted, pictures = predict(dataset, model, rows, drawn, drawn, count=10, seed=0), take_pictures(dataset, rows)
    for kind in ("equal_lag", "equal_age"):
        expected = getattr(pictures, kind)
        np.testing.assert_allclose(predicted.posterior[kind][0], expected.model, rtol=1e-12, err_msg=kind)
        np.testing.assert_array_equal(np.isnan(predicted.posterior[kind][0]), np.isnan(expected.x))
        np.testing.assert_array_equal(predicted.posterior[kind], predicted.prior[kind])


def test_each_draw_predicts_what_its_own_dense_map_averages_to() -> None:
    dataset = example_dataset(n=100, angles=2)
    fit = example_fit(dataset)
    rows, model = rows_of(fit, dataset), bound(dataset)
    drawn = scattered(model, 3, 2)
    predicted = predict(dataset, model, rows, drawn, None, count=3, seed=5)
    assert predicted.prior == {}
    order = np.random.default_rng(5).choice(3, 3, replace=False)
    for s, draw in enumerate(order):
        values = dict(zip(model.names, np.asarray(model.parameters(drawn.u[draw])), strict=True))

        def dense(k: int, start: int, stop: int, values=values, draw=draw) -> np.ndarray:
            level = {"contrast": drawn.contrast[draw, k], "offset": drawn.offset[draw, k]}
            return two_time(values, dataset.phi[k], dataset.t, q=Q, gap=GAP, mode="laminar_flow", **level)[0][start:stop]

        # The cuts at equal age do not depend on the model that places those at equal lag.
        expected = take_pictures(dataset, dense).equal_age.model
        np.testing.assert_allclose(predicted.posterior["equal_age"][s], expected, rtol=1e-11)


def test_replications_scatter_by_the_error_of_the_mean_of_a_bin() -> None:
    dataset = example_dataset(n=60, angles=1)
    rows, model = rows_of(example_fit(dataset), dataset), bound(dataset)
    predicted = predict(dataset, model, rows, scattered(model, 400, 1), None, count=400, seed=1)
    pictures = take_pictures(dataset, rows)
    for kind in ("equal_lag", "equal_age"):
        noise = predicted.replicated[kind] - predicted.posterior[kind]
        z = noise * np.sqrt(getattr(pictures, kind).count) / SIGMA
        known = z[np.isfinite(z)]
        assert known.size == 400 * np.count_nonzero(getattr(pictures, kind).count)
        assert known.std() == pytest.approx(1.0, abs=5 / np.sqrt(2 * known.size))
        assert known.mean() == pytest.approx(0.0, abs=5 / np.sqrt(known.size))


def test_at_most_count_draws_are_used_and_a_seed_repeats_them() -> None:
    dataset = example_dataset(n=40, angles=2)
    rows, model = rows_of(example_fit(dataset), dataset), bound(dataset)
    drawn = scattered(model, 30, 2)
    first, again, other = (predict(dataset, model, rows, drawn, drawn, count=7, seed=seed) for seed in (1, 1, 2))
    assert first.posterior["equal_lag"].shape[:2] == (7, 2)
    assert first.prior["equal_age"].shape[:2] == (7, 2)
    np.testing.assert_array_equal(first.replicated["equal_lag"], again.replicated["equal_lag"])
    assert not np.array_equal(first.replicated["equal_lag"], other.replicated["equal_lag"], equal_nan=True)


def test_without_a_noise_level_nothing_is_replicated() -> None:
    dataset = example_dataset(n=40, angles=1)
    rows, model = rows_of(example_fit(dataset), dataset), bound(dataset)
    drawn = replace(scattered(model, 5, 1), sigma=np.full(5, np.nan))
    predicted = predict(dataset, model, rows, drawn, None, count=5, seed=1)
    assert np.isnan(predicted.replicated["equal_lag"]).all()
    assert np.isfinite(predicted.posterior["equal_lag"]).any()
