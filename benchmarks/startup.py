"""What does it cost to start? CPU seconds of commands, beside those of `import torch`.

    python benchmarks/startup.py [BUNDLE --user ID]

Each is a process of its own, run some times, of which the least counts: on a busy machine the
others measure its neighbours. A first run fills the caches and is not counted.
"""

import argparse
import resource
import subprocess
import sys

COMMAND = [sys.executable, "-m", "shortlist.cli"]
STARTS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "import shortlist": [sys.executable, "-c", "import shortlist"],
    "--version": [*COMMAND, "--version"],
    "--help": [*COMMAND, "--help"],
    "train --help": [*COMMAND, "train", "--help"],
    "a mistyped option": [*COMMAND, "recommend", "bundle", "--usr", "1"],
    "a number that is none": [*COMMAND, "recommend", "bundle", "--k", "ten"],
}


def cpu_seconds(command: list[str], runs: int) -> float:
    """The least CPU time of a process, its user's and the system's, over some runs after one."""
    spent = []
    for _ in range(runs + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="?", help="also time `recommend` for one of its users")
    parser.add_argument("--user", help="the user's id")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    starts = dict(STARTS)
    if arguments.bundle:
        asked = ["recommend", arguments.bundle, "--user", arguments.user]
        starts["recommend, one user"] = [*COMMAND, *asked]
    for name, command in starts.items():
        print(f"{name:26} {cpu_seconds(command, arguments.runs):5.2f} CPU s", flush=True)


if __name__ == "__main__":
    main()
