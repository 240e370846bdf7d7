"""How are the user features of a request encoded? As those of training were."""

from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

from shortlist.data.columns import checked_feature
from shortlist.data.features import Encoder, Features, MultiValuedEncoder, refuse_far
from shortlist.data.ragged import Ragged, taken, windows
from shortlist.data.schema import Feature
from shortlist.data.training_data import TrainingData
from shortlist.errors import DataError, QueryError, suggest

_NUMBERS: dict[str, Any] = {"numeric": pl.Float64, "vector": pl.List(pl.Float64)}


class Described(NamedTuple):
    """Features of B users that replace the stored ones.

    columns: one row per query, as from `FeatureTable.take`.
    given: bool [B], True if the query gives any feature.
    """

    columns: Features
    given: Tensor

    def take(self, which: Tensor) -> "Described":
        """Return the features of the queries at these positions, int64 [n]."""
        columns = {
            name: taken(column, which) if isinstance(column, Ragged) else column[which]
            for name, column in self.columns.items()
        }
        return Described(columns, self.given[which])


def described(
    features: Mapping[str, Sequence[Any]], users: Tensor, data: TrainingData
) -> Described:
    """Encode the given features of user rows [B], one value each; None keeps the stored value.

    Errors: QueryError for an unknown feature and for a value of a wrong type.
    """
    columns: dict[str, Tensor | Ragged] = {}
    given = torch.zeros(len(users), dtype=torch.bool)
    for name, values in features.items():
        encoder = data.user_features.encoders.get(name)
        if encoder is None:
            raise QueryError(
                f"features: the users of this data have no feature {name!r:.60}."
                + suggest(name, data.user_features.encoders)
            )
        present, encoded = encoded_values("features", name, values, encoder)
        columns[name] = _instead(present, encoded, data.user_features.columns[name], users)
        given |= present
    return Described(columns, given)


def encoded_values(
    what: str, name: str, values: Sequence[Any], encoder: Encoder
) -> tuple[Tensor, Tensor | Ragged]:
    """Return (bool [B], True where a value is given; the encoded values).

    what: the field of the request, for errors. Errors: QueryError.
    """
    separator = encoder.separator if isinstance(encoder, MultiValuedEncoder) else None
    try:
        # A column may mix 1 and 2.5; polars infers its type from the first value.
        if encoder.kind == "numeric":
            _refuse_others(values)
        column = pl.Series(name, list(values), dtype=_NUMBERS.get(encoder.kind))
        kind = Feature(name, encoder.kind, separator)
        column = checked_feature(column, what, kind)
        refuse_far(encoder, column, pl.Series(range(len(column))))
        encoded = encoder.encode(column)
    except (DataError, TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        why = str(error).partition("\n")[0].removeprefix(f"{what}: ")
        raise QueryError(f"{what}: {name}: {why:.200}") from error
    present = [value is not None for value in values]
    return torch.tensor(present, dtype=torch.bool), encoded


def _refuse_others(values: Sequence[Any]) -> None:
    """Refuse values that are not numbers, with a clearer error than that of polars (ValueError)."""
    for number, value in enumerate(values):
        if value is not None and not isinstance(value, Number):
            raise ValueError(f"query {number + 1}: expected a number, got {value!r:.60}")


def _instead(
    present: Tensor, encoded: Tensor | Ragged, stored: Tensor | Ragged, users: Tensor
) -> Tensor | Ragged:
    """Return the given values where `present`, and the stored ones elsewhere, [B]."""
    place = torch.arange(len(users))
    if isinstance(encoded, Ragged) and isinstance(stored, Ragged):
        start = stored.offsets[users]
        own = windows(stored.values, start, stored.offsets[users + 1] - start)
        offsets = torch.cat([encoded.offsets, own.offsets[1:] + encoded.offsets[-1]])
        both = Ragged(torch.cat([encoded.values, own.values]), offsets)
        return taken(both, torch.where(present, place, place + len(users)))
    assert isinstance(encoded, Tensor)
    assert isinstance(stored, Tensor)
    mine = stored[users]
    return torch.where(present.view(-1, *[1] * (mine.ndim - 1)), encoded, mine)
