"""Compiled functions call each other, and never run outdated code of a changed one."""

import json
import os
import subprocess
import sys
from time import process_time

import numba
import numpy as np

from shortlist.compiled import compiled, compiled_reordering, cpu_time

CALLED = "from shortlist.compiled import compiled\n@compiled\ndef add(n):\n    return n + {}\n"
CALLER = """
from called import add
from shortlist.compiled import compiled
@compiled
def between(n):
    return add(n)
@compiled
def twice(n):
    return 2 * between(n)
"""


NAMED = """
import os
from caller import between
between(1)
print([code.fndesc.uid for code in between.fast.overloads.values()], flush=True)
if os.fork() == 0:
    between(1.0)
    print([code.fndesc.uid for code in between.fast.overloads.values()], flush=True)
    os._exit(0)
os.wait()
between(1j)
print([code.fndesc.uid for code in between.fast.overloads.values()], flush=True)
"""


@compiled
def one_more(number):
    return number + 1


@compiled
def counted(numbers):
    total = 0
    for number in numbers:
        total = one_more(total) + 0 * number
    return total


@compiled
def in_order(numbers):
    total = np.float32(0)
    for number in numbers:
        total += number
    return total


@compiled_reordering
def in_any_order(numbers):
    total = np.float32(0)
    for number in numbers:
        total += number
    return total


def test_a_compiled_function_may_call_another():
    assert counted(np.arange(5)) == 5


def test_sums_in_any_order_are_within_the_bound_and_those_in_order_are_as_written():
    numbers = np.random.default_rng(0).random(1000, dtype=np.float32)
    assert in_order(numbers) == np.cumsum(numbers)[-1]
    exact = numbers.sum(dtype=np.float64)
    assert abs(in_any_order(numbers) - exact) <= 1000 * 2.0**-24 * exact
    assert in_any_order(numbers) == in_any_order(numbers.copy())


def test_a_change_of_a_called_function_in_another_file_is_seen(tmp_path):
    (tmp_path / "caller.py").write_text(CALLER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    for added in (1, 7):
        (tmp_path / "called.py").write_text(CALLED.format(added))
        code = f"import caller; assert caller.twice(1) == {2 * (1 + added)}, caller.twice(1)"
        done = subprocess.run([sys.executable, "-B", "-c", code], env=environment, check=False)
        assert done.returncode == 0


def test_no_two_processes_give_compiled_functions_the_same_number(tmp_path):
    # The number is part of the name that the machine code is linked by.
    (tmp_path / "caller.py").write_text(CALLER)
    (tmp_path / "called.py").write_text(CALLED.format(1))
    numbers = []
    for cache in ("first", "second"):
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
            "NUMBA_CACHE_DIR": str(tmp_path / cache),
        }
        done = subprocess.run(
            [sys.executable, "-c", NAMED], env=environment, capture_output=True, check=True
        )
        first, child, parent = map(json.loads, done.stdout.splitlines())
        assert child[0] == parent[0] == first[0]
        numbers += [first[0], child[1], parent[1]]
    assert len(set(numbers)) == 6


def increased(n):
    return n + 1


def test_cpu_time_leaves_out_compilation():
    start = process_time()
    with cpu_time() as spent:
        numba.njit(increased)(1)
    assert 0 <= spent.seconds < (process_time() - start) / 2
    with cpu_time() as spent:
        np.sort(np.arange(3_000_000)[::-1])
    assert spent.seconds > 0
