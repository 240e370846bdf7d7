"""Do the vectors distinguish items, and users?"""

import numpy as np
import torch
from torch import Tensor, nn

from shortlist.asking.queries import Queries
from shortlist.doctor.base import Subject, check, generator
from shortlist.similarity import normalize

SAMPLE = 1_000
"""How many items, or users, are examined."""


def some_items(subject: Subject) -> Tensor:
    """Return the vectors of random candidate items, [at most SAMPLE, D]."""
    vectors = subject.retriever.item_vectors
    return vectors[torch.randperm(len(vectors), generator=generator())[:SAMPLE]]


@check(
    "vectors-not-finite",
    "error",
    "retriever",
    cure="Lower training.learning_rate and train again; do not serve this.",
)
def vectors_not_finite(subject: Subject) -> str | None:
    """Vectors or weights contain NaN or infinity."""
    parts = {**dict(subject.retriever.towers.state_dict())}
    parts["item vectors"] = subject.retriever.item_vectors
    bad = {
        name: int((~part.isfinite()).sum())
        for name, part in parts.items()
        if part.is_floating_point() and not part.isfinite().all()
    }
    if not bad:
        return None
    name, count = next(iter(bad.items()))
    return f"{count:,} numbers of {name}" + (
        f" and {len(bad) - 1} other parts" if len(bad) > 1 else ""
    )


@check(
    "collapsed-vectors",
    "error",
    "retriever",
    cure="Check the temperature and the positive's term of the loss; use more negatives.",
)
def collapsed_vectors(subject: Subject) -> str | None:
    """All items have nearly the same vector, so they cannot be told apart."""
    vectors = normalize(some_items(subject))
    count = len(vectors)
    if count < 2 or not vectors.isfinite().all():
        return None
    # One sum gives the mean over all pairs: Σ_ij a_i·a_j without the diagonal.
    total = float(vectors.sum(dim=0).square().sum() - vectors.square().sum())
    mean = total / (count * (count - 1))
    if mean <= 0.99:
        return None
    return f"mean cosine of the pairs among {count:,} items: {mean:.4f}"


@check(
    "few-dimensions-used",
    "warning",
    "retriever",
    cure="Lower model.dim, or find the cause: too high a temperature, too few negatives, or a "
    "tower that does not learn.",
)
def few_dimensions_used(subject: Subject) -> str | None:
    """Item vectors use few of their dimensions: the model is smaller than model.dim suggests."""
    vectors = some_items(subject)
    width = vectors.shape[1]
    if len(vectors) < 2 * width or not vectors.isfinite().all():
        return None
    rank = effective_rank(vectors)
    if rank >= 1 + 0.05 * width:
        return None
    return f"effective rank {rank:.1f} of {width}"


def effective_rank(vectors: Tensor) -> float:
    """Return exp of the entropy of the centred singular values' shares (Roy & Vetterli 2007)."""
    values = torch.linalg.svdvals((vectors - vectors.mean(dim=0)).double())
    total = values.sum()
    if total == 0:
        return 0.0
    share = values / total
    share = share[share > 0]
    return float(torch.exp(-(share * share.log()).sum()))


@check(
    "one-list-for-everyone",
    "error",
    "retriever",
    cure="Check that the user tower reads a history, features or an id, and that these are filled.",
)
def one_list_for_everyone(subject: Subject) -> str | None:
    """Nearly all users get the same list: the model has learned popularity and ignores the user."""
    data = subject.data
    users = torch.randperm(data.users.trained, generator=generator())[:SAMPLE] + 1
    ids = data.users.external(users.numpy())
    rows = subject.retriever.recommend(Queries(ids, exclude_seen=False), 10).rows
    if len(rows) < 2 or data.items.trained <= 20:
        return None
    _, counts = np.unique(np.sort(rows, axis=1), axis=0, return_counts=True)
    share = counts.max() / len(rows)
    if share <= 0.9:
        return None
    shown = len(np.unique(rows[rows >= 0]))
    return (
        f"{share:.0%} of {len(rows):,} users have the same ten items; "
        f"{shown:,} of {len(subject.retriever.item_rows):,} items are shown to anybody"
    )


@check(
    "dead-embeddings",
    "error",
    "retriever",
    cure="Train again; check that the table receives gradients.",
)
def dead_embeddings(subject: Subject) -> str | None:
    """All rows of an embedding table are equal: it was never trained, or was overwritten."""
    dead = []
    for name, module in subject.retriever.towers.named_modules():
        if isinstance(module, nn.Embedding) and module.num_embeddings > 2:
            spread = float(module.weight.detach()[1:].std(dim=0).max())
            if spread < 1e-6:
                dead.append(f"{name} ({module.num_embeddings - 1:,} rows)")
    return ", ".join(dead) or None


CHECKS = (
    vectors_not_finite,
    collapsed_vectors,
    few_dimensions_used,
    one_list_for_everyone,
    dead_embeddings,
)
