"""The log sorted once, split without leaks, and rows that never depend on the future."""

import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from shortlist.channels.counting.item_cf import ItemCF
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.interactions import Role
from shortlist.data.schema import Feature, Schema
from shortlist.data.updates import read_events
from shortlist.errors import DataError, ModelError, SplitError
from shortlist.evaluation.evaluate import evaluate

TIMED = Schema(time="time")


def history(dataset: Dataset, user: int) -> list[int]:
    code = dataset.user_ids.to_list().index(user)
    start, end = dataset.log.indptr[code : code + 2]
    return dataset.item_ids.gather(dataset.log.item[start:end]).to_list()


def test_events_are_sorted_by_user_then_time(tiny_log):
    dataset = Dataset.load(tiny_log, schema=TIMED)
    assert history(dataset, 2) == [10, 40, 30]
    assert history(dataset, 1)[2:] == [10, 40]
    assert set(history(dataset, 1)[:2]) == {20, 30}


def test_equal_times_follow_the_file_only_when_asked(tiny_log):
    in_file = Dataset.load(tiny_log, schema=Schema(time="time", tie="file"))
    backwards = Dataset.load(tiny_log.reverse(), schema=Schema(time="time", tie="file"))
    assert history(in_file, 1)[:2] == [20, 30]
    assert history(backwards, 1)[:2] == [30, 20]


def test_by_default_the_order_of_rows_in_the_file_changes_nothing(world):
    shuffled = world.interactions.sample(fraction=1.0, shuffle=True, seed=5)
    coarse = pl.col("timestamp") // 5_000_000  # many ties
    one, two = (
        Dataset.load(frame.with_columns(coarse), schema=Schema(time="timestamp")).split()
        for frame in (world.interactions, shuffled)
    )
    assert (one.log.item == two.log.item).all()
    assert (one.log.role == two.log.role).all()


def test_leave_last_out_keeps_a_training_event_with_everybody(tiny_log):
    split = Dataset.load(tiny_log, schema=TIMED).split("leave-last-out")
    roles = {
        int(user): split.log.role[split.log.indptr[code] : split.log.indptr[code + 1]].tolist()
        for code, user in enumerate(split.dataset.user_ids)
    }
    assert roles == {1: [0, 0, 1, 2], 2: [0, 1, 2], 3: [0]}


def test_global_time_cuts_at_a_quantile_or_a_value(world):
    dataset = Dataset.load(world.interactions, schema=Schema(time="timestamp"))
    for split in (dataset.split("global-time", at=0.8), dataset.split("global-time")):
        log = split.log
        latest_train = log.time[log.role == Role.TRAIN].max()
        assert latest_train < log.time[log.role == Role.VALIDATION].min()
        assert log.time[log.role == Role.VALIDATION].max() < log.time[log.role == Role.TEST].min()
    moment = int(np.sort(dataset.log.time)[5000])
    by_value = dataset.split("global-time", at=moment)
    assert ((by_value.log.role == Role.TEST) == (by_value.log.time >= moment)).all()


def test_random_hold_out_takes_the_share_from_each_user_and_is_seeded(world):
    dataset = Dataset.load(world.interactions.drop("timestamp"), schema=Schema())
    first, again, other = (dataset.split("random", at=0.75, seed=s) for s in (1, 1, 2))
    assert (first.log.role == again.log.role).all()
    assert (first.log.role != other.log.role).any()
    held = np.bincount(first.log.user[first.log.role == Role.TEST], minlength=300)
    assert (held == np.round(np.diff(first.log.indptr) * 0.25)).all()
    assert "unordered" in first.notes[0]
    for wrong, message in (
        ({"at": "a"}, "a share between 0 and 1 for kind 'random', got 'a'"),
        ({"at": 1}, "a share between 0 and 1 for kind 'random', got 1"),
        ({"seed": "a"}, "split.seed must be a whole number, got 'a'"),
        ({"seed": 0.5}, "split.seed must be a whole number, got 0.5"),
    ):
        with pytest.raises(SplitError, match=re.escape(message)):
            dataset.split("random", **wrong)


