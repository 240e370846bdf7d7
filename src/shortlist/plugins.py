"""How are losses, towers and other parts added? By plug-ins: modules with tables like Shortlist's.

A plug-in is imported only if the caller names it. A recipe or a bundle states the parts that it
needs and is refused without them: see docs/decisions/0015.
"""

import re
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib import import_module
from threading import Lock
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

from torch import nn

from shortlist.asking.capabilities import Channel
from shortlist.blending.retrievers import RETRIEVERS
from shortlist.channels.learned.base import Learner
from shortlist.channels.table import CHANNELS
from shortlist.config.later import take_parts
from shortlist.config.parts import undeclared
from shortlist.config.recipe import LEARNED_KINDS
from shortlist.errors import PluginError
from shortlist.index import INDEXES
from shortlist.index.base import VectorIndex
from shortlist.index.settings import undeclared as undeclared_settings
from shortlist.losses import LOSSES, Loss
from shortlist.metrics import PER_USER
from shortlist.sampling import HARD, SAMPLERS
from shortlist.sampling.base import NegativeSampler
from shortlist.sampling.hard.base import HardSource
from shortlist.sections.base import Section
from shortlist.towers import TOWERS

Plugin: TypeAlias = str | ModuleType | Mapping[str, Mapping[str, Any]]
"""A module, its name, or its tables: {"LOSSES": {"focal": FocalLoss}}."""

NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
"""The form of a part's name."""

TAKEN: dict[str, Collection[str]] = {
    "SAMPLERS": HARD,
    "HARD": SAMPLERS,
    "TOWERS": ("none",),
    "CHANNELS": ("blend",),
}
"""Names that a table's parts cannot have, because recipes use them for something else."""


NO_MODULE = "the plug-in"
"""Name of a plug-in that is a mapping, for errors."""


class Table(NamedTuple):
    """The parts of one kind.

    parts: by name.
    says: returns why an object cannot be such a part; '' if it can.
    """

    parts: dict[str, Any]
    says: Callable[[Any], str]


class OwnPart(NamedTuple):
    """A part of a plug-in.

    table: the table that it is in.
    name: its name.
    module: the module that defined it. It is named in messages and never imported.
    """

    table: str
    name: str
    module: str


def _class_with(described: type, *names: str) -> Callable[[Any], str]:
    """Return a check that an object is a class with these attributes.

    described: the protocol whose docstring says what they mean; an error names it.
    """

    def says(part: Any) -> str:
        if not isinstance(part, type):
            return f"it must be a class, got {part!r:.80}"
        there = {name for base in part.__mro__[:-1] for name in vars(base)}
        missing = [name for name in names if name not in there]
        where = f"{described.__module__}.{described.__name__}"
        return f"it lacks {', '.join(missing)}: see {where}" if missing else ""

    return says


def _with_options(key: str, says: Callable[[Any], str]) -> Callable[[Any], str]:
    """Extend a check to parts whose options are keys of a recipe: each must be annotated."""

    def all_says(part: Any) -> str:
        if wrong := says(part):
            return wrong
        try:
            hidden = undeclared(key, part)
        except (NameError, RuntimeError, TypeError, ValueError) as error:
            return f"its parameters cannot be read: {error}"
        return _annotate("a recipe cannot set", hidden)

    return all_says


def _annotate(why: str, hidden: list[str]) -> str:
    """Return an error about parameters without annotation or default; '' if there are none."""
    if not hidden:
        return ""
    return (
        f"{why} its {', '.join(hidden)}: annotate each, and give it a default, as in "
        f'`{hidden[0]}: Annotated[float, Field(description="...")] = 1.0`'
    )


def _members(protocol: type, *, but: Collection[str] = ()) -> list[str]:
    """Return the names of the public members of a protocol."""
    asked = [kind for kind in protocol.__mro__ if getattr(kind, "_is_protocol", False)]
    said = {
        name for kind in asked for name in (*vars(kind), *vars(kind).get("__annotations__", {}))
    }
    return sorted(name for name in said if not name.startswith("_") and name not in but)


def _tower(part: Any) -> str:
    if not (isinstance(part, type) and issubclass(part, nn.Module)):
        return f"it must be a subclass of torch.nn.Module, got {part!r:.80}"
    if not isinstance(getattr(part, "causal", None), bool):
        return "it must have causal = True or False: see shortlist.towers.base"
    return ""


