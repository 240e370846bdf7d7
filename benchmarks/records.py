"""Measures every recipe and every channel on every data set, and keeps one JSON line per cell.

    python benchmarks/records.py              # all cells that are not there yet, cheap ones first
    python benchmarks/records.py --cheap      # without those that take more than three CPU minutes
    python benchmarks/records.py --list       # which cells there are, and which have been made
    python benchmarks/figures.py              # docs/figures.md, from the lines

A cell is a recipe's towers with one seed, or one channel of recipes/channels/*.toml. Its line is
made again when the recipe has changed. A training that was killed continues from its checkpoint.
The test rows are read once per line, and no option is chosen on them. Run it with
OMP_NUM_THREADS=1, so that CPU seconds are those of one core.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from shortlist.asking.capabilities import Channel
from shortlist.asking.queries import Queries
from shortlist.channels.learned.base import Learner
from shortlist.config import Recipe, load_recipe
from shortlist.evaluation.evaluate import evaluate
from shortlist.runs.pipeline import build, load_split
from shortlist.training.checkpoint import Checkpoints

ROOT = Path(__file__).parents[1]
LINES = ROOT / "benchmarks" / "results" / "records.jsonl"

PROTOCOLS = {
    "ml-1m": "leave-last-out, 3,416 items, each user's last event (Kang & McAuley 2018)",
    "amazon-beauty-s3rec": "leave-last-out, 5-core, as S3-Rec cuts it (Zhou et al. 2020)",
    "gowalla-lightgcn": "train and test as LightGCN cuts them (He et al. 2020); no time",
    "ml-100k": "leave-last-out, every rating a positive, ties in the order of the file",
}
"""How each set is cut, by the folder of its log."""

DEAR = {
    ("ml-1m-attention", "towers"): 30,
    ("amazon-beauty-attention", "towers"): 16,
    ("amazon-beauty-attention", "towers, ids alone"): 8,
    ("amazon-beauty", "towers"): 4,
    ("gowalla-lightgcn", "towers"): 16,
    ("gowalla", "ease"): 30,
    ("gowalla", "graph-filter"): 5,
    ("gowalla-filters", "bspm"): 5,
    ("gowalla-filters", "chebyshev"): 6,
    ("gowalla-filters", "chebyshev-chosen"): 5,
    ("ml-1m", "towers"): 8,
    ("ml-1m-attention", "towers, 2 epochs"): 4,
    ("ml-1m-attention", "towers, 2 epochs, hstu"): 4,
}
"""Approximate CPU minutes of the cells that take more than three."""

SHORT = ["training.epochs=2", "training.validate_every=2"]
"""Two epochs: enough to compare blocks of a history, but not to reach their best figures."""

VARIANTS = {
    ("amazon-beauty-attention", "towers, ids alone"): ["features.items={}", "training.refit=none"],
    ("ml-1m-attention", "towers, 2 epochs"): SHORT,
    ("ml-1m-attention", "towers, 2 epochs, hstu"): [*SHORT, "model.history=hstu"],
    ("ml-100k", "towers, pairwise"): ["training.mode=pairwise"],
    ("ml-100k", "towers, pointwise"): ["training.mode=pointwise"],
}
"""Further rows beside "towers": the same recipe with other values of some keys."""

SEEDS = 3
DEPTHS = (10, 20, 100, 200)
ASKED = 2_000
"""Number of users that are asked once more to measure the time of a query."""


@dataclass(frozen=True)
class Cell:
    """One line to measure: the towers of a recipe with a seed, or one of its channels.

    row: "towers", a row of VARIANTS, or the name of the channel.
    digest: hash of the keys of the recipe that decide the figures.
    """

    path: Path
    row: str
    seed: int
    recipe: Recipe
    digest: str

    @property
    def minutes(self) -> int:
        """Approximate CPU minutes; 0 for at most three."""
        return DEAR.get((self.path.stem, self.row), 0)

    @property
    def place(self) -> str:
        """The name of the folder its checkpoints lie in."""
        return f"{self.path.stem}-{self.row.replace(', ', '-')}-{self.seed}"

    @property
    def key(self) -> tuple[str, str, int, str]:
        """The values by which its line is found."""
        return self.path.stem, self.row, self.seed, self.digest


def cells(seeds: int = SEEDS) -> list[Cell]:
    """Return every cell, the cheap ones first."""
    found = []
    for path in sorted((ROOT / "recipes").glob("**/*.toml")):
        recipe = load_recipe(path)
        if _set_of(recipe) not in PROTOCOLS:
            continue
        if recipe.channels:
            found += [_channel_cell(path, recipe, name) for name in recipe.channels]
        else:
            rows = {"towers": recipe}
            for (stem, row), overrides in VARIANTS.items():
                if stem == path.stem:
                    rows[row] = load_recipe(path, overrides)
            for row, one in rows.items():
                found += [_tower_cell(path, row, one, seed) for seed in range(seeds)]
    return sorted(found, key=lambda cell: cell.minutes)


def _set_of(recipe: Recipe) -> str:
    return Path(str(recipe.data.interactions)).parent.name


def _tower_cell(path: Path, row: str, recipe: Recipe, seed: int) -> Cell:
    training = recipe.training.model_copy(update={"seed": seed})
    one = recipe.model_copy(update={"training": training})
    return Cell(path, row, seed, one, _digest(one))


def _channel_cell(path: Path, recipe: Recipe, name: str) -> Cell:
    one = recipe.model_copy(update={"channels": {name: recipe.channels[name]}, "blend": None})
    return Cell(path, name, 0, one, _digest(one))


def _digest(recipe: Recipe) -> str:
    """Return a hash of the recipe without the seed and without [evaluation].

    The seed is part of the cell's key, and [evaluation] changes only which figures are shown. A
    value is left out if it was the default when the first lines were made.
    """
    said = recipe.model_dump(
        mode="json", exclude_defaults=True, exclude={"evaluation": True, "training": {"seed"}}
    )
    if recipe.has_towers:
        for name, section in (("model", recipe.model), ("training", recipe.training)):
            for key, number in section.without_log.items():
                said.setdefault(name, {})[key] = value = getattr(section, key)
                if value == number:
                    del said[name][key]
            if not said[name]:
                del said[name]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def made(lines: Path = LINES) -> list[dict[str, Any]]:
    """Return the lines that are there."""
    if not lines.exists():
        return []
    return [json.loads(text) for text in lines.read_text(encoding="utf-8").splitlines()]


def missing(wanted: Sequence[Cell], lines: Sequence[dict[str, Any]]) -> list[Cell]:
    """Return the cells that have no line, or one of another recipe."""
    known = {(line["recipe"], line["row"], line["seed"], line["digest"]) for line in lines}
    return [cell for cell in wanted if cell.key not in known]


def run(cell: Cell, saved: Path) -> Iterator[dict[str, Any]]:
    """Fit and measure a cell, and yield its line.

    Towers whose recipe trains again (training.refit) yield a line for each of the two fits.
    saved: folder of the checkpoints, from which a killed training continues.
    """
    split = load_split(cell.recipe)
    retriever = build(cell.recipe)
    kept: dict[str, Any] = {}
    if isinstance(retriever, Learner):
        kept = {"checkpoints": Checkpoints(saved / cell.place)}
    begun = time.process_time()
    refit = cell.recipe.training.refit
    if isinstance(retriever, Learner) or refit == "none":
        retriever.fit(split, "train", **kept)
        seconds = time.process_time() - begun
        yield _line(cell, retriever, "train", seconds)
    begun = time.process_time()
    if refit != "none":
        fit = retriever.refit if isinstance(retriever, Learner) else retriever.fit
        fit(split, refit, **kept)
        yield _line(cell, retriever, refit, time.process_time() - begun)


def _line(cell: Cell, retriever: Channel, fit: str, seconds: float) -> dict[str, Any]:
    """Measure a fitted retriever. seconds: CPU seconds of this fit, without an earlier one."""
    towers = isinstance(retriever, Learner)
    begun = time.process_time()
    report = evaluate(retriever, k=DEPTHS, ladder=towers and fit == "train").to_dict()
    evaluated = time.process_time() - begun
    line = {
        "set": _set_of(cell.recipe),
        "recipe": cell.path.stem,
        "row": cell.row,
        "seed": cell.seed,
        "digest": cell.digest,
        "fit": fit,
        "commit": commit(),
        "cpu": cpu(),
        "precision": retriever.precision if isinstance(retriever, Learner) else None,
        "users": report["users"],
        "items": report["candidate_items"],
        "metrics": _means(report["metrics"]),
        "low_high": {
            name: [end if end is None else round(end, 6) for end in (figure["low"], figure["high"])]
            for name, figure in report["metrics"].items()
            if name.split("@")[0] in ("recall", "ndcg")
        },
        "popularity": _means(report["baseline"]["popularity"]),
        "fit_cpu_seconds": round(seconds, 2),
        "query_cpu_microseconds": round(query_seconds(retriever) * 1e6, 1),
        "evaluation_cpu_seconds": round(evaluated, 2),
    }
    if report["ladder"]:
        line["ladder"] = report["ladder"]
    if isinstance(retriever, Learner):
        line["auto"] = retriever.numbers
        line["epochs"] = {"run": len(retriever.epochs_run), "best": retriever.best_epoch}
    return line


def _means(figures: dict[str, Any]) -> dict[str, float]:
    return {name: round(figure["mean"], 6) for name, figure in figures.items()}


def query_seconds(retriever: Channel) -> float:
    """Return CPU seconds per query when many are answered together, with 200 items each."""
    users = retriever.data.targets("test")[0][:ASKED]
    queries = Queries(retriever.data.users.external(users), before="test")
    retriever.recommend(queries, max(DEPTHS))  # the first answers also compile loops
    begun = time.process_time()
    retriever.recommend(queries, max(DEPTHS))
    return (time.process_time() - begun) / max(len(users), 1)


@cache
def commit() -> str:
    """Return the revision at the start of this process, with "-dirty" if files have changed."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        return found.stdout.strip()

    dirty = git("status", "--porcelain", "--", "src", "recipes", "benchmarks/*.py")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("-dirty" if dirty else "")


