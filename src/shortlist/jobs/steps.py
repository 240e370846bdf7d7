"""Which stages does a recipe have, what does each need, and what does it write?"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shortlist import outputs
from shortlist.asking.capabilities import Channel
from shortlist.blending.retrievers import parts
from shortlist.bundle.formats import JSON
from shortlist.bundle.store import verify
from shortlist.channels.counting.inverted import Inverted
from shortlist.channels.counting.item_cf import ItemCF
from shortlist.channels.counting.popular import Popular
from shortlist.channels.counting.user_cf import UserCF
from shortlist.config import Recipe
from shortlist.data.files import files_of
from shortlist.data.impressions import roles_of
from shortlist.data.interactions import Role
from shortlist.data.kinds import Kinds
from shortlist.data.log_features import Side, columns_of, described_sides
from shortlist.data.readers import open_entities
from shortlist.data.tables import open_table
from shortlist.data.times import time_key
from shortlist.data.training_data import Fit, TrainingData
from shortlist.errors import DataError, JobError, ModelError, SplitError
from shortlist.jobs import similar_users
from shortlist.jobs.catalogue import catalogue_of, listed_inverted, listed_popular, segments_of
from shortlist.jobs.counts import counted_items
from shortlist.jobs.engine import Engine
from shortlist.jobs.item_sums import Summing, sums_of_items
from shortlist.jobs.local import files_in
from shortlist.jobs.neighbours import Parameters, item_cf, neighbours_in
from shortlist.jobs.prepared import prepared_split
from shortlist.jobs.reading import Read, read_in_parts
from shortlist.jobs.recommending import check_time, opened, recommend, recommended_schema
from shortlist.jobs.roles import SPLITS, Cuts, cuts_of, log_schema, refuse_grouped, with_roles
from shortlist.jobs.stages import Stages
from shortlist.linear.neighbours import Neighbours
from shortlist.runs import pipeline
from shortlist.runs.whole import Run, carry_out

Told = Callable[[str], None]

logger = logging.getLogger("shortlist.jobs")


class Job:
    """Makes the stages of a recipe in a folder. Stages that exist already are used as they are.

    recipe: the recipe; what jobs cannot do is refused at once.
    work: folder of the stages.
    engine: where the steps run.
    blocks: number of blocks of items (item-cf) or users (user-cf); None: the engine's parts.
    told: receives a line for each stage that is made or exists; None: the log.
    Errors: JobError and the errors of the recipe's checks.
    """

    def __init__(
        self,
        recipe: Recipe,
        work: Path,
        engine: Engine,
        *,
        blocks: int | None = None,
        told: Told | None = None,
    ) -> None:
        pipeline.check(recipe)
        _refuse(recipe)
        self.recipe, self.engine, self.stages = recipe, engine, Stages(work)
        self._blocks = blocks or engine.parts
        self._told = told if told is not None else logger.info

    def prepare(self) -> None:
        """Make the stage `log`: rows are checked and merged, and get their places and roles."""
        recipe = self.recipe
        settings = _of_log(recipe)
        if self._is_made("log", settings):
            return
        with self._making("log", settings) as (folder, told), _scratch(folder) as scratch:
            read = read_in_parts(
                self.engine,
                recipe.interactions_path,
                pipeline.schema_of(recipe),
                scratch,
                {"users": recipe.users_path, "items": recipe.items_path},
            )
            self._write_roles(read, folder, scratch)
            for side, versions in read.versions.items():
                versions.table.write_ipc(folder / f"{side}.arrow")
            roles = _roles_in(folder, None)
            aimed = roles if self._kinds is None else _roles_in(folder, self._kinds)
            self._check_roles(aimed)
            told |= {
                "where": str(recipe.data.interactions),
                "rows_read": read.rows,
                "rows": roles,
                "unit": read.unit,
                "text": None if read.text is None else read.text.described(),
            }

    def counts(self, fit: Fit = "train") -> None:
        """Make the stage `counts-FIT`: the row and the numbers of events and users of each item."""
        name = f"counts-{fit}"
        self.prepare()
        if self._is_made(name, {"fit": fit}, ("log",)):
            return
        with self._making(name, {"fit": fit}, ("log",)) as (folder, told):
            log = self.engine.read(self.stages.path("log"))
            items = counted_items(self.engine, log, self._kind("item"), fit, self._kinds)
            items.write_parquet(folder / "part-00000.parquet")
            told |= {"items": len(items), "events": int(items["events"].sum())}

    def item_cf(self) -> None:
        """Make `item-cf-NAME-FIT`, the neighbours of all items, for each channel of this kind."""
        self._each(ItemCF, self._item_cf, "'item-cf'")

    def swing(self) -> None:
        """Do what `item_cf` does, only for the channels whose similarity is swing."""
        channels = {
            name: channel
            for name, channel in self._channels().items()
            if isinstance(channel, ItemCF) and channel.options.similarity == "swing"
        }
        if not channels:
            raise JobError(
                "the recipe has no channel of kind 'item-cf' with similarity = \"swing\""
            )
        for name, channel in channels.items():
            for fit in self._fits():
                self._item_cf(name, channel, fit)

    def user_cf(self) -> None:
        """Make `user-cf-NAME-FIT`, the nearest users of each user, for each such channel."""
        self._each(UserCF, self._user_cf, "'user-cf'")

    def popular(self) -> None:
        """Make `popular-NAME-FIT`, the items by popularity, for each channel of this kind."""
        channels = [c for c in self._channels().values() if isinstance(c, Popular)]
        if any(channel.options.segment is not None for channel in channels):
            self._require_table("user", "the segments of the stage popular")
        self._each(Popular, self._popular, "'popular'")

    def inverted(self) -> None:
        """Make `inverted-NAME-FIT`, the lists of attribute values, for each such channel."""
        self._require_table("item", "the lists of the stage inverted")
        for name, channel in self._channels().items():
            if isinstance(channel, Inverted) and not _is_sum(channel):
                raise JobError(
                    f"channels.{name}: a job does not sort lists by metric = "
                    f'"{channel.options.metric}", as its steps do not read impressions: '
                    "shortlist job bundle fits this channel, as shortlist train does"
                )
        self._each(Inverted, self._inverted, "'inverted'")

    def bundle(self, out: Path, *, overwrite: bool = False, log: bool = True) -> Run:
        """Make the bundle that `train` makes, from the stages.

        Neighbours of items and the scores of inverted lists are read from stages, which are made
        if they do not exist. User-cf and popularity store nothing besides the log, so they are
        fitted from the log, as towers are.

        out: path of the bundle.
        overwrite: replace an existing bundle.
        log: keep the events in the bundle.
        """
        self.prepare()
        retriever = pipeline.build(self.recipe)
        channels = self._channels(retriever)
        found = {n: c for n, c in channels.items() if isinstance(c, ItemCF | Inverted)}
        for name, channel in found.items():
            if isinstance(channel, ItemCF):
                channel.found = _Found(self, name)
            elif _is_sum(channel) and "item" not in self.recipe.described_sides:
                channel.found = _Worth(self, name)
            for fit in self._fits():
                if isinstance(channel, ItemCF):
                    self._item_cf(name, channel, fit)
                elif channel.found is not None:
                    self._inverted(name, channel, fit)
        split = prepared_split(
            self.recipe, self.stages.path("log"), self.stages.manifest("log")["told"]
        )
        run = carry_out(
            *(self.recipe, split, out), retriever=retriever, overwrite=overwrite, log=log
        )
        for channel in found.values():
            channel.found = None  # A later fit has another log.
        return run

    def recommend(self, bundle: Path, k: int, time: float | str | None = None) -> Path:
        """Make `recommended-K`, the candidates of all users of the log; return its folder.

        bundle: path of the bundle.
        k: number of candidates per user.
        time: time of the requests. It is required if the bundle's answers depend on the time,
        because the clock would give another time whenever the job is resumed.
        Errors: QueryError.
        """
        identity = verify(bundle).id
        check_time(opened(bundle.absolute(), identity).retriever, time)
        self.prepare()
        name = f"recommended-{k}"
        settings: dict[str, JSON] = {"bundle": identity, "k": k}
        if time is not None:
            settings["time"] = time
        if not self._is_made(name, settings, ("log",)):
            with self._making(name, settings, ("log",)) as (folder, told):
                step = partial(
                    recommend, bundle=bundle.absolute(), identity=identity, k=k, time=time
                )
                schema = recommended_schema(self._kind("user"), self._kind("item"))
                log = self.engine.read(self.stages.path("log"))
                self.engine.write(self.engine.each(log, step, schema), folder)
                told["rows"] = _rows_in(folder)
        return self.stages.path(name)

    def neighbours(self, name: str, fit: Fit, items: int) -> Neighbours:
        """Return the neighbours that `item_cf` found for a channel. items: number of items."""
        folder = self.stages.path(_stage_of("item-cf", name, fit))
        return neighbours_in(pa.concat_tables(pq.read_table(p) for p in files_in(folder)), items)

    def worth(self, name: str, data: TrainingData) -> NDArray[np.float32]:
        """Return the scores of `inverted` for the trained items, float32 [items.trained + 1].

        An item that is in no list has 0, so it is ordered behind all items that are in one.
        """
        folder = self.stages.path(_stage_of("inverted", name, data.fit))
        lists = pl.concat([pl.read_parquet(path) for path in files_in(folder)])
        found = np.zeros(data.items.trained + 1, dtype=np.float32)
        found[data.items.rows(lists["item"])] = lists["worth"].to_numpy()
        return found

    def _require_table(self, side: Side, what: str) -> None:
        """Refuse a stage of lists for a recipe whose features of a side are columns of the log."""
        if side in self.recipe.described_sides:
            raise JobError(
                f"{what} need a table of {side}s (data.{side}s), and the recipe's features of "
                f"{side}s are columns of the log: give such a table, or leave this stage out. "
                "shortlist job bundle fits the channel without it"
            )

    def _each(self, kind: type, make: Callable[[str, Any, Fit], None], kind_name: str) -> None:
        """Make the stages of all channels of a kind, for each fit."""
        channels = {n: c for n, c in self._channels().items() if isinstance(c, kind)}
        if not channels:
            raise JobError(f"the recipe has no channel of kind {kind_name}")
        for name, channel in channels.items():
            for fit in self._fits():
                make(name, channel, fit)

    def _item_cf(self, name: str, channel: ItemCF, fit: Fit) -> None:
        with self._of_channel("item-cf", name, channel, fit) as (folder, told, scratch):
            if folder is None:
                return
            items, trained = self._items(fit, scratch)
            unit = self.stages.manifest("log")["told"]["unit"]
            asked = Parameters(channel.options, fit, unit, items, trained, self._kinds)
            log = self.engine.read(self.stages.path("log"))
            found = item_cf(self.engine, log, self._kind("user"), asked, self._blocks)
            self.engine.write(found, folder)
            told["neighbours"] = _rows_in(folder)

    def _user_cf(self, name: str, channel: UserCF, fit: Fit) -> None:
        with self._of_channel("user-cf", name, channel, fit) as (folder, told, scratch):
            if folder is None:
                return
            items, trained = self._items(fit, scratch)
            asked = similar_users.Parameters(
                *(channel.options, fit, items, trained, self._has("time"), self._blocks),
                kinds=self._kinds,
            )
            log = self.engine.read(self.stages.path("log"))
            found = similar_users.user_cf(self.engine, log, self._kind("user"), asked)
            self.engine.write(found, folder)
            told["neighbours"] = _rows_in(folder)

    def _popular(self, name: str, channel: Popular, fit: Fit) -> None:
        with self._of_channel("popular", name, channel, fit) as (folder, told, scratch):
            if folder is None:
                return
            options, summing = channel.options, self._summing(channel.options.half_life, fit)
            users = None
            if options.segment is not None:
                users = scratch / "segments.parquet"
                segments_of(self.recipe, options.segment, self._kind("user")).write_parquet(users)
            sums = self._sums(replace(summing, segments=users))
            listed = listed_popular(channel, self._catalogue(fit), sums)
            listed.write_parquet(folder / "part-00000.parquet")
            told["rows"] = len(listed)

    def _inverted(self, name: str, channel: Inverted, fit: Fit) -> None:
        with self._of_channel("inverted", name, channel, fit) as (folder, told, _):
            if folder is None:
                return
            sums = self._sums(self._summing(channel.options.half_life, fit))
            listed = listed_inverted(channel, self._catalogue(fit), sums)
            listed.write_parquet(folder / "part-00000.parquet")
            told["rows"] = len(listed)

    @contextmanager
    def _of_channel(
        self, kind: str, name: str, channel: Any, fit: Fit
    ) -> Iterator[tuple[Path | None, dict[str, JSON], Path]]:
        """Yield a stage's folder (None if the stage exists), its dict `told`, a scratch folder."""
        self.counts(fit)
        stage, parents = _stage_of(kind, name, fit), ("log", f"counts-{fit}")
        settings: dict[str, JSON] = {"options": channel.options.model_dump(mode="json"), "fit": fit}
        if kind in ("popular", "inverted"):
            settings["features"] = self.recipe.features.model_dump(mode="json")
        if self._is_made(stage, settings, parents):
            yield None, {}, Path()
            return
        with self._making(stage, settings, parents) as (folder, told), _scratch(folder) as scratch:
            yield folder, told, scratch

    def _items(self, fit: Fit, scratch: Path) -> tuple[Path, int]:
        """Write the ids of the fitted items, in the order of their rows; return file and count."""
        items = self._counted(fit).select("id")
        items.write_parquet(scratch / "items.parquet")
        return scratch / "items.parquet", len(items)

    def _counted(self, fit: Fit) -> pl.DataFrame:
        return pl.read_parquet(self.stages.path(f"counts-{fit}") / "part-00000.parquet")

    def _summing(self, half_life: float | str | None, fit: Fit) -> Summing:
        unit = self.stages.manifest("log")["told"]["unit"]
        if half_life is not None and not self._has("time"):
            raise ModelError("half_life needs data.time, the column an event's age is told from")
        return Summing(fit, self._kinds, half_life, unit)

    def _sums(self, summing: Summing) -> pl.DataFrame:
        log = self.engine.read(self.stages.path("log"))
        time = self._kind("time") if self._has("time") else pa.int64()
        return sums_of_items(
            self.engine, log, (self._kind("user"), self._kind("item"), time), summing
        )

    def _catalogue(self, fit: Fit) -> TrainingData:
        told = self.stages.manifest("log")["told"]
        return catalogue_of(self.recipe, self._counted(fit), fit, told["unit"], self._has("time"))

    def _write_roles(self, read: Read, folder: Path, scratch: Path) -> None:
        split, columns = self.recipe.split, read.columns
        at = split.at
        if self.recipe.split_kind == "global-time" and isinstance(at, int | float | str):
            share = isinstance(at, float) and 0 < at < 1
            at = at if share or read.unit is None else time_key(at, read.unit)
        plain = Cuts(
            self.recipe.split_kind, at, split.seed, read.carved, which=split.items or "random"
        )
        dealt = self.engine.whole(read.frame, "user", _same, read.schema)
        if plain.kind in ("global-time", "cold-items"):
            (scratch / "dealt").mkdir()
            self.engine.write(dealt, scratch / "dealt")
            dealt = self.engine.read(scratch / "dealt")
            if read.unit == "line" and (plain.kind == "global-time" or plain.which == "newest"):
                refuse_grouped(self.engine, read, dealt, plain)
        cuts = cuts_of(self.engine, dealt, columns, scratch, read.schema, plain)
        step = partial(with_roles, columns=columns, cuts=cuts)
        self.engine.write(self.engine.each(dealt, step, log_schema(read.schema, columns)), folder)

    def _check_roles(self, rows: Mapping[str, int]) -> None:
        """Raise DataError or SplitError if the whole log has no targets, or none of a role."""
        if not sum(rows.values()) and self._kinds is not None:
            raise DataError(
                f"{self.recipe.data.interactions}: column '{self.recipe.data.event}': no row is of "
                "a kind that is a target"
            )
        if not sum(rows.values()):
            raise DataError(
                f"{self.recipe.data.interactions}: no row has a weight of at least "
                f"{self.recipe.data.min_weight:g}; lower min_weight."
            )
        for role in (Role.VALIDATION, Role.TEST):
            if not rows[role.name.lower()]:
                raise SplitError(
                    f"the {self.recipe.split_kind} split leaves no {role.name.lower()} row: the "
                    f"log has {sum(rows.values())} rows"
                )

    def _fits(self) -> tuple[Fit, ...]:
        """Return the sets of rows that a training of the recipe fits on, in order."""
        refit = self.recipe.training.refit
        return ("train",) if refit == "none" else ("train", refit)

    def _channels(self, retriever: Channel | None = None) -> dict[str, Channel]:
        built = pipeline.build(self.recipe) if retriever is None else retriever
        channels = parts(built)
        if len(channels) == 1 and len(self.recipe.channels) == 1:
            return dict(zip(self.recipe.channels, channels.values(), strict=True))
        return dict(channels)

    def _kind(self, column: str) -> pa.DataType:
        """Return the type of a column of the prepared log."""
        return self._columns().field(column).type

    def _has(self, column: str) -> bool:
        return column in self._columns().names

    def _columns(self) -> pa.Schema:
        return pq.read_schema(files_in(self.stages.path("log"))[0])

    @property
    def _kinds(self) -> Kinds | None:
        """The kinds of events, or None."""
        events = pipeline.schema_of(self.recipe).events
        return Kinds.of(events) if events else None

    def _is_made(
        self, name: str, settings: Mapping[str, JSON], parents: tuple[str, ...] = ()
    ) -> bool:
        made = self.stages.is_made(name, settings, parents)
        if made and name not in self.stages.made:
            self._told(f"{name} is there already")
            self.stages.made.append(name)
        return made

    def _making(
        self, name: str, settings: Mapping[str, JSON], parents: tuple[str, ...] = ()
    ) -> Any:
        self._told(f"making {name}")
        return self.stages.making(name, settings, parents)


