"""Do the tests notice? Breaks a copy of the package on purpose, one known mistake at a time.

`make mutants` runs it: each mistake of mutants.toml is made in a scratch copy of src and tests, and
the tests listed with it are run there, up to the first that fails. One must. The last line is
`N killed, 0 survived`; the exit code is 1 if a mistake survives, cannot be made, or breaks the
tests of the clean copy. Each worker keeps one copy, which it mends after each mistake.

    python tests/mutants/run.py --only bpr-sign softmax-twice
    python tests/mutants/run.py --check       # only: does every patch still fit?
"""

import argparse
import compileall
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode
from queue import SimpleQueue
from time import monotonic

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 600  # seconds for each test, or file of tests, that is named
COPIED = ("src", "tests", "pyproject.toml")

# Loaded into each test run: what was installed must not be what is tested.
GUARD = """
import sys, pytest

def pytest_collection_finish(session):
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "shortlist":
            path = module.__file__ or ""
            if not path.startswith({source!r}):
                raise pytest.UsageError(f"{{name}} was imported from {{path}}, not from the copy")
    if "shortlist" not in sys.modules:
        raise pytest.UsageError("these tests import no shortlist at all")
"""
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+(?: \S+)*?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """One known mistake: exactly one place in `file` reads `old`, and will read `new`.

    file: below src/shortlist; tests: below tests, files (or `file::test`) that must notice.
    """

    name: str
    story: str
    file: str
    tests: tuple[str, ...]
    old: str
    new: str


@dataclass(frozen=True)
class Outcome:
    """killed: the tests noticed; detail: the test that did, or what went wrong."""

    mutant: Mutant
    killed: bool
    detail: str


def read(path: Path) -> list[Mutant]:
    """Read the list of mutants, each with all of its keys."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    return [Mutant(**{**table, "tests": tuple(table["tests"])}) for table in tables]


def faults(mutants: Sequence[Mutant], root: Path) -> list[str]:
    """What keeps mutants from being made: one line each."""
    names = [mutant.name for mutant in mutants]
    lines = [f"{name}: the name is used twice" for name in {n for n in names if names.count(n) > 1}]
    for mutant in mutants:
        path = root / "src" / "shortlist" / mutant.file
        found = path.read_text(encoding="utf-8").count(mutant.old) if path.is_file() else None
        if found is None:
            lines.append(f"{mutant.name}: there is no file {mutant.file}")
        elif found != 1:
            lines.append(f"{mutant.name}: its old text stands {found} times in {mutant.file}")
        elif mutant.old == mutant.new:
            lines.append(f"{mutant.name}: it changes nothing")
        absent = [test for test in mutant.tests if not is_there(root / "tests", test)]
        if absent or not mutant.tests:
            lines.append(f"{mutant.name}: there is no test {', '.join(absent) or 'at all'}")
    return lines


def is_there(folder: Path, test: str) -> bool:
    """Whether a test file exists, and holds the test where one is named."""
    file, _, name = test.partition("::")
    path = folder / file
    return path.is_file() and (not name or f"def {name}(" in path.read_text(encoding="utf-8"))


@contextmanager
def copy_of(root: Path) -> Iterator[Path]:
    """A scratch copy of what the tests need, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy = Path(name).resolve()
        for part in COPIED:
            source = root / part
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", ".*")
                shutil.copytree(source, copy / part, ignore=ignored)
            else:
                shutil.copy(source, copy / part)
        guard = GUARD.format(source=str(copy / "src"))
        (copy / "mutant_guard.py").write_text(guard, encoding="utf-8")
        # By digest: a mistake of the same length, made in the same second, must not be missed.
        mode = PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(copy / "src", quiet=1, invalidation_mode=mode)
        yield copy


