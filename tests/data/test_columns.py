"""Columns: ids keep their identity, times their order, features their form."""

import datetime as dt

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.data.columns import (
    checked_feature,
    checked_ids,
    checked_times,
    checked_weights,
    exact_text,
    time_key,
    typed_text,
)
from shortlist.data.schema import Feature
from shortlist.errors import DataError


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1))
def test_text_ids_come_back_exactly_whatever_is_in_them(values):
    typed = exact_text(pl.Series("id", values))
    assert [str(value) for value in typed] == values


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


def test_mixed_ids_are_refused():
    with pytest.raises(DataError, match="mixed types"):
        checked_ids(pl.Series("id", [1, "1"], dtype=pl.Object), "f")


# --- times


def test_dates_and_datetimes_become_exact_keys():
    days, unit = checked_times(pl.Series("t", [dt.date(1970, 1, 2)]), "f")
    assert (days.to_list(), unit) == ([1], "day")
    moment = pl.Series("t", [dt.datetime(1970, 1, 1, 0, 0, 1)])
    for precision, expected in (("ms", 1_000), ("us", 1_000_000), ("ns", 1_000_000_000)):
        keys, unit = checked_times(moment.cast(pl.Datetime(precision)), "f")
        assert (keys.to_list(), unit) == ([expected], precision)


def test_a_zone_changes_the_clock_and_not_the_key():
    utc = pl.Series("t", [dt.datetime(2024, 1, 1)]).dt.replace_time_zone("UTC")
    there = utc.dt.convert_time_zone("Asia/Tokyo")
    assert checked_times(there, "f")[0].to_list() == checked_times(utc, "f")[0].to_list()


@given(st.lists(st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1)), min_size=1))
def test_iso_text_orders_as_the_times_it_was_written_from(times):
    text = pl.Series("t", [time.isoformat(timespec="microseconds") for time in times])
    keys, unit = checked_times(text, "f")
    assert unit == "us"
    assert keys.to_list() == [time_key(time, "us") for time in times]


@pytest.mark.parametrize(
    "text",
    [
        "1970-01-02",
        "1970-01-02 00:00",
        "1970-01-02T00:00:00",
        "1970-01-02T00:00:00Z",
        "1970-01-02T01:00:00+01:00",
        "1970-01-02T00:00:00.000",
    ],
)
def test_every_iso_form_gives_the_same_key(text):
    keys, unit = checked_times(pl.Series("t", [text]), "f")
    assert (keys.to_list(), unit) == ([86_400_000_000], "us")


def test_nanoseconds_in_text_are_not_lost():
    text = [f"2024-01-01T00:00:00.00000000{digit}" for digit in "21"]
    keys, unit = checked_times(pl.Series("t", text), "f")
    assert unit == "ns"
    assert keys[0] - keys[1] == 1


def test_text_that_is_no_time_is_refused_with_the_reason():
    with pytest.raises(DataError, match=r"row 1: the time '9' is text.*10 before 9"):
        checked_times(pl.Series("t", ["9", "10"]), "f")
    with pytest.raises(DataError, match="row 2: 'soon' is not written like the first"):
        checked_times(pl.Series("t", ["2024-01-01", "soon"]), "f")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_time_that_is_not_finite_is_refused(bad):
    with pytest.raises(DataError, match=r"row 2: .* not a finite number"):
        checked_times(pl.Series("t", [1.0, bad]), "f")


@pytest.mark.parametrize(
    "column",
    [pl.Series("t", [dt.time(9)]), pl.Series("t", [True]), pl.Series("t", [[1]])],
)
def test_what_has_no_order_in_time_is_refused(column):
    with pytest.raises(DataError, match="times must be"):
        checked_times(column, "f")


def test_a_missing_time_is_refused_by_row():
    with pytest.raises(DataError, match="row 2: the time is missing"):
        checked_times(pl.Series("t", [1, None]), "f")


def test_a_time_beyond_int64_is_refused():
    with pytest.raises(DataError, match="2\\^63"):
        checked_times(pl.Series("t", [2**63], dtype=pl.UInt64), "f")


def test_time_keys_of_a_cut_follow_the_unit_of_the_log():
    noon = dt.datetime(1970, 1, 2, 12, tzinfo=dt.timezone(dt.timedelta(hours=12)))
    assert time_key(noon, "ms") == 86_400_000
    assert time_key("1970-01-02T12:00", "day") == 1.5
    assert time_key(dt.date(1969, 12, 31), "ns") == -86_400 * 10**9
    assert time_key(3.5, "number") == 3.5


@pytest.mark.parametrize(
    ("value", "unit", "reason"),
    [
        ("2024-01-01", "number", "must be a number"),
        ("soon", "day", "not an ISO"),
        (float("nan"), "number", "finite"),
    ],
)
def test_a_cut_that_is_no_time_of_the_log_is_refused(value, unit, reason):
    with pytest.raises(DataError, match=reason):
        time_key(value, unit)


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
        ([[1.0, 2.0], [1.0]], "row 2: .*equally long: 1 here, 2 above"),
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
