"""How do several processes train one model? They sum gradients and share pools and figures."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from hashlib import blake2b
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
"""How long a process waits for another one: the first one evaluates while the others wait."""

LOST = "another process of this training has ended or cannot be reached, so this one ends too"


WHOLE, NOTHING = -1, -2
"""Values in place of a number of rows: for a dense gradient, and for no gradient."""

T = TypeVar("T")


class Whole(NamedTuple):
    """The batches of all ranks joined in the order of the ranks.

    batch: users, positives and weights of all rows, [B]; its histories are empty.
    start: first row of this rank.
    sizes: number of rows of each rank.
    weight: sum of all weights, no dimensions.
    """

    batch: Batch
    start: int
    sizes: list[int]
    weight: Tensor


class Ranks:
    """The processes of a training, and the rank of this one.

    Methods that communicate are collective: all ranks must call them in the same order, and wait
    for each other. A single process calls none of them in a step. Tensors are sent as they are and
    texts as bytes; nothing is unpickled.

    rank: number of this process, from 0.
    size: number of processes.
    """

    large_from = 1 << 18
    """Size, in numbers, from which a gradient is sent in a message of its own."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def several(self) -> bool:
        """True if there are other processes."""
        return self.size > 1

    @property
    def first(self) -> bool:
        """True for the process that measures, saves and prints."""
        return self.rank == 0

    def part(self, log: Interactions) -> Interactions:
        """Return the events of this rank's users; user row r belongs to rank r modulo `size`."""
        return log.keep(log.user % self.size == self.rank) if self.several else log

    def share(self, batch_size: int) -> int:
        """Return how many rows of a batch of `batch_size` each rank has."""
        return -(-batch_size // self.size)

    def steps(self, batches: int, most: int) -> int:
        """Return the number of steps of an epoch: the largest number of batches of any rank.

        batches: number of batches of this rank.
        most: number of rows of this rank; each step needs at least one.
        Errors: TrainingError for a rank with fewer rows than steps.
        """
        if not self.several:
            return batches
        found = self._everyones_numbers([batches, most])
        steps = max(number for number, _ in found)
        for rank, (_, rows) in enumerate(found):
            if rows < steps:
                raise TrainingError(
                    f"an epoch has {steps} steps, and each step needs at least one positive or "
                    f"window of each process; the users of process {rank} of {self.size} have only "
                    f"{rows}: start fewer processes, or raise training.batch_size"
                )
        return steps

    def whole(self, batch: Batch) -> Whole:
        """Return the batches of all ranks joined into one."""
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
        """Restrict a pool that was drawn for the rows of all ranks to the rows of this rank.

        In a shared pool, positives of other ranks' rows become drawn slots (source -1). If each row
        has its own pool, only those of this rank's rows are kept.
        """
        rows = slice(whole.start, whole.start + whole.sizes[self.rank])
        if pool.ids.dim() == 2:
            pool = pool._replace(
                ids=pool.ids[rows], log_q=pool.log_q[rows], source=pool.source[rows]
            )
        mine = (pool.source >= rows.start) & (pool.source < rows.stop)
        return pool._replace(source=(pool.source - rows.start).masked_fill(~mine, -1))

    def turns(self, ids: Tensor) -> Tensor:
        """Return the rank that encodes each id, [n].

        An id in the batches of several ranks is encoded once, a user where its events are.
        """
        return ids % self.size

    def joined(self, part: Tensor, turns: Tensor) -> Tensor:
        """Gather the vectors of all ids, [n, D]; their gradient is the sum over all ranks.

        part: vectors of the ids that this rank encodes, [m, D].
        turns: the rank of each id, [n], from `turns`.
        """
        sizes = torch.bincount(turns, minlength=self.size).tolist()
        together: Tensor = _Joined.apply(part, self, sizes)  # type: ignore[no-untyped-call]
        order = turns.argsort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        return together.index_select(0, place)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over all ranks, bit-equal on each of them."""
        summed = values.detach().clone()
        with _meeting():
            dist.all_reduce(summed)
        return summed

    def mean(self, values: Tensor) -> Tensor | None:
        """Return the mean of the values [n] of all ranks; None if there are no values."""
        if not self.several:
            return values.mean() if len(values) else None
        count = values.new_tensor([len(values)], dtype=torch.float64)
        summed, number = self.total(torch.cat([values.double().sum().view(1), count]))
        return (summed / number).to(values.dtype) if number > 0 else None

    def sum_gradients(self, dense: Sequence[Tensor], tables: Sequence[Tensor]) -> None:
        """Replace gradients by their sum over all ranks, in few messages.

        Small dense gradients are sent as one message. A sparse gradient sends only its rows, and
        the result is sparse and not coalesced.

        dense: parameters of AdamW. A sparse gradient is sent by rows only if that is shorter.
        tables: tables trained row by row. A sparse gradient is always sent by rows.
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
        """Return the rows of each parameter's gradient on each rank, or WHOLE or NOTHING."""
        own = []
        for parameter in parameters:
            grad = parameter.grad
            if grad is None:
                own.append(NOTHING)
            else:
                own.append(len(grad.values()) if grad.is_sparse else WHOLE)
        return [list(rows) for rows in zip(*self._everyones_numbers(own), strict=True)]

    def _sum_rows(self, tables: Sequence[Tensor], counts: Sequence[list[int]]) -> None:
        """Gather the rows of sparse gradients.

        counts: for each table, the number of rows on each rank.
        """
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
        """Gather a tensor of equal shape from each rank, [size, ...]."""
        found = [torch.empty_like(values) for _ in range(self.size)]
        with _meeting():
            dist.all_gather(found, values.contiguous())
        return torch.stack(found)

    def collect(self, part: Tensor, whole: Tensor) -> None:
        """Collect the rows of all ranks, in the order of the ranks, into `whole` on the first rank.

        The rows are received one rank after the other, directly into their place.

        part: rows of this rank, [n, *].
        whole: output on the first rank, [N, *]; other ranks do not use it.
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

    def check_checkpoint(self, digest: str) -> None:
        """Refuse to resume from checkpoints that differ between the processes.

        digest: hash of this process's checkpoint, empty without one. Errors: CheckpointError.
        """
        if not self._agree(digest):
            raise CheckpointError(
                f"process {self.rank} of {self.size} finds another checkpoint than the other "
                "processes: give a checkpoint folder that all machines share"
            )

    def check_inputs(self, digest: str) -> None:
        """Refuse to train if the processes read other recipes, data or versions.

        digest: hash of what this process has read. Errors: TrainingError.
        """
        if not self._agree(digest):
            raise TrainingError(
                f"the {self.size} processes of this training have read different recipes, data or "
                "versions of Shortlist and torch: give every machine the same files and the same "
                "environment"
            )

    def begin_alike(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the first rank, in place.

        A tensor that is computed from data can be rounded differently on another processor or with
        another number of threads, so every rank starts from the numbers of the first one.

        tensors: tensors of the same shapes and types in the same order on all ranks.
        """
        for tensor in tensors:
            told = tensor.detach().clone(memory_format=torch.contiguous_format)
            with _meeting():
                dist.broadcast(told.view(-1).view(torch.uint8), src=0)
            if not self.first:
                tensor.detach().copy_(told)

    def from_first(self, number: float) -> float:
        """Return the number that the first rank passes; those of the others are ignored."""
        told = torch.tensor([number], dtype=torch.float64)
        with _meeting():
            dist.broadcast(told, src=0)
        return float(told)

    def text_from_first(self, text: str) -> str:
        """Return the text that the first rank passes; those of the others are ignored."""
        size = int(self.from_first(len(content := text.encode())))
        told = torch.zeros(size, dtype=torch.uint8)
        if self.first:
            told.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        with _meeting():
            dist.broadcast(told, src=0)
        return told.numpy().tobytes().decode()

    def _agree(self, digest: str) -> bool:
        """Tell whether all ranks pass the same text."""
        number = int.from_bytes(blake2b(digest.encode(), digest_size=7).digest())
        return len({one for (one,) in self._everyones_numbers([number])}) == 1

    def _everyones_numbers(self, numbers: list[int]) -> list[list[int]]:
        """Gather the numbers of each rank, over the CPU."""
        found: list[list[int]] = self.everyones(torch.tensor(numbers)).tolist()
        return found

    def _gathered(self, rows: Tensor, sizes: list[int]) -> list[Tensor]:
        """Gather the rows [n, ...] of each rank. sizes: number of rows of each rank."""
        longest = max(sizes)
        if not longest:
            return [rows for _ in sizes]
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        found = self.everyones(padded)
        return [part[:size] for part, size in zip(found, sizes, strict=True)]


ALONE = Ranks()
"""A training with a single process."""

_joined = [ALONE]


def here() -> Ranks:
    """Return the processes of the current training: those of `together`, else ALONE."""
    return _joined[-1]


def dealt(log: Interactions, make: Callable[[Interactions], T]) -> T:
    """Call `make` with the events of this rank's users; a single process has all events.

    Errors: those of `make`; with several processes the message names the process.
    """
    ranks = here()
    try:
        return make(ranks.part(log))
    except (DataError, ModelError) as error:
        if not ranks.several:
            raise
        raise type(error)(
            f"process {ranks.rank} of {ranks.size}, which has the events of every {ranks.size}th "
            f"user: {error}. Start fewer processes"
        ) from error


@contextmanager
def together() -> Iterator[Ranks]:
    """Join the processes that torchrun has started, for the duration of the `with` block.

    Without torchrun this process trains alone. An existing process group of torch.distributed is
    used and not destroyed. Errors: PeerError if the other processes cannot be reached.
    """
    joinable = dist.is_available() and (dist.is_initialized() or started_beside_others())
    if here().several or not joinable:
        yield here()
        return
    begun = not dist.is_initialized()
    with _meeting():
        if begun:
            # Optimizers import this module later, and its functions keep the process group of that
            # moment as a default. The group would then outlive destroy_process_group, and its
            # threads would abort the process at exit.
            import torch._dynamo  # noqa: PLC0415

            kinds = "gloo"
            if torch.cuda.is_available():
                kinds = "cpu:gloo,cuda:nccl"
                own = int(os.environ.get("LOCAL_RANK", "0"))
                torch.cuda.set_device(own % torch.cuda.device_count())
            store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
            # After a restart by torchrun, addresses of the earlier processes must not be read.
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
    """Return how often torchrun has restarted the processes."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def speaks_first(error: ShortlistError) -> bool:
    """Tell whether this process is to print the error with which all processes end.

    The first process to ask prints it. Rank 0 asks at once and other ranks 0.5 s later. A process
    with a PeerError asks after 3 s, because another process knows the cause.
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
    """Tell whether gathering rows sends less data than summing the whole table.

    With N ranks, a sum sends 2 (N - 1) / N of the table from each rank. A gather sends N - 1 times
    the rows of the rank with the most rows, because the others are padded.
    """
    width = table.shape[1]
    return len(rows) * max(rows) * (width + 2) < 2 * len(table) * width


def _whole_gradient(parameter: Tensor) -> Tensor:
    """Return the gradient of a parameter as a dense tensor; zeros if it has none."""
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
    """Turn torch's error about a lost process into a PeerError of one sentence."""
    try:
        yield
    except ShortlistError:
        raise
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PeerError(f"{LOST} ({reason})") from error
