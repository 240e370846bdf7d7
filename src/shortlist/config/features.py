"""[features] of a recipe: which columns are read besides ids and histories, and as what?"""

from pydantic import Field

from shortlist.sections.base import (
    Section,
    Text,
)
from shortlist.sections.kinds import FeatureKind


class Features(Section):
    """What the towers can read, besides ids and histories.

    Without data.users (data.items) its columns are read from the log, where each row repeats them:
    the latest value before the cut of the split is kept, and contradictions are counted.
    Kinds: "categorical", "numeric", "multi-valued" (several values in one text), "vector".
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
    separator: Text = Field(
        default="|", description="What stands between the values of a multi-valued."
    )
    title: Text | None = Field(
        default=None,
        description="Column of data.items, or of the log, shown to people.",
        examples=["title"],
    )
