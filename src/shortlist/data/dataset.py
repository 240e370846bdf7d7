"""The data set: a log and its features, read once, split, and made ready for training."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.data import splits
from shortlist.data.event_columns import EventFeatures, Values, taken_from
from shortlist.data.features import FeatureTable
from shortlist.data.id_columns import align_ids, few_shared
from shortlist.data.impressions import Shown, every_shown
from shortlist.data.interactions import BEFORE, Interactions, Role
from shortlist.data.kinds import Kinds
from shortlist.data.log_features import Described, Side, described_of, described_sides
from shortlist.data.ordering import keys_at, ordered, pair_hash, tie_rule
from shortlist.data.readers import is_text, read_entities, read_log, refuse_idle_text
from shortlist.data.reports import ReadReport
from shortlist.data.schema import Schema
from shortlist.data.times import time_key
from shortlist.data.training_data import FIT_BEFORE, Fit, TrainingData
from shortlist.data.vocabulary import Vocabulary, encoded, hash_ids, places_of
from shortlist.errors import ModelError, SplitError
from shortlist.sections.kinds import ColdItems
from shortlist.showing import Facts, Showing

logger = logging.getLogger("shortlist.data")


@dataclass(frozen=True, repr=False)
class Dataset(Showing):
    """A log sorted by user and time, with the raw features of users and items.

    No statistic is computed here: `Split.training_data` computes them from training rows only, so
    that nothing from after the cut leaks into a model.

    Attributes:
        schema: the columns and features the data was read with.
        user_ids: the distinct user ids, sorted.
        item_ids: the distinct item ids, sorted.
        log: the events. They hold codes: positions in `user_ids` and `item_ids`.
        report: what was read, merged and left out.
        users: the user table; None if none was given.
        items: the item table; None if none was given.
        split_values: the value of the split column for each event of `log`.
        shown: the logs of hard negatives, as "exposed" and "dropped".
        met: events that train nothing but count as seen by their users, in codes: those below
            `min_weight`, and those of kinds that are not read. None where the schema has neither.
        met_split_values: the value of the split column for each event of `met`.
        described: what the log says about a side (users or items) that has no table.
        event_values: the values of each categorical event feature; `log` holds positions in them.
    """

    schema: Schema
    user_ids: pl.Series
    item_ids: pl.Series
    log: Interactions
    report: ReadReport
    users: pl.DataFrame | None = None
    items: pl.DataFrame | None = None
    split_values: NDArray[Any] | None = None
    shown: Mapping[str, Shown] = field(default_factory=dict)
    met: Interactions | None = None
    met_split_values: NDArray[Any] | None = None
    described: Mapping[Side, Described] = field(default_factory=dict)
    event_values: Values = field(default_factory=dict)

    def facts(self) -> Facts:
        """Return the numbers of users, items and events, and the names of the features."""
        met = {} if self.met is None else {"met_only": len(self.met)}
        features = {
            f"{side}_features": ", ".join(feature.name for feature in declared)
            for side, declared in (
                ("user", self.schema.user_features),
                ("item", self.schema.item_features),
            )
            if declared
        }
        counts = {"users": len(self.user_ids), "items": len(self.item_ids), "events": len(self.log)}
        return counts | met | features

    @classmethod
    def load(
        cls,
        interactions: Any,
        *,
        users: Any = None,
        items: Any = None,
        impressions: Any = None,
        dropped: Any = None,
        schema: Schema | None = None,
    ) -> "Dataset":
        """Read a log, and its features if there are any, from files or frames.

        Args:
            interactions: the log. This and each other table is a CSV, TSV, Parquet or RecBole
                atomic file, or a polars, pandas or Arrow table.
            users: table of user features. Without it the log holds them as columns.
            items: table of item features and the title. Without it the log holds them as columns.
            impressions: log of what was shown; it needs `schema.click`.
            dropped: log of items that a later stage dropped. This log and `impressions` provide
                hard negatives (`shown`) and use the column names of the interactions.
            schema: names the columns; by default `Schema()`.

        Raises DataError naming the file, column and row of what cannot be used.
        """
        data, *_ = cls._loaded(
            *(interactions, users, items, impressions, dropped, schema or Schema(), False)
        )
        return data

    @classmethod
    def part(
        cls, events: pl.DataFrame, schema: Schema
    ) -> tuple["Dataset", pl.DataFrame, pl.DataFrame | None]:
        """Read the events of some users only, with the rules of `load`.

        Checks that need the events of all users are left out. Returns the data, and the raw rows of
        its `log` and of its `met`, each in the same order as these.
        """
        data, frame, order, met, by_user = cls._loaded(
            *(events, None, None, None, None), schema, True
        )
        others = None if met is None or by_user is None else met[by_user]
        return data, _in_order(frame, order, data), others

    @classmethod
    def _loaded(
        cls,
        interactions: Any,
        users: Any,
        items: Any,
        impressions: Any,
        dropped: Any,
        schema: Schema,
        part: bool,
    ) -> tuple[
        "Dataset",
        pl.DataFrame,
        NDArray[np.uint32],
        pl.DataFrame | None,
        NDArray[np.uint32] | None,
    ]:
        """Return the data, the events as read and their order in the log, and the same of `met`."""
        sides = described_sides(schema, users, items)
        read = read_log(interactions, schema, only_met=part, described=sides)
        frame, met, report = read.events, read.met, read.report
        refuse_idle_text(schema, interactions, users, items, impressions, dropped)
        notes: list[str] = []
        frame, user_frame = _aligned(frame, interactions, users, schema, "user", notes)
        frame, item_frame = _aligned(frame, interactions, items, schema, "item", notes)
        user_ids, user, met_user = _encode(frame["user"], user_frame, met)
        item_ids, item, met_item = _encode(frame["item"], item_frame, met)
        by_file = "file" in (schema.tie, schema.order)
        time, kind = _numpy(frame, "time"), _numpy(frame, "kind")
        kinds = Kinds.of(schema.events) if kind is not None else None
        keys, met_keys = (
            partial(keys_at, user_ids, item_ids, *codes)
            for codes in ((user, item), (met_user, met_item))
        )
        tie = None if by_file else tie_rule(keys, kind, kinds)
        order, log_user, log_time = ordered(user, time, tie)
        met_log = met_values = by_user = None
        if met is not None:
            by_user, sorted_user, sorted_time = ordered(
                met_user, _numpy(met, "time"), tie_rule(met_keys)
            )
            met_log = Interactions(
                user=sorted_user, item=met_item[by_user], users=len(user_ids), time=sorted_time
            )
            met_values = None if (v := _numpy(met, "split")) is None else v[by_user]
        log = Interactions(
            user=log_user,
            item=item[order],
            users=len(user_ids),
            time=log_time,
            weight=None if (w := _numpy(frame, "weight")) is None else w.astype(np.float32)[order],
            session=_sessions(frame, order),
            kind=None if kind is None else kind[order],
            kinds=kinds,
            columns={name: column[order] for name, column in taken_from(frame).items()},
        )
        values = frame["split"].to_numpy()[order] if "split" in frame.columns else None
        described = described_of(
            *(read.events, read.met, read.versions, order, by_user),
            None if by_file or not read.versions else (keys(), met_keys()),
        )
        shown = every_shown(
            *(impressions, dropped, schema, user_ids, item_ids, log, report.time_unit)
        )
        unshared = [
            few_shared(side, ids.gather(np.flatnonzero(np.bincount(codes))), table)
            for side, ids, codes, table in (
                ("user", user_ids, user, user_frame),
                ("item", item_ids, item, item_frame),
            )
            if table is not None
        ]
        report = replace(
            report,
            beside=(*notes, *(log.line() for log in shown.values())),
            warnings=(
                *report.warnings,
                *(warning for warning in unshared if warning),
                *(line for side in described.values() for line in side.follows),
            ),
        )
        for line in report.lines():
            logger.info("%s", line)
        data = cls(
            schema,
            user_ids,
            item_ids,
            log,
            report,
            user_frame,
            item_frame,
            values,
            shown,
            met_log,
            met_values,
            described,
            read.values,
        )
        return data, frame, order, met, by_user

    @property
    def ordered(self) -> bool:
        """Whether the log has an order, by time or by line; without one a history is a set."""
        return self.log.time is not None

    def split(
        self,
        kind: str | None = None,
        *,
        at: Any = None,
        validation_at: Any = None,
        seed: int = 0,
        items: ColdItems | None = None,
    ) -> "Split":
        """Give each row its role: train, validation or test.

        Args:
            kind: 'leave-last-out', 'global-time', 'random', 'cold-items' or 'column' (which
                `schema.split` names). By default 'column' if the schema names one, else
                'leave-last-out', or 'random' for a log without times.
            at: where global-time, random and cold-items cut the test off: the share in (0, 1)
                that stays, or for global-time a time. Validation is taken from what stays in the
                same way.
            validation_at: where global-time cuts validation off, as a share or a time.
            seed: seed of the random choices. Kinds without one refuse it.
            items: which items cold-items holds out with all their events: 'random' (the default)
                or 'newest', the items whose first event is latest.

        A split column without validation rows gets a seeded tenth of each user's training rows as
        validation, and a note says so. Raises SplitError where nothing would be held out.
        """
        kind = kind or self._default_split()
        splits.check_kind(kind)
        if kind == "rolling":
            raise SplitError(
                "split.kind 'rolling' makes several splits: call Dataset.folds for them, or take "
                "'global-time' for one"
            )
        if not isinstance(seed, int | np.integer):
            raise SplitError(f"split.seed must be a whole number, got {seed!r:.60}")
        notes: list[str] = []
        of_item = None
        if kind != "cold-items":
            _refuse(kind, items=items)
        if kind in ("leave-last-out", "global-time"):
            _refuse(kind, seed=seed or None)  # nothing is drawn
        if kind == "leave-last-out":
            _refuse(kind, at=at, validation_at=validation_at)
            roles = splits.leave_last_out(self.log)
        elif kind == "global-time":
            self._refuse_grouped()
            roles = splits.global_time(
                self.log, self._moment(0.9 if at is None else at), self._moment(validation_at)
            )
        elif kind == "random":
            _refuse(kind, validation_at=validation_at)
            keys = split_keys(self, self.log, seed)
            roles = splits.random_hold_out(self.log, keys, 0.8 if at is None else at)
        elif kind == "cold-items":
            _refuse(kind, validation_at=validation_at)
            of_item = self._cold_items(items or "random", 0.8 if at is None else at, seed, notes)
            roles = of_item[self.log.item]
        else:
            _refuse(kind, at=at, validation_at=validation_at)
            roles = self._column_roles(seed, notes)
        if not self.ordered:
            notes.append("no time column: histories are unordered sets")
        self._check_roles(roles, kind)
        log = replace(self.log, role=roles)
        met = self._met(log, kind, at, seed, of_item)
        return Split(self, log, kind, tuple(notes), met)

    def folds(self, number: int = 3, *, at: Any = 0.7) -> tuple["Split", ...]:
        """Split the log at several moments, one after the other: the folds of kind 'rolling'.

        Each fold tests on the events between its moment and the next one, and knows only what came
        before. So each event from the first moment on is tested exactly once. Validation is cut off
        as by global-time.

        Args:
            number: how many folds.
            at: the first moment: a share of the events in (0, 1), or a time.
        """
        if type(number) is not int or number < 2:
            raise SplitError(f"split.folds must be 2 or more, got {number!r:.60}")
        self._refuse_grouped("split.kind 'rolling'")
        moments = splits.rolling(self.log, number, self._moment(at))
        found = []
        for fold, (moment, end) in enumerate(zip(moments, [*moments[1:], None], strict=True), 1):
            part = self if end is None else self._until(end)
            note = (
                f"fold {fold} of {number}: its log ends after {len(part.log):,} of "
                f"{len(self.log):,} events"
            )
            found.append(part._split_as(splits.at_moment(part.log, moment), note))
        return tuple(found)

    def _until(self, end: Any) -> "Dataset":
        """Return the data as they were before a time: later events are left out of every log."""
        assert self.log.time is not None
        kept = self.log.time < end
        met_kept = None if self.met is None or self.met.time is None else self.met.time < end
        values, met_values = self.split_values, self.met_split_values
        return replace(
            self,
            log=self.log.keep(kept),
            met=None if self.met is None or met_kept is None else self.met.keep(met_kept),
            split_values=None if values is None else values[kept],
            met_split_values=None if met_values is None else met_values[met_kept],
            shown={name: shown.rows(shown.time < end) for name, shown in self.shown.items()},
            described={side: each.part(kept, met_kept) for side, each in self.described.items()},
        )

    def _split_as(self, roles: splits.Roles, note: str) -> "Split":
        """Return a split with these roles at one moment, and a note about it."""
        self._check_roles(roles, "rolling")
        log = replace(self.log, role=roles)
        return Split(
            self, log, "global-time", (note,), self._met(log, "global-time", None, 0, None)
        )

    def _check_roles(self, roles: splits.Roles, kind: str) -> None:
        """Refuse a split that holds out nothing."""
        for role in (Role.VALIDATION, Role.TEST):
            held_out = roles == role
            if not (held_out if self.log.target is None else held_out & self.log.target).any():
                rows = "rows" if self.log.target is None else "targets"
                raise SplitError(
                    f"the {kind} split leaves no {role.name.lower()} row: the log has "
                    f"{len(self.log.targets)} {rows} of {len(self.user_ids)} users"
                )

    def _met(
        self, log: Interactions, kind: str, at: Any, seed: int, of_item: splits.Roles | None
    ) -> Interactions | None:
        """Return `met` with roles that say which cuts know each event (docs/decisions/0010).

        of_item: the role of each item, where items are held out whole.
        """
        if self.met is None:
            return None
        if of_item is not None:
            return replace(self.met, role=of_item[self.met.item])
        if kind == "column":
            assert self.met_split_values is not None
            roles = splits.from_column(self.met_split_values, self.schema.split or "split", ())
        elif kind == "random":
            keys = split_keys(self, self.met, seed)
            roles = splits.random_hold_out(self.met, keys, 0.8 if at is None else at)
        else:
            roles = splits.known_before(log.targets, self.met, one_moment=kind == "global-time")
        return replace(self.met, role=roles)

    def _cold_items(self, which: ColdItems, at: Any, seed: int, notes: list[str]) -> splits.Roles:
        """Return the role of each item, which is that of all its events."""
        if which not in get_args(ColdItems):
            raise SplitError(f"split.items must be 'random' or 'newest', got {which!r:.60}")
        keys: NDArray[Any] = hash_ids(self.item_ids, seed + 1)
        if which == "newest":
            if seed:  # nothing is drawn
                raise SplitError("split.seed does nothing for split.items = 'newest'; remove it")
            if self.log.time is None:
                raise SplitError("split.items = 'newest' needs data.time")
            self._refuse_grouped(*splits.OF_NEWEST)
            keys = splits.first_seen(len(self.item_ids), self.log, self.met)
        roles = splits.cold_items(self.log, keys, at)
        test, validation = ((roles == role).sum() for role in (Role.TEST, Role.VALIDATION))
        notes.append(
            f"cold items: all events of {test:,} items are held out for test and those of "
            f"{validation:,} others for validation; all events of other items are known, also "
            "later ones"
        )
        if "item" in self.described:
            notes.append(
                "item features are columns of the log, and the rows of cold items are held out, so "
                "these items have none: a table of items (data.items) would give them features"
            )
        return roles

    def _refuse_grouped(
        self, what: str = splits.AT_A_MOMENT[0], instead: str = splits.AT_A_MOMENT[1]
    ) -> None:
        """Refuse to cut all users at one moment where lines give the order, user by user."""
        log = self.log
        if self.report.time_unit != "line" or log.time is None:
            return
        present = np.flatnonzero(np.diff(log.indptr))
        first, last = log.time[log.indptr[present]], log.time[log.indptr[present + 1] - 1]
        order = np.argsort(first)
        several = len(log) > len(order) > 1
        if several and bool((last[order][:-1] < first[order][1:]).all()):
            raise splits.grouped_by_user(what, instead)

    def _moment(self, at: Any) -> Any:
        """Convert a time as the user writes it to the log's unit; a share in (0, 1) stays."""
        if at is None or self.report.time_unit is None or (isinstance(at, float) and 0 < at < 1):
            return at
        return time_key(at, self.report.time_unit)

    def _default_split(self) -> str:
        if self.schema.split is not None:
            return "column"
        return "leave-last-out" if self.ordered else "random"

    def _column_roles(self, seed: int, notes: list[str]) -> splits.Roles:
        if self.split_values is None:
            raise SplitError(
                "split.kind 'column' needs the name of the column: split.column (Schema.split)"
            )
        roles = splits.from_column(self.split_values, self.schema.split or "split")
        target = slice(None) if self.log.target is None else self.log.target
        if not (roles[target] == Role.VALIDATION).any():
            keys = split_keys(self, self.log, seed)
            roles, drawn = splits.drawn_validation(self.log, roles, keys)
            notes.append(
                "the split column names no validation row: a seeded tenth of each user's training "
                f"rows ({drawn:,}) is held out for validation"
            )
        return roles


