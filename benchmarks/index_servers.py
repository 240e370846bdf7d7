"""What does an index in a server cost? Build, answers a second, recall and this process's memory.

    SHORTLIST_MILVUS_URI=http://127.0.0.1:19530 python benchmarks/index_servers.py milvus
    SHORTLIST_PGVECTOR=postgresql://... python benchmarks/index_servers.py pgvector

The vectors are learned-like (a falling spectrum, lengths that differ), under the cosine. Memory is
measured in another process, as a service has it: one that knows the index by its state alone.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from shortlist.index import INDEXES, ExactIndex, build_index

K = 100


def world(items: int, queries: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    spectrum = 1 / torch.arange(1, width + 1).sqrt()
    offset = torch.randn(width, generator=generator) * spectrum * 0.5
    vectors = torch.randn(items, width, generator=generator) * spectrum + offset
    return vectors, torch.randn(queries, width, generator=generator) * spectrum + offset


def private_mb() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
    return (int(sizes["Private_Clean"]) + int(sizes["Private_Dirty"])) / 1024


def asked(kind: str, state: Path, queries: int, width: int) -> None:
    """In a process of its own: load the state, send single queries, and print the cost."""
    torch.set_num_threads(1)
    _, points = world(1, queries, width)
    index = INDEXES[kind].from_state("cosine", load_file(state))
    before = private_mb()
    index.search(points[:1], K)
    seconds = []
    for point in points:
        start = time.perf_counter()
        index.search(point[None], K)
        seconds.append(time.perf_counter() - start)
    allow = torch.rand(index.place.highest + 1, generator=torch.Generator().manual_seed(1)) < 0.1
    start = time.perf_counter()
    for point in points[:20]:
        index.search(point[None], K, allow=allow)
    told = {
        "qps, one at a time": round(len(points) / sum(seconds), 1),
        "median_ms": round(1000 * float(np.median(seconds)), 2),
        "median_ms, a tenth allowed": round(50 * (time.perf_counter() - start), 1),
        "private_mb": round(private_mb(), 1),
        "of_it_by_the_index_mb": round(private_mb() - before, 1),
        "cut_ties": index.cut_ties,
    }
    print(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["milvus", "pgvector"])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--state", type=Path, help="(used by the second process)")
    given = parser.parse_args()
    if given.state is not None:
        asked(given.kind, given.state, given.queries, given.width)
        return
    vectors, _ = world(given.items, given.queries, given.width)
    points = world(1, given.queries, given.width)[1]
    ids = torch.arange(given.items)
    start, cpu = time.perf_counter(), time.process_time()
    index = build_index(given.kind, "cosine", collection="benchmark", timeout=60).build(
        ids, vectors
    )
    built = {
        "kind": given.kind,
        "items": given.items,
        "build_s": round(time.perf_counter() - start, 1),
        "build_cpu_s, here": round(time.process_time() - cpu, 1),
    }
    truth = ExactIndex("cosine").build(ids, vectors).search(points, K)
    found = index.search(points, K)
    same = [
        len(set(a) & set(b)) for a, b in zip(found.ids.tolist(), truth.ids.tolist(), strict=True)
    ]
    print(json.dumps({**built, "recall@100": round(sum(same) / truth.ids.numel(), 4)}), flush=True)
    state = Path("benchmark-state.safetensors")
    save_file(index.state(), state)
    try:
        more = ["--state", str(state), "--queries", str(given.queries), "--width", str(given.width)]
        subprocess.run([sys.executable, __file__, given.kind, *more], check=True)
    finally:
        state.unlink()


if __name__ == "__main__":
    main()
