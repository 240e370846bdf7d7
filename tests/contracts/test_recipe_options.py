"""No key of a recipe is ignored: another value acts, or the recipe is refused by that key's name.

The keys of [model] and [training], and those of the channels, are walked in test_options.py; here
stand those that are read from files, or about what is held out and measured. CHANGES holds other
values for each of them: a key without any fails.
"""

from typing import Any

import polars as pl
import pytest

from shortlist.config import load_recipe
from shortlist.config.blend import Blend as BlendOptions
from shortlist.config.recipe import SECTIONS
from shortlist.config.template import toml_value
from shortlist.data.synthetic import planted_world
from shortlist.errors import ShortlistError
from shortlist.runs.pipeline import check, folds_of, load_dataset, train

WALKED = ("model", "training")
"""Sections that test_options.py walks."""

TRIED = {
    "tune.space": "tests/runs/test_tuning.py, with optuna",
    "tune.trials": "tests/runs/test_tuning.py, with optuna",
    "tune.seed": "tests/runs/test_tuning.py, with optuna",
    "blend.latency": "tests/blending/test_blend.py: what channels cost is measured",
}
"""Keys that are asked about elsewhere."""

BASE: dict[str, Any] = {
    "data": {
        "interactions": "log.csv",
        "users": "users.parquet",
        "items": "items.parquet",
        "time": "timestamp",
    },
    "features": {
        "users": {"region": "categorical"},
        "items": {"tags": "multi-valued"},
        "title": "title",
    },
    "evaluation": {"k": [5], "ladder": False},
    "channels": {
        "cf": {"kind": "item-cf", "neighbours": 5},
        "tags": {"kind": "inverted", "attribute": "tags"},
        "popular": {"kind": "popular", "segment": "region"},
    },
    "blend": {"quotas": {"cf": 2, "tags": 2, "popular": 1}},
}
TOWERS: dict[str, Any] = {
    "channels.cf": {"kind": "two-tower", "epochs": 1, "dim": 8},
    "channels.tags": {"kind": "user-to-user", "epochs": 1, "dim": 4},
}
PLAIN = {"channels": {"cf": BASE["channels"]["cf"]}, "blend": None}
TEXTS = {
    "channels": {"cf": {"kind": "two-tower", "epochs": 1, "dim": 8}},
    "features.items": {"title": "text"},
}
RANDOM = {"split.kind": "random"}
UNORDERED = {"data.time": None, "data.interactions": "untimed.csv"}

CHANGES: dict[str, list[Any]] = {
    "data.root": ["other"],
    "data.interactions": ["other.csv"],
    "data.users": ["few.parquet", None],
    "data.items": ["other.parquet", None],
    "data.impressions": ["log.csv"],
    "data.click": ["rating"],
    "data.dropped": ["log.csv"],
    "data.user": ["item_id"],
    "data.item": ["user_id"],
    "data.time": ["rating", None],
    "data.time_unit": ["ms", "number"],
    "data.order": ["file"],
    "data.weight": ["rating"],
    "data.session": ["session"],
    "data.min_weight": [4.0],
    "data.event": ["rating"],
    "data.events": [{"4..": {"target": True}, "..4": {"weight": 0.5}}],
    "data.tie": ["file"],
    "data.separator": [";"],
    "data.quote": ["none"],
    "data.encoding": ["utf-16", "latin-1"],
    "data.decimal": [","],
    "data.columns": [["user_id", "item_id", "timestamp"]],
    "data.users_columns": [["user_id", "region"]],
    "data.items_columns": [["item_id", "tags", "title"]],
    "data.users_id": ["own"],
    "data.item_separator": [" "],
    "data.items_id": ["own"],
    "data.null_values": [["nobody"]],
    "data.null_ids": ["drop"],
    "features.users": [{"region": "categorical", "age": "numeric"}],
    "features.items": [{"tags": "categorical"}, {}],
    "features.events": [{"rating": {"kind": "numeric", "known": "after"}}],
    "features.separator": [";"],
    "features.text_width": [3],
    "features.title": ["studio", None],
    "split.kind": ["random", "global-time"],
    "split.at": [0.5],
    "split.column": ["held_out"],
    "split.seed": [7],
    "split.items": ["newest"],
    "split.folds": [4],
    "evaluation.k": [[3]],
    "evaluation.exclude_seen": [False],
    "evaluation.ladder": [True],
    "blend.method": ["reciprocal-rank", "weighted", "calibrated"],
    "blend.quotas": [{"cf": 1, "tags": 0, "popular": 4}],
    "blend.size": [3],
    "blend.weights": [{"cf": 9.0}],
    "blend.rank_constant": [1.0],
    "blend.segments": [[{"history_below": 30, "quotas": {"cf": 5}}]],
    "blend.fallback": [["popular"]],
}
"""Other values for each key."""

