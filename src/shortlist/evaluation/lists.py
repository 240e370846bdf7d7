"""How good are lists that another system made? They are measured like a retriever."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.asking.answering import Answering
from shortlist.asking.rows import RowQueries
from shortlist.data.columns import fault
from shortlist.data.dataset import Split
from shortlist.data.interactions import Cut
from shortlist.data.ragged import Ragged, taken
from shortlist.data.readers import is_text, read_frame
from shortlist.data.training_data import Fit, TrainingData
from shortlist.data.vocabulary import Vocabulary
from shortlist.errors import DataError, QueryError
from shortlist.evaluation.evaluate import checked_depths, evaluate
from shortlist.evaluation.report import Report
from shortlist.evaluation.verdict import SHORT
from shortlist.index.base import Hits


class Listed(Answering):
    """Answers queries from existing lists, such as those of another library or system.

    `evaluate` and `compare` accept it in place of a retriever. A user without a list gets an empty
    answer, so that all their held-out events are misses.
    """

    def __init__(
        self,
        lists: Any,
        split: Split,
        *,
        user: str = "user",
        item: str = "item",
        rank: str | None = None,
        score: str | None = None,
        fit: Fit = "train",
    ) -> None:
        """Read lists for the users of a split, from a file or a frame with one row per candidate.

        lists: the file or frame.
        split: the split whose users are asked.
        user, item: columns of ids.
        rank: column that orders each list, 1 is best; a user's ranks must differ.
        score: column that orders each list instead, largest first. Equal scores are ordered by the
            hash that orders ties of an index. Without rank and score the order is that of the rows.
        fit: the rows that the lists were made from. Lists made from held-out rows are refused when
            they are measured.
        Errors: DataError naming column and row.
        """
        if rank is not None and score is not None:
            raise DataError("the lists have one order: give rank or score, not both")
        if user == item:
            raise DataError(f"user and item are both the column '{user}': give two columns")
        if not isinstance(split, Split):
            raise DataError(
                f"split must be a split, such as data.split(), got {type(split).__name__}"
            )
        self.data: TrainingData = split.training_data(fit)
        frame = read_frame(lists, "lists", ids=(user, item))
        order = rank or score
        for name in (user, item, *([order] if order else [])):
            if name not in frame.columns:
                raise DataError(
                    f"the lists have no column '{name}'; they have {', '.join(frame.columns)}"
                )
            if (row := frame[name].is_null().arg_max()) is not None and frame[name].null_count():
                raise fault("the lists", name, "a value is missing.", row + 1)
            if frame[name].dtype.is_nested():
                raise fault("the lists", name, "a row holds several values: one row a candidate.")
        users, items = (
            _rows(frame[name], vocabulary, text=is_text(lists))
            for name, vocabulary in ((user, self.data.users), (item, self.data.items))
        )
        if (row := _repeats(frame, user, item)) is not None:
            raise fault("the lists", item, "an item is twice in the list of a user.", row + 1)
        places = np.arange(len(users), dtype=np.float64)
        if order:
            if not frame[order].dtype.is_numeric() or frame[order].is_nan().any():
                raise fault("the lists", order, "must hold numbers.")
            places = frame[order].cast(pl.Float64).to_numpy() * (1 if rank else -1)
        if rank and (row := _repeats(frame, user, rank)) is not None:
            cure = "give each item a rank of its own, or order by scores with score=..."
            raise fault("the lists", rank, f"two items of a user have this rank: {cure}", row + 1)
        ties = self.data.items.tie_keys[items] if score else np.zeros(len(items))
        by_user = np.lexsort((ties, places, users))
        by_user = by_user[users[by_user] > 0]
        starts = np.searchsorted(users[by_user], np.arange(len(self.data.users) + 2))
        self._lists = Ragged(torch.from_numpy(items[by_user]), torch.from_numpy(starts))
        self.strange_users = len(np.unique(frame[user].filter(pl.Series(users == 0))))
        self.strange_items = int((items == 0).sum())
        self.users, self.entries = frame[user].n_unique(), len(frame)

    @property
    def made_elsewhere(self) -> bool:
        """True: it is not known which items were ranked, nor at what cost."""
        return True

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return all item rows, because any item of the log could be in a list."""
        return np.arange(1, len(self.data.items) + 1)

    @property
    def matches_nothing(self) -> bool:
        """True if no entry has both its user and its item in the log."""
        return not bool((self._lists.values > 0).any())

    def strangers(self, block: RowQueries) -> Tensor:
        """Return False for all, bool [B]: popular items do not replace a missing list."""
        return torch.zeros(len(block.users), dtype=torch.bool)

    def search(self, block: RowQueries, k: int) -> Hits:
        """Return the first k of each list, without the items that the query must not get."""
        mine = taken(self._lists, block.users)
        rows, owners = mine.values.numpy(), mine.owners().numpy()
        kept = np.ones(len(rows), dtype=np.bool_)
        if block.allow is not None:
            kept &= block.allow.numpy()[rows] | (rows == 0)
        if block.seen is not None:
            width = len(self.data.items) + 1
            met = Ragged(*block.seen)
            seen = met.owners().numpy() * width + met.values.numpy()
            kept &= ~np.isin(owners * width + rows, seen) | (rows == 0)
        rows, owners = rows[kept], owners[kept]
        starts = np.searchsorted(owners, np.arange(len(block.users)))
        place = np.arange(len(rows)) - starts[owners]
        inside = place < k
        ids = np.full((len(block.users), k), -1, dtype=np.int64)
        # An unknown item keeps its place, where it is a miss.
        ids[owners[inside], place[inside]] = np.where(rows[inside] > 0, rows[inside], -1)
        scores = np.where(ids >= 0, -np.arange(k, dtype=np.float32), -np.inf)
        return Hits(torch.from_numpy(ids), torch.from_numpy(scores.astype(np.float32)))

    def shorter(self, users: NDArray[np.int64], k: int) -> int:
        """Return how many of these user rows have a list, but one of fewer than k items."""
        lengths = self._lists.lengths.numpy()[users]
        return int(((lengths > 0) & (lengths < k)).sum())

    def without_list(self, users: NDArray[np.int64]) -> int:
        """Return how many of these user rows have no list."""
        lengths = self._lists.lengths.numpy()
        return int((lengths[users] == 0).sum())


