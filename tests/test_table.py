"""Printed numbers carry the digits that their errors support."""

import math
from dataclasses import replace

import numpy as np
import pytest

from homodyne.results import Estimate, Outcome
from homodyne.table import summary, with_error

from .example_run import TRUTH, example_dataset, example_fit


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (1234.567, 12.3, ("1235", "12")),
        (0.0123456, 0.00123, ("0.0123", "0.0012")),
        (0.0123456, 0.000998, ("0.0123", "0.0010")),
        (10.0, 9.96, ("10", "10")),
        (123.0, 456.0, ("120", "460")),
        (-0.5, 0.0099, ("-0.5000", "0.0099")),
        (1.2e7, 3.4e5, ("1.200e+07", "0.034e+07")),
        (1e-8, 2e-10, ("1.000e-08", "0.020e-08")),
        (3.25, math.nan, ("3.25", "")),
        (3.25, 0.0, ("3.25", "")),
        (math.nan, 1.0, ("nan", "")),
    ],
)
def test_an_error_has_two_digits_and_its_value_as_many_decimals(value: float, error: float, expected: tuple[str, str]) -> None:
    assert with_error(value, error) == expected


def test_the_truth_stands_beside_the_result_with_its_pull() -> None:
    fit = example_fit(example_dataset())
    first = next(iter(fit.parameters.values()))
    estimate = Estimate(first.name, TRUTH[first.name] + 20.0, 10.0, first.unit, -math.inf, math.inf, "free")
    lines = summary(replace(fit, parameters={first.name: estimate}), TRUTH).splitlines()
    assert next(line for line in lines if line.startswith(first.name)).split()[-2:] == [f"{TRUTH[first.name]:.6g}", "+2.0"]
    assert "truth" not in summary(fit)


def test_a_parameter_that_is_not_determined_says_so_and_shows_no_error() -> None:
    fit = example_fit(example_dataset())
    estimate = Estimate("alpha", -0.5, math.nan, "1", -2.0, 2.0, "undetermined")
    line = next(line for line in summary(replace(fit, parameters={"alpha": estimate})).splitlines() if line.startswith("alpha"))
    assert line.split() == ["alpha", "1", "not", "determined"]


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((2.0e4, 7.13e4), "95 %: 20000 ... 71000"),
        ((2.0e4, math.inf), "95 %: above 2e+04"),
        ((-math.inf, 5.0e4), "95 %: below 5e+04"),
        ((2.0e4, -3.0e3), "95 %: above 2e+04, or below -3e+03"),
    ],
)
def test_a_crooked_interval_takes_the_place_of_the_error(interval: tuple[float, float], words: str) -> None:
    fit = example_fit(example_dataset())
    estimate = Estimate("D0", 3.0e4, math.nan, "Angstrom^2/s", -math.inf, math.inf, "interval", interval)
    line = next(line for line in summary(replace(fit, parameters={"D0": estimate})).splitlines() if line.startswith("D0"))
    assert line.split(None, 3) == ["D0", "3e+04", "Angstrom^2/s", words]


def test_a_straight_interval_adds_nothing_to_the_error() -> None:
    estimate = Estimate("D0", 100.0, 10.0, "1", -math.inf, math.inf, "free", (80.4, 119.6))
    assert estimate.symmetric
    assert not replace(estimate, interval=(80.4, 140.0)).symmetric
    assert replace(estimate, interval=(math.inf, 90.0)).holds(85.0)
    assert not replace(estimate, interval=(120.0, 90.0)).holds(100.0)


def test_equal_contrasts_are_one_number_and_different_ones_a_range() -> None:
    fit = example_fit(example_dataset())
    count = len(fit.phi)
    same = replace(fit, contrast=np.full(count, 0.15), contrast_error=np.full(count, 0.01))
    spread = replace(fit, contrast=np.linspace(0.1, 0.2, count), contrast_error=np.full(count, 0.01))
    assert "contrast 0.150 +- 0.010 each" in summary(same).splitlines()
    assert "contrast 0.100 ... 0.200 +- 0.010 each" in summary(spread).splitlines()


def test_a_fit_that_did_not_converge_says_so_last() -> None:
    fit = replace(example_fit(example_dataset()), outcome=Outcome.MAX_PASSES)
    assert summary(fit).splitlines()[-1].startswith("NOT CONVERGED: the limit on passes")
