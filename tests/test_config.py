"""A recipe is read strictly, and whatever is wrong in it is told with its key and its cure."""

import json
import os
import tomllib
from datetime import date
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shortlist.bundle.bundle import load
from shortlist.config import (
    Model,
    Recipe,
    Similarity,
    Training,
    load_recipe,
    section_from,
    template,
)
from shortlist.config.recipe import SECTIONS
from shortlist.data.files import files_of
from shortlist.errors import DataError, ModelError, RecipeError, ShortlistError
from shortlist.histories.file import opened_to_read
from shortlist.histories.places import items_at
from shortlist.jobs.local import Local
from shortlist.jobs.steps import Job
from shortlist.losses import LOSSES
from shortlist.runs.pipeline import load_dataset
from shortlist.runs.refreshing import newest
from shortlist.sampling import HARD, SAMPLERS
from shortlist.serving.refused import check_path
from shortlist.similarity import SIMILARITIES

SMALLEST = {"data": {"interactions": "log.csv"}}
TABLES = {"data": {"interactions": "log.csv", "users": "u.csv", "items": "i.csv", "time": "t"}}

SHOWN = TABLES["data"] | {"impressions": "shown.csv", "click": "clicked"}


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)


@pytest.fixture
def write(tmp_path):
    def _write(text='[data]\ninteractions = "log.csv"\n'):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return path

    return _write


def read(**sections):
    return Recipe.from_dict(TABLES | sections)


def refusal(**sections):
    with pytest.raises(RecipeError) as refused:
        read(**sections)
    return str(refused.value)


# What is read.


def test_only_the_log_is_required():
    recipe = Recipe.from_dict(SMALLEST)
    assert (recipe.training.mode, recipe.training.loss, recipe.evaluation.exclude_seen) == (
        "listwise",
        None,
        True,
    )


@pytest.mark.parametrize("key", ["loss", "sampler", "temperature", "correct_sampling", "negatives"])
def test_what_the_mode_decides_is_left_open(key):
    assert getattr(Recipe.from_dict(SMALLEST).training, key) is None


@pytest.mark.parametrize(("number", "name"), [(0, "pointwise"), (1, "pairwise"), (2, "listwise")])
def test_a_mode_can_be_given_as_a_number(number, name):
    assert read(training={"mode": number}).training.mode == name


@pytest.mark.parametrize(
    ("data", "split", "kind"),
    [
        ({"time": "t"}, {}, "leave-last-out"),
        ({}, {}, "random"),
        ({"time": "t"}, {"column": "part"}, "column"),
        ({"time": "t"}, {"kind": "global-time"}, "global-time"),
    ],
)
def test_an_open_split_follows_from_the_columns(data, split, kind):
    recipe = Recipe.from_dict({"data": {"interactions": "log.csv"} | data, "split": split})
    assert recipe.split_kind == kind


def test_a_date_can_cut_the_log():
    day = date(2020, 1, 31)
    recipe = read(split={"kind": "global-time", "at": day})
    assert recipe.split.at == "2020-01-31"


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Recipe.from_dict(SMALLEST).training.epochs = 3


def test_the_choices_are_those_of_the_rooms_that_use_them():
    assert get_args(Similarity) == SIMILARITIES


def test_no_key_of_the_model_is_also_one_of_the_training():
    assert not Model.model_fields.keys() & Training.model_fields.keys()


