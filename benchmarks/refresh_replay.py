"""What does a model that follows the day gain, and what does it cost, beside refitting and resting?

A stream is replayed day by day. Each day every model is asked for the day's events before it has
seen them, as a service asks: the users' events since its log come with the question, as `recent`.
Then the day's events are learned: by nobody ("rest"), by `refresh` once a day or several times a
day, or by a new training in the night ("refit", refit = "all", as `shortlist train` does it).
Recall@20 is the mean over users and days, also of the events of old items alone: those of the
first training. CPU seconds are of one core, of learning alone. Nothing is refused: the guard
judges and is counted, but `least_users` of a real service would let small days wait.

    python benchmarks/refresh_replay.py planted
    SHORTLIST_DATA=FOLDER python benchmarks/refresh_replay.py ml-100k --days 30
    python benchmarks/refresh_replay.py bounded --refreshes 200
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import Bundle, load
from shortlist.evaluation.significance import bootstrap_interval
from shortlist.runs.refreshing import Plan, refresh
from shortlist.runs.whole import train

DAY = 86_400
K = 20
TRAINED = "[model]\ndim = 32\n[training]\nepochs = 10\nbatch_size = 256\nlearning_rate = 0.005\n"
RECIPES = {
    "towers": TRAINED,
    "item-cf": "[channels.near]\nkind = 'item-cf'\n[training]\n",
    "blend": "[channels.near]\nkind = 'item-cf'\n[channels.towers]\nkind = 'two-tower'\n"
    f"[blend]\nmethod = 'rrf'\n{TRAINED}",
}


def planted(
    days: int = 40, users: int = 600, events: int = 1_500, seed: int = 0, moves: float = 0.04
) -> pl.DataFrame:
    """A log in which tastes move and the catalogue grows: user_id, item_id, timestamp.

    Ten groups of items; each day each user moves to another group with a chance of `moves`, and
    each group gets a new item, which is popular at first and fades by half in ten days.
    """
    random = np.random.default_rng(seed)
    groups, start = 10, 30
    group = np.repeat(np.arange(groups), start)
    born = np.repeat(-random.integers(0, 20, start), groups).astype(float)
    hit = random.lognormal(0, 0.7, len(group))
    taste = random.integers(0, groups, users)
    parts = []
    for day in range(days):
        moved = random.random(users) < moves
        taste[moved] = random.integers(0, groups, int(moved.sum()))
        group = np.concatenate([group, np.arange(groups)])
        born = np.concatenate([born, np.full(groups, float(day))])
        hit = np.concatenate([hit, random.lognormal(0, 0.7, groups)])
        weight = hit * 0.5 ** ((day - born) / 10) + 0.02 * hit
        user = random.integers(0, users, events)
        item = np.empty(events, dtype=np.int64)
        anywhere = random.random(events) < 0.15
        for number in range(groups):
            mine = (taste[user] == number) & ~anywhere
            own = np.flatnonzero(group == number)
            item[mine] = random.choice(own, int(mine.sum()), p=weight[own] / weight[own].sum())
        item[anywhere] = random.choice(len(group), int(anywhere.sum()), p=weight / weight.sum())
        moment = day * DAY + np.sort(random.integers(0, DAY, events))
        parts.append(pl.DataFrame({"user_id": user + 1, "item_id": item + 1, "timestamp": moment}))
    return pl.concat(parts).unique(["user_id", "item_id"], keep="first", maintain_order=True)


def ml_100k() -> pl.DataFrame:
    """MovieLens-100K, its times in seconds from the first event."""
    log = pl.read_parquet(Path(os.environ["SHORTLIST_DATA"]) / "ml-100k" / "interactions.parquet")
    log = log.with_columns(pl.col("timestamp") - pl.col("timestamp").min()).sort("timestamp")
    return log.select("user_id", "item_id", "timestamp")


@dataclass
class Model:
    """One way to follow the stream, and how it fared: recall of each user and day, CPU seconds."""

    name: str
    bundle: Path
    learn: Callable[["Model", pl.DataFrame, pl.DataFrame], None]
    recall: list[float] = field(default_factory=list)
    old: list[float] = field(default_factory=list)
    seconds: float = 0.0
    decisions: dict[str, int] = field(default_factory=dict)

    def told(self, days: int) -> dict[str, object]:
        """The figures, as JSON has them."""
        found = {}
        for name, values in (("recall", self.recall), ("recall_old_items", self.old)):
            interval = bootstrap_interval(np.array(values), 0)
            found[f"{name}@{K}"] = [round(number, 4) for number in interval]
        size = sum(path.stat().st_size for path in self.bundle.iterdir())
        return {
            "model": self.name,
            **found,
            "cpu_seconds_a_day": round(self.seconds / days, 2),
            "decisions": self.decisions,
            "megabytes": round(size / 1e6, 2),
        }


def asked(bundle: Bundle, known: pl.DataFrame, day: pl.DataFrame, old: set[int]) -> Iterator[tuple]:
    """Ask for the day's events; yield recall of each user, and that of old items (None: none)."""
    data = bundle.retriever.data
    learned = 0 if data.log.time is None else int(data.log.time.max())
    since = known.filter(pl.col("timestamp") > learned)
    recent = dict(since.group_by("user_id").agg("item_id").iter_rows())
    wanted = dict(day.group_by("user_id").agg("item_id").iter_rows())
    users = sorted(wanted)
    queries = Queries(users, recent=[recent.get(user, []) for user in users])
    answer = bundle.retriever.recommend(queries, K)
    rows = np.asarray(answer.rows)
    for user, row in zip(users, rows, strict=True):
        found = set(data.items.external(row[row >= 0]).to_list())
        items = set(wanted[user])
        mine = items & old
        share = len(items & found) / len(items)
        yield share, (len(mine & found) / len(mine) if mine else None)


