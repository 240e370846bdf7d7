"""How are answers shown? As tables with titles for people, and as JSON objects for programs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from inspect import getdoc
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shortlist.asking.candidates import Candidates
from shortlist.asking.capabilities import Channel, Explains, FindsSimilar, FindsSimilarUsers
from shortlist.asking.context import unknown_context
from shortlist.asking.queries import Queries
from shortlist.asking.rows import row_blocks
from shortlist.blending.blend import Blended
from shortlist.blending.retrievers import kind_name, parts
from shortlist.channels.learned.base import Learner
from shortlist.cli.screen import visible
from shortlist.data.vocabulary import Ids
from shortlist.errors import QueryError
from shortlist.evaluation.report import SAME_FOR_ONE
from shortlist.evaluation.searching import channels_of, settled
from shortlist.evaluation.significance import Interval
from shortlist.index import INDEXES
from shortlist.index.settings import settings_of
from shortlist.sampling import SAMPLERS
from shortlist.training.presets import choose

if TYPE_CHECKING:
    from shortlist.blending.planning import Plan
    from shortlist.bundle.bundle import Bundle
    from shortlist.doctor import Finding
    from shortlist.evaluation.index_recall import Tuning
    from shortlist.evaluation.report import Report

Side = Literal["item", "user"]

HISTORY_SHOWN = 10


def answers(retriever: Channel, queries: Queries, k: int) -> dict[str, Any]:
    """Return {"users": [{"user", "items": [{"item", "score"}], "fallback"}]}, ready for JSON."""
    found = retriever.recommend(queries, k)
    names = list(queries.users) if queries.users is not None else [None] * len(queries)
    return {
        "users": [
            {
                "user": name,
                "items": [
                    {"item": item, "score": float(score)} | origin
                    for item, score, origin in zip(ids, scores, origins, strict=False)
                ],
                "fallback": bool(fallback),
            }
            for name, ids, scores, fallback, origins in zip(
                names, found.ids, found.scores, found.fallback, _origins(found), strict=True
            )
        ]
    }


def _origins(found: Candidates) -> list[list[dict[str, Any]]]:
    """Return each candidate's channel in a blend, and its rank in every channel that lists it."""
    if not isinstance(found, Blended):
        return [[{} for _ in scores] for scores in found.scores]
    return [
        [
            {
                "channel": found.channels[channel],
                "ranks": {
                    name: int(rank)
                    for name, rank in zip(found.channels, ranks, strict=True)
                    if rank
                },
            }
            for channel, ranks in zip(channels, places, strict=True)
        ]
        for channels, places in zip(found.by, found.ranks, strict=True)
    ]


_LEFT_OUT = (
    "Each reason is left out alone. Below 0: without it the score would be higher. "
    "The figures need not sum to the score."
)


def explanation(
    retriever: Explains, queries: Queries, items: list[Any], reasons: int
) -> RenderableType:
    """Return a table per item: the reasons for its score, with their contributions."""
    data = retriever.data
    frame = retriever.explain(queries, [items] * len(queries))
    tables: list[RenderableType] = []
    for keys, part in frame.group_by(_reason_keys(frame), maintain_order=True):
        item = data.items.rows([keys[1]])
        channel = f", {keys[2]}" if len(keys) > 2 else ""
        sums = _reasons_sum(retriever, keys[2] if channel else None)
        figure = (
            f"score {part['contribution'].sum():.4f}"
            if sums
            else "what the score loses without each"
        )
        title = f"{data.titles(item)[0]}{channel}: {figure}"
        caption = None if sums else _LEFT_OUT
        table = Table(
            "because of", "kind", "gives" if sums else "loses", title=title, caption=caption
        )
        for kind, because, gives in (
            part.select("kind", "because", "contribution").head(reasons).iter_rows()
        ):
            known = data.items.rows(data.items.parse([because])) if kind == "event" else None
            table.add_row(
                data.titles(known)[0] if known is not None else because, kind, f"{gives:+.4f}"
            )
        if len(part) > reasons:
            rest = part["contribution"].tail(len(part) - reasons).sum()
            table.add_row(f"{len(part) - reasons} more", "", f"{rest:+.4f}" if sums else "")
        tables.append(table)
    if not tables:
        return Text("No channel can score these items for this query, so there are no reasons.")
    return Group(*tables)


def _reasons_sum(retriever: Explains, channel: str | None) -> bool:
    """Tell whether the reasons of a retriever, or of a channel of a blend, sum to the score."""
    source = retriever if channel is None else parts(retriever)[channel]
    return isinstance(source, Explains) and source.reasons_sum


