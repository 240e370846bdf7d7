"""How is a directory of files written atomically, and read only if it is intact?

A bundle is a flat directory: its files, `manifest.json` with the size and sha256 of each of them,
and `manifest.sha256` with the sha256 of the manifest, in the format of `sha256sum --check`. Any
flipped bit or missing byte, in any file, is found before a parser reads it.

This module does not interpret the files. All disk access goes through `os` in the small functions
at the end, so that a test can make the N-th call fail.
"""

import hashlib
import logging
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl
from torch import Tensor

from shortlist import outputs
from shortlist.bundle.exchange import exchange
from shortlist.bundle.formats import JSON, dump_json, load_frame, load_json, map_tensors
from shortlist.errors import BundleError, suggest_path
from shortlist.outputs import BUNDLE_MARKS, Output
from shortlist.systems import check_system

logger = logging.getLogger("shortlist.bundle")

FORMAT = 3
"""The format that is written. All formats have MANIFEST and SEAL, so that a newer one is known."""

MANIFEST, SEAL = BUNDLE_MARKS

Content: TypeAlias = bytes | Callable[[Path], None]
"""A file's bytes, or a function that writes the file to a given path."""

LEFT_BY_DESKTOPS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""Files that file managers create in folders; they are ignored in a bundle and never opened."""

APPLE_DOUBLE = "._"
"""Prefix of the files that macOS creates beside files on other file systems; ignored as well."""

_FILE_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_OWN_FIELDS = frozenset({"format", "created_by", "files"})
_MANIFEST_LIMIT = 16 * 2**20  # bytes; a larger manifest is refused before it fills the memory
_DAMAGED = "The bundle is damaged: restore it from a copy, or make it again."


@dataclass(frozen=True)
class FileEntry:
    """A file's size in bytes and its sha256 in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The manifest of a verified bundle; its methods read the files.

    directory: the bundle.
    id: sha256 of the manifest. Equal ids mean equal bytes in every file.
    format: number of the bundle's format.
    created_by: name and version of the writer.
    files: {name: size and sha256}.
    fields: the fields given to `publish`.
    """

    directory: Path
    id: str
    format: int
    created_by: str
    files: Mapping[str, FileEntry]
    fields: Mapping[str, Any]

    def read(self, name: str) -> bytes:
        """Return a file's bytes; exactly these bytes are checked once more."""
        path, entry = self.directory / name, self._listed(name)
        with _naming("read", path), _open_regular(path) as file:
            data = file.read(entry.size + 1)
        _check_file(path, entry, len(data), hashlib.sha256(data).hexdigest())
        return data

    def json(self, name: str) -> Any:
        """Return a JSON file's value."""
        return load_json(self.read(name), str(self.directory / name))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return a safetensors file's named tensors, on the CPU, memory-mapped.

        The file is checked once more, in one pass that keeps nothing in memory. Its bytes must not
        change afterwards; replacing a bundle is safe, because that leaves mapped files unchanged.
        """
        path = self.directory / name
        entry = self._listed(name)
        with _naming("read", path), _open_regular(path) as file:
            opened = os.fstat(file.fileno())
            _check_file(
                path, entry, opened.st_size, _digest(file) if opened.st_size == entry.size else ""
            )
            tensors = map_tensors(path)
            if not os.path.samestat(opened, os.stat(path)):
                raise BundleError(f"{path} was replaced while it was read: load the bundle again.")
        return tensors

    def frame(self, name: str, rows: int | None = None) -> pl.DataFrame:
        """Return a Parquet file's table. rows: the number of rows it must have; None for any."""
        return load_frame(self.read(name), str(self.directory / name), rows)

    def _listed(self, name: str) -> FileEntry:
        if name not in self.files:
            raise BundleError(f"the bundle {self.directory} has no file {name}. {_DAMAGED}")
        return self.files[name]


def publish(
    directory: Path,
    files: Mapping[str, Content],
    manifest: Mapping[str, JSON],
    overwrite: bool = False,
) -> str:
    """Write a bundle at `directory` and return its id; after an error, nothing has changed there.

    The files are written and synced in a temporary folder beside it, which is then renamed.

    files: {name: content}.
    manifest: further fields of the manifest.
    overwrite: replace an existing bundle, or a link to one. Old and new are exchanged atomically
        and the old one is removed. A system without such a call (`bundle.exchange`) renames twice,
        so that for a moment the path does not exist.
    Errors: OutputError for a path that `outputs.check` refuses; BundleError for a file name that is
    not allowed, or an error of the disk.
    """
    check_system()
    directory = Path(os.path.abspath(directory))
    outputs.check({"": Output(directory, "bundle", overwrite=overwrite)})
    for name in files:
        _check_name(name, f"the bundle {directory}")
    if clash := sorted(_OWN_FIELDS & manifest.keys()):
        raise BundleError(f"the manifest's own field {clash[0]!r} was given: rename yours.")
    with (
        _naming("create", directory),
        outputs.parents_of(directory),
        outputs.temporary_in(directory.parent, "folder") as temporary,
        _under_its_name(directory, temporary),
    ):
        entries = {name: _store(temporary / name, content) for name, content in files.items()}
        text = dump_json(
            {
                **manifest,
                "format": FORMAT,
                "created_by": f"shortlist {version('shortlist')}",
                "files": {
                    name: {"size": entry.size, "sha256": entry.sha256}
                    for name, entry in entries.items()
                },
            }
        )
        if len(text) > _MANIFEST_LIMIT:
            raise BundleError(
                f"the manifest would have {len(text)} bytes, and {_MANIFEST_LIMIT} is the limit: "
                "put the large field in a file of the bundle."
            )
        bundle_id = hashlib.sha256(text).hexdigest()
        _write(temporary / MANIFEST, text)
        _write(temporary / SEAL, _seal(bundle_id))
        _check_listing(temporary, entries.keys())
        _sync(temporary)
        _move_into_place(temporary, directory, overwrite)
    logger.info("published %s as %s", bundle_id[:12], directory)
    return bundle_id


