"""Run the tests of the Milvus index on a server that is started for them, and stop that.

    python tests/index/milvus_server.py MILVUS_VENV [arguments of pytest]

MILVUS_VENV: a virtual environment with the package `milvus` 2.3.5, which carries the server. All
its files go to a temporary folder; it listens on free ports of this machine.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATIENCE = 180.0
"""Seconds until the server must answer."""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def wait_until_it_answers(uri: str, server: subprocess.Popen[bytes]) -> None:
    from pymilvus import MilvusClient, MilvusException

    end = time.monotonic() + PATIENCE
    while True:
        try:
            version = MilvusClient(uri=uri, timeout=5).get_server_version()
            sys.stdout.write(f"Milvus {version} answers at {uri}\n")
            return
        except MilvusException as error:
            if server.poll() is not None:
                sys.exit(f"the server ended with {server.returncode} before it answered")
            if time.monotonic() > end:
                sys.exit(f"the server did not answer in {PATIENCE:.0f} s: {error}")
        time.sleep(1)


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server with all it started: they are a group of processes of their own."""
    for sign, patience in ((signal.SIGINT, 30), (signal.SIGKILL, 10)):
        try:
            os.killpg(server.pid, sign)
            server.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def main() -> int:
    venv, *arguments = sys.argv[1:]
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="shortlist-milvus-") as folder:
        command = [str(Path(venv) / "bin" / "milvus-server"), "--data", folder]
        log = Path(folder) / "server.log"
        with (
            log.open("wb") as output,
            subprocess.Popen(
                [*command, "--proxy-port", str(port)],
                stdout=output,
                stderr=output,
                start_new_session=True,
            ) as server,
        ):
            try:
                uri = f"http://127.0.0.1:{port}"
                wait_until_it_answers(uri, server)
                tests = Path(__file__).parents[1]
                files = [tests / "index" / "test_milvus.py", tests / "contracts/test_indexes.py"]
                return subprocess.run(
                    [sys.executable, "-m", "pytest", *files, "-k", "milvus", *arguments],
                    env={**os.environ, "SHORTLIST_MILVUS_URI": uri},
                    check=False,
                ).returncode
            finally:
                stop(server)


if __name__ == "__main__":
    sys.exit(main())
