"""What is a section of a recipe, and which types can its keys have?"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

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
    """Check that a text is not empty and has no NUL. Errors: ValueError."""
    if not text or "\0" in text:
        raise ValueError("must be text of at least one character, without NUL")
    return text


def as_tuple(value: object) -> object:
    """Return a TOML list as a tuple, and any other value unchanged."""
    return tuple(value) if isinstance(value, list) else value


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse repeated values. Errors: ValueError."""
    if len(set(values)) < len(values):
        raise ValueError("must not repeat a value")
    return values


AUTO: Any = "auto"
"""The value of a key whose number is chosen from the log when it is read.

Its type is Any, because such a key has the type of its number.
"""


def is_auto(value: object) -> bool:
    """Tell whether a value is AUTO."""
    return isinstance(value, str) and value == AUTO


def _or_auto(what: str) -> tuple[object, ...]:
    """Return pydantic annotations that also accept "auto" for a number.

    The type stays that of the number, because `training.auto` replaces "auto" before it is used.

    what: the expected value, for errors.
    """

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
    """A table of a recipe, read strictly: unknown keys, other types and infinite numbers fail."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    without_log: ClassVar[Mapping[str, int | float]] = {}
    """The number of each key whose default is AUTO, for code that has no log to choose it by.

    It was the default before, so older bundles hold it.
    """

    def is_changed(self, key: str) -> bool:
        """Tell whether a key differs from its default, and from its number in `without_log`."""
        default = type(self).model_fields[key].default
        return getattr(self, key) not in (default, self.without_log.get(key, default))

    def idle(self) -> str:
        """Return why a given key would have no effect; '' if every key has one.

        This is checked for options that a user gives. A bundle may have such keys, because older
        versions accepted them.
        """
        return ""

    if not TYPE_CHECKING:  # otherwise a type checker accepts any key

        def __getattr__(self, name: str) -> Any:
            """Return the default of a key that a plug-in added after this section was read."""
            field = type(self).model_fields.get(name)
            return super().__getattr__(name) if field is None else field.default
