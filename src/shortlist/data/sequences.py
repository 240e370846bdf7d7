"""Histories as training batches: one pass over a window gives a positive at every position."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from shortlist.data.batches import Batch, Steps, as_they_come, event_weights, on_device
from shortlist.data.event_columns import Columns
from shortlist.data.interactions import Interactions
from shortlist.data.ragged import ChosenLists, Ragged, like_lengths, windows
from shortlist.errors import ModelError, NothingToLearnError

JITTER = 0.1
"""Relative noise of the lengths that windows are grouped by, so that groups vary by epoch."""


class _Windows(NamedTuple):
    """W windows of the log, [W] int64 each.

    begin: log position of the first event.
    length: number of events.
    fresh: number of last positions whose following event is a positive of this window.
    """

    begin: Tensor
    length: Tensor
    fresh: Tensor


class SequenceBatches:
    """Windows of at most L events; the event after each position is its positive.

    An epoch cuts a history longer than L into windows at a random phase. So each event but the
    user's first is a positive once an epoch, with varying amounts of context; the first one has no
    history. The latest window is extended by older context to L events, as in serving.

    With `stretch` a window has at most that many positives, and L - 1 more events before them, so
    that each position has its own latest L events, as in serving. This suits towers that can be
    queried at any position of a history without extra cost.

    With kinds of events only targets are positives: each one once an epoch, after all events read
    before it, and weighted by its kind. Windows without a target are left out.

    A batch holds windows of similar length, to reduce padding; `batch_size` limits its positions,
    padding included. With `stretch` a batch holds any windows with about `batch_size` positives in
    total. The log is not copied.

    past, context: columns of the log's events that become those fields of a batch.
    steps: determines the number of batches, each epoch.
    """

    def __init__(
        self,
        log: Interactions,
        *,
        batch_size: int,
        history_length: int,
        stretch: int | None = None,
        with_time: bool = False,
        with_known: bool = False,
        weighted: bool = False,
        past: Columns | None = None,
        context: Columns | None = None,
        steps: Steps = as_they_come,
        device: torch.device | str = "cpu",
    ) -> None:
        self._past, self._context = on_device(past, "cpu"), on_device(context, "cpu")
        self._item = torch.from_numpy(log.item)
        self._start = torch.from_numpy(log.indptr)
        self._of_users = Ragged(self._item, self._start)
        self._weight = event_weights(log, weighted=weighted)
        self._upto = self._target = None
        if log.target is not None:
            self._target = torch.from_numpy(log.target)
            self._upto = torch.cat([torch.zeros(1, dtype=torch.int64), self._target.cumsum(0)])
        self._time = None
        if with_time:
            if log.time is None:
                raise ModelError("times of events need data.time: the column of the times")
            self._time = torch.from_numpy(log.time)
        self._with_known = with_known
        self._device = device
        self._batches: int | None = None
        self._steps = steps
        self.batch_size = batch_size
        self.history_length = history_length
        self._stretch = stretch
        events = self._start.diff()
        several = events > 1
        if self._upto is not None:
            several &= self._targets(self._start[:-1] + 1, self._start[1:]) > 0
        self._users = several.nonzero().squeeze(1)
        self._followed = events[self._users] - 1
        if not len(self._users):
            if self._upto is not None:
                raise NothingToLearnError(
                    "no user has a training target with an event before it: there is no sequence "
                    "to learn from"
                )
            raise NothingToLearnError(
                "no user has two training events: there is no sequence to learn from"
            )

    @property
    def positives(self) -> int:
        """The number of positives in an epoch."""
        if self._upto is not None:
            first = self._start[self._users]
            return int(self._targets(first + 1, first + 1 + self._followed).sum())
        return int(self._followed.sum())

    def __len__(self) -> int:
        """Return the number of batches in an epoch; it varies a little, as windows do."""
        if self._batches is None:
            self._batches = len(self._groups(torch.Generator().manual_seed(0))[2])
        return self._batches

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield each positive once, in an order drawn from `generator`."""
        owner, cut, groups = self._groups(generator)
        for group in torch.randperm(len(groups), generator=generator).tolist():
            chosen = groups[group]
            yield self._gather(owner[chosen], _Windows(*(part[chosen] for part in cut)))

    def _groups(self, generator: torch.Generator) -> tuple[Tensor, _Windows, list[Tensor]]:
        """Cut each history; return the windows' user rows [W], the windows, and those per batch."""
        owner, cut = self._cut(generator)
        mixed = torch.randperm(len(owner), generator=generator)
        if self._stretch is not None:
            asked = cut.fresh if self._upto is None else self._targets_asked(cut)
            done = asked[mixed].cumsum(0)
            batches = max(1, -(-int(done[-1]) // self.batch_size))
            sizes = torch.bincount((done - 1) * batches // done[-1])
            parts = torch.split(mixed, sizes.tolist())
            return owner, cut, self._agreed([part for part in parts if len(part)])
        noise = torch.rand(len(owner), generator=generator)
        length = cut.length[mixed]
        groups = like_lengths((length + JITTER * length * noise).ceil().long(), self.batch_size)
        return owner, cut, self._agreed([mixed[group] for group in groups])

    def _agreed(self, groups: list[Tensor]) -> list[Tensor]:
        """Split the largest groups in two until their number is what `steps` requires."""
        steps = self._steps(len(groups), sum(len(group) for group in groups))
        while len(groups) < steps:
            largest = max(range(len(groups)), key=lambda number: len(groups[number]))
            groups[largest : largest + 1] = torch.tensor_split(groups[largest], 2)
        return groups

    def _cut(self, generator: torch.Generator) -> tuple[Tensor, _Windows]:
        """Cut each history into windows; return each window's user row [W], and the windows."""
        size, followed = self._stretch or self.history_length, self._followed
        phase = (torch.rand(len(followed), generator=generator) * size).long() + 1
        first = torch.where(followed > size, phase, followed)  # positives of the oldest window
        pieces = 1 + (followed - first + size - 1) // size
        user = torch.repeat_interleave(torch.arange(len(pieces)), pieces)
        place = torch.arange(len(user)) - (pieces.cumsum(0) - pieces)[user]
        end = torch.minimum(first[user] + place * size, followed[user])
        start = torch.where(place == 0, 0, first[user] + (place - 1) * size)
        context = size if self._stretch is None else end - start + self.history_length - 1
        begin = (end - context).clamp(min=0)
        log_start = self._start[self._users[user]]
        cut = _Windows(log_start + begin, end - begin, end - start)
        if self._upto is None:
            return self._users[user], cut
        there = self._targets_asked(cut) > 0
        return self._users[user[there]], _Windows(*(part[there] for part in cut))

    def _targets(self, begin: Tensor, end: Tensor) -> Tensor:
        """Return the number of targets from log position `begin` to before `end`, [n]."""
        assert self._upto is not None
        # A last user without events would begin after the end of the log.
        begin = begin.clamp(max=len(self._upto) - 1)
        return (self._upto[end] - self._upto[begin]).clamp(min=0)

    def _targets_asked(self, cut: _Windows) -> Tensor:
        """Return the number of targets among the positives of each window, [W]."""
        end = cut.begin + cut.length + 1
        return self._targets(end - cut.fresh, end)

    def _gather(self, users: Tensor, cut: _Windows) -> Batch:
        """Return the batch of some windows; users: [W] rows."""
        history = windows(self._item, cut.begin, cut.length)
        places = torch.arange(len(history.values))
        owner = history.owners()
        place = places[places >= (history.offsets[1:] - cut.fresh)[owner]]
        owner = owner[place]
        event = (cut.begin - history.offsets[:-1])[owner] + place + 1
        if self._target is not None:
            asked = self._target[event]
            place, owner, event = place[asked], owner[asked], event[asked]
        rows = users[owner]
        known = ChosenLists(self._of_users, rows).to(self._device) if self._with_known else None
        time = moment = None
        if self._time is not None:
            time = windows(self._time, cut.begin, cut.length).values.to(self._device)
            moment = self._time[event].to(self._device)
        weight = torch.ones(len(event)) if self._weight is None else self._weight[event]
        return Batch(
            users=rows.to(self._device),
            positive=self._item[event].long().to(self._device),
            weight=weight.to(self._device),
            history=Ragged(history.values.long(), history.offsets).to(self._device),
            known=known,
            place=place.to(self._device),
            time=time,
            asked=moment,
            past={
                name: windows(column, cut.begin, cut.length).values.to(self._device)
                for name, column in self._past.items()
            },
            context={name: c[event].to(self._device) for name, c in self._context.items()},
        )
