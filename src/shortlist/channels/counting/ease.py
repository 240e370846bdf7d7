"""EASE: item-to-item weights in closed form, for catalogues whose dense matrix fits in memory."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from shortlist.asking.rows import RowQueries
from shortlist.channels.counting.fitted import rows_before
from shortlist.channels.counting.history import (
    HistoryScorer,
    ProfileOptions,
    check_order,
    no_profile,
)
from shortlist.channels.kept import Expected, check_offsets, check_rows, check_tensors
from shortlist.data.training_data import TrainingData
from shortlist.errors import ModelError
from shortlist.linear.ease import Dense, closed_form, strongest
from shortlist.linear.from_scipy import csr_array
from shortlist.linear.matrix import Matrix, user_item_matrix
from shortlist.sections.base import Count, Positive


class EASEOptions(ProfileOptions):
    """The [channels.NAME] table of a recipe with kind = "ease"."""

    l2: Positive = Field(
        default=300.0,
        description="L2 regularisation of the weights: larger for small or noisy logs.",
        examples=[500.0],
    )
    neighbours: Count | None = Field(
        default=None,
        description="Keep only so many weights per history item, the largest in absolute value. "
        "Unset: keep all, which takes items x items x 4 bytes in memory and in the bundle.",
        examples=[200],
    )
    max_items: Count = Field(
        default=46_000,
        description="Larger catalogues are refused, as the fit needs items x items x 4 bytes.",
    )


class EASE(HistoryScorer[EASEOptions]):
    """Embarrassingly shallow autoencoder (Steck 2019): r_u = A[u, :] · B, B in closed form.

    B minimises the squared error of A ≈ AB with the regularisation l2 and a zero diagonal. All
    weights are solved jointly; ItemCF computes each pair of items by itself. The fit needs one
    float32 matrix of items x items and items³ multiply-adds (41,000 items: 7 GB and about 20
    minutes on one core). For larger catalogues use GraphFilter, which never builds that matrix.

    With kinds of events, A has all events on the input side and only targets on the output side.

    `observe` changes the histories only: the weights stay as fitted until the next fit, and items
    that are new since the fit are neither recommended nor read.
    """

    reads_log = False

    options_type = EASEOptions

    def learn(self) -> None:
        """Solve for B. Errors: ModelError for too large a catalogue, or too small an l2."""
        data, options = self.data, self.options
        check_order(data, options)
        items = data.items.trained
        if items > options.max_items:
            raise ModelError(
                f"EASE keeps a number for each pair of items: {items:,} items need "
                f"{items * items * 4 / 1e9:.1f} GB, and max_items = {options.max_items:,} allows "
                f"{options.max_items**2 * 4 / 1e9:.1f} GB; raise max_items, leave rare items out, "
                "or use the graph filter, which never makes that matrix"
            )
        log = data.training_log
        matrix = user_item_matrix(log, items, options.values)[:, 1:]
        aims = None
        if log.target is not None:
            aims = user_item_matrix(log, items, options.values, targets=True)[:, 1:]
        dense = closed_form(matrix, options.l2, aims)
        few = options.neighbours is not None and options.neighbours < items - 1
        self._weights: Dense | Matrix = dense
        if few:
            self._weights = strongest(dense, int(options.neighbours or 0))
        self._set_fitted(np.arange(items + 1), data)

    def _take_events(self, data: TrainingData) -> None:
        """Take new events into the histories; the weights between items stay as fitted."""
        check_order(data, self.options)
        self._set_fitted(self._fitted[rows_before(self.data.items, data.items)], data)
        self._take(data)

    def _go_on(self, data: TrainingData) -> None:
        """Fit again: the weights are all that is learned."""
        self.fit_data(data)

    def _set_fitted(self, fitted: NDArray[np.int64], data: TrainingData) -> None:
        """Set the row of the weights (from 1) for each item row, [items + 1]; 0: none."""
        self._fitted, self._rows = fitted, np.flatnonzero(fitted)
        if data.training_log.target is not None:
            self._rows = np.intersect1d(self._rows, np.flatnonzero(data.item_counts))

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that can be recommended: those of the last fit, [C] int64."""
        return self._rows

    def strangers(self, block: RowQueries) -> Tensor:
        """Return True for queries without an item of the last fit in their history, bool [B]."""
        return no_profile(block, self.options, self.data.items.trained, self._fitted > 0)

    def scores(self, profile: Matrix) -> NDArray[np.float32]:
        """Return the sums of weights, [B, C]; -inf for a sum of 0, mostly without any weight."""
        rows = self._fitted[profile.indices]
        asked = csr_array(
            (profile.data * (rows > 0), np.maximum(rows - 1, 0), profile.indptr),
            shape=(profile.shape[0], self._weights.shape[0]),
        )
        product = asked @ self._weights
        scores: NDArray[np.float32] = (
            product if isinstance(product, np.ndarray) else product.toarray()
        )
        columns = self._fitted[self._rows] - 1
        if len(columns) < scores.shape[1] or (np.diff(columns) != 1).any():
            scores = scores[:, columns]
        scores[scores == 0] = -np.inf
        return scores

    def learned(self) -> dict[str, Tensor]:
        """Return the weights, and the row of them that each item row has."""
        fitted = {"fitted": torch.from_numpy(self._fitted)}
        if isinstance(self._weights, np.ndarray):
            return fitted | {"weights": torch.from_numpy(self._weights)}
        return fitted | {
            name: torch.from_numpy(getattr(self._weights, name))
            for name in ("data", "indices", "indptr")
        }

    def set_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the weights."""
        whole, items = (torch.int32, torch.int64), self.data.items.trained
        expected: dict[str, Expected] = {"fitted": (torch.int64, (items + 1,))}
        if "weights" in tensors:
            fitted = len(tensors["weights"])
            expected["weights"] = (torch.float32, (fitted, fitted))
        else:
            fitted = len(tensors.get("indptr", ())) - 1
            expected |= {"data": (torch.float32, ("N",)), "indices": (whole, ("N",))}
            expected |= {"indptr": (whole, (fitted + 1,))}
        check_tensors("learned", tensors, expected)
        rows = tensors["fitted"]
        check_rows("learned: fitted", rows[:1], 0, 0)
        check_rows("learned: fitted", rows[rows != 0], 1, fitted, distinct=True)
        if "indptr" in tensors:
            check_rows("learned: indices", tensors["indices"], 0, fitted - 1)
            check_offsets("learned: indptr", tensors["indptr"], len(tensors["data"]))
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        self._set_fitted(arrays["fitted"], self.data)
        if "weights" in arrays:
            self._weights = arrays["weights"]
        else:
            n = len(arrays["indptr"]) - 1
            parts = (arrays["data"], arrays["indices"], arrays["indptr"])
            self._weights = csr_array(parts, shape=(n, n))
