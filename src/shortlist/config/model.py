"""[model] of a recipe: what are the two towers made of?"""

from difflib import get_close_matches
from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from shortlist.config.parts import given, options_of, with_options
from shortlist.sections.model import CommonModel
from shortlist.towers.interests import INTERESTS

MODEL_PARTS = ("history",)
"""The keys of [model] that name parts whose options are keys beside them."""

if TYPE_CHECKING:
    ModelOptions = CommonModel
else:
    ModelOptions = with_options(CommonModel, *MODEL_PARTS)


class Model(ModelOptions):
    """The architecture of the two towers."""

    @model_validator(mode="after")
    def _history_options_act(self) -> Self:
        chosen = {key for key in type(self).model_fields if self.is_changed(key)}
        for key, readers in history_options().items():
            if key in chosen and self.history not in readers:
                meant = get_close_matches(self.history, readers, n=1)
                cure = f"did you mean '{meant[0]}'?" if meant else "leave it out."
                raise ValueError(
                    f"{key} is for history = {' or '.join(map(repr, readers))} and does nothing "
                    f"with {self.history!r}: {cure}"
                )
        return self

    @property
    def query_vectors(self) -> int | None:
        """Number of vectors per user, one for each interest; None for a single vector."""
        if self.history not in history_options()["interests"]:
            return None
        vectors: int = given(self, "history").get("interests", INTERESTS)
        return vectors


def history_options() -> dict[str, tuple[str, ...]]:
    """Return the keys of [model] that only some kinds of history read, each with these kinds."""
    readers = {key: tuple(o.part for o in some) for key, some in options_of("history").items()}
    return readers | {"history_windows": ("mean", "recency")}
