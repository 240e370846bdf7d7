"""What several ranks train, and what one process comes to that is fed the same batches.

Run as a program it is one of the ranks: FOLDER RANK SIZE CASE [CASE ...].
"""

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path
from typing import ClassVar
from unittest import mock

import polars as pl
import pytest
import torch
import torch._dynamo  # before there is a group: see training.ranks.together
import torch.distributed as dist

from shortlist.channels.learned import two_tower
from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.cli.app import main as command_line
from shortlist.data.dataset import Dataset
from shortlist.data.ragged import Ragged, taken
from shortlist.data.schema import EventFeature, Feature, Schema
from shortlist.data.synthetic import planted_world
from shortlist.errors import ShortlistError
from shortlist.training import ranks as ranks_module
from shortlist.training.checkpoint import Checkpoints
from shortlist.training.ranks import Ranks, together
from shortlist.training.tables import dealt_tables
from shortlist.training.trainer import Trainer

STEPS = 4
COMMON = {
    **{"dim": 8, "epochs": 2, "batch_size": 96, "seed": 4, "history_length": 6},
    **{"dropout": 0.0, "history_dropout": 0.0},
}
KINDS = {"u2i": TwoTower, "i2i": ItemToItem, "u2u": UserToUser}
ITEMS = (Feature("tags", "multi-valued"), Feature("price", "numeric"))
REGION = (Feature("region", "categorical"),)
PLAIN = Schema(time="timestamp", weight="rating", user_features=REGION, item_features=ITEMS)
TOLD = replace(
    PLAIN,
    event="kind",
    events={"view": {}, "like": {"target": True, "weight": 0.5}, "buy": {"target": True}},
    event_features=(
        EventFeature("device", "categorical", known="before"),
        EventFeature("dwell", "numeric", known="after"),
    ),
    click="clicked",
)
"""Kinds of events, columns of events, a feature of users in the log, and impressions."""

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
    "neighbours": {
        **{"item_neighbours": 5, "popularity": 0.07, "similarity": "dot", "temperature": 0.1},
        **{"sampler": "uniform", "negatives": 20, "correct_positives": False},
    },
    "hstu": {"history": "hstu", "item_neighbours": 3, "optimizer": "row-wise"},
    "told": {"world": "told", "history": "attention", "request_time": True, "history_time": True},
    "told, pooled": {"world": "told", "request_time": True, "optimizer": "row-wise"},
    "exposed": {"world": "told", "hard": "exposed", "sampler": "in_batch_streaming"},
    "mined": {"hard": "mined", "hard_ranks": (2, 9), "history_windows": True, "loss": "bce"},
    "semi-hard": {"hard": "semi_hard", "hard_margin": 0.1, "user_layers": [8]},
}
"""Options of a training, by what they are about."""

FEW_NUMBERS = 100
"""What counts as a large gradient in every second case."""


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


@cache
def split(world="plain", *, multi=True):
    """A world of logs, split; multi: with a multi-valued feature."""
    drawn = planted()
    log, items = drawn.interactions, drawn.items
    schema = {"plain": PLAIN, "told": TOLD}[world]
    schema = schema if multi else replace(schema, item_features=ITEMS[1:])
    if world == "plain":
        data = Dataset.load(log, users=drawn.users, items=items, schema=schema)
        return data.split("leave-last-out")
    rows = range(len(log))
    regions = drawn.users.select("user_id", "region")
    log = log.join(regions, on="user_id", how="left", maintain_order="left").with_columns(
        kind=pl.Series([("view", "buy", "view", "like")[row % 4] for row in rows]),
        device=pl.Series([("tv", "phone", "desk")[row * row % 3] for row in rows]),
        dwell=pl.Series([float(row * 37 % 101) for row in rows]),
    )
    shown = log.select("user_id", "timestamp", clicked=pl.lit(0)).with_columns(
        item_id=log["item_id"].reverse()
    )
    data = Dataset.load(log, items=items, impressions=shown, schema=schema)
    return data.split("leave-last-out")


def rows_of(options, *, multi=True):
    """The training rows of the world that a case names."""
    return split(options.get("world", "plain"), multi=multi).training_data("train")


