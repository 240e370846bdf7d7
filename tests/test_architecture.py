"""The house: imports go only downward, and nothing in it runs code that a file brought along."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "shortlist"

# Each line is a floor; a room imports from lower floors only, never from its own floor.
# `errors` is the ground on which all of them stand, `shortlist` the public names over them.
FLOORS = (
    {"errors"},
    {"compiled", "devices", "durations", "metrics", "outputs", "showing", "systems"},
    {"sections"},
    {"similarity", "losses", "selection"},
    {"data", "index"},
    {"sampling", "towers", "linear", "histories"},
    {"config"},
    {"training", "drafting"},
    {"asking"},
    {"channels"},
    {"blending"},
    {"plugins"},
    {"bundle", "evaluation"},
    {"doctor", "serving"},
    {"runs"},
    {"jobs"},
    {"spark"},
    {"shortlist"},
    {"cli"},
    {"__main__"},
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}

# Rooms that stay away from rooms they may import by their floor.
NARROWER = {
    "sections": {"errors", "durations", "metrics"},
    "config": {"errors", "durations", "metrics", "sections", "losses", "sampling", "towers"},
    "index": {"errors", "similarity", "metrics", "compiled", "selection", "sections"},
}

# Each outside package that only one place knows.
DOORS = {
    "numba": "compiled.py",
    "scipy": "linear/from_scipy.py",
    "onnx": "serving/onnx_graph.py",
    "onnxruntime": "serving/onnx_encoder.py",
    "matplotlib": "evaluation/plots.py",
    "optuna": "runs/tuning.py",
    "fastapi": "serving/app.py",
    "starlette": "serving/app.py",
    "uvicorn": "serving/server.py",
    "prometheus_client": "serving/measures.py",
    "typer": "cli",
    "yaml": "drafting/foreign/yaml_files.py",
    "pyspark": "spark",
    "torchrec": "training/tables.py",
    "fbgemm_gpu": "training/tables.py",
    "mlflow": "runs/tracking.py",
}

# What any file may import; of other packages, each file of an index is the door of its own.
ANYWHERE = {"shortlist", "numpy", "torch", "pydantic", *sys.stdlib_module_names}
for path in sorted((PACKAGE / "index").glob("*.py")):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = getattr(node, "module", None) or node.names[0].name
            package = named.split(".")[0]
            if package not in ANYWHERE:
                DOORS.setdefault(package, f"index/{path.name}")

# Modules that turn bytes into code, and calls that do, or that go past the door they should take.
BANNED_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal"} | {
    "shelve",
    "imp",
    "importlib.util",
}
BANNED_CALLS = {
    "eval": "runs what it reads",
    "exec": "runs what it reads",
    "compile": "runs what it reads",
    "__import__": "hides an import",
    "importlib.import_module": "hides an import",
    "os.system": "starts a shell",
    "os.popen": "starts a shell",
    "yaml.load": "runs what it reads",
    "yaml.unsafe_load": "runs what it reads",
    "torch.jit.load": "runs what it reads",
    "pandas.read_pickle": "runs what it reads",
}
# The public names are imported when they are used, by a table that a test compares with the source.
# A plug-in is imported by the name that the caller gives as an argument, and by nothing else.
ALLOWED_CALLS = {
    ("__init__.py", "importlib.import_module"),
    ("plugins.py", "importlib.import_module"),
}
NEEDS_KEYWORD = {
    "torch.load": ("weights_only", True),
    "torch.serialization.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
}
SAFE_WITHOUT_KEYWORD = {"numpy.load"}
BANNED_ARGUMENTS = {"shell": True, "allow_pickle": True, "weights_only": False}


def room_of(path: str) -> str:
    """The room a file belongs to: the folder or module right under the package."""
    first = path.split("/", maxsplit=1)[0].removesuffix(".py")
    return "shortlist" if first == "__init__" else first


def imported_modules(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of each module that is imported anywhere in a file, even in a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            # `from shortlist import losses` names a room, not one of the public names.
            if module == "shortlist":
                rooms = [alias.name for alias in node.names if alias.name in FLOOR_OF]
                yield from ((node.lineno, f"shortlist.{room}") for room in rooms)
                if len(rooms) == len(node.names):
                    continue
            yield node.lineno, module


def wrong_imports(source: str, path: str) -> list[str]:
    """What a file imports that its place does not allow: one line a fault."""
    room, faults = room_of(path), []
    if room not in FLOOR_OF:
        return [f"{path}: the room {room!r} has no floor yet: give it one in FLOORS"]
    for line, module in imported_modules(ast.parse(source)):
        top, _, rest = module.partition(".")
        where = f"{path}:{line}"
        if module.startswith("."):
            faults.append(f"{where}: write relative imports out in full")
        elif top == "shortlist":
            other = rest.split(".")[0] or "shortlist"
            if other not in FLOOR_OF:
                faults.append(f"{where}: shortlist.{other} has no floor yet: give it one in FLOORS")
            elif other != room and FLOOR_OF[other] >= FLOOR_OF[room]:
                faults.append(f"{where}: {room} must not import {other}: it is not below")
            elif other != room and other not in NARROWER.get(room, {other}):
                faults.append(f"{where}: {room} must not import {other}: it stands alone")
        elif top in DOORS and not path.startswith(DOORS[top]):
            faults.append(f"{where}: only {DOORS[top]} imports {top}")
    return faults


def full_names(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for: `np` for `numpy`, `load` for `torch.load`."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def called_name(node: ast.expr, names: dict[str, str]) -> str:
    """The full name of what is called, as far as it can be read off the source."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{called_name(node.value, names)}.{node.attr}"
    return "?"


