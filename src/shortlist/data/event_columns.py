"""Event features: columns of the log about the event itself, such as device and dwell time."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.data.columns import LARGEST, checked_feature, fault, first_row
from shortlist.data.features import CategoricalEncoder, Features, NumericEncoder
from shortlist.data.schema import EventFeature, Feature, Schema
from shortlist.data.tables import Table
from shortlist.errors import DataError

if TYPE_CHECKING:
    from shortlist.data.interactions import Interactions

PREFIX = "event: "
"""Prefix of the names of event features in the frame of a log."""

Columns: TypeAlias = Mapping[str, NDArray[Any]]
"""Event features of n events by name, [n] each. Encoded: int32 codes of a categorical column (0 is
unknown), or float32 standard deviations from the mean of a numeric one (NaN is unknown). Not yet
encoded: int32 positions in `Values` from 1, or float64."""

Values: TypeAlias = Mapping[str, pl.Series]
"""The distinct values of each categorical column by its name, as sorted text."""

EventEncoder: TypeAlias = CategoricalEncoder | NumericEncoder


@dataclass(frozen=True)
class EventFeatures:
    """The encoders of the event features, fitted on training events only.

    encoders: by name of the feature.
    after: names of the features that are known only after the event.
    of_kind: name of the feature that is the kind of the event. Its codes are those of the log's
        kinds plus 1, and no column holds them.
    """

    encoders: Mapping[str, EventEncoder] = field(default_factory=dict)
    after: frozenset[str] = frozenset()
    of_kind: str | None = None

    @classmethod
    def fit(
        cls, features: Iterable[EventFeature], training: "Interactions", values: Values
    ) -> "EventFeatures":
        """Fit encoders on training events, whose columns are not encoded yet."""
        encoders: dict[str, EventEncoder] = {}
        of_kind = None
        for feature in features:
            column = training.columns.get(feature.name)
            if column is None:
                assert training.kinds is not None
                of_kind = feature.name
                encoders[feature.name] = CategoricalEncoder(training.kinds.names)
            elif feature.kind == "categorical":
                present = np.unique(column)
                known = values[feature.name].gather(present[present > 0] - 1)
                encoders[feature.name] = CategoricalEncoder(tuple(known))
            else:
                numbers = pl.Series(feature.name, column, nan_to_null=True)
                encoders[feature.name] = NumericEncoder.fit(numbers)
        after = frozenset(feature.name for feature in features if feature.known == "after")
        return cls(encoders, after, of_kind)

    @property
    def before(self) -> tuple[str, ...]:
        """The names of the features known before the event, which a request can state."""
        return tuple(name for name in self.encoders if name not in self.after)

    @property
    def held(self) -> tuple[str, ...]:
        """The names of the features that are columns of the log, which excludes its kinds."""
        return tuple(name for name in self.encoders if name != self.of_kind)

    def encoded(self, columns: Columns, values: Values) -> dict[str, NDArray[Any]]:
        """Encode the columns of n events.

        Errors: DataError for a number too far from those of training.
        """
        return {name: self._encoded(name, columns[name], values) for name in self.held}

    def _encoded(self, name: str, column: NDArray[Any], values: Values) -> NDArray[Any]:
        encoder = self.encoders[name]
        if isinstance(encoder, CategoricalEncoder):
            codes = encoder.encode(values[name]).numpy().astype(np.int32)
            coded: NDArray[Any] = np.concatenate([np.zeros(1, dtype=np.int32), codes])[column]
            return coded
        deviations = (column - encoder.mean) / encoder.std
        far = np.abs(deviations) > LARGEST
        if far.any():
            raise DataError(
                f"column '{name}': {column[far][0]:g} is too large beside the values of training "
                f"(mean {encoder.mean:g}, standard deviation {encoder.std:g}); correct it, or take "
                "the logarithm of the column"
            )
        numbers: NDArray[Any] = deviations.astype(np.float32)
        return numbers

    def told(self, name: str, column: NDArray[Any]) -> list[str | float | None]:
        """Return values of an encoded column as a request states them; None for unknown ones.

        >>> told = EventFeatures({"dwell": NumericEncoder(10.0, 2.0)}).told
        >>> told("dwell", np.array([0.5, np.nan]))
        [11.0, None]
        """
        encoder = self.encoders[name]
        if isinstance(encoder, CategoricalEncoder):
            return [encoder.values[code - 1] if code else None for code in column]
        return [
            None if np.isnan(number) else float(number) * encoder.std + encoder.mean
            for number in column
        ]

    def unknown(self, events: int) -> dict[str, Tensor]:
        """Return columns for events whose features are all unknown, [events] each."""
        return {
            name: torch.zeros(events, dtype=torch.int32)
            if isinstance(encoder, CategoricalEncoder)
            else torch.full((events,), torch.nan)
            for name, encoder in self.encoders.items()
        }

    def whole(
        self, columns: Mapping[str, Tensor], kind: Tensor | None, events: int
    ) -> dict[str, Tensor]:
        """Return all columns of some events; features that are not given are unknown."""
        if not self.encoders:
            return {}
        found = {**self.unknown(events), **columns}
        if self.of_kind is not None and kind is not None:
            found[self.of_kind] = kind.int() + 1
        return found

    def columns_of(self, log: "Interactions") -> dict[str, NDArray[Any]]:
        """Return all columns of a log, [n] each, including the kind of the event."""
        columns = {name: log.columns[name] for name in self.held}
        if self.of_kind is not None and log.kind is not None:
            columns[self.of_kind] = log.kind.astype(np.int32) + 1
        return columns


def sometimes_unknown(columns: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return columns of n events in which a random share of the events is unknown.

    So a tower learns to handle events without features, which the log may never contain.
    """
    left_out = None
    found = {}
    for name, column in columns.items():
        if left_out is None:
            left_out = torch.rand(len(column), device=column.device) < share
        found[name] = column.masked_fill(left_out, torch.nan if column.is_floating_point() else 0)
    return found


