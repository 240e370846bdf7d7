"""How are the context of a request and the features of its events encoded? As in training."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from shortlist.asking.described import encoded_values
from shortlist.asking.queries import Queries
from shortlist.data.event_columns import EventFeatures
from shortlist.data.training_data import TrainingData
from shortlist.errors import QueryError, suggest


def context_of(queries: Queries, at: int, users: Tensor, data: TrainingData) -> dict[str, Tensor]:
    """Return the "before" features of the event that each query asks for, [B] each.

    at: position of the first of the B queries.
    users: their user rows, [B].

    A feature that the queries do not give is unknown. Without `context` and with `before` of a cut,
    the context is that of the user's first held-out event.
    """
    features = data.event_features
    if not features.before:
        return {}
    if queries.context is None and queries.before != "end":
        place = torch.from_numpy(data.first_held_out[queries.before])[users]
        return _at_places(features, data, place)
    nothing = features.unknown(len(users))
    given = queries.context or {}
    stop = at + len(users)
    return {
        name: _encoded("context", name, given[name][at:stop], features)
        if name in given
        else nothing[name]
        for name in features.before
    }


def _at_places(features: EventFeatures, data: TrainingData, place: Tensor) -> dict[str, Tensor]:
    """Return the "before" features of the events at these log positions, [B]; -1: unknown."""
    there, nothing = place >= 0, features.unknown(len(place))
    columns = features.columns_of(data.log.at_places(place[there].numpy()))
    found = {name: nothing[name] for name in features.before}
    for name, column in found.items():
        column[there] = torch.from_numpy(columns[name])
    return found


def encoded_event_features(
    columns: Mapping[str, Sequence[Sequence[Any]]] | None, part: slice, data: TrainingData
) -> dict[str, Tensor]:
    """Return the encoded features of the events in a part of the queries, [total] each."""
    return {
        name: _encoded(
            "event_features", name, list(chain.from_iterable(lists[part])), data.event_features
        )
        for name, lists in (columns or {}).items()
    }


def unknown_context(
    names: Iterable[str],
    context: Mapping[str, Sequence[Any]] | None,
    queries: int,
    features: EventFeatures,
) -> list[int]:
    """Count, for each query, the named context features without a known value."""
    counts = np.zeros(queries, dtype=np.int64)
    for name in names:
        given = (context or {}).get(name)
        if given is None:
            counts += 1
        else:
            counts += ~is_given(_encoded("context", name, given, features)).numpy()
    return counts.tolist()


def is_given(column: Tensor) -> Tensor:
    """Return which values of an encoded feature of events are known, bool [n]."""
    return ~column.isnan() if column.dtype.is_floating_point else column > 0


def check_event_features_read(
    queries: Queries, data: TrainingData, context: frozenset[str], history: frozenset[str]
) -> None:
    """Refuse event features that are known too late or that the retriever does not read.

    context: names that the retriever reads from the request.
    history: names that it reads from past events.
    Errors: QueryError.
    """
    features = data.event_features
    for key, given, reads in (
        ("context", queries.context or {}, context),
        ("event_features", queries.event_features or {}, history),
    ):
        for name in given:
            if key == "context" and name in features.after:
                raise QueryError(
                    f"context: '{name}' is known after the event (features.events.{name}), and a "
                    "request comes before it: leave it out"
                )
            if key == "event_features" and name == features.of_kind:
                raise QueryError(
                    f"event_features: '{name}' is the kind of the event: give it as kinds"
                )
            if name not in features.encoders:
                hint = suggest(name, features.encoders) if features.encoders else ""
                raise QueryError(f"{key}: this data has no feature of events {name!r:.60}.{hint}")
            if name not in reads:
                does = f"it reads {', '.join(sorted(reads))}" if reads else "it reads none"
                raise QueryError(f"{key}: {name!r:.60} does nothing for this retriever: {does}")


def _encoded(what: str, name: str, values: Sequence[Any], features: EventFeatures) -> Tensor:
    """Return values as an encoded column, [n]; None becomes unknown."""
    for value in values:
        if isinstance(value, list | tuple | dict | set | np.ndarray | pl.Series):
            raise QueryError(
                f"{what}: {name}: expected one value and not a list, got {value!r:.60}"
            )
    present, encoded = encoded_values(what, name, values, features.encoders[name])
    assert isinstance(encoded, Tensor)
    if encoded.dtype.is_floating_point:
        return encoded[:, 0].masked_fill(~present, torch.nan)
    return encoded.int()
