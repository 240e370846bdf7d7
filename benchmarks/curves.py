"""How does each recipe's validation figure grow with CPU time?

    python benchmarks/curves.py recipes/*.toml --seeds 3 --plot docs/images/curves.png

One JSON line a recipe and seed in --out: the curve, the test figures of the kept epoch, CPU seconds
and peak memory. A line that is there is not made again; --plot draws all of them. Where a recipe
refits on train and validation rows, the figures before and after stand beside each other.
"""

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shortlist.config import load_recipe
from shortlist.runs.pipeline import build, load_split, measure
from shortlist.sections.base import is_auto
from shortlist.training.checkpoint import Checkpoints

LINES = ("-", "--", ":", "-.")


class Recorder:
    """A Progress that records each figure with the CPU seconds of the process."""

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []
        self._begun = time.process_time()

    def stage(self, what: str) -> None:
        """Nothing to keep."""

    def start(self, epoch: int, epochs: int, positives: int) -> None:
        """Nothing to keep."""

    def advance(self, positives: int) -> None:
        """Nothing to keep."""

    def report(self, epoch: int, loss: float, monitor: str, score: float, skipped: int = 0) -> None:
        """Keep the figure, and say it."""
        seconds = round(time.process_time() - self._begun, 1)
        point = {"epoch": epoch, "cpu_seconds": seconds, "loss": loss, "score": score}
        self.points.append(point | ({"skipped": skipped} if skipped else {}))
        print(f"  epoch {epoch:3d}  {seconds:7.0f} s  {monitor} {score:.4f}", file=sys.stderr)


def run(path: Path, seed: int, most: int | None, saved: Path | None) -> dict[str, Any]:
    """Train a recipe with a seed, for at most so many epochs; return its curve and figures.

    saved: a folder for checkpoints, from which a run that was killed goes on; the seconds and the
    points are then those since it went on.
    """
    recipe = load_recipe(path)
    said = recipe.training.epochs
    epochs = said if most is None else most if is_auto(said) else min(said, most)
    wanted = {"seed": seed, "epochs": epochs}
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update=wanted)})
    split = load_split(recipe)
    recorder = Recorder()
    begun = time.process_time()
    retriever = build(recipe)
    kept = {} if saved is None else {"checkpoints": Checkpoints(saved / f"{path.stem}-{seed}")}
    retriever.fit(split, progress=recorder, **kept)
    line = {
        "recipe": path.stem,
        "data": recipe.interactions_path.parent.name,
        "seed": seed,
        "epochs": getattr(retriever, "numbers", {}).get("epochs", epochs),
        "commit": commit(),
        "precision": getattr(retriever, "precision", None),
        "monitor": recipe.training.monitor,
        "points": recorder.points,
        "metrics": means(measure(retriever, recipe)),
        "cpu_seconds": round(time.process_time() - begun, 1),
    }
    if recipe.training.refit == "train+validation":
        retriever.refit(split, "train+validation")
        line["refitted"] = means(measure(retriever, recipe))
        line["refitted_cpu_seconds"] = round(time.process_time() - begun, 1)
    line["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return line


def means(report: Any) -> dict[str, float]:
    return {name: figure["mean"] for name, figure in report.to_dict()["metrics"].items()}


def commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def plot(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw validation figures over CPU minutes: one panel per data set and monitored metric."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    drawn_lines = [line for line in lines if line["points"]]
    wanted = sorted({(line["data"], line["monitor"]) for line in drawn_lines})
    down = math.ceil(len(wanted) / 2)
    figure = Figure(figsize=(12, 4 * down), layout="constrained")
    panels = figure.subplots(down, 2, squeeze=False).flatten()
    for axes in panels[len(wanted) :]:
        axes.remove()
    for axes, (data, monitor) in zip(panels, wanted, strict=False):
        shown: dict[str, dict[str, Any]] = {}
        for line in drawn_lines:
            if (line["data"], line["monitor"]) != (data, monitor):
                continue
            minutes = [point["cpu_seconds"] / 60 for point in line["points"]]
            scores = [point["score"] for point in line["points"]]
            name = line["recipe"]
            if name not in shown:  # ten colours, then the same ten dashed
                shown[name] = {"color": f"C{len(shown) % 10}", "ls": LINES[len(shown) // 10 % 4]}
                shown[name]["label"] = name
            axes.plot(minutes, scores, linewidth=1.2, **shown[name])
            shown[name]["label"] = None  # one entry a recipe, however many seeds
        axes.set_xlabel("CPU minutes, validation included")
        axes.set_ylabel(f"{monitor} on the validation rows")
        axes.set_title(data)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="at most so many, whatever the recipe says")
    parser.add_argument("--checkpoints", type=Path, help="Go on from here after a kill.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/curves.jsonl"))
    parser.add_argument("--plot", type=Path, help="draw all lines of --out into this picture")
    arguments = parser.parse_args()
    lines = (
        [json.loads(x) for x in arguments.out.read_text().splitlines()]
        if (arguments.out.exists())
        else []
    )
    done = {(line["recipe"], line["seed"]) for line in lines}
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for path in arguments.recipes:
            if (path.stem, seed) in done:
                continue
            print(f"{path.stem}, seed {seed}", file=sys.stderr)
            line = run(path, seed, arguments.epochs, arguments.checkpoints)
            if arguments.checkpoints:
                shutil.rmtree(arguments.checkpoints / f"{path.stem}-{seed}")
            lines.append(line)
            with arguments.out.open("a") as out:
                out.write(json.dumps(line) + "\n")
    if arguments.plot:
        plot(lines, arguments.plot)
    for line in lines:
        figures = "  ".join(f"{name} {value:.4f}" for name, value in line["metrics"].items())
        print(f"{line['recipe']:24} seed {line['seed']}  {line['cpu_seconds']:7.0f} s  {figures}")


if __name__ == "__main__":
    main()