def evaluate_lists(
    lists: Any,
    split: Split,
    *,
    user: str = "user",
    item: str = "item",
    rank: str | None = None,
    score: str | None = None,
    fit: Fit = "train",
    on: Cut = "test",
    k: Sequence[int] = (10, 20, 100),
    exclude_seen: bool = True,
    by: Sequence[str] = (),
    ladder: bool = False,
) -> Report:
    """Measure existing lists of any system on the held-out rows of a split.

    The notes of the report count users without a list, and users and items of the lists that are
    not in the log. For a paired comparison with a model give `evaluation.lists.Listed` to
    `compare`.

    Args:
        lists: a file or frame with one row per candidate.
        split: the split to measure on.
        user: column of user ids.
        item: column of item ids.
        rank: column that orders each list, 1 is best; a user's ranks must differ.
        score: column that orders each list instead, largest first. Without rank and score the order
            is that of the rows.
        fit: the rows that the lists were made from.
        on: the held-out rows, "test" or "validation".
        k: depths of the lists.
        exclude_seen: leave items out that the user met before the cut.
        by: columns to slice by, as in `evaluate`.
        ladder: also measure methods without training, as in `evaluate`.

    Raises:
        DataError: for faulty lists, naming column and row.
        ModelError: if the lists were made from the held-out rows.
        QueryError: if no entry has both its user and its item in the log.
    """
    listed = Listed(lists, split, user=user, item=item, rank=rank, score=score, fit=fit)
    if listed.matches_nothing:
        raise QueryError(
            "no entry of the lists has both its user and its item in the log: check that the lists "
            "use the ids of the log"
        )
    report = evaluate(listed, on=on, k=k, exclude_seen=exclude_seen, by=by, ladder=ladder)
    asked = listed.data.targets(on)[0]
    deepest = max(checked_depths(k))
    said = {
        f"of {len(asked):,} users had no list, which counts as a miss": listed.without_list(asked),
        f"of the lists' {listed.users:,} users had no event in the log, and were left "
        "out": listed.strange_users,
        f"of the lists' {listed.entries:,} entries had an item that is not in the log, which "
        "counts as a miss": listed.strange_items,
    }
    notes = (f"{number:,} {text}." for text, number in said.items() if number)
    counts = {**report.counts, SHORT: listed.shorter(asked, deepest)}
    return replace(report, notes=(*report.notes, *notes), counts=counts)


def _repeats(frame: pl.DataFrame, *columns: str) -> int | None:
    """Return the first row whose values another row before it has; None if there is none."""
    first = frame.select(pl.struct(columns).is_first_distinct()).to_series()
    return None if first.all() else int(first.arg_min() or 0)


def _rows(ids: pl.Series, vocabulary: Vocabulary, *, text: bool) -> NDArray[np.int64]:
    """Return the row of each id, 0 if unknown; numbers read from a text file may be text ids.

    Errors: DataError naming the column for ids of another type than those of the log.
    """
    if text and ids.dtype == pl.Int64 and vocabulary.ids.dtype == pl.String:
        ids = ids.cast(pl.String)
    try:
        return vocabulary.rows(ids)
    except QueryError as error:
        cure = "give the column the type of the log's ids"
        raise fault("the lists", ids.name, f"{error}: {cure}.") from None
