"""A bundle is whole or absent, and is refused when a single bit of it has changed."""

import errno
import json
import os
import random
import re
import shutil
import sys
from itertools import count
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from shortlist import outputs
from shortlist.bundle import store
from shortlist.bundle.exchange import exchange
from shortlist.bundle.formats import dump_frame, dump_json, dump_tensors, map_tensors
from shortlist.bundle.store import FORMAT, LEFT_BY_DESKTOPS, MANIFEST, SEAL, publish, verify
from shortlist.errors import BundleError, OutputError, ShortlistError

VECTORS = torch.arange(6, dtype=torch.float32).reshape(2, 3)
CONTENT = {"words.json": dump_json({"答": [1.5, None]}), "vectors.safetensors": b"raw"}


def small_bundle(directory, **fields):
    return publish(directory, CONTENT, fields)


def reseal(directory, change):
    """Change the manifest as an attacker or a newer version could: with a seal that fits."""
    content = json.loads((directory / MANIFEST).read_bytes())
    change(content)
    text = dump_json(content)
    (directory / MANIFEST).write_bytes(text)
    (directory / SEAL).write_bytes(store._seal(store.hashlib.sha256(text).hexdigest()))


def names_beside(directory):
    return sorted(path.name for path in directory.parent.iterdir())


class FaultyDisk:
    """The `os` module, but one counted call, or every one from it on, fails."""

    def __init__(self, fails_at, forever=False, code=errno.ENOSPC, actions=None):
        self.calls, self.fails_at, self.forever, self.code = 0, fails_at, forever, code
        self.actions = actions or {"open", "write", "fsync", "rename", "mkdir", "makedirs"}

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in self.actions:
            return real

        def counted(*arguments, **options):
            self.calls += 1
            if self.calls == self.fails_at or (self.forever and self.calls > self.fails_at):
                if name == "write":  # A full disk takes a part before it refuses.
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise OSError(self.code, os.strerror(self.code))
            return real(*arguments, **options)

        return counted


# What is published is what is read.


def test_what_was_published_is_what_is_read(tmp_path):
    files = {
        "vectors.safetensors": dump_tensors({"items": VECTORS.T, "ids": torch.tensor([2**53 + 1])}),
        "log.parquet": lambda path: path.write_bytes(dump_frame(pl.DataFrame({"user": ["ä", ""]}))),
        "settings.json": dump_json({"k": [1, 0.5, None, True, "片"]}),
    }
    bundle_id = publish(tmp_path / "parent" / "bundle", files, {"metrics": {"recall@10": 0.25}})
    manifest = verify(tmp_path / "parent" / "bundle")
    assert manifest.id == bundle_id
    assert manifest.format == FORMAT
    assert manifest.fields == {"metrics": {"recall@10": 0.25}}
    assert torch.equal(manifest.tensors("vectors.safetensors")["items"], VECTORS.T)
    assert manifest.tensors("vectors.safetensors")["ids"].item() == 2**53 + 1
    assert manifest.frame("log.parquet")["user"].to_list() == ["ä", ""]
    assert manifest.json("settings.json") == {"k": [1, 0.5, None, True, "片"]}


def test_a_tensor_file_is_one_that_the_library_reads_and_large_tensors_begin_at_64_bytes(tmp_path):
    tensors = {
        "odd": torch.arange(3, dtype=torch.uint8),
        "ids": torch.arange(5),
        "vectors": torch.randn(64, 3),
        "halves": torch.ones(3, dtype=torch.bfloat16),
        "flag": torch.tensor([True]),
        "none": torch.empty(0, 7),
        "number": torch.tensor(2.5, dtype=torch.float64),
    }
    path = tmp_path / "some.safetensors"
    path.write_bytes(dump_tensors(tensors))
    for read in (load_file(path), map_tensors(path)):
        assert set(read) == set(tensors)
        for name, tensor in tensors.items():
            assert read[name].dtype == tensor.dtype
            assert torch.equal(read[name], tensor)
    assert map_tensors(path)["vectors"].data_ptr() % 64 == 0


