"""Which retrievers can a bundle hold, by the name its manifest carries?"""

from typing import Any

from shortlist.blending.blend import Blend
from shortlist.channels.table import CHANNELS

RETRIEVERS: dict[str, type[Any]] = {**CHANNELS, "blend": Blend}
"""Every retriever: the channels that stand alone, and the blend of several."""
