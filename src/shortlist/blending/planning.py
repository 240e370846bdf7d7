"""How many slots does each channel get? Measured on held-out rows, within a time budget."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from time import perf_counter
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from shortlist.asking.capabilities import Channel
from shortlist.asking.clock import held_out_times
from shortlist.asking.queries import Queries, checked_count
from shortlist.blending.merging import fill_slots, slot_order
from shortlist.data.interactions import BEFORE, Cut
from shortlist.data.training_data import FIT_BEFORE
from shortlist.errors import ModelError, QueryError
from shortlist.linear.from_scipy import isotonic_regression

USERS = 10_000
"""At most this many users are asked, chosen with a fixed seed."""

TIMED = 50
"""Number of queries that are timed one by one to measure the latency of a channel."""

MOST_CHANNELS = 10
"""Largest number of channels with a latency budget, because every subset is tried."""

SHORT = 10
"""If a list could hold every item, the plan is made for 1 / SHORT of the items instead."""

Floats = NDArray[np.float64]

logger = logging.getLogger("shortlist.blending")


@dataclass(frozen=True)
class Plan:
    """Proposed quotas of channels, and the figures behind them.

    Attributes:
        size: number of slots.
        users: number of users asked.
        held_out: number of their held-out items.
        quotas: slots of each channel, summing to `size`.
        alone: recall of each channel's own first `size` items.
        unique: number of held-out items that only this channel lists.
        overlap: share of the row channel's items that the column channel lists for the same user,
            [C, C].
        marginal: recall lost when the channel is left out and its slots go to the others, per 100
            of its slots; NaN for a channel without slots or without others.
        microseconds: median time of one query of each channel.
        expected: recall of the merged list with these quotas.
        equal: recall of the merged list with equal quotas.
    """

    size: int
    users: int
    held_out: int
    quotas: Mapping[str, int]
    alone: Mapping[str, float]
    unique: Mapping[str, int]
    overlap: Floats
    marginal: Mapping[str, float]
    microseconds: Mapping[str, float]
    expected: float
    equal: float

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object."""
        channels = {
            name: {
                "quota": self.quotas[name],
                "recall_alone": self.alone[name],
                "unique_hits": self.unique[name],
                "marginal_recall_per_100_slots": _json(self.marginal[name]),
                "microseconds": self.microseconds[name],
                "overlap": dict(zip(self.quotas, map(float, row), strict=True)),
            }
            for name, row in zip(self.quotas, self.overlap, strict=True)
        }
        return {
            "size": self.size,
            "users": self.users,
            "held_out": self.held_out,
            "expected_recall": self.expected,
            "equal_quotas_recall": self.equal,
            "channels": channels,
        }

    @classmethod
    def from_dict(cls, plan: Mapping[str, Any]) -> Self:
        """Restore a plan from its `to_dict()`, which must be complete."""
        channels: Mapping[str, Mapping[str, Any]] = plan["channels"]

        def of_channels(key: str) -> dict[str, Any]:
            return {name: table[key] for name, table in channels.items()}

        marginal = of_channels("marginal_recall_per_100_slots")
        return cls(
            size=plan["size"],
            users=plan["users"],
            held_out=plan["held_out"],
            quotas=of_channels("quota"),
            alone=of_channels("recall_alone"),
            unique=of_channels("unique_hits"),
            overlap=np.array([[row["overlap"][n] for n in channels] for row in channels.values()]),
            marginal={n: float("nan") if m is None else m for n, m in marginal.items()},
            microseconds=of_channels("microseconds"),
            expected=plan["expected_recall"],
            equal=plan["equal_quotas_recall"],
        )


