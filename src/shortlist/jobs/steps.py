"""Which stages does a recipe have, what does each need, and what does it leave in its folder?"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from shortlist import outputs
from shortlist.asking.capabilities import Channel
from shortlist.blending.retrievers import parts
from shortlist.bundle.formats import JSON
from shortlist.bundle.store import verify
from shortlist.channels.counting.item_cf import ItemCF
from shortlist.config import Recipe
from shortlist.data.dataset import Fit, TrainingData
from shortlist.data.files import files_of
from shortlist.data.interactions import Role
from shortlist.data.times import time_key
from shortlist.errors import DataError, JobError, SplitError
from shortlist.jobs.counts import counted_items
from shortlist.jobs.engine import Engine
from shortlist.jobs.local import files_in
from shortlist.jobs.neighbours import Asked, item_cf, neighbours_in
from shortlist.jobs.prepared import prepared_split
from shortlist.jobs.reading import Read, read_in_parts
from shortlist.jobs.recommending import recommend, recommended_schema
from shortlist.jobs.roles import SPLITS, Cuts, cuts_of, log_schema, with_roles
from shortlist.jobs.stages import Stages
from shortlist.linear.neighbours import Neighbours
from shortlist.runs import pipeline
from shortlist.runs.whole import Run, carry_out

Told = Callable[[str], None]

logger = logging.getLogger("shortlist.jobs")


class Job:
    """The stages of a recipe in a folder. told: hears what is done, and what was there already."""

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
        for key in ("impressions", "dropped"):
            if getattr(recipe.data, key) is not None:
                raise JobError(f"jobs do not read data.{key} yet: use shortlist train")
        if recipe.split_kind not in SPLITS:
            raise JobError(
                f'jobs do not make split.kind = "{recipe.split_kind}": use one of '
                f"{', '.join(SPLITS)}, or shortlist train"
            )
        self.recipe, self.engine, self.stages = recipe, engine, Stages(work)
        self._blocks = blocks or engine.parts
        self._told = told if told is not None else logger.info

    def prepare(self) -> None:
        """Read the log, check and merge its rows, and give each event its place and role: `log`."""
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
            roles = _roles_in(folder)
            self._check_roles(roles)
            told |= {
                "where": str(recipe.data.interactions),
                "rows_read": read.rows,
                "rows": roles,
                "unit": read.unit,
                "text": None if read.text is None else read.text.described(),
            }

    def counts(self, fit: Fit = "train") -> None:
        """Count the events and users of each item: `counts-FIT`, with the items' rows."""
        name = f"counts-{fit}"
        self.prepare()
        if self._is_made(name, {"fit": fit}, ("log",)):
            return
        with self._making(name, {"fit": fit}, ("log",)) as (folder, told):
            log = self.engine.read(self.stages.path("log"))
            items = counted_items(self.engine, log, self._kind("item"), fit)
            items.write_parquet(folder / "part-00000.parquet")
            told |= {"items": len(items), "events": int(items["events"].sum())}

    def item_cf(self) -> None:
        """Find the neighbours of all items, for each channel of this kind: `item-cf-NAME-FIT`."""
        channels = {n: c for n, c in self._channels().items() if isinstance(c, ItemCF)}
        if not channels:
            raise JobError("the recipe has no channel of kind 'item-cf'")
        for name, channel in channels.items():
            for fit in self._fits():
                self._item_cf(name, channel, fit)

    def bundle(self, out: Path, *, overwrite: bool = False, log: bool = True) -> Run:
        """Make the bundle that `train` makes, its neighbours taken from the stages."""
        if any(isinstance(channel, ItemCF) for channel in self._channels().values()):
            self.item_cf()
        self.prepare()
        retriever = pipeline.build(self.recipe)
        channels = self._channels(retriever)
        for name, channel in channels.items():
            if isinstance(channel, ItemCF):
                channel.found = _Found(self, name)
        split = prepared_split(
            self.recipe, self.stages.path("log"), self.stages.manifest("log")["told"]
        )
        run = carry_out(
            *(self.recipe, split, out), retriever=retriever, overwrite=overwrite, log=log
        )
        for channel in channels.values():
            if isinstance(channel, ItemCF):
                channel.found = None  # what comes later is another log
        return run

    def recommend(self, bundle: Path, k: int) -> Path:
        """Ask a bundle for the candidates of all users of the log: `recommended-K`."""
        identity = verify(bundle).id
        self.prepare()
        name = f"recommended-{k}"
        settings: dict[str, JSON] = {"bundle": identity, "k": k}
        if not self._is_made(name, settings, ("log",)):
            with self._making(name, settings, ("log",)) as (folder, told):
                step = partial(recommend, bundle=bundle.absolute(), identity=identity, k=k)
                schema = recommended_schema(self._kind("user"), self._kind("item"))
                log = self.engine.read(self.stages.path("log"))
                self.engine.write(self.engine.each(log, step, schema), folder)
                told["rows"] = _rows_in(folder)
        return self.stages.path(name)

    def neighbours(self, name: str, fit: Fit, items: int) -> Neighbours:
        """Return what `item_cf` found for a channel."""
        folder = self.stages.path(_stage_of(name, fit))
        return neighbours_in(pa.concat_tables(pq.read_table(p) for p in files_in(folder)), items)

    def _item_cf(self, name: str, channel: ItemCF, fit: Fit) -> None:
        self.counts(fit)
        stage, parents = _stage_of(name, fit), ("log", f"counts-{fit}")
        settings = {"options": channel.options.model_dump(mode="json"), "fit": fit}
        if self._is_made(stage, settings, parents):
            return
        with self._making(stage, settings, parents) as (folder, told), _scratch(folder) as scratch:
            items = pl.read_parquet(self.stages.path(f"counts-{fit}") / "part-00000.parquet")
            items.select("id").write_parquet(scratch / "items.parquet")
            unit = self.stages.manifest("log")["told"]["unit"]
            asked = Asked(channel.options, fit, unit, scratch / "items.parquet", len(items))
            log = self.engine.read(self.stages.path("log"))
            found = item_cf(self.engine, log, self._kind("user"), asked, self._blocks)
            self.engine.write(found, folder)
            told["neighbours"] = _rows_in(folder)

    def _write_roles(self, read: Read, folder: Path, scratch: Path) -> None:
        split, columns = self.recipe.split, read.columns
        at = split.at
        if self.recipe.split_kind == "global-time" and isinstance(at, int | float | str):
            share = isinstance(at, float) and 0 < at < 1
            at = at if share or read.unit is None else time_key(at, read.unit)
        plain = Cuts(self.recipe.split_kind, at, split.seed, read.carved)
        time = read.schema.field("time").type if columns.time is not None else None
        dealt = self.engine.whole(read.frame, "user", _same, read.schema)
        if plain.kind == "global-time":
            (scratch / "dealt").mkdir()
            self.engine.write(dealt, scratch / "dealt")
            dealt = self.engine.read(scratch / "dealt")
        cuts = cuts_of(self.engine, dealt, columns, scratch, time, plain)
        step = partial(with_roles, columns=columns, cuts=cuts)
        self.engine.write(self.engine.each(dealt, step, log_schema(read.schema, columns)), folder)

    def _check_roles(self, rows: Mapping[str, int]) -> None:
        """Refuse what only the whole log can lack."""
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
        """Which rows a training of the recipe fits on, one after the other."""
        refit = self.recipe.training.refit
        return ("train",) if refit == "none" else ("train", refit)

    def _channels(self, retriever: Channel | None = None) -> dict[str, Channel]:
        built = pipeline.build(self.recipe) if retriever is None else retriever
        channels = parts(built)
        if len(channels) == 1 and len(self.recipe.channels) == 1:
            return dict(zip(self.recipe.channels, channels.values(), strict=True))
        return dict(channels)

    def _kind(self, column: str) -> pa.DataType:
        """The type of a column of the prepared log."""
        return pq.read_schema(files_in(self.stages.path("log"))[0]).field(column).type

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


