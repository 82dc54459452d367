"""Where the shards of one consensus Monte Carlo run are sampled."""

from abc import ABC

from ..settings import Option


class AbstractCMCBackend(Option, ABC):
    """Base of the options of group ``cmc_backend``."""