@dataclass(frozen=True, repr=False)
class Split(Showing):
    """A data set whose rows have roles: train, validation or test.

    Attributes:
        dataset: the data that were split.
        log: the events with their roles.
        kind: the kind of split, such as 'leave-last-out'.
        notes: remarks about the split that a reader of its figures must know.
        met: the events that only count as seen; each role says which cuts know the event.
    """

    dataset: Dataset
    log: Interactions
    kind: str
    notes: tuple[str, ...] = ()
    met: Interactions | None = None
    _latest: dict[Fit, TrainingData] = field(default_factory=dict, compare=False, repr=False)

    def facts(self) -> Facts:
        """Return the kind of the split, and the number of events in each part."""
        roles = (Role.TRAIN, Role.VALIDATION, Role.TEST)
        assert self.log.role is not None
        return {"kind": self.kind} | {
            role.name.lower(): int((self.log.role == role).sum()) for role in roles
        }

    def training_data(self, fit: Fit = "train") -> TrainingData:
        """Build vocabularies and feature statistics from the rows that `fit` names, and no others.

        fit: "train", "train+validation" or "all". Repeated calls return the same object, so that
        several channels share one copy.
        """
        if not isinstance(fit, str) or fit not in FIT_BEFORE:
            raise ModelError(f"fit must be one of {', '.join(FIT_BEFORE)}, got {fit!r:.60}")
        if fit not in self._latest:
            self._latest.clear()
            self._latest[fit] = self._training_data(fit)
        return self._latest[fit]

    def _training_data(self, fit: Fit) -> TrainingData:
        data, cut = self.dataset, FIT_BEFORE[fit]
        fitted = self.log.before(cut)
        users, user_rows = _vocabulary(data.user_ids, fitted.user, "user")
        items, item_rows = _vocabulary(data.item_ids, fitted.item, "item")
        log = _by_user_row(self.log, user_rows, item_rows, len(users))
        events = EventFeatures.fit(data.schema.event_features, fitted, data.event_values)
        log = replace(log, columns=events.encoded(log.columns, data.event_values))
        one_moment = self.kind == "global-time"
        every = data.shown
        if self.kind == "cold-items":
            assert self.log.role is not None
            cold = np.bincount(self.log.item[self.log.role >= BEFORE[cut]], minlength=len(items))
            every = {name: shown.rows(~(cold > 0)[shown.item]) for name, shown in every.items()}
        pairs = {
            name: shown.negatives(self.log, cut, one_moment=one_moment)
            for name, shown in every.items()
        }
        exposed = every.get("exposed")
        frames = {"user": data.users, "item": data.items} | {
            side: described.known(self.log, self.met, cut)
            for side, described in data.described.items()
        }
        return TrainingData(
            users=users,
            items=items,
            log=log,
            fit=fit,
            ordered=data.ordered,
            user_features=FeatureTable.fit(
                data.schema.user_features, frames["user"], users.ids, users.trained
            ),
            item_features=FeatureTable.fit(
                data.schema.item_features, frames["item"], items.ids, items.trained
            ),
            user_frame=frames["user"],
            item_frame=frames["item"],
            title=data.schema.title,
            kind=self.kind,
            notes=(*self.notes, *(logged.note() for logged in pairs.values())),
            time_unit=data.report.time_unit,
            text=data.report.text,
            logged={
                name: logged.lists(user_rows, item_rows, len(users))
                for name, logged in pairs.items()
            },
            shows=None
            if exposed is None
            else exposed.counts(self.log, cut, item_rows, one_moment=one_moment),
            met=None
            if self.met is None
            else _by_user_row(self.met, user_rows, item_rows, len(users)),
            follows=tuple(said for side in data.described.values() for said in side.follows),
            event_features=events,
        )


