"""Group ``data``: how a file becomes a Dataset."""

from .dataset import Dataset, Provenance

__all__ = ["Dataset", "Provenance"]
