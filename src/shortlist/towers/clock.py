"""How does the time of a request become a vector? From hour, weekday and time since an event."""

import torch
from torch import Tensor, nn

from shortlist.data.moments import is_known, unknown_time
from shortlist.towers.padding import Padded

BUCKETS = 64
"""Number of buckets for the time between two moments: bucket b holds 2^b - 1 to 2^(b+1) - 2 units.
"""

TIMELESS = 0.1
"""Share of a batch's rows that are trained with unknown times."""

HOURS, DAYS = 24, 7
MONDAY = 3
"""Weekday number of 1970-01-01, a Thursday, if Monday is 0."""

DAY = 86_400
"""Seconds of a day."""


class Clock(nn.Module):
    """The vector of a request's time: the sum of three embeddings.

    They are those of the hour, of the weekday and of the time since the last event, in buckets of
    powers of two of the log's unit. The embeddings start at zero, so unknown values, and values
    that training has not seen, add nothing. Hours and weekdays are those of the log's own times
    (UTC if these count from 1970).

    dim: width of the vector.
    steps: units of the log's times per second.
    since: whether the tower reads histories, so that there is a last event.
    hours (buffer): whether the log has times within a day; training sets it.
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
        """Return the vectors, [B, D].

        asked: time of each request, [B].
        last: time of the last event before it, [B].
        """
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
    """Return the bucket of each time difference, int64 of the same shape; 0 for negative ones.

    >>> bucket_of(torch.tensor([-5, 0, 1, 29, 90_000]))
    tensor([ 0,  0,  1,  4, 16])
    """
    return (gap.clamp(min=0).double() + 1).log2().floor().long().clamp(max=BUCKETS - 1)


def event_gaps(
    padded: Padded, time: Tensor | None, anchor: Tensor | None = None, *, hide: bool
) -> Tensor:
    """Return the bucket of the time between each two events, int64 [B, L, L].

    An unknown time has the bucket BUCKETS.

    time: time of each event, [total]; None if no times are known.
    anchor: the time from which each event measures, [total]; None for its own time.
    hide: whether the times of a share TIMELESS of the rows are hidden, for training.
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
    """Tell whether any of the times is not midnight, so that hours have a meaning.

    steps: units of the times per second.
    """
    day = DAY * steps
    return bool(day > HOURS and (times % _size(times, day) != 0).any())


def last_times(time: Tensor, offsets: Tensor, place: Tensor | None) -> Tensor:
    """Return the time of the last event that each row reads, [B]; unknown for an empty history.

    time: time of each event, [total].
    offsets: bounds of the histories, [lists + 1].
    place: as in QueryTower.
    """
    if place is not None:
        return time.index_select(0, place)
    none = offsets.diff() == 0
    padded = torch.cat([time, time.new_full((1,), unknown_time(time.dtype))])
    return padded[(offsets[1:] - 1).masked_fill(none, len(time))]


def anchors(time: Tensor, offsets: Tensor, place: Tensor | None, asked: Tensor) -> Tensor:
    """Return the time from which each event measures, [total]: the time of the next event.

    For the last event that a row reads, it is the time of the row's request. So time is measured
    from the moment of the prediction, both in training and in serving.

    time: time of each event, [total].
    offsets: bounds of the histories, [lists + 1].
    place: as in QueryTower.
    asked: time of each row's request, [B].
    """
    ends = offsets[1:][offsets.diff() > 0] - 1
    after = torch.cat([time[1:], time[-1:]]).index_copy(0, ends, time.index_select(0, ends))
    if place is None:
        return after.index_copy(0, ends, asked[offsets.diff() > 0])
    return after.index_copy(0, place, asked)


def _whole(times: Tensor, step: float) -> Tensor:
    """Return the number of whole steps in each time, int64; exact for integers."""
    return torch.div(times, _size(times, step), rounding_mode="floor").nan_to_num().long()


def _size(times: Tensor, step: float) -> float:
    """Return a divisor for times: an int for integer times, which a float would make float32."""
    return round(step) if step >= 1 and not times.is_floating_point() else step


def _silent(rows: int, dim: int) -> nn.Embedding:
    """Return an embedding of zeros; row 0, for unknown values, stays zero."""
    table = nn.Embedding(rows + 1, dim, padding_idx=0)
    nn.init.zeros_(table.weight)
    return table
