"""Which indexes for nearest-neighbour search exist? Each has one file and one name in INDEXES."""

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
    """Return an empty index of that kind.

    kind: a name in INDEXES.
    similarity: "dot", "cosine" or "euclidean".
    settings: parameters of the index's class; one that is not given takes its default.
    Errors: ModelError for an unknown kind, an unknown setting and a value out of range.

    >>> build_index("faiss-hnsw", "dot", m=8).settings()["m"]
    8
    """
    check_kind(kind)
    check_settings(INDEXES[kind], settings)
    make: Callable[..., VectorIndex] = INDEXES[kind]
    return make(similarity, **settings)


def check_kind(kind: str) -> None:
    """Raise ModelError for a name that is not in INDEXES."""
    if kind not in INDEXES:
        raise ModelError(f"unknown index '{kind}'.{suggest_part(kind, INDEXES)}")


def kind_of(index: VectorIndex) -> str:
    """Return the name of an index in INDEXES. Errors: ModelError if its class is not there."""
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
