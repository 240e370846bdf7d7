"""Columns of events: read with their rows, encoded from training rows, shown to later events."""

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.data.batches import PairBatches
from shortlist.data.dataset import Dataset
from shortlist.data.event_columns import as_inputs
from shortlist.data.schema import EventFeature, Schema
from shortlist.data.sequences import SequenceBatches
from shortlist.data.updates import read_events
from shortlist.errors import DataError

DEVICE = EventFeature("device", "categorical", known="before")
DWELL = EventFeature("dwell", "numeric", known="after")
SCHEMA = Schema(time="time", event_features=(DEVICE, DWELL))

LOG = pl.DataFrame(
    {
        "user_id": [1, 1, 1, 1, 2, 2, 2],
        "item_id": [10, 20, 30, 40, 10, 30, 20],
        "time": [1, 2, 3, 4, 1, 2, 3],
        "device": ["tv", "phone", None, "watch", "tv", "tv", "desk"],
        "dwell": [1.0, 3.0, None, 500.0, 2.0, 9.0, 900.0],
    }
)


def loaded(log=LOG, schema=SCHEMA, **options):
    return Dataset.load(log, schema=schema, **options)


def columns_by_event(data):
    """The encoded columns of each event, by (user id, item id)."""
    ids = zip(data.users.external(data.log.user), data.items.external(data.log.item), strict=True)
    columns = data.event_features.columns_of(data.log)
    return {pair: {n: c[at] for n, c in columns.items()} for at, pair in enumerate(ids)}


def test_codes_and_means_come_from_training_rows_alone():
    data = loaded().split().training_data("train")
    features = data.event_features
    # Training rows: the first two events of user 1, the first of user 2.
    assert features.encoders["device"].values == ("phone", "tv")
    assert features.encoders["dwell"].mean == 2.0
    found = columns_by_event(data)
    assert found[1, 10]["device"] == 2
    assert found[1, 20]["device"] == 1
    assert found[2, 20]["device"] == found[1, 40]["device"] == 0  # never seen in training
    assert np.isnan(found[1, 30]["dwell"])
    assert found[1, 10]["dwell"] == pytest.approx(-(1.5**0.5))  # (1 - 2) / std of 1, 3, 2
    assert loaded().split().training_data("all").event_features.encoders["device"].width == 5


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_changes_nothing_not_even_among_repeats(seed):
    repeats = LOG.with_columns(device=pl.lit("fridge"), dwell=pl.lit(None, dtype=pl.Float64))
    both = pl.concat([LOG, repeats])
    shuffled = both.sample(len(both), shuffle=True, seed=seed)
    one, two = (loaded(log).split().training_data("all") for log in (both, shuffled))
    assert str(columns_by_event(one)) == str(columns_by_event(two))
    assert len(one.log) == len(LOG)


def test_a_text_file_gives_what_a_frame_gives(tmp_path):
    LOG.write_csv(tmp_path / "log.csv")
    read = loaded(tmp_path / "log.csv").split().training_data("all")
    assert str(columns_by_event(read)) == str(
        columns_by_event(loaded().split().training_data("all"))
    )


def test_lists_beside_lists_of_items_are_unfolded_with_them():
    log = pl.DataFrame(
        {"user_id": [1], "item_id": [[10, 20, 30]], "device": [["tv", "tv", "phone"]]}
    )
    schema = Schema(event_features=(DEVICE,))
    data = loaded(log, schema)
    assert data.event_values["device"].to_list() == ["phone", "tv"]
    read = zip(data.log.item.tolist(), data.log.columns["device"].tolist(), strict=True)
    assert set(read) == {(0, 2), (1, 2), (2, 1)}


def test_kinds_and_weights_can_be_read_of_past_events_too():
    log = LOG.with_columns(event=pl.Series(["view", "buy", "buy", "buy", "view", "buy", "buy"]))
    schema = Schema(
        time="time",
        weight="dwell",
        event="event",
        events={"view": {}, "buy": {"target": True}},
        event_features=(
            EventFeature("event", "categorical", known="after"),
            EventFeature("dwell", "numeric", known="after"),
        ),
    )
    data = loaded(log.with_columns(pl.col("dwell").fill_null(4)), schema).split()
    data = data.training_data("all")
    found = columns_by_event(data)
    kinds = data.event_features.encoders["event"].values
    assert kinds == data.log.kinds.names
    assert kinds[found[1, 10]["event"] - 1] == "view"
    assert kinds[found[1, 20]["event"] - 1] == "buy"
    assert set(data.log.columns) == {"dwell"}  # the kinds stand in the log once


def test_what_cannot_be_a_feature_of_an_event_is_refused():
    missing = Schema(event_features=(EventFeature("page", "categorical", known="before"),))
    with pytest.raises(DataError, match=r"no column 'page'.*features.events"):
        loaded(schema=missing)
    words = LOG.with_columns(dwell=pl.Series(["1", "2", "3", "long", "1", "2", "3"]))
    with pytest.raises(DataError, match=r"'dwell', row 4: .*must be a number, got 'long'"):
        loaded(words)
    lists = LOG.with_columns(device=pl.Series([["tv"]] * 7))
    with pytest.raises(DataError, match=r"'device', row 1: .*one value an event, not a list"):
        loaded(lists)
    for name in ("user_id", "time"):
        with pytest.raises(DataError, match="has a meaning of its own"):
            Schema(time="time", event_features=(EventFeature(name, "numeric", known="before"),))
    with pytest.raises(DataError, match="kind must be 'categorical' or 'numeric', got 'vector'"):
        EventFeature("page", "vector", known="before")
    with pytest.raises(DataError, match="known must be 'before' or 'after', got 'later'"):
        EventFeature("page", "categorical", known="later")
    far = LOG.with_columns(dwell=pl.Series([1.0, 1.0, 1.0, 1e20, 1.0, 1.0, 1.0]))
    with pytest.raises(DataError, match="column 'dwell': 1e\\+20 is too large"):
        loaded(far).split().training_data("train")