def run_tests(copy: Path, tests: Sequence[str], *options: str) -> tuple[int, str]:
    """Run test files of a copy; return pytest's exit code and what it printed."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(copy / "src"), str(copy)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-p", "mutant_guard", "-p", "no:cacheprovider"]
    command += ["-q", "-rfE", "--tb=no", *options, *(f"tests/{test}" for test in tests)]
    seconds = TIMEOUT * len(tests)
    try:
        done = subprocess.run(
            command,
            cwd=copy,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, f"no end after {seconds} seconds"
    return done.returncode, done.stdout


def judge(mutant: Mutant, copy: Path) -> Outcome:
    """Make one mistake and see whether a test fails (exit code 1); anything else is no kill."""
    path = copy / "src" / "shortlist" / mutant.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        code, printed = run_tests(copy, mutant.tests, "-x")
    finally:
        path.write_text(text, encoding="utf-8")
    if code == 0:
        return Outcome(mutant, False, "all of its tests pass")
    failed = FAILED.search(printed)
    if code != 1 or failed is None:
        last = "\n    ".join(printed.strip().splitlines()[-8:])
        return Outcome(mutant, False, f"pytest could not judge it (exit code {code}):\n    {last}")
    return Outcome(mutant, True, failed.group(1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mutants and report; return the exit code."""
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(description="Break the package on purpose; do tests notice?")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these mutants only")
    parser.add_argument("--check", action="store_true", help="only check that every patch fits")
    parser.add_argument("--list", type=Path, help="another list than mutants.toml")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder with src and tests")
    parser.add_argument("--jobs", type=int, default=cores, help="how many at a time (the cores)")
    options = parser.parse_args(arguments)
    mutants = read(options.list or Path(__file__).with_name("mutants.toml"))
    if unknown := sorted(set(options.only or ()) - {mutant.name for mutant in mutants}):
        parser.error(f"no mutant is called {', '.join(unknown)}")
    if options.only:
        mutants = [mutant for mutant in mutants if mutant.name in options.only]
    if lines := faults(mutants, options.root):
        say(*lines, f"{len(lines)} mutants cannot be made")
        return 1
    if options.check:
        say(f"{len(mutants)} mutants fit")
        return 0
    return run(mutants, options.root, options.jobs)


def run(mutants: Sequence[Mutant], root: Path, jobs: int) -> int:
    """Judge the mutants, after the clean copy has passed their tests."""
    started = monotonic()
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(jobs))
        copies = list(pool.map(stack.enter_context, [copy_of(root) for _ in range(jobs)]))
        shares = [(copy, share) for copy, share in zip(copies, dealt(tests, jobs), strict=True)]
        for code, printed in pool.map(lambda part: run_tests(*part), [p for p in shares if p[1]]):
            if code != 0:
                say(printed, "the clean copy fails these tests: no mutant can be judged")
                return 1
        say(f"the clean copy passes {len(tests)} tests and files ({monotonic() - started:.0f} s)")
        free: SimpleQueue[Path] = SimpleQueue()
        for copy in copies:
            free.put(copy)

        def judged(mutant: Mutant) -> Outcome:
            copy = free.get()
            try:
                return judge(mutant, copy)
            finally:
                free.put(copy)

        killed = 0
        for outcome in pool.map(judged, mutants):
            killed += outcome.killed
            verdict = "killed  " if outcome.killed else "SURVIVED"
            say(f"{verdict} {outcome.mutant.name}: {outcome.mutant.story}", f"    {outcome.detail}")
    survived = len(mutants) - killed
    say(f"({monotonic() - started:.0f} s)", f"{killed} killed, {survived} survived")
    return 1 if survived else 0


def dealt(tests: Sequence[str], jobs: int) -> list[list[str]]:
    """Deal tests out to so many runs; those of one file stay together, for their fixtures."""
    files: dict[str, list[str]] = {}
    for test in tests:
        files.setdefault(test.partition("::")[0], []).append(test)
    shares: list[list[str]] = [[] for _ in range(jobs)]
    for number, names in enumerate(files.values()):
        shares[number % jobs] += names
    return shares


def say(*lines: str) -> None:
    """Print at once, so that a long run can be followed."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