def test_what_is_written_to_a_mapped_tensor_stays_in_memory(tmp_path):
    files = {"some.safetensors": dump_tensors({"ones": torch.ones(1000)})}
    publish(tmp_path / "bundle", files, {})
    tensor = verify(tmp_path / "bundle").tensors("some.safetensors")["ones"]
    tensor[:] = 7
    assert (verify(tmp_path / "bundle").tensors("some.safetensors")["ones"] == 1).all()


def test_mapped_tensors_outlive_the_bundle_they_came_from(tmp_path):
    def files(value):
        return {"some.safetensors": dump_tensors({"x": torch.full((100_000,), value)})}

    publish(tmp_path / "bundle", files(1.0), {})
    tensor = verify(tmp_path / "bundle").tensors("some.safetensors")["x"]
    publish(tmp_path / "bundle", files(2.0), {}, overwrite=True)
    assert (tensor == 1).all()


def test_a_file_replaced_between_the_check_and_the_map_is_refused(tmp_path, monkeypatch):
    files = {"some.safetensors": dump_tensors({"x": torch.ones(10)})}
    publish(tmp_path / "bundle", files, {})
    path = tmp_path / "bundle" / "some.safetensors"
    manifest = verify(tmp_path / "bundle")

    def replaced(mapped):
        other = tmp_path / "other"
        other.write_bytes(dump_tensors({"x": torch.zeros(10)}))
        other.rename(mapped)
        return map_tensors(mapped)

    monkeypatch.setattr(store, "map_tensors", replaced)
    with pytest.raises(BundleError, match="replaced while it was read"):
        manifest.tensors(path.name)


def test_equal_content_has_an_equal_id_and_any_other_content_another(tmp_path):
    first = small_bundle(tmp_path / "a", seed=1)
    assert small_bundle(tmp_path / "b", seed=1) == first
    assert small_bundle(tmp_path / "c", seed=2) != first
    assert publish(tmp_path / "d", CONTENT | {"words.json": b"1"}, {"seed": 1}) != first


def test_the_seal_is_one_that_sha256sum_reads(tmp_path):
    bundle_id = small_bundle(tmp_path / "bundle")
    assert (tmp_path / "bundle" / SEAL).read_text() == f"{bundle_id}  manifest.json\n"


def test_files_can_be_read_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        small_bundle(tmp_path / "bundle")
    finally:
        os.umask(before)
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "bundle" / MANIFEST).stat().st_mode & 0o777 == 0o644


# Publishing: all or nothing.


@pytest.mark.parametrize("there", ["bundle", "empty", "file", "dangling link"])
def test_a_path_that_exists_is_refused_and_left_alone(tmp_path, there):
    target = tmp_path / "bundle"
    if there == "bundle":
        small_bundle(target)
    elif there == "empty":
        target.mkdir()
    elif there == "file":
        target.write_text("mine")
    else:
        target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match=r"bundle exists already.* give another path, or "):
        small_bundle(target)
    assert names_beside(target) == ["bundle"]


def test_overwriting_replaces_a_bundle_whole(tmp_path):
    small_bundle(tmp_path / "bundle", seed=1)
    new = publish(tmp_path / "bundle", {"other.json": b"{}"}, {"seed": 2}, overwrite=True)
    assert verify(tmp_path / "bundle").id == new
    assert names_beside(tmp_path / "bundle") == ["bundle"]


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("leads_to", ["bundle", "nothing"])
def test_overwriting_a_link_replaces_the_link_and_leaves_what_it_leads_to(
    tmp_path, monkeypatch, leads_to, exchanges
):
    if not exchanges:
        monkeypatch.setattr(store, "exchange", lambda one, other: False)
    real, target = tmp_path / "real", tmp_path / "target"
    old = small_bundle(real, age="old") if leads_to == "bundle" else None
    target.symlink_to(real)
    new = publish(target, CONTENT, {"age": "new"}, overwrite=True)
    assert not target.is_symlink()
    assert verify(target).id == new
    if leads_to == "bundle":
        assert verify(real).id == old
    assert names_beside(target) == (["real", "target"] if leads_to == "bundle" else ["target"])


