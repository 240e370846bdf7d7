"""A bundle that follows the day: it learns new events, is compared, and published if as good."""

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any, Literal

import numpy as np
import polars as pl

from shortlist import outputs
from shortlist.asking.capabilities import Channel, Refreshes
from shortlist.blending.retrievers import parts
from shortlist.bundle.bundle import Bundle, load, save_or_keep
from shortlist.bundle.store import verify
from shortlist.channels.learned.base import Learner
from shortlist.channels.learned.going_on import check_index
from shortlist.config import Recipe
from shortlist.data.dataset import TrainingData
from shortlist.data.id_columns import align_ids
from shortlist.data.log_features import Side
from shortlist.data.readers import is_text, read_entities
from shortlist.data.renewal import Renewed, renewed, with_table, without_users
from shortlist.data.updates import Update, no_events, read_events, with_events
from shortlist.errors import CheckpointError, DataError, ModelError, QueryError, ShortlistError
from shortlist.evaluation.evaluate import evaluate
from shortlist.histories.events import Watermark
from shortlist.histories.learning import Unlearned, unlearned
from shortlist.histories.places import StorePlace, place_of
from shortlist.outputs import Output, is_bundle, is_kept, is_temporary, natural
from shortlist.runs.guard import Comparison, Drift, judged
from shortlist.runs.pipeline import schema_of
from shortlist.training.checkpoint import Stage, State
from shortlist.training.lesson import Lesson, Memory
from shortlist.training.progress import Progress

LEAST_USERS = 50
"""With held-out events of fewer users nothing is decided: an interval needs some tens of them."""

_REFRESHED = re.compile(r"(.+)-r([1-9][0-9]*)", re.DOTALL)

Decision = Literal["published", "refused", "not decided", "nothing new"]


@dataclass(frozen=True)
class Plan:
    """How a bundle is refreshed.

    admit: an item is learned from so many events on. window: events older than this, back from the
    newest, are forgotten, and users and items with their last one; None keeps all. hold_out: the
    share of the new events, the newest, that the two models are compared on. least_users: with
    held-out events of fewer, nothing is decided. epochs: how often towers learn a new event.
    replay: old events, drawn at random, that they learn beside each new one. users, items: newer
    tables of these, whose rows take the place of those that the bundle has.
    """

    admit: int = 1
    window: float | str | None = None
    hold_out: float = 0.2
    least_users: int = LEAST_USERS
    epochs: int = 1
    replay: float = 1.0
    users: Path | None = None
    items: Path | None = None

    def checked(self) -> "Plan":
        """Return it, if it can be. Errors: QueryError."""
        for name, least in (("admit", 1), ("least_users", 1), ("epochs", 1), ("replay", 0)):
            if not getattr(self, name) >= least:
                raise QueryError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.hold_out < 1:
            raise QueryError(f"hold_out must be a share between 0 and 1, got {self.hold_out}")
        return self


