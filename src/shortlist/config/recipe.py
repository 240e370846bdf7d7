"""What is a recipe, and which settings of different sections contradict each other?"""

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from glob import glob
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator
from pydantic_core import ErrorDetails

from shortlist.config.blend import Blend
from shortlist.config.data import Data
from shortlist.config.evaluation import Evaluation
from shortlist.config.features import Features
from shortlist.config.fields import ChannelName
from shortlist.config.model import MODEL_PARTS, Model
from shortlist.config.parts import CHOICES, kept, named
from shortlist.config.split import Split
from shortlist.config.training import TRAINING_PARTS, Training
from shortlist.config.tune import Tune
from shortlist.errors import DataError, ModelError, RecipeError, suggest, suggest_part, suggest_path
from shortlist.sections.base import Section, Text
from shortlist.sections.events import checked_events
from shortlist.sections.faults import explain
from shortlist.sections.kinds import SplitKind

LEARNED_KINDS = ["two-tower", "item-to-item", "user-to-user"]
"""Kinds of channels that read [model] and [training]; plugins append theirs."""

SHOWN_METRICS = ("ctr", "conversion")
"""Metrics of channels that read data.impressions."""

ROLES = ("user", "item", "time", "weight", "session", "event")
"""Keys of [data] that name a column of the log. No two may name the same column, except that
data.weight may also be data.event."""


