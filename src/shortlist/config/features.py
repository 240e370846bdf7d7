"""[features] of a recipe: which columns are read besides ids and histories, and as what?"""

from typing import Literal

from pydantic import Field

from shortlist.sections.base import (
    Section,
    Text,
)

Kind = Literal["categorical", "numeric", "multi-valued", "vector"]


class Features(Section):
    """What the towers can read, besides ids and histories.

    Kinds: "categorical", "numeric", "multi-valued" (several values in one text), "vector".
    """

    users: dict[Text, Kind] = Field(
        default={},
        description="Columns of data.users and their kinds.",
        examples=[{"age": "numeric", "occupation": "categorical"}],
    )
    items: dict[Text, Kind] = Field(
        default={},
        description="Columns of data.items and their kinds.",
        examples=[{"genres": "multi-valued"}],
    )
    separator: Text = Field(
        default="|", description="What stands between the values of a multi-valued."
    )
    title: Text | None = Field(
        default=None, description="Column of data.items shown to people.", examples=["title"]
    )
