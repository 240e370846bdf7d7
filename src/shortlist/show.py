"""Answers for people and for machines: titles beside histories, tables, JSON objects."""

from itertools import pairwise
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from shortlist.bundle.bundle import Bundle
from shortlist.retrievers.base import Queries, Retriever, row_blocks

HISTORY_SHOWN = 10


def answers(retriever: Retriever, queries: Queries, k: int) -> dict[str, Any]:
    """Return {"users": [{"user", "items": [{"item", "score"}], "fallback"}]}, JSON-safe."""
    found = retriever.recommend(queries, k)
    names = list(queries.users) if queries.users is not None else [None] * len(queries)
    return {
        "users": [
            {
                "user": name,
                "items": [
                    {"item": item, "score": float(score)}
                    for item, score in zip(ids, scores, strict=False)
                ],
                "fallback": bool(fallback),
            }
            for name, ids, scores, fallback in zip(
                names, found.ids, found.scores, found.fallback, strict=True
            )
        ]
    }


def recommendations(retriever: Retriever, queries: Queries, k: int) -> RenderableType:
    """Return, for each query, the end of its history beside its candidates with their scores."""
    data = retriever.data
    found = retriever.recommend(queries, k)
    names = list(queries.users) if queries.users is not None else [None] * len(queries)
    tables: list[RenderableType] = []
    position = 0
    for block in row_blocks(queries, data):
        ends = block.history.offsets.tolist()
        for start, end in pairwise(ends):
            met = block.history.values[max(start, end - HISTORY_SHOWN) : end].numpy()
            given = found.rows[position][found.rows[position] >= 0]
            scores = found.scores[position][: len(given)]
            who = "this history" if names[position] is None else f"user {names[position]}"
            if found.fallback[position]:
                who += " (nothing known: popular items)"
            tables.append(_side_by_side(who, _titles(data, met), _titles(data, given), scores))
            position += 1
    return Group(*tables)


def _titles(data: Any, rows: Any) -> list[str]:
    known = data.titles(np.where(rows > 0, rows, 1)) if len(rows) else []
    return [t if row > 0 else "(unknown item)" for t, row in zip(known, rows, strict=True)]


def _side_by_side(who: str, history: list[str], titles: list[str], scores: Any) -> Table:
    table = Table(title=f"Candidates for {who}")
    table.add_column("met last (newest first)")
    table.add_column("#", justify="right")
    table.add_column("candidate")
    table.add_column("score", justify="right")
    for place in range(max(len(history), len(titles))):
        met = history[-1 - place] if place < len(history) else ""
        if place < len(titles):
            table.add_row(met, str(place + 1), titles[place], f"{scores[place]:.4f}")
        else:
            table.add_row(met, "", "", "")
    return table


def contents(bundle: Bundle) -> dict[str, Any]:
    """Return what `inspect --json` prints."""
    manifest = bundle.manifest
    return {
        "bundle": bundle.id,
        "format": manifest.format,
        "created_by": manifest.created_by,
        **manifest.fields,
        "files": {
            name: {"size": entry.size, "sha256": entry.sha256}
            for name, entry in manifest.files.items()
        },
    }


def inspection(bundle: Bundle) -> RenderableType:
    """Return what `inspect` prints: what it is, what it was fitted on, its figures, its files."""
    fields: Any = bundle.manifest.fields
    data = fields["data"]
    about = Table(title=f"Bundle {bundle.id[:12]}", show_header=False)
    rows = {
        "retriever": fields["retriever"],
        "made by": f"{bundle.manifest.created_by}, format {bundle.manifest.format}",
        "log": f"{data['events']:,} events, split {data['split']}, "
        f"fingerprint {data['fingerprint'][:12]}",
        "fitted on": f"{data['fit']}: {data['trained_users']:,} users, "
        f"{data['trained_items']:,} items",
        "embedding space": fields["embedding_space"][:12],
    }
    if bundle.metrics is not None:
        rows["figures of"] = (
            f"the fit on {bundle.metrics['split']['fit']}, {bundle.metrics['users']:,} users"
        )
        for name, figure in bundle.metrics["metrics"].items():
            rows[name] = f"{figure['mean']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]"
    for name, value in rows.items():
        about.add_row(name, str(value))
    files = Table("file", "bytes", "sha256", title="Files, each verified")
    for name, entry in bundle.manifest.files.items():
        files.add_row(name, f"{entry.size:,}", entry.sha256[:12])
    return Group(about, files)
