"""Causal self-attention over a history: a vector after each event, all of them in one pass."""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    embedding,
    normalize,
    rms_norm,
    scaled_dot_product_attention,
    silu,
)

from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError
from shortlist.sections.model import CommonModel
from shortlist.towers.base import Heads, Layers, ReadsTime
from shortlist.towers.clock import BUCKETS, event_gaps
from shortlist.towers.noise import dropout
from shortlist.towers.padding import Padded

LONGEST_WAVE = 10_000.0
"""Of rotary positions: what the slowest pair of coordinates turns through (Su et al. 2021)."""

WIDENING = 2
"""How many times wider than the vectors the hidden layer of a block is."""


class Attention(nn.Module):
    """SASRec (Kang & McAuley 2018) with the block of today's language models.

    Root-mean-square norms before each half of a block, rotary positions, a gated hidden layer
    (SwiGLU, Shazeer 2020), and no bias anywhere. What is read are the directions of the item
    embeddings, so that their lengths, which a cosine does not train, say nothing.

    With `history_time` each head of each block adds to the weight of an earlier event a number that
    is learned for the time between it and the event that looks (TiSASRec, Li et al. 2020; as a
    bias, Zhai et al. 2024): one for each power of two. A query looks from its last event, so no
    clock is read; with `request_time` from when it is asked, and each event from when the next one
    came. A history without times (a stranger's) has a number of its own for any two
    events, which a share of the training histories learns.
    """

    causal: ClassVar[Literal[True]] = True

    def __init__(
        self,
        shape: CommonModel,
        *,
        history_layers: Layers = 2,
        history_heads: Heads = 2,
        history_time: ReadsTime = False,
    ) -> None:
        super().__init__()
        heads = history_heads
        if shape.dim % (2 * heads):
            raise ModelError(
                f"model.dim = {shape.dim} must be a multiple of twice model.history_heads = {heads}"
            )
        self.width = shape.dim
        self.length = shape.history_length
        self.event_dropout = shape.history_dropout
        self.dropout = shape.dropout
        self.timed = history_time
        self.blocks = nn.ModuleList(
            _Block(shape.dim, heads, shape.dropout, history_layers, timed=self.timed)
            for _ in range(history_layers)
        )
        self.norm = nn.Parameter(torch.ones(shape.dim))
        half = shape.dim // heads // 2
        slowness = LONGEST_WAVE ** (-torch.arange(half) / half)
        angle = torch.arange(self.length)[:, None] * slowness  # [L, half]
        self.register_buffer("turn", torch.stack([angle.cos(), angle.sin()]), persistent=False)
        self.turn: Tensor

    def forward(
        self,
        history: Ragged,
        table: Tensor,
        time: Tensor | None = None,
        anchor: Tensor | None = None,
    ) -> Tensor:
        """Return the vector after each event, [total, D]; it has seen no later event.

        table: item embeddings [N + 1, D], row 0 unknown and zero. Lists are at most `length` long.
        time: of each event, [total], with history_time; None where none is known. anchor: the
        moment each event looks back from, [total]; without it its own.
        """
        padded = Padded.of(history)
        read = normalize(table.index_select(0, history.values), dim=1) * math.sqrt(self.width)
        if self.training and self.event_dropout > 0:
            read = read * (torch.rand(len(read), 1, device=read.device) >= self.event_dropout)
        hidden = padded.spread(dropout(read, self.dropout, self.training))
        gaps = event_gaps(padded, time, anchor, hide=self.training) if self.timed else None
        for block in self.blocks:
            hidden = block(hidden, self.turn[:, : hidden.shape[1]], gaps)
        return rms_norm(padded.gather(hidden), (self.width,), self.norm)


class _Block(nn.Module):
    """Attention, then a gated perceptron; each adds to what it was given."""

    def __init__(
        self, dim: int, heads: int, share: float, depth: int, *, timed: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = share
        hidden = WIDENING * dim
        self.attention_norm = nn.Parameter(torch.ones(dim))
        self.look = nn.Linear(dim, 3 * dim, bias=False)
        self.found = nn.Linear(dim, dim, bias=False)
        self.hidden_norm = nn.Parameter(torch.ones(dim))
        self.widen = nn.Linear(dim, 2 * hidden, bias=False)
        self.narrow = nn.Linear(hidden, dim, bias=False)
        for layer in (self.look, self.widen):
            nn.init.normal_(layer.weight, std=0.7 / math.sqrt(dim))
        for layer in (self.found, self.narrow):  # quiet, so that a block begins as nearly nothing
            nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * depth))
        self.time = nn.Parameter(torch.zeros(BUCKETS + 1, heads)) if timed else None

    def forward(self, hidden: Tensor, turn: Tensor, gaps: Tensor | None = None) -> Tensor:
        """Return [B, L, D] for [B, L, D]; turn: [2, L, dim / heads / 2]; gaps: [B, L, L]."""
        rows, length, dim = hidden.shape
        looked = self.look(rms_norm(hidden, (dim,), self.attention_norm))
        apart = looked.view(rows, length, 3, self.heads, dim // self.heads)
        query, key, value = apart.permute(2, 0, 3, 1, 4)
        # Padding stands after the events, so that causality alone keeps it out of every sum.
        if self.time is None or gaps is None:
            seen = scaled_dot_product_attention(
                _turned(query, turn), _turned(key, turn), value, is_causal=True
            )
        else:
            later = torch.ones(length, length, dtype=torch.bool, device=gaps.device).triu(1)
            bias = embedding(gaps, self.time).permute(0, 3, 1, 2)  # [B, heads, L, L]
            bias = bias.masked_fill(later, -math.inf)
            seen = scaled_dot_product_attention(
                _turned(query, turn), _turned(key, turn), value, attn_mask=bias
            )
        seen = self.found(seen.transpose(1, 2).reshape(rows, length, dim))
        hidden = hidden + dropout(seen, self.dropout, self.training)
        gate, content = self.widen(rms_norm(hidden, (dim,), self.hidden_norm)).chunk(2, dim=-1)
        return hidden + dropout(self.narrow(silu(gate) * content), self.dropout, self.training)


def _turned(vectors: Tensor, turn: Tensor) -> Tensor:
    """Rotary positions: each pair of coordinates [B, heads, L, d] turned by its place."""
    cosine, sine = turn
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
