"""SASRec: causal self-attention over a history gives a vector after each event, in one pass."""

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
"""Base of the rotary positions: pair i of h coordinate pairs turns by base^(-i/h) radians per
position (Su et al. 2021)."""

WIDENING = 2
"""Width of a block's hidden layer, in multiples of the vectors' width."""


class Attention(nn.Module):
    """SASRec (Kang & McAuley 2018) with the transformer block of recent language models.

    A block has root-mean-square norms before each half, rotary positions, a gated hidden layer
    (SwiGLU, Shazeer 2020) and no bias. The tower reads normalized item embeddings, because a cosine
    does not train their lengths.

    With `history_time` each head of each block has a learned attention bias for the time between
    two events, in buckets of powers of two (TiSASRec, Li et al. 2020; as a bias, Zhai et al. 2024).
    The time is measured from the event that attends. With `request_time` it is measured from the
    next event, and for the last event from the time of the request. Histories without times use a
    bias of their own, which is trained on a share of the training histories.

    shape: the [model] section; its dim must be a multiple of twice history_heads.
    Errors: ModelError for another dim.
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
        """Return the vector after each event, [total, D]; it does not depend on later events.

        history: item rows, oldest first; lists are at most `length` long.
        table: item embeddings, [N + 1, D]; row 0 is the unknown item and zero.
        time: time of each event, [total], with history_time; None if no times are known.
        anchor: the time from which each event measures, [total]; None for its own time.
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
    """One transformer block: attention, then a gated perceptron, both with residual connections."""

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
        for layer in (self.found, self.narrow):  # small, so that a block starts near the identity
            nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * depth))
        self.time = nn.Parameter(torch.zeros(BUCKETS + 1, heads)) if timed else None

    def forward(self, hidden: Tensor, turn: Tensor, gaps: Tensor | None = None) -> Tensor:
        """Return the output [B, L, D] for an input [B, L, D].

        turn: cosines and sines of the rotary positions, [2, L, dim / heads / 2].
        gaps: time buckets, int64 [B, L, L].
        """
        rows, length, dim = hidden.shape
        looked = self.look(rms_norm(hidden, (dim,), self.attention_norm))
        apart = looked.view(rows, length, 3, self.heads, dim // self.heads)
        query, key, value = apart.permute(2, 0, 3, 1, 4)
        # Padding is after the events, so the causal mask excludes it.
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
    """Apply rotary positions: rotate each pair of coordinates of [B, heads, L, d]."""
    cosine, sine = turn
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
