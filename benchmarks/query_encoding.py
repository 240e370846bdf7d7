"""CPU time of encoding few queries: eager torch against ONNX Runtime, alternated in one process.

    python benchmarks/query_encoding.py [--dim 64] [--rounds 15]

On a planted world of 2,000 users and 5,000 items, histories of up to 50, one hidden layer of 128,
one thread. Prints microseconds a block for blocks of several sizes.
"""

import argparse
import statistics
import time

import torch

from shortlist.asking.queries import Queries
from shortlist.asking.rows import row_blocks
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Feature, Schema
from shortlist.data.synthetic import planted_world
from shortlist.serving.onnx_encoder import OnnxEncoder

SCHEMA = Schema(
    time="timestamp",
    user_features=(Feature("region", "categorical"), Feature("age", "numeric")),
    item_features=(Feature("tags", "multi-valued"), Feature("price", "numeric")),
)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--dim", type=int, default=64)
    arguments.add_argument("--rounds", type=int, default=15)
    asked = arguments.parse_args()
    torch.set_num_threads(1)
    world = planted_world(users=2_000, items=5_000, events=60_000, seed=3)
    split = Dataset.load(
        world.interactions, users=world.users, items=world.items, schema=SCHEMA
    ).split("leave-last-out")
    model = TwoTower(dim=asked.dim, epochs=1, batch_size=512, seed=1, user_layers=[128]).fit(split)
    encoder = OnnxEncoder(model)
    users = model.data.users.ids.to_list()
    print("| queries | torch, µs | ONNX Runtime, µs | ratio |\n|---|---|---|---|")
    with torch.inference_mode():
        for size in (1, 4, 16, 64):
            blocks = [
                next(row_blocks(Queries(users=users[at : at + size]), model.data))
                for at in range(0, 200 + size, size)
            ][: 200 if size == 1 else 30]
            spent = {name: [] for name in ("torch", "onnx")}
            for _ in range(asked.rounds):
                for name, encode in (("torch", model.encode_block), ("onnx", encoder)):
                    start = time.process_time()
                    for block in blocks:
                        encode(block)
                    spent[name].append((time.process_time() - start) / len(blocks) * 1e6)
            eager, graph = (statistics.median(spent[name]) for name in ("torch", "onnx"))
            print(f"| {size} | {eager:.0f} | {graph:.0f} | {eager / graph:.1f} |")


if __name__ == "__main__":
    main()
