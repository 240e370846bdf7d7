"""Where a result may be written; how it appears whole; what a killed maker leaves is removed."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from shortlist import outputs
from shortlist.errors import OutputError
from shortlist.outputs import BUNDLE_MARKS, Output, check, is_temporary, temporary_in, whole


def make_bundle(folder):
    folder.mkdir()
    for name in BUNDLE_MARKS:
        (folder / name).write_text(name)
    return folder


def refused(**options):
    with pytest.raises(OutputError) as refusal:
        check({"--out": Output(**options)})
    return str(refusal.value)


# What is refused before any work.


@pytest.mark.parametrize("kind", ["file", "bundle", "folder"])
def test_nothing_is_written_into_a_bundle_however_the_path_leads_there(tmp_path, kind, snapshot):
    bundle = make_bundle(tmp_path / "bundle")
    (bundle / "sub").mkdir()
    (tmp_path / "link").symlink_to(bundle)
    (tmp_path / "deep").symlink_to(bundle / "sub")
    before = snapshot(tmp_path)
    for place in (bundle, bundle / "sub", tmp_path / "link", tmp_path / "deep"):
        for overwrite in (False, True):
            said = refused(path=place / "new", kind=kind, overwrite=overwrite)
            assert f"would lie in the bundle {bundle}" in said
    assert "would lie in the bundle" in refused(path=bundle / "no" / "such" / "new", kind=kind)
    assert snapshot(tmp_path) == before


def test_a_folder_to_be_taken_up_again_is_no_bundle_itself(tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    (tmp_path / "link").symlink_to(bundle)
    for path in (bundle, tmp_path / "link"):
        assert "would lie in the bundle" in refused(path=path, kind="folder")
    (tmp_path / "used").mkdir()
    check(
        {"--out": Output(tmp_path / "used", "folder"), "--other": Output(tmp_path / "n", "folder")}
    )


@pytest.mark.parametrize("kind", ["file", "bundle"])
def test_what_exists_is_refused_unless_it_is_to_be_replaced_and_of_the_kind(
    tmp_path, kind, snapshot
):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    make_bundle(tmp_path / "bundle")
    os.mkfifo(tmp_path / "pipe")
    for name in ("file", "empty", "bundle", "pipe", "nowhere"):
        (tmp_path / f"link-{name}").symlink_to(tmp_path / name)
    fits = {"file": {"file", "nowhere"}, "bundle": {"bundle", "nowhere"}}[kind]
    before = snapshot(tmp_path)
    for name in ("file", "empty", "bundle", "pipe", "nowhere"):
        for path in (tmp_path / name, tmp_path / f"link-{name}"):
            if os.path.lexists(path):
                assert f"{path} exists already" in refused(path=path, kind=kind)
            if name in fits:
                check({"--out": Output(path, kind, overwrite=True)})
            else:
                said = refused(path=path, kind=kind, overwrite=True)
                assert "so it is not overwritten" in said
    assert snapshot(tmp_path) == before


def test_two_outputs_are_two_places(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "one").write_text("")
    os.link(tmp_path / "one", tmp_path / "hard")
    (tmp_path / "soft").symlink_to(tmp_path / "one")
    for one, other in (
        ("new", "new"),
        ("new", "real/../new"),
        ("real/new", "link/new"),
        ("one", "hard"),
        ("one", "soft"),
        ("soft", "hard"),
    ):
        outs = [Output(tmp_path / name, overwrite=True) for name in (one, other)]
        with pytest.raises(OutputError, match="--items and --users are the same path"):
            check({"--items": outs[0], "--users": outs[1]})
    check({"--items": Output(tmp_path / "new"), "--users": Output(tmp_path / "real" / "new")})


def test_no_output_lies_in_a_bundle_that_is_yet_to_be(tmp_path):
    bundle = Output(tmp_path / "n", "bundle")
    for inner in (
        Output(tmp_path / "n" / "ck", "folder"),
        Output(tmp_path / "n" / "a" / "b", "bundle"),
    ):
        for asked in ({"--out": bundle, "--in": inner}, {"--in": inner, "--out": bundle}):
            with pytest.raises(OutputError, match=r"--in .* would lie in the bundle"):
                check(asked)
    check(
        {
            "--out": Output(tmp_path / "ck" / "n", "bundle"),
            "--ck": Output(tmp_path / "ck", "folder"),
        }
    )


def test_an_input_is_never_replaced(tmp_path):
    (tmp_path / "users.csv").write_text("mine")
    os.link(tmp_path / "users.csv", tmp_path / "hard.csv")
    (tmp_path / "soft.csv").symlink_to(tmp_path / "users.csv")
    bundle = make_bundle(tmp_path / "bundle")
    names = ("users.csv", "hard.csv", "soft.csv")
    for one in names:
        for other in names:
            with pytest.raises(OutputError, match="would replace an input, --users-file"):
                check(
                    {"--out": Output(tmp_path / one, overwrite=True)},
                    {"--users-file": tmp_path / other, "--none": None},
                )
    for path in (bundle, bundle / BUNDLE_MARKS[0]):
        with pytest.raises(OutputError, match="would replace an input, the bundle"):
            check({"--out": Output(bundle, "bundle", overwrite=True)}, {"the bundle": path})


def test_a_place_that_cannot_be_is_refused(tmp_path, snapshot):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for kind in ("file", "bundle", "folder"):
        assert "is not a folder" in refused(path=tmp_path / "file" / "x", kind=kind)
        assert "is not a folder" in refused(path=tmp_path / "loop" / "x", kind=kind)
        assert "File name too long" in refused(path=tmp_path / ("x" * 300), kind=kind)
        assert "kept for unfinished" in refused(path=tmp_path / outputs.temporary_name(), kind=kind)
    for kind in ("bundle", "folder"):
        assert "File name too long" in refused(path=tmp_path / "a" / ("x" * 300) / "b", kind=kind)
    assert "there is no folder" in refused(path=tmp_path / "no" / "x")
    assert "must end in .png or .svg" in refused(path=tmp_path / "x", suffixes=(".png", ".svg"))
    assert sorted(snapshot(tmp_path)) == ["file", "loop"]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("kind", ["file", "bundle", "folder"])
def test_a_folder_that_takes_nothing_is_refused_by_trying(tmp_path, monkeypatch, kind, code):
    class ReadOnly:
        def __getattr__(self, name):
            return self.refuse if name in {"mkdir", "open"} else getattr(os, name)

        def refuse(self, *_):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(outputs, "os", ReadOnly())
    path = tmp_path / "new"
    said = refused(path=path, kind=kind)
    assert said.startswith(f"cannot write {path}: {os.strerror(code)}")


# A file appears whole or not at all.


def test_a_file_that_appears_meanwhile_is_left_and_the_result_is_kept(tmp_path, snapshot):
    path = tmp_path / "out.txt"
    with pytest.raises(OutputError, match=r"File exists\. It is kept as .*out\.kept-") as refusal:  # noqa: PT012, SIM117
        with whole(path) as made:
            made.write_text("result")
            path.write_text("of somebody else")
    assert path.read_text() == "of somebody else"
    kept = next(tmp_path.glob("out.kept-*.txt"))
    assert str(kept) in str(refusal.value)
    assert kept.read_text() == "result"
    assert sorted(snapshot(tmp_path)) == sorted([kept.name, "out.txt"])


def test_a_result_that_its_own_folder_does_not_take_is_kept_among_temporary_files(
    tmp_path, monkeypatch
):
    (tmp_path / "system").mkdir()
    monkeypatch.setattr(outputs.tempfile, "tempdir", str(tmp_path / "system"))

    class Sudden:
        def __getattr__(self, name):
            return self.refuse if name in {"link", "rename"} else getattr(os, name)

        def refuse(self, *_):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with pytest.raises(OutputError, match=r"Read-only .*It is kept as .*system/out\.kept-"):  # noqa: PT012, SIM117
        with whole(tmp_path / "out.txt") as made:
            made.write_text("result")
            monkeypatch.setattr(outputs, "os", Sudden())
    assert [path.read_text() for path in (tmp_path / "system").iterdir()] == ["result"]


def test_without_hard_links_a_file_is_renamed_and_never_over_another(
    tmp_path, monkeypatch, snapshot
):
    class NoLinks:
        def __getattr__(self, name):
            return getattr(os, name)

        def link(self, *_):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(outputs, "os", NoLinks())
    with whole(tmp_path / "out") as made:
        made.write_text("result")
    assert snapshot(tmp_path) == {"out": b"result"}
    with pytest.raises(OutputError, match="File exists"):  # noqa: PT012, SIM117
        with whole(tmp_path / "other") as made:
            made.write_text("mine")
            (tmp_path / "other").write_text("theirs")
    assert (tmp_path / "other").read_text() == "theirs"


def test_overwriting_a_link_replaces_the_link_alone(tmp_path, snapshot):
    (tmp_path / "real").write_text("old")
    os.link(tmp_path / "real", tmp_path / "hard")
    for name, leads in (("soft", "real"), ("dangling", "nowhere")):
        (tmp_path / name).symlink_to(tmp_path / leads)
    for name in ("soft", "dangling", "hard"):
        with whole(tmp_path / name, overwrite=True) as made:
            made.write_text("new")
        assert not (tmp_path / name).is_symlink()
    expected = {"real": b"old", "hard": b"new", "soft": b"new", "dangling": b"new"}
    assert snapshot(tmp_path) == expected


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError(errno.ENOSPC, "full")])
def test_a_writer_that_breaks_off_leaves_what_was_there(tmp_path, error, snapshot):
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises((KeyboardInterrupt, RuntimeError, OutputError)):  # noqa: PT012, SIM117
        with whole(path, overwrite=True) as made:
            made.write_text("half")
            raise error
    assert snapshot(tmp_path) == {"out": b"old"}


def test_folders_made_for_a_result_that_failed_go_again(tmp_path, snapshot):
    (tmp_path / "there").mkdir()
    with pytest.raises(RuntimeError), outputs.parents_of(tmp_path / "there" / "a" / "b" / "out"):
        raise RuntimeError
    assert sorted(snapshot(tmp_path)) == ["there"]


# What killed makers left.

KILLED = """
import os, signal, sys
from pathlib import Path
from shortlist.outputs import temporary_in
for kind in ("file", "folder", "folder"):
    if os.fork() == 0:
        with temporary_in(Path(sys.argv[1]), kind) as made:
            (made / "big" if kind == "folder" else made).write_bytes(bytes(10_000))
            os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_killed_makers_left_goes_with_the_next_result_and_what_lives_stays(tmp_path):
    with temporary_in(tmp_path, "folder") as folder, temporary_in(tmp_path, "file") as file:
        done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
        assert done.returncode == -signal.SIGKILL
        # Each child has removed what the one before it left.
        assert len(names(tmp_path)) == 3
        (tmp_path / "tmp-mine").mkdir()
        (tmp_path / ("tmp-" + "0" * 32)).mkdir()  # not known to be ours
        with whole(tmp_path / "out") as made:
            made.write_text("")
        expected = {folder.name, file.name, "out", "tmp-mine", "tmp-" + "0" * 32}
        assert set(names(tmp_path)) == expected
    assert set(names(tmp_path)) == {"out", "tmp-mine", "tmp-" + "0" * 32}


