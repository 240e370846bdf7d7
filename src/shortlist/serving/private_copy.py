"""How is a bundle served from a disk on which others may cut its files short?

What is served is mapped from files. So they are copied into a folder that nobody else writes to,
loaded from there, and the folder is removed at once: the system keeps the files until the process
ends, or serves another bundle.
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
_NEW = 60.0  # seconds in which a folder without a lock may be another process's newest


def load_privately(path: Path) -> Bundle:
    """Load a copy of a bundle that has no name on the disk any more. Errors: BundleError."""
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
    """A new folder for temporary files, removed at the end, and by the next one at the latest."""
    _remove_left_over()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        held = os.open(name, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield Path(name)
        finally:
            os.close(held)


def _remove_left_over() -> None:
    """Remove the folders of processes that were killed: nobody holds their locks any more."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # removed meanwhile, or no folder of ours
        try:
            found = os.fstat(held)
            if found.st_uid == os.geteuid() and time.time() - found.st_mtime > _NEW:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # a process that lives is copying into it
        finally:
            os.close(held)


def _copy(source: Path, target: Path) -> None:
    """Copy a regular file: as a second reference to its blocks, where the file system can."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as read, target.open("xb") as written:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BundleError(f"{source} must be a regular file, not a directory or device.")
        try:
            fcntl.ioctl(written.fileno(), _FICLONE, descriptor)
        except OSError:
            shutil.copyfileobj(read, written, _CHUNK)
