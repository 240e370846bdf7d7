"""[evaluation] of a recipe: how is the model measured?"""

from typing import Annotated

from pydantic import AfterValidator, Field

from shortlist.sections.base import (
    Counts,
    Section,
    distinct,
)


class Evaluation(Section):
    """How the model is measured, on the full catalogue."""

    k: Annotated[Counts, AfterValidator(distinct), Field(min_length=1)] = Field(
        default=(10, 20, 100), description="List lengths k for which figures are given."
    )
    exclude_seen: bool = Field(
        default=True, description="Whether items of the user's history are left out of the answer."
    )
    ladder: bool = Field(
        default=True,
        description="Whether recent popularity, transitions and item-cf are fitted on the same "
        "rows and measured beside the model, to show what simple methods reach.",
    )