def test_a_split_column_is_obeyed_and_missing_validation_is_carved_and_said(tiny_log):
    column = pl.Series("cut", ["train"] * 4 + ["test", "train", "test", "test"])
    frame = pl.concat([tiny_log] * 10).with_row_index("n")
    frame = frame.with_columns(
        (pl.col("item_id") + 100 * pl.col("n")).alias("item_id"),
        pl.concat([column] * 10).alias("cut"),
    )
    split = Dataset.load(frame, schema=Schema(time="time", split="cut")).split()
    assert split.kind == "column"
    assert (split.log.role == Role.TEST).sum() == 30
    assert "validation" in split.notes[0]
    training = (split.log.role != Role.TEST).sum()
    assert (split.log.role == Role.VALIDATION).sum() == pytest.approx(training / 10, abs=2)


@pytest.mark.parametrize(
    ("schema", "kind", "options", "message"),
    [
        (Schema(), "leave-last-out", {}, "data.time"),
        (Schema(), "global-time", {}, "data.time"),
        (TIMED, "leave-last", {}, "leave-last-out"),
        (TIMED, "leave-last-out", {"at": 0.5}, "split.at does nothing"),
        (TIMED, "leave-last-out", {"seed": 3}, "split.seed does nothing"),
        (TIMED, "global-time", {"seed": 3}, "split.seed does nothing"),
        (TIMED, "random", {"at": 1.5}, "between 0 and 1"),
        (TIMED, "global-time", {"at": 1000}, "leaves 8 of 8 rows"),
        (TIMED, "column", {}, "split.column"),
        (TIMED, "rolling", {}, "call Dataset.folds for them"),
        (TIMED, "random", {"items": "newest"}, "split.items does nothing for kind 'random'"),
        (TIMED, "cold-items", {"at": 5}, "between 0 and 1"),
        (TIMED, "cold-items", {"at": 0.99}, "of 4 items leaves 4 to train, 0 to validate and 0"),
        (TIMED, "cold-items", {"items": "oldest"}, "'random' or 'newest', got 'oldest'"),
        (
            TIMED,
            "cold-items",
            {"items": "newest", "seed": 2},
            "^split.seed does nothing for split.items = 'newest'; remove it$",
        ),
        (Schema(), "cold-items", {"items": "newest"}, "data.time"),
    ],
)
def test_a_split_the_log_cannot_give_is_refused_with_the_reason(
    tiny_log, schema, kind, options, message
):
    with pytest.raises(SplitError, match=message):
        Dataset.load(tiny_log, schema=schema).split(kind, **options)


FIVE = pl.DataFrame(
    {
        "user_id": [1, 1, 1, 2, 2, 2, 2, 3],
        "item_id": [10, 20, 50, 20, 30, 40, 50, 10],
        "time": [1, 2, 9, 3, 4, 5, 6, 7],
    }
)
"""Five items, which first appear in the order of their ids."""


def roles_by_item(split):
    """The role of each item's events; fails where an item has two."""
    ids = split.dataset.item_ids.gather(split.log.item).to_list()
    found = {}
    for item, role in zip(ids, split.log.role.tolist(), strict=True):
        assert found.setdefault(item, role) == role
    return found


def test_the_newest_items_are_held_out_with_all_their_events():
    """Of five items at = .6 holds out 2 for test, and of the 3 left 1.2, so 1, for validation."""
    split = Dataset.load(FIVE, schema=TIMED).split("cold-items", at=0.6, items="newest")
    assert roles_by_item(split) == {10: 0, 20: 0, 30: 1, 40: 2, 50: 2}
    data = split.training_data()
    assert data.items.ids[: data.items.trained].to_list() == [10, 20]
    assert data.item_counts.tolist() == [0, 2, 2]
    assert "2 items are held out for test and those of 1 others for validation" in data.notes[0]
    users, items, offsets = data.targets("test")
    assert data.users.external(users).to_list() == [1, 2]
    assert [data.items.external(items[offsets[u] : offsets[u + 1]]).to_list() for u in (0, 1)] in (
        [[50], [40, 50]],
        [[50], [50, 40]],
    )


