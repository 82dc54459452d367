"""What can go wrong, in four kinds, each with the exit status of the command line.

A message says what was found, where (configuration key, or file and dataset path) and what is accepted.
"""


class HomodyneError(Exception):
    """Base of them; never raised itself."""

    exit_status = 1


class ConfigError(HomodyneError):
    """A setting is unknown, missing, of the wrong type or out of range. Nothing has been opened yet."""

    exit_status = 2


class DataError(HomodyneError):
    """A file is missing, damaged, of an unknown layout, or does not hold what was asked for."""

    exit_status = 3


class FitError(HomodyneError):
    """No usable minimum was found, or a saved state cannot be continued."""

    exit_status = 4


class ModelError(HomodyneError):
    """A minimum was found, but it cannot be meant: no noise explains what the model leaves, or the scaling stands at its bounds."""

    exit_status = 5
