"""Which column of a log is the user, the item, the time, the event, the weight, the session?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from shortlist.data.columns import checked_ids
from shortlist.drafting import names
from shortlist.drafting.columns import Column
from shortlist.drafting.guesses import Confidence, Guess
from shortlist.errors import DataError

_PARTS = {"train", "validation", "valid", "val", "test"}
_ASIN = r"^B0[0-9A-Z]{8}$|^\d{9}[\dX]$"
_SINCE_1970 = ("s", "ms", "us", "ns")
"""Units of clock times; text is read in them, and no duration is as long."""

_FEW = 30
"""The most kinds of events a column may have."""


@dataclass
class Roles:
    """The column of each role, and the guesses with their reasons.

    columns: role -> column.
    guesses: one for each role, and for related keys.
    rows: the column of lists whose elements become the rows; None without lists.
    mark: the separator of these lists in text.
    """

    columns: dict[str, Column] = field(default_factory=dict)
    guesses: list[Guess] = field(default_factory=list)
    rows: str | None = None
    mark: str | None = None

    def take(self, role: str, column: Column, reason: str, confidence: Confidence) -> None:
        """Assign a role to a column."""
        self.columns[role] = column
        self.guesses.append(Guess(f"data.{role}", column.name, reason, confidence))

    def free(self, columns: Sequence[Column]) -> list[Column]:
        """Return the columns without a role."""
        taken = {column.name for column in self.columns.values()}
        return [column for column in columns if column.name not in taken]


def find_roles(
    columns: Sequence[Column], known: Mapping[str, Sequence[pl.Series]], where: str, *, whole: bool
) -> Roles:
    """Guess the role of each column. Errors: DataError if no user or no item is found.

    known: for "user" and "item" the columns of their own table that could be ids, as text.
    where: the name of the log in errors.
    whole: whether these are all rows of the log.
    """
    roles = Roles()
    usable = [column for column in columns if len(column.given) and column.can_be_named]
    ids = [column for column in usable if _could_be_id(column)]
    _refuse_floats(usable, where)
    _user(roles, ids, known, where, whole=whole)
    _item(roles, ids, known, where, whole=whole)
    _time(roles, _of_events(roles, usable), whole=whole)
    _split(roles, roles.free(usable))
    _event(roles, roles.free(usable))
    _weight(roles, roles.free(usable))
    _session(roles, roles.free(usable))
    return roles


def _refuse_floats(columns: Sequence[Column], where: str) -> None:
    """Refuse floats in a column whose name clearly means ids."""
    for column in columns:
        said = [names.says(column.words, nouns) for nouns in (names.USERS, names.ITEMS)]
        if column.values.dtype.is_float() and max(said) == 4:
            checked_ids(column.given, where)


def _of_events(roles: Roles, columns: Sequence[Column]) -> list[Column]:
    """Return the columns without a role, for rows with a user and an item only."""
    ids = [roles.columns[role].values.is_not_null() for role in ("user", "item")]
    kept = ids[0] & ids[1]
    free = roles.free(columns)
    return free if kept.all() else [replace(c, values=c.values.filter(kept)) for c in free]


def _could_be_id(column: Column) -> bool:
    if column.is_nested or column.several is not None:
        return False
    return column.is_whole or column.is_text


# --- user and item --------------------------------------------------------------------------------


def _user(
    roles: Roles,
    ids: Sequence[Column],
    known: Mapping[str, Sequence[pl.Series]],
    where: str,
    *,
    whole: bool,
) -> None:
    found = []
    for place, column in enumerate(ids):
        name_score = names.says(column.words, names.USERS, names.WEAK_USERS)
        if column.repeats == 1 and (whole or not name_score):
            continue
        if name_score < 3 and (column.is_clock or _is_kind(column) or _is_item(column)):
            continue
        if name_score < 3 and any(column.counts(other) for other in ids):
            continue
        if not name_score and names.says(column.words, names.ITEMS) >= 3:
            continue
        if name_score < 2 and column.is_text and _is_prose(column):
            continue
        shared = overlap(column, known.get("user", ()))
        own = name_score + 3 * shared - 3 * overlap(column, known.get("item", ()))
        if column.named and not name_score and shared < 0.5:
            own -= 1
        found.append((own, -place, column, name_score, shared))
    found.sort(key=lambda entry: entry[:2], reverse=True)
    if not found:
        raise DataError(
            f"{where}: no column repeats like the id of a user, so nothing can be learned. "
            f"The columns are: {', '.join(column.name for column in ids) or 'no ids at all'}. "
            "A log has one row an event, with the id of its user."
        )
    _, _, best, name_score, shared = found[0]
    reason = best.counted()
    if shared >= 0.5 and known.get("user"):
        reason += f"; {shared:.0%} of them in the users file"
    sure: Confidence = (
        "sure" if name_score >= 3 else "likely" if name_score or shared > 0.9 else "check"
    )
    if best.unknown > 0.5:
        sure, reason = "check", f"{reason}; {best.unknown:.0%} of the rows have none"
    if name_score < 2 and len(found) > 1 and found[1][0] == found[0][0]:
        sure = "check"
    if sure == "check" and len(found) > 1:
        reason += f"; or {' or '.join(entry[2].name for entry in found[1:4])}"
    roles.take("user", best, reason, sure)


def _item(
    roles: Roles,
    ids: Sequence[Column],
    known: Mapping[str, Sequence[pl.Series]],
    where: str,
    *,
    whole: bool,
) -> None:
    user = roles.columns["user"]
    found = []
    for place, column in enumerate(ids):
        if column.name == user.name:
            continue
        name_score = names.says(column.words, names.ITEMS, names.WEAK_ITEMS)
        if column.distinct < 2 and name_score < 3:
            continue
        if name_score < 3 and (column.is_clock or _is_kind(column) or column.counts(user)):
            continue
        if column.repeats == 1 and name_score < 3 and (whole or column.ordered):
            continue  # a row number, or a distinct text in each row
        if names.says(column.words, names.USERS) >= 3:
            continue
        shared = overlap(column, known.get("item", ()))
        own = name_score + 3 * shared + 2 * _is_item(column) - column.missing / len(column.values)
        found.append((own, -place, column, name_score, shared))
    found.sort(key=lambda entry: entry[:2], reverse=True)
    if not found:
        raise DataError(
            f"{where}: no column looks like an item beside the user '{user.name}'. A log has one "
            "row an event, with the id of its item; lists of items need a row for each of them."
        )
    _, _, best, name_score, shared = found[0]
    reason = best.counted()
    if known.get("item"):
        reason += f"; {shared:.0%} of them in the items file"
    others = [entry[2].name for entry in found[1:4] if entry[3] >= name_score or name_score < 3]
    rivals = [entry for entry in found[1:] if entry[0] >= found[0][0]]
    sure: Confidence = "sure" if name_score >= 3 and not rivals else "likely"
    if name_score < 3 and not _is_item(best) and shared < 0.9:
        sure = "check"
    if rivals and name_score < 3:
        sure = "check"
    if rivals and name_score >= 3:
        sure = "check"
    if sure == "check" and others:
        reason += f"; or {' or '.join(others)}"
    roles.take("item", best, reason, sure)


def overlap(column: Column, ids: Sequence[pl.Series]) -> float:
    """Return the largest share of a column's values that one of the id columns contains."""
    own = column.given.cast(pl.String).unique()
    found = max((int(own.is_in(other.implode()).sum()) for other in ids), default=0)
    return found / max(len(own), 1)


