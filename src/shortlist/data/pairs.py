"""Positives beyond (user, item): two items of one session (I2I), or halves of one history (U2U).

Both give the batches of `batches.py`; only the query differs.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.data.batches import Batch, Steps, as_they_come
from shortlist.data.interactions import Interactions
from shortlist.data.ragged import ChosenLists, Ragged, windows
from shortlist.errors import DataError, ModelError, NothingToLearnError


def sessions(log: Interactions, gap: float | None = None) -> Ragged:
    """Cut a log into sessions: lists of the distinct item rows of one user, in order.

    An item that comes again in a session counts at its first place only.

    gap: a session ends where the user's next event comes later than this, in the units of log.time.
        None uses the session column.

    >>> log = Interactions(np.array([1, 1, 1]), np.array([7, 8, 7]), 2, time=np.array([0, 5, 90]))
    >>> sessions(log, gap=10)
    Ragged(values=tensor([7, 8, 7]), offsets=tensor([0, 2, 3]))
    """
    return sessions_and_targets(log, gap)[0]


def sessions_and_targets(
    log: Interactions, gap: float | None = None
) -> tuple[Ragged, Tensor | None]:
    """Return `sessions`, and which of their items were a target there, bool [total].

    The second is None if all were, as in a log without kinds of events.
    """
    order, cut = _by_session(log) if gap is None else _by_gap(log, gap)
    user, item = log.user[order], log.item[order]
    new = np.ones(len(log), dtype=np.bool_)
    new[1:] = cut | (np.diff(user) != 0)
    number = np.cumsum(new) - 1
    width = int(item.max(initial=0)) + 1
    keys, first = np.unique(number * width + item, return_index=True)
    kept = np.sort(first)
    counts = np.bincount(number[kept], minlength=int(new.sum()))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    found = Ragged(torch.from_numpy(item[kept].astype(np.int64)), torch.from_numpy(offsets))
    if log.target is None:
        return found, None
    aimed = np.unique((number * width + item)[log.target[order]])
    return found, torch.from_numpy(np.isin(keys, aimed)[np.argsort(first)])


def _by_session(log: Interactions) -> tuple[Any, NDArray[np.bool_]]:
    """Return the order of events by (user, session), and where a new session starts."""
    if log.session is None:
        raise DataError(
            "pairs of items need sessions: name the session column (data.session), or give "
            "session_gap, the time without an event after which a session ends"
        )
    order = np.lexsort((log.session, log.user))  # stable: keeps the order within a session
    return order, np.diff(log.session[order]) != 0


def _by_gap(log: Interactions, gap: float) -> tuple[Any, NDArray[np.bool_]]:
    if log.time is None:
        raise DataError("session_gap needs data.time, the column of the times it compares")
    return slice(None), np.diff(log.time) > gap


class ItemPairs:
    """(item, item) positives: each event with one other event of its session, drawn each epoch.

    A session of n items gives n pairs an epoch instead of n², and all of them over the epochs. The
    query is the single item of `Batch.history`, and `Batch.users` is 0. Sessions of one item give
    no pair. With kinds of events the partner is a target, while the query may be any event.
    """

    def __init__(
        self,
        sessions: Ragged,
        *,
        batch_size: int,
        window: int | None = None,
        with_known: bool = False,
        targets: Tensor | None = None,
        steps: Steps = as_they_come,
        device: torch.device | str = "cpu",
    ) -> None:
        """Take sessions of distinct items.

        window: partners are at most this many positions apart; None sets no limit.
        with_known: `Batch.known` holds every item of the session, not just the query's own.
        targets: bool [total], the items that can be partners; None allows all.

        Errors: NothingToLearnError if no session gives a pair.
        """
        self._item = sessions.values.to(device)
        self._start = sessions.offsets.to(device)
        self._session = sessions.owners().to(device)
        self._window = window
        self._with_known = with_known
        every = torch.ones(len(self._item), dtype=torch.bool)
        self._target = (every if targets is None else targets).to(device)
        self._places = self._target.nonzero().squeeze(1)
        self._upto = torch.zeros(len(self._item) + 1, dtype=torch.int64, device=device)
        torch.cumsum(self._target, 0, out=self._upto[1:])
        self._events = (self._reach(torch.arange(len(self._item), device=device))[2] > 0).nonzero()
        self._events = self._events.squeeze(1)
        self.batch_size = batch_size
        if not len(self._events):
            raise NothingToLearnError(
                "no session of the training rows holds two items"
                + (", one of them a target" if targets is not None else "")
                + ", so there is no pair to learn from: check data.session, or raise session_gap"
            )
        self._steps = steps(max(1, -(-self.positives // batch_size)), self.positives)

    @property
    def positives(self) -> int:
        """The number of pairs in an epoch."""
        return len(self._events)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._steps

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield each event of a session of two or more once, with a partner from `generator`."""
        order = torch.randperm(self.positives, generator=generator).to(self._item.device)
        for places in torch.tensor_split(order, len(self)):
            yield self.gather(self._events[places], generator)

    def gather(self, events: Tensor, generator: torch.Generator) -> Batch:
        """Return the batch of the given positions [B] in the sessions."""
        low, _, others = self._reach(events)
        draw = torch.rand(len(events), generator=generator, dtype=torch.float64)
        place = self._upto[low] + (draw.to(events.device) * others).long()
        # An event cannot be its own partner.
        place += self._target[events] & (place >= self._upto[events])
        partner = self._places[place]
        single = torch.arange(len(events) + 1, device=events.device)
        query = Ragged(self._item[events], single)
        sessions = Ragged(self._item, self._start)
        return Batch(
            users=torch.zeros_like(events),
            positive=self._item[partner],
            weight=torch.ones(len(events), device=events.device),
            history=query,
            known=ChosenLists(sessions, self._session[events]) if self._with_known else query,
        )

    def expected_counts(self, items: int) -> Tensor:
        """Return the expected positives of each item row in an epoch, [items + 1] float64.

        In-batch negatives follow this distribution. With a window, an event in the middle of a
        session is chosen more often than one at its end.
        """
        _, _, others = self._reach(self._events)
        chance = torch.zeros(len(self._item) + 1, dtype=torch.float64, device=others.device)
        chance[self._events + 1] = 1 / others.double()
        upto = chance.cumsum(0)
        # Reach is symmetric: the events that can choose this one are those it can choose.
        low, end, _ = self._reach(self._places)
        chosen = upto[end] - upto[low] - chance[self._places + 1]
        counts = torch.zeros(items + 1, dtype=torch.float64, device=low.device)
        return counts.index_add_(0, self._item[self._places], chosen)

    def _reach(self, events: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return where each event's reach begins and ends, and how many other targets it holds."""
        low, end = self._start[self._session[events]], self._start[self._session[events] + 1]
        if self._window is not None:
            low = torch.maximum(low, events - self._window)
            end = torch.minimum(end, events + self._window + 1)
        return low, end, self._upto[end] - self._upto[low] - self._target[events].long()


class UserHalves:
    """(user, user) positives: one half of a user's history against the other, split each epoch.

    Each epoch cuts every history at random into two halves that keep its order. The query is the
    smaller half (`Batch.history`); `other_half` returns the other one of any user. Positives are
    user rows. A history of one event gives no pair.
    """

    def __init__(
        self,
        log: Interactions,
        *,
        batch_size: int,
        history_length: int,
        steps: Steps = as_they_come,
        device: torch.device | str = "cpu",
    ) -> None:
        self._user = torch.from_numpy(log.user).long().to(device)
        self._item = torch.from_numpy(log.item).long().to(device)
        self._start = torch.from_numpy(log.indptr).to(device)
        several = self._start.diff() >= 2
        if log.asked is not None:  # training continues on the users with new events
            asked = np.bincount(log.user[log.asked], minlength=len(several)) > 0
            several &= torch.from_numpy(asked).to(device)
        self._users = several.nonzero().squeeze(1)
        self._halves: tuple[Ragged, Ragged] | None = None
        self.batch_size = batch_size
        self.history_length = history_length
        if not len(self._users):
            raise NothingToLearnError(
                "no user has two training events, so there are no two halves of a history"
            )
        self._steps = steps(max(1, -(-self.positives // batch_size)), self.positives)

    @property
    def positives(self) -> int:
        """The number of pairs in an epoch."""
        return len(self._users)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._steps

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield each user with two events or more once; `generator` draws halves and order."""
        self._halves = self._split(generator)
        order = torch.randperm(self.positives, generator=generator).to(self._item.device)
        for places in torch.tensor_split(order, len(self)):
            users = self._users[places]
            yield Batch(
                users=users,
                positive=users,
                weight=torch.ones(len(users), device=users.device),
                history=self._latest(self._halves[0], users),
            )

    def other_half(self, users: Tensor) -> Ragged:
        """Return the half that these users' [B] queries lack, in the current epoch."""
        if self._halves is None:
            raise ModelError("halves are drawn when an epoch starts: begin one first")
        return self._latest(self._halves[1], users)

    def counts(self, users: int) -> Tensor:
        """Return how often each user row is a positive in an epoch, 1 or 0: [users + 1]."""
        counts = torch.zeros(users + 1, device=self._users.device)
        counts[self._users] = 1
        return counts

    def _split(self, generator: torch.Generator) -> tuple[Ragged, Ragged]:
        """Cut every history into n // 2 random events and the others, each in order."""
        draw = torch.rand(len(self._user), generator=generator).to(self._user.device)
        order = draw.argsort(stable=True)
        order = order[self._user[order].argsort(stable=True)]
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device) - self._start[self._user]
        first = rank < (self._start.diff() // 2)[self._user]
        return self._events(first), self._events(~first)

    def _events(self, mask: Tensor) -> Ragged:
        upto = torch.zeros(len(mask) + 1, dtype=torch.int64, device=mask.device)
        torch.cumsum(mask, 0, out=upto[1:])
        return Ragged(self._item[mask], upto[self._start])

    def _latest(self, half: Ragged, users: Tensor) -> Ragged:
        end = half.offsets[users + 1]
        length = torch.clamp(end - half.offsets[users], max=self.history_length)
        return windows(half.values, end - length, length)
