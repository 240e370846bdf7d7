"""Which keys must a manifest have, and which files belong to it? Checked before a file is opened.

The checksums only show that nothing changed. Somebody who edits a bundle can also compute new
checksums, so the content is checked as well.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from shortlist.blending.blend import Blend
from shortlist.blending.retrievers import RETRIEVERS
from shortlist.bundle.store import FORMAT, Manifest
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.base import Learner
from shortlist.channels.options import options_of
from shortlist.channels.table import CHANNELS
from shortlist.config.blend import Blend as BlendSection
from shortlist.config.model import Model
from shortlist.config.parts import CHOICES, added_keys
from shortlist.config.training import Training
from shortlist.data.training_data import Fit
from shortlist.durations import TimeUnit
from shortlist.errors import BundleError, suggest_part
from shortlist.index import INDEXES
from shortlist.plugins import TABLES, OwnPart, missing_parts
from shortlist.sections.base import AUTO, Section
from shortlist.sections.events import MOST
from shortlist.sections.faults import complaint
from shortlist.sections.kinds import Known, SplitKind
from shortlist.training.auto import autos

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Whole = Annotated[int, Field(ge=0, lt=2**62)]
Name = Annotated[str, StringConstraints(min_length=1)]

DATA_FILES = ("log.parquet", "users.parquet", "items.parquet")
"""The tables of every bundle."""

OPTIONAL_FILES = (
    "user_table.parquet",
    "item_table.parquet",
    "shows.parquet",
    "met.parquet",
    "counts.parquet",
)
"""Tables that a bundle may have."""

LATER_FILES = ("event_columns.parquet", "texts.parquet")
LATER_DATA = ("kinds", "event_encoders")
"""Tables, and keys of `data`, that only bundles with kinds of events, features of events or text
features have. Older versions refuse them by name (docs/decisions/0012)."""


class Categorical(Section):
    """The encoder of a categorical column."""

    name: Name
    kind: Literal["categorical"]
    values: list[str]


class MultiValued(Section):
    """The encoder of a multi-valued column."""

    name: Name
    kind: Literal["multi-valued"]
    values: list[str]
    separator: str | None


class Numeric(Section):
    """The encoder of a numeric column."""

    name: Name
    kind: Literal["numeric"]
    mean: float
    std: Annotated[float, Field(gt=0)]
    width: Literal[2]


class Vector(Section):
    """The encoder of a column of pretrained vectors."""

    name: Name
    kind: Literal["vector"]
    width: Annotated[int, Field(ge=0, lt=2**31)]


class TextColumn(Section):
    """The encoder of a text column. terms: its number of rows in texts.parquet."""

    name: Name
    kind: Literal["text"]
    width: Annotated[int, Field(ge=1, le=4096)]
    terms: Annotated[int, Field(ge=0, lt=2**31)]


Encoders = list[
    Annotated[
        Categorical | MultiValued | Numeric | Vector | TextColumn, Field(discriminator="kind")
    ]
]


class Text(Section):
    """The text format of the log (`data.text.TextFormat`). item_separator: for lists of items."""

    may_be_missing: ClassVar[frozenset[str]] = frozenset({"item_separator"})

    separator: Name
    quote: Annotated[str, StringConstraints(pattern=r"^([!-~]|none)$")] | None
    encoding: Name
    decimal: Literal[","] | None
    columns: list[Name]
    null_values: list[Name]
    item_separator: Name | None = None


class Kind(Section):
    """A kind of events (`data.kinds.Described`)."""

    name: Name
    target: bool
    weight: Annotated[float, Field(gt=0)]
    seen: bool


class Kinds(Section):
    """The kinds of events that are read, by code."""

    kinds: Annotated[list[Kind], Field(min_length=1, max_length=MOST)]


class EventCategories(Section):
    """The encoder of a categorical feature of events."""

    kind: Literal["categorical"]
    values: list[str]


class EventNumbers(Section):
    """The encoder of a numeric feature of events."""

    kind: Literal["numeric"]
    mean: float
    std: Annotated[float, Field(gt=0)]
    width: Literal[2]


class EventColumn(Section):
    """A feature of events. of_kind: True if it is the kind of the event."""

    name: Name
    known: Known
    of_kind: bool
    encoder: Annotated[EventCategories | EventNumbers, Field(discriminator="kind")]


class EventColumns(Section):
    """All features of events, in the order of their columns."""

    event_encoders: Annotated[list[EventColumn], Field(min_length=1)]


class Data(Section):
    """Description of the log and its tables. rows: {table: number of rows}, since format 2."""

    fit: Fit
    ordered: bool
    trained_users: Whole
    trained_items: Whole
    user_encoders: Encoders
    item_encoders: Encoders
    title: str | None
    split: SplitKind
    notes: list[str] = Field(default=[])
    time_unit: TimeUnit | None = None
    text: Text | None = None
    events: Whole
    met_events: Whole | None = None
    fingerprint: Digest
    removed_items: list[Whole] = Field(default=[])
    rows: dict[str, Whole] = Field(default={})


class Epoch(Section):
    """One epoch that was measured."""

    epoch: Whole
    loss: float
    score: float
    skipped: Whole = 0


class LearnedSettings(Section):
    """Settings of a retriever with towers.

    auto: the reason of the choice for each key that was "auto".
    learned: scalars learned beside the towers, such as a bias.
    """

    may_be_missing: ClassVar[frozenset[str]] = frozenset({"auto", "learned"})

    model: dict[str, Any]
    training: dict[str, Any]
    best_epoch: Whole
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    epochs: list[Epoch]
    index: str | None = None
    auto: dict[Name, str] | None = None
    learned: dict[Name, Annotated[float, Field(allow_inf_nan=False)]] | None = None


class CountingSettings(Section):
    """Settings of a retriever without towers."""

    options: dict[str, Any] = Field(default={})


class Channel(Section):
    """One channel of a blend; the names of its files begin with its name."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")]
    retriever: str
    settings: dict[str, Any]


