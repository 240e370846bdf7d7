"""WHO ANSWERS: channels that turn a user or a history into candidates."""

from typing import Any

from shortlist.retrievers.popular import Popular
from shortlist.retrievers.vector import TwoTower

RETRIEVERS: dict[str, type[Any]] = {"popular": Popular, "two-tower": TwoTower}
"""Every retriever a bundle can hold, by the name its manifest carries."""
