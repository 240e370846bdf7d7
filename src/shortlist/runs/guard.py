"""Is a refreshed model as good as the one in service, on the newest events, and what has moved?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.asking.capabilities import Channel
from shortlist.asking.queries import Queries
from shortlist.data.dataset import TrainingData
from shortlist.data.interactions import Interactions
from shortlist.data.renewal import Mask, Renewed
from shortlist.data.vocabulary import Ids
from shortlist.evaluation.evaluate import SEED
from shortlist.evaluation.significance import Interval, bootstrap_intervals
from shortlist.metrics import hits, per_user

USERS = 10_000
"""At most so many users are asked; which ones is fixed."""

Verdict = Literal["better or alike", "worse", "not decided"]


@dataclass(frozen=True)
class Comparison:
    """What the model in service and the refreshed one find of the held-out events.

    metric: such as "recall@20"; difference: refreshed minus running, paired by user, with its 95 %
    interval. None where nobody could be asked.
    """

    users: int
    metric: str
    running: float | None = None
    refreshed: float | None = None
    difference: Interval | None = None

    def verdict(self, least_users: int) -> Verdict:
        """Say which is better: not decided below so many users."""
        if self.difference is None or self.users < least_users:
            return "not decided"
        return "worse" if self.difference.high < 0 else "better or alike"

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object."""
        difference = None if self.difference is None else self.difference._asdict()
        return {
            "users": self.users,
            "metric": self.metric,
            "running": self.running,
            "refreshed": self.refreshed,
            "difference": difference,
        }

    def line(self) -> str:
        """Say it in a sentence."""
        if self.difference is None:
            return "No user with held-out events could be asked."
        gap = self.difference
        return (
            f"{self.metric} of {self.users:,} users on the newest events: {self.refreshed:.4f} "
            f"refreshed, {self.running:.4f} in service, difference {gap.mean:+.4f} "
            f"[{gap.low:+.4f}, {gap.high:+.4f}]."
        )


@dataclass(frozen=True)
class Drift:
    """What has moved between the model in service and the refreshed one.

    scores: means of the scores in the lists of the same users, and the shift in standard deviations
    of the running ones (other towers may score otherwise and answer alike: see churn). popularity:
    half the sum of the differences of the items' shares, among the new events and before: 0 alike,
    1 nothing in common. coverage: the share of each one's candidates that stands in a list. churn:
    the share of a list that is not in the other one. unknown: the shares of new events whose user,
    or item, the running model does not know, and of each feature the values that it does not.
    """

    users: int
    k: int
    scores: dict[str, float]
    popularity: float
    coverage: dict[str, float]
    churn: float
    unknown: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object."""
        return dict(self.__dict__)

    def line(self) -> str:
        """Say it in a sentence."""
        cover, unknown = self.coverage, self.unknown
        return (
            f"Drift: {self.churn:.0%} of the top {self.k} changed; scores moved by "
            f"{self.scores['shift']:+.2f} deviations, popularity by {self.popularity:.2f}; "
            f"coverage {cover['running']:.1%} to {cover['refreshed']:.1%}; new events of unknown "
            f"users {unknown['users']:.1%}, of unknown items {unknown['items']:.1%}."
        )


class _Asked(NamedTuple):
    """The lists of some users, rows of the new data [U, k] (-1 past the end), and their scores."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


def depth_of(depths: Sequence[int], candidates: int) -> int:
    """Return the deepest list that is at most a tenth of the candidates, else the shortest.

    >>> depth_of([10, 20, 100], 500), depth_of([10, 20, 100], 50)
    (20, 10)
    """
    fitting = [k for k in depths if k <= candidates / 10]
    return min(max(fitting, default=min(depths)), candidates)


