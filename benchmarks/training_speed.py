"""How many positives a second does training take, beside Torch-RecHub, the networks being equal?

    python benchmarks/training_speed.py --peer-python PATH/TO/VENV/bin/python \
        [--cases dssm fbdssm ydnn dssm_in_batch sbc] [--events 1000000] [--rounds 4]

Five models of the peer's examples: DSSM pointwise (3 negatives a positive), FacebookDSSM pairwise
(1), YoutubeDNN listwise (3), DSSM with all in-batch negatives, and YoutubeSBC (in-batch, corrected
for popularity). Embeddings 16 wide, towers as in those examples, batches of 4,096 rows, histories
of up to 50, three more columns a side. The log: users of lognormal activity, items of popularity
1 / rank, ten events a user, 100,000 items whatever the number of events.

Here the network is a module of the same layers, under the package's own batches, samplers,
objective, optimizer and trainer. Item rows that come several times in a batch are encoded once, so
batch norm sees each once. The peer runs as pip installs it, without loader processes.

Our side runs in float32, with precision = "bfloat16" and with "auto". Under ONEDNN_MAX_CPU_ISA=AVX2
the machine is one without bfloat16 arithmetic. Each side trains in a process of its own,
one thread, CPU seconds; the rounds alternate. The peer's YoutubeSBC gets one batch, not warmed up:
it takes 17 s. Preparing starts from a table of events with integer ids, and on our side includes
splitting and vocabularies. The first epoch's loading is extrapolated from the batches that were
loaded. One JSON line a case and side is added to benchmarks/results/training_speed.jsonl;
`--cases table` measures the step of a large embedding table; `--cases attention` a step in the
shape of recipes/ml-1m-attention.toml in float32, beside the time of its matrix products alone.
"""

# ruff: noqa: PLC0415, PLR0915 - each side imports what the other may not have

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

OUT = Path(__file__).parent / "results" / "training_speed.jsonl"

OURS = {"ours": "float32", "ours in bfloat16": "bfloat16", "ours, auto": "auto"}
"""Our sides, each with its training.precision."""
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
CASES = {
    # layers of both towers, negatives a positive, and the peer's mode
    "dssm": ((256, 128, 64), 3, 0),
    "fbdssm": ((256, 128, 64, 32), 1, 1),
    "ydnn": ((128, 64, 16), 3, 2),
    "dssm_in_batch": ((256, 128, 64), 0, 0),
    "sbc": ((128, 64, 16), 0, 2),
}
ROWS, WIDTH, HISTORY, TEMPERATURE, ITEMS = 4096, 16, 50, 0.02, 100_000
USER_COLUMNS, ITEM_COLUMNS = (("gender", 2), ("age", 8), ("zip", 1000)), (
    ("category", 100),
    ("brand", 5000),
    ("price", 10),
)  # fmt: skip


def world(events: int) -> dict[str, Any]:
    """Columns of the log, and of users and items by their number from 0; values start at 1."""
    random = np.random.default_rng(0)
    users = events // 10
    activity = random.lognormal(0, 1, users)
    popularity = 1 / np.arange(1, ITEMS + 1)
    return {
        "user": random.choice(users, events, p=activity / activity.sum()) + 1,
        "item": random.permutation(ITEMS)[
            random.choice(ITEMS, events, p=popularity / popularity.sum())
        ]
        + 1,
        "time": random.integers(0, 10**9, events),
        "users": {name: random.integers(1, most + 1, users) for name, most in USER_COLUMNS},
        "items": {name: random.integers(1, most + 1, ITEMS) for name, most in ITEM_COLUMNS},
    }


