"""Group ``posterior``: what follows the fit."""

from .base import AbstractPosterior

__all__ = ["AbstractPosterior"]
