"""Training batches: each positive with the history before it, gathered on demand."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from shortlist.data.event_columns import Columns
from shortlist.data.interactions import Interactions
from shortlist.data.ragged import ChosenLists, Ragged, windows
from shortlist.errors import ModelError

Steps = Callable[[int, int], int]
"""Returns how many batches an epoch has, given their usual and their largest possible number."""


def as_they_come(batches: int, most: int) -> int:  # noqa: ARG001
    """Return the usual number of batches: the `Steps` of a process that trains alone."""
    return batches


@dataclass(frozen=True)
class Batch:
    """B positives with what is known about their users.

    users, positive: [B] int64 rows.
    weight: [B] float32, the weight of each positive in the loss.
    history: item rows before each positive, oldest first, at most the latest L. For a log without
        order these are any L other events of the user.
    known: every positive of the user in the training log, this one included, B lists; None unless
        requested.
    place: None if list i of `history` belongs to positive i. Otherwise positives share histories,
        and positive i follows the event history.values[place[i]]: [B] int64, ascending.
    time: time of each event of `history`, [total] in the unit of the log; None unless requested.
    asked: time of each positive, [B] in the unit of the log; None unless requested.
    past: requested features of each event of `history` by name, [total] each.
    context: requested features of each positive by name, [B] each; see `event_columns.Columns`.
    """

    users: Tensor
    positive: Tensor
    weight: Tensor
    history: Ragged
    known: Ragged | ChosenLists | None = None
    place: Tensor | None = None
    time: Tensor | None = None
    asked: Tensor | None = None
    past: Mapping[str, Tensor] = field(default_factory=dict)
    context: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> "Batch":
        """Return the same batch on another device."""

        def moved(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: column.to(device) for name, column in value.items()}
            return None if value is None else value.to(device)

        return Batch(**{one.name: moved(getattr(self, one.name)) for one in fields(self)})


class Batches(Protocol):
    """A source of batches for a trainer."""

    @property
    def positives(self) -> int:
        """The number of positives in an epoch."""
        ...

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield each training positive once, in an order drawn from `generator`."""
        ...

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        ...


class PairBatches:
    """(user, item) positives: every training event, with its history gathered from the sorted log.

    The log is not copied (int32); a batch costs a few gathers, however long its histories are.
    Batches are built on the CPU, since their sizes depend on the log, and then moved to the device.
    With kinds of events only targets are positives, weighted by their kind; histories and `known`
    hold all events that are read.

    past, context: columns of the log's events that become those fields of a batch.
    steps: determines the number of batches, once.
    """

    def __init__(
        self,
        log: Interactions,
        *,
        ordered: bool,
        batch_size: int,
        history_length: int,
        with_time: bool = False,
        with_known: bool = False,
        weighted: bool = False,
        past: Columns | None = None,
        context: Columns | None = None,
        steps: Steps = as_they_come,
        device: torch.device | str = "cpu",
    ) -> None:
        self._past, self._context = on_device(past, "cpu"), on_device(context, "cpu")
        self._user = torch.from_numpy(log.user)
        self._item = torch.from_numpy(log.item)
        self._start = torch.from_numpy(log.indptr)
        self._of_users = Ragged(self._item, self._start)
        self._weight = event_weights(log, weighted=weighted)
        self._targets = None
        if log.target is not None:
            self._targets = torch.from_numpy(np.flatnonzero(log.target))
        self._time = None
        if with_time:
            if log.time is None:
                raise ModelError("times of events need data.time: the column of the times")
            self._time = torch.from_numpy(log.time)
        self._device = device
        self._ordered = ordered
        self._with_known = with_known
        self.batch_size = batch_size
        self.history_length = history_length
        self._steps = steps(max(1, -(-self.positives // batch_size)), self.positives)

    @property
    def positives(self) -> int:
        """The number of positives in an epoch: every training event, or every target."""
        return len(self._user if self._targets is None else self._targets)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._steps

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield each training event once, shuffled by `generator`."""
        order = torch.randperm(self.positives, generator=generator)
        if self._targets is not None:
            order = self._targets[order]
        # Batches of nearly equal size: a tiny last one would have almost no in-batch negatives.
        for events in torch.tensor_split(order, len(self)):
            yield self.gather(events)

    def gather(self, events: Tensor) -> Batch:
        """Return the batch of the given log positions [B], on the device."""
        return self._gathered(events.cpu()).to(self._device)

    def _gathered(self, events: Tensor) -> Batch:
        users = self._user[events].long()
        begin, end = self._start[users], self._start[users + 1]
        time = asked = None
        past: dict[str, Tensor] = {}
        if self._ordered:
            first = torch.maximum(begin, events - self.history_length)
            history = windows(self._item, first, events - first)
            if self._time is not None:
                time, asked = windows(self._time, first, events - first).values, self._time[events]
            for name, column in self._past.items():
                past[name] = windows(column, first, events - first).values
        else:
            others = self._others(events, begin, end)
            history = Ragged(self._item[others.values], others.offsets)
            past = {name: column[others.values] for name, column in self._past.items()}
        return Batch(
            users=users,
            positive=self._item[events].long(),
            weight=self._weights(events),
            history=_long(history),
            known=ChosenLists(self._of_users, users) if self._with_known else None,
            time=time,
            asked=asked,
            past=past,
            context={name: column[events] for name, column in self._context.items()},
        )

    def _weights(self, events: Tensor) -> Tensor:
        if self._weight is None:
            return torch.ones(len(events), device=events.device)
        return self._weight[events]

    def _others(self, events: Tensor, begin: Tensor, end: Tensor) -> Ragged:
        """Return log positions of at most L other events of each event's user.

        They follow the event in the log and continue cyclically at the user's first event.
        """
        size = end - begin
        length = torch.clamp(size - 1, max=self.history_length)
        places = windows(torch.arange(self.history_length, device=events.device), 0 * begin, length)
        owner = places.owners()
        step = (events - begin)[owner] + 1 + places.values
        return Ragged(begin[owner] + step % size[owner], places.offsets)


def event_weights(log: Interactions, *, weighted: bool) -> Tensor | None:
    """Return the weight of each event in a loss, [n] float32; None if all are 1.

    It is the weight of the event's kind, multiplied with `weighted` by the event's own weight.
    Errors: ModelError if `weighted` and the log has no weights.
    """
    own = torch.from_numpy(log.weights_for("weighted training")) if weighted else None
    if log.worth is None:
        return own
    worth = torch.from_numpy(log.worth)
    return worth if own is None else worth * own


def on_device(columns: Columns | None, device: torch.device | str) -> dict[str, Tensor]:
    """Return columns of events as tensors on a device; None gives no columns."""
    given = {} if columns is None else columns
    return {name: torch.from_numpy(column).to(device) for name, column in given.items()}


def _long(lists: Ragged) -> Ragged:
    return Ragged(lists.values.long(), lists.offsets)


def histories(
    log: Interactions, users: Tensor, length: int | None, device: torch.device | str = "cpu"
) -> Ragged:
    """Return each user's events in `log`, oldest first, at most the latest `length` (None: all).

    users: [B] int64 rows. For a log without order the choice of `length` events is arbitrary.
    """
    start = torch.from_numpy(log.indptr)
    begin, end = start[users], start[users + 1]
    if length is not None:
        begin = torch.maximum(begin, end - length)
    return _long(windows(torch.from_numpy(log.item), begin, end - begin)).to(device)
