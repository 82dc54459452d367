"""What is asked for is checked before anything is read, worked out, printed, saved and read back."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from homodyne import optimize
from homodyne.config import option
from homodyne.correlation import correlation
from homodyne.errors import ConfigError
from homodyne.noise.base import AbstractNoise, Minimised, Moved, Noise
from homodyne.results import Fit
from homodyne.save import load_run, save_run
from homodyne.table import summary

from .. import factory
from ..conftest import Command
from ..factory import STATIC, fitted, fixed, simulated
from ..test_save import assert_same

ASKED = {"profile": ["D_offset", "dlnJ_dlnt"], "contour": [["D0", "alpha"]], "times": [0.5, 3.0]}


@cache
def data():
    return simulated(STATIC, (0.0, 50.0), 50, sigma=0.05, seed=2)


@cache
def fit_and_rows():
    job = factory.job("static", "averaged", uncertainty=option("uncertainty", "standard", **ASKED))
    return *optimize.fit(job, data(), None)[:2], job


def fit() -> Fit:
    return fit_and_rows()[0]


def test_nothing_is_profiled_unless_asked_for_but_derived_quantities_are_there():
    plain = fitted(data(), mode="static", per_angle_scaling="averaged")
    assert (plain.profiles, plain.contours) == ({}, ())
    assert plain.derived is not None
    assert list(plain.derived.quantities) == ["J/2 at the last time"]
    assert list(plain.derived.curves) == ["relaxation_time"]


def test_the_fit_comes_back_from_its_folder_unchanged(tmp_path: Path):
    found, rows, job = fit_and_rows()
    assert np.isinf(found.profiles["D_offset"].lower)
    save_run(tmp_path, job=job, dataset=data(), fit=found, model_rows=rows)
    read = load_run(tmp_path)
    for name in ("derived", "profiles", "contours"):
        assert_same(getattr(found, name), getattr(read.fit, name), name)
    related = correlation(found)
    saved = read.document["covariance"]
    assert saved["names"] == list(related.names)
    assert saved["sentence"] == related.sentence


def test_the_printed_result_shows_both_intervals_and_says_what_has_no_limit():
    lines = summary(fit()).splitlines()
    (offset,) = (line for line in lines if line.startswith("profile 95 %") and "D_offset" in line)
    assert "none" in offset.split()
    (slope,) = (line for line in lines if line.startswith("profile 95 %") and "dlnJ_dlnt" in line)
    assert "linear" in slope
    assert any(line.startswith("- D_offset has no lower limit at 95 %:") for line in lines)
    assert any(line.startswith("J(0.5 s)") for line in lines)
    assert any(line.startswith("relaxation_time(3 s)") for line in lines)


def test_strong_correlations_are_named_with_their_condition_number():
    """Against draws: correlation and condition of a covariance that is known."""
    found = fitted(simulated(STATIC, (0.0, 50.0), 60, sigma=0.005, seed=1), mode="static", per_angle_scaling="averaged")
    related = correlation(found)
    size = len(related.names)
    assert related.names == ("D0", "alpha", "D_offset")
    scale = np.sqrt(np.diagonal(found.covariance)[:size])
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(size), found.covariance[:size, :size] / np.outer(scale, scale), 200_000)
    np.testing.assert_allclose(related.matrix, np.corrcoef(draws.T), atol=0.01)
    assert related.condition == pytest.approx(np.linalg.cond(related.matrix), rel=1e-6)
    assert "D0 and D_offset (-0.9" in related.sentence
    covariance = np.array(found.covariance)
    covariance[0] = covariance[:, 0] = np.nan
    partial = correlation(replace(found, covariance=covariance))
    assert np.isnan(partial.matrix[0]).all()
    assert "D0" not in partial.sentence
    assert partial.condition < related.condition


class Shifting(AbstractNoise):
    """Errors of independent pixels and values of its own."""

    def covariance(self, minimum: Minimised) -> Noise:
        u = minimum.evaluation.u + 0.01
        moved = Moved(
            np.concatenate([u, minimum.evaluation.projection.beta.ravel()]), minimum.evaluation.contrast, minimum.evaluation.offset, u
        )
        return Noise("shifting", minimum.independent, "for this test", moved=moved)


class Blind(AbstractNoise):
    """No errors."""

    def covariance(self, minimum: Minimised) -> Noise:
        return Noise("blind", np.full_like(minimum.independent, np.nan), "for this test")


@pytest.mark.parametrize(("noise", "why"), [(Shifting(), "noise=shifting has moved the values"), (Blind(), "the noise is not known")])
def test_profiles_are_refused_where_chi2_is_no_likelihood_of_the_estimate(noise: AbstractNoise, why: str):
    asked = option("uncertainty", "standard", profile=["D0"])
    found = fitted(data(), mode="static", per_angle_scaling="averaged", noise=noise, uncertainty=asked)
    assert found.profiles == {}
    assert found.derived is not None
    assert any(statement.startswith("no profiles") and why in statement for statement in found.derived.statements)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"profile": ["D1"]}, "uncertainty.profile: D1 is not in mode static; accepted: D0, alpha, D_offset, "),
        ({"contour": [["D0", "gamma_dot_t0"]]}, "uncertainty.contour: gamma_dot_t0 is not in mode static"),
        ({"contour": [["D0", "D0"]]}, "uncertainty.contour: found [D0, D0]; accepted: pairs of two different ones"),
    ],
)
def test_a_name_that_is_not_in_the_mode_is_refused_before_anything_is_read(settings: dict, message: str):
    with pytest.raises(ConfigError) as caught:
        option("uncertainty", "standard", **settings).check(option("mode", "static"))
    assert str(caught.value).startswith(message)


def test_a_fixed_parameter_has_no_profile():
    with pytest.raises(ConfigError, match=r"uncertainty.profile: alpha is fixed \(mode.parameters.alpha.fixed\)"):
        option("uncertainty", "standard", profile=["alpha"]).check(option("mode", "static", parameters=fixed(alpha=-0.5)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"times": [0.05]}, "uncertainty.times: found 0.05 s; accepted: 0.1 to 5 s"),
        ({"times": [1.0, 7.0]}, "uncertainty.times: found 7 s"),
        ({"profile": ["gamma_dot_ref"]}, "uncertainty.profile: gamma_dot_ref is not in this fit"),
    ],
)
def test_what_is_not_in_the_record_is_refused_before_the_fit(settings: dict, message: str):
    with pytest.raises(ConfigError) as caught:
        fitted(data(), mode="static", uncertainty=option("uncertainty", "standard", **settings))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [({"confidence": 1.0}, "confidence"), ({"times": [0.0]}, "times"), ({"contour": [["D0"]]}, "contour"), ({"profile": "D0"}, "profile")],
)
def test_wrong_settings_name_their_key(wrong: dict, key: str):
    with pytest.raises(ConfigError, match=rf"^uncertainty\.{key}"):
        option("uncertainty", "standard", **wrong)


def test_the_command_takes_lists(command: Command, tmp_path: Path):
    small = ("mode=static", "data=simulated", "data.n_frames=30", "data.phi_list=[0,45]", "data.mode=static", "report=off")
    done = command(
        *small, "uncertainty.profile=[J_ref]", "uncertainty.contour=[[J_ref,dlnJ_dlnt]]", "uncertainty.times=[1]", "hydra.run.dir=here"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "profile 95 %  J_ref" in done.stdout
    assert len(load_run(tmp_path / "here").fit.contours) == 1
    wrong = command(*small, "uncertainty.profile=[J_rf]")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("uncertainty.profile: J_rf is not in mode static")
