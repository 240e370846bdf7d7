"""What is a section of a recipe, and which types can its keys have?"""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

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


Text = Annotated[str, AfterValidator(plain)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0)]
Duration = Annotated[float | str, BeforeValidator(checked_duration)]
Share = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
Names = Annotated[tuple[Text, ...], BeforeValidator(as_tuple), AfterValidator(distinct)]
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
