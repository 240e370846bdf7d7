"""Commands on a whole bundle: inspect, update, encode, export and index."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shortlist import outputs
from shortlist.cli.options import BundlePath, Device, JsonFlag, Overwrite, WatermarkText
from shortlist.cli.screen import notes, out, print_json, problems
from shortlist.errors import QueryError
from shortlist.outputs import PARQUET, Output, output_at

if TYPE_CHECKING:
    from shortlist.asking.capabilities import Channel


HELP = "help"
"""The value of `index --kind` that lists the kinds of indexes."""


def inspect(bundle: BundlePath, json_: JsonFlag = False) -> None:
    """Verify a bundle and show its contents: data, recipe, figures and files."""
    from shortlist.bundle.bundle import load
    from shortlist.cli import show

    loaded = load(bundle)
    if json_:
        print_json(show.contents(loaded))
    else:
        out.print(show.inspection(loaded))


def update(
    context: typer.Context,
    bundle: BundlePath,
    events: Annotated[Path, typer.Option(help="Table of new events with the log's columns.")],
    target: Annotated[Path, typer.Option("--out", help="Directory of the new bundle.")],
    watermark: WatermarkText = None,
    overwrite: Overwrite = False,
    device: Device = None,
) -> None:
    """Add new events to a bundle that was fitted on all rows (refit = "all"), without training.

    Counts and neighbours equal those of a whole fit. Learned weights (EASE, graph filters, item
    vectors of ALS, towers) stay as they are, and histories grow. A file from `events export` holds
    its own watermark.
    """
    outputs.check(
        {"--out": Output(target, "bundle", overwrite=overwrite)},
        {"the bundle": bundle, "--events": events},
    )

    from shortlist.bundle.bundle import load, save_or_keep
    from shortlist.config import Recipe
    from shortlist.data.updates import read_events
    from shortlist.histories.events import Watermark
    from shortlist.histories.export import learned_with, span_of
    from shortlist.runs.pipeline import schema_of

    loaded = load(bundle, device=device or context.obj["device"])
    if loaded.recipe is None:
        raise QueryError(
            f"{bundle} was saved without a recipe, so the columns of events have no names: give "
            "a bundle that `shortlist train` wrote, or update this one in Python"
        )
    mark = (
        learned_with(loaded.watermark, [events])
        if watermark is None
        else Watermark.parse(watermark)
    )
    recipe = Recipe.from_dict(loaded.recipe)
    came = read_events(
        *(loaded.retriever.data, events, schema_of(recipe)),
        described=recipe.described_sides,
        of_store=span_of(events) is not None,
    )
    identity = save_or_keep(
        loaded.retriever.observe(came.data),
        target,
        overwrite=overwrite,
        metrics=loaded.metrics,
        recipe=loaded.recipe,
        findings=loaded.manifest.fields.get("findings", ()),
        index=loaded.manifest.fields.get("index"),  # the vectors have not changed
        watermark=mark,
        items_watermark=loaded.items_watermark,
    )
    notes.print(came.line())
    notes.print(f"Saved as {target} ({identity[:12]}).")


def encode(
    context: typer.Context,
    bundle: BundlePath,
    items: Annotated[
        Path | None, typer.Option(help="Parquet file to write with item ids and vectors.")
    ] = None,
    users: Annotated[
        Path | None,
        typer.Option(help="Parquet file to write with the ids and vectors of all known users."),
    ] = None,
    overwrite: Overwrite = False,
    device: Device = None,
) -> None:
    """Write item and user vectors for a vector store.

    A store that compares by the metric that is printed ranks the items as the bundle does. Metric,
    similarity, width and bundle are also in the key-value metadata of the file.
    """
    if items is None and users is None:
        raise QueryError("give --items FILE, --users FILE or both")
    outputs.check(
        {
            "--items": output_at(items, "file", PARQUET, overwrite=overwrite),
            "--users": output_at(users, "file", PARQUET, overwrite=overwrite),
        },
        {"the bundle": bundle},
    )

    from shortlist.asking.capabilities import Encodes, EncodesItems
    from shortlist.bundle.bundle import load
    from shortlist.cli import files

    loaded = load(bundle, device=device or context.obj["device"])
    if not isinstance(loaded.retriever, Encodes):
        raise QueryError(f"there are no vectors to write: {_without_vectors(loaded.retriever)}")
    if items is not None and not isinstance(loaded.retriever, EncodesItems):
        raise QueryError("this retriever has only vectors of users: use --users")
    facts = files.vector_facts(loaded.retriever, loaded.id)

    def told(count: int, path: Path) -> None:
        said = ", ".join(f"{name} {fact:.16}" for name, fact in facts.items())
        line = f"Wrote {count:,} vectors to {path}: {said}."
        notes.print(line, soft_wrap=True)

    if items is not None and isinstance(loaded.retriever, EncodesItems):
        told(files.write_item_vectors(loaded.retriever, items, facts, overwrite=overwrite), items)
    if users is not None:
        told(files.write_user_vectors(loaded.retriever, users, facts, overwrite=overwrite), users)


def export(
    bundle: BundlePath,
    onnx: Annotated[Path, typer.Option("--onnx", help="Folder to write; it must not exist yet.")],
) -> None:
    """Export the towers of a bundle as ONNX, for programs without Shortlist.

    The folder holds `query.onnx`; `item.onnx`, if the item tower reads features; `items.npy`, the
    item vectors; `vocabularies.json`, the row numbers of ids and values; and `answer.py`, which
    answers from these files with only numpy and onnxruntime:
    `python FOLDER/answer.py FOLDER '{"history": [50, 181]}'`. Its README lists what a query may
    contain. Vectors equal those of the bundle up to a rounding of 1e-5. The command needs the extra
    `onnx` and a bundle with two towers.
    """
    outputs.check({"--onnx": Output(onnx, "new folder")}, {"the bundle": bundle})

    from shortlist.bundle.bundle import load
    from shortlist.serving.onnx_export import export_onnx

    loaded = load(bundle)
    written = export_onnx(loaded.retriever, onnx, loaded.id)
    notes.print(f"Wrote {', '.join(written)} to {onnx}.", soft_wrap=True)


def _kinds(context: typer.Context, kind: str) -> str:
    """List the kinds of indexes with their settings for `--kind help`."""
    if kind == HELP and not context.resilient_parsing:
        from shortlist.cli import show

        out.print(show.index_kinds())
        raise typer.Exit
    return kind


def index(
    context: typer.Context,
    bundle: BundlePath,
    target: Annotated[
        Path, typer.Option("--out", help="Directory of the bundle with the new index.")
    ],
    kind: Annotated[
        str,
        typer.Option(
            help="Kind of index. `--kind help` lists all kinds with their settings.",
            callback=_kinds,
        ),
    ] = "faiss-hnsw",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="SETTING=VALUE,VALUE: ascending values of a setting to try instead of the default "
            "ones. May be repeated.",
        ),
    ] = None,
    target_recall: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the exact k best items to find.")
    ] = 0.99,
    k: Annotated[int, typer.Option(min=1, help="List length at which recall is measured.")] = 100,
    queries: Annotated[int, typer.Option(min=1, help="Largest number of users to query.")] = 1000,
    plot: Annotated[
        Path | None, typer.Option(help="Plot recall against latency: a .png, .svg or .pdf file.")
    ] = None,
    overwrite: Overwrite = False,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Build an index, compare it with exact search, and keep the fastest sufficient setting.

    A setting is sufficient if it reaches --target-recall. The queries are the users of the test
    rows, with their history before these rows.
    """
    from shortlist.evaluation.plots import plot_output

    outputs.check(
        {
            "--out": Output(target, "bundle", overwrite=overwrite),
            "--plot": plot_output(plot, overwrite=overwrite),
        },
        {"the bundle": bundle},
    )

    from shortlist.bundle.bundle import load, save_or_keep
    from shortlist.channels.learned.base import Learner
    from shortlist.cli import show
    from shortlist.evaluation.index_recall import check_choices, plot_tunings, tune_index
    from shortlist.runs.pipeline import held_out_queries

    tried = dict(map(_choices, settings or []))
    check_choices(kind, tried)
    loaded = load(bundle, device=device or context.obj["device"])
    retriever = loaded.retriever
    if not isinstance(retriever, Learner):
        raise QueryError(f"there is nothing to index: {_without_vectors(retriever)}")
    rows, vectors, keys = retriever.placed_vectors()
    asked = held_out_queries(retriever, queries)
    measured = tune_index(
        *(kind, rows, vectors, keys, retriever.training_section.similarity),
        *(retriever.encode_users(asked), min(k, len(rows)), target_recall, tried),
    )
    saved = None
    if measured.index is not None:
        saved = save_or_keep(
            retriever.use_index(measured.index),
            target,
            overwrite=overwrite,
            metrics=loaded.metrics,
            recipe=loaded.recipe,
            findings=loaded.manifest.fields.get("findings", ()),
            index=show.tuned_answers(measured),
            watermark=loaded.watermark,
            items_watermark=loaded.items_watermark,
        )
    if plot is not None:
        plot_tunings([measured], plot, overwrite=overwrite)
    if json_:
        print_json(show.tuned_answers(measured))
    else:
        out.print(show.tuned(measured))
    if saved is None:
        problems.print(
            f"No setting of {kind} reaches recall {target_recall}: no bundle was written."
        )
        raise typer.Exit(1)
    notes.print(f"Saved as {target} ({saved[:12]}).")


def _choices(given: str) -> tuple[str, tuple[Any, ...]]:
    """Read SETTING=VALUE,VALUE; values that are numbers become numbers."""
    name, equals, values = given.partition("=")
    if not (name and equals and values):
        raise QueryError(f"--set is SETTING=VALUE,VALUE, such as m=16,32, got {given!r}")

    def read(text: str) -> int | float | str:
        for number in (int, float):
            with suppress(ValueError):
                return number(text)
        return text

    return name, tuple(map(read, values.split(",")))


def _without_vectors(retriever: "Channel") -> str:
    """Return why a bundle has no vectors of its own: no towers, or several channels."""
    from shortlist.blending.blend import Blend

    if isinstance(retriever, Blend):
        return "this bundle is a blend: train its channel with towers as a bundle of its own"
    return "this bundle has no towers"
