"""Kinds of events: what the table makes of each row, and which events a cut knows."""

import numpy as np
import polars as pl
import pytest

from shortlist.config import Recipe
from shortlist.data.dataset import Dataset
from shortlist.data.interactions import Role
from shortlist.data.readers import read_log
from shortlist.data.schema import Schema
from shortlist.data.updates import read_events
from shortlist.errors import DataError, RecipeError
from shortlist.sections.events import EventKind, kind_of

TABLE = {
    "buy": {"target": True, "weight": 3.0},
    "view": {"seen": False},
    "hide": {"history": False},
    "ping": {"drop": True},
}
SCHEMA = Schema(time="t", event="e", events=TABLE)


def log(*rows, schema=None):
    """Rows of (user, item, time, kind)."""
    return pl.DataFrame(
        rows, schema=["user_id", "item_id", "t", "e"] if schema is None else schema, orient="row"
    )


ROWS = log(
    (1, 10, 1, "view"),
    (1, 11, 2, "buy"),
    (1, 12, 3, "view"),
    (1, 12, 4, "buy"),
    (1, 13, 5, "view"),
    (1, 13, 6, "buy"),
    (1, 14, 7, "view"),
    (1, 15, 3, "hide"),
    (1, 16, 6, "hide"),
    (2, 10, 1, "ping"),
    (2, 11, 2, "buy"),
    (2, 11, 2, "buy"),
)


def test_each_row_becomes_what_its_kind_says_and_the_report_counts_it():
    read = read_log(ROWS, SCHEMA)
    frame, met, report = read.events, read.met, read.report
    assert sorted(frame["item"].to_list()) == [10, 11, 11, 12, 12, 13, 13, 14]
    assert met.drop("kind").rows() == [(1, 15, 3), (1, 16, 6)]
    assert report.kinds == (
        ("buy", 4, "target"),
        ("view", 4, "history only"),
        ("hide", 2, "met, not read"),
        ("ping", 1, "dropped"),
    )
    # Every row read is in one of the counts, or is a repeat.
    assert report.rows_read == sum(rows for _, rows, _ in report.kinds) + report.duplicates
    assert "'view' 4 (history only)" in " ".join(report.lines())


def test_what_is_only_read_is_known_once_the_target_before_it_is():
    split = Dataset.load(ROWS, schema=SCHEMA).split("leave-last-out")
    of_one = split.log.keep(split.log.user == 0)
    assert [(int(t), Role(r).name) for t, r in zip(of_one.time, of_one.role, strict=True)] == [
        (1, "TRAIN"),
        (2, "TRAIN"),
        (3, "TRAIN"),
        (4, "VALIDATION"),
        (5, "VALIDATION"),  # after the validation target, before the test target
        (6, "TEST"),
        (7, "TEST"),
    ]
    data = split.training_data()
    # Rows of items: 10 and 11 and 12 were read in training, 11 alone was a target there.
    assert data.items.external(data.candidates(with_features=False)).to_list() == [11]
    users, items, _ = data.targets("test")
    assert data.items.external(items).to_list() == [13]
    assert len(users) == 1
    # What is met counts from before the held-out target, as below min_weight.
    assert [len(split.met.before(cut)) for cut in ("validation", "test", "end")] == [1, 1, 2]


@pytest.mark.parametrize("kind", ["leave-last-out", "global-time", "random", "column"])
def test_nothing_that_comes_after_a_cut_changes_what_is_known_before_it(kind):
    random = np.random.default_rng(0)
    n = 600
    frame = pl.DataFrame(
        {
            "user_id": random.integers(0, 20, n),
            "item_id": random.integers(0, 40, n),
            "t": random.permutation(n),
            "e": random.choice(["view", "view", "buy"], n),
            "s": random.choice(["train", "train", "train", "validation", "test"], n),
        }
    ).unique(["user_id", "item_id", "e"], keep="first", maintain_order=True)
    schema = Schema(time="t", event="e", split="s", events={k: TABLE[k] for k in ("buy", "view")})
    split = Dataset.load(frame, schema=schema).split(kind)
    log = split.log
    for cut in ("validation", "test"):
        known = log.before(cut)
        held = log.keep(log.role >= {"validation": 1, "test": 2}[cut])
        if kind in ("leave-last-out", "global-time"):
            first = {}
            for u, t, target in zip(held.user, held.time, held.target, strict=True):
                if target:
                    first[int(u)] = min(first.get(int(u), n), int(t))
            assert all(
                t < first.get(int(u), n) for u, t in zip(known.user, known.time, strict=True)
            )
        if kind == "random":
            pairs = {(int(u), int(i)) for u, i in zip(held.user, held.item, strict=True)}
            assert not any(
                (int(u), int(i)) in pairs for u, i in zip(known.user, known.item, strict=True)
            )
    # Another order of the file, and other events after the last cut, change no training row.
    moved = frame.sample(fraction=1.0, shuffle=True, seed=1)
    again = Dataset.load(moved, schema=schema).split(kind)
    for name in ("user", "item", "role", "kind", "time"):
        np.testing.assert_array_equal(getattr(again.log, name), getattr(log, name))


