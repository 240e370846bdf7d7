"""Commands that query a bundle: recommend, similar, explain, evaluate and compare."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from shortlist import outputs
from shortlist.cli.options import BundlePath, Device, HtmlFile, JsonFlag, Overwrite
from shortlist.cli.screen import notes, out, print_json
from shortlist.errors import QueryError
from shortlist.outputs import PAGES, PARQUET, output_at

if TYPE_CHECKING:
    from shortlist.asking.queries import Queries
    from shortlist.bundle.bundle import Bundle
    from shortlist.cli.show import Side
    from shortlist.data.training_data import TrainingData
    from shortlist.data.vocabulary import Vocabulary

TimeOfRequest = Annotated[
    str | None,
    typer.Option(
        help="Time of the request, written like the times of the log or as ISO text "
        "(2024-01-31T20:15:00), for a model with request_time. Default: this machine's clock."
    ),
]


Moment = Annotated[
    list[str] | None,
    typer.Option(
        "--context",
        help="NAME=VALUE: a feature of events that is known at the time of the request, such as "
        "the device, for all queries. May be repeated.",
    ),
]

Features = Annotated[
    list[str] | None,
    typer.Option(
        "--feature",
        help="NAME=VALUE: a current feature of the user, which replaces the value in the bundle. "
        "May be repeated.",
    ),
]


def recommend(
    context: typer.Context,
    bundle: BundlePath,
    user: Annotated[list[str] | None, typer.Option(help="A user id. May be repeated.")] = None,
    history: Annotated[
        list[str] | None,
        typer.Option(help="Item ids of an unknown user, oldest first: ID,ID,... May be repeated."),
    ] = None,
    recent: Annotated[
        list[str] | None,
        typer.Option(
            help="With --user: item ids met since the log ended, oldest first: ID,ID,... Give it "
            "once per --user."
        ),
    ] = None,
    time: TimeOfRequest = None,
    users_file: Annotated[
        Path | None,
        typer.Option(help="A table with user ids in its user column, or its first column."),
    ] = None,
    time_column: Annotated[
        str | None,
        typer.Option(
            help="With --users-file: its column with the time of each request, written as for "
            "--time."
        ),
    ] = None,
    with_features: Annotated[
        bool,
        typer.Option(
            "--with-features",
            help="With --users-file: read user features from its columns of the same names. They "
            "replace the values in the bundle; an empty field keeps the bundle's value.",
        ),
    ] = False,
    with_context: Annotated[
        bool,
        typer.Option(
            "--with-context",
            help="With --users-file: read the context of each request from its columns that are "
            "named like features of events.",
        ),
    ] = False,
    moment: Moment = None,
    feature: Features = None,
    all_users: Annotated[
        bool, typer.Option("--all-users", help="Answer every user of the bundle; needs --out.")
    ] = False,
    target: Annotated[
        Path | None,
        typer.Option("--out", help="With --users-file or --all-users: the Parquet file to write."),
    ] = None,
    overwrite: Overwrite = False,
    k: Annotated[int, typer.Option(help="Number of candidates per query.")] = 10,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Also recommend items that the user has met.")
    ] = False,
    quota: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN=N: at most N items for each value of this item column."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            help='A condition on item columns, as JSON: {"column": "genre", "in": '
            '["Drama"]}, {"column": "price", "max": 9.5}, {"and": [...]}, {"not": {...}}.'
        ),
    ] = None,
    allow: Annotated[
        str | None, typer.Option(help="Recommend only these item ids: ID,ID,...")
    ] = None,
    deny: Annotated[
        str | None, typer.Option(help="Never recommend these item ids: ID,ID,...")
    ] = None,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Recommend items for known users, for histories, for a file of users, or for all users."""
    ways = sum((user is not None, history is not None, users_file is not None, all_users))
    for wrong, message in (
        (ways != 1, "give one of --user, --history, --users-file and --all-users"),
        (
            (users_file is not None or all_users) != (target is not None),
            "--users-file or --all-users and --out go together",
        ),
        (
            with_features and users_file is None,
            "--with-features reads columns of the --users-file: give one",
        ),
        (
            with_context and users_file is None,
            "--with-context reads columns of the --users-file: give one",
        ),
        (
            with_context and moment is not None,
            "--context is for all queries and --with-context for each: give one of the two",
        ),
        (
            feature is not None and (target is not None or len(user or history or ()) > 1),
            "--feature is for one --user or --history; for a --users-file use --with-features",
        ),
        (
            target is not None and json_,
            "--json is for answers that are printed, and --out writes Parquet: leave one out",
        ),
        (
            time_column is not None and users_file is None,
            "--time-column names a column of the --users-file: give one",
        ),
        (
            time_column is not None and time is not None,
            "--time is one time for all, and --time-column one for each: give one of the two",
        ),
        (target is None and overwrite, "--overwrite does nothing without --out"),
        (
            recent is not None and user is None,
            "--recent follows the stored history of a --user: give both",
        ),
    ):
        if wrong:
            raise QueryError(message)
    outputs.check(
        {"--out": output_at(target, "file", PARQUET, overwrite=overwrite)},
        {"the bundle": bundle, "--users-file": users_file},
    )
    asked: dict[str, Any] = {
        "exclude_seen": not include_seen,
        "quota": _quota(quota),
        "where": _condition(where),
    }

    from shortlist.asking.queries import Queries
    from shortlist.bundle.bundle import load
    from shortlist.cli import show

    loaded = load(bundle, device=device or context.obj["device"])
    data = loaded.retriever.data
    # Notes follow the answer; a query that is refused prints none.
    said = [f"Items met below min_weight are {show.FORGETS}."] if loaded.forgets_met else []
    for name, listed in (("allow", allow), ("deny", deny)):
        asked[name] = None if listed is None else _ids(data.items, listed)
    said += show.unlisted(loaded.retriever, allow=asked["allow"], deny=asked["deny"])
    told_of_all = _named_values("--context", data.event_features.encoders, moment)
    asked["time"] = None if time_column is not None else _time(loaded, time, said)
    if target is not None:
        features = users_file if with_features else None
        moments: Path | dict[str, Any] = told_of_all
        if with_context and users_file is not None:
            moments = users_file
        asked |= {"overwrite": overwrite, "time_column": time_column}
        said += _recommend_file(loaded, users_file, features, moments, target, k, **asked)
        for line in said:
            notes.print(line)
        return
    asked |= _beside(len(user or history or ()), data, told_of_all, feature)
    if user is not None:
        since = None if recent is None else [_ids(data.items, text) for text in recent]
        queries = Queries(data.users.parse(user), recent=since, **asked)
    else:
        lists = [_ids(data.items, text) for text in history or []]
        queries = Queries(histories=lists, **asked)
    if json_:
        answer: Any = show.answers(loaded.retriever, queries, k)
    else:
        answer = show.recommendations(loaded.retriever, queries, k)
    _print_notes(loaded, queries, said)
    if json_:
        print_json(answer)
    else:
        out.print(answer)