class Lists:
    """The answers of several channels to the users of a cut, and the ranks of the held-out items.

    channels: fitted on rows before the cut. depth: depth of the lists. on: the cut.
    Errors: ModelError for channels that were fitted on the held-out rows.
    """

    def __init__(self, channels: Mapping[str, Channel], depth: int, on: Cut) -> None:
        first = next(iter(channels.values()))
        data = first.data
        if BEFORE[FIT_BEFORE[data.fit]] > BEFORE[on]:
            raise ModelError(
                f"these channels were fitted on '{data.fit}', which includes the {on} rows: plan "
                "with channels fitted on 'train'"
            )
        users, items, offsets = data.targets(on)
        pick = np.sort(np.random.default_rng(0).permutation(len(users))[:USERS])
        owner = np.repeat(np.arange(len(users)), np.diff(offsets))
        kept = np.isin(owner, pick)
        self.names = tuple(channels)
        self.depth = depth
        candidates = (channel.candidate_rows() for channel in channels.values())
        self.candidates = len(reduce(np.union1d, candidates))
        self.users = len(pick)
        self.owner, self.item = np.searchsorted(pick, owner[kept]), items[kept]
        self.weight = 1 / (np.diff(offsets)[pick][self.owner] * len(pick))
        ids = data.users.external(users[pick])
        width = len(data.items) + 1
        sought = self.owner * width + self.item
        self.rows: list[NDArray[np.int64]] = []
        ranks = []
        for channel in channels.values():
            time = held_out_times(channel, on)
            time = None if time is None else time[torch.from_numpy(pick)]
            answer = channel.recommend(Queries(ids, before=on, time=time), depth)
            rows = np.where(answer.fallback[:, None], -1, answer.rows)
            self.rows.append(rows)
            ranks.append(_ranks(rows, sought, width))
        self.ranks = np.stack(ranks)  # [C, held out], from 1; depth + 1 if it is not listed
        self.ranks[self.ranks > depth] = depth + 1
        self.stacked = np.full((len(self.rows), self.users, depth), -1, dtype=np.int64)
        for number, rows in enumerate(self.rows):
            self.stacked[number, :, : rows.shape[1]] = rows
        self.lengths = (self.stacked >= 0).sum(axis=2)
        self.microseconds = [_microseconds(channel, ids, depth) for channel in channels.values()]
        self._recalls: dict[tuple[int, ...], float] = {}

    def recall(self, quotas: NDArray[np.int64]) -> float:
        """Return the mean recall over users of the lists merged by quotas [C]; their sum is k."""
        known = tuple(map(int, quotas))
        if known not in self._recalls:
            k, count = int(quotas.sum()), len(self.names)
            chosen = np.full((self.users, k), -1, dtype=np.int64)
            by, ranks = chosen.copy(), np.zeros((self.users, k, count), dtype=np.int32)
            ends = np.where((quotas > 0)[:, None], self.lengths, 0)
            fill_slots(self.stacked, ends, slot_order(quotas, k), chosen, by, ranks)
            found = (chosen[self.owner] == self.item[:, None]).any(axis=1)
            self._recalls[known] = float(self.weight[found].sum())
        return self._recalls[known]

    def overlap(self) -> Floats:
        """Return the share of the row channel's items that the column channel has, too, [C, C]."""
        count = len(self.names)
        shares = np.eye(count)
        width = 1 + max(int(rows.max(initial=0)) for rows in self.rows)
        keys = []
        for rows in self.rows:
            owner = np.repeat(np.arange(len(rows)), rows.shape[1])
            flat = rows.reshape(-1)
            keys.append((owner * width + flat)[flat >= 0])
        for a, b in combinations(range(count), 2):
            common = len(np.intersect1d(keys[a], keys[b], assume_unique=True))
            shares[a, b] = common / max(len(keys[a]), 1)
            shares[b, a] = common / max(len(keys[b]), 1)
        return shares

    def chances(self, channel: int) -> NDArray[np.float32]:
        """Return the probability that the item at each rank is a hit, strictly falling, [depth].

        It is the isotonic regression (Ayer et al. 1955) of hits on ranks. A tiny slope is added so
        that it also falls where the regression is flat.
        """
        found = self.ranks[channel][self.ranks[channel] <= self.depth]
        share = np.bincount(found, minlength=self.depth + 1)[1:] / max(self.users, 1)
        falling = isotonic_regression(share, increasing=False).x
        rank = np.arange(1, self.depth + 1)
        chance = np.clip(falling, 0, 0.999) * (1 - 1e-3 * rank / self.depth) + 1e-9 / rank
        return np.asarray(chance, dtype=np.float32)


