"""How is a Redis server reached, how durable is it, and which errors does it give?

Only this file imports the client library, which the extra "redis" installs.
"""

import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from shortlist.errors import EventStoreError, MissingPackageError, QueryError, install
from shortlist.histories.redis_scripts import BEGIN, Script

SCHEMES = ("redis://", "rediss://", "unix://")

PREFIX = "shortlist"
"""Default prefix of the names of all keys of a store."""

VERSION = 1
"""Version of the format of the stored data."""

NEEDED = (6, 2)
"""The oldest supported version of the server, which is the oldest that was tested."""

WAIT = 3.0
"""Timeout of connections and answers, in seconds."""

LOOKED_THROUGH = 1_000
"""Most calls of SCAN, of about a thousand keys each, that search for foreign keys."""

_PREFIX = re.compile(r"[A-Za-z0-9_.{}-][A-Za-z0-9_.:{}-]{0,99}")
_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@dataclass(frozen=True)
class RedisPlace:
    """The address of a store in Redis.

    prefix: prefix of the names of its keys.
    shown: the address without a password, for messages.
    options: keyword arguments of the client; they may hold the password.
    """

    prefix: str
    shown: str
    options: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        """Return the address without a password."""
        return self.shown

    @classmethod
    def parse(cls, url: str) -> "RedisPlace":
        """Read redis://[USER:PASSWORD@]HOST[:PORT][/DB][?prefix=NAME], rediss:// or unix://PATH.

        Without a password in the address, that of SHORTLIST_REDIS_PASSWORD is used.
        Errors: QueryError.

        >>> str(RedisPlace.parse("redis://:secret@cache.example/2?prefix=shop"))
        'redis://cache.example:6379/2?prefix=shop'
        """
        try:
            parts = urlsplit(url)
            given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
            port = parts.port or 6379
        except ValueError:
            raise _unreadable("is not an address") from None
        query = dict(given)
        is_file = parts.scheme == "unix"
        known = {
            "prefix",
            *(("db",) if is_file else ()),
            *(_TLS if parts.scheme[-1:] == "s" else ()),
        }
        for name in query:
            if name not in known or len(query) < len(given):
                raise _unreadable(
                    f"has the option {_quoted(name)}, but only these, once each, are possible: "
                    f"{', '.join(sorted(known))}"
                )
        prefix = query.pop("prefix", PREFIX)
        if not _PREFIX.fullmatch(prefix):
            raise _unreadable(
                f"has the prefix {_quoted(prefix)}: letters, digits and _ . : - are expected"
            )
        number = query.pop("db", "0") if is_file else (parts.path.strip("/") or "0")
        if not re.fullmatch("[0-9]{1,9}", number) or parts.fragment:
            raise _unreadable(f"names the database {_quoted(number)}, which must be a number")
        options: dict[str, Any] = {"db": int(number), **query}
        if is_file:
            where = f"unix://{parts.path}?db={number}&"
            options["unix_socket_path"] = unquote(parts.path)
        else:
            host = parts.hostname
            if not host:
                raise _unreadable("names no host")
            named = f"[{host}]" if ":" in host else host
            where = f"{parts.scheme}://{named}:{port}/{int(number)}?"
            options |= {"host": host, "port": port}
            if parts.scheme == "rediss":
                options["ssl"] = True
        if parts.username:
            options["username"] = unquote(parts.username)
        if password := unquote(parts.password or "") or os.environ.get("SHORTLIST_REDIS_PASSWORD"):
            options["password"] = password
        shown = f"{where}prefix={prefix}" if prefix != PREFIX else where[:-1]
        return cls(prefix, shown, options)


def _quoted(text: str) -> str:
    """Quote a part of an address, unless it may belong to a password with an unescaped / or ?."""
    if "@" in text:
        return "... (not shown: in a password / is written %2F, ? %3F and @ %40)"
    return f"{text!r:.40}"


