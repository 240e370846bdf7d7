"""The command that serves a bundle over HTTP: serve."""

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
    """The command `serve`, which also accepts `--events redis://HOST:PORT/DB`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Pass the address after `--events` as the value of `--events-file`."""
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
                "events are stored in one place, and several are given: keep one of --events "
                "ADDRESS and --events-file PLACE"
            )
        return super().parse_args(ctx, read)


def serve(
    bundle: Annotated[
        Path, typer.Argument(help="A bundle, or a folder whose newest bundle is served.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to bind. All but loopback addresses need SHORTLIST_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port to bind; 0 takes a free one.")
    ] = 8000,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of processes that share the address, up to the number of cores. Each has "
            "its own --workers, --queue and --connections.",
        ),
    ] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Requests answered in parallel.")] = 2,
    queue: Annotated[
        int,
        typer.Option(
            min=1, help="Requests that may wait for a worker; others get 503 with Retry-After."
        ),
    ] = 64,
    poll: Annotated[
        float, typer.Option(help="Seconds between checks for a newer bundle; must be > 0.")
    ] = 2.0,
    connections: Annotated[
        int, typer.Option(min=1, help="Connections that may be open; others get 503.")
    ] = 1_024,
    timeout: Annotated[
        float,
        typer.Option(min=0, max=1e6, help="Seconds after which an unanswered request gets 503."),
    ] = 10.0,
    notice: Annotated[
        float,
        typer.Option(
            min=0,
            max=1e6,
            help="Seconds after SIGTERM during which requests are answered and /readyz fails.",
        ),
    ] = 1.0,
    drain: Annotated[
        float,
        typer.Option(min=0, max=1e6, help="Seconds that running requests then have to finish."),
    ] = 8.0,
    private_copy: Annotated[
        bool,
        typer.Option(
            "--private-copy",
            help="Serve from a private copy in TMPDIR that nobody can change: for shared disks.",
        ),
    ] = False,
    events: Annotated[
        bool,
        typer.Option(
            "--events",
            help="Receive events (POST /v1/events), use them in answers, and store them and item "
            "changes. --events redis://HOST:PORT/DB stores them in Redis, for several machines.",
        ),
    ] = False,
    events_file: Annotated[
        str | None,
        typer.Option(
            help="With --events: the file or the address of a Redis server to store them in. "
            "Default: BUNDLE.events.sqlite, beside the bundle."
        ),
    ] = None,
    events_sync: Annotated[
        Literal["normal", "full"],
        typer.Option(
            help="With --events: full waits for the disk, so that events survive a power loss; "
            "with normal they survive the end of the process."
        ),
    ] = "normal",
    events_days: Annotated[
        float, typer.Option(help="With --events: days that events are kept; must be > 0.")
    ] = 90.0,
    events_per_user: Annotated[
        int, typer.Option(min=1, help="With --events: newest events that are kept of each user.")
    ] = 500,
    guard: Annotated[
        list[str] | None,
        typer.Option(
            help="Threshold of an alarm, as NAME=SHARE: click_through=0.5 (of its running figure), "
            "fallback=0.5 (of lists), index_recall=0.9. check=0.01 compares this share of requests "
            "with an exact scan. May be repeated."
        ),
    ] = None,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Print one JSON line per request to stdout.")
    ] = False,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Option(help="Level of other log messages, on stderr."),
    ] = "info",
) -> None:
    """Serve a bundle over HTTP: recommend, similar, explain, metrics, and a page to explore it.

    Tokens come from the environment: SHORTLIST_TOKEN for queries, SHORTLIST_ADMIN_TOKEN for
    /admin, SHORTLIST_WRITE_TOKEN for /v1/events. A new bundle in a served folder takes over without
    losing a request.

    A request waits while all workers are busy, at most as long as about queue / workers answers
    take. A short queue refuses requests early; a long one lets clients wait until --timeout.
    """
    own = (events_file, events_sync, events_days, events_per_user)
    if not events and own != (None, "normal", 90.0, 500):
        raise QueryError("--events-file, -sync, -days and -per-user do nothing without --events")
    write_token = os.environ.get("SHORTLIST_WRITE_TOKEN") or None
    if events and write_token is None:
        raise QueryError("--events needs SHORTLIST_WRITE_TOKEN, the token of those who send events")

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
