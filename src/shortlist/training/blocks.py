"""Gradient caching: towers run in blocks, so that memory grows with a batch's vectors alone."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shortlist.data.batches import Batch
from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError


class Encoders(NamedTuple):
    """The functions that encode a batch.

    queries: batch -> query vectors [B, D], or [B, K, D] for K interests.
    items: item rows [N] -> item vectors [N, D].
    perceptrons: whether the towers have perceptron layers, which bfloat16 makes cheaper.
    """

    queries: Callable[[Batch], Tensor]
    items: Callable[[Tensor], Tensor]
    perceptrons: bool = True


def in_blocks(encoders: Encoders, rows: int, towers: nn.Module) -> Encoders:
    """Return encoders that process at most `rows` rows at a time (GradCache, Gao et al. 2021).

    The loss needs only the vectors of all rows. So each block is encoded and its activations are
    freed. When the gradient of its vectors is known, the block is encoded again with the same
    dropout masks, and the gradient is propagated. Memory holds the vectors of the batch and the
    activations of one block, at the cost of a second forward pass. Loss and gradients are the same
    as without blocks. Buffers that a tower updates, such as running means, are updated once.

    rows: rows per block; for a sequence tower, positions of its histories, padding included.
    towers: the module that the encoders run.
    Errors: ModelError for towers that consist of embedding tables, where this saves no memory.
    """
    if not any(_computes(module) for module in towers.modules()):
        raise ModelError(
            "training.encode_rows saves the memory of activations, and these towers consist of "
            "tables of ids, which have none: leave it out"
        )

    def kept() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _counted_once(towers)

    def block(encode: Callable[..., Tensor], part: Batch | Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return encode(part)
        found: Tensor = checkpoint(encode, part, use_reentrant=False, context_fn=kept)
        return found

    def queries(batch: Batch) -> Tensor:
        return torch.cat([block(encoders.queries, part) for part in parts(batch, rows)])

    def items(ids: Tensor) -> Tensor:
        return torch.cat([block(encoders.items, part) for part in torch.split(ids, rows)])

    return encoders._replace(queries=queries, items=items)


def parts(batch: Batch, rows: int) -> Iterator[Batch]:
    """Split a batch into parts of at most `rows` rows, in order, without its `known` items.

    If rows share histories (batch.place), a part has at most `rows` positions of histories,
    padding included, or a single history.
    """
    offsets = batch.history.offsets
    if batch.place is None:
        bounds = [*range(0, len(batch.users), rows), len(batch.users)]
        firsts = bounds
    else:
        bounds = _cuts(batch.history.lengths.tolist(), rows)
        firsts = torch.searchsorted(batch.place, offsets[bounds]).tolist()
    starts = offsets[bounds].tolist()
    for number in range(len(bounds) - 1):
        lists = slice(bounds[number], bounds[number + 1])
        asked = slice(firsts[number], firsts[number + 1])
        start, end = starts[number], starts[number + 1]
        yield Batch(
            users=batch.users[asked],
            positive=batch.positive[asked],
            weight=batch.weight[asked],
            history=Ragged(
                batch.history.values[start:end], offsets[lists.start : lists.stop + 1] - start
            ),
            place=None if batch.place is None else batch.place[asked] - start,
            time=None if batch.time is None else batch.time[start:end],
            asked=None if batch.asked is None else batch.asked[asked],
            past={name: column[start:end] for name, column in batch.past.items()},
            context={name: column[asked] for name, column in batch.context.items()},
        )


def _cuts(lengths: list[int], positions: int) -> list[int]:
    """Return bounds that group lists: at most `positions` padded positions, or a single list.

    >>> _cuts([4, 5, 2, 9], positions=10)
    [0, 2, 3, 4]
    """
    bounds, longest = [0], 0
    for number, length in enumerate(lengths):
        longest = max(longest, length)
        if number > bounds[-1] and longest * (number + 1 - bounds[-1]) > positions:
            bounds.append(number)
            longest = length
    return [*bounds, len(lengths)]


def _computes(module: nn.Module) -> bool:
    """Tell whether a module has parameters of its own and is not an embedding."""
    own = next(module.parameters(recurse=False), None)
    return own is not None and not isinstance(module, nn.Embedding)


@contextmanager
def _counted_once(towers: nn.Module) -> Iterator[None]:
    """Restore, at the end, every buffer that was changed."""
    before = [(buffer, buffer.clone()) for buffer in towers.buffers()]
    try:
        yield
    finally:  # torch ends the second encoding with an exception once all tensors are recomputed
        with torch.no_grad():
            for buffer, value in before:
                if not torch.equal(buffer, value):  # writing in place would invalidate the gradient
                    buffer.copy_(value)