def built(options):
    options = {key: value for key, value in options.items() if key != "world"}
    kind = KINDS[options.pop("positives", "u2i")]
    common = {key: value for key, value in COMMON.items() if key in kind.reads}
    if options.get("history") == "none":
        common = {key: value for key, value in common.items() if not key.startswith("history")}
    return kind(**{**common, **options})


def begun(options, data=None):
    """A retriever with the towers that every process begins with."""
    retriever, data = built(options), data or rows_of(options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(retriever.training_section.seed)
        with dealt_tables(retriever.training_section):
            retriever.set_data(data)
        if ranks_module.here().first:  # the others are given what is read from the log
            retriever._begin_weights()
    return retriever


EPSILON = 1e-3
"""Of AdamW. With its own of 1e-8 a gradient that is nothing but rounding makes a whole step."""


def told(retriever, trainer, steps=STEPS, kept_besides=None, grads=None):
    """Losses of so many steps, the gradients of the first of them, and the weights in the end.

    kept_besides: what else counts as weights, of the trainer. grads: names of the gradients that
    are looked at; None: all.
    """
    gradients, take = {}, trainer._optimizer.step
    for group in trainer._optimizer.param_groups:
        group["eps"] = EPSILON

    def kept(share):
        if not gradients:
            for name, parameter in retriever.towers.named_parameters():
                if parameter.grad is not None and (grads is None or name in grads):
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
    weights |= {f"objective.{k}": v.clone() for k, v in trainer._objective.state_dict().items()}
    weights |= {} if kept_besides is None else kept_besides(trainer)
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

    def begin_alike(self, tensors):
        pass

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
    """The batches that the ranks deal, side by side: what one process is fed.

    dice: draws another order of the rows of each batch; None leaves them as they are. Of the batch
    that came last: parts holds those of the ranks, and order which of their rows stands where.
    """

    def __init__(self, dealers, dice=None):
        self.dealers = dealers
        self._dice = dice
        self.positives = sum(dealer._batches.positives for dealer in dealers)

    def __len__(self):
        return len(self.dealers[0]._batches)

    def epoch(self, generator):
        def look():
            for dealer in self.dealers:
                again = torch.Generator()
                again.set_state(dealer._order.get_state())
                next(iter(dealer._batches.epoch(again)))

        running = [dealer._batches.epoch(dealer._order) for dealer in self.dealers]
        with _Pretended.agreed(look):
            parts = [next(one) for one in running]
        while None not in parts:
            self.parts = parts
            yield self._joined(_side_by_side(parts))
            parts = [next(one, None) for one in running]
        assert parts == [None] * len(parts)

    def _joined(self, batch):
        self.order = torch.arange(len(batch.positive))
        if self._dice is None:
            return batch
        batch, self.order = _reordered(batch, self._dice)
        return batch


def _reordered(batch, dice):
    """The batch with its histories in another order, and which row of it stands where now."""
    history = batch.history
    lists = torch.randperm(len(history.offsets) - 1, generator=dice)
    rows, place = lists, None
    if batch.place is not None:
        owner = torch.searchsorted(history.offsets, batch.place, right=True) - 1
        at = lists.argsort()[owner]
        rows = at.argsort(stable=True)
        first = taken(history, lists).offsets[at]
        place = (first + batch.place - history.offsets[owner])[rows]

    def of_events(column):
        return None if column is None else taken(Ragged(column, history.offsets), lists).values

    def of_rows(column):
        return None if column is None else column[rows]

    again = replace(
        batch,
        users=batch.users[rows],
        positive=batch.positive[rows],
        weight=batch.weight[rows],
        history=taken(history, lists),
        known=None if batch.known is None else taken(batch.known, rows),
        place=place,
        time=of_events(batch.time),
        asked=of_rows(batch.asked),
        past={name: of_events(column) for name, column in batch.past.items()},
        context={name: of_rows(column) for name, column in batch.context.items()},
    )
    return again, rows


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


class _InOrder:
    """A sampler that draws what it would for the ranks in order, whatever order the rows have."""

    def __init__(self, sampler, union):
        self._sampler, self._union = sampler, union

    def sample(self, batch, generator):
        order = self._union.order
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


class _EachItsOwn:
    """Hard negatives that each rank draws for its own rows."""

    def __init__(self, hard, union):
        self._hard, self._union = hard, union

    def __getattr__(self, name):
        return getattr(self._hard, name)

    def draw(self, batch, queries, pool, generator):
        order, start, drawn = self._union.order, 0, []
        queries = queries[order.argsort()]
        for part, dealer in zip(self._union.parts, self._union.dealers, strict=True):
            asked = queries[start : start + len(part.positive)]
            own = self._hard.draw(part, asked, pool, dealer._order)
            if own is None:
                return None
            drawn.append(own._replace(source=torch.where(own.source < 0, -1, own.source + start)))
            start += len(part.positive)
        ids, log_q, source = (
            torch.cat([getattr(own, name) for own in drawn])[order]
            for name in ("ids", "log_q", "source")
        )
        source = torch.where(source < 0, -1, order.argsort()[source.clamp(min=0)])
        return drawn[0]._replace(ids=ids, log_q=log_q, source=source)


@contextmanager
def nothing_hidden():
    """Leave out what towers draw for themselves: ranks draw it in another order."""
    drawn = torch.rand

    def rand(*shape, generator=None, **options):
        if generator is not None:
            return drawn(*shape, generator=generator, **options)
        return torch.full(shape[0] if isinstance(shape[0], tuple) else shape, 0.5)

    with mock.patch.object(torch, "rand", rand):
        yield


def dealers_of(retriever, size):
    """Trainers of so many ranks, which meet nobody: their batches are those of the ranks."""
    dealers = []

    def look():
        dealers.clear()
        for rank in range(size):
            ranks_module._joined.append(_Pretended(rank, size))
            try:
                dealers.append(retriever._trainer(retriever.data))
            finally:
                ranks_module._joined.pop()

    with _Pretended.agreed(look):
        look()
    return dealers


def parts_of(options, size):
    """What so many ranks deal in each step of an epoch."""
    union = _Union(dealers_of(begun(options), size))
    for _ in union.epoch(None):
        yield union.parts


def alone(options, size, *, dice=None, **further):
    """What `told` says of one process that is fed what so many ranks would deal.

    dice: draws the order of the rows of each batch; None keeps that of the ranks. further: of told.
    """
    retriever, data = begun(options), rows_of(options)
    trainer = retriever._trainer(data)
    union = _Union(dealers := dealers_of(retriever, size), dice)
    trainer._batches = union
    trainer._total = retriever.training_section.epochs * len(union)
    trainer._sampler = _InOrder(trainer._sampler, union)
    if trainer._hard is not None:
        trainer._hard = _EachItsOwn(trainer._hard, union)
    if options.get("positives") == "u2u":  # each user's halves are with its own dealer

        def others(users):
            found = torch.empty(len(users), retriever.model_section.dim)
            for rank, dealer in enumerate(dealers):
                mine = (users % size == rank).nonzero().squeeze(1)
                if len(mine):
                    found = found.index_copy(0, mine, dealer._encoders.items(users[mine]))
            return found

        trainer._encoders = trainer._encoders._replace(items=others)
    with nothing_hidden():
        return told(retriever, trainer, **further)


def beside_others(options, **further):
    """What `told` says of this rank."""
    retriever = begun(options)
    with nothing_hidden():
        return told(retriever, retriever._trainer(rows_of(options)), **further)


PARTS = ("losses", "gradients", "weights")


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


SENT = {"history": "none", "user_id": True, "user_features": [], "item_features": []}
"""Two tables of ids alone, with in-batch negatives."""


def sent(ranks, large_from):
    """How many bytes this rank sends in each of a few steps, and in how many messages."""
    found, ways = [], (("all_reduce", 2 * (ranks.size - 1) / ranks.size), ("all_gather", 1))

    def counted(meet, share):
        def count(*given, **options):
            tensor = given[-1]  # a sum is in place; a gathering names its part last
            found[-1][0] += share * tensor.numel() * tensor.element_size()
            found[-1][1] += 1
            return meet(*given, **options)

        return count

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(Ranks, "large_from", large_from))
        running = begun(SENT)._trainer(rows_of(SENT)).epoch()
        for name, share in ways:
            meet = counted(getattr(dist, name), share)
            patches.enter_context(mock.patch.object(dist, name, meet))
        for _ in range(STEPS):
            found.append([0, 0])
            next(running)
    return found