def plan(
    channels: Mapping[str, Channel],
    size: int,
    *,
    latency: float | None = None,
    on: Cut = "validation",
) -> Plan:
    """Propose quotas of `size` slots for channels fitted on the training rows.

    The search maximises the recall of the merged list. It starts from the best of three: one
    channel alone, equal quotas, and greedy coverage, which gives each block of slots to the channel
    that finds most new items (Nemhauser et al. 1978). Then it moves blocks of slots between
    channels while recall rises.

    If `size` slots could hold every item, all quotas are equally good. The plan is then made for a
    tenth of the items and scaled to `size`, with a warning.

    Args:
        channels: fitted channels by name.
        size: number of slots.
        latency: budget in microseconds for one query of all channels with slots together.
        on: the held-out rows to measure on.

    Raises:
        ModelError: for channels fitted on the held-out rows, or a budget that none can meet.
        QueryError: for an invalid size or latency.
    """
    size = checked_count("size", size)
    check_latency(latency)
    lists = Lists(channels, size, on)
    return plan_lists(lists, size, latency)


def check_latency(latency: float | None) -> None:
    """Check that a latency budget is finite and above 0 microseconds. Errors: QueryError."""
    if latency is not None and not 0 < latency < float("inf"):
        raise QueryError(f"latency must be > 0 microseconds, got {latency:g}")


