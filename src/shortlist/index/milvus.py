"""Milvus (Wang et al. 2021) as an index: a vector database, embedded or on a server."""

import os
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from torch import Tensor

from shortlist.errors import IndexServerError, MissingPackageError, ModelError, install
from shortlist.index.approximate import Setting
from shortlist.index.checks import Items
from shortlist.index.pairs import Floats, Rows, scores_of
from shortlist.index.servers import Found, Place, Published, ServerIndex, Timeout, in_order
from shortlist.index.settings import BuildBeam, Choices, Links

INSERTED_AT_A_TIME = 5_000
ASKED_AT_A_TIME = 1_000
FETCHED_AT_A_TIME = 10_000
MOST_FETCHED = 16_384  # Milvus's limit of items returned for one query.
MOST_LISTED = 10_000  # Most ids in a filter expression; parsing costs 20 µs per id.
LINKS, BUILD_BEAM = 16, 100  # Default m and ef_construction of a graph.
BEAM = 256  # Default ef_search of a graph.
AHEAD = 2  # Safety factor on the items fetched when a filter is applied in this process.
BUILD_PATIENCE = 3600.0  # Seconds.


_SCANNED = (
    "for dot this index holds no graph unless ef_search is set when it is built, and every search "
    "scans all vectors; set ef_search and build again, or leave it out"
)


def _without_password(text: str) -> str:
    if urlsplit(text).password is not None:
        raise ValueError(
            "must not contain a password: write user:password in SHORTLIST_MILVUS_TOKEN"
        )
    return text


