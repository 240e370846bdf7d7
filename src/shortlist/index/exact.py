"""The index that compares a query with every item: the truth that other indexes approximate.

Matrix products and fast passes choose the candidates, with a margin for all they may round; the
scores, and so the order, come from code that takes a query and an item alone (index/candidates.py).
So an answer depends on nothing else: docs/decisions/0009-the-answer-rule.md.
"""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from shortlist.compiled import worth_loading
from shortlist.errors import DataError, ModelError
from shortlist.index.base import Hits, hashed
from shortlist.index.candidates import (
    SAFE_SQUARE,
    Contents,
    Seen,
    best_of_columns,
    best_of_slots,
    measure,
    seen_of,
)
from shortlist.index.checks import (
    BLOCK,
    Items,
    check_allow,
    check_exclude,
    check_items,
    check_queries,
    check_unit,
    longest,
)
from shortlist.index.pairs import Floats, Rows
from shortlist.index.scan import could_be_best, margin
from shortlist.index.top_k import top_k
from shortlist.similarity import check_similarity, normalize, score

TILE = 8_000_000  # Scores held at a time: 32 MB, below the size from which malloc maps afresh.
TILE_COLUMNS = 131_072
COLUMN_STEP = 64  # Vectors are held, and kept in bundles, in whole multiples of it.
ALIGNMENT = 16  # Bytes, what numpy aligns to.
SPARE = 32  # Columns beyond k that a product chooses, so that its rounding costs no item.
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
    Cosine keeps the items normalised. Queries and filters must be on the vectors' device. On the
    CPU an answer is the same, bit for bit, whatever else is asked and with any number of threads;
    on other devices up to the rounding of a matrix product.

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
        self._set(self._checked_items(ids, vectors, tie_keys), scaled=False)
        return self

    def add(self, ids: Tensor, vectors: Tensor, tie_keys: Tensor | None = None) -> Self:
        """Add items whose ids are not in the index; the arguments are those of `build`."""
        if not self._width:
            return self.build(ids, vectors, tie_keys)
        new = self._checked_items(ids, vectors, tie_keys)
        if self.similarity == "cosine":
            new = new._replace(vectors=normalize(new.vectors))
            check_unit(new)
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
        Scores are those of `similarity.score`, up to rounding. Memory beyond the answer stays below
        200 MB.
        """
        queries = self._checked(queries, k)
        pool = self._pool(None if allow is None or not len(self) else self.allowed(allow))
        ids = queries.new_full((len(queries), k), -1, dtype=torch.int64)
        scores = queries.new_full((len(queries), k), float("-inf"))
        if exclude is not None:
            check_exclude(exclude, len(queries))
        if not (pool.size and k and len(queries)):
            return Hits(ids, scores)
        if queries.device.type != "cpu":
            for rows in self._blocks(queries, pool):
                cells = self._excluded(exclude, rows, pool)
                scores[rows], columns = self._search_block(queries[rows], k, cells, pool)
                ids[rows] = torch.where(columns >= 0, pool.ids[columns], -1)
            return Hits(ids, scores)
        points = _interests(queries)
        seen = None if exclude is None else seen_of(exclude, len(queries))
        few = queries.dim() == 2 and len(queries) <= FEW_QUERIES and pool.size >= SCANNED_ITEMS
        few = few and 16 * k < pool.size and worth_loading()  # The pass is compiled code.
        search = self._search_few if few else self._search_many
        if 4 * (k + SPARE) >= pool.size:
            search = self._search_all
        found, values = ids.numpy(), scores.numpy()
        for rows in self._blocks(queries, pool):
            found[rows], values[rows] = search(points[rows], k, _part(seen, rows), pool)
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

    def _checked_items(self, ids: Tensor, vectors: Tensor, tie_keys: Tensor | None) -> Items:
        """Check the arguments of `build`, and give every item a tie key."""
        items = Items(ids, vectors.detach(), ids if tie_keys is None else tie_keys)
        check_items(items)
        return items if tie_keys is not None else items._replace(tie_keys=hashed(ids))

    def _set(self, items: Items, padded: Tensor | None = None, *, scaled: bool = True) -> None:
        """Take the items as contents, in tie order: then the lower column wins among equals.

        padded: the vectors with zero rows after them, which are not copied if they are in order.
        scaled: whether the vectors are of length 1 already where cosine is asked.
        """
        by_id = items.ids.sort()
        twice = by_id.values[1:][by_id.values[1:] == by_id.values[:-1]]
        if len(twice):
            raise DataError(f"item {int(twice[0])} would be in the index twice")
        order = by_id.indices[items.tie_keys[by_id.indices].argsort(stable=True)]
        count, width = items.vectors.shape
        in_order = torch.equal(order, torch.arange(len(order), device=order.device))
        given = padded is not None
        to_scale = self.similarity == "cosine" and not scaled
        if padded is None or not (in_order and _is_searchable(padded)):
            padded = _padded_rows(items.vectors, order, unit=to_scale)
        ids, keys = items.ids, items.tie_keys
        if not (in_order and given):
            ids, keys = ids[order], keys[order]
        ordered = Items(ids, padded[:count], keys)
        if to_scale:
            check_unit(ordered)
        self._count, self._width, self._padded, self.items = count, width, padded, ordered
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
        step = max(TILE // max(columns * interests, 1), 1)
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

    def _search_many(
        self, points: Floats, k: int, seen: Seen | None, pool: _Pool
    ) -> tuple[Rows, Floats]:
        """Answer points [B, K, D]: a product chooses candidates, as many as its rounding asks for.

        Where SPARE of them are not enough for that, the query is answered by itself.
        """
        cells, queries = None, torch.from_numpy(points)
        if seen is not None:
            exclude = torch.from_numpy(seen.ids), torch.from_numpy(seen.starts)
            cells = self._excluded(exclude, slice(0, len(points)), pool)
        values, columns = self._search_block(queries, k + SPARE, cells, pool)
        ids, scores, _ = best_of_slots(self._contents(pool), points, columns.numpy(), None, k)
        # The last candidate may not be as good as the k-th, whatever both were rounded by.
        gaps = (values[:, k - 1] - values[:, -1]).numpy()
        for row in np.flatnonzero(values[:, -1].isfinite().numpy()):
            if gaps[row] <= self._margin(points[row]):
                one, own = slice(row, row + 1), _part(seen, slice(row, row + 1))
                ids[one], scores[one] = self._search_few(points[one], k, own, pool)
        return ids, scores

    def _search_few(
        self, points: Floats, k: int, seen: Seen | None, pool: _Pool
    ) -> tuple[Rows, Floats]:
        """Answer points [B, K, D] one by one: a fast pass over all items chooses candidates."""
        ids, scores = np.empty((len(points), k), np.int64), np.empty((len(points), k), np.float32)
        contents = self._contents(pool)
        for row in range(len(points)):
            one, own = slice(row, row + 1), _part(seen, slice(row, row + 1))
            columns = None
            if points.shape[1] == 1:
                columns = could_be_best(
                    contents.vectors,
                    points[row, 0],
                    k,
                    longest=self.longest,
                    euclidean=contents.euclidean,
                    refused=None if pool.refused is None else pool.refused.numpy(),
                    ids=contents.ids,
                    seen=None if own is None else own.ids[own.starts[0] : own.starts[1]],
                )
            if columns is None:  # Too many items are alike.
                ids[one], scores[one] = self._search_all(points[one], k, own, pool)
            else:
                ids[one], scores[one], _ = best_of_columns(contents, points[one], columns, None, k)
        return ids, scores

    def _search_all(
        self, points: Floats, k: int, seen: Seen | None, pool: _Pool
    ) -> tuple[Rows, Floats]:
        """Answer points [B, K, D] by the scores of all items that they may get."""
        columns = None if pool.refused is None else np.flatnonzero(~pool.refused.numpy())
        ids, scores, _ = best_of_columns(self._contents(pool), points, columns, seen, k)
        return ids, scores

    def _contents(self, pool: _Pool) -> Contents:
        """The pool as it is scored, column by column."""
        vectors = pool.vectors.numpy()[: pool.size]
        columns = np.empty(0, dtype=np.int64)
        return Contents(pool.ids.numpy(), vectors, columns, self.similarity == "euclidean")

    def _margin(self, interests: Floats) -> float:
        """By how much two candidates of a query [K, D] may be in the wrong order."""
        return max(margin(p, self.longest, self.similarity == "euclidean") for p in interests)

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
        """The k best scores and columns of some queries, tile by tile, as products round."""
        parts: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(pool.vectors), TILE_COLUMNS):
            tile, filled = slice(start, start + TILE_COLUMNS), pool.size - start
            scores = score(queries, pool.vectors[tile], self._kind)
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


def _interests(queries: Tensor) -> Floats:
    """Queries [B, D] or [B, K, D] as one array [B, K, D]."""
    points: Floats = queries.numpy()
    return points.reshape(len(points), -1, points.shape[-1])


def _part(seen: Seen | None, rows: slice) -> Seen | None:
    """What some of the queries have seen."""
    return None if seen is None else seen._replace(starts=seen.starts[rows.start : rows.stop + 1])


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


def _padded_rows(vectors: Tensor, rows: Tensor, *, unit: bool = False) -> Tensor:
    """Copy some rows of [N, D], scaled to length 1 if `unit`; zero rows fill up whole steps.

    A block at a time, so that a mapped file of vectors is in memory once: as this copy.
    """
    count, width = len(rows), vectors.shape[1]
    shape = (-(-count // COLUMN_STEP) * COLUMN_STEP, width)
    if vectors.device.type == "cpu":
        # numpy asks the system for large pages, which saves a pass over them a quarter of its time.
        padded = torch.from_numpy(np.empty(shape, dtype=np.float32))
        padded[count:] = 0
    else:
        padded = vectors.new_zeros(shape)
    for block, into in zip(
        torch.split(rows, BLOCK), torch.split(padded[:count], BLOCK), strict=True
    ):
        torch.index_select(vectors, 0, block, out=into)
        if unit:
            into.copy_(normalize(into))
    return padded