def _print_notes(loaded: "Bundle", queries: "Queries", lines: list[str]) -> None:
    """Print the notes, and what the bundle does not know about the queries."""
    from shortlist.cli import show

    unknown = show.gaps(loaded.retriever, queries.context, len(queries))
    for line in (*lines, *show.strangers(loaded.retriever, queries), *unknown):
        notes.print(line)


def _beside(
    count: int, data: "TrainingData", told: dict[str, Any], feature: list[str] | None
) -> dict[str, Any]:
    """Return context and features, repeated for `count` queries, as arguments of `Queries`."""
    features = _named_values("--feature", data.user_features.encoders, feature)
    return {
        key: {name: [value] * count for name, value in values.items()} or None
        for key, values in (("context", told), ("features", features))
    }


def _recommend_file(
    loaded: "Bundle",
    users_file: Path | None,
    features_file: Path | None,
    context: "Path | dict[str, Any]",
    target: Path,
    k: int,
    *,
    time_column: str | None,
    **asked: Any,
) -> list[str]:
    """Write the candidates of the users of a file, or of all users; return the notes to print.

    features_file: the users file, if its columns give user features.
    context: the users file, if its columns give each context; otherwise the context of all.
    time_column: column of the users file with the time of each request.
    """
    from shortlist.cli import files, show

    if users_file is not None and time_column is not None:
        asked["time"] = files.read_times(loaded.retriever, users_file, time_column)

    users = loaded.retriever.data.users.ids
    if users_file is not None:
        section = (loaded.recipe or {}).get("data", {})
        users = files.read_users(loaded.retriever, users_file, section.get("user"))
    if features_file is not None:
        asked["features"] = files.read_user_features(loaded.retriever, features_file)
    if isinstance(context, Path):
        asked["context"] = files.read_context(loaded.retriever, context)
    elif context:
        asked["context"] = files.context_of_all(context, len(users))
    told = asked.get("context")
    moments = None if told is None else told.to_dict(as_series=False)
    strangers = files.recommend_file(loaded.retriever, users, target, k, **asked)
    said = show.gaps(loaded.retriever, moments, len(users))
    said.append(f"Wrote candidates of {len(users):,} users to {target}.")
    if strangers:
        said.append(f"{strangers:,} of them are unknown and got popular items (fallback).")
    return said


