"""How close are a query and an item? One definition for training, indexes and evaluation."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from shortlist.errors import ModelError, suggest

SIMILARITIES = ("cosine", "dot", "euclidean")


METRICS = {"cosine": "inner product", "dot": "inner product", "euclidean": "l2"}
"""The metric by which a vector store ranks `comparable` vectors as `score` does."""


def check_similarity(similarity: str) -> None:
    """Check that a name is one of SIMILARITIES. Errors: ModelError."""
    if similarity not in SIMILARITIES:
        raise ModelError(f"unknown similarity '{similarity}'.{suggest(similarity, SIMILARITIES)}")


def normalize(vectors: Tensor) -> Tensor:
    """Scale each vector [..., D] to length 1; a zero vector stays zero, with a finite gradient.

    >>> normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    units: Tensor = _Normalized.apply(vectors)  # type: ignore[no-untyped-call]
    return units


def comparable(vectors: Tensor, similarity: str) -> Tensor:
    """Return vectors [..., D] whose order under METRICS[similarity] is that of `score`.

    Under cosine they are scaled to length 1; otherwise they are the same vectors.
    """
    check_similarity(similarity)
    return normalize(vectors) if similarity == "cosine" else vectors


class _Normalized(torch.autograd.Function):
    """v / |v| with an explicit gradient, which stores two vectors where autograd stores five.

    Each step of a full softmax normalises the whole catalogue.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
        length = length.masked_fill(length == 0, 1.0)
        units: Tensor = vectors / length
        ctx.save_for_backward(units, length)
        return units

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (slope,) = upstream
        units, length = ctx.saved_tensors
        along = torch.einsum("...d,...d->...", slope, units).unsqueeze(-1)
        return torch.addcmul(slope, units, along, value=-1).div_(length)


def score(queries: Tensor, items: Tensor, similarity: str) -> Tensor:
    """Score each query against a pool of items, [B, M]; bigger is closer.

    "cosine" is the dot product of normalised vectors. "euclidean" is -||query - item||², so that on
    normalised vectors all three similarities give the same order (-||q - t||² = 2 cos - 2). It is
    computed with one matrix product as 2 q·t - ||q||² - ||t||² and clamped to at most 0.

    queries: [B, D], or [B, K, D] with K interests, of which the best one counts.
    items: [M, D], one pool for all queries, or [B, M, D], a pool for each query.
    Errors: ModelError for an unknown similarity or different widths D.

    >>> score(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]]), "euclidean")
    tensor([[-1., -2.]])
    """
    check_similarity(similarity)
    interests = queries if queries.dim() == 3 else queries.unsqueeze(1)  # [B, K, D]
    if interests.shape[-1] != items.shape[-1]:
        raise ModelError(
            f"queries and items must have the same width, got {interests.shape[-1]} "
            f"and {items.shape[-1]}"
        )
    if similarity == "cosine":
        interests, items = normalize(interests), normalize(items)
    closeness = _inner(interests, items)  # [B, K, M]
    if similarity == "euclidean":
        squares = items.square().sum(-1).unsqueeze(-2)  # [1, M] | [B, 1, M]
        closeness = 2 * closeness - interests.square().sum(-1, keepdim=True) - squares
        closeness = closeness.clamp(max=0)
    return closeness.squeeze(1) if closeness.shape[1] == 1 else closeness.amax(dim=1)


def pair_score(queries: Tensor, items: Tensor, similarity: str) -> Tensor:
    """Score query i against item i only, [B]: queries [B, D] or [B, K, D], items [B, D].

    >>> pair_score(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]]), "cosine")
    tensor([1.])
    """
    return score(queries, items.unsqueeze(1), similarity).squeeze(1)


def _inner(interests: Tensor, items: Tensor) -> Tensor:
    """Return the dot products of [B, K, D] with [M, D] or [B, M, D], [B, K, M]."""
    if items.dim() == 3:
        return torch.bmm(interests, items.mT)
    rows, count, width = interests.shape
    return (interests.reshape(rows * count, width) @ items.T).view(rows, count, -1)
