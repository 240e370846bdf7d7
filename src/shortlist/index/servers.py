"""How does a server that holds the vectors become an index with the contract of VectorIndex?"""

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import Annotated, Any, ClassVar, NamedTuple, Self
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from torch import Tensor

from shortlist.errors import DataError, IndexServerError, ModelError, ShortlistError, suggest
from shortlist.index.base import Hits
from shortlist.index.checks import Items, check_allow, check_exclude, check_queries
from shortlist.index.exact import ExactIndex
from shortlist.index.pairs import Floats, Rows
from shortlist.index.settings import Choices, check_settings, late_settings, settings_of
from shortlist.similarity import check_similarity, normalize

logger = logging.getLogger("shortlist.index")

Setting = int | float | str | None

QUIET = 5.0
"""Seconds without requests after a server failed; searches fail at once meanwhile."""

NOTHING: Rows = np.empty(0, dtype=np.int64)


def _plain_name(text: str) -> str:
    if not (text.isidentifier() and text.isascii() and len(text) <= 30):
        raise ValueError("must be up to 30 letters, digits and _, no digit first")
    return text


Published = Annotated[
    str,
    AfterValidator(_plain_name),
    Field(description="Name under which other programs find the newest version in the server."),
]
"""The setting `collection` of an index in a server."""

Timeout = Annotated[
    float,
    Field(gt=0, le=600, description="Most seconds that one request of a search may take."),
]
"""The setting `timeout` of an index in a server."""


class Found(NamedTuple):
    """The items that a server found for P points, best first.

    ids: int64 [P, k], -1 where fewer than k items were found.
    scores: float32 [P, k], -inf where fewer than k items were found.
    keys: int64 [P, k], the tie keys.
    """

    ids: Rows
    scores: Floats
    keys: Rows

    @classmethod
    def nothing(cls, points: int, k: int) -> Self:
        """Return an empty result with room for k items per point."""
        ids = np.full((points, k), -1, dtype=np.int64)
        return cls(ids, np.full((points, k), -np.inf, dtype=np.float32), ids.copy())

    def put(self, point: int, ids: Any, scores: Any, keys: Any) -> None:
        """Store the items found for a point."""
        there = np.s_[point, : len(ids)]
        self.ids[there], self.scores[there], self.keys[there] = ids, scores, keys


@dataclass(frozen=True)
class Place:
    """The metadata of the vectors in the server; a bundle stores nothing else of them.

    name: name of the published version in the server.
    count: number of items.
    width: width of the vectors.
    highest: upper bound of the ids.
    longest: upper bound of the vectors' euclidean lengths.
    """

    name: str
    count: int
    width: int
    highest: int
    longest: float


