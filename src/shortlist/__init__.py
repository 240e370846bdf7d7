"""Shortlist: the recall stage of a recommender, from an interaction log to candidates."""

from shortlist.bundle.bundle import Bundle, load, save
from shortlist.data.dataset import Dataset, Split
from shortlist.data.schema import Feature, Schema
from shortlist.errors import ShortlistError
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
    "TwoTower",
    "UserCF",
    "UserToUser",
    "compare",
    "evaluate",
    "load",
    "plan",
    "save",
]
