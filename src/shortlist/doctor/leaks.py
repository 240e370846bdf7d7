"""Does anything used in training contain what is to be predicted?"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.data.features import CategoricalEncoder, FeatureTable, NumericEncoder
from shortlist.data.interactions import BEFORE
from shortlist.data.training_data import FIT_BEFORE, TrainingData
from shortlist.data.vocabulary import Vocabulary
from shortlist.doctor.base import Subject, check

FEWEST = 20
"""With fewer cases than this, a share is not reported."""


def held_out(data: TrainingData) -> NDArray[np.bool_] | None:
    """Return which events of the log the model must not know, [n]; None if there are none."""
    if data.log.role is None or data.fit == "all":
        return None
    mask: NDArray[np.bool_] = data.log.role >= BEFORE[FIT_BEFORE[data.fit]]
    return mask if mask.any() else None


def held_out_targets(data: TrainingData) -> NDArray[np.bool_] | None:
    """Return which held-out events are targets, [n]; None if there are none."""
    mask = held_out(data)
    if mask is None or data.log.target is None:
        return mask
    mask = mask & data.log.target
    return mask if mask.any() else None


@check(
    "held-out-in-training",
    "error",
    "data",
    cure="Build counts, vocabularies and feature statistics from the rows before the cut only.",
)
def held_out_in_training(subject: Subject) -> str | None:
    """Held-out events are trained on, or counted in statistics that training uses, so the figures
    do not measure predictions of the future.
    """
    data, hidden = subject.data, held_out(subject.data)
    if hidden is None:
        return None
    before = ~hidden
    found = []
    extra = len(data.training_log) - int(before.sum())
    if extra > 0:
        found.append(f"{extra:,} held-out events are among the training events")
    aimed = before if data.log.target is None else before & data.log.target
    counts = np.bincount(data.log.item[aimed], minlength=data.items.trained + 1)
    if len(counts) == len(data.item_counts) and (counts[1:] != data.item_counts[1:]).any():
        off = int(np.abs(counts[1:] - data.item_counts[1:]).sum())
        found.append(f"item counts are off by {off:,} events")
    for side, vocabulary, rows in (
        ("user", data.users, data.log.user[before]),
        ("item", data.items, data.log.item[before]),
    ):
        foreign = vocabulary.trained - len(np.unique(rows))
        if foreign > 0:
            found.append(f"{foreign:,} {side}s without a training event count as trained")
    for side, table, frame, vocabulary in (
        ("user", data.user_features, data.user_frame, data.users),
        ("item", data.item_features, data.item_frame, data.items),
    ):
        found += [
            f"{side} feature '{name}' was fitted on others than the training {side}s ({how})"
            for name, how in _foreign_statistics(table, frame, vocabulary)
        ]
    return "; ".join(found) or None


def _foreign_statistics(
    table: FeatureTable, frame: pl.DataFrame | None, vocabulary: Vocabulary
) -> list[tuple[str, str]]:
    """Return the features whose encoder differs from one fitted on the trained ids, and how."""
    if frame is None:
        return []
    found = []
    trained = vocabulary.ids.head(vocabulary.trained)
    aligned = pl.DataFrame({"id": trained}).join(frame, on="id", how="left", maintain_order="left")
    for name, encoder in table.encoders.items():
        if isinstance(encoder, NumericEncoder):
            right = NumericEncoder.fit(aligned[name])
            if not np.allclose([encoder.mean, encoder.std], [right.mean, right.std], rtol=1e-6):
                found.append((name, f"mean {encoder.mean:.4g}, theirs {right.mean:.4g}"))
        elif isinstance(encoder, CategoricalEncoder):
            values = CategoricalEncoder.fit(aligned[name]).values
            if encoder.values != values:
                found.append((name, f"{len(encoder.values):,} values, theirs {len(values):,}"))
    return found


@check(
    "duplicates-across-cut",
    "warning",
    "data",
    cure="Remove repeated events. If repeats are wanted, set evaluation.exclude_seen = false. If "
    "an event of another kind comes first, as a view before a purchase, set seen = false in that "
    "kind's data.events table.",
)
def duplicates_across_cut(subject: Subject) -> str | None:
    """The same (user, item) pairs occur before and after the cut. Seen items are left out of the
    lists, so these held-out events cannot be hit.
    """
    data, hidden, past = subject.data, held_out_targets(subject.data), held_out(subject.data)
    if hidden is None or past is None or not subject.exclude_seen:
        return None
    keys = data.log.user.astype(np.int64) * (len(data.items) + 1) + data.log.item
    hides = data.log.hides
    known = np.sort(keys[~past if hides is None else ~past & hides])
    if not len(known):
        return None
    place = np.minimum(np.searchsorted(known, keys[hidden]), len(known) - 1)
    repeated = known[place] == keys[hidden]
    if repeated.mean() < 0.01:
        return None
    return f"{repeated.sum():,} of {hidden.sum():,} held-out events ({repeated.mean():.0%})"


@check(
    "feature-knows-target",
    "error",
    "data",
    cure="Compute the feature from events before the cut, or leave it out (model.user_features, "
    "model.item_features).",
)
def feature_knows_target(subject: Subject) -> str | None:
    """A feature contains what is to be predicted: it was computed from the whole log, including
    held-out events.
    """
    hidden = held_out_targets(subject.data)
    if hidden is None:
        return None
    found = [
        *_user_features_that_name_the_item(subject.data, hidden),
        *_numbers_that_count_the_future(subject.data, hidden),
    ]
    return "; ".join(found) or None


def _user_features_that_name_the_item(data: TrainingData, hidden: NDArray[np.bool_]) -> list[str]:
    """Return user features that equal a held-out item's id, or determine the held-out item."""
    if data.user_frame is None or data.log.role is None:
        return []
    pairs = pl.DataFrame(
        {
            "id": data.users.external(data.log.user[hidden].astype(np.int64)),
            "target": data.items.external(data.log.item[hidden].astype(np.int64)).cast(pl.String),
            "cut": data.log.role[hidden],
        }
    )
    # The first and the last held-out event of a user are the most likely to be in a feature.
    ends = pairs.group_by("cut", "id", maintain_order=True)
    cases = pl.concat(
        [
            ends.first().with_columns(end=pl.lit("first")),
            ends.last().with_columns(end=pl.lit("last")),
        ]
    ).join(data.user_frame, on="id", how="inner")
    found = []
    for name, encoder in data.user_features.encoders.items():
        if encoder.kind == "vector":
            continue
        groups = cases.select("cut", "end", "target", _as_text(cases[name]).alias("value"))
        told = [_leak_in(group) for _, group in groups.drop_nulls().group_by("cut", "end")]
        if said := next((text for text in told if text is not None), None):
            found.append(f"user feature '{name}': {said}")
    return found


