"""Conditions on items: by hand, missing values, and every mistake told with its place."""

import datetime as dt

import polars as pl
import pytest

from shortlist.data.ceilings import MOST_DEEP
from shortlist.data.dataset import Dataset
from shortlist.data.predicates import Range, allowed_rows, parse
from shortlist.data.schema import Feature, Schema
from shortlist.errors import QueryError

ITEMS = pl.DataFrame(
    {
        "item_id": [10, 20, 30, 40],
        "tags": ["a|b", "b", None, "c"],
        "price": [1.0, 2.0, 3.0, None],
        "stock": [0, 7, None, 1],
        "listed": [True, False, True, True],
        "words": [["x"], ["x", "y"], [], None],
    }
)


def made():
    log = pl.DataFrame(
        {
            "user_id": [1, 1, 1, 1, 2, 2, 2],
            "item_id": [10, 20, 30, 50, 10, 20, 40],
            "time": [*range(7)],
        }
    )
    schema = Schema(
        time="time",
        item_features=(
            Feature("tags", "multi-valued"),
            Feature("price", "numeric"),
            Feature("listed", "categorical"),
            Feature("words", "multi-valued"),
            Feature("stock", "numeric"),
        ),
    )
    return Dataset.load(log, items=ITEMS, schema=schema).split().training_data("all")


def chosen(where, data=None):
    data = data or made()
    mask = allowed_rows(data, parse(where))
    assert not mask[0]
    return sorted(data.items.external(mask.nonzero().squeeze(1).numpy()).to_list())


@pytest.mark.parametrize(
    ("where", "items"),
    [
        ({"column": "tags", "eq": "b"}, [10, 20]),
        ({"column": "tags", "in": ["a", "c"]}, [10, 40]),
        ({"column": "tags", "in": []}, []),
        ({"column": "price", "min": 2}, [20, 30]),
        ({"column": "price", "max": 2.0}, [10, 20]),
        ({"column": "price", "min": 1.5, "max": 2.5}, [20]),
        ({"column": "price", "eq": 3}, [30]),
        ({"column": "stock", "eq": 7}, [20]),
        ({"column": "stock", "in": [7.0, 7.5, 1e308]}, [20]),
        ({"column": "words", "eq": "x"}, [10, 20]),
        ({"and": [{"column": "tags", "eq": "b"}, {"column": "price", "min": 2}]}, [20]),
        ({"or": [{"column": "tags", "eq": "c"}, {"column": "price", "min": 3}]}, [30, 40]),
        # 50 is in no table and 40 has no price: neither is cheap, so both are "not cheap".
        ({"not": {"column": "price", "max": 2}}, [30, 40, 50]),
        ({"not": {"not": {"column": "price", "max": 2}}}, [10, 20]),
    ],
)
def test_a_condition_chooses_these(where, items):
    assert chosen(where) == items


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"column": "tag", "eq": "a"}, "no column 'tag'.*'tags'"),
        ({"column": "price", "eq": "cheap"}, "compared with a number, got 'cheap'"),
        ({"column": "tags", "eq": 3}, "compared with a text, got 3"),
        ({"column": "tags", "min": 3}, "holds no numbers and no dates"),
        ({"and": []}, "where.and must be a list of at least one"),
        ({"or": [{"column": "tags", "eq": "a"}, 7]}, r"where.or\[1\] must be a table"),
        ({"colum": "tags", "eq": "a"}, "one of the keys 'and', 'or', 'not'"),
        ({"column": "tags", "equal": "a"}, "beside 'column' there must be"),
        ({"column": "tags", "in": "a"}, "must be a list"),
        ({"column": "price", "min": None}, "needs a number"),
        ({"column": "price", "min": float("nan")}, "must be a number"),
        ({"column": "price", "eq": None}, "must be a text, a number"),
        ({"column": "price", "eq": 10**400}, "must be a number of 64 bits"),
    ],
)
def test_a_mistake_is_told_with_its_place(where, message):
    with pytest.raises(QueryError, match=message):
        chosen(where)


def test_a_condition_too_deep_or_too_long_is_refused():
    deep = {"column": "tags", "eq": "a"}
    for _ in range(MOST_DEEP):
        deep = {"not": deep}
    with pytest.raises(QueryError, match="levels deep"):
        parse(deep)
    with pytest.raises(QueryError, match="at most"):
        parse({"or": [{"column": "tags", "eq": "a"}] * 100})


def test_one_and_true_are_told_apart_however_they_were_asked_before():
    data = made()
    assert chosen({"column": "listed", "eq": True}, data) == [10, 30, 40]
    with pytest.raises(QueryError, match="compared with true or false, got 1"):
        chosen({"column": "listed", "eq": 1}, data)


