"""HSTU: gated attention without softmax over a history gives a vector after each event."""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, layer_norm, normalize, silu

from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError
from shortlist.sections.model import CommonModel
from shortlist.towers.base import Heads, Layers, ReadsTime
from shortlist.towers.clock import BUCKETS, event_gaps
from shortlist.towers.noise import dropout
from shortlist.towers.padding import Padded

EPSILON = 1e-6
"""Epsilon of the layer norms, as in the paper's code."""


class HSTU(nn.Module):
    """Hierarchical sequential transduction units (Zhai et al. 2024, "Actions speak louder").

    A unit projects its input to U, V, Q and K through SiLU, and computes the attention weights
    SiLU(Q Kᵀ + bias) / n. Its residual branch is a linear map of LayerNorm(weights V) · U. It has
    no softmax, so several similar events have more weight than one, and no perceptron. n is
    model.history_length, as in the paper's code, so it does not depend on padding or on other rows
    of a batch, and is the same in training and serving.

    The bias is a learned number for the distance in events, plus with `history_time` one for the
    time between two events. All heads of a unit share both. With `request_time` the time is
    measured from the next event, as in the paper. Differences to the paper: time buckets are powers
    of 2 (about 1.35 there), positions have no embedding, and item embeddings are normalized, as in
    Attention.

    shape: the [model] section; its dim must be a multiple of history_heads.
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
        if shape.dim % history_heads:
            raise ModelError(
                f"model.dim = {shape.dim} must be a multiple of model.history_heads = "
                f"{history_heads}"
            )
        self.width = shape.dim
        self.event_dropout = shape.history_dropout
        self.dropout = shape.dropout
        self.timed = history_time
        self.units = nn.ModuleList(
            _Unit(shape.dim, history_heads, shape.dropout, shape.history_length, timed=history_time)
            for _ in range(history_layers)
        )
        self.norm = nn.LayerNorm(shape.dim, eps=EPSILON)

    def forward(
        self,
        history: Ragged,
        table: Tensor,
        time: Tensor | None = None,
        anchor: Tensor | None = None,
    ) -> Tensor:
        """Return the vector after each event, [total, D]; it does not depend on later events.

        history: item rows, oldest first; lists are at most model.history_length long.
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
        places = torch.arange(hidden.shape[1], device=hidden.device)
        before = places[:, None] - places  # [L, L], below 0 for a later event
        for unit in self.units:
            hidden = unit(hidden, before, gaps)
        after: Tensor = self.norm(padded.gather(hidden))
        return after


class _Unit(nn.Module):
    """One layer: gated pointwise attention with a residual connection."""

    def __init__(self, dim: int, heads: int, share: float, length: int, *, timed: bool) -> None:
        super().__init__()
        self.heads = heads
        self.length = length
        self.dropout = share
        self.project = nn.Linear(dim, 4 * dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.place = nn.Parameter(torch.zeros(length))
        self.time = nn.Parameter(torch.zeros(BUCKETS + 1, 1)) if timed else None
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden: Tensor, before: Tensor, gaps: Tensor | None = None) -> Tensor:
        """Return the output [B, L, D] for an input [B, L, D].

        before: distance of each two events in positions, [L, L]; negative for a later event.
        gaps: time buckets, int64 [B, L, L].
        """
        rows, length, dim = hidden.shape
        normed = layer_norm(hidden, (dim,), eps=EPSILON)
        gate, *others = silu(self.project(normed)).chunk(4, dim=-1)
        value, query, key = (
            part.view(rows, length, self.heads, dim // self.heads).transpose(1, 2)
            for part in others
        )
        bias = self.place[before.clamp(min=0)]  # [L, L]
        if self.time is not None and gaps is not None:
            bias = bias + embedding(gaps, self.time).squeeze(3).unsqueeze(1)  # [B, 1, L, L]
        weights = silu(query @ key.mT + bias) / self.length  # [B, heads, L, L]
        # Padding is after the events, so the causal mask excludes it.
        seen = weights.masked_fill(before < 0, 0.0) @ value
        found = layer_norm(seen.transpose(1, 2).reshape(rows, length, dim), (dim,), eps=EPSILON)
        added: Tensor = self.out(dropout(gate * found, self.dropout, self.training))
        return hidden + added
