"""On a GPU a step reads no number back: each read would wait for all earlier work."""

import traceback
from contextlib import contextmanager

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from shortlist import devices
from shortlist.data.batches import PairBatches
from shortlist.errors import TrainingError
from shortlist.sampling import base
from shortlist.training import fused, objective, trainer
from training import several

READS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "unique_dim"),
    *("_unique2", "unique_consecutive"),
}
"""Operators whose result, or its size, has to come to the host."""

CASES = {
    "dssm": {"user_layers": [8], "item_layers": [8], "learn_temperature": True, "clip": 1.0},
    "ids": {"history": "none", "loss": "bce", "sampler": "uniform", "negatives": 20},
    "own pools": {"mode": "pairwise"},
    "memory": {"sampler": "memory", "negatives": 50, "ema": 0.9},
    "mixed": {"sampler": "mixed", "negatives": 30, "similarity": "dot"},
    "catalogue": {"sampler": "catalogue", "loss": "bce"},
    "told": {"world": "told", "request_time": True, "user_layers": [8], "batch_size": 40},
    "hardest": {"hard": "hardest", "hard_known": True},
}
"""told: kinds of events, columns of past events and of the one asked for, when it is asked."""

MASKED = {
    "known": {"mask_known": True},
    "known, own pools": {"mode": "pairwise", "mask_known": True},
    "known, whole pool": {"mask_known": True, "loss": "bce"},
}
"""These read on a GPU how many slots are masked, or search instead of looking up."""


LOOKS = {"tolist", "cpu", "numpy", "item", "__bool__", "__int__", "__float__", "__index__"}
"""Methods of tensors that bring numbers to the host; of tensors there, no operator tells of it."""


def our_line():
    """The line of ours that asked for something."""
    ours = [frame for frame in traceback.extract_stack() if "/shortlist/" in frame.filename]
    return f"{ours[-1].filename}:{ours[-1].lineno}"


class Looks(TorchFunctionMode):
    """Notes every method that looks, and the line of ours that called it."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in LOOKS:
            self.found.append((func.__name__, our_line()))
        return func(*args, **(kwargs or {}))


class Reads(TorchDispatchMode):
    """Notes every operator that reads, and the line of ours that asked for it."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        given = kwargs or {}
        reads = name in READS
        reads |= name == "repeat_interleave" and given.get("output_size") is None
        if name in ("index", "index_put", "index_put_"):
            reads = any(one is not None and one.dtype == torch.bool for one in args[1])
        if reads:
            self.found.append((name, our_line()))
        return func(*args, **given)


@contextmanager
def as_on_a_gpu(monkeypatch):
    """Take the way of a device whose numbers are not free to read."""
    with monkeypatch.context() as patch:
        for module in (devices, base, fused, objective, trainer):
            patch.setattr(module, "free_to_read", lambda tensor: False)
        yield


def rows_of(options):
    """Without a multi-valued feature, which has to tell how many values a batch reads."""
    return several.rows_of(options, multi=False)


@pytest.fixture(scope="module")
def data():
    return rows_of({})


def reads_of_steps(options, steps):
    """What is read in so many steps; making batches is the host's own work."""
    data = rows_of(options)
    retriever = several.begun(options, data)
    one = retriever._trainer(data)
    made = list(one._batches.epoch(torch.Generator().manual_seed(1)))
    one._batches.epoch = lambda generator: iter(made)
    running = one.epoch()
    next(running)  # a bias starts
    found = []
    with Reads(found), Looks(found):
        for _ in range(steps):
            next(running)
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_step_between_checks_reads_nothing(case, monkeypatch):
    with as_on_a_gpu(monkeypatch):
        assert reads_of_steps(CASES[case], steps=5) == []


@pytest.mark.parametrize("told", [{}, {"world": "told", "request_time": True}])
def test_a_sequence_tower_reads_the_length_of_its_longest_history(told, monkeypatch):
    options = {"history": "attention", "batch_size": 24, **told}
    with as_on_a_gpu(monkeypatch):
        found = reads_of_steps(options, steps=4)
    assert {line.split("/shortlist/")[1].split(":")[0] for _, line in found} == {
        "towers/padding.py"
    }


def test_the_losses_are_looked_at_every_so_many_steps(monkeypatch):
    with as_on_a_gpu(monkeypatch):
        found = reads_of_steps({"batch_size": 24}, steps=trainer.CHECKED_EVERY)
    assert [name for name, _ in found] == ["tolist"]


@pytest.mark.parametrize("case", CASES | MASKED)
def test_a_gpus_way_comes_to_the_same(case, monkeypatch):
    def told():
        options = (CASES | MASKED)[case]
        data = rows_of(options)
        retriever = several.begun(options, data)
        with several.nothing_hidden():
            return several.told(retriever, retriever._trainer(data))

    as_ever = told()
    with as_on_a_gpu(monkeypatch):
        other = told()
    found = several.apart(as_ever, other)
    assert found["losses"] < 1e-5
    assert found["gradients"] < 1e-5  # the weights of few steps of Adam follow signs


@pytest.mark.parametrize("step", [0, 3, 11])
def test_a_loss_that_is_not_finite_is_found_before_anything_is_saved(step, data, monkeypatch):
    """An epoch has 12 steps: at its end, and when a state is asked for."""
    whole, steps = trainer.Trainer._loss, iter(range(step))

    def broken(*given):
        return whole(*given) * (1.0 if next(steps, None) is not None else torch.nan)

    monkeypatch.setattr(trainer.Trainer, "_loss", broken)
    retriever = several.begun({}, data)
    with as_on_a_gpu(monkeypatch):
        one = retriever._trainer(data)
        with pytest.raises(TrainingError, match="the loss is nan: lower training"):
            list(one.epoch())
        again = several.begun({}, data)._trainer(data)
        next(again.epoch())
        with pytest.raises(TrainingError, match="the loss is nan"):
            again.state()


def test_batches_are_made_where_the_log_is_and_moved_whole(data):
    """Nothing can be read from "meta": what was made there would have failed."""
    options = {"ordered": True, "batch_size": 50, "history_length": 5, "with_known": True}
    batches = PairBatches(data.training_log, **options, device="meta")
    batch = next(batches.epoch(torch.Generator().manual_seed(1)))
    moved = (batch.users, batch.positive, batch.weight, *batch.history, *batch.known)
    assert {tensor.device.type for tensor in moved} == {"meta"}
