"""Where may a result be written, and how is it written atomically?

Each command first calls `check` with its inputs and outputs, so that a bad path fails before the
work. The functions that publish a file or a bundle call `check` once more.

A result is written beside its path, under a name that begins with `tmp-shortlist-`, and is locked
while its process lives. The next writer in that folder removes the remains of killed processes.

All disk access goes through `os`, so that a test can make the N-th call fail.
"""

import errno
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Literal
from uuid import uuid4

from shortlist.errors import OutputError

if sys.platform != "win32":  # on Windows `systems.check_system` fails before a lock is needed
    import fcntl

BUNDLE_MARKS = ("manifest.json", "manifest.sha256")
"""A folder with both files is a bundle."""

ABANDONED = 24 * 3600.0
"""Seconds without a change after which a temporary result is removed if its lock tells nothing."""

PARQUET = (".parquet",)
"""Suffixes of a written table."""

PAGES = (".html",)
"""Suffixes of a written page."""

_TEMPORARY = re.compile(r"tmp-(?:shortlist-([0-9a-f]{8})-[0-9a-f]{24}|[0-9a-f]{32})")
_KEPT = re.compile(r".*\.kept-[0-9a-f]{8}(\..*)?", re.DOTALL)
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@dataclass(frozen=True)
class Output:
    """A path that is going to be written.

    path: where.
    kind: "file"; "bundle", which is replaced as a whole; "folder", which may exist and is used
        again; "new folder", which must not exist.
    suffixes: accepted suffixes of a file's name; empty for any.
    overwrite: replace an existing result.
    """

    path: Path
    kind: Literal["file", "bundle", "folder", "new folder"] = "file"
    suffixes: tuple[str, ...] = ()
    overwrite: bool = False


def output_at(
    path: Path | None,
    kind: Literal["file", "bundle", "folder"] = "file",
    suffixes: tuple[str, ...] = (),
    *,
    overwrite: bool = False,
) -> Output | None:
    """Return the Output of an optional path; None without a path."""
    return None if path is None else Output(path, kind, suffixes, overwrite)


def check(
    outputs: Mapping[str, Output | None], inputs: Mapping[str, Path | None] | None = None
) -> None:
    """Refuse outputs that cannot be written or would destroy something else, before any work.

    outputs, inputs: by the name that the user knows, such as `--out`; None is not given.
    Errors: OutputError.
    """
    asked = {name: output for name, output in outputs.items() if output is not None}
    for output in asked.values():
        with _naming(output.path):
            _check_alone(output)
    for (one, first), (other, second) in combinations(asked.items(), 2):
        if _same(first.path, second.path):
            raise OutputError(f"{one} and {other} are the same path, {second.path}: give two")
        for name, inner, outer in ((other, second, first), (one, first, second)):
            if outer.kind == "bundle" and _within(inner.path, outer.path):
                raise OutputError(
                    f"{name} {inner.path} would lie in the bundle {outer.path}, which holds its "
                    "own files only: give a path outside it"
                )
    for name, output in asked.items():
        for given, path in (inputs or {}).items():
            if path is None:
                continue
            if _same(output.path, path) or (output.kind == "bundle" and _within(path, output.path)):
                raise OutputError(
                    f"{name} {output.path} would replace an input, {given} {path}: "
                    "give another path"
                )


def is_bundle(folder: Path) -> bool:
    """Tell whether a folder has the files of a bundle; they are not read."""
    return all(os.path.isfile(folder / name) for name in BUNDLE_MARKS)


def is_temporary(name: str) -> bool:
    """Tell whether a name is reserved for results that are not published yet."""
    return _TEMPORARY.fullmatch(name) is not None


