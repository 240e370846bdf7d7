"""Milvus (Wang et al. 2021) as an index: a vector database, embedded or a server of its own."""

import json
import tempfile
import uuid
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from shortlist.errors import MissingPackageError, install
from shortlist.index.approximate import ApproximateIndex, Kept, raised
from shortlist.index.checks import longest
from shortlist.index.pairs import Floats, Rows
from shortlist.index.settings import BuildBeam, Links, Refine

INSERTED_AT_A_TIME = 5_000
ASKED_AT_A_TIME = 1_000
MOST_FETCHED = 16_384  # What Milvus returns for one query at most.
SCANNED_PER_STEP = 32


def _plain_name(text: str) -> str:
    if not (text.isidentifier() and text.isascii()):
        raise ValueError("must be letters, digits and _")
    return text


class MilvusCollection(ApproximateIndex):
    """A graph kept by Milvus: for a server that other programs read as well. Needs "milvus".

    Each build goes into a new collection, which the alias `collection` points to once it is whole;
    the one before it stays for those still reading it, older ones are dropped. Searches here go
    to the collection by its own name, so another program's publish cannot mix into an answer. It
    holds `slot` and `vector`. A state keeps the items and the collection's name: where the
    server has that collection the state joins it, elsewhere it publishes anew. The vectors stay
    in this process as well, to score candidates and to scan where few items are allowed.
    """

    search_settings: ClassVar[tuple[str, ...]] = ("ef_search",)

    def __init__(
        self,
        similarity: str,
        *,
        uri: Annotated[
            str | None,
            Field(
                description="A server such as http://127.0.0.1:19530, or the path of a file for "
                "the embedded engine; unset: a temporary file."
            ),
        ] = None,
        collection: Annotated[
            str,
            AfterValidator(_plain_name),
            Field(description="The alias to publish under."),
        ] = "shortlist",
        consistency: Annotated[
            Literal["Strong", "Bounded", "Session", "Eventually"],
            Field(
                description="What a search sees of writes just made: Strong (all of them), "
                "Bounded, Session or Eventually."
            ),
        ] = "Strong",
        m: Links = 16,
        ef_construction: BuildBeam = 100,
        ef_search: Annotated[
            int,
            Field(
                ge=1,
                le=100_000,
                description="The beam while searching; never less than the candidates asked for. "
                "Filters raise it by the share of items they keep.",
            ),
        ] = 256,
        refine: Refine = 1,
    ) -> None:
        super().__init__(
            similarity,
            refine=refine,
            uri=uri,
            collection=collection,
            consistency=consistency,
            m=m,
            ef_construction=ef_construction,
            ef_search=ef_search,
        )
        self.uri, self.collection, self.consistency = uri, collection, consistency
        self.m, self.ef_construction, self.ef_search = m, ef_construction, ef_search
        self._name = ""  # The collection behind the alias.
        self._reach = 0.0

    def _fit(self, vectors: Floats) -> None:
        self._reach = 1.1 * longest(torch.from_numpy(vectors)) ** 2
        client, name = _client(self.uri), f"{self.collection}_{uuid.uuid4().hex}"
        self._create(client, name, vectors.shape[1] + (self.similarity == "dot"))
        try:
            self._insert(client, name, vectors, 0)
            client.flush(name)
            client.load_collection(name)
            self._publish(client, name)
        except BaseException:
            client.drop_collection(name)
            raise
        self._name = name

    def _create(self, client: Any, name: str, width: int) -> None:
        """Make an empty collection with its index."""
        from pymilvus import (  # noqa: PLC0415
            DataType,
            MilvusClient,
        )

        schema = MilvusClient.create_schema(auto_id=False)
        schema.add_field("slot", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=width)
        plan = client.prepare_index_params()
        built = {"M": self.m, "efConstruction": self.ef_construction}
        plan.add_index("vector", index_type="HNSW", metric_type=self._metric, params=built)
        client.create_collection(
            name, schema=schema, index_params=plan, consistency_level=self.consistency
        )

    @property
    def _metric(self) -> str:
        return "IP" if self.similarity == "cosine" else "L2"

    def _insert(self, client: Any, name: str, vectors: Floats, first: int) -> None:
        """Put vectors into slots from `first` on."""
        placed = raised(vectors, self._reach) if self.similarity == "dot" else vectors
        for start in range(0, len(placed), INSERTED_AT_A_TIME):
            some = placed[start : start + INSERTED_AT_A_TIME]
            rows = [
                {"slot": first + start + place, "vector": vector}
                for place, vector in enumerate(some)
            ]
            client.insert(name, rows)

    def _publish(self, client: Any, name: str) -> None:
        """Point the alias to this collection; drop all but the one it pointed to before."""
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
        """Whether a collection was published under this alias."""
        alias, _, suffix = name.rpartition("_")
        return alias == self.collection and len(suffix) == 32

    def _extend(self, vectors: Floats) -> bool:
        if self.similarity == "dot" and longest(torch.from_numpy(vectors)) ** 2 > self._reach:
            return False
        self._insert(_client(self.uri), self._name, vectors, len(self._slots))
        return True

    def _find(self, points: Floats, fetch: int, kept: Kept | None) -> Rows:
        share = 1.0 if kept is None else kept.share
        wanted = min(round(fetch / share), MOST_FETCHED, len(self._slots))
        if self.similarity == "dot":
            points = np.pad(points, ((0, 0), (0, 1)))
        found: list[Any] = []
        for start in range(0, len(points), ASKED_AT_A_TIME):
            found += _client(self.uri).search(
                self._name,
                data=list(points[start : start + ASKED_AT_A_TIME]),
                limit=wanted,
                output_fields=["slot"],
                search_params={
                    "metric_type": self._metric,
                    "params": {"ef": self._beam(wanted, share)},
                },
                consistency_level=self.consistency,
            )
        slots = np.full((len(points), wanted), -1, dtype=np.int64)
        for row, hits in enumerate(found):
            slots[row, : len(hits)] = [hit["slot"] for hit in hits]
        if kept is not None:
            slots[~kept.slots[slots] | (slots < 0)] = -1
        return slots

    def _beam(self, fetch: int, share: float) -> int:
        return round(float(max(self.ef_search, fetch)) / share)

    def _scanned_meanwhile(self, fetch: int, share: float) -> float:
        if fetch / share > MOST_FETCHED:
            return np.inf
        return SCANNED_PER_STEP * self._beam(fetch, share) if share < 1 else 0.0

    def _dump(self) -> NDArray[np.uint8]:
        about = json.dumps({"name": self._name, "reach": self._reach})
        return np.frombuffer(about.encode(), dtype=np.uint8).copy()

    def _restore(self, dumped: NDArray[np.uint8], slots: int, width: int) -> None:
        about, client = json.loads(dumped.tobytes()), _client(self.uri)
        self._name, self._reach = str(about["name"]), float(about["reach"])
        if client.has_collection(self._name):
            held = int(client.get_collection_stats(self._name)["row_count"])
            if held == slots:
                client.load_collection(self._name)
                return
        # Removed items have slots without a vector: any will do, none of them is an answer.
        vectors = np.zeros((slots, width), dtype=np.float32)
        there = self._slots >= 0
        columns, _ = self._exact.columns_of(torch.from_numpy(self._slots[there]))
        vectors[there] = self._exact.items.vectors.numpy()[columns.numpy()]
        self._fit(vectors)


@cache
def _client(uri: str | None) -> Any:
    """The one connection to a server or embedded engine; None is an engine for this process."""
    try:
        from pymilvus import MilvusClient  # noqa: PLC0415
    except ImportError as error:
        raise MissingPackageError(f"this index needs Milvus: {install('milvus')}") from error
    if uri is None:
        folder = tempfile.TemporaryDirectory(prefix="shortlist-milvus-")
        client = MilvusClient(uri=str(Path(folder.name) / "milvus.db"))
        _temporary.append(folder)
        return client
    return MilvusClient(uri=uri)


_temporary: list[tempfile.TemporaryDirectory[str]] = []  # They go when the process ends.
