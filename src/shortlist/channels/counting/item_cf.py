"""ItemCF: which other items did the users of these items meet? Sums of item similarities."""

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
from shortlist.data.training_data import TrainingData
from shortlist.linear.neighbours import (
    Neighbours,
    Pairs,
    renamed,
    spread,
)
from shortlist.sections.base import Count, Duration, NotNegative, Positive, Seed

Floats = NDArray[np.float64]


class ItemCFOptions(ProfileOptions):
    """How the neighbours of items are found. V_i: the users of item i; I_u: the items of user u."""

    similarity: Literal["cosine", "jaccard", "conditional", "dot", "swing"] = Field(
        default="cosine",
        description='"cosine": |Vi & Vj| / sqrt(|Vi| |Vj|); "jaccard": |Vi & Vj| / |Vi or Vj|; '
        '"conditional": |Vi & Vj| / (|Vi| |Vj|^alpha), where i is in the history; "dot": '
        '|Vi & Vj|; "swing": pairs of users who share few other items.',
    )
    neighbours: Count = Field(default=200, description="Number of neighbours stored per item.")
    alpha: NotNegative | None = Field(
        default=None,
        description="conditional: how strongly popular items are penalised, 0 to 1 (unset: 0.5). "
        "swing: smoothing of the number of items that two users share (unset: 1).",
        examples=[0.5],
    )
    user_weighting: Literal["none", "iuf", "inverse"] = Field(
        default="none",
        description='"iuf": a user counts 1 / log(1 + |Iu|); "inverse": a user counts 1 / |Iu|, '
        "as in normalised co-occurrence counts.",
    )
    item_weighting: Literal["none", "tf-idf", "bm25"] = Field(
        default="none",
        description="Weighting of the events, where items are treated as documents and users as "
        "words. Only with cosine and dot.",
    )
    bm25_k1: Positive | None = Field(
        default=None, description="BM25 saturation k1; unset: 1.2.", examples=[1.2]
    )
    bm25_b: NotNegative | None = Field(
        default=None,
        description="BM25 length normalisation b: how strongly popular items are penalised, 0 to "
        "1. Unset: 0.75.",
        examples=[0.75],
    )
    shrinkage: NotNegative = Field(
        default=0.0,
        description="A similarity is multiplied by n / (n + shrinkage) for n shared users.",
    )
    time_decay: Duration | None = Field(
        default=None,
        description="Half-life: two events of a user that are this far apart count 1/2. Seconds, "
        'or text such as "12h" or "7d"; a number is in the unit of data.time if that unit is '
        "unknown. Needs data.time.",
        examples=["1d"],
    )
    most_items: Count | None = MOST_ITEMS
    swing_users: Count | None = Field(
        default=None,
        description="swing compares at most so many users of an item, a seeded sample. Unset: 200.",
        examples=[200],
    )
    seed: Seed | None = Field(
        default=None, description="Seed of the swing_users sample. Unset: 0.", examples=[0]
    )

    @model_validator(mode="after")
    def _options_act(self) -> Self:
        """Refuse options that have no meaning together, or no effect."""
        kind = self.similarity
        plain = self.item_weighting == "none"
        weighted = self.item_weighting
        faults = {
            f"alpha does nothing with similarity = '{kind}': leave it out.": self.alpha is not None
            and kind not in ("conditional", "swing"),
            "most_items = 1 leaves no two items of a user to compare: use 2 or more.": (
                self.most_items == 1
            ),
            "bm25_k1 and bm25_b need item_weighting = 'bm25'.": weighted != "bm25"
            and (self.bm25_k1 is not None or self.bm25_b is not None),
            "bm25_b must be from 0 to 1.": (self.bm25_b or 0) > 1,
            "swing_users and seed need similarity = 'swing'.": kind != "swing"
            and (self.swing_users is not None or self.seed is not None),
            f"item_weighting is for cosine and dot: {kind} counts users.": not plain
            and kind not in ("cosine", "dot"),
            f"{weighted} weights users already: leave user_weighting out.": not plain
            and self.user_weighting != "none",
            "bm25 under cosine equals tf-idf if every event counts 1: its lengths cancel. Use "
            "similarity = 'dot', or item_weighting = 'tf-idf'.": weighted == "bm25"
            and kind == "cosine"
            and self.values == "implicit",
            f"values = 'explicit' is for cosine and dot: {kind} counts users.": self.values
            == "explicit"
            and kind not in ("cosine", "dot"),
            "jaccard compares sets, which have no time_decay: use cosine.": kind == "jaccard"
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
    """Item neighbours by the users they share (Sarwar et al. 2001; Deshpande & Karypis 2004).

    The score of an item is the sum of its similarities to the items of the history. Each item of
    the history adds to its own nearest `neighbours` only. EASE needs a dense matrix of items x
    items; ItemCF does not, so the catalogue can be of any size. UserCF searches its neighbours for
    each query; here they are stored.

    With kinds of events, in s_ij item i is any item of the history and j is a target: V_i are the
    users with any event of i, V_j the users who have j as a target.
    """

    options_type = ItemCFOptions

    found: Callable[[TrainingData], Neighbours | None] | None = None
    """Set by a job that has already computed the neighbours; `learn` calls it first."""

    def learn(self) -> None:
        """Find the neighbours of all items. Errors: ModelError for a missing column."""
        found = None if self.found is None else self.found(self.data)
        if found is None:
            found = self._nearest(self.data, self._weighed(self.data), None)
        self._keep(found)

    def _take_events(self, data: TrainingData) -> None:
        """Take new events: recompute only the rows that can differ, and keep the others.

        A row can differ if a user of its item has changed, or if the item shares a user with an
        item whose norm has changed. tf-idf, bm25 and kinds of events recompute all rows.
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
        """Return the distinct pairs of the training log, after checking options against data."""
        return weighed(self.options, data.training_log, data.items.trained)

    def _norms(self, data: TrainingData, given: Weighed) -> tuple[Floats, Floats]:
        weight = None if given.user_weight is None else given.user_weight[given.pairs.user]
        item, items = given.pairs.item, data.items.trained
        found = sides(self.options, sums_of_items(self.options, item, given.value, weight, items))
        if (to := given.pairs.target) is None:
            return found
        # With kinds of events, the right-hand side is computed from targets only.
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
        """Return the rows of `data` whose neighbours may differ from those of `old`, ascending."""
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
        """Return what the neighbours are computed from, one row per pair, in the new row numbers.

        user, item: the new number of each old one.
        """
        log = data.training_log
        columns: dict[str, NDArray[Any]] = {"user": user[pairs.user], "item": item[pairs.item]}
        if self.options.values == "explicit" and log.weight is not None:
            columns["value"] = log.weight[pairs.event]
        if self.options.time_decay is not None and log.time is not None:
            columns["time"] = log.time[pairs.event]
        return pl.DataFrame(columns)