def test_cold_items_are_drawn_by_the_seed_whatever_the_order_of_rows():
    drawn = [
        roles_by_item(Dataset.load(frame, schema=TIMED).split("cold-items", at=0.6, seed=seed))
        for frame in (FIVE, FIVE.reverse())
        for seed in range(5)
    ]
    assert drawn[:5] == drawn[5:]
    assert len({str(sorted(each.items())) for each in drawn}) > 1
    assert all(sorted(each.values()) == [0, 0, 1, 2, 2] for each in drawn)


@pytest.mark.parametrize("items", ["random", "newest"])
def test_nothing_that_is_fitted_changes_with_the_events_of_cold_items(world, world_schema, items):
    """Nor with those below min_weight, with what was shown, or with columns of the log."""
    schema = replace(world_schema, min_weight=3.0, click="click")
    shown = world.interactions.select("user_id", "item_id", "timestamp", click=pl.lit(0))

    def load(log, impressions):
        return Dataset.load(
            *(log,), users=world.users, items=world.items, impressions=impressions, schema=schema
        )

    split = load(world.interactions, shown).split("cold-items", items=items)
    held = split.dataset.item_ids.gather(np.unique(split.log.item[split.log.role > 0]))
    cold = pl.col("item_id").is_in(held.implode())
    # As many events of cold items as before, so that they stay cold: of other users, liked.
    turned = world.interactions.with_columns(
        pl.when(cold).then(pl.col("user_id").reverse()).otherwise("user_id").alias("user_id"),
        pl.when(cold).then(pl.lit(5.0)).otherwise("rating").alias("rating"),
    ).unique(["user_id", "item_id", "timestamp"], maintain_order=True)
    other = load(turned, shown.with_columns(click=cold.cast(pl.Int64))).split(
        "cold-items", items=items
    )
    assert set(roles_by_item(other)) >= set(held)
    assert {i for i, role in roles_by_item(other).items() if role > 0} == set(held)
    one, two = (each.training_data() for each in (split, other))
    assert one.items.ids[: one.items.trained].equals(two.items.ids[: two.items.trained])
    assert not one.items.ids[: one.items.trained].is_in(held.implode()).any()
    assert one.users.ids[: one.users.trained].equals(two.users.ids[: two.users.trained])
    assert (one.training_log.item == two.training_log.item).all()
    assert (one.training_log.user == two.training_log.user).all()
    assert one.item_features.encoders == two.item_features.encoders
    assert one.met.before("validation").item.tolist() == two.met.before("validation").item.tolist()
    assert not np.isin(one.logged["exposed"].values.numpy(), one.items.rows(held)).any()
    assert one.shows.clicked[one.items.rows(held)].sum() == 0
    assert two.shows.clicked.sum() == 0


def test_a_model_of_features_finds_cold_items_and_one_of_ids_says_that_it_cannot(
    world, world_schema
):
    split = Dataset.load(
        world.interactions, users=world.users, items=world.items, schema=world_schema
    ).split("cold-items")
    by_features = evaluate(TwoTower(dim=16, epochs=3, batch_size=128, seed=1).fit(split), k=[50])
    assert by_features.candidate_items == 200
    assert by_features.counts["held_out_items_not_candidates"] == 0
    assert by_features.metrics["recall@50"].mean > 50 / 200
    by_ids = evaluate(ItemCF().fit(split), k=[50])
    assert by_ids.metrics["recall@50"].mean == 0
    assert by_ids.counts["held_out_items_not_candidates"] == by_ids.counts["held_out_events"]
    assert any(
        "held-out events had an item that this model cannot recommend" in s for s in by_ids.lines()
    )


ONE_A_MOMENT = pl.DataFrame(
    {
        "user_id": [1, 2, 3, 1, 2, 3, 1, 2, 3, 1],
        "item_id": [1, 1, 1, 2, 2, 2, 3, 3, 3, 4],
        "time": range(10),
    }
)


