"""[features] of a recipe: which columns are read besides ids and histories, and as what?"""

from pydantic import Field

from shortlist.sections.base import (
    Section,
    Text,
)
from shortlist.sections.events import EventColumn
from shortlist.sections.kinds import TEXT_WIDTH, FeatureKind


class Features(Section):
    """What the towers can read, besides ids and histories.

    Without data.users (data.items) its columns are read from the log, where each row repeats them:
    the latest value before the cut of the split is kept, and contradictions are counted.
    Kinds: "categorical", "numeric", "multi-valued" (several values in one text), "vector", "text"
    (words, in any language: titles, descriptions, tags).
    """

    users: dict[Text, FeatureKind] = Field(
        default={},
        description="Columns of data.users, or of the log, and their kinds.",
        examples=[{"age": "numeric", "occupation": "categorical"}],
    )
    items: dict[Text, FeatureKind] = Field(
        default={},
        description="Columns of data.items, or of the log, and their kinds.",
        examples=[{"genres": "multi-valued"}],
    )
    events: dict[Text, EventColumn] = Field(
        default={},
        description="Columns of the log that belong to the event, each with its kind (categorical "
        'or numeric) and when it is known: "before" the event, as device and page are, so that '
        'requests can tell them, too (context); or "after" it, as dwell time is, which is read of '
        "past events alone. data.event and data.weight may be among them.",
        examples=[
            {
                "device": {"kind": "categorical", "known": "before"},
                "dwell": {"kind": "numeric", "known": "after"},
            }
        ],
    )
    separator: Text = Field(
        default="|", description="What stands between the values of a multi-valued."
    )
    text_width: int = Field(
        default=TEXT_WIDTH,
        ge=1,
        le=4096,
        description="Numbers of the vector that a column of kind text becomes.",
    )
    title: Text | None = Field(
        default=None,
        description="Column of data.items, or of the log, shown to people.",
        examples=["title"],
    )