def split_keys(data: Dataset, log: Interactions, seed: int) -> NDArray[np.uint64]:
    """Return the hashes by which a split draws events of `data.log` or `data.met`, [n]."""
    return pair_hash(data.user_ids, data.item_ids, log.user, log.item, seed + 1)


def _in_order(frame: pl.DataFrame, order: NDArray[np.uint32], data: Dataset) -> pl.DataFrame:
    """Return the events as they were read, in the order of `data.log`, which has most columns."""
    log = data.log
    columns = {
        "user": data.user_ids.gather(log.user),
        "item": data.item_ids.gather(log.item),
    } | ({} if log.time is None else {"time": pl.Series(log.time)})
    kept = pl.DataFrame(columns)
    rest = frame.select(pl.exclude(kept.columns))
    return (kept.hstack(rest[order]) if rest.width else kept).select(frame.columns)


def _refuse(kind: str, **options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise SplitError(f"split.{name} does nothing for kind '{kind}'; remove it")


def _vocabulary(
    ids: pl.Series, fitted: NDArray[np.int32], name: str
) -> tuple[Vocabulary, NDArray[np.int32]]:
    """Return the vocabulary, with the ids of the fitted rows first, and the row of each code."""
    seen = np.bincount(fitted, minlength=len(ids)) > 0
    order = np.concatenate([np.flatnonzero(seen), np.flatnonzero(~seen)])
    rows = np.empty(len(ids), dtype=np.int32)
    rows[order] = np.arange(1, len(ids) + 1, dtype=np.int32)
    return Vocabulary(ids.gather(order), int(seen.sum()), name), rows


def _by_user_row(
    log: Interactions, user_rows: NDArray[np.int32], item_rows: NDArray[np.int32], users: int
) -> Interactions:
    """Translate codes to rows, and sort users by row again if their order changed."""
    renamed = replace(log, user=user_rows[log.user], item=item_rows[log.item], users=users + 1)
    if bool((np.diff(user_rows) > 0).all()):
        return renamed
    return renamed.at_places(np.argsort(renamed.user, kind="stable"))


def _aligned(
    log: pl.DataFrame, log_source: Any, source: Any, schema: Schema, side: str, notes: list[str]
) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Read the table of a side, if there is one, and give its ids and the log's one type.

    notes: a list that remarks about the table are added to.
    """
    features = getattr(schema, f"{side}_features")
    if source is None:
        return log, None
    title = schema.title if side == "item" else None
    table = read_entities(
        source,
        schema.id_of(f"{side}s"),
        features,
        title,
        f"{side}s",
        text=schema.text_of(f"{side}s"),
        null_ids=schema.null_ids,
        notes=notes,
    )
    in_log, in_table = align_ids(
        log[side],
        table["id"],
        left_text=is_text(log_source),
        right_text=is_text(source),
        where=f"the {side}s table",
    )
    return log.with_columns(in_log.alias(side)), table.with_columns(in_table.alias("id"))


def _encode(
    column: pl.Series, frame: pl.DataFrame | None, met: pl.DataFrame | None
) -> tuple[pl.Series, NDArray[np.int32], NDArray[np.int32]]:
    """Return the sorted distinct ids, and the positions among them of the events and of `met`.

    The ids are those of the log, of the side's table and of `met`.
    """
    if met is None:
        ids, codes = _encoded(column, frame)
        return ids, codes, codes[:0]
    both = pl.concat([column, met[column.name].cast(column.dtype)])
    ids, codes = _encoded(both, frame)
    return ids, codes[: len(column)], codes[len(column) :]


def _encoded(column: pl.Series, frame: pl.DataFrame | None) -> tuple[pl.Series, NDArray[np.int32]]:
    """Return the sorted distinct ids of a column and a table, and each value's position in them."""
    if frame is None:
        return encoded(column)
    distinct = pl.concat([column.unique(), frame["id"].alias(column.name)]).unique()
    ids = distinct.sort().alias("id")
    return ids, places_of(ids, column)


def _numpy(frame: pl.DataFrame, name: str) -> NDArray[Any] | None:
    return frame[name].to_numpy() if name in frame.columns else None


def _sessions(frame: pl.DataFrame, order: NDArray[np.uint32]) -> NDArray[np.int32] | None:
    if "session" not in frame.columns:
        return None
    return frame["session"].rank("dense").cast(pl.Int32).to_numpy()[order]
