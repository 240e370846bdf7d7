"""Does serving rank items as training scores them?"""

import torch
from torch import Tensor

from shortlist.asking.queries import Queries
from shortlist.doctor.base import Subject, check, generator
from shortlist.similarity import score

USERS = 100
TOP = 10
ITEMS = 1_000


def _queries(subject: Subject) -> tuple[Queries, Tensor]:
    """Return some users that the model knows, and their vectors."""
    data = subject.data
    users = torch.randperm(data.users.trained, generator=generator())[:USERS] + 1
    ids = data.users.external(users.numpy())
    return Queries(ids, exclude_seen=False), subject.retriever.encode_users(Queries(ids))


@check(
    "index-metric-differs",
    "error",
    "retriever",
    cure="Build the index with training.similarity; normalise vectors for an inner-product index.",
)
def index_metric_differs(subject: Subject) -> str | None:
    """The index does not rank by the similarity that was trained."""
    retriever, similarity = subject.retriever, subject.training.similarity
    _, vectors = _queries(subject)
    if not (vectors.isfinite().all() and retriever.item_vectors.isfinite().all()):
        return None
    depth = min(TOP, len(retriever.item_rows))
    found = retriever.index.search(vectors, depth).ids
    truth = score(vectors, retriever.item_vectors, similarity)
    # An item counts as right if its training score is among the best, ties included.
    least = truth.topk(depth, dim=1).values[:, -1:]
    column = torch.zeros(int(retriever.item_rows.max()) + 1, dtype=torch.int64)
    column[retriever.item_rows] = torch.arange(len(retriever.item_rows))
    reached = truth.gather(1, column[found.clamp(min=0)])
    right = ((reached >= least - 1e-4 * (1 + least.abs())) & (found >= 0)).float().mean()
    if right >= 0.9:
        return None
    return (
        f"of the top {depth} of the index ('{retriever.index.similarity}'), {right:.0%} are in "
        f"the top {depth} by '{similarity}' ({len(vectors)} users)"
    )


@check(
    "index-older-than-towers",
    "error",
    "retriever",
    cure="Encode all items again with these towers and rebuild the index.",
)
def index_older_than_towers(subject: Subject) -> str | None:
    """The index holds other vectors than the item tower computes: tower and index have different
    versions, or only one of them normalises.
    """
    retriever = subject.retriever
    pick = torch.randperm(len(retriever.item_rows), generator=generator())[:ITEMS]
    retriever.towers.eval()
    with torch.no_grad():
        fresh = retriever.towers.encode_items(
            subject.data.item_features.to(retriever.device).take(
                retriever.item_rows[pick].to(retriever.device)
            )
        ).cpu()
    kept = retriever.item_vectors[pick]
    if not (fresh.isfinite().all() and kept.isfinite().all()):
        return None
    off = (fresh - kept).norm(dim=1) / fresh.norm(dim=1).clamp(min=1e-12)
    if float(off.max()) < 1e-3:
        return None
    return f"{(off >= 1e-3).sum():,} of {len(pick):,} items differ, by up to {off.max():.1%}"


@check(
    "served-score-differs",
    "error",
    "retriever",
    cure="Serve s(query, item); log Q and the temperature belong to training only.",
)
def served_score_differs(subject: Subject) -> str | None:
    """Served scores differ from the plain similarity of query and item: they contain a correction
    or temperature that belongs to training.
    """
    retriever = subject.retriever
    queries, vectors = _queries(subject)
    answer = retriever.recommend(queries, TOP)
    if not vectors.isfinite().all():
        return None
    rows = torch.from_numpy(answer.rows)
    column = torch.zeros(int(retriever.item_rows.max()) + 1, dtype=torch.int64)
    column[retriever.item_rows] = torch.arange(len(retriever.item_rows))
    items = retriever.item_vectors[column[rows.clamp(min=0)]]
    plain = score(vectors, items, subject.training.similarity)
    served = torch.from_numpy(answer.scores)
    own = (rows >= 0) & ~torch.from_numpy(answer.fallback)[:, None]
    off = ((served - plain).abs() / (1 + plain.abs())).masked_fill(~own, 0)
    if float(off.max()) < 1e-3:
        return None
    return f"{(off >= 1e-3).sum():,} of {int(own.sum()):,} scores, by up to {off.max():.3g}"


CHECKS = (index_metric_differs, index_older_than_towers, served_score_differs)
