"""What does a model that follows the day gain, and what does it cost, beside refitting and resting?

A stream is replayed part by part of each day (24: by the hour). Every model is asked for the
events of the part before it has seen them, as a service asks: the users' events since its log come
with the question, as `recent`. Then they are learned: by nobody ("rest"), by `refresh` after each
part or at the end of the day, or by a new training in the night ("refit", refit = "all", as
`shortlist train` does it). Recall@20 is the mean over users and parts, also of the events of old
items alone: those of the first training. CPU seconds are of one core, of learning alone. The guard
judges: what it refuses, or cannot decide with fewer than --least-users, waits for the next
refresh, and is counted.

    python benchmarks/refresh_replay.py planted
    SHORTLIST_DATA=FOLDER python benchmarks/refresh_replay.py ml-100k --parts 24 --days 10
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
TRAINED = (
    "[model]\ndim = 32\ndropout = 0.2\n"
    "[training]\nepochs = 10\nbatch_size = 256\npatience = 3\nlearning_rate = 0.005\n"
)
RECIPES = {
    "towers": TRAINED,
    "item-cf": "[channels.near]\nkind = 'item-cf'\n[training]\n",
    "blend": "[channels.near]\nkind = 'item-cf'\n[channels.towers]\nkind = 'two-tower'\n"
    f"[blend]\nmethod = 'rrf'\n{TRAINED}",
}


def planted(
    days: int = 40,
    users: int = 600,
    events: int = 1_500,
    seed: int = 0,
    moves: float = 0.04,
    lives: int | None = None,
) -> pl.DataFrame:
    """A log in which tastes move and the catalogue grows: user_id, item_id, timestamp.

    Ten groups of items; each day each user moves to another group with a chance of `moves`, and
    each group gets a new item, which is popular at first and fades by half in ten days. lives: so
    many days after an item came nobody meets it any more, so that the catalogue stops growing.
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
        if lives is not None:
            weight[day - born > lives] = 0
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
    """One way to follow the stream, and how it fared: recall of each user and part, CPU seconds.

    after_part, after_day: what it does with the events that came, given those before them.
    """

    name: str
    bundle: Path
    after_part: "Learn"
    after_day: "Learn"
    recall: list[float] = field(default_factory=list)
    old: list[float] = field(default_factory=list)
    seconds: float = 0.0
    decisions: dict[str, int] = field(default_factory=dict)
    loaded: tuple[Path, Bundle] | None = None

    def asked(self) -> Bundle:
        """The bundle, loaded once."""
        if self.loaded is None or self.loaded[0] != self.bundle:
            self.loaded = (self.bundle, load(self.bundle))
        return self.loaded[1]

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
            "questions": len(self.recall),
            "cpu_seconds_a_day": round(self.seconds / days, 2),
            "decisions": self.decisions,
            "megabytes": round(size / 1e6, 2),
        }


Learn = Callable[[Model, pl.DataFrame, pl.DataFrame], None]


def asked(
    bundle: Bundle, known: pl.DataFrame, coming: pl.DataFrame, old: set[int]
) -> Iterator[tuple[float, float | None]]:
    """Ask for the coming events; yield recall of each user, and that of old items (None: none)."""
    data = bundle.retriever.data
    learned = 0 if data.log.time is None else int(data.log.time.max())
    since = known.filter(pl.col("timestamp") > learned)
    recent = dict(since.group_by("user_id", maintain_order=True).agg("item_id").iter_rows())
    wanted = dict(coming.group_by("user_id").agg("item_id").iter_rows())
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


def refreshing(plan: Plan) -> Learn:
    """Learn by a refresh, what waits from before with it."""

    def learn(model: Model, known: pl.DataFrame, came: pl.DataFrame) -> None:
        learned = model.asked().retriever.data.newest_time
        waiting = pl.concat([known, came]).filter(pl.col("timestamp") > learned)
        file = model.bundle.parent / "new.parquet"
        waiting.write_parquet(file)
        out = model.bundle.with_name(f"v{int(model.bundle.name[1:]) + 1}")
        made = refresh(model.bundle, file, out, plan=plan, training=out.parent / "training")
        model.seconds += made.cpu_seconds
        model.decisions[made.decision] = model.decisions.get(made.decision, 0) + 1
        if made.bundle is not None:
            shutil.rmtree(model.bundle)
            model.bundle = out

    return learn


