"""Compiled towers: the same step up to rounding, and a clear word where nothing can compile."""

import os
import shutil

import pytest
import torch

from shortlist.channels.learned.two_tower import TwoTower
from shortlist.errors import ModelError
from shortlist.training.compiling import COMPILERS

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in COMPILERS), reason="there is no C++ compiler"
)
takes_long = pytest.mark.skipif(
    not os.environ.get("SHORTLIST_COMPILE"), reason="compiles for a minute: make extras"
)


def step(split, **options):
    """The loss and every gradient of the first steps of a small two-tower."""
    torch.manual_seed(3)
    retriever = TwoTower(
        dim=8, batch_size=100, dropout=0.0, history="mean", item_layers=(12,), **options
    )
    data = split.training_data("train")
    retriever.set_data(data)
    trainer = retriever._trainer(data)
    batches = trainer._begin_epoch()
    for _ in range(2):  # of different histories: one code for any size
        retriever.towers.zero_grad()
        loss = trainer._loss(next(batches))
        loss.backward()
    return loss.detach(), {n: p.grad for n, p in retriever.towers.named_parameters()}


@needs_compiler
@takes_long
@pytest.mark.filterwarnings("ignore")  # of torch, about torch
def test_a_compiled_step_is_the_plain_one_up_to_rounding(split):
    loss, found = step(split, compile=True)
    plain, wanted = step(split)
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-5)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("named", [None, "no-such-compiler"])
def test_without_a_compiler_it_says_what_is_missing(split, monkeypatch, tmp_path, named):
    monkeypatch.delenv("CXX", raising=False)
    if named is not None:
        monkeypatch.setenv("CXX", named)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match=f"compile needs a C\\+\\+ compiler.*{named or 'clang'}"):
        TwoTower(dim=8, batch_size=100, compile=True).fit(split)
