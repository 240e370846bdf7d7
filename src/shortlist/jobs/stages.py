"""Where are the results of jobs, and from which settings and inputs were they made?

Each stage is a folder of Parquet files with a `manifest.json`, which holds its settings and the
hashes of its inputs, and an empty file `_SUCCESS`. The folder appears only when it is complete. An
existing stage is not made again; one made with other settings or from other inputs is refused.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

from shortlist import outputs
from shortlist.bundle.formats import JSON, dump_json, load_json
from shortlist.errors import JobError, OutputError
from shortlist.outputs import Output

SCHEMA = 1
"""Version of the format of the folders."""

MANIFEST, SUCCESS = "manifest.json", "_SUCCESS"

MOST = 3
"""How many settings an error names of those that differ."""

WIDTH = 160
"""How many characters an error shows of a value."""

_ABSENT = object()


class Stages:
    """The stages of one recipe in one folder.

    root: the folder.
    made: names of the stages that this object has made.
    """

    def __init__(self, root: Path) -> None:
        outputs.check({"--work": Output(root, "folder")})
        self.root = Path(os.path.abspath(root))  # Executors have other working directories.
        self.made: list[str] = []

    def path(self, name: str) -> Path:
        """Return the folder of a stage, which need not exist."""
        return self.root / name

    def manifest(self, name: str) -> dict[str, Any]:
        """Return the manifest of a stage. Errors: JobError if the stage does not exist."""
        found = self._found(name)
        if found is None:
            raise JobError(
                f"{self.path(name)} does not exist or was not finished: run its job first"
            )
        return found

    def is_made(self, name: str, settings: Mapping[str, JSON], parents: tuple[str, ...]) -> bool:
        """Return whether a stage exists.

        Errors: JobError if it was made with other settings or from other stages.
        """
        found = self._found(name)
        if found is None:
            return False
        wanted = self._identity(settings, parents)
        for key in ("schema", "parents", "settings"):
            if found.get(key) != wanted[key]:
                raise JobError(
                    f"{self.path(name)} was made {_difference(key, found.get(key), wanted[key])}: "
                    "remove the folder, or give another --work"
                )
        return True

    @contextmanager
    def making(
        self, name: str, settings: Mapping[str, JSON], parents: tuple[str, ...] = ()
    ) -> Iterator[tuple[Path, dict[str, JSON]]]:
        """Yield an empty folder to fill and a dict for the entry `told` of the manifest.

        After the block the folder becomes the stage; after an error there is no stage.

        name: name of the stage.
        settings: the settings that it depends on.
        parents: names of the stages that it is made from.
        Errors: JobError if another command made the stage meanwhile; OutputError.
        """
        identity = self._identity(settings, parents)
        target, told = self.path(name), dict[str, JSON]()
        try:
            os.makedirs(self.root, exist_ok=True)
            with outputs.temporary_in(self.root, "folder") as folder:
                yield folder, told
                (folder / MANIFEST).write_bytes(
                    dump_json({"stage": name, **identity, "told": told})
                )
                (folder / SUCCESS).touch()
                for path in (*folder.iterdir(), folder):
                    outputs.sync(path)
                if (target / SUCCESS).exists():
                    raise JobError(
                        f"another command made {target} meanwhile: run this one again, which then "
                        "uses it"
                    )
                if target.is_dir():
                    outputs.remove(target)
                os.rename(folder, target)
                outputs.sync(self.root)
        except OSError as error:
            raise OutputError(f"cannot write {target}: {outputs.reason_of(error)}") from error
        self.made.append(name)

    def _identity(self, settings: Mapping[str, JSON], parents: tuple[str, ...]) -> dict[str, Any]:
        found = {parent: self._digest(parent) for parent in parents}
        kept: Any = {"schema": SCHEMA, "settings": settings, "parents": found}
        return dict(load_json(dump_json(kept), MANIFEST))

    def _digest(self, name: str) -> str:
        self.manifest(name)
        return hashlib.sha256((self.path(name) / MANIFEST).read_bytes()).hexdigest()

    def _found(self, name: str) -> dict[str, Any] | None:
        folder = self.path(name)
        if not (folder / SUCCESS).is_file() or not (folder / MANIFEST).is_file():
            return None
        return dict(load_json((folder / MANIFEST).read_bytes(), str(folder / MANIFEST)))


def _difference(key: str, found: Any, wanted: Any) -> str:
    """Return the difference between an existing stage and the one asked for, as text."""
    if key == "schema":
        return f"by a version that writes format {found}, and this version writes format {wanted}"
    if key == "parents":
        return "from a different " + " and ".join(
            name for name in wanted if (found or {}).get(name) != wanted[name]
        )
    changes = list(_changes("", found or {}, wanted))
    shown = [
        f"{name} was {_shown(old, new)}, now {_shown(new, old)}"
        for name, old, new in changes[:MOST]
    ]
    more = f"; and {len(changes) - MOST} more" if len(changes) > MOST else ""
    return f"with other settings: {'; '.join(shown)}{more}"


def _changes(name: str, found: Any, wanted: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name, the old and the new value of all settings that differ in nested tables."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys((*wanted, *found)):
            inner = f"{name}.{key}" if name else key
            yield from _changes(inner, found.get(key, _ABSENT), wanted.get(key, _ABSENT))
    elif _is_rows(found) and _is_rows(wanted):
        for place, (old, new) in enumerate(zip_longest(found, wanted, fillvalue=_ABSENT)):
            yield from _changes(f"{name}[{place}]", old, new)
    elif found != wanted:
        yield name, found, wanted


def _is_rows(value: Any) -> bool:
    """Return whether a value is a list of lists or tables, such as the files of a log."""
    return isinstance(value, list) and all(isinstance(row, (list, dict)) for row in value)


def _shown(value: Any, other: Any) -> str:
    """Return a value as text; a long one begins shortly before it differs from the other."""
    if value is _ABSENT or value is None:
        return "absent" if value is _ABSENT else "not set"
    text = repr(value)
    if len(text) <= WIDTH:
        return text
    pairs = enumerate(zip(text, repr(other), strict=False))
    differs = next((place for place, (mine, its) in pairs if mine != its), len(text))
    start = max(min(differs, len(repr(other))) - 20, 0)
    end = start + WIDTH
    return f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''}"
