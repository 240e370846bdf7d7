"""[data] of a recipe: where the log is, and which column is what?"""

from typing import Literal

from pydantic import Field

from shortlist.config.fields import Paths, PathText
from shortlist.durations import WrittenUnit
from shortlist.sections.base import (
    Names,
    Section,
    Text,
)
from shortlist.sections.events import EventKind


class Data(Section):
    """Where the log is, and which column is what."""

    root: PathText | None = Field(
        default=None,
        description="Folder where the relative paths below start; itself relative to this file. "
        "The environment variable SHORTLIST_DATA takes its place. Unset: this file's folder.",
        examples=["data"],
    )
    interactions: Paths = Field(
        description="The log, one row an event: CSV and other text, Parquet, JSON Lines or "
        "RecBole's .inter; a folder, a pattern such as log/*.csv or a list is read as one.",
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
    event: Text | None = Field(
        default=None,
        description="Column that names the kind of each event, such as view and purchase; "
        "data.events says what each kind is for.",
        examples=["event"],
    )
    events: dict[Text, EventKind] = Field(
        default={},
        description="What each kind of event is for, every kind of the column named: target, "
        "learned and predicted (and read); history, read; weight, what an event counts; seen, "
        "whether its item is left out of answers; drop, whether its rows are left out. A number "
        'may be a range: "4.." is 4 and more.',
        examples=[{"purchase": {"target": True, "weight": 3.0}, "view": {"seen": False}}],
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
    item_separator: Text | None = Field(
        default=None,
        description="What stands between the items, where a text field of data.item holds several: "
        "each of them is an event. Lists in brackets, or of Parquet, need no word.",
        examples=[" "],
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
    users_id: Text | None = Field(
        default=None,
        description="Column of the id in data.users. Unset: called as in the log.",
        examples=["id"],
    )
    items_id: Text | None = Field(
        default=None,
        description="Column of the id in data.items. Unset: called as in the log.",
        examples=["id"],
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
