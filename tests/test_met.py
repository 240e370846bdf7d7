"""Items rated below min_weight count as met: they teach nothing and are not recommended."""

import json
from dataclasses import replace

import polars as pl
import pytest

import shortlist
from shortlist.asking.queries import Queries
from shortlist.channels.counting.item_cf import ItemCF
from shortlist.channels.counting.popular import Popular
from shortlist.cli.app import app
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.data.updates import read_events
from shortlist.errors import BundleError, ModelError

SCHEMA = Schema(time="time", weight="rating", min_weight=4)
ROWS = [  # user, item, rating, time
    *[(user, item, 5, 10 * step) for user in "abcd" for step, item in enumerate("PQRS", start=1)],
    ("a", "bad", 1, 15),  # before R (validation, 30) and S (test, 40)
    ("a", "worse", 1, 35),
    ("a", "late", 1, 40),  # at the very time of S
    ("e", "bad", 1, 5),  # nothing else of this user is known
    ("b", "T", 5, 11),
    ("c", "late", 5, 11),
    ("d", "bad", 5, 11),
    ("d", "worse", 5, 12),
]


def log(rows=ROWS):
    columns = {"user_id": pl.String, "item_id": pl.String, "rating": pl.Int64, "time": pl.Int64}
    return pl.DataFrame(rows, schema=columns, orient="row")


def run(*arguments):
    app([str(argument) for argument in arguments], standalone_mode=False)


def met(data, cut):
    events = data.met.before(cut)
    users, items = (
        vocabulary.external(rows).to_list()
        for vocabulary, rows in ((data.users, events.user), (data.items, events.item))
    )
    return sorted(zip(users, items, strict=True))


def test_they_are_no_part_of_what_is_learned():
    data = Dataset.load(log(), schema=SCHEMA).split("leave-last-out").training_data("all")
    assert len(data.log) == 20
    assert data.item_counts[data.items.rows(["bad"])].tolist() == [1]
    assert data.users.rows(["e"])[0] > data.users.trained
    assert met(data, "end") == [("a", "bad"), ("a", "late"), ("a", "worse"), ("e", "bad")]


def test_the_order_of_the_rows_changes_nothing():
    one, other = (
        Dataset.load(frame, schema=SCHEMA).split("leave-last-out").training_data()
        for frame in (log(), log(ROWS[::-1]))
    )
    assert (one.met.item == other.met.item).all()
    assert (one.met.role == other.met.role).all()


def test_a_cut_knows_what_came_before_all_that_it_holds_out_of_the_user():
    data = Dataset.load(log(), schema=SCHEMA).split("leave-last-out").training_data()
    assert met(data, "validation") == [("a", "bad"), ("e", "bad")]
    assert met(data, "test") == [("a", "bad"), ("a", "worse"), ("e", "bad")]


def test_a_cut_at_one_moment_knows_what_came_before_it():
    split = Dataset.load(log(), schema=SCHEMA).split("global-time", at=40, validation_at=15)
    assert met(split.training_data(), "validation") == [("a", "bad"), ("e", "bad")]
    assert met(split.training_data(), "test") == [("a", "bad"), ("a", "worse"), ("e", "bad")]
    early = Dataset.load(log(), schema=SCHEMA).split("global-time", at=30, validation_at=12)
    assert met(early.training_data(), "validation") == [("e", "bad")]


def test_a_column_or_a_draw_gives_them_roles_of_their_own():
    roles = ["train", "validation", "test", "train"]
    frame = log().with_columns(split=pl.Series([roles[n % 4] for n in range(len(ROWS))]))
    data = Dataset.load(frame, schema=replace(SCHEMA, split="split")).split().training_data()
    assert met(data, "validation") == [("a", "bad"), ("e", "bad")]
    assert met(data, "test") == [("a", "bad"), ("a", "worse"), ("e", "bad")]
    drawn = Dataset.load(log(), schema=SCHEMA).split("random", at=0.5).training_data()
    assert len(met(drawn, "validation")) < 4
    assert ("e", "bad") in met(drawn, "validation")


def test_without_min_weight_nothing_is_known_of_such_events():
    data = Dataset.load(log(), schema=Schema(time="time", weight="rating")).split().training_data()
    assert data.met is None


@pytest.fixture
def fitted():
    return Popular().fit(Dataset.load(log(), schema=SCHEMA).split("leave-last-out"))


def test_nobody_gets_what_they_rated_badly_unless_they_ask_for_what_they_met(fitted):
    assert fitted.recommend(["a"], 9).ids == [["T"]]
    assert "bad" not in fitted.recommend(["e"], 9).ids[0]
    everything = fitted.recommend(Queries(["a"], exclude_seen=False), 9).ids[0]
    assert {"bad", "worse", "late"} <= set(everything)
    assert set(fitted.recommend(Queries(["a"], before="validation"), 9).ids[0]) >= {"worse", "late"}


