"""The index that compares a query with every item: the truth that other indexes approximate."""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from shortlist.errors import DataError, ModelError
from shortlist.index.base import Hits, hashed
from shortlist.index.candidates import SAFE_SQUARE, measure, seen_of
from shortlist.index.checks import (
    Items,
    check_allow,
    check_exclude,
    check_items,
    check_queries,
    check_unit,
    longest,
)
from shortlist.index.scan import could_be_best
from shortlist.index.top_k import top_k
from shortlist.similarity import check_similarity, normalize, score

TILE = 8_000_000  # Scores held at a time: 32 MB, below the size from which malloc maps afresh.
TILE_COLUMNS = 131_072
# A matrix product may round an element by its place in the matrix and by the matrix's shape.
# In whole multiples of these every element is computed alike: equal vectors score equal, and
# an answer does not depend on the other queries of its batch.
ROW_STEP = 8
COLUMN_STEP = 64
ALIGNMENT = 16  # Bytes, what numpy aligns to: elsewhere a product might round otherwise.
# So few queries are cheaper one by one, each in a pass that finds the columns worth a product.
FEW_QUERIES = 4
SCANNED_ITEMS = 4096  # Below it a pass saves nothing.
GATHERED_SHARE = 0.5  # Where `allow` keeps fewer of the items, they are copied out and scanned.
GATHERED_FLOATS = 16_000_000  # 64 MB at most.


class _Pool(NamedTuple):
    """The items that a search compares with, in tie order.

    vectors: [P, D], zero rows at the end. ids: [count] int64. columns: [count] int64, where they
    stand in the index, None where they are the whole of it. refused: bool [count] to leave out.
    """

    vectors: Tensor
    ids: Tensor
    columns: Tensor | None
    refused: Tensor | None

    @property
    def size(self) -> int:
        """Items without the padding."""
        return len(self.ids)


