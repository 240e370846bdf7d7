"""Popularity: what most meet, of late or among people alike; the baseline every model must beat."""

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
from shortlist.data.dataset import Fit, Split, TrainingData
from shortlist.index.base import Hits
from shortlist.index.exact import ExactIndex
from shortlist.linear.posterior import weights_of_events
from shortlist.sections.base import Duration, Positive, Section, Text
from shortlist.training.lesson import Lesson
from shortlist.training.progress import Progress

STRENGTH = 1000.0
"""Events that the shares of all users count as in a segment, where nobody says how many."""

NO_KEYS = np.zeros(0, dtype=np.int64)
NO_COUNTS = np.zeros(0)


class PopularOptions(Section):
    """Which events count, and for whom."""

    half_life: Duration | None = Field(
        default=None,
        description="Time after which an event counts a half, back from the newest training event: "
        'seconds, or text such as "12h" or "7d"; a number is in the unit of data.time where nobody '
        "knows it. Unset: all count alike.",
        examples=["7d"],
    )
    segment: Text | None = Field(
        default=None,
        description="A categorical column of data.users: each of its values has a list of its own. "
        "Unset: one list for everybody.",
        examples=["occupation"],
    )
    strength: Positive | None = Field(
        default=None,
        description="Events that the shares of all users count as beside a segment's own: the "
        f"more, the nearer its list is to that of everybody. Unset: {STRENGTH:g}.",
        examples=[STRENGTH],
    )

    @model_validator(mode="after")
    def _strength_acts(self) -> Self:
        if self.strength is not None and self.segment is None:
            raise ValueError("strength does nothing without segment: leave it out.")
        return self


class Popular(Explaining):
    """Items by the number of their training events; equal counts go by the tie rule.

    With kinds of events targets alone are counted, each with the weight of its kind.

    It scores catalogue items nobody has touched with 0. Without a segment it needs nothing of the
    user; with one the score is count in the user's segment + strength · share of all events, and a
    user of whom no segment is known gets the list of the shares, and the fallback flag.
    """

    options_type: ClassVar[type[Section]] = PopularOptions

    data: TrainingData
    options: PopularOptions

    @property
    def reads_log(self) -> bool:
        """Whether answers need more of the log than the counts of items."""
        return self.options.half_life is not None or self.options.segment is not None

    def __init__(
        self, options: PopularOptions | None = None, *, device: str = "cpu", **given: Any
    ) -> None:
        self.options = self.options_of(options, given)
        self.device = on_cpu(device, type(self).__name__)

    @classmethod
    def options_of(cls, options: PopularOptions | None, given: Mapping[str, Any]) -> PopularOptions:
        """Return the options with `given` put over them, checked. Errors: ModelError."""
        return checked_options(PopularOptions, options, given, cls.__name__)

    def fit(self, split: Split, fit: Fit = "train", *, progress: Progress | None = None) -> Self:  # noqa: ARG002
        """Count the events that `fit` names."""
        check_split(split)
        return self.fit_data(split.training_data(fit))

    def refit(self, split: Split, fit: Fit, *, progress: Progress | None = None) -> Self:
        """Count again, the events `fit` names."""
        return self.fit(split, fit, progress=progress)

    def fit_data(self, data: TrainingData) -> Self:
        """Count the training events of data made ready before.

        Raises ModelError for a half-life without times, or a segment no categorical column has.
        """
        options, log, items = self.options, data.training_targets, data.items
        weight = weights_of_events(log, options.half_life, data.time_unit)
        # Events observed since may be of items that become candidates with the next fit only.
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
        """Rank items by what their events count together, [items.trained + 1].

        keys: segment · (items + 1) + item row, ascending, segments numbered from 1; count: what the
        events of each key count together.
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
        # One vector of one number, minus the rank: no two are equal, so the order is one sort.
        order = torch.argsort(tie_keys[rows], stable=True)
        order = order[torch.argsort(scores[rows][order], descending=True, stable=True)]
        self._scores, self._rows = scores, rows[order]
        ranks = -torch.arange(len(order), dtype=torch.float32)[:, None]
        self._index = ExactIndex("dot").build(self._rows, ranks)
        return self

    def _list_segments(self) -> None:
        """List what each segment met, by item and by score."""
        items = self.data.items
        owner, met = self._pairs // (len(items) + 1), self._pairs % (len(items) + 1)
        sizes = np.bincount(owner, minlength=len(self._segments) + 1)
        start = np.concatenate([[0], np.cumsum(sizes)])
        scores = (self._count + self._global[met]).astype(np.float32)
        order = np.lexsort((items.tie_keys[met], -scores, owner))
        self._lists = start, met, met[order], scores[order]

    def listed(self) -> pl.DataFrame:
        """Return the lists: segment (null: that of everybody), rank, item and score, best first.

        A segment's own list holds what its users met; of other items they get those of everybody.
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
        """Return the item rows that can be recommended at all."""
        return self.data.candidates(with_features=True)

    def search(self, block: RowQueries, k: int) -> Hits:
        """Answer B queries: item rows [B, k] and their scores."""
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
        """Answer `count` queries with the list of all users: rows [count, k], their scores."""
        hits = self._index.search(torch.ones(count, 1), k, exclude=seen, allow=allow)
        scores = self._scores[hits.ids.clamp(min=0)].masked_fill(hits.ids < 0, float("-inf"))
        return Hits(hits.ids, scores)

    def strangers(self, block: RowQueries) -> Tensor:
        """True for queries whose segment is not known, [B]; false everywhere without segments."""
        if self.options.segment is None:
            return torch.zeros(len(block.users), dtype=torch.bool)
        return torch.from_numpy(self._segment_of[block.users.numpy()] == 0)

    def reasons(self, block: RowQueries, items: Sequence[Tensor]) -> pl.DataFrame:
        """Return what the scores are made of: kind "popularity".

        because: "global" for what all users count, "gender=F" for what this segment counts. An item
        that is no candidate has no row.
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
        """What each segment [n] counts of each item row [n], and what its name is: "gender=F"."""
        keys = segments * (len(self.data.items) + 1) + rows
        place = np.minimum(np.searchsorted(self._pairs, keys), len(self._pairs) - 1)
        count = np.where(self._pairs[place] == keys, self._count[place], 0.0)
        values = pl.Series(["", *self._segments]).gather(segments)
        return count, pl.select(
            pl.format("{}={}", pl.lit(self.options.segment), values)
        ).to_series()

    def observe(self, data: TrainingData) -> Self:
        """Return popularity with new events: `data` is the old data with them."""
        check_data(data)
        return type(self)(self.options, device=self.device).fit_data(data)

    def refreshed(
        self,
        data: TrainingData,
        lesson: Lesson,  # noqa: ARG002 - of towers
        *,
        progress: Progress | None = None,  # noqa: ARG002
    ) -> Self:
        """Return popularity counted on other data."""
        return self.observe(data)

    def state(self) -> State:
        """Return the options: the counts are made from the data."""
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
        """Count again. Bundles from before there were options have none."""
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
    """Merge the list of each query's segment with that of everybody into rows and scores [B, k].

    listed[start[s]:start[s + 1]]: what segment s met, best first, and in `met` the same by row.
    everybody: all candidates, best first, by score [items + 1] of what all users count. allow:
    [items + 1], empty where all items are.
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
                    continue  # the segment has it, with a higher score
            if len(allow) and not allow[item]:
                continue
            if exclude:
                at = np.searchsorted(mine, item)
                if at < len(mine) and mine[at] == item:
                    continue
            rows[query, place] = item
            scores[query, place] = value
            place += 1
