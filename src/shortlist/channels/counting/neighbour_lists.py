"""How do stored neighbour lists score a history? Each item adds to its N neighbours."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.asking.rows import RowQueries
from shortlist.channels.counting.history import HistoryScorer, ProfileOptions, of_rows
from shortlist.channels.kept import check_offsets, check_rows, check_tensors
from shortlist.errors import ModelError
from shortlist.index.base import Hits
from shortlist.linear.matrix import Matrix
from shortlist.linear.neighbours import Neighbours
from shortlist.linear.ranking import TieRanks
from shortlist.linear.sums import best_sums, dense_sums

Profiled = TypeVar("Profiled", bound=ProfileOptions)


class NeighbourScorer(HistoryScorer[Profiled]):
    """Sums the stored neighbour lists of the items of a history: ItemCF and Transitions.

    A subclass provides `learn`, which passes the lists to `_keep`.
    """

    reads_log = False

    def scores(self, profile: Matrix) -> NDArray[np.float32]:
        """Return the sums over the neighbour lists, [B, C]; -inf for items in none of them."""
        return of_rows(dense_sums(profile, self.neighbours), self.candidate_rows())

    def search(self, block: RowQueries, k: int) -> Hits:
        """Answer B queries from the lists of their histories; scores equal those of `scores`."""
        seen = block.seen
        found = best_sums(
            self.profile(block),
            self.neighbours,
            self._ties,
            k,
            None if seen is None else (seen[0].numpy(), seen[1].numpy()),
            None if block.allow is None else block.allow.numpy(),
        )
        return Hits(torch.from_numpy(found[0]), torch.from_numpy(found[1]))

    def near(self, rows: Tensor, k: int) -> Hits:
        """Return the stored neighbours of each item row and their similarities, best first."""
        found = self.neighbours.of(rows.numpy())
        length = np.minimum(np.diff(found.start), k)
        query = np.repeat(np.arange(len(rows)), length)
        rank = np.arange(len(query)) - np.repeat(np.cumsum(length) - length, length)
        ids = np.full((len(rows), k), -1, dtype=np.int64)
        scores = np.full((len(rows), k), -np.inf, dtype=np.float32)
        ids[query, rank] = found.ids[found.start[query] + rank]
        scores[query, rank] = found.scores[found.start[query] + rank]
        return Hits(torch.from_numpy(ids), torch.from_numpy(scores))

    def learned(self) -> dict[str, Tensor]:
        """Return the lists: start [items + 2] int64, neighbours int32 and similarities float32."""
        return {
            "start": torch.from_numpy(self.neighbours.start),
            "neighbours": torch.from_numpy(self.neighbours.ids),
            "similarities": torch.from_numpy(self.neighbours.scores),
        }

    def set_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the neighbour lists."""
        items = self.data.items.trained
        check_tensors(
            "learned",
            tensors,
            {
                "start": (torch.int64, (items + 2,)),
                "neighbours": (torch.int32, ("total",)),
                "similarities": (torch.float32, ("total",)),
            },
        )
        check_offsets("learned: start", tensors["start"], len(tensors["neighbours"]))
        if int(tensors["start"][1]) != 0:
            raise ModelError("learned: row 0 has no neighbours")
        check_rows("learned: neighbours", tensors["neighbours"], 1, items)
        start, ids, scores = (
            tensors[name].numpy() for name in ("start", "neighbours", "similarities")
        )
        self._keep(Neighbours(start, ids, scores))

    def _keep(self, neighbours: Neighbours) -> None:
        self.neighbours = neighbours
        self._ties = TieRanks.of(self.data.items.tie_keys[: self.data.items.trained + 1])
