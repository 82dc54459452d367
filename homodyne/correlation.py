"""How far the errors of the physical parameters hang together: their correlation matrix, its condition number, and a sentence."""

from dataclasses import dataclass

import numpy as np

from .results import Fit

STRONG = 0.95


@dataclass(frozen=True)
class Correlation:
    """Of the parameters that have a finite error.

    Attributes:
        matrix: (K, K) of ``names``, NaN in the rows of parameters without an error.
        condition: ratio of the extreme eigenvalues among the others, NaN when there are none.
        sentence: the pairs above STRONG, or empty.
    """

    names: tuple[str, ...]
    covariance: np.ndarray
    matrix: np.ndarray
    condition: float
    sentence: str


def correlation(fit: Fit) -> Correlation:
    """Correlation of the physical parameters; that of all numbers follows from ``fit.covariance``."""
    index = [fit.names.index(name) for name in fit.parameters if name in fit.names]
    names, covariance = tuple(fit.names[k] for k in index), fit.covariance[np.ix_(index, index)]
    variance = np.diagonal(covariance)
    error = np.sqrt(np.where(variance > 0, variance, np.nan))
    matrix = covariance / np.outer(error, error)
    known = np.isfinite(error)
    condition = float("nan")
    if known.any():
        values = np.linalg.eigvalsh(matrix[np.ix_(known, known)])
        condition = float(values[-1] / values[0]) if values[0] > 0 else float("inf")
    return Correlation(names, covariance, matrix, condition, _sentence(names, matrix))


def _sentence(names: tuple[str, ...], matrix: np.ndarray) -> str:
    strong = [(i, j) for i in range(len(names)) for j in range(i) if abs(matrix[i, j]) > STRONG]
    if not strong:
        return ""
    # Three digits would show 0.9996 as 1.
    pairs = [f"{names[j]} and {names[i]} ({np.sign(matrix[i, j]) * min(abs(matrix[i, j]), 0.9999):+.4f})" for i, j in strong]
    return f"strongly correlated: {', '.join(pairs)}; their errors hold only together (covariance), the rates above are better determined"
