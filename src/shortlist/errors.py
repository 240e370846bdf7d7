"""Which errors does Shortlist raise? Messages say what was expected, what came and what to do."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar


class ShortlistError(Exception):
    """Base class of all errors of Shortlist.

    Attributes:
        exit_code: the exit code of the command line for this error.
    """

    exit_code: ClassVar[int] = 1


class RecipeError(ShortlistError):
    """A faulty recipe: an unknown key, a wrong type or a value out of range."""

    exit_code = 2


class DataError(ShortlistError):
    """A file, column, row or value of the input that cannot be used."""

    exit_code = 2


class SplitError(ShortlistError):
    """A split that is impossible for the log."""

    exit_code = 2


class ModelError(ShortlistError):
    """A hyperparameter out of range, or a combination that cannot work."""

    exit_code = 2


class NothingToLearnError(DataError, ModelError):
    """The data have no positive to learn from, such as two items of one session."""


class MissingPackageError(ModelError):
    """An index needs a library of an extra that is not installed."""


class IndexServerError(ShortlistError):
    """A vector server that does not answer, or no longer has the vectors of a bundle."""

    exit_code = 3


class QueryError(ShortlistError):
    """An invalid query: it cannot be answered as given."""

    exit_code = 2


class PluginError(ShortlistError):
    """A plug-in that cannot be used: missing, faulty, or in conflict with an existing name."""

    exit_code = 2


class TrackingError(ShortlistError):
    """An experiment tracker that cannot be reached."""

    exit_code = 3


class NotFittedError(ShortlistError, AttributeError):
    """A retriever was used before `fit`."""

    exit_code = 2


class TrainingError(ShortlistError):
    """Training had to stop, for example because a loss or vector is not finite."""


class PeerError(TrainingError):
    """Another process of a training has ended, or cannot be reached."""


class CheckpointError(ShortlistError):
    """A checkpoint that is damaged, belongs to another training, or cannot be written."""

    exit_code = 3


class JobError(ShortlistError):
    """A batch step is impossible: its folder has another recipe, or an engine is missing."""

    exit_code = 2


class OutputError(ShortlistError):
    """A result cannot be written to its path: it is taken, not allowed, or the disk refuses."""

    exit_code = 3


class BundleError(ShortlistError):
    """A bundle that is missing, damaged, or newer than this version."""

    exit_code = 3


class EventStoreError(ShortlistError):
    """An event store that is damaged, missing or full."""

    exit_code = 3


class ServingError(ShortlistError):
    """A service that cannot be started with the given options."""

    exit_code: ClassVar[int] = 2


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the nearest known name, or all of them.

    >>> suggest("recal", ["recall", "ndcg"])
    " Did you mean 'recall'?"
    >>> suggest("xyz", ["recall", "ndcg"])
    ' Known: ndcg, recall.'
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    return f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(names)}."


def suggest_path(path: Path, *, folder: bool = False) -> str:
    """Return the end of an error message about a missing path: the nearest name, or ''.

    The name is compared with those beside it; if a folder of the path is missing, that folder's
    name is.

    folder: the path should be a folder, not a file.
    """
    try:
        while path.parent != path and not path.parent.exists():
            path, folder = path.parent, True
        names = [each.name for each in path.parent.iterdir() if each.is_dir() == folder]
    except OSError:
        return ""
    near = get_close_matches(path.name, names, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def suggest_part(name: str, known: Iterable[str]) -> str:
    """Return `suggest`, and a hint that the name may belong to a plug-in.

    >>> suggest_part("focal", ["bce", "bpr"])
    " Known: bce, bpr. If it is a part of your own, name its module: --plugin MODULE, or \
plugins=['MODULE'] in Python."
    """
    return (
        f"{suggest(name, known)} If it is a part of your own, name its module: --plugin MODULE, or "
        "plugins=['MODULE'] in Python."
    )


def nameless(table: str, kind: str) -> str:
    """Return the end of an error message: how to give a class of a plug-in a name.

    >>> nameless("LOSSES", "Focal")
    "has no name in LOSSES, so a recipe or a bundle cannot refer to it. Give it a name before it \
is used: shortlist.use_plugins([{'LOSSES': {'my-part': Focal}}])"
    """
    return (
        f"has no name in {table}, so a recipe or a bundle cannot refer to it. Give it a name "
        f"before it is used: shortlist.use_plugins([{{'{table}': {{'my-part': {kind}}}}}])"
    )


def install(extra: str) -> str:
    """Return the pip command that installs the packages of an extra, read from the metadata."""
    from importlib.metadata import PackageNotFoundError, requires  # noqa: PLC0415

    def needed(name: str) -> list[str]:
        found: list[str] = []
        for line in requires("shortlist") or ():
            package, _, condition = line.partition(";")
            if re.search(rf"extra\s*==\s*[\"']{name}[\"']", condition):
                own = re.match(r"shortlist\[([\w,-]+)\]", package)
                parts = own[1].split(",") if own else []
                found += [p for part in parts for p in needed(part)] or [package.strip()]
        return found

    try:
        packages = needed(extra)
    except PackageNotFoundError:  # run from its source, not installed
        packages = []
    if not packages:
        return f"pip install '.[{extra}]', in the folder of Shortlist"
    return "pip install " + " ".join(f"'{package}'" for package in packages)
