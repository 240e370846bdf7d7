"""Shortlist: the recall stage of a recommender, from an interaction log to candidates."""

from shortlist.bundle.bundle import Bundle, load, save
from shortlist.data.dataset import Dataset, Split
from shortlist.data.schema import Feature, Schema
from shortlist.errors import ShortlistError
from shortlist.evaluation.evaluate import evaluate
from shortlist.evaluation.report import Report
from shortlist.retrievers.base import Candidates, Queries
from shortlist.retrievers.item_to_item import ItemToItem
from shortlist.retrievers.popular import Popular
from shortlist.retrievers.user_to_user import UserToUser
from shortlist.retrievers.vector import TwoTower

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "Candidates",
    "Dataset",
    "Feature",
    "ItemToItem",
    "Popular",
    "Queries",
    "Report",
    "Schema",
    "ShortlistError",
    "Split",
    "TwoTower",
    "UserToUser",
    "evaluate",
    "load",
    "save",
]