# What is refused.


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("training", {"temprature": 1.0}, "training.temprature is not a key. Did you mean 'temp"),
        ("training", {"dim": 8}, "training.dim is not a key: 'dim' belongs to [model]."),
        ("chanels", {}, "[chanels] is not a section. Did you mean 'channels'?"),
        ("trainng", {}, "[trainng] is not a section. Did you mean 'training'?"),
        ("epochs", 3, "epochs is not a key: 'epochs' belongs to [training]."),
        (
            "features",
            {"event": {"device": "categorical"}},
            "'event' belongs to [data]. Did you mean 'features.events'?",
        ),
        ("training", {"mode": "listwse"}, "training.mode cannot be 'listwse'. Did you mean 'list"),
        ("training", {"mode": 3}, "training.mode cannot be 3. Known: listwise, pairwise, point"),
        ("training", {"mode": True}, "training.mode cannot be True."),
        ("training", {"temperature": 0}, "training.temperature must be > 0, got 0"),
        ("training", {"temperature": -0.5}, "training.temperature must be > 0, got -0.5"),
        ("training", {"temperature": float("nan")}, "training.temperature must be "),
        ("training", {"scale": float("inf")}, "training.scale must be a finite number, got inf"),
        ("training", {"margin": -1}, "training.margin must be >= 0, got -1"),
        ("training", {"alpha": "big"}, "training.alpha must be a number, got 'big'"),
        ("training", {"epochs": 0}, "training.epochs must be >= 1, got 0"),
        ("training", {"epochs": 2.0}, "training.epochs must be a whole number, got 2.0"),
        ("training", {"epochs": True}, "training.epochs must be a whole number, got True"),
        ("training", {"seed": -1}, "training.seed must be >= 0, got -1"),
        ("training", {"seed": 10**400}, "training.seed "),
        ("training", {"mask_known": 1}, "training.mask_known must be true or false, got 1"),
        ("training", {"loss": 3}, "training.loss must be text in quotes, got 3"),
        (
            "training",
            {"monitor": "auc"},
            "training.monitor must be a metric with @k, such as 'ndcg@10'. Known: ",
        ),
        ("training", {"monitor": "ndcg@0"}, "with @k, such as 'ndcg@10'"),
        (
            "training",
            {"refit": "train"},
            "training.refit cannot be 'train'. Known: all, none, train+v",
        ),
        ("training", 5, "training must be a table of keys, got 5"),
        ("model", {"dropout": 1}, "model.dropout must be < 1, got 1"),
        ("model", {"dim": "wide"}, 'model.dim must be a whole number, or "auto", got'),
        ("model", {"user_layers": [64, 0]}, "model.user_layers[1] must be >= 1, got 0"),
        ("model", {"user_layers": 64}, "model.user_layers must be a list, got 64"),
        ("evaluation", {"k": []}, "evaluation.k must be a list of at least one, got []"),
        ("evaluation", {"k": [10, 0]}, "evaluation.k[1] must be >= 1, got 0"),
        ("evaluation", {"k": [10, 10]}, "evaluation.k must not repeat a value"),
        ("features", {"items": {"a b": "numbr"}}, "features.items.\"a b\" cannot be 'numbr'. Did"),
        ("features", {"items": ["genres"]}, "features.items must be a table, got ['genres']"),
        ("features", {"separator": ""}, "features.separator must be text of at least one"),
        (
            "split",
            {"kind": "random", "at": 3},
            "split.at must be a share between 0 and 1 for split.kind",
        ),
        ("split", {"kind": "global-time", "at": True}, "split.at must be a number, a text or"),
        ("data", {"interactions": "a", "root": "\0"}, "data.root must be text"),
        ("data", {}, "data.interactions is required: The log, one row per event"),
        ("training", {"hard_ranks": [500, 100]}, "training.hard_ranks must name the first rank"),
        ("training", {"hard_ranks": [0, 9]}, "training.hard_ranks[0] must be >= 1, got 0"),
        ("training", {"hard_ranks": [9]}, "training.hard_ranks"),
        ("training", {"hard_ceiling": 1.5}, "training.hard_ceiling must be <= 1, got 1.5"),
        ("training", {"hard_weight": 0}, "training.hard_weight must be > 0, got 0"),
        ("training", {"hard_share": 0}, "training.hard_share must be > 0, got 0"),
        ("training", {"hard_margin": -1}, "training.hard_margin must be >= 0, got -1"),
    ],
)
def test_a_fault_is_told_with_its_key_what_came_and_the_cure(section, values, message):
    assert message in refusal(**{section: values})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"interactions": "a", "item": "user_id"}}, "data.user and data.item are both"),
        ({"split": {"column": "t"}}, "data.time and split.column are both the column 't'"),
        ({"data": {"interactions": "a", "min_weight": 4}}, "data.min_weight needs data.weight"),
        (
            {"data": {"interactions": "a", "weight": "w"}, "features": {"users": {"w": "numeric"}}},
            "features.users holds 'w', which is data.weight: without data.users it is a column",
        ),
        (
            {
                "data": {"interactions": "a"},
                "split": {"column": "part"},
                "features": {"title": "part"},
            },
            "features.title holds 'part', which is split.column: without data.items",
        ),
        (
            {
                "data": {"interactions": "a"},
                "features": {"users": {"zip": "categorical"}, "items": {"zip": "categorical"}},
            },
            "features.items holds 'zip', which is features.users: without data.items",
        ),
        ({"features": {"title": "item_id"}}, "features.title is the id"),
        ({"features": {"users": {"user_id": "categorical"}}}, "must not hold the id 'user_id'"),
        ({"features": {"items": {"item_id": "categorical"}}}, "must not hold the id 'item_id'"),
        ({"split": {"kind": "column"}}, 'split.kind = "column" needs split.column'),
        ({"split": {"kind": "random", "column": "part"}}, "split.column needs split.kind"),
        (
            {"data": {"interactions": "a"}, "split": {"kind": "global-time"}},
            'split.kind = "global-time" needs data.time',
        ),
        (
            {"data": {"interactions": "a"}, "split": {"kind": "leave-last-out"}},
            'split.kind = "leave-last-out" needs data.time',
        ),
        ({"split": {"at": 0.5}}, "split.at is for split.kind"),
        ({"split": {"folds": 2}}, 'split.folds is for split.kind = "rolling"'),
        ({"split": {"kind": "rolling", "folds": 1}}, "split.folds must be >= 2"),
        (
            {"data": {"interactions": "a"}, "split": {"kind": "rolling"}},
            'split.kind = "rolling" needs data.time',
        ),
        ({"split": {"items": "newest"}}, 'split.items is for split.kind = "cold-items"'),
        (
            {"data": {"interactions": "a"}, "split": {"kind": "cold-items", "items": "newest"}},
            'split.items = "newest" needs data.time',
        ),
        (
            {
                "data": {"interactions": "a", "time": "t"},
                "split": {"kind": "cold-items", "items": "newest", "seed": 2},
            },
            'split.seed does nothing for split.items = "newest"',
        ),
        (
            {"split": {"kind": "cold-items", "at": 3}},
            'split.at must be a share between 0 and 1 for split.kind = "cold-items"',
        ),
        (
            {"data": {"interactions": "a", "time": "t"}, "split": {"seed": 3}},
            'split.seed does nothing for split.kind = "leave-last-out"',
        ),
        (
            {"model": {"history": "none", "user_id": True, "dropout": 0.5}},
            "dropout applies to histories and hidden layers",
        ),
        (
            {
                "features": {"users": {"age": "numeric"}},
                "model": {"user_features": ["agee"]},
            },
            "model.user_features: 'agee' is not declared in features.users. Did you mean 'age'?",
        ),
        ({"model": {"item_features": ["year"]}}, "'year' is not declared in features.items"),
        ({"model": {"user_id": False, "history": "none"}}, "the user tower has no input"),
        (
            {"data": SHOWN, "training": {"hard": "mined"}},
            'data.impressions is read for training.hard = "exposed" alone',
        ),
        ({"training": {"hard": "exposed"}}, "needs data.impressions, the log it draws from"),
        ({"training": {"hard": "dropped"}}, "needs data.dropped, the log it draws from"),
        (
            {"data": TABLES["data"] | {"dropped": "d.csv"}},
            'data.dropped is read for training.hard = "dropped" alone',
        ),
        (
            {"data": SHOWN | {"click": None}, "training": {"hard": "exposed"}},
            "data.impressions and data.click, its column of clicks, need each other",
        ),
        ({"data": TABLES["data"] | {"click": "c"}}, "data.click, its column of clicks, need"),
        (
            {"data": SHOWN | {"click": "item_id"}, "training": {"hard": "exposed"}},
            "data.click and another role are both the column 'item_id'",
        ),
        (
            {"data": SHOWN | {"time": None}, "training": {"hard": "exposed"}},
            "data.impressions needs data.time",
        ),
    ],
)
def test_sections_that_contradict_each_other_are_refused(sections, message):
    assert message in refusal(**sections)