def _time(loaded: "Bundle", text: str | None, said: list[str]) -> Any:
    """Read --time, or for a model that needs it use this machine's clock and add a note."""
    from shortlist.asking.clock import now, written

    if text is not None:
        return written(text)
    moment = now(loaded.retriever)
    if moment is not None:
        said.append(
            f"Time of the request (--time): {moment:%Y-%m-%d %H:%M:%S} UTC by this machine's clock."
        )
    return moment


def _ids(vocabulary: "Vocabulary", text: str) -> list[Any]:
    """Read ID, ID, ... as a line of CSV: an id that contains a comma is in double quotes."""
    try:
        fields = next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise QueryError(
            f"the ids {text!r:.60} cannot be read as a line of CSV ({error}): put an id that has a "
            "comma or a quote in it between double quotes, and write its own quotes twice"
        ) from error
    return vocabulary.parse([field.strip() for field in fields] or [""]).to_list()


def _named_values(
    option: str, encoders: Mapping[str, Any], given: list[str] | None
) -> dict[str, Any]:
    """Read NAME=VALUE; the value of a numeric feature becomes a number."""
    found: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise QueryError(f"{option} is NAME=VALUE, such as device=tv, got {text!r:.60}")
        if name in found:
            raise QueryError(f"{option} gives {name!r} twice")
        encoder = encoders.get(name)
        found[name] = value
        if encoder is not None and encoder.kind == "numeric":
            try:
                found[name] = float(value)
            except ValueError:
                raise QueryError(f"{option} {name}: expected a number, got {value!r:.60}") from None
    return found


def _condition(text: str | None) -> dict[str, Any] | None:
    """Read a condition as JSON; its content is checked where it is used."""
    if text is None:
        return None
    example = '{"column": "genre", "in": ["Drama"]}'
    try:
        read = json.loads(text)
    except ValueError as error:
        raise QueryError(f"--where is JSON, such as '{example}': {error}") from error
    if not isinstance(read, dict):
        raise QueryError(f"--where is one JSON object, such as '{example}', got {text!r:.60}")
    return read


def _quota(given: list[str] | None) -> dict[str, int] | None:
    """Read COLUMN=N."""
    if not given:
        return None
    if len(given) > 1:
        raise QueryError(f"--quota takes one column and can be given only once, got {given}")
    column, _, most = given[0].rpartition("=")
    if not (column and most.isdecimal() and most.isascii()):
        raise QueryError(f"--quota is COLUMN=N, such as genre=3, got {given[0]!r}")
    return {column: int(most)}