class MilvusCollection(ServerIndex):
    """Vectors, and an HNSW graph of them, stored in Milvus. Needs the extra "milvus".

    `collection` is a Milvus alias, which moves to a new collection in one step. A collection has
    the fields `id`, `tie_key` and `vector`.

    For dot a graph of Milvus misses much where the vectors' lengths differ: on 3,000 learned
    factors Recall@100 was .77, and .81 with a beam of 1,024. So unless ef_search is set at the
    build, the server scans all vectors for dot, and m and ef_construction are refused.

    A filter of up to MOST_LISTED ids (allowed or excluded, whichever are fewer) is evaluated by the
    server. With a longer filter, more items are fetched and filtered in this process, up to
    MOST_FETCHED. If the graph returns too few items, all matching items are fetched in parts and
    scored here.
    """

    search_settings: ClassVar[tuple[str, ...]] = ("ef_search", "timeout")
    grid: ClassVar[Choices] = {"ef_search": (64, 128, 256, 512, 1024)}

    uri: str | None
    consistency: str
    m: int
    ef_construction: int
    ef_search: int | None
    timeout: float

    def __init__(
        self,
        similarity: str,
        *,
        uri: Annotated[
            str | None,
            AfterValidator(lambda text: text and _without_password(text)),
            Field(
                description="A server such as http://127.0.0.1:19530, or the path of a file for "
                "the embedded engine. The environment variable SHORTLIST_MILVUS_URI takes "
                "precedence. If both are unset: a temporary file, which cannot be saved in a "
                "bundle."
            ),
        ] = None,
        collection: Published = "shortlist",
        consistency: Annotated[
            Literal["Strong", "Bounded", "Session", "Eventually"],
            Field(
                description="Which recent writes a search sees: Strong (all; waits for 0.2 s), "
                "Bounded (all but the last seconds), Session (those of this process) or Eventually."
            ),
        ] = "Session",
        m: Links = LINKS,
        ef_construction: BuildBeam = BUILD_BEAM,
        ef_search: Annotated[
            int | None,
            Field(
                ge=1,
                le=32_768,
                description="Beam width of a search, raised to the number of items asked for if "
                "that is higher. Unset: 256. Unset when an index for dot is built: no graph is "
                "built, and every search scans all vectors.",
            ),
        ] = None,
        timeout: Timeout = 5.0,
    ) -> None:
        super().__init__(
            similarity,
            uri=uri,
            collection=collection,
            consistency=consistency,
            m=m,
            ef_construction=ef_construction,
            ef_search=ef_search,
            timeout=timeout,
        )
        if self._scanned and (self.m, self.ef_construction) != (LINKS, BUILD_BEAM):
            raise ModelError(f"m and ef_construction do nothing here: {_SCANNED}")
        self._loaded: tuple[str, int] | None = None  # (collection, process id) known as loaded.
        self._changed = False

    @property
    def _scanned(self) -> bool:
        """True if the collection holds no graph."""
        return self.similarity == "dot" and self.ef_search is None

    def adjust(self, **changes: Setting) -> Self:
        """Change ef_search or timeout, without a rebuild.

        Errors: ModelError for another setting, for a value out of range, and for ef_search if the
        collection holds no graph.
        """
        if self.place is not None and self._scanned and changes.get("ef_search") is not None:
            raise ModelError(f"ef_search does nothing here: {_SCANNED}")
        return super().adjust(**changes)

    @property
    def address(self) -> str:
        """SHORTLIST_MILVUS_URI, else the setting uri; without a password."""
        parts = urlsplit(self._uri)
        if parts.password is None:
            return self._uri
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @property
    def _uri(self) -> str:
        return os.environ.get("SHORTLIST_MILVUS_URI") or self.uri or ""

    @classmethod
    def from_state(cls, similarity: str, state: dict[str, Tensor]) -> Self:
        """Return the index that `state` describes; a state with vectors publishes them anew."""
        if "vectors" in state:  # Bundles of version 0.4 and earlier hold the vectors.
            items = (state["ids"], state["vectors"][: len(state["ids"])], state["tie_keys"])
            return cls(similarity, **_old_settings(state)).build(*items)
        return super().from_state(similarity, state)

    def _publish(self, name: str, items: Items) -> None:
        from pymilvus import DataType, MilvusClient  # noqa: PLC0415

        client = self._client()
        schema = MilvusClient.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("tie_key", DataType.INT64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=items.vectors.shape[1])
        plan = client.prepare_index_params()
        built = {"M": self.m, "efConstruction": self.ef_construction}
        plan.add_index(
            "vector",
            index_type="FLAT" if self._scanned else "HNSW",
            metric_type=self._metric,
            params={} if self._scanned else built,
        )
        try:
            # A collection that is loaded while it is written is scanned until the server replaces
            # the scanned part by the graph, at any time afterwards: answers would change then.
            client.create_collection(name, schema=schema, consistency_level=self.consistency)
            self._write(client, name, items)
            client.flush(name, timeout=BUILD_PATIENCE)
            client.create_index(name, plan, timeout=BUILD_PATIENCE)
            self._wait(client, name)
            client.load_collection(name, timeout=BUILD_PATIENCE)
            self._switch(client, name)
        except BaseException:
            client.drop_collection(name)
            raise
        self._loaded = name, os.getpid()

    def _wait(self, client: Any, name: str) -> None:
        """Wait until the graph is built: until then the server scans all vectors."""
        end = time.monotonic() + BUILD_PATIENCE
        while int((client.describe_index(name, "vector") or {}).get("pending_index_rows", 0)):
            if time.monotonic() > end:
                raise IndexServerError(
                    f"Milvus did not build the index of {name} within {BUILD_PATIENCE:g} s"
                )
            time.sleep(0.1)

    @property
    def _metric(self) -> str:
        return "L2" if self.similarity == "euclidean" else "IP"

    def _write(self, client: Any, name: str, items: Items) -> None:
        for start in range(0, len(items.ids), INSERTED_AT_A_TIME):
            ids, vectors, keys = (part[start : start + INSERTED_AT_A_TIME] for part in items)
            rows = [
                {"id": id_, "tie_key": key, "vector": vector}
                for id_, key, vector in zip(
                    ids.tolist(), keys.tolist(), vectors.numpy(), strict=True
                )
            ]
            client.insert(name, rows)

    def _switch(self, client: Any, name: str) -> None:
        """Move the alias to this collection. Drop older ones, except the one it pointed to."""
        before = None
        ours = [other for other in client.list_collections() if self._is_ours(other)]
        for other in ours:
            if self.collection in client.list_aliases(other)["aliases"]:
                before = other
        if before is None:
            client.create_alias(name, self.collection)
        else:
            client.alter_alias(name, self.collection)
        for other in ours:
            if other not in {name, before}:
                client.drop_collection(other)

    def _is_ours(self, name: str) -> bool:
        """Return whether a collection was published under this alias, by its name."""
        alias, _, suffix = name.rpartition("_")
        return alias == self.collection and len(suffix) == 32

    @property
    def _level(self) -> str:
        """The consistency of a search: a server's "Session" does not see its own deletions."""
        return "Strong" if self._changed and self.consistency == "Session" else self.consistency

    def _insert(self, place: Place, items: Items) -> None:
        self._write(self._ready(place), place.name, items)
        self._changed = True

    def _delete(self, place: Place, ids: Rows) -> None:
        client, self._changed = self._ready(place), True
        for start in range(0, len(ids), FETCHED_AT_A_TIME):
            client.delete(place.name, ids=ids[start : start + FETCHED_AT_A_TIME].tolist())

    def _fetch(self, place: Place, ids: Rows, *, vectors: bool) -> tuple[Rows, Floats]:
        client, fields = self._ready(place), ["id", "vector"] if vectors else ["id"]
        found: list[Any] = []
        for start in range(0, len(ids), FETCHED_AT_A_TIME):
            some = ids[start : start + FETCHED_AT_A_TIME].tolist()
            found += client.query(
                place.name,
                filter=f"id in {some}",
                output_fields=fields,
                consistency_level=self._level,
                timeout=BUILD_PATIENCE,
            )
        there = np.array([row["id"] for row in found], dtype=np.int64)
        width = place.width if vectors else 0
        rows = [row["vector"] for row in found] if vectors else []
        return there, np.array(rows, dtype=np.float32).reshape(len(there), width)

    def _find(
        self, place: Place, points: Floats, k: int, allow: NDArray[np.bool_] | None, exclude: Rows
    ) -> Found:
        word, ids, share = "not in", exclude, 1.0
        if allow is not None:
            kept = allow.copy()
            kept[exclude[exclude <= place.highest]] = False
            wanted, ids = np.flatnonzero(kept), np.flatnonzero(~kept)
            share = len(wanted) / len(kept)
            if len(wanted) <= len(ids):
                word, ids = "in", wanted
        ahead = round(AHEAD * k / max(share, 1e-9))
        # Only short points continue, so an answer does not depend on those of the other points.
        found, short = Found.nothing(len(points), k), np.arange(len(points))
        if len(ids) > MOST_LISTED and ahead <= MOST_FETCHED:
            some = self._ask(place, points, ahead, "", self.timeout)
            found = _best(some, np.isin(some.ids, ids, invert=word == "not in"), k)
            short = _with_fewer(found, k)
        filtered = word == "in" or len(ids) > 0
        text = f"id {word} {ids.tolist()}" if filtered else ""
        patience = self.timeout * max(1, len(ids) / MOST_LISTED)
        if len(short):
            some = self._ask(place, points[short], min(k, MOST_FETCHED), text, patience)
            _replace(found, short, some)
            short = _with_fewer(found, k)
        if not len(short):
            return found
        every = ids if word == "in" else np.setdiff1d(np.arange(place.highest + 1), ids)
        matching = len(self._fetch(place, every, vectors=False)[0]) if filtered else place.count
        short = _with_fewer(found, min(k, matching))
        if len(short):
            _replace(found, short, self._scored(place, points[short], k, every))
        return found

    def _ask(self, place: Place, points: Floats, k: int, condition: str, patience: float) -> Found:
        client, found = self._ready(place), Found.nothing(len(points), k)
        hits: list[Any] = []
        for start in range(0, len(points), ASKED_AT_A_TIME):
            hits += client.search(
                place.name,
                data=list(points[start : start + ASKED_AT_A_TIME]),
                filter=condition,
                limit=k,
                output_fields=["id", "tie_key"],
                search_params={
                    "metric_type": self._metric,
                    # Without for_tuning the server begins where the last search with the same point
                    # ended, so an answer would depend on what was asked before.
                    "params": {"ef": max(self.ef_search or BEAM, k), "for_tuning": True},
                },
                consistency_level=self._level,
                timeout=patience,
            )
        sign = -1.0 if self.similarity == "euclidean" else 1.0
        for point, one in enumerate(hits):
            found.put(
                point,
                [hit["id"] for hit in one],
                [sign * hit["distance"] for hit in one],
                [hit["entity"]["tie_key"] for hit in one],
            )
        return found

    def _scored(self, place: Place, points: Floats, k: int, ids: Rows) -> Found:
        """Answer points [P, D] by scoring all items with these ids, fetched in parts."""
        best = Found.nothing(len(points), k)
        client, euclidean = self._ready(place), self.similarity == "euclidean"
        for start in range(0, len(ids), FETCHED_AT_A_TIME):
            rows = client.query(
                place.name,
                filter=f"id in {ids[start : start + FETCHED_AT_A_TIME].tolist()}",
                output_fields=["id", "tie_key", "vector"],
                consistency_level=self._level,
                timeout=self.timeout,
            )
            if not rows:
                continue
            there, keys = (np.array([row[name] for row in rows]) for name in ("id", "tie_key"))
            vectors = np.array([row["vector"] for row in rows], dtype=np.float32)
            for point, query in enumerate(points):
                scores = scores_of(query[None], vectors, euclidean)
                ids_ = np.concatenate([best.ids[point], there])
                scores_ = np.concatenate([best.scores[point], scores])
                keys_ = np.concatenate([best.keys[point], keys])
                first = np.lexsort((keys_, -scores_))[:k]
                best.put(point, ids_[first], scores_[first], keys_[first])
        return best

    def _ready(self, place: Place) -> Any:
        """Return the client after checking once that the collection exists and is loaded."""
        client = self._client()
        if self._loaded != (place.name, os.getpid()):
            if not client.has_collection(place.name, timeout=self.timeout):
                raise IndexServerError(
                    f"the index server at {self.address} has no collection {place.name}: newer "
                    "ones were published since, or this is another server; index the bundle again"
                )
            client.load_collection(place.name, timeout=self.timeout)
            self._loaded = place.name, os.getpid()
        return client

    def _client(self) -> Any:
        token = os.environ.get("SHORTLIST_MILVUS_TOKEN", "")
        return _connected(self._uri, token, self.timeout, os.getpid())

    def _failures(self) -> tuple[type[Exception], ...]:
        try:
            from grpc import RpcError  # noqa: PLC0415
            from pymilvus import (  # noqa: PLC0415
                MilvusException,
            )
        except ImportError:
            return ()
        return (MilvusException, RpcError, OSError)


