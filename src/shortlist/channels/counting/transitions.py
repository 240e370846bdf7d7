"""Transitions: what comes after what was met last? Directed counts in an ordered log, summed."""

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
    """Which steps of the log count, and how much: n_i is how often item i was met."""

    recency: Positive | None = Field(
        default=1.5,
        description="Half-life of an event in a history, in events: the newest counts 1, the one "
        "so many events before it a half. A large number lets all count alike.",
        examples=[2.0],
    )
    window: Count = Field(
        default=10, description="j comes after i if it is at most so many places further on."
    )
    decay: Positive = Field(
        default=2.0,
        description="Half-life of a step, in places: next to i counts 1, so many places further a "
        "half. A large number lets all in the window count alike.",
        examples=[4.0],
    )
    backward: Part = Field(
        default=0.2,
        description="What j before i counts beside j after i. 0: order alone; 1: no order.",
    )
    from_power: Part = Field(
        default=0.4,
        description="How much a frequent item of the history counts less: n_i ** -power.",
    )
    to_power: Part = Field(
        default=0.1,
        description="How much a frequent item counts less as what comes: n_j ** -power.",
    )
    second_hop: Part = Field(
        default=0.0,
        description="What is reached over one item more: from the nearest 50, to the nearest 50 of "
        "each. 0: nothing.",
    )
    attribute: Text | None = Field(
        default=None,
        description="Categorical or multi-valued column of data.items: items that share its rarer "
        "values follow each other as well. A value of more than 20,000 items counts nothing.",
        examples=["genres"],
    )
    attribute_weight: Positive | None = Field(
        default=None,
        description="What two items of equal attributes (a cosine of 1) add to a score. Unset: "
        "0.4.",
        examples=[0.4],
    )
    neighbours: Count = Field(default=200, description="How many followers an item keeps.")

    @model_validator(mode="after")
    def _options_act(self) -> Self:
        if self.attribute_weight is not None and self.attribute is None:
            raise ValueError("attribute_weight does nothing without attribute: leave it out.")
        return self

    def idle(self) -> str:
        """Decay tells places apart, recency events: of one there is nothing to tell."""
        if self.window == 1 and "decay" in self.model_fields_set:
            return "decay does nothing with window = 1, the next place alone: leave it out"
        return super().idle() if "recency" in self.model_fields_set else ""


class Transitions(NeighbourScorer[TransitionsOptions]):
    """Directed co-counts of an ordered log: item-to-item Markov chains with a window and decay.

    The score of an item j is the sum over the history, the newest first, of s_ij = n_i ^ -a ·
    n_j ^ -b · (c_ij + backward · c_ji), c_ij the steps from i to j within `window` places, each
    counting 2 ^ -((d - 1) / decay) at d places. It goes back to the first-order chains of Rendle et
    al. (2010) and the session rules of Ludewig and Jannach (2018). Beside ItemCF, which asks what
    users share, it asks what comes next, and needs no training; attribute values let items follow
    each other that never did.

    With kinds of events the steps are to targets, from whatever was read, each end counting what
    its kind does; n_j are the targets.

    `observe` is a whole fit, which is linear in the log: equal to one, bit for bit.
    """

    options_type = TransitionsOptions

    def learn(self) -> None:
        """Count the steps. Errors: ModelError for a log without an order, or a missing column."""
        data, options = self.data, self.options
        log, items = data.training_log, data.items.trained
        if not data.ordered:
            raise ModelError(
                "transitions need data.time: without it nobody knows what came after what; name "
                "the column, or take item-cf"
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
        """The column that items are alike by."""
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
    """What each event counts, [events], where a step begins and where it ends; None: 1."""
    if log.worth is not None:
        value = (np.ones(len(log)) if value is None else value) * log.worth
    if log.target is None:
        return value, value
    value = np.ones(len(log)) if value is None else value
    return value, value * log.target


def _power(counts: NDArray[np.int64], exponent: float) -> NDArray[np.float64]:
    """counts ** -exponent, 0 where the count is 0."""
    return np.where(counts > 0, np.maximum(counts, 1) ** -float(exponent), 0.0)