@dataclass(frozen=True)
class Refresh:
    """What became of a refresh.

    bundle, path: what was published. events: new events that were added. watermark: up to which
    event of a store the refreshed model knows. learned_held_out: whether the published model has
    learned the events that it was measured on, too, after that. deleted: users who are to be
    forgotten, and were if it was published. vocabulary: ids that are learned, before and after,
    and those that came and went. optimiser: where what it remembered came from.
    """

    decision: Decision
    reason: str
    events: int = 0
    held_out: int = 0
    comparison: Comparison | None = None
    drift: Drift | None = None
    learned_held_out: bool = False
    bundle: str | None = None
    path: Path | None = None
    watermark: Watermark | None = None
    deleted: int = 0
    vocabulary: dict[str, dict[str, int]] = field(default_factory=dict)
    optimiser: str | None = None
    warnings: tuple[str, ...] = ()
    cpu_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object."""
        return {
            **{name: value for name, value in self.__dict__.items() if name != "warnings"},
            "warnings": list(self.warnings),
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "drift": None if self.drift is None else self.drift.to_dict(),
            "path": None if self.path is None else str(self.path),
            "watermark": None if self.watermark is None else str(self.watermark),
        }

    def lines(self) -> Iterator[str]:
        """Say it in sentences."""
        yield f"{self.decision.capitalize()}: {self.reason}"
        if self.comparison is not None:
            yield self.comparison.line()
        if self.drift is not None:
            yield self.drift.line()
        for side, count in self.vocabulary.items():
            yield (
                f"{side.capitalize()} that are learned: {count['before']:,} before, "
                f"{count['after']:,} now ({count['came']:,} came, {count['went']:,} went)."
            )
        if self.optimiser is not None:
            yield f"The optimiser {self.optimiser}."
        yield from (f"Warning: {warning}." for warning in self.warnings)
        if self.bundle is not None:
            yield f"Saved as {self.path} ({self.bundle[:12]})."


def refresh(
    bundle: str | Path,
    events: str | StorePlace,
    out: str | Path,
    *,
    plan: Plan | None = None,
    watermark: Watermark | None = None,
    items_watermark: Watermark | None = None,
    training: str | Path | None = None,
    overwrite: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Refresh:
    """Let a bundle go on from new events, and publish it as `out` if it is no worse for it.

    bundle: the one in service. events: the store that `serve --events` keeps, an export of it, or a
    log with the columns of the bundle's. Towers go on from their weights; counting channels, EASE
    and graph filters become what a whole fit would give; ALS does one more round. The newest events
    are held out: where the interval of the difference to the bundle in service, asked with the same
    events as a service asks it, lies below zero, nothing is published, nor with too few users.

    training: the folder of what the optimiser remembers; BUNDLE.training is read and OUT.training
    written where none is given. What it holds of another bundle is not used. watermark: up to which
    event of a store `events` goes, where the file does not say it. items_watermark: the last change
    of items that plan.items has, as the service lists it; a service makes only later ones to the
    new bundle, so the table must then list every item of the bundle's. A newer table without it
    gets all changes once more, as nobody knows which of them it has.

    Errors: BundleError, DataError, ModelError, QueryError, EventStoreError, OutputError.
    """
    started = time.process_time()
    bundle, place, out = Path(bundle), place_of(events), Path(out)
    plan = (plan or Plan()).checked()
    if items_watermark is not None and plan.items is None:
        raise QueryError(
            "a watermark of changes of items says which of them a table of items has: give the "
            "table, too (--items), or leave it out"
        )
    kept = out.with_name(f"{out.name}.training") if training is None else Path(training)
    before = bundle.with_name(f"{bundle.name}.training") if training is None else kept
    outputs.check(
        {"--out": Output(out, "bundle", overwrite=overwrite), "--training": Output(kept, "folder")},
        {"the bundle": bundle, "--events": place if isinstance(place, Path) else None},
    )
    loaded = load(bundle, device=device)
    whole = items_watermark is not None
    made = _refreshed(loaded, place, plan, watermark, before, progress, whole_items=whole)
    if isinstance(made, Refresh):
        return replace(made, cpu_seconds=time.process_time() - started)
    result, candidate, memory, final = made
    recipe = Recipe.from_dict(loaded.recipe or {})
    metrics = loaded.metrics
    if candidate is not None:
        section = recipe.evaluation
        metrics = evaluate(candidate, k=section.k, exclude_seen=section.exclude_seen).to_dict()
    identity = save_or_keep(
        *(final, out),
        overwrite=overwrite,
        metrics=metrics,
        recipe=loaded.recipe,
        findings=loaded.manifest.fields.get("findings", ()),
        watermark=result.watermark,
        items_watermark=loaded.items_watermark if plan.items is None else items_watermark,
    )
    _keep(kept, out, final, memory)
    return replace(result, bundle=identity, path=out, cpu_seconds=time.process_time() - started)


def _refreshed(
    loaded: Bundle,
    events: StorePlace,
    plan: Plan,
    watermark: Watermark | None,
    kept: Path,
    progress: Progress | None,
    *,
    whole_items: bool,
) -> "Refresh | tuple[Refresh, Channel | None, Memory, Channel]":
    """Learn and compare; only what is to be published comes with the model.

    The first model is the one that was compared, which figures are measured of.
    """
    running = loaded.retriever
    if loaded.recipe is None:
        raise QueryError("this bundle has no recipe, which tells the columns: refresh needs one")
    for one in (running, *parts(running).values()):
        if not isinstance(one, Refreshes):
            raise ModelError(
                f"a {type(one).__name__} cannot go on from what it has learned: train again"
            )
        if isinstance(one, Learner):
            check_index(one)
    assert isinstance(running, Refreshes)
    running.data.require_log("a refresh")
    recipe = Recipe.from_dict(loaded.recipe)
    new, came, source = _new_data(loaded, recipe, events, plan, whole_items=whole_items)
    result = Refresh(
        "nothing new",
        "no event has come that the bundle does not know.",
        events=came.events,
        watermark=watermark or source.until,
        deleted=len(source.deleted),
        vocabulary=_vocabulary(running.data, new.data),
        warnings=(
            *_warnings(came, source, new),
            *_unlearned(running),
            *_changes_again(loaded, plan, known=whole_items),
        ),
    )
    if not came.events and not came.met and not source.deleted:
        if plan.users is not None or plan.items is not None:
            reason = f"{result.reason[:-1]}; newer tables are read with the next events."
            result = replace(result, reason=reason)
        return result
    memory, said = _remembered(kept, loaded)
    lesson = Lesson(
        new.unlearned & ~new.held_out,
        *(plan.epochs, plan.replay, recipe.training.seed),
        before=memory,
    )
    if source.none_new:  # somebody wants to be forgotten: that does not wait for others
        lesson = replace(lesson, learn=np.zeros(len(new.data.log), dtype=np.bool_))
        final = running.refreshed(new.data, lesson, progress=progress)
        reason = "who was deleted is gone. There was nothing new to learn, or to compare on."
        result = replace(result, decision="published", reason=reason)
        return result, None, lesson.after, final
    if why := _nothing_held_out(new):
        return replace(result, decision="not decided", reason=why)
    candidate = running.refreshed(new.data, lesson, progress=progress)
    if why := lesson.nothing.get(""):
        reason = (
            f"the new events hold no positive to learn from: {why}. The bundle in service stays, "
            "and its events wait for the next refresh."
        )
        return replace(result, decision="not decided", reason=reason)
    idle = tuple(
        f"the channel {name} has learned nothing: {why}" for name, why in lesson.nothing.items()
    )
    result = replace(result, warnings=(*result.warnings, *idle))
    comparison, drift = judged(
        *(running, candidate, new),
        depths=recipe.evaluation.k,
        deleted=source.deleted,
        exclude_seen=recipe.evaluation.exclude_seen,
    )
    result = replace(
        result,
        held_out=int(new.held_out.sum()),
        comparison=comparison,
        drift=drift,
        optimiser=said,
    )
    verdict = comparison.verdict(plan.least_users)
    if verdict == "worse":
        reason = (
            "the refreshed model is worse than the one in service, beyond the interval; that stays."
        )
        return replace(result, decision="refused", reason=reason)
    if verdict == "not decided":
        reason = (
            f"{comparison.users:,} users have held-out events, and {plan.least_users:,} are needed "
            "to compare by. The bundle in service stays, and its events wait for the next refresh."
        )
        return replace(result, decision="not decided", reason=reason)
    if running.data.fit != "all":
        reason = (
            "no worse than the model in service. The held-out events are known and not learned: "
            "the next refresh does that."
        )
        result = replace(result, decision="published", reason=reason)
        return result, candidate, lesson.after, candidate
    whole = new.whole()
    lesson = replace(lesson, learn=whole.held_out, before=lesson.after, after={})
    final = candidate.refreshed(whole.data, lesson, progress=progress)
    reason = (
        "no worse than the model in service. It has since learned the held-out events, too: the "
        "figures are of the model before that."
    )
    result = replace(result, decision="published", reason=reason, learned_held_out=True)
    return result, candidate, lesson.after, final


def _new_data(
    loaded: Bundle, recipe: Recipe, events: StorePlace, plan: Plan, *, whole_items: bool
) -> tuple[Renewed, Update, Unlearned]:
    """Read the events and number the data anew."""
    data, schema = loaded.retriever.data, schema_of(recipe)
    source = unlearned(events, loaded.watermark, schema, data)
    if source.exported:
        schema = replace(schema, session=None)
    described = recipe.described_sides
    kept = without_users(data, pl.Series(source.deleted, dtype=data.users.ids.dtype))
    tables: dict[Side, Path | None] = {"user": plan.users, "item": plan.items}
    whole: tuple[Side, ...] = ("item",) if whole_items else ()
    kept = _with_tables(kept, recipe, tables, whole=whole)
    read: tuple[Side, ...] = () if source.exported else described
    if source.source is None:
        came = with_events(kept, no_events(kept), learns=True)
    else:
        came = read_events(
            *(kept, source.source, schema),
            described=read,
            learns=True,
            of_store=source.exported,
        )
    new = renewed(
        data,
        came,
        admit=plan.admit,
        window=plan.window,
        held_out=None if source.none_new else plan.hold_out,
        described=described,
    )
    return new, came, source


def _with_tables(
    data: TrainingData,
    recipe: Recipe,
    tables: Mapping[Side, Path | None],
    *,
    whole: Collection[Side],
) -> TrainingData:
    """The data with what newer tables of users and items say; whole: those that list each one."""
    schema = schema_of(recipe)
    for side, path in tables.items():
        if path is None:
            continue
        name = f"{side}s"
        if getattr(data, f"{side}_frame") is None:
            raise DataError(f"the bundle has no table of {name}, so a newer one says nothing to it")
        features = schema.user_features if side == "user" else schema.item_features
        table = read_entities(
            *(path, schema.id_of(name), features, schema.title if side == "item" else None, name),
            text=schema.text_of(name),
            null_ids=schema.null_ids,
        )
        known = getattr(data, name).ids
        _, ids = align_ids(
            known, table["id"], left_text=False, right_text=is_text(path), where=str(path)
        )
        own = getattr(data, f"{side}_frame")["id"]
        if side in whole and len(missing := own.filter(~own.is_in(ids.implode()))):
            raise DataError(
                f"{path}: {len(missing):,} of {len(own):,} {name} of the bundle's table are not in "
                f"it, such as {missing[0]!r}: with a watermark it must list them all, as no change "
                "up to that is made to them again; add them, or leave the watermark out"
            )
        data = with_table(data, side, table.with_columns(ids.alias("id")))
    return data


def _warnings(came: Update, source: Unlearned, new: Renewed) -> tuple[str, ...]:
    said = list(came.warnings)
    if source.strange:
        said.append(f"{source.strange:,} events have ids of another type than the bundle's")
    if new.gone:
        said.append(f"{new.gone:,} events were older than the window, and are forgotten")
    return tuple(said)


def _changes_again(loaded: Bundle, plan: Plan, *, known: bool) -> Iterator[str]:
    """What becomes of changes of items that nobody says the newer table has."""
    if plan.items is not None and not known and loaded.items_watermark is not None:
        yield (
            "nobody says which changes of items the newer table has (--items-watermark): a service "
            "makes all of them to the new bundle again"
        )


def _nothing_held_out(new: Renewed) -> str | None:
    """Why no event could be held out to compare on, and what to do; None where some are."""
    if new.held_out.any():
        return None
    log, waits = new.data.log, "The bundle in service stays, and its events wait for the next one."
    if log.target is not None and not (new.fresh & log.target).any():
        assert log.kinds is not None
        kinds = ", ".join(
            name for name, one in zip(log.kinds.names, log.kinds.targets, strict=True) if one
        )
        return (
            f"{int(new.fresh.sum()):,} events came, and none of them is of a kind that is a target "
            f"({kinds}), so there is nothing to hold out and to compare on. {waits} Wait for such "
            "events, or see whether the source names their kinds as data.events does."
        )
    return (
        f"{int(new.fresh.sum()):,} events came that can be learned: one to learn and one to hold "
        f"out are the least to compare on. {waits}"
    )


def _unlearned(running: Channel) -> Iterator[str]:
    """What was learned, and is not in a bundle of an older version."""
    for name, part in parts(running).items():
        if not isinstance(part, Learner) or "objective.log_scale" in part.learned:
            continue
        if part.training_section.learn_temperature:
            yield (
                f"the bundle is of an older version and does not hold the temperature that {name} "
                f"learned: it begins at {part.training_section.temperature:g} again"
            )


def _vocabulary(old: TrainingData, new: TrainingData) -> dict[str, dict[str, int]]:
    """How many ids are learned, before and after."""
    found = {}
    for side in ("users", "items"):
        before, after = getattr(old, side), getattr(new, side)
        rows = before.rows(after.ids.head(after.trained))
        both = int(((rows > 0) & (rows <= before.trained)).sum())
        found[side] = {
            "before": before.trained,
            "after": after.trained,
            "came": after.trained - both,
            "went": before.trained - both,
        }
    return found


def _stages(folder: Path, retriever: Channel, space: str) -> dict[str, Stage]:
    """Where what the optimiser of each channel with towers remembers is kept."""
    towers = {name for name, part in parts(retriever).items() if isinstance(part, Learner)}
    alone = isinstance(retriever, Learner)
    return {
        "" if alone else name: Stage(
            folder, "refresh" if alone else f"{name}.refresh", space, float("inf")
        )
        for name in towers
    }


def _remembered(folder: Path, loaded: Bundle) -> tuple[Memory, str | None]:
    """What the optimisers remember from the last refresh of this very bundle, and a word on it."""
    stages = _stages(folder, loaded.retriever, loaded.manifest.fields["embedding_space"])
    if not stages:
        return {}, None
    memory: Memory = {}
    for part, stage in stages.items():
        try:
            state = stage.load()
        except CheckpointError as error:
            return {}, f"began anew: {error}"
        if state is None:
            return {}, f"began anew: {folder} holds nothing of the bundle"
        memory[part] = state.tensors
    return memory, f"went on from {folder}"


def _keep(folder: Path, bundle: Path, published: Channel, memory: Memory) -> None:
    """Put by what the optimisers remember, as of the towers of this bundle."""
    if not memory:
        return
    stages = _stages(folder, published, verify(bundle).fields["embedding_space"])
    for part, stage in stages.items():
        stage.save(State({}, memory[part]))


def newest(place: Path) -> Path:
    """Return the bundle at a path: itself, or the newest in a folder. Errors: QueryError."""
    if is_bundle(place):
        return place
    try:
        names = [path.name for path in place.iterdir() if is_bundle(path) and _is_own(path.name)]
    except OSError as error:
        raise QueryError(f"{place}: there is neither a bundle nor a folder of bundles") from error
    if not names:
        raise QueryError(f"{place}: there is no bundle in this folder yet: publish one into it")
    return place / max(names, key=natural)


def _is_own(name: str) -> bool:
    return not (name.startswith(".") or is_temporary(name) or is_kept(name))


def next_name(name: str) -> str:
    """Return the name of the bundle after one of this name: a service takes it for newer.

    What is trained anew, such as v2, stands above all that was refreshed from v1.

    >>> next_name("v1"), next_name("v1-r1"), next_name("2026-11-28-r9")
    ('v1-r1', 'v1-r2', '2026-11-28-r10')
    """
    found = _REFRESHED.fullmatch(name)
    return f"{name}-r1" if found is None else f"{found[1]}-r{int(found[2]) + 1}"


def _tidy(folder: Path, keep: int) -> None:
    """Remove all but the newest bundles that a refresh has named; others are not touched."""
    names = [path.name for path in folder.iterdir() if is_bundle(path)]
    old = sorted((name for name in names if _REFRESHED.fullmatch(name)), key=natural)[:-keep]
    for name in old:
        outputs.remove(folder / name)


def follow(
    bundle: str | Path,
    events: str | StorePlace,
    folder: str | Path,
    every: float,
    *,
    told: Callable[[Refresh], None],
    failed: Callable[[ShortlistError], None],
    stop: Event | None = None,
    keep: int = 10,
    plan: Plan | None = None,
    training: Path | None = None,
    device: str = "cpu",
) -> None:
    """Refresh every so many seconds, and publish into a folder of bundles, until `stop` is set.

    Each round goes on from the newest bundle in the folder, or from `bundle` while there is none.
    What cannot be done in one round is told, and tried again in the next. keep: so many of the
    bundles that were published so (NAME-r1, NAME-r2, ...) stay in the folder, the newest.
    """
    bundle, folder, stop = Path(bundle), Path(folder), stop or Event()
    training = training or folder.with_name(f"{folder.name}.training")
    while True:
        begun = time.monotonic()
        try:
            running = newest(folder) if _has_bundles(folder) else newest(bundle)
            out = folder / next_name(running.name)
            made = refresh(running, events, out, plan=plan, training=training, device=device)
            told(made)
            _tidy(folder, keep)
        except ShortlistError as error:
            failed(error)
        if stop.wait(max(0.0, every - (time.monotonic() - begun))):
            return


def _has_bundles(folder: Path) -> bool:
    return folder.is_dir() and any(
        is_bundle(path) and _is_own(path.name) for path in folder.iterdir()
    )