def unknown_of(kind: "np.dtype[Any]") -> float | int:
    """Return the value that means unknown in an encoded column of this type."""
    return np.nan if kind.kind == "f" else 0


def as_inputs(columns: Mapping[str, Tensor]) -> Features:
    """Return encoded columns as a tower reads them: codes [n] int64, or (number, missing) [n, 2].

    >>> as_inputs({"dwell": torch.tensor([0.5, torch.nan])})["dwell"].tolist()
    [[0.5, 0.0], [0.0, 1.0]]
    """
    return {
        name: torch.stack([column.nan_to_num(0.0), column.isnan().to(column.dtype)], dim=1)
        if column.dtype.is_floating_point
        else column.long()
        for name, column in columns.items()
    }


def names_of(schema: Schema) -> list[str]:
    """Return the columns of the log to read for its features of events, beside those of roles."""
    return [f.name for f in schema.event_features if f.name not in (schema.event, schema.weight)]


def read_columns(
    table: Table, raw: pl.DataFrame, roles: pl.DataFrame, schema: Schema, where: str
) -> tuple[pl.DataFrame, dict[str, pl.Series]]:
    """Return the event features as columns PREFIX + name, not yet encoded, and their values.

    table: the log that is being read.
    raw: the columns that `names_of` lists, as `table` loaded them.
    roles: the checked columns of the roles, including "weight".
    where: the name of the log in errors.

    Categories become Int32 positions among the values, from 1, with 0 for missing. Numbers become
    Float64, with null for missing.
    """
    columns: list[pl.Series] = []
    values: dict[str, pl.Series] = {}
    for feature in schema.event_features:
        if feature.name == schema.event:
            continue
        if feature.name == schema.weight:
            column = _in_form(roles["weight"], feature)
        else:
            column = checked_column(table, raw[feature.name], feature, where)
        if feature.kind == "categorical":
            values[feature.name] = column.drop_nulls().unique().sort()
            places = column.cast(pl.Enum(values[feature.name])).to_physical()
            column = (places.cast(pl.Int32) + 1).fill_null(0)
        columns.append(column.alias(PREFIX + feature.name))
    return pl.DataFrame(columns), values


def written(columns: Columns, values: Values) -> dict[str, pl.Series]:
    """Return columns that are not yet encoded as `checked_column` returns them, by name."""
    return {
        name: pl.Series([None, *values[name]], dtype=pl.String).gather(column)
        if name in values
        else pl.Series(column, nan_to_null=True)
        for name, column in columns.items()
    }


def _in_form(column: pl.Series, feature: EventFeature) -> pl.Series:
    return column.cast(pl.String if feature.kind == "categorical" else pl.Float64)


def checked_column(table: Table, raw: pl.Series, feature: EventFeature, where: str) -> pl.Series:
    """Return an event feature as text if it is categorical, else as Float64; null for missing.

    table: the log that is being read.
    raw: the column, as `table` loaded it.
    where: the name of the log in errors.
    """
    column = table.typed_column(raw, exact=feature.kind != "numeric")
    if column.dtype.is_nested():
        row = first_row(column.is_not_null()) if column.null_count() < len(column) else None
        raise fault(
            where, feature.name, "a feature of events has one value an event, not a list.", row
        )
    return _in_form(checked_feature(column, where, Feature(feature.name, feature.kind)), feature)


def taken_from(frame: pl.DataFrame) -> dict[str, NDArray[Any]]:
    """Return the event features that the frame of a log holds, by name."""
    return {
        name.removeprefix(PREFIX): frame[name].to_numpy()
        for name in frame.columns
        if name.startswith(PREFIX)
    }
