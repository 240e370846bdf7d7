"""Nearest-item search: one file an index, one name each in the table INDEXES."""

from collections.abc import Callable

from shortlist.errors import ModelError, nameless, suggest_part
from shortlist.index.annoy import AnnoyForest
from shortlist.index.base import Hits, VectorIndex
from shortlist.index.exact import ExactIndex
from shortlist.index.faiss import FaissFlat, FaissHNSW, FaissIVF
from shortlist.index.milvus import MilvusCollection
from shortlist.index.pgvector import PgVector
from shortlist.index.scann import Scann
from shortlist.index.settings import check_settings

INDEXES: dict[str, type[VectorIndex]] = {
    "annoy": AnnoyForest,
    "exact": ExactIndex,
    "faiss-flat": FaissFlat,
    "faiss-hnsw": FaissHNSW,
    "faiss-ivf": FaissIVF,
    "milvus": MilvusCollection,
    "pgvector": PgVector,
    "scann": Scann,
}


def build_index(kind: str, similarity: str, **settings: object) -> VectorIndex:
    """Return an empty index of that kind; a setting that is not given takes its default.

    Refuses an unknown kind, and a setting that it does not have or out of its range: ModelError.

    >>> build_index("faiss-hnsw", "dot", m=8).settings()["m"]
    8
    """
    check_kind(kind)
    check_settings(INDEXES[kind], settings)
    make: Callable[..., VectorIndex] = INDEXES[kind]
    return make(similarity, **settings)


def check_kind(kind: str) -> None:
    """Refuse a name that no index has: ModelError."""
    if kind not in INDEXES:
        raise ModelError(f"unknown index '{kind}'.{suggest_part(kind, INDEXES)}")


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
    "PgVector",
    "Scann",
    "VectorIndex",
    "build_index",
    "check_kind",
    "kind_of",
]