def _as_text(column: pl.Series) -> pl.Series:
    """Return each value as text: lists are joined, and 3.0 becomes 3."""
    if isinstance(column.dtype, pl.List | pl.Array):
        return column.cast(pl.List(pl.String)).list.join("|")
    return column.cast(pl.String).str.strip_suffix(".0")


def _leak_in(cases: pl.DataFrame) -> str | None:
    """Return what one feature reveals about one held-out event a user. cases: value, target."""
    if cases.height < FEWEST:
        return None
    equal = float((cases["value"] == cases["target"]).cast(pl.Float64).sum()) / cases.height
    if equal > 0.5:
        return f"it is the id of the held-out item for {equal:.0%} of users"
    agreed = _agreement(cases)
    if agreed > 0.5:
        return f"{agreed:.0%} of the pairs of users with one value have one held-out item"
    return None


def _agreement(cases: pl.DataFrame) -> float:
    """Return the share of the pairs of cases with one value that have one target.

    0 means that there are few such pairs, or that many pairs agree by chance.
    """

    def pairs(frame: pl.DataFrame, *columns: str) -> float:
        sizes = frame.group_by(columns).len()["len"].cast(pl.Float64)
        return float((sizes * (sizes - 1) / 2).sum())

    together, everybody = pairs(cases, "value"), cases.height * (cases.height - 1) / 2
    if together < FEWEST:
        return 0.0
    by_chance = pairs(cases, "target") / everybody
    return pairs(cases, "value", "target") / together if by_chance < 0.25 else 0.0


