"""How is a history scored linearly, r_u = A[u, :] · S, exactly? ItemCF, EASE, graph filters."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from shortlist.asking.explaining import REASONS, Explaining
from shortlist.asking.rows import RowQueries
from shortlist.asking.similar import FindingSimilar
from shortlist.channels.counting.base import Counting
from shortlist.channels.counting.fitted import without
from shortlist.data.ragged import Ragged
from shortlist.data.training_data import TrainingData
from shortlist.errors import ModelError
from shortlist.index.base import Hits
from shortlist.index.top_k import top_k
from shortlist.linear.from_scipy import csr_array, diags_array
from shortlist.linear.matrix import Matrix, Values
from shortlist.sections.base import Count, Positive, Section

SCORES = 16_000_000
"""Dense scores computed at a time, in numbers (64 MB)."""


MOST_ITEMS = Field(
    default=None,
    description="Only the latest so many distinct items of each user are read. This bounds the "
    "work that the most active users cause. Unset: all. Needs data.time.",
    examples=[500],
)
"""The option of channels that learn from pairs of items of one user, or from pairs of users."""


class ProfileOptions(Section):
    """How the events of a query's history are weighted; the weights in the log do not change."""

    values: Values = Field(
        default="implicit",
        description='"implicit": each event counts 1. "explicit": each counts its data.weight; 0 '
        "counts nothing.",
    )
    recency: Positive | None = Field(
        default=None,
        description="Half-life in a history, counted in events: the newest event counts 1, the "
        "event so many before it counts 1/2. Unset: all count the same. Needs data.time.",
        examples=[10.0],
    )
    latest_items: Count | None = Field(
        default=None,
        description="Number of latest events of a history that are read. Unset: all.",
        examples=[50],
    )

    def idle(self) -> str:
        """Recency changes nothing if only the newest event is read."""
        if self.recency is not None and self.latest_items == 1:
            return (
                "recency does nothing with latest_items = 1, which reads only the newest event: "
                "leave it out"
            )
        return super().idle()


Profiled = TypeVar("Profiled", bound=ProfileOptions)


class _Ranked(NamedTuple):
    """C candidates in the order of their tie keys: at equal scores the smaller key is better.

    source: [C], item rows in the order of the channel.
    order: [C], positions in `source`, best tie key first.
    rows: [C], the item rows in that order.
    place: [items + 1], the position of each item row in `rows`; -1 for other rows.
    """

    source: NDArray[np.int64]
    order: Tensor
    rows: Tensor
    place: Tensor

    @classmethod
    def of(cls, source: NDArray[np.int64], keys: NDArray[np.int64]) -> "_Ranked":
        """Sort these item rows by `keys`, [items + 1], which has the key of every row."""
        order = torch.from_numpy(np.argsort(keys[source], kind="stable"))
        rows = torch.from_numpy(source.astype(np.int64))[order]
        place = torch.full((len(keys),), -1)
        place[rows] = torch.arange(len(rows))
        return cls(source, order, rows, place)