def judged(
    running: Channel,
    refreshed: Channel,
    new: Renewed,
    *,
    depths: Sequence[int],
    deleted: Sequence[Any] = (),
    exclude_seen: bool = True,
) -> tuple[Comparison, Drift]:
    """Ask both for the users of the held-out events, with what was known before these.

    The one in service is asked as the service asks it: with the events since its log as `recent`.
    """
    data = new.data
    users, items, offsets = data.targets("test")
    k = depth_of(depths, len(refreshed.candidate_rows()))
    if len(users) > USERS:
        chosen = np.sort(np.random.default_rng(SEED).permutation(len(users))[:USERS])
        lengths = np.diff(offsets)[chosen]
        picked = np.repeat(
            offsets[:-1][chosen] - np.concatenate([[0], lengths.cumsum()[:-1]]), lengths
        )
        items = items[picked + np.arange(len(picked))]
        users, offsets = users[chosen], np.concatenate([[0], lengths.cumsum()])
    ids = data.users.external(users)
    own = Queries(ids, before="test", exclude_seen=exclude_seen)
    theirs = _as_served(running, new, users, ids, set(deleted), exclude_seen=exclude_seen)
    own = replace(own, time=_times_of(refreshed, data, users))
    asked = {
        "running": _asked(running, theirs, k, data),
        "refreshed": _asked(refreshed, own, k, data),
    }
    metric = f"recall@{k}"
    comparison = Comparison(len(users), metric)
    if len(users):
        figures = {
            name: per_user(hits(found.rows, items, offsets), np.diff(offsets), [k])[metric]
            for name, found in asked.items()
        }
        figures["difference"] = figures["refreshed"] - figures["running"]
        found = bootstrap_intervals(figures, SEED)
        comparison = Comparison(
            len(users), metric, found["running"].mean, found["refreshed"].mean, found["difference"]
        )
    return comparison, _drift(running, refreshed, new, asked, k)


def _times_of(model: Channel, data: TrainingData, users: NDArray[np.int64]) -> Tensor | None:
    """When the held-out event of each of these users was; None for a model that reads no clock."""
    times = data.times_of_targets("test") if model.reads_clock else None
    if times is None:
        return None
    return torch.from_numpy(times[np.searchsorted(data.targets("test")[0], users)])


def _as_served(
    running: Channel,
    new: Renewed,
    users: NDArray[np.int64],
    ids: Ids,
    deleted: set[Any],
    *,
    exclude_seen: bool,
) -> Queries:
    """The question that a service would ask the running model of these users now.

    It tells what the model reads of the moment and of the events since its log, as far as the new
    log knows it: what the refreshed model finds there.
    """
    data, log = new.data, new.data.log
    known = ~new.held_out & new.fresh
    recent = _lists(data, log, known, users)
    given: dict[str, Any] = {
        "recent": [items for items, _ in recent],
        "time": _times_of(running, data, users),
    }
    if log.kinds is not None and log.kind is not None:
        names = log.kinds.names
        given["kinds"] = [[names[code] for code in log.kind[places]] for _, places in recent]
    if running.timed and log.time is not None:
        given["times"] = [torch.from_numpy(log.time[places]) for _, places in recent]
    if log.weight is not None:
        given["weights"] = [log.weight[places].tolist() for _, places in recent]
    features, columns = data.event_features, data.event_features.columns_of(log)
    given["event_features"] = {
        name: [features.told(name, columns[name][places]) for _, places in recent]
        for name in running.history_features - {features.of_kind}
    }
    asked_for = data.first_held_out["test"][users]
    given["context"] = {
        name: features.told(name, columns[name][asked_for]) for name in running.query_context
    }
    if data.met is not None and data.met.role is not None:
        before = new.fresh_met & (data.met.role == 0)
        given["met"] = [items for items, _ in _lists(data, data.met, before, users)]
    if deleted:
        given["forgotten"] = [user in deleted for user in ids]
    return Queries(ids, exclude_seen=exclude_seen, **given)


