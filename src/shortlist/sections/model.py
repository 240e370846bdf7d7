"""What does [model] say, beside the options of its parts?"""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from shortlist.sections.base import (
    Count,
    CountOrAuto,
    Counts,
    Names,
    Section,
    Share,
    ShareOrAuto,
    Text,
)


class CommonModel(Section):
    """The two towers."""

    may_be_missing: ClassVar[frozenset[str]] = frozenset(
        {"request_time", "history_features", "context"}
    )
    """Keys that came after format 3 of bundles: kept where they are given (docs/decisions/0012)."""

    dim: CountOrAuto = Field(
        default=64,
        description='Width of the user and item vectors; "auto": wider where an item has many '
        "events.",
    )
    history: Text = Field(
        default="recency",
        description='How the items of a history become vectors: "attention", "hstu" and "gru" read '
        'them in order, "recency" tells the newest from the older, "mean" does not, "comirec" and '
        '"mind" give several vectors of a user, "none" reads no history.',
    )
    history_length: Count = Field(
        default=63, description="The latest events of a history that are kept."
    )
    history_reads: Literal["ids", "items"] = Field(
        default="ids",
        description='What stands for an item of a history: "ids", its id embedding; "items", its '
        "vector of the item tower, features included.",
    )
    request_time: bool = Field(
        default=False,
        description="Whether a query is read with the time it is asked at: hour, weekday and the "
        "time since the last event, and with history_time how long ago each event was. In training "
        "that is the time of the positive.",
    )
    history_features: Names | None = Field(
        default=None,
        description="Columns of features.events that are read of each event of a history: they "
        "scale and shift its vector. Unset: all of them.",
        examples=[["dwell"]],
    )
    context: Names | None = Field(
        default=None,
        description="Columns of features.events, known before the event, that the user tower reads "
        "of the request: in training of the event to be predicted. Unset: all of these.",
        examples=[["device"]],
    )
    history_windows: bool = Field(
        default=False,
        description="mean, recency: whether a batch is made of stretches of histories, each read "
        "once for all its positives, or of positives from anywhere, each with its own history.",
    )
    history_dropout: Share = Field(
        default=0.0, description="Share of a history's events left out of it, anew in each batch."
    )
    shared_items: bool = Field(
        default=True,
        description="Whether histories are read with the item tower's id embeddings, or their own.",
    )
    user_id: bool = Field(
        default=False, description="Whether the user's id is an input of its tower."
    )
    item_id: bool = Field(
        default=True, description="Whether the item's id is an input of its tower."
    )
    id_dropout: Share = Field(
        default=0.0,
        description="Share of items that train without their id, anew in each batch: features "
        "alone then learn to place an item nobody has touched yet.",
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
        description="Whether users and items have a bias each: two of the dim numbers of a vector. "
        "With values = 'explicit' (loss = 'squared') the mean of all values stands beside them, so "
        "that a score is the value itself. For similarity = 'dot'.",
    )
    dropout: ShareOrAuto = Field(
        default=0.2,
        description="Share of the pooled history and of hidden layers dropped in training; "
        '"auto": more where an item has few events.',
    )

    latest_items: Count | None = Field(
        default=None,
        description="i2i: how many of the latest items a query is made of. Unset: 5 where "
        "data.time orders events, else all.",
        examples=[5],
    )
    neighbours: Count | None = Field(
        default=None,
        description="u2u: how many similar users are asked for their items. Unset: 50.",
        examples=[50],
    )

    @model_validator(mode="after")
    def _keys_act(self) -> Self:
        given = {k for k, f in type(self).model_fields.items() if getattr(self, k) != f.default}
        if self.history == "none":
            for key in (
                *("history_length", "history_dropout", "history_reads", "history_features"),
                "shared_items",
            ):
                if key in given:
                    raise ValueError(f"{key} does nothing with history = 'none': leave it out.")
            if "dropout" in given and self.dropout and not (self.user_layers or self.item_layers):
                raise ValueError(
                    "dropout is of histories and hidden layers, and does nothing with "
                    "history = 'none' and no layers: leave it out."
                )
        if self.history_reads == "items" and not self.shared_items:
            raise ValueError(
                "history_reads = 'items' reads histories with the item tower, which is sharing: "
                "leave shared_items out."
            )
        if not (self.shared_items or self.item_id):
            raise ValueError(
                "shared_items = false does nothing with item_id = false, where there is no table "
                "of ids to share: leave it out."
            )
        return self

    @property
    def shares_items(self) -> bool:
        """Whether both towers read one table of item embeddings: there must be one to share."""
        return self.shared_items and self.item_id

    @property
    def query_vectors(self) -> int | None:
        """How many vectors a user has, one an interest; None where it is one, without interests."""
        return None