def test_all_faults_are_told_at_once(write):
    path = write("[data]\nuser = 3\n[training]\nepochs = 0\ntemprature = 1\n")
    with pytest.raises(RecipeError) as refused:
        load_recipe(path)
    first, *others = str(refused.value).splitlines()
    assert first == f"{path} has 4 faults:"
    assert [line.split()[0] for line in others] == [
        "data.interactions",
        "data.user",
        "training.epochs",
        "training.temprature",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[data\n", "is not TOML: Expected ']'"),
        (b"[data]\ninteractions = log.csv\n", "line 2, column 16). Texts stand in quotes."),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"a = " + b"[" * 5000, "is not TOML"),
        (b"a = " + b"9" * 5000, "is not TOML"),
        (b"#" * 2**21, "is larger than 1048576 bytes"),
        (b"", "data is required: Where the log is, and what its columns mean."),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as refused:
        load_recipe(path)
    assert str(path) in str(refused.value)
    assert message in str(refused.value)


def test_a_log_of_several_files_is_a_list_of_paths_each_of_them_an_input(write):
    recipe = load_recipe(write('data.interactions = ["a.csv", "sub/b.csv"]'))
    folder = recipe.base
    assert recipe.interactions_path == [folder / "a.csv", folder / "sub/b.csv"]
    assert recipe.inputs["data.interactions[1]"] == folder / "sub/b.csv"
    for wrong in ("[]", '["a.csv", 3]', '["a.csv", "a.csv"]', '["a.csv", ""]'):
        with pytest.raises(RecipeError, match=r"data\.interactions must"):
            load_recipe(write(f"data.interactions = {wrong}"))


PATHS = ["data.root", *Recipe.from_dict({"data": {"interactions": "log.csv"}}).inputs]


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize("path", [r"data\new\test.csv", r"data\dev.csv", r"C:\users\log.csv"])
def test_a_backslash_that_begins_an_escape_is_explained_in_every_path(write, key, path):
    lines = {"data.interactions": '"log.csv"', key: f'"{path}"'}
    written = "\n".join(f"{name} = {value}" for name, value in lines.items())
    for text, overrides in ((written, []), (None, [f'{key}="{path}"'])):
        with pytest.raises(RecipeError, match="single quotes around it, or each backslash twice"):
            load_recipe(write(text) if text else write(), overrides)


@pytest.mark.parametrize("written", [r"'data\dev.csv'", r'"data\\dev.csv"', r"data\dev.csv"])
def test_a_backslash_in_single_quotes_twice_or_without_quotes_is_one(write, written):
    for key in ("root", "interactions"):
        found = load_recipe(write(), [f"data.{key}={written}"])
        assert getattr(found.data, key) == r"data\dev.csv"


def test_a_recipe_that_is_not_there_is_told_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(RecipeError, match="or write one with `shortlist init`"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        load_recipe(tmp_path)


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_bytes(b'\xef\xbb\xbf[data]\r\ninteractions = "log.csv"\r\n')
    assert load_recipe(path).data.interactions == "log.csv"


# Overrides.


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("training.mode=0", "training", "mode", "pointwise"),
        ("training.loss=bpr", "training", "loss", "bpr"),
        ('training.loss="bpr"', "training", "loss", "bpr"),
        ("training.temperature = 0.05", "training", "temperature", 0.05),
        ("evaluation.k=[1, 5]", "evaluation", "k", (1, 5)),
        ("evaluation.exclude_seen=false", "evaluation", "exclude_seen", False),
        ("data.users=a=b.csv", "data", "users", "a=b.csv"),
        ("data.users=films # 1.csv", "data", "users", "films # 1.csv"),
    ],
)
def test_an_override_is_read_as_toml_or_else_as_text(write, override, section, key, value):
    assert getattr(getattr(load_recipe(write(), [override]), section), key) == value


