"""How many new items do titles, genres and tags find, compared with ids and TF-IDF?

    OMP_NUM_THREADS=1 python benchmarks/cold_items.py

SHORTLIST_DATA names the folder that holds ml-100k/ and citeulike-a/.

A fifth of the items is held out with all their events (split.kind = "cold-items"), a fifth of the
rest chooses the epoch. recall@100 of the held-out events of each user, mean over users: among the
held-out items alone, and among all items, where known ones take places. TF-IDF neighbours rank by
the cosine of an item's words with the mean of the user's. One JSON line a cell in --out; lines that
are there are not made again.
"""

import argparse
import json
import os
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import csr_array, diags_array

from shortlist import Dataset, Feature, Popular, Queries, Schema, Split, TwoTower
from shortlist.data.training_data import TrainingData

SEEDS, K = 3, 100
TOWERS: dict[str, Any] = {
    **{"mode": "listwise", "loss": "softmax", "dim": 64, "history": "recency", "dropout": 0.2},
    **{"batch_size": 2048, "learning_rate": 0.004, "monitor": f"recall@{K}", "patience": 3},
}
CONTENT = {"history_reads": "items", "item_id": False}
TITLES = (Feature("title", "text", width=64), Feature("genres", "multi-valued"))
TAGS = (Feature("text", "text", width=64),)
SETS: dict[str, dict[str, tuple[Feature, ...]]] = {
    "ml-100k": {"text": TITLES, "without text": (Feature("genres", "multi-valued"),)},
    "citeulike-a": {"text": TAGS, "without text": (Feature("tags", "multi-valued"),)},
}
EPOCHS = 12


def split_of(name: str, seed: int, features: tuple[Feature, ...]) -> tuple[Split, pl.DataFrame]:
    """Return the log with a fifth of its items held out, and the table of items."""
    folder = Path(os.environ["SHORTLIST_DATA"]) / name
    log, items = (pl.read_parquet(folder / f"{t}.parquet") for t in ("interactions", "items"))
    words = pl.col("tags").list.join(" ") if name == "citeulike-a" else pl.col("title")
    if name != "citeulike-a":
        words = words + " " + pl.col("genres").list.join(" ")
    items = items.with_columns(text=words).drop("cites", strict=False)
    log = log.select(pl.col("user_id", "item_id", "^timestamp$"))
    when = "timestamp" if "timestamp" in log.columns else None
    schema = Schema(time=when, item_features=features)
    return Dataset.load(log, items=items, schema=schema).split("cold-items", seed=seed), items


def tf_idf(data: TrainingData, texts: pl.Series) -> np.ndarray[Any, Any]:
    """Return cosines of items' words with the mean of a user's items, [users + 1, items + 1]."""
    words = pl.DataFrame({"row": np.arange(len(texts)), "word": texts.str.to_lowercase()})
    words = words.with_columns(pl.col("word").str.extract_all(r"\w+"))
    words = words.explode("word").drop_nulls()
    counts = (
        words.group_by("row", "word")
        .len()
        .with_columns(pl.col("word").rank("dense").cast(pl.Int64) - 1)
    )
    at = (counts["row"].to_numpy(), counts["word"].to_numpy())
    matrix = csr_array((counts["len"].to_numpy().astype(float), at), (len(texts), at[1].max() + 1))
    trained = matrix[1 : data.items.trained + 1]
    rarity = np.log((1 + trained.shape[0]) / (1 + (trained > 0).sum(axis=0))) + 1
    matrix = matrix @ diags_array(rarity)
    length = np.sqrt(matrix.power(2).sum(axis=1))
    matrix = csr_array(diags_array(1 / np.maximum(length, 1e-9)) @ matrix)
    log = data.training_log
    read = csr_array(
        (np.ones(len(log)), (log.user, log.item)), (len(data.users) + 1, len(data.items) + 1)
    )
    return np.asarray(((read @ matrix) @ matrix.T).todense())


def recall(data: TrainingData, rows: list[np.ndarray[Any, Any]]) -> float:
    """The mean recall of lists of item rows, one for each user with held-out events."""
    users, items, offsets = data.targets("test")
    wanted = [items[a:b] for a, b in pairwise(offsets)]
    assert len(rows) == len(users)
    return float(np.mean([np.isin(w, r).mean() for w, r in zip(wanted, rows, strict=True)]))


def measured(model: Any, cold: np.ndarray[Any, Any]) -> dict[str, float]:
    """recall@100 among the held-out items, and among all."""
    data = model.data
    users = data.users.external(data.targets("test")[0])
    asked = {"held-out items": {"allow": data.items.external(cold)}, "all items": {}}
    found = {}
    for among, condition in asked.items():
        lists = model.recommend(Queries(users, before="test", **condition), K)
        rows = [data.items.rows(pl.Series(ids, dtype=data.items.ids.dtype)) for ids in lists.ids]
        found[among] = recall(data, rows)
    return found


def by_words(data: TrainingData, scores: np.ndarray[Any, Any], cold: Any) -> dict[str, float]:
    """Return the recalls of TF-IDF, without the items that a user met in training."""
    users, log = data.targets("test")[0], data.training_log
    scores[log.user, log.item] = -np.inf
    scores[:, 0] = -np.inf
    found = {}
    for among, kept in (("held-out items", cold), ("all items", np.arange(scores.shape[1]))):
        of = scores[np.ix_(users, kept)]
        found[among] = recall(data, list(kept[np.argsort(-of, axis=1, kind="stable")[:, :K]]))
    return found


def cell(name: str, row: str, seed: int) -> dict[str, Any]:
    """Fit and measure one row of one set."""
    features = SETS[name].get(row, ())
    split, items = split_of(name, seed, features)
    start = time.process_time()
    if row == "popularity":
        model: Any = Popular().fit(split)
    elif row == "ids alone":
        model = TwoTower(**TOWERS, epochs=EPOCHS, seed=seed).fit(split)
    elif row != "TF-IDF neighbours":
        model = TwoTower(**TOWERS | CONTENT, epochs=EPOCHS, seed=seed).fit(split)
    data = split.training_data() if row == "TF-IDF neighbours" else model.data
    cold = np.unique(data.targets("test")[1])
    if row == "TF-IDF neighbours":
        rows = pl.DataFrame({"item_id": data.items.ids}).join(
            items, on="item_id", how="left", maintain_order="left"
        )
        texts = pl.concat([pl.Series("text", [""]), rows["text"].fill_null("")])
        found = by_words(data, tf_idf(data, texts), cold)
    else:
        found = measured(model, cold)
    seconds = round(time.process_time() - start, 1)
    return {
        "items": len(data.items),
        "held out": len(cold),
        "recall@100": found,
        "cpu_seconds": seconds,
        "epochs": getattr(model, "best_epoch", None) if row != "TF-IDF neighbours" else None,
    }


ROWS = ("text", "TF-IDF neighbours", "popularity", "without text", "ids alone")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cold_items.jsonl"))
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    described = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(described, capture_output=True, text=True, check=False).stdout.strip()
    lines = (
        [json.loads(t) for t in given.out.read_text().splitlines()] if given.out.exists() else []
    )
    done = {(line["set"], line["row"], line["seed"]) for line in lines}
    for name in given.sets:
        for seed in range(given.seeds):
            for row in ROWS:
                if (name, row, seed) in done:
                    continue
                line = {"set": name, "row": row, "seed": seed, "commit": commit}
                line |= cell(name, row, seed)
                with given.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
