"""What is a section of a recipe, and which types can its keys have?"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WrapValidator,
)

from shortlist.durations import checked_duration


def plain(text: str) -> str:
    """Refuse an empty text, and NUL in it."""
    if not text or "\0" in text:
        raise ValueError("must be text of at least one character, without NUL")
    return text


def as_tuple(value: object) -> object:
    """Return a list of TOML as a tuple."""
    return tuple(value) if isinstance(value, list) else value


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse a value that stands twice."""
    if len(set(values)) < len(values):
        raise ValueError("must not say the same thing twice")
    return values


AUTO = "auto"
"""The value of a key whose number follows from the log, once there is one."""


def is_auto(value: object) -> bool:
    """Tell whether a value stands for the number that follows from the log."""
    return isinstance(value, str) and value == AUTO


def _or_auto(what: str) -> tuple[object, ...]:
    """Let a number be "auto" as well. It is typed as the number, which `training.auto` puts in."""

    def read(value: object, check: Callable[[object], object]) -> object:
        if is_auto(value):
            return value
        if isinstance(value, str):
            raise ValueError(f'must be {what}, or "{AUTO}"')
        return check(value)

    return WrapValidator(read), PlainSerializer(lambda value: value)


Text = Annotated[str, AfterValidator(plain)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0)]
Duration = Annotated[float | str, BeforeValidator(checked_duration)]
Share = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
Names = Annotated[tuple[Text, ...], BeforeValidator(as_tuple), AfterValidator(distinct)]
CountOrAuto = Annotated[Count, *_or_auto("a whole number")]
WholeOrAuto = Annotated[int, Field(ge=0, lt=2**31), *_or_auto("a whole number")]
ShareOrAuto = Annotated[Share, *_or_auto("a number")]
Counts = Annotated[tuple[Count, ...], BeforeValidator(as_tuple)]


class Section(BaseModel):
    """Read strictly: no unknown key, no value turned into another type, none that is not finite."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    def idle(self) -> str:
        """Say which key would do nothing beside the others, and why; '' if each one acts.

        Asked when options are given, not of what a bundle holds: an older one may say more.
        """
        return ""

    if not TYPE_CHECKING:  # a type checker would believe that every key exists

        def __getattr__(self, name: str) -> Any:
            """Return the default of a key that came after this section was read, with a part."""
            field = type(self).model_fields.get(name)
            return super().__getattr__(name) if field is None else field.default
