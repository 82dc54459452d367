"""What a coordinate at its limit does to all others.

A coordinate that the fit holds at a limit has no error, and the covariance of the others is conditional on it. But data that put it
there do not say that it is there: it may go back inward by delta until chi2 has risen by z^2 units, and the others follow,

    d u_free/dv = -H_ff^-1 H_fv,      2 g delta + (H_vv - H_vf H_ff^-1 H_fv) delta^2 = z^2 unit

with g the gradient and H the Gauss-Newton matrix of chi2/2. v is the coordinate, or for the logarithm of a rate at its lower limit the
rate itself, in which chi2 is close to a parabola down to zero. Every number that moves by more than a part of its error on that way has
an error that is too short. Source: docs/uncertainty.md.
"""

import numpy as np

from .mode.base import Model
from .problem import Evaluation, Information, Problem, invert


def reaches(problem: Problem, evaluation: Evaluation, information: Information, unit: float) -> np.ndarray:
    """(h, q) changes of all fitted numbers, in the order of ``Information.bread``, when each of the h held coordinates goes back inward.

    Args:
        unit: rise of chi2 to which it goes: the square of the standard deviations times the unit of chi2, correlated pixels included.
    """
    held, projection = information.held, evaluation.projection
    assert projection.cross is not None
    hessian, gradient, free = evaluation.hessian, evaluation.gradient, ~held
    response = np.zeros((information.size, information.size))
    response[np.ix_(free, held)] = -invert(hessian[np.ix_(free, free)]).matrix @ hessian[np.ix_(free, held)]
    found = np.zeros((int(held.sum()), len(information.bread)))
    for row, k in zip(found, np.flatnonzero(held), strict=True):
        inward, room = _way(problem.model, evaluation.u, int(k))
        along = response[:, k]
        along[k] = 1.0
        steep, curve = max(inward * float(gradient[k]), 0.0), max(float(along @ hessian @ along), 0.0)
        # The root of 2 g d + c d^2 = unit in the form that does not cancel.
        root = steep + np.sqrt(steep**2 + curve * unit)
        row[: information.size] = inward * (min(unit / root, room) if root > 0 else room) * along
    cross = np.einsum("gkl,glp->gkp", projection.inverse, projection.cross).reshape(-1, information.size)
    found[:, information.size :] = -found[:, : information.size] @ cross.T
    return found


def _way(model: Model, u: np.ndarray, k: int) -> tuple[float, float]:
    """Sign of the way inward of coordinate k, and how far it can go.

    At the lower limit of a rate the way is measured in units of that rate: there it is the change of its logarithm as well.
    """
    room = float(min(model.upper[k] - model.lower[k], 50.0))
    if u[k] - model.lower[k] > model.upper[k] - u[k]:
        return -1.0, room
    return 1.0, float(np.expm1(room)) if model.coordinates[k] in logarithms(model) else room


def logarithms(model: Model) -> list[str]:
    """Coordinates that are logarithms of rates."""
    return [name for law in model.laws.values() if law.form != "raw" for name in law.coordinates if name not in law.names]
