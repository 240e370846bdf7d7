"""What memory and time does building an index take, and do processes gain on threads?

    python benchmarks/index_build.py [--items 1000000] [--builds exact ivf ivf-dot pq-dot]
    python benchmarks/index_build.py --shards 2

Vectors of width 64 in a file that is mapped. Each build is a process of its own, with one thread.
Its anonymous memory (without pages of the mapped file, which the system takes back) is looked at
every 20 ms from outside; `peak_mb` is the most of it above what was there before.

--shards N: one quantiser is trained; then its lists are filled once by one process with N threads,
and once by N processes with one thread each, each from its part of the mapped file into a shard of
its own, which are written, read and merged (`merge_from`). Training is the same for both, and is
told by itself. `same` is the share of slots whose list and code are those of the one index.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from shortlist.index import FaissIVF, build_index

WIDTH = 64
BUILDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "exact": ("exact", "cosine", {}),
    "ivf": ("faiss-ivf", "cosine", {}),
    "ivf-dot": ("faiss-ivf", "dot", {}),
    "pq-dot": ("faiss-ivf", "dot", {"quantizer": "pq"}),
}


def write_vectors(path: Path, items: int) -> None:
    """Write vectors with a falling spectrum, as learned ones have, part by part."""
    random = np.random.default_rng(0)
    spectrum = (1 / np.arange(1, WIDTH + 1) ** 0.5).astype(np.float32)
    vectors = np.lib.format.open_memmap(path, "w+", np.float32, (items, WIDTH))
    for start in range(0, items, 100_000):
        shape = vectors[start : start + 100_000].shape
        vectors[start : start + 100_000] = random.standard_normal(shape, np.float32) * spectrum


def mapped(path: Path) -> Any:
    return np.load(path, mmap_mode="c")


def anonymous_mb(process: int | str = "self") -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0  # It has just ended.


def build(name: str, path: Path) -> None:
    """In a process of its own: build a small index, print the memory, and build the large one."""
    kind, similarity, settings = BUILDS[name]
    vectors = torch.from_numpy(mapped(path))
    ids = torch.arange(len(vectors))
    build_index(kind, similarity, **settings).build(ids[:20_000], vectors[:20_000])
    before, start, cpu = anonymous_mb(), time.perf_counter(), time.process_time()
    index = build_index(kind, similarity, **settings).build(ids, vectors)
    told = {"before_mb": before, "stays_mb": round(anonymous_mb() - before)}
    told |= {"build_s": round(time.perf_counter() - start, 1)}
    told |= {"build_cpu_s": round(time.process_time() - cpu, 1), "items": len(index)}
    print(json.dumps(told))


def watched_build(name: str, path: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", name, "--vectors", str(path)]
    peak = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        while child.poll() is None:
            peak = max(peak, anonymous_mb(child.pid))
            time.sleep(0.02)
        assert child.stdout is not None
        told: dict[str, Any] = json.loads(child.stdout.read())
    return {"build": name, "peak_mb": round(peak - told.pop("before_mb"))} | told


def fill(folder: Path, part: str, rows: slice) -> None:
    """Add some rows to the trained lists; write them as a shard."""
    library = faiss.read_index(str(folder / "trained"))
    vectors = mapped(folder / "vectors.npy")
    for start in range(rows.start, rows.stop, 65_536):
        library.add(np.ascontiguousarray(vectors[start : min(start + 65_536, rows.stop)]))
    faiss.write_index(library, str(folder / part))


def taken() -> tuple[float, float]:
    """Wall seconds, and CPU seconds of this process and those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(one.ru_utime + one.ru_stime for one in used)


def codes_by_slot(library: Any) -> Any:
    """Return the list and the code of each slot as rows of bytes."""
    lists = library.invlists
    rows = np.empty((library.ntotal, 4 + library.code_size), np.uint8)
    for number in range(library.nlist):
        size = lists.list_size(number)
        if not size:
            continue
        slots = faiss.rev_swig_ptr(lists.get_ids(number), size).copy()
        codes = faiss.rev_swig_ptr(lists.get_codes(number), size * library.code_size)
        rows[slots, :4] = np.array([number], np.int32).view(np.uint8)
        rows[slots, 4:] = codes.reshape(size, library.code_size)
    return rows


def shards(folder: Path, count: int) -> dict[str, Any]:
    vectors = mapped(folder / "vectors.npy")
    faiss.omp_set_num_threads(count)
    index, start = FaissIVF("euclidean"), taken()
    faiss.write_index(index._trained(vectors), str(folder / "trained"))
    trained = taken()
    fill(folder, "whole", slice(0, len(vectors)))
    whole = taken()
    bounds = np.linspace(0, len(vectors), count + 1).astype(int).tolist()
    fills = [
        subprocess.Popen(
            [
                sys.executable,
                __file__,
                "--vectors",
                str(folder),
                "--part",
                *map(str, bounds[at : at + 2]),
            ]
        )
        for at in range(count)
    ]
    for one in fills:
        if one.wait():
            sys.exit("a process that filled a shard failed")
    merged = faiss.read_index(str(folder / str(bounds[0])))
    for low in bounds[1:-1]:
        merged.merge_from(faiss.read_index(str(folder / str(low))), merged.ntotal)
    faiss.write_index(merged, str(folder / "merged"))
    parts = taken()
    ours, theirs = codes_by_slot(faiss.read_index(str(folder / "whole"))), codes_by_slot(merged)
    told: dict[str, Any] = {"shards": count, "items": len(vectors)}
    steps = {"training": (start, trained), "threads": (trained, whole), "processes": (whole, parts)}
    for name, (before, after) in steps.items():
        told[f"{name}_s"], told[f"{name}_cpu_s"] = (
            round(late - early, 1) for early, late in zip(before, after, strict=True)
        )
    return told | {"same": round(float((ours == theirs).all(axis=1).mean()), 6)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--builds", nargs="+", choices=BUILDS, default=[*BUILDS])
    parser.add_argument("--shards", type=int)
    for name in ("--one", "--vectors"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--part", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    if given.one:
        build(given.one, Path(given.vectors))
        return
    if given.part:
        fill(Path(given.vectors), str(given.part[0]), slice(*given.part))
        return
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "vectors.npy"
        write_vectors(path, given.items)
        if given.shards:
            lines = iter([shards(path.parent, given.shards)])
        else:
            lines = (watched_build(one, path) for one in given.builds)
        for line in lines:
            print(json.dumps(line | {"load": round(os.getloadavg()[0], 1)}), flush=True)


if __name__ == "__main__":
    main()