def test_each_fold_tests_what_comes_next_and_knows_nothing_of_later():
    """Ten events: the first cut at .4 is at time 4; three folds share six events: 4-5, 6-7, 8-9."""
    folds = Dataset.load(ONE_A_MOMENT, schema=TIMED).folds(3, at=0.4)
    tested = [sorted(f.log.time[f.log.role == Role.TEST].tolist()) for f in folds]
    assert tested == [[4, 5], [6, 7], [8, 9]]
    assert [len(f.log) for f in folds] == [6, 8, 10]
    # Validation takes the same share of what is left as global-time: 4 of 6 of the first 4 train.
    assert [sorted(f.log.time[f.log.role == Role.TRAIN].tolist()) for f in folds] == [
        [0, 1],
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4, 5],
    ]
    assert {f.kind for f in folds} == {"global-time"}
    assert folds[0].notes == ("fold 1 of 3: its log ends after 6 of 10 events",)
    whole = Dataset.load(ONE_A_MOMENT, schema=TIMED).split("global-time", at=8)
    assert (folds[-1].log.role == whole.log.role).all()


def test_a_fold_is_the_global_cut_of_the_log_as_it_was_then(world, world_schema):
    """All of it: ids, statistics, what was met below min_weight, shown, or told by the log."""
    log = world.interactions.join(world.items.select("item_id", "price"), on="item_id")
    # A price that changes with time: the latest known value is kept.
    log = log.with_columns(price=pl.col("price") + pl.col("timestamp") % 97).sort("timestamp")
    schema = replace(
        world_schema,
        min_weight=2.0,
        click="click",
        title=None,
        item_features=(Feature("price", "numeric"),),
    )
    shown = log.select("user_id", "item_id", "timestamp", click=pl.lit(0))

    def load(frame, impressions):
        return Dataset.load(frame, users=world.users, impressions=impressions, schema=schema)

    moments = [int(log["timestamp"].quantile(q)) for q in (0.6, 0.8)]
    fold = load(log, shown).folds(2, at=moments[0])[0]
    end = fold.log.time.max()
    assert end < moments[1] + 1
    then = pl.col("timestamp") <= end
    alone = load(log.filter(then), shown.filter(then)).split("global-time", at=moments[0])
    one, two = fold.training_data("all"), alone.training_data("all")
    for mine, other in ((one, two), (fold.training_data(), alone.training_data())):
        trained = mine.items.ids[: mine.items.trained]
        assert trained.equals(other.items.ids[: other.items.trained])
        assert (mine.item_counts == other.item_counts).all()
        assert mine.item_features.encoders == other.item_features.encoders
        known = mine.item_frame.join(other.item_frame, on=["id", "price"])
        assert len(known) == len(mine.item_frame) == len(other.item_frame)
        assert len(mine.met) == len(other.met)
        assert mine.shows.shown.sum() == other.shows.shown.sum()
        assert len(mine.logged["exposed"].values) == len(other.logged["exposed"].values)


@pytest.mark.parametrize(
    ("number", "at", "message"),
    [
        (1, 0.5, "must be 2 or more, got 1"),
        (4, 7, "too many for the 3 different times"),
        (2, 100, "leaves 10 of 10 rows"),
    ],
)
def test_folds_that_the_log_cannot_give_are_refused(number, at, message):
    with pytest.raises(SplitError, match=message):
        Dataset.load(ONE_A_MOMENT, schema=TIMED).folds(number, at=at)


def test_one_interaction_users_leave_nothing_to_validate():
    frame = pl.DataFrame({"user_id": [1, 2], "item_id": [1, 1], "time": [1, 2]})
    with pytest.raises(SplitError, match="no validation row"):
        Dataset.load(frame, schema=TIMED).split()


def test_ids_of_two_types_on_the_two_sides_are_refused(tiny_log):
    items = pl.DataFrame({"item_id": ["10", "20"], "title": ["a", "b"]})
    with pytest.raises(DataError, match="1 is not '1'"):
        Dataset.load(tiny_log, items=items, schema=TIMED)


