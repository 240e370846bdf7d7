"""New events: old rows stay, nothing is counted twice, and counting channels follow exactly."""

import numpy as np
import polars as pl
import pytest

from shortlist.channels.counting.popular import Popular
from shortlist.data.dataset import Dataset
from shortlist.data.predicates import allowed_rows, parse
from shortlist.data.schema import Schema
from shortlist.data.updates import read_events, with_events
from shortlist.errors import DataError, ModelError

SCHEMA = Schema(time="time")


@pytest.fixture
def data(tiny_log):
    split = Dataset.load(tiny_log, schema=SCHEMA).split("leave-last-out")
    return split.training_data("all")


def events(**columns):
    return pl.DataFrame(columns)


def test_a_new_event_stands_in_its_users_history_by_time(data):
    update = with_events(data, events(user=[1], item=[40], time=[6]))
    row = data.users.rows([1])[0]
    mine = update.data.log.user == row
    assert update.data.log.time[mine].tolist() == [2, 2, 5, 6, 8]
    assert (update.events, update.repeated, update.new_users, update.new_items) == (1, 0, 0, 0)


def test_new_ids_get_rows_after_the_old_ones(data):
    update = with_events(data, events(user=[9, 1], item=[99, 99], time=[1, 9]))
    old = data.users.ids.to_list()
    assert update.data.users.ids.to_list() == [*old, 9]
    assert update.data.users.trained == data.users.trained
    assert (update.data.items.rows(data.items.ids) == data.items.rows(data.items.ids)).all()
    assert (update.new_users, update.new_items) == (1, 1)
    assert len(update.data.log.indptr) == len(update.data.users) + 2


def test_an_event_that_is_there_already_is_counted_not_added(data):
    update = with_events(data, events(user=[3, 3, 3], item=[20, 20, 30], time=[9, 9, 9]))
    assert (update.events, update.repeated) == (1, 2)
    assert len(update.data.log) == len(data.log) + 1


def test_popularity_follows(data):
    update = with_events(data, events(user=[2, 3], item=[20, 30], time=[10, 11]))
    popular = Popular().fit_data(data).observe(update.data)
    whole = Popular().fit_data(update.data)
    assert (popular.recommend([3], 4).scores == whole.recommend([3], 4).scores).all()
    counts = dict(zip(popular.data.items.ids, popular.data.item_counts[1:], strict=True))
    assert counts == {10: 2, 20: 3, 30: 3, 40: 2}


def test_held_out_rows_must_not_become_known(tiny_log):
    split = Dataset.load(tiny_log, schema=SCHEMA).split("leave-last-out")
    with pytest.raises(ModelError, match="refit = 'all'"):
        with_events(split.training_data("train"), events(user=[1], item=[10], time=[9]))


def test_missing_columns_and_other_units_are_refused(data):
    with pytest.raises(DataError, match="'time'"):
        with_events(data, events(user=[1], item=[10]))
    dated = pl.DataFrame({"user_id": [1], "item_id": [10], "time": ["2024-01-01"]})
    with pytest.raises(
        DataError,
        match=r"2024-01-01.*microseconds; those of the bundle's log from 1 to 9.*in one unit",
    ):
        read_events(data, dated, SCHEMA)


def test_features_of_new_users_are_unknown(split):
    data = split.training_data("all")
    some = events(
        user=["new"] if data.users.ids.dtype == pl.String else [10**9],
        item=[data.items.ids[0]],
        time=[int(data.log.time.max()) + 1],
        weight=[1.0],
    )
    grown = with_events(data, some).data
    row = len(grown.users)
    for name, column in grown.user_features.columns.items():
        if not hasattr(column, "offsets"):
            assert np.array_equal(column[row].numpy(), column[0].numpy(), equal_nan=True), name


def test_a_condition_asked_before_the_events_has_a_place_for_the_new_items(split):
    data = split.training_data("all")
    where = parse({"not": {"column": "price", "min": 1_000}})
    assert len(allowed_rows(data, where)) == len(data.items) + 1
    user, item = data.users.ids[0], int(data.items.ids.max()) + 1
    new = events(user=[user], item=[item], time=[1], weight=[1.0])
    later = with_events(data, new).data
    assert len(allowed_rows(later, where)) == len(later.items) + 1 == len(data.items) + 2


def test_new_events_that_are_written_otherwise_than_the_log_are_refused(tmp_path):
    rows = "".join(f"{n % 9},{n % 5},{n}\n" for n in range(40))
    (tmp_path / "log.csv").write_text("user_id;item_id;time\n" + rows.replace(",", ";"))
    log = Dataset.load(tmp_path / "log.csv", schema=SCHEMA)
    data = log.split("leave-last-out").training_data("all")
    assert (data.text.separator, data.text.quote) == (";", None)
    (tmp_path / "same.csv").write_text('user_id;item_id;time\n"1";"2";50\n')
    assert read_events(data, tmp_path / "same.csv", SCHEMA).events == 1
    (tmp_path / "other.csv").write_text("user_id,item_id,time\n1,2,50\n")
    with pytest.raises(DataError, match=r"other\.csv: its separator is ',', that of .* log ';'"):
        read_events(data, tmp_path / "other.csv", SCHEMA)


def test_new_events_that_share_no_id_with_the_bundle_are_warned_of(data):
    strange = pl.DataFrame({"user_id": [1], "item_id": [999], "time": [12]})
    update = read_events(data, strange, SCHEMA)
    assert update.warnings == (
        "0 of 1 items of the interactions frame are known (the bundle has 10, the file 999)",
    )
    assert update.line().endswith("the file 999).")
    assert read_events(data, strange.with_columns(item_id=10), SCHEMA).warnings == ()


def test_new_times_with_fractions_are_refused_beside_whole_ones(data):
    """Cut off, 6.2 and 6.7 would be one event, and 5.9 one that is there already."""
    came = pl.DataFrame({"user_id": [1, 1], "item_id": [40, 40], "time": [6.0, 6.7]})
    with pytest.raises(DataError, match=r"6\.7 has a fraction"):
        read_events(data, came, SCHEMA)
    whole = read_events(data, came.head(1), SCHEMA)
    assert (whole.events, whole.repeated) == (1, 0)