def _is_prose(column: Column) -> bool:
    """Return whether many texts have several words or values, unlike user ids."""
    texts = column.given.cast(pl.String)
    return 5 * int(texts.str.contains(r"[\s|,;]").sum()) > len(texts)


def _is_item(column: Column) -> bool:
    """Return whether ids are written like Amazon's item ids (ASIN)."""
    if not column.is_text:
        return False
    found = column.given.head(1000).cast(pl.String).str.contains(_ASIN)
    return int(found.sum()) > 0.9 * len(found)


def _is_kind(column: Column) -> bool:
    """Return whether there are few values, all frequent: kinds of events, grades, flags."""
    rows = len(column.given)
    few = column.distinct <= 12 and rows >= 4 * column.distinct
    if column.is_text:
        texts = column.given.cast(pl.String)
        return few and not bool(texts.str.contains(r"\d|.{25}").any())
    return few and rows >= 20 * column.distinct


# --- time -----------------------------------------------------------------------------------------


def _time(roles: Roles, columns: Sequence[Column], *, whole: bool) -> None:
    found = []
    for place, column in enumerate(columns):
        if column.is_text and not column.is_clock and not names.mentions(column.words, names.TIMES):
            continue
        named = names.mentions(column.words, names.TIMES)
        if _is_other_time(column):
            continue
        if named and (column.unit is None or column.missing):
            found.append((-1.0, -place, column))
            continue
        if column.unit is None or not (named or column.is_clock or not column.named):
            continue
        if column.missing or (column.distinct < 2 and (whole or not named)):
            continue
        if not named and not column.is_clock and not (column.ordered and column.repeats < 20):
            continue
        own = 2.0 * named + 2.0 * column.is_clock + column.distinct / len(column.values)
        found.append((own, -place, column))
    found.sort(key=lambda entry: entry[:2], reverse=True)
    if not found:
        roles.guesses.append(Guess("data.time", None, _no_time(columns, whole=whole), "check"))
        return
    own, _, best = found[0]
    named = names.mentions(best.words, names.TIMES)
    if own < 0:
        _left_out(roles, best)
        return
    sure: Confidence = "sure" if named or (best.is_clock and len(found) == 1) else "likely"
    if not best.is_clock and not named:
        sure = "check"
    reason = best.times
    if len(found) > 1 and found[1][0] >= own - 0.5 and not named:
        sure, reason = "check", f"{reason}; or {found[1][2].name}"
    if best.distinct < 2:  # Later rows may have other times, as where the log is sorted by day.
        sure, reason = "check", f"{reason}; the same in the first {len(best.values):,} rows"
    roles.take("time", best, reason, sure)


