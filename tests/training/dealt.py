"""What ranks train whose tables of items are dealt over them. Run as a program it is one of them.

FOLDER RANK SIZE CASE [CASE ...].
"""

import json
import sys
from pathlib import Path

import torch

from shortlist.towers.features import ItemTable
from shortlist.training.checkpoint import Checkpoints
from training import several

STEPS = 20
CASES = {
    "pooled": {"sampler": "mixed", "negatives": 30, "user_id": True, "user_layers": [8]},
    "two tables": {"history": "attention", "shared_items": False, "item_layers": [8]},
    "catalogue": {"sampler": "catalogue", "history_windows": True, "learn_temperature": True},
    "own pools": {"mode": "pairwise", "similarity": "dot", "biases": True},
}
"""Options of a training, by what they are about."""

RECIPE = several.RECIPE.replace("[training]", '[training]\noptimizer = "sharded"')


def sums_of(trainer):
    """The sums of squares of the tables of items, as weights that are compared, too."""
    names = ("model.query.table.weight.sums", "model.item.id.weight.sums")
    if trainer._optimizer.dealt is None:
        memory = trainer._optimizer.memory(trainer._names())
        return {f"sums.{n}": memory[name] for n, name in enumerate(names) if name in memory}
    sums = trainer._optimizer.dealt.sums()
    return {f"sums.{n}": one for n, one in enumerate(sums, len(names) - len(sums))}


def trained(options):
    """What `told` says of this rank; on the first with whole tables."""
    retriever = several.begun({**options, "optimizer": "sharded"})
    tables = [part for part in retriever.towers.modules() if isinstance(part, ItemTable)]
    rows = [[len(table.weight) for table in tables]]
    trainer = retriever._trainer(several.rows_of(options))
    with several.nothing_hidden():
        found = several.told(retriever, trainer, steps=STEPS, kept_besides=sums_of)
    held = [len(own) for own, _ in trainer._optimizer.dealt._parts]
    trainer._optimizer.gather()
    weights = {name: value.clone() for name, value in retriever.towers.state_dict().items()}
    next(trainer.epoch())  # drops what was gathered
    rows.append([len(table.weight) for table in tables])
    weights = found["weights"] | weights
    return {**found, "weights": weights, "held": torch.tensor(held), "rows": torch.tensor(rows)}


def resumed(folder):
    """The digests of a training unbroken, and put down twice in between."""
    options = {"batch_size": 256, "optimizer": "sharded", "dropout": 0.2, "history_dropout": 0.2}
    unbroken = several.digest(several.built(options).fit(several.split()))
    saved = Checkpoints(f"{folder}/saved", every=0)
    for step in (2, 4):
        with several._killed_at(step):
            several.built(options).fit(several.split(), checkpoints=saved)
    again = several.built(options).fit(several.split(), checkpoints=saved)
    finished = several.built(options).fit(several.split(), checkpoints=saved)
    return [unbroken, several.digest(again), several.digest(finished)]


def main(folder, rank, size, cases):
    with several.met(folder, rank, size) as ranks:
        for number, options in enumerate(cases):
            torch.save(trained(options), f"{folder}/{number}.{rank}.pt")
        said = {"resumed": resumed(folder), "printed": several.command(folder, ranks)}
        Path(f"{folder}/told.{rank}").write_text(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
