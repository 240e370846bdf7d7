"""Softmax over a shared pool in blocks of rows: the gradient is made in the same pass.

A batch of B rows against a pool of M items has B x M scores, K times as many where a row has K
interests of which the best counts. They are needed a block at a time:
what is kept is a gradient of the size of the vectors. Like the losses of today's language models
(Wijmans et al. 2024, cut cross-entropy), but without a second pass: the row weights are known, so
the gradient can be made at once.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from shortlist.devices import free_to_read
from shortlist.sampling.base import Dropped

BLOCK_SCORES = 2**20
"""How many scores are held at a time, unless that were fewer than LEAST_ROWS rows."""

LEAST_ROWS = 32

LOWEST = -87.0
"""Powers of two so far below the best of their row count as this far: products of smaller ones with
small slopes would be denormal, and slow."""

LOG2_E = math.log2(math.e)
"""Scores are powers of two inside: exp2 takes a third of the time of exp."""


def softmax_mean(
    queries: Tensor,
    pool: Tensor,
    positive: Tensor,
    offset: Tensor,
    dropped: Dropped | Callable[[slice], Tensor],
    weight: Tensor,
    *,
    total: Tensor | None = None,
    bfloat16: bool = False,
) -> Tensor:
    """Return the weighted mean of log(1 + sum_j exp(q_i t_j + offset_j) / exp(positive_i)).

    queries: [B, D], scaled by 1/temperature, or [B, K, D], of which the best counts for each t_j;
    pool: [M, D]; positive: [B] logits; offset: [M], no gradient; dropped: slots left out of the
    sum, or what says of some rows which these are, bool [r, M]; weight: [B]; total: what the
    weights are divided by, unless it is their sum. bfloat16: multiply in half the bits; sums,
    exponentials and what is returned stay float32.
    """
    if queries.dim() == 2:
        queries = queries.unsqueeze(1)
    share = weight / (weight.sum() if total is None else total)
    mean: Tensor = _SoftmaxMean.apply(queries, pool, positive, offset, dropped, share, bfloat16)  # type: ignore[no-untyped-call]
    return mean


def _best(block: Tensor, items: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return each row's best score of each item [r, M], and which interest has it (the first).

    block: [r, K, D]; items: [M, D]. With one interest: None.
    """
    rows, interests, width = block.shape
    scores = block.reshape(rows * interests, width) @ items.T
    if interests == 1:
        return scores, None
    best = scores.view(rows, interests, len(items)).max(dim=1)
    return best.values, best.indices


def _bounds(dropped: Dropped, rows: int, size: int) -> list[int]:
    """Where the pairs of each `size` rows begin, and the last of them end."""
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
            where: Any
            if isinstance(dropped, Dropped):
                out = slice(bounds[number], bounds[number + 1])
                where = (dropped.rows[out] - begin, dropped.columns[out])
                scores[where] = -math.inf
            else:
                where = dropped(rows)
                scores.masked_fill_(where, -math.inf)
            best = scores.amax(dim=1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
            scores.sub_(best).clamp_(min=LOWEST).exp2_()
            if isinstance(dropped, Dropped):
                scores[where] = 0.0
            else:
                scores.masked_fill_(where, 0.0)
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
        return to_queries * slope, to_pool * slope, to_positive * slope, None, None, None, None