def test_a_declared_feature_without_a_table_is_refused(tiny_log):
    schema = Schema(time="time", item_features=(Feature("genre", "categorical"),))
    with pytest.raises(DataError, match="genre"):
        Dataset.load(tiny_log, schema=schema)


def permuted_future(world, moment):
    """The world with everything from `moment` on replaced by noise, ids never seen included."""
    past = world.interactions.filter(pl.col("timestamp") < moment)
    future = world.interactions.filter(pl.col("timestamp") >= moment)
    noise = future.with_columns(
        pl.col("item_id").shuffle(seed=1) + 7, pl.col("user_id").shuffle(seed=2) - 5_000
    )
    return pl.concat([past, noise])


def test_no_row_count_or_statistic_sees_the_future(world, split):
    moment = int(world.interactions["timestamp"].quantile(0.8))
    schema = split.dataset.schema
    before = [
        Dataset.load(log, users=world.users, items=world.items, schema=schema)
        .split("global-time", at=moment, validation_at=moment - 10_000_000)
        .training_data()
        for log in (world.interactions, permuted_future(world, moment))
    ]
    one, two = before
    assert one.items.trained == two.items.trained
    assert one.items.ids[: one.items.trained].equals(two.items.ids[: one.items.trained])
    assert one.users.ids[: one.users.trained].equals(two.users.ids[: one.users.trained])
    assert (one.item_counts == two.item_counts).all()
    assert (one.training_log.item == two.training_log.item).all()
    assert one.item_features.encoders == two.item_features.encoders
    assert one.user_features.encoders == two.user_features.encoders


def test_catalogue_items_nobody_met_are_candidates_only_for_models_that_read_features(tiny_log):
    items = pl.DataFrame({"item_id": [10, 20, 30, 40, 50], "price": [1.0, 2, 3, 4, 5]})
    schema = Schema(time="time", item_features=(Feature("price", "numeric"),))
    data = Dataset.load(tiny_log, items=items, schema=schema).split().training_data()
    cold = set(data.items.external(data.candidates(with_features=True)))
    assert cold == {10, 20, 30, 40, 50}
    warm = set(data.items.external(data.candidates(with_features=False)))
    assert 50 not in warm
    assert len(warm) == data.items.trained


def test_targets_are_the_distinct_held_out_items_of_each_user(tiny_log):
    data = Dataset.load(tiny_log, schema=TIMED).split().training_data()
    users, items, offsets = data.targets("test")
    assert data.users.external(users).to_list() == [1, 2]
    assert data.items.external(items).to_list() == [40, 30]
    assert offsets.tolist() == [0, 1, 2]


def test_what_was_known_before_the_cut_holds_nothing_after_it(split):
    data = split.training_data()
    known = data.log.before("test")
    assert len(known) == (data.log.role < Role.TEST).sum()
    assert len(data.log.before("validation")) == (data.log.role == Role.TRAIN).sum()
    assert data.log.before("end") is data.log


def test_digits_in_a_text_file_may_be_text_where_the_other_table_needs_it(tiny_log, tmp_path):
    tiny_log.write_csv(tmp_path / "log.csv")
    pl.DataFrame({"item_id": ["10", "A7"]}).write_csv(tmp_path / "items.csv")
    dataset = Dataset.load(tmp_path / "log.csv", items=tmp_path / "items.csv", schema=TIMED)
    assert dataset.item_ids.to_list() == ["10", "20", "30", "40", "A7"]


@pytest.mark.parametrize("at", ["1970-01-06", "1970-01-06T00:00:00"])
def test_global_time_takes_a_date_as_it_is_written(tiny_log, at):
    frame = tiny_log.with_columns(pl.from_epoch(pl.col("time"), time_unit="d"))
    split = Dataset.load(frame, schema=TIMED).split(
        "global-time", at=at, validation_at="1970-01-04"
    )
    assert ((split.log.role == Role.TEST) == (split.log.time >= 5)).all()
    assert ((split.log.role == Role.TRAIN) == (split.log.time < 3)).all()


