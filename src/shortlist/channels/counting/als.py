"""Matrix factorisation of an implicit log, where a user is folded in from their history."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from shortlist.asking.explaining import REASONS
from shortlist.asking.rows import RowQueries
from shortlist.channels.counting.fitted import rows_before
from shortlist.channels.counting.history import (
    HistoryScorer,
    ProfileOptions,
    check_order,
    no_profile,
)
from shortlist.channels.kept import check_tensors
from shortlist.data.dataset import TrainingData
from shortlist.errors import ModelError
from shortlist.index.base import Hits
from shortlist.index.exact import ExactIndex
from shortlist.linear.als import Side, fixed_side, solve
from shortlist.linear.matrix import Matrix, user_item_matrix
from shortlist.linear.products import Floats, product
from shortlist.sections.base import Count, NotNegative, Positive, Seed


class ALSOptions(ProfileOptions):
    """The [channels.NAME] table of a recipe with kind = "als"."""

    factors: Count = Field(default=64, description="The width of the vectors.")
    iterations: Count = Field(default=15, description="Rounds: all users, then all items.")
    alpha: Positive = Field(
        default=10.0, description="Confidence of an event: 1 + alpha x weight; no event has 1."
    )
    regularisation: Positive = Field(
        default=10.0, description="Ridge on a vector whose events are average in number."
    )
    frequency_scaling: NotNegative = Field(
        default=0.5,
        description="Power of a row's confidence that its ridge grows with (Rendle et al. 2021); "
        "0: the same ridge for all.",
        examples=[1.0],
    )
    bias: bool = Field(default=False, description="Whether users and items have a bias each.")
    seed: Seed = Field(default=0, description="Of the vectors the first round starts from.")


class ALS(HistoryScorer[ALSOptions]):
    """Alternating least squares on implicit feedback (Hu, Koren and Volinsky 2008).

    score = x_u · y_i, or x_u · y_i + b_u + b_i with biases. The ridge may grow with a row's events
    (Rendle et al. 2021). Each round solves every row exactly, and sums in a fixed order: the same
    data and options give the same bytes with any number of threads.

    Nothing is kept of users: every query is folded in from its history by the least squares a
    user's row is made with, so that an unknown user with a history gets what a known one would.
    It cannot score an item without a training event, nor say anything of a user without one.
    Unlike its siblings it is not linear in the history; the contributions of events to a score
    are those of Hu et al. (section 5), where the matrix of the user is held.

    With kinds of events a user's vector is that of all they read, each event with the confidence
    of its weight, and an item's is fitted to the users of whom it is a target.

    `observe` changes the histories only: the vectors of items stay as fitted until the next fit,
    and items that came since are neither recommended nor asked with. `refreshed` does a round.
    """

    reads_log = False

    options_type = ALSOptions

    _cosines: ExactIndex | None

    def learn(self) -> None:
        """Alternate. Errors: ModelError for weights that are not > 0."""
        random = np.random.default_rng(self.options.seed)
        items = (self.data.items.trained + 1, self.options.factors)
        self._vectors = random.standard_normal(items, dtype=np.float32) / np.float32(
            self.options.factors
        )
        self._biases = np.zeros(len(self._vectors), dtype=np.float32)
        self._alternate(self.options.iterations)

    def _alternate(self, rounds: int) -> None:
        """Solve all users, then all items, so many times, from the vectors that are there."""
        data, options = self.data, self.options
        check_order(data, options)
        events = user_item_matrix(data.training_log, data.items.trained, options.values)
        _check_weights(events)
        aimed = user_item_matrix(
            data.training_log, data.items.trained, options.values, targets=True
        )
        by_item = aimed.T.tocsr()
        self._mass = np.array([_mass(events, options.alpha).mean()])
        # Row 0 is nobody; with kinds of events, an item that never was a target has no vector.
        none = np.arange(len(self._vectors)) == 0
        if data.training_log.target is not None:
            none = np.diff(by_item.indptr) == 0
        self._vectors[none], self._biases[none] = 0, 0
        others = _mass(by_item, options.alpha)
        ridge = self._ridge(others, others[1:].mean())
        for _ in range(rounds):
            users = self._solve(self._item_side(), events)
            vectors, biases = self._parted(users)
            vectors[0], biases[0] = 0, 0
            fitted = solve(self._side(vectors, biases), by_item, options.alpha, ridge)
            self._vectors, self._biases = self._parted(fitted)
            self._vectors[none], self._biases[none] = 0, 0
        self._prepare()

    def _take_events(self, data: TrainingData) -> None:
        """Take new events into the histories; the vectors of items stay as fitted."""
        check_order(data, self.options)
        rows = rows_before(self.data.items, data.items)
        self._vectors, self._biases = self._vectors[rows], self._biases[rows]
        self._take(data)
        self._prepare()

    def _go_on(self, data: TrainingData) -> None:
        """Do one more round from the vectors there were: a new item's is what its users make it."""
        check_order(data, self.options)
        rows = rows_before(self.data.items, data.items)
        self._vectors, self._biases = self._vectors[rows], self._biases[rows]
        self._take(data)
        self._alternate(1)

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that can be recommended: those of the last fit."""
        return self._rows

    def strangers(self, block: RowQueries) -> Tensor:
        """True for queries of which nothing is known: no item of the last fit in their history."""
        return no_profile(block, self.options, self.data.items.trained, self._known)

    def fold_in(self, profile: Matrix) -> Floats:
        """Return the vector of each history, [B, D] or with its bias last [B, D + 1]."""
        return self._solve(self._fixed, self._asked(profile))

    def scores(self, profile: Matrix) -> NDArray[np.float32]:
        """Return the score of each candidate, [B, C]. profile: [B, items.trained + 1]."""
        scores = product(self.fold_in(profile), self._served)
        scores += self._biases[self._rows]
        return scores

    def near(self, rows: Tensor, k: int) -> Hits:
        """Return the items whose vectors point the same way: cosine."""
        if self._cosines is None:
            known = torch.from_numpy(self._rows)
            keys = torch.from_numpy(self.data.items.tie_keys)[known]
            vectors = torch.from_numpy(self._vectors)[known]
            self._cosines = ExactIndex("cosine").build(known, vectors, keys)
        own = (rows, torch.arange(len(rows) + 1))
        return self._cosines.search(torch.from_numpy(self._vectors)[rows], k, exclude=own)

    def reasons(self, block: RowQueries, items: Sequence[Tensor]) -> pl.DataFrame:
        """Return what each event gives to each item, the user's matrix held (Hu et al. 2008, §5).

        With biases there is one reason of kind "bias" besides: what the item has before any event.
        """
        profile, options = self._asked(self.profile(block)), self.options
        design, fixed = self._design.astype(np.float64), self._item_side()
        gram = design.T @ design
        pull = self._biases.astype(np.float64) @ design
        ridges = self._ridge(_mass(profile, options.alpha), float(self._mass[0]))
        parts = [pl.DataFrame(schema=REASONS)]
        for query, wanted in enumerate(items):
            mine = profile[[query]]
            events, weight = mine.indices, mine.data.astype(np.float64)
            rows = wanted.numpy()[(wanted.numpy() > 0) & (wanted.numpy() < len(design))]
            rows = rows[self._known[rows]]
            extra = options.alpha * weight
            system = gram + (design[events].T * extra) @ design[events]
            system += np.eye(len(gram)) * ridges[query]
            seen_by = np.linalg.solve(system, design[rows].T)  # [D, items]
            aim = np.minimum(weight, 1) + extra * (1 - fixed.offset[events])
            gains = aim[:, None] * (design[events] @ seen_by)
            event, item = np.divmod(np.arange(gains.size), max(len(rows), 1))
            part = {
                "query": np.full(gains.size, query),
                "item": rows[item],
                "kind": ["event"] * gains.size,
                "because": events[event].astype(str).tolist(),
                "contribution": gains.ravel(),
            }
            parts.append(pl.DataFrame(part, schema=REASONS))
            if options.bias:
                base = {
                    "query": np.full(len(rows), query),
                    "item": rows,
                    "kind": ["bias"] * len(rows),
                    "because": ["bias"] * len(rows),
                    "contribution": self._biases[rows] - pull @ seen_by,
                }
                parts.append(pl.DataFrame(base, schema=REASONS))
        return pl.concat(parts)

    def learned(self) -> dict[str, Tensor]:
        """The vectors and biases of items."""
        return {
            "vectors": torch.from_numpy(self._vectors),
            "biases": torch.from_numpy(self._biases),
            "mass": torch.from_numpy(self._mass),
        }

    def set_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Put the vectors and biases back."""
        rows = self.data.items.trained + 1
        check_tensors(
            "learned",
            tensors,
            {
                "vectors": (torch.float32, (rows, self.options.factors)),
                "biases": (torch.float32, (rows,)),
                "mass": (torch.float64, (1,)),
            },
        )
        if not float(tensors["mass"]) > 0:
            raise ModelError("learned: mass must be > 0")
        self._vectors, self._biases = tensors["vectors"].numpy(), tensors["biases"].numpy()
        self._mass = tensors["mass"].numpy()
        self._prepare()

    def _prepare(self) -> None:
        self._fixed = self._item_side()
        self._known = (self._vectors != 0).any(axis=1)
        self._rows = np.flatnonzero(self._known)
        every = len(self._rows) == len(self._known) - 1  # then a view will do
        self._served = self._design[1:] if every else self._design[self._rows]
        self._cosines = None

    @property
    def _design(self) -> Floats:
        """What a user's vector is multiplied with: [items + 1, D], with a 1 for the user's bias."""
        return self._with_one(self._vectors)

    def _item_side(self) -> Side:
        return self._side(self._vectors, self._biases)

    def _side(self, vectors: Floats, biases: Floats) -> Side:
        return fixed_side(self._with_one(vectors), biases)

    def _with_one(self, vectors: Floats) -> Floats:
        if not self.options.bias:
            return vectors
        # Row 0 is nobody; the rest is who has a vector at all.
        there = (vectors != 0).any(axis=1, keepdims=True).astype(np.float32)
        return np.hstack([vectors, there])

    def _parted(self, solved: Floats) -> tuple[Floats, Floats]:
        """Part vectors from the bias that stands last, where there is one."""
        if self.options.bias:
            return np.ascontiguousarray(solved[:, :-1]), np.ascontiguousarray(solved[:, -1])
        return solved, np.zeros(len(solved), dtype=np.float32)

    def _asked(self, profile: Matrix) -> Matrix:
        """The profile with the items of the last fit only, and without events faded to nothing."""
        kept = profile.copy()
        kept.data = kept.data * self._known[kept.indices]
        kept.eliminate_zeros()
        _check_weights(kept)
        return kept

    def _solve(self, side: Side, events: Matrix) -> Floats:
        ridge = self._ridge(_mass(events, self.options.alpha), float(self._mass[0]))
        return solve(side, events, self.options.alpha, ridge)

    def _ridge(self, mass: NDArray[np.float64], average: float) -> Floats:
        options = self.options
        ridge: Floats = (
            options.regularisation * (mass / average) ** options.frequency_scaling
        ).astype(np.float32)
        return ridge


def _mass(events: Matrix, alpha: float) -> NDArray[np.float64]:
    """The sum of the confidences of each row, over all columns: [rows]."""
    extra = np.asarray(events.sum(axis=1), dtype=np.float64)
    mass: NDArray[np.float64] = alpha * extra + events.shape[1]
    return mass


def _check_weights(events: Matrix) -> None:
    if len(events.data) and events.data.min() <= 0:
        raise ModelError(
            f"ALS with values = 'explicit' needs weights > 0, got {events.data.min():g}: a weight "
            "is a confidence; remove the rows, or shift the column"
        )
