"""What merging adds to the channels it merges: five lists of 500 candidates, one query at a time.

    python benchmarks/blend_speed.py

The channels give lists made before, so what is measured is the blend alone: CPU microseconds of
one thread, the median of 2,000 queries. One JSON line a method in results/blend_speed.jsonl.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shortlist.asking.candidates import Candidates
from shortlist.asking.queries import Queries
from shortlist.blending.blend import Blend
from shortlist.channels.counting.popular import Popular
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.data.synthetic import planted_world

CHANNELS, DEPTH, QUERIES = 5, 500, 2000
OUT = Path("benchmarks/results/blend_speed.jsonl")


class Ready:
    """A channel whose answers are there."""

    def __init__(self, data: Any, seed: int) -> None:
        random = np.random.default_rng(seed)
        # From the same 2,000 items, so that the lists overlap by a quarter.
        pool = 1 + random.permutation(2000)
        rows = pool[:DEPTH][None, :].astype(np.int64)
        scores = np.sort(random.random((1, DEPTH)).astype(np.float32))[:, ::-1].copy()
        self.data = data
        self.answer = Candidates(rows, scores, np.zeros(1, dtype=np.bool_), data.items)

    def candidate_rows(self) -> np.ndarray:
        return np.arange(1, 2001)

    def recommend(self, queries: Queries, k: int = 10) -> Candidates:  # noqa: ARG002
        return self.answer


def main() -> None:
    torch.set_num_threads(1)
    world = planted_world(users=2000, items=2500, events=60_000, seed=0)
    split = Dataset.load(world.interactions, schema=Schema(time="timestamp")).split()
    data = Popular().fit(split).data
    channels = {f"c{number}": Ready(data, number) for number in range(CHANNELS)}
    query = Queries(data.users.ids[:1])
    for method in ("quotas", "reciprocal-rank", "weighted"):
        options: dict[str, Any] = {"method": method}
        if method == "quotas":
            options["quotas"] = dict.fromkeys(channels, 100)
        blend = Blend(channels, **options)
        blend._adopt()
        blend.recommend(query, DEPTH)
        times = []
        for _ in range(QUERIES):
            start = time.process_time_ns()
            blend.recommend(query, DEPTH)
            times.append((time.process_time_ns() - start) / 1000)
        line = {
            "method": method,
            "channels": CHANNELS,
            "candidates_each": DEPTH,
            "k": DEPTH,
            "p50_us": round(float(np.median(times)), 1),
            "p95_us": round(float(np.quantile(times, 0.95)), 1),
        }
        print(json.dumps(line))
        with OUT.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
