"""The inverted index: microseconds for a query, and how long a million items take to refresh.

    python benchmarks/inverted_speed.py    # adds lines to benchmarks/results/inverted_speed.jsonl

Targets (one thread): a query in microseconds, 1 million items refreshed in seconds. All times are
CPU times, so that a busy machine counts for little.
A planted Zipf log of 5 million events, 1 million items, 1,000 values; an item has 1 to 3 of them.
"""

import argparse
import json
import platform
import resource
import time
from pathlib import Path

import numpy as np
import polars as pl

RESULTS = Path(__file__).parent / "results" / "inverted_speed.jsonl"


def data_of(items: int, values: int, events: int, seed: int):
    """A log and a catalogue; every item is met at least once, so all of them are candidates."""
    from shortlist import Dataset, Feature, Schema  # noqa: PLC0415

    random = np.random.default_rng(seed)
    met = np.concatenate([np.arange(items), random.zipf(1.2, events - items) % items])
    log = pl.DataFrame(
        {
            "user_id": random.integers(1, events // 50 + 1, events),
            "item_id": met + 1,
            "timestamp": random.integers(0, 10**8, events),
        }
    )
    # Values are of unequal size, as brands and topics are.
    codes = (values * random.random((items, 3)) ** 2).astype(np.int64)
    many = random.integers(1, 4, items)
    names = pl.Series([f"v{code:04}" for code in range(values)])
    columns = {f"c{at}": names.gather(codes[:, at]) for at in range(3)} | {"many": many}
    three = pl.concat_list("c0", "c1", "c2")
    lists = pl.DataFrame(columns).select(three.list.head(pl.col("many")).alias("topic"))
    catalogue = lists.with_columns(item_id=np.arange(1, items + 1))
    schema = Schema(time="timestamp", item_features=(Feature("topic", "multi-valued"),))
    return Dataset.load(log, items=catalogue, schema=schema).split().training_data()


def microseconds(ask, questions) -> dict[str, float]:
    """Send queries one by one; return quantiles of their CPU times."""
    for question in questions[:100]:
        ask(question)
    took = np.empty(len(questions))
    for at, question in enumerate(questions):
        begin = time.thread_time_ns()
        ask(question)
        took[at] = time.thread_time_ns() - begin
    return {f"p{q}_us": round(float(np.percentile(took, q)) / 1e3, 1) for q in (50, 95, 99)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--values", type=int, default=1_000)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    import torch  # noqa: PLC0415

    from shortlist import Queries  # noqa: PLC0415
    from shortlist.channels.counting.inverted import Inverted  # noqa: PLC0415
    from shortlist.linear.inverted_lists import Tastes  # noqa: PLC0415

    torch.set_num_threads(1)
    data = data_of(given.items, given.values, given.events, given.seed)
    random = np.random.default_rng(given.seed + 1)
    asked = [
        random.choice(given.values, size, replace=False)
        for size in random.integers(1, 6, given.queries)
    ]
    histories = [
        data.items.external(random.integers(1, data.items.trained + 1, size)).to_list()
        for size in random.integers(1, 50, given.queries)
    ]
    for metric, options in (("count", {}), ("recent", {"half_life": 2e6})):
        retriever = Inverted(attribute="topic", metric=metric, **options)
        begin = time.process_time()
        retriever.fit_data(data)
        fit = time.process_time() - begin
        begin = time.process_time()
        retriever.refresh()
        refresh = time.process_time() - begin
        begin = time.process_time()
        retriever.refresh(["v0500"])
        one = time.process_time() - begin
        line = {
            "metric": metric,
            "items": data.items.trained,
            "values": len(retriever.values),
            "events": len(data.training_log),
            "seed": given.seed,
            "fit_s": round(fit, 2),
            "refresh_all_s": round(refresh, 2),
            "refresh_one_s": round(one, 3),
        }
        for k in (10, 100):
            tastes = [
                Tastes(np.array([0, len(v)]), np.sort(v), random.random(len(v)) + 0.1)
                for v in asked
            ]
            line[f"kernel@{k}"] = microseconds(lambda t, r=retriever, k=k: r._best(t, k), tastes)
            names = [[[retriever.values[v] for v in mine]] for mine in asked]
            line[f"lookup@{k}"] = microseconds(lambda q, r=retriever, k=k: r.lookup(q, k), names)
            line[f"recommend@{k}"] = microseconds(
                lambda h, r=retriever, k=k: r.recommend(Queries(histories=[h]), k), histories
            )
            begin = time.process_time()
            retriever.recommend(Queries(histories=histories), k)
            batch = time.process_time() - begin
            line[f"batch@{k}_users_per_s"] = round(given.queries / batch)
        line["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        line["python"] = platform.python_version()
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line))


if __name__ == "__main__":
    main()
