"""Sources that give themselves as an Arrow stream: read in parts, the wanted columns alone."""

import polars as pl
import pyarrow as pa
import pytest

from shortlist.data.readers import read_entities, read_log
from shortlist.data.schema import Schema
from shortlist.errors import DataError

SCHEMA = Schema(time="t", weight="w")


class Stream:
    """What has `__arrow_c_stream__` and nothing else; asked: how many batches were."""

    def __init__(self, batches, fault=None):
        self.batches, self.fault, self.asked = batches, fault, 0

    def __arrow_c_stream__(self, requested_schema=None):
        def given():
            for batch in self.batches:
                self.asked += 1
                yield batch
            if self.fault:
                raise ValueError(self.fault)

        reader = pa.RecordBatchReader.from_batches(self.batches[0].schema, given())
        return reader.__arrow_c_stream__(requested_schema)


def batches():
    table = pa.table(
        {
            "user_id": pa.array([1, 1, 2, 2, 3], pa.int32()),
            "item_id": pa.array(["a", "b", "a", "c", "a"]).dictionary_encode(),
            "t": pa.array(range(5), pa.timestamp("us", tz="UTC")),
            "w": pa.array([1, 2, 3, 4, 5], pa.decimal128(38, 0)),
            "more": [{"x": n} for n in range(5)],
        }
    )
    return table.to_batches(max_chunksize=2)


def test_a_stream_is_the_table_it_gives():
    source = Stream(batches())
    log = read_log(source, SCHEMA)
    assert log.events.select("user", "item", "weight").rows() == [
        (1, "a", 1.0),
        (1, "b", 2.0),
        (2, "a", 3.0),
        (2, "c", 4.0),
        (3, "a", 5.0),
    ]
    assert source.asked == 3
    assert log.report.where == "the interactions frame"
    nested = read_log(Stream(batches()), Schema(item="more.x"))
    assert nested.events["item"].to_list() == [0, 1, 2, 3, 4]
    assert read_entities(Stream(batches()[2:]), "user_id")["w"].to_list() == [5]


def test_a_stream_without_rows_without_a_column_or_that_fails_is_refused():
    with pytest.raises(DataError, match="there are no rows"):
        read_log(Stream([batches()[0].slice(0, 0)]), SCHEMA)
    with pytest.raises(DataError, match=r"no column 'when'.*The columns are: user_id, item_id, t"):
        read_log(Stream(batches()), Schema(time="when"))
    with pytest.raises(DataError, match=r"interactions frame cannot be read.*the wire is cut"):
        read_log(Stream(batches(), "the wire is cut"), SCHEMA)


def test_a_relation_of_duckdb_is_read():
    duckdb = pytest.importorskip("duckdb")
    database = duckdb.connect()
    database.execute(
        "create table log as select range // 3 as user_id, (range % 4)::varchar as item_id, "
        "to_timestamp(range * 60) as t, 1.5::decimal(9, 2) as w, uuid() as more from range(4000)"
    )
    log = read_log(database.table("log"), SCHEMA)
    assert log.report.rows == 4000
    assert log.events.rows()[5] == (1, "1", 300_000_000, 1.5)
    summed = database.sql(
        "select user_id, sum(user_id) as item_id, 0 as t, 1 as w from log group by 1"
    )
    found = read_log(summed, SCHEMA).events.sort("user")  # sums are 38 decimal digits wide
    assert found["item"].to_list()[:3] == [0, 3, 6]
    assert found.schema["item"] == pl.Int64