def test_what_another_host_makes_stays_until_nobody_has_changed_it_for_a_day(tmp_path):
    # Its lock is free here, though it may live: not all shared disks share their locks.
    other = tmp_path / f"tmp-shortlist-{'0' * 8}-{'1' * 24}"
    link = tmp_path / f"tmp-shortlist-{'0' * 8}-{'2' * 24}"
    assert is_temporary(other.name)
    other.mkdir()
    (other / "file").write_text("")
    link.symlink_to("nowhere")
    check({"--out": Output(tmp_path / "out")})
    assert names(tmp_path) == [other.name, link.name]
    for path in (other, link):
        os.utime(path, (0, 0), follow_symlinks=False)
    check({"--out": Output(tmp_path / "out")})
    assert names(tmp_path) == [other.name]  # the file in it is new
    os.utime(other / "file", (0, 0))
    os.utime(other, (0, 0))
    check({"--out": Output(tmp_path / "out")})
    assert names(tmp_path) == []


def test_without_locks_only_a_day_without_a_change_tells(tmp_path, monkeypatch):
    class NoLocks:
        LOCK_EX = LOCK_NB = 0

        def flock(self, *_):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(outputs, "fcntl", NoLocks())
    left = tmp_path / outputs.temporary_name()
    left.mkdir()
    with whole(tmp_path / "out") as made:
        made.write_text("")
    assert left.exists()
    os.utime(left, (0, 0))
    check({"--out": Output(tmp_path / "other")})
    assert names(tmp_path) == ["out"]


def test_a_new_folder_that_is_taken_for_remains_is_made_anew(tmp_path, monkeypatch):
    real, taken = outputs._lock, []

    def swept_first(descriptor):
        if not taken:
            taken.append(next(tmp_path.iterdir()))
            taken[0].rmdir()
            return False
        return real(descriptor)

    monkeypatch.setattr(outputs, "_lock", swept_first)
    with temporary_in(tmp_path, "folder") as made:
        assert made != taken[0]
        assert made.is_dir()
    assert names(tmp_path) == []