SITUATIONS: dict[str, list[dict[str, Any]]] = {
    "data.weight": [{}, {"channels.cf.values": "explicit"}, {"data.min_weight": 3.0}, TOWERS],
    "data.min_weight": [{"data.weight": "rating"}],
    "data.event": [{}, {"data.events": {"3..": {"target": True}, "..3": {}}}],
    "data.events": [
        {},
        {"data.event": "rating", "data.events": {"3..": {"target": True}, "..3": {"drop": True}}},
    ],
    "data.session": [{}, TOWERS],
    "data.order": [{}, UNORDERED],
    "data.tie": [{"data.interactions": "tied.csv"}],
    "data.separator": [{}, {"data.interactions": "semicolons.csv"}],
    "data.encoding": [{"data.interactions": "latin.csv"}, {"data.interactions": "log.parquet"}],
    "data.decimal": [
        {},
        {"data.interactions": "commas.csv", "data.weight": "rating", "data.min_weight": 3.0},
    ],
    "data.columns": [{}, {"data.interactions": "bare.csv"}],
    "data.users_columns": [{}, {"data.users": "bare_users.csv"}],
    "data.items_columns": [{}, {"data.items": "bare_items.csv"}],
    "data.item_separator": [
        {"data.interactions": "lists.csv"},
        {"data.interactions": "log.parquet"},
    ],
    "data.users_id": [{}, {"data.users": "own_users.parquet"}],
    "data.items_id": [{}, {"data.items": "own_items.parquet"}],
    "data.quote": [{"data.interactions": "quoted.csv"}, {"data.interactions": "log.parquet"}],
    "data.null_values": [{"data.interactions": "nobody.csv", "data.null_ids": "drop"}],
    "data.null_ids": [{"data.interactions": "gaps.csv"}],
    "data.click": [{}, {"data.impressions": "log.csv", "channels.tags.metric": "ctr"}],
    "data.impressions": [{}, {"data.click": "rating", "channels.tags.metric": "ctr"}],
    "features.users": [PLAIN, TOWERS],
    "features.events": [{}, TOWERS],
    "features.separator": [{}, PLAIN | {"features.items": {}}],
    "features.text_width": [{}, PLAIN | TEXTS],
    "blend.method": [{"blend": {"fallback": ["popular"]}}],
    "split.at": [{}, RANDOM, {"split.kind": "global-time"}],
    "split.seed": [{}, RANDOM, UNORDERED],
    "split.column": [{}, {"split.kind": "column"}],
    "split.items": [{}, {"split.kind": "cold-items"}],
    "split.folds": [{}, {"split.kind": "rolling"}],
    **{
        f"blend.{key}": [{"blend": {"method": method}} for method in
                         ("quotas", "reciprocal-rank", "weighted", "calibrated")]
        for key in BlendOptions.model_fields if key not in ("method", "latency")
    },
}  # fmt: skip
"""Changes of BASE beside which a key is asked about; BASE itself where there are none."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    world = planted_world(users=40, items=40, events=360, seed=3)
    log = world.interactions.with_row_index("n")
    log = log.with_columns(
        session=log["n"] // 3, held_out=log["n"].cast(str).replace_strict(ROLES, default="train")
    ).drop("n")
    log.write_csv(folder / "log.csv")
    log.drop("timestamp").write_csv(folder / "untimed.csv")
    log.head(300).write_csv(folder / "other.csv")
    log.write_parquet(folder / "log.parquet")
    log.write_csv(folder / "quoted.csv", quote_style="non_numeric")
    text = (folder / "quoted.csv").read_text()
    (folder / "quoted.csv").write_text(
        text.partition("\n")[0].replace('"', "") + "\n" + text.partition("\n")[2]
    )
    (folder / "latin.csv").write_bytes(
        text.replace('"train"', '"tr\xe4in"').replace("held_out", "h\xe4ld_out").encode("latin-1")
    )
    commas = log.with_columns(pl.format("{},5", "rating").alias("rating"))
    commas.write_csv(folder / "commas.csv", separator=";")
    events = log.select("user_id", "item_id", "timestamp")
    events.write_csv(folder / "bare.csv", include_header=False)
    semicolons = events.with_columns(pl.lit(1).alias("stars, of five"))
    semicolons.write_csv(folder / "semicolons.csv", separator=";", quote_style="never")
    world.users.select("user_id", "region").write_csv(
        folder / "bare_users.csv", include_header=False
    )
    bare = world.items.select("item_id", pl.col("tags").list.join("|"), "title")
    bare.write_csv(folder / "bare_items.csv", include_header=False)
    pairs = pl.col("item_id").cast(pl.String) + " 20001"
    log.with_columns(pairs.alias("item_id")).write_csv(folder / "lists.csv")
    world.users.rename({"user_id": "own"}).write_parquet(folder / "own_users.parquet")
    world.items.rename({"item_id": "own"}).write_parquet(folder / "own_items.parquet")
    users = pl.col("user_id").cast(pl.String)
    for name, user in (("gaps", ""), ("nobody", "nobody")):
        some = pl.when(pl.int_range(pl.len()) % 50 == 1).then(pl.lit(user)).otherwise(users)
        log.with_columns(some.alias("user_id")).write_csv(folder / f"{name}.csv")
    log.with_columns(timestamp=1).write_csv(folder / "tied.csv")
    items = world.items.with_columns(pl.col("tags").list.join("|"))
    other = world.items.with_columns(pl.col("tags").list.join(";"))
    world.users.write_parquet(folder / "users.parquet")
    world.users.head(30).write_parquet(folder / "few.parquet")
    items.write_parquet(folder / "items.parquet")
    other.write_parquet(folder / "other.parquet")
    (folder / "other").mkdir()
    for file in ("log.csv", "users.parquet"):
        (folder / "other" / file).write_bytes((folder / file).read_bytes())
    (folder / "other" / "items.parquet").write_bytes((folder / "other.parquet").read_bytes())
    return folder


ROLES = {str(n): "test" if n % 2 else "validation" for n in range(0, 360, 7)}


def changed(recipe: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The recipe with other values by dotted name; None takes a key out."""
    copy = {name: dict(table) for name, table in recipe.items()}
    copy["channels"] = {name: dict(table) for name, table in copy["channels"].items()}
    for name, value in changes.items():
        *tables, key = name.split(".")
        table = copy
        for part in tables:
            table = table.setdefault(part, {})
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value
    return copy


