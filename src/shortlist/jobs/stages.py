"""Where are the results of jobs, and from which settings and inputs were they made?

Each stage is a folder of Parquet files with a `manifest.json`, which holds its settings and the
hashes of its inputs, and an empty file `_SUCCESS`. The folder appears only when it is complete. An
existing stage is not made again; one made with other settings or from other inputs is refused.
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
"""Version of the format of the folders."""

MANIFEST, SUCCESS = "manifest.json", "_SUCCESS"


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
    name = next(n for n in (*wanted, *found) if wanted.get(n) != found.get(n))
    return f"with different {name} ({found.get(name)!s:.80}, and now {wanted.get(name)!s:.80})"
