"""The unpacked size of a Parquet file is known before any of it is unpacked."""

import polars as pl
import pytest

from shortlist.bundle import formats
from shortlist.bundle.formats import dump_frame, load_frame
from shortlist.bundle.parquet import unpacked
from shortlist.errors import BundleError

ROWS = 3_000
FRAMES = {
    "equal numbers": pl.DataFrame({"a": [7] * ROWS}),
    "numbers": pl.DataFrame({"a": range(ROWS), "b": [0.5 * n for n in range(ROWS)]}),
    "texts": pl.DataFrame({"a": [f"text {n}" for n in range(ROWS)]}),
    "missing": pl.DataFrame({"a": [None, 1, None] * (ROWS // 3), "b": [None] * ROWS}),
    "lists": pl.DataFrame({"a": [["x", "y"], [], None] * (ROWS // 3)}),
    "vectors": pl.DataFrame({"a": [[0.25] * 32] * ROWS}),
    "truths": pl.DataFrame({"a": [True, False, None] * (ROWS // 3)}),
    "bytes and dates": pl.DataFrame({"a": [0] * ROWS}).with_columns(
        pl.col("a").cast(pl.Int8), b=pl.col("a").cast(pl.Datetime("us"))
    ),
    "nothing": pl.DataFrame({"a": []}, schema={"a": pl.Int32}),
}


@pytest.fixture
def never_decoded(monkeypatch):
    def decoded(*_, **__):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(pl, "read_parquet", decoded)


@pytest.mark.parametrize("name", FRAMES)
def test_its_headers_tell_its_rows_and_no_less_memory_than_it_takes(name):
    frame = FRAMES[name]
    found = unpacked(dump_frame(frame))
    assert found.rows == len(frame)
    lists = [column for column in frame if isinstance(column.dtype, pl.List)]
    fixed = frame.drop([column.name for column in lists]).select(pl.exclude(pl.String))
    assert found.size >= fixed.estimated_size()
    assert found.size >= sum(column.explode().drop_nulls().estimated_size() for column in lists)
    assert load_frame(dump_frame(frame), "it", len(frame)).equals(frame)


def test_a_small_file_of_many_rows_is_refused_before_it_is_decoded(never_decoded):
    data = dump_frame(pl.DataFrame({"a": pl.zeros(10_000_000, pl.Int64, eager=True)}))
    assert len(data) < 30_000
    with pytest.raises(BundleError, match="it has 10,000,000 rows where the manifest says 5"):
        load_frame(data, "log.parquet", 5)


def test_a_file_that_would_unpack_to_too_much_is_refused_whatever_is_announced(
    never_decoded, monkeypatch
):
    monkeypatch.setattr(formats, "EXPANDED", (2**20, 1000))
    data = dump_frame(pl.DataFrame({"a": pl.zeros(10_000_000, pl.Int64, eager=True)}))
    with pytest.raises(BundleError, match="would unpack to 80,"):
        load_frame(data, "log.parquet", 10_000_000)


def test_equal_texts_count_as_often_as_they_stand_there(monkeypatch):
    monkeypatch.setattr(formats, "EXPANDED", (2**20, 100))
    data = dump_frame(pl.DataFrame({"a": ["x" * 1000] * 5_000}))
    with pytest.raises(BundleError, match="hold texts of more than"):
        load_frame(data, "item_table.parquet", 5_000)


def test_a_footer_that_says_less_than_the_pages_hold_is_not_believed():
    large, small = (dump_frame(pl.DataFrame({"a": [7] * n})) for n in (8_000, 130))
    assert len(large) == len(small)
    length = int.from_bytes(small[-8:-4], "little") + 8
    spliced = large[:-length] + small[-length:]
    assert unpacked(spliced).rows == 130
    assert unpacked(spliced).size >= unpacked(large).size


def test_bytes_that_are_cut_or_changed_are_refused_as_no_parquet_or_read_to_their_end():
    data = dump_frame(FRAMES["texts"].head(40))
    for at in range(len(data)):
        for changed in (data[:at], data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]):
            try:
                unpacked(changed)
            except ValueError:
                continue
