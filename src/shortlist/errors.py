"""Every error raised on purpose, as a tree: what was expected, what came, what to do."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class ShortlistError(Exception):
    """The root: catch it to catch all of them. `exit_code` is what the command line exits with."""

    exit_code: ClassVar[int] = 1


class RecipeError(ShortlistError):
    """A recipe that cannot be read: unknown key, wrong type, value out of range."""

    exit_code = 2


class DataError(ShortlistError):
    """A file, column, row or value of the input that cannot be used."""

    exit_code = 2


class SplitError(ShortlistError):
    """A split that the log cannot give."""

    exit_code = 2


class ModelError(ShortlistError):
    """A hyperparameter out of range, or a combination that cannot work."""

    exit_code = 2


class NothingToLearnError(DataError, ModelError):
    """No positive is there to learn from, such as a pair of items of one session."""


class MissingPackageError(ModelError):
    """An index whose library is an extra that is not installed."""


class IndexServerError(ShortlistError):
    """A server of vectors that does not answer, or no longer has what a bundle names."""

    exit_code = 3


class QueryError(ShortlistError):
    """A request for candidates that cannot be answered as asked."""

    exit_code = 2


class PluginError(ShortlistError):
    """A module of parts of one's own that cannot be used: not there, broken, or in the way."""

    exit_code = 2


class TrackingError(ShortlistError):
    """A place for the figures of a training that cannot be reached."""

    exit_code = 3


class NotFittedError(ShortlistError, AttributeError):
    """A retriever asked for something that it has only after `fit`."""

    exit_code = 2


class TrainingError(ShortlistError):
    """Training that had to stop: a loss or vector that is not finite, say."""


class PeerError(TrainingError):
    """Another process of a training has ended, or cannot be reached."""


class CheckpointError(ShortlistError):
    """A checkpoint that is damaged, of another training, or cannot be written."""

    exit_code = 3


class JobError(ShortlistError):
    """A batch step that cannot be done: another recipe made its folder, or an engine is missing."""

    exit_code = 2


class OutputError(ShortlistError):
    """A result that cannot be written there: something is in the way, or the disk refuses it."""

    exit_code = 3


class BundleError(ShortlistError):
    """A bundle that is missing, damaged, or newer than this version."""

    exit_code = 3


class EventStoreError(ShortlistError):
    """A store of events that is damaged, gone, or takes no more."""

    exit_code = 3


class ServingError(ShortlistError):
    """A service that cannot be started as asked."""

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


def suggest_part(name: str, known: Iterable[str]) -> str:
    """Return what `suggest` does, and that the name may be of a part of somebody's own.

    >>> suggest_part("focal", ["bce", "bpr"])
    " Known: bce, bpr. If it is a part of your own, name its module: --plugin MODULE, or \
plugins=['MODULE'] in Python."
    """
    return (
        f"{suggest(name, known)} If it is a part of your own, name its module: --plugin MODULE, or "
        "plugins=['MODULE'] in Python."
    )


def nameless(table: str, kind: str) -> str:
    """Return the end of an error message: what to do about a class of parts without a name.

    >>> nameless("LOSSES", "Focal")
    "has no name in LOSSES, by which a recipe or a bundle could say what it is. Give it one before \
it is used: shortlist.use_plugins([{'LOSSES': {'my-part': Focal}}])"
    """
    return (
        f"has no name in {table}, by which a recipe or a bundle could say what it is. Give it one "
        f"before it is used: shortlist.use_plugins([{{'{table}': {{'my-part': {kind}}}}}])"
    )


def install(extra: str) -> str:
    """Return the command that installs what an extra needs, as the package declares it."""
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
