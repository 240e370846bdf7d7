"""Which items have the attribute values that the user likes? Sorted item lists per value."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from shortlist.asking.candidates import Candidates
from shortlist.asking.explaining import REASONS, Explaining
from shortlist.asking.queries import check_k
from shortlist.asking.rows import RowQueries
from shortlist.asking.similar import FindingSimilar
from shortlist.channels.counting.attributes import value_lists
from shortlist.channels.counting.base import Counting
from shortlist.channels.kept import check_offsets, check_rows, check_tensors
from shortlist.data.dataset import Split
from shortlist.data.ragged import Ragged
from shortlist.data.training_data import Fit, TrainingData
from shortlist.errors import ModelError, QueryError, suggest
from shortlist.index.base import Hits
from shortlist.linear.inverted_lists import (
    Members,
    SortedLists,
    Tastes,
    best_of_lists,
    fill_lists,
    tastes_of,
)
from shortlist.linear.posterior import PRIOR_STRENGTH, Metric, counted, posterior
from shortlist.sections.base import Count, Duration, Names, Positive, Section, Text
from shortlist.training.progress import Progress


class InvertedOptions(Section):
    """Which attribute has lists, how they are sorted, and how a user's taste is computed."""

    attribute: Text = Field(
        description="Categorical or multi-valued column of data.items; each value has a list.",
        examples=["genres"],
    )
    metric: Metric = Field(
        default="count",
        description='What lists are sorted by: "count" of training events; "recent": each event '
        'counts by its age; "ctr": clicks per impression; "conversion": training events per '
        "impression.",
    )
    half_life: Duration | None = Field(
        default=None,
        description='metric = "recent": time after which an event counts 1/2. Seconds, or text '
        'such as "12h" or "7d"; a number is in the unit of data.time if that unit is unknown.',
        examples=["7d"],
    )
    prior_strength: Positive | None = Field(
        default=None,
        description='metric = "ctr" and "conversion": weight of the overall rate, as a number of '
        f"impressions, against an item's own rate. Unset: {PRIOR_STRENGTH:g}.",
        examples=[PRIOR_STRENGTH],
    )
    list_length: Count = Field(
        default=1000, description="Number of items stored per value, the best by the metric."
    )
    values: Names | None = Field(
        default=None,
        description="Values that every query uses. Unset: those of the query's history.",
        examples=[["yes"]],
    )
    taste: Literal["share", "lift"] = Field(
        default="share",
        description='A history\'s taste for a value: "share" among the values of its items, or '
        '"lift", that share divided by the share in all training events.',
    )
    combine: Literal["sum", "mean"] = Field(
        default="sum",
        description='An item\'s score: the "sum" of taste x metric over its values, or the "mean", '
        "which gives items with many values no advantage.",
    )
    recency: Positive | None = Field(
        default=None,
        description="Half-life in a history, counted in events: the newest event counts 1, the "
        "event so many before it counts 1/2. Unset: all count the same. Needs data.time.",
        examples=[10.0],
    )
    latest_items: Count | None = Field(
        default=None,
        description="Number of latest events of a history that make the taste. Unset: all. Needs "
        "data.time.",
        examples=[50],
    )

    @model_validator(mode="after")
    def _options_act(self) -> Self:
        if (self.half_life is None) == (self.metric == "recent"):
            raise ValueError("metric = 'recent' needs half_life, and half_life needs that metric.")
        if self.prior_strength is not None and self.metric not in ("ctr", "conversion"):
            raise ValueError(
                f"prior_strength does nothing with metric = '{self.metric}': leave it out."
            )
        if self.values is not None:
            for key in ("recency", "latest_items"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} does nothing with values, which replace the history.")
        return self

    def idle(self) -> str:
        """Recency changes nothing if only the newest event is read."""
        if self.recency is not None and self.latest_items == 1:
            return (
                "recency does nothing with latest_items = 1, which reads only the newest event: "
                "leave it out"
            )
        return super().idle()


