"""Quality of recipes over seeds, as a user would run them: one `shortlist train` a cell.

    python benchmarks/quality.py recipes/ml-100k.toml \
        --vary training.mode=pointwise,pairwise,listwise --vary data.tie=file,hash

Each finished cell is one JSON line in --out (recipe, overrides, seed, commit, figures, CPU seconds
and peak memory of the whole process); cells already there are not run again. Ends with a table in
Markdown: means over seeds, the lowest paired 95 % bound against popularity, the costs.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def cells(arguments: argparse.Namespace) -> Iterator[tuple[Path, tuple[str, ...], int]]:
    """Yield recipe, overrides and seed of every cell."""
    varied = []
    for text in arguments.vary:
        key, values = text.split("=", 1)
        varied.append([f"{key}={value}" for value in values.split(",")])
    for recipe, *overrides in itertools.product(arguments.recipes, *varied):
        for seed in range(arguments.seeds):
            yield recipe, tuple(overrides), seed


def run(recipe: Path, overrides: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Train one cell in a process of its own and return its figures and costs."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "shortlist.cli", "train", str(recipe)]
        command += ["--out", f"{folder}/bundle", "--json", "--quiet", "--seed", str(seed)]
        for override in overrides:
            command += ["--set", override]
        with (Path(folder) / "out.json").open("w+") as out:
            process = subprocess.Popen(command, stdout=out)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(
                    f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}"
                )
            out.seek(0)
            report = json.load(out)
    return {
        "recipe": recipe.stem,
        "overrides": list(overrides),
        "seed": seed,
        "commit": commit(),
        "users": report["users"],
        "candidate_items": report["candidate_items"],
        "metrics": {name: figure["mean"] for name, figure in report["metrics"].items()},
        "popularity": {n: f["mean"] for n, f in report["baseline"]["popularity"].items()},
        "paired_low": {n: f["low"] for n, f in report["difference"]["popularity"].items()},
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": usage.ru_maxrss // 1024,
    }


def commit() -> str:
    """Return the commit of the code that ran."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def table(lines: list[dict[str, Any]], shown: list[str]) -> str:
    """Return means over seeds as a Markdown table."""
    heads = ["recipe", "overrides", "seeds", *shown, "popularity", "paired low", "CPU s", "MB"]
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["recipe"], " ".join(line["overrides"])), []).append(line)
    for (recipe, overrides), group in groups.items():
        cells = [recipe, overrides or "as it stands", str(len(group))]
        cells += [f"{sum(g['metrics'][name] for g in group) / len(group):.4f}" for name in shown]
        cells.append(" / ".join(f"{group[0]['popularity'][name]:.4f}" for name in shown))
        cells.append(" / ".join(f"{min(g['paired_low'][n] for g in group):+.4f}" for n in shown))
        cells.append(f"{sum(g['cpu_seconds'] for g in group) / len(group):.0f}")
        cells.append(str(max(g["peak_mb"] for g in group)))
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--vary", action="append", default=[], help="section.key=value,value,...")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--show", default="hit_rate@10,ndcg@10", help="figures of the table")
    parser.add_argument("--out", type=Path, default=Path("runs/quality.jsonl"))
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    done = (
        [json.loads(text) for text in arguments.out.read_text().splitlines()]
        if arguments.out.exists()
        else []
    )
    chosen = []
    for recipe, overrides, seed in cells(arguments):
        key = (recipe.stem, list(overrides), seed)
        found = next((d for d in done if (d["recipe"], d["overrides"], d["seed"]) == key), None)
        if found is None:
            found = run(recipe, overrides, seed)
            with arguments.out.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(json.dumps(found), flush=True)
        chosen.append(found)
    print(table(chosen, arguments.show.split(",")))


if __name__ == "__main__":
    main()
