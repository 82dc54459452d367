"""Group ``cmc_backend``: where shards run."""

from .base import AbstractCMCBackend
from .board import Status, Watch

__all__ = ["AbstractCMCBackend", "Status", "Watch"]