@pytest.mark.parametrize("there", ["photos", "file", "link to photos"])
def test_overwriting_refuses_what_is_not_a_bundle(tmp_path, there):
    target = tmp_path / "target"
    if there == "photos":
        target.mkdir()
        (target / MANIFEST).write_text("{}")
    elif there == "file":
        target.write_text("mine")
    else:
        (tmp_path / "photos").mkdir()
        target.symlink_to(tmp_path / "photos")
    with pytest.raises(OutputError, match="is not a bundle, so it is not overwritten"):
        publish(target, CONTENT, {}, overwrite=True)
    assert target.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_writer_that_breaks_off_leaves_no_trace(tmp_path, error, overwrite):
    if overwrite:
        old = small_bundle(tmp_path / "bundle")

    def breaks_off(path):
        path.write_bytes(b"half")
        raise error

    with pytest.raises(error):
        publish(tmp_path / "bundle", CONTENT | {"last": breaks_off}, {}, overwrite=overwrite)
    assert names_beside(tmp_path / "bundle") == (["bundle"] if overwrite else [])
    if overwrite:
        assert verify(tmp_path / "bundle").id == old


@pytest.fixture
def two_renames(monkeypatch):
    """A system that cannot exchange directories."""
    monkeypatch.setattr(store, "exchange", lambda one, other: False)


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_whichever_call_fails_the_old_bundle_stays_and_no_half_one_appears(
    tmp_path, monkeypatch, overwrite, code, exchanges
):
    directory = tmp_path / "bundle"
    old = small_bundle(directory, age="old") if overwrite else None
    files = CONTENT | {"by-hand": lambda path: path.write_bytes(b"x" * 100)}
    refusals = []
    for fails_at in count(1):
        disk = FaultyDisk(fails_at, code=code)
        monkeypatch.setattr(store, "os", disk)
        monkeypatch.setattr(outputs, "os", disk)
        if not exchanges:
            monkeypatch.setattr(store, "exchange", lambda one, other: False)
        new = None
        try:
            new = publish(directory, files, {"age": "new"}, overwrite=overwrite)
        except ShortlistError as error:
            refusals.append(str(error))
        finally:
            monkeypatch.undo()
        if disk.calls < fails_at:
            break
        if new is not None:  # publishing can do without this call
            assert verify(directory).id == new
            shutil.rmtree(directory)
            old = small_bundle(directory, age="old") if overwrite else None
        assert names_beside(directory) == (["bundle"] if overwrite else [])
        if overwrite:
            assert verify(directory).id == old
    # At least: make the folder; open, write and sync 5 files; sync it; rename; sync the parent.
    assert len(refusals) >= 15
    assert all(os.strerror(code) in text and str(tmp_path) in text for text in refusals)
    assert verify(directory).id == new


def test_a_disk_that_stays_full_leaves_the_old_bundle(tmp_path, monkeypatch):
    directory = tmp_path / "bundle"
    old = small_bundle(directory, age="old")
    for fails_at in range(1, 11):
        disk = FaultyDisk(fails_at, forever=True, actions={"write", "fsync"})
        monkeypatch.setattr(store, "os", disk)
        monkeypatch.setattr(outputs, "os", disk)
        with pytest.raises(BundleError):
            publish(directory, CONTENT, {"age": "new"}, overwrite=True)
        monkeypatch.undo()
        assert verify(directory).id == old
        assert names_beside(directory) == ["bundle"]


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_them_all(tmp_path, monkeypatch):
    disk = FaultyDisk(fails_at=0)
    disk.write = lambda descriptor, data: os.write(descriptor, data[:3])
    monkeypatch.setattr(store, "os", disk)
    small_bundle(tmp_path / "bundle")
    monkeypatch.undo()
    assert verify(tmp_path / "bundle").read("words.json") == CONTENT["words.json"]


