"""Which keys do parts (losses, samplers, hard negatives, history towers) add to a recipe?

An option of a part is a parameter of its constructor that is annotated with a pydantic Field with a
description. It becomes a key of the section that names the part.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeVar, get_args

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from shortlist.errors import ModelError, nameless
from shortlist.losses import LOSSES
from shortlist.sampling import HARD, SAMPLERS
from shortlist.sections.base import Section
from shortlist.towers import TOWERS


class Choice(NamedTuple):
    """A key of a recipe that names a part, such as `loss`.

    table: name of the table of these parts in Python, such as LOSSES.
    parts: the parts by name.
    maker: returns the callable of a part that takes its options.
    prefix: prefix of an option's name when it is a key.
    unset: True if a key that is not given stays unset; False if it gets the parts' default.
    nothing: further values, which name no part.
    instance: the reason why a part can be given only as a class; empty if an instance will do.
    """

    table: str
    parts: Mapping[str, Any]
    maker: Callable[[Any], Callable[..., Any]]
    prefix: str = ""
    unset: bool = True
    nothing: tuple[str, ...] = ()
    instance: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Every value the key may have."""
        return (*self.parts, *self.nothing)


CHOICES = {
    "loss": Choice("LOSSES", LOSSES, lambda loss: loss),
    "sampler": Choice(
        *("SAMPLERS", SAMPLERS, lambda sampler: sampler.from_counts),
        instance="a sampler is built from the counts of the training rows, by `fit`",
    ),
    "hard": Choice(
        *("HARD", HARD, lambda source: source.build, "hard_"),
        instance="hard negatives are built from the training rows, by `fit`",
    ),
    "history": Choice(
        *("TOWERS", TOWERS, lambda tower: tower),
        unset=False,
        nothing=("none",),
        instance="each fit builds its own, with new weights",
    ),
}
"""Every key that names a part; the options of its parts are keys of the same section."""


COMMON = ("negatives", "shared")
"""Options of samplers that [training] declares itself, because modes have defaults for them."""


class Option(NamedTuple):
    """One option of one part.

    part: name of the part.
    kind: its annotation, with range and description.
    default: its default.
    """

    part: str
    kind: Any
    default: Any

    @property
    def field(self) -> FieldInfo:
        """The Field with its description."""
        field: FieldInfo = next(one for one in get_args(self.kind) if _is_described(one))
        return field


@cache
def options_of(key: str) -> Mapping[str, list[Option]]:
    """Return the options of all parts that a key can name: by option name, one for each part."""
    choice = CHOICES[key]
    found: dict[str, list[Option]] = {}
    for part, made in choice.parts.items():
        parameters = inspect.signature(choice.maker(made), eval_str=True).parameters
        for name, parameter in parameters.items():
            for kind in _described(parameter.annotation):
                found.setdefault(name, []).append(Option(part, kind, parameter.default))
    for name, options in found.items():
        if any(option.kind != options[0].kind for option in options):
            users = " and ".join(option.part for option in options)
            raise TypeError(f"{users} declare {name} differently: let them share one declaration")
    return found


def undeclared(key: str, part: Any) -> list[str]:
    """Return the parameters of a part that a recipe could not set or leave out.

    These are parameters without a Field or without a default. The first parameter of a sampler,
    source or tower is what it is built from, and is not counted.
    """
    choice = CHOICES[key]
    parameters = list(inspect.signature(choice.maker(part), eval_str=True).parameters.values())
    of_its_own = parameters if key == "loss" else parameters[1:]
    return [
        one.name
        for one in of_its_own
        if one.name not in COMMON
        and (one.default is one.empty or not list(_described(one.annotation)))
    ]