def test_an_override_reaches_into_a_table_and_the_last_one_wins(write):
    overrides = ["data.users=u.csv", 'features.users."the age"=numeric', "model.dim=8"]
    recipe = load_recipe(write(), [*overrides, "model.dim=16"])
    assert recipe.features.users == {"the age": "numeric"}
    assert recipe.model.dim == 16


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.dim", "expected section.key=value"),
        ("dim=3", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("a b.c=3", "expected section.key=value"),
        ("model.dim=1\nuser_id=false", "model.dim must be a whole number"),
        ("model.dim=0", "model.dim must be >= 1, got 0 (override 'model.dim=0')"),
        ("model.dmi=1", "Did you mean 'dim'? (override 'model.dmi=1')"),
        ("modle.dim=1", "Did you mean 'model'? (override 'modle.dim=1')"),
        ("data.interactions.x=3", "goes into 'interactions', which is no table"),
    ],
)
def test_an_override_that_cannot_be_is_refused_by_name(write, override, message):
    with pytest.raises(RecipeError) as refused:
        load_recipe(write(), [override])
    assert message in str(refused.value)


# Paths.


def test_paths_start_at_the_recipe_then_at_its_root_then_at_the_variable(write, monkeypatch):
    folder = write().parent
    assert load_recipe(write()).interactions_path == folder / "log.csv"
    rooted = write('[data]\nroot = "sets"\ninteractions = "log.csv"\nitems = "/abs/i.csv"\n')
    assert load_recipe(rooted).interactions_path == folder / "sets" / "log.csv"
    assert load_recipe(rooted).items_path == Path("/abs/i.csv")
    assert load_recipe(rooted).users_path is None
    monkeypatch.setenv("SHORTLIST_DATA", "/elsewhere")
    assert load_recipe(rooted).interactions_path == Path("/elsewhere/log.csv")
    assert load_recipe(rooted).items_path == Path("/abs/i.csv")
    assert load_recipe(rooted, ["data.root=other"]).interactions_path == folder / "other/log.csv"


