"""Which bundle is served, and that no request notices when another takes its place."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from patience import PATIENCE, wait_until
from shortlist.bundle.bundle import load, save
from shortlist.bundle.store import SEAL, verify
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.errors import BundleError
from shortlist.outputs import kept_name, temporary_name
from shortlist.serving.measures import Measures
from shortlist.serving.refused import check_path
from shortlist.serving.settings import Settings
from shortlist.serving.watching import Watch

SWAPS = int(os.environ.get("SHORTLIST_SWAPS", "15"))
"""How often the swap under load is made; a longer soak sets the variable."""
KILLS = int(os.environ.get("SHORTLIST_KILLS", "10"))
USERS = 40


@pytest.fixture(scope="module")
def factorised(split) -> TwoTower:
    """Ids alone on both sides, so that vectors can be turned in one place."""
    plain = {"history": "none", "user_features": [], "item_features": [], "user_id": True}
    return TwoTower(dim=8, epochs=1, batch_size=256, seed=4, **plain).fit(split)


@pytest.fixture(scope="module")
def versions(factorised, tmp_path_factory) -> list[Path]:
    """Bundles in rotations of their own, of users and items alike, with items changed about.

    A user vector of one among item vectors of another gives other items; so does another version.
    """
    folder = tmp_path_factory.mktemp("versions")
    save(factorised, folder / "base")
    paths = []
    for number in range(5):
        model = load(folder / "base").retriever
        generator = torch.Generator().manual_seed(number)
        turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator))
        with torch.no_grad():
            user, item = model.towers.query.id.weight, model.towers.item.id.weight
            order = torch.randperm(len(item) - 1, generator=generator) + 1
            item[1:] = item[order]
            user.copy_(user @ turn)
            item.copy_(item @ turn)
        model.place_items()
        paths.append(folder / f"v{number}")
        save(model, paths[-1])
    return paths


@pytest.fixture
def watch(tmp_path) -> Watch:
    (tmp_path / "bundles").mkdir()
    return Watch(tmp_path / "bundles", Measures())


def place(source: Path, target: Path) -> None:
    """Let a bundle appear as `publish` does: whole."""
    shutil.copytree(source, target.parent / f"tmp-{os.urandom(16).hex()}")
    newest = max(target.parent.glob("tmp-*"), key=lambda path: path.stat().st_mtime_ns)
    if target.exists():
        target.rename(target.parent / f"tmp-{os.urandom(16).hex()}")
    newest.rename(target)


def served(watch: Watch) -> str | None:
    return None if watch.current is None else watch.current.directory.name


def loads(watch: Watch, outcome: str) -> float:
    found = watch.measures.registry.get_sample_value(
        "shortlist_bundle_loads_total", {"outcome": outcome}
    )
    return found or 0.0


def test_the_last_by_name_is_served_and_numbers_count_as_numbers(watch, versions):
    place(versions[0], watch.path / "r9")
    place(versions[1], watch.path / "r10")
    (watch.path / "r11").mkdir()  # no bundle yet
    (watch.path / "r12.txt").write_text("no bundle at all")
    for aside in (f"tmp-{'a' * 32}", temporary_name(), kept_name(watch.path / "r12")):
        shutil.copytree(versions[2], watch.path / aside)  # not published
    assert watch.look()
    assert served(watch) == "r10"
    assert not watch.look()
    place(versions[3], watch.path / "r10.1")
    assert watch.look()
    assert served(watch) == "r10.1"
    assert watch.refused == ()


def test_a_bundle_published_over_the_served_one_takes_its_place(versions, tmp_path):
    place(versions[0], tmp_path / "bundle")
    watch = Watch(tmp_path / "bundle", Measures())
    watch.look()
    before = watch.current.id
    place(versions[1], tmp_path / "bundle")
    assert watch.look()
    assert watch.current.id != before
    assert watch.current.id == verify(versions[1]).id


def test_an_older_one_comes_back_only_when_the_newest_stays_away(watch, versions):
    place(versions[0], watch.path / "v1")
    place(versions[1], watch.path / "v2")
    watch.look()
    away = watch.path.parent / "away"
    (watch.path / "v2").rename(away)
    assert not watch.look()  # as in the moment in which it is replaced
    away.rename(watch.path / "v2")
    assert not watch.look()
    shutil.rmtree(watch.path / "v2")
    assert [watch.look(), watch.look()] == [False, True]
    assert served(watch) == "v1"


FILES = ["item_vectors", "towers", "log.parquet", "manifest.json", SEAL]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_bundle_changes_nothing_and_is_told_once(watch, versions, file):
    place(versions[0], watch.path / "v1")
    watch.look()
    before = watch.current
    place(versions[1], watch.path / "v2")
    flip(next(p for p in sorted((watch.path / "v2").iterdir()) if p.name.startswith(file)))
    for _ in range(3):
        assert not watch.look()
    assert watch.current is before
    assert [refused.name for refused in watch.refused] == ["v2"]
    assert str(watch.path) not in watch.refused[0].reason
    assert loads(watch, "refused") == 1
    shutil.rmtree(watch.path / "v2")
    shutil.copytree(versions[1], watch.path / "v2")  # repaired: the seal it was refused with
    assert watch.look(again=True)
    assert (served(watch), watch.refused) == ("v2", ())


ORDERS = {
    "by name": sorted,
    "the seal first": lambda names: sorted(names, key=lambda name: name != SEAL),
    "the seal last": lambda names: sorted(names, key=lambda name: name == SEAL),
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_bundle_that_arrives_slowly_is_served_when_it_is_whole(watch, versions, order):
    place(versions[0], watch.path / "v1")
    watch.look()
    target = watch.path / "v2"
    target.mkdir()
    for name in ORDERS[order](os.listdir(versions[1])):
        content = (versions[1] / name).read_bytes()
        # As rsync does it: under another name first, half of it, and a last touch when it is there.
        (target / f".{name}.x7Qz").write_bytes(content[: len(content) // 2])
        watch.look()
        (target / f".{name}.x7Qz").write_bytes(content)
        (target / f".{name}.x7Qz").rename(target / name)
        watch.look()
    assert served(watch) == "v2"
    assert watch.refused == ()


def test_a_bundle_whose_files_grow_where_they_lie_is_served_when_it_is_whole(watch, versions):
    (watch.path / "v1").mkdir()
    for name in sorted(os.listdir(versions[1]), key=lambda name: name != SEAL):
        content = (versions[1] / name).read_bytes()
        with (watch.path / "v1" / name).open("wb") as file:
            for part in (content[: len(content) // 2], content[len(content) // 2 :]):
                file.write(part)
                file.flush()
                watch.look()
    assert served(watch) == "v1"
    assert watch.refused == ()


def test_files_replaced_one_by_one_under_the_served_name_end_in_the_new_bundle(watch, versions):
    place(versions[0], watch.path / "v1")
    watch.look()
    known = {verify(path).id for path in versions[:2]}
    for name in sorted(os.listdir(versions[1])):
        (watch.path / "v1" / ".partial").write_bytes((versions[1] / name).read_bytes())
        watch.look()
        (watch.path / "v1" / ".partial").rename(watch.path / "v1" / name)
        watch.look()
        assert watch.current.id in known
    assert watch.current.id == verify(versions[1]).id
    assert watch.refused == ()


def test_a_bundle_is_tried_again_when_its_permissions_change(watch, versions):
    def read(path):
        if (path / "log.parquet").stat().st_mode & 0o444 == 0:
            raise BundleError("cannot read it: Permission denied")  # also where root runs this
        return load(path)

    watch._read = read
    place(versions[0], watch.path / "v1")
    (watch.path / "v1" / "log.parquet").chmod(0)
    assert [watch.look(), watch.look()] == [False, False]
    assert loads(watch, "refused") == 1
    (watch.path / "v1" / "log.parquet").chmod(0o644)
    assert watch.look()
    assert watch.refused == ()


def test_a_seal_that_cannot_be_read_is_told_and_holds_up_nothing(watch, versions, monkeypatch):
    place(versions[0], watch.path / "v1")
    place(versions[1], watch.path / "v2")
    (watch.path / "v2" / SEAL).unlink()
    (watch.path / "v2" / SEAL).mkdir()  # what reads it meets an error other than "not there"
    assert watch.look()
    assert served(watch) == "v1"
    assert [refused.name for refused in watch.refused] == ["v2"]


def test_a_directory_without_a_bundle_is_told_once(watch, caplog):
    watch.start(0.001)
    wait_until(lambda: "there is no bundle in bundles yet" in caplog.text)
    watch.stop()
    assert caplog.text.count("there is no bundle") == 1


def test_an_empty_directory_may_become_a_bundle(versions, tmp_path):
    watch = Watch(tmp_path, Measures())
    assert not watch.look()
    for name in sorted(os.listdir(versions[0])):
        shutil.copy(versions[0] / name, tmp_path / name)
        watch.look()
    assert watch.current.id == verify(versions[0]).id
    shutil.copytree(versions[1], tmp_path, dirs_exist_ok=True)
    assert watch.look()
    assert watch.current.id == verify(versions[1]).id


@pytest.mark.parametrize("name", [b"5\xc2\xb2", b"\xff", b"v\n2", b"\xe2\x91\xa0", b"1" * 200])
def test_no_name_of_a_folder_stops_the_others(versions, open_app, make_client, tmp_path, name):
    strange = tmp_path / os.fsdecode(name)
    strange.mkdir()
    (strange / SEAL).write_text("not a bundle")
    place(versions[0], tmp_path / "zz1")
    client = make_client(open_app(tmp_path))
    assert served(client.app.watch) == "zz1"
    strange.rename(tmp_path / os.fsdecode(b"zz2" + name))
    place(versions[1], tmp_path / "zz10000")
    client.app.watch.look()
    place(versions[2], tmp_path / os.fsdecode(b"zzz" + name))
    client.app.watch.look()
    said = client.get("/v1/bundle").json
    if name == b"\xff":  # safetensors opens no such file: it is refused, and the last one stays
        assert str(tmp_path) not in said["refused"][0]["reason"]
    assert said["bundle"] == verify(versions[1 if name == b"\xff" else 2]).id
    assert said["name"].isprintable()


def test_a_served_file_that_is_changed_in_place_is_told_once(watch, versions, caplog):
    place(versions[0], watch.path / "v1")
    watch.look()
    (watch.path / "v1" / "surplus").write_text("nothing that is mapped")
    watch.look()
    assert "in place" not in caplog.text
    with (watch.path / "v1" / "log.parquet").open("ab") as file:
        file.write(b"more")
    for _ in range(3):
        assert not watch.look()
    assert caplog.text.count("log.parquet of the served bundle v1 was changed in place") == 1


def test_the_next_older_is_served_where_the_newest_is_bad_from_the_start(watch, versions):
    place(versions[0], watch.path / "v1")
    place(versions[1], watch.path / "v2")
    (watch.path / "v2" / "surplus").write_text("not listed")
    assert watch.look()
    assert (served(watch), len(watch.refused)) == ("v1", 1)


class Unsound:
    """A retriever whose answers nobody should get."""

    def __init__(self, inner, score: float, empty: bool) -> None:
        self.inner, self.score, self.empty = inner, score, empty
        self.data = inner.data

    def recommend(self, queries, k):
        found = self.inner.recommend(queries, k)
        found.scores[:, -1] = self.score
        if self.empty:
            found.rows[:] = -1
        return found


@pytest.mark.parametrize(("score", "empty"), [(np.nan, False), (np.inf, False), (1.0, True)])
def test_a_bundle_whose_answers_are_unsound_is_refused(split, watch, versions, score, empty):
    place(versions[0], watch.path / "v1")
    watch.look()
    before = watch.current

    def read(path):
        retriever = Unsound(Popular().fit(split), score, empty)
        manifest = SimpleNamespace(fields={"retriever": "unsound"})
        return SimpleNamespace(retriever=retriever, manifest=manifest, id="x", metrics=None)

    watch._read = read
    place(versions[1], watch.path / "v2")
    assert not watch.look()
    assert watch.current is before
    assert "self-test" in watch.refused[0].reason


def test_an_accident_while_loading_is_a_refusal_without_internals(watch, versions):
    def read(path):
        raise ZeroDivisionError("secret internals")

    watch._read = read
    place(versions[0], watch.path / "v1")
    assert not watch.look()
    assert watch.refused[0].reason == "it cannot be loaded (ZeroDivisionError)"


def test_what_is_replaced_while_it_is_read_is_not_taken(watch, versions):
    def read(path):
        bundle = load(path)
        place(versions[1], watch.path / "v1")
        return bundle

    watch._read = read
    place(versions[0], watch.path / "v1")
    assert not watch.look()
    watch._read = load
    assert watch.look()
    assert watch.current.id == verify(versions[1]).id


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BundleError, match="nothing to serve"):
        check_path(tmp_path / "nothing")


def test_a_look_that_fails_does_not_end_the_watch(watch, versions, monkeypatch):
    place(versions[0], watch.path / "v1")
    looked, look = [], watch.look

    def fail_first():
        looked.append(1)
        if len(looked) == 1:
            raise MemoryError
        return look()

    monkeypatch.setattr(watch, "look", fail_first)
    watch.start(0.01)
    wait_until(lambda: watch.current is not None)
    watch.stop()


def test_an_administrator_can_have_it_looked_now(versions, open_app, make_client, tmp_path):
    place(versions[0], tmp_path / "v1")
    app = open_app(tmp_path, Settings(admin_token="admin-admin-admin-admin"))
    client = make_client(app, "admin-admin-admin-admin")
    place(versions[1], tmp_path / "v2")
    said = client.post("/admin/reload").json
    assert said == {"bundle": verify(versions[1]).id, "changed": True, "refused": []}
    place(versions[2], tmp_path / "v3")
    flip(tmp_path / "v3" / "log.parquet")
    said = client.post("/admin/reload").json
    assert (said["changed"], [refused["name"] for refused in said["refused"]]) == (False, ["v3"])
    assert client.get("/readyz").status == 200


def test_swaps_under_load_lose_no_request_and_never_mix_versions(
    versions, running, factorised, tmp_path
):
    users = factorised.data.users.ids.head(USERS).to_list()
    oracle = {}
    for path in versions:
        bundle = load(path)
        oracle[bundle.id] = bundle.retriever.recommend(users, 10).ids
    lists = {str(answer) for answer in oracle.values()}
    assert len(lists) == len(versions)  # or a mix could hide

    damaged = tmp_path.parent / f"{tmp_path.name}-damaged"
    shutil.copytree(versions[0], damaged)
    flip(damaged / "log.parquet")
    place(versions[0], tmp_path / "v000000")
    seen, wrong, stop = set(), [], Event()
    with running(tmp_path, Settings(poll=0.02)) as server:
        wait_until(lambda: server.app.watch.current is not None)

        def load_it():
            while not stop.is_set():
                said = server.post("/v1/recommend", {"users": users, "k": 10})
                if said.status != 200 or said.json["items"] != oracle[said.json["bundle"]]:
                    wrong.append(said)
                    return
                seen.add(said.json["bundle"])

        clients = [Thread(target=load_it) for _ in range(2)]
        for thread in clients:
            thread.start()
        for number in range(1, SWAPS + 1):
            if number % 5 == 0:  # a bad one first, damaged before it appears
                bad = f"v{number:06}.bad"
                place(damaged, tmp_path / bad)
                wait_until(lambda name=bad: any(r.name == name for r in server.app.watch.refused))
            place(versions[number % len(versions)], tmp_path / f"v{number:06}")
            wait_until(lambda name=f"v{number:06}": served(server.app.watch) == name)
            wait_until(lambda new=server.app.watch.current.id: wrong or new in seen)
        stop.set()
        for thread in clients:
            thread.join(PATIENCE)
        wait_until(lambda: loads(server.app.watch, "served") == SWAPS + 1)
        assert loads(server.app.watch, "refused") == SWAPS // 5
    assert wrong == []
    assert seen == set(oracle)


PUBLISHER = """
import os, signal, sys
from pathlib import Path
from shortlist.bundle.store import publish, verify
found = [verify(Path(path)) for path in sys.argv[2:]]
whole = [({name: each.read(name) for name in each.files}, each.fields) for each in found]
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    if publisher := os.fork():
        sys.stdout.write(f"{publisher}\\n"); sys.stdout.flush()
        continue
    for number in range(int(line), 10**9):
        publish(Path(sys.argv[1]) / f"v{number}", *whole[number % len(whole)])
