"""Which forms of text do several sections share?"""

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from shortlist.sections.base import distinct, plain


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


def _paths(value: object) -> object:
    """Check a path, or a list of paths, which becomes a tuple."""
    if isinstance(value, list | tuple) and value and all(isinstance(path, str) for path in value):
        return distinct(tuple(_path(plain(path)) for path in value))
    if isinstance(value, str):
        return _path(plain(value))
    raise ValueError("must be text in quotes, or a list of such texts")


PathText = Annotated[str, AfterValidator(plain), AfterValidator(_path)]
Paths = Annotated[str | tuple[str, ...], BeforeValidator(_paths)]
ChannelName = Annotated[str, AfterValidator(_channel)]
