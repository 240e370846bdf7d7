"""How do several channels (多路召回) give one answer? By quotas or fusion, with each item once."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.asking.candidates import Answer, Candidates, Origin
from shortlist.asking.capabilities import Channel, Explains, FindsSimilar, Refreshes, State
from shortlist.asking.explaining import Explaining
from shortlist.asking.gone import found_by
from shortlist.asking.rows import RowQueries
from shortlist.asking.unfitted import check_data, check_split
from shortlist.blending.checks import check_channels
from shortlist.blending.gains import gains
from shortlist.blending.merged import Merged
from shortlist.blending.merging import fill_slots, fuse, slot_order
from shortlist.blending.planning import Lists, Plan, plan_lists
from shortlist.blending.segments import Segments
from shortlist.channels.counting.popular import Popular
from shortlist.channels.kept import check_tensors
from shortlist.channels.learned.base import Learner
from shortlist.channels.options import checked_options, on_cpu
from shortlist.channels.table import CHANNELS
from shortlist.config.blend import Blend as BlendOptions
from shortlist.data.dataset import Split
from shortlist.data.training_data import Fit, TrainingData
from shortlist.data.vocabulary import Ids, Vocabulary
from shortlist.errors import ModelError, QueryError, nameless
from shortlist.index.base import Hits
from shortlist.training.checkpoint import Checkpoints
from shortlist.training.lesson import Lesson
from shortlist.training.progress import Progress, of_part

POPULAR = "(popular)"
"""The channel name of items that only the final popularity fallback gave."""

SIZE = 100
CALIBRATED_DEPTH = 500
"""Depth of the lists on which hit probabilities are measured."""


@dataclass(frozen=True, repr=False)
class Blended(Candidates):
    """Candidates with the channels that they come from.

    channels: names of the C channels, the popularity fallback last.
    by: position in `channels` of the channel that gave each slot, [B, k]; -1 past the end.
    ranks: rank of each item in each channel, from 1, [B, k, C]; 0 if the channel does not list it.
    """

    channels: tuple[str, ...]
    by: NDArray[np.int64]
    ranks: NDArray[np.int32]

    def to_frame(self) -> pl.DataFrame:
        """Return `Candidates.to_frame` with two more kinds of columns.

        channel: the channel that gave the item.
        rank_NAME: rank of the item in the channel NAME, from 1; null if it is not listed there.
        """
        query, place = np.nonzero(self.rows >= 0)
        names = np.array(self.channels)
        frame = super().to_frame().with_columns(channel=pl.Series(names[self.by[query, place]]))
        for number, name in enumerate(self.channels):
            ranks = pl.Series(self.ranks[query, place, number])
            frame = frame.with_columns(
                pl.when(ranks > 0).then(ranks).otherwise(None).alias(f"rank_{name}")
            )
        return frame


class Blend(Explaining):
    """Merges the lists of several channels into one in which each item is once.

    With method "quotas" the score of an item is 1 / position. With the other methods it is the sum
    over the channels of a reciprocal rank (Cormack et al. 2009), a score scaled to [0, 1], or a
    term of the hit probability measured on the validation rows.

    A channel contributes nothing to a query that it knows nothing of. Lists that stay short are
    filled by the `fallback` channels, then by popular items. The fallback flag is set if no channel
    knew anything of the query.

    Attributes:
        channels: the channels by name.
        options: the options of the recipe's section `blend`.
        plan: the plan that chose the quotas, after `fit`; None if none was made.
        quotas: slots per channel; None unless method is "quotas".
    """

    queries_at_a_time = 2048

    def __init__(
        self,
        channels: Mapping[str, Channel],
        options: BlendOptions | None = None,
        *,
        device: str = "cpu",
        **given: Any,
    ) -> None:
        if not channels:
            raise ModelError("a blend needs at least one channel")
        self.channels = dict(channels)
        on_cpu(device, "Blend")  # its channels have theirs
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
        """Fit every channel, and learn quotas or hit probabilities on the validation rows if asked.

        They are learned from channels fitted on the training rows only, so with another `fit` than
        "train" the channels are fitted twice.

        Args:
            split: the split to learn from.
            fit: the rows that the channels are finally fitted on.
            progress: receives the progress of each channel.
            checkpoints: saves the training of channels with towers.
        """
        check_split(split)
        learns = self.options.method == "calibrated" or (
            self.options.method == "quotas" and self.options.quotas is None
        )
        for name, channel in self.channels.items():
            inner = None if progress is None else of_part(progress, name)
            channel.fit(split, "train", progress=inner, **_saved(channel, name, checkpoints))
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
        """Fit the channels again on the rows named by `fit`, with the same quotas and chances."""
        for name, channel in self.channels.items():
            channel.refit(split, fit, progress=progress, **_saved(channel, name, checkpoints))
        self._adopt()
        return self

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that any channel can recommend."""
        rows: NDArray[np.int64] = self._candidates
        return rows

    @property
    def timed(self) -> bool:
        """True if any channel reads the times of the events."""
        return any(channel.timed for channel in self.channels.values())

    @property
    def weighs(self) -> bool:
        """True if any channel reads the weights of the events."""
        return any(channel.weighs for channel in self.channels.values())

    @property
    def reads_clock(self) -> bool:
        """True if any channel reads the time of a query.

        Channels without slots count as well, also for `query_features`: the fields that a query may
        have depend on the recipe, not on the result of a plan.
        """
        return any(channel.reads_clock for channel in self.channels.values())

    @property
    def query_features(self) -> frozenset[str]:
        """Names of the user features that any channel reads from a query."""
        return frozenset[str]().union(*(one.query_features for one in self.channels.values()))

    @property
    def query_context(self) -> frozenset[str]:
        """Names of the features of the requested event that any channel reads."""
        return frozenset[str]().union(*(one.query_context for one in self.channels.values()))

    @property
    def history_features(self) -> frozenset[str]:
        """Names of the features of past events that any channel reads."""
        return frozenset[str]().union(*(one.history_features for one in self.channels.values()))

    @property
    def item_columns(self) -> frozenset[str]:
        """Names of the columns of the items table that any channel depends on."""
        return frozenset[str]().union(*(one.item_columns for one in self.channels.values()))

    def search(self, block: RowQueries, k: int) -> Hits:
        """Return the k best items of B queries from all channels."""
        return self.answered(block, k).hits

    def strangers(self, block: RowQueries) -> Tensor:
        """Return the queries of which no channel with slots knows anything, bool [B]."""
        asked = [channel for name, channel in self.channels.items() if self._has_slots(name)]
        cold = [channel.strangers(block) for channel in asked]
        return torch.stack(cold).all(dim=0)

    def answered(self, block: RowQueries, k: int) -> Answer:
        """Search every channel, merge their lists, and fill the lists that stay short.

        The answer of a channel to a query that it knows nothing of is not used.
        """
        queries, count = len(block.users), len(self.channels)
        lists = np.full((count, queries, k), -1, dtype=np.int64)
        lengths = np.zeros((count, queries), dtype=np.int64)
        scores = np.zeros((count, queries, k), dtype=np.float32)
        for number, (name, channel) in enumerate(self.channels.items()):
            if not self._has_slots(name):
                continue
            width = min(k, self._sizes[name])
            found, cold = found_by(channel, block, width)
            lists[number, :, :width], scores[number, :, :width] = found.ids, found.scores
            lengths[number] = (found.ids >= 0).sum(dim=1).masked_fill(cold, 0)
        merged = Merged.empty(queries, k, count + 1)
        if self.options.method == "quotas":
            self._fill(lists, lengths, self._segments.of(block), merged)
        else:
            own = np.zeros((queries, k, count), dtype=np.int32)
            given = gains(self.options, list(self.channels), lengths, scores, self.chances)
            fuse(
                *(lists, lengths, given, self.data.items.tie_keys),
                *(merged.rows, merged.scores, merged.by, own),
            )
            merged.ranks[:, :, :count] = own
        self._fill_up(block, merged)
        if self.options.method == "quotas":
            gained = _by_position(merged.rows)
        else:
            gained = np.where(merged.by < count, merged.scores, 0).astype(np.float32)
            gained[merged.rows < 0] = -np.inf
        cold = torch.from_numpy((lengths == 0).all(axis=0))
        hits = Hits(torch.from_numpy(merged.rows), torch.from_numpy(gained))
        origin = Origin(torch.from_numpy(merged.by), torch.from_numpy(merged.ranks))
        return Answer(hits, cold, origin)

    def named(self, answers: Sequence[Answer], vocabulary: Vocabulary) -> Blended:
        """Join the answers to all blocks as candidates with ids and their channels."""
        found = super().named(answers, vocabulary)
        names = (*self.channels, POPULAR)
        k = found.rows.shape[1]
        nowhere = Origin(
            torch.zeros(0, k, dtype=torch.int64),
            torch.zeros(0, k, len(names), dtype=torch.int32),
        )
        origins = [answer.origin or nowhere for answer in answers]
        by, ranks = (torch.cat(part).numpy() for part in zip(*origins, strict=True))
        return Blended(found.rows, found.scores, found.fallback, vocabulary, names, by, ranks)

    def near(self, rows: Tensor, k: int) -> Hits:
        """Return the similar items of the first channel that finds similar items."""
        return self._finds_similar().near(rows, k)

    def similar(self, items: Ids, k: int = 10) -> Candidates:
        """Return the similar items of the first channel that finds similar items."""
        return self._finds_similar().similar(items, k)

    def _finds_similar(self) -> FindsSimilar:
        _ = self.data  # raises NotFittedError before `fit`
        for channel in self.channels.values():
            if isinstance(channel, FindsSimilar):
                return channel
        raise QueryError("none of the channels finds similar items")

    @property
    def reasons_sum(self) -> bool:  # type: ignore[override]
        """True if the reasons of every explaining channel add up to that channel's scores."""
        return all(channel.reasons_sum for channel in self._explaining().values())

    def reasons(self, block: RowQueries, items: Sequence[Tensor]) -> pl.DataFrame:
        """Return the reasons of every channel that can explain, with its name as `channel`.

        Contributions are parts of the channel's own score, not of the blend's. Fallback channels
        come last.
        """
        return pl.concat(
            channel.reasons(block, items).with_columns(pl.lit(name).alias("channel"))
            for name, channel in self._explaining().items()
        )

    def _explaining(self) -> Mapping[str, Explains]:
        """Return the channels that can explain, fallback channels last. Errors: QueryError."""
        names = sorted(self.channels, key=lambda name: name in self.options.fallback)
        channels = {name: self.channels[name] for name in names}
        _ = self.data
        found = {name: c for name, c in channels.items() if isinstance(c, Explains)}
        if not found:
            raise QueryError("none of the channels can explain its scores")
        return found

    def observe(self, data: TrainingData) -> Self:
        """Return the blend with new events in every channel, without training.

        data: the old data with the new events appended.
        """
        check_data(data)
        new = copy(self)
        new.channels = {name: channel.observe(data) for name, channel in self.channels.items()}
        new._adopt()
        return new

    def refreshed(
        self, data: TrainingData, lesson: Lesson, *, progress: Progress | None = None
    ) -> Self:
        """Return the blend after further training of every channel; quotas and chances stay.

        Errors: ModelError for a channel that cannot continue training.
        """
        check_data(data)
        new = copy(self)
        new.channels = {}
        for name, channel in self.channels.items():
            if not isinstance(channel, Refreshes):
                raise ModelError(
                    f"the channel {name}, a {type(channel).__name__}, cannot continue its "
                    "training: train again"
                )
            new.channels[name] = channel.refreshed(data, lesson.of(name), progress=progress)
        new._adopt()
        return new

    def state(self) -> State:
        """Return the settings of the blend and its channels, and the channels' tensors."""
        names = {kind: name for name, kind in CHANNELS.items()}
        states: dict[str, dict[str, Tensor]] = {}
        described = []
        for name, channel in self.channels.items():
            if type(channel) not in names:
                own = type(channel).__name__
                raise ModelError(f"the channel {name}, a {own}, {nameless('CHANNELS', own)}")
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
        """Restore a blend from its `state()`; its answers are bit-equal."""
        channels = {}
        for described in settings["channels"]:
            name = described["name"]
            own = {
                file.removeprefix(f"{name}."): tensors
                for file, tensors in states.items()
                if file.startswith(f"{name}.")
            }
            kind = CHANNELS[described["retriever"]]
            wanted = device if issubclass(kind, Learner) else "cpu"
            channels[name] = kind.from_state(data, described["settings"], own, device=wanted)
        if not any(isinstance(channel, Learner) for channel in channels.values()):
            on_cpu(device, "a blend without towers")
        blend = cls(channels, BlendOptions.model_validate(settings["options"]))
        blend.quotas = settings["quotas"]
        if settings["plan"] is not None:
            blend.plan = Plan.from_dict(settings["plan"])
        if blend.options.method == "calibrated":
            asked = [name for name in channels if name not in blend.options.fallback]
            blend.chances = dict(states["chances"])
            lists = {name: (torch.float32, (name,)) for name in asked}
            check_tensors("chances", blend.chances, lists)
            for name, chances in blend.chances.items():
                if not bool(((chances >= 0) & (chances < 1)).all()):
                    raise ModelError(f"chances: {name} must be at least 0 and below 1")
        blend._adopt()
        return blend

    def _adopt(self) -> None:
        """Take the data of the fitted channels and compute what depends on it."""
        channels = list(self.channels.values())
        self.data = channels[0].data
        self._popular = Popular().fit_data(self.data)
        self._segments = Segments(self.options.segments, self.data)
        rows = {name: channel.candidate_rows() for name, channel in self.channels.items()}
        self._sizes = {name: len(part) for name, part in rows.items()}
        self._candidates = reduce(np.union1d, rows.values())

    def _learn(self) -> None:
        """Plan the quotas, or measure hit probabilities, on the validation rows."""
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

    def _has_slots(self, name: str) -> bool:
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
        merged: Merged,
    ) -> None:
        """Fill the lists of the queries of each segment by the quotas of the segment."""
        k, count = lists.shape[2], lists.shape[0]
        if not self.options.segments:
            slots = self._slots(self.quotas, k)
            fill_slots(lists, lengths, slots, merged.rows, merged.by, merged.ranks)
            return
        for number in np.unique(segments):
            quotas = self.quotas if number < 0 else self.options.segments[number].quotas
            slots = self._slots(quotas, k)
            mine = np.flatnonzero(segments == number)
            # A channel without slots in this segment does not fill up its lists either.
            allowed = np.array([(quotas or {}).get(name, 0) > 0 for name in self.channels])
            ends = np.where(allowed[:, None], lengths[:, mine], 0)
            filled = Merged.empty(len(mine), k, count + 1)
            own = np.ascontiguousarray(lists[:, mine])
            fill_slots(own, ends, slots, filled.rows, filled.by, filled.ranks)
            merged.put(mine, filled)

    def _slots(self, quotas: Mapping[str, int] | None, k: int) -> NDArray[np.int64]:
        """Return the channel whose turn each of k slots is, [k]; cached for one k."""
        if not quotas:
            raise ModelError("the quotas are not planned yet: fit the blend first")
        key = (k, *(quotas.get(name, 0) for name in self.channels))
        if key not in self._orders:
            kept = {one: order for one, order in self._orders.items() if one[0] == k}
            self._orders = {**kept, key: slot_order(np.array(key[1:]), k)}
        return self._orders[key]

    def _fill_up(self, block: RowQueries, merged: Merged) -> None:
        """Fill the empty slots from the fallback channels, then with popular items."""
        channels = list(self.channels)
        for name in self.options.fallback:
            if not len(short := merged.short()):
                return
            part = block.take(torch.from_numpy(short))
            width = min(merged.rows.shape[1], self._sizes[name])
            channel = self.channels[name]
            found, cold = found_by(channel, part, width)
            rows = found.ids.masked_fill(cold[:, None], -1)
            merged.append(short, rows, channels.index(name))
        if len(short := merged.short()):
            part = block.take(torch.from_numpy(short))
            width = min(merged.rows.shape[1], len(self._popular.candidate_rows()))
            rows = self._popular.everybody(len(short), width, part.seen, part.allow).ids
            merged.append(short, rows, len(channels))


def _saved(channel: Any, name: str, checkpoints: Checkpoints | None) -> dict[str, Checkpoints]:
    """Return the checkpoints of a channel with towers; others are fitted fast and have none."""
    if checkpoints is None or not isinstance(channel, Learner):
        return {}
    return {"checkpoints": checkpoints.of(name)}


def _by_position(chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return 1 / position of each slot, [B, k]; -inf past the end of a list."""
    score = np.broadcast_to(1 / np.arange(1, chosen.shape[1] + 1), chosen.shape)
    return np.where(chosen >= 0, score, -np.inf).astype(np.float32)
