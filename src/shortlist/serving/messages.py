"""What is every message over HTTP? A strict JSON object; and how an error is told.

An id is a JSON integer or string, with the type that it has in the data: "1" is not 1. An unknown
key, a duplicate key and a value of another type are errors; nothing is ignored.

The docstrings of the models are the descriptions in the OpenAPI document, which are CommonMark;
therefore their fields are lists.
"""

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

MESSAGE_LENGTH = 300
"""Maximum length of an error message in characters, as it may quote the request."""


class RequestError(Exception):
    """A request that cannot be answered.

    code: one word for programs, a key of `app.STATUS`.
    message: what was expected, what came and what to do; cut to MESSAGE_LENGTH characters.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = _short(message)


class Message(BaseModel):
    """A JSON object with exactly these keys; values are not converted to another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


IdNumber: TypeAlias = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Id: TypeAlias = IdNumber | str
Ids: TypeAlias = list[Id]
Time: TypeAlias = IdNumber | float | str | None
FeatureScalar: TypeAlias = bool | IdNumber | float | str | None
FeatureValue: TypeAlias = FeatureScalar | list[FeatureScalar]


def _short(message: str) -> str:
    return message if len(message) <= MESSAGE_LENGTH else f"{message[: MESSAGE_LENGTH - 1]}…"


class ErrorDetail(Message):
    """An error.

    - code: one word for programs.
    - message: what was expected and what came.
    """

    code: str
    message: str


class ErrorAnswer(Message):
    """The body of every answer with a status other than 2xx."""

    error: ErrorDetail
