"""report=off: no figures."""

from pathlib import Path

from .base import AbstractReport


class Off(AbstractReport):
    """Nothing is drawn; figures can be made later from the run folder."""

    def write(self, folder: Path) -> None:
        """Do nothing."""
