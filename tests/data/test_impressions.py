"""Logs of negatives: shown and not clicked, or dropped; nothing after the cut is read."""

from dataclasses import replace

import polars as pl
import pytest

from shortlist.bundle.data_files import data_fields, data_files, read_data
from shortlist.bundle.store import publish, verify
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.errors import BundleError, DataError

LOG = pl.DataFrame(
    {
        "user_id": [1, 1, 1, 1, 2, 2, 2, 3],
        "item_id": [10, 20, 30, 40, 10, 30, 50, 20],
        "time": [1, 3, 5, 7, 2, 4, 9, 6],
    }
)
SCHEMA = Schema(time="time", click="clicked")


def shown(*rows):
    return pl.DataFrame(
        rows,
        schema={"user_id": pl.Int64, "item_id": pl.Int64, "time": pl.Int64, "clicked": pl.Int64},
        orient="row",
    )


def loaded(impressions, log=LOG, schema=SCHEMA, **sources):
    return Dataset.load(log, impressions=impressions, schema=schema, **sources)


def lists_of(data, name="exposed"):
    """User id -> item ids, as the training data has them."""
    lists = data.logged[name]
    return {
        int(data.users.external([row])[0]): data.items.external(
            lists.values[lists.offsets[row] : lists.offsets[row + 1]].numpy()
        ).to_list()
        for row in range(1, len(data.users) + 1)
    }


def test_what_was_shown_and_not_clicked_is_listed_by_user_once():
    log = loaded(shown((1, 50, 1, 0), (1, 50, 2, 0), (1, 20, 3, 1), (2, 20, 1, 0)))
    assert lists_of(log.split("leave-last-out").training_data()) == {1: [50], 2: [20], 3: []}


def test_a_pair_clicked_at_any_time_before_the_cut_is_no_negative():
    log = loaded(shown((1, 50, 1, 0), (1, 50, 2, 1), (1, 50, 3, 0), (1, 40, 1, 0)))
    assert lists_of(log.split("leave-last-out").training_data())[1] == [40]


def test_each_user_has_a_cut_of_their_own_where_the_last_event_is_held_out():
    # User 1 trains up to 3 (5 validates, 7 tests), user 2 up to 2, user 3 all.
    rows = shown((1, 50, 3, 0), (1, 10, 4, 0), (2, 20, 3, 0), (2, 40, 2, 0), (3, 50, 6, 0))
    split = loaded(rows).split("leave-last-out")
    assert lists_of(split.training_data("train")) == {1: [50], 2: [40], 3: [50]}
    assert lists_of(split.training_data("train+validation")) == {1: [10, 50], 2: [20, 40], 3: [50]}


def test_a_cut_at_one_moment_is_the_same_for_all():
    rows = shown((1, 50, 4, 0), (2, 20, 4, 0), (3, 50, 4, 0), (1, 20, 5, 0), (3, 10, 8, 0))
    split = loaded(rows).split("global-time", at=7, validation_at=5)
    assert lists_of(split.training_data()) == {1: [50], 2: [20], 3: [50]}
    later = lists_of(split.training_data("train+validation"))  # the last training event is at 6
    assert later == {1: [20, 50], 2: [20], 3: [50]}


def test_nothing_held_out_leaves_every_row():
    rows = shown((1, 50, 100, 0), (3, 10, 100, 0))
    split = loaded(rows).split("leave-last-out")
    assert lists_of(split.training_data("all")) == {1: [50], 2: [], 3: [10]}


def test_a_row_as_late_as_a_held_out_event_does_not_count():
    log = pl.DataFrame({"user_id": [1] * 3, "item_id": [10, 20, 30], "time": [1, 5, 5]})
    split = loaded(shown((1, 30, 5, 0), (1, 20, 1, 0)), log=log).split("leave-last-out")
    assert lists_of(split.training_data("train"))[1] == [20]
    # The training rows now reach up to 5, but so does the held-out one.
    assert lists_of(split.training_data("train+validation"))[1] == [20]


def test_a_held_out_click_leaves_no_trace():
    """Neither its own row nor its absence from the negatives may tell of it."""
    before = [(1, 50, 2, 0), (2, 20, 1, 0)]
    after = [(1, 40, 7, 1), (1, 30, 5, 1), (1, 50, 7, 1), (2, 20, 9, 1), (2, 50, 9, 1)]
    clean, dirty = (
        lists_of(loaded(shown(*rows)).split("leave-last-out").training_data())
        for rows in (before, before + after)
    )
    assert clean == dirty == {1: [50], 2: [20], 3: []}


def test_the_order_of_rows_changes_nothing():
    rows = shown((1, 50, 1, 0), (1, 40, 2, 0), (1, 20, 3, 1), (2, 20, 1, 0))
    one, two = (
        loaded(r).split("leave-last-out").training_data().logged["exposed"]
        for r in (rows, rows.reverse())
    )
    assert one.values.tolist() == two.values.tolist()


def test_what_was_dropped_needs_no_clicks():
    rows = shown((1, 50, 1, 0), (2, 20, 9, 0)).drop("clicked")
    data = loaded(None, schema=Schema(time="time"), dropped=rows).split().training_data()
    assert lists_of(data, "dropped") == {1: [50], 2: [], 3: []}


