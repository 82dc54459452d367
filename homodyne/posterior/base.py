"""A Bayesian step after the fit."""

from abc import ABC

from ..settings import Option


class AbstractPosterior(Option, ABC):
    """Base of the options of group ``posterior``."""