def _refuse(recipe: Recipe) -> None:
    """Raise JobError for a recipe that jobs cannot do, before anything is read."""
    if recipe.split_kind not in SPLITS:
        raise JobError(
            f'jobs do not make split.kind = "{recipe.split_kind}", which is several splits: run a '
            'job with kind = "global-time" for each moment (split.at), or use shortlist train'
        )
    schema = pipeline.schema_of(recipe)
    for name, path, click in (
        ("impressions", recipe.impressions_path, schema.click),
        ("dropped", recipe.dropped_path, None),
    ):
        if path is not None:  # Only the bundle needs it, after all other work.
            recipe.check_redirected()
            wanted = roles_of(name, schema, click).values()
            open_table(path, name, schema.text_of(name)).require(wanted)
    described_sides(schema, recipe.users_path, recipe.items_path)  # refuses a column of two uses
    tables: tuple[tuple[Side, Path | None], ...] = (
        ("user", recipe.users_path),
        ("item", recipe.items_path),
    )
    for side, path in tables:
        if path is not None:
            recipe.check_redirected()
            key, named = f"{side}s", columns_of(schema, side)
            open_entities(path, schema.id_of(key), named, key, schema.text_of(key))


class _Found:
    """Returns the neighbours of one channel; used as `ItemCF.found`."""

    def __init__(self, job: Job, name: str) -> None:
        self._job, self._name = job, name

    def __call__(self, data: TrainingData) -> Neighbours:
        return self._job.neighbours(self._name, data.fit, data.items.trained)


