"""How is a Spark session started? Packages and Java are checked first."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from shortlist.errors import JobError, MissingPackageError, install

JAVA = 17
"""The oldest version of Java that Spark 4 supports."""

LOCAL = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
"""Settings for a local master, so that Spark does not choose an unreachable network address."""

SETTINGS = {
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.session.timeZone": "UTC",
    "spark.python.worker.reuse": "true",
    "spark.sql.adaptive.coalescePartitions.enabled": "false",  # The number of parts is fixed.
    "spark.executorEnv.OMP_NUM_THREADS": "1",
    "spark.executorEnv.POLARS_MAX_THREADS": "1",
}


def session(master: str | None, settings: dict[str, str]) -> Any:
    """Return a Spark session.

    master: Spark master URL; None takes that of spark-submit, else local[*].
    settings: further settings of Spark; they override the defaults here.
    Errors: MissingPackageError, JobError.
    """
    check_packages()
    check_java()
    from pyspark import SparkConf  # noqa: PLC0415
    from pyspark.sql import SparkSession  # noqa: PLC0415

    master = master or SparkConf().get("spark.master") or "local[*]"
    local = master.startswith("local")
    if local:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.master(master).appName("shortlist")
    for key, value in (SETTINGS | (LOCAL if local else {}) | settings).items():
        builder = builder.config(key, value)
    made = builder.getOrCreate()
    made.sparkContext.setLogLevel("ERROR")
    return made


def check_packages() -> None:
    """Check that pyspark and a pandas that it supports are installed.

    Errors: MissingPackageError, JobError.
    """
    try:
        version("pyspark")
        pandas = version("pandas")
    except PackageNotFoundError as error:
        raise MissingPackageError(f"--engine spark needs pyspark: {install('spark')}") from error
    if int(pandas.split(".")[0]) >= 3:
        raise JobError(
            f"--engine spark needs pandas below 3, and {pandas} is installed: "
            "pip install 'pandas>=2.2,<3', in an environment of its own"
        )


def check_java() -> None:
    """Raise JobError if Java is missing or too old."""
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if java is None or not os.path.exists(java):
        where = f"JAVA_HOME = {home} holds none" if home else "none is on the path"
        raise JobError(f"--engine spark needs Java {JAVA} or newer, and {where}: install a JRE")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)(?:\.(\d+))?', said)
    number = 0 if found is None else int(found[2] or 0) if found[1] == "1" else int(found[1])
    if number < JAVA:
        raise JobError(
            f"--engine spark needs Java {JAVA} or newer, and {java} is {number or 'unknown'}: set "
            "JAVA_HOME to a newer one"
        )
