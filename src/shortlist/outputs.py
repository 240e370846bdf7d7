"""Where may a result be written, and how does it appear there whole or not at all?

Each command declares to `check` what it reads and what it will write, before it works. Whatever
publishes a file or a bundle calls `check` once more, so what is refused is refused early.

A result is made beside its place, under a name that begins with `tmp-shortlist-`, locked while its
maker lives. Whoever makes the next one in that folder removes those of makers that were killed.

All disk access goes through `os`, so that a test can make the N-th of the calls fail.
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

if sys.platform != "win32":  # where `systems.check_system` refuses before a lock is needed
    import fcntl

BUNDLE_MARKS = ("manifest.json", "manifest.sha256")
"""A folder that holds both files is a bundle."""

ABANDONED = 24 * 3600.0
"""Seconds without a change after which the remains of a maker that cannot be asked are removed."""

PARQUET = (".parquet",)
"""What the name of a table that is written ends in."""

PAGES = (".html",)
"""What the name of a page that is written ends in."""

_TEMPORARY = re.compile(r"tmp-(?:shortlist-([0-9a-f]{8})-[0-9a-f]{24}|[0-9a-f]{32})")
_KEPT = re.compile(r".*\.kept-[0-9a-f]{8}(\..*)?", re.DOTALL)
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@dataclass(frozen=True)
class Output:
    """One thing that is going to be written.

    kind: a "file"; a "bundle", which is replaced as a whole; a "folder" that is taken up again, so
    that it may exist; or a "new folder", which may not. suffixes: what the name of a file may end
    in. overwrite: whether what is there already may be replaced.
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
    """Return the Output of an option that need not be given: None without a path."""
    return None if path is None else Output(path, kind, suffixes, overwrite)


def check(
    outputs: Mapping[str, Output | None], inputs: Mapping[str, Path | None] | None = None
) -> None:
    """Refuse, before any work, what could not be written or would destroy something else.

    The keys are what the user calls each of them, as `--out`; None is an option that is not given.
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
    """Whether a folder is a bundle by its files; nothing in it is read."""
    return all(os.path.isfile(folder / name) for name in BUNDLE_MARKS)


def is_temporary(name: str) -> bool:
    """Whether the name is one of those kept for what is not published yet."""
    return _TEMPORARY.fullmatch(name) is not None


def is_kept(name: str) -> bool:
    """Whether the name is one of those under which a result is kept that could not be published."""
    return _KEPT.fullmatch(name) is not None


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key by which v9 stands before v10: bundles of a folder are ordered by it."""
    return [
        (0, int(number), "") if number else (1, 0, text)
        for number, text in re.findall(r"([0-9]+)|([^0-9]+)", name)
    ]


