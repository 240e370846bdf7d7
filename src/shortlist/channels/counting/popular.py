"""Popularity, optionally recent or per user segment: the baseline that every model must beat."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from shortlist.asking.capabilities import State
from shortlist.asking.explaining import REASONS, Explaining
from shortlist.asking.rows import RowQueries
from shortlist.asking.unfitted import check_data, check_split
from shortlist.channels.counting.attributes import categories
from shortlist.channels.options import checked_options, on_cpu
from shortlist.compiled import compiled
from shortlist.data.dataset import Split
from shortlist.data.training_data import Fit, TrainingData
from shortlist.index.base import Hits
from shortlist.index.exact import ExactIndex
from shortlist.linear.posterior import weights_of_events
from shortlist.sections.base import Duration, Positive, Section, Text
from shortlist.training.lesson import Lesson
from shortlist.training.progress import Progress

STRENGTH = 1000.0
"""Default of `strength`: the weight of all users' shares, in events."""

NO_KEYS = np.zeros(0, dtype=np.int64)
NO_COUNTS = np.zeros(0)


class PopularOptions(Section):
    """Which events count, and for which users."""

    half_life: Duration | None = Field(
        default=None,
        description="Time after which an event counts 1/2, measured back from the newest training "
        'event. Seconds, or text such as "12h" or "7d"; a number is in the unit of data.time if '
        "that unit is unknown. Unset: all count the same.",
        examples=["7d"],
    )
    segment: Text | None = Field(
        default=None,
        description="Categorical column of data.users: each of its values has its own list. "
        "Unset: one list for all users.",
        examples=["occupation"],
    )
    strength: Positive | None = Field(
        default=None,
        description="Weight of the shares of all users against a segment's own events, as a "
        f"number of events: larger is closer to the list of all users. Unset: {STRENGTH:g}.",
        examples=[STRENGTH],
    )

    @model_validator(mode="after")
    def _strength_acts(self) -> Self:
        if self.strength is not None and self.segment is None:
            raise ValueError("strength does nothing without segment: leave it out.")
        return self


