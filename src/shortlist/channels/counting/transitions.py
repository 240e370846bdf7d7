"""Transitions: which items follow the latest ones? Directed counts in an ordered log, summed."""

from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from shortlist.channels.counting.attributes import value_lists
from shortlist.channels.counting.history import ProfileOptions
from shortlist.channels.counting.neighbour_lists import NeighbourScorer
from shortlist.data.interactions import Interactions
from shortlist.errors import ModelError
from shortlist.linear.transitions import Alike, Steps, followers
from shortlist.sections.base import Count, Positive, Text

Floats = NDArray[np.float64]
Part = Annotated[float, Field(ge=0, le=1)]


class TransitionsOptions(ProfileOptions):
    """Which steps of the log count, and how much. n_i is the number of events of item i."""

    recency: Positive | None = Field(
        default=1.5,
        description="Half-life in a history, counted in events: the newest event counts 1, the "
        "event so many before it counts 1/2. With a large number all count the same.",
        examples=[2.0],
    )
    window: Count = Field(
        default=10, description="Item j follows item i if it is at most so many events later."
    )
    decay: Positive = Field(
        default=2.0,
        description="Half-life of a step, in events: the next event counts 1, so many later 1/2. "
        "With a large number all events in the window count the same.",
        examples=[4.0],
    )
    backward: Part = Field(
        default=0.2,
        description="Weight of j before i relative to j after i. 0: only the order counts; 1: the "
        "order does not count.",
    )
    from_power: Part = Field(
        default=0.4,
        description="Exponent that gives frequent items of the history less weight: n_i ** -power.",
    )
    to_power: Part = Field(
        default=0.1,
        description="Exponent that gives frequent followers less weight: n_j ** -power.",
    )
    second_hop: Part = Field(
        default=0.0,
        description="Weight of items reached over one more item: from the nearest 50 to the "
        "nearest 50 of each. 0: none.",
    )
    attribute: Text | None = Field(
        default=None,
        description="Categorical or multi-valued column of data.items: items that share its rare "
        "values also count as followers. A value of more than 20,000 items is ignored.",
        examples=["genres"],
    )
    attribute_weight: Positive | None = Field(
        default=None,
        description="Added to the score of two items with equal attributes (cosine 1). Unset: 0.4.",
        examples=[0.4],
    )
    neighbours: Count = Field(default=200, description="Number of followers stored per item.")

    @model_validator(mode="after")
    def _options_act(self) -> Self:
        if self.attribute_weight is not None and self.attribute is None:
            raise ValueError("attribute_weight does nothing without attribute: leave it out.")
        return self

    def idle(self) -> str:
        """Decay changes nothing with a window of one event, nor recency with one event."""
        if self.window == 1 and "decay" in self.model_fields_set:
            return "decay does nothing with window = 1, the next event alone: leave it out"
        return super().idle() if "recency" in self.model_fields_set else ""


class Transitions(NeighbourScorer[TransitionsOptions]):
    """Directed co-occurrence counts of an ordered log, with a window and decay (Markov chains).

    The score of an item j is the sum over the history, weighted by recency, of
    s_ij = n_i ^ -a · n_j ^ -b · (c_ij + backward · c_ji). c_ij counts the steps from i to j within
    `window` events; a step over d events counts 2 ^ -((d - 1) / decay). It generalises the
    first-order chains of Rendle et al. (2010) and the session rules of Ludewig and Jannach (2018).

    ItemCF counts which items share users; this channel counts which item comes next. With
    `attribute`, items with the same values count as followers even if no user met both.

    With kinds of events, a step leads from any event to a target, and each end counts the weight
    of its kind; n_j counts targets only.

    `observe` is a whole fit, because that is linear in the log.
    """

    options_type = TransitionsOptions

    def learn(self) -> None:
        """Count the steps. Errors: ModelError for a log without order, or a missing column."""
        data, options = self.data, self.options
        log, items = data.training_log, data.items.trained
        if not data.ordered:
            raise ModelError(
                "transitions need data.time: without it the order of events is unknown; name "
                "the column, or use item-cf"
            )
        value = None
        if options.values == "explicit":
            value = log.weights_for("values = 'explicit'").astype(np.float64)
        value, aim = _of_kinds(log, value)
        longest = int(np.diff(log.indptr).max(initial=1))
        places = np.arange(-1, min(options.window, longest))
        closeness = np.exp2(-places / options.decay)
        counts, aimed = log.item_counts(items), log.targets.item_counts(items)
        steps = Steps(
            closeness,
            options.backward,
            _power(counts, options.from_power),
            _power(aimed, options.to_power),
            value,
            aim,
        )
        found = followers(
            log,
            steps,
            data.items.tie_keys,
            options.neighbours,
            second_hop=options.second_hop,
            alike=self._alike(items),
        )
        self._keep(found)

    @property
    def item_columns(self) -> frozenset[str]:
        """The item column named by `attribute`."""
        attribute = self.options.attribute
        return frozenset(() if attribute is None else (attribute,))

    def _alike(self, items: int) -> Alike | None:
        options, data = self.options, self.data
        if options.attribute is None:
            return None
        _, offsets, codes = value_lists(
            options.attribute, data.item_frame, data.item_features, data.items
        )
        weight = 0.4 if options.attribute_weight is None else options.attribute_weight
        return Alike.by_rarity(offsets, codes, items, weight)


def _of_kinds(log: Interactions, value: Floats | None) -> tuple[Floats | None, Floats | None]:
    """Return what each event counts as the start and as the end of a step, [events]; None: 1."""
    if log.worth is not None:
        value = (np.ones(len(log)) if value is None else value) * log.worth
    if log.target is None:
        return value, value
    value = np.ones(len(log)) if value is None else value
    return value, value * log.target


def _power(counts: NDArray[np.int64], exponent: float) -> NDArray[np.float64]:
    """counts ** -exponent, 0 where the count is 0."""
    return np.where(counts > 0, np.maximum(counts, 1) ** -float(exponent), 0.0)