def peak_mb() -> float:
    """The most memory this process has had, MB; getrusage would count the parent's too (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024)


class Clock:
    """CPU seconds of the process."""

    def __init__(self) -> None:
        self._start = time.process_time()

    def read(self) -> float:
        return time.process_time() - self._start


# ---------------------------------------------------------------------------- this package


def ours(
    case: str, events: int, precision: str = "float32"
) -> tuple[dict[str, Any], Callable[[int], dict[str, float]]]:
    """Prepare; return what it took, and a function that trains so many batches."""
    import polars as pl
    import torch
    from torch import nn
    from torch.nn.functional import embedding_bag

    from shortlist.config import Training
    from shortlist.data.batches import PairBatches
    from shortlist.data.dataset import Dataset
    from shortlist.data.schema import Schema
    from shortlist.training.blocks import Encoders
    from shortlist.training.objective import build_objective
    from shortlist.training.presets import sampler_of
    from shortlist.training.trainer import Trainer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers, negatives, _ = CASES[case]
    drawn = world(events)
    frame = pl.DataFrame({name: drawn[name] for name in ("user", "item", "time")})
    before = peak_mb()
    clock = Clock()
    schema = Schema(user="user", item="item", time="time")
    split = Dataset.load(frame, schema=schema).split("leave-last-out")
    data = split.training_data("train")
    positives = ROWS // (1 + negatives) if case == "dssm" else ROWS
    batches = PairBatches(
        data.training_log, ordered=True, batch_size=positives, history_length=HISTORY
    )
    counts = torch.from_numpy(data.item_counts)
    prepared = {"prepare_s": clock.read(), "prepare_peak_mb": peak_mb(), "before_mb": before}

    def coded(side: str, ids: Any) -> Any:
        rows = np.concatenate([[0], ids.to_numpy()])
        columns = [rows]  # the table has a row for each id, as the peer's has
        columns += [np.where(rows > 0, c[rows - 1], 0) for c in drawn[side].values()]
        first = np.cumsum([0, *(int(column.max()) + 1 for column in columns)])
        table = np.stack([c + start for c, start in zip(columns, first, strict=False)], axis=1)
        return torch.from_numpy(table), int(first[-1])

    user_codes, user_values = coded("users", data.users.ids)
    item_codes, item_values = coded("items", data.items.ids)
    activation = nn.PReLU if case.startswith("dssm") else nn.ReLU

    def tower(width: int) -> nn.Sequential:
        modules: list[nn.Module] = []
        for size in layers:
            modules += [nn.Linear(width, size), nn.BatchNorm1d(size), activation()]
            width = size
        return nn.Sequential(*modules)

    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user_table = nn.Embedding(user_values, WIDTH)
            self.item_table = nn.Embedding(item_values, WIDTH)
            for table in (self.user_table, self.item_table):
                nn.init.normal_(table.weight, std=1e-4)
            self.user = tower(WIDTH * (user_codes.shape[1] + 1))
            self.item = None if case == "ydnn" else tower(WIDTH * item_codes.shape[1])

        def queries(self, batch: Any) -> Any:
            pooled = embedding_bag(
                batch.history.values,
                self.item_table.weight,
                batch.history.offsets[:-1],
                mode="mean",
            )
            return self.user(
                torch.cat([self.user_table(user_codes[batch.users]).flatten(1), pooled], dim=1)
            )

        def items(self, rows: Any) -> Any:
            if self.item is None:
                return self.item_table(rows)
            return self.item(self.item_table(item_codes[rows]).flatten(1))

    towers = Towers()
    loss = {"dssm": "bce", "fbdssm": "bpr"}.get(case, "softmax")
    options: dict[str, Any] = {"loss": loss, "batch_size": positives, "learning_rate": 1e-4}
    options["precision"] = precision
    options |= {"sampler": "in_batch"} if not negatives else {
        "sampler": "popularity", "shared": False, "negatives": negatives, "alpha": 0.75,
    }  # fmt: skip
    options |= {"temperature": TEMPERATURE, "schedule": "constant", "epochs": 10}
    training = Training(weight_decay=1e-6, **options)
    objective = build_objective(
        loss, temperature=TEMPERATURE, correct_sampling=case == "sbc", sampler=training.sampler
    )
    sampler = sampler_of(training, counts)
    trainer = Trainer(
        towers, Encoders(towers.queries, towers.items), objective, sampler, batches,
        training=training,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    loading: Iterator[Any] = iter(())

    def load() -> None:
        nonlocal loading
        batch = next(loading, None)
        if batch is None:
            loading = batches.epoch(generator)
            batch = next(loading)
        sampler.sample(batch, generator)

    steps: Iterator[Any] = iter(())

    def train(count: int) -> dict[str, float]:
        nonlocal steps
        taken, loaded = [], []
        for _ in range(count):
            clock = Clock()
            load()
            loaded.append(clock.read())
            clock = Clock()
            if next(steps, None) is None:
                steps = trainer.epoch()
                next(steps)
            taken.append(clock.read())
        return {"batch_s": median(taken), "load_s": median(loaded)}

    load()  # the first one shuffles the epoch
    prepared |= {"positives": batches.positives, "batch": positives}
    prepared["precision"] = trainer.precision
    return prepared, train


# ---------------------------------------------------------------------------- the peer


def theirs(case: str, events: int) -> tuple[dict[str, Any], Callable[[int], dict[str, float]]]:
    """The same with Torch-RecHub, by its own functions, in its own order."""
    import pandas as pd
    import torch
    from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
    from torch_rechub.models.matching import DSSM, FaceBookDSSM, YoutubeDNN, YoutubeSBC
    from torch_rechub.trainers import MatchTrainer
    from torch_rechub.utils.data import MatchDataGenerator, array_replace_with_dict
    from torch_rechub.utils.match import gen_model_input, generate_seq_feature_match

    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    layers, negatives, mode = CASES[case]
    drawn = world(events)
    log = pd.DataFrame({f"{name}_id": drawn[name] for name in ("user", "item")})
    log["timestamp"] = drawn["time"]
    users = pd.DataFrame({"user_id": np.arange(1, events // 10 + 1), **drawn["users"]})
    items = pd.DataFrame({"item_id": np.arange(1, ITEMS + 1), **drawn["items"]})
    counts = np.bincount(drawn["item"], minlength=ITEMS + 1)[1:] ** 0.75
    if case == "sbc":
        items["sample_weight"] = counts / counts.sum()
    before = peak_mb()
    clock = Clock()
    rows, _ = generate_seq_feature_match(
        log, "user_id", "item_id", "timestamp",
        sample_method=1, mode=mode if negatives else 0, neg_ratio=negatives,
    )  # fmt: skip
    x = gen_model_input(rows, users, "user_id", items, "item_id", seq_max_len=HISTORY)
    if case == "fbdssm":
        for name, _ in ITEM_COLUMNS:
            lookup = dict(zip(items["item_id"], items[name], strict=True))
            x[f"neg_{name}"] = array_replace_with_dict(x["neg_items"], lookup)
    y = x["label"] if mode == 0 and negatives else np.zeros(len(rows), dtype=np.int64)
    prepared: dict[str, Any] = {
        "prepare_s": clock.read(), "prepare_peak_mb": peak_mb(), "before_mb": before
    }  # fmt: skip
    share = 1 + negatives if mode == 0 else 1
    prepared |= {"positives": len(rows) // share, "batch": ROWS // share}
    del rows

    def sparse(columns: Any, own: str, most: int, prefix: str = "") -> list[Any]:
        return [
            SparseFeature(f"{prefix}{name}", values + 1, WIDTH)
            for name, values in ((own, most), *columns)
        ]

    user_features = sparse(USER_COLUMNS, "user_id", events // 10)
    user_features.append(
        SequenceFeature("hist_item_id", ITEMS + 1, WIDTH, pooling="mean", shared_with="item_id")
    )
    item_features = sparse(ITEM_COLUMNS, "item_id", ITEMS)
    options: dict[str, Any] = {}
    shape: dict[str, Any] = {"dims": list(layers)}
    if case.startswith("dssm"):
        shape["activation"] = "prelu"
        model = DSSM(
            user_features, item_features,
            temperature=TEMPERATURE, user_params=shape, item_params=dict(shape),
        )  # fmt: skip
        options = {"in_batch_neg": True} if case == "dssm_in_batch" else {}
    elif case == "fbdssm":
        others = [SparseFeature("neg_items", ITEMS + 1, WIDTH)]
        others += [SparseFeature(f"neg_{name}", most + 1, WIDTH) for name, most in ITEM_COLUMNS]
        model = FaceBookDSSM(
            user_features, item_features, others,
            temperature=TEMPERATURE, user_params=shape, item_params=dict(shape),
        )  # fmt: skip
    elif case == "ydnn":
        others = [
            SequenceFeature("neg_items", ITEMS + 1, WIDTH, pooling="concat", shared_with="item_id")
        ]
        model = YoutubeDNN(
            user_features, item_features[:1], others, user_params=shape, temperature=TEMPERATURE
        )
    else:
        model = YoutubeSBC(
            user_features, item_features, [DenseFeature("sample_weight")],
            user_params=shape, item_params=dict(shape),
            batch_size=ROWS, n_neg=3, temperature=TEMPERATURE,
        )  # fmt: skip
    trainer = MatchTrainer(
        model, mode=mode, optimizer_params={"lr": 1e-4, "weight_decay": 1e-6}, n_epoch=1,
        model_path=os.environ.get("TMPDIR", "/tmp"), **options,
    )  # fmt: skip
    loader, _, _ = MatchDataGenerator(x, y).generate_dataloader(
        {"a": np.zeros(1)}, {"a": np.zeros(1)}, batch_size=ROWS, num_workers=0
    )
    loading: Iterator[Any] = iter(())

    class Some:
        """So many batches of the loader, timed."""

        def __init__(self, count: int) -> None:
            self.count, self.loaded, self.stepped = count, [], []

        def __len__(self) -> int:
            return self.count

        def __iter__(self) -> Iterator[Any]:
            nonlocal loading
            for _ in range(self.count):
                clock = Clock()
                batch = next(loading, None)
                if batch is None or len(batch[1]) < ROWS:
                    loading = iter(loader)
                    batch = next(loading)
                self.loaded.append(clock.read())
                clock = Clock()
                yield batch
                self.stepped.append(clock.read())

    def train(count: int) -> dict[str, float]:
        some = Some(count)
        trainer.train_one_epoch(some)
        load, step = median(some.loaded), median(some.stepped)
        return {"batch_s": load + step, "load_s": load}

    return prepared, train


# ---------------------------------------------------------------------------- the rounds


def child(side: str, case: str, events: int) -> None:
    """Prepare, then train as many batches as each line of stdin says; answer in JSON lines."""
    answers, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115 - the peer talks
    kinds = {name: partial(ours, precision=value) for name, value in OURS.items()}
    kinds["theirs"] = theirs
    prepared, train = kinds[side](case, events)

    def say(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    say(prepared)
    for line in sys.stdin:
        say(train(int(line)) | {"batches": int(line), "peak_mb": peak_mb()})


def measure(case: str, peer: str | None, events: int, rounds: int, batches: int) -> None:
    """Run a case on both sides by turns, and add a line for each."""
    pythons = dict.fromkeys(OURS, sys.executable) | ({"theirs": peer} if peer else {})
    running = {
        side: subprocess.Popen(
            [python, __file__, "--child", side, "--cases", case, "--events", str(events)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | ONE_THREAD,
        )
        for side, python in pythons.items()
    }  # fmt: skip

    def answer(side: str, line: str = "") -> dict[str, Any]:
        process = running[side]
        assert process.stdin is not None
        assert process.stdout is not None
        if line:
            process.stdin.write(line + "\n")
            process.stdin.flush()
        said = process.stdout.readline()
        if not said:
            raise SystemExit(f"{case}: the process of {side} ended ({process.wait()})")
        return json.loads(said)

    prepared = {side: answer(side) for side in running}
    for side in running:
        if not (side == "theirs" and case == "sbc"):  # 18 s a batch
            answer(side, "1")  # warm
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in running}
    for _ in range(rounds):
        for side in running:
            few = 1 if side == "theirs" and case in ("sbc", "dssm_in_batch") else batches
            if not (side == "theirs" and case == "sbc" and found[side]):
                found[side].append(answer(side, str(few)))
    lines = []
    for side, process in running.items():
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        batch_s = median(f["batch_s"] for f in found[side])
        load_s = median(f["load_s"] for f in found[side])
        has = prepared[side]
        first = has["prepare_s"] + load_s * has["positives"] / has["batch"]
        lines.append(
            {
                "case": case,
                "side": side,
                "events": events,
                "precision": has.get("precision"),
                "limit": os.environ.get("ONEDNN_MAX_CPU_ISA"),
                "positives_per_s": round(has["batch"] / batch_s),
                "batch_ms": round(batch_s * 1e3, 1),
                "load_ms": round(load_s * 1e3, 1),
                "prepare_s": round(has["prepare_s"], 3),
                "first_epoch_ready_s": round(first, 3),
                "prepare_peak_mb": has["prepare_peak_mb"],
                "peak_mb": found[side][-1]["peak_mb"],
                "before_mb": has["before_mb"],
                "batches": sum(f["batches"] for f in found[side]),
                "load": round(os.getloadavg()[0], 1),
            }
        )
    _add(lines)


def table_step(rows: int = 1_000_000, width: int = 64, batch: int = 4096) -> None:
    """A large table's whole step, forward and backward included, by rows and densely."""
    import torch
    from torch import nn

    from shortlist.config import Training
    from shortlist.training.optimizer import Optimizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    wanted = torch.randn(batch, width)
    steps: dict[str, list[float]] = {"row-wise": [], "dense": []}
    models = {}
    for kind in steps:
        model = nn.Sequential(nn.Embedding(rows, width))
        models[kind] = (model, Optimizer(model, [], Training(optimizer=kind)))
    for number in range(10):
        ids = torch.randperm(rows)[:batch]
        for kind, (model, optimizer) in models.items():
            if kind == "dense" and number > 3:
                continue
            clock = Clock()
            optimizer.zero_grad()
            (model(ids) - wanted).square().mean().backward()
            optimizer.step(1.0)
            steps[kind].append(clock.read())
    _add(
        [
            {
                "case": "table",
                "side": kind,
                "rows": rows,
                "width": width,
                "batch": batch,
                "step_ms": round(median(taken[1:]) * 1e3, 2),
                "load": round(os.getloadavg()[0], 1),
            }
            for kind, taken in steps.items()
        ]
    )