def _channel(part: Any) -> str:
    if wrong := _class_with(Channel, *_members(Channel, but=["data"]))(part):  # `fit` sets data
        return wrong
    options = getattr(part, "options_type", None)
    if issubclass(part, Learner):
        return ""
    if not (isinstance(options, type) and issubclass(options, Section)):
        return "options_type must be the Section of its options"
    return ""


def _index(part: Any) -> str:
    if wrong := _class_with(VectorIndex, *_members(VectorIndex, but=["similarity"]))(part):
        return wrong
    try:
        hidden = undeclared_settings(part)
    except (NameError, RuntimeError, TypeError, ValueError) as error:
        return f"its settings cannot be read: {error}"
    return _annotate("a recipe cannot set", hidden)


def _metric(part: Any) -> str:
    return "" if callable(part) else f"it must be a function, got {part!r:.80}"


TABLES = {
    "LOSSES": Table(LOSSES, _with_options("loss", _class_with(Loss, *_members(Loss), "__call__"))),
    "SAMPLERS": Table(
        SAMPLERS,
        _with_options(
            "sampler", _class_with(NegativeSampler, *_members(NegativeSampler), "from_counts")
        ),
    ),
    "HARD": Table(
        HARD, _with_options("hard", _class_with(HardSource, "refuses", "alone", "build"))
    ),
    "TOWERS": Table(TOWERS, _with_options("history", _tower)),
    "INDEXES": Table(INDEXES, _index),
    "CHANNELS": Table(CHANNELS, _channel),
    "METRICS": Table(PER_USER, _metric),
}
"""The tables that a plug-in can extend."""

OWN: dict[tuple[str, str], OwnPart] = {}
"""The parts of plug-ins, by table and name."""

_lock = Lock()


def use_plugins(plugins: Iterable[Plugin]) -> None:
    """Register the parts of plug-ins by name, for the rest of this process.

    A plug-in has one or more of the tables LOSSES, SAMPLERS, HARD, TOWERS, INDEXES, CHANNELS and
    METRICS, each a mapping of names to parts. Either all its parts are registered or none. The same
    plug-in may be given again. A class that is defined again, as in a notebook, replaces itself.

    Args:
        plugins: modules, names of modules, which are imported, or mappings such as
            {"LOSSES": {"focal": FocalLoss}}.

    Raises:
        PluginError: for a module that cannot be imported, a name that is taken, or an object that
            cannot be such a part.
    """
    if isinstance(plugins, str | ModuleType | Mapping):
        raise PluginError(f"plugins must be a list, such as [{plugins!r:.80}]")
    for plugin in plugins:
        module, found = _read(plugin)
        with _lock:
            _add(module, found)


def own_parts(named: Iterable[tuple[str, str]]) -> list[OwnPart]:
    """Return the plug-in parts among parts given by table and name."""
    return [OWN[part] for part in dict.fromkeys(named) if part in OWN]


def missing_parts(needed: Iterable[OwnPart]) -> str:
    """Return an error about the parts that are not registered; '' if all are."""
    gone = [part for part in needed if (part.table, part.name) not in OWN]
    if not gone:
        return ""
    if ours := [part for part in gone if part.name in TABLES[part.table].parts]:
        return (
            f"its {_listed(ours)} is not this version's own part of that name: only the version "
            "that the bundle was saved with, together with that module, gives its answers"
        )
    modules = dict.fromkeys(_importable(part.module) for part in gone)
    flags = " ".join(f"--plugin {module}" for module in modules)
    return (
        f"it needs {_listed(gone)}, and a bundle never imports code by itself. If you trust the "
        f"code, name its module: {flags}, or plugins={list(modules)} in Python"
    )


def _importable(module: str) -> str:
    """Return the name of a module, or MODULE if it was the script that was run."""
    return "MODULE" if module == "__main__" else module


def _listed(parts: list[OwnPart]) -> str:
    return ", ".join(f"'{part.name}' of {part.table} from {part.module}" for part in parts)