class Popular(Explaining):
    """Items by their number of training events; equal counts are ordered by the tie rule.

    With kinds of events only targets count, each with the weight of its kind.

    Catalogue items without events have the score 0. Without `segment` it reads nothing of the user.
    With it the score is count in the user's segment + strength · share of all events. A user of
    unknown segment gets the list by the shares, and the fallback flag.
    """

    options_type: ClassVar[type[Section]] = PopularOptions

    data: TrainingData
    options: PopularOptions

    @property
    def reads_log(self) -> bool:
        """True if answers need more of the log than the number of events per item."""
        return self.options.half_life is not None or self.options.segment is not None

    def __init__(
        self, options: PopularOptions | None = None, *, device: str = "cpu", **given: Any
    ) -> None:
        self.options = self.options_of(options, given)
        self.device = on_cpu(device, type(self).__name__)

    @classmethod
    def options_of(cls, options: PopularOptions | None, given: Mapping[str, Any]) -> PopularOptions:
        """Return the options with `given` overriding them, checked. Errors: ModelError."""
        return checked_options(PopularOptions, options, given, cls.__name__)

    def fit(self, split: Split, fit: Fit = "train", *, progress: Progress | None = None) -> Self:  # noqa: ARG002
        """Count the events of the rows that `fit` names."""
        check_split(split)
        return self.fit_data(split.training_data(fit))

    def refit(self, split: Split, fit: Fit, *, progress: Progress | None = None) -> Self:
        """Count again, the events of the rows that `fit` names."""
        return self.fit(split, fit, progress=progress)

    def fit_data(self, data: TrainingData) -> Self:
        """Count the training events of data that was prepared before.

        Errors: ModelError for a half-life without times, or a segment that is no categorical
        column.
        """
        options, log, items = self.options, data.training_targets, data.items
        weight = weights_of_events(log, options.half_life, data.time_unit)
        # Items that came after the fit become candidates with the next fit only.
        counts = _summed(log.item, weight, items.trained + 1)[: items.trained + 1]
        if data.counts is not None:
            counts = data.counts.astype(np.float64)
        if options.segment is None:
            return self.rank(data, counts)
        values, self._segment_of = categories(
            options.segment, data.user_frame, data.user_features, data.users
        )
        of = self._segment_of[log.user]
        known = (of > 0) & (log.item <= items.trained)
        keys, place = np.unique(of[known] * (len(items) + 1) + log.item[known], return_inverse=True)
        return self.rank(data, counts, values, keys, _summed(place, weight[known], len(keys)))

    def rank(
        self,
        data: TrainingData,
        counts: NDArray[np.float64],
        segments: tuple[str, ...] = (),
        keys: NDArray[np.int64] = NO_KEYS,
        count: NDArray[np.float64] = NO_COUNTS,
    ) -> Self:
        """Rank items by counts that were computed before.

        Args:
            data: the data, whose candidates are ranked.
            counts: weighted number of events of each item row, [items.trained + 1].
            segments: names of the segments, numbered from 1.
            keys: segment · (items + 1) + item row of each pair with events, ascending.
            count: weighted number of events of each key.
        """
        self.data = data
        options, items = self.options, data.items
        self._global = np.zeros(len(items) + 1)
        self._global[: items.trained + 1] = counts
        if options.segment is not None:
            self._global *= (options.strength or STRENGTH) / max(counts.sum(), 1.0)
            self._segments, self._pairs, self._count = segments, keys, count
            self._list_segments()
        rows = torch.from_numpy(data.candidates(with_features=True))
        scores = torch.from_numpy(self._global.astype(np.float32))
        tie_keys = torch.from_numpy(items.tie_keys)
        # One vector of one number, minus the rank: all differ, so the order is that of one sort.
        order = torch.argsort(tie_keys[rows], stable=True)
        order = order[torch.argsort(scores[rows][order], descending=True, stable=True)]
        self._scores, self._rows = scores, rows[order]
        ranks = -torch.arange(len(order), dtype=torch.float32)[:, None]
        self._index = ExactIndex("dot").build(self._rows, ranks)
        return self

    def _list_segments(self) -> None:
        """Sort the items of each segment, by row and by score."""
        items = self.data.items
        owner, met = self._pairs // (len(items) + 1), self._pairs % (len(items) + 1)
        sizes = np.bincount(owner, minlength=len(self._segments) + 1)
        start = np.concatenate([[0], np.cumsum(sizes)])
        scores = (self._count + self._global[met]).astype(np.float32)
        order = np.lexsort((items.tie_keys[met], -scores, owner))
        self._lists = start, met, met[order], scores[order]

    def listed(self) -> pl.DataFrame:
        """Return the lists as a table of segment, rank, item and score, best first.

        The segment is null for the list of all users. A segment's own list has only the items that
        its users met; other items have the score of the list of all users.
        """
        everybody, scores = self._rows.numpy(), self._scores.numpy()
        names: list[str | None] = [None] * len(everybody)
        lists = [(names, np.arange(len(everybody)), everybody, scores[everybody])]
        if self.options.segment is not None:
            start, _, rows, own = self._lists
            owner = np.repeat(np.arange(len(start) - 1), np.diff(start))
            texts = pl.Series(["", *self._segments]).gather(owner).to_list()
            lists.append((texts, np.arange(len(rows)) - start[owner], rows, own))
        return pl.concat(
            pl.DataFrame(
                {
                    "segment": pl.Series(texts, dtype=pl.String),
                    "rank": rank + 1,
                    "item": self.data.items.external(rows),
                    "score": own,
                }
            )
            for texts, rank, rows, own in lists
        )

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that can be recommended, [C] int64."""
        return self.data.candidates(with_features=True)

    def search(self, block: RowQueries, k: int) -> Hits:
        """Answer B queries with item rows and scores, [B, k] each."""
        if self.options.segment is None:
            return self.everybody(len(block.users), k, block.seen, block.allow)
        seen = block.seen or block.history
        rows = np.full((len(block.users), k), -1, dtype=np.int64)
        scores = np.full((len(block.users), k), -np.inf, dtype=np.float32)
        _merge(
            *self._lists,
            self._rows.numpy(),
            self._scores.numpy(),
            self.data.items.tie_keys,
            self._segment_of[block.users.numpy()],
            seen[0].numpy(),
            seen[1].numpy(),
            block.exclude,
            np.zeros(0, dtype=np.bool_) if block.allow is None else block.allow.numpy(),
            rows,
            scores,
        )
        return Hits(torch.from_numpy(rows), torch.from_numpy(scores))

    def everybody(
        self,
        count: int,
        k: int,
        seen: tuple[Tensor, Tensor] | None,
        allow: Tensor | None = None,
    ) -> Hits:
        """Answer `count` queries with the list of all users: rows and scores, [count, k] each."""
        hits = self._index.search(torch.ones(count, 1), k, exclude=seen, allow=allow)
        scores = self._scores[hits.ids.clamp(min=0)].masked_fill(hits.ids < 0, float("-inf"))
        return Hits(hits.ids, scores)

    def strangers(self, block: RowQueries) -> Tensor:
        """Return True for queries of unknown segment, bool [B]; all False without segments."""
        if self.options.segment is None:
            return torch.zeros(len(block.users), dtype=torch.bool)
        return torch.from_numpy(self._segment_of[block.users.numpy()] == 0)

    def reasons(self, block: RowQueries, items: Sequence[Tensor]) -> pl.DataFrame:
        """Return the counts that make each score: kind "popularity".

        because: "global" for the count of all users, "gender=F" for the count of this segment.
        Items that are not candidates have no row.
        """
        users = block.users.numpy()
        query = np.repeat(np.arange(len(items)), [len(part) for part in items])
        row = np.concatenate([*(part.numpy() for part in items), np.zeros(0, dtype=np.int64)])
        kept = np.isin(row, self.candidate_rows())
        query, row = query[kept], row[kept]
        reasons = pl.DataFrame(
            {
                "query": query,
                "item": row,
                "kind": ["popularity"] * len(row),
                "because": ["global"] * len(row),
                "contribution": self._global[row],
            },
            schema=REASONS,
        )
        if self.options.segment is None or not len(row):
            return reasons
        count, names = self._of_segments(self._segment_of[users[query]], row)
        own = reasons.with_columns(names.alias("because"), pl.Series("contribution", count))
        return pl.concat([reasons, own.filter(pl.col("contribution") > 0)])

    def _of_segments(
        self, segments: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], pl.Series]:
        """Return each segment's [n] count of each item row [n], and its name, such as gender=F."""
        keys = segments * (len(self.data.items) + 1) + rows
        place = np.minimum(np.searchsorted(self._pairs, keys), len(self._pairs) - 1)
        count = np.where(self._pairs[place] == keys, self._count[place], 0.0)
        values = pl.Series(["", *self._segments]).gather(segments)
        return count, pl.select(
            pl.format("{}={}", pl.lit(self.options.segment), values)
        ).to_series()

    def observe(self, data: TrainingData) -> Self:
        """Return this channel with new events: `data` is the old data plus these."""
        check_data(data)
        return type(self)(self.options, device=self.device).fit_data(data)

    def refreshed(
        self,
        data: TrainingData,
        lesson: Lesson,  # noqa: ARG002 - of towers
        *,
        progress: Progress | None = None,  # noqa: ARG002
    ) -> Self:
        """Return this channel counted on other data."""
        return self.observe(data)

    def state(self) -> State:
        """Return the options; the counts are computed from the data."""
        return {"options": self.options.model_dump(mode="json")}, {}

    @classmethod
    def from_state(
        cls,
        data: TrainingData,
        settings: Mapping[str, Any],
        states: Mapping[str, Mapping[str, Tensor]],  # noqa: ARG003
        *,
        device: str = "cpu",
    ) -> Self:
        """Count again. Bundles that were written before there were options have none."""
        options = PopularOptions.model_validate(settings.get("options", {}))
        return cls(options, device=device).fit_data(data)