def similar(
    context: typer.Context,
    bundle: BundlePath,
    item: Annotated[list[str] | None, typer.Option(help="An item id. May be repeated.")] = None,
    user: Annotated[
        list[str] | None,
        typer.Option(help="A user id, for positives = 'u2u'. May be repeated."),
    ] = None,
    k: Annotated[int, typer.Option(help="Number of similar items or users.")] = 10,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Find items similar to an item, or users similar to a user."""
    if (item is None) == (user is None):
        raise QueryError("give --item or --user: one of the two")

    from shortlist.bundle.bundle import load
    from shortlist.cli import show

    loaded = load(bundle, device=device or context.obj["device"])
    data = loaded.retriever.data
    side: Side = "user" if item is None else "item"
    ids = (data.users if item is None else data.items).parse(item or user or [])
    found = show.similar(loaded.retriever, side, ids, k)
    if json_:
        print_json(show.similar_answers(side, ids, found))
    else:
        out.print(show.similar_tables(loaded.retriever, side, ids, found))


def explain(
    context: typer.Context,
    bundle: BundlePath,
    user: Annotated[str | None, typer.Option(help="A user id.")] = None,
    history: Annotated[
        str | None, typer.Option(help="Item ids of an unknown user, oldest first: ID,ID,...")
    ] = None,
    item: Annotated[
        list[str] | None,
        typer.Option(help="An item id. May be repeated. Default: the first three candidates."),
    ] = None,
    recent: Annotated[
        str | None,
        typer.Option(help="With --user: item ids met since the log ended, oldest first: ID,ID,..."),
    ] = None,
    time: TimeOfRequest = None,
    moment: Moment = None,
    feature: Features = None,
    reasons: Annotated[
        int | None, typer.Option(min=1, help="Number of reasons per table. Default: 5.")
    ] = None,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Explain the scores of items: how much each event, attribute or count contributes.

    The reasons of counting channels sum to the score. The reasons of towers are the loss of score
    without each item of the history, and need not sum to it.
    """
    if (user is None) == (history is None):
        raise QueryError("give --user or --history: one of the two")
    if recent is not None and user is None:
        raise QueryError("--recent follows the stored history of a --user: give both")
    if json_ and reasons is not None:
        raise QueryError("--reasons is for tables, and --json prints every reason: leave it out")

    from shortlist.asking.capabilities import Explains
    from shortlist.asking.queries import Queries
    from shortlist.bundle.bundle import load
    from shortlist.cli import show

    loaded = load(bundle, device=device or context.obj["device"])
    data = loaded.retriever.data
    if not isinstance(loaded.retriever, Explains):
        raise QueryError("this retriever cannot explain its scores")
    said: list[str] = []
    asked = {
        "time": _time(loaded, time, said),
        **_beside(
            1, data, _named_values("--context", data.event_features.encoders, moment), feature
        ),
    }
    since = None if recent is None else [_ids(data.items, recent)]
    queries = (
        Queries(data.users.parse([user]), recent=since, **asked)
        if user is not None
        else Queries(histories=[_ids(data.items, history or "")], **asked)
    )
    chosen = data.items.parse(item).to_list() if item else None
    if chosen is None:
        chosen = loaded.retriever.recommend(queries, 3).ids[0]
    if unknown := [i for i, row in zip(chosen, data.items.rows(chosen), strict=True) if row == 0]:
        raise QueryError(f"item {unknown[0]} is unknown to this bundle")
    if json_:
        answer: Any = show.explanation_answers(loaded.retriever, queries, chosen)
    else:
        answer = show.explanation(loaded.retriever, queries, chosen, reasons or 5)
    _print_notes(loaded, queries, said)
    if json_:
        print_json(answer)
    else:
        out.print(answer)


def evaluate(
    context: typer.Context,
    bundle: BundlePath,
    on: Annotated[
        Literal["test", "validation"], typer.Option(help="Held-out rows to predict.")
    ] = "test",
    k: Annotated[
        list[int] | None, typer.Option(help="List length. May be repeated. Default: the recipe's.")
    ] = None,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Keep items that the user has met in the lists.")
    ] = False,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Column of items or users whose values are slices. May be repeated."),
    ] = None,
    ladder: Annotated[
        bool,
        typer.Option("--ladder/--no-ladder", help="Also measure baselines without training."),
    ] = True,
    slices: Annotated[
        bool, typer.Option("--slices", help="Show every slice of users and items at every k.")
    ] = False,
    html: HtmlFile = None,
    overwrite: Overwrite = False,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Evaluate a bundle on the full catalogue, through the serving code, beside popularity.

    For a folder of several seeds or folds that `train` wrote, print the figures over all of them.
    """
    from shortlist.bundle.bundle import load
    from shortlist.cli import show
    from shortlist.evaluation.evaluate import Untrained
    from shortlist.evaluation.evaluate import evaluate_beside as measure
    from shortlist.evaluation.report import Report
    from shortlist.runs.several import Alike, Several, bundles_in

    if slices and json_:
        raise QueryError("--slices is for tables, and --json prints every slice: leave it out")
    _check_html(html, [bundle], overwrite=overwrite)
    untrained = Untrained()

    def measured(path: Path, alike: Alike | None = None) -> tuple[str, Report]:
        loaded = load(path, device=device or context.obj["device"])
        if alike is not None:
            alike.check(loaded)
        section = (loaded.recipe or {}).get("evaluation", {})
        report = measure(
            *(loaded.retriever, untrained),
            on=on,
            k=k or section.get("k", (10, 20, 100)),
            exclude_seen=not include_seen and section.get("exclude_seen", True),
            by=by or (),
            ladder=ladder and section.get("ladder", True),
        )
        return loaded.id, report

    if (several := bundles_in(bundle)) is not None:
        of, places = several
        alike = Alike(of)
        reports = {number: measured(place, alike)[1] for number, place in places.items()}
        together = Several.of_reports(of, places, reports)
        report, told = together.whole, together.to_dict()
        tables = [together.table(), together.each_table()]
    else:
        identity, report = measured(bundle)
        tables = [report.table()]
        told = {"bundle": identity, **report.told()}
    if html is not None:
        _write_html(report.to_html(bundle.resolve().name), html, overwrite=overwrite)
    if json_:
        print_json(told)
        return
    out.print(*show.measured(report, *tables, whole=slices or bool(by)), sep="\n")
    for line in report.lines():
        notes.print(line)


def compare(
    context: typer.Context,
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE BUNDLE...",
            help="Two bundles or more. NAME=PATH names one; otherwise its folder names it.",
        ),
    ],
    k: Annotated[list[int] | None, typer.Option(help="List length. May be repeated.")] = None,
    html: HtmlFile = None,
    overwrite: Overwrite = False,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Test whether the first bundle is better than the others, on test rows paired by user."""
    from shortlist.bundle.bundle import load
    from shortlist.evaluation.compare import compare as compare_retrievers

    places = _named(bundles)
    _check_html(html, list(places.values()), overwrite=overwrite)
    device = device or context.obj["device"]
    loaded = {name: load(path, device=device) for name, path in places.items()}
    found = compare_retrievers(
        *(bundle.retriever for bundle in loaded.values()),
        names=list(loaded),
        k=k or (10, 20, 100),
    )
    if html is not None:
        _write_html(found.to_html(), html, overwrite=overwrite)
    if json_:
        identities = {name: bundle.id for name, bundle in loaded.items()}
        print_json({"bundles": identities, **found.to_dict()})
    else:
        out.print(found.table())