"""


def test_a_publisher_that_is_killed_leaves_the_old_or_the_new_whole(versions, tmp_path):
    place(versions[0], tmp_path / "v0")
    known = {verify(path).id for path in versions}
    newest = 0
    command = [sys.executable, "-c", PUBLISHER, str(tmp_path), *map(str, versions[:2])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as starter:
        for number in range(KILLS):
            starter.stdin.write(f"{newest + 1}\n")
            starter.stdin.flush()
            publisher = int(starter.stdout.readline())
            wait_until((tmp_path / f"v{newest + 1}").exists)
            time.sleep(0.037 * number % 0.1)  # at some point of what it does next
            os.kill(publisher, signal.SIGKILL)
            wait_until(lambda pid=publisher: not Path(f"/proc/{pid}/cmdline").exists())
            watch = Watch(tmp_path, Measures())  # as after a restart
            assert watch.look()
            assert watch.refused == ()
            assert watch.current.id in known
            newest = int(served(watch).removeprefix("v"))
        starter.stdin.close()
    assert newest >= KILLS


OVERWRITER = PUBLISHER.replace(
    'publish(Path(sys.argv[1]) / f"v{number}", *whole[number % len(whole)])',
    "publish(Path(sys.argv[1]), *whole[number % len(whole)], overwrite=True)",
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no exchange of directories")
def test_an_overwriter_that_is_killed_leaves_a_whole_bundle_and_no_moment_without(
    versions, tmp_path
):
    path, missing, stop = tmp_path / "bundle", [], Event()
    place(versions[0], path)
    known = {verify(each).id for each in versions}

    def look_for_it():
        while not stop.is_set():
            if not (path / SEAL).exists():
                missing.append(1)

    looker = Thread(target=look_for_it)
    looker.start()
    command = [sys.executable, "-c", OVERWRITER, str(path), *map(str, versions[:2])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as starter:
        for number in range(KILLS):
            starter.stdin.write("0\n")
            starter.stdin.flush()
            publisher = int(starter.stdout.readline())
            node = path.stat().st_ino
            wait_until(lambda before=node: path.stat().st_ino != before)  # it has overwritten once
            time.sleep(0.037 * number % 0.1)
            os.kill(publisher, signal.SIGKILL)
            wait_until(lambda pid=publisher: not Path(f"/proc/{pid}/cmdline").exists())
            assert verify(path).id in known
        starter.stdin.close()
    stop.set()
    looker.join(PATIENCE)
    assert missing == []