def attention_step(steps: int = 30) -> None:
    """A step of self-attention over 200 events and 3,416 items, and its matrix products alone."""
    import polars as pl
    import torch

    from shortlist.channels.learned.two_tower import TwoTower
    from shortlist.data.dataset import Dataset
    from shortlist.data.schema import Schema

    torch.set_num_threads(1)
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    items, width, layers = 3_416, 128, 2
    sizes = np.clip(random.lognormal(4.6, 0.9, 2_000).astype(int), 20, 2_000)
    events = int(sizes.sum())
    popularity = 1 / np.arange(20, items + 20)
    frame = pl.DataFrame(
        {
            "user": np.repeat(np.arange(len(sizes)), sizes),
            "item": random.choice(items, events, p=popularity / popularity.sum()),
            "time": np.arange(events),
        }
    )
    schema = Schema(user="user", item="item", time="time")
    data = Dataset.load(frame, schema=schema).split("leave-last-out").training_data("train")
    retriever = TwoTower(
        history="attention", history_layers=layers, history_heads=4, history_length=200,
        dim=width, dropout=0.3, mode="listwise", sampler="catalogue", temperature=0.06,
        batch_size=1024,
    )  # fmt: skip
    retriever.set_data(data)
    trainer = retriever._trainer(data)
    taken: list[float] = []
    positives = 0
    clock = Clock()
    for number, step in enumerate(trainer.epoch()):
        if number >= 5:
            taken.append(clock.read())
            positives += step.positives
        if len(taken) == steps:
            break
        clock = Clock()
    shapes = [
        (len(batch.positive), len(batch.history.values), _padded(batch))
        for batch in retriever._batches(data).epoch(torch.Generator().manual_seed(0))
    ]
    asked, read, padded = (float(np.mean(part)) for part in zip(*shapes, strict=True))
    found = len(data.item_counts) - 1
    towers = [(width, 3 * width), (width, width), (width, 4 * width), (2 * width, width)]
    pairs = [(round(padded), *layer) for layer in towers * layers] + [(round(asked), width, found)]
    alone = sum(_products(*pair) for pair in pairs)
    spent = sum(taken) / positives
    _add(
        [
            {
                "case": "attention",
                "side": "ours",
                "precision": trainer.precision,
                "limit": os.environ.get("ONEDNN_MAX_CPU_ISA"),
                "positives_per_s": round(1 / spent),
                "us_a_positive": round(spent * 1e6, 1),
                "products_us_a_positive": round(alone / asked * 1e6, 1),
                "softmax_products_us": round(_products(*pairs[-1]) / asked * 1e6, 1),
                "padding": round(1 - read / padded, 3),
                "events_read_a_positive": round(read / asked, 2),
                "load": round(os.getloadavg()[0], 1),
            }
        ]
    )


