"""Shortlist: the recall stage of a recommender, from an interaction log to candidates.

A public name is imported when it is first used, so that `import shortlist` itself is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shortlist.errors import ShortlistError
from shortlist.systems import check_system

if TYPE_CHECKING:
    from shortlist.asking.candidates import Candidates
    from shortlist.asking.queries import Queries
    from shortlist.blending.blend import Blend
    from shortlist.blending.planning import plan
    from shortlist.bundle.bundle import Bundle, load, save
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
    from shortlist.data.dataset import Dataset, Split
    from shortlist.data.schema import EventFeature, Feature, Schema
    from shortlist.data.text import TextFormat
    from shortlist.evaluation.compare import compare
    from shortlist.evaluation.evaluate import evaluate
    from shortlist.evaluation.lists import evaluate_lists
    from shortlist.evaluation.report import Report
    from shortlist.plugins import use_plugins
    from shortlist.runs.whole import Run, train

__version__ = "0.2.0"

__all__ = [
    "ALS",
    "EASE",
    "Blend",
    "Bundle",
    "Candidates",
    "Dataset",
    "EventFeature",
    "Feature",
    "GraphFilter",
    "Inverted",
    "ItemCF",
    "ItemToItem",
    "Popular",
    "Queries",
    "Report",
    "Run",
    "Schema",
    "ShortlistError",
    "Split",
    "TextFormat",
    "Transitions",
    "TwoTower",
    "UserCF",
    "UserToUser",
    "compare",
    "evaluate",
    "evaluate_lists",
    "load",
    "plan",
    "save",
    "train",
    "use_plugins",
]

_HOMES = {
    "ALS": "shortlist.channels.counting.als",
    "EASE": "shortlist.channels.counting.ease",
    "Blend": "shortlist.blending.blend",
    "Bundle": "shortlist.bundle.bundle",
    "Candidates": "shortlist.asking.candidates",
    "Dataset": "shortlist.data.dataset",
    "EventFeature": "shortlist.data.schema",
    "Feature": "shortlist.data.schema",
    "GraphFilter": "shortlist.channels.counting.graph_filter",
    "Inverted": "shortlist.channels.counting.inverted",
    "ItemCF": "shortlist.channels.counting.item_cf",
    "ItemToItem": "shortlist.channels.learned.item_to_item",
    "Popular": "shortlist.channels.counting.popular",
    "Queries": "shortlist.asking.queries",
    "Report": "shortlist.evaluation.report",
    "Run": "shortlist.runs.whole",
    "Schema": "shortlist.data.schema",
    "Split": "shortlist.data.dataset",
    "TextFormat": "shortlist.data.text",
    "Transitions": "shortlist.channels.counting.transitions",
    "TwoTower": "shortlist.channels.learned.two_tower",
    "UserCF": "shortlist.channels.counting.user_cf",
    "UserToUser": "shortlist.channels.learned.user_to_user",
    "compare": "shortlist.evaluation.compare",
    "evaluate": "shortlist.evaluation.evaluate",
    "evaluate_lists": "shortlist.evaluation.lists",
    "load": "shortlist.bundle.bundle",
    "plan": "shortlist.blending.planning",
    "save": "shortlist.bundle.bundle",
    "train": "shortlist.runs.whole",
    "use_plugins": "shortlist.plugins",
}
"""The module of each public name. A test compares it with the imports above."""


if not TYPE_CHECKING:  # otherwise a type checker accepts any name

    def __getattr__(name: str) -> Any:
        """Import a public name that is used for the first time (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module 'shortlist' has no attribute {name!r}")
        check_system()
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    """List the public names, whether they were imported already or not."""
    return sorted({*globals(), *__all__})
