"""Run the numerical tests under other arithmetics, on one machine: `make portable`.

Each setting makes a library take other kernels, or more threads, than it would take here. A small
program, `probe.py`, first tells what came of it: a setting that was ignored, as some are on some
processors, is counted as not available here and proves nothing. Two settings side by side would
prove no more, so each stands alone. `--write FILE` puts the results into a page.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TESTS = (
    *("linear", "towers", "contracts/test_retrievers.py", "contracts/test_towers.py"),
    *("contracts/test_losses.py", "contracts/test_indexes.py", "test_similarity.py"),
    *("index/test_exact.py", "index/test_scan.py", "index/test_candidates.py"),
    "index/test_pairs.py",
    *("index/test_lists.py", "index/test_top_k.py", "index/test_faiss.py"),
    *("channels/test_als.py", "channels/test_ease.py", "channels/test_graph_filter.py"),
    *("channels/test_item_cf.py", "channels/test_user_cf.py", "channels/test_two_tower.py"),
    *("channels/test_item_to_item.py", "channels/test_user_to_user.py"),
    *("channels/test_interests.py", "channels/test_sequence_towers.py"),
    *("channels/test_item_updates.py", "asking/test_quotas.py", "blending/test_blend.py"),
    *("training/test_objective.py", "training/test_fused.py", "training/test_precision.py"),
    *("training/test_blocks.py", "training/test_optimizer.py", "evaluation/test_evaluate.py"),
)
"""Whatever compares numbers. Processes, files, pages and words round nothing."""

UNTESTED = "milvus or annoy or scann"
"""Libraries that draw and round as they like."""

Facts = dict[str, str]


class Setting(NamedTuple):
    """Variables of the environment, and how their effect shows in what the probe tells."""

    name: str
    variables: dict[str, str]
    took_effect: Callable[[Facts, Facts], bool]  # of what it tells with them and without any


def says(fact: str, value: str) -> Callable[[Facts, Facts], bool]:
    """The probe names what was asked for."""
    return lambda now, _: now[fact] == value


def differs(fact: str) -> Callable[[Facts, Facts], bool]:
    """The library does not say what it takes: another one shows in the last bits."""
    return lambda now, plain: now[fact] != plain[fact]


SETTINGS = (
    Setting("as it is", {}, lambda *_: True),
    Setting("PyTorch without vectors", {"ATEN_CPU_CAPABILITY": "default"}, says("aten", "DEFAULT")),
    Setting("PyTorch with AVX2", {"ATEN_CPU_CAPABILITY": "avx2"}, says("aten", "AVX2")),
    Setting("MKL with SSE4.2", {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}, differs("products")),
    Setting("MKL with AVX2", {"MKL_ENABLE_INSTRUCTIONS": "AVX2"}, differs("products")),
    Setting("MKL, compatible", {"MKL_CBWR": "COMPATIBLE"}, says("mkl", "COMPATIBLE")),
    Setting("OpenBLAS, an old core", {"OPENBLAS_CORETYPE": "Nehalem"}, says("blas", "Nehalem")),
    Setting("OpenBLAS with AVX2", {"OPENBLAS_CORETYPE": "Haswell"}, says("blas", "Haswell")),
    Setting("OpenBLAS with AVX-512", {"OPENBLAS_CORETYPE": "SkylakeX"}, says("blas", "SkylakeX")),
    Setting("numba for any processor", {"NUMBA_CPU_NAME": "generic"}, says("numba", "generic")),
    Setting("two threads", {"SHORTLIST_THREADS": "2"}, says("threads", "2")),
    Setting("four threads", {"SHORTLIST_THREADS": "4"}, says("threads", "4")),
)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Result(NamedTuple):
    """What came of one setting: "not available here", or pytest's counts."""

    setting: Setting
    said: str
    failed: bool
    here: bool


