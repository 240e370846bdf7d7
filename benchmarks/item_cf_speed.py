"""How fast is ItemCF, and how much memory does it take, compared with implicit?

    python benchmarks/item_cf_speed.py --peer-python PATH [--events 1000000 10000000] [--repeats 3]

PATH is the python of an environment that has numpy, scipy and implicit; this one needs none of it.
Zipf logs: items by 1 / rank, users by a lognormal activity, 100,000 items; 10 events a user. Each
repetition is a process of its own, ours and the peer's in turn, on one thread; figures are CPU
seconds, medians, and memory is the peak of the fit above what was there (Linux). What is compiled
on first use is stated apart. Both start from data in memory: ours from a TrainingData, implicit
from a CSR matrix. A line of JSON for each log goes to benchmarks/results/item_cf_speed.jsonl.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ITEMS, K = 100_000, 100
RESULTS = Path(__file__).parent / "results" / "item_cf_speed.jsonl"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def zipf_log(events, users, seed):
    """Users and items of each event, [events], from 1, by user."""
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(0, 1, users)
    user = np.sort(rng.choice(users, events, p=activity / activity.sum()))
    popularity = 1 / np.arange(1, ITEMS + 1)
    drawn = rng.choice(ITEMS, events, p=popularity / popularity.sum())
    return user + 1, rng.permutation(ITEMS)[drawn] + 1


def memory_mib(name):
    """Return VmRSS, the current memory, or VmHWM, its peak since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def measured(fit, recommend, users):
    """CPU seconds of a fit, users a CPU second, and MiB at the peak above the data."""
    before = memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # what making the data took is not the fit's
    start = time.process_time()
    fit()
    fit_seconds = time.process_time() - start
    fit_mib = memory_mib("VmHWM") - before
    start = time.process_time()
    recommend()
    rate = users / (time.process_time() - start)
    return {"fit_s": fit_seconds, "users_per_s": rate, "fit_mib": fit_mib}


def ours(events, users, asked, seed):
    import polars as pl  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from shortlist.asking.queries import Queries  # noqa: PLC0415
    from shortlist.channels.counting.item_cf import ItemCF  # noqa: PLC0415
    from shortlist.data.dataset import Dataset  # noqa: PLC0415

    torch.set_num_threads(1)

    def training_data(user, item):
        frame = pl.DataFrame({"user_id": user, "item_id": item})
        return Dataset.load(frame).split("random", seed=seed).training_data("all")

    start = time.process_time()
    small = ItemCF(neighbours=K).fit_data(training_data(np.arange(90) // 9, np.arange(90) % 7))
    small.recommend([1], 3)
    compiling = time.process_time() - start
    data = training_data(*zipf_log(events, users, seed))
    model, wanted = ItemCF(neighbours=K), Queries(users=data.users.ids[:asked])
    figures = measured(
        lambda: model.fit_data(data), lambda: model.recommend(wanted, K), len(wanted)
    )
    return figures | {"compile_s": compiling, "pairs": int(model_pairs(data))}


def model_pairs(data):
    log = data.training_log
    return len(np.unique(log.user.astype(np.int64) * (data.items.trained + 1) + log.item))


def peer(events, users, asked, seed):
    import implicit  # noqa: PLC0415
    from implicit.nearest_neighbours import CosineRecommender  # noqa: PLC0415
    from scipy.sparse import csr_matrix  # noqa: PLC0415

    user, item = zipf_log(events, users, seed)
    ones = np.ones(len(user), dtype=np.float32)
    matrix = csr_matrix((ones, (user, item)), shape=(users + 1, ITEMS + 1))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    known = np.unique(user)[:asked]
    model, histories = CosineRecommender(K=K, num_threads=1), matrix[known]
    figures = measured(
        lambda: model.fit(matrix, show_progress=False),
        lambda: model.recommend(known, histories, N=K),
        len(known),
    )
    return figures | {"pairs": int(matrix.nnz), "version": implicit.__version__}


def run(part, python, args, events, environment):
    command = [python, __file__, "--part", part, "--events", str(events)]
    command += ["--asked", str(args.asked), "--seed", str(args.seed)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compared(args, events, environment):
    """Alternate the two, and take medians."""
    found = {"ours": [], "peer": []}
    for repeat in range(args.repeats):
        found["ours"].append(run("ours", sys.executable, args, events, environment))
        found["peer"].append(run("peer", args.peer_python, args, events, environment))
        print(events, repeat, found["ours"][-1], found["peer"][-1], flush=True)
    middle = {
        part: {
            key: round(statistics.median(one[key] for one in runs), 3)
            for key in ("fit_s", "users_per_s", "fit_mib")
        }
        for part, runs in found.items()
    }
    mine, other = middle["ours"], middle["peer"]
    return {
        "events": events,
        "users": events // 10,
        "items": ITEMS,
        "pairs": found["ours"][0]["pairs"],
        "neighbours": K,
        "repeats": args.repeats,
        "seed": args.seed,
        "ours": mine,
        "compile_s": round(max(one["compile_s"] for one in found["ours"]), 2),
        "load_compiled_s": round(min(one["compile_s"] for one in found["ours"]), 2),
        "implicit": other | {"version": found["peer"][0]["version"]},
        "fit_ratio": round(mine["fit_s"] / other["fit_s"], 3),
        "answer_ratio": round(mine["users_per_s"] / other["users_per_s"], 3),
        "processor": platform.machine(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="python of an environment that has implicit")
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--asked", type=int, default=20_000, help="users who get a list")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", choices=["ours", "peer"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        events = args.events[0]
        part = {"ours": ours, "peer": peer}[args.part]
        print(json.dumps(part(events, events // 10, args.asked, args.seed)))
        return
    if not args.peer_python:
        parser.error("--peer-python is needed: the python of an environment that has implicit")
    with tempfile.TemporaryDirectory() as cache:
        # An empty cache, so that the first process shows what compiling takes.
        environment = os.environ | ONE_THREAD | {"NUMBA_CACHE_DIR": cache}
        for events in args.events:
            line = json.dumps(compared(args, events, environment))
            print(line, flush=True)
            RESULTS.parent.mkdir(exist_ok=True)
            with RESULTS.open("a") as results:
                results.write(line + "\n")


if __name__ == "__main__":
    main()