class ServerIndex(ABC):
    """Base of the indexes whose vectors are in a server; this process holds no vectors.

    Each build is published under a new name. When it is complete, the alias `collection` moves to
    it, so other programs read either the old or the new version. The previous version is kept for
    its readers; older ones are deleted. Searches use the name of the version, which is stored in
    the bundle, so a bundle is always searched with its own vectors.

    Filters are exact: no excluded item is found, and always min(k, matching items) are found.
    Scores are computed by the server in float32, up to its rounding. Equal scores are ordered by
    tie key. If items are tied across the last place of a list, the server chooses among them;
    `cut_ties` counts these lists.

    If the server fails, a search raises IndexServerError, and for QUIET seconds further searches do
    so at once. A subclass implements `_publish`, `_insert`, `_delete`, `_fetch`, `_find` and
    `_failures`. `add` and `remove` are not safe during a search in another thread.
    """

    is_exact: ClassVar[bool] = False
    search_settings: ClassVar[tuple[str, ...]] = ()
    grid: ClassVar[Choices] = {}

    collection: str

    def __init__(self, similarity: str, **own: Setting) -> None:
        """Check the settings of the subclass and store them as attributes."""
        check_settings(type(self), own)
        check_similarity(similarity)
        self.similarity = similarity
        for name, value in own.items():
            setattr(self, name, value)
        self.place: Place | None = None
        self.cut_ties = 0
        self._quiet_until, self._fault = 0.0, ""

    @abstractmethod
    def _publish(self, name: str, items: Items) -> None:
        """Write the items under a new name, then move `collection` to it."""

    @abstractmethod
    def _insert(self, place: Place, items: Items) -> None:
        """Add items to a published version."""

    @abstractmethod
    def _delete(self, place: Place, ids: Rows) -> None:
        """Delete items from a published version."""

    @abstractmethod
    def _fetch(self, place: Place, ids: Rows, *, vectors: bool) -> tuple[Rows, Floats]:
        """Return those of the ids that exist, int64 [n], and their vectors.

        vectors: whether the vectors are wanted, float32 [n, D]; else the second array is [n, 0].
        """

    @abstractmethod
    def _find(
        self, place: Place, points: Floats, k: int, allow: NDArray[np.bool_] | None, exclude: Rows
    ) -> Found:
        """Return the k best items of points [P, D], always min(k, matching items) of them.

        allow: bool [highest id + 1], or None.
        exclude: distinct ids that no point may get.
        """

    @abstractmethod
    def _failures(self) -> tuple[type[Exception], ...]:
        """Return the exceptions that the server's client raises."""

    def _slow(self) -> tuple[type[Exception], ...]:
        """Return those that mean that one request timed out, while the server still works."""
        return ()

    @property
    @abstractmethod
    def address(self) -> str:
        """The server's address without passwords; empty if it ends with this process."""

    def settings(self) -> dict[str, Setting]:
        """Return the keyword arguments that construct an index with these settings."""
        return {name: getattr(self, name) for name in settings_of(type(self)).model_fields}

    def adjust(self, **changes: Setting) -> Self:
        """Change settings that apply at search time (`search_settings`), without a rebuild.

        Errors: ModelError for another setting and for a value out of range.
        """
        known = late_settings(type(self))
        for name in changes:
            if name not in known:
                raise ModelError(f"'{name}' cannot be changed now.{suggest(name, known)}")
        check_settings(type(self), self.settings() | changes)
        for name, value in changes.items():
            setattr(self, name, value)
        return self

    def __len__(self) -> int:
        return 0 if self.place is None else self.place.count

    def build(self, ids: Tensor, vectors: Tensor, tie_keys: Tensor | None = None) -> Self:
        """Publish these items as a new version.

        ids: int64 [N], >= 0 and distinct.
        vectors: float32 [N, D].
        tie_keys: int64 [N]. Equal scores are ordered by tie key, smaller first, then by id. None
        takes a fixed hash of the id.
        Errors: DataError for ids or tie keys, ModelError for vectors that cannot be searched,
        IndexServerError if the server fails.
        """
        exact = ExactIndex(self.similarity).build(ids, vectors, tie_keys)
        items, name = exact.items, f"{self.collection}_{uuid4().hex}"
        with self._asking(anyway=True):
            self._publish(name, items)
        width, highest = items.vectors.shape[1], int(ids.max())
        self.place = Place(name, len(items.ids), width, highest, exact.longest)
        return self

    def add(self, ids: Tensor, vectors: Tensor, tie_keys: Tensor | None = None) -> Self:
        """Add items whose ids are not in the index; the arguments are those of `build`."""
        if self.place is None:
            return self.build(ids, vectors, tie_keys)
        exact = ExactIndex(self.similarity).build(ids, vectors, tie_keys)
        place, width = self.place, exact.items.vectors.shape[1]
        if width != place.width:
            raise ModelError(f"the index holds vectors of width {place.width}, got {width}")
        with self._asking(anyway=True):
            there, _ = self._fetch(place, ids.numpy(), vectors=False)
            if len(there):
                raise DataError(f"item {there[0]} would be in the index twice")
            self._insert(place, exact.items)
        self.place = replace(
            place,
            count=place.count + len(ids),
            highest=max(place.highest, int(ids.max())),
            longest=max(place.longest, exact.longest),
        )
        return self

    def remove(self, ids: Tensor) -> Self:
        """Remove the items with these ids. Errors: DataError if one is not in the index."""
        if self.place is None:
            raise DataError("the index is empty: build it first")
        with self._asking(anyway=True):
            there, _ = self._fetch(self.place, ids.numpy(), vectors=False)
            if len(gone := np.setdiff1d(ids.numpy(), there)):
                raise DataError(f"item {gone[0]} is not in the index")
            if len(there):
                self._delete(self.place, there)
        self.place = replace(self.place, count=self.place.count - len(there))
        return self

    def search(
        self,
        queries: Tensor,
        k: int,
        *,
        exclude: tuple[Tensor, Tensor] | None = None,
        allow: Tensor | None = None,
    ) -> Hits:
        """Return approximately the k best items of each query, always min(k, matching items).

        The arguments are those of `VectorIndex.search`.
        Errors: QueryError, and IndexServerError if the server fails.
        """
        place = self.place
        width, longest = (0, 0.0) if place is None else (place.width, place.longest)
        check_queries(queries, k, width, longest)
        if exclude is not None:
            check_exclude(exclude, len(queries))
        answer = Found.nothing(len(queries), k)
        if place is None or not (place.count and k and len(queries)):
            return _hits(answer)
        mask = None
        if allow is not None:
            check_allow(allow, place.highest)
            mask = allow[: place.highest + 1].numpy()
            if not mask.any():
                return _hits(answer)
        scaled = normalize(queries) if self.similarity == "cosine" else queries
        points: Floats = scaled.detach().reshape(len(queries), -1, place.width).numpy()
        lists = _lists(exclude, len(queries))
        plain = np.flatnonzero([not len(seen) for seen in lists])
        deep = min(k + 1, place.count)  # Item k + 1 shows whether the last place is tied.
        with self._asking():
            if len(plain):
                flat = points[plain].reshape(-1, place.width)
                self._take(answer, plain, self._find(place, flat, deep, mask, NOTHING), k)
            for row, seen in enumerate(lists):
                if len(seen):
                    found = self._find(place, points[row], deep, mask, seen)
                    self._take(answer, np.array([row]), found, k)
        return _hits(answer)

    def vectors_of(self, ids: Tensor) -> Tensor:
        """Return the vectors of these ids from the server, float32 [n, D]; zeros for unknown ids.

        Under cosine they are normalised. Errors: IndexServerError, DataError for an empty index.
        """
        if self.place is None:
            raise DataError("the index is empty: build it first")
        wanted, vectors = np.unique(ids.numpy()), np.zeros((len(ids), self.place.width), np.float32)
        with self._asking():
            there, found = self._fetch(self.place, wanted, vectors=True)
        if len(there):
            order = there.argsort()
            where = np.searchsorted(there[order], ids.numpy()).clip(max=len(there) - 1)
            known = there[order][where] == ids.numpy()
            vectors[known] = found[order[where[known]]]
        return torch.from_numpy(vectors)

    def state(self) -> dict[str, Tensor]:
        """Return the place of the vectors and the settings as named tensors, without vectors."""
        if not self.address:
            raise ModelError(
                "the vectors are in a temporary file of this process, which cannot be saved in a "
                "bundle: set the address of the server or file (uri)"
            )
        place = None if self.place is None else asdict(self.place)
        about = json.dumps({"place": place, "settings": self.settings()}, sort_keys=True)
        return {"about": torch.frombuffer(bytearray(about.encode()), dtype=torch.uint8)}

    @classmethod
    def from_state(cls, similarity: str, state: dict[str, Tensor]) -> Self:
        """Return the index that `state` describes; the server is contacted at the first search."""
        if set(state) != {"about"}:
            raise ModelError(f"the state of an index in a server is 'about', got {sorted(state)}")
        about = json.loads(state["about"].numpy().tobytes())
        make: Callable[..., Self] = cls
        index = make(similarity, **about["settings"])
        index.place = None if about["place"] is None else Place(**about["place"])
        return index

    def _take(self, answer: Found, rows: Rows, found: Found, k: int) -> None:
        """Merge what was found for the interests of some queries, and store their k best items."""
        each = len(rows), -1
        held = Found(found.ids.reshape(each), found.scores.reshape(each), found.keys.reshape(each))
        if len(found.ids) > len(rows):  # Several interests: keep the best score of each item.
            held = in_order(held, np.lexsort((-held.scores, held.ids), axis=-1))
            again = np.zeros(held.ids.shape, dtype=bool)
            again[:, 1:] = held.ids[:, 1:] == held.ids[:, :-1]
            held.ids[again], held.scores[again] = -1, -np.inf
        order = np.lexsort((held.ids, held.keys, -held.scores), axis=-1)
        ids, scores, _ = in_order(held, order)
        if ids.shape[1] > k:
            self.cut_ties += int(((ids[:, k] >= 0) & (scores[:, k - 1] == scores[:, k])).sum())
        width = min(k, ids.shape[1])
        answer.ids[rows, :width], answer.scores[rows, :width] = ids[:, :width], scores[:, :width]

    @contextmanager
    def _asking(self, *, anyway: bool = False) -> Iterator[None]:
        """Turn every failure into an IndexServerError that names the server.

        anyway: contact the server even if it failed in the last QUIET seconds.
        A request that timed out does not count as a failure of the server, so that one slow query
        does not make other queries fail.
        """
        if not anyway and monotonic() < self._quiet_until:
            raise IndexServerError(self._fault)
        try:
            yield
        except ShortlistError as error:
            if isinstance(error, IndexServerError):
                self._fall_quiet(str(error))
            raise
        except self._failures() as error:
            fault = " ".join(str(error).split())
            message = f"the index server at {self.address or 'a temporary file'} gave no answer"
            message = f"{message}: {fault:.300}"
            if not isinstance(error, self._slow()):
                self._fall_quiet(message)
            raise IndexServerError(message) from error

    def _fall_quiet(self, fault: str) -> None:
        self._fault, self._quiet_until = fault, monotonic() + QUIET
        logger.warning("%s; it is not asked for %g s", fault, QUIET)


def _hits(answer: Found) -> Hits:
    scores = answer.scores + np.float32(0)  # -0 is 0
    return Hits(torch.from_numpy(answer.ids), torch.from_numpy(scores))


def in_order(found: Found, order: Rows) -> Found:
    """Return the found items, with each row reordered."""
    return Found(
        np.take_along_axis(found.ids, order, axis=1),
        np.take_along_axis(found.scores, order, axis=1),
        np.take_along_axis(found.keys, order, axis=1),
    )


def _lists(exclude: tuple[Tensor, Tensor] | None, rows: int) -> list[Rows]:
    """Return the distinct excluded ids of each query."""
    if exclude is None:
        return [NOTHING] * rows
    ids, offsets = exclude[0].numpy(), exclude[1].tolist()
    return [np.unique(ids[offsets[row] : offsets[row + 1]]) for row in range(rows)]
