"""A copy of a task that Spark runs beside it, on another host, changes nothing: `make spark`.

Spark starts a speculative copy of a task on no host that has tried it. So this is a small cluster
of two hosts, 127.0.0.1 and 127.0.0.2, with an executor each.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path

import pytest

from jobs.worlds import recipe_of, same_rows, world
from shortlist.jobs.local import Local
from shortlist.jobs.steps import Job
from shortlist.spark.engine import Spark

pytestmark = [
    pytest.mark.skipif(
        find_spec("pyspark") is None or shutil.which("java") is None,
        reason="needs pyspark and Java: make spark",
    ),
    pytest.mark.skipif(sys.platform != "linux", reason="needs the host 127.0.0.2, as on Linux"),
]
HOSTS = ("127.0.0.1", "127.0.0.2")
SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.driver.host": HOSTS[0],
    "spark.driver.bindAddress": HOSTS[0],
    "spark.executor.memory": "512m",
    "spark.locality.wait": "0",
    "spark.speculation": "true",
    "spark.speculation.quantile": "0.5",  # of two tasks, when one has ended
    "spark.speculation.efficiency.enabled": "false",
}


class Copied(Spark):
    """Spark, where the first task of each folder that is written runs twice at a time.

    Both tries give all their rows on. Then the one of the number `wins` ends, and the other waits
    until Spark ends it. met: the folder where the tries say that they have come so far.
    """

    wins: int
    met: Path
    _both = None

    def write(self, frame, folder):
        wins, met = self.wins, self.met

        def both(batches):
            from pyspark import TaskContext

            yield from batches
            task = TaskContext.get()
            if task.partitionId() == 0:
                mine = task.attemptNumber()
                (met / f"{task.stageId()}-{mine}").touch()
                other = met / f"{task.stageId()}-{1 - mine}"
                for _ in range(6_000):
                    if mine == wins and other.exists():
                        return
                    time.sleep(0.1)
                raise RuntimeError(f"try {mine} of a task met no other")

        self._both = both
        super().write(frame, folder)
        self._both = None

    def _done(self, frame):
        made = super()._done(frame)
        return made if self._both is None else made.mapInArrow(self._both, made.schema)


def answers(host, port):
    with closing(socket.socket()) as asked:
        return asked.connect_ex((host, port)) == 0


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    """The address of a master with a worker on each host."""
    import pyspark

    home = Path(pyspark.__file__).parent
    folder = tmp_path_factory.mktemp("cluster")
    with closing(socket.socket()) as free:
        free.bind((HOSTS[0], 0))
        port = free.getsockname()[1]
    address = f"spark://{HOSTS[0]}:{port}"
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYSPARK_PYTHON", sys.executable)

        def start(kind, host, *words):
            command = [home / "bin" / "spark-class", f"org.apache.spark.deploy.{kind}"]
            with (folder / f"{kind}-{host}.log").open("w") as log:
                process = subprocess.Popen(
                    [*command, "--host", host, "--webui-port", "0", *words],
                    env=os.environ | {"SPARK_HOME": str(home), "SPARK_DAEMON_MEMORY": "256m"},
                    stdout=log,
                    stderr=log,
                )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        ours = start("master.Master", HOSTS[0], "--port", str(port))
        while not answers(HOSTS[0], port):
            assert ours.poll() is None
            time.sleep(0.1)
        for host in HOSTS:
            words = ("--cores", "1", "--memory", "512m", "--work-dir", str(folder / host))
            start("worker.Worker", host, *words, address)
        yield address


@pytest.fixture(scope="module")
def engine(master):
    made = Copied(2, master, SETTINGS)
    yield made
    made.close()


@pytest.mark.parametrize("wins", [0, 1], ids=["the first", "the copy"])
def test_a_copy_of_a_task_that_runs_beside_it_changes_nothing(wins, engine, tmp_path):
    world(tmp_path, 26)
    recipe = recipe_of(tmp_path)
    whole = Job(recipe, tmp_path / "whole", Local(tmp_path / "whole"))
    whole.item_cf()
    engine.wins, engine.met = wins, tmp_path / "met"
    engine.met.mkdir()
    job = Job(recipe, tmp_path / "work", engine)
    job.item_cf()
    assert len([*engine.met.iterdir()]) == 4  # two tries of a task, for two folders
    stages = ("log", "counts-train", "item-cf-cf-train")
    same_rows(job, whole, stages)
    for stage in stages:
        names = {path.name for path in job.stages.path(stage).iterdir()}
        assert {name for name in names if not name.startswith("part-")} == {
            "manifest.json",
            "_SUCCESS",
        }