def dated(column):
    log = pl.DataFrame({"user_id": [1] * 4, "item_id": [10, 20, 30, 40], "t": [1, 2, 3, 4]})
    items = pl.DataFrame({"item_id": [10, 20, 30, 40, 60], "day": column})
    return Dataset.load(log, items=items, schema=Schema(time="t")).split().training_data("all")


DAYS = ["2024-01-31", "2024-02-01", "2024-02-02", None, "2024-12-31"]
DATES = pl.Series(DAYS).str.to_date()
COLUMNS = {
    "text": pl.Series(DAYS),
    "text with hours": pl.Series([None if day is None else f"{day} 13:30" for day in DAYS]),
    "dates": DATES,
    "milliseconds": DATES.cast(pl.Datetime("ms")) + dt.timedelta(hours=13),
    "nanoseconds": DATES.cast(pl.Datetime("ns")) + dt.timedelta(hours=23, minutes=59),
    "zoned": (DATES.cast(pl.Datetime("us")) + dt.timedelta(hours=3))
    .dt.replace_time_zone("UTC")
    .dt.convert_time_zone("America/New_York"),
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_dates_have_limits_and_a_date_is_the_whole_day(column):
    data = dated(column)

    def within(**limits):
        return chosen({"column": "day"} | limits, data)

    assert within(min="2024-02-01") == [20, 30, 60]
    assert within(max="2024-02-01") == [10, 20]
    assert within(min="2024-02-01", max="2024-02-02") == [20, 30]
    assert within(min=dt.date(2024, 2, 2)) == [30, 60]
    midnight = [10, 20] if column.dtype == pl.Date or column[1] == "2024-02-01" else [10]
    assert within(max="2024-02-01T00:00") == midnight
    assert chosen({"not": {"column": "day", "min": "2024-02-01"}}, data) == [10, 40]
    if column.dtype != pl.String:
        assert within(eq="2024-02-01") == [20]
        assert chosen({"column": "day", "in": ["2024-02-01", "2024-12-31"]}, data) == [20, 60]
        assert within(**{"in": []}) == []


@pytest.mark.parametrize(
    ("column", "where", "message"),
    [
        (DATES, {"min": 3}, "holds dates: a limit must be a date .*got 3"),
        (DATES, {"eq": 3}, "compared with a date .*got 3"),
        (DATES, {"eq": "soon"}, "compared with a date .*'soon'"),
        (DATES, {"min": "0001-01-01T00:00+23:00"}, "must be a number, or a date"),
        (DATES, {"min": "soon"}, "where.min must be a number, or a date"),
        (pl.Series(["a", "b", None, "c", "d"]), {"min": "2024-02-01"}, "with a date: .*'a'"),
        (pl.Series(DAYS), {"max": "2024-W05"}, "date such as '2024-02-01', got '2024-W05'"),
        (pl.Series([1, 2, 3, 4, 5]), {"min": "2024-02-01"}, "holds numbers"),
    ],
)
def test_what_is_no_date_is_told(column, where, message):
    with pytest.raises(QueryError, match=message):
        chosen({"column": "day"} | where, dated(column))


def test_a_column_of_32_bits_holds_a_number_as_it_would_be_written():
    items = ITEMS.with_columns(pl.col("price").truediv(10).cast(pl.Float32))
    log = pl.DataFrame({"user_id": [1] * 3, "item_id": [10, 20, 30], "time": [*range(3)]})
    dataset = Dataset.load(log, items=items, schema=Schema(time="time"))
    data = dataset.split("leave-last-out").training_data("all")
    for price, item in ((0.1, 10), (0.2, 20), (0.3, 30)):
        assert chosen({"column": "price", "eq": price}, data) == [item]
        assert chosen({"column": "price", "min": price, "max": price}, data) == [item]


@pytest.mark.parametrize(
    ("low", "high"), [(3, 2.5), ("2024-02-02", "2024-02-01"), ("2024-02-01T12:00", "2024-02-01T11")]
)
def test_a_range_that_nothing_lies_in_is_refused_where_it_stands(low, high):
    tree = {"and": [{"column": "a", "eq": 1}, {"not": {"column": "x", "min": low, "max": high}}]}
    with pytest.raises(QueryError, match=r"where\.and\[1\]\.not: column 'x': min = .* above max"):
        parse(tree)
    with pytest.raises(QueryError, match="no item would be left"):
        Range("x", low, high)
    assert parse({"column": "x", "min": 2, "max": 2}) == Range("x", 2, 2)
    assert parse({"column": "x", "min": "2024-02-01T12:00", "max": "2024-02-01"}).low