def plan_lists(lists: Lists, size: int, latency: float | None = None) -> Plan:
    """Return the `plan` for existing lists."""
    count = len(lists.names)
    every = tuple(range(count))
    sets = _affordable(lists, latency) if latency is not None else [every]
    quotas = _best(lists, size, sets) if size < lists.candidates else _of_short(lists, size, sets)
    best = lists.recall(quotas)
    marginal = {}
    for channel, name in enumerate(lists.names):
        others = quotas.copy()
        others[channel] = 0
        marginal[name] = float("nan")
        if quotas[channel] and others.any():
            shared = np.bincount(slot_order(others, size), minlength=count)
            marginal[name] = (best - lists.recall(shared)) * 100 / quotas[channel]
    listed = lists.ranks <= size
    even = np.full(count, size // count) + (np.arange(count) < size % count)
    return Plan(
        size=size,
        users=lists.users,
        held_out=len(lists.item),
        quotas=dict(zip(lists.names, map(int, quotas), strict=True)),
        alone={name: float(lists.weight[listed[c]].sum()) for c, name in enumerate(lists.names)},
        unique={
            name: int((listed[c] & (listed.sum(axis=0) == 1)).sum())
            for c, name in enumerate(lists.names)
        },
        overlap=lists.overlap(),
        marginal=marginal,
        microseconds=dict(zip(lists.names, lists.microseconds, strict=True)),
        expected=best,
        equal=lists.recall(even),
    )


def _of_short(lists: Lists, size: int, sets: Sequence[tuple[int, ...]]) -> NDArray[np.int64]:
    """Plan for a list much shorter than the catalogue; return its quotas scaled to `size`, [C]."""
    count = len(lists.names)
    short = min(size, max(lists.candidates // SHORT, count))
    logger.warning(
        "the quotas are planned for %d slots, which could hold all %d items: the plan is made for "
        "%d slots and scaled; set blend.size to fewer slots than there are items",
        *(size, lists.candidates, short),
    )
    planned = _best(lists, short, sets)
    even = np.bincount(slot_order(_ones(count, max(sets, key=len)), short), minlength=count)
    if lists.recall(even) >= lists.recall(planned):
        planned = even
    return np.bincount(slot_order(planned, size), minlength=count)


def _affordable(lists: Lists, latency: float) -> list[tuple[int, ...]]:
    """Return the maximal sets of channels whose summed latency is within the budget."""
    count = len(lists.names)
    if count > MOST_CHANNELS:
        raise ModelError(f"a latency budget is for at most {MOST_CHANNELS} channels, got {count}")
    sets = [
        set(chosen)
        for n in range(1, count + 1)
        for chosen in combinations(range(count), n)
        if sum(lists.microseconds[c] for c in chosen) <= latency
    ]
    if not sets:
        cheapest = min(zip(lists.microseconds, lists.names, strict=True))
        raise ModelError(
            f"no channel answers within {latency:g} microseconds: the fastest is "
            f"'{cheapest[1]}' with {cheapest[0]:.0f}"
        )
    return [tuple(sorted(s)) for s in sets if not any(s < other for other in sets)]


def _best(lists: Lists, size: int, sets: Sequence[tuple[int, ...]]) -> NDArray[np.int64]:
    found = [_searched(lists, size, chosen) for chosen in sets]
    return max(found, key=lists.recall)


def _searched(lists: Lists, size: int, chosen: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the best quotas found for the chosen channels, [C]."""
    count = len(lists.names)
    starts = [size * np.eye(count, dtype=np.int64)[channel] for channel in chosen]
    starts.append(np.bincount(slot_order(_ones(count, chosen), size), minlength=count))
    starts.append(_greedy(lists, size, chosen))
    quotas: NDArray[np.int64] = max(starts, key=lists.recall)
    for step in sorted({max(1, size // part) for part in (4, 10, 25)}, reverse=True):
        quotas = _exchanged(lists, quotas, chosen, step)
    return quotas


def _ones(count: int, chosen: tuple[int, ...]) -> NDArray[np.int64]:
    ones = np.zeros(count, dtype=np.int64)
    ones[list(chosen)] = 1
    return ones


def _greedy(lists: Lists, size: int, chosen: tuple[int, ...]) -> NDArray[np.int64]:
    """Give `size` slots, block by block, to the channel that finds most new held-out items, [C]."""
    block = max(1, size // 20)
    quotas = np.zeros(len(lists.names), dtype=np.int64)
    while (left := size - int(quotas.sum())) > 0:
        missed = ~(lists.ranks <= quotas[:, None]).any(axis=0)
        slots = min(block, left)
        gains = []
        for channel in chosen:
            ranks, weight = lists.ranks[channel][missed], lists.weight[missed]
            gains.append((weight[ranks <= quotas[channel] + slots].sum(), -channel))
        quotas[-max(gains)[1]] += slots
    return quotas


def _exchanged(
    lists: Lists, quotas: NDArray[np.int64], chosen: tuple[int, ...], step: int
) -> NDArray[np.int64]:
    """Move `step` slots at a time between channels while recall rises; return the quotas, [C]."""
    best = lists.recall(quotas)
    improved = True
    while improved:
        improved = False
        for giver in chosen:
            for taker in chosen:
                moved = quotas.copy()
                slots = min(step, int(moved[giver]))
                moved[giver] -= slots
                moved[taker] += slots
                if giver != taker and slots and lists.recall(moved) > best:
                    quotas, best, improved = moved, lists.recall(moved), True
    return quotas


def _ranks(rows: NDArray[np.int64], sought: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Return the rank, from 1, of each sought key (query · width + item) in lists [U, n].

    An absent item has the largest int32.
    """
    owner, place = np.nonzero(rows >= 0)
    keys = owner * width + rows[owner, place]
    order = np.argsort(keys)
    keys, place = keys[order], place[order]
    if not len(keys):
        return np.full(len(sought), np.iinfo(np.int32).max, dtype=np.int64)
    at = np.searchsorted(keys, sought).clip(max=len(keys) - 1)
    ranks: NDArray[np.int64] = np.where(keys[at] == sought, place[at] + 1, np.iinfo(np.int32).max)
    return ranks


def _microseconds(channel: Channel, ids: pl.Series, k: int) -> float:
    """Return the median time of one query, in microseconds."""
    times = []
    for at in range(min(TIMED, len(ids))):
        start = perf_counter()
        channel.recommend(Queries(ids[at : at + 1]), k)
        times.append(perf_counter() - start)
    return float(np.median(times) * 1e6) if times else 0.0


def _json(value: float) -> float | None:
    return None if np.isnan(value) else value