def named(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options in which each part given as a class or instance is replaced by its name.

    The options of an instance become keys. Errors: ModelError for a part that is in no table,
    because a bundle could not name it.

    >>> from shortlist.losses import HingeLoss
    >>> named({"dim": 8, "loss": HingeLoss(margin=0.3)})
    {'dim': 8, 'loss': 'hinge', 'margin': 0.3}
    """
    said: dict[str, Any] = {}
    for key, value in options.items():
        if key not in CHOICES or value is None or isinstance(value, str):
            said[key] = value
            continue
        for name, own in _named(key, value).items():
            if name != key and name in options:
                raise ModelError(f"{name} is given twice, by {key} and by itself: give it once")
            said[name] = own
    return said


def _named(key: str, value: Any) -> dict[str, Any]:
    """Return the name of one part, and the options of an instance, as keys."""
    choice = CHOICES[key]
    kind = value if isinstance(value, type) else type(value)
    name = next((name for name, part in choice.parts.items() if part is kind), None)
    if name is None and kind.__module__ == "builtins":
        like = "a class" if choice.instance else "a class, or an instance of one"
        raise ModelError(
            f"{key} = {value!r:.80}: expected a name of {choice.table}, or {like}. What is a "
            "function, say, has no name by which a bundle could tell what it is"
        )
    if name is None:
        raise ModelError(f"{key} = {value!r:.80}: it {nameless(choice.table, kind.__name__)}")
    if kind is value:
        return {key: name}
    if choice.instance:
        raise ModelError(
            f"{key} = {value!r:.80}: {choice.instance}; give the class, and options as keys beside"
        )
    declared = [
        option for option, some in options_of(key).items() if name in {o.part for o in some}
    ]
    own = {option: getattr(value, option, None) for option in declared}
    if not _alike(kind(**own), value):
        raise ModelError(
            f"{key} = {value!r:.80} is not what {kind.__name__} makes of its options "
            f"({', '.join(declared) or 'it has none'}), which are all that is kept of it: keep "
            "each option as it came, under its own name, and nothing else"
        )
    return {key: name} | {choice.prefix + option: given for option, given in own.items()}


def _alike(made: object, given: object) -> bool:
    """Tell whether two instances of a class have equal attributes."""
    try:
        return bool(vars(made) == vars(given))
    except (RuntimeError, TypeError, ValueError):  # tensors, or slots
        return False


def given(section: Section, key: str) -> dict[str, Any]:
    """Return the options in a section that are for the part named by `key`, without the prefix.

    >>> from shortlist.config import Training
    >>> given(Training(loss="hinge", margin=0.5, alpha=1.0), "loss")
    {'margin': 0.5}
    """
    choice = CHOICES[key]
    values = {name: getattr(section, choice.prefix + name) for name in options_of(key)}
    return {name: value for name, value in values.items() if value is not None}


def keys_of(key: str) -> list[str]:
    """Return the keys that are added by the parts which `key` can name."""
    choice = CHOICES[key]
    return [choice.prefix + name for name in options_of(key)]


def named_by(option: str) -> str | None:
    """Return the key whose parts add this option; None for a key that no part adds."""
    return next((key for key in CHOICES if option in keys_of(key)), None)


def added_keys(section: type[Section]) -> set[str]:
    """Return the keys of a section that its parts add."""
    return {name for key in CHOICES if key in section.model_fields for name in keys_of(key)}


def kept(section: Section) -> dict[str, Any]:
    """Return a section for JSON, without the unset options of parts that it does not name.

    What a bundle holds of a section therefore does not change when another part is added.
    """
    fields, idle = type(section).model_fields, set()
    for key, choice in CHOICES.items():
        if key not in fields:
            continue
        for name, options in options_of(key).items():
            option = choice.prefix + name
            read = getattr(section, key) in {one.part for one in options}
            if not read and getattr(section, option) == fields[option].default:
                idle.add(option)
    idle |= {key for key in later_keys(section) if getattr(section, key) == fields[key].default}
    return section.model_dump(mode="json", exclude=idle)


def later_keys(section: Section | type[Section]) -> frozenset[str]:
    """Return the keys of a section that a bundle holds only if they differ from their default."""
    keys: frozenset[str] = getattr(section, "may_be_missing", frozenset())
    return keys


Known = TypeVar("Known", bound=Section)


def with_options(section: type[Known], *keys: str) -> type[Known]:
    """Return the section with the options of all parts that these keys can name."""
    fields: dict[str, Any] = {}
    for key in keys:
        choice = CHOICES[key]
        for name, options in options_of(key).items():
            if choice.prefix + name in (section.model_fields.keys() | fields):
                raise TypeError(
                    f"{options[-1].part} declares the option {name}, and {choice.prefix + name} "
                    "is a key already, of something else: give the option another name"
                )
            shown = options[0].field.examples or [options[0].default]
            default = None if choice.unset else options[0].default
            kind = options[0].kind if default is not None else options[0].kind | None
            said = _meaning(options, unset=choice.unset)
            meaning = Field(default=default, description=said, examples=shown)
            fields[choice.prefix + name] = (kind, meaning)
    return create_model(section.__name__, __base__=section, __module__=__name__, **fields)


def _described(annotation: Any) -> Iterator[Any]:
    """Yield the parts of an annotation that have a Field with a description."""
    inside = get_args(annotation)
    if any(_is_described(one) for one in inside):
        yield annotation
        return
    for one in inside:
        yield from _described(one)


def _is_described(parameter: Any) -> bool:
    return isinstance(parameter, FieldInfo) and parameter.description is not None


def _meaning(options: list[Option], *, unset: bool) -> str:
    """Return a description: the parts that have the option, its meaning, and its default."""
    users = ", ".join(option.part for option in options)
    known = [option for option in options if option.default is not None]
    values = {str(list(o.default) if isinstance(o.default, tuple) else o.default) for o in known}
    said = str(options[0].field.description)
    text = f"{users}: {said[0].lower()}{said[1:]}"
    if not unset:
        return text
    if len(values) == 1:
        return f"{text} Unset: {values.pop()}."
    if known:
        return f"{text} Unset: {', '.join(f'{o.default} for {o.part}' for o in known)}."
    return text
