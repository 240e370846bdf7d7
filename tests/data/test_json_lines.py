"""JSON Lines and nested columns: one object a row, by name or path, no two ids made one."""

import gzip
import json

import polars as pl
import pytest

from shortlist.data.readers import read_entities, read_log
from shortlist.data.schema import Feature, Schema
from shortlist.errors import DataError

ROWS = [{"user_id": n % 3, "item_id": str(n), "meta": {"lang": "de"}, "t": n} for n in range(9)]


def write(path, rows):
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["log.jsonl", "log.json", "log.ndjson", "log.jsonl.gz"])
def test_objects_are_rows_with_the_types_that_were_written(tmp_path, name):
    found = read_log(write(tmp_path / name, ROWS), Schema(time="t")).events
    assert found.rows()[:2] == [(0, "0", 0), (1, "1", 1)]


def test_values_within_objects_and_lists_of_objects_are_read_by_path(tmp_path):
    sessions = [
        {"user_id": 1, "events": [{"aid": 5, "ts": 1}, {"aid": 6, "ts": 2}]},
        {"user_id": 2, "events": []},
        {"user_id": 3, "events": [{"aid": 5, "ts": 9}]},
    ]
    schema = Schema(item="events.aid", time="events.ts")
    path = write(tmp_path / "log.jsonl", sessions)
    pl.read_ndjson(path).write_parquet(tmp_path / "log.parquet")
    for source in (path, tmp_path / "log.parquet", pl.read_ndjson(path)):
        assert read_log(source, schema).events.rows() == [(1, 5, 1), (1, 6, 2), (3, 5, 9)]
    items = read_entities(
        write(tmp_path / "items.jsonl", ROWS), "item_id", [Feature("meta.lang", "categorical")]
    )
    assert items["meta.lang"].to_list() == ["de"] * 9


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ('{"user_id": 1, "item_id": 4, "t": 5}', "column 'item_id', row 5: 4 is a number"),
        ('{"user_id": "1", "item_id": "4", "t": 5}', "column 'user_id', row 1: 0 is a number"),
        ('{"user_id": 1, "item_id', 'row 5: b\'{"user_id": 1, "item_id\' is no JSON object'),
        ("[1, 2]", "row 5: expected an object"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path, bad, said):
    path = write(tmp_path / "log.jsonl", [*ROWS[:4], bad, *ROWS[5:]])
    with pytest.raises(DataError) as caught:
        read_log(path, Schema(time="t"))
    assert str(caught.value).startswith(f"{path}: {said}")


def test_one_list_of_objects_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "log.json").write_text(json.dumps(ROWS))
    with pytest.raises(DataError, match="one object a line"):
        read_log(tmp_path / "log.json", Schema())
