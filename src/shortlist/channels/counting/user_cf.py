"""UserCF: what did the most similar users meet? Neighbours are searched for each query."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from shortlist.asking.explaining import REASONS, Explaining
from shortlist.asking.rows import RowQueries
from shortlist.channels.counting.base import Counting
from shortlist.channels.counting.history import (
    MOST_ITEMS,
    ProfileOptions,
    no_profile,
    profiles,
)
from shortlist.channels.kept import check_tensors
from shortlist.data.interactions import Interactions
from shortlist.errors import ModelError
from shortlist.index.base import Hits
from shortlist.linear.from_scipy import csr_array, diags_array
from shortlist.linear.matrix import Matrix, user_item_matrix
from shortlist.linear.neighbours import counted_pairs
from shortlist.linear.ranking import TieRanks, best_first, best_of_lists
from shortlist.linear.weighting import inverse_frequency
from shortlist.sections.base import Count

PRODUCTS = 16_000_000
"""Similarities or scores computed at a time."""

Seen = tuple[NDArray[np.int64], NDArray[np.int64]]


class UserCFOptions(ProfileOptions):
    """How the neighbours of a query are found. V_i is the set of users of item i."""

    similarity: Literal["cosine", "jaccard"] = Field(
        default="cosine",
        description='"cosine" of the two histories, or "jaccard": the size of their intersection '
        "divided by the size of their union.",
    )
    neighbours: Count = Field(default=100, description="Number of similar users that are read.")
    most_items: Count | None = MOST_ITEMS
    item_weighting: Literal["none", "iuf"] = Field(
        default="none",
        description='"iuf": a shared item counts 1 / log(1 + |Vi|). Cosine keeps its unweighted '
        "norms; jaccard weights both the intersection and the union.",
    )

    @model_validator(mode="after")
    def _options_act(self) -> Self:
        """Refuse options that have no meaning together."""
        if self.similarity == "jaccard":
            if self.values == "explicit":
                raise ValueError("jaccard compares sets, which have no values: use cosine.")
            if self.recency is not None:
                raise ValueError("jaccard compares sets, which have no recency: use cosine.")
        return self


class UserCF(Counting[UserCFOptions], Explaining):
    """Recommends the items of the users whose histories are most similar (Resnick et al. 1994).

    r_qj = Σ over the nearest users v of sim(q, v) · A_vj. With kinds of events, sim reads all
    events, and j must be a target of v.

    A known user is not their own neighbour. A history without a user id is compared with all users,
    so if it is the history of a trained user, that user is its first neighbour.

    Nothing is stored beside the log, so new events count at once. ItemCF stores its neighbours;
    here each query reads all users of all items of its history.
    """

    options_type = UserCFOptions

    def learn(self) -> None:
        """Transpose the log; neighbours are searched for each query."""
        data, options = self.data, self.options
        log = data.training_log
        for name in ("recency", "latest_items", "most_items"):
            if getattr(options, name) is not None and log.time is None:
                raise ModelError(f"{name} needs data.time: without it a history has no order")
        items, users = data.items.trained, data.users.trained
        matrix, lent = met_by_users(options, log, items, users)
        counts = np.bincount(matrix.indices, minlength=items + 1)
        weight = weights_of_items(options, counts)
        self._matrix, self._lent, self._weight = matrix, lent, weight
        self._by_item = (diags_array(weight) @ matrix.T).tocsr()
        self._norm = self._size(matrix)
        self._user_ties = TieRanks.of(data.users.tie_keys[: data.users.trained + 1])
        self._item_ties = TieRanks.of(data.items.tie_keys[: items + 1])

    def search(self, block: RowQueries, k: int) -> Hits:
        """Answer B queries with the weighted sum of their neighbours' items."""
        queries = len(block.users)
        ids = np.full((queries, k), -1, dtype=np.int64)
        scores = np.full((queries, k), -np.inf, dtype=np.float32)
        near = self.neighbours_of(block)
        allow = None if block.allow is None else block.allow.numpy()
        met = block.seen
        for start, stop, sums in _products(near, self._lent):
            seen = None
            if met is not None:
                ends = met[1].numpy()[start : stop + 1]
                seen = (met[0].numpy()[ends[0] : ends[-1]], ends - ends[0])
            keys = _keys(sums, seen, self._item_ties, k, allow)
            best_first(keys, self._item_ties, ids[start:stop], scores[start:stop])
        return Hits(torch.from_numpy(ids), torch.from_numpy(scores))

    def neighbours_of(self, block: RowQueries) -> Matrix:
        """Return the similarity of the nearest users to each query, [B, users.trained + 1] float64.

        Similarities are rounded to float32, and columns ascend. Equal similarities are ordered by
        the tie keys of the users.
        """
        profile, own = self.profile(block).astype(np.float64), block.users.numpy()
        sizes = self._size(profile), self._norm
        ids, similar = nearest_users(
            self.options, profile, self._by_item, sizes, own, self._user_ties
        )
        query, place = np.nonzero(ids > 0)
        values = similar[query, place].astype(np.float64)
        shape = (len(own), self._matrix.shape[0])
        return csr_array((values, (query, ids[query, place])), shape=shape)

    def strangers(self, block: RowQueries) -> Tensor:
        """Return True for queries with no event that counts, bool [B]."""
        return no_profile(block, self.options, self.data.items.trained)

    def profile(self, block: RowQueries) -> Matrix:
        """Return the weight of each item in each history, [B, items.trained + 1]."""
        return profile_of(block, self.options, self.data.items.trained)

    def reasons(self, block: RowQueries, items: Sequence[Tensor]) -> pl.DataFrame:
        """Return what each event (cosine) or each neighbour (jaccard) contributes.

        An event contributes its share of the similarities, with the neighbours and norms fixed.
        """
        near, trained = self.neighbours_of(block), self.data.items.trained
        profile = self.profile(block).astype(np.float64)
        size = self._size(profile)
        parts = [pl.DataFrame(schema=REASONS)]
        for query, wanted in enumerate(items):
            rows = wanted.numpy()[(wanted.numpy() > 0) & (wanted.numpy() <= trained)]
            users, similar = near[[query]].indices, near[[query]].data
            gains = self._lent[users][:, rows].toarray()  # [neighbours, items]
            kind, because = "user", users
            if self.options.similarity == "jaccard":
                gains = similar[:, None] * gains
            else:
                mine = profile[[query]]
                kind, because = "event", mine.indices
                share = self._matrix[users][:, because].toarray() / self._norm[users][:, None]
                share *= mine.data * self._weight[because] / size[query]
                gains = share.T @ gains
            reason, item = np.nonzero(gains)
            part = {
                "query": np.full(len(reason), query),
                "item": rows[item],
                "kind": [kind] * len(reason),
                "because": because[reason].astype(str).tolist(),
                "contribution": gains[reason, item],
            }
            parts.append(pl.DataFrame(part, schema=REASONS))
        return pl.concat(parts)

    def learned(self) -> dict[str, Tensor]:
        """Return no tensors: everything is computed from the log."""
        return {}

    def set_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Transpose the log again."""
        check_tensors("learned", tensors, {})
        self.learn()

    def _size(self, matrix: Matrix) -> NDArray[np.float64]:
        return sizes_of(self.options, matrix, self._weight)


def met_by_users(
    options: UserCFOptions, log: Interactions, items: int, users: int
) -> tuple[Matrix, Matrix]:
    """Return what users are compared by, and what they lend: [users + 1, items + 1] float64 each.

    A row needs only the events of its own user. Under jaccard both are sets without weights. With
    kinds of events the second matrix has targets only.
    """
    if options.most_items is not None:
        pairs = counted_pairs(log, items, options.values, options.most_items)
        keys = log.user.astype(np.int64) * (items + 1) + log.item
        log = log.keep(np.isin(keys, keys[pairs.event]) & (log.item <= items))

    def matrix(*, targets: bool) -> Matrix:
        made = user_item_matrix(log, items, options.values, targets=targets)
        return _as_sets(options, made[: users + 1].astype(np.float64))

    compared = matrix(targets=False)
    return compared, compared if log.target is None else matrix(targets=True)


def profile_of(block: RowQueries, options: UserCFOptions, items: int) -> Matrix:
    """Return the weight of each item in each history, [B, items + 1]; jaccard: 1 for each."""
    return _as_sets(options, profiles(block, options, items))


def weights_of_items(options: UserCFOptions, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what a shared item counts, [items + 1]. counts: number of users of each item."""
    return inverse_frequency(counts) if options.item_weighting == "iuf" else np.ones(len(counts))