class HistoryScorer(Counting[Profiled], Explaining, FindingSimilar):
    """Scores a whole history at once; most subclasses are linear in it.

    A subclass provides `learn`, `scores`, `learned` and `set_learned`.
    """

    @abstractmethod
    def scores(self, profile: Matrix) -> NDArray[np.float32]:
        """Return the score of each candidate, [B, C] float32; column c belongs to candidate c.

        profile: [B, items.trained + 1], the weight of each item in each history.
        A score is -inf where the channel has no evidence for the item.
        """

    _kept: _Ranked | None = None

    def search(self, block: RowQueries, k: int) -> Hits:
        """Answer B queries from dense scores, computed for a part of the queries at a time."""
        ranked, profile = self._ranked(), self.profile(block)
        parts = self._parts(len(block.users), len(ranked.rows))
        found = []
        for start, stop in parts:
            asked = profile if len(parts) == 1 else profile[start:stop]
            scores = torch.from_numpy(self.scores(asked)).index_select(1, ranked.order)
            if block.allow is not None:
                scores.masked_fill_(~block.allow[ranked.rows], float("-inf"))
            if block.seen is not None:
                met = _part(Ragged(*block.seen), start, stop)
                columns, owners = ranked.place[met.values], met.owners()
                scores[owners[columns >= 0], columns[columns >= 0]] = float("-inf")
            values, columns = top_k(scores, k)
            ids = torch.where(columns >= 0, ranked.rows[columns.clamp(min=0)], -1)
            found.append(Hits(ids, values))
        return Hits(torch.cat([h.ids for h in found]), torch.cat([h.scores for h in found]))

    def _ranked(self) -> "_Ranked":
        """Return the candidates in tie-key order, cached because every query needs them."""
        rows = self.candidate_rows()
        if self._kept is None or self._kept.source is not rows:
            self._kept = _Ranked.of(rows, self.data.items.tie_keys)
        return self._kept

    def strangers(self, block: RowQueries) -> Tensor:
        """Return True for queries with no event that counts, bool [B]."""
        return no_profile(block, self.options, self.data.items.trained)

    def profile(self, block: RowQueries) -> Matrix:
        """Return the weight of each item in each history, [B, items.trained + 1]."""
        return profiles(block, self.options, self.data.items.trained)

    def reasons(self, block: RowQueries, items: Sequence[Tensor]) -> pl.DataFrame:
        """Return what each event of the history contributes: the scores of that event alone."""
        place = np.full(len(self.data.items) + 1, -1)
        place[self.candidate_rows()] = np.arange(len(self.candidate_rows()))
        profile = self.profile(block)
        parts = [pl.DataFrame(schema=REASONS)]
        for query, wanted in enumerate(items):
            mine = profile[[query]]
            events, weights = mine.indices, mine.data
            alone = csr_array(
                (weights, (np.arange(len(events)), events)), shape=(len(events), profile.shape[1])
            )
            rows = wanted.numpy()[place[wanted.numpy()] >= 0]
            gains = np.zeros((len(events), len(rows)), dtype=np.float64)
            for start, stop in self._parts(len(events), len(place)):
                gains[start:stop] = self.scores(alone[start:stop])[:, place[rows]]
            event, item = np.nonzero(np.isfinite(gains) & (gains != 0))
            part = {
                "query": np.full(len(event), query),
                "item": rows[item],
                "kind": ["event"] * len(event),
                "because": events[event].astype(str).tolist(),
                "contribution": gains[event, item],
            }
            parts.append(pl.DataFrame(part, schema=REASONS))
        return pl.concat(parts)

    def near(self, rows: Tensor, k: int) -> Hits:
        """Return the best items for a history of one item, excluding that item."""
        lists = Ragged(rows, torch.arange(len(rows) + 1))
        return self.search(RowQueries(torch.zeros(len(rows), dtype=torch.int64), lists, True), k)

    @staticmethod
    def _parts(queries: int, items: int) -> list[tuple[int, int]]:
        size = max(1, SCORES // max(items, 1))
        return [(start, min(start + size, queries)) for start in range(0, queries, size)] or [
            (0, 0)
        ]


def profiles(block: RowQueries, options: ProfileOptions, trained: int) -> Matrix:
    """Return the weight of each distinct trained item in each history, [B, items.trained + 1].

    An item that occurs several times has the position of its last event and the largest weight of
    its kinds of events. Items with weight 0 have no entry.
    """
    history = block.history
    values, owners = history.values.numpy(), history.owners().numpy()
    keys = owners * (trained + 1) + values
    # In reverse order, the first occurrence of a key is its last event.
    known = np.flatnonzero((values > 0) & (values <= trained))
    _, last = np.unique(keys[known][::-1], return_index=True)
    kept = np.sort(known[::-1][last])
    owner, item = owners[kept], values[kept]
    ends = np.cumsum(np.bincount(owner, minlength=len(block.users)))
    age = ends[owner] - 1 - np.arange(len(kept))
    weight = np.ones(len(kept), dtype=np.float32)
    if options.values == "explicit" and block.weight is not None:
        weight = block.weight.numpy()[kept].astype(np.float32)
    if block.worth is not None:
        found = np.argsort(keys[kept])
        pair = found[np.searchsorted(keys[kept][found], keys[known])]
        most = np.zeros(len(kept), dtype=np.float32)
        np.maximum.at(most, pair, block.worth.numpy()[known])
        weight *= most
    if options.recency is not None:
        weight *= np.exp2(-age / options.recency).astype(np.float32)
    if options.latest_items is not None:
        near = age < options.latest_items
        owner, item, weight = owner[near], item[near], weight[near]
    if options.recency is not None or options.values == "explicit":
        # Weights of 0, or too small for a float32, count nothing.
        there = weight != 0
        owner, item, weight = owner[there], item[there], weight[there]
    # Sorted by query and item, so that scipy need not sort or sum duplicates.
    order = np.lexsort((item, owner))
    starts = np.zeros(len(block.users) + 1, dtype=np.int64)
    np.cumsum(np.bincount(owner, minlength=len(block.users)), out=starts[1:])
    shape = (len(block.users), trained + 1)
    return csr_array((weight[order], item[order], starts), shape=shape)


def no_profile(
    block: RowQueries,
    options: ProfileOptions,
    trained: int,
    known: NDArray[np.bool_] | None = None,
) -> Tensor:
    """Return True for queries whose profile has no item that counts, bool [B].

    known: bool [trained + 1], the items that the channel has learned; None for all trained items.
    """
    if options.values == "implicit" and (known is None or options.latest_items is None):
        # Every trained item has an entry, so the more expensive profile is not needed.
        return without(known, block, trained)
    profile = profiles(block, options, trained)
    there = slice(None) if known is None else known[profile.indices]
    owners = np.repeat(np.arange(profile.shape[0]), np.diff(profile.indptr))[there]
    return torch.from_numpy(np.bincount(owners, minlength=profile.shape[0]) == 0)


def of_rows(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the columns of these item rows, [B, n], from scores [B, C] of the rows 1 to C."""
    return scores if len(rows) == scores.shape[1] else scores[:, rows - 1]


def check_order(data: TrainingData, options: ProfileOptions) -> None:
    """Refuse recency and latest_items for a log without times."""
    for name in ("recency", "latest_items"):
        if getattr(options, name) is not None and not data.ordered:
            raise ModelError(
                f"{name} needs data.time: without it the newest event is unknown; name the column, "
                f"or remove {name}"
            )


def scaled_columns(matrix: Matrix, weights: NDArray[np.float32]) -> Matrix:
    """Return the matrix with column i multiplied by weights[i]."""
    product: Matrix = (matrix @ diags_array(weights, format="csr")).tocsr()
    return product


def _part(lists: Ragged, start: int, stop: int) -> Ragged:
    """Return the lists from `start` to `stop` (exclusive)."""
    offsets = lists.offsets[start : stop + 1]
    return Ragged(lists.values[offsets[0] : offsets[-1]], offsets - offsets[0])
