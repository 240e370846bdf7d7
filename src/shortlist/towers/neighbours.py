"""How do an item's neighbours change its vector? By a weighted sum of their embeddings."""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from shortlist.data.ragged import Ragged
from shortlist.towers.features import rows_read

WEIGHT = 2.0
"""Sum of the weights of an item's neighbours; its own embedding has weight 1."""


class NeighbourMean(nn.Module):
    """The weighted sum of the embeddings of the k items that share most users with an item.

    This is one step of a graph convolution over items (LightGCN, He et al. 2020, from items over
    users to items) with only the strongest edges. It is part of the item tower, so an item's vector
    depends on the item alone.

    items: number of trained items, N.
    neighbours: number of neighbours, k.
    rows (buffer): item rows of the neighbours, int64 [N + 1, k]; 0 in empty places.
    weights (buffer): weights of the neighbours, [N + 1, k]; a row sums to WEIGHT, or is all 0.
    Both buffers are computed from the log before training, and saved with the towers' weights.
    """

    def __init__(self, items: int, neighbours: int) -> None:
        super().__init__()
        self.rows: Tensor
        self.weights: Tensor
        self.register_buffer("rows", torch.zeros(items + 1, neighbours, dtype=torch.int64))
        self.register_buffer("weights", torch.zeros(items + 1, neighbours))

    def forward(self, ids: Tensor, table: nn.Embedding) -> Tensor:
        """Return the weighted sum of each item's neighbours, [B, D]; zeros without neighbours.

        ids: item rows, [B].
        table: the item embeddings, N + 1 rows.
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
