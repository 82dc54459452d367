"""What people look at after a run. A report reads the run folder and nothing else, so it can be repeated at any time."""

from abc import ABC, abstractmethod
from pathlib import Path

from ..settings import Option


class AbstractReport(Option, ABC):
    """Base of the options of group ``report``."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Add the report to a run folder.

        Raises:
            DataError: the folder is not a complete run folder.
        """
