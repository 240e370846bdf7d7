"""Features that each row of the log repeats: by hand, and without the held-out rows."""

import polars as pl
import pytest

from shortlist.data.dataset import Dataset
from shortlist.data.schema import Feature, Schema
from shortlist.data.synthetic import planted_world
from shortlist.data.updates import read_events
from shortlist.errors import DataError

SCHEMA = Schema(
    time="t",
    user_features=[Feature("age", "numeric"), Feature("zip", "categorical")],
    item_features=[Feature("genres", "multi-valued"), Feature("vector", "vector", " ")],
    title="title",
)
LOG = """user_id,item_id,t,age,zip,genres,title,vector
1,10,1,20,02138,a|b,Ten,1 0
1,11,2,20,02138,b,Eleven,0 1
1,12,3,21,02138,c,Twelve,1 1
1,13,4,22,10001,c,Thirteen,1 1
2,12,1,30,,c,Twelve,1 1
2,10,2,,99999,a|b,Ten,1 0
2,11,3,,,b|d,Eleven!,0 1
2,14,4,35,99999,e,Fourteen,0 0
"""
"""Leave-last-out trains on times 1 and 2, validates on 3 and tests on 4."""


@pytest.fixture
def load(tmp_path):
    def loaded(text=LOG, schema=SCHEMA):
        (tmp_path / "log.csv").write_text(text)
        return Dataset.load(tmp_path / "log.csv", schema=schema)

    return loaded


def everything(data):
    """What all rows of a log say of its users."""
    return data.described["user"].known(data.log, data.met, "end")


def test_the_latest_known_value_before_the_cut_is_kept(load):
    split = load().split()
    train = split.training_data("train")
    assert train.user_frame.rows() == [(1, 20, "02138"), (2, 30, "99999")]
    assert train.item_frame.drop("vector").rows() == [
        (10, ["a", "b"], "Ten"),
        (11, ["b"], "Eleven"),
        (12, ["c"], "Twelve"),
    ]
    assert train.item_frame["vector"].to_list() == [[1, 0], [0, 1], [1, 1]]
    later = split.training_data("train+validation")
    assert later.user_frame.rows() == [(1, 21, "02138"), (2, 30, "99999")]
    assert later.titles(later.items.rows([10, 11, 13])) == ["Ten", "Eleven!", "13"]
    last = split.training_data("all")
    assert last.user_frame.rows() == [(1, 22, "10001"), (2, 35, "99999")]
    assert last.item_frame["genres"].to_list()[1:] == [["b", "d"], ["c"], ["c"], ["e"]]


def test_contradictions_are_counted_and_said(load):
    lines = " ".join(load().report.lines())
    assert "column 'age': 2 users with several values, such as 1 with 20 and 21;" in lines
    assert "column 'zip': 1 user with several values, such as 1 with '02138' and '10001'" in lines
    assert "column 'title': 1 item with several values" in lines
    assert "column 'vector'" not in lines


def test_without_contradictions_and_gaps_it_is_as_with_tables_of_both_sides():
    world = planted_world(users=60, items=80, events=900, seed=4)
    schema = Schema(
        time="timestamp",
        user_features=[Feature("age", "numeric"), Feature("interests", "multi-valued")],
        item_features=[Feature("tags", "multi-valued"), Feature("studio", "categorical")],
        title="title",
    )
    log = world.interactions.join(world.users, on="user_id").join(world.items, on="item_id")
    joined = Dataset.load(log.sample(fraction=1, shuffle=True, seed=3), schema=schema)
    apart = Dataset.load(log, users=world.users, items=world.items, schema=schema)
    assert not joined.report.notes
    one, two = (data.split().training_data() for data in (joined, apart))
    for side in ("user", "item"):
        trained = getattr(one, f"{side}s").ids.head(getattr(one, f"{side}s").trained)
        tables = [getattr(data, f"{side}_features") for data in (one, two)]
        assert tables[0].encoders == tables[1].encoders
        shown = [
            getattr(data, f"{side}_frame").filter(pl.col("id").is_in(trained))
            for data in (one, two)
        ]
        assert shown[0].sort("id").equals(shown[1].select(shown[0].columns).sort("id"))