def _lists(
    data: TrainingData, log: Interactions, chosen: Mask, users: NDArray[np.int64]
) -> list[tuple[list[Any], NDArray[np.int64]]]:
    """Of each user row, the ids of the items of the chosen events, and the places of these."""
    found = []
    for user in users:
        start, end = log.indptr[user], log.indptr[user + 1]
        places = start + np.flatnonzero(chosen[start:end])
        found.append((data.items.external(log.item[places].astype(np.int64)).to_list(), places))
    return found


def _asked(channel: Channel, queries: Queries, k: int, data: TrainingData) -> _Asked:
    """Ask, and call the items by the rows of `data`; an item that it does not hold is a miss."""
    answer = channel.recommend(queries, min(k, len(channel.candidate_rows())))
    rows = np.asarray(answer.rows)
    translated = np.full((len(rows), k), -1, dtype=np.int64)
    scores = np.full((len(rows), k), -np.inf, dtype=np.float32)
    if rows.size:
        there = rows >= 0
        own = data.items.rows(channel.data.items.external(rows[there]))
        if channel.data is not data:
            # Each in a place of its own, that no held-out item has.
            missing = own == 0
            own[missing] = len(data.items) + 1 + rows[there][missing]
        part = np.full(rows.shape, -1, dtype=np.int64)
        part[there] = own
        translated[:, : rows.shape[1]] = part
        scores[:, : rows.shape[1]] = np.asarray(answer.scores)
    return _Asked(translated, scores)


def _drift(
    running: Channel, refreshed: Channel, new: Renewed, asked: dict[str, _Asked], k: int
) -> Drift:
    scores = {name: found.scores[np.isfinite(found.scores)] for name, found in asked.items()}
    means = {name: float(part.mean()) if len(part) else 0.0 for name, part in scores.items()}
    spread = float(scores["running"].std()) if len(scores["running"]) else 0.0
    before, after = asked["running"].rows, asked["refreshed"].rows
    kept = [len(np.intersect1d(a[a >= 0], b[b >= 0])) for a, b in zip(before, after, strict=True)]
    length = int((after >= 0).sum())
    candidates = {"running": running, "refreshed": refreshed}
    return Drift(
        users=len(before),
        k=k,
        scores={
            **means,
            "shift": (means["refreshed"] - means["running"]) / spread if spread > 0 else 0.0,
        },
        popularity=_moved(new),
        coverage={
            name: len(np.unique(found.rows[found.rows >= 0]))
            / max(len(candidates[name].candidate_rows()), 1)
            for name, found in asked.items()
        },
        churn=1 - sum(kept) / length if length else 0.0,
        unknown=_unknown(running.data, new),
    )


def _moved(new: Renewed) -> float:
    """Half the sum of the differences of the shares of items, in the new events and before."""
    log, size = new.data.log, len(new.data.items) + 1
    counts = [np.bincount(log.item[part], minlength=size) for part in (new.fresh, ~new.fresh)]
    fresh, old = (part / max(part.sum(), 1) for part in counts)
    return float(np.abs(fresh - old).sum() / 2)


def _unknown(old: TrainingData, new: Renewed) -> dict[str, Any]:
    """Which part of the new events is of users, items and values that a model does not know."""
    log, found = new.data.log, {}
    for side in ("user", "item"):
        known, ids = getattr(old, f"{side}s"), getattr(new.data, f"{side}s")
        rows = known.rows(ids.ids)
        strange = np.concatenate([[False], (rows == 0) | (rows > known.trained)])
        mine = strange[getattr(log, side)[new.fresh]]
        found[f"{side}s"] = float(mine.mean()) if len(mine) else 0.0
    values = {}
    for side in ("user", "item"):
        before = getattr(old, f"{side}_features").encoders
        for name, encoder in getattr(new.data, f"{side}_features").encoders.items():
            if hasattr(encoder, "values"):
                values[f"{side}.{name}"] = len(encoder.values) - len(before[name].values)
    return {**found, "values": values}
