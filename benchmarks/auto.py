"""Compares "auto" numbers with fixed ones on data sets or samples of their users, paired by user.

    python benchmarks/auto.py amazon-beauty --users 1000 --seeds 3

One JSON line a model and seed in --out, the test figures of each user's held-out events; then the
differences, paired by user over the mean of the seeds. Lines that are there are not made again.
ml-100k and citeulike-a have no attention recipe, so they have no row of it; citeulike-a has no
times, and its split is random, as `shortlist init` drafts it.
Nothing is chosen here: the rules of "auto" were chosen on validation rows.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from records import ROOT, commit, cpu

from shortlist.config import Recipe, load_recipe
from shortlist.evaluation.evaluate import user_figures
from shortlist.evaluation.significance import paired_interval
from shortlist.runs.pipeline import build, load_split

LINES = ROOT / "benchmarks" / "results" / "auto.jsonl"

FIXED = {
    "ml-1m": {"dim": 128, "dropout": 0.3, "batch_size": 1024, "epochs": 20},
    "amazon-beauty": {"dim": 64, "dropout": 0.3, "batch_size": 1024, "epochs": 16},
}
"""The numbers of the attention recipes before they used "auto", with 100 steps of warm-up."""

FIXED_POOLED = {"dropout": 0.2, "batch_size": 1024, "epochs": 10, "patience": 3}
"""The numbers of pooled towers before "auto" was the default of these keys."""

NO_TIMES = {
    "data": {"interactions": "citeulike-a/interactions.parquet"},
    "split": {"kind": "random"},
    "training": {"mode": "listwise"},
}
"""The recipe of citeulike-a, without the numbers."""

FIGURES = ("hit_rate@10", "ndcg@10", "recall@200")

BESIDE = (
    ("attention, auto", "pooled, fixed"),
    ("attention, auto", "attention, fixed"),
    ("pooled, auto", "pooled, fixed"),
    ("pooled, fixed", "item-cf"),
    ("pooled, auto", "item-cf"),
)
"""Which models are compared, paired by user."""


def models(name: str) -> dict[str, Recipe]:
    """Return the recipe of each model on a set."""
    recipes = ROOT / "recipes"
    if name == "citeulike-a":
        data = Path(os.environ["SHORTLIST_DATA"])
        pooled = Recipe.from_dict(NO_TIMES, data)
        counting = Recipe.from_dict(
            {**NO_TIMES, "channels": {"item-cf": {"kind": "item-cf"}}}, data
        )
    else:
        pooled = load_recipe(recipes / f"{name}.toml")
        counting = load_recipe(recipes / "channels" / f"{name}.toml")
    pooled = changed(pooled, {"mask_known": None})  # as `shortlist init` drafts it
    item_cf = {"channels": {"item-cf": counting.channels["item-cf"]}, "blend": None}
    found = {
        "item-cf": counting.model_copy(update=item_cf),
        "pooled, fixed": changed(pooled, FIXED_POOLED),
        "pooled, auto": changed(pooled, dict.fromkeys(FIXED_POOLED)),
    }
    if name in FIXED:
        attention = load_recipe(recipes / f"{name}-attention.toml", ['training.refit="none"'])
        fixed = FIXED[name] | {"warmup": 100, "patience": 3}
        found |= {"attention, fixed": changed(attention, fixed), "attention, auto": attention}
    return found


def changed(recipe: Recipe, keys: dict[str, Any]) -> Recipe:
    """Return the recipe with other values of keys of [model] and [training].

    keys: the values by key; None: the default.
    """
    said = recipe.to_dict()
    for key, value in keys.items():
        section = said["model" if key in type(recipe.model).model_fields else "training"]
        if value is None:
            section.pop(key, None)
        else:
            section[key] = value
    return Recipe.from_dict(said, recipe.base)


def sampled(recipe: Recipe, users: int | None, folder: Path) -> Recipe:
    """Return the recipe on the log of a fixed sample of its users."""
    if users is None:
        return recipe
    path = recipe.interactions_path
    assert isinstance(path, Path)
    log = pl.read_parquet(path)
    ids = log[recipe.data.user].unique().sort()
    picked = ids[np.sort(np.random.default_rng(0).permutation(len(ids))[:users])]
    part = folder / f"{users}-{path.name}"
    log.filter(pl.col(recipe.data.user).is_in(picked.implode())).write_parquet(part)
    data = recipe.data.model_copy(update={"interactions": str(part)})
    return recipe.model_copy(update={"data": data}).based_at(recipe.base)


def run(name: str, model: str, recipe: Recipe, seed: int, users: int | None) -> dict[str, Any]:
    """Fit a model with a seed and measure it; return its line."""
    training = recipe.training.model_copy(update={"seed": seed})
    split = load_split(recipe.model_copy(update={"training": training}))
    retriever = build(recipe.model_copy(update={"training": training}))
    begun = time.process_time()
    retriever.fit(split, "train")
    seconds = time.process_time() - begun
    figures = user_figures(retriever, k=(10, 200))
    return {
        "set": name,
        "users": users,
        "model": model,
        "seed": seed,
        "commit": commit(),
        "cpu": cpu(),
        "precision": getattr(retriever, "precision", None),
        "auto": getattr(retriever, "numbers", {}),
        "epochs": len(getattr(retriever, "epochs_run", ())),
        "best_epoch": getattr(retriever, "best_epoch", None),
        "fit_cpu_seconds": round(seconds, 1),
        "metrics": {figure: round(float(figures[figure].mean()), 6) for figure in FIGURES},
        "ndcg@10 by user, in 1e-4": np.rint(figures["ndcg@10"] * 1e4).astype(int).tolist(),
    }


def table(lines: list[dict[str, Any]]) -> str:
    """Return the Markdown tables: each model, then the differences."""
    rows = ["| set | users | model | seeds | HR@10 | NDCG@10 | recall@200 | fit CPU s |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    groups: dict[tuple[str, int | None], dict[str, list[dict[str, Any]]]] = {}
    for line in lines:
        groups.setdefault((line["set"], line["users"]), {}).setdefault(line["model"], []).append(
            line
        )
    for (name, users), found in groups.items():
        for model, some in found.items():
            means = [np.mean([line["metrics"][figure] for line in some]) for figure in FIGURES]
            shown = " | ".join(f"{mean:.4f}".lstrip("0") for mean in means)
            cost = np.mean([line["fit_cpu_seconds"] for line in some])
            rows.append(
                f"| {name} | {users or 'all'} | {model} | {len(some)} | {shown} | {cost:.0f} |"
            )
    rows += ["", "| set | users | | NDCG@10, paired |", "|---|---|---|---|"]
    for (name, users), found in groups.items():
        for one, other in BESIDE:
            if one in found and other in found:
                d = paired_interval(_by_user(found[one]), _by_user(found[other]), seed=0)
                rows.append(
                    f"| {name} | {users or 'all'} | {one} − {other} | "
                    f"{d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}] |"
                )
    return "\n".join(rows)


def _by_user(lines: list[dict[str, Any]]) -> Any:
    return np.mean([line["ndcg@10 by user, in 1e-4"] for line in lines], axis=0) / 1e4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "sets",
        nargs="*",
        choices=[[], *FIXED, "ml-100k", "citeulike-a"],
        help="none: the tables alone",
    )
    parser.add_argument("--users", type=int, help="a sample; by default all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--skip", action="append", default=[], help="a model to leave out")
    parser.add_argument("--out", type=Path, default=LINES)
    arguments = parser.parse_args()
    lines = (
        [json.loads(text) for text in arguments.out.read_text().splitlines()]
        if arguments.out.exists()
        else []
    )
    commit()
    done = {(line["set"], line["users"], line["model"], line["seed"]) for line in lines}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.sets:
            for model, whole in models(name).items():
                recipe = sampled(whole, arguments.users, Path(folder))
                for seed in range(1 if model == "item-cf" else arguments.seeds):
                    key = (name, arguments.users, model, seed)
                    if key in done or model in arguments.skip:
                        continue
                    print(*key, file=sys.stderr, flush=True)
                    line = run(name, model, recipe, seed, arguments.users)
                    lines.append(line)
                    with arguments.out.open("a") as out:
                        out.write(json.dumps(line) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