@pytest.mark.parametrize(
    ("in_log", "in_table", "said"),
    [
        (["1.0", "2.0", "3.0"], ["1", "2", "3"], "0 of 3 items .*has '1.0', the table '1'"),
        (["108775015", "12"], ["0108775015", "0000012"], "0 of 2 .*'0108775015'|'0000012'"),
        (["1", "2", "3"], ["3", "9"], "1 of 3 items .*the table '9'|the table 9"),
        (["1", "2", "3"], ["3"], "which the table lacks"),
        (["1", "2", "3"], ["3", "2"], None),
    ],
)
def test_a_table_that_shares_few_ids_with_the_log_is_warned_of(in_log, in_table, said, tmp_path):
    log, items = tmp_path / "log.csv", tmp_path / "items.csv"
    log.write_text("user_id,item_id\n" + "".join(f"1,{item}\n" for item in in_log))
    items.write_text("item_id,title\n" + "".join(f"{item},x\n" for item in in_table))
    report = Dataset.load(log, items=items, schema=Schema(title="title")).report
    assert len(report.warnings) == (said is not None)
    if said is not None:
        assert re.search(said, report.lines()[-1])
        assert report.lines()[-1].startswith("Warning: ")


# --- the order of the lines

LINES = pl.DataFrame(
    {"user_id": [2, 1, 2, 1, 2, 1, 3], "item_id": [5, 4, 4, 5, 5, 6, 6], "t": [9, 8, 7, 6, 5, 4, 3]}
)
BY_LINE = Schema(order="file")


def line_history(data, user):
    rows = data.log.user == data.users.rows([user])[0]
    return data.items.external(data.log.item[rows]).to_list()


def test_lines_order_events_without_a_time_and_none_is_merged():
    dataset = Dataset.load(LINES, schema=BY_LINE)
    assert dataset.ordered
    assert "Times: the order of the lines." in dataset.report.lines()
    data = dataset.split().training_data("all")  # leave-last-out, as there is an order
    assert data.kind == "leave-last-out"
    assert [line_history(data, user) for user in (1, 2, 3)] == [[4, 5, 6], [5, 4, 5], [6]]
    turned = Dataset.load(LINES.reverse(), schema=BY_LINE).split().training_data("all")
    assert line_history(turned, 1) == [6, 5, 4]


def test_a_later_file_goes_on_after_the_last_line():
    data = Dataset.load(LINES, schema=BY_LINE).split().training_data("all")
    again = read_events(data, LINES.head(2), BY_LINE)
    assert (again.events, again.repeated) == (2, 0)
    assert line_history(again.data, 2) == [5, 4, 5, 5]
    assert line_history(again.data, 1) == [4, 5, 6, 4]
    with pytest.raises(DataError, match="the order of the lines"):
        read_events(data, LINES, Schema(time="t"))


def test_an_order_of_lines_has_no_time_spans_and_no_second_order():
    data = Dataset.load(LINES, schema=BY_LINE).split().training_data("all")
    with pytest.raises(
        DataError, match=r"half_life = 5.* is a time span, but with data.order = 'file'"
    ):
        Popular(half_life=5).fit_data(data)
    with pytest.raises(ModelError, match=r"history_time .* data.order = 'file'"):
        TwoTower(history="attention", history_time=True, dim=8, epochs=1).set_data(data)
    for more in ({"time": "t"}, {"tie": "file"}):
        with pytest.raises(DataError, match="would do nothing"):
            Schema(order="file", **more)


def test_lines_of_one_user_after_another_give_no_global_cut():
    Dataset.load(LINES, schema=BY_LINE).split("global-time", at=0.6, validation_at=0.4)
    with pytest.raises(SplitError, match="grouped by user"):
        Dataset.load(LINES.sort("user_id"), schema=BY_LINE).split("global-time", at=0.6)
    with pytest.raises(DataError, match="the order of the lines"):
        Dataset.load(LINES, schema=BY_LINE).split("global-time", at="2024-01-01")
