"""What does a blend cost? Merging alone, and five channels with single queries and in a batch.

    python benchmarks/blend_speed.py

Merging: five channels give lists of 500 candidates made before, so what is measured is the blend
alone. Whole: popular, item-cf, user-cf, ease and als of one small log, beside the sum of the five
asked by themselves. CPU microseconds of one thread, medians. One JSON line a case in
results/blend_speed.jsonl.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shortlist.asking.queries import Queries
from shortlist.asking.rows import RowQueries
from shortlist.blending.blend import Blend
from shortlist.channels.table import CHANNELS
from shortlist.data.dataset import Dataset, Split
from shortlist.data.schema import Schema
from shortlist.data.synthetic import planted_world
from shortlist.data.training_data import TrainingData
from shortlist.index.base import Hits

COUNT, DEPTH, QUERIES = 5, 500, 2000
OUT = Path("benchmarks/results/blend_speed.jsonl")


class Ready:
    """A channel with answers that were made before."""

    timed = False

    def __init__(self, data: TrainingData, seed: int) -> None:
        random = np.random.default_rng(seed)
        # From the same 2,000 items, so that the lists overlap by a quarter.
        rows = torch.from_numpy(1 + random.permutation(2000)[:DEPTH])[None]
        scores = np.sort(random.random((1, DEPTH)).astype(np.float32))[:, ::-1].copy()
        self.data, self.hits = data, Hits(rows, torch.from_numpy(scores))

    def candidate_rows(self) -> np.ndarray:
        return np.arange(1, 2001)

    def search(self, block: RowQueries, k: int) -> Hits:  # noqa: ARG002
        return self.hits

    def strangers(self, block: RowQueries) -> torch.Tensor:
        return torch.zeros(len(block.users), dtype=torch.bool)


def microseconds(work: Callable[[int], Any], times: int) -> list[float]:
    """Return the CPU time of each of a number of calls."""
    spent = []
    for number in range(times):
        start = time.process_time_ns()
        work(number)
        spent.append((time.process_time_ns() - start) / 1000)
    return spent


def write(line: dict[str, Any]) -> None:
    """Print a line and keep it."""
    print(json.dumps(line))
    with OUT.open("a") as file:
        file.write(json.dumps(line) + "\n")


def merging(data: TrainingData) -> None:
    """Measure merging alone, over answers that were made before."""
    channels: dict[str, Any] = {f"c{number}": Ready(data, number) for number in range(COUNT)}
    query = Queries(data.users.ids[:1])
    for method in ("quotas", "reciprocal-rank", "weighted"):
        options: dict[str, Any] = {"method": method}
        if method == "quotas":
            options["quotas"] = dict.fromkeys(channels, 100)
        blend = Blend(channels, **options)
        blend._adopt()
        blend.recommend(query, DEPTH)
        spent = microseconds(lambda _, blend=blend: blend.recommend(query, DEPTH), QUERIES)
        line = {"method": method, "channels": COUNT, "candidates_each": DEPTH, "k": DEPTH}
        quantiles = {f"p{q}_us": round(float(np.quantile(spent, q / 100)), 1) for q in (50, 95)}
        write(line | quantiles)


def whole(split: Split) -> None:
    """Measure five channels of one log in a blend, by themselves, and for all users at once."""
    options = {"popular": {}, "item-cf": {}, "user-cf": {}, "ease": {}, "als": {"factors": 32}}
    channels = {kind: CHANNELS[kind](**given) for kind, given in options.items()}
    blend = Blend(channels, quotas=dict.fromkeys(channels, 100)).fit(split)
    ids = blend.data.users.ids

    def median(retriever: Any, k: int) -> float:
        def ask(number: int) -> None:
            retriever.recommend(Queries(ids[number : number + 1]), k)

        microseconds(ask, 30)
        return float(np.median(microseconds(ask, 400)))

    for k in (100, 500):
        one, alone = median(blend, k), sum(median(c, k) for c in blend.channels.values())
        batch = microseconds(lambda _, k=k: blend.recommend(Queries(ids), k), 1)[0] / len(ids)
        figures = {"one_us": one, "five_alone_us": alone, "in_a_batch_us": batch}
        write({"whole": list(channels), "k": k} | {n: round(f, 1) for n, f in figures.items()})


def main() -> None:
    torch.set_num_threads(1)
    world = planted_world(users=2000, items=2500, events=60_000, seed=0)
    split = Dataset.load(world.interactions, schema=Schema(time="timestamp")).split()
    merging(CHANNELS["popular"]().fit(split).data)
    whole(split)


if __name__ == "__main__":
    main()