def test_what_is_left_out_is_counted():
    rows = shown((1, 50, 1, 0), (1, 40, 9, 0), (99, 10, 1, 0), (1, 98, 1, 0))
    dataset = loaded(rows)
    assert dataset.report.lines()[-1] == (
        "the impressions frame: 4 rows read, 2 kept. "
        "2 left out, as their user or item is in no other table."
    )
    assert dataset.split().training_data().notes[-1] == (
        "impressions: 1 of 2 rows lie before the cut; "
        "pairs of user and item they give as negatives: 1"
    )


def test_clicks_are_whatever_is_above_zero():
    rows = shown((1, 50, 1, 0), (1, 40, 1, 1))
    for clicks in (rows["clicked"].cast(pl.Boolean), rows["clicked"] * 0.5):
        data = loaded(rows.with_columns(clicks)).split().training_data()
        assert lists_of(data)[1] == [50]


@pytest.mark.parametrize(
    ("change", "schema", "message"),
    [
        ({}, Schema(click="clicked"), "impressions: without a time nobody can tell"),
        ({}, Schema(time="time"), "give both"),
        ({}, Schema(time="time", click="click"), "no column 'click'. Did you mean 'clicked'"),
        ({}, Schema(time="time", click="time"), "click column 'time' has another role"),
        ({"user_id": pl.lit("1")}, SCHEMA, "1 is not '1'"),
        ({"item_id": pl.lit(1.0)}, SCHEMA, "ids are floats"),
        ({"clicked": pl.lit(None)}, SCHEMA, "column 'clicked', row 1"),
        ({"time": pl.lit("2024-01-31")}, SCHEMA, "in units of us, those of the interactions in n"),
    ],
)
def test_a_log_that_cannot_be_used_is_refused_with_the_reason(change, schema, message):
    rows = shown((1, 50, 1, 0)).with_columns(**change)
    with pytest.raises(DataError) as refused:
        loaded(rows, schema=schema)
    assert message in str(refused.value)


def test_a_click_column_without_impressions_is_refused():
    with pytest.raises(DataError, match="give both"):
        loaded(None)


def test_text_ids_of_a_file_match_a_log_of_text_ids(tmp_path):
    log = LOG.with_columns(pl.col("user_id").cast(pl.String))
    shown((1, 50, 1, 0)).write_csv(tmp_path / "shown.csv")
    data = loaded(tmp_path / "shown.csv", log=log).split().training_data()
    assert data.logged["exposed"].lengths.sum() == 1


def counts_of(data):
    """Item id -> (shown, clicked), of the items that were shown before the cut."""
    rows = data.shows.shown.nonzero()[0]
    ids = data.items.external(rows).to_list()
    return {
        item: (int(data.shows.shown[row]), int(data.shows.clicked[row]))
        for item, row in zip(ids, rows, strict=True)
    }


def test_shows_and_clicks_are_counted_by_item_each_time():
    rows = shown((1, 50, 1, 0), (1, 50, 2, 1), (2, 50, 1, 1), (2, 20, 2, 0), (99, 50, 1, 1))
    data = loaded(rows).split("leave-last-out").training_data()
    assert counts_of(data) == {50: (3, 2), 20: (1, 0)}
    assert len(data.shows.shown) == len(data.shows.clicked) == len(data.items) + 1


def test_shows_and_clicks_at_or_after_what_is_held_out_leave_no_trace():
    before = [(1, 50, 2, 0), (2, 20, 1, 1)]
    after = [(1, 40, 7, 1), (1, 30, 5, 1), (1, 50, 4, 1), (2, 20, 9, 1), (2, 50, 3, 0)]
    clean, dirty = (
        counts_of(loaded(shown(*rows)).split("leave-last-out").training_data())
        for rows in (before, before + after)
    )
    assert clean == dirty == {50: (1, 0), 20: (1, 1)}


def test_each_fit_counts_the_shows_before_its_own_cut():
    split = loaded(shown((1, 50, 3, 0), (1, 50, 4, 1), (1, 50, 8, 1))).split("leave-last-out")
    assert counts_of(split.training_data("train")) == {50: (1, 0)}
    assert counts_of(split.training_data("train+validation")) == {50: (2, 1)}
    assert counts_of(split.training_data("all")) == {50: (3, 2)}


def test_without_clicks_there_are_no_counts():
    rows = shown((1, 50, 1, 0)).drop("clicked")
    data = loaded(None, schema=Schema(time="time"), dropped=rows).split().training_data()
    assert data.shows is None


def test_shows_come_back_from_a_bundle_and_belong_to_its_log(tmp_path):
    data = loaded(shown((1, 50, 1, 0), (2, 20, 1, 1))).split().training_data()
    files = data_files(data)
    publish(tmp_path / "bundle", files, {"data": data_fields(data, files)})
    again = read_data(verify(tmp_path / "bundle"))
    assert counts_of(again) == counts_of(data) == {50: (1, 0), 20: (1, 1)}
    without = replace(data, shows=None)
    assert "shows.parquet" not in data_files(without)
    publish(tmp_path / "bad", data_files(without), {"data": data_fields(data, data_files(data))})
    with pytest.raises(BundleError, match="do not belong together"):
        read_data(verify(tmp_path / "bad"))
