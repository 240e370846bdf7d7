"""What a softmax over a shared pool costs: all scores at once, or in blocks (training/fused.py).

    OMP_NUM_THREADS=1 python benchmarks/softmax_speed.py --rows 1024 --pools 4096,100000
    OMP_NUM_THREADS=1 python benchmarks/softmax_speed.py --pools 4096 --interests 4

Forward and backward, width 64, cosine with a temperature. Every figure comes from a process of its
own: CPU time a step (median of --repeats), and peak memory above that before the first step.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch.nn.functional import cross_entropy, normalize

from shortlist.losses import SoftmaxLoss
from shortlist.sampling.base import Negatives
from shortlist.training.objective import Objective

WAYS = ("naive", "blocks", "blocks, bfloat16")
WIDTH = 64
TEMPERATURE = 0.1


def naive(queries: torch.Tensor, items: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """What one writes first: all scores, then cross_entropy."""
    scores = normalize(queries, dim=-1) @ normalize(items, dim=1).T / TEMPERATURE
    return cross_entropy(scores if scores.dim() == 2 else scores.amax(dim=1), positive)


def blocks(
    queries: torch.Tensor, items: torch.Tensor, positive: torch.Tensor, bfloat16: bool
) -> torch.Tensor:
    objective = Objective(SoftmaxLoss(), "cosine", temperature=TEMPERATURE)
    ids = torch.arange(len(items))
    zeros = torch.zeros(len(items))
    return objective.mean(
        queries,
        items.index_select(0, positive),
        items,
        weight=torch.ones(len(queries)),
        positive_ids=positive,
        negatives=Negatives(ids, zeros, torch.full_like(ids, -1), distinct=True),
        positive_log_q=zeros[: len(queries)],
        bfloat16=bfloat16,
    )


def measure(way: str, rows: int, pool: int, interests: int, repeats: int) -> dict[str, float]:
    """Time one way in this process."""
    torch.manual_seed(0)
    several = (interests,) if interests > 1 else ()
    queries = torch.randn(rows, *several, WIDTH, requires_grad=True)
    items = torch.randn(pool, WIDTH, requires_grad=True)
    positive = torch.randint(pool, (rows,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, loss = [], 0.0
    for _ in range(repeats):
        begun = time.process_time()
        cost = (
            naive(queries, items, positive)
            if way == "naive"
            else blocks(queries, items, positive, way.endswith("bfloat16"))
        )
        queries.grad = items.grad = None
        cost.backward()
        seconds.append(time.process_time() - begun)
        loss = float(cost.detach())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "cpu_ms": round(1000 * statistics.median(seconds), 1),
        "peak_extra_mb": (peak - before) // 1024,
        "loss": loss,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--pools", default="4096,100000")
    parser.add_argument("--interests", type=int, default=1, help="vectors a row")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    pools = [int(pool) for pool in arguments.pools.split(",")]
    if arguments.one:
        found = measure(
            arguments.one, arguments.rows, pools[0], arguments.interests, arguments.repeats
        )
        print(json.dumps(found))
        return
    print("| items | way | CPU ms a step | peak extra MB | loss |\n|---|---|---|---|---|")
    for pool in pools:
        for way in WAYS:
            command = [sys.executable, __file__, "--one", way, "--pools", str(pool)]
            command += ["--rows", str(arguments.rows), "--repeats", str(arguments.repeats)]
            command += ["--interests", str(arguments.interests)]
            line = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            print(
                f"| {pool:,} | {way} | {line['cpu_ms']} | {line['peak_extra_mb']} | "
                f"{line['loss']:.4f} |"
            )


if __name__ == "__main__":
    main()