def _summed(keys: NDArray[Any], weight: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    return np.asarray(np.bincount(keys, weight, length), dtype=np.float64)


@compiled
def _merge(
    start: NDArray[np.int64],
    met: NDArray[np.int64],
    listed: NDArray[np.int64],
    listed_score: NDArray[np.float32],
    everybody: NDArray[np.int64],
    score: NDArray[np.float32],
    keys: NDArray[np.int64],
    segments: NDArray[np.int64],
    seen: NDArray[np.int64],
    seen_start: NDArray[np.int64],
    exclude: bool,
    allow: NDArray[np.bool_],
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> None:
    """Merge the list of each query's segment with that of all users, into rows and scores [B, k].

    start: [segments + 2], segment s has the places start[s] to start[s + 1].
    met: the items of each segment, by row.
    listed, listed_score: the same items and their scores, best first.
    everybody: all candidates, best first.
    score: [items + 1], the score of each item in the list of all users.
    keys: tie keys of the items, [items + 1].
    segments: the segment of each query, [B]; 0 for none.
    seen, seen_start: the items seen by each query, left out if `exclude`.
    allow: bool [items + 1]; empty if all items are allowed.
    """
    for query in range(len(segments)):
        begin, end = start[segments[query]], start[segments[query] + 1]
        own, other, place = begin, 0, 0
        mine = np.sort(seen[seen_start[query] : seen_start[query + 1]])
        while place < rows.shape[1] and (own < end or other < len(everybody)):
            take_own = own < end
            if take_own and other < len(everybody):
                mine_score, rival = listed_score[own], everybody[other]
                tied = mine_score == score[rival] and keys[listed[own]] <= keys[rival]
                take_own = tied or mine_score > score[rival]
            if take_own:
                item, value = listed[own], listed_score[own]
                own += 1
            else:
                item, value = everybody[other], score[everybody[other]]
                other += 1
                at = begin + np.searchsorted(met[begin:end], item)
                if at < end and met[at] == item:
                    continue  # the segment's list has it, with a higher score
            if len(allow) and not allow[item]:
                continue
            if exclude:
                at = np.searchsorted(mine, item)
                if at < len(mine) and mine[at] == item:
                    continue
            rows[query, place] = item
            scores[query, place] = value
            place += 1
