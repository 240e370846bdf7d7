"""Columns: ids keep their identity, times their order, features their form."""

import datetime as dt

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.data.columns import (
    checked_feature,
    checked_ids,
    checked_weights,
    exact_text,
    typed_text,
)
from shortlist.data.schema import Feature
from shortlist.errors import DataError


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1))
def test_text_ids_come_back_exactly_whatever_is_in_them(values):
    typed = exact_text(pl.Series("id", values))
    assert [str(value) for value in typed] == values


@given(st.lists(st.text("0179+-. e_٧", min_size=1, max_size=4), min_size=1, max_size=3))
def test_text_that_is_nearly_a_number_comes_back_exactly(values):
    assert [str(value) for value in exact_text(pl.Series("id", values))] == values


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers_written_as_text_become_the_same_integers(values):
    typed = exact_text(pl.Series("id", [str(value) for value in values]))
    assert typed.dtype == pl.Int64
    assert typed.to_list() == values


@pytest.mark.parametrize("value", ["007", "+7", "-0", " 7", "7 ", "1e3", "7.0", str(2**63), "٧"])
def test_one_value_that_is_no_plain_integer_keeps_the_whole_column_text(value):
    assert exact_text(pl.Series("id", ["7", value])).to_list() == ["7", value]


def test_numbers_with_a_gap_stay_numbers():
    assert typed_text(pl.Series("x", ["1", None, "3"])).to_list() == [1, None, 3]
    assert typed_text(pl.Series("x", ["1.5", None])).to_list() == [1.5, None]
    assert typed_text(pl.Series("x", ["1.5", "x"])).to_list() == ["1.5", "x"]


# --- ids


@pytest.mark.parametrize("kind", [pl.Int8, pl.Int32, pl.UInt16, pl.UInt64, pl.Int128])
def test_integers_of_any_width_become_int64(kind):
    ids = checked_ids(pl.Series("id", [3, 7], dtype=kind), "f")
    assert (ids.dtype, ids.to_list()) == (pl.Int64, [3, 7])


def test_ids_beyond_int64_become_their_digits():
    ids = checked_ids(pl.Series("id", [2**64 - 1, 5], dtype=pl.UInt64), "f")
    assert ids.to_list() == ["18446744073709551615", "5"]


def test_categories_become_their_text():
    assert checked_ids(pl.Series("id", ["a", "b"], dtype=pl.Categorical), "f").dtype == pl.String


def test_float_ids_are_refused_even_when_they_look_whole():
    with pytest.raises(DataError, match=r"f: column 'id': ids are floats.*pandas"):
        checked_ids(pl.Series("id", [1.0, 2.0]), "f")


@pytest.mark.parametrize("blank", ["", " ", "\t\n", "\u3000"])
def test_blank_ids_are_refused_by_row(blank):
    with pytest.raises(DataError, match=r"f: column 'id', row 2: .*white space"):
        checked_ids(pl.Series("id", ["a", blank]), "f")


def test_white_space_around_an_id_is_part_of_it():
    assert checked_ids(pl.Series("id", [" a", "a"]), "f").to_list() == [" a", "a"]


def test_a_missing_id_is_refused_by_row():
    with pytest.raises(DataError, match="column 'id', row 3: the id is missing"):
        checked_ids(pl.Series("id", [1, 2, None, None]), "f")


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("id", [True]),
        pl.Series("id", [dt.date(2024, 1, 1)]),
        pl.Series("id", [b"a"]),
        pl.Series("id", [["a"]]),
    ],
)
def test_ids_that_are_neither_integers_nor_text_are_refused(column):
    with pytest.raises(DataError, match="must be integers or text"):
        checked_ids(column, "f")


@pytest.mark.parametrize("bad", ["6.10E+12", "6,10E+12", "1E+05", "6.1e+12", "-3.2E+10"])
def test_ids_that_a_spreadsheet_rounded_are_refused_by_row(bad):
    with pytest.raises(DataError, match=r"row 2: the id .* spreadsheets round it"):
        checked_ids(pl.Series("id", ["7", bad]), "f")
    kept = ["12E45", "E+12", "a1E+12", "1E+1x", "12.5E+3"]
    assert checked_ids(pl.Series("id", kept), "f").to_list() == kept


def test_mixed_ids_are_refused():
    with pytest.raises(DataError, match="mixed types"):
        checked_ids(pl.Series("id", [1, "1"], dtype=pl.Object), "f")


# --- weights