def _padded(batch: Any) -> int:
    """Positions of the rectangle of a batch's histories."""
    lengths = batch.history.lengths
    return len(lengths) * int(lengths.max())


def _products(rows: int, inner: int, outer: int) -> float:
    """CPU seconds of the three products of a linear map and its two gradients, the best of 20."""
    import torch

    given, weight, slope = (
        torch.randn(*shape) for shape in ((rows, inner), (outer, inner), (rows, outer))
    )
    best = float("inf")
    for _ in range(20):
        clock = Clock()
        given @ weight.T
        slope @ weight
        slope.T @ given
        best = min(best, clock.read())
    return best


def _add(lines: list[dict[str, Any]]) -> None:
    with OUT.open("a", encoding="utf-8") as file:
        for line in lines:
            print(json.dumps(line))
            file.write(json.dumps(line) + "\n")


STEPS: dict[str, Callable[[], None]] = {"table": table_step, "attention": attention_step}
"""Cases without a peer."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, *STEPS], default=[*CASES, *STEPS])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--batches", type=int, default=3, help="in each round")
    parser.add_argument("--child", choices=[*OURS, "theirs"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.cases[0], given.events)
        return
    for case in given.cases:
        if case in STEPS:
            STEPS[case]()
        else:
            measure(case, given.peer_python, given.events, given.rounds, given.batches)


if __name__ == "__main__":
    main()