def _unreadable(fault: str) -> QueryError:
    # The message does not quote the address, because it may contain a password.
    return QueryError(
        f"the address of the store of events {fault}: write redis://HOST:PORT/DB, rediss:// for "
        "TLS or unix:///PATH?db=DB, with ?prefix=NAME if several shops share a database"
    )


class Lasting(NamedTuple):
    """Whether acknowledged events survive the end of the server.

    sure: all events survive the end of the server's process.
    said: the same as a sentence, including a loss of power.
    """

    sure: bool
    said: str


class RedisServer:
    """A connection to a store of events in a Redis server, which threads may share.

    All methods may raise EventStoreError.

    place: address of the server.
    makes: create a store if there is none.

    identity: identity of the current store; a server that comes back without its data gets another.
    """

    def __init__(self, place: RedisPlace, *, makes: bool = True) -> None:
        self.place = place
        self._redis, self._errors = _client(place)
        with self.refusing():
            seconds, micros = self._redis.time()
            self._start = int(seconds) * 1_000_000 + int(micros)
            self._since = time.monotonic_ns()
            self._about = self._facts()
        self._check()
        self.identity = ""
        self.begin(makes=makes)

    def key(self, *names: str | bytes) -> bytes:
        """Return the full name of a key: the prefix and these names, separated by colons."""
        parts = (self.place.prefix, *names)
        return b":".join(part.encode() if isinstance(part, str) else part for part in parts)

    def now(self) -> int:
        """Return the time of the server's clock, read once at the start, in µs since 1970."""
        return self._start + (time.monotonic_ns() - self._since) // 1000

    def begin(self, *, makes: bool = True) -> None:
        """Read the identity of the store. makes: create a store if there is none."""
        about = self.key("about")
        with self.refusing():
            found = self._redis.type(about)
            if found == b"none":
                self._check_alone()
                if not makes:
                    raise EventStoreError(f"{self.place}: there is no store of events")
                self.run([(BEGIN, [about], [VERSION, secrets.token_hex(8)])])
            elif found != b"hash":
                raise self._taken(about)
            kind, version, identity = self._redis.hmget(about, "kind", "version", "identity")
        if kind != b"shortlist events" or identity is None:
            raise self._taken(about)
        if version != str(VERSION).encode():
            raise EventStoreError(
                f"{self.place} holds a store of version {(version or b'?').decode()}, and this "
                f"version of shortlist reads version {VERSION}"
            )
        self.identity = identity.decode()

    def replaced(self) -> EventStoreError:
        """Switch to the store that is there now; return the error for callers of the last one."""
        before = self.identity
        self.begin()
        return EventStoreError(
            f"the store of events {self.place} was emptied or replaced: the events of store "
            f"{before} are lost, and the new store {self.identity} is used from now on"
        )

    def damaged(self, what: str) -> EventStoreError:
        """Return the error for damaged data. what: the data, in the plural."""
        return EventStoreError(
            f"the store of events {self.place} is damaged: {what} are not what was stored. Restore "
            "it from a copy, or begin another one (?prefix=NAME)"
        )

    def run(self, calls: Sequence[tuple[Script, Sequence[Any], Sequence[Any]]]) -> list[Any]:
        """Run scripts, each with its keys and arguments, in one round trip. Each is atomic."""
        answers = self.run_each(calls)
        for answer in answers:
            if isinstance(answer, EventStoreError):
                raise answer
        return answers

    def run_each(self, calls: Sequence[tuple[Script, Sequence[Any], Sequence[Any]]]) -> list[Any]:
        """Run scripts as `run` does; return the EventStoreError of a script that failed."""
        with self.refusing():
            answers: list[Any] = [None] * len(calls)
            left = list(range(len(calls)))
            for _ in range(2):
                for place, answer in zip(left, self._sent([calls[n] for n in left]), strict=True):
                    answers[place] = answer
                left = [n for n in left if isinstance(answers[n], self._errors.NoScriptError)]
                if not left:
                    break
                for text in {calls[n][0].text for n in left}:  # The server was restarted.
                    self._redis.script_load(text)
        return [self._refusal(one) if isinstance(one, Exception) else one for one in answers]

    def _sent(self, calls: Sequence[tuple[Script, Sequence[Any], Sequence[Any]]]) -> list[Any]:
        if len(calls) == 1:
            [(script, keys, values)] = calls
            try:
                return [self._redis.execute_command(*_call(script, keys, values))]
            except self._errors.NoScriptError as error:
                return [error]
        sent = self._redis.pipeline(transaction=False)
        for script, keys, values in calls:
            sent.execute_command(*_call(script, keys, values))
        found: list[Any] = sent.execute(raise_on_error=False)
        return found

    def ask(self, *commands: Sequence[Any], together: bool = False) -> list[Any]:
        """Send commands in one round trip. together: run them as one transaction."""
        with self.refusing():
            if len(commands) == 1:
                return [self._redis.execute_command(*commands[0])]
            sent = self._redis.pipeline(transaction=together)
            for command in commands:
                sent.execute_command(*command)
            found: list[Any] = sent.execute()
            return found

    def lasting(self) -> Lasting:
        """Return how durable acknowledged events are according to the server's settings."""
        about = self._about
        append, sync, save = (about.get(name) for name in ("appendonly", "appendfsync", "save"))
        if append is None:
            return Lasting(
                sure=False,
                said="the server does not tell whether it keeps its data (CONFIG and INFO are not "
                "allowed): whether acknowledged events survive its end depends on its settings",
            )
        if append == "no":
            how = f"only snapshots, save {save!r}" if save else "nothing is written to its disk"
            if save is None:
                how = "and it does not tell how often it makes snapshots"
            return Lasting(
                sure=False,
                said=f"acknowledged events can be lost when the server ends (appendonly no: "
                f"{how}); set appendonly yes to keep them",
            )
        power = {
            "always": "and a loss of power (appendonly yes, appendfsync always)",
            "everysec": "a loss of power loses those of the last second or two (appendonly yes, "
            "appendfsync everysec)",
            "no": "a loss of power loses those that its system has not written yet (appendonly "
            "yes, appendfsync no)",
        }
        said = power.get(sync or "", "the server does not tell what a loss of power loses")
        joint = " " if sync == "always" else "; "
        return Lasting(
            sure=True, said=f"acknowledged events survive the end of the server{joint}{said}"
        )

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Turn errors of the server, the network and the client into an EventStoreError."""
        try:
            yield
        except (self._errors.RedisError, OSError) as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> EventStoreError:
        return EventStoreError(f"the store of events {self.place} {self._reason(error)}")

    def _reason(self, error: Exception) -> str:
        text = f"{type(error).__name__} {error}"
        for words, said in _FAULTS:
            if re.search(rf"\b({words})\b", text):
                return said
        if isinstance(error, self._errors.TimeoutError):
            return f"has not answered within {WAIT:g} seconds"
        if isinstance(error, self._errors.ConnectionError | OSError):
            return f"cannot be reached: {error}. Does the server run, and is the address right?"
        return f"cannot be used: {error}"

    def _facts(self) -> dict[str, str]:
        """Return the server's INFO and relevant CONFIG values, as far as they are allowed."""
        facts: dict[str, str] = {}
        try:
            info = self._redis.info()
            facts = {
                name: str(value) for name, value in info.items() if not isinstance(value, dict)
            }
            if "aof_enabled" in facts:
                facts["appendonly"] = "yes" if facts["aof_enabled"] == "1" else "no"
        except self._errors.NoPermissionError:
            pass
        for name in ("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy"):
            try:
                found = self._redis.config_get(name)
            except self._errors.ResponseError:  # Managed servers do not allow CONFIG.
                break
            for key, value in found.items():
                facts[_text(key).replace("-", "_")] = _text(value)
        return facts

    def _check(self) -> None:
        """Raise EventStoreError for a server that is too old, a cluster, or may evict keys."""
        about = self._about
        version = re.match(r"(\d+)\.(\d+)", about.get("redis_version", ""))
        if version and (int(version[1]), int(version[2])) < NEEDED:
            raise EventStoreError(
                f"{self.place} is a server of version {about['redis_version']}, and a store of "
                f"events needs {'.'.join(map(str, NEEDED))} or newer"
            )
        if about.get("redis_mode") == "cluster":
            raise EventStoreError(
                f"{self.place} is part of a cluster, where an event cannot be stored atomically: "
                "give the address of a single server, with replicas if no event may be lost"
            )
        policy = about.get("maxmemory_policy", "noeviction")
        if int(about.get("maxmemory", "0") or 0) > 0 and policy != "noeviction":
            raise EventStoreError(
                f"{self.place} may throw away acknowledged events when it is full "
                f"(maxmemory-policy {policy}): set noeviction, or use another server"
            )

    def _check_alone(self) -> None:
        """Raise EventStoreError if other data uses keys with the prefix."""
        cursor: Any = 0
        start = self.key("")
        for _ in range(LOOKED_THROUGH):
            match = re.sub(rb"([\[\]*?\\])", rb"\\\1", start) + b"*"
            cursor, found = self._redis.scan(cursor, match=match, count=1_000)
            if found:
                # Another process may have created the store meanwhile.
                if self._redis.type(self.key("about")) == b"none":
                    raise self._taken(found[0])
                return
            if not cursor:
                return

    def _taken(self, key: bytes) -> EventStoreError:
        return EventStoreError(
            f"{self.place}: the key {key.decode(errors='replace')!r:.80} exists and does not "
            "belong to a store of events: the prefix is in use by something else. Give another "
            "one (?prefix=NAME)"
        )


