"""Lists written as text: read as lists or refused, and never brackets as values."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.data.columns import checked_feature
from shortlist.data.readers import read_entities
from shortlist.data.schema import Feature
from shortlist.errors import DataError

TAGS = Feature("tags", "multi-valued")
VECTOR = Feature("tags", "vector")


def read(*rows, feature=TAGS, dtype=None):
    return checked_feature(pl.Series("tags", rows, dtype=dtype), "f", feature)


@pytest.mark.parametrize(
    "text",
    [
        '["a",\n"b c"]',
        "['a', 'b c']",
        " [ \"a\" , 'b c' ] ",
        "['a' 'b c']",
        "('a', 'b c')",
        "{'a', 'b c'}",
        '["a", "b c"]',
    ],
)
def test_a_list_is_read_as_json_python_and_numpy_write_it(text):
    assert read(text, "[]", None, "").to_list() == [["a", "b c"], [], [], []]


def test_numbers_in_a_list_are_values_and_vectors_without_brackets():
    assert read("[27, 9]", "[27]").to_list() == [["27", "9"], ["27"]]
    assert read("[0.5, -1e3]", "[1 2.]", feature=VECTOR).to_list() == [[0.5, -1000.0], [1.0, 2.0]]


@given(st.lists(st.lists(st.text(min_size=1).map(str.strip).filter(bool)), min_size=1))
def test_what_json_and_python_wrote_comes_back(rows):
    wanted = [[value.strip() for value in row] for row in rows]
    assert read(*(json.dumps(row) for row in rows)).to_list() == wanted
    assert read(*(json.dumps(row, ensure_ascii=False) for row in rows)).to_list() == wanted
    quoted = [[value for value in row if value.isprintable()] for row in wanted]
    assert read(*map(str, quoted)).to_list() == quoted


@pytest.mark.parametrize(
    ("rows", "row", "bad"),
    [
        (["[1, 2]", "[1, x]"], 2, "[1, x]"),
        (["[a, b]", "[c]"], 1, "[a, b]"),
        (['[{"id": 16}]', '[{"id": 17}]'], 1, "id"),
        (["[[1], [2]]"], 1, "[[1], [2]]"),
        (["['a', None]"], 1, "None"),
        (['{"a": 1}'], 1, "a"),
        (["a|b", '["a", "b"]'], 1, "a|b"),
        (['["a", "b"]', "['a', 'b'", "['c']"], 2, "['a', 'b'"),
    ],
)
def test_brackets_that_are_no_list_are_refused_by_row(rows, row, bad):
    with pytest.raises(DataError, match=rf"row {row}: .*as text with a separator") as refusal:
        read(*rows)
    assert bad in str(refusal.value)


def test_words_in_brackets_among_others_are_words():
    rows = ["[live]|rock", "(2009)", "(500) Days", "[untitled]", "{x}|y"]
    assert read(*rows).to_list() == [row.split("|") for row in rows]


def test_a_long_line_that_is_nearly_a_list_is_refused_at_once():
    text = "[" + " ".join(["123456789"] * 4000) + " x]"
    with pytest.raises(DataError, match="row 1"):
        read(text)


def test_lists_in_lists_and_records_of_parquet_are_refused():
    for rows in ([[["a"], ["b"]]], [[{"id": 1}]]):
        with pytest.raises(DataError, match="multi-valued feature is a list"):
            read(*rows)
    assert read(*[np.array([1, 2]).tolist()]).to_list() == [[1, 2]]


def test_a_written_list_that_the_format_split_inside_is_refused(tmp_path):
    path = tmp_path / "x.item"
    path.write_text("item_id:token\ttags:token_seq\n1\t['a', 'b']\n2\t['a']\n")
    with pytest.raises(DataError, match="split inside them"):
        read_entities(path, "item_id", [TAGS])
