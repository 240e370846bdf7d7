"""[evaluation] of a recipe: how is the result measured?"""

from typing import Annotated

from pydantic import AfterValidator, Field

from shortlist.sections.base import (
    Counts,
    Section,
    distinct,
)


class Evaluation(Section):
    """How the result is measured, on the full catalogue."""

    k: Annotated[Counts, AfterValidator(distinct), Field(min_length=1)] = Field(
        default=(10, 20, 100), description="Lengths of the list the figures are given for."
    )
    exclude_seen: bool = Field(
        default=True, description="Whether items a user has had are left out of the answer."
    )
    ladder: bool = Field(
        default=True,
        description="Whether popularity of late, transitions and item-cf are fitted on the same "
        "rows and measured beside the model: what methods without training get.",
    )
