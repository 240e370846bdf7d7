"""Stored events become a log with its columns and units, and nothing that cannot be read again."""

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.data.dataset import Dataset
from shortlist.data.readers import read_log
from shortlist.data.schema import EventFeature, Feature, Schema
from shortlist.data.updates import read_events
from shortlist.errors import QueryError
from shortlist.histories.events import Watermark, refused_id
from shortlist.histories.export import MARK, LogWriter, Span, learned_with
from shortlist.histories.sqlite import Row

MOMENT = 1_700_000_000_250_000  # 2023-11-14 22:13:20.25


def data_of(times, **schema):
    log = pl.DataFrame(
        {"user_id": ["a", "a", "a", "b", "b", "b"], "item_id": ["x", "y", "z"] * 2, "time": times}
    )
    if schema.get("order") == "file":
        log = log.drop("time")
    schema = Schema(**({"time": "time"} | schema))
    return schema, Dataset.load(log, schema=schema).split("leave-last-out").training_data("all")


def exported(schema, data, *rows):
    writer = LogWriter(schema, data, kinds=True)
    return writer.frame(
        [
            Row(user, n, item, "k", time, None, MOMENT, 0)
            for n, (user, item, time) in enumerate(rows)
        ]
    )


JANUARY = pl.date_range(pl.date(2023, 1, 1), pl.date(2023, 1, 6), eager=True)


@pytest.mark.parametrize(
    ("times", "schema", "read"),
    [
        ([1_600_000_000 + n for n in range(6)], {}, 1_700_000_000),
        ([1_600_000_000.5 + n for n in range(6)], {}, 1_700_000_000.25),
        ([(1_600_000_000 + n) * 1000 for n in range(6)], {}, 1_700_000_000_250),
        (JANUARY.cast(pl.Datetime("us")), {}, MOMENT),
        (JANUARY, {}, 19_675),
        ([20230101 + n for n in range(6)], {}, 19_675),
        ([20230101000000 + n for n in range(6)], {}, 1_700_000_000),
        ([f"2023-01-01T00:00:0{n}" for n in range(6)], {}, MOMENT),
        ([5, 6, 7, 8, 9, 10], {}, 11),
        ([0] * 6, {"time": None, "order": "file"}, 6),
    ],
)  # fmt: skip
def test_a_time_comes_back_in_the_unit_of_the_log(times, schema, read):
    schema, data = data_of(times, **schema)
    frame = exported(schema, data, ("a", "new", MOMENT), ("c", "x", None))
    came = read_events(data, frame, schema)
    assert (came.events, came.new_users, came.new_items) == (2, 1, 1)
    log = came.data.log
    [row] = came.data.items.rows(["new"])
    assert log.time[log.item == row].tolist() == [read]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
odd = st.sampled_from(["NA", "\\N", "1E+5", "6.10E+12", " ", "", "\u2003", "1,5e+9", "None", "a b"])


@given(st.lists(st.tuples(texts | odd, texts | odd), max_size=5))
def test_an_id_that_is_not_refused_can_be_read_again(pairs):
    kept = [pair for pair in pairs if not any(map(refused_id, pair))]
    if not kept:
        return
    schema, data = data_of([1_600_000_000 + n for n in range(6)])
    frame = exported(
        schema, data, *((user, item, MOMENT + n) for n, (user, item) in enumerate(kept))
    )
    read = read_log(frame, schema).events
    assert set(read.select("user", "item").iter_rows()) == set(kept)


def test_ids_of_another_type_are_left_out_and_counted():
    schema, data = data_of([1_600_000_000 + n for n in range(6)])
    writer = LogWriter(schema, data, kinds=False)
    frame = writer.frame([Row(user, 1, "x", None, None, None, MOMENT, 0) for user in ("a", 1)])
    assert frame.columns == ["user_id", "item_id", "time"]
    assert (frame["user_id"].to_list(), writer.written, writer.strange) == (["a"], 1, 1)


def test_an_export_is_read_beside_a_log_of_more_columns_and_changes_no_known_value():
    features = (EventFeature("device", "categorical", known="before"),)
    features += (EventFeature("dwell", "numeric", known="after"),)
    schema = Schema(
        time="time",
        title="title",
        event_features=features,
        user_features=(Feature("zip", "categorical"),),
        item_features=(Feature("price", "numeric"),),
    )
    log = pl.DataFrame(
        {"user_id": ["a", "a", "a", "b", "b", "b"], "item_id": ["x", "y", "z"] * 2}
        | {"time": [1_600_000_000 + n for n in range(6)], "device": [1, 2, 1, None, 2, 1]}
        | {"dwell": [0.5 * n for n in range(6)], "zip": [7, 7, 7, 8, 8, 8]}
        | {"price": [1, 2, 3] * 2, "title": ["X", "Y", "Z"] * 2}
    )
    data = Dataset.load(log, schema=schema).split("leave-last-out").training_data("all")
    writer = LogWriter(schema, data, kinds=False, described=("user", "item"))
    rows = [Row(user, 1, "x", None, None, None, MOMENT, 0) for user in ("b", "new")]
    frame = writer.frame(rows)
    assert sorted(frame.columns) == sorted(log.columns)
    came = read_events(data, frame, schema, described=("user", "item"))
    assert came.data.user_frame.filter(id="b")["zip"].to_list() == [8]
    assert came.data.user_frame.filter(id="new")["zip"].to_list() == [None]
    assert came.data.item_frame.equals(data.item_frame)
    assert came.data.log.columns["device"][-1] == 0  # not known
    both = pl.concat([log, frame.select(log.columns)], how="vertical_relaxed")
    again = Dataset.load(both, schema=schema).split("leave-last-out").training_data("all")
    assert again.user_frame.equals(came.data.user_frame)


def test_what_is_no_watermark_is_refused():
    mark = Watermark("0" * 16, 7)
    assert Watermark.parse(str(mark)) == mark
    assert Span.parse(str(Span(3, mark))) == Span(3, mark)
    for text in ("7", "x:7", f"{'0' * 16}:-1", f"{'0' * 16}:", f"{'0' * 16}:7\n"):
        with pytest.raises(QueryError, match="a watermark is STORE:NUMBER"):
            Watermark.parse(text)


def spans(folder, *given):
    """Files that say of themselves which events they hold: (since, until), of one store."""
    paths = []
    for since, until in given:
        table = pa.table({"user_id": [1]})
        said = {MARK: f"{STORE}:{until} since {since}"}
        paths.append(folder / f"{since}.parquet")
        pq.write_table(table.replace_schema_metadata(said), paths[-1])
    return paths


STORE = "00c0ffee00c0ffee"


def test_exports_are_learned_in_any_order_and_a_gap_before_or_between_them_is_refused(tmp_path):
    first, last = spans(tmp_path, (0, 100), (100, 300))
    learned = learned_with(None, [last, None, first])
    assert learned == Watermark(STORE, 300)
    with pytest.raises(QueryError, match="--since 0"):
        learned_with(None, [last])
    (far,) = spans(tmp_path, (200, 300))
    for files in ([first, far], [far, first]):
        with pytest.raises(QueryError, match="--since 100"):
            learned_with(None, files)
    other = Watermark("00c0ffee00c0ffef", 999)
    with pytest.raises(QueryError, match="--since 0"):
        learned_with(other, [far])
    assert learned_with(Watermark(STORE, 250), [far]) == Watermark(STORE, 300)
