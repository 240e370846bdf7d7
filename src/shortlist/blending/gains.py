"""Which term does a place in a channel's list add to the fused score of its item?"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shortlist.config.blend import Blend as BlendOptions

RANK_CONSTANT = 60.0
"""Default of blend.rank_constant, added to ranks before the reciprocal (Cormack et al. 2009)."""

Scores = NDArray[np.float32]


def gains(
    options: BlendOptions,
    channels: Sequence[str],
    lengths: NDArray[np.int64],
    scores: Scores,
    chances: Mapping[str, Tensor],
) -> Scores:
    """Return the score term of each place in each channel's list, float32 [C, B, k].

    lengths: number of items in each list, [C, B].
    scores: the channels' own scores, [C, B, k].
    chances: for method "calibrated", the hit probability at each rank of each channel.
    """
    weights = np.array([(options.weights or {}).get(name, 1.0) for name in channels])
    k = scores.shape[2]
    if options.method == "reciprocal-rank":
        curve = 1 / ((options.rank_constant or RANK_CONSTANT) + np.arange(1, k + 1))
        return _of_ranks(weights[:, None] * curve, scores)
    if options.method == "calibrated":
        curves = np.zeros((len(channels), k))
        for number, name in enumerate(channels):
            if name in chances:
                chance = chances[name].numpy()[:k].astype(np.float64)
                curves[number, : len(chance)] = -np.log1p(-chance)
        return _of_ranks(curves, scores)
    return (weights[:, None, None] * _stretched(lengths, scores)).astype(np.float32)


def _of_ranks(curves: NDArray[np.float64], scores: Scores) -> Scores:
    """Repeat the curve of each channel [C, k] for all of its lists, [C, B, k]."""
    every = np.broadcast_to(curves[:, None, :], scores.shape)
    return np.ascontiguousarray(every, dtype=np.float32)


def _stretched(lengths: NDArray[np.int64], scores: Scores) -> NDArray[np.float64]:
    """Scale the scores of each list to [0, 1]; a list of equal scores becomes all 1."""
    inside = np.arange(scores.shape[2]) < lengths[:, :, None]
    high = np.where(inside, scores, -np.inf).max(axis=2, keepdims=True, initial=-np.inf)
    low = np.where(inside, scores, np.inf).min(axis=2, keepdims=True, initial=np.inf)
    span = np.where(inside & (high > low), high - low, 1)
    stretched: NDArray[np.float64] = np.where(inside & (high > low), (scores - low) / span, inside)
    return stretched
