"""What do the neighbours of an item say of it? Their embeddings, added up by nearness."""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from shortlist.data.ragged import Ragged
from shortlist.towers.features import rows_read

WEIGHT = 2.0
"""What all neighbours of an item count together, beside its own embedding."""


class NeighbourMean(nn.Module):
    """The weighted sum of the embeddings of the k items that share most users with an item.

    One step of a graph convolution over items (LightGCN, He et al. 2020, over users and back), of
    which only the strongest edges are kept. It stays in the item tower, so that an item's vector
    still depends on nothing but the item.

    rows: [N + 1, k] int64, item rows, 0 past the last neighbour; weights: [N + 1, k], whose sum is
    WEIGHT, or all 0. Both are learned from the log before training, and kept with the weights of
    the towers.
    """

    def __init__(self, items: int, neighbours: int) -> None:
        super().__init__()
        self.rows: Tensor
        self.weights: Tensor
        self.register_buffer("rows", torch.zeros(items + 1, neighbours, dtype=torch.int64))
        self.register_buffer("weights", torch.zeros(items + 1, neighbours))

    def forward(self, ids: Tensor, table: nn.Embedding) -> Tensor:
        """Return the sum of each item row's neighbours [B, D]; zeros where it has none.

        ids: [B] item rows; table: their embeddings, N + 1 rows.
        """
        width = self.rows.shape[1]
        starts = torch.arange(0, width * (len(ids) + 1), width, device=ids.device)
        read, weight = rows_read(Ragged(self.rows[ids].flatten(), starts), table)
        return embedding_bag(
            read.values,
            weight,
            read.offsets[:-1],
            mode="sum",
            per_sample_weights=self.weights[ids].flatten(),
        )
