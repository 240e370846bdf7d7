"""How are the log, its vocabularies and features saved as files of a bundle, and read back?"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.bundle.formats import JSON, dump_frame, dump_json
from shortlist.bundle.parquet import unpacked
from shortlist.bundle.store import Manifest
from shortlist.data.event_columns import EventEncoder, EventFeatures
from shortlist.data.features import ENCODERS, CategoricalEncoder, Encoder, FeatureTable, encode
from shortlist.data.histories import Histories
from shortlist.data.impressions import Shows
from shortlist.data.interactions import Interactions, Role
from shortlist.data.kinds import Kinds
from shortlist.data.ragged import Ragged
from shortlist.data.text import TextFormat
from shortlist.data.text_features import TextEncoder
from shortlist.data.training_data import TrainingData
from shortlist.data.vocabulary import Vocabulary
from shortlist.errors import BundleError

LOG_COLUMNS: dict[str, tuple[Any, ...]] = {
    "user": (pl.Int32,),
    "item": (pl.Int32,),
    "role": (pl.Int8,),
    "time": (pl.Int64, pl.Float64),
    "weight": (pl.Float32,),
    "session": (pl.Int32,),
    "kind": (pl.Int8,),
}
"""The columns that a log can have, and the accepted types of each."""

MET_COLUMNS = ("user", "item", "role", "time")
"""The columns of the met events, which nothing is learned from."""

EVENT_COLUMNS = "event_columns.parquet"
"""Features of the events, one row per row of the log; only if the log has such features."""

REQUIRED = ("user", "item", "role")
TEXTS = "texts.parquet"
"""The vector of each term of text features; only in bundles with text features."""

TABLES = ("user_table.parquet", "item_table.parquet", TEXTS)


def data_files(data: TrainingData) -> dict[str, bytes]:
    """Return the Parquet files of the data by name: ids in row order, the log, raw features."""
    files = {
        "log.parquet": dump_frame(_columns(data.log, LOG_COLUMNS)),
        "users.parquet": dump_frame(pl.DataFrame({"id": data.users.ids})),
        "items.parquet": dump_frame(pl.DataFrame({"id": data.items.ids})),
    }
    if data.log.columns:
        files[EVENT_COLUMNS] = dump_frame(pl.DataFrame(data.log.columns, nan_to_null=True))
    if texts := _texts(data):
        files[TEXTS] = dump_frame(pl.concat(texts))
    if data.user_frame is not None:
        files["user_table.parquet"] = dump_frame(data.user_frame)
    if data.item_frame is not None:
        files["item_table.parquet"] = dump_frame(data.item_frame)
    if data.shows is not None:
        files["shows.parquet"] = dump_frame(pl.DataFrame(asdict(data.shows)))
    if data.counts is not None:
        files["counts.parquet"] = dump_frame(pl.DataFrame({"events": data.counts}))
    if data.met is not None:
        files["met.parquet"] = dump_frame(_columns(data.met, MET_COLUMNS))
    return files


def data_fields(data: TrainingData, files: Mapping[str, bytes]) -> dict[str, JSON]:
    """Return the manifest's description of the data: counts, encoders, split, fingerprint.

    files: the result of `data_files`.
    """
    fields: dict[str, JSON] = {
        "fit": data.fit,
        "ordered": data.ordered,
        "trained_users": data.users.trained,
        "trained_items": data.items.trained,
        "user_encoders": _encoders(data.user_features),
        "item_encoders": _encoders(data.item_features),
        "title": data.title,
        "split": data.kind,
        "notes": list(data.notes),
        "time_unit": data.time_unit,
        "text": None if data.text is None else data.text.described(),
        "events": len(data.log),
        "met_events": None if data.met is None else len(data.met),
        "removed_items": sorted(data.removed),
        "rows": {name: unpacked(content).rows for name, content in files.items()},
    }
    if data.log.kinds is not None:
        fields["kinds"] = [dict(kind._asdict()) for kind in data.log.kinds.rows()]
    if data.event_features.encoders:
        fields["event_encoders"] = _event_encoders(data.event_features)
    tables = {name: hashlib.sha256(files[name]).hexdigest() for name in TABLES if name in files}
    return {**fields, "fingerprint": fingerprint(data, fields, tables)}


def read_data(manifest: Manifest, store: Histories | None = None) -> TrainingData:
    """Read and check the data of a bundle.

    manifest: its fields were checked by `bundle.schema`.
    store: source of histories in place of the log.
    Errors: BundleError if the files do not fit each other.
    """
    fields: Any = manifest.fields["data"]
    users, items = _vocabulary(manifest, "user"), _vocabulary(manifest, "item")
    log, met = _events(manifest, LOG_COLUMNS, users, items), None
    kinds = Kinds.from_rows(fields["kinds"]) if "kinds" in fields else None
    known = 0 if kinds is None else len(kinds.names)
    _require(
        manifest, (log.kind is not None) == (kinds is not None), "log.parquet", "kinds of events"
    )
    _require(manifest, _within(log.kind, 0, known - 1), "log.parquet", "a kind has no name")
    events = _event_features(manifest, kinds)
    log = replace(log, kinds=kinds, columns=_event_columns(manifest, events, len(log)))
    if "met.parquet" in manifest.files:
        met = _events(manifest, MET_COLUMNS, users, items, "met")
    user_frame, item_frame = _entities(manifest, users), _entities(manifest, items)
    removed = fields.get("removed_items", [])
    there = max(removed, default=1) <= len(items) and 0 not in removed
    _require(manifest, there, "manifest.json", "removed_items must be rows of items")
    data = TrainingData(
        users=users,
        items=items,
        log=log,
        fit=fields["fit"],
        ordered=fields["ordered"],
        user_features=_table(manifest, users, user_frame),
        item_features=_table(manifest, items, item_frame),
        user_frame=user_frame,
        item_frame=item_frame,
        title=fields["title"],
        kind=fields["split"],
        notes=tuple(fields.get("notes", ())),
        time_unit=fields.get("time_unit"),
        text=None if fields.get("text") is None else TextFormat(**fields["text"]),
        shows=_shows(manifest, items),
        removed=frozenset(removed),
        met=met,
        counts=_counts(manifest, log, items),
        store=store,
        event_features=events,
    )
    described = {key: value for key, value in fields.items() if key != "fingerprint"}
    tables = {name: manifest.files[name].sha256 for name in TABLES if name in manifest.files}
    whole = manifest.format > 1
    found = fingerprint(data, described, tables) if whole else log_fingerprint(data).hexdigest()
    if found != fields["fingerprint"]:
        raise BundleError(
            f"{manifest.directory}: log.parquet, users.parquet, items.parquet, the other tables "
            "and the manifest's description of them do not belong together; restore the bundle "
            "from a copy, or make it again."
        )
    return data


def fingerprint(data: TrainingData, fields: Mapping[str, JSON], tables: Mapping[str, str]) -> str:
    """Return the sha256 of the log (`log_fingerprint`), its description and its tables.

    fields: the other fields of the manifest's `data`.
    tables: the sha256 of each table's file.
    """
    digest = log_fingerprint(data)
    digest.update(dump_json({"fields": fields, "tables": tables}))
    return digest.hexdigest()


def log_fingerprint(data: TrainingData) -> "hashlib._Hash":
    """Return the sha256 of the log, its split, ids, impressions and met events.

    In format 1 this is the whole fingerprint.
    """
    digest = hashlib.sha256()
    for vocabulary in (data.users, data.items):
        digest.update(np.ascontiguousarray(vocabulary.tie_keys).tobytes())
    for name in LOG_COLUMNS:
        if (column := getattr(data.log, name)) is not None:
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(column).tobytes())
    for name, column in data.log.columns.items():
        digest.update(f"event {name}".encode())
        digest.update(np.ascontiguousarray(column).tobytes())
    if data.shows is not None:
        digest.update(b"shows")
        digest.update(np.ascontiguousarray(data.shows.shown).tobytes())
        digest.update(np.ascontiguousarray(data.shows.clicked).tobytes())
    if data.counts is not None:
        digest.update(b"counts")
        digest.update(np.ascontiguousarray(data.counts).tobytes())
    if data.met is not None:
        for name in MET_COLUMNS:
            if (column := getattr(data.met, name)) is not None:
                digest.update(f"met {name}".encode())
                digest.update(np.ascontiguousarray(column).tobytes())
    return digest


def _columns(events: Interactions, names: Iterable[str]) -> pl.DataFrame:
    return pl.DataFrame({n: column for n in names if (column := getattr(events, n)) is not None})


def _events(
    manifest: Manifest,
    names: Iterable[str],
    users: Vocabulary,
    items: Vocabulary,
    side: Literal["log", "met"] = "log",
) -> Interactions:
    """Read the log or the met events, and check columns, order, users and items."""
    fields, file = manifest.fields["data"], f"{side}.parquet"
    frame = _frame(manifest, file, fields["events" if side == "log" else "met_events"])
    columns = {name: LOG_COLUMNS[name] for name in names}
    for name, kinds in columns.items():
        if name in frame.columns or name in REQUIRED:
            _require(manifest, frame.schema.get(name) in kinds, file, f"{name} must be {kinds}")
    _require(manifest, set(frame.columns) <= columns.keys(), file, "it has other columns")
    _require(manifest, not any(frame.null_count().row(0)), file, "a value is missing")
    given: dict[str, Any] = {
        name: frame[name].to_numpy(writable=True) for name in columns if name in frame
    }
    log = Interactions(users=len(users) + 1, **given)
    _require(manifest, (log.time is not None) == fields["ordered"], file, "ordered needs a time")
    _require(manifest, _within(log.user, 1, len(users)), file, "a user has no id")
    _require(manifest, _within(log.item, 1, len(items)), file, "an item has no id")
    _require(manifest, _within(log.role, 0, max(Role)), file, "a role is unknown")
    step = np.diff(log.user)
    _require(manifest, (step >= 0).all(), file, "it is not sorted by user")
    for column in (log.time, log.weight):
        finite = column is None or column.dtype.kind == "i" or np.isfinite(column).all()
        _require(manifest, finite, file, "a number is not finite")
    if log.time is not None:
        in_order = (log.time[1:] >= log.time[:-1]) | (step > 0)
        _require(manifest, in_order.all(), file, "it is not sorted by time")
    return log


def _within(column: NDArray[Any] | None, least: int, most: int) -> bool:
    return column is None or not len(column) or least <= column.min() <= column.max() <= most


def _shows(manifest: Manifest, items: Vocabulary) -> Shows | None:
    file = "shows.parquet"
    if file not in manifest.files:
        return None
    frame = _frame(manifest, file)
    whole = dict(frame.schema) == {"shown": pl.Int64, "clicked": pl.Int64}
    _require(manifest, whole and not any(frame.null_count().row(0)), file, "wrong columns")
    # Items that were added after the fit have no row here.
    _require(manifest, items.trained < len(frame) <= len(items) + 1, file, "wrong number of rows")
    shows = Shows(frame["shown"].to_numpy(), frame["clicked"].to_numpy())
    sound = ((shows.clicked >= 0) & (shows.clicked <= shows.shown)).all()
    _require(manifest, sound, file, "an item was clicked more often than shown")
    return shows


def _counts(manifest: Manifest, log: Interactions, items: Vocabulary) -> NDArray[np.int64] | None:
    """Read the event count of each trained item, saved in place of the log."""
    file = "counts.parquet"
    if file not in manifest.files:
        return None
    frame = _frame(manifest, file)
    whole = dict(frame.schema) == {"events": pl.Int64} and not any(frame.null_count().row(0))
    _require(manifest, whole, file, "wrong columns")
    _require(manifest, len(frame) == items.trained + 1, file, "wrong number of rows")
    _require(manifest, (frame["events"] >= 0).all(), file, "a count is below 0")
    _require(manifest, not len(log), file, "it replaces the log, but the log has events")
    return frame["events"].to_numpy(writable=True)


def _encoders(table: FeatureTable) -> list[JSON]:
    """Describe encoders, in the order of a tower's input fields."""
    return [{"name": name, **_described(encoder)} for name, encoder in table.encoders.items()]


