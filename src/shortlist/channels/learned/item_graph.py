"""What does an item tower take from the log before it is trained?"""

import numpy as np
import torch

from shortlist.data.training_data import TrainingData
from shortlist.linear.graph import normalised_graph
from shortlist.linear.matrix import user_item_matrix
from shortlist.linear.neighbours import Formula, distinct_pairs, nearest
from shortlist.towers.neighbours import WEIGHT, NeighbourMean
from shortlist.towers.two_tower import ItemTower


@torch.no_grad()
def read_log(tower: ItemTower, data: TrainingData) -> None:
    """Set the neighbours and the popularity of items in a tower that reads them."""
    if tower.neighbours is not None:
        find_neighbours(tower.neighbours, data)
    if tower.popularity is not None:
        met = torch.from_numpy(np.log(np.maximum(data.item_counts, 1)).astype(np.float32))
        tower.met.copy_(met[: len(tower.met)])


@torch.no_grad()
def find_neighbours(part: NeighbourMean, data: TrainingData) -> None:
    """Set the nearest items of each item by shared users, and their weights.

    The similarity is that of LightGCN's normalised graph: the sum of 1 / |I_u| over the users u of
    both items, divided by the square root of the product of their numbers of users.
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
    """Initialise item embeddings so that items with the same users are close.

    The random embeddings are propagated once over the normalised graph, from items to users and
    back, and their component along the leading singular vector is removed. Then every row is scaled
    to the mean norm of the random rows. Rows of items without users stay random.
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
