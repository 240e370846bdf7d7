"""A release: what the wheel and the sdist contain, and that the wheel works by itself."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

import shortlist

pytest.importorskip("hatchling", reason="packages are built with hatchling: make setup")

ROOT = Path(__file__).parents[1]
IN_THE_SDIST = {"src", "recipes", "examples", "README.md", "README.zh.md", "CHANGELOG.md"} | {
    *("SECURITY.md", "LICENSE", "requirements-torchrec.txt", "pyproject.toml", "PKG-INFO"),
    ".gitignore",  # which hatchling always adds
}

# What a newcomer does first, by the installed package alone; prints one JSON object.
FIRST_STEPS = """
import asyncio, json
from pathlib import Path
import shortlist
from shortlist.cli.app import app
from shortlist.errors import install
from shortlist.serving.app import App
from shortlist.serving.measures import Measures
from shortlist.serving.page_files import page_files
from shortlist.serving.settings import Settings
from shortlist.serving.watching import Watch

met = [(user, item) for user in range(9) for item in range(4)]
rows = [f"u{user},i{(user + item) % 9},{10 * user + item}" for user, item in met]
with open("log.csv", "w") as file:
    file.write("\\n".join(["user_id,item_id,time", *rows]))
app(["init", "log.csv", "--model", "sasrec", "--out", "sasrec.toml"], standalone_mode=False)
data = shortlist.Dataset.load("log.csv", schema=shortlist.Schema(time="time"))
shortlist.save(shortlist.Popular().fit(data.split("leave-last-out")), "bundle")
measures = Measures()
watch = Watch(Path("bundle"), measures)
service = App(watch, measures, Settings())
watch.look()

async def status(path):
    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"localhost")],
             "query_string": b"", "client": ("127.0.0.1", 1), "http_version": "1.1"}
    sent = []
    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}
    async def send(message):
        sent.append(message)
    await service(scope, receive, send)
    return sent[0]["status"]

statuses = {path: asyncio.run(status(path)) for path in ["/readyz", *page_files()]}
service.close()
print(json.dumps({
    "package": shortlist.__file__, "statuses": statuses, "hint": install("tensorboard"),
    "created_by": json.load(open("bundle/manifest.json"))["created_by"],
}))
"""


class Release(NamedTuple):
    """What was built, and where the wheel was installed."""

    wheel: Path
    sdist: Path
    installed: Path

    def run(self, folder: Path, *command: str) -> str:
        """Run something that sees the installed package before anything else; return its stdout."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SHORTLIST_")}
        environment |= {"PYTHONPATH": str(self.installed), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Release:
    """The sdist of this checkout, the wheel of that sdist, and the wheel installed, offline."""
    place = tmp_path_factory.mktemp("release")

    def build(kind: str, folder: Path) -> Path:
        out = place / kind
        command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        (made,) = out.iterdir()
        return made

    sdist = build("sdist", ROOT)
    with tarfile.open(sdist) as archive:
        archive.extractall(place / "unpacked", filter="data")
    (unpacked,) = (place / "unpacked").iterdir()
    wheel = build("wheel", unpacked)
    offline = ["--no-deps", "--no-index", "--disable-pip-version-check", "--quiet"]
    installed = place / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *offline, "--target", installed, wheel],
        check=True,
    )
    return Release(wheel, sdist, installed)


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(release):
    source = ROOT / "src"
    there = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(release.wheel) as archive:
        names = set(archive.namelist())
    about = f"shortlist-{shortlist.__version__}.dist-info"
    files = {name for name in names if not name.startswith(about)}
    assert files == there
    assert {
        "shortlist/py.typed",
        "shortlist/serving/page/index.html",
        "shortlist/serving/answer_without_shortlist.txt",
        "shortlist/drafting/models/sasrec.toml",
    } <= files
    assert f"{about}/licenses/LICENSE" in names


def test_the_sdist_holds_recipes_and_examples_and_nothing_of_tests_or_of_this_machine(release):
    with tarfile.open(release.sdist) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}
    inside = {name.partition("/")[2]: content for name, content in files.items()}
    assert {name.partition("/")[0] for name in inside} == IN_THE_SDIST
    for folder in ("recipes", "examples"):
        there = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert there == {name for name in inside if name.startswith(f"{folder}/")}
    here = [str(ROOT).encode(), str(Path.home()).encode() + b"/"]
    assert [n for n, content in inside.items() for path in here if path in content] == []


def test_the_version_is_said_once_and_is_the_newest_of_the_changelog(release, tmp_path):
    told = release.run(tmp_path, str(release.installed / "bin" / "shortlist"), "--version")
    assert told == f"shortlist {shortlist.__version__}\n"
    assert release.wheel.name == f"shortlist-{shortlist.__version__}-py3-none-any.whl"
    assert release.sdist.name == f"shortlist-{shortlist.__version__}.tar.gz"
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if "## [" in line]
    assert headings[0] == "## [Unreleased]"
    assert headings[1].startswith(f"## [{shortlist.__version__}] - ")
    for page in ("README.md", "README.zh.md"):
        assert f"pip install dist/{release.wheel.name}`" in (ROOT / page).read_text("utf-8")


def test_the_installed_package_writes_recipes_and_serves_its_page(release, tmp_path):
    told = json.loads(release.run(tmp_path, sys.executable, "-c", FIRST_STEPS).splitlines()[-1])
    assert Path(told["package"]).is_relative_to(release.installed)
    assert told["created_by"] == f"shortlist {shortlist.__version__}"
    assert set(told["statuses"].values()) == {200}
    assert {"/", "/page/app.js", "/page/style.css"} <= told["statuses"].keys()
    assert 'history = "attention"' in (tmp_path / "sasrec.toml").read_text()
    assert told["hint"].startswith("pip install 'tensorboard>=")