def is_kept(name: str) -> bool:
    """Tell whether a name is that of a result that could not be published (`kept_name`)."""
    return _KEPT.fullmatch(name) is not None


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that orders v9 before v10, for the bundles of a folder."""
    return [
        (0, int(number), "") if number else (1, 0, text)
        for number, text in re.findall(r"([0-9]+)|([^0-9]+)", name)
    ]


@contextmanager
def whole(path: Path, suffixes: tuple[str, ...] = (), *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write a file to; after the block it is synced and moved to `path`.

    After an error `path` is as before. If only the move fails, the file is kept under another name,
    which the error states. Errors: OutputError.
    """
    path = _absolute(path)
    check({"": Output(path, "file", suffixes, overwrite)})
    with _naming(path), temporary_in(path.parent, "file") as made:
        yield made
        sync(made)
        try:
            _move(made, path, overwrite)
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {reason_of(error)}. {_keep(made, path)}"
            ) from error


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to write to; after the block it is synced and moved to `path`.

    After an error `path` does not exist, as before. If only the move fails, the folder is kept
    under another name, which the error states. Errors: OutputError.
    """
    path = _absolute(path)
    check({"": Output(path, "new folder")})
    with _naming(path), parents_of(path), temporary_in(path.parent, "folder") as made:
        yield made
        for file in made.iterdir():
            sync(file)
        sync(made)
        try:
            os.rename(made, path)
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {reason_of(error)}. {_keep(made, path)}"
            ) from error
        with suppress(OSError):  # the folder is complete already
            sync(path.parent)


@contextmanager
def parents_of(path: Path) -> Iterator[None]:
    """Create the missing parent folders of `path`; an error in the block removes them again."""
    missing = []
    for folder in path.parents:
        if os.path.lexists(folder):
            break
        missing.append(folder)
    try:
        os.makedirs(path.parent, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):  # a folder that is used by now stays, with those above it
            for folder in missing:
                os.rmdir(folder)
        raise


@contextmanager
def temporary_in(folder: Path, kind: Literal["file", "folder"]) -> Iterator[Path]:
    """Create a locked empty file or folder; if it is still there after the block, remove it.

    First the remains of killed processes in `folder` are removed.
    """
    _sweep(folder)
    with ExitStack() as stack:
        while True:
            path = folder / temporary_name()
            if kind == "folder":
                os.mkdir(path)
            else:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            stack.callback(remove, path)
            # Before the lock, another process may have removed it as remains of a killed one.
            if stack.enter_context(held(path)) and os.path.lexists(path):
                break
        yield path


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Lock a file or folder, so that no process removes it as remains of a killed one.

    Yields False if another process holds the lock. The lock follows a rename and ends with the
    process. Links, and folders on file systems without such locks (NFS), are not locked.
    """
    descriptor, free = None, True
    with suppress(OSError):
        descriptor = _open(path)
        free = _lock(descriptor) is not False
    try:
        yield free
    finally:
        if descriptor is not None:
            os.close(descriptor)


def temporary_name() -> str:
    """Return a new name for an unpublished result; it contains the id of this running system."""
    return f"tmp-shortlist-{_running_system()}-{uuid4().hex[:24]}"


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with its content; errors of the disk are ignored."""
    if os.path.isdir(path) and not os.path.islink(path):
        with suppress(OSError):  # a write-protected bundle is replaced like others
            os.chmod(path, stat.S_IRWXU)
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            os.unlink(path)


def sync(path: Path) -> None:
    """Call fsync on a file or folder. Errors: OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def kept_name(path: Path) -> str:
    """Return a name for a result that could not be published at `path`."""
    return f"{path.stem}.kept-{uuid4().hex[:8]}{path.suffix}"


def reason_of(error: OSError) -> str:
    """Return the system's message without the path."""
    return os.strerror(error.errno) if error.errno else str(error)


def _check_alone(output: Output) -> None:
    path = _absolute(output.path)
    if output.suffixes and path.suffix not in output.suffixes:
        raise OutputError(
            f"cannot write {path}: the name must end in {' or '.join(output.suffixes)}"
        )
    _check_around(path, output.kind)
    if os.path.lexists(path):
        _check_replaceable(path, output)
    _check_folder(path, output.kind)


def _check_around(path: Path, kind: str) -> None:
    """Refuse a path inside a bundle or inside a temporary result."""
    place = Path(os.path.realpath(path.parent))
    around = [place, *place.parents]
    if is_temporary(path.name):
        around.insert(0, path)
    if kind == "folder":
        inside = Path(os.path.realpath(path))
        around += [inside, *inside.parents]
    for folder in around:
        if is_temporary(folder.name):
            raise OutputError(f"{folder} has a name kept for unfinished results: use another")
        if is_bundle(folder):
            raise OutputError(
                f"{path} would lie in the bundle {folder}, which holds its own files only: give "
                "a path outside it"
            )


