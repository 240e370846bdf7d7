"""Measures what `training.mask_known` costs a training step: CPU time with it beside without it.

    OMP_NUM_THREADS=1 python benchmarks/mask_speed.py ml-1m ml-1m/catalogue gowalla-lightgcn

Both trainings run in one process and take turns of ten steps. Figures are means over --rounds
turns, after five steps each that are not counted. SHORTLIST_DATA names the folder of the data.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from auto import sampled
from records import ROOT

from shortlist.config import Recipe, load_recipe
from shortlist.data.dataset import Split
from shortlist.runs.pipeline import build, load_split
from shortlist.training.trainer import Step

NEGATIVES = {
    "uniform": ('sampler="uniform"', "negatives=1024", "shared=true"),
    "popularity": ('sampler="popularity"', "negatives=1024", "shared=true"),
    "streaming": ('sampler="in_batch_streaming"',),
    "in-batch": ('sampler="in_batch"',),
    "rows": ('sampler="uniform"', "negatives=10", "shared=false"),
    "catalogue": ('sampler="catalogue"',),
    "bce": ('mode="pointwise"', 'loss="bce"', 'sampler="in_batch"'),
    "hard": ('hard="semi_hard"',),
    "sessions": ('positives="i2i"', "session_gap=1000"),
}
"""Keys of [training] that change a recipe; 1,000 positions are all of a user's in ml-1m."""


def recipe_of(case: str) -> Recipe:
    """Return the recipe of a case: the name of a recipe, and perhaps a key of NEGATIVES."""
    name, _, way = case.partition("/")
    changes = [f"training.{change}" for change in NEGATIVES.get(way, ())]
    return load_recipe(ROOT / "recipes" / f"{name}.toml", ['training.refit="none"', *changes])


def steps_of(recipe: Recipe, split: Split, *, masked: bool) -> Iterator[Step]:
    """Yield the steps of a training, epoch after epoch."""
    training = recipe.training.model_copy(update={"mask_known": masked})
    retriever = build(recipe.model_copy(update={"training": training}))
    data = split.training_data("train")
    retriever._settle_once(data)
    retriever.set_data(data)
    trainer = retriever._trainer(data)
    while True:
        yield from trainer.epoch()


def measure(case: str, rounds: int, users: int | None) -> dict[bool, float]:
    """Return the CPU ms a step with the mask (True) and without it (False)."""
    recipe = recipe_of(case)
    with tempfile.TemporaryDirectory() as folder:
        split = load_split(sampled(recipe, users, Path(folder)))
    running = {masked: steps_of(recipe, split, masked=masked) for masked in (False, True)}
    found: dict[bool, list[float]] = {False: [], True: []}
    for steps in running.values():
        list(islice(steps, 5))
    for turn in range(rounds):
        for masked in (False, True) if turn % 2 else (True, False):
            begun = time.process_time()
            list(islice(running[masked], 10))
            found[masked].append(100 * (time.process_time() - begun))
    return {masked: statistics.mean(times) for masked, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="+", help="recipe, or recipe/way of drawing negatives")
    parser.add_argument("--rounds", type=int, default=10, help="turns of ten steps")
    parser.add_argument("--users", type=int, help="train on a sample of so many users")
    arguments = parser.parse_args()
    print("| case | without, ms | with, ms | ratio |\n|---|---:|---:|---:|")
    for case in arguments.cases:
        found = measure(case, arguments.rounds, arguments.users)
        line = f"| {case} | {found[False]:.1f} | {found[True]:.1f} |"
        print(f"{line} {found[True] / found[False]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
