"""What several ranks train, and what one process comes to that is fed the same batches.

Run as a program it is one of the ranks: FOLDER RANK SIZE CASE [CASE ...].
"""

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import ClassVar
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.cli.app import main as command_line
from shortlist.data.dataset import Dataset
from shortlist.data.ragged import Ragged
from shortlist.data.schema import Feature, Schema
from shortlist.data.synthetic import planted_world
from shortlist.errors import ShortlistError
from shortlist.training import ranks as ranks_module
from shortlist.training.checkpoint import Checkpoints
from shortlist.training.ranks import Ranks, together
from shortlist.training.trainer import Trainer

STEPS = 4
COMMON = {
    **{"dim": 8, "epochs": 2, "batch_size": 96, "seed": 4, "history_length": 6},
    **{"dropout": 0.0, "history_dropout": 0.0},
}
KINDS = {"u2i": TwoTower, "i2i": ItemToItem, "u2u": UserToUser}
SCHEMA = Schema(
    time="timestamp",
    weight="rating",
    user_features=(Feature("region", "categorical"),),
    item_features=(Feature("tags", "multi-valued"), Feature("price", "numeric")),
)

QUICK = {
    "dssm": {"user_layers": [8], "item_layers": [8], "learn_temperature": True},
    "attention": {"history": "attention", "loss": "bce", "sampler": "uniform", "negatives": 20},
    "own pools": {"mode": "pairwise"},
    "memory": {"sampler": "memory", "negatives": 50, "mask_known": True},
    "streaming": {"sampler": "in_batch_streaming", "weighted": True},
    "row-wise": {"sampler": "mixed", "negatives": 30, "optimizer": "row-wise", "clip": 0.5},
    "catalogue": {"sampler": "catalogue", "history": "comirec", "encode_rows": 20},
    "hardest": {"loss": "bce", "hard": "hardest", "history_windows": True},
    "values": {"loss": "squared", "values": "explicit", "similarity": "dot", "biases": True},
    "i2i": {"positives": "i2i", "session_gap": 10**9},
    "u2u": {"positives": "u2u", "batch_size": 20, "sampler": "uniform", "negatives": 30},
}
"""Options of a training, by what they are about."""


RECIPE = """[data]
interactions = "log.csv"
time = "timestamp"
[model]
dim = 8
[training]
epochs = 1
batch_size = 256
[evaluation]
ladder = false
"""


def planted():
    return planted_world(users=90, items=60, events=1300, seed=5)


def split(schema=SCHEMA):
    world = planted()
    data = Dataset.load(world.interactions, users=world.users, items=world.items, schema=schema)
    return data.split("leave-last-out")


def built(options):
    options = dict(options)
    kind = KINDS[options.pop("positives", "u2i")]
    common = {key: value for key, value in COMMON.items() if key in kind.reads}
    if options.get("history") == "none":
        common = {key: value for key, value in common.items() if not key.startswith("history")}
    return kind(**{**common, **options})