@pytest.mark.parametrize("renames", [1, 2])
def test_ctrl_c_between_two_renames_puts_the_old_bundle_back(
    tmp_path, monkeypatch, renames, two_renames
):
    directory = tmp_path / "bundle"
    old = small_bundle(directory, age="old")
    done = 0

    def interrupted(source, target):
        nonlocal done
        os.rename(source, target)
        done += 1
        if done == renames:
            raise KeyboardInterrupt

    disk = FaultyDisk(fails_at=0)
    disk.rename = interrupted
    monkeypatch.setattr(store, "os", disk)
    with pytest.raises(KeyboardInterrupt):
        publish(directory, CONTENT, {"age": "new"}, overwrite=True)
    monkeypatch.undo()
    assert verify(directory).id == old
    assert names_beside(directory) == ["bundle"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("done", [True, False])
def test_what_breaks_off_at_the_exchange_puts_the_old_bundle_back(
    tmp_path, monkeypatch, error, done
):
    directory = tmp_path / "bundle"
    old = small_bundle(directory, age="old")

    def interrupted(one, other):
        monkeypatch.setattr(store, "exchange", exchange)
        if done:
            exchange(one, other)
        raise error

    monkeypatch.setattr(store, "exchange", interrupted)
    with pytest.raises((BundleError, KeyboardInterrupt)):
        publish(directory, CONTENT, {"age": "new"}, overwrite=True)
    assert verify(directory).id == old
    assert names_beside(directory) == ["bundle"]


def test_without_an_exchange_overwriting_takes_two_renames(tmp_path, two_renames):
    small_bundle(tmp_path / "bundle", age="old")
    new = publish(tmp_path / "bundle", CONTENT, {"age": "new"}, overwrite=True)
    assert verify(tmp_path / "bundle").id == new
    assert names_beside(tmp_path / "bundle") == ["bundle"]


def test_two_paths_change_places_or_stay(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    (one / "file").write_text("of one")
    other.mkdir()
    assert exchange(one, other) == sys.platform.startswith("linux")
    assert (other if sys.platform.startswith("linux") else one).joinpath("file").exists()
    if sys.platform.startswith("linux"):
        with pytest.raises(FileNotFoundError):
            exchange(one, tmp_path / "nowhere")


def test_a_folder_left_by_a_killed_publisher_is_no_bundle_and_in_nobodys_way(tmp_path):
    small_bundle(tmp_path / "whole")
    (tmp_path / "whole").rename(tmp_path / ("tmp-" + "0" * 32))
    with pytest.raises(BundleError, match="was never published"):
        verify(tmp_path / ("tmp-" + "0" * 32))
    small_bundle(tmp_path / "bundle")
    verify(tmp_path / "bundle")
    with pytest.raises(OutputError, match="kept for unfinished results"):
        small_bundle(tmp_path / ("tmp-" + "1" * 32))


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a..b", "a/b", "/etc/passwd", "..\\x", "%2e%2e"),
        *("nul\0", "é", "a b", "a\n", "x" * 129, MANIFEST, SEAL),
    ],
)
def test_a_name_that_could_leave_the_bundle_is_refused(tmp_path, name):
    with pytest.raises(BundleError, match="cannot hold a file named"):
        publish(tmp_path / "bundle", {name: b""}, {})
    small_bundle(tmp_path / "crafted")
    reseal(tmp_path / "crafted", lambda m: m["files"].update({name: m["files"]["words.json"]}))
    with pytest.raises(BundleError, match="cannot hold a file named"):
        verify(tmp_path / "crafted")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, "\ud800"])
def test_a_manifest_that_json_cannot_hold_is_refused_and_nothing_is_left(tmp_path, value):
    with pytest.raises(BundleError, match="cannot be stored as JSON"):
        publish(tmp_path / "bundle", CONTENT, {"value": [value]})
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_field_of_the_formats_own_is_refused(tmp_path):
    with pytest.raises(BundleError, match="own field 'files'"):
        publish(tmp_path / "bundle", CONTENT, {"files": {}})


def test_a_manifest_too_large_to_be_read_again_is_not_written(tmp_path):
    with pytest.raises(BundleError, match="put the large field in a file"):
        publish(tmp_path / "bundle", CONTENT, {"value": "x" * 2**24})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "folder", "nothing", "two files"])
def test_a_writer_that_leaves_anything_but_its_file_is_refused(tmp_path, kind):
    def writes(path):
        if kind == "link":
            path.symlink_to("/etc/hostname")
        elif kind == "folder":
            path.mkdir()
        elif kind == "two files":
            path.write_bytes(b"")
            path.with_name("other").write_bytes(b"")

    with pytest.raises(BundleError, match=r"file|other"):
        publish(tmp_path / "bundle", {"file": writes}, {})
    assert list(tmp_path.iterdir()) == []


