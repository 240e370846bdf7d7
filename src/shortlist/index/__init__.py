"""Nearest-item search: one file an index, one name each in the table INDEXES."""

from shortlist.index.base import Hits, VectorIndex
from shortlist.index.exact import ExactIndex

INDEXES: dict[str, type[VectorIndex]] = {"exact": ExactIndex}

__all__ = ["INDEXES", "ExactIndex", "Hits", "VectorIndex"]
