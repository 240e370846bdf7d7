"""The mask of a loss: that of torch, bit by bit."""

import pytest
import torch

from shortlist.losses.base import masked


@pytest.mark.parametrize("value", [0.0, float("-inf"), 2.5])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_masking_by_bits_is_masked_fill_bit_by_bit(kind, value):
    random = torch.Generator().manual_seed(3)
    rubbish = torch.tensor([-0.0, 0.0, 1e-40, 3e38, float("inf"), float("-inf"), float("nan")])
    scores = torch.cat([rubbish, -rubbish, torch.randn(50, generator=random)]).to(kind)
    scores = scores.expand(40, -1).clone().T  # not contiguous, as scores of a transposed product
    valid = torch.rand(scores.shape, generator=random) < 0.6
    slope = torch.randn(scores.shape, generator=random).to(kind)
    slope[0, 0] = slope[5, 7] = float("nan")
    found = []
    for fill in (masked, lambda scores, valid, value: scores.masked_fill(~valid, value)):
        leaf = scores.clone().requires_grad_()
        filled = fill(leaf, valid, value)
        filled.backward(slope)
        found.append([filled.detach(), leaf.grad + 0.0])  # the sign of a 0 means nothing
    for mine, theirs in zip(*found, strict=True):
        assert torch.equal(mine.double().view(torch.int64), theirs.double().view(torch.int64))
