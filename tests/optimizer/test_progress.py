"""Interruption and continuation: a real signal, the checkpoint it leaves, and what a checkpoint refuses."""

import logging
import os
import signal
from functools import cache

import numpy as np
import pytest

from homodyne.errors import FitError
from homodyne.optimizer.progress import CHECKPOINT
from homodyne.results import Outcome

from ..factory import LAMINAR, PHI, fitted, option, simulated

log = logging.getLogger("homodyne")


@cache
def data():
    return simulated(LAMINAR, PHI, 60, seed=12)


@cache
def whole():
    return fitted(data())


class Interrupt(logging.Handler):
    """Sends a signal to this process when a line with ``word`` is logged for the ``count``-th time."""

    def __init__(self, word: str, count: int, number: signal.Signals) -> None:
        super().__init__(logging.INFO)
        self.word, self.left, self.number = word, count, number

    def emit(self, record: logging.LogRecord) -> None:
        if self.word in record.getMessage():
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.number)


@pytest.fixture
def interrupt():
    """``interrupt(word, count, signal)``: from then on the next fit stops itself."""
    level, handlers = log.level, list(log.handlers)
    log.setLevel(logging.INFO)

    def install(word: str, count: int, number: signal.Signals) -> None:
        log.addHandler(Interrupt(word, count, number))

    yield install
    log.setLevel(level)
    log.handlers[:] = handlers


@pytest.mark.parametrize(("word", "count", "number"), [("polish", 2, signal.SIGINT), ("polish", 1, signal.SIGTERM)])
def test_an_interrupted_fit_continues_to_the_same_minimum(tmp_path, interrupt, word, count, number):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    interrupt(word, count, number)
    stopped = fitted(data(), tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert stopped.outcome is Outcome.INTERRUPTED
    assert not stopped.success
    assert (tmp_path / CHECKPOINT).is_file()
    assert len(stopped.history) == count
    log.handlers[:] = [handler for handler in log.handlers if not isinstance(handler, Interrupt)]
    resumed = fitted(data(), tmp_path, resume=True)
    assert resumed.outcome is Outcome.CONVERGED
    assert resumed.history[:count] == stopped.history
    assert resumed.chi2 == pytest.approx(whole().chi2, abs=1e-3)
    error = np.sqrt(np.diagonal(whole().solution_covariance))
    np.testing.assert_allclose((resumed.solution - whole().solution) / error, 0.0, atol=0.01)


def test_an_interrupted_fit_reports_its_best_state(tmp_path, interrupt):
    interrupt("polish", 2, signal.SIGINT)
    stopped = fitted(data(), tmp_path)
    assert stopped.chi2 == pytest.approx(min(item.chi2 for item in stopped.history), rel=1e-12)
    assert stopped.chi2 >= whole().chi2 - 1e-6


def test_a_finished_fit_is_restored_without_fitting_again(tmp_path):
    first = fitted(data(), tmp_path)
    again = fitted(data(), tmp_path, resume=True)
    np.testing.assert_array_equal(again.solution, first.solution)
    # The sums of a pass with derivatives are those of one without to the last digits only.
    assert again.chi2 == pytest.approx(first.chi2, rel=1e-14)
    assert again.history == first.history


@pytest.mark.parametrize("per_angle_scaling", ["auto"])
def test_an_interrupted_choice_of_scaling_is_continued(tmp_path, interrupt, per_angle_scaling):
    """Interrupted in its second fit, ``auto`` comes to the same decision."""
    expected = fitted(data(), per_angle_scaling=per_angle_scaling)
    assert expected.scaling == "averaged"
    interrupt("averaged polish", 1, signal.SIGINT)
    stopped = fitted(data(), tmp_path, per_angle_scaling=per_angle_scaling)
    assert stopped.outcome is Outcome.INTERRUPTED
    log.handlers[:] = [handler for handler in log.handlers if not isinstance(handler, Interrupt)]
    resumed = fitted(data(), tmp_path, per_angle_scaling=per_angle_scaling, resume=True)
    assert resumed.scaling == "averaged"
    assert resumed.chi2 == pytest.approx(expected.chi2, abs=1e-3)


def finished(tmp_path):
    fitted(data(), tmp_path)
    return tmp_path / CHECKPOINT


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = finished(tmp_path)
    content = path.read_bytes()
    at = content.index(b"polished") + 25
    for damage in (content[: len(content) // 2], content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :], b"", b"[]", b"{}"):
        path.write_bytes(damage)
        with pytest.raises(FitError, match="is damaged"):
            fitted(data(), tmp_path, resume=True)


def test_a_checkpoint_of_other_data_or_settings_is_refused(tmp_path):
    finished(tmp_path)
    for other in (simulated(LAMINAR, PHI, 60, seed=13), simulated(LAMINAR, PHI, 60, seed=12, q=0.006)):
        with pytest.raises(FitError, match="other data or settings"):
            fitted(other, tmp_path, resume=True)
    with pytest.raises(FitError, match="other data or settings"):
        fitted(data(), tmp_path, resume=True, seed=1)
    with pytest.raises(FitError, match="other data or settings"):
        fitted(data(), tmp_path, resume=True, optimizer=option("optimizer", "nlsq", polish=1))


def test_resume_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(FitError, match=r"no checkpoint at .*checkpoint.json"):
        fitted(data(), tmp_path, resume=True)


def test_the_history_never_goes_up_within_a_stage():
    """One entry per accepted step, in order, with its cost."""
    stages = {item.stage for item in whole().history}
    assert stages
    for stage in stages:
        steps = [item for item in whole().history if item.stage == stage]
        assert [item.number for item in steps] == list(range(len(steps)))
        assert np.all(np.diff([item.chi2 for item in steps]) < 0)
    assert min(item.chi2 for item in whole().history) == pytest.approx(whole().chi2, rel=1e-9)