def test_what_held_out_rows_say_changes_nothing_that_is_fitted(load):
    other = LOG.replace("1,13,4,22,10001,c", "1,13,4,99,55555,x").replace(
        "2,11,3,,,b|d", "2,11,3,9,7,y"
    )
    assert other.count("55555") == other.count("9,7,y") == 1
    plain, changed = (load(text).split().training_data("train") for text in (LOG, other))
    assert plain.user_frame.equals(changed.user_frame)
    assert plain.item_frame.equals(changed.item_frame)
    for side in ("user_features", "item_features"):
        assert getattr(plain, side).encoders == getattr(changed, side).encoders


def test_users_and_items_of_held_out_rows_alone_are_unknown(load):
    train = load().split("global-time", at=3, validation_at=2).training_data("train")
    assert train.user_frame.rows() == [(1, 20, "02138"), (2, 30, None)]
    assert train.item_frame["id"].to_list() == [10, 12]
    table, rows = train.item_features.columns["genres"], train.items.rows([14, 10])
    assert table.lengths[rows].tolist() == [0, 2]
    assert train.candidates(with_features=True).tolist() == train.items.rows([10, 12]).tolist()


def test_without_a_time_the_last_row_of_the_file_holds(load):
    schema = Schema(user_features=[Feature("age", "numeric")])
    data = load("user_id,item_id,age\n1,12,5\n1,10,7\n1,11,6\n2,10,9\n", schema)
    assert everything(data).rows() == [(1, 6), (2, 9)]


def test_the_order_of_rows_changes_nothing_not_even_among_equal_times_and_repeated_rows():
    rows = {"user_id": [1] * 4, "item_id": [5, 5, 6, 7], "t": [1, 1, 1, 1], "age": [3, 4, 5, 6]}
    schema = Schema(time="t", user_features=[Feature("age", "numeric")])
    log = pl.DataFrame(rows)
    told = {
        everything(Dataset.load(log[order], schema=schema)).rows()[0]
        for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2])
    }
    assert len(told) == 1
    by_file = Schema(time="t", tie="file", user_features=[Feature("age", "numeric")])
    assert everything(Dataset.load(log[[3, 2, 1, 0]], schema=by_file)).rows() == [(1, 3)]


def test_repeated_rows_are_merged_whatever_they_say_of_their_user_and_item(load):
    report = load(
        "user_id,item_id,t,age\n1,10,1,5\n1,10,1,6\n1,11,2,6\n",
        Schema(time="t", user_features=[Feature("age", "numeric")]),
    ).report
    assert (report.rows, report.duplicates) == (2, 1)
    assert "1 user with several values, such as 1 with 5 and 6" in report.notes[0]


def test_events_below_min_weight_say_what_their_user_is(load):
    schema = Schema(time="t", weight="w", min_weight=3, user_features=[Feature("age", "numeric")])
    rows = "1,10,5,1,20\n1,11,5,2,20\n1,12,1,3,21\n1,13,5,4,\n1,14,5,5,\n1,15,1,6,90\n"
    split = load(f"user_id,item_id,w,t,age\n{rows}", schema).split()
    # Validation holds out time 4, and the event of time 3 came before it.
    assert split.training_data("train").user_frame.rows() == [(1, 21)]
    assert split.training_data("all").user_frame.rows() == [(1, 90)]


def test_a_column_has_one_meaning():
    def refusal(**columns):
        with pytest.raises(DataError) as refused:
            Dataset.load(
                pl.DataFrame({"user_id": [1], "item_id": [2], "w": [3]}), schema=Schema(**columns)
            )
        return str(refused.value)

    age = [Feature("w", "numeric")]
    assert "is the weight, and cannot be a feature of the user" in refusal(
        weight="w", user_features=age
    )
    both = refusal(user_features=age, item_features=age)
    assert "is a feature of the user, and cannot be a feature of the item" in both
    assert "title is the id" in refusal(title="item_id")
    missing = refusal(user_features=[Feature("age", "numeric")])
    assert "no column 'age'" in missing
    assert "without a table (data.users, data.items) are columns of the log" in missing


