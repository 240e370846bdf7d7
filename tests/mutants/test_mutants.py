"""Every known mistake fits the code, and the runner tells a kill from a survivor."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parent

TINY = {
    "pyproject.toml": "",
    "src/shortlist/__init__.py": "def double(x):\n    return x * 2  # twice\n",
    "tests/test_double.py": (
        "import shortlist\ndef test_double():\n    assert shortlist.double(3) == 6\n"
    ),
}


def run(*arguments):
    command = [sys.executable, str(HERE / "run.py"), *map(str, arguments)]
    quick = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=quick)


@pytest.fixture
def tiny(tmp_path):
    """A package of one function, one test, and a list of mutants to be written."""
    for name, content in TINY.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def judged(*patches, options=()):
        entries = [
            f'[[mutant]]\nname = "m{number}"\nstory = "s"\nfile = "__init__.py"\n'
            f"tests = ['test_double.py']\nold = '{old}'\nnew = '{new}'\n"
            for number, (old, new) in enumerate(patches)
        ]
        (tmp_path / "list.toml").write_text("\n".join(entries))
        return run("--list", tmp_path / "list.toml", "--root", tmp_path, *options)

    return judged


def test_every_patch_still_fits_exactly_once():
    done = run("--check")
    assert done.returncode == 0, done.stdout
    listed = tomllib.loads((HERE / "mutants.toml").read_text())["mutant"]
    assert done.stdout == f"{len(listed)} mutants fit\n"
    assert len(listed) >= 25


def test_a_mistake_the_tests_notice_is_killed_and_one_they_do_not_survives(tiny):
    done = tiny(("x * 2", "x + 2"), ("# twice", "# thrice"))
    assert done.returncode == 1
    assert "killed   m0" in done.stdout
    assert "tests/test_double.py::test_double" in done.stdout
    assert "SURVIVED m1" in done.stdout
    assert done.stdout.endswith("\n1 killed, 1 survived\n")


def test_all_killed_is_success(tiny):
    done = tiny(("x * 2", "x + 2"))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 killed, 0 survived")


def test_a_mistake_that_only_breaks_the_import_is_no_kill(tiny):
    done = tiny(("def double", "def ("))
    assert done.returncode == 1
    assert "could not judge" in done.stdout


@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        (("x * 3", "x"), "its old text stands 0 times"),
        (("x", "y"), "its old text stands 2 times"),
        (("x * 2", "x * 2"), "it changes nothing"),
    ],
)
def test_a_patch_that_cannot_be_made_is_named_before_anything_runs(tiny, patch, reason):
    done = tiny(patch)
    assert done.returncode == 1
    assert f"m0: {reason}" in done.stdout
    assert "killed" not in done.stdout


def test_tests_that_fail_without_a_mistake_judge_nothing(tiny, tmp_path):
    (tmp_path / "tests" / "test_double.py").write_text(
        "import shortlist\ndef test_double():\n    assert shortlist.double(3) == 7\n"
    )
    done = tiny(("x * 2", "x + 2"))
    assert done.returncode == 1
    assert "the clean copy fails" in done.stdout


def test_tests_that_do_not_import_the_copy_judge_nothing(tiny, tmp_path):
    (tmp_path / "tests" / "test_double.py").write_text("def test_double():\n    pass\n")
    assert "import no shortlist" in tiny(("x * 2", "x + 2")).stdout
