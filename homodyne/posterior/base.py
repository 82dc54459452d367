"""A Bayesian step after the fit."""

from abc import ABC

from ..option import Option


class AbstractPosterior(Option, ABC):
    """Base of the options of group ``posterior``."""