class PlannedChannel(Section):
    """The figures of one channel in a plan of quotas."""

    quota: Whole
    recall_alone: float
    unique_hits: Whole
    marginal_recall_per_100_slots: float | None
    microseconds: float
    overlap: dict[str, float]


class Planned(Section):
    """A plan of quotas (`blending.planning.Plan.to_dict`)."""

    size: Whole
    users: Whole
    held_out: Whole
    expected_recall: float
    equal_quotas_recall: float
    channels: Annotated[dict[str, PlannedChannel], Field(min_length=1)]

    @model_validator(mode="after")
    def _covers_all(self) -> Self:
        for name, channel in self.channels.items():
            if channel.overlap.keys() != self.channels.keys():
                raise ValueError(f"the overlap of {name!r} must name every channel")
        return self


class BlendSettings(Section):
    """Settings of a blend."""

    options: dict[str, Any]
    quotas: dict[str, Annotated[int, Field(ge=0, lt=2**31)]] | None
    channels: Annotated[list[Channel], Field(min_length=1)]
    plan: Planned | None


class Reported(BaseModel):
    """The checked part of a report; other keys are allowed."""

    model_config = ConfigDict(strict=True, extra="allow")


class Figure(Reported):
    """A mean with its interval; low and high are null if it has none."""

    mean: float
    low: float | None
    high: float | None


class Fitted(Reported):
    """The fit that was measured."""

    fit: str


class Metrics(Reported):
    """A report."""

    split: Fitted
    users: Whole
    metrics: dict[str, Figure]


class Watermark(Section):
    """The last event, or change of items, of a store (`histories.events.Watermark`)."""

    store: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    sequence: Whole


class Part(Section):
    """A part of a plugin. module: the module that defined it, named in errors."""

    table: str
    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    module: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,255}$")]