def test_at_one_moment_targets_stand_before_what_is_only_read():
    rows = log((1, 10, 5, "view"), (1, 11, 5, "buy"), (1, 9, 5, "view"), (1, 12, 6, "buy"))
    found = Dataset.load(rows, schema=Schema(time="t", event="e", events=EVENTS)).log
    assert found.kind.tolist() == [0, 1, 1, 0]


EVENTS = {"buy": {"target": True}, "view": {}}


def test_a_user_with_one_target_keeps_it_for_training_whatever_they_viewed():
    rows = log((1, 10, 1, "view"), (1, 11, 2, "buy"), *((u, 7, u, "buy") for u in (2, 2, 2)))
    rows = pl.concat([rows, log(*((2, i, i, "buy") for i in (20, 21, 22)))])
    split = Dataset.load(rows, schema=Schema(time="t", event="e", events=EVENTS)).split()
    assert (split.log.role[split.log.user == 0] == Role.TRAIN).all()


def test_ranges_of_a_rating_say_that_high_ones_are_targets_and_all_are_history():
    rows = log((1, 10, 1, 2.0), (1, 11, 2, 4.0), (1, 12, 3, 3.5), (1, 13, 4, 5.0), (1, 14, 5, 4.5))
    schema = Schema(time="t", event="e", weight="e", events={"4..": {"target": True}, "..4": {}})
    found = Dataset.load(rows, schema=schema).log
    assert found.target.tolist() == [False, True, False, True, True]
    assert found.weight.tolist() == [2.0, 4.0, 3.5, 5.0, 4.5]
    exact = {"2": {}, "3.5": {}, "4..": {"target": True}}
    again = Dataset.load(rows, schema=Schema(time="t", event="e", events=exact)).log
    assert again.target.tolist() == found.target.tolist()


@pytest.mark.parametrize(
    ("column", "names"),
    [
        (["1", "2", "1"], ("1", "2")),
        ([1, 2, 1], ("1", "2")),
        ([True, False, True], ("true", "false")),
        (["view, long", "né", "view, long"], ("view, long", "né")),
    ],
)
def test_kinds_may_be_numbers_flags_or_any_text_in_files_and_frames(column, names, tmp_path):
    frame = pl.DataFrame({"user_id": [1, 1, 2], "item_id": [5, 6, 5], "e": column})
    schema = Schema(event="e", events={names[0]: {"target": True}, names[1]: {}})
    frame.write_csv(tmp_path / "log.csv")
    categories = frame.with_columns(pl.col("e").cast(pl.String).cast(pl.Categorical))
    for source in (
        frame,
        tmp_path / "log.csv",
        *([categories] if isinstance(column[0], str) else []),
    ):
        assert read_log(source, schema).events["kind"].to_list() == [0, 1, 0]