RESUMED = {
    "attention": {"history": "attention", "history_dropout": 0.2, "dropout": 0.2, "ema": 0.9},
    "memory": {"sampler": "memory", "negatives": 50, "dropout": 0.2, "refit": "all"},
    "mined": {"hard": "mined", "hard_ranks": (2, 9), "loss": "bce", "id_dropout": 0.1},
    "neighbours": {**QUICK["neighbours"], "history": "hstu", "history_dropout": 0.2},
    "i2i": {"positives": "i2i", "session_gap": 10**9, "optimizer": "row-wise"},
    "told": {
        **{"world": "told", "history": "gru", "request_time": True, "hard": "exposed"},
        **{"batch_size": "auto", "dropout": "auto", "epochs": 9, "patience": 1},
    },
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


def resumed(folder):
    """The digests of each training unbroken, and put down twice in between."""
    found = {}
    for name, own in RESUMED.items():
        world = split(own.get("world", "plain"))
        saved = Checkpoints(f"{folder}/{name}", every=0)
        options = {"batch_size": 256, **own}
        unbroken = digest(built(options).fit(world))
        for step in (2, 4):
            with _killed_at(step):
                built(options).fit(world, checkpoints=saved)
        again = built(options).fit(world, checkpoints=saved)
        found[name] = [unbroken, digest(again)]
        if own.get("patience"):
            assert len(again.epochs_run) < own["epochs"]
    return found


def begun_apart(ranks):
    """The weights and sampling tables after two steps that ranks began from different numbers.

    Every number that the second rank begins from is changed; whether by much does not matter.
    """
    options = {**QUICK["neighbours"], "sampler": "popularity", "learn_temperature": True}
    retriever, sampler = begun(options), two_tower.sampler_of

    def perturbed(part):
        for value in part:
            value.copy_(value.logical_not() if value.dtype == torch.bool else value + 1)

    if ranks.rank:
        with torch.no_grad():
            perturbed(retriever.towers.state_dict().values())
    found = []

    def drawn(*given):
        found.append(sampler(*given))
        if ranks.rank:
            perturbed([found[0].frequency, found[0].table.threshold, found[0].table.other])
        return found[0]

    with mock.patch.object(two_tower, "sampler_of", drawn):
        trainer = retriever._trainer(rows_of(options))
    with nothing_hidden():
        learned = told(retriever, trainer, steps=2)
    table = found[0].table
    tables = {"frequency": found[0].frequency, "threshold": table.threshold, "other": table.other}
    return {**learned, "tables": tables}


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
    tried("other checkpoint", lambda: ranks.check_checkpoint(f"saved {ranks.rank}"))
    tried("other log", lambda: built({"epochs": 1 + ranks.rank}).fit(world))
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


@contextmanager
def met(folder, rank, size):
    """Be one of the ranks, in a group that is there before training and is left as it was."""
    torch.set_num_threads(1)
    meet = f"file://{Path(folder).absolute()}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=size)
    with together() as ranks:
        yield ranks
    if dist.is_initialized():
        dist.destroy_process_group()


def main(folder, rank, size, cases):
    with met(folder, rank, size) as ranks:
        for number, options in enumerate(cases):
            with mock.patch.object(Ranks, "large_from", FEW_NUMBERS if number % 2 else 1 << 18):
                found = beside_others(options)
            torch.save(found, f"{folder}/{number}.{rank}.pt")
        if Path(f"{folder}/recipe.toml").exists():
            torch.save(begun_apart(ranks), f"{folder}/apart.{rank}.pt")
            said = {
                "resumed": resumed(folder),
                "sent": [sent(ranks, 1 << 18), sent(ranks, 1)],
                "printed": command(folder, ranks),
                "refused": refused(ranks, split()),
            }
            Path(f"{folder}/told.{rank}").write_text(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
