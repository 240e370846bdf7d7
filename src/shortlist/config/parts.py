"""Which keys do the parts of a recipe add to it? What each declares beside its own code, collected.

An option of a part is a parameter of what makes the part, annotated with a pydantic Field that has
a description: its meaning and range. It becomes a key of the section that names the part.
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
    """A key that names a part: the parts by name, and what of a part takes its options.

    table: what the parts are called in Python. prefix: what stands before an option's name where it
    is a key. unset: whether a key that is not given is unset, or has the default of its parts.
    nothing: names for no part at all. instance: why it can be given by its class alone, if so.
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
"""Every key that names a part whose options are keys beside it."""


COMMON = ("negatives", "shared")
"""Options of samplers that are keys of [training] themselves, as modes have them too."""


class Option(NamedTuple):
    """One option of one part: its type with range and meaning, and its default."""

    part: str
    kind: Any
    default: Any

    @property
    def field(self) -> FieldInfo:
        """Its meaning."""
        field: FieldInfo = next(one for one in get_args(self.kind) if _is_described(one))
        return field


@cache
def options_of(key: str) -> Mapping[str, list[Option]]:
    """Return every option of the parts that a key can name, once for each part that has it."""
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
    """Return what a part can be given, and no recipe could say or leave out: parameters without a
    Field, or without a default.

    The first parameter of a sampler, source or tower is what it is built from.
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
    """Return options with the name and the options of each part given as a class or an instance.

    Errors: ModelError for a part that has no name, so that no bundle could say which it is.

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
    """Whether two instances of a class hold the same."""
    try:
        return bool(vars(made) == vars(given))
    except (RuntimeError, TypeError, ValueError):  # tensors, or slots
        return False


def given(section: Section, key: str) -> dict[str, Any]:
    """Return the options that a section gives to the part which `key` names, without the prefix.

    >>> from shortlist.config import Training
    >>> given(Training(loss="hinge", margin=0.5, alpha=1.0), "loss")
    {'margin': 0.5}
    """
    choice = CHOICES[key]
    values = {name: getattr(section, choice.prefix + name) for name in options_of(key)}
    return {name: value for name, value in values.items() if value is not None}


def keys_of(key: str) -> list[str]:
    """Return the keys that the parts which `key` can name add beside it."""
    choice = CHOICES[key]
    return [choice.prefix + name for name in options_of(key)]


def named_by(option: str) -> str | None:
    """Return the key beside which a key stands that parts add; None for any other key."""
    return next((key for key in CHOICES if option in keys_of(key)), None)


def added_keys(section: type[Section]) -> set[str]:
    """Return the keys of a section that come from its parts."""
    return {name for key in CHOICES if key in section.model_fields for name in keys_of(key)}


def kept(section: Section) -> dict[str, Any]:
    """Return a section for JSON, without what is unset of the options of parts it does not name.

    So what is kept of a model does not change when another part comes.
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
    """Return the keys of a section that a bundle has only where they are not at their defaults."""
    keys: frozenset[str] = getattr(section, "may_be_missing", frozenset())
    return keys


Known = TypeVar("Known", bound=Section)


def with_options(section: type[Known], *keys: str) -> type[Known]:
    """Return the section with the options of the parts that these keys of it name."""
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
    """The part of an annotation that carries a described Field, if there is one."""
    inside = get_args(annotation)
    if any(_is_described(one) for one in inside):
        yield annotation
        return
    for one in inside:
        yield from _described(one)


def _is_described(one: Any) -> bool:
    return isinstance(one, FieldInfo) and one.description is not None


def _meaning(options: list[Option], *, unset: bool) -> str:
    """Who reads it, what it means, and what it is where it is unset."""
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
