"""ItemCF: what do those who met the same things meet besides? Neighbours of items, summed."""

from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from shortlist.channels.counting.history import MOST_ITEMS, ProfileOptions
from shortlist.channels.counting.neighbour_lists import NeighbourScorer
from shortlist.channels.counting.similarities import (
    Weighed,
    found_neighbours,
    sides,
    sums_of_items,
    weighed,
)
from shortlist.data.dataset import TrainingData
from shortlist.linear.neighbours import (
    Neighbours,
    Pairs,
    renamed,
    spread,
)
from shortlist.sections.base import Count, Duration, NotNegative, Positive, Seed

Floats = NDArray[np.float64]


class ItemCFOptions(ProfileOptions):
    """Which items are neighbours, and how near. V_i: the users of item i; I_u: the items of u."""

    similarity: Literal["cosine", "jaccard", "conditional", "dot", "swing"] = Field(
        default="cosine",
        description='"cosine": |Vi & Vj| / sqrt(|Vi| |Vj|); "jaccard": |Vi & Vj| / |Vi or Vj|; '
        '"conditional": |Vi & Vj| / (|Vi| |Vj|^alpha), of the item i that was met; "dot": '
        '|Vi & Vj|; "swing": pairs of users who share little else.',
    )
    neighbours: Count = Field(default=200, description="How many neighbours an item keeps.")
    alpha: NotNegative | None = Field(
        default=None,
        description="Of conditional: how hard popular items are held down, 0 to 1 (unset: 0.5). "
        "Of swing: the smoothing of what two users share (unset: 1).",
        examples=[0.5],
    )
    user_weighting: Literal["none", "iuf", "inverse"] = Field(
        default="none",
        description='"iuf": a user counts 1 / log(1 + |Iu|); "inverse": 1 / |Iu|, one vote a user, '
        "as in normalised co-counts.",
    )
    item_weighting: Literal["none", "tf-idf", "bm25"] = Field(
        default="none",
        description="Weights of the events, an item being a text and its users the words. "
        "Of cosine and dot.",
    )
    bm25_k1: Positive | None = Field(
        default=None, description="How late BM25 saturates. Unset: 1.2.", examples=[1.2]
    )
    bm25_b: NotNegative | None = Field(
        default=None,
        description="How hard BM25 holds popular items down, 0 to 1. Unset: 0.75.",
        examples=[0.75],
    )
    shrinkage: NotNegative = Field(
        default=0.0,
        description="A similarity is multiplied by n / (n + shrinkage), n the shared users.",
    )
    time_decay: Duration | None = Field(
        default=None,
        description="Half-life: two events of a user so far apart count a half. Seconds, or text "
        'such as "12h" or "7d"; a number is in the unit of data.time where nobody knows it. Needs '
        "data.time.",
        examples=["1d"],
    )
    most_items: Count | None = MOST_ITEMS
    swing_users: Count | None = Field(
        default=None,
        description="Users of an item that swing compares at most, a seeded sample. Unset: 200.",
        examples=[200],
    )
    seed: Seed | None = Field(
        default=None, description="Of the sample of swing_users. Unset: 0.", examples=[0]
    )

    @model_validator(mode="after")
    def _options_act(self) -> Self:
        """Refuse what has no meaning together, or no effect."""
        kind = self.similarity
        plain = self.item_weighting == "none"
        weighted = self.item_weighting
        faults = {
            f"alpha does nothing with similarity = '{kind}': leave it out.": self.alpha is not None
            and kind not in ("conditional", "swing"),
            "most_items = 1 leaves no two items of a user to compare: take 2 or more.": (
                self.most_items == 1
            ),
            "bm25_k1 and bm25_b need item_weighting = 'bm25'.": weighted != "bm25"
            and (self.bm25_k1 is not None or self.bm25_b is not None),
            "bm25_b must be from 0 to 1.": (self.bm25_b or 0) > 1,
            "swing_users and seed need similarity = 'swing'.": kind != "swing"
            and (self.swing_users is not None or self.seed is not None),
            f"item_weighting is for cosine and dot: {kind} counts users.": not plain
            and kind not in ("cosine", "dot"),
            f"{weighted} weighs users already: leave user_weighting out.": not plain
            and self.user_weighting != "none",
            "bm25 under cosine is tf-idf where every event counts 1: its lengths cancel. Take "
            "similarity = 'dot', or item_weighting = 'tf-idf'.": weighted == "bm25"
            and kind == "cosine"
            and self.values == "implicit",
            f"values = 'explicit' is for cosine and dot: {kind} counts users.": self.values
            == "explicit"
            and kind not in ("cosine", "dot"),
            "jaccard compares sets, which know no time_decay: take cosine.": kind == "jaccard"
            and self.time_decay is not None,
            "swing has its own weights: leave user_weighting, shrinkage and time_decay out.": kind
            == "swing"
            and (
                self.user_weighting != "none" or self.shrinkage > 0 or self.time_decay is not None
            ),
        }
        for message, wrong in faults.items():
            if wrong:
                raise ValueError(message)
        return self


