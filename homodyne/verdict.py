"""One verdict of all tests of a fit together, and when a fit cannot be meant at all.

The tests look in many directions and are correlated, so their p-values are combined by the Cauchy rule, which holds whatever the
correlation (goodness.verdict_p). The model is rejected below LEVEL; where nothing but the offset is off, the verdict says so, because
an offset that is not 1 can leave the rates right (a background) or not (a static field). A fit cannot be meant when it leaves so much
of the structure of the maps unexplained that no noise can be the reason, or when contrast and offset stand at their bounds: then no
number has an error. Source: docs/uncertainty.md.
"""

import numpy as np

from .goodness import p_text, verdict_p, where_text
from .results import Goodness, Judgement, Verdict

LEVEL = 0.01
BEYOND_NOISE = 1e-6
"""p-value of a misfit that no noise explains."""
UNEXPLAINED = 0.1
"""Share of the variance of the maps, noise apart, that such a misfit leaves."""
UNEXPLAINED_UNTESTED = 0.3
"""The same where the noise is not known."""
CAUSES = "another mode, more than one component, a wrong q, time step or gap, or maps that are not two-time correlations of one sample"


def judge(
    found: Goodness | None, *, unexplained: float, at_bound: np.ndarray, scaled: bool, offset: np.ndarray, dt: float, phi: np.ndarray
) -> Verdict:
    """The verdict of a fit.

    Args:
        found: tests, None where the noise is not known. unexplained: share of the variance of the maps, noise apart, that the fit leaves.
        at_bound: (P,) whether contrast or offset of an angle is at its bound. scaled: whether contrast and offset are fitted.
        offset: (P,) fitted. dt: s. phi: (P,) degrees.
    """
    p_value = float("nan") if found is None else verdict_p(found.tests)[0]
    reason = _not_meant(p_value, unexplained, at_bound if scaled else np.zeros(len(phi), dtype=bool))
    if reason:
        return Verdict("failed", p_value, LEVEL, f"THE FIT CANNOT BE MEANT, no error is quoted: {reason}")
    if found is None or np.isnan(p_value):
        return Verdict("untested", p_value, LEVEL, "the fit was not tested: its noise is not known")
    name, sentence = _tested(found, p_value, offset, dt, phi)
    return Verdict(name, p_value, LEVEL, sentence)


def _not_meant(p_value: float, unexplained: float, at_bound: np.ndarray) -> str:
    """Why the fit cannot be meant, or empty."""
    if 2 * at_bound.sum() > len(at_bound):
        where = f"at {at_bound.sum()} of {len(at_bound)} angles" if len(at_bound) > 1 else "at the only angle"
        return (
            f"contrast or offset is at its bound {where} (per_angle_scaling.contrast_bounds, offset_bounds): the maps are not normalised "
            f"to a baseline of 1, do not decay within the record, or the model does not describe them ({CAUSES})"
        )
    limit = UNEXPLAINED_UNTESTED if np.isnan(p_value) else UNEXPLAINED
    if unexplained > limit and not p_value >= BEYOND_NOISE:
        return f"{100 * unexplained:.0f} % of the structure of the maps is left unexplained, more than any noise: {CAUSES}"
    return ""


def _tested(found: Goodness, p_value: float, offset: np.ndarray, dt: float, phi: np.ndarray) -> tuple[Judgement, str]:
    together = f"all tests together {p_text(p_value)}, rejected below {LEVEL:g}"
    if not p_value < LEVEL:
        return "good", f"the model describes the maps within their noise ({together})"
    rest = {name: test for name, test in found.tests.items() if name != "offset"}
    others, telling = verdict_p(rest)
    if others >= LEVEL:
        return "offset", _offset_text(found, together, offset)
    parts = [f"the model does not describe the maps within their noise ({together}; most telling: {telling.replace('_', ' ')})"]
    parts.append(where_text(found, dt, phi))
    if telling == "contrast_drift":
        parts.append("the contrast changes along the record, which moves alpha: set per_angle_scaling.contrast_drift=true")
    parts.append("errors are those of the noise alone, the misfit is not in them")
    return "misfit", ": ".join(parts[:2]) + "".join(f"; {part}" for part in parts[2:])


def _offset_text(found: Goodness, together: str, offset: np.ndarray) -> str:
    """What an offset can be that nothing else contradicts."""
    level = f"{offset.min():.4f}" if np.ptp(offset) < 5e-5 else f"{offset.min():.4f} to {offset.max():.4f}"
    text = (
        f"the offset is {level} and not what it should be ({together}), while nothing else speaks against the model: a background without "
        "speckle or pixels of unequal intensity leave the rates right; a part of the sample that stands still (a static field), or decay "
        "slower than the record, makes J too small and the shear rate too large"
    )
    if "static_field" not in found.tests:
        return text
    test = found.tests["static_field"]
    pointing = "point that way" if test.p_value < 0.05 else "do not decide"
    return f"{text}. The residuals along a static field {pointing} ({p_text(test.p_value)}): do not quote the rates before this is known"
