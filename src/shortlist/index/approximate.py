"""How does an approximate library become an index that keeps the contract of VectorIndex?"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.errors import ModelError, QueryError, suggest
from shortlist.index.base import Hits
from shortlist.index.candidates import (
    SAFE_SQUARE,
    Contents,
    Seen,
    best_of_columns,
    best_of_slots,
    measure,
    seen_of,
)
from shortlist.index.checks import Items, check_queries
from shortlist.index.exact import ExactIndex
from shortlist.index.pairs import Floats, Rows
from shortlist.index.settings import Choices, check_settings, late_settings, settings_of

Setting = int | float | str | None

CANDIDATES_AT_A_TIME = 2_000_000  # Most candidates in a block: 16 MB of slots, 100 MB to rank.
MOST_REMEMBERED = 4096  # Most values of k whose number of candidates is cached.


class Kept(NamedTuple):
    """The items that a filter keeps.

    columns: their columns in the exact index, int64, ascending.
    slots: for each slot of the library, whether its item is kept.
    share: their share of all items, from 0 to 1.
    """

    columns: Rows
    slots: NDArray[np.bool_]
    share: float


class ApproximateIndex(ABC):
    """Base of the indexes in which a library finds candidates and this class ranks them.

    The float32 vectors are kept in an `ExactIndex` beside the library's compressed ones. Each
    candidate is scored again from them, so scores are those of `similarity.score`, and equal scores
    have the order of the tie keys. A query is answered by an exact scan instead if a scan is
    cheaper, or if the library returns fewer than k items: with few allowed items, long lists to
    exclude, or k near N. An answer depends on its query alone, not on the rest of the batch.

    A subclass implements `_fit`, `_extend`, `_find`, `_scanned_meanwhile`, `_dump` and `_restore`.
    The library numbers vectors by slot, in the order of insertion. A removed item keeps its slot
    until the share of removed items exceeds `most_removed`; then the library's index is rebuilt.

    Vectors and queries must be on the CPU. `add`, `remove` and `adjust` are not safe during a
    search in another thread.
    """

    is_exact: ClassVar[bool] = False
    search_settings: ClassVar[tuple[str, ...]] = ()  # Settings that `adjust` can change.
    grid: ClassVar[Choices] = {}  # Values that tuning tries for each setting, ascending.
    most_removed: ClassVar[float] = 0.25  # Above this share of removed items, rebuild.

    def __init__(self, similarity: str, *, refine: float, **own: Setting) -> None:
        """Check the settings of the subclass; only refine is kept here, the rest by the subclass.

        similarity: "dot", "cosine" or "euclidean".
        refine: candidates to fetch and score again for each of the k items.
        own: the other settings of the subclass.
        """
        declared = settings_of(type(self)).model_fields
        check_settings(type(self), own | ({"refine": refine} if "refine" in declared else {}))
        self._exact = ExactIndex(similarity)
        self.similarity = similarity
        self.refine = refine
        self._slots: Rows = np.empty(0, dtype=np.int64)  # The id in each slot, -1 if removed.
        self._columns: Rows | None = None  # The column of each slot; None: slots are columns.
        self._take_contents()

    def settings(self) -> dict[str, Setting]:
        """Return the keyword arguments that construct an index with these settings."""
        return {name: getattr(self, name) for name in settings_of(type(self)).model_fields}

    @abstractmethod
    def _fit(self, vectors: Floats) -> None:
        """Replace the library's index by one of vectors [N, D] in slots 0 to N - 1."""

    @abstractmethod
    def _extend(self, vectors: Floats) -> bool:
        """Add vectors [N, D] in the next slots; return False if a rebuild is needed instead."""

    @abstractmethod
    def _find(self, points: Floats, fetch: int, kept: Kept | None) -> Rows:
        """Return the slots of the vectors nearest to points [P, D], filled up with -1.

        fetch: number of candidates wanted per point.
        kept: the filter, or None.
        The result is int64 [P, any]; a library without filters returns more than fetch columns.
        """

    @abstractmethod
    def _scanned_meanwhile(self, fetch: int, share: float) -> float:
        """Return the cost of `_find` for one query, as vectors an exact scan reads in that time.

        share: share of the items that a filter keeps, 1 without a filter.
        """

    @abstractmethod
    def _dump(self) -> NDArray[np.uint8]:
        """Return the library's index as bytes, uint8 [any]."""

    @abstractmethod
    def _restore(self, dumped: NDArray[np.uint8], slots: int, width: int) -> None:
        """Load the bytes of `_dump`. Errors: ModelError unless they hold `slots` x `width`."""

    def __len__(self) -> int:
        return len(self._exact)

    def adjust(self, **changes: Setting) -> Self:
        """Change settings that apply at search time: `search_settings` and refine. No rebuild.

        Errors: ModelError for another setting and for a value out of range.
        """
        known = late_settings(type(self))
        for name in changes:
            if name not in known:
                raise ModelError(f"'{name}' cannot be changed now.{suggest(name, known)}")
        make: Callable[..., Self] = type(self)
        checked = make(self.similarity, **(self.settings() | changes))
        for name in changes:
            setattr(self, name, getattr(checked, name))
        self._take_contents()
        return self

    def build(self, ids: Tensor, vectors: Tensor, tie_keys: Tensor | None = None) -> Self:
        """Replace the contents.

        ids: int64 [N], >= 0 and distinct.
        vectors: float32 [N, D], on the CPU.
        tie_keys: int64 [N]. Equal scores are ordered by tie key, smaller first, then by id. None
        takes a fixed hash of the id.
        Errors: DataError for ids or tie keys, ModelError for vectors that cannot be searched.
        """
        _check_on_cpu(vectors)
        exact = ExactIndex(self.similarity).build(ids, vectors, tie_keys)
        self._start_over(exact)
        return self

    def add(self, ids: Tensor, vectors: Tensor, tie_keys: Tensor | None = None) -> Self:
        """Add items whose ids are not in the index; the arguments are those of `build`."""
        if not len(self):
            self._check_width(vectors)
            return self.build(ids, vectors, tie_keys)
        _check_on_cpu(vectors)
        self._exact.add(ids, vectors, tie_keys)
        new = self._exact.items.vectors[self._exact.columns_of(ids)[0]]
        if self._extend(new.numpy()):
            self._slots = np.concatenate([self._slots, ids.numpy()])
            self._place_slots()
        else:
            self._start_over(self._exact)
        return self

    def remove(self, ids: Tensor) -> Self:
        """Remove the items with these ids. Errors: DataError if one is not in the index."""
        self._exact.remove(ids)
        if len(self) < (1 - self.most_removed) * len(self._slots):
            self._start_over(self._exact)
            return self
        self._slots = np.where(np.isin(self._slots, ids.numpy()), -1, self._slots)
        self._place_slots()
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

        The arguments are those of `VectorIndex.search`. Errors: QueryError.
        """
        if exclude is None and allow is None and k in self._plain:
            answer = self._search_one(queries, k)
            if answer is not None:
                return answer
        points = self._points(queries, k)
        if not len(self) or not k or not len(points):
            return self._exact.search(queries, k, exclude=exclude, allow=allow)
        kept = None if allow is None else self._kept(allow)
        seen = None if exclude is None else seen_of(exclude, len(points))
        if seen is None or len(points) == 1:
            need = k if seen is None else k + len(seen.ids)
            fetch = self._fetches.get(need) or self._fetch(need)
            if len(points) * fetch * points.shape[1] <= CANDIDATES_AT_A_TIME:
                if seen is None and kept is None and not self._prefers_scan(fetch, None):
                    self._plain[k] = fetch
                ids, scores = self._best(points, k, fetch, kept, seen)
                return Hits(torch.from_numpy(ids), torch.from_numpy(scores))
        return self._search_in_runs(points, k, kept, seen)

    def state(self) -> dict[str, Tensor]:
        """Return named tensors: the items, the library's bytes, the settings and a checksum."""
        settings = json.dumps(self.settings(), sort_keys=True).encode()
        parts = self._exact.state() | {
            "slots": torch.from_numpy(self._slots),
            "library": torch.from_numpy(self._dump() if len(self) else np.empty(0, np.uint8)),
            "settings": torch.frombuffer(bytearray(settings), dtype=torch.uint8),
        }
        return parts | {"checksum": _checksum(parts)}

    @classmethod
    def from_state(cls, similarity: str, state: dict[str, Tensor]) -> Self:
        """Return the index that `state` describes. Its answers are bit-equal to the original's.

        Errors: ModelError if the state is damaged. The checksum is compared first, because
        libraries can crash on damaged bytes.
        """
        parts = dict(state)
        wanted = {*Items._fields, "slots", "library", "settings", "checksum"}
        if set(parts) != wanted:
            raise ModelError(f"the state of an index is {sorted(wanted)}, got {sorted(parts)}")
        if not torch.equal(parts.pop("checksum"), _checksum(parts)):
            raise ModelError("the state of the index is damaged: its checksum does not fit")
        settings = json.loads(parts.pop("settings").numpy().tobytes())
        slots, dumped = parts.pop("slots").numpy(), parts.pop("library").numpy()
        index = cls(similarity, **settings)
        index._exact = ExactIndex.from_state(similarity, parts)
        if slots.dtype != np.int64 or not np.array_equal(
            np.sort(slots[slots >= 0]), np.sort(parts["ids"].numpy())
        ):
            raise ModelError("the slots of the index hold other items than it has")
        index._slots = slots
        if len(index._exact):
            index._restore(dumped, len(slots), index._exact.items.vectors.shape[1])
            index._place_slots()
        return index

    def _start_over(self, exact: ExactIndex) -> None:
        """Rebuild the library's index from these items; slots are columns again."""
        if len(exact):
            self._fit(exact.items.vectors.numpy())
        self._exact, self._slots, self._columns = exact, exact.items.ids.numpy().copy(), None
        self._take_contents()

    def _place_slots(self) -> None:
        """Recompute the column of each slot after the items changed."""
        columns, _ = self._exact.columns_of(torch.from_numpy(self._slots).clamp(min=0))
        placed = np.where(self._slots >= 0, columns.numpy(), -1)
        same = len(placed) == len(self) and np.array_equal(placed, np.arange(len(self)))
        self._columns = None if same else placed
        self._take_contents()

    def _take_contents(self) -> None:
        """Cache the items as arrays for searches, and clear the caches that depended on them."""
        self._fetches: dict[int, int] = {}  # Answers needed -> candidates to fetch.
        self._scans: dict[int, bool] = {}  # Candidates to fetch -> whether a scan is cheaper.
        self._plain: dict[int, int] = {}  # k -> candidates, for unfiltered library searches.
        ids, vectors, _ = self._exact.items
        columns = np.empty(0, dtype=np.int64) if self._columns is None else self._columns
        by_distance = self.similarity == "euclidean"
        self._contents = Contents(ids.numpy(), vectors.numpy(), columns, by_distance)
        self._one, self._longest_square = (1, vectors.shape[1]), self._exact.longest**2

    def _check_width(self, vectors: Tensor) -> None:
        """Raise ModelError for a width other than that of the items before all were removed."""
        width = self._exact.items.vectors.shape[1]
        if width and vectors.dim() == 2 and vectors.shape[1] != width:
            raise ModelError(f"the index holds vectors of width {width}, got {vectors.shape[1]}")

    def _points(self, queries: Tensor, k: int) -> Floats:
        """Check the queries and return them as an array [B, K, D], normalised under cosine."""
        width = self._contents.vectors.shape[1]
        try:
            points: Floats = (queries.detach() if queries.requires_grad else queries).numpy()
        except TypeError as error:
            raise QueryError(f"queries must be on the CPU, got {queries.device}") from error
        shape = points.shape
        single = points.dtype == np.float32 and len(shape) in {2, 3}
        if not single or shape[-1] != width or not points.size or k < 0:
            check_queries(queries, k, width, self._exact.longest)
        if not points.size:
            return points
        flat = np.ascontiguousarray(points).reshape(-1, width)
        unit = np.empty_like(flat) if self.similarity == "cosine" else flat[:0]
        # One pass finds non-finite and too long queries, and normalises.
        if not max(measure(flat, unit)[1], self._exact.longest**2) < SAFE_SQUARE:
            check_queries(queries, k, width, self._exact.longest)
        if len(unit):
            flat = unit
        return flat.reshape(shape[0], -1, width)

    def _fetch(self, k: int) -> int:
        """Return how many candidates the library is asked for to get k answers."""
        if len(self._fetches) > MOST_REMEMBERED:
            self._fetches, self._plain = {}, {}
        wanted = k * self.refine * len(self._slots) / len(self)
        # Rounded up to few distinct values, so that queries with exclusions share library calls.
        step = max(16, 1 << max(int(wanted).bit_length() - 3, 0))
        self._fetches[k] = min(-(-int(wanted + 1) // step) * step, len(self._slots))
        return self._fetches[k]

    def _prefers_scan(self, fetch: int, kept: Kept | None) -> bool:
        """Return whether an exact scan of the allowed items is cheaper than the library."""
        if kept is not None:
            share = kept.share
            return share == 0 or share * len(self) <= self._scanned_meanwhile(fetch, share)
        scans = self._scans.get(fetch)
        if scans is None:
            scans = self._scans[fetch] = len(self) <= self._scanned_meanwhile(fetch, 1.0)
        return scans

    def _kept(self, allow: Tensor) -> Kept:
        """Return the items that `allow` keeps."""
        allowed = self._exact.allowed(allow).numpy()
        columns = np.flatnonzero(allowed)
        slots = allowed
        if self._columns is not None:
            slots = allowed[self._columns] & (self._columns >= 0)
        return Kept(columns, slots, len(columns) / len(allowed))

    def _search_one(self, queries: Tensor, k: int) -> Hits | None:
        """Answer one query [1, D] without filters by the library; None if `search` must do it.

        It gives the same answer as the general path and skips the handling of batches, filters and
        interests, whose cost is noticeable beside a library search of 50 microseconds.
        """
        if queries.dtype != torch.float32 or queries.is_cuda or queries.requires_grad:
            return None
        point: Floats = queries.numpy()
        if point.shape != self._one or not point.flags.c_contiguous:
            return None
        unit = np.empty_like(point) if self.similarity == "cosine" else point[:0]
        if not max(measure(point, unit)[1], self._longest_square) < SAFE_SQUARE:
            return None
        if len(unit):
            point = unit
        slots = self._find(point, self._plain[k], None)
        ids, scores, short = best_of_slots(self._contents, point[None], slots, None, k)
        return None if short else Hits(torch.from_numpy(ids), torch.from_numpy(scores))

    def _search_in_runs(self, points: Floats, k: int, kept: Kept | None, seen: Seen | None) -> Hits:
        """Answer queries with the same number of candidates together, in blocks."""
        count = len(points)
        needs = np.full(count, k)
        if seen is not None:
            needs += np.diff(seen.starts)
        needed, group = np.unique(needs, return_inverse=True)
        fetches = np.array([self._fetch(int(need)) for need in needed])[group]
        ids, scores = np.empty((count, k), np.int64), np.empty((count, k), np.float32)
        for fetch in np.unique(fetches).tolist():
            alike = np.flatnonzero(fetches == fetch)
            step = max(CANDIDATES_AT_A_TIME // (fetch * points.shape[1]), 1)
            for start in range(0, len(alike), step):
                rows = alike[start : start + step]
                theirs = None if seen is None else _lists_of(seen, rows)
                ids[rows], scores[rows] = self._best(points[rows], k, fetch, kept, theirs)
        return Hits(torch.from_numpy(ids), torch.from_numpy(scores))

    def _best(
        self, points: Floats, k: int, fetch: int, kept: Kept | None, seen: Seen | None
    ) -> tuple[Rows, Floats]:
        """Return ids and scores, [B, k] each, for points [B, K, D], by the cheaper of two ways.

        fetch: candidates per point that the library is asked for.
        kept: the filter, or None.
        seen: the excluded ids of each query, or None.
        """
        if self._prefers_scan(fetch, kept):
            return self._scan(points, k, kept, seen)
        slots = self._find(points.reshape(-1, points.shape[2]), fetch, kept)
        ids, scores, short = best_of_slots(self._contents, points, slots, seen, k)
        if short:
            rows = np.flatnonzero(ids[:, -1] < 0)
            theirs = None if seen is None else _lists_of(seen, rows)
            ids[rows], scores[rows] = self._scan(points[rows], k, kept, theirs)
        return ids, scores

    def _scan(
        self, points: Floats, k: int, kept: Kept | None, seen: Seen | None
    ) -> tuple[Rows, Floats]:
        """Do what `_best` does by an exact scan of all kept items."""
        columns = None if kept is None else kept.columns
        ids, scores, _ = best_of_columns(self._contents, points, columns, seen, k)
        return ids, scores


def raised(vectors: Floats, reach: float) -> Floats:
    """Append √(reach - |t|²) to each vector [N, D], so that all have one length: [N, D + 1].

    The euclidean neighbour nearest to (q, 0) is then the item with the highest dot product with q
    (Bachrach et al. 2014).

    reach: at least the squared length of the longest vector.
    """
    squares = np.einsum("nd,nd->n", vectors, vectors)
    height = np.sqrt(np.maximum(reach - squares, 0))
    placed: Floats = np.concatenate([vectors, height[:, None]], axis=1, dtype=np.float32)
    return placed


def _check_on_cpu(vectors: Tensor) -> None:
    if vectors.device.type != "cpu":
        raise ModelError(f"vectors must be on the CPU, got {vectors.device}")


def _lists_of(seen: Seen, rows: Rows) -> Seen:
    """Return the exclusion lists of these queries."""
    if len(rows) == len(seen.starts) - 1:
        return seen
    begin, lengths = seen.starts[rows], np.diff(seen.starts)[rows]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(starts[-1]) + np.repeat(begin - starts[:-1], lengths)
    return Seen(seen.ids[places], starts)


def _checksum(parts: dict[str, Tensor]) -> Tensor:
    """Return the SHA-256 of names, dtypes, shapes and contents, uint8 [32]."""
    digest = hashlib.sha256()
    for name in sorted(parts):
        part = parts[name].contiguous()
        digest.update(f"{name} {part.dtype} {list(part.shape)}\n".encode())
        digest.update(part.numpy().data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