class _Worth:
    """Returns the scores of the items of one channel; used as `Inverted.found`."""

    def __init__(self, job: Job, name: str) -> None:
        self._job, self._name = job, name

    def __call__(self, data: TrainingData) -> NDArray[np.float32]:
        return self._job.worth(self._name, data)


def _same(table: pa.Table) -> pa.Table:
    """Step: return the table unchanged; used to group rows without computing anything."""
    return table


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder inside the folder of a stage, which is removed at the end."""
    scratch = folder / "_scratch"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        outputs.remove(scratch)


def _is_sum(channel: Inverted) -> bool:
    """Return whether the channel sorts its lists by sums of events, not by rates of impressions."""
    return channel.options.metric in ("count", "recent")


def _stage_of(kind: str, name: str, fit: Fit) -> str:
    return f"{kind}-{name}-{fit}"


def _of_log(recipe: Recipe) -> dict[str, JSON]:
    """Return the settings of the stage `log`: how it is read and split, and its input files."""
    recipe.check_redirected()
    files: list[JSON] = []
    for key, sources in recipe.inputs.items():
        for path in files_of(sources) if sources is not None else ():
            about = path.stat()
            files.append([key, str(path), about.st_size, about.st_mtime_ns])
    settings: dict[str, JSON] = {
        "data": recipe.data.model_dump(mode="json"),
        "split": recipe.split.model_dump(mode="json"),
        "files": files,
    }
    for side in recipe.described_sides:
        key = f"features.{side}s"
        settings[key] = recipe.features.model_dump(mode="json")[f"{side}s"]
        if side == "item":
            settings["features.title"] = recipe.features.title
    if recipe.features.events:
        settings["features.events"] = recipe.features.model_dump(mode="json")["events"]
    return settings


def _rows_in(folder: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in files_in(folder))


def _roles_in(folder: Path, kinds: Kinds | None) -> dict[str, int]:
    """Return how many events of a prepared log have each role; with `kinds`, how many targets."""
    targets = None if kinds is None else np.flatnonzero(kinds.targets)
    counts = {role: 0 for role in Role}
    for path in files_in(folder):
        names = {"role", "met", "kind"} & {*pq.read_schema(path).names}
        frame = pl.read_parquet(path, columns=sorted(names))
        if "met" in names:
            frame = frame.filter(~pl.col("met"))
        if targets is not None:
            frame = frame.filter(pl.col("kind").is_in(targets))
        for role, count in zip(Role, np.bincount(frame["role"], minlength=len(Role)), strict=True):
            counts[role] += int(count)
    return {role.name.lower(): count for role, count in counts.items()}
