"""By which index was each channel searched, and what does that lose against the exact one?"""

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
"""At most so many users are asked for the recall of an index; which ones is fixed."""


@dataclass(frozen=True)
class Searched:
    """How a channel of vectors came to its answers.

    index: its kind, a name of INDEXES; settings: what it was made with; recall: the share of the k
    best items, found by an exact index, that it answers too; 1 if it is exact itself.
    precision: in which its towers were trained.
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
        """Say it as a sentence about the channel of this name."""
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
    """Return the channels that have an index, by name; a bare one by its kind."""
    return {name: part for name, part in parts(retriever).items() if isinstance(part, Learner)}


@overload
def searched_exactly(retriever: Channel) -> Channel: ...
@overload
def searched_exactly(retriever: Answers) -> Answers: ...
def searched_exactly(retriever: Answers) -> Answers:
    """Return a retriever like this one that searches exactly; itself where it does already.

    The given one stays as it is; the two share towers and data.
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
    """Tell of each channel with an index what it is, and measure those that are not exact.

    users: the rows of the users to ask, of whom USERS are; with what was known before the cut.
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
    """The share of the true items that are in the answer, of users of whom something is known."""
    known = ~truth.fallback
    hits = (
        Hits(torch.from_numpy(each.rows[known]), torch.from_numpy(each.scores[known]))
        for each in (answer, truth)
    )
    return recall_of(*hits)