def shown(content: dict[str, Any], folder) -> Any:
    """All there is to see of a recipe carried out, or the refusal, as text."""
    path = folder / "recipe.toml"
    lines = [f"{section} = {toml_value(table)}" for section, table in content.items()]
    path.write_text("\n".join(lines))
    try:
        recipe = load_recipe(path)
        check(recipe)
        split = folds_of(recipe, load_dataset(recipe))[-1]
        trained = train(recipe, split)
    except ShortlistError as refusal:
        return str(refusal)
    data = trained.retriever.data
    tensors = {
        f"{file}.{name}": tensor.numpy().tobytes()
        for file, state in trained.retriever.state()[1].items()
        for name, tensor in state.items()
    }
    answer = trained.retriever.recommend(data.users.ids, 5)
    catalogue = None if data.item_frame is None else data.item_frame.to_dict(as_series=False)
    return (
        *(tensors, answer.rows.tobytes(), answer.scores.tobytes()),
        *(
            str([trained.report.to_dict()[part] for part in ("metrics", "ladder")]),
            split.dataset.report.lines(),
            str(catalogue),
            data.title,
        ),
    )


KEYS = [
    f"{name}.{key}"
    for name, section in SECTIONS.items()
    for key in section.model_fields
    if name not in WALKED and f"{name}.{key}" not in TRIED
]


@pytest.mark.parametrize("key", KEYS)
def test_another_value_of_each_key_acts_or_the_key_is_refused(key, folder, monkeypatch):
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    name, faults, acts = key.rpartition(".")[2], [], False
    for situation in SITUATIONS.get(key, [{}]):
        base = changed(BASE, situation)
        before = shown(base, folder)
        for value in CHANGES[key]:
            after = shown(changed(base, {key: value}), folder)
            if isinstance(after, str):
                if name not in after:
                    faults.append(f"{situation}, {value!r}: refused, and not by name: {after}")
            elif after == before:
                faults.append(f"{situation}, {value!r}: accepted, and changes nothing")
            else:
                acts = True
    assert not faults
    assert acts or key in REFUSED


REFUSED = ("data.user", "data.item", "data.dropped", "data.click", "data.session")
"""Keys for which no other value is right here: each column is the right one, or is not read."""
