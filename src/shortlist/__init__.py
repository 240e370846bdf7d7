"""Shortlist: the recall stage of a recommender, from an interaction log to candidates.

A public name is imported when it is first used, so that `import shortlist` itself costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shortlist.errors import ShortlistError
from shortlist.systems import check_system

if TYPE_CHECKING:
    from shortlist.bundle.bundle import Bundle, load, save
    from shortlist.data.dataset import Dataset, Split
    from shortlist.data.schema import Feature, Schema
    from shortlist.data.text import TextFormat
    from shortlist.evaluation.compare import compare
    from shortlist.evaluation.evaluate import evaluate
    from shortlist.evaluation.report import Report
    from shortlist.retrievers.als import ALS
    from shortlist.retrievers.base import Candidates, Queries
    from shortlist.retrievers.blend import Blend
    from shortlist.retrievers.ease import EASE
    from shortlist.retrievers.graph_filter import GraphFilter
    from shortlist.retrievers.inverted import Inverted
    from shortlist.retrievers.item_cf import ItemCF
    from shortlist.retrievers.item_to_item import ItemToItem
    from shortlist.retrievers.planning import plan
    from shortlist.retrievers.popular import Popular
    from shortlist.retrievers.user_cf import UserCF
    from shortlist.retrievers.user_to_user import UserToUser
    from shortlist.retrievers.vector import TwoTower

__version__ = "0.1.0"

__all__ = [
    "ALS",
    "EASE",
    "Blend",
    "Bundle",
    "Candidates",
    "Dataset",
    "Feature",
    "GraphFilter",
    "Inverted",
    "ItemCF",
    "ItemToItem",
    "Popular",
    "Queries",
    "Report",
    "Schema",
    "ShortlistError",
    "Split",
    "TextFormat",
    "TwoTower",
    "UserCF",
    "UserToUser",
    "compare",
    "evaluate",
    "load",
    "plan",
    "save",
]

_HOMES = {
    "ALS": "shortlist.retrievers.als",
    "EASE": "shortlist.retrievers.ease",
    "Blend": "shortlist.retrievers.blend",
    "Bundle": "shortlist.bundle.bundle",
    "Candidates": "shortlist.retrievers.base",
    "Dataset": "shortlist.data.dataset",
    "Feature": "shortlist.data.schema",
    "GraphFilter": "shortlist.retrievers.graph_filter",
    "Inverted": "shortlist.retrievers.inverted",
    "ItemCF": "shortlist.retrievers.item_cf",
    "ItemToItem": "shortlist.retrievers.item_to_item",
    "Popular": "shortlist.retrievers.popular",
    "Queries": "shortlist.retrievers.base",
    "Report": "shortlist.evaluation.report",
    "Schema": "shortlist.data.schema",
    "Split": "shortlist.data.dataset",
    "TextFormat": "shortlist.data.text",
    "TwoTower": "shortlist.retrievers.vector",
    "UserCF": "shortlist.retrievers.user_cf",
    "UserToUser": "shortlist.retrievers.user_to_user",
    "compare": "shortlist.evaluation.compare",
    "evaluate": "shortlist.evaluation.evaluate",
    "load": "shortlist.bundle.bundle",
    "plan": "shortlist.retrievers.planning",
    "save": "shortlist.bundle.bundle",
}
"""The module of each name, the same as above: a test compares the two."""


if not TYPE_CHECKING:  # a type checker would believe that every name exists

    def __getattr__(name: str) -> Any:
        """Import a public name that is used for the first time (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module 'shortlist' has no attribute {name!r}")
        check_system()
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    """Name what can be imported, whether it was used already or not."""
    return sorted({*globals(), *__all__})