# A past event's columns are seen by later events alone. Each event is given a number of its own as
# a feature, so that a batch tells which events it shows.


def numbered(users=30, seed=0, kinds=False):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 20, users)
    rows = [
        (user, int(rng.integers(50)), time) for user in range(users) for time in range(sizes[user])
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "time"], orient="row")
    log = log.with_columns(number=pl.arange(len(log)).cast(pl.String))
    if kinds:
        log = log.with_columns(event=pl.Series(rng.choice(["view", "buy"], len(log))))
    more = {"event": "event", "events": {"view": {}, "buy": {"target": True}}} if kinds else {}
    feature = EventFeature("number", "categorical", known="after")
    schema = Schema(time="time", event_features=(feature,), **more)
    data = loaded(log, schema).split("leave-last-out").training_data("all")
    place = np.empty(len(data.log) + 1, dtype=np.int64)
    place[data.log.columns["number"]] = np.arange(len(data.log))
    return data, place


@pytest.mark.parametrize("kinds", [False, True])
@pytest.mark.parametrize("make", ["pairs", "unordered", "windows", "stretches"])
def test_a_batch_shows_the_columns_of_earlier_events_alone(make, kinds):
    data, place = numbered(kinds=kinds)
    log, columns = data.log, data.log.columns
    options = {"batch_size": 16, "history_length": 6, "past": columns, "context": columns}
    if make in ("pairs", "unordered"):
        batches = PairBatches(log, ordered=make == "pairs", **options)
    else:
        batches = SequenceBatches(log, **options, stretch=4 if make == "stretches" else None)
    asked = 0
    for batch in batches.epoch(torch.Generator().manual_seed(0)):
        shown = place[batch.past["number"].numpy()]
        target = place[batch.context["number"].numpy()]
        assert (log.item[shown] == batch.history.values.numpy()).all()
        assert (log.item[target] == batch.positive.numpy()).all()
        assert (log.user[target] == batch.users.numpy()).all()
        owner = batch.history.owners()
        for row in range(len(target)):
            if batch.place is None:
                mine = shown[(owner == row).numpy()]
            else:
                end = int(batch.place[row])
                first = int(batch.history.offsets[owner[end]])
                mine = shown[first : end + 1]
            assert (log.user[mine] == log.user[target[row]]).all()
            assert target[row] not in mine
            if make != "unordered":
                assert (mine < target[row]).all()
        asked += len(target)
    assert asked > 50


def test_the_event_asked_for_at_a_cut_is_the_first_target_held_out():
    data = loaded().split().training_data("train")
    for cut, items in (("validation", {1: 30, 2: 30}), ("test", {1: 40, 2: 20})):
        for user, item in items.items():
            at = data.first_held_out[cut][data.users.rows([user])[0]]
            assert data.items.external(data.log.item[[at]])[0] == item
    assert data.first_held_out["test"][0] == -1


# --- new events -----------------------------------------------------------------------------------


def test_new_events_are_encoded_as_those_of_training():
    data = loaded().split().training_data("all")
    new = pl.DataFrame(
        {
            "user_id": [1, 2],
            "item_id": [50, 50],
            "time": [9, 9],
            "device": ["phone", "fridge"],
            "dwell": [None, 2.0],
        }
    )
    found = columns_by_event(read_events(data, new, SCHEMA).data)
    assert data.event_features.encoders["device"].values[found[1, 50]["device"] - 1] == "phone"
    assert found[2, 50]["device"] == 0  # known after the next fit
    assert np.isnan(found[1, 50]["dwell"])
    assert found[2, 50]["dwell"] == found[2, 10]["dwell"]
    assert found[1, 10] == columns_by_event(data)[1, 10]


def test_new_events_without_the_columns_are_refused():
    data = loaded().split().training_data("all")
    new = LOG.head(1).with_columns(time=pl.lit(9))
    with pytest.raises(DataError, match="no column 'dwell'"):
        read_events(data, new.drop("dwell"), SCHEMA)
    with pytest.raises(DataError, match=r"features.events names \(none\), .* fitted with device"):
        read_events(data, new, Schema(time="time"))
    with pytest.raises(DataError, match=r"interactions frame.*'dwell': 1e\+19 is too large"):
        read_events(data, new.with_columns(dwell=pl.lit(1e19)), SCHEMA)


def test_a_number_that_is_missing_is_zero_and_marked():
    read = as_inputs({"dwell": torch.tensor([2.0, torch.nan]), "device": torch.tensor([0, 3])})
    assert read["dwell"].tolist() == [[2.0, 0.0], [0.0, 1.0]]
    assert read["device"].tolist() == [0, 3]
