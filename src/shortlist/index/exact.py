"""Which items are nearest to a query, exactly? Every item is compared.

Matrix products and fast passes choose candidates, with a margin that covers their rounding. The
scores, and so the order, come from code that reads one query and one item (index/candidates.py), so
an answer depends on nothing else: docs/decisions/0009-the-answer-rule.md.
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

TILE = 8_000_000  # Scores held at a time: 32 MB, below the size from which malloc calls mmap.
TILE_COLUMNS = 131_072
COLUMN_STEP = 64  # Vectors are padded with zero rows to a multiple of it, in bundles too.
ALIGNMENT = 16  # Bytes; numpy aligns to the same.
SPARE = 32  # Candidates beyond k that a product chooses, so that its rounding loses no item.
# Up to this many queries are answered one by one, each by the pass of index/scan.py.
FEW_QUERIES = 4
SCANNED_ITEMS = 4096  # With fewer items that pass is not faster.
GATHERED_SHARE = 0.5  # If `allow` keeps at most this share, the kept vectors are copied out.
GATHERED_FLOATS = 16_000_000  # Most numbers copied out: 64 MB.


class _Pool(NamedTuple):
    """The items that a search compares with, in tie order.

    vectors: float32 [P, D], P >= count, with zero rows at the end.
    ids: int64 [count].
    columns: int64 [count], their columns in the index; None if the pool is the whole index.
    refused: bool [count], True for items to skip; None if there are none.
    """

    vectors: Tensor
    ids: Tensor
    columns: Tensor | None
    refused: Tensor | None

    @property
    def size(self) -> int:
        """The number of items, without the padding."""
        return len(self.ids)


class ExactIndex:
    """Compares every query with every item: matrix products in tiles and an exact top-k.

    It is the default up to about a million items; benchmarks/evaluation_speed.py measures it. Under
    cosine it keeps normalised vectors. Queries and filters must be on the device of the vectors. On
    the CPU an answer is bit-equal whatever else is in the batch and with any number of threads; on
    other devices it is equal up to the rounding of a matrix product.

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
        """Replace the contents.

        ids: int64 [N], >= 0 and distinct.
        vectors: float32 [N, D].
        tie_keys: int64 [N]. Equal scores are ordered by tie key, smaller first, then by id. None
        takes a fixed hash of the id.
        Errors: DataError for ids or tie keys, ModelError for vectors that cannot be searched.
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
        """Remove the items with these ids. Errors: DataError if one is not in the index."""
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
        """Return the k best items of each query, always min(k, matching items) of them.

        queries: float32 [B, D], or [B, K, D], where an item's score is its best over K interests.
        k: number of items per query.
        exclude: (ids, offsets [B + 1]). Query i does not get ids[offsets[i]:offsets[i + 1]]; ids
        that are not in the index are ignored.
        allow: bool, longer than the highest id. Only ids with True are found, for all queries.
        Scores are those of `similarity.score`, up to rounding. Memory beyond the answer stays below
        200 MB.
        Errors: QueryError.
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
        """Return `allow` by column, bool [N]. Errors: QueryError if `allow` is too short."""
        if len(self):
            check_allow(allow, int(self._sorted_ids[-1]))
        if allow.device.type == "cpu":  # Indexing in numpy is several times faster than in torch.
            return torch.from_numpy(allow.numpy()[self.items.ids.numpy()])
        return allow[self.items.ids]

    def columns_of(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the column of each id [n], and whether the id is in the index, bool [n].

        The column of an id that is not in the index is meaningless.
        """
        if not len(self):
            return torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        place = torch.searchsorted(self._sorted_ids, ids).clamp(max=len(self) - 1)
        return self._columns_by_id[place], self._sorted_ids[place] == ids

    def state(self) -> dict[str, Tensor]:
        """Return ids [N], tie_keys [N] and vectors as named tensors, in tie order.

        The vectors [N, D] are followed by zero rows up to a multiple of COLUMN_STEP, the layout
        that searches read. `from_state` uses them without a copy, in memory or mapped from a file.
        """
        return self.items._asdict() | {"vectors": self._padded}

    @classmethod
    def from_state(cls, similarity: str, state: dict[str, Tensor]) -> Self:
        """Return the index that `state` describes. Its answers are bit-equal to the original's.

        The vectors are not copied, so they must not change; they may be mapped from a file.
        Errors: ModelError or DataError if the state is not that of an exact index.
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
        """Check the arguments of `build` and add the default tie keys."""
        items = Items(ids, vectors.detach(), ids if tie_keys is None else tie_keys)
        check_items(items)
        return items if tie_keys is not None else items._replace(tie_keys=hashed(ids))

    def _set(self, items: Items, padded: Tensor | None = None, *, scaled: bool = True) -> None:
        """Store the items in tie order, so that among equal scores the lower column wins.

        padded: the vectors with zero rows after them; not copied if they are in tie order.
        scaled: whether the vectors are normalised already, for cosine.
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
        """Return the items to compare with: all, or a copy of the allowed ones if they are few."""
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
        """Split the queries into blocks whose scores fill one tile."""
        columns = min(len(pool.vectors), TILE_COLUMNS)
        interests = queries.shape[1] if queries.dim() == 3 else 1
        step = max(TILE // max(columns * interests, 1), 1)
        for start in range(0, len(queries), step):
            yield slice(start, start + step)

    def _excluded(
        self, exclude: tuple[Tensor, Tensor] | None, rows: slice, pool: _Pool
    ) -> tuple[Tensor, Tensor] | None:
        """Return the excluded (row in the block, column of the pool) pairs, or None."""
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
        """Answer points [B, K, D]: a matrix product chooses k + SPARE candidates for each.

        If the product's rounding could hide a better item, `_search_few` answers that query.
        """
        cells, queries = None, torch.from_numpy(points)
        if seen is not None:
            exclude = torch.from_numpy(seen.ids), torch.from_numpy(seen.starts)
            cells = self._excluded(exclude, slice(0, len(points)), pool)
        values, columns = self._search_block(queries, k + SPARE, cells, pool)
        ids, scores, _ = best_of_slots(self._contents(pool), points, columns.numpy(), None, k)
        # Safe only if the last candidate is worse than the k-th by more than both may be rounded.
        gaps = (values[:, k - 1] - values[:, -1]).numpy()
        for row in np.flatnonzero(values[:, -1].isfinite().numpy()):
            if gaps[row] <= self._margin(points[row]):
                one, own = slice(row, row + 1), _part(seen, slice(row, row + 1))
                ids[one], scores[one] = self._search_few(points[one], k, own, pool)
        return ids, scores

    def _search_few(
        self, points: Floats, k: int, seen: Seen | None, pool: _Pool
    ) -> tuple[Rows, Floats]:
        """Answer points [B, K, D] one by one: the pass of index/scan.py chooses candidates."""
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
            if columns is None:  # Too many items have nearly equal scores.
                ids[one], scores[one] = self._search_all(points[one], k, own, pool)
            else:
                ids[one], scores[one], _ = best_of_columns(contents, points[one], columns, None, k)
        return ids, scores

    def _search_all(
        self, points: Floats, k: int, seen: Seen | None, pool: _Pool
    ) -> tuple[Rows, Floats]:
        """Answer points [B, K, D] by the final scores of all allowed items, without candidates."""
        columns = None if pool.refused is None else np.flatnonzero(~pool.refused.numpy())
        ids, scores, _ = best_of_columns(self._contents(pool), points, columns, seen, k)
        return ids, scores

    def _contents(self, pool: _Pool) -> Contents:
        """Return the pool in the form that index/candidates.py scores."""
        vectors = pool.vectors.numpy()[: pool.size]
        columns = np.empty(0, dtype=np.int64)
        return Contents(pool.ids.numpy(), vectors, columns, self.similarity == "euclidean")

    def _margin(self, interests: Floats) -> float:
        """Return how far apart two scores of a query [K, D] may be and still change places."""
        return max(margin(p, self.longest, self.similarity == "euclidean") for p in interests)

    def _checked(self, queries: Tensor, k: int) -> Tensor:
        """Check the queries and normalise them under cosine. Errors: QueryError."""
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
        """The similarity to compute: "dot" for cosine, because all vectors are normalised."""
        return "dot" if self.similarity == "cosine" else self.similarity

    def _search_block(
        self,
        queries: Tensor,
        k: int,
        excluded: tuple[Tensor, Tensor] | None,
        pool: _Pool,
    ) -> tuple[Tensor, Tensor]:
        """Return the k best (scores, columns), [B, k] each, by matrix products, tile by tile."""
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
        # Columns of earlier tiles come first, so that ties keep the order of the columns.
        values, columns = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        values, best = top_k(values, k)
        columns = columns.gather(1, best.clamp(min=0))
        return values, columns.masked_fill_(best < 0, -1)


def _interests(queries: Tensor) -> Floats:
    """Return queries [B, D] or [B, K, D] as an array [B, K, D]."""
    points: Floats = queries.numpy()
    return points.reshape(len(points), -1, points.shape[-1])


def _part(seen: Seen | None, rows: slice) -> Seen | None:
    """Return the exclusion lists of a slice of the queries."""
    return None if seen is None else seen._replace(starts=seen.starts[rows.start : rows.stop + 1])


def _exclude(scores: Tensor, cells: tuple[Tensor, Tensor], start: int) -> None:
    """Set the excluded (row, column) pairs in the tile that starts at column `start` to -inf."""
    rows, columns = cells
    if scores.shape[1] == TILE_COLUMNS or start:  # There may be other tiles.
        inside = (columns >= start) & (columns < start + scores.shape[1])
        rows, columns = rows[inside], columns[inside] - start
    scores[rows, columns] = float("-inf")


def _is_searchable(padded: Tensor) -> bool:
    """Return whether these vectors need no copy: padded to COLUMN_STEP, contiguous and aligned."""
    aligned = padded.is_contiguous() and padded.data_ptr() % ALIGNMENT == 0
    return len(padded) % COLUMN_STEP == 0 and aligned


def _padded_rows(vectors: Tensor, rows: Tensor, *, unit: bool = False) -> Tensor:
    """Copy some rows of [N, D], padded with zero rows to a multiple of COLUMN_STEP.

    unit: normalise the copied rows.
    Rows are copied block by block, so that a mapped file of vectors is in memory only once.
    """
    count, width = len(rows), vectors.shape[1]
    shape = (-(-count // COLUMN_STEP) * COLUMN_STEP, width)
    if vectors.device.type == "cpu":
        # numpy requests huge pages: a pass over the vectors then takes a quarter less time.
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
