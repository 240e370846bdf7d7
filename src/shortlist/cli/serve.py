"""The command that answers over HTTP: serve."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from shortlist.cli.screen import notes
from shortlist.errors import QueryError


class Serve(TyperCommand):
    """The command, which also reads `--events redis://HOST:PORT/DB`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the address behind `--events` as the value of `--events-file`."""
        read: list[str] = []
        places = 0
        for text in args:
            flag, _, value = text.partition("=")
            if flag == "--events" and value:
                read += ["--events", "--events-file", value]
            elif read[-1:] == ["--events"] and "://" in text and not text.startswith("-"):
                read += ["--events-file", text]
            else:
                read.append(text)
            places += read[-2:-1] == ["--events-file"] or read[-1].startswith("--events-file=")
        if places > 1:
            raise QueryError(
                "events are kept in one place, and several are given: keep one of --events ADDRESS "
                "and --events-file PLACE"
            )
        return super().parse_args(ctx, read)


def serve(
    bundle: Annotated[
        Path, typer.Argument(help="A bundle, or a directory whose newest bundle is served.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to bind; others than loopback need SHORTLIST_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 8000,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes that answer at this address, as many as cores; --workers, --queue and "
            "--connections are of each.",
        ),
    ] = 1,
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
    private_copy: Annotated[
        bool,
        typer.Option(
            "--private-copy",
            help="Serve from a copy (in TMPDIR) that nobody can change: for shared disks.",
        ),
    ] = False,
    events: Annotated[
        bool,
        typer.Option(
            "--events",
            help="Take events (POST /v1/events), answer by them, keep them and changes of items. "
            "--events redis://HOST:PORT/DB keeps them in Redis, for services on several machines.",
        ),
    ] = False,
    events_file: Annotated[
        str | None,
        typer.Option(
            help="With --events: where, a file or the address of a Redis server. Default: "
            "BUNDLE.events.sqlite, beside it."
        ),
    ] = None,
    events_sync: Annotated[
        Literal["normal", "full"],
        typer.Option(
            help="With --events: full waits for the disk, so that they survive a loss of "
            "power; normal ones survive the end of the process."
        ),
    ] = "normal",
    events_days: Annotated[
        float, typer.Option(help="With --events: how many days they are kept; must be > 0.")
    ] = 90.0,
    events_per_user: Annotated[
        int, typer.Option(min=1, help="With --events: the newest of each user that are kept.")
    ] = 500,
    guard: Annotated[
        list[str] | None,
        typer.Option(
            help="When an alarm is raised, as NAME=SHARE: click_through=0.5 of its running figure, "
            "fallback=0.5 of lists, index_recall=0.9; check=0.01 of requests is compared with an "
            "exact scan. Repeat it for others."
        ),
    ] = None,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Print one JSON line a request on standard output.")
    ] = False,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Option(help="What else is logged, on standard error."),
    ] = "info",
) -> None:
    """Answer over HTTP: recommend, similar, explain, figures, and a page to look around.

    Tokens come from the environment: SHORTLIST_TOKEN for questions, SHORTLIST_ADMIN_TOKEN for
    /admin, SHORTLIST_WRITE_TOKEN for /v1/events. A bundle published into a served directory takes
    over without a lost request.

    A request waits while all workers are busy: about queue / workers answers long, so a short
    queue refuses early, and a long one keeps clients waiting until --timeout.
    """
    own = (events_file, events_sync, events_days, events_per_user)
    if not events and own != (None, "normal", 90.0, 500):
        raise QueryError("--events-file, -sync, -days and -per-user do nothing without --events")
    write_token = os.environ.get("SHORTLIST_WRITE_TOKEN") or None
    if events and write_token is None:
        raise QueryError("--events needs SHORTLIST_WRITE_TOKEN: what those send who send events")

    from shortlist.histories.events import Keeping
    from shortlist.histories.places import beside, place_of
    from shortlist.histories.redis_server import RedisPlace
    from shortlist.serving import run
    from shortlist.serving.access_log import printed
    from shortlist.serving.alarms import Guards
    from shortlist.serving.settings import Settings, Timeouts

    place = place_of(events_file or beside(bundle)) if events else None
    if isinstance(place, RedisPlace) and events_sync != "normal":
        raise QueryError(
            f"--events-sync {events_sync} is for a store in a file: leave it out. Whether Redis "
            "waits for its disk is a setting of its server (appendfsync)"
        )
    settings = Settings(
        token=os.environ.get("SHORTLIST_TOKEN") or None,
        admin_token=os.environ.get("SHORTLIST_ADMIN_TOKEN") or None,
        processes=processes,
        workers=workers,
        queue=queue,
        poll=poll,
        connections=connections,
        access_log=access_log,
        private_copy=private_copy,
        write_token=write_token,
        events=place,
        keeping=Keeping(events_per_user, events_days, synchronous=events_sync),
        guards=Guards.parse(guard or []),
        timeouts=Timeouts(answer=timeout, notice=notice, drain=drain),
    )
    level = logging.getLevelNamesMapping()[log_level.upper()]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")

    def ready(address: str) -> None:
        notes.print(f"Serving {bundle} at {address} (Ctrl-C ends it).")

    with printed(sys.stdout):
        run.serve(bundle, host, port, settings, ready=ready)