def _is_other_time(column: Column) -> bool:
    """Return whether the name means a duration, or a time of something else than the event."""
    if names.mentions(column.words, names.NOT_WHEN):
        return True
    return names.mentions(column.words, names.DURATIONS) and column.unit not in _SINCE_1970


def _no_time(columns: Sequence[Column], *, whole: bool) -> str:
    """Return why no column was taken for the time of the event, and what to do."""
    clocks = [
        column.name for column in columns if column.unit in _SINCE_1970 and not column.missing
    ]
    reason = "no column looks like a time"
    same = [column.name for column in columns if column.name in clocks and column.distinct < 2]
    if same:
        rows = "every row" if whole else "every row read"
        reason = f"{', '.join(same)}: the same in {rows}, so it orders nothing"
    elif clocks:
        reason = f"{', '.join(clocks)}: times of something else, by the name; if not, name it here"
    return f'{reason}; if the lines are in order, set order = "file"'


def _left_out(roles: Roles, column: Column) -> None:
    """Read a time column of unknown unit as plain numbers, or leave it out with a reason."""
    plain = column.is_whole or column.values.dtype.is_float()
    if plain and not column.missing and bool(column.given.is_finite().all()):
        roles.take("time", column, "numbers in no known unit: an order without dates", "check")
        roles.guesses.append(Guess("data.time_unit", "number", column.times, "check"))
        return
    why = column.times
    if column.missing:
        share = column.missing / len(column.values)
        why = f"{share:.1%} of the rows have none in '{column.name}', and each needs one"
    roles.guesses.append(Guess("data.time", None, why, "check"))


# --- events, weights, sessions --------------------------------------------------------------------


