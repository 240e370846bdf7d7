"""How is a bundle served from a disk on which others may shorten its files?

A served bundle is mapped from its files. They are copied into a private folder and loaded from
there, and the folder is removed at once. The system keeps the removed files until the process ends
or serves another bundle.
"""

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shortlist.bundle.bundle import Bundle, load
from shortlist.errors import BundleError

_PREFIX = "shortlist-private-"
_FICLONE = 0x40049409  # an ioctl of Linux: the new file shares the blocks of the old one
_CHUNK = 8 * 2**20
_NEW = 60.0  # seconds in which another process may not have locked its new folder yet


def load_privately(path: Path) -> Bundle:
    """Load a copy of a bundle, and remove the files of the copy. Errors: BundleError."""
    with _folder() as folder:
        try:
            for name in os.listdir(path):
                _copy(path / name, folder / name)
        except OSError as error:
            raise BundleError(
                f"cannot copy {path} into {folder.parent}: {error.strerror or error}. Check its "
                "permissions and the free space there; TMPDIR names another place."
            ) from None
        try:
            return load(folder)
        except BundleError as error:
            raise BundleError(str(error).replace(str(folder), str(path))) from None


@contextmanager
def _folder() -> Iterator[Path]:
    """A new temporary folder, removed at the end; after a crash the next call removes it."""
    _remove_left_over()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        held = os.open(name, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield Path(name)
        finally:
            os.close(held)


def _remove_left_over() -> None:
    """Remove the folders of killed processes, which hold no locks any more."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # it was removed meanwhile, or is not a folder of this program
        try:
            found = os.fstat(held)
            if found.st_uid == os.geteuid() and time.time() - found.st_mtime > _NEW:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # a running process is copying into it
        finally:
            os.close(held)


def _copy(source: Path, target: Path) -> None:
    """Copy a regular file, by reference to the same blocks if the file system supports it."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as read, target.open("xb") as written:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BundleError(f"{source} must be a regular file, not a directory or device.")
        try:
            fcntl.ioctl(written.fileno(), _FICLONE, descriptor)
        except OSError:
            shutil.copyfileobj(read, written, _CHUNK)