@contextmanager
def whole(path: Path, suffixes: tuple[str, ...] = (), *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a path to write a file to; after the block it is synced and moved to `path`.

    On any error `path` is as it was before. If all is written and only the move fails, the file is
    kept under another name, which the error tells. Errors: OutputError.
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
    """Yield a folder to write files to; after the block it is synced and moved to `path`.

    On any error there is nothing at `path`, as before. If all is written and only the move fails,
    the folder is kept under another name, which the error tells. Errors: OutputError.
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
        with suppress(OSError):  # the folder is whole already
            sync(path.parent)


@contextmanager
def parents_of(path: Path) -> Iterator[None]:
    """Make the folders above `path` that are missing; an error in the block removes them again."""
    missing = []
    for folder in path.parents:
        if os.path.lexists(folder):
            break
        missing.append(folder)
    try:
        os.makedirs(path.parent, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):  # one that somebody else uses by now stays, with those above it
            for folder in missing:
                os.rmdir(folder)
        raise


@contextmanager
def temporary_in(folder: Path, kind: Literal["file", "folder"]) -> Iterator[Path]:
    """Make an empty file or folder that nobody else takes; remove at the end what is left of it.

    First those are removed that killed makers left in `folder`.
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
            # Between these lines another maker may have taken it for the remains of a killed one.
            if stack.enter_context(held(path)) and os.path.lexists(path):
                break
        yield path


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Lock a file or folder, so that nobody takes it for the remains of a killed maker.

    Yield False where somebody else holds it. The lock follows a rename, and ends with the process.
    A link, and a folder on a file system without such locks (NFS), are not locked.
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
    """Return a new name for something that is not published yet; it tells which system made it."""
    return f"tmp-shortlist-{_running_system()}-{uuid4().hex[:24]}"


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it, as far as the disk lets it."""
    if os.path.isdir(path) and not os.path.islink(path):
        with suppress(OSError):  # a bundle that nobody may write to is replaced like others
            os.chmod(path, stat.S_IRWXU)
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            os.unlink(path)


def sync(path: Path) -> None:
    """Bring a file's or folder's content to the disk. Errors: OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def kept_name(path: Path) -> str:
    """Return the name under which a result is kept that could not be published at `path`."""
    return f"{path.stem}.kept-{uuid4().hex[:8]}{path.suffix}"


def reason_of(error: OSError) -> str:
    """Return what the system says, without the path."""
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
    """Refuse a path inside a bundle, or inside what a publisher is making or has left."""
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
                f"{path} would lie in the bundle {folder}, which holds its own files only: give a "
                "path outside it"
            )


def _check_replaceable(path: Path, output: Output) -> None:
    """Refuse what is there already, unless it is to be replaced, and is of the kind written.

    A link counts as what it leads to: only the link is replaced. One that leads nowhere can be.
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
    """Refuse a folder that is missing, is none, or does not take what is written to it."""
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
            os.lstat(name)  # a name too long for the file system is refused here
    with temporary_in(folder, "file" if kind == "file" else "folder"):
        pass


def _move(made: Path, path: Path, overwrite: bool) -> None:
    """Let a finished file appear at its path; without `overwrite` only if nothing is there."""
    if overwrite:
        os.replace(made, path)
    else:
        try:
            os.link(made, path)  # unlike a rename, it fails where a file has appeared meanwhile
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            os.rename(made, path)
    with suppress(OSError):  # the file is whole already; after a power failure it may be gone
        sync(path.parent)


def _keep(made: Path, path: Path) -> str:
    """Put a finished file somewhere else; return the sentence that says where."""
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
    """Remove what killed makers left in a folder, as far as the disk lets it."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if found := _TEMPORARY.fullmatch(name):
                _remove_if_dead(folder / name, found[1])


def _remove_if_dead(path: Path, system: str | None) -> None:
    """Remove what a killed maker left; system: the one it ran on, None of an older version.

    Only a lock that this system itself took back tells for certain. Another host, and a file system
    without locks, do not share theirs: there, what nobody has changed for a day is abandoned.
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
    """Take the lock: True. False: somebody else has it. None: the file system has no such locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _age(path: Path) -> float:
    """Seconds since the latest change of a file, or of a folder and what lies in it."""
    changed = os.lstat(path).st_mtime
    if os.path.isdir(path) and not os.path.islink(path):
        changed = max([changed, *(os.lstat(path / name).st_mtime for name in os.listdir(path))])
    return time.time() - changed


@cache
def _running_system() -> str:
    """Eight digits that differ between two machines, and between two starts of one."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            told = file.read()
    except OSError:
        told = os.uname().nodename.encode()
    return hashlib.sha256(told).hexdigest()[:8]


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are one place, or lead to one file, through links of either sort."""
    places = [Path(os.path.realpath(_absolute(p).parent)) / _absolute(p).name for p in (one, other)]
    if places[0] == places[1] or os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _within(inner: Path, outer: Path) -> bool:
    """Whether a path leads into a folder, which need not exist."""
    return Path(os.path.realpath(outer)) in Path(os.path.realpath(inner)).parents


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn a refusal of the disk into an OutputError that names the path."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {reason_of(error)}. Check the path, its permissions and the "
            "free space."
        ) from error
