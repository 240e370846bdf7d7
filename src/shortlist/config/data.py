"""[data] of a recipe: where is the log, and what do its columns mean?"""

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
    """Where the log is, and what its columns mean."""

    root: PathText | None = Field(
        default=None,
        description="Folder to which the paths below are relative; it is itself relative to this "
        "file. The environment variable SHORTLIST_DATA overrides it. Unset: this file's folder.",
        examples=["data"],
    )
    interactions: Paths = Field(
        description="The log, one row per event: CSV and other text, Parquet, JSON Lines or "
        "RecBole's .inter. The files of a folder, a pattern (log/*.csv) or a list form one log.",
        examples=["interactions.csv"],
    )
    users: PathText | None = Field(
        default=None, description="Features of users, one row per user.", examples=["users.csv"]
    )
    items: PathText | None = Field(
        default=None,
        description="Features and titles of items, one row per item.",
        examples=["items.csv"],
    )
    impressions: PathText | None = Field(
        default=None,
        description='Impressions, for training.hard = "exposed" and for channels with metric = '
        '"ctr" or "conversion": one row per item shown to a user, with columns named as in the '
        "log. Rows after the cut of the split are not used.",
        examples=["impressions.parquet"],
    )
    click: Text | None = Field(
        default=None,
        description="Column of data.impressions that is above 0 if the item was clicked.",
        examples=["click"],
    )
    dropped: PathText | None = Field(
        default=None,
        description='Items that a later stage dropped, for training.hard = "dropped": one row per '
        "item recalled for a user, with columns named as in the log. Rows after the cut of the "
        "split are not used.",
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
        description='Unit of the numbers of data.time: "s", "ms", "us", "ns" or "day" since 1970, '
        '"yyyymmdd" or "yyyymmddhhmmss" as in 20240131, or "number" if the unit is not known. '
        '"auto" infers it from their size and reports the result. Dates and text need no unit.',
    )
    weight: Text | None = Field(
        default=None,
        description="Column of a rating, a label or another strength of the event.",
        examples=["rating"],
    )
    event: Text | None = Field(
        default=None,
        description="Column with the kind of each event, such as view or purchase; data.events "
        "defines how each kind is used.",
        examples=["event"],
    )
    events: dict[Text, EventKind] = Field(
        default={},
        description="How each kind of event is used; every kind of the column must be named. "
        "target: it is learned, predicted and read in histories. history: it is read in histories. "
        "weight: how much an event counts. seen: its item is left out of the user's answers. drop: "
        'its rows are ignored. Kinds that are numbers may be ranges: "4.." is 4 and more.',
        examples=[{"purchase": {"target": True, "weight": 3.0}, "view": {"seen": False}}],
    )
    session: Text | None = Field(
        default=None,
        description="Column with the session of each event.",
        examples=["session_id"],
    )
    min_weight: float | None = Field(
        default=None,
        description="Events of at least this weight are positives. The other events are not "
        "learned from, but their items count as seen and are not recommended to the user again. "
        "Unset: every event is a positive.",
        examples=[4.0],
    )
    order: Literal["time", "file"] = Field(
        default="time",
        description='How a user\'s events are ordered: "time", by data.time (without it there is '
        'no order); "file", by their lines, where each line is one event and there are no times.',
    )
    tie: Literal["hash", "file"] = Field(
        default="hash",
        description='Order of events at equal times: "hash", a seeded hash of user and item; '
        '"file", the order of the lines.',
    )
    separator: Text | None = Field(
        default=None,
        description="Text between two fields of a text file, one character or more. Unset: it is "
        "inferred for each file from its name or its first lines.",
        examples=["::"],
    )
    quote: Text | None = Field(
        default=None,
        description='Character that encloses fields which contain separators, or "none" if quotes '
        "are ordinary characters. Unset: it is inferred for each text file, and a file that leaves "
        "it open is refused.",
        examples=["none"],
    )
    encoding: Text | None = Field(
        default=None,
        description="Encoding of text files: latin-1, cp1252, utf-16, gb18030 and others. Unset: "
        "UTF-8, or UTF-16 if the file begins with its byte order mark.",
        examples=["latin-1"],
    )
    decimal: Literal[","] | None = Field(
        default=None,
        description="Decimal separator of numbers in text files, if it is a comma. Unset: a point.",
        examples=[","],
    )
    columns: Names = Field(
        default=(),
        description="Names of the log's columns, in order, if the file has no header.",
        examples=[["user_id", "item_id", "timestamp"]],
    )
    item_separator: Text | None = Field(
        default=None,
        description="Text between the items if a text field of data.item holds several; each of "
        "them is an event. Lists in brackets and lists of Parquet do not need it.",
        examples=[" "],
    )
    users_columns: Names = Field(
        default=(),
        description="Names of the columns of data.users, in order, if the file has no header.",
        examples=[["user_id", "gender", "age"]],
    )
    items_columns: Names = Field(
        default=(),
        description="Names of the columns of data.items, in order, if the file has no header.",
        examples=[["item_id", "title", "genres"]],
    )
    users_id: Text | None = Field(
        default=None,
        description="Column of the id in data.users. Unset: its name in the log.",
        examples=["id"],
    )
    items_id: Text | None = Field(
        default=None,
        description="Column of the id in data.items. Unset: its name in the log.",
        examples=["id"],
    )
    null_values: Names = Field(
        default=(),
        description="Fields of text files that mean a missing value, besides empty ones and \\N.",
        examples=[["NULL", "NA"]],
    )
    null_ids: Literal["refuse", "drop", "keep"] = Field(
        default="refuse",
        description='Rows without a user or an item: "refuse" them, or "drop" and count them. Ids '
        'such as NULL and NA are refused as well unless they are in null_values; "keep" reads them '
        "as ids.",
    )
