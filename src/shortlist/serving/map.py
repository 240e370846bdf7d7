"""How are items drawn on a map? By the first two principal components of their vectors."""

import numpy as np
import torch
from torch import Tensor

from shortlist.asking.capabilities import Channel, EncodesItems
from shortlist.blending.retrievers import parts
from shortlist.channels.learned.item_vectors import ItemVectors
from shortlist.index.servers import ServerIndex
from shortlist.serving.messages import RequestError
from shortlist.serving.served import Served

MOST_POINTS = 5_000
"""Maximum number of items on the map."""


def item_map(served: Served, available: Tensor | None = None) -> dict[str, object]:
    """Return the columns of `messages.MapAnswer` for at most MOST_POINTS items.

    If there are more items, a fixed sample is shown, chosen by a hash of the ids.

    available: the item rows that may be shown, bool [items + 1]; None for all.
    Errors: RequestError if the retriever has no item vectors, or no item is available.
    """
    source = _with_vectors(served.retriever)
    if source is None:
        raise RequestError(
            "not_supported", f"this bundle ({served.kind}) has no item vectors for a map"
        )
    items = served.data.items
    served_by = source if isinstance(source, ItemVectors) else None
    if served_by is not None and not isinstance(served_by.index, ServerIndex):
        served_by = None
    if served_by is not None:
        rows = served_by.candidate_rows()
    else:
        ids, vectors = source.encode_items()
        rows = items.rows(ids)
    chosen = np.arange(len(rows))
    if available is not None:
        chosen = np.flatnonzero(available.numpy()[rows])
        if not len(chosen):
            raise RequestError("not_supported", "no item is available now")
    if len(chosen) > MOST_POINTS:
        first = np.argsort(items.tie_keys[rows[chosen]], kind="stable")[:MOST_POINTS]
        chosen = chosen[np.sort(first)]
    rows = rows[chosen]
    if served_by is not None:  # Only those that are drawn.
        vectors = served_by.vectors_of(torch.from_numpy(rows))
    else:
        vectors = vectors[torch.from_numpy(chosen)]
    points, explained = principal_plane(vectors)
    counts = np.concatenate(
        [served.data.item_counts, np.zeros(len(items) - items.trained, dtype=np.int64)]
    )
    return {
        "bundle": served.id,
        "items": items.external(rows).to_list(),
        "titles": served.titles(rows),
        "x": points[:, 0].numpy().copy(),
        "y": points[:, 1].numpy().copy(),
        "counts": counts[rows],
        "explained": explained,
    }


def principal_plane(vectors: Tensor) -> tuple[Tensor, list[float]]:
    """Project vectors [N, D] to [N, 2] by principal components.

    Return the coordinates, and the share of the variance that each component explains.

    The sign of a component is chosen so that its largest loading is positive.
    """
    centred = vectors.double() - vectors.double().mean(dim=0)
    values, directions = torch.linalg.eigh(centred.T @ centred)
    two = directions.flip(1)[:, :2]
    largest = two.abs().argmax(dim=0, keepdim=True)
    two = two * two.gather(0, largest).sign()
    shares = values.flip(0)[:2] / values.sum().clamp(min=1e-12)
    points = torch.zeros(len(vectors), 2)
    points[:, : two.shape[1]] = (centred @ two).float()
    return points, [float(share) for share in shares]


def _with_vectors(retriever: Channel) -> EncodesItems | None:
    """The retriever, or its first channel, that has item vectors; None without one."""
    encoders = (part for part in parts(retriever).values() if isinstance(part, EncodesItems))
    return next(encoders, None)
