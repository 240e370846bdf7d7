"""What does a search cost, compared with direct calls of the library and with Annoy?

    python benchmarks/index_speed.py [--items 300000] [--world clustered|learned] [--k 100]
        [--kinds exact ivf pq hnsw annoy]

Vectors of width 64: a Zipf-sized mixture of 1,000 low-rank Gaussians, normalised, or "learned":
factors with a falling spectrum and lengths that differ, under dot. 1,000 held-out queries. One
thread; build and batched figures are CPU seconds, single queries the median wall time, since the
scheduler's pauses of a busy machine are in the mean.

Lines of benchmarks/results/index_speed.jsonl, one for each:
- exact, each kind of INDEXES built on FAISS, at each setting up to recall .99, and Annoy called
  directly (10 trees): build, memory, QPS batched, a single query, recall@k;
- overhead: an index beside the very FAISS index inside it, asked for as many candidates by turns,
  alone ("library") and under IndexRefine, which scores candidates again as we do ("refined").

Targets: overhead at most 5 % batched and 10 microseconds a single query; 20 times Annoy's QPS at
recall .99.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from shortlist.evaluation.index_recall import recall_of
from shortlist.index import ExactIndex, FaissHNSW, FaissIVF, Hits

OUT = Path(__file__).parent / "results" / "index_speed.jsonl"
WIDTH, CLUSTERS, RANK, QUERIES, SINGLES = 64, 1000, 12, 1000, 300
TARGET = 0.99


def clustered(items: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Items and queries of one Zipf-sized mixture, normalised."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((CLUSTERS, WIDTH), dtype=np.float32)
    spread = random.standard_normal((CLUSTERS, RANK, WIDTH), dtype=np.float32) / RANK**0.5
    sizes = 1 / np.arange(1, CLUSTERS + 1) ** 0.5
    own = random.choice(CLUSTERS, items + QUERIES, p=sizes / sizes.sum())
    points = centres[own]
    points += 0.15 * random.standard_normal(points.shape, dtype=np.float32)
    for cluster in range(CLUSTERS):
        rows = np.flatnonzero(own == cluster)
        points[rows] += (
            random.standard_normal((len(rows), RANK), dtype=np.float32) @ spread[cluster]
        )
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return torch.from_numpy(points[:items]), torch.from_numpy(points[items:]), "cosine"


def learned(items: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Return vectors like those of a model under dot: users are distributed unlike items."""
    random = np.random.default_rng(0)
    spectrum = (1 / np.arange(1, WIDTH + 1) ** 0.5).astype(np.float32)
    offset = 0.5 * random.standard_normal(WIDTH, dtype=np.float32) * spectrum
    points = random.standard_normal((items, WIDTH), dtype=np.float32) * spectrum + offset
    points *= np.exp(0.4 * random.standard_normal((items, 1), dtype=np.float32))
    users = random.standard_normal((QUERIES, WIDTH), dtype=np.float32) * spectrum + offset
    return torch.from_numpy(points), torch.from_numpy(users), "dot"


WORLDS = {"clustered": clustered, "learned": learned}
KINDS = ("exact", "ivf", "pq", "hnsw", "annoy")


