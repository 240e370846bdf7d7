"""Gradient caching: towers run in blocks of a batch, so that its size costs vectors, no more."""

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
    """How a batch becomes vectors: its queries [B, D], and any item rows [N] -> [N, D].

    perceptrons: whether they multiply by the weights of layers, which bfloat16 makes cheaper.
    """

    queries: Callable[[Batch], Tensor]
    items: Callable[[Tensor], Tensor]
    perceptrons: bool = True


def in_blocks(encoders: Encoders, rows: int, towers: nn.Module) -> Encoders:
    """Return the same encoders at `rows` rows a time, for batches of any size (GradCache).

    Gao et al. 2021: a loss over the vectors of all rows needs the vectors alone. A block is
    encoded and forgotten; when its vectors' gradient is known it is encoded again, with the same
    draws of dropout, and passes the gradient on. So what a batch holds is its vectors and the
    inner values of one block, for one more forward pass. Loss and gradients are those of blocks
    that are all held. What a tower counts as it goes (running means) is counted once.

    rows: of a sequence tower, positions of its histories, padding included. Errors: ModelError
    where towers are nothing but tables, which hold nothing to save.
    """
    if not any(_computes(module) for module in towers.modules()):
        raise ModelError(
            "training.encode_rows saves what towers hold between input and vector, and these are "
            "nothing but tables of ids: leave it out"
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
    """Cut a batch into parts of at most so many rows, in order; what is known is left out.

    Where rows share histories: of at most so many positions, padding included, or of one history.
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
    """Where runs of lists begin and end that have at most so many positions, or are one list.

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
    """Whether a module has weights of its own and is no table of ids."""
    own = next(module.parameters(recurse=False), None)
    return own is not None and not isinstance(module, nn.Embedding)


@contextmanager
def _counted_once(towers: nn.Module) -> Iterator[None]:
    """Put back, at the end, every buffer that was written to."""
    before = [(buffer, buffer.clone()) for buffer in towers.buffers()]
    try:
        yield
    finally:  # encoding again ends with an exception of torch's, as soon as all is there
        with torch.no_grad():
            for buffer, value in before:
                if not torch.equal(buffer, value):  # one written to stops the gradient
                    buffer.copy_(value)
