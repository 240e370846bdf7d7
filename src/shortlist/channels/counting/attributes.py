"""Which values of a table column does each user or item have, as integer codes?"""

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from shortlist.data.features import CategoricalEncoder, FeatureTable, MultiValuedEncoder
from shortlist.data.ragged import Ragged
from shortlist.data.schema import Feature
from shortlist.data.vocabulary import Vocabulary
from shortlist.errors import ModelError, suggest
from shortlist.sections.kinds import FeatureKind


def categories(
    column: str, frame: pl.DataFrame | None, features: FeatureTable, vocabulary: Vocabulary
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the values of a categorical column and the code of each row, [rows + 1].

    Code c stands for values[c - 1]. Code 0 is a missing value, a value of no trained row, or row 0.
    Errors: as for `value_lists`, and ModelError for a column with several values per row.
    """
    encoder, codes = _encoded(column, frame, features, vocabulary)
    if not isinstance(encoder, CategoricalEncoder) or isinstance(codes, Ragged):
        raise ModelError(
            f"column '{column}' holds several values of a {vocabulary.name}: it does not divide "
            f"{vocabulary.name}s into segments; name a categorical one"
        )
    return encoder.values, codes.numpy()


def value_lists(
    column: str, frame: pl.DataFrame | None, features: FeatureTable, vocabulary: Vocabulary
) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.int64]]:
    """Return the values of a categorical or multi-valued column, and the codes of each row.

    Row r has values[c - 1] for each c in codes[offsets[r]:offsets[r + 1]]: distinct, ascending.
    offsets: [rows + 2]; row 0 has no codes.

    A declared feature is read with its declared kind and separator. Another column is categorical
    if it holds text, and multi-valued if it holds lists of text.
    Errors: ModelError for a column that does not exist, holds numbers, or has no value at all.
    """
    encoder, codes = _encoded(column, frame, features, vocabulary)
    if isinstance(codes, Ragged):
        owner, flat = codes.owners().numpy(), codes.values.numpy()
    else:
        owner = np.flatnonzero(codes.numpy())
        flat = codes.numpy()[owner]
    width = len(encoder.values) + 1
    pairs = np.unique(owner * width + flat)  # a value that an item repeats counts once
    counts = np.bincount(pairs // width, minlength=len(vocabulary) + 1)
    return encoder.values, np.concatenate([[0], np.cumsum(counts)]), pairs % width


def _encoded(
    column: str, frame: pl.DataFrame | None, features: FeatureTable, vocabulary: Vocabulary
) -> tuple[CategoricalEncoder | MultiValuedEncoder, torch.Tensor | Ragged]:
    side = vocabulary.name
    if frame is None:
        raise ModelError(
            f"column '{column}' is one of the {side}s table, and no such table is given"
        )
    known = [name for name in frame.columns if name != "id"]
    if column not in known:
        raise ModelError(f"the {side}s table has no column '{column}'.{suggest(column, known)}")
    if column not in features.encoders:
        kind = _kind(column, frame[column].dtype, side)
        features = FeatureTable.fit(
            [Feature(column, kind)], frame, vocabulary.ids, vocabulary.trained
        )
    encoder, codes = features.encoders[column], features.columns[column]
    if not isinstance(encoder, CategoricalEncoder | MultiValuedEncoder):
        raise ModelError(
            f"column '{column}' of the {side}s table is declared as {encoder.kind}: only "
            "categorical and multi-valued columns have values to tell apart"
        )
    if not encoder.values:
        raise ModelError(
            f"column '{column}' of the {side}s table is empty for every {side} that was trained on"
        )
    return encoder, codes


def _kind(column: str, dtype: pl.DataType, side: str) -> FeatureKind:
    if dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum, pl.Null):
        return "categorical"
    if isinstance(dtype, pl.List | pl.Array) and dtype.inner == pl.String:
        return "multi-valued"
    raise ModelError(
        f"column '{column}' of the {side}s table holds {dtype}: declare it as categorical "
        f"(features.{side}s) if its values are names"
    )
