"""The command line as people use it: files in, answers and one clear error out."""

import json
import resource
import sys
from dataclasses import replace
from unittest import mock

import polars as pl
import pyarrow.parquet as pq
import pytest

from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import load
from shortlist.cli import files, main
from shortlist.data import known_sets
from shortlist.data.synthetic import planted_world
from shortlist.errors import QueryError

RECIPE = """
[data]
interactions = "log.csv"
items = "items.parquet"
users = "users.parquet"
time = "timestamp"

[features]
users = { region = "categorical", age = "numeric" }
items = { tags = "multi-valued", price = "numeric" }
title = "title"

[model]
dim = 16

[training]
epochs = 2
batch_size = 128

[evaluation]
k = [5, 10]
"""


@pytest.fixture(scope="module", autouse=True)
def _no_data_folder():
    """Relative paths start at the recipe here, wherever the tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SHORTLIST_DATA", raising=False)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    world = planted_world(users=200, items=150, events=4_000, seed=2)
    world.interactions.write_csv(folder / "log.csv")
    world.users.write_parquet(folder / "users.parquet")
    world.items.write_parquet(folder / "items.parquet")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def bundle(folder):
    assert call("train", folder / "recipe.toml", "--out", folder / "bundle", "--quiet") == 0
    return folder / "bundle"


def call(*arguments) -> int:
    """Run the command line in this process; return its exit code."""
    old, sys.argv = sys.argv, ["shortlist", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = old
    return 0


def output(capsys, *arguments):
    """Run a command that must succeed; return what it printed."""
    capsys.readouterr()
    assert call(*arguments) == 0
    return capsys.readouterr().out


def refusal(capsys, *arguments):
    """Run a command that must fail; return its one line on stderr, no traceback among it."""
    capsys.readouterr()
    code = call(*arguments)
    captured = capsys.readouterr()
    assert code != 0
    assert "Traceback" not in captured.err + captured.out
    return " ".join(captured.err.split())


def test_evaluate_prints_the_object_that_training_saved(capsys, bundle):
    measured = json.loads(output(capsys, "evaluate", bundle, "--json"))
    saved = json.loads(output(capsys, "inspect", bundle, "--json"))["metrics"]
    assert measured["costs"]["this model"]["query_cpu_us"] > 0
    assert measured["in_short"][0].startswith("For ")
    beside = ("bundle", "costs", "in_short")
    assert {k: v for k, v in measured.items() if k not in beside} == saved
    assert measured["users"] == 200
    assert set(measured["metrics"]["hit_rate@5"]) == {"mean", "low", "high"}
    assert "recall@10" in measured["baseline"]["popularity"]


def test_recommend_gives_known_users_their_own_ids_back(capsys, bundle):
    found = json.loads(
        output(capsys, "recommend", bundle, "--user", 10_001, "--user", 10_002, "--k", 3, "--json")
    )
    assert [answer["user"] for answer in found["users"]] == [10_001, 10_002]
    first = found["users"][0]["items"]
    assert len(first) == 3
    assert all(isinstance(entry["item"], int) for entry in first)
    assert [e["score"] for e in first] == sorted((e["score"] for e in first), reverse=True)


def test_recommend_answers_a_history_and_shows_titles(capsys, bundle):
    shown = output(capsys, "recommend", bundle, "--history", "500001,500002", "--k", 4)
    assert "this history" in shown
    assert "The " in shown
    found = json.loads(
        output(capsys, "recommend", bundle, "--history", "500001,500002", "--k", 4, "--json")
    )
    assert not {500_001, 500_002} & {e["item"] for e in found["users"][0]["items"]}


def test_a_file_of_users_becomes_a_file_of_candidates(capsys, bundle, tmp_path):
    users = pl.DataFrame({"user_id": [10_003, 10_001, 999]})
    users.write_csv(tmp_path / "users.csv")
    target = tmp_path / "out.parquet"
    output(
        capsys,
        "recommend",
        bundle,
        "--users-file",
        tmp_path / "users.csv",
        "--out",
        target,
        "--k",
        5,
    )
    found = pl.read_parquet(target)
    assert found.columns == ["user", "rank", "item", "score", "fallback"]
    assert found["user"].unique(maintain_order=True).to_list() == [10_003, 10_001, 999]
    assert found.group_by("user").len()["len"].to_list() == [5, 5, 5]
    one = json.loads(output(capsys, "recommend", bundle, "--user", 10_001, "--k", 5, "--json"))
    expected = [entry["item"] for entry in one["users"][0]["items"]]
    assert found.filter(pl.col("user") == 10_001)["item"].to_list() == expected
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_quota_of_the_command_line_is_the_library_s(capsys, bundle):
    asked = ("recommend", bundle, "--user", 10_001, "--k", 5, "--quota", "studio=1", "--json")
    found = json.loads(output(capsys, *asked))
    queries = Queries([10_001], quota={"studio": 1})
    expected = load(bundle).retriever.recommend(queries, 5).ids[0]
    assert [entry["item"] for entry in found["users"][0]["items"]] == expected


def test_conditions_of_the_command_line_are_the_library_s(capsys, bundle):
    where = {"column": "price", "max": 8.0}
    best = load(bundle).retriever.recommend(Queries([10_001], where=where), 4).ids[0]
    deny, allow = best[:1], best[1:3]
    for option, queries in (
        ((), Queries([10_001], where=where)),
        (("--deny", f"{deny[0]}"), Queries([10_001], where=where, deny=deny)),
        (("--allow", f"{allow[0]}, {allow[1]}"), Queries([10_001], where=where, allow=allow)),
    ):
        asked = ("recommend", bundle, "--user", 10_001, "--k", 4, "--where", json.dumps(where))
        found = json.loads(output(capsys, *asked, *option, "--json"))
        given = [entry["item"] for entry in found["users"][0]["items"]]
        assert given == load(bundle).retriever.recommend(queries, 4).ids[0] != []


def test_an_answer_without_items_says_why_it_has_none(capsys, bundle):
    asked = ("recommend", bundle, "--user", 10_001, "--where")
    left = "no item is left: seen items and what the conditions exclude are left out"
    for most, nothing in ((-1, True), (8.0, False)):
        shown = output(capsys, *asked, json.dumps({"column": "price", "max": most}))
        assert (left in " ".join(shown.split())) is nothing


@pytest.mark.parametrize("option", ["--allow", "--deny"])
def test_items_to_allow_or_deny_that_are_unknown_are_said(capsys, bundle, option):
    known = load(bundle).retriever.data.items.ids[0]
    asked = ("recommend", bundle, "--user", 10_001, "--json", option)
    assert call(*asked, f"{known},7777777") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"1 of 2 items of {option} are unknown and ignored, such as 7777777." in said
    assert call(*asked, f"{known}") == 0
    assert "unknown" not in capsys.readouterr().err


def test_ids_of_a_history_are_read_as_a_line_of_csv(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    met = ("Alien, 1979", "Up", "Heat", "Up", "Heat")
    rows = [(f"u{n}", item, at) for n in range(6) for at, item in enumerate(met)]
    pl.DataFrame(rows, schema=["user_id", "item_id", "at"], orient="row").write_csv("log.csv")
    recipe = '[data]\ninteractions = "log.csv"\ntime = "at"\n[channels.cf]\nkind = "item-cf"\n'
    (tmp_path / "recipe.toml").write_text(recipe)
    output(capsys, "train", "recipe.toml", "--out", "b", "--json")
    asked = ("recommend", "b", "--history", '"Alien, 1979",  Up', "--json")
    found = json.loads(output(capsys, *asked))["users"][0]["items"]
    assert [entry["item"] for entry in found] == ["Heat"]


def test_all_users_become_a_file_in_groups_of_rows_and_are_answered_as_one_by_one(
    capsys, bundle, tmp_path, monkeypatch
):
    monkeypatch.setattr(files, "ROWS_AT_A_TIME", 100)
    target = tmp_path / "out.parquet"
    assert call("recommend", bundle, "--all-users", "--out", target, "--k", 7) == 0
    data = load(bundle).retriever.data
    found = pl.read_parquet(target)
    assert found["user"].unique(maintain_order=True).to_list() == data.users.ids.to_list()
    groups = pq.ParquetFile(target).metadata
    sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
    assert max(sizes) <= 100
    assert sum(sizes) == len(found)
    one = json.loads(output(capsys, "recommend", bundle, "--user", 10_003, "--k", 7, "--json"))
    expected = [entry["item"] for entry in one["users"][0]["items"]]
    assert found.filter(pl.col("user") == 10_003)["item"].to_list() == expected


def test_a_file_of_candidates_that_fails_half_way_leaves_nothing(bundle, tmp_path, monkeypatch):
    target = tmp_path / "out.parquet"
    target.write_bytes(b"the old one")
    retriever = load(bundle).retriever
    users, real = retriever.data.users.ids, retriever.recommend

    def fails_at_the_end(queries, k):
        if queries.users[-1] == users[-1]:
            raise QueryError("no more")
        return real(queries, k)

    retriever.recommend = fails_at_the_end
    monkeypatch.setattr(files, "ROWS_AT_A_TIME", 100)
    with pytest.raises(QueryError, match="no more"):
        files.recommend_file(retriever, users, target, 5, overwrite=True, exclude_seen=True)
    assert target.read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["out.parquet"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,userid\n1,10001\n", "no column 'user_id'"),
        ("10001\n10002\n", "put a header above it"),
        ("user_id\nx\n", "integers"),
        ("user_id\n1\nNULL\n", "row 2: 'NULL' looks like a missing value"),
        ("user_id\n\\N\n2\n", "row 1: the user id is empty"),
        ("user_id\n10001\nnope\n", "row 2: user ids of this data are integers, got 'nope'"),
    ],
)
def test_a_users_file_without_a_user_column_or_id_is_refused(
    capsys, bundle, tmp_path, text, message
):
    users = tmp_path / "users.csv"
    users.write_text(text)
    target = tmp_path / "out.parquet"
    assert message in refusal(capsys, "recommend", bundle, "--users-file", users, "--out", target)
    assert not target.exists()


def test_the_user_column_wins_over_others_and_parquet_is_named_so(capsys, bundle, tmp_path):
    users, target = tmp_path / "users.csv", tmp_path / "out.parquet"
    users.write_text("id,user_id\n1,10001\n2,999\n")
    capsys.readouterr()
    assert call("recommend", bundle, "--users-file", users, "--out", target, "--k", 2) == 0
    assert "1 of them are unknown" in " ".join(capsys.readouterr().err.split())
    assert pl.read_parquet(target)["user"].unique(maintain_order=True).to_list() == [10_001, 999]
    refused = refusal(
        capsys, "recommend", bundle, "--users-file", users, "--out", tmp_path / "o.csv"
    )
    assert ".parquet" in refused


def test_what_is_unknown_in_a_question_is_said(capsys, bundle):
    assert call("recommend", bundle, "--history", "500001,77", "--k", 2) == 0
    assert "1 of 2 items of the histories are unknown" in " ".join(capsys.readouterr().err.split())
    assert call("recommend", bundle, "--user", 999, "--k", 2) == 0
    assert "user 999 is unknown" in " ".join(capsys.readouterr().err.split())


def test_a_model_with_nothing_left_to_recommend_is_kept_with_empty_figures(capsys, tmp_path):
    frame = pl.DataFrame({"user_id": [u for u in range(10) for _ in range(6)]}).with_columns(
        item_id=pl.Series([*range(6)] * 10), time=pl.Series([*range(6)] * 10)
    )
    frame.write_csv(tmp_path / "log.csv")
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        '[data]\ninteractions = "log.csv"\ntime = "time"\n'
        "[model]\ndim = 8\n[training]\nepochs = 1\n[evaluation]\nk = [100]\n"
    )
    printed = json.loads(
        output(capsys, "train", recipe, "--out", tmp_path / "b", "--json", "--quiet")
    )
    assert printed["metrics"]["recall@100"]["mean"] == 0
    assert call("evaluate", tmp_path / "b") == 0


@pytest.mark.parametrize(("asked", "slow"), [("bfloat16", True), ("auto", False)])
def test_a_training_that_will_be_slow_in_bfloat16_says_so(
    capsys, folder, tmp_path, monkeypatch, asked, slow
):
    from shortlist.training import precision

    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda _: False)
    options = ("--set", f"training.precision={asked}", "--set", "training.epochs=1")
    assert call("train", folder / "recipe.toml", "--out", tmp_path / "b", *options) == 0
    said = capsys.readouterr().err
    assert ("warning: precision = 'bfloat16', and the device has no hardware" in said) is slow
    assert f"trained in {'bfloat16' if slow else 'float32'}" in said


def test_encode_writes_vectors_whose_inner_product_is_the_score(capsys, bundle, tmp_path):
    items, users = tmp_path / "items.parquet", tmp_path / "users.parquet"
    output(capsys, "encode", bundle, "--items", items, "--users", users)
    item_frame, user_frame = pl.read_parquet(items), pl.read_parquet(users)
    answer = json.loads(output(capsys, "recommend", bundle, "--user", 10_001, "--k", 1, "--json"))
    best = answer["users"][0]["items"][0]
    u = user_frame.filter(pl.col("id") == 10_001)["vector"].to_numpy()[0]
    t = item_frame.filter(pl.col("id") == best["item"])["vector"].to_numpy()[0]
    assert u @ t == pytest.approx(best["score"], abs=1e-5)  # it was trained under cosine


def test_encode_tells_what_a_store_must_know_and_writes_it_into_the_file(capsys, bundle, tmp_path):
    identity = json.loads(output(capsys, "inspect", bundle, "--json"))["bundle"]
    assert call("encode", bundle, "--items", tmp_path / "items.parquet") == 0
    (line,) = capsys.readouterr().err.splitlines()
    told = f"metric inner product, similarity cosine, width 16, bundle {identity[:16]}."
    assert line == f"Wrote 150 vectors to {tmp_path / 'items.parquet'}: {told}"
    written = pq.read_schema(tmp_path / "items.parquet").metadata
    facts = {
        b"metric": b"inner product",
        b"similarity": b"cosine",
        b"width": b"16",
        b"bundle": identity.encode(),
    }
    assert facts.items() <= written.items()


def test_inspect_and_evaluate_print_tables(capsys, bundle):
    assert "two-tower" in output(capsys, "inspect", bundle)
    said = output(capsys, "evaluate", bundle)
    assert "popular" in said
    assert "of the model's list" in " ".join(said.split())
    twice = refusal(capsys, "compare", f"a={bundle}", f"a={bundle}")
    assert "two bundles are called 'a': give each a name of its own" in twice


def test_init_writes_a_recipe_and_never_over_one(capsys, tmp_path):
    target = tmp_path / "recipe.toml"
    output(capsys, "init", target)
    written = target.read_text()
    assert "[data]" in written
    assert "exists" in refusal(capsys, "init", target)
    assert target.read_text() == written


def test_the_version_is_printed(capsys):
    assert output(capsys, "--version").startswith("shortlist 0.")


def test_overrides_and_seed_reach_training(capsys, folder, tmp_path):
    printed = json.loads(
        output(
            capsys,
            *("train", folder / "recipe.toml", "--out", tmp_path / "b", "--json", "--quiet"),
            *("--set", "training.epochs=1", "--set", "training.mode=pairwise", "--seed", 9),
        )
    )
    recipe = json.loads(output(capsys, "inspect", tmp_path / "b", "--json"))["recipe"]
    assert recipe["training"]["epochs"] == 1
    assert recipe["training"]["mode"] == "pairwise"
    assert recipe["training"]["seed"] == 9
    assert printed["users"] == 200


def test_a_fit_on_everything_keeps_the_figures_of_the_fit_before(capsys, folder, tmp_path):
    arguments = ("train", folder / "recipe.toml", "--out", tmp_path / "b", "--quiet", "--json")
    printed = json.loads(output(capsys, *arguments, "--set", "training.refit=all"))
    assert printed["split"]["fit"] == "train"
    kept = json.loads(output(capsys, "inspect", tmp_path / "b", "--json"))
    assert kept["data"]["fit"] == "all"
    assert kept["metrics"]["split"]["fit"] == "train"
    assert "worthless" in refusal(capsys, "evaluate", tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.interactions=nowhere.csv", "nowhere.csv"),
        ("data.item=film", "film"),
        ("data.time=when", "when"),
        ("training.temperature=0", "temperature must be > 0"),
        ("training.temprature=1", "Did you mean 'temperature'"),
        ("training.loss=sofmax", "softmax"),
        ("model.user_features=['price']", "price"),
        ("split.kind=last", "leave-last-out"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_clear_line_and_no_bundle(
    capsys, folder, tmp_path, change, message
):
    target = tmp_path / "never"
    said = refusal(capsys, "train", folder / "recipe.toml", "--out", target, "--set", change)
    assert said.startswith("error:")
    assert message in said
    assert not list(tmp_path.iterdir())


def test_early_fusion_is_called_what_it_is(capsys, folder, tmp_path):
    said = refusal(
        capsys,
        *("train", folder / "recipe.toml", "--out", tmp_path / "b"),
        *("--set", "model.user_features=['price']"),
    )
    assert "ranker" in said


def test_an_existing_path_is_refused_before_training(capsys, folder, bundle):
    said = refusal(capsys, "train", folder / "recipe.toml", "--out", bundle)
    assert "exists" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--user", "abc"), "integers"),
        (("--user", "10001", "--k", "0"), "at least 1"),
        ((), "one of --user"),
        (("--user", "10001", "--history", "1"), "one of --user"),
        (("--users-file", "x.csv"), "go together"),
        (("--all-users",), "go together"),
        (("--all-users", "--out", "y.parquet", "--json"), "--json is for answers"),
        (("--user", "10001", "--quota", "price"), "--quota is COLUMN=N"),
        (("--user", "10001", "--quota", "price=1", "--quota", "price=2"), "given only once"),
        (("--user", "10001", "--quota", "price=0"), "whole number >= 1"),
        (("--user", "10001", "--quota", "tags=1"), "several values"),
        (("--all-users", "--users-file", "x.csv", "--out", "y.parquet"), "give one of"),
        (("--user", "10001", "--out", "y.parquet"), "go together"),
        (("--user", "10001", "--where", "price < 3"), "--where is JSON"),
        (("--user", "10001", "--where", "[]"), "one JSON object"),
        (("--user", "10001", "--deny", '500001,"5'), "double quotes"),
        (("--users-file", "x.csv", "--out", "y.parquet"), "x.csv"),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(capsys, bundle, arguments, message):
    assert message in refusal(capsys, "recommend", bundle, *arguments)


def test_a_recipe_that_does_not_fit_on_the_disk_leaves_no_part_of_it(capsys, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        said = refusal(capsys, "init", tmp_path / "recipe.toml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot write" in said
    assert not (tmp_path / "recipe.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--small",), "--small does nothing without --synthetic"),
        (("--synthetic", "--data", "folder"), "--synthetic reads no data"),
    ],
)
def test_options_of_the_demo_that_would_do_nothing_are_refused(capsys, arguments, message):
    assert message in refusal(capsys, "demo", *arguments)


def test_known_data_is_listed_with_its_size_source_and_terms(capsys):
    shown = output(capsys, "data")
    for part in ("ml-1m: 1,000,209 rows of 6,040 users", "GroupLens", "Terms: free for research"):
        assert part in shown
    listed = json.loads(output(capsys, "data", "--json"))
    assert listed["gowalla"]["items"] == 40_981
    assert listed["ml-100k"]["sources"] == ["GroupLens", "the copy in the recbole 1.2.1 wheel"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ml-1n",), "no data set 'ml-1n' is known. Did you mean 'ml-1m'?"),
        (("ml-1m", "--from", "nowhere"), "--from nowhere: there is no such file or folder"),
        (("--from", "folder"), "--from does nothing without the NAME"),
        (("--out", "recipe.toml"), "--out does nothing without the NAME"),
        (("--overwrite",), "--overwrite does nothing without the NAME"),
    ],
)
def test_data_that_cannot_be_had_as_asked_is_refused(
    capsys, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(capsys, "data", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_data_that_is_here_gets_a_recipe_that_trains_on_it(capsys, tmp_path, monkeypatch):
    world = planted_world(users=60, items=40, events=600, seed=2)
    rows = world.interactions.with_columns(rating=pl.lit(5)).select(
        "user_id", "item_id", "rating", "timestamp"
    )
    users = world.users.select("user_id", a=pl.lit("F"), b=pl.lit(25), c=pl.lit(4), d=pl.lit("0"))
    films = world.items.select("item_id", "title", genres=pl.lit("Drama|War"))
    for name, frame in (("ratings", rows), ("users", users), ("movies", films)):
        text = ("::".join(map(str, row)) + "\n" for row in frame.iter_rows())
        (tmp_path / f"{name}.dat").write_text("".join(text))
    known = known_sets.KNOWN_SETS["ml-1m"]
    log = known_sets.Counts(rows.height, 60, rows["item_id"].n_unique())
    form = replace(known.forms[0], counts=log, rows_beside={})
    monkeypatch.setattr(known_sets, "KNOWN_SETS", {"ml-1m": replace(known, forms=(form,))})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHORTLIST_DATA", str(tmp_path / "elsewhere"))
    told = json.loads(output(capsys, "data", "ml-1m", "--from", ".", "--json"))
    assert (told["recipe"], told["rows"], told["folder"]) == ("ml-1m.toml", rows.height, ".")
    assert "exists already" in refusal(capsys, "data", "ml-1m", "--from", ".")
    assert call("--quiet", "data", "ml-1m", "--from", ".", "--overwrite") == 0
    small = ("--set", "model.dim=4", "--set", "training.epochs=1", "--quiet")
    assert call("train", "ml-1m.toml", "--out", "bundle", *small) == 0


def test_an_update_keeps_what_was_measured_of_the_index(capsys, folder, tmp_path):
    options = ("--set", "training.refit=all", "--set", "training.epochs=1", "--quiet")
    assert call("train", folder / "recipe.toml", "--out", tmp_path / "all", *options) == 0
    asked = ("--kind", "exact", "--out", tmp_path / "indexed")
    assert call("index", tmp_path / "all", *asked) == 0
    events = ("--events", folder / "log.csv", "--out", tmp_path / "newer")
    assert call("update", tmp_path / "indexed", *events) == 0
    measured = load(tmp_path / "indexed").manifest.fields["index"]
    assert measured["k"]
    assert load(tmp_path / "newer").manifest.fields["index"] == measured


def test_a_missing_or_damaged_bundle_exits_with_three(capsys, bundle, tmp_path):
    assert call("inspect", tmp_path / "none") == 3
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    with (broken / "log.parquet").open("r+b") as file:
        file.seek(30)
        file.write(b"\xff")
    capsys.readouterr()
    assert call("recommend", broken, "--user", "10001") == 3
    assert "log.parquet" in capsys.readouterr().err


def test_a_fault_of_the_doctor_does_not_cost_the_trained_model(folder, tmp_path, monkeypatch):
    from shortlist.runs import whole

    def broken(_):
        raise RuntimeError("a check fell over")

    monkeypatch.setattr(whole, "examine", broken)
    with pytest.raises(RuntimeError, match="fell over"):
        call("train", folder / "recipe.toml", "--out", tmp_path / "b", "--quiet")
    monkeypatch.undo()
    assert call("inspect", tmp_path / "b") == 0


def test_the_options_of_serve_reach_the_service_and_help_names_them(capsys, bundle, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "shortlist.serving.run.serve", lambda *arguments, **more: asked.append(arguments)
    )
    options = {"queue": 7, "poll": 0.5, "workers": 3, "connections": 9}
    times = {"timeout": 4.0, "notice": 0.0, "drain": 2.5}
    typed = [f"--{name}={value}" for name, value in (options | times).items()]
    assert (
        call("serve", bundle, *typed, "--access-log", "--log-level=warning", "--private-copy") == 0
    )
    settings = asked[0][3]
    assert (settings.access_log, settings.private_copy) == (True, True)
    assert {name: getattr(settings, name) for name in options} == options
    waits = settings.timeouts
    assert (waits.answer, waits.notice, waits.drain) == (4.0, 0.0, 2.5)
    taught = output(capsys, "serve", "--help")
    assert all(f"--{name}" in taught for name in options | times)
    assert "poll must be > 0 seconds" in refusal(capsys, "serve", bundle, "--poll=0")
    assert "--log-level cannot be 'loud'" in refusal(capsys, "serve", bundle, "--log-level=loud")


def test_on_windows_a_command_is_one_sentence_about_wsl(capsys, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert call("--version") == 1
    assert capsys.readouterr().err.count("inside WSL") == 1


def test_an_interrupt_leaves_no_half_bundle(capsys, folder, tmp_path, monkeypatch):
    from shortlist.training import trainer

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer.Trainer, "_loss", interrupted)
    assert call("train", folder / "recipe.toml", "--out", tmp_path / "b", "--quiet") == 130
    assert not list(tmp_path.iterdir())
    assert "no file is left half written" in capsys.readouterr().err


def test_an_interrupted_training_with_checkpoints_says_how_it_goes_on(
    capsys, folder, tmp_path, monkeypatch
):
    from shortlist.training import trainer

    whole, steps = trainer.Trainer._loss, iter(range(5))

    def interrupted(*given):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(trainer.Trainer, "_loss", interrupted)
    saved = ("--checkpoint", tmp_path / "saved", "--checkpoint-every", "0")
    asked = ("train", folder / "recipe.toml", "--out", tmp_path / "b", "--quiet", *saved)
    assert call(*asked) == 130
    assert "The same command continues" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    changed = refusal(capsys, *asked, "--set", "model.dim=8")
    assert "another recipe" in changed
    assert call(*asked) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_tracked_training_interrupted_before_its_first_checkpoint_starts_again(
    capsys, folder, tmp_path, monkeypatch
):
    from shortlist.runs import tracking
    from shortlist.training import trainer

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer.Trainer, "_loss", interrupted)
    monkeypatch.setattr(tracking, "trackers_of", lambda _: (mock.MagicMock(),))
    asked = ("train", folder / "recipe.toml", "--out", tmp_path / "b", "--quiet")
    assert call(*asked, "--checkpoint", tmp_path / "saved") == 130
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["training.id"]
    assert "continues" not in capsys.readouterr().err


def test_checkpoint_options_that_would_do_nothing_are_refused(capsys, folder, tmp_path):
    asked = ("train", folder / "recipe.toml", "--out", tmp_path / "b", "--quiet")
    assert "without --checkpoint" in refusal(capsys, *asked, "--checkpoint-every", "5")
    counting = folder / "counting.toml"
    counting.write_text('[data]\ninteractions = "log.csv"\n[channels.cf]\nkind = "item-cf"\n')
    asked = ("train", counting, "--out", tmp_path / "b", "--quiet")
    said = refusal(capsys, *asked, "--checkpoint", tmp_path / "saved")
    assert "no channel of this recipe has towers" in said


def test_the_demo_runs_on_the_planted_world(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = output(capsys, "--quiet", "demo", "--synthetic", "--small")
    assert "popular" in shown
    assert "Candidates for user" in shown
    assert "Comparison with methods without training" in shown
    assert " ".join(shown.split()[-40:]).rpartition("On this machine the fit took ")[1]
    assert "It is better than" in shown
    assert call("inspect", "runs/demo") == 0