class Fields(Section):
    """The manifest's fields besides format, writer and files.

    metrics, recipe, findings and index inform readers; loading does not use them.
    parts: parts of plugins, if the bundle has any.
    """

    may_be_missing: ClassVar[frozenset[str]] = frozenset({"watermark", "items_watermark", "parts"})
    """Keys that may be missing in every format (docs/decisions/0012)."""

    retriever: str
    settings: dict[str, Any]
    data: dict[str, Any]
    embedding_space: Digest
    metrics: Metrics | None
    recipe: dict[str, dict[str, Any] | None] | None
    findings: list[dict[str, str]] = Field(default=[])
    index: dict[str, Any] | None = None
    watermark: Watermark | None = None
    items_watermark: Watermark | None = None
    parts: Annotated[list[Part], Field(min_length=1)] | None = None


def check_manifest(manifest: Manifest) -> None:
    """Refuse a manifest that Shortlist could not have written. Errors: BundleError.

    In the current format every key is required; older formats had fewer.
    """
    where = str(manifest.directory)
    try:
        files = check_fields(manifest.fields, exact=manifest.format == FORMAT)
    except ValueError as error:
        raise BundleError(f"{where}: manifest.json: {error}") from None
    tables = {name for name in manifest.files if name.endswith(".parquet")}
    given = {name.removesuffix(".safetensors") for name in manifest.files.keys() - tables}
    for name in (*sorted(set(DATA_FILES) - tables), *(f"{n}.safetensors" for n in files - given)):
        raise BundleError(f"{where} has no file {name}, which its manifest needs")
    for name in (
        *sorted(tables - {*DATA_FILES, *OPTIONAL_FILES, *LATER_FILES}),
        *sorted(given - files),
    ):
        raise BundleError(f"{where}: a bundle of this kind must not have a file {name}")
    rows = manifest.fields["data"].get("rows", {})
    if manifest.format == FORMAT and rows.keys() != tables:
        raise BundleError(f"{where}: manifest.json: data.rows must count the rows of each table")


def check_fields(fields: Mapping[str, Any], *, exact: bool) -> set[str]:
    """Check the fields of a manifest; return the names of its tensor files. Errors: ValueError.

    exact: require every key of the current format.
    """
    _check_parts(_checked(Fields, fields, "", exact).parts or ())
    _checked(Data, {k: v for k, v in fields["data"].items() if k not in LATER_DATA}, "data", exact)
    if "event_encoders" in fields["data"]:
        _check_event_columns(fields["data"]["event_encoders"])
    if "kinds" in fields["data"]:
        _check_kinds(fields["data"]["kinds"])
    kind, settings = fields["retriever"], fields["settings"]
    _known("retriever", kind, RETRIEVERS)
    data = fields["data"]
    for side in ("user", "item"):
        names = [encoder["name"] for encoder in data[f"{side}_encoders"]]
        _distinct(f"data.{side}_encoders", names)
        for encoder in data[f"{side}_encoders"]:
            _distinct(f"data.{side}_encoders: {encoder['name']}", encoder.get("values", ()))
    _distinct("data.removed_items", data.get("removed_items", ()))
    if RETRIEVERS[kind] is not Blend:
        return _channel(kind, settings, "settings", exact)
    _checked(BlendSettings, settings, "settings", exact)
    options = _checked(BlendSection, settings["options"], "settings.options", exact)
    files: set[str] = {"chances"} if options.method == "calibrated" else set()
    names = [channel["name"] for channel in settings["channels"]]
    _distinct("settings.channels", names)
    for channel in settings["channels"]:
        place = f"settings.channels.{channel['name']}"
        _known(f"{place}.retriever", channel["retriever"], CHANNELS)
        own = _channel(channel["retriever"], channel["settings"], f"{place}.settings", exact)
        files |= {f"{channel['name']}.{file}" for file in own}
    if (options.method == "quotas") != (settings["quotas"] is not None):
        raise ValueError("settings.quotas must be there for method = 'quotas', and only for it")
    for name in settings["quotas"] or ():
        if name not in names:
            raise ValueError(f"settings.quotas: there is no channel {name!r:.80}")
    if settings["quotas"] is not None and not any(settings["quotas"].values()):
        raise ValueError("settings.quotas must give at least one slot")
    return files


