"""Is a refreshed model as good as the model in service on the newest events? How do they differ?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.asking.capabilities import Channel
from shortlist.asking.queries import Queries
from shortlist.data.interactions import Interactions
from shortlist.data.renewal import Mask, Renewed
from shortlist.data.training_data import TrainingData
from shortlist.data.vocabulary import Ids
from shortlist.evaluation.evaluate import SEED
from shortlist.evaluation.significance import Interval, bootstrap_intervals
from shortlist.metrics import hits, per_user

USERS = 10_000
"""Largest number of users to compare on; a log with more is sampled with a fixed seed."""

Verdict = Literal["better or alike", "worse", "not decided"]


@dataclass(frozen=True)
class Comparison:
    """The figure of the model in service and of the refreshed one on the held-out events.

    users: number of users compared.
    metric: the metric, such as "recall@20".
    running: its mean for the model in service; None if no user could be asked.
    refreshed: its mean for the refreshed model; None if no user could be asked.
    difference: refreshed minus running, paired by user, with a 95 % interval; None likewise.
    """

    users: int
    metric: str
    running: float | None = None
    refreshed: float | None = None
    difference: Interval | None = None

    def verdict(self, least_users: int) -> Verdict:
        """Judge the refreshed model: "worse" if the whole interval of the difference is below 0.

        least_users: with fewer users the verdict is "not decided".
        """
        if self.difference is None or self.users < least_users:
            return "not decided"
        return "worse" if self.difference.side() < 0 else "better or alike"

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object."""
        difference = None if self.difference is None else self.difference.to_dict()
        return {
            "users": self.users,
            "metric": self.metric,
            "running": self.running,
            "refreshed": self.refreshed,
            "difference": difference,
        }

    def line(self) -> str:
        """Return the comparison as one sentence."""
        if self.difference is None:
            return "There was no user with held-out events to compare on."
        gap = self.difference
        return (
            f"{self.metric} of {self.users:,} users on the newest events: {self.refreshed:.4f} "
            f"refreshed, {self.running:.4f} in service, difference {gap.mean:+.4f} "
            f"{gap.between('+')}".rstrip()
            + "."
        )


@dataclass(frozen=True)
class Drift:
    """Changes between the model in service ("running") and the refreshed one.

    users: number of users whose lists are compared.
    k: length of the lists.
    scores: mean score in the lists of each model, and "shift": their difference in standard
    deviations of the running model's scores. Retrained towers may have other scores and return the
    same items, so read `churn` as well.
    popularity: total variation distance between the items' shares of the new events and of the
    earlier ones: 0 for equal shares, 1 for no common item.
    coverage: for each model, the share of its candidate items that are in at least one list.
    churn: the share of the refreshed lists' items that are not in the running model's lists.
    unknown: the shares of new events whose user or item the running model has not learned
    ("users", "items"), and for each feature how many more values the new data has ("values").
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
        """Return the drift as one sentence."""
        cover, unknown = self.coverage, self.unknown
        return (
            f"Drift: {self.churn:.0%} of the top {self.k} changed; scores moved by "
            f"{self.scores['shift']:+.2f} standard deviations, popularity by "
            f"{self.popularity:.2f}; coverage went from {cover['running']:.1%} to "
            f"{cover['refreshed']:.1%}; "
            f"{unknown['users']:.1%} of the new events are of unknown users, "
            f"{unknown['items']:.1%} of unknown items."
        )


class _Answers(NamedTuple):
    """The lists of U users.

    rows: int64 [U, k], item rows of the new data; -1 in empty places.
    scores: float32 [U, k]; -inf in empty places.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


def depth_of(depths: Sequence[int], candidates: int) -> int:
    """Return the largest k that is at most a tenth of the candidates, else the smallest k.

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
    """Compare both models on the users of the held-out events, with the events before these.

    The model in service gets the queries that a service would send: the events after those of its
    log are passed as `recent`.

    running: the model in service.
    refreshed: the refreshed model, fitted on `new`.
    new: the renewed data, whose test rows are the held-out events.
    depths: list lengths to choose from, see `depth_of`.
    deleted: ids of users who asked to be forgotten.
    exclude_seen: whether items that a user has met are left out of the lists.
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
        "running": _answers_of(running, theirs, k, data),
        "refreshed": _answers_of(refreshed, own, k, data),
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
    """Return the time of each user's held-out event, [U]; None for a model that reads no clock."""
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
    """Return the queries that a service would send to the running model for these users.

    They hold the events after those of the model's log, and the time and context of the request,
    as far as the new log has them: the same facts that the refreshed model reads from its log.
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
    if running.weighs and log.weight is not None:
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
    """Return, for each user row, the item ids of the chosen events and their positions in `log`."""
    found = []
    for user in users:
        start, end = log.indptr[user], log.indptr[user + 1]
        places = start + np.flatnonzero(chosen[start:end])
        found.append((data.items.external(log.item[places].astype(np.int64)).to_list(), places))
    return found


def _answers_of(channel: Channel, queries: Queries, k: int, data: TrainingData) -> _Answers:
    """Query a model and translate its item rows to those of `data`.

    An item that `data` does not hold gets a row of its own, so that it counts as a miss.
    """
    answer = channel.recommend(queries, min(k, len(channel.candidate_rows())))
    rows = np.asarray(answer.rows)
    translated = np.full((len(rows), k), -1, dtype=np.int64)
    scores = np.full((len(rows), k), -np.inf, dtype=np.float32)
    if rows.size:
        there = rows >= 0
        own = data.items.rows(channel.data.items.external(rows[there]))
        if channel.data is not data:
            # Rows past the catalogue, which no held-out item has.
            missing = own == 0
            own[missing] = len(data.items) + 1 + rows[there][missing]
        part = np.full(rows.shape, -1, dtype=np.int64)
        part[there] = own
        translated[:, : rows.shape[1]] = part
        scores[:, : rows.shape[1]] = np.asarray(answer.scores)
    return _Answers(translated, scores)


def _drift(
    running: Channel, refreshed: Channel, new: Renewed, asked: dict[str, _Answers], k: int
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
    """Return the total variation distance of the items' shares, new events against earlier ones."""
    log, size = new.data.log, len(new.data.items) + 1
    counts = [np.bincount(log.item[part], minlength=size) for part in (new.fresh, ~new.fresh)]
    fresh, old = (part / max(part.sum(), 1) for part in counts)
    return float(np.abs(fresh - old).sum() / 2)


def _unknown(old: TrainingData, new: Renewed) -> dict[str, Any]:
    """Return the shares of new events with unknown users or items, and counts of unknown values."""
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