def _check_replaceable(path: Path, output: Output) -> None:
    """Refuse an existing path unless it may be replaced and is of the kind to write.

    A link counts as its target, but only the link is replaced. A dangling link can be replaced.
    """
    if output.kind == "folder":
        if not os.path.isdir(path):
            raise OutputError(f"{path} is not a folder: give another path")
        return
    if output.kind == "new folder":
        raise OutputError(f"{path} exists already: give another path, or remove it first")
    fits = {"file": os.path.isfile, "bundle": is_bundle}[output.kind]
    if os.path.exists(path) and not fits(path):
        kind = {"file": "regular file", "bundle": "bundle"}[output.kind]
        raise OutputError(
            f"{path} exists already and is not a {kind}, so it is not overwritten: "
            "give another path, or remove it first"
        )
    if not output.overwrite:
        raise OutputError(
            f"{path} exists already: give another path, or add --overwrite "
            "(in Python, overwrite=True) to replace it"
        )


def _check_folder(path: Path, kind: str) -> None:
    """Refuse a parent folder that is missing, is not a folder or cannot be written to."""
    if kind == "file" and not os.path.lexists(path.parent):
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}")
    ancestors = [*path.parents]
    if kind == "folder":
        ancestors.insert(0, path)
    folder = next(ancestor for ancestor in ancestors if os.path.lexists(ancestor))
    if not os.path.isdir(folder):
        raise OutputError(f"cannot write {path}: {folder} is not a folder")
    for name in (path, *(folder / part for part in path.relative_to(folder).parts)):
        with suppress(FileNotFoundError):
            os.lstat(name)  # fails for a name too long for the file system
    with temporary_in(folder, "file" if kind == "file" else "folder"):
        pass


def _move(made: Path, path: Path, overwrite: bool) -> None:
    """Move a finished file to its path; without `overwrite` only if the path does not exist."""
    if overwrite:
        os.replace(made, path)
    else:
        try:
            os.link(made, path)  # unlike a rename, it fails if the path exists by now
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            os.rename(made, path)
    with suppress(OSError):  # the file is complete; without sync a power failure may lose it
        sync(path.parent)


def _keep(made: Path, path: Path) -> str:
    """Move a finished result elsewhere; return a sentence that states where."""
    kept = path.parent / kept_name(path)
    with suppress(OSError):
        os.rename(made, kept)
        return f"It is kept as {kept}"
    with suppress(OSError):
        kept = Path(tempfile.gettempdir()) / kept.name
        shutil.copyfile(made, kept)
        return f"It is kept as {kept}"
    return "It could not be kept elsewhere either"


def _sweep(folder: Path) -> None:
    """Remove the remains of killed processes from a folder; errors of the disk are ignored."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if found := _TEMPORARY.fullmatch(name):
                _remove_if_dead(folder / name, found[1])


def _remove_if_dead(path: Path, system: str | None) -> None:
    """Remove a temporary result if its process was killed.

    A free lock is certain evidence only if the result was made on this running system. Other hosts,
    and file systems without locks, do not share locks: there a result without a change for
    ABANDONED seconds is removed.

    system: the id of the system that made it; None for a name of an older version, which stays.
    """
    if system is None:
        return
    descriptor, locked = None, None
    try:
        with suppress(OSError):  # a link cannot be opened
            descriptor = _open(path)
            locked = _lock(descriptor)
        if locked is False:
            return
        if (locked and system == _running_system()) or _age(path) > ABANDONED:
            remove(path)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)


def _lock(descriptor: int) -> bool | None:
    """Try to lock: True if locked, False if another process has it, None without such locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _age(path: Path) -> float:
    """Return the seconds since the latest change of a file, or of a folder and its entries."""
    changed = os.lstat(path).st_mtime
    if os.path.isdir(path) and not os.path.islink(path):
        changed = max([changed, *(os.lstat(path / name).st_mtime for name in os.listdir(path))])
    return time.time() - changed


@cache
def _running_system() -> str:
    """Return eight hexadecimal digits that differ between machines and between their boots."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            identity = file.read()
    except OSError:
        identity = os.uname().nodename.encode()
    return hashlib.sha256(identity).hexdigest()[:8]


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _same(one: Path, other: Path) -> bool:
    """Tell whether two paths are the same place or file, also through links."""
    places = [Path(os.path.realpath(_absolute(p).parent)) / _absolute(p).name for p in (one, other)]
    if places[0] == places[1] or os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _within(inner: Path, outer: Path) -> bool:
    """Tell whether a path is inside a folder, which need not exist."""
    return Path(os.path.realpath(outer)) in Path(os.path.realpath(inner)).parents


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError that names the path."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {reason_of(error)}. Check the path, its permissions and the "
            "free space."
        ) from error
