"""Several channels, one answer (多路召回): quotas or fusion, each item once, its origin kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.config.sections import Blend as BlendOptions
from shortlist.config.sections import Segment
from shortlist.data.dataset import Fit, Split, TrainingData
from shortlist.data.vocabulary import Ids
from shortlist.errors import ModelError, QueryError, suggest
from shortlist.retrievers.base import Candidates, Queries, State, as_queries, check_k
from shortlist.retrievers.channels import CHANNELS
from shortlist.retrievers.learning import Learner
from shortlist.retrievers.merging import fill_slots, fuse, slot_order
from shortlist.retrievers.options import checked_options
from shortlist.retrievers.planning import Lists, Plan, plan_lists
from shortlist.retrievers.popular import Popular
from shortlist.retrievers.quotas import keeping_quota
from shortlist.retrievers.unfitted import FittedFirst, check_split
from shortlist.training.checkpoint import Checkpoints
from shortlist.training.progress import Progress

QUERIES_AT_A_TIME = 2048
POPULAR = "(popular)"
"""What the items are attributed to that no channel gave."""

RANK_CONSTANT = 60.0
SIZE = 100
CALIBRATED_DEPTH = 500
"""How deep the lists are that chances of a hit are measured on."""


@dataclass(frozen=True)
class Blended(Candidates):
    """Candidates that remember where they come from.

    channels: names; by: [B, k] the position of the channel that gave the slot, -1 past the end;
    ranks: [B, k, C] the rank of the item in each channel, from 1, 0 where it is not listed.
    """

    channels: tuple[str, ...]
    by: NDArray[np.int64]
    ranks: NDArray[np.int32]

    def to_frame(self) -> pl.DataFrame:
        """Add to each candidate its channel, and its rank in every channel (null: not listed)."""
        query, place = np.nonzero(self.rows >= 0)
        names = np.array(self.channels)
        frame = super().to_frame().with_columns(channel=pl.Series(names[self.by[query, place]]))
        for number, name in enumerate(self.channels):
            ranks = pl.Series(self.ranks[query, place, number])
            frame = frame.with_columns(
                pl.when(ranks > 0).then(ranks).otherwise(None).alias(f"rank_{name}")
            )
        return frame


class Blend(FittedFirst):
    """Channels by name, merged into one list in which every item stands once.

    The score of a quota list is 1 / position: slots cannot be compared otherwise. Of the other
    methods it is the sum of what each channel says of the item: reciprocal ranks (Cormack et al.
    2009), stretched scores, or chances of a hit measured on the validation rows.

    A channel that knows nothing of a query gives it nothing; a list that stays short is filled by
    the `fallback` channels, then by popular items. The fallback flag is set where no channel knew
    anything. `plan` says, after `fit`, why the quotas are what they are.
    """

    data: TrainingData

    def __init__(
        self,
        channels: Mapping[str, Any],
        options: BlendOptions | None = None,
        *,
        device: str = "cpu",  # noqa: ARG002 - the channels have theirs
        **given: Any,
    ) -> None:
        if not channels:
            raise ModelError("a blend needs at least one channel")
        self.channels = dict(channels)
        self.options = checked_options(BlendOptions, options, given, "Blend")
        check_channels(self.options, self.channels)
        self.plan: Plan | None = None
        self.quotas = self.options.quotas
        self.chances: dict[str, Tensor] = {}
        self._orders: dict[tuple[int, ...], NDArray[np.int64]] = {}

    def fit(
        self,
        split: Split,
        fit: Fit = "train",
        *,
        progress: Progress | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> Self:
        """Fit every channel; where quotas or chances are to be learned, do so on validation rows.

        They are learned from channels fitted on the training rows alone: with another `fit` the
        channels are fitted twice.
        """
        check_split(split)
        learns = self.options.method == "calibrated" or (
            self.options.method == "quotas" and self.options.quotas is None
        )
        for name, channel in self.channels.items():
            channel.fit(split, progress=progress, **_saved(channel, name, checkpoints))
        self._adopt()
        if learns:
            if progress is not None:
                progress.stage("asking the channels for the validation users")
            self._learn()
        if fit != "train":
            self.refit(split, fit, progress=progress, checkpoints=checkpoints)
        return self

    def refit(
        self,
        split: Split,
        fit: Fit,
        *,
        progress: Progress | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> Self:
        """Fit the channels again, on the rows `fit` names; quotas and chances stay."""
        for name, channel in self.channels.items():
            channel.refit(split, fit, progress=progress, **_saved(channel, name, checkpoints))
        self._adopt()
        return self

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that any channel can recommend."""
        rows: NDArray[np.int64] = self._candidates
        return rows

    @keeping_quota
    def recommend(self, queries: Queries | Ids, k: int = 10) -> Blended:
        """Return the k best items of each query over all channels, what it has met left out."""
        wanted = as_queries(queries)
        k = check_k(k, len(self._candidates))
        parts = [
            self._merge(_slice(wanted, at, at + QUERIES_AT_A_TIME), k)
            for at in range(0, len(wanted), QUERIES_AT_A_TIME)
        ]
        names = (*self.channels, POPULAR)
        if not parts:
            parts = [_nothing(0, k, len(names))]
        rows, scores, by, ranks, fallback = (np.concatenate(p) for p in zip(*parts, strict=True))
        return Blended(rows, scores, fallback, self.data.items, names, by, ranks)

    def similar(self, items: Ids, k: int = 10) -> Candidates:
        """Return the similar items of the first channel that knows what is similar."""
        for channel in self.channels.values():
            if hasattr(channel, "similar"):
                try:
                    found: Candidates = channel.similar(items, k)
                except QueryError:
                    continue
                return found
        raise QueryError("none of the channels knows which items are similar")

    def explain(self, queries: Queries | Ids, items: Sequence[Ids]) -> pl.DataFrame:
        """Return the reasons of every channel that can give them, with its name as `channel`.

        Contributions are in the channel's own scores and sum to them, not to the blend's. The
        reasons of an item stand together, those of fallback channels last.
        """
        parts = []
        first = [name for name in self.channels if name not in self.options.fallback]
        for name in (*first, *self.options.fallback):
            channel = self.channels[name]
            if hasattr(channel, "explain"):
                reasons = channel.explain(queries, items)
                parts.append(reasons.with_columns(pl.lit(name).alias("channel")))
        if not parts:
            raise QueryError("none of the channels can say why")
        place = pl.int_range(pl.len()).min().over("query", "item")
        every: pl.DataFrame = pl.concat(parts).sort("query", place, maintain_order=True)
        return every

    def observe(self, data: TrainingData) -> Self:
        """Let every channel take new events: `data` is the old data with them."""
        for channel in self.channels.values():
            channel.observe(data)
        self._adopt()
        return self

    def state(self) -> State:
        """Return the settings of the blend and its channels, and the channels' tensors."""
        names = {kind: name for name, kind in CHANNELS.items()}
        states: dict[str, dict[str, Tensor]] = {}
        described = []
        for name, channel in self.channels.items():
            settings, tensors = channel.state()
            described.append(
                {"name": name, "retriever": names[type(channel)], "settings": settings}
            )
            states |= {f"{name}.{file}": state for file, state in tensors.items()}
        if self.chances:
            states["chances"] = dict(self.chances)
        settings = {
            "options": self.options.model_dump(mode="json"),
            "quotas": self.quotas,
            "channels": described,
            "plan": self.plan.to_dict() if self.plan else None,
        }
        return settings, states

    @classmethod
    def from_state(
        cls,
        data: TrainingData,
        settings: Mapping[str, Any],
        states: Mapping[str, Mapping[str, Tensor]],
        *,
        device: str = "cpu",
    ) -> Self:
        """Return the blend that `state` came from: it gives the same answers, bit for bit."""
        channels = {}
        for described in settings["channels"]:
            name = described["name"]
            own = {
                file.removeprefix(f"{name}."): tensors
                for file, tensors in states.items()
                if file.startswith(f"{name}.")
            }
            kind = CHANNELS[described["retriever"]]
            channels[name] = kind.from_state(data, described["settings"], own, device=device)
        blend = cls(channels, **settings["options"])
        blend.quotas = settings["quotas"]
        blend.chances = dict(states.get("chances", {}))
        blend._adopt()
        return blend

    def _adopt(self) -> None:
        """Take over the data the channels were fitted on."""
        channels = list(self.channels.values())
        self.data = channels[0].data
        self._popular = Popular().fit_data(self.data)
        self._belongs = {
            number: self._of_feature(segment)
            for number, segment in enumerate(self.options.segments)
            if segment.feature is not None
        }
        self._candidates = reduce(np.union1d, [c.candidate_rows() for c in channels])

    def _learn(self) -> None:
        """Plan the quotas, or measure the chances of a hit, on the validation rows."""
        asked = {n: c for n, c in self.channels.items() if n not in self.options.fallback}
        if self.options.method == "quotas":
            size = self.options.size or SIZE
            self.plan = plan_lists(Lists(asked, size, "validation"), size, self.options.latency)
            self.quotas = dict(self.plan.quotas)
            return
        depth = min(CALIBRATED_DEPTH, len(self._candidates))
        lists = Lists(asked, depth, "validation")
        self.chances = {
            name: torch.from_numpy(lists.chances(number)) for number, name in enumerate(asked)
        }

    def _merge(self, queries: Queries, k: int) -> tuple[NDArray[Any], ...]:
        """Rows, scores, channel, ranks and fallback flag of some queries."""
        count = len(self.channels)
        lists = np.full((count, len(queries), k), -1, dtype=np.int64)
        lengths = np.zeros((count, len(queries)), dtype=np.int64)
        scores = np.zeros((count, len(queries), k), dtype=np.float32)
        segments = self._segments(queries)
        for number, (name, channel) in enumerate(self.channels.items()):
            if not self._asked(name):
                continue
            answer = channel.recommend(queries, min(k, len(channel.candidate_rows())))
            width = answer.rows.shape[1]
            lists[number, :, :width], scores[number, :, :width] = answer.rows, answer.scores
            lengths[number] = np.where(answer.fallback, 0, (answer.rows >= 0).sum(axis=1))
        chosen, gained, by, ranks, _ = _nothing(len(queries), k, count + 1)
        if self.options.method == "quotas":
            self._fill(lists, lengths, segments, (chosen, by, ranks))
        else:
            gains = self._gains(lists, lengths, scores)
            own = np.zeros((len(queries), k, count), dtype=np.int32)
            keys = self.data.items.tie_keys
            fuse(lists, lengths, gains, keys, chosen, gained, by, own)
            ranks[:, :, :count] = own
        fallback = (lengths == 0).all(axis=0)
        short = np.flatnonzero((chosen < 0).any(axis=1))
        for name in (*self.options.fallback, POPULAR):
            if len(short):
                self._fill_up(name, queries, short, (chosen, by, ranks))
                short = short[(chosen[short] < 0).any(axis=1)]
        if self.options.method == "quotas":
            gained = _by_position(chosen)
        else:
            gained = np.where(by < count, gained, 0).astype(np.float32)
            gained[chosen < 0] = -np.inf
        return chosen, gained, by, ranks, fallback

    def _asked(self, name: str) -> bool:
        if name in self.options.fallback:
            return False
        if self.options.method != "quotas":
            return True
        every = [self.quotas or {}, *(segment.quotas for segment in self.options.segments)]
        return any(quotas.get(name, 0) > 0 for quotas in every)

    def _fill(
        self,
        lists: NDArray[np.int64],
        lengths: NDArray[np.int64],
        segments: NDArray[np.int64],
        into: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]],
    ) -> None:
        """Fill the slots of each segment by its quotas."""
        k, count = lists.shape[2], lists.shape[0]
        if not self.options.segments:
            fill_slots(lists, lengths, self._slots(self.quotas, k), *into)
            return
        for number in np.unique(segments):
            quotas = self.quotas if number < 0 else self.options.segments[number].quotas
            slots = self._slots(quotas, k)
            mine = np.flatnonzero(segments == number)
            # A channel without slots in this segment gives nothing, not even to fill up.
            allowed = np.array([(quotas or {}).get(name, 0) > 0 for name in self.channels])
            ends = np.where(allowed[:, None], lengths[:, mine], 0)
            chosen, _, by, ranks, _ = _nothing(len(mine), k, count + 1)
            fill_slots(np.ascontiguousarray(lists[:, mine]), ends, slots, chosen, by, ranks)
            into[0][mine], into[1][mine], into[2][mine] = chosen, by, ranks

    def _slots(self, quotas: Mapping[str, int] | None, k: int) -> NDArray[np.int64]:
        """Whose turn each of k slots is; remembered, as k seldom changes."""
        if not quotas:
            raise ModelError("the quotas are not planned yet: fit the blend first")
        key = (k, *(quotas.get(name, 0) for name in self.channels))
        if key not in self._orders:
            self._orders = {key: slot_order(np.array(key[1:]), k)}
        return self._orders[key]

    def _fill_up(
        self,
        name: str,
        queries: Queries,
        short: NDArray[np.int64],
        into: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]],
    ) -> None:
        """Let one channel fill what is left of the lists in the rows `short`."""
        chosen, by, ranks = into
        k = chosen.shape[1]
        number = [*self.channels, POPULAR].index(name)
        channel = self._popular if name == POPULAR else self.channels[name]
        answer = channel.recommend(_take(queries, short), min(k, len(channel.candidate_rows())))
        lists = np.full((2, len(short), k), -1, dtype=np.int64)
        lists[0], lists[1, :, : answer.rows.shape[1]] = chosen[short], answer.rows
        lengths = (lists >= 0).sum(axis=2)
        if name != POPULAR:
            lengths[1] = np.where(answer.fallback, 0, lengths[1])
        merged, _, source, places, _ = _nothing(len(short), k, 2)
        fill_slots(lists, lengths, np.zeros(k, dtype=np.int64), merged, source, places)
        new = source == 1
        before = by[short]
        chosen[short] = merged
        by[short] = np.where(new, number, before)
        ranks[short, :, number] = places[:, :, 1]

    def _gains(
        self,
        lists: NDArray[np.int64],
        lengths: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """What each place of each list gives its item, [C, B, k] float32."""
        options, k = self.options, lists.shape[2]
        weights = np.array([(options.weights or {}).get(n, 1.0) for n in self.channels])
        if options.method == "reciprocal-rank":
            curve = 1 / ((options.rank_constant or RANK_CONSTANT) + np.arange(1, k + 1))
            gains = np.broadcast_to((weights[:, None] * curve)[:, None, :], lists.shape)
            return np.ascontiguousarray(gains, dtype=np.float32)
        if options.method == "calibrated":
            curves = np.zeros((len(self.channels), k))
            for number, name in enumerate(self.channels):
                if name in self.chances:
                    chance = self.chances[name].numpy()[:k].astype(np.float64)
                    curves[number, : len(chance)] = -np.log1p(-chance)
            return np.ascontiguousarray(
                np.broadcast_to(curves[:, None, :], lists.shape), dtype=np.float32
            )
        inside = np.arange(k) < lengths[:, :, None]
        high = np.where(inside, scores, -np.inf).max(axis=2, keepdims=True, initial=-np.inf)
        low = np.where(inside, scores, np.inf).min(axis=2, keepdims=True, initial=np.inf)
        span = np.where(inside & (high > low), high - low, 1)
        stretched = np.where(inside & (high > low), (scores - low) / span, inside)
        return (weights[:, None, None] * stretched).astype(np.float32)

    def _segments(self, queries: Queries) -> NDArray[np.int64]:
        """The first segment that fits each query, [B]; -1 for none."""
        found = np.full(len(queries), -1, dtype=np.int64)
        if not self.options.segments:
            return found
        if queries.users is not None:
            rows = self.data.users.rows(queries.users)
            sizes = np.diff(self.data.log.before(queries.before).indptr)[rows]
        else:
            lists = queries.histories or ()
            rows = np.zeros(len(lists), dtype=np.int64)
            flat = [item for items in lists for item in items]
            known = self.data.items.rows(flat) > 0 if flat else np.zeros(0, dtype=np.bool_)
            owner = np.repeat(np.arange(len(lists)), [len(items) for items in lists])
            sizes = np.bincount(owner[known], minlength=len(lists))
        for number, segment in reversed(list(enumerate(self.options.segments))):
            if segment.history_below is not None:
                found[sizes < segment.history_below] = number
            else:
                found[self._belongs[number][rows]] = number
        return found

    def _of_feature(self, segment: Segment) -> NDArray[np.bool_]:
        """Which user rows belong to a segment of a feature, [users + 1]."""
        frame, name = self.data.user_frame, segment.feature or ""
        if frame is None or name not in frame.columns:
            known = [] if frame is None else frame.columns
            raise ModelError(
                f"blend.segments: no user table has a column '{name}'."
                + (suggest(name, known) if known else "")
            )
        wanted = pl.col(name).cast(pl.String).is_in(list(segment.values or ()))
        rows = self.data.users.rows(frame.filter(wanted)["id"])
        belongs = np.zeros(len(self.data.users) + 1, dtype=np.bool_)
        belongs[rows] = True
        belongs[0] = False
        return belongs


def check_channels(options: BlendOptions, names: Mapping[str, Any]) -> None:
    """Refuse names of channels that are not there, and channels that would never be asked."""
    asked: dict[str, Mapping[str, Any]] = {
        "blend.quotas": options.quotas or {},
        "blend.weights": options.weights or {},
        "blend.fallback": dict.fromkeys(options.fallback),
        **{
            f"blend.segments[{number}].quotas": segment.quotas
            for number, segment in enumerate(options.segments)
        },
    }
    for where, given in asked.items():
        for name in given:
            if name not in names:
                raise ModelError(f"{where}: there is no channel '{name}'.{suggest(name, names)}")
            if where != "blend.fallback" and name in options.fallback:
                raise ModelError(f"{where}: '{name}' is a fallback, which has no slots of its own")
    if set(options.fallback) == set(names):
        raise ModelError("blend.fallback names every channel: one must be asked first")
    if options.quotas is not None:
        given_slots = set(options.quotas) | {n for s in options.segments for n in s.quotas}
        idle = [name for name in names if name not in {*given_slots, *options.fallback}]
        if idle:
            raise ModelError(
                f"blend.quotas gives the channel '{idle[0]}' no slot: name it (0 is allowed), or "
                "remove the channel"
            )


def _saved(channel: Any, name: str, checkpoints: Checkpoints | None) -> dict[str, Checkpoints]:
    """Where a channel with towers saves its training; the others are fitted again, in no time."""
    if checkpoints is None or not isinstance(channel, Learner):
        return {}
    return {"checkpoints": checkpoints.of(name)}


def _nothing(queries: int, k: int, channels: int) -> tuple[NDArray[Any], ...]:
    return (
        np.full((queries, k), -1, dtype=np.int64),
        np.full((queries, k), -np.inf, dtype=np.float32),
        np.full((queries, k), -1, dtype=np.int64),
        np.zeros((queries, k, channels), dtype=np.int32),
        np.zeros(queries, dtype=np.bool_),
    )


def _by_position(chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """1 / position, -inf past the end of a list."""
    score = np.broadcast_to(1 / np.arange(1, chosen.shape[1] + 1), chosen.shape)
    return np.where(chosen >= 0, score, -np.inf).astype(np.float32)


def _slice(queries: Queries, start: int, stop: int) -> Queries:
    if queries.users is not None:
        return replace(queries, users=queries.users[start:stop])
    return replace(queries, histories=(queries.histories or ())[start:stop])


def _take(queries: Queries, positions: NDArray[np.int64]) -> Queries:
    if len(positions) == len(queries):
        return queries
    if queries.users is not None:
        users = pl.Series(list(queries.users), strict=False)
        return replace(queries, users=users.gather(positions))
    lists = queries.histories or ()
    return replace(queries, histories=[lists[at] for at in positions])
