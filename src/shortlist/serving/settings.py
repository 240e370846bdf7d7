"""How is a service configured? Limits of requests, timeouts, tokens and processes."""

from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from itertools import combinations
from math import isfinite

from shortlist.data.ceilings import MOST_DEEP, MOST_NODES, MOST_VALUES
from shortlist.errors import ServingError
from shortlist.histories.events import Keeping
from shortlist.histories.places import StorePlace
from shortlist.serving.alarms import Guards

SHORTEST_TOKEN = 16
"""Minimum length of a token in characters."""

LONGEST_WAIT = 1e6
"""Maximum of `poll` in seconds; some systems cannot wait longer in one call."""


@dataclass(frozen=True)
class Limits:
    """The maximum sizes of a request; a request above them gets status 413 or 422.

    body: bytes of a request body.
    queries: users, histories or items in one request; also the maximum of `limit`.
    k: candidates per query.
    candidates: candidates of all queries of a request together.
    ids: ids in each of allow and deny, in a request for titles, and in each list of a change of
    items.
    history: items in one history.
    history_items: items in all histories of a request together.
    explained: items per request for reasons.
    id_length: characters of a text id, a column name or a text value.
    filter_nodes: parts of a condition (`where`), at most `data.ceilings.MOST_NODES`.
    filter_depth: levels of a condition, at most `data.ceilings.MOST_DEEP`.
    filter_values: values in the `in` lists of a condition, at most `data.ceilings.MOST_VALUES`.
    features: names of features in one request.
    events: events in one request.
    user_events: events of one user per minute.
    kind: characters of the kind of an event.

    Errors: ServingError.
    """

    body: int = 1_048_576
    queries: int = 1_000
    k: int = 1_000
    candidates: int = 100_000
    ids: int = 10_000
    history: int = 1_000
    history_items: int = 100_000
    explained: int = 100
    id_length: int = 512
    filter_nodes: int = MOST_NODES
    filter_depth: int = MOST_DEEP
    filter_values: int = 1_000
    features: int = 100
    events: int = 1_000
    user_events: int = 600
    kind: int = 64

    def __post_init__(self) -> None:
        _at_least(self, 1)
        ceilings = {"nodes": MOST_NODES, "depth": MOST_DEEP, "values": MOST_VALUES}
        for name, most in ceilings.items():
            if (value := getattr(self, f"filter_{name}")) > most:
                raise ServingError(f"filter_{name} must be at most {most}, got {value}")


@dataclass(frozen=True)
class Timeouts:
    """How long the service waits, in seconds.

    head: for the head of a request.
    body: for the body of a request, after its head.
    answer: for the answer, including the time in the queue; after it the client gets 503.
    write: for a client that does not read its answer.
    keep_alive: for the next request on an idle connection.
    notice: after SIGTERM, how long /readyz fails while new requests are still answered.
    drain: after `notice`, for running requests to end.
    store: for the stored events of a user; after it the answer is given without them.

    Errors: ServingError.
    """

    head: float = 10.0
    body: float = 10.0
    answer: float = 10.0
    write: float = 20.0
    keep_alive: float = 20.0
    notice: float = 1.0
    drain: float = 8.0
    store: float = 0.01

    def __post_init__(self) -> None:
        _at_least(self, 0)


@dataclass(frozen=True)
class Settings:
    """The configuration of a service.

    processes: processes that answer at one address; each has its own workers, queue and
    connections.
    workers: threads that compute answers.
    queue: requests that may wait for a worker; further requests get 503.
    poll: seconds between checks for a newer bundle.
    connections: open connections.
    head_bytes: maximum size of a request line with its headers, in bytes.
    token: token for queries; None allows every user of this machine to read.
    admin_token: token for the admin routes; None closes them.
    access_log: write one line per request with the logger `shortlist.access`.
    private_copy: serve from a copy of the bundle's files.
    events: file or server that stores events and changes of items; None stores none.
    write_token: token for sending events; None closes that route.
    keeping: how long and how many events are stored.
    guards: thresholds of the alarms.

    Errors: ServingError.
    """

    processes: int = 1
    workers: int = 2
    queue: int = 64
    poll: float = 2.0
    connections: int = 1_024
    head_bytes: int = 32_768
    token: str | None = field(default=None, repr=False)
    admin_token: str | None = field(default=None, repr=False)
    access_log: bool = False
    private_copy: bool = False
    events: StorePlace | None = None
    write_token: str | None = field(default=None, repr=False)
    keeping: Keeping = field(default_factory=Keeping)
    guards: Guards = field(default_factory=Guards)
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)

    def __post_init__(self) -> None:
        for name in ("processes", "workers", "queue", "connections", "head_bytes"):
            if getattr(self, name) < 1:
                raise ServingError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.poll <= LONGEST_WAIT:
            raise ServingError(
                f"poll must be > 0 seconds and at most {LONGEST_WAIT:g}, got {self.poll}"
            )
        if self.events is None and self.guards.click_through != Guards.click_through:
            raise ServingError(
                "the guard click_through reads clicks, which are events: it does nothing "
                "without a store of events (serve --events)"
            )
        names = ("token", "admin_token", "write_token")
        for name in names:
            _check_token(_named(name), getattr(self, name))
        for one, other in combinations(names, 2):
            if getattr(self, one) is not None and getattr(self, one) == getattr(self, other):
                raise ServingError(
                    f"{_named(one)} and {_named(other)} must differ: each token has its own rights"
                )


def check_address(host: str, settings: Settings) -> None:
    """Refuse an address that other machines can reach if no token is set. Errors: ServingError."""
    if settings.token is None and not is_loopback(host):
        raise ServingError(
            f"other machines can connect to {host}, but no token is set: "
            "set SHORTLIST_TOKEN, or bind to 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Tell whether a host is localhost or a loopback address.

    >>> is_loopback("127.0.0.1"), is_loopback("[::1]"), is_loopback("example.org")
    (True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _named(token: str) -> str:
    """The name of a token with the environment variable from which `serve` reads it."""
    return f"{token} (SHORTLIST_{token.upper()})"


def _check_token(name: str, token: str | None) -> None:
    if token is None:
        return
    plain = token.isascii() and token.isprintable() and " " not in token
    if len(token) < SHORTEST_TOKEN or not plain:
        # The message must not contain the token.
        raise ServingError(
            f"{name} must have at least {SHORTEST_TOKEN} printable ASCII characters and no spaces"
        )


def _at_least(values: Limits | Timeouts, least: int) -> None:
    for each in fields(values):
        value = getattr(values, each.name)
        if not (least <= value and isfinite(value)):
            raise ServingError(f"{each.name} must be at least {least} and finite, got {value}")
