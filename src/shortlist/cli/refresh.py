"""The command that lets a bundle follow the day: refresh."""

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
from shortlist.errors import DataError, QueryError, ShortlistError
from shortlist.outputs import Output, output_at

if TYPE_CHECKING:
    from shortlist.runs.refreshing import Refresh


def refresh(
    context: typer.Context,
    bundle: BundlePath,
    events: Annotated[
        str,
        typer.Option(
            help="The store that `serve --events` keeps (a file, or redis://HOST:PORT/DB), an "
            "export of it, or a log as the bundle's is written."
        ),
    ],
    target: Annotated[
        Path,
        typer.Option(
            "--out", help="Where the new bundle goes; with --every a folder that is served."
        ),
    ],
    every: Annotated[
        str | None,
        typer.Option(
            help="Go on for ever: refresh once in this time (10min, 1h, 1d), from the newest "
            "bundle in --out, and publish into it as NAME-r1, NAME-r2, ..."
        ),
    ] = None,
    keep: Annotated[
        int,
        typer.Option(min=2, help="With --every: how many of those bundles stay, the newest."),
    ] = 10,
    window: Annotated[
        str | None,
        typer.Option(
            help="Forget events older than this, back from the newest, such as 90d, and users and "
            "items with their last one. Default: keep all."
        ),
    ] = None,
    admit: Annotated[
        int, typer.Option(min=1, help="An item is learned from so many events on.")
    ] = 1,
    hold_out: Annotated[
        float,
        typer.Option(help="Share of the new events, the newest, to compare the two bundles on."),
    ] = 0.2,
    least_users: Annotated[
        int,
        typer.Option(min=1, help="With held-out events of fewer users nothing is decided."),
    ] = 50,
    epochs: Annotated[int, typer.Option(min=1, help="How often towers learn a new event.")] = 1,
    replay: Annotated[
        float,
        typer.Option(min=0.0, help="Old events that towers learn beside each new one."),
    ] = 1.0,
    users: Annotated[
        Path | None,
        typer.Option(help="The table of users as it is now: its rows replace the bundle's."),
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(help="The table of items as it is now: its rows replace the bundle's."),
    ] = None,
    items_watermark: ItemsWatermarkText = None,
    training: Annotated[
        Path | None,
        typer.Option(
            help="Folder of what the optimiser remembers. Default: BUNDLE.training is read and "
            "OUT.training is written, beside the bundles."
        ),
    ] = None,
    watermark: WatermarkText = None,
    overwrite: Overwrite = False,
    json_: JsonFlag = False,
    device: Device = None,
    quiet: QuietFlag = False,
) -> None:
    """Let a bundle go on from new events, and publish it if it is no worse than before.

    Towers go on from their weights, tables grow; counts and closed forms become what a whole fit
    would give. Both bundles are asked for the newest events: where the new one is worse beyond the
    interval, or too few users can be asked, nothing is published. Exit code 1: refused as worse.
    """
    from shortlist.durations import checked_duration, seconds_of
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
    try:
        seconds = seconds_of(checked_duration(every))
    except (ValueError, DataError) as error:
        raise QueryError(f"--every {every!r} {error}") from None
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
        keep=keep,
        plan=plan,
        training=training,
        device=device,
    )


def _duration(name: str, text: str | None) -> float | str | None:
    """Read a span of time: text with a unit, or a number in the unit of the log."""
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
        raise QueryError(f"{name} {text!r} {error}") from None
