"""Which items are like this one? Ids become rows and back, once for every retriever that knows."""

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
    """A retriever that knows which items are alike: a subclass gives `near` in rows."""

    @abstractmethod
    def near(self, rows: Tensor, k: int) -> Hits:
        """Return the k items most similar to each item row [n], itself left out.

        Any answer will do for row 0, which stands for an item that has none.
        """

    def has_neighbours(self, rows: Tensor) -> Tensor:
        """Return which item rows [n] have neighbours at all, bool [n]: those of the training."""
        return (rows > 0) & (rows <= self.data.items.trained)

    def similar(self, items: Ids, k: int = 10) -> Candidates:
        """Return the k items most similar to each item id, itself left out.

        An unknown item gets the popular items instead, and the fallback flag. Errors: QueryError.
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
