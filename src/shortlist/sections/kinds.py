"""Which kinds of features and of splits exist? Used by the data and by recipes."""

from typing import Literal

FeatureKind = Literal["categorical", "numeric", "multi-valued", "vector", "text"]
"""How a column is read: as a category, number, list of categories, list of numbers, or words."""

TEXT_WIDTH = 64
"""Default length of the vector that a text becomes."""

SplitKind = Literal["leave-last-out", "global-time", "random", "column", "cold-items", "rolling"]
"""How events are held out; see `data.splits`."""

ColdItems = Literal["random", "newest"]
"""Which items a split of kind "cold-items" holds out."""

EventFeatureKind = Literal["categorical", "numeric"]
"""How a column of the log that describes the event is read."""

Known = Literal["before", "after"]
"""When the value of an event's column is known: before the event, as in a request, or after it."""
