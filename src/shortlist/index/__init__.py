"""Nearest-item search: one file an index, one name each in the table INDEXES."""

from shortlist.errors import ModelError, nameless
from shortlist.index.annoy import AnnoyForest
from shortlist.index.base import Hits, VectorIndex
from shortlist.index.exact import ExactIndex
from shortlist.index.faiss import FaissFlat, FaissHNSW, FaissIVF
from shortlist.index.milvus import MilvusCollection
from shortlist.index.scann import Scann

INDEXES: dict[str, type[VectorIndex]] = {
    "annoy": AnnoyForest,
    "exact": ExactIndex,
    "faiss-flat": FaissFlat,
    "faiss-hnsw": FaissHNSW,
    "faiss-ivf": FaissIVF,
    "milvus": MilvusCollection,
    "scann": Scann,
}


def kind_of(index: VectorIndex) -> str:
    """Return the name of an index in INDEXES, or refuse one that has none (ModelError)."""
    name = next((name for name, kind in INDEXES.items() if type(index) is kind), None)
    if name is None:
        own = type(index).__name__
        raise ModelError(f"the index, a {own}, {nameless('INDEXES', own)}")
    return name


__all__ = [
    "INDEXES",
    "AnnoyForest",
    "ExactIndex",
    "FaissFlat",
    "FaissHNSW",
    "FaissIVF",
    "Hits",
    "MilvusCollection",
    "Scann",
    "VectorIndex",
    "kind_of",
]