def _read(plugin: Plugin) -> tuple[str, dict[str, Mapping[str, Any]]]:
    """Return (name of the module, '' for a mapping; its tables). Errors: PluginError."""
    if isinstance(plugin, str):
        plugin = _imported(plugin)
    if isinstance(plugin, ModuleType):
        module = plugin.__name__
        tables = {name: vars(plugin)[name] for name in TABLES if name in vars(plugin)}
    elif isinstance(plugin, Mapping):
        module, tables = "", dict(plugin)
    else:
        raise PluginError(
            f"a plug-in is a module, the name of one, or its tables, got {plugin!r:.80}"
        )
    known, label = ", ".join(TABLES), module or NO_MODULE
    for name, table in tables.items():
        if name not in TABLES:
            raise PluginError(f"{label}: there is no table {name!r:.40}. Known: {known}.")
        if not isinstance(table, Mapping):
            raise PluginError(f"{label}: {name} must map names to parts, got {table!r:.80}")
        if table is TABLES[name].parts:
            raise PluginError(
                f"{label}: {name} is Shortlist's own table. Leave it as it is, import it by "
                "another name if you read it, and write one of your own: "
                f'{name} = {{"my-part": MyPart}}'
            )
    if not any(tables.values()):
        raise PluginError(f"{label} has no parts: write one of the tables {known}")
    return module, tables


def _imported(name: str) -> ModuleType:
    """Import the module that the caller named. Errors: PluginError."""
    *folders, file = re.split(r"[/\\]", name)
    if folders or name.endswith(".py"):
        raise PluginError(
            f"the plug-in {name!r:.200} is a path: write the name of its module, "
            f"{file.removesuffix('.py')}, and put its folder on Python's path, "
            f"PYTHONPATH={'/'.join(folders) or '.'}"
        )
    if not all(part.isidentifier() for part in name.split(".")):
        raise PluginError(
            f"the plug-in {name!r:.200} is no name of a module: write it as Python imports it, "
            "such as my_package.parts"
        )
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise PluginError(
                f"there is no module {error.name} for the plug-in {name}: install its package, or "
                "put the folder that holds it on Python's path (PYTHONPATH=FOLDER)"
            ) from error
        last = traceback.extract_tb(error.__traceback__)[-1]
        # The text of a SyntaxError names its line; the last frame is Python's own importer.
        place = "" if isinstance(error, SyntaxError) else f" ({last.filename}, line {last.lineno})"
        raise PluginError(
            f"the plug-in {name} cannot be imported: {type(error).__name__}: {error!s:.200}{place}"
        ) from error


def _add(module: str, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Register all parts of a plug-in, or none. Errors: PluginError."""
    label = module or NO_MODULE
    new = list(_new(label, tables))
    before = [TABLES[table].parts.get(name) for table, name, _ in new]
    for table, name, part in new:
        TABLES[table].parts[name] = part
    try:
        take_parts()
    except Exception as error:  # the type of an option can make pydantic raise anything
        for (table, name, _), old in zip(new, before, strict=True):
            if old is None:
                del TABLES[table].parts[name]
            else:
                TABLES[table].parts[name] = old
        take_parts()
        raise PluginError(f"{label}: {error}") from error
    for table, name, part in new:
        OWN[table, name] = OwnPart(table, name, module or str(getattr(part, "__module__", "")))
        if table == "CHANNELS":
            RETRIEVERS[name] = part
            if issubclass(part, Learner) and name not in LEARNED_KINDS:
                LEARNED_KINDS.append(name)


def _new(label: str, tables: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """Yield (table, name, part) of the new parts. Errors: PluginError for an invalid one."""
    for table, parts in tables.items():
        for name, part in parts.items():
            where = f"{label}: {table}[{name!r:.40}]"
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise PluginError(
                    f"{where}: a name has up to 32 lower-case letters, digits, - and _, and begins "
                    "with a letter"
                )
            known = TABLES[table].parts.get(name)
            if part is known and known is not None:
                continue
            again = (table, name) in OWN and _definition(part) == _definition(known)
            if (known is not None or name in TAKEN.get(table, ())) and not again:
                raise PluginError(f"{where}: there is a part of this name; choose another")
            if wrong := TABLES[table].says(part):
                raise PluginError(f"{where} cannot be used: {wrong}")
            yield table, name, part


def _definition(part: Any) -> tuple[Any, Any]:
    """Return (module, qualified name) of a class or function: equal if it was defined again."""
    return getattr(part, "__module__", part), getattr(part, "__qualname__", part)
