"""What does an approximate index need around its library to keep what every index promises?"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.errors import ModelError, QueryError, suggest
from shortlist.index.base import Hits
from shortlist.index.checks import Items, check_exclude, check_queries
from shortlist.index.exact import ExactIndex
from shortlist.similarity import normalize

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Setting = int | float | str | None

CANDIDATES_AT_A_TIME = 2_000_000  # 16 MB as slots, about 100 MB while they are ranked.
SHORT_SQUARE = 1e-30  # Below it float32 squares lose digits.
SAFE_SQUARE = 7e37  # Below this squared length no score of two vectors overflows float32.


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
    most_removed: ClassVar[float] = 0.25  # Past this share of removed items, all is built anew.

    def __init__(self, similarity: str, refine: float) -> None:
        self._exact = ExactIndex(similarity)
        self.similarity = similarity
        self.refine = check_range("refine", refine, 1, 1000)
        self._slots: Rows = np.empty(0, dtype=np.int64)  # The id in each slot, -1 once removed.
        self._columns: Rows | None = None  # The column of each slot; None where they are the same.

    @abstractmethod
    def settings(self) -> dict[str, Setting]:
        """The keyword arguments that make an index like this one."""

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
        for name in changes:
            if name not in (*self.search_settings, "refine"):
                known = (*self.search_settings, "refine")
                raise ModelError(f"'{name}' cannot be changed now.{suggest(name, known)}")
        make: Callable[..., Self] = type(self)
        checked = make(self.similarity, **(self.settings() | changes))
        for name in changes:
            setattr(self, name, getattr(checked, name))
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
        points = self._points(queries, k)
        if not len(self) or not k or not len(points):
            return self._exact.search(queries, k, exclude=exclude, allow=allow)
        kept = None if allow is None else self._kept(allow)
        if exclude is not None:
            check_exclude(exclude, len(points))
            return self._search_in_runs(points, k, kept, exclude)
        fetch = self._fetch(k)
        if len(points) * fetch * points.shape[1] > CANDIDATES_AT_A_TIME:
            return self._search_in_runs(points, k, kept, None)
        if self._prefers_scan(fetch, kept):
            return self._hits(*self._scan(points, k, kept, None))
        columns, far = self._nearest(points, k, fetch, kept, None)
        if not _complete(far):
            short = np.flatnonzero(far[:, -1] == np.inf)
            columns[short], far[short] = self._scan(points[short], k, kept, None)
        return self._hits(columns, far)

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

    def _place_slots(self) -> None:
        """Note the column of each slot after the items changed."""
        columns, _ = self._exact.columns_of(torch.from_numpy(self._slots).clamp(min=0))
        placed = np.where(self._slots >= 0, columns.numpy(), -1)
        same = len(placed) == len(self) and np.array_equal(placed, np.arange(len(self)))
        self._columns = None if same else placed

    def _check_width(self, vectors: Tensor) -> None:
        """Refuse vectors of another width than those that were in the emptied index."""
        width = self._exact.items.vectors.shape[1]
        if width and vectors.dim() == 2 and vectors.shape[1] != width:
            raise ModelError(f"the index holds vectors of width {width}, got {vectors.shape[1]}")

    def _points(self, queries: Tensor, k: int) -> Floats:
        """The checked queries as an array [B, K, D], of length 1 under cosine."""
        width = self._exact.items.vectors.shape[1]
        try:
            points: Floats = (queries.detach() if queries.requires_grad else queries).numpy()
        except TypeError as error:
            raise QueryError(f"queries must be on the CPU, got {queries.device}") from error
        single = points.dtype == np.float32 and points.ndim in {2, 3}
        if not single or points.shape[-1] != width or not points.size or k < 0:
            check_queries(queries, k, width, self._exact.longest)
        if not points.size:
            return points
        points = np.ascontiguousarray(points)
        if points.ndim == 2:
            points = points[:, None]
        # One pass finds what is not finite, too long or too short, and gives the lengths.
        squares = np.einsum("bkd,bkd->bk", points, points)
        shortest = longest = squares.item(0)
        if squares.size > 1:
            shortest, longest = squares.min(), squares.max()
        if not (longest < SAFE_SQUARE and self._exact.longest**2 < SAFE_SQUARE):
            check_queries(queries, k, width, self._exact.longest)
        if self.similarity != "cosine":
            return points
        if shortest < SHORT_SQUARE:
            return normalize(torch.from_numpy(points)).numpy()
        scaled: Floats = points / np.sqrt(squares)[:, :, None]
        return scaled

    def _fetch(self, k: int) -> int:
        """How many candidates to ask of the library for k answers."""
        wanted = k * self.refine * len(self._slots) / len(self)
        # In steps of a quarter octave, so that queries with lists to exclude share calls.
        step = max(16, 1 << max(int(wanted).bit_length() - 3, 0))
        return min(-(-int(wanted + 1) // step) * step, len(self._slots))

    def _prefers_scan(self, fetch: int, kept: Kept | None) -> bool:
        """Whether to compare with every allowed item rather than to ask the library."""
        share = 1.0 if kept is None else kept.share
        return share == 0 or share * len(self) <= self._scanned_meanwhile(fetch, share)

    def _kept(self, allow: Tensor) -> Kept:
        """What `allow` keeps."""
        allowed = self._exact.allowed(allow).numpy()
        columns = np.flatnonzero(allowed)
        slots = allowed
        if self._columns is not None:
            slots = allowed[self._columns] & (self._columns >= 0)
        return Kept(columns, slots, len(columns) / len(allowed))

    def _search_in_runs(
        self, points: Floats, k: int, kept: Kept | None, exclude: tuple[Tensor, Tensor] | None
    ) -> Hits:
        """Answer together the queries that fetch alike, a limited number at a time."""
        count = len(points)
        needs = np.full(count, k)
        if exclude is not None:
            needs += exclude[1].diff().numpy()
        needed, group = np.unique(needs, return_inverse=True)
        fetches = np.array([self._fetch(int(need)) for need in needed])[group]
        columns, far = np.empty((count, k), np.int64), np.empty((count, k), np.float32)
        for fetch in np.unique(fetches).tolist():
            alike = np.flatnonzero(fetches == fetch)
            step = max(CANDIDATES_AT_A_TIME // (fetch * points.shape[1]), 1)
            for start in range(0, len(alike), step):
                rows = alike[start : start + step]
                scanned = rows
                if not self._prefers_scan(fetch, kept):
                    out = None if exclude is None else self._excluded(exclude, rows)
                    columns[rows], far[rows] = self._nearest(points[rows], k, fetch, kept, out)
                    scanned = rows[far[rows, -1] == np.inf]
                if len(scanned):
                    out = None if exclude is None else self._excluded(exclude, scanned)
                    columns[scanned], far[scanned] = self._scan(points[scanned], k, kept, out)
        return self._hits(columns, far)

    def _scan(
        self, points: Floats, k: int, kept: Kept | None, excluded: Rows | None
    ) -> tuple[Rows, Floats]:
        """`_nearest` by comparing with every item that is kept."""
        shape = (len(points), k)
        columns, far = np.zeros(shape, np.int64), np.full(shape, np.inf, np.float32)
        every = np.arange(len(self)) if kept is None else kept.columns
        bounds = np.arange(len(points) + 1) * len(self)
        ends = np.zeros_like(bounds) if excluded is None else np.searchsorted(excluded, bounds)
        for row in range(len(points)) if len(every) else ():
            distances = self._distances(points[row : row + 1], every[None])[0]
            if excluded is not None:
                out = excluded[ends[row] : ends[row + 1]] - bounds[row]
                at = np.searchsorted(every, out).clip(max=len(every) - 1)
                distances[at[every[at] == out]] = np.inf
            near = np.arange(len(every))
            if len(every) > k:
                near = np.flatnonzero(distances <= np.partition(distances, k - 1)[k - 1])
            found = _nearest_first(every[None, near], distances[None, near], k)
            columns[row, : len(near)], far[row, : len(near)] = found[0][0], found[1][0]
        return columns, far

    def _excluded(self, exclude: tuple[Tensor, Tensor], rows: Rows) -> Rows:
        """The cells that some of the queries must not get: place in `rows` * N + column, sorted."""
        values, offsets = _lists_of(exclude, rows)
        owners = torch.repeat_interleave(offsets.diff())
        columns, known = self._exact.columns_of(values)
        cells = (owners * len(self) + columns)[known]
        return np.sort(cells.numpy())

    def _nearest(
        self,
        points: Floats,
        k: int,
        fetch: int,
        kept: Kept | None,
        excluded: Rows | None,
    ) -> tuple[Rows, Floats]:
        """Columns [B, k] and how far they are, in the order of the index; inf is no result."""
        rows, interests, width = points.shape
        slots = self._find(points.reshape(-1, width), fetch, kept)
        columns = slots
        if self._columns is not None:
            columns = np.where(slots >= 0, self._columns[slots], -1)
        if interests > 1:
            columns = np.sort(columns.reshape(rows, -1), axis=1)
            columns[:, 1:][columns[:, 1:] == columns[:, :-1]] = -1
        if excluded is not None and len(excluded):
            columns = np.sort(columns, axis=1)
            cells = columns + np.arange(rows)[:, None] * len(self)
            at = np.searchsorted(excluded, cells).clip(max=len(excluded) - 1)
            columns[excluded[at] == cells] = -1
        far = self._distances(points, columns)
        if columns.shape[1] < k:
            missing = ((0, 0), (0, k - columns.shape[1]))
            columns = np.pad(columns, missing, constant_values=-1)
            far = np.pad(far, missing, constant_values=np.inf)
        return _nearest_first(columns, far, k)

    def _distances(self, points: Floats, columns: Rows) -> Floats:
        """Minus the score of each column [B, F] for the best interest of points [B, K, D]."""
        interests = points.shape[1]
        if interests > 1:
            columns = np.repeat(columns[:, None], interests, axis=1)
        far = self._compare(points.reshape(-1, points.shape[2]), columns)
        if interests > 1:
            far = far.reshape(len(points), interests, -1).min(axis=1)
        return far

    def _compare(self, points: Floats, columns: Rows) -> Floats:
        """0 - the score of columns [P, F] (or [B, K, F]) for points [P, D]; inf for column -1."""
        vectors = self._exact.items.vectors.numpy()
        columns = columns.reshape(len(points), -1)
        far: Floats = np.empty(columns.shape, dtype=np.float32)
        for row, point in enumerate(points):
            near = vectors[columns[row]]
            if self.similarity == "euclidean":
                far[row] = np.einsum("fd,fd->f", near - point, near - point)
            else:
                far[row] = 0 - np.einsum("fd,d->f", near, point)
        far[columns < 0] = np.inf
        return far

    def _hits(self, columns: Rows, far: Floats) -> Hits:
        """Columns and distances as ids and scores."""
        ids = self._exact.items.ids.numpy()[columns]
        if not _complete(far):
            ids[far == np.inf] = -1
        return Hits(torch.from_numpy(ids), torch.from_numpy(-far))


def raised(vectors: Floats, reach: float) -> Floats:
    """Give each vector [N, D] one more number, √(reach - |t|²): [N, D + 1], all of one length.

    The nearest of them to (q, 0) is the item with the highest dot product (Bachrach et al. 2014).
    reach: at least the longest vector's square.
    """
    squares = np.einsum("nd,nd->n", vectors, vectors)
    height = np.sqrt(np.maximum(reach - squares, 0))
    placed: Floats = np.concatenate([vectors, height[:, None]], axis=1, dtype=np.float32)
    return placed


def check_range(name: str, value: Any, low: float, high: float) -> Any:
    """Return a setting that lies in its range; ModelError otherwise."""
    whole = isinstance(low, int) and isinstance(high, int) and name != "refine"
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise ModelError(f"{name} must be {kind} from {low} to {high}, got {value!r}")
    return value


def _check_on_cpu(vectors: Tensor) -> None:
    if vectors.device.type != "cpu":
        raise ModelError(f"vectors must be on the CPU, got {vectors.device}")


def _complete(far: Floats) -> bool:
    """Whether each row [B, k] of rising distances is of results to its end."""
    return bool((far[0, -1] if len(far) == 1 else far[:, -1].max()) < np.inf)


def _nearest_first(columns: Rows, far: Floats, k: int) -> tuple[Rows, Floats]:
    """The k nearest of each row, equal distances by column: [B, F] to [B, k].

    No distance may be -0.0, which would be a result of its own beside 0.0.
    """
    if len(far) == 1:
        order = far[0].argsort()
        near = far[0, order]
        if not (near[1:] == near[:-1]).any():
            return columns[:, order[:k]], near[None, :k]
    # Distance and column as one integer sort in one pass.
    bits = far.view(np.int32)
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64) << 32
    keys |= columns & 0x7FFFFFFF
    keys.sort(axis=1)
    keys = keys[:, :k]
    bits = (keys >> 32).astype(np.int32)
    nearest: Floats = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(np.float32)
    # A column without a result reads as the highest number: 0 keeps it usable as an index.
    found = keys & 0x7FFFFFFF
    if not _complete(nearest):
        found[nearest == np.inf] = 0
    return found, nearest


def _lists_of(exclude: tuple[Tensor, Tensor], rows: Rows) -> tuple[Tensor, Tensor]:
    """The ragged lists of some of the queries."""
    values, offsets = exclude
    if len(rows) == len(offsets) - 1:
        return exclude
    chosen = torch.from_numpy(rows)
    starts, lengths = offsets[chosen], offsets.diff()[chosen]
    ends = lengths.cumsum(0)
    places = torch.arange(int(lengths.sum())) + torch.repeat_interleave(
        starts - ends + lengths, lengths
    )
    return values[places], torch.cat([ends.new_zeros(1), ends])


def _checksum(parts: dict[str, Tensor]) -> Tensor:
    """SHA-256 over names, shapes and contents, uint8 [32]."""
    digest = hashlib.sha256()
    for name in sorted(parts):
        part = parts[name].contiguous()
        digest.update(f"{name} {part.dtype} {list(part.shape)}\n".encode())
        digest.update(part.numpy().data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
