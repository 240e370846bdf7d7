"""A list of items is an event for each of them; what does not fit is refused with its row."""

import polars as pl
import pytest

from shortlist.bundle.bundle import load, save
from shortlist.channels.counting.popular import Popular
from shortlist.data.dataset import Dataset
from shortlist.data.readers import read_log
from shortlist.data.schema import Schema
from shortlist.data.text import TextFormat
from shortlist.errors import DataError

SPACES = TextFormat(item_separator=" ")


def events(path, **more) -> list[tuple]:
    found = read_log(path, Schema(user="user", item="items", **more)).events
    return found.select("user", "item", *(["time"] if "time" in found.columns else [])).rows()


def test_lists_of_parquet_unfold_with_the_lists_beside_them(tmp_path):
    frame = pl.DataFrame(
        {"user": ["a", "b", "c"], "items": [[1, 2], [3], []], "t": [[9, 8], [5], []]}
    )
    frame.write_parquet(tmp_path / "log.parquet")
    assert events(tmp_path / "log.parquet", time="t") == [("a", 1, 9), ("a", 2, 8), ("b", 3, 5)]
    report = read_log(tmp_path / "log.parquet", Schema(user="user", item="items")).report
    assert any("3 events from 3 rows" in line for line in report.lines())
    assert any("1 row without any item" in line for line in report.lines())


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ('user,items\na,"[1, 2]"\nb,[3]\n', TextFormat()),
        ("user\titems\na\t1 2\nb\t3\n", SPACES),
        ("user\titems\na\t1  2 \nb\t3\nc\t\n", SPACES),
        ("user::items\na::1|2\nb::3\n", TextFormat(item_separator="|")),
    ],
)
def test_lists_in_text_unfold_in_their_order(tmp_path, text, form):
    path = tmp_path / ("log.dat" if "," not in text else "log.csv")
    path.write_text(text)
    found = events(path, order="file", text=form)
    assert found == [("a", 1, 0), ("a", 2, 1), ("b", 3, 2)]


def test_a_sequence_of_recbole_unfolds(tmp_path):
    text = "user:token\titems:token_seq\na\tN1 N2\nb\tN3\n"
    (tmp_path / "log.inter").write_text(text)
    assert events(tmp_path / "log.inter") == [("a", "N1"), ("a", "N2"), ("b", "N3")]


def test_an_item_in_brackets_among_words_stays_one_item(tmp_path):
    (tmp_path / "log.csv").write_text("user,items\na,[live]\nb,Tide\n")
    assert events(tmp_path / "log.csv") == [("a", "[live]"), ("b", "Tide")]


def test_lists_of_one_row_that_are_not_equally_long_are_refused_with_the_row(tmp_path):
    frame = pl.DataFrame({"user": ["a", "b"], "items": [[1], [2, 3]], "t": [[9], [5]]})
    frame.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"'t', row 2: 1 value for 2 items"):
        events(tmp_path / "log.parquet", time="t")


def test_new_events_of_a_bundle_are_read_as_its_log_was(tmp_path):
    rows = "".join(f"u{n}\ti{n % 5} i{(n + 1) % 5} i{(n + 2) % 5}\n" for n in range(30))
    (tmp_path / "log.tsv").write_text("user\titems\n" + rows)
    schema = Schema(user="user", item="items", order="file", text=SPACES)
    save(Popular().fit(Dataset.load(tmp_path / "log.tsv", schema=schema).split()), tmp_path / "b")
    text = load(tmp_path / "b").retriever.data.text
    assert text is not None
    assert text.item_separator == " "
    (tmp_path / "comma.csv").write_text("user,items\nu1,i3 i4\n")
    with pytest.raises(DataError, match="separator"):
        read_log(tmp_path / "comma.csv", Schema(user="user", item="items", text=text))


def test_a_row_whose_times_are_missing_beside_its_items_is_refused():
    log = pl.DataFrame({"user_id": [1, 2], "item_id": [[1, 3], [2]], "t": [None, [5]]})
    with pytest.raises(DataError, match=r"row 1.*0 values for 2 items"):
        read_log(log, Schema(time="t"))
