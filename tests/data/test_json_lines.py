"""JSON Lines and nested columns: one object a row, by name or path, no two ids made one."""

import gzip
import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shortlist.data import json_lines
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


def test_one_list_of_objects_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "log.json").write_text(json.dumps(ROWS))
    with pytest.raises(DataError, match="one object a line"):
        read_log(tmp_path / "log.json", Schema())


VALUES = {
    "whole": st.integers(-5, 2**40),
    "number": st.integers(-5, 5) | st.sampled_from([0.5, 1e30, 2**70]),
    "text": st.text('aä"\\\n[{}]1', max_size=4),
    "flag": st.booleans(),
    "list": st.lists(st.text("ab", max_size=2), max_size=2),
    "inside": st.fixed_dictionaries(
        {}, optional={"id": st.text("ab1", max_size=2), "n": st.integers(0, 9)}
    ),
    "inner": st.lists(st.fixed_dictionaries({"id": st.integers(0, 9)}), max_size=2),
}


def kinds(schema):
    """Types by name, whatever the order of the fields of a struct."""
    if isinstance(schema, pl.List):
        return [kinds(schema.inner)]
    if isinstance(schema, pl.Struct):
        return kinds({field.name: field.dtype for field in schema.fields})
    return (
        {name: kinds(kind) for name, kind in schema.items()} if isinstance(schema, dict) else schema
    )


@settings(max_examples=40)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"always": st.integers()}, optional={n: v | st.none() for n, v in VALUES.items()}
        ),
        min_size=1,
        max_size=12,
    ),
    block=st.integers(1, 90),
    ends=st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_blocks_of_any_size_give_what_the_whole_file_gives(tmp_path_factory, rows, block, ends):
    path = tmp_path_factory.mktemp("json") / "log.jsonl"
    path.write_bytes(ends.join(json.dumps(row) for row in rows).encode())
    whole = pl.read_ndjson(path, infer_schema_length=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines, "BLOCK", block)
        found = json_lines.open_json(path)
        assert found.schema.keys() == set(whole.columns)
        parts = pl.concat(list(found.parts(whole.columns)))
        assert parts.to_dicts() == whole.to_dicts()
        assert kinds(parts.schema) == kinds(whole.schema)
        one = pl.concat(list(found.parts(["always"])))
        assert one["always"].to_list() == whole["always"].to_list()


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ('{"user_id": 1, "item_id": 4, "t": 5}', "column 'item_id', row 5: 4 is a number"),
        ('{"user_id": "1", "item_id": "4", "t": 5}', "column 'user_id', row 1: 0 is a number"),
        ('{"user_id": 1, "item_id": ["4"], "t": 5}', "column 'item_id', row 5: [\"4\"] is no text"),
        ('{"user_id": true, "item_id": "4"}', "column 'user_id', row 5: 'True' is of another type"),
        ('{"user_id": 1, "meta": {"lang": 7}}', "column 'meta.lang', row 5: 7 is a number"),
        ('{"user_id": 1, "meta": 7}', "column 'meta', row 5: '7' is of another type than in row 1"),
        ('{"user_id": 1, "item_id', 'row 5: b\'{"user_id": 1, "item_id\' is no JSON object'),
    ],
)
@pytest.mark.parametrize("block", [1, 150, 1 << 20])
def test_a_row_of_another_kind_is_named_wherever_a_block_ends(
    tmp_path, monkeypatch, odd, said, block
):
    monkeypatch.setattr(json_lines, "BLOCK", block)
    path = write(tmp_path / "log.jsonl", [*ROWS[:4], odd, *ROWS[5:]])
    with pytest.raises(DataError) as caught:
        read_log(path, Schema(time="t"))
    assert str(caught.value).startswith(f"{path}: {said}")


def test_a_packed_file_is_unpacked_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "BLOCK", 100)
    path = write(tmp_path / "log.jsonl.gz", ROWS * 50)
    found = read_log(path, Schema(order="file")).events
    assert found["item"].to_list() == [row["item_id"] for row in ROWS] * 50


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    path = write(tmp_path / "log.jsonl", ROWS)
    found = json_lines.open_json(path)
    write(path, ROWS[:5])
    with pytest.raises(DataError, match="it changed while it was read"):
        list(found.parts(["user_id"]))


def test_a_file_of_blank_lines_has_no_rows(tmp_path):
    (tmp_path / "log.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="there are no rows"):
        read_log(tmp_path / "log.jsonl", Schema())


def test_text_in_the_last_block_alone_is_told_by_the_first_number(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "BLOCK", 1)
    path = write(tmp_path / "log.jsonl", [*ROWS, {"user_id": "1", "item_id": "4"}])
    with pytest.raises(DataError, match=r"column 'user_id', row 1: 0 is a number"):
        read_log(path, Schema())
