"""`shortlist init`: what it refuses, how much it reads, which of several files is the log."""

import gzip
import json
import sys
import tomllib

import polars as pl
import pytest

from drafting.families import FAMILIES, LOG, events, lines, movielens_dat, taobao
from shortlist.cli import main
from shortlist.config import load_recipe
from shortlist.drafting import heads
from shortlist.drafting.draft import draft
from shortlist.drafting.named import named_model, named_models
from shortlist.drafting.writing import written
from shortlist.errors import DataError
from shortlist.runs.pipeline import build, check, load_split


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch):
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)


def call(*arguments) -> int:
    """Run the command line in this process; return its exit code."""
    old, sys.argv = sys.argv, ["shortlist", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return stop.code or 0
    finally:
        sys.argv = old
    return 0


def refusal(capsys, *arguments) -> str:
    capsys.readouterr()
    assert call(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


REFUSED = {
    "dump.sql": ("CREATE TABLE t (a int);\nINSERT INTO t VALUES (1);\n", "export the table"),
    "dump.txt": ("-- MySQL dump\nINSERT INTO t VALUES (1,2),(3,4);\n", "export the table"),
    "steam.json": ("{u'user': 'a', u'product_id': '1'}\n", "Python's notation"),
    "one.json": ('[{"user": 1}]', "one JSON list"),
    "once.csv": ("user,item\n" + "".join(f"u{n},i{n % 5}\n" for n in range(40)), "column repeats"),
    "alone.csv": ("user,price\n" + "".join(f"u{n % 4},{n}.5\n" for n in range(40)), "an item"),
    "ragged.csv": ("user,title,item\nu1,Go,4\nu2,Walk, Run,5\n", "row 2: 4 fields"),
    "empty.csv": ("", "is empty"),
    "sheet.xlsx": ("PK", "cannot read '.xlsx'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_where_nothing_can_be_guessed_one_sentence_says_why(tmp_path, capsys, name):
    content, said = REFUSED[name]
    (tmp_path / name).write_text(content)
    assert said in refusal(capsys, "init", tmp_path / name, "--out", tmp_path / "r.toml")
    assert not (tmp_path / "r.toml").exists()


def test_an_address_and_a_file_that_is_not_there_are_told(tmp_path, capsys):
    assert "are not fetched" in refusal(capsys, "init", "https://example.org/log.csv")
    (tmp_path / "events.csv").write_text("user,item\n")
    assert "Did you mean 'events.csv'" in refusal(capsys, "init", tmp_path / "event.csv")


@pytest.mark.parametrize("packed", [False, True])
def test_no_more_than_the_head_of_a_file_is_read(tmp_path, monkeypatch, packed):
    text = "user,item,time\n" + "".join(f"u{e.user},i{e.item},{e.time}\n" for e in events())
    data = text.encode() + b"never,looked,at,this,row\n"
    path = tmp_path / ("log.csv.gz" if packed else "log.csv")
    path.write_bytes(gzip.compress(data) if packed else data)
    monkeypatch.setattr(heads, "MOST", 4096)
    found = draft(str(path))
    assert found.looked.startswith("the first ")
    assert found.content["data"]["time"] == "time"
    monkeypatch.undo()
    with pytest.raises(DataError, match="5 fields"):
        draft(str(path))


def test_the_log_is_told_among_files_and_in_a_folder(tmp_path, capsys, monkeypatch):
    movielens_dat(tmp_path)
    (tmp_path / "README.txt").write_text("Please cite.\nThe data are free.\n")
    names = ("users.dat", "movies.dat", "ratings.dat", "README.txt")
    for number, given in enumerate(([tmp_path / name for name in names], [tmp_path], [])):
        monkeypatch.chdir(tmp_path)
        recipe = tmp_path / f"r{number}.toml"
        assert call("init", *given, "--model", "youtube-dnn", "--out", recipe) == 0
        said = load_recipe(recipe)
        assert said.data.interactions == "ratings.dat"
        assert (said.data.users, said.data.items) == ("users.dat", "movies.dat")
        assert said.features.items == {"column_3": "multi-valued"}
        assert said.model.user_layers == (256, 128)
        assert "not used: " in recipe.read_text()


def test_files_with_the_same_columns_are_one_log_as_a_shell_names_them(tmp_path):
    for part in range(3):
        rows = [(e.user, e.item, e.time) for e in LOG[part::3]]
        lines(tmp_path / f"part-{part}.csv", [("user", "item", "time"), *rows])
    recipe = tmp_path / "recipe.toml"
    assert call("init", *sorted(tmp_path.glob("*.csv")), "--out", recipe) == 0
    assert load_recipe(recipe).data.interactions == ("part-0.csv", "part-1.csv", "part-2.csv")


@pytest.mark.parametrize("family", ["movielens-dat", "amazon-ratings", "tenrec"])
def test_every_named_model_starts_from_these_files(tmp_path, family):
    found = FAMILIES[family]
    found.write(tmp_path)
    sides = {side: str(tmp_path / name) for side, name in found.files.items() if side != "log"}
    for name in named_models():
        made = draft(str(tmp_path / found.files["log"]), named=named_model(name), **sides)
        path = tmp_path / f"{name}.toml"
        path.write_text(written(made, "shortlist init"))
        recipe = load_recipe(path)
        check(recipe)
        assert recipe.training.model_dump() == load_named(tmp_path, name).training.model_dump()


def load_named(folder, name):
    path = folder / "named.toml"
    path.write_text(named_models()[name])
    return load_recipe(path)


@pytest.mark.parametrize("model", [None, "sasrec", "dssm"])
def test_a_recipe_to_fill_in_is_short_and_sound(tmp_path, model):
    path = tmp_path / "recipe.toml"
    assert call("init", path, *(("--model", model) if model else ())) == 0
    assert len(path.read_text().splitlines()) <= (28 if model is None else 50)
    check(load_recipe(path))


@pytest.mark.parametrize(
    ("column", "first", "kept"),
    [
        ("x", 0, []),
        ("time", 0, ["history_time"]),
        ("timestamp", 1_700_000_000, ["history_time", "request_time"]),
    ],
)
def test_a_model_that_reads_times_reads_those_that_the_log_tells(
    tmp_path, capsys, column, first, kept
):
    """Of no time, of numbers without a unit, and of seconds since 1970."""
    rows = "".join(f"u{n % 20},i{n % 23},{first + n // 2}\n" for n in range(400))
    (tmp_path / "log.csv").write_text(f"user_id,item_id,{column}\n" + rows)
    path = tmp_path / "recipe.toml"
    assert call("init", tmp_path / "log.csv", "--model", "hstu", "--out", path) == 0
    recipe = load_recipe(path)
    assert [k for k in ("history_time", "request_time") if getattr(recipe.model, k)] == kept
    assert ("left out, as" in capsys.readouterr().err) == (len(kept) < 2)
    check(recipe)
    data = load_split(recipe).training_data("train")
    build(recipe).set_data(data)  # which refuses to read times that there are not


def test_one_line_to_check_is_one_line(tmp_path, capsys):
    rows = "".join(f"{n % 7},{n % 11},{n % 3}\n" for n in range(90))
    (tmp_path / "log.csv").write_text("user_id,item_id,x\n" + rows)
    assert call("init", tmp_path / "log.csv", "--out", tmp_path / "recipe.toml") == 0
    assert "; 1 line to check" in " ".join(capsys.readouterr().out.split())


def test_options_that_do_not_go_together_are_refused(tmp_path, capsys):
    assert "must be the only argument" in refusal(capsys, "init", "a.toml", "log.csv")
    assert "--full lists every key" in refusal(capsys, "init", "--full", "--model", "sasrec")
    assert "Did you mean 'sasrec'" in refusal(capsys, "init", "--model", "sasrek")
    taobao(tmp_path)
    log = tmp_path / "UserBehavior.csv"
    before = log.read_bytes()
    assert call("init", log, "--out", log, "--overwrite") == 3
    assert "would replace an input, FILE " in capsys.readouterr().err
    assert log.read_bytes() == before


def test_guesses_come_as_json_with_a_reason_and_a_confidence_each(tmp_path, capsys):
    taobao(tmp_path)
    recipe = tmp_path / "recipe.toml"
    assert call("init", tmp_path / "UserBehavior.csv", "--out", recipe, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recipe"] == str(recipe)
    guesses = {guess["key"]: guess for guess in told["guesses"]}
    assert guesses["data.time"]["value"] == "timestamp"
    assert "read as seconds" in guesses["data.time"]["reason"]
    assert guesses["data.time"]["confidence"] == "sure"
    assert guesses["data.user"]["confidence"] == "check"
    assert "or column 2" in guesses["data.user"]["reason"]
    kinds = guesses["data.events"]
    assert kinds["value"] == {
        "buy": {"target": True},
        "pv": {"seen": False},
        "cart": {"seen": False},
    }
    assert kinds["confidence"] == "check"
    assert kinds["reason"] == "by their names: buy predicted, pv, cart read"


def log_of_kinds(tmp_path, kinds, each=20):
    """A log in which 40 users have `each` events of these kinds in turn, and a draft of it."""
    rows = [(u, (7 * u + n) % 30, 1_700_000_000 + 60 * n) for u in range(40) for n in range(each)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "time"], orient="row")
    named = [kinds[n % len(kinds)] for n in range(len(rows))]
    log = log.with_columns(
        event=pl.Series(named),
        device=pl.Series(["tv", "phone", "desk", "tv", "tv"] * (len(rows) // 5)),
        dwell_seconds=pl.int_range(len(rows)) * 0.37 % 11,
    )
    log.write_csv(tmp_path / "log.csv")
    assert call("init", tmp_path / "log.csv", "--out", tmp_path / "recipe.toml") == 0
    return (tmp_path / "recipe.toml").read_text()


def test_kinds_whose_names_are_known_are_written_as_a_table_and_marked_as_a_guess(tmp_path):
    text = log_of_kinds(tmp_path, ["view", "view", "add_to_cart", "purchase"])
    assert "# check: by their names: purchase predicted, view, add_to_cart read" in text
    data = load_recipe(tmp_path / "recipe.toml").data
    assert data.event == "event"
    assert {name: kind.use() for name, kind in data.events.items()} == {
        "purchase": "target",
        "view": "history only",
        "add_to_cart": "history only",
    }
    assert not data.events["view"].seen
    out = ("--out", tmp_path / "bundle", "--set", "training.epochs=1", "--quiet")
    assert call("train", tmp_path / "recipe.toml", *out) == 0


@pytest.mark.parametrize(
    ("kinds", "why"),
    [
        (["view", "purchase", "refund"], "the use of 'refund' is not known"),
        (["view", "click"], "none of the names is known as a goal"),
        (["view"] * 19 + ["purchase"], "40 rows are purchase, too few to learn from alone"),
    ],
)
def test_kinds_that_cannot_be_told_stay_a_comment_that_says_why(tmp_path, kinds, why):
    text = " ".join(log_of_kinds(tmp_path, kinds).replace("\n#", "").split())
    assert why in text
    assert "[data.events.view]" not in text
    assert not load_recipe(tmp_path / "recipe.toml").data.events


def test_columns_that_may_be_of_the_event_are_proposed_as_a_comment_alone(tmp_path):
    text = " ".join(log_of_kinds(tmp_path, ["view", "purchase"]).replace("\n#", "").split())
    assert 'device = { kind = "categorical", known = "before" }' in text
    assert 'dwell_seconds = { kind = "numeric", known = "after" }' in text
    assert not load_recipe(tmp_path / "recipe.toml").features.events


def test_ids_called_otherwise_in_the_table_are_named(tmp_path):
    log = {"user": [e.user for e in LOG], "sku": [f"p{e.item}" for e in LOG]}
    pl.DataFrame(log).write_csv(tmp_path / "log.csv")
    ids = [f"p{n}" for n in range(30)]
    pl.DataFrame({"id": ids, "price": [n / 7 for n in range(30)]}).write_csv(tmp_path / "p.csv")
    made = draft(str(tmp_path / "log.csv"), items=str(tmp_path / "p.csv"))
    assert made.content["data"]["items_id"] == "id"
    assert made.content["features"]["items"] == {"price": "numeric"}


def test_a_table_without_a_row_for_each_id_is_left_out_and_said(tmp_path):
    log = {"user": [e.user for e in LOG], "item": [e.item for e in LOG]}
    pl.DataFrame(log).write_csv(tmp_path / "log.csv")
    daily = {"item": [0, 1, 0, 1], "day": [1, 1, 2, 2]}
    pl.DataFrame(daily).write_csv(tmp_path / "daily.csv")
    made = draft(str(tmp_path / "log.csv"), items=str(tmp_path / "daily.csv"))
    assert "items" not in made.content["data"]
    assert "no column holds each id once" in made.guesses["data.items"].reason


def test_missing_ids_and_words_for_nothing_are_dropped_and_marked(tmp_path):
    rows = [("NULL" if n % 9 == 0 else f"u{e.user}", e.item, e.time) for n, e in enumerate(LOG)]
    lines(tmp_path / "log.csv", [("user", "item", "time"), *rows])
    made = draft(str(tmp_path / "log.csv"))
    assert made.content["data"]["null_values"] == ["NULL"]
    assert made.content["data"]["null_ids"] == "drop"
    assert {"data.null_values", "data.null_ids"} <= {guess.key for guess in made.unsure()}


def test_a_row_of_totals_does_not_cost_the_time_of_all_others(tmp_path):
    rows = [(f"u{e.user}", e.item, e.time) for e in LOG]
    lines(tmp_path / "log.csv", [("user", "item", "time"), *rows, ("Total", "", "")])
    made = draft(str(tmp_path / "log.csv"))
    assert made.content["data"]["time"] == "time"
    assert made.content["data"]["null_ids"] == "drop"


def log_with(path, name, value):
    rows = [(f"u{e.user}", f"i{e.item}", value(n)) for n, e in enumerate(LOG)]
    lines(path / "log.csv", [("user", "item", name), *rows])
    return draft(str(path / "log.csv"))


def clock(n):
    return f"2023-03-{n % 27 + 1:02} {n % 24:02}:{n * 7 % 60:02}:{n % 60:02}"


@pytest.mark.parametrize("name", ["played at", "watch_time", "timesPlayed"])
def test_a_word_for_durations_does_not_hide_a_column_of_clock_times(tmp_path, name):
    for value in (clock, lambda n: 1_700_000_000 + 61 * n):
        made = log_with(tmp_path, name, value)
        assert made.content["data"]["time"] == name
        assert made.content["split"]["kind"] == "leave-last-out"
    assert "time" not in log_with(tmp_path, name, lambda n: n * 37 % 4000).content["data"]


def test_times_of_something_else_are_named_where_no_other_column_is_a_time(tmp_path):
    made = log_with(tmp_path, "released_at", clock)
    assert "time" not in made.content["data"]
    assert "released_at: times of something else" in made.guesses["data.time"].reason


def test_times_that_are_all_equal_order_nothing_and_init_says_so(tmp_path):
    made = log_with(tmp_path, "timestamp", lambda n: 1_700_000_000)
    assert made.content["split"]["kind"] == "random"
    assert "timestamp: the same in every row" in made.guesses["data.time"].reason


def test_times_that_are_equal_in_the_rows_read_are_times_if_more_rows_follow(tmp_path, monkeypatch):
    monkeypatch.setattr("shortlist.drafting.heads.ROWS", len(LOG) - 1)
    made = log_with(tmp_path, "timestamp", lambda n: 1_700_000_000 + 86_400 * (n // (len(LOG) - 1)))
    assert made.content["data"]["time"] == "timestamp"
    assert made.content["split"]["kind"] == "leave-last-out"
    guess = made.guesses["data.time"]
    assert guess.confidence == "check"
    assert guess.reason.endswith(f"the same in the first {len(LOG) - 1:,} rows")


def test_a_comment_cannot_be_left_by_what_stands_in_a_file(tmp_path):
    rows = [(e.user, e.item, f'line"\r\n[model]\ndim = {e.item}') for e in LOG]
    frame = pl.DataFrame(rows, schema=["user", "item", 'ti"tle\n[x'], orient="row")
    frame.write_parquet(tmp_path / "log.parquet")
    text = written(draft(str(tmp_path / "log.parquet")), "shortlist init x\ny")
    made = tomllib.loads(text)
    assert set(made) <= {"data", "features", "split", "training"}


def test_a_count_of_each_users_events_is_not_taken_for_the_user(tmp_path):
    """A log without a header or times: its positions are in the users file, and fewer are films."""
    rows = [(u, 100 + (7 * u + 5 * at) % 89, 4, at) for u in range(1, 41) for at in range(1, 61)]
    tables = {"ratings": rows, "users": [(user, "F", 25) for user in range(1, 61)]}
    films = (*range(1, 41), *range(100, 190))
    tables["movies"] = [(film, f"Film {film}", "Drama|War") for film in films]
    for name, table in tables.items():
        text = "".join("::".join(map(str, row)) + "\n" for row in table)
        (tmp_path / f"{name}.dat").write_text(text)
    places = {name: tmp_path / f"{name}.dat" for name in tables}
    made = draft(places["ratings"], users=places["users"], items=places["movies"])
    assert made.content["data"]["columns"][:2] == ["user_id", "item_id"]


TIME = "2020-09-13T12:26:40Z"
STRANGERS = {
    # ids that a frame has made floats, half of the users missing, dates with strokes
    "retail.csv": (
        "InvoiceNo,StockCode,Quantity,InvoiceDate,CustomerID\n",
        lambda n: (
            f"{n // 3},8512{n % 17}A,{n % 5},{n % 12 + 1}/{n % 28 + 1}/2020 8:26,"
            + (f"178{n % 29}.0\n" if n % 2 else "\n")
        ),
        {"user": "CustomerID", "item": "StockCode", "time": "InvoiceDate", "null_ids": "drop"}
        | {"weight": "Quantity", "min_weight": 0},
    ),
    # a rating of -1 says that there is none
    "anime.csv": (
        "user_id,anime_id,rating\n",
        lambda n: f"{n % 29},{n % 17},{n % 12 - 1}\n",
        {"user": "user_id", "item": "anime_id", "weight": "rating", "min_weight": 0},
    ),
    # sessions beside users who are mostly unknown
    "diginetica.csv": (
        "sessionId;userId;itemId;eventdate\n",
        lambda n: f"{n // 5};{'NA' if n % 3 else n % 29};{n % 17};2016-05-{n % 28 + 1:02d}\n",
        {"user": "userId", "item": "itemId", "time": "eventdate", "null_ids": "drop"}
        | {"null_values": ["NA"]},
    ),
    # Chinese, as spreadsheets in China write it
    "export.csv": (
        "用户ID,商品ID,商品类目ID,时间\n",
        lambda n: f"{n % 29},{n % 17},{n % 7 // 4},2020-09-{n % 28 + 1:02d} 10:00:00\n",
        {"user": "用户ID", "item": "商品ID", "time": "时间"},
    ),
    # ids with a point are no decimals
    "analytics.csv": (
        "event_timestamp,event_name,user_pseudo_id,item_id\n",
        lambda n: f"{1_600_000_000_000_000 + n},view,{n % 29}.16{n % 29},SKU{n % 17}\n",
        {"user": "user_pseudo_id", "item": "item_id", "time": "event_timestamp"},
    ),
    # objects in objects
    "segment.jsonl": (
        "",
        lambda n: (
            json.dumps(
                {
                    "userId": f"u{n % 29}",
                    "messageId": f"m{n}",
                    "timestamp": TIME.replace("13", "14"),
                }
                | {"properties": {"product_id": f"p{n % 17}", "price": n % 7 / 2}}
            )
            + "\n"
        ),
        {"user": "userId", "item": "properties.product_id"},
    ),
    # places beside times, no header
    "checkins.txt": (
        "",
        lambda n: (
            f"{n % 29}\t2010-10-{n % 28 + 1:02d}T23:55:27Z\t30.{n % 17}\t-97.{n % 17}"
            f"\t2284{n % 17}\n"
        ),
        {"user": "user_id", "item": "item_id", "time": "timestamp"}
        | {"columns": ["user_id", "timestamp", "column_3", "column_4", "item_id"]},
    ),
    # spaces between fields
    "trust.txt": (
        "",
        lambda n: f"{n % 29 + 1} {n % 17 + 100} {n % 5 + 1}\n",
        {"user": "user_id", "item": "item_id", "weight": "rating", "min_weight": 1}
        | {"columns": ["user_id", "item_id", "rating"], "separator": " "},
    ),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_files_of_strangers_are_guessed_too(tmp_path, name):
    header, row, roles = STRANGERS[name]
    text = header + "".join(row(n) for n in range(300))
    (tmp_path / name).write_text(text, encoding="gb18030" if "用户" in header else "utf-8")
    data = dict(draft(str(tmp_path / name)).content["data"])
    del data["interactions"]
    assert data.pop("encoding", None) == ("gb18030" if "用户" in header else None)
    assert data == roles


SCRIPTS = {
    "gb18030": "三体,周星馳電影,霸王別姬,大话西游,無間道,臥虎藏龍,活着,紅高粱,鎔,囧途",
    "cp1251": "Война и мир,Сталкер,Ирония судьбы,Брат,Иди и смотри,Летят журавли,Я",
    "koi8-r": "Война и мир,Сталкер,Ирония судьбы,Брат,Иди и смотри,Летят журавли,Я",
    "latin-1": "Amélie,Le Fabuleux Destin,Das Leben der Anderen,Señora,Über uns,À bout",
    "cp1252": "Amélie – le film,L’été,Das Boot,“Señora”,Über uns,À bout de souffle",
}


@pytest.mark.parametrize("encoding", SCRIPTS)
def test_an_encoding_is_a_guess_that_says_how_another_is_named(tmp_path, encoding):
    titles = SCRIPTS[encoding].split(",")
    rows = "".join(
        f"{n % 29},{n % 17},{titles[n % 17 % len(titles)]} {n % 17}\n" for n in range(300)
    )
    (tmp_path / "log.csv").write_text("user,item,title\n" + rows, encoding=encoding)
    made = draft(str(tmp_path / "log.csv"))
    guess = made.guesses["data.encoding"]
    assert (guess.value, guess.confidence) == (encoding, "check")
    assert "not certain" in guess.reason
    assert "name the encoding" in guess.reason


def test_ids_that_are_floats_in_parquet_are_refused_as_train_does(tmp_path):
    frame = pl.DataFrame({"user_id": [1.0, 1.0, 2.0], "item_id": [1, 2, 1], "visit_id": [1, 1, 2]})
    frame.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match="ids are floats"):
        draft(str(tmp_path / "log.parquet"))


def test_a_packed_file_that_is_not_what_its_name_says_is_refused_in_a_sentence(tmp_path, capsys):
    (tmp_path / "log.csv.gz").write_bytes(b"user,item\n1,2\n")
    for rest in (("init", tmp_path / "log.csv.gz"), ("doctor", tmp_path / "log.csv.gz")):
        out = ("--out", tmp_path / "recipe.toml") if rest[0] == "init" else ()
        assert "cannot be read; it is damaged" in refusal(capsys, *rest, *out)
