"""Are two answers equal up to rounding? The second form of docs/decisions/0009."""

import numpy as np

ROUNDING = 1e-5


def assert_same_up_to_rounding(one, other, *, rounding=ROUNDING, longest=0.0):
    """Compare two answers (ids [B, k], scores [B, k]), -1 and -inf past the end, best first.

    A score may differ by `rounding` of the largest score of its list, or of `longest` where that is
    more: the longest product of two vectors. So items can change places only with others that are
    as near, and the last place of a list can go to either of two such items.
    """
    for ids, scores in (one, other):
        assert np.shape(ids) == np.shape(scores) == np.shape(one[0])
    for mine, theirs in zip(_lists(*one), _lists(*other), strict=True):
        assert len(mine) == len(theirs), "lists of different lengths"
        if not mine:
            continue
        size = max(abs(score) for score in [*mine.values(), *theirs.values()])
        slack = rounding * max(size, longest)
        places = zip(mine.values(), theirs.values(), strict=True)
        assert all(abs(left - right) <= slack for left, right in places), "other scores"
        for found, elsewhere in ((mine, theirs), (theirs, mine)):
            last = min(elsewhere.values())
            for item, score in found.items():
                expected = elsewhere.get(item, min(score, last))
                assert abs(score - expected) <= slack, f"item {item} has no business there"


def _lists(ids, scores):
    """Each list as {item: score}, in order."""
    for items, values in zip(np.asarray(ids).tolist(), np.asarray(scores).tolist(), strict=True):
        found = [(i, v) for i, v in zip(items, values, strict=True) if i >= 0]
        assert len(dict(found)) == len(found), "an item twice"
        assert items[len(found) :] == [-1] * (len(items) - len(found)), "a gap in a list"
        assert sorted(dict(found).values(), reverse=True) == list(dict(found).values()), "no order"
        yield dict(found)
