"""Group ``hardware``: where a run computes."""

from .base import AbstractHardware

__all__ = ["AbstractHardware"]
