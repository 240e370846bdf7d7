"""Which retrievers can a bundle hold, and under which names?"""

from collections.abc import Mapping
from typing import overload

from shortlist.asking.capabilities import Answers, Channel
from shortlist.blending.blend import Blend
from shortlist.channels.table import CHANNELS

RETRIEVERS: dict[str, type[Channel]] = {**CHANNELS, "blend": Blend}
"""All kinds of retrievers by name: every channel, and the blend of several."""


def kind_name(retriever: Answers) -> str:
    """Return the name of a retriever's kind; the class name if it is not in RETRIEVERS."""
    names = (name for name, kind in RETRIEVERS.items() if type(retriever) is kind)
    return next(names, type(retriever).__name__)


@overload
def parts(retriever: Channel) -> Mapping[str, Channel]: ...
@overload
def parts(retriever: Answers) -> Mapping[str, Answers]: ...
def parts(retriever: Answers) -> Mapping[str, Answers]:
    """Return the channels of a blend by name; any other retriever alone, by its kind's name."""
    if isinstance(retriever, Blend):
        return retriever.channels
    return {kind_name(retriever): retriever}
