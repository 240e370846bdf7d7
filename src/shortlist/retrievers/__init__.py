"""WHO ANSWERS: channels that turn a user or a history into candidates."""

from typing import Any

from shortlist.retrievers.blend import Blend
from shortlist.retrievers.channels import CHANNELS
from shortlist.retrievers.item_to_item import ItemToItem
from shortlist.retrievers.user_to_user import UserToUser
from shortlist.retrievers.vector import TwoTower

RETRIEVERS: dict[str, type[Any]] = {**CHANNELS, "blend": Blend}
"""Every retriever a bundle can hold, by the name its manifest carries."""

Learned = TwoTower | ItemToItem | UserToUser
"""A retriever that a recipe's [model] and [training] make."""

LEARNED: dict[str, type[TwoTower] | type[ItemToItem] | type[UserToUser]] = {
    "u2i": TwoTower,
    "i2i": ItemToItem,
    "u2u": UserToUser,
}
"""Which retriever learns from which positives: what `training.positives` may name."""

__all__ = ["CHANNELS", "LEARNED", "RETRIEVERS", "Learned"]