def banned(source: str, path: str) -> list[str]:
    """What a file does that no file of the package may do: one line a fault."""
    tree = ast.parse(source)
    names, faults = full_names(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            parts = [alias.name for alias in node.names]
            candidates = {module or "", *parts, *(f"{module}.{part}" for part in parts)}
            for name in sorted(candidates):
                if name in BANNED_MODULES or name.split(".")[0] in BANNED_MODULES:
                    faults.append(f"{path}:{node.lineno}: {name} turns bytes into code")
        elif isinstance(node, ast.Constant) and node.value == "0.0.0.0":
            faults.append(f"{path}:{node.lineno}: 0.0.0.0 opens the machine to everybody")
        elif isinstance(node, ast.Call):
            faults += [f"{path}:{node.lineno}: {fault}" for fault in banned_call(node, names, path)]
    return faults


def banned_call(node: ast.Call, names: dict[str, str], path: str) -> Iterator[str]:
    """What is wrong with one call."""
    name = called_name(node.func, names)
    options = {
        option.arg: option.value.value
        for option in node.keywords
        if option.arg and isinstance(option.value, ast.Constant)
    }
    if name in BANNED_CALLS and (path, name) not in ALLOWED_CALLS:
        yield f"{name} {BANNED_CALLS[name]}"
    if name == "print" and room_of(path) not in {"cli", "__main__"}:
        yield "only the command line prints"
    if name in NEEDS_KEYWORD:
        keyword, value = NEEDS_KEYWORD[name]
        given = any(option.arg == keyword for option in node.keywords)
        if options.get(keyword) is not value and (given or name not in SAFE_WITHOUT_KEYWORD):
            yield f"{name} needs {keyword}={value}"
    for keyword, value in BANNED_ARGUMENTS.items():
        if options.get(keyword) is value and name not in NEEDS_KEYWORD:
            yield f"{keyword}={value} runs what it reads"


def files() -> list[str]:
    return sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def test_each_file_imports_downward_and_runs_no_strangers():
    faults = {}
    for path in files():
        source = (PACKAGE / path).read_text()
        if found := wrong_imports(source, path) + banned(source, path):
            faults[path] = found
    assert faults == {}


def test_the_page_of_floors_shows_this_table():
    page = (PACKAGE.parents[1] / "docs/decisions/0001-architecture-floors.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", page, flags=re.MULTILINE)
    shown = {int(floor): set(re.findall(r"`(\w+)`", rooms)) for floor, rooms in rows}
    assert shown == dict(enumerate((floor for floor in FLOORS if floor != {"__main__"}), start=1))


def test_every_room_of_the_table_is_there():
    rooms = {room_of(path) for path in files()}
    assert set(FLOOR_OF) - {"__main__"} <= rooms


def test_the_library_of_an_index_has_its_file_for_a_door():
    homes = {package: place for package, place in DOORS.items() if place.startswith("index/")}
    assert homes.items() >= {"faiss": "index/faiss.py", "annoy": "index/annoy.py"}.items()


def test_the_package_was_found():
    assert {"errors.py", "losses/softmax.py", "bundle/store.py"} <= set(files())


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("losses/mine.py", "from shortlist.data.ragged import Ragged"),
        ("losses/mine.py", "import shortlist.training.objective"),
        ("losses/mine.py", "from shortlist import similarity"),
        ("losses/mine.py", "def f():\n    from shortlist.cli import main"),
        ("losses/mine.py", "if TYPE_CHECKING:\n    from shortlist.data.batches import Batch"),
        ("sampling/mine.py", "from shortlist.towers.base import HistoryPooling"),
        ("evaluation/mine.py", "from shortlist.bundle.store import verify"),
        ("errors.py", "from shortlist.similarity import score"),
        ("sections/mine.py", "from shortlist.losses import LOSSES"),
        ("config/mine.py", "from shortlist.data.ragged import Ragged"),
        ("index/mine.py", "from shortlist.data.ragged import Ragged"),
        ("training/mine.py", "from shortlist import TwoTower"),
        ("training/mine.py", "import shortlist"),
        ("training/mine.py", "from .objective import Objective"),
        ("training/mine.py", "from shortlist.utils import anything"),
        ("utils.py", "import math"),
        ("index/exact.py", "import faiss"),
        ("serving/service.py", "from fastapi import FastAPI"),
        ("channels/mine.py", "import typer"),
    ],
)
def test_an_import_that_is_not_downward_is_found(path, source):
    assert len(wrong_imports(source, path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("losses/mine.py", "from shortlist.losses.base import Scores"),
        ("losses/mine.py", "from shortlist.errors import ModelError"),
        ("channels/mine.py", "from shortlist.index.exact import ExactIndex"),
        ("__init__.py", "from shortlist.channels.learned.two_tower import TwoTower"),
        ("cli/app.py", "import typer\nfrom shortlist import __version__\nimport shortlist"),
        ("cli/train.py", "import typer\nfrom shortlist.bundle import load"),
        ("index/faiss.py", "import faiss"),
        ("training/mine.py", "import torch\nfrom torch.nn import functional"),
    ],
)
def test_an_import_that_is_downward_is_left_alone(path, source):
    assert wrong_imports(source, path) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as safe",
        "import joblib.memory",
        "from importlib import util",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import torch\ntorch.load('x', weights_only=choice)",
        "import torch as t\nt.load('x')",
        "from torch import load\nload('x')",
        "from torch.serialization import load as read\nread('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=choice)",
        "import numpy as np\nnp.save('x', y, allow_pickle=True)",
        "import yaml\nyaml.load('x')",
        "from yaml import load\nload('x')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "from os import system\nsystem('x')",
        "eval('x')",
        "exec('x')",
        "__import__('x')",
        "import importlib\nimportlib.import_module('x')",
        "import pandas as pd\npd.read_pickle('x')",
        "print('x')",
        "def serve(host='0.0.0.0'): ...",
    ],
)
def test_code_that_runs_strangers_is_found(source):
    assert len(banned(source, "losses/mine.py")) >= 1


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "import re\nre.compile('x')",
        "import torch\ntorch.load('x', weights_only=True)\ntorch.compile(model)",
        "import numpy as np\nnp.load('x')\nnp.load('x', allow_pickle=False)",
        "import yaml\nyaml.safe_load('x')",
        "import subprocess\nsubprocess.run(['x'])",
        "console.print('x')",
        "host = '127.0.0.1'",
    ],
)
def test_code_that_only_looks_alike_is_left_alone(source):
    assert banned(source, "losses/mine.py") == []


def test_only_the_command_line_prints():
    assert banned("print('x')", "cli/app.py") == []
    assert banned("print('x')", "cli/train.py") == []
    assert len(banned("print('x')", "channels/counting/popular.py")) == 1
