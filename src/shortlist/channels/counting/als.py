"""Matrix factorisation of an implicit log; each query's vector is solved from its history."""

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
from shortlist.data.training_data import TrainingData
from shortlist.errors import ModelError
from shortlist.index.base import Hits
from shortlist.index.exact import ExactIndex
from shortlist.linear.als import Side, fixed_side, solve
from shortlist.linear.matrix import Matrix, user_item_matrix
from shortlist.linear.products import Floats, product
from shortlist.sections.base import Count, NotNegative, Positive, Seed


class ALSOptions(ProfileOptions):
    """The [channels.NAME] table of a recipe with kind = "als"."""

    factors: Count = Field(default=64, description="Width of the vectors.")
    iterations: Count = Field(
        default=15, description="Number of rounds; each solves all users, then all items."
    )
    alpha: Positive = Field(
        default=10.0,
        description="An event has the confidence 1 + alpha x weight; a pair without one has 1.",
    )
    regularisation: Positive = Field(
        default=10.0, description="L2 regularisation of a vector with average total confidence."
    )
    frequency_scaling: NotNegative = Field(
        default=0.5,
        description="Exponent by which the regularisation grows with the total confidence of a "
        "row (Rendle et al. 2021); 0: the same for all.",
        examples=[1.0],
    )
    bias: bool = Field(default=False, description="Whether each user and each item has a bias.")
    seed: Seed = Field(default=0, description="Seed of the initial item vectors.")


class ALS(HistoryScorer[ALSOptions]):
    """Alternating least squares on implicit feedback (Hu, Koren and Volinsky 2008).

    score = x_u · y_i, or x_u · y_i + b_u + b_i with biases. The regularisation may grow with a
    row's events (Rendle et al. 2021). Every row is solved exactly and sums have a fixed order, so
    the same data and options give the same bytes with any number of threads.

    No user vectors are stored. A query's vector is solved from its history, in the same way as a
    user's row in training, so an unknown user gets the answer of a known one with that history.
    An item without a training event has no vector, and a user without one gets the fallback.
    Unlike its siblings, ALS is not linear in the history. Its reasons are the contributions of Hu
    et al. (section 5), with the user's matrix held fixed.

    With kinds of events, a user's vector is fitted to all events, each with the confidence of its
    weight. An item's vector is fitted to the users who have it as a target.

    `observe` changes the histories only. The item vectors stay as fitted, and items that are new
    since the fit are neither recommended nor read. `refreshed` runs one more round.
    """

    reads_log = False

    options_type = ALSOptions

    _cosines: ExactIndex | None

    def learn(self) -> None:
        """Run `iterations` rounds. Errors: ModelError for weights that are not > 0."""
        random = np.random.default_rng(self.options.seed)
        items = (self.data.items.trained + 1, self.options.factors)
        self._vectors = random.standard_normal(items, dtype=np.float32) / np.float32(
            self.options.factors
        )
        self._biases = np.zeros(len(self._vectors), dtype=np.float32)
        self._alternate(self.options.iterations)

    def _alternate(self, rounds: int) -> None:
        """Solve all users and then all items, `rounds` times, from the current item vectors."""
        data, options = self.data, self.options
        check_order(data, options)
        events = user_item_matrix(data.training_log, data.items.trained, options.values)
        _check_weights(events)
        aimed = user_item_matrix(
            data.training_log, data.items.trained, options.values, targets=True
        )
        by_item = aimed.T.tocsr()
        self._mass = np.array([_mass(events, options.alpha).mean()])
        # Row 0 is no item; with kinds of events, an item that was never a target has no vector.
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
        """Run one more round from the current vectors; new items get theirs from their users."""
        check_order(data, self.options)
        rows = rows_before(self.data.items, data.items)
        self._vectors, self._biases = self._vectors[rows], self._biases[rows]
        self._take(data)
        self._alternate(1)

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that can be recommended: those of the last fit, [C] int64."""
        return self._rows

    def strangers(self, block: RowQueries) -> Tensor:
        """Return True for queries without an item of the last fit in their history, bool [B]."""
        return no_profile(block, self.options, self.data.items.trained, self._known)

    def fold_in(self, profile: Matrix) -> Floats:
        """Return the vector of each history, [B, D], or [B, D + 1] with the user bias last."""
        return self._solve(self._fixed, self._known_profile(profile))

    def scores(self, profile: Matrix) -> NDArray[np.float32]:
        """Return the score of each candidate, [B, C]. profile: [B, items.trained + 1]."""
        scores = product(self.fold_in(profile), self._served)
        scores += self._biases[self._rows]
        return scores

    def near(self, rows: Tensor, k: int) -> Hits:
        """Return the k items with the highest cosine to each item row [n]."""
        if self._cosines is None:
            known = torch.from_numpy(self._rows)
            keys = torch.from_numpy(self.data.items.tie_keys)[known]
            vectors = torch.from_numpy(self._vectors)[known]
            self._cosines = ExactIndex("cosine").build(known, vectors, keys)
        own = (rows, torch.arange(len(rows) + 1))
        return self._cosines.search(torch.from_numpy(self._vectors)[rows], k, exclude=own)

    def reasons(self, block: RowQueries, items: Sequence[Tensor]) -> pl.DataFrame:
        """Return what each event contributes to each item (Hu et al. 2008, section 5).

        The user's matrix is held fixed. With biases there is one more reason of kind "bias": the
        part of the score that does not depend on the events.
        """
        profile, options = self._known_profile(self.profile(block)), self.options
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
        """Return the item vectors and biases, and the mean total confidence of the users."""
        return {
            "vectors": torch.from_numpy(self._vectors),
            "biases": torch.from_numpy(self._biases),
            "mass": torch.from_numpy(self._mass),
        }

    def set_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the item vectors and biases."""
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
        every = len(self._rows) == len(self._known) - 1  # then a view is enough
        self._served = self._design[1:] if every else self._design[self._rows]
        self._cosines = None

    @property
    def _design(self) -> Floats:
        """The matrix a user's vector is multiplied with, [items + 1, D]; a bias adds a 1 column."""
        return self._with_one(self._vectors)

    def _item_side(self) -> Side:
        return self._side(self._vectors, self._biases)

    def _side(self, vectors: Floats, biases: Floats) -> Side:
        return fixed_side(self._with_one(vectors), biases)

    def _with_one(self, vectors: Floats) -> Floats:
        if not self.options.bias:
            return vectors
        # Rows without a vector, row 0 among them, get no 1.
        there = (vectors != 0).any(axis=1, keepdims=True).astype(np.float32)
        return np.hstack([vectors, there])

    def _parted(self, solved: Floats) -> tuple[Floats, Floats]:
        """Split off the biases, the last column, if there are biases."""
        if self.options.bias:
            return np.ascontiguousarray(solved[:, :-1]), np.ascontiguousarray(solved[:, -1])
        return solved, np.zeros(len(solved), dtype=np.float32)

    def _known_profile(self, profile: Matrix) -> Matrix:
        """Return the profile without items that have no vector and without zero weights."""
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
    """Return the total confidence of each row over all columns, [rows]."""
    extra = np.asarray(events.sum(axis=1), dtype=np.float64)
    mass: NDArray[np.float64] = alpha * extra + events.shape[1]
    return mass


def _check_weights(events: Matrix) -> None:
    if len(events.data) and events.data.min() <= 0:
        raise ModelError(
            f"ALS with values = 'explicit' needs weights > 0, got {events.data.min():g}: a weight "
            "is a confidence; remove the rows, or shift the column"
        )