def refitting(text: str) -> Learn:
    """Learn by a new training on all there is."""

    def learn(model: Model, known: pl.DataFrame, came: pl.DataFrame) -> None:
        folder = model.bundle.parent
        made = recipe(folder / "refit", pl.concat([known, came]), text)
        out = model.bundle.with_name(f"v{int(model.bundle.name[1:]) + 1}")
        started = time.process_time()
        train(made, out)
        model.seconds += time.process_time() - started
        shutil.rmtree(model.bundle)
        model.bundle = out

    return learn


def resting(model: Model, known: pl.DataFrame, came: pl.DataFrame) -> None:
    """Learn nothing."""


def replay(
    log: pl.DataFrame,
    text: str,
    first: int,
    plan: Plan,
    *,
    parts: int = 8,
    only: set[str] | None = None,
    days: int | None = None,
) -> list[dict[str, object]]:
    """Train on the days before `first`, replay the others; return the figures of each model."""
    start = log.filter(pl.col("timestamp") < first * DAY)
    later = log.filter(pl.col("timestamp") >= first * DAY)
    old = set(start["item_id"].to_list())
    ways = {
        "rest": (resting, resting),
        "refresh, daily": (resting, refreshing(plan)),
        f"refresh, {parts} a day": (refreshing(plan), resting),
        "refit, nightly": (resting, refitting(text)),
    }
    with tempfile.TemporaryDirectory() as place:
        begun = Path(place) / "begun"
        train(recipe(Path(place) / "first", start, text), begun)
        models = []
        for number, (name, learn) in enumerate(ways.items()):
            if only is None or name in only:
                folder = Path(place) / f"model-{number}"
                shutil.copytree(begun, folder / "v0")
                models.append(Model(name, folder / "v0", *learn))
        known, count = start, 0
        numbers = (later["timestamp"] // DAY).unique().sort().to_list()[:days]
        for number in numbers:
            day = later.filter(pl.col("timestamp") // DAY == number)
            before = known
            for _, came in day.group_by(
                pl.col("timestamp") % DAY * parts // DAY, maintain_order=True
            ):
                for model in models:
                    for share, of_old in asked(model.asked(), known, came, old):
                        model.recall.append(share)
                        if of_old is not None:
                            model.old.append(of_old)
                    model.after_part(model, known, came)
                known = pl.concat([known, came])
            for model in models:
                model.after_day(model, before, day)
            count += 1
        return [model.told(count) for model in models]


def bounded(refreshes: int) -> list[dict[str, object]]:
    """So many daily refreshes with a window of ten days: what bundle, folder and process hold.

    An item is met for twenty days, so that the catalogue is as large on each day.
    """
    log = planted(days=refreshes + 20, users=200, events=400, seed=1, lives=20)
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        start = log.filter(pl.col("timestamp").is_between(10 * DAY, 20 * DAY, closed="left"))
        train(recipe(folder / "first", start, RECIPES["towers"]), folder / "v0")
        learn = refreshing(Plan(least_users=1, window="10d", epochs=2))
        model = Model("refresh, daily", folder / "v0", resting, learn)
        for number in range(20, refreshes + 20):
            learn(model, log.head(0), log.filter(pl.col("timestamp") // DAY == number))
            if (number - 19) % max(1, refreshes // 10) == 0:
                data = model.asked().retriever.data
                size = sum(p.stat().st_size for p in model.bundle.iterdir())
                kept = sum(p.stat().st_size for p in (folder / "training").iterdir())
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                found.append(
                    {
                        "refreshes": number - 19,
                        "events": len(data.log),
                        "users": len(data.users),
                        "items": len(data.items),
                        "bundle_bytes": size,
                        "training_bytes": kept,
                        "resident_megabytes": round(pages * os.sysconf("SC_PAGESIZE") / 1e6),
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
    parser.add_argument("--parts", type=int, default=8, help="parts of a day")
    parser.add_argument("--epochs", type=int, default=Plan.epochs, help="of a refresh")
    parser.add_argument("--fit-epochs", type=int, default=10, help="of a training")
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
        text = RECIPES[given.recipe].replace("epochs = 10", f"epochs = {given.fit_epochs}")
        found = replay(
            *(log, text, first, plan),
            parts=given.parts,
            only=set(given.only) if given.only else None,
            days=given.days,
        )
    said: dict[str, object] = {"stream": given.stream, "recipe": given.recipe}
    if given.stream != "bounded":
        said |= {"days": given.days, "parts": given.parts, "fit_epochs": given.fit_epochs}
        said["least_users"] = given.least_users
    for line in found:
        print(json.dumps(said | line), flush=True)


if __name__ == "__main__":
    main()