def explanation_answers(retriever: Explains, queries: Queries, items: list[Any]) -> dict[str, Any]:
    """Return {"reasons": [{"query", "item", "kind", "because", "contribution"}], "reasons_sum"}."""
    frame = retriever.explain(queries, [items] * len(queries))
    return {"reasons": frame.to_dicts(), "reasons_sum": bool(retriever.reasons_sum)}


def _reason_keys(frame: pl.DataFrame) -> list[str]:
    return ["query", "item", *(["channel"] if "channel" in frame.columns else [])]


def tuned(tuning: "Tuning") -> RenderableType:
    """Return the trials of an index as a table that marks the chosen one."""
    table = Table(
        "",
        "index",
        "settings",
        f"recall@{tuning.k}",
        "µs a query",
        "µs in a batch",
        "build s",
        title=f"Target: {tuning.target_recall:g} of the exact {tuning.k} best",
    )
    for trial in tuning.trials:
        settings = ", ".join(f"{name} {value}" for name, value in trial.settings.items())
        table.add_row(
            "*" if trial is tuning.chosen else "",
            trial.kind,
            settings,
            f"{trial.measured.recall:.4f}",
            f"{trial.measured.single_us:,.0f}",
            f"{trial.measured.batched_us:,.0f}",
            f"{trial.build_seconds:.2f}",
        )
    return table


