"""Files that are cut short under a service: what it says, and how it can be safe from that."""

import fcntl
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import pytest

from shortlist.bundle.bundle import load
from shortlist.errors import BundleError
from shortlist.serving.measures import Measures
from shortlist.serving.private_copy import load_privately
from shortlist.serving.watching import Watch

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture
def copied(bundle, tmp_path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The place for temporary files, empty."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def cut_short(bundle: Path) -> None:
    for file in bundle.iterdir():
        os.truncate(file, 0)


@linux
def test_a_service_whose_files_are_cut_short_says_why_it_ends(process, copied, connect):
    child, port = process(copied, drain=1.0)
    body = b'{"users": [1]}'
    head = b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    request = head + b"content-length: %d\r\n\r\n" % len(body) + body
    answer = b""
    while not answer.startswith(b"HTTP/1.1 200"):
        with socket.create_connection(("127.0.0.1", port), timeout=300) as connection:
            connection.sendall(request)
            answer = connection.recv(65536)
    cut_short(copied)
    connect(port, 300.0).sendall(request)
    assert child.wait(300) == -signal.SIGBUS
    said = child.stderr.read()
    assert "FATAL: the service ends (SIGBUS): a file of the served bundle was cut short" in said
    assert "--private-copy" in said


@linux
def test_a_private_copy_outlives_its_files_and_leaves_nothing_behind(
    copied, temporary, fitted, caplog
):
    watch = Watch(copied, Measures(), load_privately)
    assert watch.look()
    assert list(temporary.iterdir()) == []
    assert str(copied) not in Path("/proc/self/maps").read_text()  # or the next line ended pytest
    cut_short(copied)
    watch.look()
    users = fitted.data.users.ids.head(20).to_list()
    assert watch.current.retriever.recommend(users, 5).ids == fitted.recommend(users, 5).ids
    assert watch.current.name == "bundle"
    assert "in place" not in caplog.text


def test_a_private_copy_is_checked_and_refused_under_the_name_of_the_original(copied, temporary):
    assert load_privately(copied).id == load(copied).id
    with (copied / "log.parquet").open("r+b") as file:
        file.write(b"x")
    with pytest.raises(BundleError) as caught:
        load_privately(copied)
    assert str(copied / "log.parquet") in str(caught.value)
    assert str(temporary) not in str(caught.value)
    (copied / "log.parquet").unlink()
    (copied / "log.parquet").symlink_to(copied / "users.parquet")
    with pytest.raises(BundleError):
        load_privately(copied)
    assert list(temporary.iterdir()) == []


def test_a_full_disk_is_one_sentence_that_names_tmpdir(copied, temporary, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    monkeypatch.setattr(fcntl, "ioctl", full)
    with pytest.raises(BundleError, match=r"No space left on device.*TMPDIR"):
        load_privately(copied)
    assert list(temporary.iterdir()) == []


def test_copies_of_killed_processes_are_removed_and_those_of_living_ones_are_not(copied, temporary):
    long_ago = time.time() - 9_999
    folders = {}
    for name in ("killed", "living", "new", "others"):
        folders[name] = temporary / f"shortlist-private-{name}"
        folders[name].mkdir()
        (folders[name] / "towers.safetensors").write_bytes(b"much")
        if name != "new":
            os.utime(folders[name], (long_ago, long_ago))
    folders["others"].rename(temporary / "others")
    held = os.open(folders["living"], os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    load_privately(copied)
    os.close(held)
    left = {path.name for path in temporary.iterdir()}
    assert left == {"shortlist-private-living", "shortlist-private-new", "others"}
