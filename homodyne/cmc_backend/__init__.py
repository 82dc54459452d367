"""Group ``cmc_backend``: where shards run."""

from .base import AbstractCMCBackend

__all__ = ["AbstractCMCBackend"]