def cpu(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of a function and its CPU seconds."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def timed(search: Callable[[torch.Tensor], Any], queries: torch.Tensor) -> dict[str, float]:
    """Batched queries a CPU second, and the median microseconds of one query."""
    search(queries[:20])
    seconds = min(cpu(lambda: search(queries))[1] for _ in range(2))
    alone = []
    for row in range(SINGLES):
        start = time.perf_counter()
        search(queries[row : row + 1])
        alone.append(time.perf_counter() - start)
    return {
        "qps_batched": round(len(queries) / seconds, 1),
        "single_us": round(float(np.median(alone)) * 1e6, 1),
    }


def rss_mb() -> int:
    """Resident memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 2**20


def overhead(index: Any, queries: torch.Tensor, k: int) -> dict[str, float]:
    """Alternate our search with its library, alone and under IndexRefine."""
    library, points = index._library, index._points(queries, k)[:, 0]
    fetch = index._fetch(k)
    points = np.pad(points, ((0, 0), (0, library.d - points.shape[1])))
    if isinstance(index, FaissHNSW):
        library.hnsw.efSearch = index._beam(fetch, 1.0)
    else:
        library.nprobe = index._probes(fetch, 1.0)
    flat = faiss.IndexFlat(points.shape[1], library.metric_type)
    flat.add(index._placed(index._exact.items.vectors.numpy()))
    refined = faiss.IndexRefine(library, flat)
    refined.k_factor = fetch / k
    ways: dict[str, Callable[[slice], Any]] = {
        "library": lambda rows: library.search(points[rows], fetch),
        "refined": lambda rows: refined.search(points[rows], k),
        "ours": lambda rows: index.search(queries[rows], k),
    }
    batched = {name: [] for name in ways}
    alone = {name: [] for name in ways}
    for _ in range(5):
        for name, way in ways.items():
            batched[name].append(cpu(lambda way=way: way(slice(None)))[1] / len(queries) * 1e6)
    names = list(ways)
    for row in range(3 * SINGLES):
        ways["library"](slice(row, row + 1))  # So that all three find the caches warm.
        for turn in range(3):
            name = names[(row + turn) % 3]
            start = time.perf_counter()
            ways[name](slice(row, row + 1))
            alone[name].append(time.perf_counter() - start)
    figures = {}
    for name in ways:
        figures[f"batched_us_{name}"] = round(float(np.median(batched[name])), 1)
        figures[f"single_us_{name}"] = round(float(np.median(alone[name])) * 1e6, 1)
    return figures


def ours(index: Any, setting: str, values: list[int], context: dict[str, Any]) -> None:
    """Build one of our indexes, and measure it setting by setting until the target is met."""
    ids, items, queries, truth, k = (context[n] for n in ("ids", "items", "queries", "truth", "k"))
    before = rss_mb()
    _, seconds = cpu(lambda: index.build(ids, items))
    memory = {
        "library_mb": round(len(index._dump()) / 2**20, 1),
        "vectors_mb": round(items.nbytes / 2**20, 1),
        "rss_grew_mb": rss_mb() - before,
    }
    for value in values:
        index.adjust(**{setting: value})
        found = index.search(queries, k)
        line = {"kind": f"{type(index).__name__} {index.quantizer}", "settings": index.settings()}
        line |= {"recall": round(recall_of(found, truth), 4), "build_cpu_s": round(seconds, 1)}
        report(line | memory | timed(lambda some: index.search(some, k), queries), context)
        if line["recall"] >= TARGET or value == values[-1]:
            figures = overhead(index, queries, k)
            report({"kind": f"overhead {line['kind']}", setting: value} | figures, context)
            return


def annoy(context: dict[str, Any]) -> None:
    """Annoy by its own interface, at rising effort; it has no batched search."""
    from annoy import AnnoyIndex  # noqa: PLC0415

    items, queries, truth, k = (context[name] for name in ("items", "queries", "truth", "k"))
    metric = "angular" if context["similarity"] == "cosine" else "dot"
    library = AnnoyIndex(WIDTH, metric)

    def build() -> None:
        library.set_seed(1)
        for row, vector in enumerate(items.numpy()):
            library.add_item(row, vector)
        library.build(10, n_jobs=1)

    _, seconds = cpu(build)
    for effort in (3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000):
        asked = queries[:300]

        def search(some: torch.Tensor, effort: int = effort) -> list[list[int]]:
            return [library.get_nns_by_vector(point, k, effort) for point in some.numpy()]

        found = torch.tensor(search(asked))
        scores = torch.einsum("qd,qfd->qf", asked, items[found])
        recall = recall_of(Hits(found, scores), Hits(truth.ids[:300], truth.scores[:300]))
        line = {"kind": "annoy direct", "settings": {"trees": 10, "search_k": effort}}
        line |= {"recall": round(recall, 4), "build_cpu_s": round(seconds, 1)}
        report(line | timed(search, asked), context)
        if recall >= TARGET:
            return


def report(line: dict[str, Any], context: dict[str, Any]) -> None:
    """Add one line to the results."""
    line = {name: context[name] for name in ("commit", "world", "n", "k")} | line
    line["load"] = round(os.getloadavg()[0], 1)
    with OUT.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--items", type=int, default=300_000)
    parser.add_argument("--world", choices=WORLDS, default="clustered")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    arguments = parser.parse_args()
    OUT.parent.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    items, queries, similarity = WORLDS[arguments.world](arguments.items)
    ids = torch.arange(len(items))
    exact = ExactIndex(similarity).build(ids, items)
    context = {
        "commit": commit(),
        "world": arguments.world,
        "n": len(items),
        "k": arguments.k,
        "similarity": similarity,
        "ids": ids,
        "items": items,
        "queries": queries,
        "truth": exact.search(queries, arguments.k),
    }
    kinds = arguments.kinds
    if "exact" in kinds:
        line = {"kind": "exact", "recall": 1.0}
        report(line | timed(lambda some: exact.search(some, arguments.k), queries[:300]), context)
    beams = [32, 64, 128, 192, 256, 384, 512, 768, 1024]
    probes = [8, 16, 32, 64, 128, 256, 512]
    if "ivf" in kinds:
        ours(FaissIVF(similarity), "nprobe", probes, context)
    if "pq" in kinds:
        ours(FaissIVF(similarity, quantizer="pq"), "nprobe", probes, context)
    if "hnsw" in kinds:
        ours(FaissHNSW(similarity), "ef_search", beams, context)
    if "annoy" in kinds:
        try:
            annoy(context)
        except ImportError:
            print("annoy is not installed: pip install 'shortlist[annoy]'", file=sys.stderr)


if __name__ == "__main__":
    main()