def _described(encoder: Encoder) -> dict[str, JSON]:
    if isinstance(encoder, TextEncoder):
        return {"kind": "text", "width": encoder.width, "terms": len(encoder.terms)}
    return asdict(encoder)  # type: ignore[call-overload, no-any-return]


def _texts(data: TrainingData) -> list[pl.DataFrame]:
    """Return the term vectors of each text feature, one row per term."""
    return [
        pl.DataFrame(
            {
                "feature": pl.repeat(f"{side} {name}", len(encoder.terms), eager=True),
                "term": encoder.terms,
                "vector": pl.Series(encoder.vectors.tolist(), dtype=pl.List(pl.Float32)),
            }
        )
        for side, table in (("user", data.user_features), ("item", data.item_features))
        for name, encoder in table.encoders.items()
        if isinstance(encoder, TextEncoder)
    ]


def _text_encoder(manifest: Manifest, side: str, described: Mapping[str, Any]) -> TextEncoder:
    """Read the encoder of a text feature and check its term vectors."""
    _require(manifest, TEXTS in manifest.files, TEXTS, "it is not there")
    frame, name = _frame(manifest, TEXTS), f"{side} {described['name']}"
    kinds = {"feature": pl.String, "term": pl.UInt32, "vector": pl.List(pl.Float32)}
    whole = dict(frame.schema) == kinds and not any(frame.null_count().row(0))
    _require(manifest, whole, TEXTS, f"it must have the columns {', '.join(kinds)}")
    mine = frame.filter(pl.col("feature") == name)
    _require(manifest, len(mine) == described["terms"], TEXTS, f"rows of '{name}' are missing")
    terms, width = mine["term"].to_numpy(), described["width"]
    _require(manifest, (terms[1:] > terms[:-1]).all(), TEXTS, f"terms of '{name}' do not ascend")
    flat = mine["vector"].explode(empty_as_null=True, keep_nulls=True)
    even = bool((mine["vector"].list.len() == width).all())
    sound = even and not flat.null_count() and bool(flat.is_finite().all())
    _require(manifest, sound, TEXTS, f"'{name}' must have {width} finite numbers a row")
    return TextEncoder(terms.copy(), flat.to_numpy().reshape(-1, width).copy())


