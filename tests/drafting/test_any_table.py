"""Whatever a table holds, `init` writes a recipe whose files load, or refuses in a sentence."""

import datetime as dt
import os
import random
import tomllib
from decimal import Decimal

import polars as pl
import pytest

from shortlist.config import Recipe
from shortlist.drafting.draft import draft
from shortlist.drafting.named import named_model, named_models
from shortlist.drafting.writing import written
from shortlist.errors import ShortlistError
from shortlist.runs.pipeline import check, load_dataset

EXAMPLES = int(os.environ.get("SHORTLIST_EXAMPLES", "40"))
ROWS = 60
NAMES = [
    *("user_id", "user", "item_id", "item", "product", "timestamp", "date", "rating", "event"),
    *("title", "genres", "price", "category", "session_id", "split", "x", "y z", "用户", "a.b"),
    *("id", "", "label", "country"),
]
DAY = dt.datetime(2024, 1, 1)


def cells(some: random.Random):
    """One way to fill a cell, for each kind of column."""
    return {
        "ids": lambda n: some.randrange(30),
        "few numbers": lambda n: some.randrange(4),
        "floats": lambda n: some.random() if some.random() < 0.9 else float("nan"),
        "texts": lambda n: some.choice("abcdefgh") + str(some.randrange(40)),
        "kinds": lambda n: some.choice(["view", "buy", "cart"]),
        "dates": lambda n: DAY.date() + dt.timedelta(some.randrange(90)),
        "times": lambda n: DAY + dt.timedelta(seconds=some.randrange(10**6)),
        "zones": lambda n: DAY.replace(tzinfo=dt.UTC) + dt.timedelta(some.randrange(9)),
        "clock": lambda n: dt.time(some.randrange(24)),
        "spans": lambda n: dt.timedelta(seconds=some.randrange(99)),
        "lists": lambda n: [some.randrange(20) for _ in range(some.randrange(5))],
        "records": lambda n: [{"aid": some.randrange(9), "ts": n} for _ in range(2)],
        "objects": lambda n: {"id": some.randrange(9), "x": "y"},
        "flags": lambda n: some.random() < 0.5,
        "nothing": lambda n: None,
        "gaps": lambda n: some.choice([None, some.randrange(20)]),
        "huge": lambda n: 2**63 + some.randrange(9),
        "decimals": lambda n: Decimal(some.randrange(999)) / 100,
        "rows": lambda n: n,
        "blanks": lambda n: some.choice(["", "x", " "]),
        "brackets": lambda n: some.choice(["[1, 2]", '["a"]', "[]"]),
        "days": lambda n: f"2024-01-{some.randrange(1, 29):02d}",
        "several": lambda n: "|".join(some.sample("abcdef", some.randrange(1, 4))),
        "odd": lambda n: some.choice(['a"b', "c,d", "e;f", "\\N", "NULL", "é"]),
    }


def table(some: random.Random, names: list[str]) -> pl.DataFrame:
    ways = cells(some)
    return pl.DataFrame(
        {name: [ways[kind](n) for n in range(ROWS)] for name in names
         for kind in [some.choice(sorted(ways))]},
        strict=False,
    )  # fmt: skip


def _has_text(kind: pl.DataType) -> bool:
    return not kind.is_nested() and kind != pl.Duration


def put(frame: pl.DataFrame, path, some: random.Random) -> None:
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        flat = frame.select(name for name in frame.columns if _has_text(frame[name].dtype))
        separator = {".tsv": "\t", ".dat": "|"}.get(path.suffix, some.choice(",;"))
        flat.write_csv(path, separator=separator, include_header=some.random() < 0.7)


@pytest.mark.parametrize("part", range(4))
def test_what_is_written_loads_or_a_sentence_refuses_it(tmp_path, part):
    loaded = 0
    for seed in range(part, EXAMPLES, 4):
        some = random.Random(seed)
        log = tmp_path / f"log{seed}.{some.choice(['parquet', 'csv', 'jsonl', 'tsv', 'dat'])}"
        put(table(some, some.sample(NAMES, some.randrange(2, 8))), log, some)
        sides = {}
        if some.random() < 0.5:
            ids = pl.DataFrame({some.choice(["item_id", "id"]): range(ROWS)})
            items = tmp_path / f"items{seed}.parquet"
            ids.hstack(table(some, ["c1", "c2", "c3"])).write_parquet(items)
            sides["items"] = str(items)
        model = some.choice([None, *named_models()])
        try:
            made = draft(str(log), named=None if model is None else named_model(model), **sides)
        except ShortlistError:
            continue
        recipe = Recipe.from_dict(tomllib.loads(written(made, "shortlist init")))
        check(recipe)
        load_dataset(recipe)
        loaded += 1
    assert loaded