def test_an_evaluation_leaves_out_what_was_met_before_its_cut_and_says_so(fitted):
    report = shortlist.evaluate(fitted, k=[5])
    assert report.counts["met_below_min_weight"] == 2
    assert any(line.startswith("2 events below min_weight") for line in report.lines())
    assert shortlist.evaluate(fitted, k=[5], on="validation").counts["met_below_min_weight"] == 1
    assert shortlist.compare(fitted, fitted, k=[5]).to_dict()["counts"] == {
        "met_below_min_weight": 2
    }
    repeats = shortlist.evaluate(fitted, k=[5], exclude_seen=False)
    assert repeats.counts["met_below_min_weight"] == 0
    assert not any("below min_weight" in line for line in repeats.lines())


def test_a_held_out_item_that_was_met_before_is_a_miss_that_is_counted():
    rows = [*ROWS, ("b", "S", 2, 20)]
    model = Popular().fit(Dataset.load(log(rows), schema=SCHEMA).split("leave-last-out"))
    assert shortlist.evaluate(model, k=[5]).counts["held_out_items_already_seen"] == 1


def test_a_bundle_keeps_them_and_notices_when_they_are_others(fitted, tmp_path):
    shortlist.save(fitted, tmp_path / "b")
    loaded = shortlist.load(tmp_path / "b")
    assert loaded.retriever.recommend(["a"], 9).ids == [["T"]]
    assert loaded.manifest.fields["data"]["met_events"] == 4
    shortlist.save(loaded.retriever, tmp_path / "again")
    names = ("met.parquet", "log.parquet")
    assert all(
        (tmp_path / "b" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        for name in names
    )
    other = replace(fitted.data, met=fitted.data.met.keep(fitted.data.met.item < 3))
    (tmp_path / "swap").mkdir()
    shortlist.save(Popular().fit_data(other), tmp_path / "swap" / "b")
    manifest = json.loads((tmp_path / "swap" / "b" / "manifest.json").read_text())
    right = json.loads((tmp_path / "b" / "manifest.json").read_text())
    manifest["data"]["fingerprint"] = right["data"]["fingerprint"]
    (tmp_path / "swap" / "b" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError):
        shortlist.load(tmp_path / "swap" / "b")


def test_new_events_below_min_weight_are_met_from_then_on():
    split = Dataset.load(log(), schema=SCHEMA).split("leave-last-out")
    model = ItemCF().fit(split, "all")
    assert "T" in model.recommend(["d"], 9).ids[0]
    new = log([("d", "T", 1, 99), ("d", "T", 1, 99), ("f", "new", 2, 99), ("a", "bad", 1, 15)])
    came = read_events(model.data, new, SCHEMA)
    assert (came.events, came.met, came.repeated, came.new_users, came.new_items) == (0, 2, 1, 1, 1)
    assert "2 below min_weight, kept as seen" in came.line()
    again = model.observe(came.data)
    assert "T" not in again.recommend(["d"], 9).ids[0]
    assert again.data.items.trained == split.training_data("all").items.trained
    whole = Dataset.load(pl.concat([log(), new]), schema=SCHEMA).split("leave-last-out")
    assert met(again.data, "end") == met(whole.training_data("all"), "end")


def test_data_of_before_stay_as_they_are_when_events_come(fitted):
    split = Dataset.load(log(), schema=SCHEMA).split("leave-last-out")
    old = replace(split.training_data("all"), met=None)
    came = read_events(old, log([("d", "T", 1, 99)]), SCHEMA)
    assert came.data.met is None
    with pytest.raises(ModelError, match="leave out different items"):
        shortlist.compare(fitted, Popular().fit_data(replace(fitted.data, met=None)))


def test_a_bundle_made_before_says_that_it_does_not_know(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    log().write_csv(tmp_path / "log.csv")
    (tmp_path / "r.toml").write_text(
        '[data]\ninteractions = "log.csv"\ntime = "time"\nweight = "rating"\nmin_weight = 4\n'
        '[channels.p]\nkind = "popular"\n[evaluation]\nk = [5]\n'
    )
    bundle = tmp_path / "b"
    run("train", tmp_path / "r.toml", "--out", bundle)
    assert "events below min_weight that these users had" in " ".join(
        capsys.readouterr().err.split()
    )
    run("inspect", bundle)
    assert "4 events below min_weight" in " ".join(capsys.readouterr().out.split())
    loaded = shortlist.load(bundle)
    old = Popular().fit_data(replace(loaded.retriever.data, met=None))
    shortlist.save(old, tmp_path / "old", recipe=loaded.recipe)
    run("recommend", tmp_path / "old", "--user", "a")
    said = capsys.readouterr()
    assert "may recommend" in " ".join(said.err.split())
    assert "bad" in said.out
    run("recommend", bundle, "--user", "a")
    said = capsys.readouterr()
    assert "may recommend" not in said.err
    assert "bad" not in said.out