def _event_encoders(features: EventFeatures) -> list[JSON]:
    return [
        {
            "name": name,
            "known": "after" if name in features.after else "before",
            "of_kind": name == features.of_kind,
            "encoder": asdict(encoder),
        }
        for name, encoder in features.encoders.items()
    ]


def _event_features(manifest: Manifest, kinds: Kinds | None) -> EventFeatures:
    """Return the encoders of the features of events."""
    encoders: dict[str, EventEncoder] = {}
    after: set[str] = set()
    of_kind = None
    for feature in manifest.fields["data"].get("event_encoders", ()):
        name, fields = feature["name"], dict(feature["encoder"])
        if "values" in fields:
            fields["values"] = tuple(fields["values"])
        encoders[name] = ENCODERS[fields["kind"]](**fields)
        if feature["known"] == "after":
            after.add(name)
        if feature["of_kind"]:
            named = () if kinds is None else kinds.names
            same = of_kind is None and fields.get("values") == named
            _require(manifest, same, "manifest.json", f"'{name}' must hold the kinds of events")
            of_kind = name
    return EventFeatures(encoders, frozenset(after), of_kind)


def _event_columns(
    manifest: Manifest, features: EventFeatures, events: int
) -> dict[str, NDArray[Any]]:
    """Read the encoded features of the events of the log and check their values."""
    there = EVENT_COLUMNS in manifest.files
    _require(manifest, there == bool(features.held), EVENT_COLUMNS, "data.event_encoders disagree")
    if not there:
        return {}
    frame = _frame(manifest, EVENT_COLUMNS, events)
    _require(manifest, frame.columns == [*features.held], EVENT_COLUMNS, "it has other columns")
    for name in features.held:
        encoder, column = features.encoders[name], frame[name]
        if isinstance(encoder, CategoricalEncoder):
            whole = column.dtype == pl.Int32 and not column.null_count()
            sound = whole and bool(column.is_between(0, encoder.width - 1).all())
        else:
            sound = column.dtype == pl.Float32 and bool(column.is_finite().all())
        _require(manifest, sound, EVENT_COLUMNS, f"'{name}' holds values that no encoder gives")
    return {name: frame[name].to_numpy(writable=True) for name in features.held}


