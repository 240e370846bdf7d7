"""Several processes train one model: which of them is this, and what do they tell each other?"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
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


WHOLE, NOTHING = -1, -2
"""In place of a number of rows: a gradient that is not sparse, and none."""

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

    large_from = 1 << 18
    """Gradients of so many numbers or more travel each by itself, smaller ones together."""

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

    def turns(self, ids: Tensor) -> Tensor:
        """Return which rank encodes each of these ids, [n]; a user is encoded where its events are.

        So an id that stands in the batches of several ranks is encoded once.
        """
        return ids % self.size

    def joined(self, part: Tensor, turns: Tensor) -> Tensor:
        """Return the vectors of all ids [n, D] from those of this rank's turns [m, D].

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

    def sum_gradients(self, dense: Sequence[Tensor], tables: Sequence[Tensor]) -> None:
        """Add up the gradients of all ranks, in place, in few messages.

        Of a sparse gradient the rows travel that it has, and it stays sparse (not coalesced): of
        `tables`, which are trained by rows, always, of `dense` where that is less than the whole.
        Small dense ones travel as one.
        """
        parameters = [*dense, *tables]
        wanted = {id(table) for table in tables}
        for parameter in parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
        small: list[tuple[Tensor, Tensor]] = []
        by_rows: list[tuple[Tensor, list[int]]] = []
        with _meeting():
            waiting = []
            for parameter, rows in zip(parameters, self._rows_of(parameters), strict=True):
                if all(one == NOTHING for one in rows):
                    continue
                sparse = WHOLE not in rows
                if sparse and (id(parameter) in wanted or _less_by_rows(rows, parameter)):
                    by_rows.append((parameter, [max(one, 0) for one in rows]))
                    continue
                parameter.grad = grad = _whole_gradient(parameter)
                if parameter.numel() < self.large_from:
                    small.append((parameter, grad))
                else:
                    waiting.append(dist.all_reduce(grad, async_op=True))
            if small:
                together = torch.cat([grad.flatten() for _, grad in small])
                dist.all_reduce(together)
                parts = torch.split(together, [grad.numel() for _, grad in small])
                for (parameter, grad), part in zip(small, parts, strict=True):
                    parameter.grad = part.view_as(grad)
            for one in waiting:
                if one is not None:
                    one.wait()
        if by_rows:
            self._sum_rows([table for table, _ in by_rows], [rows for _, rows in by_rows])

    def _rows_of(self, parameters: Sequence[Tensor]) -> list[list[int]]:
        """How many rows the gradient of each parameter has on each rank, or WHOLE or NOTHING."""
        own = []
        for parameter in parameters:
            grad = parameter.grad
            if grad is None:
                own.append(NOTHING)
            else:
                own.append(len(grad.values()) if grad.is_sparse else WHOLE)
        return [list(rows) for rows in zip(*self._everyones_numbers(own), strict=True)]

    def _sum_rows(self, tables: Sequence[Tensor], counts: Sequence[list[int]]) -> None:
        """Gather the rows of all gradients; counts: how many each rank has, of each table."""
        like = tables[0].detach()
        rows, values = [torch.zeros(0, dtype=torch.int64, device=like.device)], [like.new_zeros(0)]
        for table in tables:
            if table.grad is not None:
                rows.append(table.grad.indices()[0])
                values.append(table.grad.values().flatten())
        width = [table.shape[1] for table in tables]
        sizes = [list(of_rank) for of_rank in zip(*counts, strict=True)]
        numbers = [[n * d for n, d in zip(own, width, strict=True)] for own in sizes]
        every = self._gathered(torch.cat(rows), [sum(own) for own in sizes])
        slopes = self._gathered(torch.cat(values), [sum(own) for own in numbers])
        split = [torch.split(one, own) for one, own in zip(every, sizes, strict=True)]
        split_slopes = [torch.split(one, own) for one, own in zip(slopes, numbers, strict=True)]
        for number, table in enumerate(tables):
            table.grad = torch.sparse_coo_tensor(
                torch.cat([one[number] for one in split]).unsqueeze(0),
                torch.cat([one[number] for one in split_slopes]).view(-1, width[number]),
                table.shape,
                check_invariants=False,
            )

    def everyones(self, values: Tensor) -> Tensor:
        """Return a tensor of the same shape of each rank, stacked, [size, ...]."""
        found = [torch.empty_like(values) for _ in range(self.size)]
        with _meeting():
            dist.all_gather(found, values.contiguous())
        return torch.stack(found)

    def collect(self, part: Tensor, whole: Tensor) -> None:
        """Bring the rows [n, *] of all ranks, in their order, into `whole` on the first rank.

        They arrive one rank after the other, straight where they belong. Of the other ranks
        `whole` is not read.
        """
        sizes = [size for (size,) in self._everyones_numbers([len(part)])]
        with _meeting():
            if not self.first:
                if len(part):
                    dist.send(part.contiguous(), dst=0)
                return
            parts = torch.split(whole, sizes)
            parts[0].copy_(part)
            for rank, place in enumerate(parts):
                if rank and len(place):
                    dist.recv(place, src=rank)

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
        if not longest:
            return [rows for _ in sizes]
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
            # Optimizers import it, and functions of it keep the group that there is by then as a
            # default: it would outlive its end here, and its threads abort a process that exits.
            import torch._dynamo  # noqa: PLC0415

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


def _less_by_rows(rows: Sequence[int], table: Tensor) -> bool:
    """Whether less travels of a table if rows are gathered, padded to the longest part of a rank.

    A sum sends 2 (N - 1) / N of it from each rank, a gathering N - 1 times the longest part.
    """
    width = table.shape[1]
    return len(rows) * max(rows) * (width + 2) < 2 * len(table) * width


def _whole_gradient(parameter: Tensor) -> Tensor:
    """The gradient of a parameter as a dense tensor; zeros where there is none."""
    grad = parameter.grad
    if grad is None:
        return torch.zeros_like(parameter)
    return (grad.to_dense() if grad.is_sparse else grad).contiguous()


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
