"""Are two answers equal up to rounding? The second form of docs/decisions/0009."""

import numpy as np

ROUNDING = 1e-5


def assert_same_up_to_rounding(one, other, *, rounding=ROUNDING, longest=0.0):
    """Compare two answers: ids [B, k] and scores [B, k], best first; -1 and -inf past the end.

    A score may differ by `rounding` of the largest score of its list, or of `longest` where that is
    more: the longest product of two vectors. So items can change places only with others that are
    as near, and the last place of a list can go to either of two such items.
    """
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
    for line, line_scores in zip(ids, scores, strict=True):
        items, values = np.asarray(line).tolist(), np.asarray(line_scores).tolist()
        count = sum(value > -np.inf for value in values)
        found = dict(zip(items[:count], values, strict=False))
        assert len(found) == count, "an item twice, or none for a score"
        assert set(items[count:]) <= {-1}, "an item without a score"
        assert -1 not in found, "a gap in a list"
        assert sorted(values, reverse=True) == values, "not best first"
        yield found
