"""Group ``report``: what people look at."""

from .base import AbstractReport

__all__ = ["AbstractReport"]
