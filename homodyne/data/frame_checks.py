"""Frames in which the beam was off or far too bright, and a drift of the intensity, from the counts and the diagonal of the maps.

A map divides each frame by its own mean, so that neither biases it. But a frame almost without photons is all noise, and a burst is
not the sample: they are named, with the setting that leaves them out. Nothing is left out here.

Counts are judged by the square root of their number, and the diagonal by 1/sqrt(c2(i, i)), which is proportional to it when photons
are few: on these scales counting noise does not depend on the intensity. Speckle moves the intensity of a small detector slowly, and
beams drift, so that each frame is compared with its neighbours in time.
"""

from collections.abc import Sequence

import numpy as np

from .contents import ranges_text

# Frames beside each other whose median one of them is compared with; fewer frames in all have no typical one.
_WINDOW, _FEWEST = 51, 12
# Standard deviations by which an unusual frame is off, and factor of its intensity or of the excess of its diagonal over 1.
_SIGNIFICANT, _FACTOR = 7.0, 2.0
# Intensity of a frame without beam, in units of the median of all: a loss may last longer than the window.
_OFF = 0.1
# Share of the maps that must agree: what happens to one of them is no affair of the beam.
_AGREE = 0.8
# Relative change over the record from which a drift is worth a sentence, and its standard deviations.
_DRIFT, _DRIFT_SIGNIFICANT = 0.1, 5.0
# Numbers of frames that the setting lists.
_LISTED = 200


def frame_notes(frame: np.ndarray, counts: np.ndarray, diagonal: np.ndarray, pixels: np.ndarray, left_out: Sequence[int] = ()) -> list[str]:
    """One sentence for each kind of unusual frame and one for a drift; none for good data.

    Args:
        frame: (n,) number of each frame in the file.
        counts: (P,) or (P, n) mean photons per pixel and frame; NaN where unknown.
        diagonal: (P, n) raw c2(i, i); NaN where unknown or not used.
        pixels: (P,) pixels of each map; NaN where unknown.
        left_out: numbers of frames that are left out already.
    """
    used = ~np.isin(frame, left_out)
    course = np.where(np.isfinite(counts) & used, counts, np.nan) if counts.ndim == 2 else np.full(diagonal.shape, np.nan)
    # A frame without any photon is masked by the reader.
    course = np.where(np.nansum(course, axis=0) > 0, course, np.nan)
    # Standard deviation of the square root of a mean count over all pixels; without their number, the other frames tell it.
    noise = float(0.5 / np.sqrt(np.sum(pixels))) if np.all(np.isfinite(pixels)) else 0.0
    pooled = _pooled(course, pixels)
    dark, bright = _unusual(np.sqrt(pooled), course, noise)
    rest = np.where(used & ~dark & ~bright & (diagonal > 0), diagonal, np.nan)
    # More photons than in other frames do no harm to a diagonal.
    few, _ = _unusual(_mean(rest**-0.5), 1 / np.where(rest > 1, rest - 1, np.nan), noise)
    typical = np.nanmedian(pooled) if np.isfinite(pooled).any() else np.nan
    found = [
        (dark, f"intensity {_percent(pooled[dark] / typical)} of the median"),
        (bright, f"intensity {_percent(pooled[bright] / typical)} of the median"),
        (few, "the diagonal is far above that of other frames (few photons, or a burst in a few pixels)"),
    ]
    bad = sorted({*left_out, *frame[dark | bright | few].tolist()})
    advice = f"data.bad_frames=[{','.join(map(str, bad))}]" if len(bad) <= _LISTED else f"data.bad_frames, {len(bad)} frames in all"
    notes = [f"frames {ranges_text(frame[which].tolist())}: {what}: leave them out with {advice}" for which, what in found if which.any()]
    return notes + _drift(np.where(dark | bright, np.nan, course), diagonal, pixels)


