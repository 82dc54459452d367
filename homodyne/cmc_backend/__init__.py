"""Group ``cmc_backend``."""