REFUSED = {
    "which names 'buy'. The file has 'buy' .5., 'view' .4., 'hide' .2., 'ping' .1.. Give it a table"
    " .data.events.view., with drop = true": {"events": {"buy": {"target": True}}},
    "no kind of data.events is a target": {"events": {"view": {}}},
    "give both": {"events": {}},
    "data.events.buy.targt is not a key. Did you mean 'target'": {
        "events": {"buy": {"targt": True}}
    },
    "drop = true ignores the rows of this kind": {
        "events": {"buy": {"drop": True, "target": True}}
    },
    "a target is part of histories": {"events": {"buy": {"target": True, "history": False}}},
    "this kind has no use: set drop = true": {"events": {"x": {"history": False, "seen": False}}},
    "weight does nothing with history = false": {
        "events": {"x": {"history": False, "weight": 2.0}}
    },
    "'..4' and '3..' overlap": {"event": "t", "events": {"..4": {"target": True}, "3..": {}}},
    "the range '4..4' contains no number": {"event": "t", "events": {"4..4": {"target": True}}},
    "the kind '3' is not in data.events": {"event": "t", "events": {"..3": {"target": True}}},
    "the column holds numbers, and '1 - 4' of .* '1..4' .from 1 to less than 4.": {
        "event": "t",
        "events": {"5..": {"target": True}, "1 - 4": {}},
    },
    "the column holds numbers, and '>=4' of data.events": {
        "event": "t",
        "events": {">=4": {"target": True}, "..4": {}},
    },
    "The end 2 is no part of the range '0..2'": {
        "event": "t",
        "events": {"0..2": {"target": True}, "3..": {}},
    },
    "has the range '4..', and the column holds text": {"events": {"4..": {"target": True}}},
    "min_weight and events both": {"min_weight": 1.0, "weight": "e"},
    "both name the column 't'": {"event": "t"},
    "no row is of a kind that is a target": {"events": {**TABLE, "buy": {}, "x": {"target": True}}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_table_that_does_not_fit_is_refused_with_what_to_do(message):
    given = REFUSED[message]
    timed = {} if given.get("event") == "t" and "both name" not in message else {"time": "t"}
    with pytest.raises(DataError, match=message):
        Dataset.load(ROWS, schema=Schema(**{"event": "e", "events": TABLE, **timed, **given}))


def test_an_event_without_a_kind_is_refused_with_its_row_and_an_absent_kind_warned_of():
    with pytest.raises(DataError, match="column 'e', row 3: the kind of the event is missing"):
        read_log(ROWS.with_columns(e=pl.when(pl.int_range(pl.len()) != 2).then("e")), SCHEMA)
    events = {**TABLE, "cart": {}}
    report = Dataset.load(ROWS, schema=Schema(time="t", event="e", events=events)).report
    assert "Warning: no row of column 'e' is of the kind 'cart' (data.events)." in report.lines()


def test_a_recipe_names_the_key_of_a_wrong_table():
    data = {"interactions": "log.csv", "event": "e"}
    with pytest.raises(
        RecipeError, match=r"data.events.buy.targt is not a key. Did you mean 'target'"
    ):
        Recipe.from_dict({"data": {**data, "events": {"buy": {"targt": True}}}})
    weighed = data | {"weight": "e", "min_weight": 1.0, "events": {"4..": {"target": True}}}
    with pytest.raises(RecipeError, match=r"min_weight and data\.events both"):
        Recipe.from_dict({"data": weighed})
    kept = Recipe.from_dict({"data": {**data, "events": TABLE}})
    assert Recipe.from_dict(kept.to_dict()).data.events == kept.data.events


def test_an_update_reads_kinds_by_name_and_keeps_their_uses():
    data = Dataset.load(ROWS, schema=SCHEMA).split().training_data("all")
    turned = Schema(time="t", event="e", events=dict(reversed(TABLE.items())))
    new = log((2, 13, 9, "view"), (2, 13, 9, "buy"), (2, 16, 9, "hide"), (2, 12, 9, "ping"))
    came = read_events(data, new, turned)
    assert (came.events, came.repeated, came.met) == (2, 0, 1)
    grown = came.data.log.keep(came.data.log.user == 2)
    assert [came.data.log.kinds.names[kind] for kind in grown.kind] == ["buy", "view", "buy"]
    assert read_events(came.data, new, turned).events == 0


def test_a_rating_of_32_bits_is_on_the_side_of_a_limit_that_it_is_written_on():
    rows = log((1, 10, 1, 0.7), (1, 11, 2, 0.6), (2, 10, 1, 0.8), (2, 11, 2, 0.7))
    narrow = rows.with_columns(pl.col("e").cast(pl.Float32))
    table = {"0.7..": {"target": True}, "..0.7": {}}
    found = Dataset.load(narrow, schema=Schema(time="t", event="e", events=table)).log
    assert found.target.tolist() == [True, False, True, True]
    least = Schema(time="t", weight="e", min_weight=0.7)
    assert [len(Dataset.load(f, schema=least).log) for f in (rows, narrow)] == [3, 3]


def test_a_flag_of_a_request_is_of_the_kind_that_the_column_of_flags_has():
    assert kind_of(True, {"true": EventKind(target=True), "false": EventKind()}) == "true"
    assert kind_of(True, {"1..": EventKind(target=True), "..1": EventKind()}) is None