def _with_fewer(found: Found, k: int) -> Rows:
    """Return the points for which fewer than k items were found."""
    return np.flatnonzero((found.ids >= 0).sum(axis=1) < k)


def _replace(found: Found, points: Rows, by: Found) -> None:
    """Replace the answers of n points by other answers [n, at most k]."""
    width = by.ids.shape[1]
    found.ids[points], found.scores[points] = -1, -np.inf
    found.ids[points, :width], found.scores[points, :width] = by.ids, by.scores
    found.keys[points, :width] = by.keys


def _best(found: Found, kept: NDArray[np.bool_], k: int) -> Found:
    """Return the first k found items that are kept; kept: bool [P, F]."""
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    ids, scores = np.where(kept, found.ids, -1), np.where(kept, found.scores, -np.inf)
    return in_order(Found(ids, scores.astype(np.float32), found.keys), order)


def _old_settings(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return the settings of a state of version 0.4 or earlier, without refine."""
    import json  # noqa: PLC0415

    settings: dict[str, Any] = json.loads(state["settings"].numpy().tobytes())
    settings.pop("refine", None)
    return settings


@cache
def _connected(uri: str, token: str, timeout: float, process: int) -> Any:  # noqa: ARG001
    """Return this process's client of a server or embedded engine; uri "" is a temporary file."""
    try:
        from pymilvus import MilvusClient  # noqa: PLC0415
    except ImportError as error:
        raise MissingPackageError(f"this index needs Milvus: {install('milvus')}") from error
    if not uri:
        folder = tempfile.TemporaryDirectory(prefix="shortlist-milvus-")
        _temporary.append(folder)
        return MilvusClient(uri=str(Path(folder.name) / "milvus.db"))
    return MilvusClient(uri=uri, token=token, timeout=timeout)


_temporary: list[tempfile.TemporaryDirectory[str]] = []  # Deleted when the process ends.
