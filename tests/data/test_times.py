"""Times: what their numbers mean, exact keys, and new times that do not belong to the log."""

import datetime as dt

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.data.times import checked_times, refuse_far, time_key, told
from shortlist.data.updates import read_events
from shortlist.errors import DataError


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
    with pytest.raises(DataError, match="row 2: the time 'soon' is not written like most"):
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
    assert time_key("1970-01-02 12:00:00 UTC", "day") == 1.5


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


# --- what the numbers of a column are

MOMENT = 1_600_000_000


@pytest.mark.parametrize(
    ("first", "unit"),
    [
        (MOMENT, "s"),
        (MOMENT * 10**3, "ms"),
        (MOMENT * 10**6, "us"),
        (MOMENT * 10**9, "ns"),
        (float(MOMENT) + 0.5, "s"),
        (20200913, "yyyymmdd"),
        (20200913122640, "yyyymmddhhmmss"),
        (5, "number"),
        (41, "number"),
        (5_000_000, "number"),
    ],
)
def test_the_unit_of_numbers_is_read_off_their_size_and_said(first, unit):
    keys, found = checked_times(pl.Series("t", [first, first + 10]), "f")
    assert found == unit
    said = told(keys, found)
    assert ("2020-09-13" in said) == (unit != "number"), said
    if unit != "number":
        # Whatever the unit, the same moment is the same key, so a cut by a date works.
        assert time_key("2020-09-13", unit) <= keys[0] < time_key("2020-09-14", unit)
        assert time_key(first, unit) == keys[0]


def test_dates_written_as_numbers_count_days_and_not_numbers():
    column = pl.Series("t", [20240131, 20240201, 20231231, 20240131])
    keys, _ = checked_times(column, "f")
    assert (keys - keys[0]).to_list() == [0, 1, -31, 0]
    with pytest.raises(DataError, match=r"row 2: 20240230 is no date written as yyyymmdd"):
        checked_times(pl.Series("t", [20240131, 20240230, *[20240131] * 20]), "f", "yyyymmdd")


def test_a_few_times_that_are_missing_change_no_unit_and_are_said():
    column = pl.Series("t", [MOMENT] * 30 + [0])
    keys, unit = checked_times(column, "f")
    assert (unit, keys.to_list()) == ("s", column.to_list())
    assert "1 outside 1990 to 2100, the first 0 in row 31" in told(keys, unit)


def test_times_of_two_units_are_refused_by_the_row_of_the_odd_one():
    column = pl.Series("t", [MOMENT, MOMENT + 5, MOMENT * 1000])
    with pytest.raises(DataError, match=r"row 3: the time 1600000000000 has the size of millisec"):
        checked_times(column, "f")
    assert checked_times(column, "f", "number")[1] == "number"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([45292, 45293], r"spreadsheets count them .*45292.* would be 2024-01-01"),
        ([45292.25, 45293.5], "spreadsheets"),
        ([2024013109, 2024013110], "yyyymmddhh or yyyymmddhhmm"),
        ([202401310930, 202401311000], "yyyymmddhh or yyyymmddhhmm"),
    ],
)
def test_what_may_be_a_time_of_another_kind_is_refused_until_it_is_said(values, reason):
    with pytest.raises(DataError, match=reason):
        checked_times(pl.Series("t", values), "f")
    assert checked_times(pl.Series("t", values), "f", "number")[1] == "number"


def test_a_unit_is_for_numbers_and_needs_a_time_column():
    log = pl.DataFrame({"user_id": [1], "item_id": [2], "t": ["2024-01-31"]})
    with pytest.raises(DataError, match=r"data.time_unit = 's' is for numbers"):
        Dataset.load(log, schema=Schema(time="t", time_unit="s"))
    for fault, match in (({"time_unit": "s"}, "time column"), ({"time_unit": "m"}, "no time_unit")):
        with pytest.raises(DataError, match=match):
            Schema(**fault)


def test_a_unit_that_puts_every_time_into_a_far_future_is_refused():
    log = pl.DataFrame({"user_id": [1], "item_id": [2], "t": [MOMENT * 1000]})
    with pytest.raises(DataError, match=r"time_unit = 's'.* after 2100.*milliseconds \('ms'\)"):
        Dataset.load(log, schema=Schema(time="t", time_unit="s"))
    assert Dataset.load(log, schema=Schema(time="t", time_unit="us")).report.time_unit == "us"


# --- new times beside those of a log


def fitted(times, **schema):
    users = [1 + n % 2 for n in range(len(times))]
    log = pl.DataFrame(
        {"user_id": users, "item_id": [n % 3 for n in range(len(times))], "t": times}
    )
    data = Dataset.load(log, schema=Schema(time="t", **schema)).split("leave-last-out")
    return data.training_data("all")


