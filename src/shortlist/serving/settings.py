"""What may a request ask for, who may ask, and how long does anybody wait?"""

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

LONGEST_WAIT = 1e6
"""Seconds between two looks for a bundle: more than a system waits for in one go is refused."""


@dataclass(frozen=True)
class Limits:
    """The most that one request may hold; above it the answer is 413 or 422.

    body: bytes. queries: users, histories or items a request asks about. k: candidates of each;
    candidates: of all queries together. ids: in each of allow and deny, or to give titles of.
    history: items in one history; history_items: in all of them. explained: items a request wants
    the reasons of. id_length: characters of a text id. filter_nodes, filter_depth, filter_values:
    parts, levels and values of a `where`; what `data.predicates` reads is the ceiling of them.
    features: of the users of a request, by name. events: in one request; user_events: of one user
    in a minute. kind: characters of the kind of an event.
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
    """Seconds. head: until a connection has sent a whole request head. body: until its body is
    there. answer: from then on until the answer; 503 after it. write: for a client that does not
    read. keep_alive: of an idle connection. notice: after SIGTERM /readyz already fails while new
    requests are still answered; drain: what running requests then have to finish. store: until
    an answer goes without the stored events.
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
    """How a service runs.

    processes: how many answer at one address; workers, queue and connections are of each. workers:
    threads that answer. queue: requests that wait for one; more get 503. poll: seconds between
    looks at the bundles. connections: open ones; head_bytes: of a request's line and headers.
    token: what readers send, None lets everybody on this machine read; admin_token: what
    administrators send, None closes the admin routes. access_log: a line a request, by the logger
    `shortlist.access`. private_copy: serve from a copy of the files. events: the file or server
    that events are kept in, None to keep none; write_token: what those who send events send, None
    closes that route; keeping: how much is kept. guards: when an alarm is raised. Errors:
    ServingError.
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
                "the guard click_through is of clicks, which come as events: it does nothing "
                "without a store of them (serve --events)"
            )
        names = ("token", "admin_token", "write_token")
        for name in names:
            _check_token(_named(name), getattr(self, name))
        for one, other in combinations(names, 2):
            if getattr(self, one) is not None and getattr(self, one) == getattr(self, other):
                raise ServingError(
                    f"{_named(one)} and {_named(other)} must differ: one must not open both doors"
                )


def check_address(host: str, settings: Settings) -> None:
    """Refuse an address that others can reach while no token is set. Errors: ServingError."""
    if settings.token is None and not is_loopback(host):
        raise ServingError(
            f"{host} can be reached from other machines, and no token is set: "
            "set SHORTLIST_TOKEN, or bind to 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether an address, or localhost, is this machine and no other.

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
    """The name of a token, and that of the variable from which `serve` takes it."""
    return f"{token} (SHORTLIST_{token.upper()})"


def _check_token(name: str, token: str | None) -> None:
    if token is None:
        return
    plain = token.isascii() and token.isprintable() and " " not in token
    if len(token) < SHORTEST_TOKEN or not plain:
        # The token itself stays out of the message.
        raise ServingError(
            f"{name} must have at least {SHORTEST_TOKEN} printable ASCII characters and no spaces"
        )


def _at_least(values: Limits | Timeouts, least: int) -> None:
    for each in fields(values):
        value = getattr(values, each.name)
        if not (least <= value and isfinite(value)):
            raise ServingError(f"{each.name} must be at least {least} and finite, got {value}")
