"""To which segment does each query belong? A segment has quotas of its own."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from shortlist.asking.rows import RowQueries
from shortlist.config.blend import Segment
from shortlist.data.training_data import TrainingData
from shortlist.errors import ModelError, suggest


class Segments:
    """The segments of a blend, applied to the users of its data.

    Errors: ModelError for a segment by a column that the user table lacks.
    """

    def __init__(self, segments: Sequence[Segment], data: TrainingData) -> None:
        self.segments = segments
        self._belongs = {
            number: _users_of(segment, data)
            for number, segment in enumerate(segments)
            if segment.feature is not None
        }

    def of(self, block: RowQueries) -> NDArray[np.int64]:
        """Return the number of the first matching segment of each query, [B]; -1 for none."""
        rows = block.users.numpy()
        found = np.full(len(rows), -1, dtype=np.int64)
        if not self.segments:
            return found
        owners = block.history.owners()[block.history.values > 0]
        sizes = torch.bincount(owners, minlength=len(rows)).numpy()
        for number, segment in reversed(list(enumerate(self.segments))):
            if segment.history_below is not None:
                found[sizes < segment.history_below] = number
            else:
                found[self._belongs[number][rows]] = number
        return found


def _users_of(segment: Segment, data: TrainingData) -> NDArray[np.bool_]:
    """Return which user rows belong to a segment by a column, bool [users + 1]."""
    frame, name = data.user_frame, segment.feature or ""
    if frame is None or name not in frame.columns:
        known = [] if frame is None else frame.columns
        raise ModelError(
            f"blend.segments: no user table has a column '{name}'."
            + (suggest(name, known) if known else "")
        )
    wanted = pl.col(name).cast(pl.String).is_in(list(segment.values or ()))
    belongs = np.zeros(len(data.users) + 1, dtype=np.bool_)
    belongs[data.users.rows(frame.filter(wanted)["id"])] = True
    belongs[0] = False
    return belongs
