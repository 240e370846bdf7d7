"""Which items are similar to an item? A retriever answers in rows; they become ids here."""

from abc import abstractmethod

import torch
from torch import Tensor

from shortlist.asking.answering import Answering
from shortlist.asking.candidates import Answer, Candidates
from shortlist.asking.gone import no_hits, tolerated
from shortlist.asking.queries import check_k
from shortlist.data.vocabulary import Ids, checked_ids
from shortlist.errors import IndexServerError
from shortlist.index.base import Hits


class FindingSimilar(Answering):
    """A retriever that finds similar items; a subclass provides `near` in rows."""

    @abstractmethod
    def near(self, rows: Tensor, k: int) -> Hits:
        """Return the k items most similar to each item row [n], without the item itself.

        Row 0 stands for an item without neighbours; its answer is not used.
        """

    def has_neighbours(self, rows: Tensor) -> Tensor:
        """Return which item rows [n] have neighbours, bool [n]: those known in training."""
        return (rows > 0) & (rows <= self.data.items.trained)

    def similar(self, items: Ids, k: int = 10) -> Candidates:
        """Return the k items most similar to each item id, without the item itself.

        An unknown item gets popular items and the fallback flag.

        Args:
            items: item ids.
            k: similar items per id, at least 1.

        Raises:
            QueryError: for an invalid id or k.
        """
        rows = torch.from_numpy(self.data.items.rows(checked_ids(items, "items")))
        k = check_k(k, max(len(self.candidate_rows()) - 1, 1))
        unknown = ~self.has_neighbours(rows)
        try:
            found = self.near(rows.masked_fill(unknown, 0), k)
        except IndexServerError:
            if not tolerated():
                raise
            found, unknown = no_hits(len(rows), k), torch.ones_like(unknown)
        self.popular_for(unknown, found, (rows, torch.arange(len(rows) + 1)))
        return self.named([Answer(found, unknown)], self.data.items)
