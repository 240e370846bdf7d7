"""Nearest-item search: one file an index, one name each in the table INDEXES."""

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
]