def new(*times):
    return pl.DataFrame({"user_id": [1] * len(times), "item_id": [7] * len(times), "t": [*times]})


DAY = 86_400
LOG = [MOMENT + n * DAY for n in range(8)]


@pytest.mark.parametrize(
    ("times", "came"),
    [
        (LOG, [MOMENT * 1000]),
        ([time * 1000 for time in LOG], [MOMENT + 9 * DAY]),
        (LOG, ["2020-09-30"]),
        (LOG, [20200930]),
        (LOG, [0]),
        (LOG, [MOMENT + 20 * 365 * DAY]),
        ([*range(8)], [MOMENT]),
    ],
)
def test_an_update_in_another_unit_or_far_away_is_refused_with_both_ranges(times, came):
    data = fitted(times)
    with pytest.raises(DataError, match=r"column 't'.* (from|to) .*log"):
        read_events(data, new(*came), Schema(time="t"))


def test_an_update_is_read_in_the_unit_of_the_bundle_whatever_it_looks_like_alone():
    data = fitted([10**9 + n for n in range(8)], time_unit="ms")  # twelve days after some start
    update = read_events(data, new(10**9 + 100), Schema(time="t"))
    assert (data.time_unit, update.data.time_unit, update.events) == ("ms", "ms", 1)
    days = fitted([20200901 + n for n in range(8)])
    update = read_events(days, new(20201001), Schema(time="t"))
    assert update.data.log.time.max() - days.log.time.max() == 23
    with pytest.raises(DataError, match="row 1: 1600000000 is no date written as yyyymmdd"):
        read_events(days, new(MOMENT), Schema(time="t"))


def test_bundles_that_know_no_unit_still_tell_seconds_from_milliseconds():
    log = pl.Series(LOG).to_numpy()
    with pytest.raises(DataError, match=r"size of milliseconds .*of the log that of seconds"):
        refuse_far("f", "t", pl.Series([MOMENT * 1000]), log, "number")
    refuse_far("f", "t", pl.Series([MOMENT + 300 * DAY]), log, "number")


def test_shown_items_in_another_unit_than_the_log_are_refused():
    log = pl.DataFrame({"user_id": [1] * 8, "item_id": [*range(8)], "t": LOG})
    shown = pl.DataFrame({"user_id": [1], "item_id": [2], "t": [MOMENT * 1000], "click": [0]})
    with pytest.raises(DataError, match="size of milliseconds"):
        Dataset.load(log, impressions=shown, schema=Schema(time="t", click="click"))


@pytest.mark.parametrize(
    ("texts", "first"),
    [
        (["31.01.2024 10:00", "01.02.2024 09:00"], "2024-01-31T10:00:00"),
        (["1.5.2020", "12.5.2020"], "2020-05-01T00:00:00"),
        (["2014-12-06 02", "2014-12-07 23"], "2014-12-06T02:00:00"),
        (["2024/01/31 07:30:15", "2024/02/01 00:00:00"], "2024-01-31T07:30:15"),
        (["11/9/2019 9:05:58 PM", "11/15/2019 1:22:32 AM"], "2019-11-09T21:05:58"),
        (["01/02/2024 11:00", "31/01/2024 10:00"], "2024-02-01T11:00:00"),
        (["2019-10-01 00:00:04 UTC", "2019-10-31 23:59:59 UTC"], "2019-10-01T00:00:04"),
        (["2015-12-31T23:59:59.5GMT", "2016-01-01T00:00:00.0GMT"], "2015-12-31T23:59:59.5"),
    ],
)
def test_dates_as_spreadsheets_write_them_are_read_where_all_say_the_same(texts, first):
    keys, unit = checked_times(pl.Series("t", texts), "log.csv")
    assert unit == "us"
    at = dt.datetime.fromisoformat(first).replace(tzinfo=dt.UTC)
    assert keys[0] == at.timestamp() * 1e6


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["01/02/2024", "03/04/2024"], "the day or the month first"),
        (["5/6/24", "7/8/24"], "not ISO 8601"),
        (["1.5.20", "2.5.20"], "not ISO 8601"),
        (["01/31/2024", "31/01/2024"], "not ISO 8601"),
        (["31.01.2024", "2024-02-01"], "is not written like most"),
        (["2019-10-01 00:00:04 UTC"] * 3 + ["2019-10-01 00:00:04 EST"], "is not written like most"),
    ],
)
def test_dates_that_can_be_read_in_two_ways_or_none_are_refused(texts, said):
    with pytest.raises(DataError, match=said):
        checked_times(pl.Series("t", texts), "log.csv")
