"""Which keys does [model] have, beside the options of its parts?"""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from shortlist.sections.base import (
    AUTO,
    Count,
    CountOrAuto,
    Counts,
    Names,
    Positive,
    Section,
    Share,
    ShareOrAuto,
    Text,
)


class CommonModel(Section):
    """The architecture of the two towers."""

    may_be_missing: ClassVar[frozenset[str]] = frozenset(
        {"request_time", "history_features", "context", "popularity", "item_neighbours"}
    )
    """Keys added after bundle format 3; a bundle has them only if set (docs/decisions/0012)."""

    without_log: ClassVar[Mapping[str, int | float]] = {"dropout": 0.2}

    dim: CountOrAuto = Field(
        default=64,
        description='Width of the user and item vectors. "auto": wider if items have many events '
        "on average.",
    )
    history: Text = Field(
        default="recency",
        description='How a history becomes a user vector: "attention", "hstu" and "gru" read its '
        'items in order, "recency" weighs newer items differently from older ones, "mean" averages '
        'all, "comirec" and "mind" give several vectors per user, "none" reads no history.',
    )
    history_length: Count = Field(
        default=63, description="How many of the latest events of a history are read."
    )
    history_reads: Literal["ids", "items"] = Field(
        default="ids",
        description='How an item of a history is represented: "ids", by its id embedding; "items", '
        "by its vector from the item tower, which includes features.",
    )
    request_time: bool = Field(
        default=False,
        description="Whether the user tower reads the time of the request: hour, weekday, time "
        "since the last event and, with history_time, the age of each event. In training it is the "
        "time of the positive.",
    )
    history_features: Names | None = Field(
        default=None,
        description="Columns of features.events that are read for each event of a history; they "
        "scale and shift its vector. Unset: all of them.",
        examples=[["dwell"]],
    )
    context: Names | None = Field(
        default=None,
        description='Columns of features.events with known = "before" that the user tower reads '
        "from the request; in training, from the event to be predicted. Unset: all of them.",
        examples=[["device"]],
    )
    history_windows: bool = Field(
        default=False,
        description="mean, recency: true makes batches of windows of histories, each read once for "
        "all of its positives; false makes them of random positives, each with its own history.",
    )
    history_dropout: Share = Field(
        default=0.0,
        description="Share of a history's events that is left out at random in each batch.",
    )
    shared_items: bool = Field(
        default=True,
        description="Whether histories use the id embeddings of the item tower (true) or a table "
        "of their own.",
    )
    user_id: bool = Field(
        default=False, description="Whether the user's id is an input of its tower."
    )
    item_id: bool = Field(
        default=True, description="Whether the item's id is an input of its tower."
    )
    id_dropout: Share = Field(
        default=0.0,
        description="Share of items whose id is left out at random in each batch, so that the "
        "features alone learn to place new items.",
    )
    item_neighbours: Count | None = Field(
        default=None,
        description="How many of the items that share most users with an item speak for it, too: "
        "twice the mean of their embeddings is added to its own, and training begins where items "
        "of the same users lie side by side. Unset: none.",
        examples=[50],
    )
    user_features: Names | None = Field(
        default=None,
        description="Inputs of the user tower. Unset: all of features.users.",
        examples=[[]],
    )
    item_features: Names | None = Field(
        default=None,
        description="Inputs of the item tower. Unset: all of features.items.",
        examples=[[]],
    )
    user_layers: Counts = Field(
        default=(), description="Widths of the hidden layers of the user tower."
    )
    item_layers: Counts = Field(
        default=(), description="Widths of the hidden layers of the item tower."
    )
    biases: bool = Field(
        default=False,
        description="Whether each user and each item has a bias; both use two of the dim numbers "
        "of a vector. For the dot product only. A loss that is fitted to the "
        "values of events also adds their mean, so that a score is the predicted value.",
    )
    popularity: Positive | None = Field(
        default=None,
        description="So many times the logarithm of an item's events is added to the cosine of all "
        "but one of the dim numbers; for similarity = 'dot'. Unset: the vectors learn what is "
        "popular like all else.",
        examples=[0.07],
    )
    dropout: ShareOrAuto = Field(
        default=AUTO,
        description="Dropout rate of the pooled history and of hidden layers in training. "
        '"auto": 0.3, or 0.5 if items have few events on average.',
    )

    latest_items: Count | None = Field(
        default=None,
        description="i2i: how many of the user's latest items make the query. Unset: 5 if events "
        "have an order, else all.",
        examples=[5],
    )
    neighbours: Count | None = Field(
        default=None,
        description="u2u: number of similar users whose items become candidates. Unset: 50.",
        examples=[50],
    )

    @model_validator(mode="after")
    def _keys_act(self) -> Self:
        given = {key for key in type(self).model_fields if self.is_changed(key)}
        if self.history == "none":
            for key in (
                *("history_length", "history_dropout", "history_reads", "history_features"),
                "shared_items",
            ):
                if key in given:
                    raise ValueError(f"{key} does nothing with history = 'none': leave it out.")
            if "dropout" in given and self.dropout and not (self.user_layers or self.item_layers):
                raise ValueError(
                    "dropout applies to histories and hidden layers, so it does nothing with "
                    "history = 'none' and no layers: leave it out."
                )
        if self.item_neighbours is not None and not self.item_id:
            raise ValueError(
                "item_neighbours adds up embeddings of item ids, and item_id = false leaves none: "
                "leave one of them out."
            )
        if self.popularity is not None and self.biases:
            raise ValueError(
                "popularity takes the place of the biases of items: leave one of them out."
            )
        if self.history_reads == "items" and not self.shared_items:
            raise ValueError(
                "history_reads = 'items' reads histories with the item tower, so items are always "
                "shared: leave shared_items out."
            )
        if not (self.shared_items or self.item_id):
            raise ValueError(
                "shared_items = false does nothing with item_id = false, because there is no table "
                "of ids to share: leave it out."
            )
        return self

    @property
    def shares_items(self) -> bool:
        """Whether both towers use one table of item embeddings."""
        return self.shared_items and self.item_id

    @property
    def query_vectors(self) -> int | None:
        """Number of vectors per user, one for each interest; None for a single vector."""
        return None
