"""Matrix completion on MovieLens-100K: rating errors, and clicks (1 and 0) beside ALS.

    shortlist data ml-100k                     # or SHORTLIST_DATA, where the folder ml-100k lies
    OMP_NUM_THREADS=1 python benchmarks/ratings.py

Ratings: five seeded random folds, each rating in the test rows of one; a tenth of the other rows
chooses the epoch, then the model is trained again on both. The figures that papers print are of
folds of their own, so that they compare up to the second digit at best. 1 and 0: leave-last-out, as
recipes/ml-100k.toml cuts it, paired by user with ALS. One JSON line a cell in --out; lines that are
there are not made again.
"""

import argparse
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from shortlist import ALS, Dataset, Schema, Split, TwoTower
from shortlist.channels.learned.base import value_error
from shortlist.evaluation.evaluate import user_figures
from shortlist.evaluation.significance import paired_interval

FOLDS, SEEDS = 5, 3
MATRIX = {
    **{"mode": "pointwise", "loss": "squared", "similarity": "dot", "history": "none"},
    **{"user_id": True, "epochs": 30, "batch_size": 1024, "patience": 3, "dropout": 0.2},
}
RATINGS: dict[str, dict[str, Any]] = {
    "mean and biases": {"dim": 3, "weight_decay": 0.5, "learning_rate": 0.01},
    "32 numbers": {"dim": 32, "weight_decay": 1.0, "learning_rate": 0.01},
}
"""The first has one number for taste, the least there can be."""

ONES: dict[str, dict[str, Any]] = {
    "1 and 0": {"dim": 64, "weight_decay": 0.3, "learning_rate": 0.01},
    "1 and 0, histories for users": {
        **{"dim": 64, "weight_decay": 0.3, "learning_rate": 0.01},
        **{"history": "recency", "user_id": False},
    },
}


def fold(log: pl.DataFrame, number: int) -> Split:
    """The log split at random: one fold is the test, a tenth of the rest the validation rows."""
    place = np.random.default_rng(0).permutation(len(log)) % FOLDS
    tenth = np.random.default_rng(1 + number).random(len(log)) < 0.1
    role = np.where(place == number, "test", np.where(tenth, "validation", "train"))
    schema = Schema(time="timestamp", weight="rating", split="role")
    return Dataset.load(log.with_columns(role=pl.Series(role)), schema=schema).split("column")


def rated(log: pl.DataFrame, row: str, number: int) -> dict[str, Any]:
    """The error of the ratings of one fold."""
    split = fold(log, number)
    given = {"values": "explicit", "biases": True, "monitor": "neg_rmse", **RATINGS[row]}
    start = time.process_time()
    model = TwoTower(**MATRIX, **given, seed=number).fit(split, "train+validation")
    seconds = time.process_time() - start
    error = value_error(model, "test")
    return {"rmse": error, "epochs": model.best_epoch, "fit_cpu_seconds": round(seconds, 1)}


def ranked(log: pl.DataFrame, row: str, seed: int) -> dict[str, Any]:
    """1 and 0: the best ten places beside those of ALS."""
    split = Dataset.load(log, schema=Schema(time="timestamp", tie="file")).split("leave-last-out")
    start = time.process_time()
    model = TwoTower(**MATRIX | ONES[row], seed=seed).fit(split)
    seconds = time.process_time() - start
    own, other = (user_figures(m, k=[10, 100]) for m in (model, ALS(recency=6.0).fit(split)))
    names = ("hit_rate@10", "ndcg@10", "recall@100")
    return {
        "metrics": {name: float(own[name].mean()) for name in names},
        "als": {name: float(other[name].mean()) for name in names},
        "difference": {n: paired_interval(own[n], other[n], seed=0)._asdict() for n in names},
        "fit_cpu_seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ratings.jsonl"))
    out = parser.parse_args().out
    log = pl.read_parquet(
        Path(os.environ.get("SHORTLIST_DATA", ".")) / "ml-100k/interactions.parquet"
    )
    described = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(described, capture_output=True, text=True, check=False).stdout.strip()
    lines = [json.loads(text) for text in out.read_text().splitlines()] if out.exists() else []
    done = {(line["row"], line["seed"]) for line in lines}
    for seed in range(FOLDS):
        for row in (*RATINGS, *ONES):
            if (row, seed) in done or (row in ONES and seed >= SEEDS):
                continue
            found = ranked(log, row, seed) if row in ONES else rated(log, row, seed)
            lines.append({"row": row, "seed": seed, "commit": commit, **found})
            with out.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            print(json.dumps(lines[-1]), flush=True)
    for row in RATINGS:
        errors = [line["rmse"] for line in lines if line["row"] == row]
        print(f"{row}: RMSE {np.mean(errors):.4f}, of folds {np.round(errors, 4).tolist()}")


if __name__ == "__main__":
    main()
