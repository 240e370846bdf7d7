"""How does a bundle learn new events? It is updated, compared with the old one, and published."""

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
from shortlist.data.id_columns import align_ids
from shortlist.data.log_features import Side
from shortlist.data.readers import is_text, read_entities
from shortlist.data.renewal import Renewed, renewed, with_table, without_users
from shortlist.data.training_data import TrainingData
from shortlist.data.updates import Update, no_events, read_events, with_events
from shortlist.errors import (
    CheckpointError,
    DataError,
    ModelError,
    QueryError,
    ShortlistError,
    suggest_path,
)
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
"""Least number of users with held-out events: with fewer, the interval would be too wide."""

_REFRESHED = re.compile(r"(.+)-r([1-9][0-9]*)", re.DOTALL)

Decision = Literal["published", "refused", "not decided", "nothing new"]


@dataclass(frozen=True)
class Plan:
    """Settings of a refresh.

    admit: number of training events from which an item is learned.
    window: age, counted back from the newest event, beyond which events are removed, such as "90d"
    or a number in the unit of the log's times. Users and items that then have neither an event nor
    a row in a table are removed too. None keeps all events.
    hold_out: share of the new events, the newest ones, on which the two models are compared.
    least_users: with held-out events of fewer users, no model is published.
    epochs: number of passes of the towers over the new events.
    replay: number of old events, sampled at random, that towers learn per new event.
    users: newer users table, whose rows replace those in the bundle; None for none.
    items: newer items table, likewise.
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
        """Return the plan after checking its values. Errors: QueryError."""
        for name, least in (("admit", 1), ("least_users", 1), ("epochs", 1), ("replay", 0)):
            if not getattr(self, name) >= least:
                raise QueryError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.hold_out < 1:
            raise QueryError(f"hold_out must be a share between 0 and 1, got {self.hold_out}")
        return self


@dataclass(frozen=True)
class Refresh:
    """The result of a refresh.

    decision: whether the refreshed model was published.
    reason: the reason for the decision, a sentence.
    events: number of new events.
    held_out: number of new events that were held out for the comparison.
    comparison: figures of both models on the held-out events; None if they were not compared.
    drift: changes between the models; None if they were not compared.
    learned_held_out: whether the published model was also trained on the held-out events, after
    the comparison.
    bundle: id of the published bundle; None if none was published.
    path: folder of the published bundle; None if none was published.
    watermark: position in the event store up to which the refreshed model knows the events.
    deleted: number of users who asked to be forgotten; publishing removes them.
    vocabulary: for "users" and "items", the number of learned ids before and after the refresh,
    and of those that were added ("came") and removed ("went").
    optimiser: where the state of the optimiser came from; None without towers.
    warnings: problems that did not stop the refresh.
    cpu_seconds: CPU time of the refresh in seconds.
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
        """Yield the result as sentences, one a line."""
        yield f"{self.decision.capitalize()}: {self.reason}"
        if self.comparison is not None:
            yield self.comparison.line()
        if self.drift is not None:
            yield self.drift.line()
        for side, count in self.vocabulary.items():
            yield (
                f"{side.capitalize()} that the model has learned: {count['before']:,} before, "
                f"{count['after']:,} now ({count['came']:,} added, {count['went']:,} removed)."
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
    """Update a bundle with new events, and publish it at `out` unless it is worse than before.

    Towers continue from their weights. Counting channels, EASE and graph filters get the values of
    a full fit. ALS runs one more iteration. The newest events are held out, and both models are
    compared on them; the model in service gets the same events as in a service. Nothing is
    published if the 95 % interval of the difference is below zero, or if too few users have
    held-out events.

    bundle: the bundle in service.
    events: the event store of `serve --events`, an export of it, or a log with the columns of the
    bundle's log.
    out: folder of the refreshed bundle.
    plan: settings of the refresh; None for the defaults.
    watermark: position in the event store up to which `events` goes, if the file does not hold it.
    items_watermark: the last change of items that plan.items contains, as the service lists it. A
    service then applies only later changes to the new bundle, so the table must list every item of
    the bundle. Without it, the service applies all changes again to a bundle with a newer table.
    training: folder of the optimiser's state. By default BUNDLE.training is read and OUT.training
    is written. The state of another bundle is not used.
    overwrite: replaces a bundle that exists at `out`.
    device: where towers are trained, such as "cpu" or "cuda".
    progress: receives the progress of the training; None shows nothing.

    Errors: BundleError, DataError, ModelError, QueryError, EventStoreError, OutputError.
    """
    started = time.process_time()
    bundle, place, out = Path(bundle), place_of(events), Path(out)
    plan = (plan or Plan()).checked()
    if items_watermark is not None and plan.items is None:
        raise QueryError(
            "items_watermark says which changes of items an items table contains: give the table "
            "as well (--items), or leave items_watermark out"
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
    """Update the model and compare it.

    Returns: the result alone if nothing is to be published. Else also the compared model, whose
    figures the bundle gets (None if none was compared), the optimiser's state, and the model to
    publish.
    """
    running = loaded.retriever
    if loaded.recipe is None:
        raise QueryError(
            "this bundle has no recipe, and a refresh reads the columns of the log from it: train "
            "again from a recipe"
        )
    for one in (running, *parts(running).values()):
        if not isinstance(one, Refreshes):
            raise ModelError(
                f"a {type(one).__name__} cannot be updated with new events: train again"
            )
        if isinstance(one, Learner):
            check_index(one)
    assert isinstance(running, Refreshes)
    running.data.require_log("a refresh")
    recipe = Recipe.from_dict(loaded.recipe)
    new, came, source = _new_data(loaded, recipe, events, plan, whole_items=whole_items)
    result = Refresh(
        "nothing new",
        "there are no events that the bundle does not know.",
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
            reason = f"{result.reason[:-1]}; the newer tables will be read with the next events."
            result = replace(result, reason=reason)
        return result
    memory, said = _remembered(kept, loaded)
    lesson = Lesson(
        new.unlearned & ~new.held_out,
        *(plan.epochs, plan.replay, recipe.training.seed),
        before=memory,
    )
    if source.none_new:  # a deletion does not wait for new events
        lesson = replace(lesson, learn=np.zeros(len(new.data.log), dtype=np.bool_))
        final = running.refreshed(new.data, lesson, progress=progress)
        reason = "deleted users were removed. There were no new events to learn or to compare on."
        result = replace(result, decision="published", reason=reason)
        return result, None, lesson.after, final
    if why := _nothing_held_out(new):
        return replace(result, decision="not decided", reason=why)
    candidate = running.refreshed(new.data, lesson, progress=progress)
    if why := lesson.nothing.get(""):
        reason = (
            f"the new events contain no positive to learn from: {why}. The bundle in service "
            "stays, and the events wait for the next refresh."
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
            "the refreshed model is worse than the one in service: the whole interval is below "
            "zero. The bundle in service stays."
        )
        return replace(result, decision="refused", reason=reason)
    if verdict == "not decided":
        reason = (
            f"{comparison.users:,} users have held-out events, and a comparison needs "
            f"{plan.least_users:,}. The bundle in service stays, and the events wait for the next "
            "refresh."
        )
        return replace(result, decision="not decided", reason=reason)
    if running.data.fit != "all":
        reason = (
            "no worse than the model in service. The held-out events are in the histories, and "
            "the next refresh learns them."
        )
        result = replace(result, decision="published", reason=reason)
        return result, candidate, lesson.after, candidate
    whole = new.whole()
    lesson = replace(lesson, learn=whole.held_out, before=lesson.after, after={})
    final = candidate.refreshed(whole.data, lesson, progress=progress)
    reason = (
        "no worse than the model in service. After the comparison it has also learned the "
        "held-out events; the figures were measured before that."
    )
    result = replace(result, decision="published", reason=reason, learned_held_out=True)
    return result, candidate, lesson.after, final


def _new_data(
    loaded: Bundle, recipe: Recipe, events: StorePlace, plan: Plan, *, whole_items: bool
) -> tuple[Renewed, Update, Unlearned]:
    """Read the new events and tables, and merge them with the data of the bundle."""
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
    """Return the data with the rows of newer users and items tables.

    whole: the sides whose table must list every row of the bundle's table.
    """
    schema = schema_of(recipe)
    for side, path in tables.items():
        if path is None:
            continue
        name = f"{side}s"
        if getattr(data, f"{side}_frame") is None:
            raise DataError(
                f"the bundle was trained without a table of {name}, so it reads none: leave the "
                "newer table out, or train again with it"
            )
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
                f"it, such as {missing[0]!r}: with a watermark the table must list them all, "
                "because changes up to the watermark are not applied again; add them, or leave the "
                "watermark out"
            )
        data = with_table(data, side, table.with_columns(ids.alias("id")))
    return data


def _warnings(came: Update, source: Unlearned, new: Renewed) -> tuple[str, ...]:
    said = list(came.warnings)
    if source.strange:
        said.append(
            f"{source.strange:,} events were left out: their ids have another type than those of "
            "the bundle"
        )
    if new.gone:
        said.append(f"{new.gone:,} events were older than the window and were removed")
    return tuple(said)


def _changes_again(loaded: Bundle, plan: Plan, *, known: bool) -> Iterator[str]:
    """Warn that all changes of items will be applied again, if no watermark of them is given."""
    if plan.items is not None and not known and loaded.items_watermark is not None:
        yield (
            "it is not known which changes of items the newer table contains (--items-watermark), "
            "so a service will apply all of them to the new bundle again"
        )


def _nothing_held_out(new: Renewed) -> str | None:
    """Return why no event was held out, and what to do; None if some were."""
    if new.held_out.any():
        return None
    log, waits = new.data.log, "The bundle in service stays, and the events wait for a refresh."
    if log.target is not None and not (new.fresh & log.target).any():
        assert log.kinds is not None
        kinds = ", ".join(
            name for name, one in zip(log.kinds.names, log.kinds.targets, strict=True) if one
        )
        return (
            f"none of the {int(new.fresh.sum()):,} new events is of a kind that is a target "
            f"({kinds}), so no event can be held out for a comparison. {waits} Wait for such "
            "events, or check that the source names their kinds as data.events does."
        )
    return (
        f"{int(new.fresh.sum()):,} new events can be learned, and a comparison needs at least two: "
        f"one to learn and one to hold out. {waits}"
    )


def _unlearned(running: Channel) -> Iterator[str]:
    """Warn of learned temperatures that a bundle of an older version does not hold."""
    for name, part in parts(running).items():
        if not isinstance(part, Learner) or "objective.log_scale" in part.learned:
            continue
        if part.training_section.learn_temperature:
            yield (
                f"the bundle is of an older version and does not hold the temperature that {name} "
                f"learned: it starts again at {part.training_section.temperature:g}"
            )


def _vocabulary(old: TrainingData, new: TrainingData) -> dict[str, dict[str, int]]:
    """Return the numbers of learned ids before and after, as in Refresh.vocabulary."""
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
    """Return the file of the optimiser's state of each channel with towers, by channel name.

    space: the embedding space of the bundle that the state belongs to.
    """
    towers = {name for name, part in parts(retriever).items() if isinstance(part, Learner)}
    alone = isinstance(retriever, Learner)
    return {
        "" if alone else name: Stage(
            folder, "refresh" if alone else f"{name}.refresh", space, float("inf")
        )
        for name in towers
    }


def _remembered(folder: Path, loaded: Bundle) -> tuple[Memory, str | None]:
    """Load the optimisers' state from the last refresh of this bundle, and describe its source."""
    stages = _stages(folder, loaded.retriever, loaded.manifest.fields["embedding_space"])
    if not stages:
        return {}, None
    memory: Memory = {}
    for part, stage in stages.items():
        try:
            state = stage.load()
        except CheckpointError as error:
            return {}, f"started without its earlier state: {error}"
        if state is None:
            return {}, f"started without its earlier state: {folder} holds none of this bundle"
        memory[part] = state.tensors
    return memory, f"continued with its state in {folder}"


def _keep(folder: Path, bundle: Path, published: Channel, memory: Memory) -> None:
    """Save the optimisers' state for the next refresh of this bundle."""
    if not memory:
        return
    stages = _stages(folder, published, verify(bundle).fields["embedding_space"])
    for part, stage in stages.items():
        stage.save(State({}, memory[part]))


def newest(place: Path) -> Path:
    """Return the path if it is a bundle, or the newest bundle in that folder.

    Errors: QueryError.
    """
    if is_bundle(place):
        return place
    try:
        names = [path.name for path in place.iterdir() if is_bundle(path) and _is_own(path.name)]
    except OSError as error:
        near = suggest_path(place, folder=True)
        raise QueryError(f"{place} is neither a bundle nor a folder of bundles.{near}") from error
    if not names:
        raise QueryError(f"{place}: there is no bundle in this folder yet: publish one into it")
    return place / max(names, key=natural)


def _is_own(name: str) -> bool:
    return not (name.startswith(".") or is_temporary(name) or is_kept(name))


def next_name(name: str) -> str:
    """Return the name for the refresh of a bundle, which a service sorts after that bundle.

    A bundle that was trained again, such as v2, sorts after all refreshes of v1.

    >>> next_name("v1"), next_name("v1-r1"), next_name("2026-11-28-r9")
    ('v1-r1', 'v1-r2', '2026-11-28-r10')
    """
    found = _REFRESHED.fullmatch(name)
    return f"{name}-r1" if found is None else f"{found[1]}-r{int(found[2]) + 1}"


def _tidy(folder: Path, keep: int) -> None:
    """Remove the bundles named by a refresh, except the `keep` newest. Others are not touched."""
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
    """Refresh repeatedly, and publish into a folder of bundles, until `stop` is set.

    Each round continues from the newest bundle in the folder, or from `bundle` if the folder is
    empty. A round that fails is reported and tried again in the next one.

    bundle: the first bundle in service, or a folder of bundles.
    events: as in `refresh`.
    folder: folder into which bundles are published.
    every: seconds from the start of one round to the start of the next.
    told: called with the result of each round.
    failed: called with the error of a round.
    stop: ends the loop when it is set; None runs forever.
    keep: number of published bundles (NAME-r1, NAME-r2 and so on) that stay, the newest ones.
    plan, training, device: as in `refresh`; training is FOLDER.training by default.
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