class Inverted(Counting[InvertedOptions], Explaining, FindingSimilar):
    """An inverted index: for each attribute value a list of items, sorted by a metric and cut.

    A user's taste is the share of each value among the values of the items in their history, or
    its lift over the share in all events. An item's score is the sum, or mean, of taste · metric
    over its values. A value contributes 0 to an item that its list does not hold because it was
    cut. The best items are found exactly by the threshold algorithm (Fagin, Lotem, Naor 2001),
    without reading whole lists. Unlike ItemToItem it needs no co-occurrence of items.

    With `values` it is a rule ("shareable = yes"): every query uses these values with weight 1, and
    no query is a stranger. Without, a query whose history has no value gets popular items and the
    fallback flag.
    """

    reads_log = False

    options_type: ClassVar[type[Section]] = InvertedOptions

    found: Callable[[TrainingData], NDArray[np.float32]] | None = None
    """Set by a job that has already computed the metric of the items; `learn` calls it first."""

    _members: Members
    _lists: SortedLists

    def fit(self, split: Split, fit: Fit = "train", *, progress: Progress | None = None) -> Self:
        """Sort the lists by the rows that `fit` names.

        Errors: ModelError for combine = "mean" if no item has several values, and as for `learn`.
        """
        super().fit(split, fit, progress=progress)
        if self.options.combine == "mean" and (np.diff(self._members.start) < 2).all():
            raise ModelError(
                f"combine = 'mean' does nothing here: no item has several values of "
                f"'{self.options.attribute}'; leave it out"
            )
        return self

    def learn(self) -> None:
        """Sort every list anew.

        Errors: ModelError for an attribute that does not exist, holds numbers or is empty, for a
        metric that the data cannot give, and for values that no trained item has.
        """
        self._prepare()
        listed = np.zeros(len(self._members.start) - 1, dtype=np.bool_)
        listed[self._listed()] = True
        has = np.repeat(listed, np.diff(self._members.start))
        sizes = np.bincount(self._members.value[has], minlength=len(self.values))
        start = np.concatenate([[0], np.cumsum(np.minimum(sizes, self.options.list_length))])
        total = int(start[-1])
        self._lists = SortedLists(start, np.zeros(total, np.int64), np.zeros(total, np.float32))
        self._sort(np.ones(len(self.values), dtype=np.bool_), self._worth(self.data))

    def refresh(
        self, values: Sequence[str] | None = None, *, data: TrainingData | None = None
    ) -> Self:
        """Sort lists again by the current metric, in place, and return this channel.

        Do not call it while other threads query the channel.

        Args:
            values: the values whose lists are sorted; None: all. Other lists keep their old metric.
            data: data with new events or impressions, and the same trained items and values; None:
                the data of the last fit or refresh.

        Raises:
            ModelError: for unknown values, and for data of other items, which need `observe`.
        """
        wanted = np.ones(len(self.values), dtype=np.bool_)
        if values is not None:
            wanted[:] = False
            wanted[self._known(values)] = True
        if data is not None:
            before, trained = self._members, self.data.items.trained
            ids = data.items.ids.head(trained)
            if data.items.trained != trained or not ids.equals(self.data.items.ids.head(trained)):
                raise ModelError("refresh takes data of the same items; for new ones use observe")
            names, start, codes = self._attribute(data)
            if names != self.values or not (
                np.array_equal(start[: trained + 2], before.start[: trained + 2])
                and np.array_equal(codes, before.value)
            ):
                raise ModelError(
                    f"items have other values of '{self.options.attribute}' now: use observe"
                )
        worth = self._worth(data or self.data)  # before any change, as it can raise
        if data is not None:
            self._take(data)
            self._members = before._replace(start=start)  # the new data may have more items
            self._scale = self._lifts()
        self._sort(wanted, worth)
        return self

    def lookup(self, values: Sequence[Sequence[Any]], k: int = 10) -> Candidates:
        """Return the k best items that have the given values.

        The score is the sum of the metric over an item's values among the given ones. Unknown
        values are ignored; a query without a known one gets an empty answer and the fallback flag.

        Args:
            values: one list of values per query.
            k: number of items per query.

        Raises:
            QueryError: for values that are not a list of lists, or a k out of range.
        """
        k = check_k(k, self.data.items.trained)
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise QueryError(f"lookup takes a list of lists of values, got {values!r:.60}")
        start = np.zeros(len(values) + 1, dtype=np.int64)
        codes: list[int] = []
        for query, given in enumerate(values):
            if isinstance(given, str) or not isinstance(given, Sequence):
                raise QueryError(f"lookup takes a list of values a query, got {given!r:.60}")
            known = {self._code.get(_text(value), -1) for value in given} - {-1}
            codes += sorted(known)
            start[query + 1] = len(codes)
        tastes = Tastes(start, np.array(codes, dtype=np.int64), np.ones(len(codes)))
        rows, scores = self._best(tastes, k)
        return Candidates(rows, scores, np.diff(start) == 0, self.data.items)

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that can be recommended, [C] int64."""
        return self._rows

    def search(self, block: RowQueries, k: int) -> Hits:
        """Answer B queries by their tastes."""
        return self._hits(self._tastes_of(block), block, k)

    def strangers(self, block: RowQueries) -> Tensor:
        """Return True for queries whose history has no trained item with a value, bool [B]."""
        return torch.from_numpy(np.diff(self._tastes_of(block).start) == 0)

    def near(self, rows: Tensor, k: int) -> Hits:
        """Return the k items that share most values with each item row, excluding that item."""
        one = torch.arange(len(rows) + 1)
        users = torch.zeros(len(rows), dtype=torch.int64)
        block = RowQueries(users, Ragged(rows, one), exclude=True)
        return self._hits(self._tastes_of_history(block), block, k)

    def reasons(self, block: RowQueries, items: Sequence[Tensor]) -> pl.DataFrame:
        """Return what each value contributes to each item: taste · metric, kind "attribute"."""
        tastes, members, lists = self._tastes_of(block), self._members, self._lists
        parts = [pl.DataFrame(schema=REASONS)]
        for query, wanted in enumerate(items):
            mine = slice(tastes.start[query], tastes.start[query + 1])
            taste = np.zeros(len(self.values))
            taste[tastes.value[mine]] = tastes.weight[mine]
            rows = wanted.numpy()
            length = members.start[rows + 1] - members.start[rows]
            pair = np.repeat(members.start[rows + 1] - np.cumsum(length), length)
            pair += np.arange(len(pair))
            row = np.repeat(rows, length)
            given = (members.place[pair] >= 0) & (taste[members.value[pair]] > 0)
            pair, row = pair[given], row[given]
            value = members.value[pair]
            gain = taste[value] * lists.worth[lists.start[value] + members.place[pair]]
            if tastes.mean:
                gain = gain / (members.start[row + 1] - members.start[row])
            part = {
                "query": np.full(len(pair), query),
                "item": row,
                "kind": ["attribute"] * len(pair),
                "because": [self.values[v] for v in value],
                "contribution": gain,
            }
            parts.append(pl.DataFrame(part, schema=REASONS))
        return pl.concat(parts)

    def listed(self) -> pl.DataFrame:
        """Return the lists as a table of value, rank, item and worth (the metric), best first."""
        lists = self._lists
        value = np.repeat(np.arange(len(self.values)), np.diff(lists.start))
        return pl.DataFrame(
            {
                "value": pl.Series(self.values, dtype=pl.String).gather(value),
                "rank": np.arange(len(value)) - lists.start[value] + 1,
                "item": self.data.items.external(lists.item),
                "worth": lists.worth,
            }
        )

    def learned(self) -> dict[str, Tensor]:
        """Return the lists; after a `refresh` of some values they differ from those of a fit."""
        return {
            "start": torch.from_numpy(self._lists.start),
            "item": torch.from_numpy(self._lists.item),
            "worth": torch.from_numpy(self._lists.worth),
        }

    def set_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the lists and find the place of each item in them."""
        self._prepare()
        check_tensors(
            "learned",
            tensors,
            {
                "start": (torch.int64, (len(self.values) + 1,)),
                "item": (torch.int64, ("L",)),
                "worth": (torch.float32, ("L",)),
            },
        )
        check_offsets("learned: start", tensors["start"], len(tensors["item"]))
        check_rows("learned: item", tensors["item"], 1, self.data.items.trained)
        self._lists = SortedLists(*(tensors[name].numpy() for name in ("start", "item", "worth")))
        width = len(self.values)
        value = np.repeat(np.arange(width), np.diff(self._lists.start))
        owner = np.repeat(np.arange(len(self.data.items) + 1), np.diff(self._members.start))
        keys, wanted = owner * width + self._members.value, self._lists.item * width + value
        pair = np.searchsorted(keys, wanted).clip(max=max(len(keys) - 1, 0))
        if not np.array_equal(keys[pair], wanted) or len(np.unique(pair)) < len(pair):
            raise ModelError(
                f"learned: item must list each item once under its own '{self.options.attribute}'"
            )
        falls = np.diff(self._lists.worth) <= 0
        begins = self._lists.start[1:-1]
        falls[begins[(begins > 0) & (begins < len(value))] - 1] = True
        if not falls.all():
            raise ModelError("learned: worth must not rise within a list")
        self._members.place[pair] = np.arange(len(value)) - self._lists.start[value]

    def _prepare(self) -> None:
        """Read and check the attribute and the values of the options."""
        options, data = self.options, self.data
        for key in ("recency", "latest_items"):
            if getattr(options, key) is not None and not data.ordered:
                raise ModelError(f"{key} needs data.time: without it a history has no order")
        self.values, start, codes = self._attribute(data)
        self._code = {value: code for code, value in enumerate(self.values)}
        self._members = Members(start, codes, np.full(len(codes), -1, dtype=np.int64))
        self._scale = self._lifts()
        self._rows = data.candidates(with_features=False)
        self._rule = None
        if options.values is not None:
            self._rule = np.sort(self._known(options.values))

    @property
    def item_columns(self) -> frozenset[str]:
        """The item column named by `attribute`."""
        return frozenset((self.options.attribute,))

    def _attribute(
        self, data: TrainingData
    ) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.int64]]:
        """Return the values and the codes (from 0) of each trained item row; others have none."""
        values, start, codes = value_lists(
            self.options.attribute, data.item_frame, data.item_features, data.items
        )
        start = np.minimum(start, start[data.items.trained + 1])
        return values, start, codes[: start[-1]] - 1

    def _lifts(self) -> NDArray[np.float64]:
        """Return the factor of each value's share, [V]; for "lift" 1 / its share in all events."""
        if self.options.taste == "share":
            return np.ones(len(self.values))
        trained, start = self.data.items.trained, self._members.start
        counts = counted(self.data.training_targets, trained)
        events = np.repeat(counts, np.diff(start[: trained + 2]))
        met = np.bincount(self._members.value, events, minlength=len(self.values))
        # A value whose items were never a target has an empty list.
        lifts: NDArray[np.float64] = np.zeros(len(met))
        np.divide(met.sum(), met, out=lifts, where=met > 0)
        return lifts

    def _worth(self, data: TrainingData) -> NDArray[np.float32]:
        """Return the metric of each trained item row, [items.trained + 1]."""
        if self.found is not None:
            return self.found(data)
        options = self.options
        return posterior(
            data,
            options.metric,
            half_life=options.half_life,
            prior_strength=options.prior_strength or PRIOR_STRENGTH,
        ).astype(np.float32)

    def _listed(self) -> NDArray[np.int64]:
        """Return the item rows that lists hold: trained ones that were a target."""
        if self.data.training_log.target is None:
            return np.arange(1, self.data.items.trained + 1)
        return self.data.candidates(with_features=False)

    def _sort(self, wanted: NDArray[np.bool_], worth: NDArray[np.float32]) -> None:
        """Fill the lists of the values `wanted`, bool [V], sorted by the metric `worth`."""
        rows = self._listed()
        if not wanted.all():
            has = np.concatenate([[0], np.cumsum(wanted[self._members.value])])
            has = has[self._members.start]
            rows = rows[has[rows + 1] > has[rows]]
        keys = self.data.items.tie_keys
        order = np.lexsort((keys[rows], -worth[rows]))
        fill_lists(rows[order], worth, wanted, self._members, self._lists)

    def _known(self, values: Sequence[str]) -> NDArray[np.int64]:
        if isinstance(values, str):
            raise ModelError(f"values are a list, got the text {values!r:.60}: write [{values!r}]")
        for value in values:
            if value not in self._code:
                raise ModelError(
                    f"no trained item has {value!r} as '{self.options.attribute}'."
                    + suggest(str(value), self.values)
                )
        return np.array([self._code[value] for value in values], dtype=np.int64)

    def _tastes_of(self, block: RowQueries) -> Tastes:
        if self._rule is None:
            return self._tastes_of_history(block)
        queries, rule = len(block.users), self._rule
        start = np.arange(queries + 1) * len(rule)
        return Tastes(start, np.tile(rule, queries), np.ones(queries * len(rule)))

    def _tastes_of_history(self, block: RowQueries) -> Tastes:
        options = self.options
        return tastes_of(
            block.history.values.numpy(),
            block.history.offsets.numpy(),
            self._members,
            self.data.items.trained,
            self._scale,
            recency=options.recency,
            latest=options.latest_items,
            mean=options.combine == "mean",
            worth=None if block.worth is None else block.worth.numpy(),
        )

    def _hits(self, tastes: Tastes, block: RowQueries, k: int) -> Hits:
        seen = None if block.seen is None else (block.seen[0].numpy(), block.seen[1].numpy())
        allow = None if block.allow is None else block.allow.numpy()
        rows, scores = self._best(tastes, k, seen, allow)
        return Hits(torch.from_numpy(rows), torch.from_numpy(scores))

    def _best(
        self,
        tastes: Tastes,
        k: int,
        seen: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
        allow: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        keys = self.data.items.tie_keys
        return best_of_lists(tastes, self._lists, self._members, keys, k, seen, allow)


def _text(value: Any) -> str:
    """Format a value as the encoder of a column does."""
    return str(value).lower() if isinstance(value, bool) else str(value)