class ItemCF(NeighbourScorer[ItemCFOptions]):
    """Neighbours of items by the users they share (Sarwar et al. 2001; Deshpande & Karypis 2004).

    The score of an item is the sum of its similarities to what the user has met, each item met
    speaking for its own nearest `neighbours`. Beside EASE it needs no dense matrix, and a catalogue
    of any size; beside UserCF its neighbours are stored, not looked for with each query.

    With kinds of events, i of s_ij is anything that was met, and j a target: V_i are those who met
    i, V_j those of whom j is a target.
    """

    options_type = ItemCFOptions

    found: Callable[[TrainingData], Neighbours | None] | None = None
    """Where a job has found the neighbours already: what `learn` asks first."""

    def learn(self) -> None:
        """Find the neighbours of all items. Errors: ModelError where a column is missing."""
        found = None if self.found is None else self.found(self.data)
        if found is None:
            found = self._nearest(self.data, self._weighed(self.data), None)
        self._keep(found)

    def _take_events(self, data: TrainingData) -> None:
        """Take new events: only rows that can differ are made anew, the others are kept.

        A row can differ where a user of the item has changed, or where the item shares a user with
        an item whose norm has changed. Weights that read the whole log (tf-idf, bm25) leave none;
        with kinds of events all rows are made anew.
        """
        if self.options.item_weighting != "none" or data.log.kinds is not None:
            self.fit_data(data)
            return
        old, kept, given = self.data, self.neighbours, self._weighed(data)
        rows = self._rows_that_differ(old, data, given)
        names = data.items.rows(old.items.ids[: old.items.trained])
        self._take(data)
        fresh = self._nearest(data, given, rows)
        self._keep(renamed(kept, names, data.items.trained).with_lists(rows, fresh))

    def _weighed(self, data: TrainingData) -> Weighed:
        """The distinct pairs of the training log, once the options are known to fit the data."""
        return weighed(self.options, data.training_log, data.items.trained)

    def _norms(self, data: TrainingData, given: Weighed) -> tuple[Floats, Floats]:
        weight = None if given.user_weight is None else given.user_weight[given.pairs.user]
        item, items = given.pairs.item, data.items.trained
        found = sides(self.options, sums_of_items(self.options, item, given.value, weight, items))
        if (to := given.pairs.target) is None:
            return found
        # With kinds of events the right side is made of targets alone.
        value, weight = (None if of is None else of[to] for of in (given.value, weight))
        aimed = sums_of_items(self.options, item[to], value, weight, items)
        return found[0], sides(self.options, aimed)[1]

    def _nearest(
        self, data: TrainingData, given: Weighed, rows: NDArray[np.int64] | None
    ) -> Neighbours:
        return found_neighbours(
            self.options,
            given,
            self._norms(data, given),
            data.items.tie_keys[: data.items.trained + 1],
            data.users.tie_keys,
            data.time_unit,
            rows,
        )

    def _rows_that_differ(
        self, old: TrainingData, data: TrainingData, given: Weighed
    ) -> NDArray[np.int64]:
        """The rows of `data` whose neighbours may differ from those of `old`, ascending."""
        items = data.items.trained
        was, pairs = self._weighed(old), given.pairs
        user = np.concatenate([[0], data.users.rows(old.users.ids)])
        item = np.concatenate([[0], data.items.rows(old.items.ids[: old.items.trained])])
        before = self._content(old, was.pairs, user, item)
        after = self._content(data, pairs, np.arange(len(data.users) + 1), np.arange(items + 1))
        changed = pl.concat(
            [
                before.join(after, on=before.columns, how="anti", nulls_equal=True)["user"],
                after.join(before, on=before.columns, how="anti", nulls_equal=True)["user"],
            ]
        )
        differ = np.zeros(items + 1, dtype=np.bool_)
        for side in (before, after):
            rows = side.filter(pl.col("user").is_in(changed.implode()))["item"].to_numpy()
            differ[rows[rows <= items]] = True
        if self.options.similarity != "swing":
            moved = np.ones(items + 1, dtype=np.bool_)
            there = np.flatnonzero(item <= items)[1:]
            sides_of = zip(self._norms(old, was), self._norms(data, given), strict=True)
            moved[item[there]] = np.any(
                [norm[there] != new[item[there]] for norm, new in sides_of], axis=0
            )
            differ |= spread(pairs, moved)
        differ[0] = False
        return np.flatnonzero(differ)

    def _content(
        self,
        data: TrainingData,
        pairs: Pairs,
        user: NDArray[np.int64],
        item: NDArray[np.int64],
    ) -> pl.DataFrame:
        """What the neighbours are made of: a row a pair, with users and items called anew."""
        log = data.training_log
        columns: dict[str, NDArray[Any]] = {"user": user[pairs.user], "item": item[pairs.item]}
        if self.options.values == "explicit" and log.weight is not None:
            columns["value"] = log.weight[pairs.event]
        if self.options.time_decay is not None and log.time is not None:
            columns["time"] = log.time[pairs.event]
        return pl.DataFrame(columns)