def sizes_of(
    options: UserCFOptions, matrix: Matrix, weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the norm of each history, [rows]: Euclidean (cosine), or its weighted size."""
    if options.similarity == "jaccard":
        return np.asarray(matrix @ weight)
    squares: NDArray[np.float64] = np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel()
    return np.sqrt(squares)


def nearest_users(
    options: UserCFOptions,
    profile: Matrix,
    by_item: Matrix,
    sizes: tuple[NDArray[np.float64], NDArray[np.float64]],
    own: NDArray[np.int64],
    ties: TieRanks,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the rows of the users nearest to B histories and their similarities, [B, N] each.

    profile: [B, items + 1], the histories.
    by_item: [items + 1, users + 1], the weighted matrix of the users, transposed.
    sizes: norms of the histories [B] and of the users [users + 1].
    own: [B], the user of each history, who is excluded; 0 for none.
    ties: ranks of the users' tie keys.
    Unused places have row 0 and similarity 0.
    """
    count = min(options.neighbours, max(len(ties.rank) - 1, 1))
    ids = np.zeros((len(own), count), dtype=np.int64)
    similar = np.zeros((len(own), count), dtype=np.float32)
    size, norm = sizes
    for start, stop, shared in _products(profile, by_item):
        query = np.repeat(np.arange(start, stop), np.diff(shared.indptr))
        with np.errstate(divide="ignore", invalid="ignore"):
            if options.similarity == "jaccard":
                below = size[query] + norm[shared.indices] - shared.data
            else:
                below = size[query] * norm[shared.indices]
            shared.data = np.where(below > 0, shared.data / below, 0.0)
        owner = own[start:stop], np.arange(stop - start + 1)
        keys = _keys(shared, owner, ties, count)
        best_first(keys, ties, ids[start:stop], similar[start:stop])
    ids[similar == 0] = 0
    return ids, similar


def _as_sets(options: UserCFOptions, matrix: Matrix) -> Matrix:
    if options.similarity == "jaccard":
        matrix.data[:] = 1
    return matrix


def _products(left: Matrix, right: Matrix) -> Iterator[tuple[int, int, Matrix]]:
    """Yield (start, stop, left[start:stop] @ right) with at most about PRODUCTS entries each."""
    lengths = np.diff(right.indptr)[left.indices]
    work = np.concatenate([[0], np.cumsum(lengths)])[left.indptr]
    start = 0
    while start < left.shape[0]:
        stop = int(np.searchsorted(work, work[start] + PRODUCTS, side="right")) - 1
        stop = min(max(stop, start + 1), left.shape[0])
        yield start, stop, (left[start:stop] @ right).tocsr()
        start = stop


def _keys(
    sums: Matrix,
    banned: Seen | None,
    ties: TieRanks,
    k: int,
    allow: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Return the k best entries of each row as sortable keys, [B, k]."""
    start, row = sums.indptr.astype(np.int64), sums.indices.astype(np.int64)
    return best_of_lists(start, row, sums.data.astype(np.float32), banned, ties, k, allow)
