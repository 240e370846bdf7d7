"""Which kinds of features and of splits are there? Asked by the data and by recipes alike."""

from typing import Literal

FeatureKind = Literal["categorical", "numeric", "multi-valued", "vector", "text"]
"""How a column is read: one category, a number, several categories, a list of numbers, or words."""

TEXT_WIDTH = 64
"""Numbers of the vector that a text becomes, unless a recipe says otherwise."""

SplitKind = Literal["leave-last-out", "global-time", "random", "column", "cold-items", "rolling"]
"""Which events are held out; `data.splits` says how."""

ColdItems = Literal["random", "newest"]
"""Which items a split of kind cold-items holds out."""

EventFeatureKind = Literal["categorical", "numeric"]
"""How a column of the log that belongs to the event is read."""

Known = Literal["before", "after"]
"""When such a column is known: before the event, so that a request can tell it, or after it."""