def test_a_missing_file_is_said_to_have_been_looked_for_where_the_variable_points(
    write, monkeypatch, tmp_path
):
    path = write('[data]\nroot = "sets"\ninteractions = "mine/log-*.csv"\n')
    for variable in ("", "elsewhere"):  # relative to the current folder
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("SHORTLIST_DATA", variable)
        with pytest.raises(DataError) as refused:
            load_dataset(load_recipe(path))
        assert ("SHORTLIST_DATA" in str(refused.value)) == bool(variable)
    assert f"'mine/log-*.csv' was looked for in SHORTLIST_DATA={tmp_path}/elsewhere. Unset" in str(
        refused.value
    )
    (tmp_path / "sets/mine").mkdir(parents=True)
    (tmp_path / "sets/mine/log-1.csv").write_text("user_id,item_id\n1,2\n")
    with pytest.raises(DataError, match=r"It is at .*/sets/mine/log-"):
        Job(load_recipe(path), tmp_path / "work", Local(tmp_path / "work")).prepare()
    (tmp_path / "sets").rename(tmp_path / "elsewhere")
    assert len(load_dataset(load_recipe(path)).log) == 1
    misspelt = write('[data]\ninteractions = "mine/lgo-1.csv"\n')
    with pytest.raises(DataError, match=r"elsewhere\. Did you mean 'log-1\.csv'\? Unset"):
        load_dataset(load_recipe(misspelt))


