"""Several processes train one model: which of them is this, and what do they tell each other?"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from shortlist.data.batches import Batch
from shortlist.data.interactions import Interactions
from shortlist.data.ragged import Ragged
from shortlist.errors import (
    CheckpointError,
    DataError,
    ModelError,
    PeerError,
    ShortlistError,
    TrainingError,
)
from shortlist.sampling.base import Negatives
from shortlist.systems import started_beside_others

PATIENCE = timedelta(days=1)
"""How long a process waits for another that lives: for the first one, which measures alone."""

LOST = "another process of this training has ended or cannot be reached, so this one ends too"


T = TypeVar("T")


class Whole(NamedTuple):
    """The batches of all ranks as one, in the order of the ranks.

    batch: users, positives and weights of all rows [B]; it has no histories. start: the first of
    this rank's rows; sizes: how many each rank has; weight: the sum of all weights.
    """

    batch: Batch
    start: int
    sizes: list[int]
    weight: Tensor


class Ranks:
    """The processes of a training, and which of them this one is; `size` 1 is a process alone.

    Every method is a meeting: all ranks call it, in the same order, and wait for the others. A
    process alone calls none of them in a step. Tensors travel as they are and texts as bytes;
    nothing is unpickled.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return self.size > 1

    @property
    def first(self) -> bool:
        """Whether this is the one that measures, saves and prints."""
        return self.rank == 0

    def part(self, log: Interactions) -> Interactions:
        """Return the events of this rank's users, whole: every `size`-th user row is its own."""
        return log.keep(log.user % self.size == self.rank) if self.several else log

    def share(self, batch_size: int) -> int:
        """Return how many rows of a batch are this rank's."""
        return -(-batch_size // self.size)

    def steps(self, batches: int, most: int) -> int:
        """Return how many steps an epoch has, where this rank would make so many batches.

        All make as many as the rank that makes most. most: rows, of which each batch needs one.
        """
        if not self.several:
            return batches
        found = self._everyones_numbers([batches, most])
        steps = max(number for number, _ in found)
        for rank, (_, rows) in enumerate(found):
            if rows < steps:
                raise TrainingError(
                    f"an epoch has {steps} steps, and the users of process {rank} of {self.size} "
                    f"have {rows} positives or windows for them, where each step needs one: start "
                    "fewer processes, or raise training.batch_size"
                )
        return steps

    def whole(self, batch: Batch) -> Whole:
        """Return the batches of all ranks as one."""
        sizes = [size for (size,) in self._everyones_numbers([len(batch.positive)])]
        bits = batch.weight.double().view(torch.int64)
        rows = torch.stack([batch.users, batch.positive, bits], dim=1)
        users, positive, bits = torch.cat(self._gathered(rows, sizes)).unbind(1)
        weight = bits.contiguous().view(torch.float64).to(batch.weight.dtype)
        empty = batch.history.values[:0]
        none = Ragged(empty, torch.zeros(len(users) + 1, dtype=torch.int64, device=users.device))
        shared = Batch(users, positive, weight, none)
        return Whole(shared, sum(sizes[: self.rank]), sizes, weight.sum())

    def own(self, pool: Negatives, whole: Whole) -> Negatives:
        """Return a pool that was drawn for all rows as this rank's rows see it.

        Slots of other ranks' rows count as drawn; where each row has a pool, only its own are kept.
        """
        rows = slice(whole.start, whole.start + whole.sizes[self.rank])
        if pool.ids.dim() == 2:
            pool = pool._replace(
                ids=pool.ids[rows], log_q=pool.log_q[rows], source=pool.source[rows]
            )
        mine = (pool.source >= rows.start) & (pool.source < rows.stop)
        return pool._replace(source=(pool.source - rows.start).masked_fill(~mine, -1))

    def turns(self, pool: Negatives, whole: Whole) -> Tensor:
        """Return which rank encodes each slot of a shared pool that was drawn for all rows, [M].

        A row's positive is encoded with the row; a drawn slot by turns of its id, so that an id
        which was drawn often is encoded once, and a user by the rank that has its events.
        """
        bounds = torch.tensor(whole.sizes, device=pool.ids.device).cumsum(0)
        owner = torch.bucketize(pool.source, bounds, right=True)
        return torch.where(pool.source < 0, pool.ids % self.size, owner)

    def joined(self, part: Tensor, turns: Tensor) -> Tensor:
        """Return the vectors of all slots [M, D] from those of this rank's turns [m, D].

        Their gradient is the sum over all ranks.
        """
        sizes = torch.bincount(turns, minlength=self.size).tolist()
        together: Tensor = _Joined.apply(part, self, sizes)  # type: ignore[no-untyped-call]
        order = turns.argsort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        return together.index_select(0, place)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over all ranks, on each of them the same bits."""
        summed = values.detach().clone()
        with _meeting():
            dist.all_reduce(summed)
        return summed

    def mean(self, values: Tensor) -> Tensor | None:
        """Return the mean of the values [n] of all ranks; None where there are none."""
        if not self.several:
            return values.mean() if len(values) else None
        count = values.new_tensor([len(values)], dtype=torch.float64)
        summed, number = self.total(torch.cat([values.double().sum().view(1), count]))
        return (summed / number).to(values.dtype) if number > 0 else None

    def sum_gradients(self, dense: Sequence[nn.Parameter], tables: Sequence[Tensor]) -> None:
        """Add up the gradients of all ranks, in place.

        tables: those that are trained by rows; their gradients are sparse, and rows travel.
        """
        given = torch.tensor([p.grad is not None for p in dense], dtype=torch.int64)
        waiting = []
        with _meeting():
            dist.all_reduce(given)
            for parameter, somewhere in zip(dense, given.tolist(), strict=True):
                if not somewhere:
                    continue
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad = parameter.grad.contiguous()
                waiting.append(dist.all_reduce(parameter.grad, async_op=True))
            for one in waiting:
                if one is not None:
                    one.wait()
        for table in tables:
            self._sum_rows(table)

    def _sum_rows(self, table: Tensor) -> None:
        grad = table.grad
        if grad is None:
            rows = torch.zeros(0, dtype=torch.int64, device=table.device)
            values = table.detach()[:0]
        else:
            # Dense where a part of the model has read the whole table.
            grad = (grad if grad.is_sparse else grad.to_sparse(1)).coalesce()
            rows, values = grad.indices()[0], grad.values()
        sizes = [size for (size,) in self._everyones_numbers([len(rows)])]
        if not sum(sizes):
            return
        every = torch.cat(self._gathered(rows, sizes)).unsqueeze(0)
        slopes = torch.cat(self._gathered(values, sizes))
        table.grad = torch.sparse_coo_tensor(every, slopes, table.shape, check_invariants=False)

    def everyones(self, values: Tensor) -> Tensor:
        """Return a tensor of the same shape of each rank, stacked, [size, ...]."""
        found = [torch.empty_like(values) for _ in range(self.size)]
        with _meeting():
            dist.all_gather(found, values.contiguous())
        return torch.stack(found)

    def check_same(self, number: int) -> None:
        """Refuse to go on from checkpoints that are not the same everywhere."""
        found = [one for (one,) in self._everyones_numbers([number])]
        if len(set(found)) > 1:
            raise CheckpointError(
                f"process {self.rank} of {self.size} finds another checkpoint than others do: give "
                "a folder that all machines share"
            )

    def told(self, number: float) -> float:
        """Return the number that the first rank gives; what the others give does not matter."""
        told = torch.tensor([number], dtype=torch.float64)
        with _meeting():
            dist.broadcast(told, src=0)
        return float(told)

    def told_text(self, text: str) -> str:
        """Return the text that the first rank gives."""
        size = int(self.told(len(content := text.encode())))
        told = torch.zeros(size, dtype=torch.uint8)
        if self.first:
            told.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        with _meeting():
            dist.broadcast(told, src=0)
        return told.numpy().tobytes().decode()

    def _everyones_numbers(self, numbers: list[int]) -> list[list[int]]:
        """The numbers of each rank. They never leave the memory of the processors."""
        found: list[list[int]] = self.everyones(torch.tensor(numbers)).tolist()
        return found

    def _gathered(self, rows: Tensor, sizes: list[int]) -> list[Tensor]:
        """The rows [n, ...] of each rank, of which there are so many."""
        longest = max(sizes)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        found = self.everyones(padded)
        return [part[:size] for part, size in zip(found, sizes, strict=True)]


ALONE = Ranks()
"""A process by itself."""

_joined = [ALONE]


def here() -> Ranks:
    """Return the processes that this one trains with: those of `together`, else itself alone."""
    return _joined[-1]


def dealt(log: Interactions, make: Callable[[Interactions], T]) -> T:
    """Return what is made of the events of this rank's users; of all, where it is alone.

    Errors: as `make` has them, and whose events they are about.
    """
    ranks = here()
    try:
        return make(ranks.part(log))
    except (DataError, ModelError) as error:
        if not ranks.several:
            raise
        raise type(error)(
            f"of the events of process {ranks.rank} of {ranks.size}, which has every "
            f"{ranks.size}th user: {error}. Start fewer processes"
        ) from error


@contextmanager
def together() -> Iterator[Ranks]:
    """Train with the other processes that torchrun has started, while it is entered; else alone.

    A group of processes that is there already (torch.distributed) is used, and left as it is.
    Errors: PeerError where the others cannot be reached.
    """
    joinable = dist.is_available() and (dist.is_initialized() or started_beside_others())
    if here().several or not joinable:
        yield here()
        return
    begun = not dist.is_initialized()
    with _meeting():
        if begun:
            kinds = "gloo"
            if torch.cuda.is_available():
                kinds = "cpu:gloo,cuda:nccl"
                own = int(os.environ.get("LOCAL_RANK", "0"))
                torch.cuda.set_device(own % torch.cuda.device_count())
            store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
            # Started again by torchrun, it must not read where those before it were.
            store = dist.PrefixStore(f"shortlist/{_attempt()}", store)  # type: ignore[attr-defined]
            dist.init_process_group(
                kinds, store=store, rank=rank, world_size=size, timeout=PATIENCE
            )
        _joined.append(Ranks(dist.get_rank(), dist.get_world_size()))
    try:
        yield here()
    finally:
        _joined.pop()
        if begun:
            with suppress(RuntimeError):
                dist.destroy_process_group()


def _attempt() -> str:
    """How often torchrun has started the processes again."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def speaks_first(error: ShortlistError) -> bool:
    """Tell whether this process is the one to say what all of them end with.

    That is whichever asks first. The first rank does not wait; one that only misses another waits
    longest, as that one knows why.
    """
    if not started_beside_others():
        return True
    if os.environ.get("RANK") != "0" or isinstance(error, PeerError):
        time.sleep(3.0 if isinstance(error, PeerError) else 0.5)
    try:
        place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        store = dist.TCPStore(*place, is_master=False, timeout=timedelta(seconds=5))  # type: ignore[attr-defined]
        return bool(store.add(f"shortlist/{_attempt()}/said", 1) == 1)
    except (RuntimeError, KeyError):
        return True


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, ranks: Ranks, sizes: list[int]) -> Tensor:
        ctx.ranks, ctx.sizes = ranks, sizes
        return torch.cat(ranks._gathered(part.detach(), sizes))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        summed = ctx.ranks.total(upstream[0].contiguous())
        start = sum(ctx.sizes[: ctx.ranks.rank])
        return summed[start : start + ctx.sizes[ctx.ranks.rank]], None, None


@contextmanager
def _meeting() -> Iterator[None]:
    """Turn what torch says of a rank that is gone into one sentence."""
    try:
        yield
    except ShortlistError:
        raise
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PeerError(f"{LOST} ({reason})") from error
