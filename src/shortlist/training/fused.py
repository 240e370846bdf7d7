"""Softmax over a shared pool in blocks of rows: loss and gradient are computed in one pass.

A batch of B rows against a pool of M items has B x M scores, or B x K x M with K interests. Only
one block of them is in memory at a time; what is kept is a gradient with the shape of the vectors.
This resembles the cut cross-entropy of language models (Wijmans et al. 2024), but needs no second
pass: the weights of the rows are known beforehand, so the gradient is computed at once.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from shortlist.devices import free_to_read
from shortlist.sampling.base import Dropped
from shortlist.sampling.known import KnownSlots

BLOCK_SCORES = 2**20
"""Number of scores in a block, unless that is less than LEAST_ROWS rows."""

LEAST_ROWS = 32
"""Least number of rows in a block."""

LOWEST = -87.0
"""Lower bound of a score (as an exponent of 2) relative to the best of its row: products of smaller
powers with small gradients would be denormal numbers, which are slow."""

NOTHING = 1.5 * 2.0**LOWEST
"""Greatest power that counts as 0, as that of a masked score must."""

LOG2_E = math.log2(math.e)
"""Factor that turns exp into exp2, which takes a third of the time."""


def softmax_mean(
    queries: Tensor,
    pool: Tensor,
    positive: Tensor,
    offset: Tensor,
    dropped: Dropped | Callable[[slice], Tensor],
    weight: Tensor,
    *,
    known: KnownSlots | None = None,
    total: Tensor | None = None,
    bfloat16: bool = False,
) -> Tensor:
    """Return the weighted mean of log(1 + sum_j exp(q_i t_j + offset_j) / exp(positive_i)).

    queries: [B, D] or [B, K, D], scaled by 1/temperature; the best of K scores counts for each t_j.
    pool: item vectors t, [M, D].
    positive: logits of the positives, [B].
    offset: added to the scores of each item, [M]; it gets no gradient.
    dropped: pairs that are left out of the sum, or a function from a slice of rows to bool [r, M].
    weight: weight of each row, [B].
    known: further pairs that are left out of the sum; None for none.
    total: divisor of the weighted sum; None for the sum of the weights.
    bfloat16: multiplies matrices in bfloat16; sums, exponentials and the result stay float32.
    """
    if queries.dim() == 2:
        queries = queries.unsqueeze(1)
    share = weight / (weight.sum() if total is None else total)
    mean: Tensor = _SoftmaxMean.apply(  # type: ignore[no-untyped-call]
        queries, pool, positive, offset, dropped, known, share, bfloat16
    )
    return mean


def _best(block: Tensor, items: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the best score of each row and item, [r, M], and the index of its interest, [r, M].

    Ties take the first interest. With one interest the index is None.

    block: queries, [r, K, D].
    items: [M, D].
    """
    rows, interests, width = block.shape
    scores = block.reshape(rows * interests, width) @ items.T
    if interests == 1:
        return scores, None
    best = scores.view(rows, interests, len(items)).max(dim=1)
    return best.values, best.indices


def _bounds(dropped: Dropped, rows: int, size: int) -> list[int]:
    """Return the bounds in `dropped` of the pairs of each block of `size` rows."""
    starts = torch.arange(0, rows + size, size, device=dropped.rows.device)
    found: list[int] = torch.searchsorted(dropped.rows, starts).tolist()
    return found


class _SoftmaxMean(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        pool: Tensor,
        positive: Tensor,
        offset: Tensor,
        dropped: Dropped | Callable[[slice], Tensor],
        known: KnownSlots | None,
        share: Tensor,
        bfloat16: bool,
    ) -> Tensor:
        interests = queries.shape[1]
        size = max(LEAST_ROWS, BLOCK_SCORES // max(len(pool) * interests, 1))
        kind = torch.bfloat16 if bfloat16 else queries.dtype
        items = pool.to(kind)
        to_queries, to_pool = torch.empty_like(queries), torch.zeros_like(pool)
        to_positive, losses = torch.empty_like(positive), torch.empty_like(positive)
        shift = None if free_to_read(offset) and not bool(offset.any()) else offset * LOG2_E
        bounds = _bounds(dropped, len(queries), size) if isinstance(dropped, Dropped) else []
        for number, begin in enumerate(range(0, len(queries), size)):
            rows = slice(begin, begin + size)
            block = queries[rows]
            scores, nearest = _best((block * LOG2_E).to(kind), items)
            scores = scores.to(queries.dtype)
            if shift is not None:
                scores += shift
            if isinstance(dropped, Dropped):
                out = slice(bounds[number], bounds[number + 1])
                scores[dropped.rows[out] - begin, dropped.columns[out]] = -math.inf
            else:
                scores.masked_fill_(dropped(rows), -math.inf)
            if known is not None:
                known.fill(scores, begin, -math.inf)
            best = scores.amax(dim=1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
            scores.sub_(best).clamp_(min=LOWEST).exp2_()
            torch.threshold_(scores, NOTHING, 0.0)  # vectorised, unlike a second masking
            total = scores.sum(dim=1)
            gap = (total.log2() + best.squeeze(1)) / LOG2_E - positive[rows]
            losses[rows] = softplus(gap)
            slope = share[rows] * gap.sigmoid()
            to_positive[rows] = -slope
            pull = (slope / total.clamp(min=torch.finfo(total.dtype).tiny)).unsqueeze(1)
            for interest in range(interests):
                parts = scores if nearest is None else scores.masked_fill(nearest != interest, 0.0)
                parts = parts.to(kind)
                to_queries[rows, interest] = (parts @ items).to(queries.dtype) * pull
                pulled = block[:, interest] * pull
                if kind == pool.dtype:
                    to_pool.addmm_(parts.T, pulled)
                else:
                    to_pool += parts.T @ pulled.to(kind)
        ctx.save_for_backward(to_queries, to_pool, to_positive)
        return (losses * share).sum()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = upstream
        to_queries, to_pool, to_positive = ctx.saved_tensors
        return to_queries * slope, to_pool * slope, to_positive * slope, *(None,) * 5
