"""Which bundle is served, and how is it replaced by a newer one while requests are answered?

The path is a bundle, or a directory of bundles. In a directory the newest bundle is served: the
last by name, where runs of digits are compared as numbers, so that v10 comes after v9 and ISO dates
are in order. A damaged, invalid or incomplete bundle is skipped and listed as refused. It is tried
again whenever the names, sizes or times of its files change, because it may still be copied. A
bundle that replaces another one of the same name is newer than that one.
"""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any, NamedTuple, Protocol

from shortlist.bundle.bundle import load
from shortlist.bundle.store import MANIFEST, SEAL
from shortlist.errors import ShortlistError
from shortlist.outputs import is_kept, is_temporary, natural
from shortlist.serving.free_memory import give_back_memory
from shortlist.serving.measures import Measures
from shortlist.serving.messages import RequestError
from shortlist.serving.onnx_encoder import use_onnx
from shortlist.serving.private_copy import load_privately
from shortlist.serving.refused import Refused
from shortlist.serving.served import Served, self_test, shown

logger = logging.getLogger("shortlist.serving")

_SEAL_LENGTH = 64

FOLLOW = 0.5
"""Seconds between checks for changes of items by other processes."""


class Living(Protocol):
    """The changes of items that are applied to every bundle."""

    def over(self, served: Served) -> Served:
        """Return the bundle with all changes applied. It does not fail."""
        ...

    def is_changed(self) -> bool:
        """Return whether there are changes that `over` has not applied yet."""
        ...


class Beside(Protocol):
    """The other processes of a service: all of them switch to a bundle, or none does."""

    def loads(self, refused: Refused) -> None:
        """Announce the bundle that is loaded now.

        refused: the refusal of it, in case that loading it ends the process.
        """
        ...

    def agrees(self, choice: tuple[str, str], refused: Sequence[Refused], *, new: bool) -> bool:
        """Return whether all processes have chosen the same bundle.

        choice: its name and seal.
        refused: bundles that this process refuses.
        new: True if it is not the bundle that is served.
        """
        ...


class _Ready(NamedTuple):
    """A loaded bundle, with its seal and the state of its files (`_files`) before loading."""

    served: Served
    seal: str
    files: Any


