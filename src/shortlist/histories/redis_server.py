"""How is a Redis server reached, what does it promise, and what is wrong when it does not answer?

The only file that imports the client, which the extra "redis" brings.
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
"""What the names of all keys of a store begin with, if the address does not say another."""

VERSION = 1
"""Of what stands under the keys."""

NEEDED = (6, 2)
"""Of the server: the oldest that the tests have run over."""

WAIT = 3.0
"""Seconds until a server that says nothing counts as gone."""

LOOKED_THROUGH = 1_000
"""Calls of SCAN, of a thousand keys each, that look for keys of somebody else."""

_PREFIX = re.compile(r"[A-Za-z0-9_.{}-][A-Za-z0-9_.:{}-]{0,99}")
_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@dataclass(frozen=True)
class RedisPlace:
    """The address of a store in Redis. shown: as it is told to people, without a password.

    prefix: what the names of its keys begin with. options: of the client.
    """

    prefix: str
    shown: str
    options: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        """As it is told to people."""
        return self.shown

    @classmethod
    def parse(cls, url: str) -> "RedisPlace":
        """Read redis://[USER:PASSWORD@]HOST[:PORT][/DB][?prefix=NAME], rediss:// or unix://PATH.

        A password that does not stand there comes from SHORTLIST_REDIS_PASSWORD. Errors:
        QueryError.

        >>> str(RedisPlace.parse("redis://:secret@cache.example/2?prefix=shop"))
        'redis://cache.example:6379/2?prefix=shop'
        """
        try:
            parts = urlsplit(url)
            given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
            port = parts.port or 6379
        except ValueError:
            raise _unreadable("is no address") from None
        said = dict(given)
        is_file = parts.scheme == "unix"
        known = {
            "prefix",
            *(("db",) if is_file else ()),
            *(_TLS if parts.scheme[-1:] == "s" else ()),
        }
        for name in said:
            if name not in known or len(said) < len(given):
                raise _unreadable(
                    f"says {_quoted(name)}, of which it may say {', '.join(sorted(known))}"
                )
        prefix = said.pop("prefix", PREFIX)
        if not _PREFIX.fullmatch(prefix):
            raise _unreadable(
                f"has the prefix {_quoted(prefix)}: letters, digits and _ . : - are expected"
            )
        number = said.pop("db", "0") if is_file else (parts.path.strip("/") or "0")
        if not re.fullmatch("[0-9]{1,9}", number) or parts.fragment:
            raise _unreadable(f"names the database {_quoted(number)}, which has to be a number")
        options: dict[str, Any] = {"db": int(number), **said}
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
    """A part of an address, unless it may be of a password whose / or ? was not escaped."""
    if "@" in text:
        return "... (not shown: in a password / is written %2F, ? %3F and @ %40)"
    return f"{text!r:.40}"


def _unreadable(fault: str) -> QueryError:
    # The address itself stays out of the message: a password may stand in it.
    return QueryError(
        f"the address of the store of events {fault}: write redis://HOST:PORT/DB, rediss:// for "
        "TLS or unix:///PATH?db=DB, with ?prefix=NAME where several shops share a database"
    )


class Lasting(NamedTuple):
    """What of that which was acknowledged is there after the server has ended.

    sure: all of it, if only the process of the server ends. said: as a sentence.
    """

    sure: bool
    said: str


class RedisServer:
    """A store of events in a Redis server, as all that use it reach it. Errors: EventStoreError.

    identity: of the store that is there now: a server that comes back without its data begins
    another. Threads may share it.
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
        """Return the name of a key.

        >>> RedisServer.key.__doc__ is not None
        True
        """
        said = (self.place.prefix, *names)
        return b":".join(name.encode() if isinstance(name, str) else name for name in said)

    def now(self) -> int:
        """Return the time by the server's clock as it was at the start, in microseconds."""
        return self._start + (time.monotonic_ns() - self._since) // 1000

    def begin(self, *, makes: bool = True) -> None:
        """Find out which store is there; makes: begin one where none is."""
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
        """Take what is there now for the store; return the error for who relied on the last one."""
        before = self.identity
        self.begin()
        return EventStoreError(
            f"the store of events {self.place} was emptied or replaced: what store {before} held "
            f"is not there, and store {self.identity} goes on from here"
        )

    def damaged(self, what: str) -> EventStoreError:
        """Return the error for something that no store has written."""
        return EventStoreError(
            f"the store of events {self.place} is damaged: {what} are not what was stored. Restore "
            "it from a copy, or begin another one (?prefix=NAME)"
        )

    def run(self, calls: Sequence[tuple[Script, Sequence[Any], Sequence[Any]]]) -> list[Any]:
        """Run scripts, each with its keys and arguments, in one round trip; each is one step."""
        answers = self.run_each(calls)
        for answer in answers:
            if isinstance(answer, EventStoreError):
                raise answer
        return answers

    def run_each(self, calls: Sequence[tuple[Script, Sequence[Any], Sequence[Any]]]) -> list[Any]:
        """Run scripts as `run` does; the answer of one that was refused is its EventStoreError."""
        with self.refusing():
            answers: list[Any] = [None] * len(calls)
            left = list(range(len(calls)))
            for _ in range(2):
                for place, answer in zip(left, self._sent([calls[n] for n in left]), strict=True):
                    answers[place] = answer
                left = [n for n in left if isinstance(answers[n], self._errors.NoScriptError)]
                if not left:
                    break
                for text in {calls[n][0].text for n in left}:  # the server was started anew
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
        """Send commands in one round trip; together: nothing comes between them."""
        with self.refusing():
            if len(commands) == 1:
                return [self._redis.execute_command(*commands[0])]
            sent = self._redis.pipeline(transaction=together)
            for command in commands:
                sent.execute_command(*command)
            found: list[Any] = sent.execute()
            return found

    def lasting(self) -> Lasting:
        """Return what the server's own settings promise of what was acknowledged."""
        about = self._about
        append, sync, save = (about.get(name) for name in ("appendonly", "appendfsync", "save"))
        if append is None:
            return Lasting(
                sure=False,
                said="the server does not tell whether it keeps its data (CONFIG and INFO are not "
                "allowed): what was acknowledged lasts as long as its own settings say",
            )
        if append == "no":
            how = f"only snapshots, save {save!r}" if save else "nothing is written to its disk"
            if save is None:
                how = "and it does not tell how often it makes snapshots"
            return Lasting(
                sure=False,
                said=f"what was acknowledged can be lost when the server ends (appendonly no: "
                f"{how}); set appendonly yes to keep it",
            )
        power = {
            "always": "and a loss of power (appendonly yes, appendfsync always)",
            "everysec": "a loss of power takes the last second or two of it (appendonly yes, "
            "appendfsync everysec)",
            "no": "a loss of power takes what its system has not written yet (appendonly yes, "
            "appendfsync no)",
        }
        said = power.get(sync or "", "whether a loss of power as well, the server does not tell")
        joint = " " if sync == "always" else "; "
        return Lasting(
            sure=True, said=f"what was acknowledged survives the end of the server{joint}{said}"
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._redis.close()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Say what the server or the way to it cannot do as an EventStoreError."""
        try:
            yield
        except (self._errors.RedisError, OSError) as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> EventStoreError:
        return EventStoreError(f"the store of events {self.place} {self._said(error)}")

    def _said(self, error: Exception) -> str:
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
        """What the server says of itself, as far as it may be asked."""
        said: dict[str, str] = {}
        try:
            info = self._redis.info()
            said = {name: str(value) for name, value in info.items() if not isinstance(value, dict)}
            if "aof_enabled" in said:
                said["appendonly"] = "yes" if said["aof_enabled"] == "1" else "no"
        except self._errors.NoPermissionError:
            pass
        for name in ("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy"):
            try:
                found = self._redis.config_get(name)
            except self._errors.ResponseError:  # managed servers have no CONFIG
                break
            for key, value in found.items():
                said[_text(key).replace("-", "_")] = _text(value)
        return said

    def _check(self) -> None:
        """Refuse a server that cannot keep a store."""
        about = self._about
        version = re.match(r"(\d+)\.(\d+)", about.get("redis_version", ""))
        if version and (int(version[1]), int(version[2])) < NEEDED:
            raise EventStoreError(
                f"{self.place} is a server of version {about['redis_version']}, and a store of "
                f"events needs {'.'.join(map(str, NEEDED))} or newer"
            )
        if about.get("redis_mode") == "cluster":
            raise EventStoreError(
                f"{self.place} is part of a cluster, where an event cannot be kept in one step: "
                "give a server of its own, with replicas if it must not be lost"
            )
        policy = about.get("maxmemory_policy", "noeviction")
        if int(about.get("maxmemory", "0") or 0) > 0 and policy != "noeviction":
            raise EventStoreError(
                f"{self.place} may throw away what was acknowledged when it is full "
                f"(maxmemory-policy {policy}): set noeviction, or give a server of its own"
            )

    def _check_alone(self) -> None:
        """Refuse a prefix that is in use by something that is no store."""
        cursor: Any = 0
        start = self.key("")
        for _ in range(LOOKED_THROUGH):
            match = re.sub(rb"([\[\]*?\\])", rb"\\\1", start) + b"*"
            cursor, found = self._redis.scan(cursor, match=match, count=1_000)
            if found:
                # Another process may have begun the store meanwhile.
                if self._redis.type(self.key("about")) == b"none":
                    raise self._taken(found[0])
                return
            if not cursor:
                return

    def _taken(self, key: bytes) -> EventStoreError:
        return EventStoreError(
            f"{self.place}: the key {key.decode(errors='replace')!r:.80} is there and is of no "
            "store of events: the prefix is in use by something else. Give another one "
            "(?prefix=NAME)"
        )


_FAULTS = (
    ("WRONGPASS|NOAUTH|AuthenticationError|AuthenticationWrongNumberOfArgsError|invalid password",
     "refuses the password or the user: put them into the address, or the password into "
     "SHORTLIST_REDIS_PASSWORD"),
    ("NOPERM|NoPermissionError", "does not allow this user what a store needs (NOPERM): allow all "
     "commands but dangerous ones, and all keys of the prefix"),
    ("READONLY|ReadOnlyError", "is a read-only replica: give the address of its primary"),
    ("OOM|OutOfMemoryError", "is full (maxmemory): nothing was kept. Give it more memory, or keep "
     "fewer days or events of a user"),
    ("MISCONF", "cannot write to its own disk (MISCONF), and takes nothing until it can"),
    ("LOADING|BusyLoadingError", "is still reading its data: it will answer later"),
    ("MASTERDOWN|NOREPLICAS", "has lost the other servers it works with, and takes nothing "
     "until they are back"),
    ("CROSSSLOT|MOVED|CLUSTERDOWN", "is part of a cluster: give a server of its own"),
    ("invalid DB index|DB index is out of range", "has no database of that number"),
    ("WRONGTYPE", "holds something else under a key of the store: the prefix is in use by "
     "something else. Give another one (?prefix=NAME)"),
)  # fmt: skip
"""What an error of the server says, by words in it."""


def _client(place: RedisPlace) -> tuple[Any, Any]:
    try:
        import redis  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415
    except ImportError as error:
        raise MissingPackageError(
            f"a store of events in Redis needs its client: {install('redis')}"
        ) from error
    # Nothing is sent twice: an event without an id would be kept twice.
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