def _table(manifest: Manifest, vocabulary: Vocabulary, frame: pl.DataFrame | None) -> FeatureTable:
    """Encode the features of users or items from their table."""
    side = vocabulary.name
    described = manifest.fields["data"][f"{side}_encoders"]
    if not described:
        return FeatureTable({}, {}, vocabulary.trained)
    encoders: dict[str, Encoder] = {}
    for fields in described:
        if fields["kind"] == "text":
            encoders[fields["name"]] = _text_encoder(manifest, side, fields)
            continue
        rest = {key: value for key, value in fields.items() if key != "name"}
        if "values" in rest:
            rest["values"] = tuple(rest["values"])
        encoders[fields["name"]] = ENCODERS[fields["kind"]](**rest)
    table = pl.DataFrame({"id": vocabulary.ids.head(0)}) if frame is None else frame
    for name in encoders:
        there = name in table.columns
        _require(manifest, there, f"{side}_table.parquet", f"it has no column '{name}'")
    aligned = pl.DataFrame({"id": vocabulary.ids}).join(
        table, on="id", how="left", maintain_order="left"
    )
    columns = encode(encoders, aligned)
    for name, column in columns.items():
        finite = isinstance(column, Ragged) or bool(column.isfinite().all())
        _require(manifest, finite, f"{side}_table.parquet", f"'{name}' has a non-finite number")
    return FeatureTable(encoders, columns, vocabulary.trained)


