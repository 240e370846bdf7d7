"""What can each section of a recipe say? Keys with their meaning, type, range and default."""

import math
import re
import unicodedata
from datetime import date
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from shortlist.durations import WrittenUnit, checked_duration

Mode = Literal["pointwise", "pairwise", "listwise"]
Similarity = Literal["cosine", "dot", "euclidean"]
Kind = Literal["categorical", "numeric", "multi-valued", "vector"]
SplitKind = Literal["leave-last-out", "global-time", "random", "column"]


def _plain(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("must be text of at least one character, without NUL")
    return text


def _path(text: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError(
            "must be a path without control characters, as \\n and \\t are in double quotes: "
            "write '/' between folders, or single quotes around it, or each backslash twice"
        )
    return text


def _mode(value: object) -> object:
    names = get_args(Mode)
    return names[value] if type(value) is int and 0 <= value < len(names) else value


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _cut(value: object) -> object:
    if isinstance(value, date):
        return value.isoformat()
    number = type(value) is int and abs(value) < 2**63
    number = number or (isinstance(value, float) and math.isfinite(value))
    if not (number or value is None or isinstance(value, str)):
        raise ValueError("must be a number, a text or a date")
    return value


def _monitor(text: str) -> str:
    if not re.fullmatch(r"(recall|ndcg)@[1-9][0-9]{0,8}", text):
        raise ValueError("must be recall@k or ndcg@k, such as 'ndcg@10'")
    return text


def _band(ranks: tuple[int, int]) -> tuple[int, int]:
    if ranks[0] > ranks[1]:
        raise ValueError("must name the first rank, then the last")
    return ranks


def _channel(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", text):
        raise ValueError("must be small letters, digits, - and _, starting with a letter")
    return text


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("must not say the same thing twice")
    return values


Text = Annotated[str, AfterValidator(_plain)]
PathText = Annotated[str, AfterValidator(_plain), AfterValidator(_path)]
ChannelName = Annotated[str, AfterValidator(_channel)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0)]
Duration = Annotated[float | str, BeforeValidator(checked_duration)]
Share = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
Names = Annotated[tuple[Text, ...], BeforeValidator(_tuple), AfterValidator(_distinct)]
Counts = Annotated[tuple[Count, ...], BeforeValidator(_tuple)]
Ranks = Annotated[tuple[Count, Count], AfterValidator(_band)]


INTERESTS = 4
"""Vectors of a user with several interests, where model.interests does not say (Cen et al.)."""

HISTORY_OPTIONS = {
    "history_layers": ("attention", "gru"),
    "history_heads": ("attention",),
    "history_windows": ("mean", "recency"),
    "history_time": ("attention",),
    "interests": ("comirec", "mind"),
}
"""Keys of [model] that only some histories read."""


class Section(BaseModel):
    """Read strictly: no unknown key, no value turned into another type, none that is not finite."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    def idle(self) -> str:
        """Say which key would do nothing beside the others, and why; '' if each one acts.

        Asked when options are given, not of what a bundle holds: an older one may say more.
        """
        return ""


class Data(Section):
    """Where the log is, and which column is what."""

    root: PathText | None = Field(
        default=None,
        description="Folder where the relative paths below start; itself relative to this file. "
        "The environment variable SHORTLIST_DATA takes its place. Unset: this file's folder.",
        examples=["data"],
    )
    interactions: PathText = Field(
        description="The log, one row an event: CSV, TSV, Parquet or a RecBole .inter file.",
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


class Model(Section):
    """The two towers."""

    dim: Count = Field(default=64, description="Width of the user and item vectors.")
    history: Text = Field(
        default="recency",
        description='How the items of a history become vectors: "attention" and "gru" read them in '
        'order, "recency" tells the newest from the older, "mean" does not, "comirec" and "mind" '
        'give several vectors of a user, "none" reads no history.',
    )
    history_length: Count = Field(
        default=63, description="The latest events of a history that are kept."
    )
    history_reads: Literal["ids", "items"] = Field(
        default="ids",
        description='What stands for an item of a history: "ids", its id embedding; "items", its '
        "vector of the item tower, features included.",
    )
    history_windows: bool = Field(
        default=False,
        description="mean, recency: whether a batch is made of stretches of histories, each read "
        "once for all its positives, or of positives from anywhere, each with its own history.",
    )
    history_layers: Count = Field(
        default=2, description="attention, gru: blocks or layers on top of each other."
    )
    history_heads: Count = Field(default=2, description="attention: heads of each block.")
    history_time: bool = Field(
        default=False,
        description="attention: whether it also sees how much time lies between two events, in "
        "powers of two of the unit of data.time.",
    )
    interests: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None,
        description=f"comirec, mind: how many vectors a user has. Unset: {INTERESTS}.",
        examples=[INTERESTS],
    )
    history_dropout: Share = Field(
        default=0.0, description="Share of a history's events left out of it, anew in each batch."
    )
    shared_items: bool = Field(
        default=True,
        description="Whether histories are read with the item tower's id embeddings, or their own.",
    )
    user_id: bool = Field(
        default=False, description="Whether the user's id is an input of its tower."
    )
    item_id: bool = Field(
        default=True, description="Whether the item's id is an input of its tower."
    )
    id_dropout: Share = Field(
        default=0.0,
        description="Share of items that train without their id, anew in each batch: features "
        "alone then learn to place an item nobody has touched yet.",
    )
    user_features: Names | None = Field(
        default=None,
        description="Inputs of the user tower. Unset: all of features.users.",
        examples=[[]],
    )
    item_features: Names | None = Field(
        default=None,
        description="Inputs of the item tower. Unset: all of features.items.",
        examples=[[]],
    )
    user_layers: Counts = Field(
        default=(), description="Widths of the hidden layers of the user tower."
    )
    item_layers: Counts = Field(
        default=(), description="Widths of the hidden layers of the item tower."
    )
    dropout: Share = Field(
        default=0.2,
        description="Share of the pooled history and of hidden layers dropped in training.",
    )

    latest_items: Count | None = Field(
        default=None,
        description="i2i: how many of the latest items a query is made of. Unset: 5 where "
        "data.time orders events, else all.",
        examples=[5],
    )
    neighbours: Count | None = Field(
        default=None,
        description="u2u: how many similar users are asked for their items. Unset: 50.",
        examples=[50],
    )

    @model_validator(mode="after")
    def _history_options_act(self) -> Self:
        given = {k for k, f in type(self).model_fields.items() if getattr(self, k) != f.default}
        if self.history == "none":
            for key in ("history_length", "history_dropout", "history_reads", "shared_items"):
                if key in given:
                    raise ValueError(f"{key} does nothing with history = 'none': leave it out.")
            if "dropout" in given and self.dropout and not (self.user_layers or self.item_layers):
                raise ValueError(
                    "dropout is of histories and hidden layers, and does nothing with "
                    "history = 'none' and no layers: leave it out."
                )
        for key, readers in HISTORY_OPTIONS.items():
            if key in given and self.history not in readers:
                meant = get_close_matches(self.history, readers, n=1)
                cure = f"did you mean '{meant[0]}'?" if meant else "leave it out."
                raise ValueError(
                    f"{key} is for history = {' or '.join(map(repr, readers))} and does nothing "
                    f"with {self.history!r}: {cure}"
                )
        if self.history_reads == "items" and not self.shared_items:
            raise ValueError(
                "history_reads = 'items' reads histories with the item tower, which is sharing: "
                "leave shared_items out."
            )
        if not (self.shared_items or self.item_id):
            raise ValueError(
                "shared_items = false does nothing with item_id = false, where there is no table "
                "of ids to share: leave it out."
            )
        return self

    @property
    def query_vectors(self) -> int | None:
        """How many vectors a user has, one an interest; None where it is one, without interests."""
        if self.history not in HISTORY_OPTIONS["interests"]:
            return None
        return self.interests or INTERESTS

    @property
    def shares_items(self) -> bool:
        """Whether both towers read one table of item embeddings: there must be one to share."""
        return self.shared_items and self.item_id


class Training(Section):
    """The objective and the loop. What is unset follows from the mode."""

    mode: Annotated[Mode, BeforeValidator(_mode)] = Field(
        default="listwise", description='"pointwise", "pairwise" or "listwise"; also 0, 1 or 2.'
    )
    positives: Literal["u2i", "i2i", "u2u"] = Field(
        default="u2i",
        description='Which pairs are close: "u2i" a user and an item of theirs, "i2i" two items '
        'of one session, "u2u" two halves of one user\'s history.',
    )
    session_gap: Duration | None = Field(
        default=None,
        description="i2i: a session ends after so long without an event: seconds, or text such as "
        '"30min"; a number is in the unit of data.time where nobody knows it. Unset: data.session '
        "tells sessions apart.",
        examples=["30min"],
    )
    pair_window: Count | None = Field(
        default=None,
        description="i2i: how many places apart in their session two items may lie. Unset: 5 "
        "where data.time orders events, else any.",
        examples=[5],
    )
    loss: Text | None = Field(
        default=None, description="What is minimised. Unset: the mode's.", examples=["softmax"]
    )
    sampler: Text | None = Field(
        default=None,
        description="Where negatives come from. Unset: the mode's.",
        examples=["in_batch"],
    )
    similarity: Similarity = Field(default="cosine", description='"cosine", "dot" or "euclidean".')
    temperature: Positive | None = Field(
        default=None, description="Scores are divided by it. Unset: the mode's.", examples=[0.1]
    )
    learn_temperature: bool = Field(
        default=False, description="Whether the temperature is trained, from the value above."
    )
    correct_sampling: bool | None = Field(
        default=None,
        description="Whether the log of the sampling probability is taken off. "
        "Unset: where the loss wants it.",
        examples=[True],
    )
    negatives: Count | None = Field(
        default=None,
        description="How many are drawn, for each row or, where shared, for the batch. "
        "Unset: the mode's.",
        examples=[1024],
    )
    shared: bool | None = Field(
        default=None,
        description="One pool of negatives for a whole batch, or some for each row. "
        "Unset: the mode's.",
        examples=[True],
    )
    alpha: NotNegative | None = Field(
        default=None,
        description="Popularity sampling draws by count^alpha. Unset: the sampler's.",
        examples=[0.75],
    )
    mixture: dict[Text, Positive] | None = Field(
        default=None,
        description='Laws that sampler = "mixture" draws from, and "mixed" beside the batch, with '
        'their weights: "uniform", "popularity" or "in_batch" (as often as in the log). '
        "Unset: the sampler's.",
        examples=[{"uniform": 1.0, "popularity": 2.0}],
    )
    margin: NotNegative | None = Field(
        default=None,
        description="Of the hinge and the cosine contrastive loss. Unset: the loss's.",
        examples=[0.5],
    )
    scale: Positive | None = Field(
        default=None, description="Of the logistic triplet loss. Unset: the loss's.", examples=[1.0]
    )
    calibration: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="Of gbce: how much of BCE's overconfidence is taken out. Unset: the loss's.",
        examples=[0.75],
    )
    negative_weight: Positive | None = Field(
        default=None,
        description="Of the cosine contrastive loss: what its negatives count beside the positive. "
        "Unset: the loss's.",
        examples=[10.0],
    )
    mask_hits: bool | None = Field(
        default=None,
        description="Whether negatives that are the row's own positive are dropped. "
        "Unset: where that is right.",
        examples=[True],
    )
    mask_known: bool = Field(
        default=False, description="Whether negatives the user is known to like are dropped."
    )
    hard: Text | None = Field(
        default=None,
        description="Hard negatives beside the sampler's easy ones, in a loss term of their own, "
        "uncorrected. Unset: none.",
        examples=["mined"],
    )
    hard_share: Positive | None = Field(
        default=None,
        description="Hard negatives of a row for each easy one in its pool, at least one in all. "
        "Unset: 0.01, easy to hard as 100 to 1.",
        examples=[0.01],
    )
    hard_weight: Positive | None = Field(
        default=None,
        description="What the hard term counts beside the easy one. Unset: 0.1.",
        examples=[0.1],
    )
    hard_margin: NotNegative | None = Field(
        default=None,
        description="semi_hard: how far below the positive, in the similarity's units, a hard "
        "negative has to score. Unset: 0.",
        examples=[0.1],
    )
    hard_ranks: Annotated[Ranks | None, BeforeValidator(_tuple)] = Field(
        default=None,
        description="mined: the first and last rank of the user's current list that are drawn "
        "from. Unset: 100 and 500.",
        examples=[[100, 500]],
    )
    hard_ceiling: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="mined: items that score above this share of the positive's score are passed "
        "over, as they may be liked. Unset: 0.95.",
        examples=[0.95],
    )
    hard_known: bool | None = Field(
        default=None,
        description="Whether hard negatives may be items the user is known to like. Unset: no.",
        examples=[False],
    )
    weighted: bool = Field(
        default=False, description="Whether data.weight weighs the loss; else each positive is 1."
    )
    learning_rate: Positive = Field(default=0.003, description="Step size of the optimizer.")
    weight_decay: NotNegative = Field(
        default=0.0, description="How strongly weights are pulled to zero."
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="How the step size falls to nothing over the epochs."
    )
    warmup: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=0, description="Steps over which the step size first rises to learning_rate."
    )
    clip: Positive | None = Field(
        default=None,
        description="The gradient's norm is cut to this length. Unset: it is not.",
        examples=[1.0],
    )
    optimizer: Literal["auto", "dense", "row-wise"] = Field(
        default="auto",
        description='How embedding tables learn: "dense" all rows at each step (AdamW), "row-wise" '
        'those of the batch (Adagrad), "auto" row-wise for tables of 8 million numbers or more.',
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Validate and keep a moving average of the weights: how much of it stays at "
        "each step. Tables are then trained densely. Unset: the weights themselves.",
        examples=[0.999],
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="float32",
        description="In which matrices are multiplied: the layers over features, and the scores of "
        "a softmax over a shared pool. Histories, sums and weights stay float32. "
        '"auto": bfloat16 where the device has arithmetic for it and it does something.',
    )
    epochs: Count = Field(default=10, description="At most so many passes over the log.")
    batch_size: Count = Field(
        default=1024, description="Positives in one step; with attention, about so many."
    )
    compile: bool = Field(
        default=False,
        description="Whether torch.compile turns the towers to machine code at the first batch; it "
        "needs a C++ compiler.",
    )
    encode_rows: Count | None = Field(
        default=None,
        description="Rows the towers encode at a time, for batches too large to hold at once: each "
        "block is encoded again when its gradient is known. Unset: all of a batch.",
        examples=[256],
    )
    validate_every: Count = Field(
        default=1, description="Epochs between two looks at the validation rows."
    )
    patience: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=3, description="Epochs without a better figure before training stops; 0: never."
    )
    monitor: Annotated[str, AfterValidator(_monitor)] = Field(
        default="ndcg@10", description="Validation figure that picks the epoch: recall@k or ndcg@k."
    )
    seed: Seed = Field(default=0, description="Of the weights, the batches and the negatives.")
    refit: Literal["none", "train+validation", "all"] = Field(
        default="none",
        description='Events the final model learns from: "none" keeps the measured model, '
        '"train+validation" and "all" train again.',
    )

    @model_validator(mode="after")
    def _blocks_act(self) -> Self:
        if self.encode_rows is not None and self.encode_rows >= self.batch_size:
            raise ValueError(
                f"encode_rows = {self.encode_rows} must be below batch_size = {self.batch_size}: "
                "with as many rows as a batch it does nothing."
            )
        return self


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
    segments: Annotated[tuple[Segment, ...], BeforeValidator(_tuple)] = Field(
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

    k: Annotated[Counts, AfterValidator(_distinct), Field(min_length=1)] = Field(
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