def begun(options, data):
    """A retriever with the towers that every process begins with."""
    retriever = built(options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(retriever.training_section.seed)
        retriever.set_data(data)
    return retriever


def told(retriever, trainer, steps=STEPS):
    """Losses of so many steps, the gradients of the first of them, and the weights in the end."""
    gradients, take = {}, trainer._optimizer.step

    def kept(share):
        if not gradients:
            for name, parameter in retriever.towers.named_parameters():
                if parameter.grad is not None:
                    gradients[name] = parameter.grad.to_dense().clone()
        take(share)

    trainer._optimizer.step = kept
    losses = []
    while len(losses) < steps:
        for step in trainer.epoch():
            losses.append(step.loss)
            if len(losses) == steps:
                break
    weights = {name: value.clone() for name, value in retriever.towers.state_dict().items()}
    weights |= {f"objective.{k}": v for k, v in trainer._objective.state_dict().items()}
    return {"losses": torch.tensor(losses).double(), "gradients": gradients, "weights": weights}


class _Pretended(Ranks):
    """A rank that meets nobody: it deals its part, in as many steps as it is told."""

    answer: ClassVar[int | None] = None
    asked: ClassVar[list[int]] = []

    def steps(self, batches, most):
        type(self).asked.append(batches)
        return self.answer or batches

    def total(self, values):
        return values

    @classmethod
    @contextmanager
    def agreed(cls, look) -> Iterator[None]:
        """Look once without an agreement, then with the most that anybody asked for."""
        cls.answer, cls.asked = None, []
        look()
        cls.answer = max(cls.asked, default=None)
        yield
        cls.answer = None


class _Union:
    """The batches that the ranks deal, side by side: what one process is fed."""

    def __init__(self, dealers, *, backwards=False):
        self._dealers = dealers
        self._backwards = backwards
        self.positives = sum(dealer._batches.positives for dealer in dealers)

    def __len__(self):
        return len(self._dealers[0]._batches)

    def epoch(self, generator):
        def look():
            for dealer in self._dealers:
                again = torch.Generator()
                again.set_state(dealer._order.get_state())
                next(iter(dealer._batches.epoch(again)))

        with _Pretended.agreed(look):
            dealt = [list(d._batches.epoch(d._order)) for d in self._dealers]
        for parts in zip(*dealt, strict=True):
            self.sizes = [len(part.positive) for part in parts]
            yield _side_by_side(parts[::-1] if self._backwards else parts)


def _side_by_side(parts):
    places, before = [], 0
    for part in parts:
        places.append(None if part.place is None else part.place + before)
        before += len(part.history.values)

    def joined(tensors):
        return None if tensors[0] is None else torch.cat(tensors)

    def lists(ragged):
        if ragged[0] is None:
            return None
        lengths = torch.cat([one.lengths for one in ragged])
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return Ragged(torch.cat([one.values for one in ragged]), offsets)

    return replace(
        parts[0],
        users=joined([part.users for part in parts]),
        positive=joined([part.positive for part in parts]),
        weight=joined([part.weight for part in parts]),
        history=lists([part.history for part in parts]),
        known=lists([part.known for part in parts]),
        time=joined([part.time for part in parts]),
        asked=joined([part.asked for part in parts]),
        past={name: joined([part.past[name] for part in parts]) for name in parts[0].past},
        context={name: joined([part.context[name] for part in parts]) for name in parts[0].context},
        place=joined(places),
    )


class _Backwards:
    """Draws what it would for the ranks in order, for a batch that holds them the other way."""

    def __init__(self, sampler, union):
        self._sampler, self._union = sampler, union

    def sample(self, batch, generator):
        sizes = self._union.sizes
        parts = torch.arange(sum(sizes)).split(sizes)
        order = torch.cat(parts[::-1])  # row of the ranks in order at each row of the batch
        back = order.argsort()
        users, positive, weight = batch.users[back], batch.positive[back], batch.weight[back]
        pool = self._sampler.sample(
            replace(batch, users=users, positive=positive, weight=weight), generator
        )
        if pool.ids.dim() == 2:
            pool = pool._replace(
                ids=pool.ids[order], log_q=pool.log_q[order], source=pool.source[order]
            )
        source = torch.where(pool.source < 0, -1, back[pool.source.clamp(min=0)])
        return pool._replace(source=source)

    def log_q(self, ids, batch):
        return self._sampler.log_q(ids, batch)


def alone(options, data, size, *, backwards=False):
    """What `told` says of one process that is fed what so many ranks would deal."""
    retriever = begun(options, data)
    trainer = retriever._trainer(data)
    dealers = []

    def look():
        dealers.clear()
        for rank in range(size):
            ranks_module._joined.append(_Pretended(rank, size))
            try:
                dealers.append(retriever._trainer(data))
            finally:
                ranks_module._joined.pop()

    with _Pretended.agreed(look):
        look()
    union = _Union(dealers, backwards=backwards)
    trainer._batches = union
    trainer._total = retriever.training_section.epochs * len(union)
    if backwards:
        trainer._sampler = _Backwards(trainer._sampler, union)
    if options.get("positives") == "u2u":  # each user's halves are with its own dealer

        def others(users):
            found = torch.empty(len(users), retriever.model_section.dim)
            for rank, dealer in enumerate(dealers):
                mine = (users % size == rank).nonzero().squeeze(1)
                if len(mine):
                    found = found.index_copy(0, mine, dealer._encoders.items(users[mine]))
            return found

        trainer._encoders = trainer._encoders._replace(items=others)
    return told(retriever, trainer)


def beside_others(options, data):
    """What `told` says of this rank."""
    retriever = begun(options, data)
    return told(retriever, retriever._trainer(data))


def apart(one, other):
    """The greatest difference of losses, gradients and weights, as a share of the greatest."""
    found = {"losses": _apart(one["losses"], other["losses"])}
    for part in ("gradients", "weights"):
        assert one[part].keys() == other[part].keys()
        greatest = max(float(value.double().abs().max()) for value in one[part].values())
        found[part] = max(
            float((value.double() - other[part][name].double()).abs().max()) / greatest
            for name, value in one[part].items()
        )
    return found


def _apart(one, other):
    return float((one - other).abs().max() / one.abs().max())


RESUMED = {
    "attention": {"history": "attention", "history_dropout": 0.2, "dropout": 0.2, "ema": 0.9},
    "memory": {"sampler": "memory", "negatives": 50, "dropout": 0.2, "refit": "all"},
    "mined": {"hard": "mined", "hard_ranks": (2, 9), "loss": "bce", "id_dropout": 0.1},
    "i2i": {"positives": "i2i", "session_gap": 10**9, "optimizer": "row-wise"},
}
"""Trainings that draw in each step, to be put down anywhere."""


class _Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@contextmanager
def _killed_at(step):
    """Break off in step number `step`, counted from here."""
    whole, steps = Trainer._loss, iter(range(step))

    def counted(*given):
        if next(steps, None) is None:
            raise _Killed
        return whole(*given)

    Trainer._loss = counted
    try:
        yield
    except _Killed:
        pass
    finally:
        Trainer._loss = whole


def digest(retriever):
    """What a retriever has learned, as one number."""
    found = hashlib.sha256(repr(retriever.epochs_run).encode())
    for name, value in sorted(retriever.towers.state_dict().items()):
        found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()


def resumed(folder, world):
    """The digests of each training unbroken, and put down twice in between."""
    found = {}
    for name, own in RESUMED.items():
        saved = Checkpoints(f"{folder}/{name}", every=0)
        options = {"batch_size": 256, **own}
        unbroken = digest(built(options).fit(world))
        for step in (2, 4):
            with _killed_at(step):
                built(options).fit(world, checkpoints=saved)
        again = built(options).fit(world, checkpoints=saved)
        found[name] = [unbroken, digest(again)]
    return found


def refused(ranks, world):
    """What each rank says where one of them has come to grief; the last time one is gone."""
    found = {}

    def tried(name, act):
        try:
            act()
        except ShortlistError as error:
            found[name] = [type(error).__name__, str(error)]

    whole = Trainer._loss

    def broken(self, batch, dealt):
        return whole(self, batch, dealt) * (math.nan if ranks.rank == 1 else 1.0)

    Trainer._loss = broken
    tried("nan", lambda: built({}).fit(world))
    Trainer._loss = whole
    tried("few", lambda: ranks.steps(*((9, 90) if ranks.rank == 0 else (2, 3))))
    tried("other checkpoint", lambda: ranks.check_same(ranks.rank))
    if ranks.rank == 1:
        dist.destroy_process_group()
    else:
        tried("gone", lambda: ranks.total(torch.ones(1)))
    return found


def command(folder, ranks):
    """What `shortlist train` prints on each rank that torchrun has started."""
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "RANK": str(ranks.rank)}
    os.environ.pop("SHORTLIST_DATA", None)  # the paths of the recipe start at its folder
    place = ("train", f"{folder}/recipe.toml", "--out", f"{folder}/bundle", "--json")
    given = mock.patch("sys.argv", ["shortlist", *place])
    with redirect_stdout(StringIO()) as said, given, pytest.raises(SystemExit) as stop:
        command_line()
    assert not stop.value.code
    return said.getvalue()


def main(folder, rank, size, cases):
    torch.set_num_threads(1)
    meet = f"file://{Path(folder).absolute()}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=size)
    world = split()
    data = world.training_data("train")
    with together() as ranks:
        for number, options in enumerate(cases):
            torch.save(beside_others(options, data), f"{folder}/{number}.{rank}.pt")
        if Path(f"{folder}/recipe.toml").exists():
            said = {
                "resumed": resumed(folder, world),
                "printed": command(folder, ranks),
                "refused": refused(ranks, world),
            }
            Path(f"{folder}/told.{rank}").write_text(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