def _numbers_that_count_the_future(data: TrainingData, hidden: NDArray[np.bool_]) -> list[str]:
    """Return numeric features that correlate with held-out counts beyond the training counts."""
    found: list[str] = []
    past = held_out(data)
    if past is None:
        return found
    for side, table, rows, size in (
        ("item", data.item_features, data.log.item, data.items.trained + 1),
        ("user", data.user_features, data.log.user, data.users.trained + 1),
    ):
        after = np.bincount(rows[hidden], minlength=size)[1:size].astype(np.float64)
        before = np.bincount(rows[~past], minlength=size)[1:size].astype(np.float64)
        for name, encoder in table.encoders.items():
            if encoder.kind != "numeric" or size <= FEWEST:
                continue
            column = table.columns[name]
            assert not isinstance(column, tuple)
            value, missing = column[1:size].double().numpy().T
            known = missing == 0
            if known.sum() < FEWEST:
                continue
            follows = max(
                abs(_partial(value[known], shape(after + before)[known], shape(before)[known]))
                for shape in (np.asarray, np.log1p)
            )
            if follows > 0.9:
                found.append(
                    f"{side} feature '{name}' follows the held-out events at a correlation of "
                    f"{follows:.2f}, training counts accounted for"
                )
    return found


def _partial(x: NDArray[np.float64], y: NDArray[np.float64], given: NDArray[np.float64]) -> float:
    """Return the partial correlation of x and y given `given` and a constant."""
    basis = np.stack([np.ones_like(given), given], axis=1)
    left, right = (v - basis @ np.linalg.lstsq(basis, v, rcond=None)[0] for v in (x, y))
    scale = np.linalg.norm(left) * np.linalg.norm(right)
    spread = np.linalg.norm(x - x.mean()) * np.linalg.norm(y - y.mean())
    return 0.0 if scale <= 1e-9 * spread or spread == 0 else float(left @ right / scale)


@check(
    "feature-follows-event",
    "error",
    "data",
    cure="Declare it as a feature of the other side (features.users, features.items), or leave it "
    "out.",
)
def feature_follows_event(subject: Subject) -> str | None:
    """A column of the log is declared as a feature of users but depends on the item of the event,
    or the reverse. The feature of a user then reveals the item of the last event, which is to be
    predicted.
    """
    return "; ".join(subject.data.follows) or None


@check(
    "context-knows-item",
    "warning",
    "data",
    cure='If the column comes with the item or after it, set known = "after" (features.events), or '
    "leave it out of model.context; if requests can state it beforehand, all is well.",
)
def context_knows_item(subject: Subject) -> str | None:
    """A column that is declared as known before the event reveals its item, so the figures rely on
    questions that contain their answer.
    """
    data, targets = subject.data, subject.data.training_targets
    found = []
    for name in data.event_features.before:
        values = data.event_features.columns_of(targets)[name]
        known = values > 0 if values.dtype.kind == "i" else ~np.isnan(values)
        if known.sum() < FEWEST:
            continue
        pairs = pl.DataFrame({"value": values[known], "target": targets.item[known]})
        if said := _gives_away(pairs):
            found.append(f"'{name}': {said}")
    return "; ".join(found) or None


def _gives_away(pairs: pl.DataFrame) -> str | None:
    """Return how a column determines its event's item, or the reverse. pairs: value, target."""
    if (agreed := _agreement(pairs)) > 0.5:
        return f"{agreed:.0%} of the pairs of events with one value are of one item"
    several = pairs["value"].n_unique()
    if several < FEWEST:
        return None  # a column with few values may well explain an item without being part of it
    swapped = pairs.rename({"value": "target", "target": "value"})
    if (fixed := _agreement(swapped)) > 0.99:
        return (
            f"it has {several:,} values, and {fixed:.0%} of the pairs of events of one item have "
            "the same: it is a column of the item"
        )
    return None


CHECKS = (
    held_out_in_training,
    duplicates_across_cut,
    feature_knows_target,
    feature_follows_event,
    context_knows_item,
)
