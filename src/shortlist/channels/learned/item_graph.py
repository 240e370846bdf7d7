"""What does an item tower read in the log before it is trained?"""

import numpy as np
import torch

from shortlist.data.dataset import TrainingData
from shortlist.linear.graph import normalised_graph
from shortlist.linear.matrix import user_item_matrix
from shortlist.linear.neighbours import Formula, distinct_pairs, nearest
from shortlist.towers.neighbours import WEIGHT, NeighbourMean
from shortlist.towers.two_tower import ItemTower


@torch.no_grad()
def read_log(tower: ItemTower, data: TrainingData) -> None:
    """Fill in the neighbours of items, and how often each was met, where the tower reads them."""
    if tower.neighbours is not None:
        find_neighbours(tower.neighbours, data)
    if tower.popularity is not None:
        met = torch.from_numpy(np.log(np.maximum(data.item_counts, 1)).astype(np.float32))
        tower.met.copy_(met[: len(tower.met)])


@torch.no_grad()
def find_neighbours(part: NeighbourMean, data: TrainingData) -> None:
    """Fill in the items that share most users with each item, and how near they are.

    Two items are as near as the normalised graph of LightGCN says: the sum, over the users u of
    both, of 1 / |I_u|, divided by the root of the product of their numbers of users.
    """
    items, most = data.items.trained, part.rows.shape[1]
    pairs = distinct_pairs(data.training_log, items)
    norm = 1 / np.sqrt(np.maximum(pairs.users_of_items(items), 1))
    user_weight = 1 / np.maximum(pairs.items_of_users(), 1)
    tie_keys = data.items.tie_keys[: items + 1]
    found = nearest(pairs, Formula(norm, norm, user_weight=user_weight), tie_keys, most)
    length = np.diff(found.start)
    item = np.repeat(np.arange(items + 1), length)
    place = np.arange(len(item)) - np.repeat(found.start[:-1], length)
    total = np.bincount(item, found.scores, items + 1)
    part.rows.zero_()
    part.weights.zero_()
    part.rows[item, place] = torch.from_numpy(found.ids.astype(np.int64)).to(part.rows.device)
    shares = (WEIGHT * found.scores / total[item]).astype(np.float32)
    part.weights[item, place] = torch.from_numpy(shares).to(part.weights.device)


@torch.no_grad()
def begin_in_graph(tower: ItemTower, data: TrainingData) -> None:
    """Let the embeddings of items begin where those of the same users lie side by side.

    The numbers drawn for them go once from the items to their users and back, over the normalised
    graph, without what all items have in common; then every row gets the length that the rows had
    on average. Rows of items that nobody met stay as they were drawn.
    """
    assert tower.id is not None
    items, weight = data.items.trained, tower.id.weight
    graph = normalised_graph(user_item_matrix(data.training_log, items), 0.5, 0.5)
    common = np.sqrt(distinct_pairs(data.training_log, items).users_of_items(items))
    common = (common / max(np.linalg.norm(common), 1.0)).astype(np.float32)
    drawn = weight.numpy(force=True)
    near = graph.backward @ (graph.forward @ drawn)
    near -= np.outer(common, common @ near)
    length = np.linalg.norm(near, axis=1, keepdims=True)
    usual = np.linalg.norm(drawn[1:], axis=1).mean()
    near = np.where(length > 0, usual * near / np.where(length > 0, length, 1), drawn)
    weight.copy_(torch.from_numpy(near.astype(np.float32)))