# Verifying: every byte, before any parser.


def damaged_copies(directory, tmp_path):
    """Yield (file, offer): offer(bytes) refuses or accepts the bundle with that file so."""
    victim = tmp_path / "victim"
    shutil.copytree(directory, victim)
    for path in sorted(victim.iterdir()):
        intact = path.read_bytes()
        yield path, intact
        path.write_bytes(intact)
    verify(victim)


def test_every_truncation_is_refused_with_the_files_name(tmp_path, monkeypatch):
    small_bundle(tmp_path / "bundle", note="x")
    parsed = []

    def parse(data, name):
        parsed.append(data)
        return json.loads(data)

    monkeypatch.setattr(store, "load_json", parse)
    cases = 0
    for path, intact in damaged_copies(tmp_path / "bundle", tmp_path):
        for length in range(len(intact)):
            path.write_bytes(intact[:length])
            with pytest.raises(BundleError) as refusal:
                verify(path.parent)
            assert path.name in str(refusal.value)
            cases += 1
    assert cases == sum(path.stat().st_size for path in (tmp_path / "bundle").iterdir())
    # No parser ever saw a damaged byte.
    assert set(parsed) == {(tmp_path / "bundle" / MANIFEST).read_bytes()}


def test_a_flipped_bit_is_refused_with_the_files_name(tmp_path):
    small_bundle(tmp_path / "bundle", note="x")
    chance = random.Random(20)
    flips = 0
    for path, intact in damaged_copies(tmp_path / "bundle", tmp_path):
        for _ in range(50):
            damaged = bytearray(intact)
            damaged[chance.randrange(len(intact))] ^= 1 << chance.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises(BundleError) as refusal:
                verify(path.parent)
            assert path.name in str(refusal.value)
            assert refusal.value.exit_code == 3
            flips += 1
    assert flips == 200


def test_a_file_that_grew_is_refused(tmp_path):
    small_bundle(tmp_path / "bundle")
    for path, intact in damaged_copies(tmp_path / "bundle", tmp_path):
        path.write_bytes(intact + b"\n")
        with pytest.raises(BundleError, match=path.name):
            verify(path.parent)


def test_no_file_is_read_while_another_is_not_whole(tmp_path, monkeypatch):
    small_bundle(tmp_path / "bundle")
    read = []
    monkeypatch.setattr(store, "_digest", lambda file: read.append(file.name))
    for name in CONTENT:
        path = tmp_path / "bundle" / name
        intact = path.read_bytes()
        path.write_bytes(intact[:-1])
        with pytest.raises(BundleError, match=f"{name} has {len(intact) - 1} bytes"):
            verify(tmp_path / "bundle")
        path.write_bytes(intact)
    assert read == []


@pytest.mark.parametrize("name", [*CONTENT, MANIFEST, SEAL])
def test_a_missing_file_is_refused_by_name(tmp_path, name):
    small_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        verify(tmp_path / "bundle")


@pytest.mark.parametrize("name", ["extra.json", ".DS_Store2", "thumbs", "tmp-x"])
def test_an_unknown_file_is_refused_by_name(tmp_path, name):
    small_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / name).write_bytes(b"")
    with pytest.raises(BundleError, match=f"{name} does not belong"):
        verify(tmp_path / "bundle")


def test_what_a_file_manager_left_is_ignored_and_never_opened(tmp_path, monkeypatch):
    bundle_id = small_bundle(tmp_path / "bundle")
    left = {*LEFT_BY_DESKTOPS, "._.DS_Store", *(f"._{name}" for name in [*CONTENT, MANIFEST])}
    for name in left:
        (tmp_path / "bundle" / name).write_bytes(b"junk")
    opened, really = [], os.open
    spy = lambda path, *more: opened.append(Path(path).name) or really(path, *more)  # noqa: E731
    monkeypatch.setattr(os, "open", spy)
    manifest = verify(tmp_path / "bundle")
    assert manifest.id == bundle_id
    assert left.isdisjoint([*opened, *manifest.files])
    assert {MANIFEST, SEAL, *CONTENT} == set(opened)
    publish(tmp_path / "bundle", CONTENT, {}, overwrite=True)
    assert left.isdisjoint(os.listdir(tmp_path / "bundle"))


