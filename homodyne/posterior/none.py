"""No Bayesian step: the result is the fit with its covariance."""

from .base import AbstractPosterior


class NoPosterior(AbstractPosterior):
    """Stop after the fit."""