def verify(directory: Path) -> Manifest:
    """Check every byte of a bundle and return its manifest, the only file that is parsed.

    Errors: BundleError naming a file that is missing, unknown, not a regular file, of another size
    or content, or in a newer format.
    """
    check_system()
    directory = Path(os.path.abspath(directory))
    if outputs.is_temporary(directory.name):
        raise BundleError(
            f"{directory} is the temporary folder of a bundle that was never published: use the "
            "finished bundle."
        )
    if not directory.is_dir():
        why = "it is a file and no folder" if directory.exists() else "there is nothing"
        raise BundleError(
            f"there is no bundle at {directory}: {why}. Give the folder that `shortlist train` "
            "wrote, its --out."
            + ("" if directory.exists() else suggest_path(directory, folder=True))
        )
    if not os.path.lexists(directory / MANIFEST) and (held := _bundles_in(directory)):
        raise BundleError(
            f"{directory} is no bundle, but a folder of bundles: {', '.join(held)}. Give one of "
            f"them, such as {directory / held[-1]}"
        )
    text = _read_small(directory / MANIFEST)
    bundle_id = hashlib.sha256(text).hexdigest()
    if _read_small(directory / SEAL) != _seal(bundle_id):
        raise BundleError(f"{directory / MANIFEST} does not match {SEAL}. {_DAMAGED}")
    manifest = _parse(directory, bundle_id, text)
    _check_listing(directory, manifest.files.keys())
    # Check all sizes first: a bundle that is still being copied then fails without much reading.
    for name, entry in manifest.files.items():
        with _naming("read", directory / name), _open_regular(directory / name) as file:
            _check_size(directory / name, entry, os.fstat(file.fileno()).st_size)
    for name, entry in manifest.files.items():
        with _naming("read", directory / name), _open_regular(directory / name) as file:
            size = os.fstat(file.fileno()).st_size
            # The file may have grown, by gigabytes, since its size was checked.
            digest = _digest(file) if size == entry.size else ""
        _check_file(directory / name, entry, size, digest)
    return manifest


def _parse(directory: Path, bundle_id: str, text: bytes) -> Manifest:
    path = directory / MANIFEST
    content = load_json(text, str(path))
    if not isinstance(content, dict):
        raise BundleError(f"{path} must hold a table, got {type(content).__name__}.")
    number, created_by = content.get("format"), content.get("created_by")
    if type(number) is not int or number < 1 or not isinstance(created_by, str):
        raise BundleError(f"{path} must name its format, a whole number >= 1, and its writer.")
    if number > FORMAT:
        raise BundleError(
            f"{path} has format {number}, written by {created_by}; this is shortlist "
            f"{version('shortlist')} and reads formats up to {FORMAT}. "
            f"Install the version that wrote it, or a later one."
        )
    files = content.get("files")
    if not isinstance(files, dict):
        raise BundleError(f"{path} must list its files.")
    return Manifest(
        directory=directory,
        id=bundle_id,
        format=number,
        created_by=created_by,
        files={name: _entry(name, value, path) for name, value in files.items()},
        fields={name: value for name, value in content.items() if name not in _OWN_FIELDS},
    )


def _entry(name: str, value: object, path: Path) -> FileEntry:
    _check_name(name, str(path))
    match value:
        case {"size": int(size), "sha256": str(digest), **rest} if (
            not rest and size >= 0 and type(size) is int and _DIGEST.fullmatch(digest)
        ):
            return FileEntry(size, digest)
    raise BundleError(f"{path} must give the size and the sha256 of {name}, got {value!r:.80}.")


