"""A posterior comes back as it was saved, and ArviZ reads the same numbers."""

import json
from dataclasses import replace
from pathlib import Path

import arviz
import numpy as np
import pytest

from homodyne.data import Dataset
from homodyne.draws import Posterior
from homodyne.errors import DataError
from homodyne.pictures import take_pictures
from homodyne.posterior_record import load_posterior, save_posterior, variable_names
from homodyne.save import load_run, save_run
from homodyne.table import summary

from .example_run import ExampleJob, example_dataset, example_fit, rows_of
from .synthetic_posterior import synthetic_posterior
from .test_save import assert_same


def saved(folder: Path, dataset: Dataset, posterior: Posterior | None) -> Path:
    fit = example_fit(dataset)
    rows = rows_of(fit, dataset)
    save_run(folder, job=ExampleJob(), dataset=dataset, fit=fit, model_rows=rows, posterior=posterior)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return example_dataset(n=40, angles=2)


@pytest.fixture(scope="module")
def posterior(dataset: Dataset) -> Posterior:
    return synthetic_posterior(dataset, engine="cmc", draws=50, shards=4)


@pytest.mark.parametrize("case", ["laminar_flow", "static", "bare"])
def test_a_posterior_comes_back_unchanged(tmp_path: Path, case: str) -> None:
    dataset = example_dataset(mode="static" if case == "bare" else case, n=40, angles=1 if case == "bare" else 2)
    posterior = synthetic_posterior(
        dataset, engine="laplace" if case == "bare" else "cmc", draws=20, shards=3, wider=1.5 * (case != "bare")
    )
    if case == "bare":
        answer = replace(posterior.answer, rates={}, stats={}, summary={}, sigma=np.full_like(posterior.answer.sigma, np.nan))
        bare = {"prior": None, "predictive": None, "shards": None, "numbers": {}, "decisions": (), "statements": ("one",)}
        posterior = replace(posterior, answers={"model": answer}, **bare)
    run = load_run(saved(tmp_path, dataset, posterior))
    assert_same(posterior, run.posterior, "posterior")
    assert run.posterior is run.posterior


def test_a_posterior_predictive_without_replications_or_prior_comes_back(tmp_path: Path, dataset: Dataset, posterior: Posterior) -> None:
    assert posterior.predictive is not None
    partial = replace(posterior, prior=None, predictive=replace(posterior.predictive, replicated={}, prior={}))
    assert_same(partial, load_run(saved(tmp_path, dataset, partial)).posterior)


def test_arviz_opens_the_file_and_finds_the_same_diagnostics(tmp_path: Path, dataset: Dataset, posterior: Posterior) -> None:
    path = saved(tmp_path, dataset, posterior) / "posterior.nc"
    with arviz.from_netcdf(path) as tree:
        groups = set(tree.children)
        table = arviz.summary(tree, var_names=["D0", "alpha", "contrast"], round_to="none")
        wide = arviz.summary(tree, group="posterior_calibrated", var_names=["phi0"], round_to="none")
        assert tree["posterior"]["J"].dims == ("chain", "draw", "time")
        assert tree["posterior"]["J"].attrs["units"] == "Angstrom^2/s"
        assert tree["sample_stats"]["diverging"].dtype == bool
        assert tree["observed_data"]["equal_lag"].dims == tree["posterior_predictive"]["equal_lag"].dims[2:]
        assert float(tree["constant_data"]["q"]) == dataset.q
    widths = {f"{name}{suffix}" for name in ("posterior", "unconstrained_posterior", "sample_stats") for suffix in ("", "_calibrated")}
    assert groups >= widths | {"prior", "prior_predictive", "posterior_predictive", "observed_data", "constant_data", "shards"}
    for name, answer, found in (("D0", "model", table), ("contrast[1]", "model", table), ("phi0", "calibrated", wide)):
        expected = posterior.answers[answer].summary[name]
        assert found.loc[name, "r_hat"] == pytest.approx(expected.rhat, rel=1e-12)
        assert found.loc[name, "ess_bulk"] == pytest.approx(expected.ess_bulk, rel=1e-12)


def test_cuts_of_the_data_stand_beside_the_predicted_ones(tmp_path: Path, dataset: Dataset, posterior: Posterior) -> None:
    folder = saved(tmp_path, dataset, posterior)
    pictures = load_run(folder).pictures
    with arviz.from_netcdf(folder / "posterior.nc") as tree:
        for kind in ("equal_lag", "equal_age"):
            np.testing.assert_array_equal(tree["observed_data"][kind], getattr(pictures, kind).data)
            np.testing.assert_array_equal(tree["observed_data"][f"{kind}_x"], getattr(pictures, kind).x)