@pytest.mark.parametrize("name", [".DS_Store", f"._{MANIFEST}"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to(MANIFEST)])
def test_only_a_regular_file_passes_as_left_by_a_file_manager(tmp_path, make, name):
    small_bundle(tmp_path / "bundle")
    make(tmp_path / "bundle" / name)
    with pytest.raises(BundleError, match=f"{re.escape(name)} does not belong"):
        verify(tmp_path / "bundle")


def test_a_bundle_cannot_hold_a_file_that_a_file_manager_would_write_over(tmp_path):
    with pytest.raises(BundleError, match=r"cannot hold a file named 'Thumbs\.db'"):
        publish(tmp_path / "bundle", {"Thumbs.db": b""}, {})
    with pytest.raises(BundleError, match=r"cannot hold a file named '\._a'"):
        publish(tmp_path / "bundle", {"._a": b""}, {})
    small_bundle(tmp_path / "bundle")
    entry = {"size": 0, "sha256": "0" * 64}
    reseal(tmp_path / "bundle", lambda content: content["files"].update({".DS_Store": entry}))
    with pytest.raises(BundleError, match=r"cannot hold a file named '\.DS_Store'"):
        verify(tmp_path / "bundle")


def test_where_a_guard_of_the_disk_is_missing_nothing_is_read_or_written(tmp_path, monkeypatch):
    """Windows has no O_NOFOLLOW: a bundle there is refused in words, not read without the guard."""
    small_bundle(tmp_path / "bundle")
    monkeypatch.delattr(os, "O_NOFOLLOW")
    for use in (lambda: verify(tmp_path / "bundle"), lambda: small_bundle(tmp_path / "new")):
        with pytest.raises(ShortlistError, match="on Windows, run it inside WSL"):
            use()
    assert names_beside(tmp_path / "bundle") == ["bundle"]


def test_two_swapped_files_are_refused_even_at_equal_size(tmp_path):
    publish(tmp_path / "bundle", {"a": b"1234", "b": b"5678"}, {})
    (tmp_path / "bundle" / "a").write_bytes(b"5678")
    (tmp_path / "bundle" / "b").write_bytes(b"1234")
    with pytest.raises(BundleError, match="bundle/a has other content"):
        verify(tmp_path / "bundle")


@pytest.mark.parametrize("name", [*CONTENT, MANIFEST, SEAL])
def test_a_file_of_another_bundle_is_refused(tmp_path, name):
    small_bundle(tmp_path / "bundle", seed=1)
    publish(tmp_path / "other", {file: data[::-1] for file, data in CONTENT.items()}, {"seed": 2})
    shutil.copy(tmp_path / "other" / name, tmp_path / "bundle" / name)
    with pytest.raises(BundleError, match=r"manifest\.json does not match|has other content"):
        verify(tmp_path / "bundle")


@pytest.mark.parametrize("name", [*CONTENT, MANIFEST, SEAL])
@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_a_link_a_folder_or_a_pipe_in_a_files_place_is_refused(tmp_path, name, kind):
    small_bundle(tmp_path / "bundle")
    path = tmp_path / "bundle" / name
    path.rename(tmp_path / "elsewhere")
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(BundleError, match=name):
        verify(tmp_path / "bundle")


def test_a_newer_format_is_refused_with_the_version_that_wrote_it(tmp_path):
    small_bundle(tmp_path / "bundle")

    def from_the_future(manifest):
        manifest.update(format=FORMAT + 1, created_by="shortlist 9.9.9", files="another form")

    reseal(tmp_path / "bundle", from_the_future)
    with pytest.raises(BundleError, match=rf"format {FORMAT + 1}, written by shortlist 9\.9\.9"):
        verify(tmp_path / "bundle")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 0},
        {"format": True},
        {"format": "1"},
        {"created_by": None},
        {"files": []},
        {"files": {"words.json": 3}},
        {"files": {"words.json": {"size": -1, "sha256": "0" * 64}}},
        {"files": {"words.json": {"size": True, "sha256": "0" * 64}}},
        {"files": {"words.json": {"size": 1, "sha256": "0" * 63}}},
        {"files": {"words.json": {"size": 1, "sha256": "0" * 64, "more": 1}}},
    ],
)
def test_a_crafted_manifest_is_refused_by_name(tmp_path, change):
    small_bundle(tmp_path / "bundle")
    reseal(tmp_path / "bundle", lambda manifest: manifest.update(change))
    with pytest.raises(BundleError, match=r"manifest\.json"):
        verify(tmp_path / "bundle")


