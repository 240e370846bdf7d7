"""The command that keeps a bundle up to date with new events: refresh."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shortlist import outputs
from shortlist.cli.options import (
    BundlePath,
    Device,
    ItemsWatermarkText,
    JsonFlag,
    Overwrite,
    QuietFlag,
    WatermarkText,
)
from shortlist.cli.screen import out, print_json, problems, progress_bars
from shortlist.errors import QueryError, ShortlistError
from shortlist.outputs import Output, output_at

if TYPE_CHECKING:
    from shortlist.runs.refreshing import Refresh


def refresh(
    context: typer.Context,
    bundle: BundlePath,
    events: Annotated[
        str,
        typer.Option(
            help="New events: the store of `serve --events` (a file, or redis://HOST:PORT/DB), an "
            "export of it, or a log with the columns of the bundle's log."
        ),
    ],
    target: Annotated[
        Path,
        typer.Option(
            "--out", help="Directory of the new bundle; with --every, a folder that is served."
        ),
    ],
    every: Annotated[
        str | None,
        typer.Option(
            help="Repeat for ever, once in this time (10min, 1h, 1d): refresh the newest bundle in "
            "--out and publish the result there as NAME-r1, NAME-r2, ..."
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            min=2, help="With --every: number of newest published bundles to keep. Default: 10."
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            help="Forget events that are older than this before the newest one, such as 90d, and "
            "users and items without newer events. Default: keep all."
        ),
    ] = None,
    admit: Annotated[
        int, typer.Option(min=1, help="Number of events an item needs before it is learned.")
    ] = 1,
    hold_out: Annotated[
        float,
        typer.Option(
            help="Share of the new events, the newest, on which the bundles are compared."
        ),
    ] = 0.2,
    least_users: Annotated[
        int,
        typer.Option(
            min=1, help="Smallest number of users with held-out events for a decision to publish."
        ),
    ] = 50,
    epochs: Annotated[
        int, typer.Option(min=1, help="How often towers train on each new event.")
    ] = 1,
    replay: Annotated[
        float,
        typer.Option(min=0.0, help="Number of old events that towers train on per new event."),
    ] = 1.0,
    users: Annotated[
        Path | None,
        typer.Option(help="The current table of users; its rows replace those of the bundle."),
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(help="The current table of items; its rows replace those of the bundle."),
    ] = None,
    items_watermark: ItemsWatermarkText = None,
    training: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the optimiser's state. Default: reads BUNDLE.training and writes "
            "OUT.training, beside the bundles."
        ),
    ] = None,
    watermark: WatermarkText = None,
    overwrite: Overwrite = False,
    json_: JsonFlag = False,
    device: Device = None,
    quiet: QuietFlag = False,
) -> None:
    """Continue the training of a bundle with new events; publish the result if it is no worse.

    Towers continue from their weights, and tables grow; counts and closed forms equal those of a
    whole fit. Both bundles predict the newest events. If the new bundle is worse by more than the
    confidence interval, or if too few users can be compared, nothing is published. Exit code 1:
    refused because it is worse.
    """
    if keep is not None and every is None:
        raise QueryError("--keep does nothing without --every")

    from shortlist.durations import seconds_of
    from shortlist.histories.events import Watermark
    from shortlist.histories.places import place_of
    from shortlist.runs import refreshing

    plan = refreshing.Plan(
        *(admit, _duration("--window", window), hold_out, least_users, epochs, replay),
        users=users,
        items=items,
    ).checked()
    place = place_of(events)
    mark, items_mark = (
        None if text is None else Watermark.parse(text) for text in (watermark, items_watermark)
    )
    device = device or context.obj["device"]
    quiet = quiet or context.obj["quiet"]

    def told(made: "Refresh") -> None:
        if json_:
            print_json(made.to_dict())
        else:
            for line in made.lines():
                out.print(line, soft_wrap=True, highlight=False, markup=False)

    if every is None:
        with progress_bars(quiet) as progress:
            made = refreshing.refresh(
                *(bundle, place, target),
                plan=plan,
                watermark=mark,
                items_watermark=items_mark,
                training=training,
                overwrite=overwrite,
                device=device,
                progress=progress,
            )
        told(made)
        if made.decision == "refused":
            raise typer.Exit(1)
        return
    if mark is not None or items_mark is not None or overwrite:
        raise QueryError(
            "--watermark, --items-watermark and --overwrite are for one refresh: leave --every out"
        )
    seconds = seconds_of(_duration("--every", every) or every)
    outputs.check(
        {"--out": Output(target, "folder"), "--training": output_at(training, "folder")},
        {"--events": place if isinstance(place, Path) else None},
    )
    refreshing.newest(bundle)

    def failed(error: ShortlistError) -> None:
        problems.print(f"error: {error}", soft_wrap=True, highlight=False, markup=False)

    refreshing.follow(
        *(bundle, place, target, seconds),
        told=told,
        failed=failed,
        keep=keep or 10,
        plan=plan,
        training=training,
        device=device,
    )


def _duration(name: str, text: str | None) -> float | str | None:
    """Read a duration: text with a unit, or a number in the unit of the log."""
    from shortlist.durations import checked_duration

    if text is None:
        return None
    try:
        return checked_duration(float(text))
    except ValueError:
        pass
    try:
        return checked_duration(text)
    except ValueError as error:
        raise QueryError(f"{name} {error}, got {text!r}") from None
