"""Where are the results of steps, and who made them? Folders that appear whole.

Each stage is a folder of Parquet files with a `manifest.json`, which says what made it and from
what, and an empty `_SUCCESS`. A stage that is there is not made again; one that was made by other
settings, or from another input, is refused.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shortlist import outputs
from shortlist.bundle.formats import JSON, dump_json, load_json
from shortlist.errors import JobError, OutputError
from shortlist.outputs import Output

SCHEMA = 1
"""The number of what the folders hold."""

MANIFEST, SUCCESS = "manifest.json", "_SUCCESS"


class Stages:
    """The stages of one recipe, in one folder. made: the names of those made by this object."""

    def __init__(self, root: Path) -> None:
        outputs.check({"--work": Output(root, "folder")})
        self.root = Path(os.path.abspath(root))  # executors have other working folders
        self.made: list[str] = []

    def path(self, name: str) -> Path:
        """Where a stage is, or will be."""
        return self.root / name

    def manifest(self, name: str) -> dict[str, Any]:
        """What is said of a stage that is there. Errors: JobError."""
        found = self._found(name)
        if found is None:
            raise JobError(
                f"{self.path(name)} is not there, or was not finished: run its job first"
            )
        return found

    def is_made(self, name: str, settings: Mapping[str, JSON], parents: tuple[str, ...]) -> bool:
        """Tell whether a stage is there. Errors: JobError where something else made it."""
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
        """Yield an empty folder to fill, and a table for what is to be said of it.

        After the block the folder appears as the stage; on an error there is none.
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
                        f"another command made {target} meanwhile: run this one again, which goes "
                        "on from there"
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
    """Say what a stage was made by or from, and what is asked for."""
    if key == "schema":
        return f"by a version that writes stages of number {found}, and this one writes {wanted}"
    if key == "parents":
        return "from another " + " and ".join(
            name for name in wanted if (found or {}).get(name) != wanted[name]
        )
    name = next(n for n in (*wanted, *found) if wanted.get(n) != found.get(n))
    return f"with another {name} ({found.get(name)!s:.80}, and now {wanted.get(name)!s:.80})"
