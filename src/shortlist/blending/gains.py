"""What does a place in a channel's list give its item? The terms that a fused score sums."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shortlist.config.blend import Blend as BlendOptions

RANK_CONSTANT = 60.0
"""What reciprocal ranks are shifted by where the recipe says nothing (Cormack et al. 2009)."""

Scores = NDArray[np.float32]


def gains(
    options: BlendOptions,
    channels: Sequence[str],
    lengths: NDArray[np.int64],
    scores: Scores,
    chances: Mapping[str, Tensor],
) -> Scores:
    """Return what each place of the list of each channel gives its item, [C, B, k] float32.

    lengths: [C, B], how many places of each list count. scores: [C, B, k], of the channels' own.
    chances: of each channel, how likely an item at each rank is a hit; for method "calibrated".
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
    """Give every list of a channel its curve [C, k]."""
    every = np.broadcast_to(curves[:, None, :], scores.shape)
    return np.ascontiguousarray(every, dtype=np.float32)


def _stretched(lengths: NDArray[np.int64], scores: Scores) -> NDArray[np.float64]:
    """Stretch the scores of each list from 0, its last, to 1, its first; equal ones are all 1."""
    inside = np.arange(scores.shape[2]) < lengths[:, :, None]
    high = np.where(inside, scores, -np.inf).max(axis=2, keepdims=True, initial=-np.inf)
    low = np.where(inside, scores, np.inf).min(axis=2, keepdims=True, initial=np.inf)
    span = np.where(inside & (high > low), high - low, 1)
    stretched: NDArray[np.float64] = np.where(inside & (high > low), (scores - low) / span, inside)
    return stretched