def named_parts(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (table, name) of each part that the settings of a bundle use."""
    settings = fields["settings"]
    alone = {"retriever": fields["retriever"], "settings": settings}
    for channel in settings.get("channels", [alone]):
        yield "CHANNELS", channel["retriever"]
        own = channel["settings"]
        if own.get("index") is not None:
            yield "INDEXES", own["index"]
        keys = {**own.get("model", {}), **own.get("training", {})}
        for key, choice in CHOICES.items():
            if keys.get(key) is not None:
                yield choice.table, keys[key]
        if "monitor" in keys:
            yield "METRICS", keys["monitor"].partition("@")[0]


def _check_parts(parts: Iterable[Part]) -> None:
    """Refuse a bundle whose plugin parts are not registered. Errors: ValueError with the cure."""
    for part in parts:
        _known("parts: table", part.table, TABLES)
    if reason := missing_parts(OwnPart(part.table, part.name, part.module) for part in parts):
        raise ValueError(reason)


def _check_kinds(given: Any) -> None:
    kinds = _checked(Kinds, {"kinds": given}, "data", exact=True).kinds
    _distinct("data.kinds", [kind.name for kind in kinds])
    if not any(kind.target for kind in kinds):
        raise ValueError("data.kinds: none of them is a target")


def _check_event_columns(given: Any) -> None:
    said = {"event_encoders": given}
    columns = _checked(EventColumns, said, "data", exact=True).event_encoders
    _distinct("data.event_encoders", [column.name for column in columns])
    for column in columns:
        if isinstance(column.encoder, EventCategories):
            _distinct(f"data.event_encoders: {column.name}", column.encoder.values)


def _channel(kind: str, settings: Any, where: str, exact: bool) -> set[str]:
    """Check the settings of a single channel; return the names of its tensor files."""
    retriever = RETRIEVERS[kind]
    if not issubclass(retriever, Learner):
        _checked(CountingSettings, settings, where, exact)
        own = options_of(retriever) or Section
        _checked(own, settings.get("options", {}), f"{where}.options", exact)
        return set() if retriever is Popular else {"learned"}
    _checked(LearnedSettings, settings, where, exact)
    for section, name in ((Model, "model"), (Training, "training")):
        own = _checked(section, settings[name], f"{where}.{name}", exact)
        if found := [key for key in autos(own) if key in settings[name]]:
            raise ValueError(f'{where}.{name}.{found[0]} must be a number, got "{AUTO}"')
    files = {"towers", retriever.placed}
    if (index := settings.get("index")) is None:
        return files
    _known(f"{where}.index", index, INDEXES)
    return {*files, "index"}


def _checked(kind: type[Section], given: Any, where: str, exact: bool) -> Any:
    """Return `given` as a section. Errors: ValueError with the path of the first fault."""
    at = f"{where}." if where else ""
    if not isinstance(given, dict):
        raise ValueError(f"{where} must be a table")
    missing = sorted(must_have(kind) - given.keys())
    if exact and missing:
        raise ValueError(f"{at}{missing[0]} is missing")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise ValueError(f"{at}{place} {complaint(fault)}") from None


def must_have(kind: type[Section]) -> set[str]:
    """Return the keys that a section always has in the current format."""
    return kind.model_fields.keys() - added_keys(kind) - getattr(kind, "may_be_missing", set())


def _known(where: str, name: Any, among: Iterable[str]) -> None:
    if not isinstance(name, str) or name not in among:
        raise ValueError(
            f"{where}: this version does not know {name!r:.80}.{suggest_part(str(name), among)}"
        )


def _distinct(where: str, values: Iterable[Any]) -> None:
    values = list(values)
    if len(set(values)) < len(values):
        raise ValueError(f"{where} must not repeat a value")