def recipe(folder: Path, log: pl.DataFrame, text: str) -> Path:
    """Write a log and its recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    log.write_csv(folder / "log.csv")
    (folder / "recipe.toml").write_text(
        f"[data]\ninteractions = '{folder}/log.csv'\ntime = 'timestamp'\ntime_unit = 's'\n{text}"
        f"refit = 'all'\n[evaluation]\nladder = false\nk = [{K}]\n"
    )
    return folder / "recipe.toml"


def refreshing(parts: int, plan: Plan) -> Callable[[Model, pl.DataFrame, pl.DataFrame], None]:
    """Learn a day by so many refreshes, each from its part of the day."""

    def learn(model: Model, known: pl.DataFrame, day: pl.DataFrame) -> None:
        model_log = load(model.bundle).retriever.data.newest_time
        waiting = pl.concat([known, day]).filter(pl.col("timestamp") > model_log)
        edges = np.linspace(day["timestamp"].min(), day["timestamp"].max() + 1, parts + 1)[1:]
        for edge in edges:
            file = model.bundle.parent / "new.parquet"
            new = waiting.filter(pl.col("timestamp") < edge)
            if not len(new):
                continue
            new.write_parquet(file)
            out = model.bundle.with_name(f"v{int(model.bundle.name[1:]) + 1}")
            made = refresh(model.bundle, file, out, plan=plan, training=out.parent / "training")
            model.seconds += made.cpu_seconds
            model.decisions[made.decision] = model.decisions.get(made.decision, 0) + 1
            if made.bundle is not None:
                shutil.rmtree(model.bundle)
                model.bundle = out
                waiting = waiting.filter(pl.col("timestamp") >= edge)

    return learn


def refitting(text: str) -> Callable[[Model, pl.DataFrame, pl.DataFrame], None]:
    """Learn a day by a new training on all there is."""

    def learn(model: Model, known: pl.DataFrame, day: pl.DataFrame) -> None:
        folder = model.bundle.parent
        made = recipe(folder / "refit", pl.concat([known, day]), text)
        out = model.bundle.with_name(f"v{int(model.bundle.name[1:]) + 1}")
        started = time.process_time()
        train(made, out)
        model.seconds += time.process_time() - started
        shutil.rmtree(model.bundle)
        model.bundle = out

    return learn


def resting(model: Model, known: pl.DataFrame, day: pl.DataFrame) -> None:
    """Learn nothing."""


def replay(
    log: pl.DataFrame,
    text: str,
    first: int,
    plan: Plan,
    *,
    hourly: int = 8,
    only: set[str] | None = None,
    days: int | None = None,
) -> list[dict[str, object]]:
    """Train on the days before `first`, replay the others; return the figures of each model."""
    start = log.filter(pl.col("timestamp") < first * DAY)
    later = log.filter(pl.col("timestamp") >= first * DAY)
    old = set(start["item_id"].to_list())
    ways = {
        "rest": resting,
        "refresh, daily": refreshing(1, plan),
        f"refresh, {hourly} a day": refreshing(hourly, plan),
        "refit, nightly": refitting(text),
    }
    with tempfile.TemporaryDirectory() as place:
        begun = Path(place) / "begun"
        train(recipe(Path(place) / "first", start, text), begun)
        models = []
        for number, (name, learn) in enumerate(ways.items()):
            if only is None or name in only:
                folder = Path(place) / f"model-{number}"
                shutil.copytree(begun, folder / "v0")
                models.append(Model(name, folder / "v0", learn))
        known, count = start, 0
        numbers = (later["timestamp"] // DAY).unique().sort().to_list()[:days]
        for number in numbers:
            day = later.filter(pl.col("timestamp") // DAY == number)
            for model in models:
                for share, of_old in asked(load(model.bundle), known, day, old):
                    model.recall.append(share)
                    if of_old is not None:
                        model.old.append(of_old)
                model.learn(model, known, day)
            known, count = pl.concat([known, day]), count + 1
        return [model.told(count) for model in models]


def bounded(refreshes: int) -> list[dict[str, object]]:
    """So many daily refreshes with a window of ten days: sizes of what a bundle holds."""
    log = planted(days=refreshes + 10, users=200, events=400, seed=1)
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        start = log.filter(pl.col("timestamp") < 10 * DAY)
        train(recipe(folder / "first", start, RECIPES["towers"]), folder / "v0")
        model = Model("refresh, daily", folder / "v0", resting)
        learn = refreshing(1, Plan(least_users=1, window="10d", epochs=2))
        for number in range(10, refreshes + 10):
            learn(model, log.head(0), log.filter(pl.col("timestamp") // DAY == number))
            if (number - 9) % max(1, refreshes // 10) == 0:
                data = load(model.bundle).retriever.data
                size = sum(p.stat().st_size for p in model.bundle.iterdir())
                kept = sum(p.stat().st_size for p in (folder / "training").iterdir())
                found.append(
                    {
                        "refreshes": number - 9,
                        "events": len(data.log),
                        "users": len(data.users),
                        "items": len(data.items),
                        "bundle_bytes": size,
                        "training_bytes": kept,
                        "decisions": dict(model.decisions),
                    }
                )
    return found


def main() -> None:
    """Replay what is asked for, and print a line of JSON a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stream", choices=["planted", "ml-100k", "bounded"])
    parser.add_argument("--recipe", choices=list(RECIPES), default="towers")
    parser.add_argument("--days", type=int)
    parser.add_argument("--refreshes", type=int, default=200)
    parser.add_argument("--only", action="append")
    parser.add_argument("--hourly", type=int, default=8, help="refreshes a day")
    parser.add_argument("--epochs", type=int, default=Plan.epochs)
    parser.add_argument("--replay", type=float, default=Plan.replay)
    parser.add_argument("--window")
    parser.add_argument("--least-users", type=int, default=20)
    given = parser.parse_args()
    if given.stream == "bounded":
        found = bounded(given.refreshes)
    else:
        plan = Plan(
            epochs=given.epochs,
            replay=given.replay,
            least_users=given.least_users,
            window=given.window,
        )
        log = planted() if given.stream == "planted" else ml_100k()
        first = 20 if given.stream == "planted" else int(log["timestamp"].max()) // DAY * 3 // 4
        found = replay(
            *(log, RECIPES[given.recipe], first, plan),
            hourly=given.hourly,
            only=set(given.only) if given.only else None,
            days=given.days,
        )
    for line in found:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
