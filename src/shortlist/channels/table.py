"""Which retrievers can be a channel, and under which names do recipes and manifests know them?"""

from shortlist.asking.capabilities import Channel
from shortlist.channels.counting.als import ALS
from shortlist.channels.counting.ease import EASE
from shortlist.channels.counting.graph_filter import GraphFilter
from shortlist.channels.counting.inverted import Inverted
from shortlist.channels.counting.item_cf import ItemCF
from shortlist.channels.counting.popular import Popular
from shortlist.channels.counting.transitions import Transitions
from shortlist.channels.counting.user_cf import UserCF
from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser

CHANNELS: dict[str, type[Channel]] = {
    "popular": Popular,
    "inverted": Inverted,
    "item-cf": ItemCF,
    "user-cf": UserCF,
    "transitions": Transitions,
    "ease": EASE,
    "graph-filter": GraphFilter,
    "als": ALS,
    "two-tower": TwoTower,
    "item-to-item": ItemToItem,
    "user-to-user": UserToUser,
}
"""Every retriever that can answer by itself; `Blend` merges several of them."""

Learned = TwoTower | ItemToItem | UserToUser
"""A retriever that the [model] and [training] sections of a recipe describe."""

LEARNED: dict[str, type[TwoTower] | type[ItemToItem] | type[UserToUser]] = {
    "u2i": TwoTower,
    "i2i": ItemToItem,
    "u2u": UserToUser,
}
"""The retriever for each value of `training.positives`."""
