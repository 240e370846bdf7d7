"""[features] of a recipe: which columns are read besides ids and histories, and how?"""

from pydantic import Field

from shortlist.sections.base import (
    Section,
    Text,
)
from shortlist.sections.events import EventColumn
from shortlist.sections.kinds import TEXT_WIDTH, FeatureKind


class Features(Section):
    """Columns that the towers can read, besides ids and histories.

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
        'or numeric) and with when it is known: "before" the event, such as device and page, so '
        'that a request can carry it (context); or "after" it, such as dwell time, which is read '
        "for past events only. data.event and data.weight may be among them.",
        examples=[
            {
                "device": {"kind": "categorical", "known": "before"},
                "dwell": {"kind": "numeric", "known": "after"},
            }
        ],
    )
    separator: Text = Field(
        default="|", description="Text that separates the values of a multi-valued feature."
    )
    text_width: int = Field(
        default=TEXT_WIDTH,
        ge=1,
        le=4096,
        description="Width of the vector that represents a column of kind text.",
    )
    title: Text | None = Field(
        default=None,
        description="Column of data.items, or of the log, with the title that people are shown.",
        examples=["title"],
    )
