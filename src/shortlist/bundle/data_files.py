"""The log, its vocabularies and features as files of a bundle, and back."""

import hashlib
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from shortlist.bundle.formats import JSON, dump_frame
from shortlist.bundle.store import Manifest
from shortlist.data.dataset import TrainingData
from shortlist.data.features import ENCODERS, FeatureTable, encode
from shortlist.data.impressions import Shows
from shortlist.data.interactions import Interactions
from shortlist.data.vocabulary import Vocabulary
from shortlist.errors import BundleError

LOG_COLUMNS = ("user", "item", "role", "time", "weight", "session")
MET_COLUMNS = ("user", "item", "role", "time")


def data_files(data: TrainingData) -> dict[str, bytes]:
    """Return the Parquet files of the data: ids in row order, the log in rows, raw features."""
    files = {
        "log.parquet": dump_frame(_columns(data.log, LOG_COLUMNS)),
        "users.parquet": dump_frame(pl.DataFrame({"id": data.users.ids})),
        "items.parquet": dump_frame(pl.DataFrame({"id": data.items.ids})),
    }
    if data.user_frame is not None:
        files["user_table.parquet"] = dump_frame(data.user_frame)
    if data.item_frame is not None:
        files["item_table.parquet"] = dump_frame(data.item_frame)
    if data.shows is not None:
        files["shows.parquet"] = dump_frame(pl.DataFrame(asdict(data.shows)))
    if data.met is not None:
        files["met.parquet"] = dump_frame(_columns(data.met, MET_COLUMNS))
    return files


def data_fields(data: TrainingData) -> dict[str, JSON]:
    """Return what the manifest says of the data: counts, encoders, split, fingerprint."""
    removed = {"removed_items": sorted(data.removed)} if data.removed else {}
    met = {} if data.met is None else {"met_events": len(data.met)}
    return {
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
        "events": len(data.log),
        "fingerprint": fingerprint(data),
        **removed,
        **met,
    }


def read_data(manifest: Manifest) -> TrainingData:
    """Return the data a bundle was saved with; raises BundleError if its parts disagree."""
    fields: Any = manifest.fields["data"]
    users = _vocabulary(manifest, "user", fields["trained_users"])
    items = _vocabulary(manifest, "item", fields["trained_items"])
    log = _events(manifest.frame("log.parquet"), LOG_COLUMNS, users)
    met = _frame(manifest, "met.parquet")
    data = TrainingData(
        users=users,
        items=items,
        log=log,
        fit=fields["fit"],
        ordered=fields["ordered"],
        user_features=_table(fields["user_encoders"], manifest, "user_table.parquet", users),
        item_features=_table(fields["item_encoders"], manifest, "item_table.parquet", items),
        user_frame=_frame(manifest, "user_table.parquet"),
        item_frame=_frame(manifest, "item_table.parquet"),
        title=fields["title"],
        kind=fields["split"],
        notes=tuple(fields["notes"]),
        time_unit=fields.get("time_unit"),
        shows=_shows(manifest),
        removed=frozenset(fields.get("removed_items", ())),
        met=None if met is None else _events(met, MET_COLUMNS, users),
    )
    if fingerprint(data) != fields["fingerprint"]:
        raise BundleError(
            f"{manifest.directory}: log.parquet, users.parquet, items.parquet, shows.parquet and "
            "met.parquet (if they are there) do not belong together; restore the bundle from a "
            "copy, or make it again."
        )
    return data


def fingerprint(data: TrainingData) -> str:
    """Return the sha256 of the log, its split, ids, shows and what was met besides."""
    digest = hashlib.sha256()
    for vocabulary in (data.users, data.items):
        digest.update(np.ascontiguousarray(vocabulary.tie_keys).tobytes())
    for name in LOG_COLUMNS:
        if (column := getattr(data.log, name)) is not None:
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(column).tobytes())
    if data.shows is not None:
        digest.update(b"shows")
        digest.update(np.ascontiguousarray(data.shows.shown).tobytes())
        digest.update(np.ascontiguousarray(data.shows.clicked).tobytes())
    if data.met is not None:
        for name in MET_COLUMNS:
            if (column := getattr(data.met, name)) is not None:
                digest.update(f"met {name}".encode())
                digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _columns(events: Interactions, names: tuple[str, ...]) -> pl.DataFrame:
    return pl.DataFrame({n: column for n in names if (column := getattr(events, n)) is not None})


def _events(frame: pl.DataFrame, names: tuple[str, ...], users: Vocabulary) -> Interactions:
    present = [name for name in names if name in frame.columns]
    columns = {name: frame[name].to_numpy(writable=True) for name in present}
    return Interactions(users=len(users) + 1, **columns)


def _shows(manifest: Manifest) -> Shows | None:
    frame = _frame(manifest, "shows.parquet")
    return None if frame is None else Shows(frame["shown"].to_numpy(), frame["clicked"].to_numpy())


def _encoders(table: FeatureTable) -> list[JSON]:
    """Encoders in their order: it is the order of a tower's fields."""
    return [{"name": name, **asdict(encoder)} for name, encoder in table.encoders.items()]  # type: ignore[call-overload]


def _table(
    described: list[dict[str, Any]], manifest: Manifest, file: str, vocabulary: Vocabulary
) -> FeatureTable:
    if not described:
        return FeatureTable({}, {}, vocabulary.trained)
    encoders = {}
    for fields in described:
        rest = {key: value for key, value in fields.items() if key != "name"}
        if "values" in rest:
            rest["values"] = tuple(rest["values"])
        encoders[fields["name"]] = ENCODERS[fields["kind"]](**rest)
    frame = pl.DataFrame({"id": vocabulary.ids}).join(
        manifest.frame(file), on="id", how="left", maintain_order="left"
    )
    return FeatureTable(encoders, encode(encoders, frame), vocabulary.trained)


def _vocabulary(manifest: Manifest, side: str, trained: int) -> Vocabulary:
    return Vocabulary(manifest.frame(f"{side}s.parquet")["id"], trained, side)


def _frame(manifest: Manifest, name: str) -> pl.DataFrame | None:
    return manifest.frame(name) if name in manifest.files else None