def test_a_missing_path_is_told_with_the_nearest_name_whatever_it_is_the_path_of(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/bundle-1").mkdir()
    (tmp_path / "models/log.csv").touch()
    wrong, near = tmp_path / "models/bundel-1", "Did you mean 'bundle-1'"
    for folder in (load, check_path, newest):
        with pytest.raises(ShortlistError, match=near):
            folder(wrong)
    wrong, near = tmp_path / "models/lgo.csv", "Did you mean 'log.csv'"
    for file in (load_recipe, files_of, opened_to_read, items_at):
        with pytest.raises(ShortlistError, match=near):
            file(wrong)
        with pytest.raises(ShortlistError, match="Did you mean 'models'"):
            file(tmp_path / "modles/log.csv")


def test_the_variable_itself_starts_at_the_current_folder(write, monkeypatch):
    path = write()
    monkeypatch.chdir("/")
    monkeypatch.setenv("SHORTLIST_DATA", "sets")
    assert load_recipe(path).interactions_path == Path("/sets/log.csv")
    monkeypatch.setenv("SHORTLIST_DATA", "")
    assert load_recipe(path).interactions_path == path.parent / "log.csv"


def test_a_tilde_is_the_home_folder(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    recipe = load_recipe(write(), ["data.root=~/sets"])
    assert recipe.interactions_path == Path("/home/someone/sets/log.csv")
    with pytest.raises(RecipeError, match="nobody-of-this-name"):
        load_recipe(write(), ["data.root=~nobody-of-this-name/sets"])


def test_a_stored_recipe_holds_no_path_of_the_machine_it_was_read_on(write):
    assert str(write().parent) not in json.dumps(load_recipe(write()).to_dict())


# The template.


def test_the_template_is_the_defaults():
    recipe = Recipe.from_dict(tomllib.loads(template()))
    assert recipe == Recipe.from_dict({"data": {"interactions": "interactions.csv"}})


def test_each_key_stands_in_the_template_with_its_default_or_an_example():
    keys = tomllib.loads(_uncommented(template()))
    for name, section in SECTIONS.items():
        assert keys[name].keys() == section.model_fields.keys()
        for key, field in section.model_fields.items():
            if not field.is_required() and field.default is not None and not field.examples:
                shown = keys[name][key]
                assert (tuple(shown) if isinstance(shown, list) else shown) == field.default


def test_each_example_of_the_template_can_be_used():
    content = tomllib.loads(_uncommented(template()))
    for key in ("impressions", "click", "dropped"):  # For other hard negatives than the example's.
        del content["data"][key]
    del content["data"]["min_weight"]  # The events of the example say what is a positive.
    del content["split"]["at"]  # Not for the kind in the example.
    del content["split"]["column"]
    del content["split"]["items"]
    del content["split"]["folds"]
    del content["training"]["session_gap"]  # For pairs of items.
    del content["training"]["pair_window"]
    del content["model"]["interests"]  # For histories that give several vectors.
    content["training"]["batch_size"] = 1024  # For encode_rows.
    blend = content.pop("blend")
    content["channels"] = {"cf": {"kind": "two-tower"}, "popular": {"kind": "popular"}}
    for key, method in (
        ("quotas", "quotas"),
        ("segments", "quotas"),
        ("latency", "quotas"),
        ("weights", "weighted"),
        ("rank_constant", "reciprocal-rank"),
        ("fallback", "quotas"),
    ):
        Recipe.from_dict({**content, "blend": {key: blend[key], "method": method}})
    recipe = Recipe.from_dict(content)
    assert recipe.training.loss in LOSSES
    assert recipe.training.sampler in SAMPLERS
    assert recipe.training.hard in HARD


def test_the_template_names_what_a_key_can_be():
    text = template().replace("\n# ", " ")
    assert f"The loss. Unset: the mode's. One of: {', '.join(sorted(LOSSES))}." in text


def _uncommented(text):
    """The template with each key set, and with no other comment."""
    keys = {key for section in SECTIONS.values() for key in section.model_fields}
    lines = []
    for line in text.splitlines():
        bare = line.removeprefix("# ")
        if bare.split(" = ")[0] in keys or bare.startswith("["):
            lines.append(bare)
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"channels": {"cf": {}}}, "channels.cf.kind is required"),
        ({"channels": {"Cf": {"kind": "popular"}}}, "small letters"),
        ({"blend": {}}, "there are not two of them"),
        (
            {"channels": {"cf": {"kind": "popular"}}, "model": {"dim": 32}},
            "model.dim does nothing: no channel has towers",
        ),
        (
            {"channels": {"cf": {"kind": "popular"}}, "training": {"loss": "bpr"}},
            "training.loss does nothing: no channel has towers",
        ),
    ],
)
def test_channels_that_contradict_the_rest_are_refused(changed, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict({"data": {"interactions": "log.csv"}, **changed})


def test_a_channel_with_towers_reads_model_and_training():
    channels = {"cf": {"kind": "popular"}, "deep": {"kind": "two-tower"}}
    content = {"data": {"interactions": "log.csv"}, "model": {"dim": 32}, "channels": channels}
    assert Recipe.from_dict(content).model.dim == 32


# There and back.


def test_a_recipe_survives_json():
    recipe = read(
        features={"items": {"genres": "multi-valued"}, "title": "name"},
        split={"kind": "global-time", "at": date(2020, 1, 31)},
        model={"user_layers": [64], "item_features": [], "dropout": 0.1},
        training={"mode": 1, "temperature": 1, "monitor": "recall@20"},
    )
    stored = json.loads(json.dumps(recipe.to_dict(), allow_nan=False))
    assert Recipe.from_dict(stored) == recipe
    assert None not in stored["training"].values()


def test_a_recipe_keeps_its_folder_when_told(write):
    recipe = load_recipe(write())
    assert Recipe.from_dict(recipe.to_dict(), base=recipe.base) == recipe


# Sections from keyword options, as the library takes them.


def test_options_go_to_the_section_that_has_them():
    model, training = section_from(
        Model(dim=8), Training(epochs=2), {"mode": 1, "user_layers": [4]}
    )
    assert (model.dim, model.user_layers) == (8, (4,))
    assert (training.mode, training.epochs) == ("pairwise", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1}, "there is no option 'temprature'. Did you mean 'temperature'?"),
        ({"temperature": 0}, "temperature must be > 0, got 0"),
        ({"mode": "listwse"}, "mode cannot be 'listwse'. Did you mean 'listwise'?"),
        ({"user_layers": [0]}, r"user_layers[0] must be >= 1, got 0"),
    ],
)
def test_an_option_is_refused_as_in_a_recipe(options, message):
    with pytest.raises(ModelError) as refused:
        section_from(Model(), Training(), options)
    assert message in str(refused.value)


