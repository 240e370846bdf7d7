"""Does training on a GPU agree with a CPU, and how fast is it? It takes under 8 minutes.

    python benchmarks/on_gpu.py [--device cuda] [--steps 30] [--items 1000000]

**It has never been run on a GPU**: none was at hand when it was written. The script itself was
tried with `--device cpu --items 2000`.

First losses and gradients of some steps of five cases, beside those of the CPU from the same
weights and batches, without dropout; a difference above 1e-4 of the greatest number ends the script
with exit code 1. Then positives a second of the same cases, in float32 and in bfloat16, and of the
full softmax over a large catalogue, with the peak memory of each. One JSON line each is printed,
and added to benchmarks/results/on_gpu.jsonl unless the device is the CPU.
"""

import argparse
import json
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.data.training_data import TrainingData

OUT = Path(__file__).parent / "results" / "on_gpu.jsonl"
APART, CHECKED, WARM = 1e-4, 5, 5
PLAIN: dict[str, Any] = {"dim": 64, "dropout": 0.0, "history_dropout": 0.0, "history_length": 50}
LAYERS: dict[str, Any] = {"user_layers": (256, 128)}
CASES: dict[str, dict[str, Any]] = {
    "dssm, 3 negatives a row": {**LAYERS, "loss": "bce", "negatives": 3, "shared": False}
    | {"sampler": "uniform"},
    "pairwise, 1 negative": {**LAYERS, "mode": "pairwise", "negatives": 1},
    "in-batch softmax": LAYERS,
    "mixed, 2,048 drawn": {**LAYERS, "sampler": "mixed", "negatives": 2048},
    "attention": {"history": "attention"},
}


def log(events: int, items: int) -> TrainingData:
    """Users of ten events on average; items of popularity 1 / rank, each met at least once."""
    random = np.random.default_rng(0)
    popularity = 1 / np.arange(1, items + 1)
    drawn = random.choice(items, events - items, p=popularity / popularity.sum())
    frame = pl.DataFrame(
        {
            "user": random.integers(0, events // 10, events),
            "item": np.concatenate([np.arange(items), drawn]),
            "time": random.integers(0, 10**9, events),
        }
    )
    data = Dataset.load(frame, schema=Schema(user="user", item="item", time="time"))
    return data.split("leave-last-out").training_data("train")


def trainer_of(options: dict[str, Any], data: TrainingData, device: str) -> tuple[Any, Any]:
    retriever = TwoTower(**{**PLAIN, "seed": 1, **options}, device=device)
    torch.manual_seed(1)
    retriever.set_data(data)
    return retriever, retriever._trainer(data)


def told(options: dict[str, Any], data: TrainingData, device: str) -> tuple[Any, Any]:
    """Losses of the first steps, and the gradients of the first."""
    retriever, trainer = trainer_of(options, data, device)
    gradients: dict[str, Any] = {}
    take = trainer._optimizer.step

    def kept(share: float) -> None:
        if not gradients:
            for name, one in retriever.towers.named_parameters():
                if one.grad is not None:
                    gradients[name] = one.grad.to_dense().cpu().clone()
        take(share)

    trainer._optimizer.step = kept
    losses = torch.tensor([float(step.loss) for step in islice(trainer.epoch(), CHECKED)])
    return losses, gradients


def apart(options: dict[str, Any], data: TrainingData, device: str) -> dict[str, float]:
    """The greatest differences from the CPU, as shares of the greatest number."""
    (here, own), (there, others) = (told(options, data, one) for one in ("cpu", device))
    greatest = max(float(one.abs().max()) for one in own.values())
    slopes = max(float((one - others[name]).abs().max()) for name, one in own.items())
    losses = float((here - there).abs().max() / here.abs().max())
    return {"losses_apart": losses, "gradients_apart": slopes / greatest}


def speed(options: dict[str, Any], data: TrainingData, device: str, steps: int) -> dict[str, float]:
    """Positives a second after some steps that are not counted, and the peak memory."""
    gpu = torch.device(device).type == "cuda"
    _, trainer = trainer_of(options, data, device)
    running = (step for _ in range(WARM + steps) for step in trainer.epoch())
    for _ in islice(running, WARM):
        pass
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begun, positives = time.perf_counter(), 0
    for step in islice(running, steps):
        positives += step.positives
    if gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    peak = torch.cuda.max_memory_allocated() / 2**20 if gpu else 0.0
    return {"positives_a_second": round(positives / seconds), "peak_mib": round(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--items", type=int, default=1_000_000)
    arguments = parser.parse_args()
    device, failed = arguments.device, False

    def say(line: dict[str, Any]) -> None:
        text = json.dumps({"device": name, "torch": torch.__version__, **line})
        print(text, flush=True)
        if torch.device(device).type != "cpu":
            with OUT.open("a") as out:
                out.write(text + "\n")

    name = torch.cuda.get_device_name() if torch.device(device).type == "cuda" else device
    torch.backends.cuda.matmul.allow_tf32 = False
    small = log(20_000, min(arguments.items, 5_000))
    for case, options in CASES.items():
        found = apart({**options, "batch_size": 512}, small, device)
        failed |= max(found.values()) > APART
        say({"case": case, **found})
    large = log(max(400_000, 2 * arguments.items), min(arguments.items, 100_000))
    for case, options in CASES.items():
        for precision in ("float32", "bfloat16"):
            if precision == "bfloat16" and options is not LAYERS:
                continue
            asked = {**options, "batch_size": 4096, "precision": precision}
            found = speed(asked, large, device, arguments.steps)
            say({"case": case, "precision": precision, **found})
    full = log(2 * arguments.items, arguments.items)
    asked = {"sampler": "catalogue", "batch_size": 1024, "history_length": 20}
    found = speed(asked, full, device, max(1, arguments.steps // 3))
    say({"case": "full softmax", "items": full.items.trained, **found})
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
