"""A bundle that somebody changed and sealed anew is refused, or is one that could be trained.

Nothing else: no traceback, no crash, no answer that names an item there is not.
"""

import hashlib
import io
import json
import math
import os
import random
from copy import deepcopy
from pathlib import Path
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as read_tensors

from bundle.make_golden import made as make
from bundle.make_golden import world
from shortlist.asking.queries import Queries
from shortlist.blending.retrievers import RETRIEVERS
from shortlist.bundle import bundle as bundles
from shortlist.bundle import data_files
from shortlist.bundle.bundle import load, save
from shortlist.bundle.formats import dump_frame, dump_tensors
from shortlist.bundle.store import MANIFEST, SEAL
from shortlist.errors import BundleError

EXAMPLES = int(os.environ.get("SHORTLIST_EXAMPLES", "0")) or 20
"""Of each kind of retriever; `make fuzz` sets the variable, and draws anew each time."""

OF_OLD = Path(__file__).parent / "golden" / "format-1"
DIGESTS = ("fingerprint", "embedding_space")
VALUES = [
    *(None, True, -1, 0, 1, 3, 2**31, 2**63, 10**400, -0.5, 1e308, "", "x", "cosine", "1" * 64),
    *([], {}, [None], [[]], {"a": 1}, [1, 1], ["x", "x"]),
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A small bundle of each kind in the format of today: (files, manifest)."""
    made = {}

    def get(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind) / "bundle"
            old = OF_OLD / kind
            retriever = load(old).retriever if old.exists() else make(kind, world())
            save(retriever, folder, metrics=REPORT, findings=[{"code": "x"}])
            manifest = json.loads((folder / MANIFEST).read_bytes())
            made[kind] = {n: (folder / n).read_bytes() for n in manifest["files"]}, manifest
        files, manifest = made[kind]
        return dict(files), json.loads(json.dumps(manifest))

    return get


REPORT = {
    "split": {"fit": "train"},
    "users": 3,
    "metrics": {"recall@10": {"mean": 0.5, "low": 0.4, "high": 0.6}},
}


def seal(folder, files, manifest):
    """Write a bundle whose sizes and digests are right, whatever it holds."""
    folder.mkdir()
    manifest["files"] = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }
    text = json.dumps(manifest).encode()
    for name, data in {**files, MANIFEST: text}.items():
        (folder / name).write_bytes(data)
    (folder / SEAL).write_bytes(f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n".encode())
    return folder


def load_believing(folder, manifest):
    """Load a bundle whose fingerprint and space somebody made right, too."""
    data = manifest.get("data")
    found = data.get("fingerprint") if isinstance(data, dict) else None
    space = manifest.get("embedding_space")
    with (
        patch.object(data_files, "fingerprint", lambda *_: found),
        patch.object(bundles, "_hex", lambda _: space),
    ):
        return load(folder)


def refused_or_loaded(folder, manifest):
    """Return the retriever of a bundle; None if it is refused as bundles are, by name."""
    try:
        return load_believing(folder, manifest).retriever
    except BundleError as error:
        refusal = error
    assert refusal.exit_code == 3
    assert str(folder) in str(refusal)
    return None


@pytest.mark.parametrize("key", ["model.dropout", "training.epochs"])
def test_a_key_that_was_chosen_from_the_log_is_a_number_in_a_bundle(kept, tmp_path, key):
    files, manifest = kept("two-tower")
    section, name = key.split(".")
    manifest["settings"][section][name] = "auto"
    with pytest.raises(BundleError, match=rf"settings\.{section}\.{name} must be a number"):
        load_believing(seal(tmp_path / "bundle", files, manifest), manifest)


def answers_soundly(retriever):
    """Ask as a service does: what comes back are distinct items there are, best first."""
    data = retriever.data
    users, items = data.users.ids.head(8), data.items.ids.to_list()
    asked = [
        Queries(users),
        Queries(users, before="test", exclude_seen=False),
        Queries(histories=[items[:4], items[-2:], []]),
    ]
    for queries in asked:
        found = retriever.recommend(queries, 7)
        for rows, scores in zip(found.rows, found.scores, strict=True):
            listed = rows[rows >= 0]
            assert len(set(listed.tolist())) == len(listed)
            assert (listed <= len(data.items)).all()
            assert (listed > 0).all()
            assert (rows[len(listed) :] == -1).all()
            assert np.isfinite(scores[: len(listed)]).all()
            assert (np.diff(scores[: len(listed)]) <= 0).all()
        data.titles(found.rows[found.rows > 0])
    data.targets("test")


# Changes at random, of each kind of file.


def change_json(chance, manifest):
    """Change one value, at any depth, of what the manifest says; return where."""
    place, path = manifest, []
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not path:
            keys = [key for key in keys if key not in ("files", "format", "created_by")]
        if not keys:
            return path
        key = chance.choice(keys)
        path.append(key)
        if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.8:
            place = place[key]
            continue
        how = chance.random()
        if how < 0.2:
            del place[key]
        elif how < 0.3 and isinstance(place, dict):
            place["something else"] = place[key]
        elif how < 0.4 and isinstance(place, list):
            place.append(place[key])
        elif how < 0.6 and type(place[key]) is int:
            place[key] += chance.choice([-1, 1, 1000])
        else:
            place[key] = deepcopy(chance.choice(VALUES))
        return path


def change_tensor(chance, data):
    """Change one tensor of a file."""
    tensors = read_tensors(data)
    names = sorted(tensors.keys() - set(DIGESTS)) or sorted(tensors)
    name = chance.choice(names)
    tensor = tensors[name].clone()
    flat = tensor.reshape(-1)
    how = chance.randrange(12)
    extremes = [0, 1, -1, 77]
    if tensor.is_floating_point():
        extremes += [math.nan, math.inf, -math.inf, 1e30]
    elif tensor.dtype != torch.bool:
        extremes += [torch.iinfo(tensor.dtype).max, torch.iinfo(tensor.dtype).min]
    if how < 6 and len(flat):
        value = chance.choice(extremes)
        flat[chance.randrange(len(flat))] = value % 256 if tensor.dtype == torch.uint8 else value
        tensors[name] = tensor
    elif how == 6:
        tensors[name] = tensor.flip(0) if tensor.dim() else tensor
    elif how == 7:
        tensors[name] = torch.cat([tensor, tensor[:1]]) if tensor.dim() else tensor
    elif how == 8:
        tensors[name] = tensor[:-1] if tensor.dim() else tensor
    elif how == 9:
        tensors[name] = tensor.to(chance.choice([torch.float64, torch.int32, torch.float16]))
    elif how == 10:
        del tensors[name]
    else:
        tensors["more"] = tensors.pop(name)
    return dump_tensors(tensors)


def change_table(chance, data):
    """Change one column, or the rows, of a table."""
    frame = pl.read_parquet(io.BytesIO(data))
    name = chance.choice(frame.columns)
    row = pl.int_range(pl.len()) == chance.randrange(max(len(frame), 1))
    value = chance.choice([None, -1, 0, 2**31 - 1, 120])
    how = chance.randrange(10)
    with_value = pl.when(row).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)
    kind = frame.schema[name]
    if how < 4:
        if kind.is_numeric():
            frame = frame.with_columns(with_value.cast(kind, strict=False))
        else:
            frame = frame.with_columns(pl.col(name).shuffle(seed=1))
    elif how == 4:
        frame = frame.with_columns(pl.col(name).reverse())
    elif how == 5:
        frame = frame.sample(fraction=1, shuffle=True, seed=2)
    elif how == 6:
        frame = pl.concat([frame, frame.tail(1)])
    elif how == 7:
        frame = frame.drop(name)
    elif how == 8:
        frame = frame.rename({name: "more"})
    else:
        text = pl.col(name).cast(pl.String, strict=False)
        frame = frame.with_columns(text if kind.is_numeric() else pl.lit(7).alias(name))
    return dump_frame(frame)


def changed(chance, files, manifest):
    """Change a bundle in one place; return what was changed."""
    how = chance.random()
    if how < 0.45:
        return change_json(chance, manifest)
    name = chance.choice(sorted(files))
    if how < 0.5:
        del files[name]
    elif how < 0.55:
        files["more.parquet"] = files[name]
    elif how < 0.6:
        files[name] = chance.randbytes(chance.randrange(60))
    elif how < 0.65:
        other = chance.choice(sorted(files))
        files[name], files[other] = files[other], files[name]
    elif name.endswith(".parquet"):
        files[name] = change_table(chance, files[name])
        with_rows = manifest["data"]["rows"]
        with_rows[name] = len(pl.read_parquet(io.BytesIO(files[name])))
        if name == "log.parquet":
            manifest["data"]["events"] = with_rows[name]
    else:
        files[name] = change_tensor(chance, files[name])
    return [name]


@pytest.mark.parametrize("kind", RETRIEVERS)
def test_a_change_anywhere_is_refused_or_gives_a_sound_bundle(kind, kept, tmp_path):
    number = iter(range(10**9))

    @settings(max_examples=EXAMPLES, derandomize=EXAMPLES == 20, deadline=None, database=None)
    @given(seed=st.integers(0, 2**32 - 1))
    def check(seed):
        chance = random.Random(seed)
        files, manifest = kept(kind)
        changed(chance, files, manifest)
        folder = seal(tmp_path / str(next(number)), files, manifest)
        retriever = refused_or_loaded(folder, manifest)
        if retriever is not None:
            answers_soundly(retriever)

    check()


# What strangers tried, each told by name.


def tensors_of(file, change):
    def craft(files, manifest):
        tensors = read_tensors(files[file])
        change(tensors)
        files[file] = dump_tensors(tensors)

    return craft


def table_of(file, change):
    def craft(files, manifest):
        frame = change(pl.read_parquet(io.BytesIO(files[file])))
        files[file] = dump_frame(frame)
        manifest["data"]["rows"][file] = len(frame)

    return craft


def said(path, value):
    def craft(files, manifest):
        *parents, last = path.split(".")
        place = manifest
        for key in parents:
            place = place[key]
        place[last] = value

    return craft


def put(name, at, value):
    return lambda tensors: tensors[name].reshape(-1).__setitem__(at, value)


def exchanged(name):
    return lambda tensors: tensors[name].__setitem__([0, 1], tensors[name][[1, 0]])


def rolled(name):
    return lambda tensors: tensors.update({name: tensors[name].roll(1, 0)})


PERMUTED = table_of("item_table.parquet", lambda f: f.with_columns(pl.col("title").reverse()))
CRAFTED = {
    "NaN among the vectors": (
        "two-tower",
        tensors_of("item_vectors.safetensors", put("vectors", 5, math.nan)),
        "item_vectors: vectors holds a number",
    ),
    "infinite weights": (
        "ease",
        tensors_of("learned.safetensors", put("data", 5, math.inf)),
        "learned: data holds a number",
    ),
    "a row of no item": (
        "two-tower",
        tensors_of("item_vectors.safetensors", put("rows", 0, 10**6)),
        "item_vectors: rows must be rows from 1 to",
    ),
    "a row twice": (
        "item-to-item",
        tensors_of("item_vectors.safetensors", put("rows", 1, 1)),
        "must not hold a row twice",
    ),
    "two vectors exchanged": (
        "two-tower",
        tensors_of("item_vectors.safetensors", exchanged("vectors")),
        "is not what the towers give",
    ),
    "two vectors exchanged in the index": (
        "user-to-user",
        tensors_of("index.safetensors", exchanged("vectors")),
        "index: the vector of row",
    ),
    "an index of shuffled vectors": (
        "user-to-user",
        tensors_of("index.safetensors", rolled("vectors")),
        "vectors of 40 items",
    ),
    "other tie keys": (
        "two-tower",
        tensors_of("index.safetensors", lambda t: t["tie_keys"].sub_(1)),
        "orders equal scores by other keys",
    ),
    "a neighbour that is no item": (
        "item-cf",
        tensors_of("learned.safetensors", put("neighbours", 9, 2**31 - 1)),
        "learned: neighbours must be rows from 1 to",
    ),
    "lists of neighbours that end behind the last": (
        "item-cf",
        tensors_of("learned.safetensors", put("start", -1, 2**40)),
        "learned: start must rise from 0 to",
    ),
    "neighbours of no item": (
        "item-cf",
        tensors_of("learned.safetensors", put("start", 1, 1)),
        "learned: row 0 has no neighbours",
    ),
    "a list of items without the value": (
        "inverted",
        tensors_of("learned.safetensors", rolled("item")),
        "each item once under its own 'tags'",
    ),
    "weights of another width": (
        "als",
        tensors_of("learned.safetensors", lambda t: t.update(vectors=t["vectors"][:, :2])),
        r"learned: vectors must be float32 \[32, 4\], got float32 \[32, 2\]",
    ),
    "ids twice": (
        "popular",
        table_of("users.parquet", lambda f: pl.concat([f.head(1), f.head(len(f) - 1)])),
        "users.parquet is not what training writes: an id is repeated",
    ),
    "ids shuffled": (
        "popular",
        table_of("items.parquet", lambda f: f.reverse()),
        "its trained ids are not sorted",
    ),
    "a log not sorted by user": (
        "popular",
        table_of("log.parquet", lambda f: f.reverse()),
        "it is not sorted by user",
    ),
    "a role there is none of": (
        "popular",
        table_of("log.parquet", lambda f: f.with_columns(role=pl.lit(7, pl.Int8))),
        "a role is unknown",
    ),
    "an item no id stands for": (
        "ease",
        table_of("log.parquet", lambda f: f.with_columns(item=pl.lit(99, pl.Int32))),
        "an item has no id",
    ),
    "fewer than no users": ("popular", said("data.trained_users", -1), r"data\.trained_users"),
    "more users than ids": (
        "popular",
        said("data.trained_users", 10**6),
        "fewer than the 1000000 trained ids",
    ),
    "a list for a name": (
        "popular",
        said("retriever", ["popular"]),
        r"retriever must be text in quotes, got \['popular'\]",
    ),
    "an unknown option": ("ease", said("settings.options.l3", 1.0), r"settings\.options\.l3"),
    "events that are not there": ("popular", said("data.events", 1), "rows for 1 events"),
    "an index of no kind": ("two-tower", said("settings.index", "exakt"), "Did you mean 'exact'"),
    "a key too few": ("popular", lambda _, m: m["data"].pop("fit"), "data.fit is missing"),
    "a file too few": (
        "two-tower",
        lambda files, _: files.pop("index.safetensors"),
        "has no file index.safetensors, which its manifest needs",
    ),
    "a file too many": (
        "popular",
        lambda files, _: files.update({"x.json": b"{}"}),
        "a bundle of this kind must not have a file x.json",
    ),
}


@pytest.mark.parametrize(("kind", "craft", "fault"), CRAFTED.values(), ids=CRAFTED)
def test_a_crafted_bundle_is_refused_for_what_is_wrong_with_it(kind, craft, fault, kept, tmp_path):
    files, manifest = kept(kind)
    craft(files, manifest)
    with pytest.raises(BundleError, match=fault):
        load_believing(seal(tmp_path / "bundle", files, manifest), manifest)


def test_permuted_titles_do_not_belong_to_the_log(kept, tmp_path):
    files, manifest = kept("popular")
    PERMUTED(files, manifest)
    with pytest.raises(BundleError, match="do not belong together"):
        load(seal(tmp_path / "bundle", files, manifest))


def test_what_no_bundle_may_say_is_not_written(kept, tmp_path, monkeypatch):
    retriever = load(OF_OLD / "popular").retriever
    monkeypatch.setattr(retriever, "state", lambda: ({"options": {}, "more": 1}, {}))
    with pytest.raises(BundleError, match=r"cannot be saved: settings\.more"):
        save(retriever, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
