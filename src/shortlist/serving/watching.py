"""Which bundle is served, and how does the next one take its place without a request noticing?

The path is a bundle, or a directory of bundles. Of a directory the newest is served: the last by
name, runs of digits compared as numbers, so that v10 comes after v9 and dates in ISO form sort as
they should. One that is damaged, unsound or unfinished is passed over, and said to be refused. It
is tried again whenever the names, sizes or times of its files change: it may be on its way.
A bundle that is published over another of the same name is newer than it.
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
"""Seconds between looks for changes of items by other processes."""


class Living(Protocol):
    """The changes of items that are made to every bundle."""

    def over(self, served: Served) -> Served:
        """Return a bundle with all of them. It does not fail."""
        ...

    def is_changed(self) -> bool:
        """Return whether there are others than those that `over` has made."""
        ...


class Beside(Protocol):
    """Other processes that serve the same: all of them take a bundle into service, or none."""

    def loads(self, refused: Refused) -> None:
        """Say what is loaded now, as it would be refused if that ended the process."""
        ...

    def agrees(self, choice: tuple[str, str], refused: Sequence[Refused], *, new: bool) -> bool:
        """Return whether all have chosen the same. choice: name and seal; new: it is not served."""
        ...


class _Ready(NamedTuple):
    """A bundle that can be served from now on, and how its folder looked."""

    served: Served
    seal: str
    files: Any


class Watch:
    """Holds the bundle that is served, and looks for a newer one.

    `current` is one reference, replaced in one step when the new bundle is verified, loaded and
    tested. A look that finds nothing sound changes nothing. items: the changes of items that every
    bundle gets before it is served.
    """

    def __init__(self, path: Path, measures: Measures, read: Callable[[Path], Any] = load) -> None:
        self.path = path
        self.measures = measures
        self.current: Served | None = None
        self.refused: tuple[Refused, ...] = ()
        self.is_bundle = (path / MANIFEST).exists() or (path / SEAL).exists()
        self.items: Living | None = None
        self._read = read
        self._seal = ""  # of what is served, as it stood on the disk
        self._files: Any = None
        self._gone = False
        self._looking = Lock()
        self._stop = Event()
        self._thread: Thread | None = None

    @property
    def choice(self) -> tuple[str, str]:
        """The name and the seal of what is served, both empty where nothing is."""
        return ("", "") if self.current is None else (self.current.name, self._seal)

    def look(
        self,
        *,
        again: bool = False,
        beside: Beside | None = None,
        elsewhere: Iterable[Refused] = (),
    ) -> bool:
        """Take the newest sound bundle into service; return whether that changed what is served.

        again: try those as well that were refused before and look the same. beside: processes that
        must agree first. elsewhere: what they refuse, which is refused here, too.
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
        """Refuse what another process refuses, unless it is served here."""
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
            self.current = self.items.over(self.current)  # they were made to the other one last
        return False

    def change(self, change: Callable[[Served], Served]) -> Served:
        """Put what `change` makes of the served bundle in its place, and return it.

        No look comes between the two, so neither undoes the other; a request under way keeps what
        it began with. Errors: those of `change`, RequestError "not_ready"; then nothing has
        changed.
        """
        with self._looking:
            if self.current is None:
                raise RequestError("not_ready", "no bundle is loaded yet")
            self.current = change(self.current)
            return self.current

    def follow(self) -> None:
        """Make the changes of items that another process has made."""
        with self._looking:
            if self.current is not None and self.items is not None and self.items.is_changed():
                self.current = self.items.over(self.current)

    def start(self, poll: float | None) -> None:
        """Look every `poll` seconds from now on, in a thread of its own.

        None: it follows the changes of items only, as somebody else says when to look.
        """
        self._thread = Thread(target=self._run, args=(poll,), name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more. A look under way is not waited for: it changes nothing on the disk."""
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
                # Whatever it was, the bundle in service is whole, and the next look may succeed.
                logger.exception("looking for bundles failed")
            if self.current is None and not self.refused and not told:
                logger.warning(
                    "there is no bundle in %s yet: publish one into it", shown(self.path.name)
                )
                told = True
            if self._stop.wait(FOLLOW if poll is None else min(poll, FOLLOW)):
                return

    def _candidates(self) -> list[tuple[Path, str]]:
        """Bundles and their seals, newest first."""
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
        """The newest sound bundle, ready to be served; None where nothing has to change."""
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
                # It may be in the middle of being replaced: go back only if it stays away.
                self._gone = True
                return None
            if beside is not None:
                beside.loads(Refused(shown(path.name), seal, "", files))
            if (ready := self._read_ready(path, seal, files)) is not None:
                return ready
        return None

    def _check_untouched(self, path: Path) -> None:
        """Say so, once, where a file is changed in place: its mapped pages change with it."""
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
            return None  # replaced while it was read: the next look sees what is there then
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
        """Remember it in the place of an earlier refusal; say it where that had another reason."""
        same = [r for r in self.refused if (r.name, r.seal) == (refused.name, refused.seal)]
        self.refused = (*(r for r in self.refused if r not in same), refused)
        if refused.reason not in {earlier.reason for earlier in same}:
            self.measures.refused()
            logger.error("refused bundle %s: %s", refused.name, refused.reason)


def _is_aside(name: str) -> bool:
    """Whether the name is hidden, or of something that was not published under its own."""
    return name.startswith(".") or is_temporary(name) or is_kept(name)


def _seal(path: Path) -> str | None:
    """The id that a bundle claims to have; None where there is no bundle, or not yet.

    Where it cannot be read the id is "": loading such a bundle fails, with the reason.
    """
    try:
        with (path / SEAL).open("rb") as file:
            return file.read(_SEAL_LENGTH).decode("ascii", "replace")
    except OSError as error:
        return None if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) else ""


def _files(path: Path) -> dict[str, tuple[int, int, int, int]]:
    """Inode, size and times of a folder (named ".") and of all it holds; a change shows in them."""
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
