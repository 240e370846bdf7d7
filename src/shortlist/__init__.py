"""Shortlist: the recall stage of a recommender system, end to end."""

__version__ = "0.1.0"