def _split(roles: Roles, columns: Sequence[Column]) -> None:
    for column in columns:
        if column.is_text and column.missing == 0 and column.distinct > 1:
            values = set(column.given.unique().to_list())
            if values <= _PARTS and {"train", "test"} <= values:
                roles.columns["split"] = column
                reason = f"its values are {', '.join(sorted(values))}"
                roles.guesses.append(Guess("split.column", column.name, reason, "sure"))
                return


def _event(roles: Roles, columns: Sequence[Column]) -> None:
    found = []
    for place, column in enumerate(columns):
        named = names.mentions(column.words, names.EVENTS)
        if column.is_nested or not 1 < column.distinct <= _FEW or column.missing:
            continue
        whole = column.is_whole and not column.is_binary
        words = column.is_text and _is_kind(column)
        if (named and (whole or column.is_text)) or (not column.named and words):
            found.append((2 * named + column.is_text, -place, column, named))
    if found:
        _, _, best, named = max(found, key=lambda entry: entry[:2])
        roles.take("event", best, _shares(best), "likely" if named else "check")


def _shares(column: Column) -> str:
    counts = column.given.value_counts(sort=True).head(5)
    shown = [f"{value} {count / len(column.given):.0%}" for value, count in counts.rows()]
    return ", ".join(shown) + (", and others" if column.distinct > 5 else "")


def _weight(roles: Roles, columns: Sequence[Column]) -> None:
    found = []
    for place, column in enumerate(columns):
        if column.is_number and not column.missing and column.distinct > 1:
            found.append((_weighs(column), -place, column))
    told, _, best = max(found, key=lambda entry: entry[:2], default=(0.0, 0, None))
    if best is None or not told:
        return
    values = best.given.cast(pl.Float64)
    if best.is_binary:
        reason = f"1 in {int(values.sum()) / len(values):.0%} of the rows, 0 in the others"
        roles.take("weight", best, reason, "check")
        roles.guesses.append(
            Guess("data.min_weight", 1, f"rows with {best.name} = 0 are no positives", "check")
        )
        return
    roles.take("weight", best, best.reach, "likely" if told == 4 else "check")
    least = best.given.filter(best.given >= 0).min()
    if not best.is_whole:
        least = float(values.filter(values >= 0).to_numpy().min())
    reason = "each row is a positive; raise it to leave lower weights out of training"
    sure: Confidence = "likely"
    if bool((values < 0).any()):
        reason, sure = "rows below it are no positives", "check"
    elif least == 0:
        reason, sure = f"0 may mean unknown rather than the lowest value: {reason}", "check"
    roles.guesses.append(Guess("data.min_weight", least, reason, sure))


def _weighs(column: Column) -> float:
    """Return how clearly a column of numbers is a rating, a click or an amount: 4 is the most."""
    values = column.given.cast(pl.Float64)
    rated = names.mentions(column.words, names.RATINGS) and "count" not in column.words
    if not values.is_finite().all() or (bool((values < 0).any()) and not rated):
        return 0.0
    if not column.named:
        return 4.0 * _is_rating(column)
    if rated:
        return 4.0
    if names.mentions(column.words, names.CLICKS) and column.is_binary:
        clicks = [names.CLICKS.index(word) for word in column.words if word in names.CLICKS]
        return 3 - min(clicks) / 9
    return 2.0 * names.mentions(column.words, names.AMOUNTS)


def _is_rating(column: Column) -> bool:
    """Return whether numbers look like grades: at most 11 values between 0 and 10."""
    values = column.given.unique().sort().to_list()
    return (
        1 < len(values) <= 11
        and values[0] >= 0
        and values[-1] <= 10
        and all(2 * value == int(2 * value) for value in values)
        and not column.is_binary
    )


def _session(roles: Roles, columns: Sequence[Column]) -> None:
    for column in columns:
        said = names.says(column.words, names.SESSIONS)
        if _could_be_id(column) and said >= 3 and column.missing == 0 and column.distinct > 1:
            reason = f"'{column.name}', {column.counted()}; read with training.positives = \"i2i\""
            roles.guesses.append(Guess("data.session", None, reason, "likely"))
            return
