"""Which forms of text do several sections share?"""

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator

from shortlist.sections.base import (
    plain,
)


def _path(text: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError(
            "must be a path without control characters, as \\n and \\t are in double quotes: "
            "write '/' between folders, or single quotes around it, or each backslash twice"
        )
    return text


def _channel(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", text):
        raise ValueError("must be small letters, digits, - and _, starting with a letter")
    return text


PathText = Annotated[str, AfterValidator(plain), AfterValidator(_path)]
ChannelName = Annotated[str, AfterValidator(_channel)]