def cpu() -> str:
    """Return the name of the processor, as the system tells it."""
    try:
        told = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        told = None
    return told[1].strip() if told else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--cheap", action="store_true", help="leave out cells of more than three CPU minutes"
    )
    parser.add_argument("--only", default="*", help="RECIPE/ROW, with * and ?")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of seeds of towers")
    parser.add_argument("--list", action="store_true", help="list the cells, and measure nothing")
    parser.add_argument("--out", type=Path, default=LINES)
    parser.add_argument("--checkpoints", type=Path, default=Path("runs/records"))
    arguments = parser.parse_args()
    wanted = [
        cell
        for cell in cells(arguments.seeds)
        if fnmatch(f"{cell.path.stem}/{cell.row}", arguments.only)
        and not (arguments.cheap and cell.minutes)
    ]
    left = missing(wanted, made(arguments.out))
    if arguments.list:
        for cell in wanted:
            state = "missing" if cell in left else "made"
            cost = f"about {cell.minutes} CPU minutes" if cell.minutes else "minutes"
            print(f"{state:8} {cell.path.stem}/{cell.row} seed {cell.seed} ({cost})")
        return
    if "SHORTLIST_DATA" not in os.environ:
        sys.exit("SHORTLIST_DATA must name the folder that holds the data sets.")
    commit()
    for cell in left:
        print(f"{cell.path.stem}/{cell.row}, seed {cell.seed}", file=sys.stderr, flush=True)
        lines = list(run(cell, arguments.checkpoints))
        with arguments.out.open("a", encoding="utf-8") as out:
            out.writelines(json.dumps(line) + "\n" for line in lines)
        shutil.rmtree(arguments.checkpoints / cell.place, ignore_errors=True)


if __name__ == "__main__":
    main()
