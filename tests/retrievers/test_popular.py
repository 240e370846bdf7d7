"""Popularity: counts of the training rows, ties by the hash, seen items out."""

import numpy as np

from shortlist.retrievers.base import Queries
from shortlist.retrievers.popular import Popular


def test_items_come_by_training_count_then_by_hash(split):
    popular = Popular().fit(split)
    data = popular.data
    everything = popular.recommend(Queries(histories=[[]], exclude_seen=False), 10**6)
    rows = everything.rows[0]
    counts = np.append(data.item_counts, np.zeros(len(data.items) - data.items.trained))[rows]
    assert (np.diff(counts) <= 0).all()
    keys = data.items.tie_keys[rows]
    tied = np.diff(counts) == 0
    assert (np.diff(keys.astype(float))[tied] > 0).all()
    assert (everything.scores[0] == counts).all()
    assert len(rows) == len(data.candidates(with_features=True))


def test_only_training_rows_count(split):
    data = Popular().fit(split).data
    assert data.item_counts.sum() == (data.log.role == 0).sum()


def test_a_user_who_met_the_top_items_gets_the_next(split):
    popular = Popular().fit(split)
    top = popular.recommend(Queries(histories=[[]]), 8).ids[0]
    assert popular.recommend(Queries(histories=[top[:3]]), 5).ids[0] == top[3:]