class Recipe(Section):
    """A whole recipe. Each section checks its own keys; this class checks them across sections.

    >>> recipe = Recipe.from_dict({"data": {"interactions": "log.csv"}, "training": {"mode": 0}})
    >>> recipe.training.mode, recipe.split_kind
    ('pointwise', 'random')
    """

    data: Data
    features: Features = Features()
    split: Split = Split()
    model: Model = Model()
    training: Training = Training()
    channels: dict[ChannelName, dict[Text, Any]] = Field(default={})
    blend: Blend | None = None
    evaluation: Evaluation = Evaluation()
    tune: Tune | None = None

    _base: Path = PrivateAttr(default=Path())
    _instead_of: Path | None = PrivateAttr(default=None)

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], base: Path = Path(), source: str = "recipe"
    ) -> "Recipe":
        """Return the recipe in a mapping: the result of `to_dict`, or tables written in Python.

        base: folder at which relative paths start.
        source: name of the recipe in errors.
        """
        return checked(content, source).based_at(base)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe with its defaults, for JSON or TOML.

        Unset keys are left out, and so are the defaults of options that no chosen part reads.
        """
        tables = self.model_dump(mode="json", exclude_none=True)
        for name, section in (("model", self.model), ("training", self.training)):
            tables[name] = {key: value for key, value in kept(section).items() if value is not None}
        return tables

    def based_at(self, base: Path, instead_of: Path | None = None) -> Self:
        """Return a copy whose relative paths start at another folder.

        instead_of: the folder at which they would start without SHORTLIST_DATA.
        """
        recipe = self.model_copy()
        recipe._base, recipe._instead_of = base, instead_of
        return recipe

    @property
    def base(self) -> Path:
        """Folder at which relative paths start."""
        return self._base

    def check_redirected(self) -> None:
        """Raise DataError for a relative path that SHORTLIST_DATA sent to where no file is."""
        if self._instead_of is None:
            return
        log, data = self.data.interactions, self.data
        named = (*(log if isinstance(log, tuple) else (log,)), data.users, data.items)
        for path in (*named, data.impressions, data.dropped):
            if path is None or expand(path).is_absolute() or ":/" in path:
                continue
            if _names_file(self._base / expand(path)):
                continue
            sought, beside = self._base / expand(path), self._instead_of / expand(path)
            found = f" It is at {beside}." if _names_file(beside) else suggest_path(sought)
            raise DataError(
                f"{sought}: there is no such file. {path!r} was looked for in "
                f"SHORTLIST_DATA={self._base}.{found} Unset SHORTLIST_DATA, or write an absolute "
                "path."
            )

    @property
    def interactions_path(self) -> Path | list[Path]:
        """Path of the log, or the paths of the files that form it."""
        if isinstance(self.data.interactions, tuple):
            return [self._base / expand(path) for path in self.data.interactions]
        return self._base / expand(self.data.interactions)

    @property
    def users_path(self) -> Path | None:
        """Path of the features of users; None if there is none."""
        return self._base / expand(self.data.users) if self.data.users else None

    @property
    def items_path(self) -> Path | None:
        """Path of the features of items; None if there is none."""
        return self._base / expand(self.data.items) if self.data.items else None

    @property
    def impressions_path(self) -> Path | None:
        """Path of the impressions; None if there is none."""
        return self._base / expand(self.data.impressions) if self.data.impressions else None

    @property
    def dropped_path(self) -> Path | None:
        """Path of the items that a later stage dropped; None if there is none."""
        return self._base / expand(self.data.dropped) if self.data.dropped else None

    @property
    def inputs(self) -> dict[str, Path | None]:
        """Path of each input file by its key; None if the recipe has none."""
        found, key = self.interactions_path, "data.interactions"
        log: dict[str, Path | None] = (
            {f"{key}[{place}]": path for place, path in enumerate(found)}
            if isinstance(found, list)
            else {key: found}
        )
        return {
            **log,
            "data.users": self.users_path,
            "data.items": self.items_path,
            "data.impressions": self.impressions_path,
            "data.dropped": self.dropped_path,
        }

    @property
    def described_sides(self) -> tuple[Literal["user", "item"], ...]:
        """Sides ("user", "item") whose features are columns of the log, having no own file."""
        features, data = self.features, self.data
        users: tuple[Literal["user"], ...] = ("user",) if features.users else ()
        items: tuple[Literal["item"], ...] = ("item",) if features.items or features.title else ()
        return (*(users if data.users is None else ()), *(items if data.items is None else ()))

    @property
    def split_kind(self) -> SplitKind:
        """Kind of the split; chosen from the columns if split.kind is unset."""
        if self.split.kind is not None:
            return self.split.kind
        if self.split.column is not None:
            return "column"
        return "leave-last-out" if self.is_ordered else "random"

    @property
    def is_ordered(self) -> bool:
        """Whether events have an order, by times or by the lines of the file."""
        return self.data.time is not None or self.data.order == "file"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        conflicts = [
            *self._data_conflicts(),
            *self._split_conflicts(),
            *self._input_gaps(),
            *self._pair_conflicts(),
            *self._log_conflicts(),
            *self._channel_conflicts(),
        ]
        if conflicts:
            raise ValueError("; ".join(conflicts))
        return self

    def _data_conflicts(self) -> list[str]:
        data, found = self.data, []
        roles = {f"data.{role}": getattr(data, role) for role in ROLES}
        roles["split.column"] = self.split.column
        owner: dict[str, str] = {}
        for role, column in roles.items():
            if column in owner and (owner[column], role) != ("data.weight", "data.event"):
                found.append(f"{owner[column]} and {role} are both the column {column!r}")
            if column is not None:
                owner[column] = role
        for key, value in (("time", data.time), ("tie", None if data.tie == "hash" else data.tie)):
            if data.order == "file" and value is not None:
                found.append(
                    f"data.{key} does nothing with data.order = 'file', which takes the order of "
                    "the lines: give one of the two"
                )
        if data.time_unit != "auto" and data.time is None:
            found.append("data.time_unit needs data.time, the column of the times")
        found += self._positive_conflicts()
        for key, own, file in (
            ("users_id", data.users_id, data.users),
            ("items_id", data.items_id, data.items),
        ):
            if own is not None and file is None:
                found.append(f"data.{key} needs data.{key.removesuffix('_id')}, the file with it")
        return found + self._feature_conflicts(owner)

    def _feature_conflicts(self, owner: dict[str, str]) -> list[str]:
        """Return the faults of [features]; owner: key that names each column of the log."""
        data, found = self.data, []
        user, item = data.users_id or data.user, data.items_id or data.item
        if user in self.features.users:
            found.append(f"features.users must not hold the id {user!r}: see model.user_id")
        if item in self.features.items:
            found.append(f"features.items must not hold the id {item!r}: it is always used")
        if item == self.features.title:
            found.append("features.title is the id: without a title, ids are shown; leave it out")
        for name, column in self.features.events.items():
            role = owner.get(name)
            if role not in (None, "data.weight", "data.event"):
                found.append(
                    f"features.events holds {name!r}, which is {role}: it has a meaning of its own"
                )
            if role == "data.event" and column.kind != "categorical":
                found.append(
                    f"features.events.{name} is data.event, the kinds of events: its kind must be "
                    '"categorical"'
                )
        owner = owner | dict.fromkeys(self.features.events, "features.events")
        for side in self.described_sides:
            keys = dict.fromkeys(getattr(self.features, f"{side}s"), f"features.{side}s")
            if side == "item" and self.features.title is not None:
                keys.setdefault(self.features.title, "features.title")
            keys.pop(getattr(data, side), None)  # it has been refused
            found += [
                f"{key} holds {name!r}, which is {owner[name]}: without data.{side}s it is a "
                "column of the log, and each of those has one meaning"
                for name, key in keys.items()
                if name in owner
            ]
            owner = owner | keys
        return found

    def _positive_conflicts(self) -> list[str]:
        """Return the faults of the keys that define positives."""
        data, found = self.data, []
        if data.min_weight is not None and data.weight is None:
            found.append("data.min_weight needs data.weight, the column it is compared with")
        if data.min_weight is not None and data.events:
            found.append(
                "data.min_weight and data.events both say what is a positive: leave min_weight "
                'out, and name ranges of the weight in data.events, such as "4.."'
            )
        try:
            checked_events(data.event, data.events)
        except DataError as error:
            found.append(str(error).rstrip("."))
        return found

    @property
    def has_towers(self) -> bool:
        """Whether the recipe trains towers, which read [model] and [training]."""
        return not self.channels or any(
            str(table.get("kind")) in LEARNED_KINDS for table in self.channels.values()
        )

    def _channel_conflicts(self) -> list[str]:
        """Return the contradictions of [channels], [blend], [model] and [training]."""
        found = []
        for name, table in self.channels.items():
            if not isinstance(table.get("kind"), str):
                found.append(f"channels.{name}.kind is required: which retriever it is")
        if self.blend is not None and len(self.channels) < 2:
            found.append("[blend] merges several [channels], and there are not two of them")
        kinds = [str(table.get("kind")) for table in self.channels.values()]
        meant = any(get_close_matches(kind, LEARNED_KINDS, 1, 0.8) for kind in kinds)
        if not self.has_towers and not meant:  # a typo is told by who knows all kinds
            idle = [
                f"{name}.{key}"
                for name, section, used in (
                    ("model", self.model, ()),
                    ("training", self.training, ("refit", "seed")),
                )
                for key in type(section).model_fields
                if key not in used and section.is_changed(key)
            ]
            if idle:
                say = f"{idle[0]} does" if len(idle) == 1 else f"{', '.join(idle)} do"
                found.append(
                    f"{say} nothing: no channel has towers (a kind of your own that has towers "
                    "needs its module: --plugin MODULE)"
                )
        return found

    def _log_conflicts(self) -> list[str]:
        """Return the faults of the logs of hard negatives, each of which has one use only."""
        data, hard, found = self.data, self.training.hard, []
        shows = any(table.get("metric") in SHOWN_METRICS for table in self.channels.values())
        for key, use in (("impressions", "exposed"), ("dropped", "dropped")):
            given = getattr(data, key) is not None
            if given and hard != use and not (key == "impressions" and shows):
                more = ", or by a channel whose metric counts them" if key == "impressions" else ""
                found.append(f'data.{key} is read for training.hard = "{use}" alone{more}')
            if not given and hard == use:
                found.append(f'training.hard = "{use}" needs data.{key}, the log it draws from')
            if given and data.time is None:
                found.append(
                    f"data.{key} needs data.time: without it nobody can tell which of its rows "
                    "came before the events held out, and later ones would leak them"
                )
        if (data.impressions is None) != (data.click is None):
            found.append("data.impressions and data.click, its column of clicks, need each other")
        if data.click is not None and data.click in (data.user, data.item, data.time):
            found.append(f"data.click and another role are both the column {data.click!r}")
        return found

    def _split_conflicts(self) -> list[str]:
        kind, at, column = self.split_kind, self.split.at, self.split.column
        found = []
        if kind == "column" and column is None:
            found.append('split.kind = "column" needs split.column')
        if kind != "column" and column is not None:
            found.append(f'split.column needs split.kind = "column", got "{kind}"')
        newest = kind == "cold-items" and self.split.items == "newest"
        drawn = kind not in {"leave-last-out", "global-time", "rolling"} and not newest
        setting = 'split.items = "newest"' if newest else f'split.kind = "{kind}"'
        if kind != "cold-items" and self.split.items is not None:
            found.append(f'split.items is for split.kind = "cold-items", got "{kind}"')
        if kind != "rolling" and self.split.folds is not None:
            found.append(f'split.folds is for split.kind = "rolling", got "{kind}"')
        if not drawn and not self.is_ordered:
            found.append(
                f"{setting} needs data.time, the column that orders events, or data.order = 'file'"
            )
        if not drawn and self.split.seed:
            found.append(f"split.seed does nothing for {setting}, which draws nothing")
        if kind in {"leave-last-out", "column"} and at is not None:
            found.append(
                'split.at is for split.kind = "global-time", "rolling", "random" or "cold-items", '
                f'got "{kind}"'
            )
        share = at is None or (isinstance(at, float) and 0 < at < 1)
        if kind in {"random", "cold-items"} and not share:
            found.append(
                f'split.at must be a share between 0 and 1 for split.kind = "{kind}", got {at!r}'
            )
        return found

    def _input_gaps(self) -> list[str]:
        model, found = self.model, []
        users, items = self.features.users, self.features.items
        for side, chosen, declared, other in (
            ("user", model.user_features, users, items),
            ("item", model.item_features, items, users),
        ):
            for name in chosen or ():
                # A feature of the other side is refused by the tower, which explains why.
                if name not in declared and name not in other:
                    hint = suggest(name, declared) if declared else ""
                    found.append(
                        f"model.{side}_features: {name!r} is not declared in features.{side}s."
                        f"{hint}"
                    )
        features = self.features.users if model.user_features is None else model.user_features
        if self.has_towers and not (model.user_id or features or model.history != "none"):
            found.append(
                "the user tower has no input: set model.user_id, model.history or features.users"
            )
        return found

    def _pair_conflicts(self) -> list[str]:
        data, training, found = self.data, self.training, []
        if training.positives != "i2i":
            return [
                f'training.{key} is for positives = "i2i", got "{training.positives}"'
                for key in ("session_gap", "pair_window")
                if getattr(training, key) is not None
            ]
        if data.session is None and training.session_gap is None:
            found.append(
                'training.positives = "i2i" needs data.session, the column of the sessions, or '
                "training.session_gap, the time without an event that ends one"
            )
        if data.session is not None and training.session_gap is not None:
            found.append("data.session and training.session_gap both cut sessions: give one")
        if training.session_gap is not None and data.time is None:
            found.append("training.session_gap needs data.time, the column of the times")
        if training.pair_window is not None and not self.is_ordered:
            found.append("training.pair_window needs data.time, the column that orders events")
        return found


SECTIONS: dict[str, type[Section]] = {
    "data": Data,
    "features": Features,
    "split": Split,
    "model": Model,
    "training": Training,
    "blend": Blend,
    "evaluation": Evaluation,
    "tune": Tune,
}
"""Every section of a recipe by name, in the order in which they are written."""


def checked(
    content: object, source: str, overrides: dict[tuple[str, ...], str] | None = None
) -> Recipe:
    """Return the recipe in `content`. Errors: RecipeError that lists every fault found.

    source: name of the recipe in errors.
    overrides: for the path of each overridden key, the override that set it.
    """
    try:
        return Recipe.model_validate(dict(content) if isinstance(content, Mapping) else content)
    except ValidationError as error:
        unknown = dict(_unknown_parts(content))
        faults = [f"{'.'.join(keys)}: {reason}" for keys, reason in unknown.items()]
        faults += [
            explain(detail, SECTIONS) + _origin(detail["loc"], overrides or {})
            for detail in error.errors(include_url=False)
            if not _may_be_option(detail, unknown)
        ]
    if len(faults) == 1:
        raise RecipeError(f"{source}: {faults[0]}")
    raise RecipeError(f"{source} has {len(faults)} faults:\n  " + "\n  ".join(faults))


def _unknown_parts(content: object) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield the path of each key that names an unknown part, with the message for it."""
    tables = content if isinstance(content, Mapping) else {}
    for section, keys in (("model", MODEL_PARTS), ("training", TRAINING_PARTS)):
        table = tables.get(section)
        for key in keys:
            name = table.get(key) if isinstance(table, Mapping) else None
            if isinstance(name, str) and name not in CHOICES[key].names:
                reason = f"there is no {key} '{name}'.{suggest_part(name, CHOICES[key].names)}"
                yield (section, key), reason


