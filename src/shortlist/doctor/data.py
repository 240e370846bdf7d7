"""Is the log suitable for training and evaluation?"""

import numpy as np
import polars as pl

from shortlist.data.features import CategoricalEncoder, MultiValuedEncoder
from shortlist.data.id_columns import few_shared
from shortlist.data.lost_ids import NULL_WORDS
from shortlist.data.ragged import Ragged
from shortlist.doctor.base import Subject, check
from shortlist.doctor.leaks import held_out_targets

FEWEST_USERS = 100


def tied(subject: Subject) -> tuple[int, int] | None:
    """Return how many users have a tied last time, and how many have two events; or None.

    None means that the log has no order.
    """
    log = subject.data.log.targets
    if log.time is None:
        return None
    ends = log.indptr[1:][np.diff(log.indptr) >= 2] - 1
    return int((log.time[ends] == log.time[ends - 1]).sum()), len(ends)


def _ties(subject: Subject, rule: str, least: float) -> str | None:
    if subject.data.kind != "leave-last-out":  # no other split holds out the last event
        return None
    found = tied(subject)
    if found is None or subject.tie != rule or found[0] < least * found[1] or found[0] == 0:
        return None
    return f"{found[0]:,} of {found[1]:,} users ({found[0] / found[1]:.0%})"


@check(
    "ties-by-file-order",
    "warning",
    "data",
    cure='Leave data.tie at "hash", unless a published figure is to be reproduced.',
)
def ties_by_file_order(subject: Subject) -> str | None:
    """For some users the last two events have the same time, and the order of the file decides
    which one is held out. Sorting the file then changes every figure (on ML-100K popularity's
    HR@10 from .050 to .114).
    """
    return _ties(subject, "file", 0.0)


@check(
    "ties-by-hash",
    "info",
    "data",
    cure="Use a finer time column if there is one; do not compare with figures that follow the "
    "order of the file.",
)
def ties_by_hash(subject: Subject) -> str | None:
    """For some users the last two events have the same time, and a hash decides which one is held
    out. That is fair, but it may not be the event that happened last.
    """
    return _ties(subject, "hash", 0.05)


@check(
    "few-test-users",
    "warning",
    "data",
    cure="Hold out more: split.kind = 'leave-last-out', a smaller split.at, or more data.",
)
def few_test_users(subject: Subject) -> str | None:
    """Few users have held-out events, so the figures are uncertain."""
    data = subject.data
    if data.log.role is None:
        return None
    users = len(np.unique(data.log.at("test").user))
    if users >= FEWEST_USERS:
        return None
    off = 1.96 * (0.16 / max(users, 1)) ** 0.5
    return f"{users} user{'' if users == 1 else 's'}: a rate of 20 % is known to about ±{off:.0%}"


@check(
    "held-out-items-unknown",
    "warning",
    "data",
    cure="Declare item features, move the cut, or accept that these events are missed.",
)
def held_out_items_unknown(subject: Subject) -> str | None:
    """Many held-out events are of items without a training event, and no item feature gives these
    items a vector, so they cannot be recommended.
    """
    data, hidden = subject.data, held_out_targets(subject.data)
    if hidden is None or data.item_features.columns:
        return None
    cold = data.log.item[hidden] > data.items.trained
    if cold.mean() < 0.2:
        return None
    return f"{cold.sum():,} of {len(cold):,} held-out events ({cold.mean():.0%})"


@check(
    "cold-items",
    "info",
    "data",
    cure="Nothing to do if item features describe them; they have no id embedding.",
)
def cold_items(subject: Subject) -> str | None:
    """The catalogue or the held-out events contain items without a training event."""
    items = subject.data.items
    if len(items) == items.trained:
        return None
    return f"{len(items) - items.trained:,} of {len(items):,} items"


@check(
    "vocabulary-mostly-unknown",
    "warning",
    "data",
    cure="Check that both files come from one version; use coarser values, or a numeric or vector "
    "feature.",
)
def vocabulary_mostly_unknown(subject: Subject) -> str | None:
    """Most feature values of users or items outside training never occur in training, so all of
    them are read as unknown.
    """
    found = []
    data = subject.data
    for side, table, frame, vocabulary in (
        ("user", data.user_features, data.user_frame, data.users),
        ("item", data.item_features, data.item_frame, data.items),
    ):
        if frame is None:
            continue
        later = frame.filter(~frame["id"].is_in(vocabulary.ids.head(vocabulary.trained).implode()))
        for name, encoder in table.encoders.items():
            if not isinstance(encoder, CategoricalEncoder | MultiValuedEncoder):
                continue
            given = later[name].drop_nulls()
            if len(given) < 20:
                continue
            codes = encoder.encode(given)
            known = codes.lengths > 0 if isinstance(codes, Ragged) else codes > 0
            share = 1 - float(known.float().mean())
            if share > 0.5:
                found.append(f"{share:.0%} of {len(given):,} later {side}s' '{name}'")
    return "; ".join(found) or None


@check(
    "ids-not-shared",
    "warning",
    "data",
    cure="Write the ids in one form in both files (1.0 and 1, or 007 and 7, are two ids), and "
    "check data.user and data.item.",
)
def ids_not_shared(subject: Subject) -> str | None:
    """Most users or items of the log have no row in their table, so their features and titles are
    unknown.
    """
    data = subject.data
    found = (
        few_shared("user", data.users.ids.head(data.users.trained), data.user_frame),
        few_shared("item", data.items.ids.head(data.items.trained), data.item_frame),
    )
    return "; ".join(filter(None, found)) or None


@check(
    "text-among-numbers",
    "warning",
    "data",
    cure="Check these ids: a single typing error makes all user ids, or all item ids, text.",
)
def text_among_numbers(subject: Subject) -> str | None:
    """At most one in a hundred ids is text, and the others are numbers."""
    found = []
    for side, ids in (("user", subject.data.users.ids), ("item", subject.data.items.ids)):
        if ids.dtype != pl.String:
            continue
        odd = ids.filter(ids.cast(pl.Int64, strict=False).is_null())
        if 0 < len(odd) * 100 <= len(ids):
            found.append(f"{len(odd):,} of {len(ids):,} {side}s, such as {odd[0]!r}")
    return "; ".join(found) or None


@check(
    "words-for-nothing",
    "warning",
    "data",
    cure="If the word means a missing value, add it to data.null_values; if it is a real value "
    "(NA is Namibia), all is well.",
)
def words_for_nothing(subject: Subject) -> str | None:
    """A word such as NULL or NA is read as a value of a feature."""
    found = []
    for side, table, frame in (
        ("user", subject.data.user_features, subject.data.user_frame),
        ("item", subject.data.item_features, subject.data.item_frame),
    ):
        for name, encoder in table.encoders.items():
            if frame is None or not isinstance(encoder, CategoricalEncoder):
                continue
            column = frame[name]
            if column.dtype == pl.String and (words := column.is_in(NULL_WORDS)).any():
                found.append(
                    f"{int(words.sum()):,} {side}s have {column.filter(words)[0]!r} as '{name}'"
                )
    return "; ".join(found) or None


CHECKS = (
    ids_not_shared,
    text_among_numbers,
    words_for_nothing,
    ties_by_file_order,
    ties_by_hash,
    few_test_users,
    held_out_items_unknown,
    cold_items,
    vocabulary_mostly_unknown,
)