@pytest.mark.parametrize(
    "text", [b"[]", b"[" * 10_000, b'{"a": NaN}', b'{"a": 1, "a": 2}', b'{"a": 1e999}', b"\xff"]
)
def test_a_manifest_that_is_not_strict_json_is_refused(tmp_path, text):
    small_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / MANIFEST).write_bytes(text)
    (tmp_path / "bundle" / SEAL).write_bytes(store._seal(store.hashlib.sha256(text).hexdigest()))
    with pytest.raises(BundleError, match=r"manifest\.json"):
        verify(tmp_path / "bundle")


def test_a_manifest_of_gigabytes_is_not_read(tmp_path):
    small_bundle(tmp_path / "bundle")
    with (tmp_path / "bundle" / MANIFEST).open("r+b") as file:
        file.truncate(2**40)  # A sparse file: no byte of it is on the disk.
    with pytest.raises(BundleError, match=r"manifest\.json is larger"):
        verify(tmp_path / "bundle")


@pytest.mark.parametrize("there", ["nothing", "file"])
def test_a_path_without_a_bundle_is_refused(tmp_path, there):
    if there == "file":
        (tmp_path / "bundle").write_text("")
    why = "it is a file" if there == "file" else "there is nothing"
    with pytest.raises(BundleError, match=f"there is no bundle at .*: {why}.* `shortlist train`"):
        verify(tmp_path / "bundle")


def test_whichever_read_fails_the_refusal_names_the_file(tmp_path, monkeypatch):
    small_bundle(tmp_path / "bundle")
    for fails_at in range(1, 5):
        disk = FaultyDisk(fails_at, code=errno.EIO, actions={"open"})
        monkeypatch.setattr(store, "os", disk)
        with pytest.raises(BundleError, match=rf"cannot read {tmp_path}/bundle/\S+: Input/output"):
            verify(tmp_path / "bundle")
        monkeypatch.undo()


# Reading: the bytes handed over are the bytes verified.


@pytest.mark.parametrize("way", ["read", "tensors"])
@pytest.mark.parametrize("data", [b"", b"other", b"raw and more", "one bit"])
def test_a_file_changed_after_it_was_verified_is_refused(tmp_path, data, way):
    tensors = dump_tensors({"a": torch.arange(24.0)})
    publish(tmp_path / "bundle", {"vectors.safetensors": tensors}, {})
    manifest = verify(tmp_path / "bundle")
    changed = tensors[:-1] + bytes([tensors[-1] ^ 1]) if data == "one bit" else data
    (tmp_path / "bundle" / "vectors.safetensors").write_bytes(changed)
    with pytest.raises(BundleError, match=r"vectors\.safetensors has"):
        getattr(manifest, way)("vectors.safetensors")


def test_a_file_the_bundle_does_not_have_is_refused_by_name(tmp_path):
    small_bundle(tmp_path / "bundle")
    with pytest.raises(BundleError, match=r"has no file towers\.safetensors"):
        verify(tmp_path / "bundle").read("towers.safetensors")


@pytest.mark.parametrize("data", [b"", b"PAR1", b"\0" * 64, b"\xff" * 200, b"PAR1" * 10])
def test_bytes_of_the_wrong_format_are_refused_by_name(tmp_path, data):
    publish(tmp_path / "bundle", {"file": data}, {})
    manifest = verify(tmp_path / "bundle")
    for read in (manifest.json, manifest.tensors, manifest.frame):
        with pytest.raises(BundleError, match="bundle/file is not"):
            read("file")


def test_a_relative_path_works_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_bundle(Path("bundle"))
    assert verify(Path("bundle")).directory == tmp_path / "bundle"
