"""What can each section of a recipe say? Keys with their meaning, type, range and default."""

import math
import re
import unicodedata
from datetime import date
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from shortlist.config.parts import given, options_of, with_options
from shortlist.durations import WrittenUnit
from shortlist.sections.base import (
    Count,
    Counts,
    Names,
    Positive,
    Section,
    Seed,
    Text,
    as_tuple,
    distinct,
    plain,
)
from shortlist.sections.model import CommonModel
from shortlist.sections.training import CommonTraining
from shortlist.towers.interests import INTERESTS

Kind = Literal["categorical", "numeric", "multi-valued", "vector"]
SplitKind = Literal["leave-last-out", "global-time", "random", "column"]


def _path(text: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError(
            "must be a path without control characters, as \\n and \\t are in double quotes: "
            "write '/' between folders, or single quotes around it, or each backslash twice"
        )
    return text


def _cut(value: object) -> object:
    if isinstance(value, date):
        return value.isoformat()
    number = type(value) is int and abs(value) < 2**63
    number = number or (isinstance(value, float) and math.isfinite(value))
    if not (number or value is None or isinstance(value, str)):
        raise ValueError("must be a number, a text or a date")
    return value


def _channel(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", text):
        raise ValueError("must be small letters, digits, - and _, starting with a letter")
    return text


PathText = Annotated[str, AfterValidator(plain), AfterValidator(_path)]
ChannelName = Annotated[str, AfterValidator(_channel)]


class Data(Section):
    """Where the log is, and which column is what."""

    root: PathText | None = Field(
        default=None,
        description="Folder where the relative paths below start; itself relative to this file. "
        "The environment variable SHORTLIST_DATA takes its place. Unset: this file's folder.",
        examples=["data"],
    )
    interactions: PathText = Field(
        description="The log, one row an event: CSV and other text, Parquet, JSON Lines or "
        "RecBole's .inter; a folder or a pattern such as log/*.csv is read as one.",
        examples=["interactions.csv"],
    )
    users: PathText | None = Field(
        default=None, description="One row a user, with its features.", examples=["users.csv"]
    )
    items: PathText | None = Field(
        default=None,
        description="One row an item, with its features and title.",
        examples=["items.csv"],
    )
    impressions: PathText | None = Field(
        default=None,
        description='What was shown, for training.hard = "exposed" and for channels with metric = '
        '"ctr" or "conversion": one row an item shown to a user, its columns named as in the log. '
        "Rows after the cut are not used.",
        examples=["impressions.parquet"],
    )
    click: Text | None = Field(
        default=None,
        description="Column of data.impressions that is above 0 where the item was clicked.",
        examples=["click"],
    )
    dropped: PathText | None = Field(
        default=None,
        description='What a later stage dropped, for training.hard = "dropped": one row an item '
        "recalled for a user, its columns named as in the log. Rows after the cut are not used.",
        examples=["dropped.parquet"],
    )
    user: Text = Field(default="user_id", description="Column of the user's id.")
    item: Text = Field(default="item_id", description="Column of the item's id.")
    time: Text | None = Field(
        default=None,
        description="Column that orders a user's events: numbers, dates or text. Unset: no order.",
        examples=["timestamp"],
    )
    time_unit: WrittenUnit = Field(
        default="auto",
        description='What the numbers of data.time are: "s", "ms", "us", "ns" or "day" since 1970, '
        '"yyyymmdd" or "yyyymmddhhmmss" as in 20240131, or "number", which nobody knows the unit '
        'of. "auto" reads it off their size, and says what it took; dates and text say it '
        "themselves.",
    )
    weight: Text | None = Field(
        default=None, description="Column of a rating, label or strength.", examples=["rating"]
    )
    session: Text | None = Field(
        default=None,
        description="Column of the session an event belongs to.",
        examples=["session_id"],
    )
    min_weight: float | None = Field(
        default=None,
        description="Events of at least this weight are positives. Of the others nothing is "
        "learned, but their items are met, and not recommended to their user again. Unset: every "
        "event is a positive.",
        examples=[4.0],
    )
    order: Literal["time", "file"] = Field(
        default="time",
        description='What orders the events of a user: "time", data.time (no order without it); '
        '"file", the order of the lines, each line an event of its own, without any time.',
    )
    tie: Literal["hash", "file"] = Field(
        default="hash",
        description="Order of equal times: a seeded hash of (user, item), or the file's order.",
    )
    separator: Text | None = Field(
        default=None,
        description="What stands between two fields of a text file, of one character or several. "
        "Unset: each file decides, by its name or by its first lines.",
        examples=["::"],
    )
    quote: Text | None = Field(
        default=None,
        description='The character around fields that hold separators, or "none": quotes are '
        "characters like others. Unset: each text file decides, and is refused if it does not.",
        examples=["none"],
    )
    encoding: Text | None = Field(
        default=None,
        description="How text files are encoded: latin-1, cp1252, utf-16, gb18030 and others. "
        "Unset: UTF-8, or UTF-16 where the first bytes say so.",
        examples=["latin-1"],
    )
    decimal: Literal[","] | None = Field(
        default=None,
        description="What stands before the decimals of numbers in text files: a comma. "
        "Unset: a point.",
        examples=[","],
    )
    columns: Names = Field(
        default=(),
        description="Names of the log's columns, in order, where the file has no header.",
        examples=[["user_id", "item_id", "timestamp"]],
    )
    users_columns: Names = Field(
        default=(),
        description="Names of the columns of data.users, where the file has no header.",
        examples=[["user_id", "gender", "age"]],
    )
    items_columns: Names = Field(
        default=(),
        description="Names of the columns of data.items, where the file has no header.",
        examples=[["item_id", "title", "genres"]],
    )
    null_values: Names = Field(
        default=(),
        description="Fields of text files that are no value, besides empty ones and \\N.",
        examples=[["NULL", "NA"]],
    )
    null_ids: Literal["refuse", "drop", "keep"] = Field(
        default="refuse",
        description='Rows without a user or an item: refused, or left out and counted ("drop"). '
        'Ids such as NULL and NA are refused too, unless in null_values; "keep": they are ids.',
    )


class Features(Section):
    """What the towers can read, besides ids and histories.

    Kinds: "categorical", "numeric", "multi-valued" (several values in one text), "vector".
    """

    users: dict[Text, Kind] = Field(
        default={},
        description="Columns of data.users and their kinds.",
        examples=[{"age": "numeric", "occupation": "categorical"}],
    )
    items: dict[Text, Kind] = Field(
        default={},
        description="Columns of data.items and their kinds.",
        examples=[{"genres": "multi-valued"}],
    )
    separator: Text = Field(
        default="|", description="What stands between the values of a multi-valued."
    )
    title: Text | None = Field(
        default=None, description="Column of data.items shown to people.", examples=["title"]
    )


class Split(Section):
    """Which events are held out, to measure with."""

    kind: SplitKind | None = Field(
        default=None,
        description='"leave-last-out": each user\'s last event; "global-time": all events from a '
        'moment on; "random": a random share; "column": as a column of the log says. '
        'Unset: "column" where split.column is given, "leave-last-out" where data.time is, '
        'else "random".',
        examples=["leave-last-out"],
    )
    at: Annotated[int | float | str | None, BeforeValidator(_cut)] = Field(
        default=None,
        description="global-time: the cut, a quantile where it is a fraction below 1, else a time; "
        "random: the share that stays for training. Unset: 0.9 and 0.8.",
        examples=[0.8],
    )
    column: Text | None = Field(
        default=None,
        description="Column of the log that says train, validation or test.",
        examples=["split"],
    )
    seed: Seed = Field(
        default=0, description="Of the random split, and of validation rows drawn at random."
    )


if TYPE_CHECKING:
    ModelOptions = CommonModel
    TrainingOptions = CommonTraining
else:
    ModelOptions = with_options(CommonModel, "history")
    TrainingOptions = with_options(CommonTraining, "loss", "sampler", "hard")


class Model(ModelOptions):
    """The two towers."""

    @model_validator(mode="after")
    def _history_options_act(self) -> Self:
        chosen = {k for k, f in type(self).model_fields.items() if getattr(self, k) != f.default}
        for key, readers in history_options().items():
            if key in chosen and self.history not in readers:
                meant = get_close_matches(self.history, readers, n=1)
                cure = f"did you mean '{meant[0]}'?" if meant else "leave it out."
                raise ValueError(
                    f"{key} is for history = {' or '.join(map(repr, readers))} and does nothing "
                    f"with {self.history!r}: {cure}"
                )
        return self

    @property
    def query_vectors(self) -> int | None:
        """How many vectors a user has, one an interest; None where it is one, without interests."""
        if self.history not in history_options()["interests"]:
            return None
        vectors: int = given(self, "history").get("interests", INTERESTS)
        return vectors


def history_options() -> dict[str, tuple[str, ...]]:
    """Return the keys of [model] that only some histories read, each with these."""
    readers = {key: tuple(o.part for o in some) for key, some in options_of("history").items()}
    return readers | {"history_windows": ("mean", "recency")}


class Training(TrainingOptions):
    """The objective and the loop. What is unset follows from the mode."""


class Segment(Section):
    """Queries of one kind, and the quotas they get instead of the common ones."""

    history_below: Count | None = Field(
        default=None, description="Queries of which fewer events than this are known."
    )
    feature: Text | None = Field(
        default=None, description="Column of data.users that tells the users of the segment."
    )
    values: Names | None = Field(
        default=None, description="Values of that column, as text, that belong to the segment."
    )
    quotas: dict[Text, Annotated[int, Field(ge=0, lt=2**31)]] = Field(
        description="Slots of each channel, as in [blend].", examples=[{"popular": 50}]
    )

    @model_validator(mode="after")
    def _says_whom(self) -> Self:
        if (self.feature is None) != (self.values is None):
            raise ValueError("feature and values need each other.")
        if (self.feature is None) == (self.history_below is None):
            raise ValueError("needs history_below, or feature with values: one of the two.")
        return self


class Blend(Section):
    """How the lists of several [channels] become one."""

    method: Literal["quotas", "reciprocal-rank", "weighted", "calibrated"] = Field(
        default="quotas",
        description='"quotas": so many slots a channel, interleaved; "reciprocal-rank": sum of '
        '1 / (rank_constant + rank); "weighted": sum of weight x score, the scores of a list '
        'stretched to 0..1; "calibrated": by the chance of a hit at each rank of each channel, '
        "measured on the validation rows.",
    )
    quotas: dict[Text, Annotated[int, Field(ge=0, lt=2**31)]] | None = Field(
        default=None,
        description="Slots of each channel in a list as long as their sum; lists of another length "
        "share in proportion. Unset: planned on the validation rows.",
        examples=[{"cf": 60, "popular": 40}],
    )
    size: Count | None = Field(
        default=None,
        description="The length of the list that quotas are planned for, and sum to. Unset: their "
        "sum, or 100.",
        examples=[100],
    )
    weights: dict[Text, Positive] | None = Field(
        default=None,
        description="reciprocal-rank and weighted: what each channel counts. Unset: 1.",
        examples=[{"cf": 1.0, "popular": 0.5}],
    )
    rank_constant: Positive | None = Field(
        default=None, description="Of reciprocal-rank. Unset: 60.", examples=[60.0]
    )
    latency: Positive | None = Field(
        default=None,
        description="Microseconds a query that the planned channels may take together, as measured "
        "when they are planned. Unset: any.",
        examples=[500.0],
    )
    segments: Annotated[tuple[Segment, ...], BeforeValidator(as_tuple)] = Field(
        default=(),
        description="Other quotas for some queries; the first segment that fits counts.",
        examples=[[{"history_below": 5, "quotas": {"popular": 50, "cf": 50}}]],
    )
    fallback: Names = Field(
        default=(),
        description="Channels that only fill up lists that are still short, in this order; "
        "popular items come after them.",
        examples=[["popular"]],
    )

    @model_validator(mode="after")
    def _options_act(self) -> Self:
        """Refuse what this method does not read."""
        readers = {
            "quotas": ("quotas",),
            "size": ("quotas",),
            "latency": ("quotas",),
            "segments": ("quotas",),
            "weights": ("reciprocal-rank", "weighted"),
            "rank_constant": ("reciprocal-rank",),
        }
        for key, methods in readers.items():
            if getattr(self, key) not in (None, ()) and self.method not in methods:
                raise ValueError(f"{key} does nothing with method = '{self.method}': leave it out.")
        if self.latency is not None and self.quotas is not None:
            raise ValueError("latency is for quotas that are planned: give it or quotas.")
        for quotas in (self.quotas, *(segment.quotas for segment in self.segments)):
            if quotas is None:
                continue
            if sum(quotas.values()) == 0:
                raise ValueError("quotas must give at least one slot.")
            if self.size is not None and sum(quotas.values()) != self.size:
                raise ValueError(
                    f"quotas must sum to size = {self.size}, {quotas} is {sum(quotas.values())}."
                )
        return self


class Evaluation(Section):
    """How the result is measured, on the full catalogue."""

    k: Annotated[Counts, AfterValidator(distinct), Field(min_length=1)] = Field(
        default=(10, 20, 100), description="Lengths of the list the figures are given for."
    )
    exclude_seen: bool = Field(
        default=True, description="Whether items a user has had are left out of the answer."
    )


TUNABLE = ("model", "training", "channels")
"""Sections whose keys `shortlist tune` may try values of."""

NOT_TUNED = ("training.monitor", "training.positives", "training.refit", "training.seed")
"""Keys that would change what the figures of two trials mean."""


def _space(space: object) -> object:
    """Check that each key has a list of values, or a range: `low`, `high` and maybe `log`."""
    if not isinstance(space, dict) or not space:
        raise ValueError("must be a table of at least one key and what to try for it")
    for name, tried in space.items():
        if str(name).split(".")[0] not in TUNABLE or "." not in str(name) or name in NOT_TUNED:
            raise ValueError(
                f"cannot try {name!r}: expected a key of {', '.join(TUNABLE)}, in quotes, as in "
                f'"training.learning_rate", and none of {", ".join(NOT_TUNED)}'
            )
        if isinstance(tried, list | tuple) and tried:
            continue
        if not (isinstance(tried, dict) and _is_range(tried)):
            raise ValueError(
                f"{name!r} must be a list of values, or a range {{ low = 1e-4, high = 1e-2 }} of "
                f"numbers, with log = true where both are above 0; got {tried!r}"
            )
    return space


def _is_range(tried: dict[str, Any]) -> bool:
    low: Any = tried.get("low")
    high: Any = tried.get("high")
    log = tried.get("log", False)
    numbers = all(type(end) in (int, float) and math.isfinite(end) for end in (low, high))
    known = tried.keys() <= {"low", "high", "log"} and type(log) is bool
    return bool(numbers and known and low < high and (not log or low > 0))


class Tune(Section):
    """What `shortlist tune` tries; `train` does not look at it."""

    space: Annotated[dict[Text, Any], BeforeValidator(_space)] = Field(
        description="Keys of other sections, and for each a list of values, or a range of numbers.",
        examples=[
            {
                "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
                "model.dim": [32, 64],
            }
        ],
    )
    trials: Count = Field(default=20, description="How many combinations are tried.")
    seed: Seed = Field(default=0, description="Of the choice of combinations.")
