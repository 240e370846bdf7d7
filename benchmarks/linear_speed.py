"""What do EASE's closed form and ALS cost, the latter compared with implicit's?

    python benchmarks/linear_speed.py --peer-python PATH/TO/VENV/bin/python [--repeats 3]

Cells, each in a process of its own, one thread, CPU seconds:

- als: seconds a round on a Zipf log of 1 million events, 100,000 users and items, 64 factors, and
  the loss of Hu et al. (2008) after each round, ours and that of implicit's
  AlternatingLeastSquares (conjugate gradients, one thread) by turns. Ours solves every row exactly.
- ease: fit of 5,000 and 10,000 items from a Zipf log of 1 million events, with the peak memory of
  the whole process.

One JSON line a cell is added to benchmarks/results/linear_speed.jsonl. Without --peer-python,
implicit is left out. Targets: ALS within 1.2 of implicit's time a round at a loss that is not
higher; EASE at 10,000 items in under 30 s.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

OUT = Path(__file__).parent / "results" / "linear_speed.jsonl"
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
FACTORS, ALPHA, RIDGE, SEED = 64, 10.0, 1.0, 0


def zipf_log(events: int, users: int, items: int) -> csr_matrix:
    """Distinct pairs: users of lognormal activity, items of popularity 1 / rank; [users, items]."""
    random = np.random.default_rng(SEED)
    popularity = 1 / np.arange(1, items + 1)
    activity = random.lognormal(0, 1, users)
    item = random.choice(items, events, p=popularity / popularity.sum())
    user = random.choice(users, events, p=activity / activity.sum())
    log = csr_matrix((np.ones(events, dtype=np.float32), (user, item)), shape=(users, items))
    log.sum_duplicates()
    log.data[:] = 1
    return log


def loss(log: csr_matrix, users: Any, items: Any) -> float:
    """The sum over all pairs of c (p - x · y)² and the ridge, c = 1 + ALPHA where there is one."""
    users, items = np.asarray(users, dtype=np.float64), np.asarray(items, dtype=np.float64)
    everywhere = ((users.T @ users) * (items.T @ items)).sum()
    pairs = log.tocoo()
    score = np.concatenate(
        [
            np.einsum("nd,nd->n", users[pairs.row[at]], items[pairs.col[at]])
            for at in np.array_split(np.arange(pairs.nnz), 50)
        ]
    )
    there = ((1 + ALPHA) * (1 - score) ** 2 - score**2).sum()
    return float(everywhere + there + RIDGE * ((users**2).sum() + (items**2).sum()))


def als(rounds: int) -> dict[str, Any]:
    """Time our rounds, after a first call that loads the kernels."""
    from shortlist.linear.als import fixed_side, solve  # noqa: PLC0415

    log = zipf_log(1_000_000, 100_000, 100_000)
    turned = log.T.tocsr()
    random = np.random.default_rng(SEED)
    items = random.standard_normal((log.shape[1], FACTORS), dtype=np.float32) / FACTORS
    nothing = np.zeros(log.shape[0], dtype=np.float32)
    ridge = np.full(log.shape[0], RIDGE, dtype=np.float32)
    solve(fixed_side(items, nothing), log[:2], ALPHA, ridge[:2])
    seconds, losses = [], []
    for _ in range(rounds):
        start = time.process_time()
        users = solve(fixed_side(items, nothing), log, ALPHA, ridge)
        items = solve(fixed_side(users, nothing), turned, ALPHA, ridge)
        seconds.append(time.process_time() - start)
        losses.append(loss(log, users, items))
    return {"seconds": seconds, "loss": losses, "pairs": log.nnz}


def implicit(rounds: int) -> dict[str, Any]:
    """Time implicit's rounds on the same log and loss; its alpha is the whole confidence."""
    import implicit as peer  # noqa: PLC0415
    from implicit.cpu.als import AlternatingLeastSquares  # noqa: PLC0415

    log = zipf_log(1_000_000, 100_000, 100_000)
    seconds: list[float] = []
    losses: list[float] = []
    model = AlternatingLeastSquares(
        factors=FACTORS,
        regularization=RIDGE,
        alpha=1 + ALPHA,
        iterations=rounds,
        use_cg=True,
        num_threads=1,
        random_state=SEED,
    )
    last = [0.0]

    def after(*_: Any) -> None:
        seconds.append(time.process_time() - last[0])
        losses.append(loss(log, model.user_factors, model.item_factors))
        last[0] = time.process_time()

    # What fit does before its rounds (transposing) is in the first one; the median leaves it out.
    last[0] = time.process_time()
    model.fit(log, show_progress=False, callback=after)
    return {"seconds": seconds, "loss": losses, "pairs": log.nnz, "version": peer.__version__}


def ease(items: int) -> dict[str, Any]:
    """A fit of the closed form."""
    from scipy.sparse import csr_array  # noqa: PLC0415

    from shortlist.linear.ease import closed_form  # noqa: PLC0415

    log = csr_array(zipf_log(1_000_000, 100_000, items))
    before = peak_mb()
    start = time.process_time()
    closed_form(log, 200.0)
    return {
        "items": items,
        "seconds": time.process_time() - start,
        "peak_mb": peak_mb(),
        "peak_mb_before": before,
    }


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def cell(python: str, what: str, size: int) -> dict[str, Any]:
    """Run one cell in a process of its own."""
    done = subprocess.run(
        [python, __file__, "--cell", what, "--size", str(size)],
        env=os.environ | ONE_THREAD,
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--peer-python", help="an interpreter that has implicit")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["als", "ease"])
    parser.add_argument("--cell", choices=["als", "implicit", "ease"], help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        measured = {"als": als, "implicit": implicit, "ease": ease}[arguments.cell](arguments.size)
        print(json.dumps(measured))
        return
    OUT.parent.mkdir(exist_ok=True)
    plan: list[tuple[str, str, int]] = []
    if arguments.only != "ease":
        pair = [("als", sys.executable)]
        pair += [("implicit", arguments.peer_python)] if arguments.peer_python else []
        plan += [(w, p, arguments.rounds) for _ in range(arguments.repeats) for w, p in pair]
    if arguments.only != "als":
        plan += [("ease", sys.executable, items) for items in (5_000, 10_000)]
    for what, python, size in plan:
        line = {"cell": what, "commit": commit(), **cell(python, what, size)}
        if "loss" in line:
            line["seconds_a_round"] = float(np.median(line["seconds"]))
        with OUT.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