def _vocabulary(manifest: Manifest, side: str) -> Vocabulary:
    """Read the user or item ids; check that each is there once and the trained ones are sorted."""
    file, trained = f"{side}s.parquet", manifest.fields["data"][f"trained_{side}s"]
    frame = _frame(manifest, file)
    kinds = (pl.Int64, pl.String)
    _require(manifest, frame.columns == ["id"] and frame.dtypes[0] in kinds, file, "wrong columns")
    ids = frame["id"]
    _require(manifest, ids.null_count() == 0, file, "an id is missing")
    _require(manifest, ids.n_unique() == len(ids), file, "an id is repeated")
    _require(manifest, trained <= len(ids), file, f"it has fewer than the {trained} trained ids")
    _require(manifest, ids.head(trained).is_sorted(), file, "its trained ids are not sorted")
    return Vocabulary(ids, trained, side)


def _entities(manifest: Manifest, vocabulary: Vocabulary) -> pl.DataFrame | None:
    """Read the user or item table; check that each row has a known id of its own."""
    file = f"{vocabulary.name}_table.parquet"
    title = manifest.fields["data"]["title"] if vocabulary.name == "item" else None
    if file not in manifest.files:
        _require(manifest, title is None, file, "it must hold the titles, but is missing")
        return None
    frame = _frame(manifest, file)
    same = frame.schema.get("id") == vocabulary.ids.dtype
    _require(manifest, same and frame["id"].null_count() == 0, file, "wrong or missing ids")
    _require(manifest, frame["id"].n_unique() == len(frame), file, "an id is repeated")
    _require(manifest, vocabulary.rows(frame["id"]).all(), file, "an id is unknown")
    if title is not None:
        _require(manifest, title in frame.columns, file, f"it has no column '{title}'")
        frame[title].head(1).cast(pl.String)
    return frame


def _frame(manifest: Manifest, name: str, rows: int | None = None) -> pl.DataFrame:
    announced = manifest.fields["data"].get("rows", {}).get(name, rows)
    _require(manifest, rows in (None, announced), name, f"{announced} rows for {rows} events")
    return manifest.frame(name, announced)


def _require(manifest: Manifest, sound: Any, file: str, fault: str = "") -> None:
    if not sound:
        raise BundleError(
            f"{manifest.directory}: {file} is not what training writes: {fault}. Restore the "
            "bundle from a copy, or make it again."
        )