class _Found:
    """The neighbours of one channel, as `ItemCF.found` asks for them."""

    def __init__(self, job: Job, name: str) -> None:
        self._job, self._name = job, name

    def __call__(self, data: TrainingData) -> Neighbours:
        return self._job.neighbours(self._name, data.fit, data.items.trained)


def _same(table: pa.Table) -> pa.Table:
    """Step: nothing but bringing groups together."""
    return table


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for what is no result, in the folder of a stage; gone at the end."""
    scratch = folder / "_scratch"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        outputs.remove(scratch)


def _stage_of(name: str, fit: Fit) -> str:
    return f"item-cf-{name}-{fit}"


def _of_log(recipe: Recipe) -> dict[str, JSON]:
    """What a prepared log depends on: the keys that say how it is read and split, and the files."""
    files: list[JSON] = []
    for key, sources in recipe.inputs.items():
        for path in files_of(sources) if sources is not None else ():
            about = path.stat()
            files.append([key, str(path), about.st_size, about.st_mtime_ns])
    return {
        "data": recipe.data.model_dump(mode="json"),
        "split": recipe.split.model_dump(mode="json"),
        "files": files,
    }


def _rows_in(folder: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in files_in(folder))


def _roles_in(folder: Path) -> dict[str, int]:
    """How many events of a prepared log have each role."""
    counts = {role: 0 for role in Role}
    for path in files_in(folder):
        frame = pl.read_parquet(path, columns=["role"])
        if "met" in pq.read_schema(path).names:
            frame = frame.filter(~pl.read_parquet(path, columns=["met"])["met"])
        for role in Role:
            counts[role] += int((frame["role"] == role).sum())
    return {role.name.lower(): count for role, count in counts.items()}
