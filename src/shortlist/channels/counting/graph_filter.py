"""Graph filtering without training: GF-CF, BSPM, ChebyCF and a variant with separate exponents."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from shortlist.channels.counting.fitted import rows_before
from shortlist.channels.counting.history import (
    HistoryScorer,
    ProfileOptions,
    check_order,
    of_rows,
    scaled_columns,
)
from shortlist.channels.kept import check_tensors
from shortlist.data.training_data import TrainingData
from shortlist.errors import ModelError
from shortlist.linear.graph import (
    BLOCK,
    Floats,
    Graph,
    interpolated,
    normalised_graph,
    plateau,
    power,
    sharpened,
    singular_vectors,
    smoothed,
)
from shortlist.linear.matrix import Matrix, user_item_matrix
from shortlist.linear.products import product
from shortlist.sections.base import Count, NotNegative, Positive, Seed

FilterName = Literal["tilted", "gf-cf", "bspm", "chebyshev"]


class Numbers(NamedTuple):
    """The numbers that define a filter; options of the same names override them.

    order: order of the sharpening step (1: Euler, 4: Runge-Kutta).
    merged: whether the low-pass part is added before the sharpening.
    degree, flatness: of the polynomial that replaces P; degree 0 keeps P itself.
    """

    user_power: float
    item_power: float
    tilt: float
    factors: int
    low_pass: float
    low_pass_tilt: float
    sharpening: float
    order: int
    merged: bool
    degree: int = 0
    flatness: float = 0.0


FILTERS: dict[FilterName, Numbers] = {
    "tilted": Numbers(0.3, 0.5, 0.2, 256, 0.0, 0.2, 0.5, 1, False),
    "gf-cf": Numbers(0.5, 0.5, 0.0, 256, 0.3, 0.5, 0.0, 4, True),
    "bspm": Numbers(0.5, 0.5, 0.0, 448, 0.2, 0.5, 2.5, 4, True),
    "chebyshev": Numbers(0.5, 0.5, 0.4, 512, 0.2, 0.4, 0.0, 1, False, 8, 1.5),
}
"""The published filters, and "tilted", whose numbers were chosen on validation rows."""

_UNSET = " Unset: the value of the filter."


class GraphFilterOptions(ProfileOptions):
    """The [channels.NAME] table of a recipe with kind = "graph-filter"."""

    filter: FilterName = Field(
        default="gf-cf",
        description='"gf-cf" (Shen et al. 2021); "bspm": blurring and sharpening, early merge '
        '(Choi et al. 2023); "chebyshev": a polynomial with a plateau (ChebyCF, Kim et al. 2025); '
        '"tilted": separate exponents for the degrees.',
    )
    user_power: NotNegative | None = Field(
        default=None,
        description="Exponent that gives active users less weight: D_U ** -power." + _UNSET,
        examples=[0.5],
    )
    item_power: NotNegative | None = Field(
        default=None,
        description="Exponent that gives popular items less weight: D_I ** -power." + _UNSET,
        examples=[0.5],
    )
    tilt: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        default=None,
        description="Exponent of popularity that is moved from the items of the history to the "
        "recommended items: a larger one favours popular items." + _UNSET,
        examples=[0.2],
    )
    factors: Count | None = Field(
        default=None,
        description="Number of singular vectors in the low-pass part." + _UNSET,
        examples=[256],
    )
    low_pass: NotNegative | None = Field(
        default=None,
        description="Weight of the low-pass part; 0: no singular vectors are computed." + _UNSET,
        examples=[0.3],
    )
    sharpening: NotNegative | None = Field(
        default=None,
        description="Time of the sharpening; 0: none. It makes answers about 5 times as expensive "
        "in bspm, and twice in tilted." + _UNSET,
        examples=[2.5],
    )
    degree: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None,
        description="chebyshev: degree of the polynomial; each degree costs an answer two products "
        "with the log." + _UNSET,
        examples=[8],
    )
    flatness: Positive | None = Field(
        default=None,
        description="chebyshev: width of the plateau in the middle of the spectrum." + _UNSET,
        examples=[1.5],
    )
    seed: Seed = Field(default=0, description="Seed of the singular vectors' initial noise.")

    @model_validator(mode="after")
    def _options_act(self) -> Self:
        idle = ("sharpening",) if self.filter == "chebyshev" else ("degree", "flatness")
        for key in idle:
            if getattr(self, key) is not None:
                raise ValueError(f"{key} does nothing with filter = '{self.filter}': leave it out.")
        return self

    def idle(self) -> str:
        """Factors belong to the low-pass part, which is absent at weight 0."""
        part = FILTERS[self.filter].low_pass if self.low_pass is None else self.low_pass
        if self.factors is not None and part == 0:
            return (
                f"factors does nothing with filter = '{self.filter}' and low_pass = 0, which makes "
                "no singular vectors: give low_pass, or leave factors out"
            )
        return super().idle()


class GraphFilter(HistoryScorer[GraphFilterOptions]):
    """A low-pass filter on the user-item graph, applied to the history of the query.

    R = D_U^-a A D_I^-b, scaled to a largest singular value of 1. P = RᵀR. V are the leading right
    singular vectors of R. T_q(M) = D_I^q M D_I^-q.

    - "gf-cf" (Shen et al. 2021): P + 0.3 T_½(VVᵀ), 256 factors, a = b = 1/2;
    - "bspm" (Choi et al. 2023, early merge): the same with 0.2 and 448 factors, then sharpened by
      one Runge-Kutta step of dy/dt = -Py over 2.5;
    - "chebyshev" (ChebyCF, Kim et al. 2025): T_q(h(P) + 0.2 VVᵀ), 512 factors, q = 0.4. h is the
      polynomial of degree 8 that interpolates a plateau: 1 for the smoothest signals on the graph,
      about 1/2 in the middle, 0 for the roughest;
    - "tilted": T_q(P - P²/2), a = 0.3, b = 0.5, q = 0.2: one Euler step of sharpening, and separate
      exponents of the degrees as in LinkProp (Fu et al. 2022). It has no singular vectors, so the
      fit is one pass; `low_pass` adds them. Its numbers were chosen on rows held out of Gowalla's
      training set, where it is ahead of gf-cf and bspm; on the test rows it is behind gf-cf.

    Scores are linear in the history. The matrix of items x items is never built: R and Rᵀ are
    multiplied with blocks of histories. Only V is stored; R is computed again from the data.

    With kinds of events, R has all events with the weights of their kinds, because a filter smooths
    histories and predicts no target. Items that were never a target are not candidates.

    `observe` computes R from all events, so new items have neighbours at once. V stays as fitted
    until the next fit, and its rows of new items are 0.
    """

    options_type = GraphFilterOptions

    def learn(self) -> None:
        """Normalise the log and compute the singular vectors."""
        self._prepare()
        numbers = self.numbers
        factors = numbers.factors if numbers.low_pass > 0 else 1
        self._vectors, self._values = singular_vectors(self._graph, factors, seed=self.options.seed)

    def _take_events(self, data: TrainingData) -> None:
        """Take new events into the graph and the histories; the singular vectors stay as fitted."""
        rows = rows_before(self.data.items, data.items)
        self._vectors = self._vectors[rows]
        self._vectors[0] = 0
        self._take(data)
        self._prepare()

    def _go_on(self, data: TrainingData) -> None:
        """Fit again, because `_take_events` keeps the old singular vectors."""
        self.fit_data(data)

    @property
    def numbers(self) -> Numbers:
        """The numbers of the filter, with the options overriding them."""
        own = FILTERS[self.options.filter]
        given: dict[str, Any] = {
            name: value
            for name in Numbers._fields
            if (value := getattr(self.options, name, None)) is not None
        }
        if "tilt" in given:
            given["low_pass_tilt"] = given["tilt"] + own.low_pass_tilt - own.tilt
        return own._replace(**given)

    def scores(self, profile: Matrix) -> NDArray[np.float32]:
        """Return the filtered histories, [B, C]; -inf where no path of the graph leads."""
        numbers, items = self.numbers, self.data.items.trained
        scores = np.empty((profile.shape[0], items), dtype=np.float32)
        tilted = scaled_columns(profile, power(self._degrees, -numbers.tilt))
        low = scaled_columns(profile, power(self._degrees, -numbers.low_pass_tilt))
        shrink = np.float32(1 / self._values[0] ** 2)
        shift = power(self._degrees, numbers.low_pass_tilt - numbers.tilt)[:, None]
        shift *= np.float32(numbers.low_pass)
        for start in range(0, profile.shape[0], BLOCK):
            part = slice(start, start + BLOCK)
            if numbers.degree:
                series = plateau(numbers.degree, numbers.flatness)
                columns = interpolated(self._graph, tilted[part], series, float(shrink))
            else:
                columns = smoothed(self._graph, tilted[part])
                columns *= shrink
            smooth = self._low_pass(low[part]) * shift if numbers.low_pass > 0 else None
            if smooth is not None and numbers.merged:
                columns += smooth
            if numbers.sharpening > 0:
                time = numbers.sharpening * float(shrink)
                columns = sharpened(self._graph, columns, time, numbers.order)
            if smooth is not None and not numbers.merged:
                columns += smooth
            columns *= power(self._degrees, numbers.tilt)[:, None]
            scores[part] = columns[1:].T
        scores = of_rows(scores, self.candidate_rows())
        scores[scores == 0] = -np.inf
        return scores

    def learned(self) -> dict[str, Tensor]:
        """Return the singular vectors and values; R is computed from the data."""
        return {
            "vectors": torch.from_numpy(self._vectors),
            "values": torch.from_numpy(self._values),
        }

    def set_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the singular vectors and compute R."""
        shape = (self.data.items.trained + 1, "K")
        check_tensors(
            "learned",
            tensors,
            {"vectors": (torch.float32, shape), "values": (torch.float32, ("K",))},
        )
        if not len(tensors["values"]) or not float(tensors["values"][0]) > 0:
            raise ModelError("learned: values must begin with a singular value > 0")
        self._vectors = tensors["vectors"].numpy()
        self._values = tensors["values"].numpy()
        self._prepare()

    def _prepare(self) -> None:
        data = self.data
        check_order(data, self.options)
        matrix = user_item_matrix(data.training_log, data.items.trained, self.options.values)
        numbers = self.numbers
        self._graph: Graph = normalised_graph(matrix, numbers.user_power, numbers.item_power)
        self._degrees: NDArray[np.float64] = np.asarray(matrix.sum(axis=0), dtype=np.float64)

    def _low_pass(self, profile: Matrix) -> Floats:
        """Project histories onto the singular vectors, [items + 1, B]."""
        return product(profile @ self._vectors, self._vectors).T
