"""Which retrievers can be a channel of their own, by the name recipes and manifests use?"""

from typing import Any

from shortlist.retrievers.als import ALS
from shortlist.retrievers.ease import EASE
from shortlist.retrievers.graph_filter import GraphFilter
from shortlist.retrievers.inverted import Inverted
from shortlist.retrievers.item_cf import ItemCF
from shortlist.retrievers.item_to_item import ItemToItem
from shortlist.retrievers.popular import Popular
from shortlist.retrievers.user_cf import UserCF
from shortlist.retrievers.user_to_user import UserToUser
from shortlist.retrievers.vector import TwoTower

CHANNELS: dict[str, type[Any]] = {
    "popular": Popular,
    "inverted": Inverted,
    "item-cf": ItemCF,
    "user-cf": UserCF,
    "ease": EASE,
    "graph-filter": GraphFilter,
    "als": ALS,
    "two-tower": TwoTower,
    "item-to-item": ItemToItem,
    "user-to-user": UserToUser,
}
"""Every retriever that stands alone; `Blend` merges several of them."""
