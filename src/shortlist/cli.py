"""The command line: each command a few lines over the library."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from shortlist import __version__, demo, files, show
from shortlist.bundle.bundle import Bundle, load, save
from shortlist.config import Recipe, load_recipe, template
from shortlist.doctor import Finding, Subject, Watch, examine
from shortlist.errors import QueryError, ShortlistError, TrainingError
from shortlist.evaluation.evaluate import evaluate as measure
from shortlist.losses import LOSSES
from shortlist.pipeline import check, load_split
from shortlist.pipeline import train as carry_out
from shortlist.retrievers.base import Queries
from shortlist.sampling import HARD, SAMPLERS
from shortlist.towers import TOWERS
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


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The recipe to write.")] = Path("recipe.toml"),
) -> None:
    """Write a recipe with every key, its meaning and its default; edit [data], then train."""
    files.write_new(path, template(CHOICES).encode())
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
    split = load_split(read)
    if not quiet:
        for line in split.dataset.report.lines():
            notes.print(line, highlight=False, markup=False)
    with _progress(quiet) as progress:
        watch = Watch(progress)
        try:
            result = carry_out(read, split, device=device or context.obj["device"], progress=watch)
        except TrainingError as failure:
            notes.print(show.findings(examine(Subject.of_recipe(read, split, watch, failure))))
            raise
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
    if json_:
        _print_json({"bundle": identity, **report, "findings": findings})
    else:
        out.print(result.report.table())
        if not quiet:
            if found:
                notes.print(show.findings(found))
            for line in result.report.lines():
                notes.print(line, highlight=False, markup=False)
            notes.print(f"Saved as {bundle} ({identity[:12]}).", highlight=False)


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
    report = measure(
        loaded.retriever,
        on=on,
        k=k or section.get("k", (10, 20, 100)),
        exclude_seen=not include_seen and section.get("exclude_seen", True),
    )
    if json_:
        _print_json({"bundle": loaded.id, **report.to_dict()})
    else:
        out.print(report.table())
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
    target: Annotated[
        Path | None, typer.Option("--out", help="With --users-file: the Parquet file to write.")
    ] = None,
    k: Annotated[int, typer.Option(help="How many candidates.")] = 10,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Allow items the user has met.")
    ] = False,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Ask a bundle for candidates: for known users, for histories, or for a file of users."""
    if sum(given is not None for given in (user, history, users_file)) != 1:
        raise QueryError("give one of --user, --history and --users-file")
    if (users_file is None) != (target is None):
        raise QueryError("--users-file and --out go together")
    loaded = load(bundle, device=device or context.obj["device"])
    data = loaded.retriever.data
    if users_file is not None and target is not None:
        section = (loaded.recipe or {}).get("data", {})
        count, strangers = files.recommend_file(
            *(loaded.retriever, users_file, target, k),
            exclude_seen=not include_seen,
            column=section.get("user"),
        )
        notes.print(f"Wrote candidates of {count:,} users to {target}.", highlight=False)
        if strangers:
            notes.print(f"{strangers:,} of them are unknown: popular items, flagged fallback.")
        return
    if user is not None:
        queries = Queries(data.users.parse(user), exclude_seen=not include_seen)
    else:
        lists = [data.items.parse(text.split(",")).to_list() for text in history or []]
        queries = Queries(histories=lists, exclude_seen=not include_seen)
    for line in show.strangers(loaded.retriever, queries):
        notes.print(line, highlight=False, markup=False)
    if json_:
        _print_json(show.answers(loaded.retriever, queries, k))
    else:
        out.print(show.recommendations(loaded.retriever, queries, k))


@app.command()
def similar(
    context: typer.Context,
    bundle: BundlePath,
    item: Annotated[
        list[str] | None, typer.Option(help="An item id (positives i2i); may be repeated.")
    ] = None,
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
    for path, write in ((items, files.write_item_vectors), (users, files.write_user_vectors)):
        if path is not None:
            count = write(loaded.retriever, path)
            notes.print(f"Wrote {count:,} vectors to {path}.", highlight=False)


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