def test_weights_are_present_finite_and_not_negative():
    for values, reason in (
        ([1.0, None], "row 2: the weight is missing"),
        ([1.0, float("nan")], "row 2: nan is not a finite"),
        ([1.0, -1.0], "row 2: .*negative; set min_weight"),
        (["1", "x"], "row 2: the weight must be a number, got 'x'"),
    ):
        with pytest.raises(DataError, match=reason):
            checked_weights(pl.Series("w", values), "f", None)


def test_a_negative_weight_below_the_smallest_is_not_a_positive_and_passes():
    assert checked_weights(pl.Series("w", [-1, 3]), "f", 1.0).to_list() == [-1.0, 3.0]


# --- features


def check(values, kind, separator="|", dtype=None):
    column = pl.Series("x", values, dtype=dtype, strict=False)
    return checked_feature(column, "f", Feature("x", kind, separator))


def test_missing_features_stay_missing():
    assert check(["a", None], "categorical").to_list() == ["a", None]
    assert check([1.5, None], "numeric").to_list() == [1.5, None]
    assert check([["a"], None], "multi-valued").to_list() == [["a"], []]
    assert check([[1.0, 2.0], None], "vector").to_list() == [[1.0, 2.0], None]
    assert check([None, None], "multi-valued").to_list() == [[], []]
    assert check([None, None], "numeric").to_list() == [None, None]


@pytest.mark.parametrize("kind", ["categorical", "numeric"])
def test_numbers_that_are_not_finite_are_refused(kind):
    with pytest.raises(DataError, match="column 'x', row 2: nan is not a finite number"):
        check([1.0, float("nan")], kind)


def test_a_numeric_feature_of_text_is_refused_by_value():
    with pytest.raises(
        DataError, match="row 2: the numeric feature 'x' must be a number, got 'NA'"
    ):
        check(["1", "NA"], "numeric")
    with pytest.raises(DataError, match="must be numbers, not Date"):
        check([dt.date(2024, 1, 1)], "numeric")


def test_a_list_is_no_category():
    with pytest.raises(DataError, match="declare it multi-valued or vector"):
        check([["a"]], "categorical")


def test_text_is_split_at_the_separator_without_blanks():
    assert check(["a| b||", "", None], "multi-valued").to_list() == [["a", "b"], [], []]
    assert check(["a, b"], "multi-valued", ",").to_list() == [["a", "b"]]


def test_text_without_a_separator_is_refused():
    with pytest.raises(DataError, match="separator"):
        check(["a b"], "multi-valued", None)


def test_a_null_within_a_list_is_refused_by_row():
    with pytest.raises(DataError, match="row 3: a value in the list is null"):
        check([["a"], None, ["b", None]], "multi-valued")


def test_a_number_is_no_list():
    with pytest.raises(DataError, match="is a list or text"):
        check([1], "multi-valued")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([[1.0, 2.0], [1.0]], "row 2: .*equally long: 1 here, 2 in most rows"),
        ([[1.0], None, [float("inf")]], "row 3: .*without NaN, inf or null"),
        ([[1.0], [None]], "row 2: .*without NaN, inf or null"),
        ([[]], "empty vectors"),
        ([None], "a vector is a list"),
        ([1.0], "a vector is a list"),
        ([["a"]], "row 1: .*numbers only"),
        ([[1.0], [3e15]], "row 2: 3e.15 is too large"),
        ([[-1e20]], "row 1: 1e.20 is too large"),
        ([[1e39]], "row 1: 1e.39 is too large"),
    ],
)
def test_vectors_that_are_not_rows_of_finite_numbers_are_refused(values, reason):
    with pytest.raises(DataError, match=reason):
        check(values, "vector")


def test_vectors_become_arrays_of_floats_from_lists_arrays_and_text():
    expected = pl.Array(pl.Float32, 2)
    for values, dtype in (
        ([[1, 2], [3, 4]], None),
        ([[1, 2], [3, 4]], pl.Array(pl.Float64, 2)),
        (["1|2", "3|4"], None),
    ):
        vectors = check(values, "vector", dtype=dtype)
        assert (vectors.dtype, vectors.to_list()) == (expected, [[1.0, 2.0], [3.0, 4.0]])


def test_mixed_values_are_refused():
    with pytest.raises(DataError, match="mixed types"):
        check([1, "a"], "categorical", dtype=pl.Object)


def test_a_word_for_nothing_in_a_numeric_feature_is_refused_with_the_key():
    with pytest.raises(DataError, match=r"row 2: .*got 'NA'.*data.null_values = \[\"NA\"\]"):
        checked_feature(pl.Series("x", ["1", "NA"]), "f", Feature("x", "numeric"))
