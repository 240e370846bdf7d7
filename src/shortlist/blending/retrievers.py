"""Which retrievers can a bundle hold, by the name its manifest carries?"""

from collections.abc import Mapping

from shortlist.asking.capabilities import Channel
from shortlist.blending.blend import Blend
from shortlist.channels.table import CHANNELS

RETRIEVERS: dict[str, type[Channel]] = {**CHANNELS, "blend": Blend}
"""Every retriever: the channels that stand alone, and the blend of several."""


def kind_name(retriever: Channel) -> str:
    """Return the name of a retriever's kind; of one's own class, the name of the class."""
    names = (name for name, kind in RETRIEVERS.items() if type(retriever) is kind)
    return next(names, type(retriever).__name__)


def parts(retriever: Channel) -> Mapping[str, Channel]:
    """Return the channels of a blend by name, and any other retriever by the name of its kind."""
    if isinstance(retriever, Blend):
        return retriever.channels
    return {kind_name(retriever): retriever}
