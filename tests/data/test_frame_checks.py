"""Unusual frames are named, and good data are not."""

import numpy as np
import pytest

from homodyne.data.frame_checks import frame_notes
from homodyne.speckle import Speckle, drawn_fields, record

FRAMES = 200
NUMBERS = np.arange(2, FRAMES + 2)


def measured(angles: int, contrast: float, seed: int, x0: np.ndarray | None = None, **speckle) -> tuple[np.ndarray, ...]:
    """Numbers of frames, counts, diagonal and pixels of a simulated record."""
    detector = Speckle(**speckle)
    source = drawn_fields(0.08 * np.arange(FRAMES) if x0 is None else x0)
    made = list(record([source] * angles, [contrast] * angles, detector, seed=seed))
    diagonal = np.array([np.diagonal(one.c2) for one in made])
    return NUMBERS, np.array([one.counts for one in made]), diagonal, np.full(angles, float(detector.pixels))


@pytest.mark.parametrize(
    ("angles", "contrast", "pixels", "photons"),
    [(1, 0.5, 500, 0.02), (3, 0.5, 500, 0.1), (1, 0.3, 60, 0.5), (3, 0.3, 60, 20.0), (2, 1.0, 60, None), (5, 0.5, 400, 0.03)],
)
@pytest.mark.parametrize("ageing", [False, True])
def test_good_data_are_not_complained_of(angles, contrast, pixels, photons, ageing):
    """No note in 4 records of 200 frames each, in the file's three ways to know its photons; 12 such cases."""
    # Dynamics that all but stops: the speckle of the second half is one pattern, and its intensity a constant.
    x0 = 4 * np.linspace(0.02, 1, FRAMES) ** 0.1 if ageing else None
    for seed in range(4):
        number, counts, diagonal, own = measured(angles, contrast, seed, x0, pixels=pixels, photons=photons)
        finite = np.where(np.isfinite(counts), counts, np.nan)
        shared = finite.mean(axis=1, keepdims=True) * finite.mean(axis=0) / finite.mean()
        for known in (counts, shared, np.full(angles, np.nan)):
            assert frame_notes(number, known, diagonal, own) == []


@pytest.mark.parametrize(("pixels", "photons"), [(500, 0.1), (2000, 0.5), (2000, 20.0)])
def test_frames_without_beam_are_named_with_their_remedy(pixels, photons):
    number, counts, diagonal, own = measured(5, 0.2, 1, pixels=pixels, photons=photons, bad_frames=(17, 88))
    advice = "leave them out with data.bad_frames=[17,88]"
    (note,) = frame_notes(number, counts, diagonal, own)
    assert note.startswith("frames 17, 88: intensity ")
    assert note.endswith(advice)
    assert "% of the median" in note
    # Counts averaged over time, or none at all: the diagonal tells.
    for known in (counts.mean(axis=1), np.full(5, np.nan)):
        (note,) = frame_notes(number, known, diagonal, own)
        assert note.startswith("frames 17, 88: the diagonal is far above")
        assert note.endswith(advice)
    assert frame_notes(number, counts, np.full_like(diagonal, np.nan), own)[0].endswith(advice)


def test_frames_that_are_left_out_already_stay_in_the_setting_and_are_not_named():
    number, counts, diagonal, own = measured(3, 0.2, 1, pixels=1000, photons=1.0, bad_frames=(17, 88))
    (note,) = frame_notes(number, counts, diagonal, own, left_out=[88, 30])
    assert note.startswith("frames 17: intensity 1.8 % of the median")
    assert note.endswith("data.bad_frames=[17,30,88]")
    assert frame_notes(number, counts, diagonal, own, left_out=[17, 88]) == []


def test_a_burst_of_the_beam_is_named():
    number, counts, diagonal, own = measured(3, 0.2, 1, pixels=1000, photons=1.0)
    counts[:, 50] *= 3
    (note,) = frame_notes(number, counts, diagonal, own)
    assert note.startswith("frames 52: intensity 290 % of the median")


def test_a_long_loss_is_named_whatever_knows_of_it():
    lost = tuple(range(100, 180))
    number, counts, diagonal, own = measured(3, 0.2, 1, pixels=2000, photons=0.5, bad_frames=lost, beam_drift=0.8)
    notes = frame_notes(number, counts, diagonal, own)
    assert notes[0].startswith("frames 100-179: intensity")
    assert len(notes) == 2
    assert frame_notes(number, np.full(3, np.nan), diagonal, own)[0].startswith("frames 100-179: the diagonal")


def test_what_happens_to_one_map_is_no_affair_of_the_beam():
    number, counts, diagonal, own = measured(5, 0.2, 1, pixels=1000, photons=1.0)
    counts[0, 50] *= 0.02
    diagonal[0, 60] = 40
    assert frame_notes(number, counts, diagonal, own) == []


@pytest.mark.parametrize(("drift", "words"), [(0.8, "falls by 57 %"), (-0.8, "rises by 134 %"), (0.2, "falls by 18 %")])
def test_a_drift_is_told_with_its_size(drift, words):
    number, counts, diagonal, own = measured(5, 0.2, 1, pixels=2000, photons=1.0, beam_drift=drift)
    assert frame_notes(number, counts, diagonal, own) == [
        f"the intensity {words} over the record; harmless when maps are normalised per frame"
    ]


def test_a_small_or_uncertain_drift_is_not_told():
    assert frame_notes(*measured(5, 0.2, 1, pixels=2000, photons=1.0, beam_drift=0.05)) == []
    assert frame_notes(*measured(1, 0.2, 1, pixels=20, photons=0.5, beam_drift=0.3)) == []


def test_nothing_is_said_of_a_few_frames_or_of_nothing():
    few, nothing = np.arange(2, 9), np.full((2, 7), np.nan)
    assert frame_notes(few, nothing, nothing, np.full(2, np.nan)) == []
    assert frame_notes(few, np.ones((2, 7)), np.ones((2, 7)), np.full(2, 10.0)) == []
    assert frame_notes(NUMBERS, np.full(2, np.nan), np.full((2, FRAMES), np.nan), np.full(2, np.nan)) == []