def environment(setting: Setting) -> dict[str, str]:
    """This one, with the variables of one setting and of no other."""
    theirs = {name for each in SETTINGS for name in each.variables} | set(THREADS)
    kept = {name: value for name, value in os.environ.items() if name not in theirs}
    count = setting.variables.get("SHORTLIST_THREADS", "1")
    return kept | dict.fromkeys(THREADS, count) | setting.variables


def facts(setting: Setting) -> Facts:
    """What the libraries say of themselves under a setting."""
    command = [sys.executable, str(HERE / "probe.py")]
    own = environment(setting) | {"MKL_VERBOSE": "1"}
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    if done.returncode:  # a processor without the instructions
        return dict.fromkeys(("aten", "products", "mkl", "blas", "numba", "threads"), "")
    found: Facts = json.loads(done.stdout.splitlines()[-1])
    called = re.search(r"CNR:(\w+)", done.stdout)
    return found | {"mkl": called[1] if called else ""}


def results(settings: list[Setting], more: list[str]) -> Iterator[Result]:
    """Run them one after the other."""
    plain = facts(SETTINGS[0])
    for setting in settings:
        if not setting.took_effect(facts(setting), plain):
            yield Result(setting, "not available here", failed=False, here=False)
            continue
        paths = [str(ROOT / "tests" / path) for path in TESTS]
        command = [sys.executable, "-m", "pytest", *paths, "-k", f"not ({UNTESTED})", *more]
        with subprocess.Popen(
            command, env=environment(setting), cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            last = ""
            for line in process.stdout or ():
                if line.startswith(("FAILED", "ERROR")):
                    print(line, end="", flush=True)
                last = line.strip() or last
        said = re.sub(r"[= ]* in [\d.]+s.*", "", last).strip("= ")
        yield Result(setting, said, failed=process.returncode != 0, here=True)


def table(found: list[Result]) -> str:
    """The results as a table of Markdown."""
    lines = ["| setting | variables | tests |", "|---|---|---|"]
    for result in found:
        pairs = ", ".join(f"`{name}={value}`" for name, value in result.setting.variables.items())
        lines.append(f"| {result.setting.name} | {pairs or 'none'} | {result.said} |")
    return "\n".join(lines)


def machine() -> str:
    """The processor and the libraries, in one line."""
    import numpy
    import torch

    about = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", about.read_text()) if about.exists() else None
    plain = facts(SETTINGS[0])
    return (
        f"{model[1] if model else platform.machine()} ({plain['aten']}; OpenBLAS: {plain['blas']}; "
        f"numba: {plain['numba']}), Python {platform.python_version()}, torch "
        f"{torch.__version__.partition('+')[0]}, numpy {numpy.__version__}"
    )


def write(page: Path, text: str) -> None:
    """Put the results between the two marks of a page."""
    before, start, rest = page.read_text().partition("<!-- results -->\n")
    _, end, after = rest.partition("<!-- end of results -->")
    if not (start and end):
        sys.exit(f"{page} has no place for results: <!-- results --> and <!-- end of results -->")
    page.write_text(before + start + "\n" + text + "\n\n" + end + after)


def main() -> None:
    """Run what is asked for, and say how it ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="settings whose name contains this")
    parser.add_argument("--write", type=Path, help="the page to put the results into")
    arguments, more = parser.parse_known_args()
    chosen = [s for s in SETTINGS if arguments.only is None or arguments.only in s.name]
    found = []
    for result in results(chosen, more):
        print(f"{result.setting.name}: {result.said}", flush=True)
        found.append(result)
    if arguments.write:
        write(arguments.write, f"{machine()}.\n\n{table(found)}")
    failed, absent = sum(r.failed for r in found), sum(not r.here for r in found)
    passed = len(found) - failed - absent
    print(f"{passed} settings passed, {failed} failed, {absent} not available here")
    sys.exit(failed > 0 or not passed)


if __name__ == "__main__":
    main()
