"""Do the declared features carry information?"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from shortlist.data.ragged import Ragged
from shortlist.doctor.base import Subject, check

FEWEST = 20
"""With fewer users or items than this, their features are not checked."""


class Column(NamedTuple):
    """What a tower reads about the trained users or items in one feature.

    label: a number that differs between different values, [n] (0 if missing).
    known: whether there is a value, [n] bool.
    """

    side: str
    name: str
    kind: str
    label: Tensor
    known: Tensor


def columns(subject: Subject) -> Iterator[Column]:
    """Yield the features of both sides, for trained users and items only."""
    data = subject.data
    for side, table in (("user", data.user_features), ("item", data.item_features)):
        for name, encoder in table.encoders.items():
            column = table.columns[name]
            if isinstance(column, Ragged):
                owners, size = column.owners(), len(column.offsets) - 1
                # Codes get random numbers, so that lists of different codes have different sums.
                random = torch.rand(encoder.width, generator=torch.Generator().manual_seed(1))
                label = torch.zeros(size, dtype=torch.float64)
                label.index_add_(0, owners, random.double()[column.values])
                known = column.lengths > 0
            elif column.dim() == 1:
                label, known = column.double(), column > 0
            elif encoder.kind == "numeric":
                label, known = column[:, 0].double(), column[:, 1] == 0
            else:
                weights = torch.rand(column.shape[1], generator=torch.Generator().manual_seed(1))
                label = column.double() @ weights.double()
                known = (column != 0).any(dim=1)
            rows = slice(1, table.trained + 1)
            if table.trained >= FEWEST:
                yield Column(side, name, encoder.kind, label[rows], known[rows])


def _values(column: Column) -> int:
    """Return the number of distinct values."""
    return len(torch.unique(column.label[column.known]))


def _named(found: list[Column], what: str) -> str | None:
    if not found:
        return None
    names = ", ".join(f"{column.side} feature '{column.name}'" for column in found)
    return f"{names}: {what} of {len(found[0].known):,} {found[0].side}s"


@check(
    "constant-feature",
    "warning",
    "data",
    cure="Leave it out, or check how the file was made.",
)
def constant_feature(subject: Subject) -> str | None:
    """A feature has the same value for everybody, so it carries no information."""
    return _named(
        [c for c in columns(subject) if c.known.any() and _values(c) == 1], "1 value for all"
    )


@check(
    "missing-feature",
    "warning",
    "data",
    cure="Check that the ids of the table are those of the log, or leave the feature out.",
)
def missing_feature(subject: Subject) -> str | None:
    """A feature is missing for nearly all users or items in training."""
    found = [c for c in columns(subject) if c.known.double().mean() < 0.01]
    return _named(found, "known for fewer than 1 %")


@check(
    "id-in-disguise",
    "warning",
    "data",
    cure="Leave it out (model.user_id and model.item_id are there for that), or group its values.",
)
def id_in_disguise(subject: Subject) -> str | None:
    """A categorical feature has a different value for nearly every user or item. It acts as an id:
    training memorises it, and for new ones it is unknown.
    """
    found = [
        c
        for c in columns(subject)
        if c.kind == "categorical"
        and c.known.sum() >= FEWEST
        and _values(c) >= 0.95 * int(c.known.sum())
    ]
    return _named(found, "at least 95 % as many values as entities")


@check(
    "items-without-features",
    "warning",
    "towers",
    cure="Set model.item_id = true, or fill in the features.",
)
def items_without_features(subject: Subject) -> str | None:
    """The item tower reads only features, and some items have none: they all get one vector."""
    table, names = subject.data.item_features, subject.model.item_features
    if subject.model.item_id or not table.columns:
        return None
    known = torch.zeros(table.trained, dtype=torch.bool)
    for column in columns(subject):
        if column.side == "item" and (names is None or column.name in names):
            known |= column.known
    empty = int((~known).sum())
    if empty <= 0.01 * table.trained:
        return None
    return f"{empty:,} of {table.trained:,} items ({empty / table.trained:.0%})"


CHECKS = (constant_feature, missing_feature, id_in_disguise, items_without_features)