def test_variable_names_are_words_and_differ() -> None:
    names = ["D0", "ln rate[D0] at first time", "ln sigma^2", "a.b", "a b", "J(3.1 s)"]
    found = variable_names(names)
    assert found[:3] == ["D0", "ln_rate_D0_at_first_time", "ln_sigma_2"]
    assert all(name.isidentifier() for name in found)
    assert len(set(found)) == len(names)


def test_json_says_what_the_posterior_is(tmp_path: Path, dataset: Dataset, posterior: Posterior) -> None:
    text = (saved(tmp_path, dataset, posterior) / "fit.json").read_text()
    facts = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))["posterior"]
    assert (facts["engine"], facts["exactness"], facts["confidence"]) == ("cmc", "psis_corrected", 0.95)
    assert facts["numbers"]["ess"] is None
    assert facts["widths"]["calibrated"]["summary"]["D0"]["median"] == posterior.answer.summary["D0"].median
    assert facts["widths"]["model"]["draws"] == 200
    assert [row["status"] for row in facts["shards"]] == ["good", "rerun", "good", "poor"]
    assert posterior.shards is not None
    assert facts["shards"][2]["parameters"]["alpha"]["sd"] == posterior.shards.parameter_sd[2, 1]


def test_a_run_without_a_posterior_has_none_and_leaves_no_older_file(tmp_path: Path, dataset: Dataset, posterior: Posterior) -> None:
    saved(tmp_path, dataset, posterior)
    run = load_run(saved(tmp_path, dataset, None))
    assert run.posterior is None
    assert "posterior" not in run.document
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "fit.json", "fit.npz"]


def test_a_posterior_that_is_missing_damaged_or_of_another_save_is_refused(tmp_path: Path, dataset: Dataset, posterior: Posterior) -> None:
    path = saved(tmp_path, dataset, posterior) / "posterior.nc"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"posterior\.nc is not the file that fit\.json was saved with"):
        _ = load_run(tmp_path).posterior
    with pytest.raises(DataError, match=r"posterior\.nc is missing, damaged"):
        load_posterior(path)
    path.unlink()
    with pytest.raises(DataError, match=r"posterior\.nc is missing; fit\.json says"):
        _ = load_run(tmp_path).posterior


def test_the_same_posterior_gives_the_same_file(tmp_path: Path, dataset: Dataset, posterior: Posterior) -> None:
    fit = example_fit(dataset)
    pictures = take_pictures(dataset, rows_of(fit, dataset))
    for name in ("a.nc", "b.nc"):
        save_posterior(tmp_path / name, posterior, dataset=dataset, fit=fit, pictures=pictures)
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


def test_the_printed_table_has_both_widths_and_the_diagnostics_of_the_chains(dataset: Dataset, posterior: Posterior) -> None:
    lines = summary(example_fit(dataset), None, posterior).splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith("posterior: cmc, psis corrected, k-hat 0.31, R-hat up to 1."))
    titles = [lines.index("as the likelihood gives it:"), lines.index("calibrated for correlated noise:")]
    assert first < titles[0] < titles[1]
    for title, width in zip(titles, ("model", "calibrated"), strict=True):
        found = posterior.answers[width].summary["alpha"]
        row = next(line for line in lines[title:] if line.startswith("alpha")).split()
        printed = [float(value) for value in row[1:4]]
        np.testing.assert_allclose(printed, [found.median, found.lower, found.upper], atol=0.1 * found.sd)
        assert float(row[4]) == pytest.approx(found.sd, rel=0.06)
        assert row[-1] == f"{found.ess_bulk:.0f}"
    assert not any(line.startswith("contrast[") for line in lines)
    assert lines[-1] == "converged"
    assert "- the interval to quote is the calibrated one" in lines


def test_one_width_needs_no_title_and_independent_draws_have_no_r_hat(dataset: Dataset) -> None:
    text = summary(example_fit(dataset), None, synthetic_posterior(dataset, engine="psis", chains=1, draws=60, wider=0))
    assert "posterior: psis, exact, k-hat 0.31\n" in text
    assert "as the likelihood gives it" not in text
    assert "nan" not in text