def test_one_bad_value_is_blamed_on_its_row_of_the_file(load):
    with pytest.raises(DataError, match=r"log.csv: column 'age', row 7: .* got 'old'"):
        load(LOG.replace("2,11,3,,", "2,11,3,old,"))


# --- updates


def updated(data, tmp_path, text, schema=SCHEMA):
    (tmp_path / "new.csv").write_text("user_id,item_id,t,age,zip,genres,title,vector\n" + text)
    return read_events(data, tmp_path / "new.csv", schema, described=("user", "item"))


def test_an_update_describes_users_anew_and_new_items(load, tmp_path):
    data = load().split().training_data("all")
    came = updated(
        data,
        tmp_path,
        "1,10,3,50,50000,z,Other,9 9\n1,15,9,23,,f|g,Fifteen,2 2\n3,15,2,40,00001,f,Fifteen,2 2\n"
        "2,12,1,1,,c,Twelve,1 1\n",
    )
    # User 1's row of time 3 is older than the log's last, and user 2's older than all.
    assert came.data.user_frame.rows() == [(1, 23, "10001"), (2, 35, "99999"), (3, 40, "00001")]
    assert came.data.item_frame["id"].to_list() == [10, 11, 12, 13, 14, 15]
    assert came.data.item_frame.filter(pl.col("id") == 10).drop("vector").rows() == [
        (10, ["a", "b"], "Ten")
    ]
    assert came.data.item_frame["genres"].to_list()[-1] == ["f", "g"]
    assert "4 users and items described" in came.line()
    table = came.data.user_features.columns["age"]
    assert table.shape[0] == len(came.data.users) + 1
    assert table[came.data.users.rows([3])[0], 1] == 0


def test_an_update_fills_gaps_and_codes_that_look_like_numbers_stay_text(load, tmp_path):
    data = load(LOG.replace(",99999,", ",,")).split().training_data("all")
    came = updated(data, tmp_path, "2,10,1,1,77777,a,Ten,1 0\n")
    assert came.data.user_frame.rows() == [(1, 22, "10001"), (2, 35, "77777")]


def test_an_update_without_the_columns_or_with_numbers_far_off_is_refused(load, tmp_path):
    data = load().split().training_data("all")
    (tmp_path / "bare.csv").write_text("user_id,item_id,t\n1,10,9\n")
    with pytest.raises(DataError, match="no column 'age'"):
        read_events(data, tmp_path / "bare.csv", SCHEMA, described=("user", "item"))
    with pytest.raises(DataError, match=r"'age', id 1: .* too large beside"):
        updated(data, tmp_path, "1,10,9,1e40,,a,Ten,1 0\n")
    with pytest.raises(DataError, match=r"column 'vector': expected Array.* as in the bundle"):
        updated(data, tmp_path, "1,15,9,1,,a,Ten,1 0 0\n")


def test_a_column_of_the_other_side_is_told():
    world = planted_world(users=60, items=80, events=900, seed=4)
    log = world.interactions.join(world.users, on="user_id").join(world.items, on="item_id")
    for side, column in (("user", "studio"), ("item", "club")):
        schema = Schema(time="timestamp", **{f"{side}_features": [Feature(column, "categorical")]})
        other = "item" if side == "user" else "user"
        assert (
            f"it is a column of the {other}" in Dataset.load(log, schema=schema).report.warnings[0]
        )
    mild = log.with_columns(age=pl.col("age") + (pl.col("timestamp") % 2))
    schema = Schema(time="timestamp", user_features=[Feature("age", "numeric")])
    assert not Dataset.load(mild, schema=schema).report.warnings
