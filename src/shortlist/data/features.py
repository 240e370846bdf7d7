"""Feature tables: what is known about each user or item, as named tensors with a row each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch
from torch import Tensor

from shortlist.data.columns import LARGEST, first_row
from shortlist.data.ragged import Ragged, windows
from shortlist.data.schema import Feature
from shortlist.data.text_features import TextEncoder
from shortlist.errors import DataError
from shortlist.sections.kinds import FeatureKind

Features = Mapping[str, Tensor | Ragged]
"""The features of B users or items: [B] int64 codes, [B, C] float32, or Ragged codes."""

ID = "<id>"
"""The key of a user's or item's own row among its features."""


class Encoder(Protocol):
    """Turns one raw column into a tensor. It is fitted on training users or items only.

    Its fields can be stored as JSON, except the projection of texts, which a bundle stores as a
    table.
    """

    @property
    def kind(self) -> FeatureKind:
        """The kind of feature it encodes."""
        ...

    @property
    def width(self) -> int:
        """The number of codes, or of numbers in each row."""
        ...

    def encode(self, column: pl.Series) -> Tensor | Ragged:
        """Turn n raw values into n rows."""
        ...


@dataclass(frozen=True)
class CategoricalEncoder:
    """Turns a value into a code 1..len(values); a missing or unknown value becomes 0."""

    values: tuple[str, ...]
    kind: FeatureKind = "categorical"

    @property
    def width(self) -> int:
        """The number of codes, including 0."""
        return len(self.values) + 1

    @classmethod
    def fit(cls, column: pl.Series) -> "CategoricalEncoder":
        """Give a code to each value of the training users or items, in sorted order."""
        return cls(tuple(column.cast(pl.String).drop_nulls().unique().sort()))

    def grown(self, column: pl.Series, least: int) -> "CategoricalEncoder":
        """Return an encoder that adds the values in at least `least` of these rows; codes stay."""
        return replace(self, values=_more(self.values, column.cast(pl.String), least))

    def encode(self, column: pl.Series) -> Tensor:
        """Return codes, [n] int64."""
        return _codes(column, self.values)


@dataclass(frozen=True)
class MultiValuedEncoder:
    """Turns a list of values into a list of codes 1..len(values); unknown values are left out."""

    values: tuple[str, ...]
    separator: str | None = "|"
    kind: FeatureKind = "multi-valued"

    @property
    def width(self) -> int:
        """The number of codes, including 0."""
        return len(self.values) + 1

    @classmethod
    def fit(cls, column: pl.Series, separator: str | None) -> "MultiValuedEncoder":
        """Give a code to each value of the training users or items, in sorted order."""
        values = _lists(column, separator).explode().drop_nulls().unique().sort()
        return cls(tuple(values), separator)

    def grown(self, column: pl.Series, least: int) -> "MultiValuedEncoder":
        """Return an encoder that adds the values in at least `least` of these rows; codes stay."""
        lists = _lists(column, self.separator).list.unique().explode()
        return replace(self, values=_more(self.values, lists, least))

    def encode(self, column: pl.Series) -> Ragged:
        """Return codes as n lists; a missing or empty value is an empty list."""
        lists = pl.DataFrame({"row": np.arange(len(column)), "v": _lists(column, self.separator)})
        flat = lists.explode("v", empty_as_null=True, keep_nulls=True)
        codes = _codes(flat["v"], self.values)
        known = codes > 0
        owner = torch.from_numpy(flat["row"].to_numpy().copy())[known]
        offsets = torch.zeros(len(column) + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(owner, minlength=len(column)), 0, out=offsets[1:])
        return Ragged(codes[known], offsets)


@dataclass(frozen=True)
class NumericEncoder:
    """Turns a number into (standardised value, 0); a missing one becomes (0, 1)."""

    mean: float
    std: float
    kind: FeatureKind = "numeric"
    width: int = 2

    @classmethod
    def fit(cls, column: pl.Series) -> "NumericEncoder":
        """Use the mean and standard deviation of the training rows; a constant gets std 1."""
        known = column.drop_nulls().cast(pl.Float64).to_numpy()
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(known.mean()) if len(known) else 0.0
            std = float(known.std()) if len(known) else 1.0
        if not (math.isfinite(mean) and math.isfinite(std)):
            raise DataError(
                f"column '{column.name}': values up to {np.abs(known).max():g} are too large to be "
                "standardised; scale the column, or take its logarithm"
            )
        return cls(mean, std if std > 0 else 1.0)

    def encode(self, column: pl.Series) -> Tensor:
        """Return [n, 2] float32: standard deviations from the mean, and 1 where missing."""
        values = column.cast(pl.Float64)
        missing = values.is_null().to_numpy()
        known = values.fill_null(self.mean).to_numpy()
        return torch.from_numpy(
            np.stack([(known - self.mean) / self.std, missing], axis=1).astype(np.float32)
        )


@dataclass(frozen=True)
class VectorEncoder:
    """Keeps a pretrained vector as it is; a missing one becomes zeros."""

    width: int
    kind: FeatureKind = "vector"

    @classmethod
    def fit(cls, column: pl.Series) -> "VectorEncoder":
        """Take the width from the first vector."""
        known = column.drop_nulls()
        return cls(len(known[0]) if len(known) else 0)

    def encode(self, column: pl.Series) -> Tensor:
        """Return [n, width] float32; DataError where a vector has another width."""
        rows = torch.zeros(len(column), self.width)
        present = column.is_not_null()
        if not present.any():
            return rows
        given = column.filter(present).cast(pl.List(pl.Float32))
        if (given.list.len() != self.width).any():
            raise DataError(f"{column.name}: a vector does not have {self.width} numbers")
        flat = given.explode().to_numpy().reshape(-1, self.width)
        rows[torch.from_numpy(present.to_numpy().copy())] = torch.from_numpy(flat.copy())
        return rows


ENCODERS: dict[str, type[Any]] = {
    "categorical": CategoricalEncoder,
    "multi-valued": MultiValuedEncoder,
    "numeric": NumericEncoder,
    "vector": VectorEncoder,
    "text": TextEncoder,
}


def fit_encoder(feature: Feature, column: pl.Series) -> Encoder:
    """Fit the encoder of a declared feature on the raw values of the training users or items."""
    if feature.kind == "multi-valued":
        return MultiValuedEncoder.fit(column, feature.separator)
    if feature.kind == "text":
        return TextEncoder.fit(column, feature.width)
    encoder: Encoder = ENCODERS[feature.kind].fit(column)
    return encoder


@dataclass(frozen=True)
class FeatureTable:
    """Encoded features of all users or all items; row 0 is the unknown one.

    encoders: by name of the feature.
    columns: by name, one row for each row number 0..n; see Features for the shapes.
    trained: the last row that was trained on. Rows above it have features, but no id embedding:
        their id counts as unknown.
    """

    encoders: Mapping[str, Encoder]
    columns: Features
    trained: int

    @classmethod
    def fit(
        cls, features: Sequence[Feature], frame: pl.DataFrame | None, ids: pl.Series, trained: int
    ) -> "FeatureTable":
        """Fit encoders on the first `trained` ids, then encode all of them.

        frame: one row per id, with a column `id` and the raw columns. An id without a row has only
            missing values.
        """
        if frame is None or not features:
            return cls({}, {}, trained)
        aligned = pl.DataFrame({"id": ids}).join(frame, on="id", how="left", maintain_order="left")
        encoders = {f.name: fit_encoder(f, aligned[f.name].head(trained)) for f in features}
        for name, encoder in encoders.items():
            refuse_far(encoder, aligned[name], ids)
        return cls(encoders, encode(encoders, aligned), trained)

    def take(self, rows: Tensor) -> Features:
        """Return the features of the given rows [B], and their rows under `ID` (0 if untrained)."""
        taken: dict[str, Tensor | Ragged] = {ID: rows.masked_fill(rows > self.trained, 0)}
        for name, column in self.columns.items():
            if isinstance(column, Ragged):
                start = column.offsets[rows]
                taken[name] = windows(column.values, start, column.offsets[rows + 1] - start)
            else:
                taken[name] = column[rows]
        return taken

    def to(self, device: torch.device | str) -> "FeatureTable":
        """Return the same table on another device."""
        moved = {name: column.to(device) for name, column in self.columns.items()}
        return FeatureTable(self.encoders, moved, self.trained)


def _more(values: tuple[str, ...], column: pl.Series, least: int) -> tuple[str, ...]:
    """Append the values that occur in at least `least` rows of the column."""
    counts = column.drop_nulls().alias("value").value_counts()
    new = counts.filter((pl.col("count") >= least) & ~pl.col("value").is_in(list(values)))
    return (*values, *new["value"].sort())


def grown_table(
    table: FeatureTable, frame: pl.DataFrame | None, ids: pl.Series, trained: int, least: int
) -> FeatureTable:
    """Return the features of other ids; values that `least` trained ids have get new codes.

    Existing codes and the means of numbers stay, because weights were learned for them.

    frame: as for `FeatureTable.fit`.

    Errors: DataError for a number too far from those of training.
    """
    if frame is None or not table.encoders:
        return FeatureTable(table.encoders, {}, trained)
    aligned = pl.DataFrame({"id": ids}).join(frame, on="id", how="left", maintain_order="left")
    encoders = {
        name: encoder.grown(aligned[name].head(trained), least)
        if isinstance(encoder, CategoricalEncoder | MultiValuedEncoder)
        else encoder
        for name, encoder in table.encoders.items()
    }
    for name, encoder in encoders.items():
        refuse_far(encoder, aligned[name], ids)
    return FeatureTable(encoders, encode(encoders, aligned), trained)


def refuse_far(encoder: Encoder, column: pl.Series, ids: pl.Series) -> None:
    """Refuse a number too far from those of training. Errors: DataError.

    Only a number outside training can be: n trained numbers lie within sqrt(n) standard deviations.
    """
    if not isinstance(encoder, NumericEncoder):
        return
    deviations = (column.cast(pl.Float64) - encoder.mean) / encoder.std
    far = (deviations.abs() > LARGEST).fill_null(False)
    if far.any():
        place = first_row(far) - 1
        raise DataError(
            f"column '{column.name}', id {ids[place]!r:.40}: {column[place]:g} is too large beside "
            f"the values of training (mean {encoder.mean:g}, standard deviation {encoder.std:g}); "
            "correct it, or take the logarithm of the column"
        )


def encode(encoders: Mapping[str, Encoder], frame: pl.DataFrame) -> Features:
    """Encode raw columns of n rows, and put the unknown row 0 in front: n + 1 rows."""
    columns: dict[str, Tensor | Ragged] = {}
    for name, encoder in encoders.items():
        raw = frame[name] if name in frame.columns else pl.Series(name, [None] * frame.height)
        columns[name] = encoder.encode(pl.concat([raw, pl.Series(name, [None], dtype=raw.dtype)]))
    return {name: _unknown_first(column) for name, column in columns.items()}


def _unknown_first(column: Tensor | Ragged) -> Tensor | Ragged:
    """Move the last row, which is the unknown one, to the front."""
    if isinstance(column, Ragged):
        return Ragged(column.values, torch.cat([column.offsets.new_zeros(1), column.offsets[:-1]]))
    return torch.cat([column[-1:], column[:-1]])


def _codes(column: pl.Series, values: Sequence[str]) -> Tensor:
    table = pl.DataFrame(
        {"v": pl.Series(values, dtype=pl.String), "code": np.arange(1, len(values) + 1)}
    )
    text = pl.DataFrame({"v": column.cast(pl.String)})
    coded = text.join(table, on="v", how="left", maintain_order="left")["code"].fill_null(0)
    return torch.from_numpy(coded.cast(pl.Int64).to_numpy().copy())


def _lists(column: pl.Series, separator: str | None) -> pl.Series:
    if isinstance(column.dtype, pl.List | pl.Array) or column.dtype == pl.Null:
        return column.cast(pl.List(pl.String))
    text = column.cast(pl.String)
    if not separator:
        return text.reshape((-1, 1)).cast(pl.List(pl.String))
    parts = text.str.split(separator).list.eval(pl.element().str.strip_chars())
    return parts.list.eval(pl.element().filter(pl.element() != ""))