# Whatever comes, nothing but a RecipeError.

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, 10**400, -(2**63), "listwise", "random", "\ud800", "~x/y"]),
    st.floats(),
    st.text(max_size=5),
    st.dates(),
    st.datetimes(),
    st.times(),
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3)
VALUES |= st.dictionaries(st.text(max_size=3), VALUES, max_size=3)


@st.composite
def tables(draw):
    """A recipe of known and unknown keys, each with any value, the log mostly there."""
    content = {}
    for name, section in SECTIONS.items():
        if draw(st.booleans()):
            keys = st.sampled_from(sorted(section.model_fields)) | st.text(max_size=5)
            content[name] = draw(st.dictionaries(keys, VALUES, max_size=3) | VALUES)
    if draw(st.booleans()):
        content["data"] = {"interactions": "log.csv"}
    return content


@settings(max_examples=150, deadline=None)
@given(tables())
def test_any_table_is_a_recipe_or_a_recipe_error(content):
    try:
        recipe = Recipe.from_dict(content)
    except RecipeError as error:
        str(error).encode()
    else:
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=200) | st.text().map(os.fsencode), st.lists(st.text(), max_size=2))
def test_any_bytes_are_a_recipe_or_a_recipe_error(write, content, overrides):
    path = write()
    path.write_bytes(content)
    with pytest.raises(RecipeError):
        load_recipe(path, overrides)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.sampled_from(["data.user", "split.at", "model.dim"]), st.text())))
def test_any_override_is_taken_or_a_recipe_error(write, pairs):
    try:
        load_recipe(write(), [f"{key}={value}" for key, value in pairs])
    except RecipeError as error:
        str(error).encode()