class Watch:
    """Holds the bundle that is served, and checks for a newer one.

    A check that finds no valid bundle changes nothing.

    path: a bundle or a directory of bundles.
    read: loads a bundle.
    current: the served bundle. It is one reference, replaced in one step after the new bundle is
    verified, loaded and tested.
    refused: bundles that cannot be served.
    items: the changes of items that are applied to each bundle before it is served.
    """

    def __init__(self, path: Path, measures: Measures, read: Callable[[Path], Any] = load) -> None:
        self.path = path
        self.measures = measures
        self.current: Served | None = None
        self.refused: tuple[Refused, ...] = ()
        self.is_bundle = (path / MANIFEST).exists() or (path / SEAL).exists()
        self.items: Living | None = None
        self._read = read
        self._seal = ""  # seal of the served bundle on the disk
        self._files: Any = None
        self._gone = False
        self._looking = Lock()
        self._stop = Event()
        self._thread: Thread | None = None

    @property
    def choice(self) -> tuple[str, str]:
        """The name and seal of the served bundle; both are empty without one."""
        return ("", "") if self.current is None else (self.current.name, self._seal)

    def look(
        self,
        *,
        again: bool = False,
        beside: Beside | None = None,
        elsewhere: Iterable[Refused] = (),
    ) -> bool:
        """Serve the newest valid bundle; return whether the served bundle changed.

        again: also try bundles that were refused before and have not changed.
        beside: the processes that must agree first; None without others.
        elsewhere: bundles that other processes refuse; they are refused here as well.
        """
        with self._looking:
            if again:
                self.refused = ()
            found = self._candidates()
            names = {(shown(path.name), seal) for path, seal in found}
            self.refused = tuple(r for r in self.refused if (r.name, r.seal) in names)
            self._refuse_also(r for r in elsewhere if (r.name, r.seal) in names)
            ready = self._first(found, beside)
            if beside is not None and not self._agreed(ready, beside):
                return False
            if ready is not None:
                self._serve(ready)
            return ready is not None

    def _refuse_also(self, elsewhere: Iterable[Refused]) -> None:
        """Refuse the bundles that other processes refuse, except the one that is served here."""
        known = {self.choice, *((refused.name, refused.seal) for refused in self.refused)}
        for refused in elsewhere:
            if (refused.name, refused.seal) not in known:
                self._refuse(refused)

    def _agreed(self, ready: _Ready | None, beside: Beside) -> bool:
        choice = self.choice if ready is None else (ready.served.name, ready.seal)
        refused = [r for r in self.refused if ready is None or (r.name, r.seal) != choice]
        if beside.agrees(choice, refused, new=ready is not None):
            return True
        if ready is not None and self.current is not None and self.items is not None:
            self.current = self.items.over(
                self.current
            )  # they were last applied to the other bundle
        return False

    def change(self, change: Callable[[Served], Served]) -> Served:
        """Replace the served bundle by `change` of it, and return the result.

        No check for bundles runs meanwhile. Running requests keep the bundle that they started
        with. Errors: those of `change`, and RequestError "not_ready"; then nothing has changed.
        """
        with self._looking:
            if self.current is None:
                raise RequestError("not_ready", "no bundle is loaded yet")
            self.current = change(self.current)
            return self.current

    def follow(self) -> None:
        """Apply the changes of items that other processes have made."""
        with self._looking:
            if self.current is not None and self.items is not None and self.items.is_changed():
                self.current = self.items.over(self.current)

    def start(self, poll: float | None) -> None:
        """Check every `poll` seconds from now on, in a thread.

        poll: None to apply changes of items only; `look` is then called by others.
        """
        self._thread = Thread(target=self._run, args=(poll,), name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop checking. A check in progress is not awaited, as it writes nothing to the disk."""
        self._stop.set()

    def _run(self, poll: float | None) -> None:
        told = poll is None
        looked = float("-inf")
        while True:
            try:
                if poll is not None and monotonic() - looked >= poll:
                    self.look()
                    looked = monotonic()
                self.follow()
            except Exception:
                # The served bundle is still valid, and the next check may succeed.
                logger.exception("checking for bundles failed")
            if self.current is None and not self.refused and not told:
                logger.warning(
                    "there is no bundle in %s yet: publish one into it", shown(self.path.name)
                )
                told = True
            if self._stop.wait(FOLLOW if poll is None else min(poll, FOLLOW)):
                return

    def _candidates(self) -> list[tuple[Path, str]]:
        """The bundles on the disk and their seals, newest first."""
        paths = [self.path]
        if not self.is_bundle:
            try:
                paths = [p for p in self.path.iterdir() if not _is_aside(p.name)]
            except OSError as error:
                logger.warning("the directory of bundles cannot be read: %s", error.strerror)
                return []
        paths.sort(key=lambda path: natural(path.name), reverse=True)
        found = [(path, seal) for path in paths if (seal := _seal(path)) is not None]
        if not found and (seal := _seal(self.path)) is not None:
            return [(self.path, seal)]  # an empty directory has become a bundle
        return found

    def _first(self, found: list[tuple[Path, str]], beside: Beside | None) -> _Ready | None:
        """The newest valid bundle, ready to be served; None if nothing has to change."""
        known = {(refused.name, refused.seal): refused.files for refused in self.refused}
        for path, seal in found:
            if self._is_served(path, seal):
                self._gone = False
                self._check_untouched(path)
                return None
            files = _files(path)
            if known.get((shown(path.name), seal)) == files:
                continue
            if self._is_older(path) and not self._gone:
                # The served bundle may just be replaced: use an older one only if it stays away.
                self._gone = True
                return None
            if beside is not None:
                beside.loads(Refused(shown(path.name), seal, "", files))
            if (ready := self._read_ready(path, seal, files)) is not None:
                return ready
        return None

    def _check_untouched(self, path: Path) -> None:
        """Log once if a served file was changed in place, because its mapped pages change too."""
        files = _files(path)
        if files == self._files or self._read is load_privately:
            return
        before, self._files = self._files, files
        for name in sorted((before.keys() & files.keys()) - {"."}):
            (node, size, changed, _), (now, *left) = before[name], files[name]
            if now == node and left[:2] != [size, changed]:
                logger.error(
                    "%s of the served bundle %s was changed in place: answers may be wrong, and "
                    "a file that was cut short ends the service",
                    *(shown(name), shown(path.name)),
                )

    def _is_served(self, path: Path, seal: str) -> bool:
        return self.current is not None and (path, seal) == (self.current.directory, self._seal)

    def _is_older(self, path: Path) -> bool:
        served = self.current
        return served is not None and natural(path.name) < natural(served.directory.name)

    def _read_ready(self, path: Path, seal: str, files: Any) -> _Ready | None:
        try:
            bundle = self._read(path)
            use_onnx(bundle.retriever)
            served = Served(bundle, path, time.time())
            self_test(served)
            if self.items is not None:
                served = self.items.over(served)
        except ShortlistError as error:
            reason = str(error).replace(f"{path.parent}{os.sep}", "")
            self._refuse(Refused(shown(path.name), seal, shown(reason), files))
            return None
        except Exception as error:
            logger.exception("the bundle %s cannot be loaded", shown(path.name))
            reason = f"it cannot be loaded ({type(error).__name__})"
            self._refuse(Refused(shown(path.name), seal, reason, files))
            return None
        if _seal(path) != seal:
            return None  # it was replaced during the load; the next check reads it again
        return _Ready(served, seal, files)

    def _serve(self, ready: _Ready) -> None:
        served, seal = ready.served, ready.seal
        self._gone = False
        self.current, self._seal, self._files = ready
        self.refused = tuple(r for r in self.refused if (r.name, r.seal) != (served.name, seal))
        give_back_memory()
        self.measures.served(served.id, served.kind, served.loaded_at)
        logger.info("serving bundle %s from %s", served.id[:12], served.name)

    def _refuse(self, refused: Refused) -> None:
        """Replace an earlier refusal of the same bundle; log it if the reason is new."""
        same = [r for r in self.refused if (r.name, r.seal) == (refused.name, refused.seal)]
        self.refused = (*(r for r in self.refused if r not in same), refused)
        if refused.reason not in {earlier.reason for earlier in same}:
            self.measures.refused()
            logger.error("refused bundle %s: %s", refused.name, refused.reason)


def _is_aside(name: str) -> bool:
    """Tell whether a name is hidden, or that of a temporary or replaced folder."""
    return name.startswith(".") or is_temporary(name) or is_kept(name)


def _seal(path: Path) -> str | None:
    """The id in a bundle's seal; None if there is no seal (yet).

    It is "" if the seal cannot be read; loading such a bundle fails with the reason.
    """
    try:
        with (path / SEAL).open("rb") as file:
            return file.read(_SEAL_LENGTH).decode("ascii", "replace")
    except OSError as error:
        return None if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) else ""


def _files(path: Path) -> dict[str, tuple[int, int, int, int]]:
    """Inode, size and times of a folder (as ".") and of its entries, to notice changes."""
    found = {}
    try:
        found["."] = _looks(os.stat(path))
        with os.scandir(path) as entries:
            found |= {entry.name: _looks(entry.stat(follow_symlinks=False)) for entry in entries}
    except OSError as error:
        found[""] = (error.errno or 0, 0, 0, 0)
    return found


def _looks(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