def _may_be_option(detail: ErrorDetails, unknown: Collection[tuple[str, str]]) -> bool:
    """Whether a key that does not belong may be an option of a part that is not there."""
    return detail["type"] == "extra_forbidden" and detail["loc"][0] in {s for s, _ in unknown}


def _names_file(path: Path) -> bool:
    """Tell whether a path, which may be a pattern, names something that exists."""
    return path.exists() or bool(glob(str(path), recursive=True))


def expand(path: str) -> Path:
    """Return the path with a leading `~` replaced by the home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RecipeError(f"the path {path!r} cannot be read: {error}") from error


def section_from(
    model: Model, training: Training, options: Mapping[str, object]
) -> tuple[Model, Training]:
    """Return both sections with `options` put over them: keys of either, checked as in a recipe.

    A part may be given by its name, as a class or, a loss, as an instance. Errors: ModelError.

    >>> section_from(Model(), Training(), {"dim": 32, "mode": 1})[1].mode
    'pairwise'
    """
    sections: dict[str, Section] = {"model": model, "training": training}
    known = {key: name for name, section in sections.items() for key in type(section).model_fields}
    changed: dict[str, dict[str, object]] = {name: {} for name in sections}
    for key, value in named(options).items():
        if key not in known:
            raise ModelError(f"there is no option {key!r}.{suggest(key, known)}")
        changed[known[key]][key] = value
    try:
        return (
            Model.model_validate(model.model_dump() | changed["model"]),
            Training.model_validate(training.model_dump() | changed["training"]),
        )
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise ModelError(explain(fault, {})) from error


def _origin(loc: tuple[int | str, ...], overrides: dict[tuple[str, ...], str]) -> str:
    """Name the last override that set the key at `loc`, a part of it, or the table it is in."""
    for keys, override in reversed(overrides.items()):
        shared = min(len(keys), len(loc))
        if shared and keys[:shared] == loc[:shared]:
            return f" (override {override!r})"
    return ""
