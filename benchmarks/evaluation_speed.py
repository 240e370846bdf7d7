"""How much time and memory does exact top-k for many users take, compared with plain torch?

Each method runs in a process of its own, so that the peak memory is its own:

    python benchmarks/evaluation_speed.py [--users 20000] [--items 50000] [--threads 1]

On one core of an AMD EPYC server with torch 2.13, defaults: plain 6.7 CPU s and 130 MiB above the
vectors, exact 4.8 CPU s and 90 MiB; the metrics of these lists take 0.1 CPU s more. With two
threads on a machine that is busy otherwise, waiting threads burn CPU: 10 and 12 CPU s.
"""

import argparse
import multiprocessing
import resource
import time

import numpy as np
import torch
from torch import Tensor

from shortlist.index import ExactIndex, Hits
from shortlist.metrics import hits, per_user


def naive(users: Tensor, items: Tensor, seen: tuple[Tensor, Tensor], k: int) -> Hits:
    """Score a block of users at once, mask seen items and call torch.topk; ties are arbitrary."""
    values, offsets = seen
    ids, scores = [], []
    for start in range(0, len(users), 256):
        block = users[start : start + 256] @ items.T
        bounds = offsets[start : start + len(block) + 1]
        rows = torch.repeat_interleave(bounds.diff())
        block[rows, values[bounds[0] : bounds[-1]]] = float("-inf")
        best = block.topk(k)
        ids.append(best.indices)
        scores.append(best.values)
    return Hits(torch.cat(ids), torch.cat(scores))


def exact(users: Tensor, items: Tensor, seen: tuple[Tensor, Tensor], k: int) -> Hits:
    return ExactIndex("dot").build(torch.arange(len(items)), items).search(users, k, exclude=seen)


def world(args: argparse.Namespace) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    users = torch.randn(args.users, args.width, generator=generator)
    items = torch.randn(args.items, args.width, generator=generator)
    values = torch.randint(args.items, (args.users * args.seen,), generator=generator)
    return users, items, (values, torch.arange(args.users + 1) * args.seen)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    users, items, seen = world(args)
    before, cpu, wall = peak_mib(), time.process_time(), time.perf_counter()
    found = {"naive": naive, "exact": exact}[name](users, items, seen, args.k)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{name:8} {cpu:8.2f} {wall:8.2f} {peak_mib() - before:10.0f}")
    if name == "exact":
        held_out = np.arange(args.users) % args.items
        cpu = time.process_time()
        slots = hits(found.ids.numpy(), held_out, np.arange(args.users + 1))
        per_user(slots, np.ones(args.users, dtype=np.int64), ks=[min(10, args.k), args.k])
        print(f"{'metrics':8} {time.process_time() - cpu:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    figures = {"users": 20_000, "items": 50_000, "width": 64, "seen": 50, "k": 100, "threads": 1}
    for name, default in figures.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    print(" ".join(f"{name}={value}" for name, value in vars(args).items()))
    print(f"{'':8} {'CPU s':>8} {'wall s':>8} {'peak MiB':>10}")
    for name in ("naive", "exact"):
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(name, args))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
