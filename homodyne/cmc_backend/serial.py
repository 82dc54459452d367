"""One shard after another in this process."""

from .base import AbstractCMCBackend


class Serial(AbstractCMCBackend):
    """The reference every other place is compared with."""