_FAULTS = (
    ("WRONGPASS|NOAUTH|AuthenticationError|AuthenticationWrongNumberOfArgsError|invalid password",
     "refuses the password or the user: put them into the address, or the password into "
     "SHORTLIST_REDIS_PASSWORD"),
    ("NOPERM|NoPermissionError", "does not allow this user what a store needs (NOPERM): allow all "
     "commands except those in @dangerous, and all keys of the prefix"),
    ("READONLY|ReadOnlyError", "is a read-only replica: give the address of its primary"),
    ("OOM|OutOfMemoryError", "is full (maxmemory): nothing was kept. Give it more memory, or keep "
     "fewer days or events of a user"),
    ("MISCONF", "cannot write to its own disk (MISCONF), and refuses writes until it can"),
    ("LOADING|BusyLoadingError", "is still reading its data: it will answer later"),
    ("MASTERDOWN|NOREPLICAS", "has lost its primary or its replicas, and refuses writes until "
     "they are back"),
    ("CROSSSLOT|MOVED|CLUSTERDOWN", "is part of a cluster: give the address of a single server"),
    ("invalid DB index|DB index is out of range", "has no database of that number"),
    ("WRONGTYPE", "holds something else under a key of the store: the prefix is in use by "
     "something else. Give another one (?prefix=NAME)"),
)  # fmt: skip
"""The message for an error of the server, by words in the error."""


def _client(place: RedisPlace) -> tuple[Any, Any]:
    try:
        import redis  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415
    except ImportError as error:
        raise MissingPackageError(
            f"a store of events in Redis needs its client: {install('redis')}"
        ) from error
    # No retries: an event without an id would be stored twice.
    client = redis.Redis(
        **place.options,
        socket_timeout=WAIT,
        socket_connect_timeout=WAIT,
        retry=Retry(NoBackoff(), 0),
    )
    return client, redis.exceptions


def _call(script: Script, keys: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    return ["EVALSHA", script.sha, len(keys), *keys, *values]


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
