"""Which index does each channel search, and what recall does it lose against the exact one?"""

from collections.abc import Mapping
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from shortlist.asking.candidates import Candidates
from shortlist.asking.capabilities import Answers, Channel
from shortlist.asking.clock import held_out_times
from shortlist.asking.queries import Queries
from shortlist.blending.blend import Blend
from shortlist.blending.retrievers import parts
from shortlist.channels.learned.base import Learner
from shortlist.data.interactions import Cut
from shortlist.evaluation.index_recall import recall_of
from shortlist.index import Hits, VectorIndex, kind_of

USERS = 1_000
"""The recall of an index is measured on at most this many users, chosen with a fixed seed."""


@dataclass(frozen=True)
class Searched:
    """How a channel of vectors was trained and searched.

    index: kind of its index, a name of INDEXES.
    settings: settings of the index.
    exact: True if the index is exact.
    recall: share of the k best items of an exact index that it finds; 1 if it is exact.
    k: depth of the lists of `recall`.
    precision: numeric precision in which the towers were trained.
    """

    index: str
    settings: Mapping[str, Any]
    exact: bool
    recall: float
    k: int
    precision: str

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object."""
        return asdict(self)

    def line(self, name: str) -> str:
        """Return a sentence about the channel of this name."""
        begin = f"{name}: trained in {self.precision}, searched"
        if self.exact:
            return f"{begin} exactly (index {self.index})."
        settings = ", ".join(f"{key} {value}" for key, value in self.settings.items())
        index = f"{self.index} ({settings})"
        return f"{begin} by {index}, recall@{self.k} {self.recall:.4f} against exact search."


def settled(index: VectorIndex) -> tuple[str, dict[str, Any]]:
    """Return the name of an index in INDEXES, and its settings."""
    return kind_of(index), dict(index.settings()) if hasattr(index, "settings") else {}


def channels_of(retriever: Answers) -> dict[str, Learner]:
    """Return the channels with an index, by name; a retriever that is one is named by its kind."""
    return {name: part for name, part in parts(retriever).items() if isinstance(part, Learner)}


@overload
def searched_exactly(retriever: Channel) -> Channel: ...
@overload
def searched_exactly(retriever: Answers) -> Answers: ...
def searched_exactly(retriever: Answers) -> Answers:
    """Return a copy of a retriever with exact indexes; the retriever itself if all are exact.

    The given retriever is not changed. Both share towers and data.
    """
    if all(channel.index.is_exact for channel in channels_of(retriever).values()):
        return retriever
    other = copy(retriever)
    if isinstance(other, Learner):
        return other.use_exact_index()
    if isinstance(other, Blend):
        other.channels = {name: searched_exactly(part) for name, part in other.channels.items()}
    return other


def searched(
    retriever: Answers, users: NDArray[np.int64], k: int, cut: Cut, *, exclude_seen: bool
) -> dict[str, Searched]:
    """Describe the index of each channel that has one, and measure those that are not exact.

    users: user rows; at most USERS of them are asked.
    k: depth of the lists.
    cut: the events before it are known.
    exclude_seen: leave out the items that users have met.
    """
    found = {}
    for name, channel in channels_of(retriever).items():
        kind, settings = settled(channel.index)
        deep, recall = min(k, len(channel.candidate_rows())), 1.0
        if not channel.index.is_exact:
            pick = np.sort(np.random.default_rng(0).permutation(len(users))[:USERS])
            ids = channel.data.users.external(users[pick])
            time = held_out_times(channel, cut)
            time = None if time is None else time[torch.from_numpy(pick)]
            asked = Queries(ids, before=cut, exclude_seen=exclude_seen, time=time)
            answers = (r.recommend(asked, deep) for r in (channel, searched_exactly(channel)))
            recall = recall_against(*answers)
        precision = channel.precision
        found[name] = Searched(kind, settings, channel.index.is_exact, recall, deep, precision)
    return found


def recall_against(answer: Candidates, truth: Candidates) -> float:
    """Return the recall of an answer against the true one, without queries that fell back."""
    known = ~truth.fallback
    hits = (
        Hits(torch.from_numpy(each.rows[known]), torch.from_numpy(each.scores[known]))
        for each in (answer, truth)
    )
    return recall_of(*hits)
