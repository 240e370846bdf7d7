"""What does a model gain by reading when it is asked? MovieLens-100K, leave-last-out, true seconds.

    SHORTLIST_DATA=DIR OMP_NUM_THREADS=1 python benchmarks/request_time.py

Each history with model.request_time off and on, the same seed and epochs. The model that reads the
clock is measured twice, asked at the time of the test event and as at the moment of the last event
before it, and each paired by user with the one that reads none. One JSON line a history in --out.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from shortlist import Dataset, Schema, TwoTower
from shortlist.asking.queries import Queries
from shortlist.evaluation.evaluate import evaluate, user_figures
from shortlist.evaluation.significance import paired_interval

FIGURES = ("recall@10", "ndcg@10", "recall@100")
COMMON: dict[str, Any] = {
    "mode": "listwise",
    "sampler": "catalogue",
    "dim": 64,
    "dropout": 0.2,
    "user_features": [],
}
HISTORIES: dict[str, dict[str, Any]] = {
    "recency": {"history": "recency", "epochs": 8, "batch_size": 512, "patience": 3},
    "attention": {
        **{"history": "attention", "history_length": 100, "history_layers": 2, "epochs": 30},
        **{"batch_size": 4096, "learning_rate": 0.002, "validate_every": 3, "patience": 9},
    },
}
HISTORIES["attention, history_time"] = HISTORIES["attention"] | {"history_time": True}


class Clockless:
    """A model that reads the clock, asked without it."""

    reads_clock = False

    def __init__(self, model: TwoTower) -> None:
        self.model, self.data = model, model.data
        self.query_features = model.query_features

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def recommend(self, queries: Queries, k: int = 10) -> Any:
        """Ask without a time."""
        return self.model.recommend(queries, k)


def measured(name: str, dataset: Dataset, seed: int) -> dict[str, Any]:
    """One history: figures without request_time, and with it, with and without the clock."""
    split = dataset.split("leave-last-out")
    start = time.process_time()
    plain, clocked = (
        TwoTower(**COMMON, **HISTORIES[name], request_time=told, seed=seed).fit(split)
        for told in (False, True)
    )
    seconds = time.process_time() - start
    base = user_figures(plain, k=[10, 100])
    row: dict[str, Any] = {"history": name, "seed": seed, "cpu_seconds": round(seconds)}
    row["plain"] = {figure: float(base[figure].mean()) for figure in FIGURES}
    for told, model in (("with", clocked), ("without", Clockless(clocked))):
        found = user_figures(model, k=[10, 100])  # type: ignore[arg-type]
        row[f"{told} the clock"] = {
            figure: {
                "mean": float(found[figure].mean()),
                "minus_plain": list(paired_interval(found[figure], base[figure], 0)),
            }
            for figure in FIGURES
        }
    report = evaluate(clocked, k=[10, 100])
    assert report.gained_by_clock is not None
    row["gained by the clock"] = {
        figure: list(report.gained_by_clock[figure]) for figure in FIGURES
    }
    row["epochs"] = [plain.best_epoch, clocked.best_epoch]
    return row


def main() -> None:
    """Measure every history that --out does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/request_time.jsonl"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    log = Path(os.environ["SHORTLIST_DATA"]) / "ml-100k" / "interactions.parquet"
    dataset = Dataset.load(log, schema=Schema(time="timestamp", tie="file"))
    done = set()
    if options.out.exists():
        lines = options.out.read_text(encoding="utf-8").splitlines()
        done = {(line["history"], line["seed"]) for line in map(json.loads, lines)}
    for name in HISTORIES:
        if (name, options.seed) in done:
            continue
        row = measured(name, dataset, options.seed)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
