"""When is a question asked? Hour, weekday and time since the last event, as a vector."""

import torch
from torch import Tensor, nn

from shortlist.data.moments import is_known, unknown_time
from shortlist.towers.padding import Padded

BUCKETS = 64
"""Of the time between two moments: bucket b holds 2^b - 1 units or more, less than 2^(b + 1)."""

TIMELESS = 0.1
"""Share of the rows of a batch that train as if their times were not known."""

HOURS, DAYS = 24, 7
MONDAY = 3
"""Days from the weekday of 1970-01-01, a Thursday, back to the Monday before it."""

DAY = 86_400


class Clock(nn.Module):
    """The hour and the weekday of a question, and how long ago the last event was, as one vector.

    The sum of a row of a small table each, all zero at first, so that what no training event had
    says nothing, as does what is not known. The last is in powers of two of the log's unit. Hours
    and weekdays are those of the log's own times (of UTC, where these are since 1970).

    steps: of the log's times in a second. since: whether histories are read, so that there is a
    last event. hours: whether the log tells hours; training says so, and the weights keep it.
    """

    def __init__(self, dim: int, steps: float, *, since: bool) -> None:
        super().__init__()
        self.steps = steps
        self.hour = _silent(HOURS, dim)
        self.weekday = _silent(DAYS, dim)
        self.since = _silent(BUCKETS, dim) if since else None
        self.hours: Tensor
        self.register_buffer("hours", torch.tensor(True))

    def forward(self, asked: Tensor, last: Tensor) -> Tensor:
        """Return [B, D]. asked, last: when the question and its newest event were, [B]."""
        day = _whole(asked, DAY * self.steps)
        found = [(day + MONDAY) % DAYS]
        if self.steps * DAY > HOURS:
            found.append(_whole(asked, DAY / HOURS * self.steps) % HOURS)
        known = is_known(asked)
        if self.training:
            known = known & (torch.rand(len(asked), device=asked.device) >= TIMELESS)
        rows = [(row + 1).masked_fill(~known, 0) for row in found]
        weekday, hour = rows if len(rows) > 1 else (rows[0], torch.zeros_like(rows[0]))
        vectors: Tensor = self.hour(hour.masked_fill(~self.hours, 0)) + self.weekday(weekday)
        if self.since is not None:
            known = is_known(asked) & is_known(last)
            if self.training:
                known = known & (torch.rand(len(asked), device=asked.device) >= TIMELESS)
            vectors = vectors + self.since((bucket_of(asked - last) + 1).masked_fill(~known, 0))
        return vectors


def bucket_of(gap: Tensor) -> Tensor:
    """Return the bucket of a time between two moments, int64; 0 where it is below 0.

    >>> bucket_of(torch.tensor([-5, 0, 1, 29, 90_000]))
    tensor([ 0,  0,  1,  4, 16])
    """
    return (gap.clamp(min=0).double() + 1).log2().floor().long().clamp(max=BUCKETS - 1)


def event_gaps(
    padded: Padded, time: Tensor | None, anchor: Tensor | None = None, *, hide: bool
) -> Tensor:
    """Return the bucket of the time between each two events, [B, L, L]; BUCKETS: not known.

    time: of each event, [total], or None where none is known; anchor: the moment each event looks
    back from, [total], its own without it. hide: whether a share of the rows is not told.
    """
    rows, length = padded.rows, padded.length
    if time is None:
        return torch.full((rows, length, length), BUCKETS, device=padded.slots.device)
    when, now = (
        time.new_zeros(rows * length).index_copy(0, padded.slots, of).view(rows, length)
        for of in (time, time if anchor is None else anchor)
    )
    buckets = bucket_of(now.unsqueeze(2) - when.unsqueeze(1))
    known = is_known(now).unsqueeze(2) & is_known(when).unsqueeze(1)
    buckets = buckets.masked_fill(~known, BUCKETS)
    if hide:
        left_out = torch.rand(rows, 1, 1, device=time.device) < TIMELESS
        buckets = buckets.masked_fill(left_out, BUCKETS)
    return buckets


def tells_hours(times: Tensor, steps: float) -> bool:
    """Whether some of these times are not those of midnight; steps: in a second."""
    day = DAY * steps
    return bool(day > HOURS and (times % _size(times, day) != 0).any())


def last_times(time: Tensor, offsets: Tensor, place: Tensor | None) -> Tensor:
    """Return when the event was after which each row is asked, [B]; unknown where there is none.

    time: of each event of lists, [total]; place: as QueryTower.
    """
    if place is not None:
        return time.index_select(0, place)
    none = offsets.diff() == 0
    padded = torch.cat([time, time.new_full((1,), unknown_time(time.dtype))])
    return padded[(offsets[1:] - 1).masked_fill(none, len(time))]


def anchors(time: Tensor, offsets: Tensor, place: Tensor | None, asked: Tensor) -> Tensor:
    """Return the moment that each event looks back from, [total]: when the next one came.

    After the event that a row is asked after this is when the row was asked. So what an event sees
    is what was known when the next was to be predicted, in training as in an answer.
    """
    ends = offsets[1:][offsets.diff() > 0] - 1
    after = torch.cat([time[1:], time[-1:]]).index_copy(0, ends, time.index_select(0, ends))
    if place is None:
        return after.index_copy(0, ends, asked[offsets.diff() > 0])
    return after.index_copy(0, place, asked)


def _whole(times: Tensor, step: float) -> Tensor:
    """How many whole steps there are in times, int64; exact where both are whole."""
    return torch.div(times, _size(times, step), rounding_mode="floor").nan_to_num().long()


def _size(times: Tensor, step: float) -> float:
    """Return a step to divide times by: a float would make float32 of whole times."""
    return round(step) if step >= 1 and not times.is_floating_point() else step


def _silent(rows: int, dim: int) -> nn.Embedding:
    """A table of zeros; row 0, of what is not known, stays so."""
    table = nn.Embedding(rows + 1, dim, padding_idx=0)
    nn.init.zeros_(table.weight)
    return table
