"""Measures every channel of the recipes, and blends of them, in one table for all data sets.

    python benchmarks/channels.py recipes/channels/*.toml

Each channel is fitted and measured on its own, then three ways of merging are measured beside the
best single one, the difference paired by user: planned quotas, equal quotas, reciprocal ranks, and
calibrated chances. One JSON line a channel or blend in --out; lines that are there are not made
again. --skip leaves channels out (EASE on Gowalla takes 7 GB and half an hour). --alone merges
nothing: each channel is compared with the first of its recipe, paired by user.
"""

import argparse
import json
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from shortlist.blending.blend import Blend
from shortlist.blending.planning import plan
from shortlist.config import load_recipe
from shortlist.evaluation.evaluate import user_figures
from shortlist.evaluation.significance import paired_interval
from shortlist.runs.pipeline import build, load_split

WAYS: dict[str, dict[str, Any]] = {
    "planned quotas": {"method": "quotas"},
    "equal quotas": {"method": "quotas"},
    "reciprocal ranks": {"method": "reciprocal-rank"},
    "calibrated": {"method": "calibrated"},
}


def commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def measure_channels(
    path: Path, skip: list[str], out: Path, lines: list[dict[str, Any]], *, alone: bool = False
) -> None:
    recipe = load_recipe(path)
    split = load_split(recipe)
    blend = build(recipe)
    fallback = blend.options.fallback
    ks = recipe.evaluation.k
    refit = recipe.training.refit
    planning = {n: c for n, c in blend.channels.items() if n not in skip and n not in fallback}
    done = {(line["recipe"], line["row"]) for line in lines}
    if all((path.stem, row) in done for row in (*planning, *(() if alone else WAYS))):
        return

    costs, figures = {}, {}
    fitted = {n: c for n, c in blend.channels.items() if n not in skip}
    for name, channel in fitted.items():
        start = time.process_time()
        channel.fit(split, "train" if not alone or refit == "none" else refit)
        costs[name] = time.process_time() - start
        print(path.stem, name, f"fitted in {costs[name]:.1f} CPU s", flush=True)
    if not alone:
        three = best_three(planning, recipe.blend.size or 100)
        found = plan(three, recipe.blend.size or 100)
        chances = Blend(three, method="calibrated")
        chances._adopt()  # fitted already
        chances._learn()
    if not alone and refit != "none":
        for channel in fitted.values():
            channel.refit(split, refit)
    for name, channel in fitted.items():
        start = time.process_time()
        figures[name] = user_figures(channel, k=ks)
        seconds = time.process_time() - start
        users = len(next(iter(figures[name].values())))
        first = next(iter(figures))
        extra = (
            {"best": first, "difference": differences(figures[name], figures[first])}
            if alone and name != first
            else None
        )
        add(out, lines, path, name, figures[name], costs[name], users / seconds, extra)
    if alone:
        return
    best = max(planning, key=lambda name: figures[name][f"recall@{max(ks)}"].mean())
    for way, options in WAYS.items():
        made = dict(options)
        if way == "planned quotas":
            made["quotas"] = dict(found.quotas)
        if way == "equal quotas":
            made["quotas"] = dict.fromkeys(three, 1)
        merged = Blend(three, **made)
        merged.chances = chances.chances
        merged._adopt()
        start = time.process_time()
        own = user_figures(merged, k=ks)
        seconds = time.process_time() - start
        against = differences(own, figures[best])
        extra = {"channels": list(three), "best": best, "difference": against}
        if way == "planned quotas":
            extra["plan"] = found.to_dict()
        add(out, lines, path, way, own, 0.0, len(own["recall@100"]) / seconds, extra)


def differences(own: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return the mean difference of two models by metric, paired by user, with 95 % intervals."""
    return {
        name: paired_interval(own[name], other[name], seed=0)._asdict()
        for name in own
        if name.startswith(("recall", "ndcg"))
    }


def best_three(channels: dict[str, Any], size: int) -> dict[str, Any]:
    """Return the three channels with most slots in the plan over all, the best single one first."""
    found = plan(channels, size)
    order = sorted(channels, key=lambda n: (found.quotas[n], found.alone[n]), reverse=True)
    return {name: channels[name] for name in order[:3]}


def add(
    out: Path,
    lines: list[dict[str, Any]],
    path: Path,
    row: str,
    figures: dict[str, Any],
    fit_seconds: float,
    users_per_second: float,
    extra: dict[str, Any] | None = None,
) -> None:
    line = {
        "recipe": path.stem,
        "row": row,
        "seed": 0,
        "commit": commit(),
        "metrics": {name: float(np.mean(values)) for name, values in figures.items()},
        "fit_cpu_seconds": round(fit_seconds, 2),
        "users_per_cpu_second": round(users_per_second),
        "process_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **(extra or {}),
    }
    with out.open("a") as file:
        file.write(json.dumps(line) + "\n")
    lines.append(line)
    print(json.dumps(line), flush=True)


def table(lines: list[dict[str, Any]]) -> str:
    """Return the Markdown table: accuracy, cost, and for blends the difference to the best."""
    heads = ["data", "channel", "HR@10 / NDCG@10", "Recall@20 / NDCG@20", "Recall@100", "fit CPU s"]
    heads += ["users/s", "recall@100 beside the best single one"]
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for line in lines:
        metrics = line["metrics"]
        pairs = [("hit_rate@10", "ndcg@10"), ("recall@20", "ndcg@20")]
        cells = [
            " / ".join(f"{metrics[name]:.4f}" for name in pair) if pair[0] in metrics else ""
            for pair in pairs
        ]
        beside = ""
        if "difference" in line:
            d = line["difference"]["recall@100"]
            beside = f"{d['mean']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}] ({line['best']})"
        rows.append(
            f"| {line['recipe']} | {line['row']} | {cells[0]} | {cells[1]} | "
            f"{metrics['recall@100']:.4f} | {line['fit_cpu_seconds']:.1f} | "
            f"{line['users_per_cpu_second']:,} | {beside} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--skip", action="append", default=[], help="a channel to leave out")
    parser.add_argument("--alone", action="store_true", help="merge nothing")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/channels.jsonl"))
    arguments = parser.parse_args()
    lines = (
        [json.loads(text) for text in arguments.out.read_text().splitlines()]
        if arguments.out.exists()
        else []
    )
    for path in arguments.recipes:
        measure_channels(path, arguments.skip, arguments.out, lines, alone=arguments.alone)
    wanted = {path.stem for path in arguments.recipes}
    print(table([line for line in lines if line["recipe"] in wanted]))


if __name__ == "__main__":
    main()