def _check_html(html: Path | None, bundles: list[Path], *, overwrite: bool) -> None:
    """Refuse a page that could not be written, before anything is measured."""
    if overwrite and html is None:
        raise QueryError("--overwrite does nothing without --html")
    inputs = {f"bundle {number}": path for number, path in enumerate(bundles, 1)}
    outputs.check({"--html": output_at(html, "file", PAGES, overwrite=overwrite)}, inputs)


def _write_html(page: str, html: Path, *, overwrite: bool) -> None:
    with outputs.whole(html, PAGES, overwrite=overwrite) as made:
        made.write_text(page, encoding="utf-8")
    notes.print(f"Wrote {html}.")


def _named(given: list[str]) -> dict[str, Path]:
    """Return the path of each bundle by its name, from NAME=PATH or its folder."""
    if len(given) < 2:
        raise QueryError("a comparison needs two bundles or more, got one")
    pairs, chosen = [], []
    for text in given:
        name, equals, path = text.partition("=")
        if equals and not Path(text).exists():
            if not name or not path:
                raise QueryError(f"{text!r} must be a path, or NAME=PATH")
            pairs.append((name, Path(path)))
            chosen.append(name)
        else:
            pairs.append((Path(text).resolve().name, Path(text)))
    if twice := next((name for name in chosen if chosen.count(name) > 1), None):
        raise QueryError(f"two bundles are called {twice!r}: give each a name of its own")
    heads = [name for name, _ in pairs]
    # Bundles with the same folder name are named by their paths instead.
    pairs = [(name if heads.count(name) == 1 else str(path), path) for name, path in pairs]
    heads = [name for name, _ in pairs]
    if twice := next((name for name in heads if heads.count(name) > 1), None):
        raise QueryError(f"two bundles are called {twice!r}: name one of them, as NAME=PATH")
    return dict(pairs)
