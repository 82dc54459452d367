"""Group ``uncertainty``: what is worked out of a fit."""

from .base import AbstractUncertainty

__all__ = ["AbstractUncertainty"]
