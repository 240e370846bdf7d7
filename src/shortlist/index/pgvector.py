"""PostgreSQL with the extension pgvector as an index."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from shortlist.errors import IndexServerError, MissingPackageError, ModelError, install
from shortlist.index.checks import Items
from shortlist.index.pairs import Floats, Rows
from shortlist.index.servers import Found, Place, Published, ServerIndex, Timeout
from shortlist.index.settings import BuildBeam, Choices, Links

COPIED_AT_A_TIME = 10_000
MOST_WIDE = 2_000  # pgvector's limit on the width of vectors in a graph.
MOST_EF = 1_000  # pgvector's limit on ef_search.
BEAM = 256
FEW = 10_000  # Up to this many allowed items are scanned exactly.
SCANNED = 50  # Rows of the graph that a filtered search may read per item asked for.
OLDEST = (0, 8)  # The first version with iterative scans: filtered searches continue until full.


def _without_password(text: str) -> str:
    if "password" in text or ("://" in text and urlsplit(text).password is not None):
        raise ValueError(
            "must not contain a password: set PGPASSWORD or a password file, which libpq reads, or "
            "write the whole connection string in SHORTLIST_PGVECTOR"
        )
    return text


class PgVector(ServerIndex):
    """An HNSW graph on a table of PostgreSQL, by pgvector 0.8 or newer. Needs the extra "pgvector".

    `collection` is a view with the columns `id` and `vector`, which moves to the new table in one
    transaction. A filter is sent as one bit for each id, and the search of the graph continues
    until enough items pass it. If that finds fewer than k items, or if at most FEW items are
    allowed, the server scans all matching items. Such an answer is exact, and items tied at the
    last place are chosen by tie key.
    """

    search_settings: ClassVar[tuple[str, ...]] = ("ef_search", "timeout")
    grid: ClassVar[Choices] = {"ef_search": (64, 128, 256, 512, 1000)}

    server: str | None
    m: int
    ef_construction: int
    ef_search: int | None
    timeout: float

    def __init__(
        self,
        similarity: str,
        *,
        server: Annotated[
            str | None,
            AfterValidator(lambda text: text and _without_password(text)),
            Field(
                description="A connection string without a password, such as "
                "postgresql://shop@127.0.0.1/items. The environment variable SHORTLIST_PGVECTOR "
                "takes precedence. If both are unset, PGHOST and the other variables of libpq "
                "apply."
            ),
        ] = None,
        collection: Published = "shortlist",
        m: Annotated[Links, Field(le=100)] = 16,
        ef_construction: Annotated[BuildBeam, Field(le=1000)] = 100,
        ef_search: Annotated[
            int | None,
            Field(
                ge=1,
                le=MOST_EF,
                description="Beam width of a search, raised to the number of items asked for if "
                "that is higher. Unset: 256, and 1000 for dot.",
            ),
        ] = None,
        timeout: Timeout = 5.0,
    ) -> None:
        super().__init__(
            similarity,
            server=server,
            collection=collection,
            m=m,
            ef_construction=ef_construction,
            ef_search=ef_search,
            timeout=timeout,
        )
        self._threads = threading.local()

    @property
    def address(self) -> str:
        """The connection string without passwords."""
        from psycopg.conninfo import make_conninfo  # noqa: PLC0415

        shown = {
            name: value for name, value in self._parameters().items() if "password" not in name
        }
        return make_conninfo("", **shown) or "the PGHOST of the environment"

    def _parameters(self) -> dict[str, Any]:
        """Return the parameters of the connection string.

        Errors: IndexServerError, which does not quote the string: it may contain a password.
        """
        from psycopg import ProgrammingError  # noqa: PLC0415
        from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

        try:
            said: dict[str, Any] = conninfo_to_dict(self._string)
        except ProgrammingError:
            raise IndexServerError(
                "SHORTLIST_PGVECTOR, or the setting server, is not a PostgreSQL connection string: "
                "write postgresql://USER@HOST/DB or host=HOST dbname=DB, and quote a value that "
                "contains a space: password='two words'"
            ) from None
        return said

    @property
    def _string(self) -> str:
        return os.environ.get("SHORTLIST_PGVECTOR") or self.server or ""

    def _publish(self, name: str, items: Items) -> None:
        if (width := items.vectors.shape[1]) > MOST_WIDE:
            raise ModelError(f"pgvector takes vectors of width {MOST_WIDE} at most, got {width}")
        view = _quoted(self.collection)
        kind = "vector_l2_ops" if self.similarity == "euclidean" else "vector_ip_ops"
        with self._connection(patient=True) as connection, connection.transaction():
            ask = connection.execute
            ask("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"shortlist {self.collection}",))
            ask(
                f"CREATE TABLE {_quoted(name)} (id bigint PRIMARY KEY, tie_key bigint NOT NULL, "
                f"vector vector({width}) NOT NULL)"
            )
            self._copy(connection, name, items)
            ask(
                f"CREATE INDEX ON {_quoted(name)} USING hnsw (vector {kind}) "
                f"WITH (m = {self.m}, ef_construction = {max(self.ef_construction, 2 * self.m)})"
            )
            ask(f"ANALYZE {_quoted(name)}")
            pattern = self.collection.replace("_", r"\_") + r"\_" + 32 * "_"
            ours = [
                row[0]
                for row in ask(
                    "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() "
                    "AND tablename LIKE %s",
                    (pattern,),
                )
            ]
            before = ask(
                "SELECT table_name FROM information_schema.view_table_usage WHERE view_name = %s "
                "AND view_schema = current_schema()",
                (self.collection,),
            ).fetchone()
            ask(f"DROP VIEW IF EXISTS {view}")
            ask(f"CREATE VIEW {view} AS SELECT id, vector FROM {_quoted(name)}")
            for other in ours:
                if other != name and (before is None or other != before[0]):
                    ask(f"DROP TABLE {_quoted(other)}")

    def _copy(self, connection: Any, name: str, items: Items) -> None:
        """Send the items by COPY in PostgreSQL's binary format: three fields per row."""
        width = items.vectors.shape[1]
        row = np.dtype(
            [
                *(("fields", ">i2"), ("id_bytes", ">i4"), ("id", ">i8")),
                *(("key_bytes", ">i4"), ("tie_key", ">i8"), ("vector_bytes", ">i4")),
                *(("width", ">i2"), ("unused", ">i2"), ("vector", ">f4", (width,))),
            ]
        )
        with connection.cursor().copy(
            f"COPY {_quoted(name)} (id, tie_key, vector) FROM STDIN (FORMAT binary)"
        ) as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for start in range(0, len(items.ids), COPIED_AT_A_TIME):
                ids, vectors, keys = (part[start : start + COPIED_AT_A_TIME] for part in items)
                rows = np.zeros(len(ids), dtype=row)
                rows["fields"], rows["id_bytes"], rows["key_bytes"] = 3, 8, 8
                rows["vector_bytes"], rows["width"] = 4 + 4 * width, width
                rows["id"], rows["tie_key"], rows["vector"] = ids, keys, vectors
                copy.write(rows.tobytes())
            copy.write(b"\xff\xff")

    def _insert(self, place: Place, items: Items) -> None:
        with self._connection(patient=True) as connection, connection.transaction():
            self._copy(connection, place.name, items)

    def _delete(self, place: Place, ids: Rows) -> None:
        with self._connection(patient=True) as connection:
            connection.execute(
                f"DELETE FROM {_quoted(place.name)} WHERE id = ANY(%s)", (ids.tolist(),)
            )

    def _fetch(self, place: Place, ids: Rows, *, vectors: bool) -> tuple[Rows, Floats]:
        columns = "id, vector::real[]" if vectors else "id"
        with self._connection(patient=True) as connection:
            found = connection.execute(
                f"SELECT {columns} FROM {_quoted(place.name)} WHERE id = ANY(%s)", (ids.tolist(),)
            ).fetchall()
        there = np.array([row[0] for row in found], dtype=np.int64)
        held = [row[1] for row in found] if vectors else []
        width = place.width if vectors else 0
        return there, np.array(held, dtype=np.float32).reshape(len(there), width)

    def _find(
        self, place: Place, points: Floats, k: int, allow: NDArray[np.bool_] | None, exclude: Rows
    ) -> Found:
        found, bits, few = Found.nothing(len(points), k), None, None
        if allow is not None:
            bits = np.packbits(allow, bitorder="little").tobytes()
            if allow.sum() <= FEW:
                few = np.flatnonzero(allow).tolist()
        conditions: list[str] = []
        given: dict[str, Any] = {"k": k}
        if few is not None:
            conditions.append("id = ANY(%(few)s)")
            given["few"] = few
        elif bits is not None:
            conditions.append(f"id < {8 * len(bits)} AND get_bit(%(bits)s::bytea, id) = 1")
            given["bits"] = bits
        if len(exclude):
            conditions.append("id <> ALL(%(exclude)s)")
            given["exclude"] = exclude.tolist()
        where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
        with self._connection() as connection:
            for point, vector in enumerate(points):
                given["point"] = "[" + ",".join(map(repr, vector.tolist())) + "]"
                rows: list[Any] = []
                if few is None:
                    rows = self._walked(connection, place, k, where, given)
                if len(rows) < k and len(rows) < place.count:
                    rows = self._compared(connection, place, where, given)
                if rows:
                    ids, distances, keys = zip(*rows, strict=True)
                    found.put(point, ids, self._scores(np.array(distances)), keys)
        return found

    @property
    def _distance(self) -> str:
        operator = "<->" if self.similarity == "euclidean" else "<#>"
        return f"vector {operator} %(point)s::vector"

    def _scores(self, distances: NDArray[np.float64]) -> Floats:
        scores = -(distances**2) if self.similarity == "euclidean" else -distances
        return scores.astype(np.float32)

    def _walked(
        self, connection: Any, place: Place, k: int, where: str, given: dict[str, Any]
    ) -> list[Any]:
        """Answer one point by searching the graph; returns rows (id, distance, tie key)."""
        beam = self.ef_search or (MOST_EF if self.similarity == "dot" else BEAM)
        beam = min(max(beam, k), MOST_EF)
        with connection.transaction():
            connection.execute(
                "SELECT set_config('hnsw.ef_search', %s, true), "
                "set_config('hnsw.iterative_scan', 'strict_order', true), "
                "set_config('hnsw.max_scan_tuples', %s, true), "
                "set_config('enable_seqscan', 'off', true), "
                "set_config('enable_sort', 'off', true)",
                (str(beam), str(max(SCANNED * k, 20_000))),
            )
            rows: list[Any] = connection.execute(
                f"SELECT id, {self._distance}, tie_key FROM {_quoted(place.name)} {where}"
                f"ORDER BY {self._distance} LIMIT %(k)s",
                given,
            ).fetchall()
        return rows

    def _compared(
        self, connection: Any, place: Place, where: str, given: dict[str, Any]
    ) -> list[Any]:
        """Answer one point by a scan of all matching items; returns rows (id, distance, tie key).

        The "+ 0" in ORDER BY keeps PostgreSQL from using the graph.
        """
        rows: list[Any] = connection.execute(
            f"SELECT id, {self._distance} AS distance, tie_key FROM {_quoted(place.name)} {where}"
            f"ORDER BY ({self._distance}) + 0, tie_key LIMIT %(k)s",
            given,
        ).fetchall()
        return rows

    @contextmanager
    def _connection(self, *, patient: bool = False) -> Iterator[Any]:
        """Yield this thread's connection, which stays usable after an error.

        patient: no time limit for statements, for writes; else the setting timeout applies.
        """
        held: _Held | None = getattr(self._threads, "held", None)
        if held is None or held.process != os.getpid() or held.connection.closed:
            held = self._threads.held = _Held(self._connect())
        # At least one millisecond: 0 means no limit.
        limit = 0 if patient else max(1, round(1000 * self.timeout))
        if held.limit != limit:
            held.connection.execute(f"SET statement_timeout = {limit}")
            held.limit = limit
        yield held.connection

    def _connect(self) -> Any:
        try:
            import psycopg  # noqa: PLC0415
        except ImportError as error:
            raise MissingPackageError(
                f"this index needs PostgreSQL's client: {install('pgvector')}"
            ) from error
        self._parameters()
        connection = psycopg.connect(
            self._string,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=max(2, round(self.timeout)),
            application_name="shortlist",
        )
        connection.execute("SET client_min_messages = warning")
        found = connection.execute(
            "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        ).fetchone()
        if found is None or tuple(map(int, found[0].split(".")[:2])) < OLDEST:
            connection.close()
            has = "is not there: CREATE EXTENSION vector" if found is None else f"is {found[0]}"
            raise IndexServerError(
                f"the index server at {self.address}: this index needs the extension vector, "
                f"0.8 or newer, and it {has}"
            )
        return connection

    def _failures(self) -> tuple[type[Exception], ...]:
        try:
            from psycopg import Error  # noqa: PLC0415
        except ImportError:
            return ()
        return (Error, OSError)

    def _slow(self) -> tuple[type[Exception], ...]:
        from psycopg.errors import QueryCanceled  # noqa: PLC0415

        return (QueryCanceled,)


class _Held:
    """A connection that is closed when its thread or its index is garbage-collected."""

    def __init__(self, connection: Any) -> None:
        self.connection, self.process = connection, os.getpid()
        self.limit: int | None = None
        """The statement timeout set on the connection, in milliseconds; None if never set."""

    def __del__(self) -> None:
        if self.process == os.getpid():  # A forked child must not close its parent's connection.
            self.connection.close()


def _quoted(name: str) -> str:
    """Quote a name for SQL; it was checked to have letters, digits and _ only."""
    return f'"{name}"'