def index_kinds() -> RenderableType:
    """Return every kind of index with its settings, their defaults and meanings."""
    table = Table("index", "setting", "default", "meaning", title="Indexes")
    for name, kind in INDEXES.items():
        meaning = (getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
        table.add_row(name, "", "", meaning, style="bold")
        for setting, field in settings_of(kind).model_fields.items():
            default = "unset" if field.default is None else str(field.default)
            table.add_row("", setting, default, field.description)
    return table


def tuned_answers(tuning: "Tuning") -> dict[str, Any]:
    """Return what `index --json` prints."""
    return {
        "k": tuning.k,
        "target_recall": tuning.target_recall,
        "trials": [
            {
                "kind": trial.kind,
                "settings": trial.settings,
                "recall": trial.measured.recall,
                "single_us": trial.measured.single_us,
                "batched_us": trial.measured.batched_us,
                "build_seconds": trial.build_seconds,
                "chosen": trial is tuning.chosen,
            }
            for trial in tuning.trials
        ],
    }


def planned(plan: "Plan") -> RenderableType:
    """Return the plan as tables: the value of each channel, and the overlap of their lists."""
    table = Table(
        title=f"Quotas for {plan.size} slots: recall@{plan.size} {plan.expected:.4f} "
        f"(equal quotas {plan.equal:.4f})",
        caption=f"{plan.users:,} users, {plan.held_out:,} held-out items. Marginal: recall lost "
        "without the channel, per 100 of its slots.",
    )
    for name in ("channel", "quota", "recall alone", "unique hits", "marginal", "µs a query"):
        table.add_column(name, justify="left" if name == "channel" else "right")
    for name, quota in plan.quotas.items():
        marginal = plan.marginal[name]
        table.add_row(
            name,
            str(quota),
            f"{plan.alone[name]:.4f}",
            f"{plan.unique[name]:,}",
            "–" if np.isnan(marginal) else f"{marginal:.4f}",
            f"{plan.microseconds[name]:,.0f}",
        )
    overlap = Table("share of … in", *plan.quotas, title="Overlap of the lists")
    for name, row in zip(plan.quotas, plan.overlap, strict=True):
        overlap.add_row(name, *(f"{share:.2f}" for share in row))
    return Group(table, overlap)


def gaps(
    retriever: Channel, context: Mapping[str, Sequence[Any]] | None, queries: int
) -> list[str]:
    """Return notes on queries with missing or unknown context that the retriever reads."""
    features, said = retriever.data.event_features, []
    for name in sorted(retriever.query_context):
        missing = sum(unknown_context([name], context, queries, features))
        if missing:
            said.append(
                f"{missing:,} of {queries:,} queries: '{name}' (context) is missing or was never "
                "seen in training, and is treated as unknown."
            )
    return said


def unlisted(retriever: Channel, **listed: Sequence[Any] | None) -> list[str]:
    """Return notes on item ids of allow and deny that the bundle does not know."""
    said = []
    for name, ids in listed.items():
        unknown = int((retriever.data.items.rows(ids) == 0).sum()) if ids else 0
        if ids and unknown:
            example = next(id_ for id_ in ids if retriever.data.items.rows([id_])[0] == 0)
            said.append(
                f"{unknown:,} of {len(ids):,} items of --{name} are unknown and ignored, such "
                f"as {example!r:.60}."
            )
    return said


def recommendations(retriever: Channel, queries: Queries, k: int) -> RenderableType:
    """Return a table per query: its latest items beside its candidates and their scores."""
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
            if not len(given):
                who += " (no item is left: seen items and what the conditions exclude are left out)"
            said = [f"{score:.4f}" for score in scores]
            if isinstance(found, Blended):
                by = found.by[position]
                said = [f"{found.channels[by[at]]} {text}" for at, text in enumerate(said)]
            tables.append(_side_by_side(who, _titles(data, met), _titles(data, given), said))
            position += 1
    return Group(*tables)


def similar(retriever: Channel, side: Side, ids: Ids, k: int) -> Candidates:
    """Return the items similar to items, or the users similar to users.

    Errors: QueryError if the retriever cannot answer that.
    """
    if isinstance(retriever, FindsSimilarUsers if side == "user" else FindsSimilar):
        found: Candidates = retriever.similar(ids, k)
        return found
    cure = {
        "item": "every kind but user-cf, user-to-user and popular does",
        "user": "train one with training.positives = 'u2u'",
    }
    raise QueryError(
        f"this bundle ({kind_name(retriever)}) does not answer which {side}s are similar: "
        f"{cure[side]}"
    )


def similar_answers(side: Side, ids: Ids, found: Candidates) -> dict[str, Any]:
    """Return {"similar": [{"item", "items": [{"item", "score"}], "fallback"}]}; user for users."""
    return {
        "similar": [
            {
                side: asked,
                f"{side}s": [
                    {side: near, "score": float(score)}
                    for near, score in zip(near_ids, scores, strict=False)
                ],
                "fallback": bool(fallback),
            }
            for asked, near_ids, scores, fallback in zip(
                ids, found.ids, found.scores, found.fallback, strict=True
            )
        ]
    }


def similar_tables(retriever: Channel, side: Side, ids: Ids, found: Candidates) -> RenderableType:
    """Return a table per id with its similar items or users, by title if items have titles."""
    data, tables = retriever.data, []
    for position, asked in enumerate(ids):
        rows = found.rows[position][found.rows[position] >= 0]
        known = data.items.rows([asked]) if side == "item" else np.zeros(1, dtype=np.int64)
        title = f"Similar to {side} {asked}"
        if side == "item" and known[0]:
            title += f": {data.titles(known)[0]}"
        if found.fallback[position]:
            title += " (nothing known: popular items)"
        table = Table("#", side, "score", title=title)
        names = data.titles(rows) if side == "item" else found.ids[position]
        for place, (name, score) in enumerate(
            zip(names, found.scores[position], strict=False), start=1
        ):
            table.add_row(str(place), str(name), f"{score:.4f}")
        tables.append(table)
    return Group(*tables)


FORGETS = (
    "not known: this bundle was made before events below min_weight were stored, so it may "
    "recommend these items to the users who have met them; train it again"
)


def strangers(retriever: Channel, queries: Queries) -> list[str]:
    """Return notes on unknown users, and on unknown items in the histories."""
    data, said = retriever.data, []
    if queries.users is not None:
        rows = data.users.rows(queries.users)
        said = [
            f"user {user} is unknown: the answer can only be popular items."
            if all(told is None for told in (queries.recent, queries.features, queries.context))
            else f"user {user} is unknown: the answer uses only the facts of the query."
            for user, row in zip(queries.users, rows, strict=True)
            if row == 0
        ]
    lists, name = (queries.histories, "of the histories")
    if lists is None:
        lists, name = queries.recent, "of --recent"
    items = [item for items in lists or () for item in items]
    unknown = int((data.items.rows(items) == 0).sum()) if items else 0
    if unknown:
        said.append(f"{unknown} of {len(items)} items {name} are unknown and ignored.")
    return said


def _titles(data: Any, rows: Any) -> list[str]:
    known = data.titles(np.where(rows > 0, rows, 1)) if len(rows) else []
    return [t if row > 0 else "(unknown item)" for t, row in zip(known, rows, strict=True)]


def _side_by_side(who: str, history: list[str], titles: list[str], scores: list[str]) -> Table:
    table = Table(title=f"Candidates for {who}")
    table.add_column("latest items (newest first)")
    table.add_column("#", justify="right")
    table.add_column("candidate")
    table.add_column("score", justify="right")
    for place in range(max(len(history), len(titles))):
        met = history[-1 - place] if place < len(history) else ""
        if place < len(titles):
            table.add_row(met, str(place + 1), titles[place], scores[place])
        else:
            table.add_row(met, "", "", "")
    return table


def measured(report: "Report", *first: RenderableType, whole: bool = False) -> list[RenderableType]:
    """Return a report as tables, with its summary in sentences last.

    first: tables that replace that of the metrics, as for the report of several trainings.
    whole: shows every slice at every k.
    """
    ladder = [report.ladder_table()] if report.ladder else []
    slices = [report.slices_table(whole=whole)] if report.slices else []
    return [*(first or [report.table()]), *ladder, *slices, *report.in_short()]


def findings(found: Sequence["Finding"]) -> RenderableType:
    """Return the output of `doctor`: each mistake with its evidence and cure, errors first."""
    from shortlist.doctor import SEVERITIES

    if not found:
        return Text("No mistake found.")
    styles = {"error": "bold red", "warning": "yellow", "info": "cyan"}
    lines = Text()
    for finding in found:
        lines.append(f"{finding.severity}: {finding.code}\n", styles[finding.severity])
        evidence, cure = visible(finding.evidence), visible(finding.cure)
        lines.append(f"  {visible(finding.mistake)}\n")
        lines.append(f"  evidence: {evidence}\n  cure: {cure}\n")
    counts = Counter[str](finding.severity for finding in found)
    said = [f"{counts[s]} {s}{'s' if counts[s] != 1 else ''}" for s in SEVERITIES if counts[s]]
    lines.append(", ".join(said))
    return lines


def contents(bundle: "Bundle") -> dict[str, Any]:
    """Return the output of `inspect --json`."""
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


def chosen(retriever: Channel) -> dict[str, str]:
    """Return the value and the reason of each key that was "auto", by channel if there are several.

    Empty if no key was "auto".
    """
    several = len(parts(retriever)) > 1
    found = {}
    for name, channel in channels_of(retriever).items():
        for key, number in channel.numbers.items():
            said = f"{name}: {key}" if several else key
            found[f"{said} (auto)"] = f"{number}, {channel.auto[key]}"
    return found


def chosen_lines(retriever: Channel) -> list[str]:
    """Return `chosen` as sentences."""
    return [f"{key}: {value}." for key, value in chosen(retriever).items()]


def inspection(bundle: "Bundle") -> RenderableType:
    """Return the output of `inspect`: kind, training data, figures and files."""
    fields: Any = bundle.manifest.fields
    data = fields["data"]
    left_out = "counts.parquet" in bundle.manifest.files
    events = "left out" if left_out else f"{data['events']:,} events"
    about = Table(title=f"Bundle {bundle.id[:12]}", show_header=False)
    rows = {
        "retriever": fields["retriever"],
        "made by": f"{bundle.manifest.created_by}, format {bundle.manifest.format}",
        "log": f"{events}, split {data['split']}, fingerprint {data['fingerprint'][:12]}",
        "fitted on": f"{data['fit']}: {data['trained_users']:,} users, "
        f"{data['trained_items']:,} items",
        "embedding space": fields["embedding_space"][:12],
    }
    if parts := fields.get("parts"):
        rows["external parts"] = ", ".join(f"{part['name']} ({part['module']})" for part in parts)
    if (met := data.get("met_events")) is not None:
        rows["met, not learned"] = f"{met:,} events below min_weight, excluded from answers"
    if bundle.forgets_met:
        rows["met, not learned"] = FORGETS
    rows |= chosen(bundle.retriever)
    if isinstance(bundle.retriever, Learner):
        choice = choose(bundle.retriever.training_section)
        exactness = SAMPLERS[choice.sampler].exactness
        rows["negatives"] = f"{choice.sampler}, correction {exactness.label}: {exactness.reason}"
    for name, channel in channels_of(bundle.retriever).items():
        kind, settings = settled(channel.index)
        rows[f"index of {name}"] = " ".join([kind, *(f"{k}={v}" for k, v in settings.items())])
    if bundle.metrics is not None:
        fit, users = bundle.metrics["split"]["fit"], bundle.metrics["users"]
        used = {channel["index"] for channel in bundle.metrics.get("channels", {}).values()}
        by = f", through {' and '.join(sorted(used))} indexes" if used else ""
        rows["figures of"] = f"the fit on {fit}, {users:,} users{by}"
        for name, figure in _in_order(bundle.metrics["metrics"]):
            known = Interval.of_dict(figure, users)
            rows[name] = f"{known.mean:.4f} {known.between()}".rstrip()
    for name, value in rows.items():
        about.add_row(name, str(value))
    files = Table("file", "bytes", "sha256", title="Files, each verified")
    for name, entry in bundle.manifest.files.items():
        files.add_row(name, f"{entry.size:,}", entry.sha256[:12])
    return Group(about, files)


def _in_order(figures: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return figures sorted by metric and then k; of metrics that are equal by definition, one."""
    same = {
        name
        for name, figure in figures.items()
        for metric, _, k in [name.partition("@")]
        if metric in SAME_FOR_ONE and figure == figures.get(f"{SAME_FOR_ONE[metric]}@{k}")
    }

    def place(name: str) -> tuple[str, int]:
        metric, _, k = name.partition("@")
        return metric, int(k) if k.isdecimal() else 0

    return [(name, figures[name]) for name in sorted(figures, key=place) if name not in same]