def _check_name(name: str, where: str) -> None:
    plain = _FILE_NAME.fullmatch(name) and ".." not in name and name != "."
    kept = {MANIFEST, SEAL, *LEFT_BY_DESKTOPS}
    if not plain or name in kept or name.startswith(APPLE_DOUBLE):
        raise BundleError(
            f"{where} cannot hold a file named {name!r:.140}: expected up to 128 of A-Z, a-z, "
            f"0-9, '.', '_' and '-', without '..', not beginning with '{APPLE_DOUBLE}', and not "
            f"{', '.join(sorted(kept))}."
        )


def _check_listing(directory: Path, names: Iterable[str]) -> None:
    """Refuse missing and unlisted files, except those that file managers create."""
    expected = {*names, MANIFEST, SEAL}
    with _naming("list", directory):
        found = set(os.listdir(directory))
        ignored = {
            name
            for name in found - expected
            if name in LEFT_BY_DESKTOPS or name.startswith(APPLE_DOUBLE)
            if _is_regular(directory / name)
        }
    for name in sorted(expected - found):
        raise BundleError(f"{directory / name} is missing. {_DAMAGED}")
    for name in sorted(found - expected - ignored):
        raise BundleError(
            f"{directory / name} does not belong to the bundle: its manifest does not list it. "
            "Move it elsewhere; a bundle holds its own files only."
        )


def _check_size(path: Path, entry: FileEntry, size: int) -> None:
    if size != entry.size:
        raise BundleError(f"{path} has {size} bytes where {entry.size} were written. {_DAMAGED}")


def _check_file(path: Path, entry: FileEntry, size: int, digest: str) -> None:
    _check_size(path, entry, size)
    if digest != entry.sha256:
        raise BundleError(f"{path} has other content than was written (sha256). {_DAMAGED}")


def _seal(bundle_id: str) -> bytes:
    return f"{bundle_id}  {MANIFEST}\n".encode()


def _move_into_place(temporary: Path, directory: Path, overwrite: bool) -> None:
    """Rename `temporary` to `directory`; after an error the disk is as before.

    An existing bundle or link is exchanged with the new one atomically and ends at `temporary`,
    which the caller removes. If the system cannot exchange, it is moved aside between two renames.
    """
    aside = directory.parent / outputs.temporary_name()
    new = os.stat(temporary).st_ino
    over = overwrite and os.path.lexists(directory)
    with outputs.held(directory):  # protects the old bundle while it has a temporary name
        try:
            with _naming("publish", directory):
                if not (over and exchange(temporary, directory)):
                    if over:
                        os.rename(directory, aside)
                    os.rename(temporary, directory)
            _sync(directory.parent)
        except BaseException:
            # The places of both tell how far it got, even if Ctrl-C came between two lines.
            if not os.path.lexists(temporary):
                os.rename(directory, temporary)
            elif directory.exists() and os.stat(directory).st_ino == new:
                exchange(temporary, directory)
            if os.path.lexists(aside):
                os.rename(aside, directory)
            raise
    outputs.remove(aside)


def _store(path: Path, content: Content) -> FileEntry:
    if isinstance(content, bytes):
        _write(path, content)
        return FileEntry(len(content), hashlib.sha256(content).hexdigest())
    with _naming("write", path):
        content(path)
    with _naming("read back", path), _open_regular(path) as file:
        entry = FileEntry(os.fstat(file.fileno()).st_size, _digest(file))
    _sync(path)
    return entry


@contextmanager
def _naming(action: str, path: Path) -> Iterator[None]:
    """Turn an OSError into a BundleError that names the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise BundleError(
            f"cannot {action} {path}: {reason}. Check the path, its permissions and the free space."
        ) from error


@contextmanager
def _under_its_name(directory: Path, temporary: Path) -> Iterator[None]:
    """Replace the temporary folder by the bundle's path in error messages."""
    try:
        yield
    except BundleError as error:
        raise BundleError(str(error).replace(str(temporary), str(directory))) from error


def _write(path: Path, data: bytes) -> None:
    with _naming("write", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sync(path: Path) -> None:
    with _naming("sync", path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_regular(path: Path) -> bool:
    return stat.S_ISREG(os.lstat(path).st_mode)


@contextmanager
def _open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading; refuse links, devices and pipes."""
    if os.path.islink(path):
        raise BundleError(f"{path} must be a regular file, not a link.")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BundleError(f"{path} must be a regular file, not a directory or device.")
        yield file


def _bundles_in(directory: Path) -> list[str]:
    """Return the names of subfolders that look like bundles, as `train --seeds` writes them."""
    return sorted(
        name for name in os.listdir(directory) if os.path.lexists(directory / name / MANIFEST)
    )


def _read_small(path: Path) -> bytes:
    if not os.path.lexists(path):
        raise BundleError(f"{path} is missing: the directory is not a bundle, or is damaged.")
    with _naming("read", path), _open_regular(path) as file:
        data = file.read(_MANIFEST_LIMIT + 1)
    if len(data) > _MANIFEST_LIMIT:
        raise BundleError(f"{path} is larger than {_MANIFEST_LIMIT} bytes. {_DAMAGED}")
    return data


def _digest(file: BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()
