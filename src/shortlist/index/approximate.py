"""What does an approximate index need around its library to keep what every index promises?"""

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

CANDIDATES_AT_A_TIME = 2_000_000  # 16 MB as slots, about 100 MB while they are ranked.
MOST_REMEMBERED = 4096  # Numbers of answers whose fetch is not worked out again.


class Kept(NamedTuple):
    """The items a filter keeps: as columns, rising; as a bool for each slot; their share of all."""

    columns: Rows
    slots: NDArray[np.bool_]
    share: float


class ApproximateIndex(ABC):
    """A library finds candidates; this class keeps the promises of `VectorIndex` around it.

    The float32 vectors stay in an `ExactIndex` beside the library's own, compressed ones. From it
    come the scores (each candidate is scored again, so they are those of `similarity.score`), the
    order of equal scores, and the whole answer where a scan is cheaper than the library or the
    library came back with fewer than k items: few items allowed, long lists to exclude, k near N.
    How a query is answered depends on it alone, never on the other queries of its batch.

    A subclass brings the library in five hooks. It numbers vectors by slot, in the order they came;
    removed items keep their slot until `most_removed` of them are, then everything is built anew.

    Vectors and queries are on the CPU. `add`, `remove` and `adjust` must not run beside a search.
    """

    is_exact: ClassVar[bool] = False
    search_settings: ClassVar[tuple[str, ...]] = ()  # Those that `adjust` can change.
    grid: ClassVar[Choices] = {}  # What a search for the cheapest settings tries, in rising order.
    most_removed: ClassVar[float] = 0.25  # Past this share of removed items, all is built anew.

    def __init__(self, similarity: str, *, refine: float, **own: Setting) -> None:
        """Check the settings of the subclass, its own parameters, and forget all but refine."""
        declared = settings_of(type(self)).model_fields
        check_settings(type(self), own | ({"refine": refine} if "refine" in declared else {}))
        self._exact = ExactIndex(similarity)
        self.similarity = similarity
        self.refine = refine
        self._slots: Rows = np.empty(0, dtype=np.int64)  # The id in each slot, -1 once removed.
        self._columns: Rows | None = None  # The column of each slot; None where they are the same.
        self._take_contents()

    def settings(self) -> dict[str, Setting]:
        """The keyword arguments that make an index like this one."""
        return {name: getattr(self, name) for name in settings_of(type(self)).model_fields}

    @abstractmethod
    def _fit(self, vectors: Floats) -> None:
        """Start over with vectors [N, D] in slots 0 to N - 1."""

    @abstractmethod
    def _extend(self, vectors: Floats) -> bool:
        """Put vectors [N, D] in the next slots, or return False to have all built anew."""

    @abstractmethod
    def _find(self, points: Floats, fetch: int, kept: Kept | None) -> Rows:
        """Slots [P, fetch] of the vectors nearest to points [P, D], -1 where there are no more."""

    @abstractmethod
    def _scanned_meanwhile(self, fetch: int, share: float) -> float:
        """How many vectors an exact scan of one query reads in the time `_find` takes for it."""

    @abstractmethod
    def _dump(self) -> NDArray[np.uint8]:
        """The library's index as bytes."""

    @abstractmethod
    def _restore(self, dumped: NDArray[np.uint8], slots: int, width: int) -> None:
        """Take `_dump`'s bytes back; ModelError unless they hold that many vectors so wide."""

    def __len__(self) -> int:
        return len(self._exact)

    def adjust(self, **changes: Setting) -> Self:
        """Change settings that act when searching, without building; refine is always one."""
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
        """Replace the contents: ids [N] int64 >= 0, vectors [N, D] float32, tie_keys [N] int64.

        Equal scores go by tie key, smaller first, then by id; None takes a fixed hash of the id.
        Raises DataError for ids, and ModelError for vectors, that cannot be searched.
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
        """Take out the items with these ids; DataError if one is not in the index."""
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
        """Return about the k best items of each query; min(k, matching items) are always found.

        queries: [B, D], or [B, K, D] for the best of K interests. exclude: (ids, offsets [B + 1]),
        the ids query i must not get at ids[offsets[i]:offsets[i + 1]]; unknown ids are ignored.
        allow: bool [more than the highest id], True for each id that any query may get.
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
        """The contents as named tensors: the items, the library's bytes, settings, a checksum."""
        settings = json.dumps(self.settings(), sort_keys=True).encode()
        parts = self._exact.state() | {
            "slots": torch.from_numpy(self._slots),
            "library": torch.from_numpy(self._dump() if len(self) else np.empty(0, np.uint8)),
            "settings": torch.frombuffer(bytearray(settings), dtype=torch.uint8),
        }
        return parts | {"checksum": _checksum(parts)}

    @classmethod
    def from_state(cls, similarity: str, state: dict[str, Tensor]) -> Self:
        """The index that `state` came from: it gives the same answers, bit for bit.

        ModelError if a bit of it changed: libraries crash on bytes they did not write themselves.
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
        """Build the library's index from these items, slot by column."""
        if len(exact):
            self._fit(exact.items.vectors.numpy())
        self._exact, self._slots, self._columns = exact, exact.items.ids.numpy().copy(), None
        self._take_contents()

    def _place_slots(self) -> None:
        """Note the column of each slot after the items changed."""
        columns, _ = self._exact.columns_of(torch.from_numpy(self._slots).clamp(min=0))
        placed = np.where(self._slots >= 0, columns.numpy(), -1)
        same = len(placed) == len(self) and np.array_equal(placed, np.arange(len(self)))
        self._columns = None if same else placed
        self._take_contents()

    def _take_contents(self) -> None:
        """Hold on to what every search needs of the items, as arrays; forget what hung on them."""
        self._fetches: dict[int, int] = {}  # By how many answers are needed.
        self._scans: dict[int, bool] = {}  # By how many are fetched, whether a scan is cheaper.
        self._plain: dict[int, int] = {}  # The fetch of plain searches that the library answers.
        ids, vectors, _ = self._exact.items
        columns = np.empty(0, dtype=np.int64) if self._columns is None else self._columns
        by_distance = self.similarity == "euclidean"
        self._contents = Contents(ids.numpy(), vectors.numpy(), columns, by_distance)
        self._one, self._longest_square = (1, vectors.shape[1]), self._exact.longest**2

    def _check_width(self, vectors: Tensor) -> None:
        """Refuse vectors of another width than those that were in the emptied index."""
        width = self._exact.items.vectors.shape[1]
        if width and vectors.dim() == 2 and vectors.shape[1] != width:
            raise ModelError(f"the index holds vectors of width {width}, got {vectors.shape[1]}")

    def _points(self, queries: Tensor, k: int) -> Floats:
        """The checked queries as an array [B, K, D], of length 1 under cosine."""
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
        # One pass finds what is not finite or too long, and scales.
        if not max(measure(flat, unit)[1], self._exact.longest**2) < SAFE_SQUARE:
            check_queries(queries, k, width, self._exact.longest)
        if len(unit):
            flat = unit
        return flat.reshape(shape[0], -1, width)

    def _fetch(self, k: int) -> int:
        """How many candidates to ask of the library for k answers."""
        if len(self._fetches) > MOST_REMEMBERED:
            self._fetches, self._plain = {}, {}
        wanted = k * self.refine * len(self._slots) / len(self)
        # In steps of a quarter octave, so that queries with lists to exclude share calls.
        step = max(16, 1 << max(int(wanted).bit_length() - 3, 0))
        self._fetches[k] = min(-(-int(wanted + 1) // step) * step, len(self._slots))
        return self._fetches[k]

    def _prefers_scan(self, fetch: int, kept: Kept | None) -> bool:
        """Whether to compare with every allowed item rather than to ask the library."""
        if kept is not None:
            share = kept.share
            return share == 0 or share * len(self) <= self._scanned_meanwhile(fetch, share)
        scans = self._scans.get(fetch)
        if scans is None:
            scans = self._scans[fetch] = len(self) <= self._scanned_meanwhile(fetch, 1.0)
        return scans

    def _kept(self, allow: Tensor) -> Kept:
        """What `allow` keeps."""
        allowed = self._exact.allowed(allow).numpy()
        columns = np.flatnonzero(allowed)
        slots = allowed
        if self._columns is not None:
            slots = allowed[self._columns] & (self._columns >= 0)
        return Kept(columns, slots, len(columns) / len(allowed))

    def _search_one(self, queries: Tensor, k: int) -> Hits | None:
        """`search` of one plain query [1, D] by the library; None where that is not all there is.

        It gives what the long way gives, without what that asks of batches, filters and interests:
        beside a search of fifty microseconds each of its steps is seen.
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
        """Answer together the queries that fetch alike, a limited number at a time."""
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
        """Ids [B, k] and scores of points [B, K, D], by the library where it can be had cheaper."""
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
        """`_best` by comparing with every item that is kept."""
        columns = None if kept is None else kept.columns
        ids, scores, _ = best_of_columns(self._contents, points, columns, seen, k)
        return ids, scores


def raised(vectors: Floats, reach: float) -> Floats:
    """Give each vector [N, D] one more number, √(reach - |t|²): [N, D + 1], all of one length.

    The nearest of them to (q, 0) is the item with the highest dot product (Bachrach et al. 2014).
    reach: at least the longest vector's square.
    """
    squares = np.einsum("nd,nd->n", vectors, vectors)
    height = np.sqrt(np.maximum(reach - squares, 0))
    placed: Floats = np.concatenate([vectors, height[:, None]], axis=1, dtype=np.float32)
    return placed


def _check_on_cpu(vectors: Tensor) -> None:
    if vectors.device.type != "cpu":
        raise ModelError(f"vectors must be on the CPU, got {vectors.device}")


def _lists_of(seen: Seen, rows: Rows) -> Seen:
    """The lists of some of the queries."""
    if len(rows) == len(seen.starts) - 1:
        return seen
    begin, lengths = seen.starts[rows], np.diff(seen.starts)[rows]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(starts[-1]) + np.repeat(begin - starts[:-1], lengths)
    return Seen(seen.ids[places], starts)


def _checksum(parts: dict[str, Tensor]) -> Tensor:
    """SHA-256 over names, shapes and contents, uint8 [32]."""
    digest = hashlib.sha256()
    for name in sorted(parts):
        part = parts[name].contiguous()
        digest.update(f"{name} {part.dtype} {list(part.shape)}\n".encode())
        digest.update(part.numpy().data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