def _unusual(scale: np.ndarray, intensity: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """(n,) bool each: frames with far too little and with far too much intensity.

    Args:
        scale: (n,) proportional to the square root of the intensity, over all maps; NaN where unknown.
        intensity: (P, n) of each map, in any unit; NaN where unknown.
        noise: least standard deviation of scale.
    """
    known = np.isfinite(scale)
    if np.count_nonzero(known) < _FEWEST:
        return np.zeros_like(known), np.zeros_like(known)
    typical = np.nanmedian(scale)
    lost = known & (scale < typical - _SIGNIFICANT * noise) & _agree(intensity < _OFF * _median(intensity), intensity)
    # What is lost must not be what the others are compared with.
    scale, intensity = np.where(lost, np.nan, scale), np.where(lost, np.nan, intensity)
    off = scale - _beside(scale[None])[0]
    limit = _SIGNIFICANT * max(1.4826 * float(np.nanmedian(np.abs(off))), noise)
    ratio = intensity / _beside(intensity)
    below, above = (off < -limit) & _agree(ratio < 1 / _FACTOR, intensity), (off > limit) & _agree(ratio > _FACTOR, intensity)
    return lost | below, above


def _drift(counts: np.ndarray, diagonal: np.ndarray, pixels: np.ndarray) -> list[str]:
    """A sentence if the intensity changes steadily by more than noise and slow speckle can."""
    course = _pooled(counts, pixels)
    known = np.isfinite(course)
    if np.count_nonzero(known) < _FEWEST:
        return []
    x = np.linspace(-0.5, 0.5, len(course))[known]
    course = course[known] / course[known].mean()
    slope, middle = np.polyfit(x, course, 1)
    scatter = np.std(course - slope * x - middle) / np.sqrt(len(x) * np.var(x))
    # Speckle that hardly moves shifts the two ends independently: its contrast is what the diagonal has beside 1/counts, at most 1.
    excess = diagonal - 1 - 1 / np.where(counts > 0, counts, np.nan)
    contrast = np.clip(np.nanmedian(excess), 0, 1) if np.isfinite(excess).any() else 1.0
    slow = np.sqrt(2 * contrast / np.sum(pixels)) if np.all(np.isfinite(pixels)) else 0.0
    change = slope / (middle - 0.5 * slope)
    if abs(slope) < _DRIFT_SIGNIFICANT * np.hypot(scatter, slow) or abs(change) < _DRIFT:
        return []
    verb = "rises" if change > 0 else "falls"
    return [f"the intensity {verb} by {100 * abs(change):.0f} % over the record; harmless when maps are normalised per frame"]


def _pooled(counts: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """(n,) mean over all pixels of the maps (P, n) that know the frame; NaN where none does."""
    known = np.isfinite(counts)
    weights = known * np.where(np.isfinite(pixels), pixels, 1.0)[:, None]
    total = weights.sum(axis=0)
    return np.sum(weights * np.where(known, counts, 0.0), axis=0) / np.where(total > 0, total, np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """(n,) mean over the maps (P, n) that know the frame; NaN where none does."""
    return _pooled(values, np.ones(len(values)))


def _median(values: np.ndarray) -> np.ndarray:
    """(P, 1) median of each row (P, n) of which something is known, else NaN."""
    return np.array([[np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else np.nan] for row in values])


def _beside(values: np.ndarray) -> np.ndarray:
    """(P, n) median of the known values in a window around each; NaN where the value is."""
    result = np.full(values.shape, np.nan)
    for row, out in zip(values, result, strict=True):
        known = np.flatnonzero(np.isfinite(row))
        width = min(_WINDOW, len(known))
        if not width:
            continue
        medians = np.median(np.lib.stride_tricks.sliding_window_view(row[known], width), axis=1)
        out[known] = medians[np.clip(np.arange(len(known)) - width // 2, 0, len(medians) - 1)]
    return result


def _agree(which: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(n,) bool: nearly all maps (P, n) that know the frame say so."""
    known = np.isfinite(values).sum(axis=0)
    return (known > 0) & (which.sum(axis=0) >= _AGREE * known)


def _percent(level: np.ndarray) -> str:
    """Range of ratios in words."""
    if not level.size:
        return ""
    # Two digits, and never an exponent.
    low, high = (f"{float(f'{100 * value:.2g}'):g}" for value in (level.min(), level.max()))
    return f"{low} %" if low == high else f"{low} to {high} %"
