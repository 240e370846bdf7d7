"""What is gained if histories have events that are no targets? Ratings 4 and 5 of MovieLens-1M.

    python benchmarks/kinds_of_events.py ml-1m/interactions.parquet

Each channel is fitted three times: without ratings below 4 (min_weight), with all ratings read, and
with those below 4 read at weight 0.5. The latest target of each user is held out in all cases. One
JSON line a case in results/kinds_of_events.jsonl: the table of docs/guide/data.md.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import polars as pl
import torch

from shortlist import EASE, Dataset, ItemCF, Schema, TwoTower, evaluate
from shortlist.channels.counting.transitions import Transitions

OUT = Path("benchmarks/results/kinds_of_events.jsonl")
HIGH: dict[str, Any] = {"4..": {"target": True}}
CASES: dict[str, dict[str, Any]] = {
    "min_weight": {"weight": "rating", "min_weight": 4.0},
    "all read": {"event": "rating", "events": {**HIGH, "..4": {}}},
    "all read, low ones at 0.5": {"event": "rating", "events": {**HIGH, "..4": {"weight": 0.5}}},
}
TOWER = {
    **{"dim": 64, "epochs": 8, "batch_size": 2048, "history": "recency", "sampler": "in_batch"},
    **{"dropout": 0.2, "patience": 3},
}
CHANNELS = {
    "item-cf": ItemCF,
    "ease": lambda: EASE(l2=500.0),
    "transitions": Transitions,
    "two-tower": lambda: TwoTower(mode="listwise", loss="softmax", **TOWER),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--only", choices=CHANNELS, action="append", help="May be repeated.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    log = pl.read_parquet(given.log).drop_nulls()  # the 5-core cut: other rows have no position
    columns = {"user": "user_id", "item": "dense_item_id", "time": "position"}
    for name in given.only or CHANNELS:
        for case, more in CASES.items():
            begun = time.process_time()
            data = Dataset.load(log, schema=Schema(**columns, **more))
            model = CHANNELS[name]().fit(data.split("leave-last-out"))
            report = evaluate(model, k=(10, 100))
            figures = {n: round(report.metrics[n].mean, 4) for n in ("hit_rate@10", "ndcg@10")}
            line = {"channel": name, "case": case, "seed": 0, "users": report.users} | figures
            line["cpu_s"] = round(time.process_time() - begun, 1)
            print(json.dumps(line), flush=True)
            with OUT.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