class ExactIndex:
    """Every item against every query: matrix products in tiles, and an exact top-k.

    The default up to about a million items; benchmarks/evaluation_speed.py has its figures.
    Cosine keeps the items normalised. Queries and filters must be on the vectors' device.

    >>> index = ExactIndex("dot").build(torch.tensor([7, 3]), torch.tensor([[1.0], [2.0]]))
    >>> index.search(torch.tensor([[1.0]]), k=3)
    Hits(ids=tensor([[ 3,  7, -1]]), scores=tensor([[2., 1., -inf]]))
    """

    is_exact: ClassVar[bool] = True

    def __init__(self, similarity: str) -> None:
        check_similarity(similarity)
        self.similarity = similarity
        none = torch.empty(0, dtype=torch.int64)
        self._set(Items(none, torch.empty(0, 0), none))

    def __len__(self) -> int:
        return self._count

    def build(self, ids: Tensor, vectors: Tensor, tie_keys: Tensor | None = None) -> Self:
        """Replace the contents: ids [N] int64 >= 0, vectors [N, D] float32, tie_keys [N] int64.

        Equal scores go by tie key, smaller first, then by id; None takes a fixed hash of the id.
        Raises DataError for ids, and ModelError for vectors, that cannot be searched.
        """
        if len(ids) == 0:
            raise DataError("an index needs at least one item, got none")
        self._set(self._prepared(ids, vectors, tie_keys))
        return self

    def add(self, ids: Tensor, vectors: Tensor, tie_keys: Tensor | None = None) -> Self:
        """Add items whose ids are not in the index; the arguments are those of `build`."""
        if not self._width:
            return self.build(ids, vectors, tie_keys)
        new = self._prepared(ids, vectors, tie_keys)
        if new.vectors.shape[1] != self._width:
            raise ModelError(
                f"the index holds vectors of width {self._width}, got {new.vectors.shape[1]}"
            )
        both = zip(self.items, new, strict=True)
        self._set(Items(*(torch.cat(parts) for parts in both)))
        return self

    def remove(self, ids: Tensor) -> Self:
        """Take out the items with these ids; DataError if one is not in the index."""
        columns, known = self.columns_of(ids)
        if not known.all():
            raise DataError(f"item {int(ids[~known][0])} is not in the index")
        keep = torch.ones(len(self), dtype=torch.bool, device=ids.device)
        keep[columns] = False
        self._set(Items(*(part[keep] for part in self.items)))
        return self

    @torch.no_grad()
    def search(
        self,
        queries: Tensor,
        k: int,
        *,
        exclude: tuple[Tensor, Tensor] | None = None,
        allow: Tensor | None = None,
    ) -> Hits:
        """Return the k best items of each query; min(k, matching items) are always found.

        queries: [B, D], or [B, K, D] for the best of K interests. exclude: (ids, offsets [B + 1]),
        the ids query i must not get at ids[offsets[i]:offsets[i + 1]]; unknown ids are ignored.
        allow: bool [more than the highest id], True for each id that any query may get.
        Scores are those of `similarity.score`. Memory beyond the answer stays below 200 MB.
        """
        queries = self._checked(queries, k)
        pool = self._pool(None if allow is None or not len(self) else self.allowed(allow))
        few = queries.dim() == 2 and len(queries) <= FEW_QUERIES and queries.device.type == "cpu"
        if few and 0 < 16 * k < pool.size and pool.size >= SCANNED_ITEMS:
            return self._search_few(queries, k, exclude, pool)
        if exclude is not None:
            check_exclude(exclude, len(queries))
        ids = queries.new_full((len(queries), k), -1, dtype=torch.int64)
        scores = queries.new_full((len(queries), k), float("-inf"))
        for rows in self._blocks(queries, pool) if pool.size else ():
            cells = self._excluded(exclude, rows, pool)
            values, columns = self._search_block(queries[rows], k, cells, pool)
            scores[rows] = values
            ids[rows] = torch.where(columns >= 0, pool.ids[columns], -1)
        return Hits(ids, scores)

    def allowed(self, allow: Tensor) -> Tensor:
        """Whether each column may be found, bool [N]; QueryError if `allow` misses an id."""
        if len(self):
            check_allow(allow, int(self._sorted_ids[-1]))
        if allow.device.type == "cpu":  # Some times faster than torch.
            return torch.from_numpy(allow.numpy()[self.items.ids.numpy()])
        return allow[self.items.ids]

    def columns_of(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The column of each id, and whether it is in the index at all."""
        if not len(self):
            return torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        place = torch.searchsorted(self._sorted_ids, ids).clamp(max=len(self) - 1)
        return self._columns_by_id[place], self._sorted_ids[place] == ids

    def state(self) -> dict[str, Tensor]:
        """The contents as named tensors: ids [N], tie_keys [N] and vectors, in tie order.

        vectors: [N, D] and zero rows after it, up to a multiple of COLUMN_STEP of them, as a search
        reads them: `from_state` searches these very ones, in memory or mapped from a file.
        """
        return self.items._asdict() | {"vectors": self._padded}

    @classmethod
    def from_state(cls, similarity: str, state: dict[str, Tensor]) -> Self:
        """The index that `state` came from: it gives the same answers, bit for bit.

        The vectors are not copied, so they must not change; they may lie in a mapped file.
        """
        index = cls(similarity)
        if set(state) != set(Items._fields):
            raise ModelError(f"an exact index is {list(Items._fields)}, got {sorted(state)}")
        padded, count = state["vectors"], len(state["ids"])
        items = Items(state["ids"], padded[:count], state["tie_keys"])
        check_items(items)
        if padded[count:].any():
            raise ModelError(f"the state holds {len(padded)} vectors of {count} items")
        if similarity == "cosine":
            check_unit(items)
        index._set(items, padded)
        return index

    def _prepared(self, ids: Tensor, vectors: Tensor, tie_keys: Tensor | None) -> Items:
        """Check the arguments of `build`; normalise the vectors where cosine is asked."""
        items = Items(ids, vectors.detach(), ids if tie_keys is None else tie_keys)
        check_items(items)
        if tie_keys is None:
            items = items._replace(tie_keys=hashed(ids))
        if self.similarity != "cosine":
            return items
        items = items._replace(vectors=normalize(items.vectors))
        check_unit(items)
        return items

    def _set(self, items: Items, padded: Tensor | None = None) -> None:
        """Take the items as contents, in tie order: then the lower column wins among equals.

        padded: the vectors with zero rows after them, which are not copied if they are in order.
        """
        by_id = items.ids.sort()
        twice = by_id.values[1:][by_id.values[1:] == by_id.values[:-1]]
        if len(twice):
            raise DataError(f"item {int(twice[0])} would be in the index twice")
        order = by_id.indices[items.tie_keys[by_id.indices].argsort(stable=True)]
        self._count, self._width = items.vectors.shape
        in_order = torch.equal(order, torch.arange(len(order), device=order.device))
        given = padded is not None
        if padded is None or not (in_order and _is_searchable(padded)):
            padded = _padded_rows(items.vectors, order)
        self._padded = padded
        ids, keys = items.ids, items.tie_keys
        if not (in_order and given):
            ids, keys = ids[order], keys[order]
        self.items = Items(ids, self._padded[: self._count], keys)
        self._sorted_ids = by_id.values
        self._columns_by_id = by_id.indices if in_order else ids.argsort()
        self.longest = longest(self._padded)

    def _pool(self, allowed: Tensor | None) -> _Pool:
        """The columns to compare with: all, or a copy of the allowed ones where they are few."""
        everything = _Pool(self._padded, self.items.ids, None, None)
        if allowed is None:
            return everything
        count = int(allowed.sum())
        if count > GATHERED_SHARE * len(self) or count * self._width > GATHERED_FLOATS:
            return everything._replace(refused=~allowed)
        columns = allowed.nonzero().squeeze(1)
        vectors = _padded_rows(self.items.vectors, columns)
        return _Pool(vectors, self.items.ids[columns], columns, None)

    def _blocks(self, queries: Tensor, pool: _Pool) -> Iterator[slice]:
        """Runs of queries whose scores fill one tile."""
        columns = min(len(pool.vectors), TILE_COLUMNS)
        interests = queries.shape[1] if queries.dim() == 3 else 1
        rows = TILE // max(columns * interests, 1) // ROW_STEP * ROW_STEP
        step = max(rows, ROW_STEP)
        for start in range(0, len(queries), step):
            yield slice(start, start + step)

    def _excluded(
        self, exclude: tuple[Tensor, Tensor] | None, rows: slice, pool: _Pool
    ) -> tuple[Tensor, Tensor] | None:
        """The cells (row in the block, column of the pool) that the queries must not get."""
        if exclude is None:
            return None
        values, offsets = exclude
        bounds = offsets[rows.start : rows.stop + 1]
        owners = torch.repeat_interleave(bounds.diff())
        columns, known = self.columns_of(values[bounds[0] : bounds[-1]])
        if pool.columns is not None:
            place = torch.searchsorted(pool.columns, columns).clamp(max=pool.size - 1)
            columns, known = place, known & (pool.columns[place] == columns)
        return owners[known], columns[known]

    def _search_few(
        self, queries: Tensor, k: int, exclude: tuple[Tensor, Tensor] | None, pool: _Pool
    ) -> Hits:
        """`search` of queries [B, D], one by one; the answer is that of a batch, bit for bit."""
        seen = None if exclude is None else seen_of(exclude, len(queries))
        points, vectors, ids = queries.numpy(), pool.vectors.numpy(), pool.ids.numpy()
        found = np.full((len(points), k), -1, dtype=np.int64)
        scores = np.full((len(points), k), -np.inf, dtype=np.float32)
        for row, point in enumerate(points):
            columns = could_be_best(
                vectors[: pool.size],
                point,
                k,
                longest=self.longest,
                euclidean=self.similarity == "euclidean",
                refused=None if pool.refused is None else pool.refused.numpy(),
                ids=ids,
                seen=None if seen is None else seen.ids[seen.starts[row] : seen.starts[row + 1]],
            )
            if columns is None:  # Too many items are alike.
                cells = self._excluded(exclude, slice(row, row + 1), pool)
                values, best = self._search_block(queries[row : row + 1], k, cells, pool)
                scores[row], place = values[0].numpy(), best[0].numpy()
                found[row] = np.where(place >= 0, ids[place], -1)
                continue
            # As many rows and columns as in a batch: equal pairs then score equal.
            near = np.zeros((-(-len(columns) // COLUMN_STEP) * COLUMN_STEP, len(point)), np.float32)
            vectors.take(columns, axis=0, out=near[: len(columns)], mode="clip")
            alone = np.zeros((ROW_STEP, len(point)), dtype=np.float32)
            alone[0] = point
            exact = score(torch.from_numpy(alone), torch.from_numpy(near), self._kind).numpy()[0]
            best = (-exact[: len(columns)]).argsort(kind="stable")[:k]
            scores[row, : len(best)] = exact[best]
            found[row, : len(best)] = ids[columns[best]]
        return Hits(torch.from_numpy(found), torch.from_numpy(scores))

    def _checked(self, queries: Tensor, k: int) -> Tensor:
        """Queries that can be answered, of length 1 under cosine; QueryError for others."""
        plain = queries.dtype == torch.float32 and queries.dim() in {2, 3} and k >= 0
        if not (plain and queries.device.type == "cpu" and queries.shape[-1] == self._width > 0):
            check_queries(queries, k, self._width, self.longest)
            return normalize(queries) if self.similarity == "cosine" else queries
        points = np.ascontiguousarray(queries.detach().numpy())
        flat = points.reshape(-1, self._width)
        unit = np.empty_like(flat) if self.similarity == "cosine" else flat[:0]
        if not max(measure(flat, unit)[1], self.longest**2) < SAFE_SQUARE or not points.size:
            check_queries(queries, k, self._width, self.longest)
        return torch.from_numpy(unit.reshape(points.shape) if len(unit) else points)

    @property
    def _kind(self) -> str:
        """The similarity of vectors that are normalised already where it is the cosine."""
        return "dot" if self.similarity == "cosine" else self.similarity

    def _search_block(
        self,
        queries: Tensor,
        k: int,
        excluded: tuple[Tensor, Tensor] | None,
        pool: _Pool,
    ) -> tuple[Tensor, Tensor]:
        """The k best scores and columns of one block of queries, tile by tile."""
        count = len(queries)
        queries = pad(queries, (0, 0) * (queries.dim() - 1) + (0, -count % ROW_STEP))
        parts: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(pool.vectors), TILE_COLUMNS):
            tile, filled = slice(start, start + TILE_COLUMNS), pool.size - start
            scores = score(queries, pool.vectors[tile], self._kind)[:count]
            scores[:, filled:] = float("-inf")
            if pool.refused is not None:
                scores[:, :filled].masked_fill_(pool.refused[tile], float("-inf"))
            if excluded is not None:
                _exclude(scores, excluded, start)
            values, columns = top_k(scores, k)
            parts.append((values, columns + start))
        if len(parts) == 1:
            return parts[0]
        # Columns of earlier tiles stand first, as the tie rule wants them.
        values, columns = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        values, best = top_k(values, k)
        columns = columns.gather(1, best.clamp(min=0))
        return values, columns.masked_fill_(best < 0, -1)


def _exclude(scores: Tensor, cells: tuple[Tensor, Tensor], start: int) -> None:
    """Set the cells (row, column) that lie in the tile from column `start` on to -inf."""
    rows, columns = cells
    if scores.shape[1] == TILE_COLUMNS or start:  # Not the only tile.
        inside = (columns >= start) & (columns < start + scores.shape[1])
        rows, columns = rows[inside], columns[inside] - start
    scores[rows, columns] = float("-inf")


def _is_searchable(padded: Tensor) -> bool:
    """Whether a search may read these vectors where they lie: whole steps, and well aligned."""
    aligned = padded.is_contiguous() and padded.data_ptr() % ALIGNMENT == 0
    return len(padded) % COLUMN_STEP == 0 and aligned


def _padded_rows(vectors: Tensor, rows: Tensor) -> Tensor:
    """Copy some rows of [N, D]; zero rows fill up to a whole number of steps."""
    count, width = len(rows), vectors.shape[1]
    shape = (-(-count // COLUMN_STEP) * COLUMN_STEP, width)
    if vectors.device.type == "cpu":
        # numpy asks the system for large pages, which saves a pass over them a quarter of its time.
        padded = torch.from_numpy(np.empty(shape, dtype=np.float32))
        padded[count:] = 0
    else:
        padded = vectors.new_zeros(shape)
    torch.index_select(vectors, 0, rows, out=padded[:count])
    return padded
