"""Solutions that the data cannot tell from the chosen one, and flows that frames no longer sample.

A number that another solution puts outside its interval has no error: the error belongs to one minimum and does not say which
minimum is right.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .identifiability import Identified, values_and_jacobians
from .mode.base import Model
from .optimizer.base import Alternative
from .results import Estimate

INDISTINCT = 10.0
"""Rise of chi2, calibrated by the noise, below which another minimum is another answer."""
LISTED = 4
"""Solutions that the sentence lists."""
SIGNAL = 0.2
"""Share of the largest contrast that an angle must have to say something of the flow."""
SAMPLED = 0.5 * np.pi
"""rad between neighbouring frames above which the flow phase is no longer followed from frame to frame."""


def declare(
    found: Identified, model: Model, u: np.ndarray, contrast: np.ndarray, alternatives: Sequence[Alternative], unit: float
) -> Identified:
    """The same results without errors across solutions, and with sentences that list those and say which angles follow the flow.

    Args:
        u: (p,) the estimate. contrast: (P,) of it. alternatives: other minima.
        unit: rise of chi2 that counts as one (errors calibrated by the noise).
    """
    found = _blind(replace(found, statements=(*found.statements, *sampling(model, u))), model, u, contrast)
    rivals = [other for other in alternatives if np.nanmin([other.rise, other.alike]) < INDISTINCT * unit]
    lost: dict[str, None] = {}
    texts, steps = [], []
    for rival in rivals:
        values = _values(found, model, rival.u)
        differ = [name for name, value in values.items() if _outside(_estimate(found, name), value)]
        if not differ:
            continue
        lost |= dict.fromkeys(differ)
        steps.append(_step(model, rival.u - u))
        shown = ", ".join(f"{name} {values[name]:.4g}" for name in differ if name in found.parameters or name.endswith("_best"))
        prior = "" if np.isnan(rival.alike) else f", {rival.alike / unit:+.1f} with contrasts alike"
        texts.append(f"{shown} (chi2 {rival.rise / unit:+.1f}{prior})")
    if not lost:
        return found
    sentence = f"other solutions describe the data as well, so what differs between them has no error: {'; '.join(texts[:LISTED])}"
    sentence += f"; and {len(texts) - LISTED} more" if len(texts) > LISTED else ""
    curves = {name: curve.withheld() if f"{name}_best" in lost else curve for name, curve in found.curves.items()}
    return replace(
        found,
        parameters={name: _withheld(estimate, name in lost) for name, estimate in found.parameters.items()},
        rates={name: _withheld(estimate, name in lost) for name, estimate in found.rates.items()},
        curves=curves,
        statements=(*found.statements, sentence),
        known=replace(found.known, reach=np.vstack([found.known.reach, *steps])),
        moved=(*found.moved, *lost),
    )


def _blind(found: Identified, model: Model, u: np.ndarray, contrast: np.ndarray) -> Identified:
    """No error of flow and direction where fewer than two angles with signal see any of the flow between neighbouring frames."""
    sees = (model.frame_phase(u) < np.pi) & (contrast > SIGNAL * contrast.max())
    if "gamma_dot" not in found.curves or sees.sum() >= min(2, len(contrast)):
        return found
    flow = {*model.laws["gamma_dot"].names, "phi0"}
    return replace(
        found,
        parameters={name: _withheld(estimate, name in flow) for name, estimate in found.parameters.items()},
        rates={name: _withheld(estimate, "gamma_dot" in name) for name, estimate in found.rates.items()},
        curves={name: curve.withheld() if name == "gamma_dot" else curve for name, curve in found.curves.items()},
        statements=(*found.statements, "shear rate and phi0 are not determined: fewer than two angles with signal follow the flow"),
    )


def sampling(model: Model, u: np.ndarray) -> tuple[str, ...]:
    """A sentence when the flow phase is not followed from frame to frame at some angle."""
    phase = model.frame_phase(u)
    slow = phase < SAMPLED
    if slow.all():
        return ()
    near = ", ".join(f"{angle:.4g}" for angle in model.phi[slow])  # type: ignore[attr-defined]
    rests = f"{slow.sum()} of {len(phase)} angles ({near} degrees), on which the shear rate rests; it has aliases"
    return (
        f"the flow phase between neighbouring frames reaches {phase.max():.3g} rad, more than {SAMPLED:.2g}: frames follow the flow at "
        f"{rests if slow.any() else 'no angle, and the shear rate has aliases'}",
    )


def _estimate(found: Identified, name: str) -> Estimate:
    return found.parameters[name] if name in found.parameters else found.rates[name]


def _withheld(estimate: Estimate, lost: bool) -> Estimate:
    return estimate.withheld() if lost else estimate


def _outside(estimate: Estimate, value: float) -> bool:
    """Whether another solution puts the number outside its interval; False where it has none."""
    if estimate.status not in ("free", "interval"):
        return False
    if estimate.name == "phi0":
        value = estimate.value + (value - estimate.value + 90.0) % 180.0 - 90.0
    return not estimate.holds(value)


def _values(found: Identified, model: Model, u: np.ndarray) -> dict[str, float]:
    """Parameters and rates at u by name, rates at the times that the chosen solution determines best."""
    results = values_and_jacobians(model, u)
    values = dict(zip(model.names, np.asarray(results["parameters"][0]).tolist(), strict=True))
    for name, curve in found.curves.items():
        at = int(np.argmin(np.abs(curve.t - curve.best_time)))
        log_rate, slope = (float(value) for value in results["reference"][0][name])
        values[f"{name}_best"] = float(np.exp(results["log_rates"][0][name][at]))
        values |= {f"{name}_ref": float(np.exp(log_rate)), f"dln{name}_dlnt": slope}
    return values


def _step(model: Model, step: np.ndarray) -> np.ndarray:
    """The shorter way around in periodic coordinates."""
    period = model.period
    turns = np.where(np.isfinite(period), np.round(step / np.where(np.isfinite(period), period, 1.0)), 0.0)
    return step - np.where(turns != 0, turns * np.where(np.isfinite(period), period, 0.0), 0.0)
