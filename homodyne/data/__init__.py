"""Group ``data``: how a file becomes a Dataset."""

from .base import AbstractData, AbstractFile
from .dataset import Dataset, Provenance

__all__ = ["AbstractData", "AbstractFile", "Dataset", "Provenance"]
