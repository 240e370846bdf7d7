"""Quality of recipes over seeds, as a user would run them: one `shortlist train` a cell.

    python benchmarks/quality.py recipes/ml-100k.toml \
        --vary training.mode=pointwise,pairwise,listwise --vary data.tie=file,hash

    python benchmarks/quality.py recipes/ml-1m.toml --rows benchmarks/ablation.toml

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
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """One training: a recipe, the name of its row, the overrides that make it, and a seed."""

    recipe: Path
    row: str
    overrides: tuple[str, ...]
    seed: int

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from other cells in the file of results."""
        return (self.recipe.stem, list(self.overrides), self.seed)


def cells(arguments: argparse.Namespace) -> Iterator[Cell]:
    """Yield every cell, all rows of a seed before the next seed."""
    rows: dict[str, Any] = {"": []}
    common: dict[str, list[str]] = {}
    skip: dict[str, list[str]] = {}
    once: list[str] = []
    if arguments.rows:
        content = tomllib.loads(arguments.rows.read_text())
        rows, common = content["rows"], content.get("common", {})
        skip, once = content.get("skip", {}), content.get("once", [])
    varied = []
    for text in arguments.vary:
        key, values = text.split("=", 1)
        varied.append([f"{key}={value}" for value in values.split(",")])
    for seed, recipe, (name, own) in itertools.product(
        range(arguments.seeds), arguments.recipes, rows.items()
    ):
        if name in skip.get(recipe.stem, ()) or (seed and name in once):
            continue
        if isinstance(own, dict):  # overrides of this recipe's own
            if recipe.stem not in own:
                continue
            own = own[recipe.stem]  # noqa: PLW2901
        for more in itertools.product(*varied):
            row = " ".join([name, *more]).strip() or "as it stands"
            yield Cell(recipe, row, (*common.get(recipe.stem, []), *own, *more), seed)


def run(cell: Cell) -> dict[str, Any]:
    """Train one cell in a process of its own and return its figures and costs."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "shortlist.cli", "train", str(cell.recipe)]
        command += ["--out", f"{folder}/bundle", "--json", "--quiet", "--seed", str(cell.seed)]
        for override in cell.overrides:
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
        "recipe": cell.recipe.stem,
        "row": cell.row,
        "overrides": list(cell.overrides),
        "seed": cell.seed,
        "commit": commit(),
        "precision": {n: c["precision"] for n, c in report["channels"].items()},
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
    """Return means over seeds, ± the half-width of their range, as a Markdown table."""
    heads = ["recipe", "row", "seeds", *shown, "popularity", "paired low", "CPU s", "MB"]
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["recipe"], line["row"]), []).append(line)
    for (recipe, row), group in groups.items():
        cells = [recipe, row, str(len(group))]
        there = [name for name in shown if name in group[0]["metrics"]]
        cells += [_seeds([g["metrics"][n] for g in group]) if n in there else "" for n in shown]
        cells.append(" / ".join(f"{group[0]['popularity'][name]:.4f}" for name in there))
        cells.append(" / ".join(f"{min(g['paired_low'][n] for g in group):+.4f}" for n in there))
        cells.append(f"{sum(g['cpu_seconds'] for g in group) / len(group):.0f}")
        cells.append(str(max(g["peak_mb"] for g in group)))
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _seeds(values: list[float]) -> str:
    """Return the mean over seeds and half the range of the seeds."""
    spread = (max(values) - min(values)) / 2
    return f"{sum(values) / len(values):.4f}" + (f" ± {spread:.4f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--vary", action="append", default=[], help="section.key=value,value,...")
    parser.add_argument("--rows", type=Path, help="a TOML file of named rows of overrides")
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
    for cell in cells(arguments):
        found = next(
            (d for d in done if (d["recipe"], d["overrides"], d["seed"]) == cell.key), None
        )
        if found is None:
            found = run(cell)
            with arguments.out.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(json.dumps(found), flush=True)
        chosen.append(found)
    print(table(chosen, arguments.show.split(",")))


if __name__ == "__main__":
    main()
