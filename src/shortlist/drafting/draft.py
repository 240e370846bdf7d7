"""What would a recipe for these files say? Puts together guesses with their reasons."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from shortlist.config.reading import DATA_VARIABLE
from shortlist.data.columns import checked_ids, exact_text, typed_text
from shortlist.data.id_columns import align_ids, given_ids
from shortlist.data.unfolding import unfolded
from shortlist.drafting import names
from shortlist.drafting.columns import Column
from shortlist.drafting.guesses import Confidence, Guess
from shortlist.drafting.heads import ROWS, Head, read_head
from shortlist.drafting.kinds import Kinds, find_kinds
from shortlist.drafting.moments import columns_of_events, kinds_of_events
from shortlist.drafting.named import PLAIN, UNSAID
from shortlist.drafting.roles import Roles, find_roles, overlap
from shortlist.errors import DataError
from shortlist.sections.faults import key_text

Source = str | list[str]

SIDES = ("users", "items")
_ROLE_OF = {"users": "user", "items": "item"}
_NAMES = {"user": "user_id", "item": "item_id", "time": "timestamp", "weight": "rating"}
"""Names for the columns of a file without a header, by their roles."""

_FORMAT_KEYS = ("separator", "quote", "encoding", "decimal")


@dataclass
class Draft:
    """A recipe that is being drafted: its sections, and the guesses behind its keys.

    content: the sections of the recipe.
    guesses: the guess for each key that was guessed, by section and key.
    notes: remarks for a reader of the recipe.
    marks: by side and feature, the separator of its values.
    reasons: the reason of each feature, by a key such as "items.genre".
    distinct: how many distinct values each column of the log has in its head.
    looked: how much of the files was read, in words.
    lost: what another library's configuration says and a recipe cannot express.
    """

    content: dict[str, dict[str, Any]] = field(default_factory=dict)
    guesses: dict[str, Guess] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    marks: dict[str, dict[str, str]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    distinct: dict[str, int] = field(default_factory=dict)
    looked: str = ""
    lost: list[str] = field(default_factory=list)

    def say(self, guess: Guess) -> None:
        """Add a guess. Its key is written to the recipe unless the value is None."""
        self.guesses[guess.key] = guess
        section, _, key = guess.key.partition(".")
        if guess.value is not None:
            self.content.setdefault(section, {})[key] = guess.value

    def clear(self, *sections: str) -> None:
        """Remove whole sections and their guesses."""
        for section in sections:
            self.content.pop(section, None)
        for key in [key for key in self.guesses if key.partition(".")[0] in sections]:
            del self.guesses[key]

    def unsure(self) -> list[Guess]:
        """Return the guesses that a person should check."""
        return [guess for guess in self.guesses.values() if guess.confidence == "check"]


def draft(
    interactions: Source,
    *,
    users: Source | None = None,
    items: Source | None = None,
    named: Mapping[str, Any] | None = None,
    base: Path | None = None,
) -> Draft:
    """Guess a recipe from the heads of its files. Errors: DataError if no user or item is found.

    interactions, users, items: the files.
    named: a recipe that provides model and training (`named.named_model`).
    base: the folder of the recipe, to which its paths are relative.
    """
    log = read_head(interactions, "interactions")
    sides = {
        side: read_head(source, side)
        for side, source in (("users", users), ("items", items))
        if source is not None
    }
    made = Draft(looked=_looked([log, *sides.values()]))
    known = {
        _ROLE_OF[side]: [ids for _, ids in unique_columns(head)] for side, head in sides.items()
    }
    made.distinct = {
        column.name: column.distinct for column in _columns(log, None) if not column.is_nested
    }
    roles = roles_of(log, known)
    renamed = _renamed(log, roles)
    made.say(Guess("data.interactions", _placed(log.source, base), _written(log), "sure"))
    kept = {}
    for side, head in sides.items():
        if (found := _side(made, side, head, log, roles, renamed, base)) is not None:
            kept[side] = found
    _roles(made, log, roles, renamed)
    _lists(made, log, roles, renamed)
    _forms(made, [log, *(sides[side] for side in kept)])
    _ids(made, log, roles)
    for side in SIDES:
        if side in kept:
            _features(made, side, sides[side], *kept[side])
        else:
            _own_features(made, side, log, roles)
    _moments(made, log, roles)
    _one_mark(made)
    _split(made, roles)
    _model(made, named)
    _leave_times_out(made, roles)
    return made


def _placed(source: Source, base: Path | None) -> Source:
    """Return a path as a recipe names it: relative if it is inside the recipe's folder."""
    if isinstance(source, list):
        return [str(_placed(path, base)) for path in source]
    if base is None:
        return source
    path = Path(os.path.abspath(source))
    if path.is_relative_to(base) and not os.environ.get(DATA_VARIABLE):
        return path.relative_to(base).as_posix()
    return str(path)


def _looked(heads: Sequence[Head]) -> str:
    rows = f"{len(heads[0].frame):,} rows"
    return f"all {rows}" if all(head.whole for head in heads) else f"the first {rows}"


def roles_of(log: Head, known: Mapping[str, Sequence[pl.Series]]) -> Roles:
    """Return the roles of a log's columns. If they are in a list, its elements become the rows."""
    inner = [inner.list for inner in log.table.inner.values() if inner.list]
    first: DataError | None = None
    for rows in (None, *dict.fromkeys(inner)):
        try:
            return find_roles(_columns(log, rows), known, log.table.where, whole=log.whole)
        except DataError as error:
            first = first or error
    for column in _columns(log, None):
        mark = _list_mark(column)
        columns = [] if mark is None else _unfolded(log, column.name, mark)
        # A column without repeats numbers the rows, unless only it can be the user.
        numbers = {
            other.name for other in columns if not log.frame[other.name].is_duplicated().any()
        }
        for some in ([c for c in columns if c.name not in numbers - {column.name}], columns):
            try:
                roles = find_roles(some, known, log.table.where, whole=log.whole)
            except DataError:
                continue
            if roles.columns["item"].name == column.name:
                roles.rows, roles.mark = column.name, mark
                return roles
    raise first or DataError(f"{log.table.where}: has no columns.")


def _list_mark(column: Column) -> str | None:
    """Return the separator of a column of id lists; "" if it needs none, None without lists."""
    kind = column.values.dtype
    if isinstance(kind, (pl.List, pl.Array)):
        inner = kind.inner
        plain = isinstance(inner, pl.DataType) and (inner.is_integer() or inner == pl.String)
        return "" if plain else None
    if column.several is None or bool(column.given.str.contains(_SHOWN).all()):
        return None
    return column.several


_SHOWN = r"^\S+-[01]( \S+-[01])*$"
"""Impressions as in MIND: shown items, with -1 after a clicked one and -0 after others."""


def _unfolded(log: Head, name: str, mark: str) -> list[Column]:
    """Return the columns of a log with a row for each element of one column's lists."""
    frame = log.frame
    lists = [other for other in frame.columns if isinstance(frame[other].dtype, pl.List)]
    same = (
        [
            other
            for other in lists
            if bool((frame[other].list.len() == frame[name].list.len()).all())
        ]
        if name in lists
        else []
    )
    texts = [other for other in frame.columns if Column(other, frame[other]).several == "" == mark]
    roles = {"item": name, **{other: other for other in (*same, *texts)}}
    frame, _, _ = unfolded(frame, roles, mark or None, log.table.where)
    return [
        Column(other, _typed(frame[other]), named=not log.headless)
        for other in frame.columns
        if not frame[other].dtype.is_nested()
    ]


def _typed(values: pl.Series) -> pl.Series:
    return typed_text(values) if values.dtype == pl.String else values


def _columns(head: Head, rows: str | None) -> list[Column]:
    """Return the columns of a log, and values in structs by path. rows: a list unfolded to rows."""
    plain = [name for name in head.frame.columns if not head.frame[name].dtype.is_nested()]
    paths = [path for path, inner in head.table.inner.items() if inner.list in (None, rows)]
    if not paths:
        return [_column(head, name) for name in head.frame.columns]
    frame = head.table.load([*plain, *paths]).head(ROWS)
    return [
        Column(name, _plain(frame[name]))
        for name in frame.columns
        if not frame[name].dtype.is_nested()
    ]


def _lists(made: Draft, log: Head, roles: Roles, renamed: Mapping[str, str]) -> None:
    """Add the settings of a log of lists: the separator, and the order of the items."""
    if roles.rows is None:
        return
    if roles.mark:
        reason = f"'{renamed.get(roles.rows, roles.rows)}' holds several items, each an event"
        made.say(Guess("data.item_separator", roles.mark, reason, "check"))
    for name in log.frame.columns:
        texts = log.frame[name]
        if texts.dtype == pl.String and bool(texts.drop_nulls().str.contains(_SHOWN).all()):
            made.notes.append(
                f"'{name}' lists what was shown, with -1 after clicked items; it is not read"
            )
    user, item = roles.columns["user"], roles.columns["item"]
    pairs = pl.DataFrame([user.values.alias("user"), item.values.alias("item")])
    own = log.frame[user.name]
    if 2 * pairs.n_unique() < pairs.height:
        made.content["data"].pop("time", None)
        roles.columns.pop("time", None)
        reason = "the lists repeat from row to row, so the time of a row is not that of its items"
        made.say(Guess("data.time", None, reason, "check"))
    elif "time" not in roles.columns and not own.is_duplicated().any():
        made.guesses.pop("data.time", None)
        made.say(Guess("data.order", "file", "each user has one list, whose order counts", "check"))


def _column(head: Head, name: str) -> Column:
    """Return a column of a file. Ids written as decimals, such as 17850.0, stay text."""
    found = Column(name, head.frame[name], named=not head.headless)
    nouns = (names.USERS, names.ITEMS)
    if head.is_text and found.values.dtype.is_float():
        numbered = names.bare(found.words)[1]
        if max(names.says(found.words, known) for known in nouns) >= (2 if numbered else 3):
            return Column(name, exact_text(head.raw(name)))
    return found


def _plain(values: pl.Series) -> pl.Series:
    return values.cast(pl.String) if values.dtype in (pl.Categorical, pl.Enum) else values


def unique_columns(head: Head) -> list[tuple[str, pl.Series]]:
    """Return the columns of a table that could be its ids, as text: distinct and not missing."""
    return [
        (name, column.cast(pl.String))
        for name in head.frame.columns
        if not (column := head.frame[name]).dtype.is_nested()
        and (column.dtype.is_integer() or column.dtype in (pl.String, pl.Categorical, pl.Enum))
        and not column.null_count()
        and not column.is_duplicated().any()
    ]


def _renamed(log: Head, roles: Roles) -> dict[str, str]:
    """Return names for the columns of a log without a header, by their roles."""
    if not log.headless:
        return {}
    found = {column.name: _NAMES.get(role, role) for role, column in roles.columns.items()}
    return {name: found.get(name, name) for name in log.form.columns}


def _written(head: Head) -> str:
    """Return how a table is written, in words."""
    text = head.table.text
    if text is None:
        return ""
    said = [f"separator {text.separator!r}", str(head.form.encoding or text.encoding)]
    if head.headless:
        said.append("no header")
    if text.quote not in (None, "none"):
        said.append(f"quotes {text.quote}")
    return ", ".join(said)


# --- the log --------------------------------------------------------------------------------------


def _roles(made: Draft, log: Head, roles: Roles, renamed: Mapping[str, str]) -> None:
    if renamed:
        made.say(
            Guess("data.columns", list(renamed.values()), "the file has no header", _sure_of(log))
        )
    for guess in roles.guesses:
        if guess.key == "data.event":
            _events(made, roles, replace(guess, value=renamed.get(guess.value, guess.value)))
            continue
        reason = (
            re.sub(r"\bcolumn_(\d+)\b", r"column \1", guess.reason) if renamed else guess.reason
        )
        value = (
            renamed.get(guess.value, guess.value) if isinstance(guess.value, str) else guess.value
        )
        made.say(replace(guess, value=value, reason=reason))


def _events(made: Draft, roles: Roles, guess: Guess) -> None:
    """Add the kinds of events and their uses, or a note why they cannot be guessed."""
    table, reason = kinds_of_events(roles.columns["event"], roles.columns["user"])
    if any(known.key == "data.min_weight" for known in roles.guesses):
        table, reason = None, "min_weight says what is a positive"
    if table is None:
        made.notes.append(
            f"'{guess.value}' names kinds of events ({guess.reason}), and {reason}: each row "
            "counts as an event, until data.event names the column and [data.events] says which "
            "are targets and which are only read"
        )
        return
    made.say(guess)
    made.say(Guess("data.events", table, reason, "check"))


def _sure_of(head: Head) -> Any:
    return next((g.confidence for g in head.guesses if g.key.endswith("columns")), "likely")


def _ids(made: Draft, log: Head, roles: Roles) -> None:
    """Add settings for ids that are missing or look like missing values."""
    sides = [roles.columns[role] for role in ("user", "item")]
    words = sorted({word for column in sides for word in column.null_words})
    if words and not log.is_text:
        for column in sides:
            checked_ids(column.given, log.table.where)  # refuses blank ids
            if column.missing:  # "drop" and "keep" exclude each other
                given_ids(column.values, log.table.where, "drop")
        reason = (
            f"ids called {' and '.join(words)} stay ids; write them as missing to leave them out"
        )
        made.say(Guess("data.null_ids", "keep", reason, "check"))
        return
    if words:
        made.say(Guess("data.null_values", words, "ids that look like missing values", "check"))
    missing = max(column.unknown for column in sides)
    if missing:
        reason = f"{missing:.1%} of the rows have no user, or no item"
        made.say(Guess("data.null_ids", "drop", reason, "check"))


def _forms(made: Draft, heads: Sequence[Head]) -> None:
    """Add the text settings that the reader cannot infer; they hold for all text files."""
    for head in heads:
        for guess in head.guesses:
            key = guess.key.removeprefix("data.")
            if key not in _FORMAT_KEYS:
                continue
            said = made.content["data"].get(key)
            if said is not None and said != guess.value:
                raise DataError(
                    f"{head.table.where}: {guess.key} would be {guess.value!r}, and another file "
                    f"needs {said!r}; a recipe has one for all. Convert one of the files to UTF-8 "
                    "text with commas, or as Parquet."
                )
            made.say(guess)


# --- users and items ------------------------------------------------------------------------------


def _side(
    made: Draft,
    side: str,
    head: Head,
    log: Head,
    roles: Roles,
    renamed: Mapping[str, str],
    base: Path | None,
) -> tuple[str, tuple[str, ...]] | None:
    """Add the table of a side; return its id column and its names, or None if it does not fit."""
    role = _ROLE_OF[side]
    own = roles.columns[role]
    wanted = renamed.get(own.name, own.name)
    unique = unique_columns(head)
    shares = {name: overlap(own, [ids]) for name, ids in unique}
    found = max(shares, key=lambda name: (name == wanted, shares[name]), default=None)
    if wanted in head.frame.columns and wanted not in shares:
        found = None
    why = None
    if found is None:
        why = "no column holds each id once"
    elif shares[found] == 0 and found != wanted:
        why = "it shares no id with the log"
    else:
        why = _of_two_types(own, log, head, found)
    if found is None or why is not None:
        made.say(Guess(f"data.{side}", None, f"{head.source}: {why}", "check"))
        return None
    names_: tuple[str, ...] = ()
    if head.headless:
        names_ = tuple(wanted if name == found else name for name in head.form.columns)
    share = shares[found]
    if not head.headless and found != wanted:
        reason = f"{share:.0%} of its values are {side} of the log"
        made.say(Guess(f"data.{side}_id", found, reason, "sure" if share > 0.5 else "check"))
    reason = f"{share:.0%} of the {side} of the log are in it"
    sure: Confidence = "sure" if share > 0.5 else "check"
    made.say(Guess(f"data.{side}", _placed(head.source, base), reason, sure))
    return found, names_


def _of_two_types(own: Column, log: Head, head: Head, found: str) -> str | None:
    """Return why the reader would refuse the table's ids beside the log's, or None."""
    try:
        left, right = (
            checked_ids(values, "") for values in (own.given.unique(), _plain(head.frame[found]))
        )
        align_ids(left, right, left_text=log.is_text, right_text=head.is_text, where="")
    except DataError as error:
        return str(error).removeprefix(": ")
    return None


def _features(made: Draft, side: str, head: Head, key: str, names_: tuple[str, ...]) -> None:
    """Add the features that the table of a side provides."""
    columns = [
        Column(name, _plain(head.frame[name]), named=not head.headless)
        for name in head.frame.columns
        if name != key
    ]
    kinds = find_kinds(columns, titled=side == "items")
    for column in columns:
        if side == "users" and _is_name(column) and column.name in kinds.features:
            del kinds.features[column.name]
            kinds.left[column.name] = "it is a name"
    if names_:
        title = kinds.title.name if kinds.title else None
        called = ["title" if name == title else name for name in names_]
        made.say(Guess(f"data.{side}_columns", called, "no header", _sure_of(head)))
    _kinds(made, side, kinds, "title" if names_ else None)


def _is_name(column: Column) -> bool:
    return names.mentions(column.words, names.CAPTIONS) and column.is_text


def _own_features(made: Draft, side: str, log: Head, roles: Roles) -> None:
    """Add features of a side from columns of the log that are constant for each of its ids."""
    own = roles.columns[_ROLE_OF[side]]
    other = roles.columns["item" if side == "users" else "user"]
    if roles.rows is not None or "." in own.name + other.name:
        return
    columns = []
    for column in roles.free(_columns(log, None)):
        constancy, others = (_constancy(ids.values, column.values) for ids in (own, other))
        of_people = names.mentions(column.words, names.OF_PEOPLE) == (side == "users")
        if constancy >= _TOLD and (constancy > others or (constancy == others and of_people)):
            pairs = pl.DataFrame([own.values.alias("id"), column.values.alias("value")])
            once = pairs.drop_nulls().unique("id", keep="last", maintain_order=True)
            if side == "items" or not _is_name(column):
                columns.append(Column(column.name, once["value"], column.named))
    kinds = find_kinds(columns, titled=side == "items")
    kinds.left.clear()
    _kinds(made, side, kinds, None, f"in the log, one value for each {_ROLE_OF[side]}: ")


def _moments(made: Draft, log: Head, roles: Roles) -> None:
    """Add a note on columns that may be event features, as only a person can tell."""
    told = {name for side in SIDES for name in made.content.get("features", {}).get(side, ())}
    free = roles.free(_columns(log, roles.rows)) if roles.rows is None else []
    said = columns_of_events([c for c in free if c.name not in told and c.can_be_named])
    if said is not None:
        made.notes.append(said)


_TOLD = 0.95
"""Share of ids with a single value from which a column of the log describes its ids."""


def _constancy(ids: pl.Series, values: pl.Series) -> float:
    """Return the share of repeated ids that have a single value."""
    if values.dtype.is_nested() or values.n_unique() < 2:
        return 0.0
    pairs = pl.DataFrame([ids.alias("id"), values.alias("value")]).drop_nulls()
    groups = pairs.group_by("id").agg(rows=pl.len(), values=pl.col("value").n_unique())
    groups = groups.filter(pl.col("rows") > 1)
    return int((groups["values"] == 1).sum()) / groups.height if groups.height >= 5 else 0.0


def _kinds(made: Draft, side: str, kinds: Kinds, title: str | None, where: str = "") -> None:
    """Add the features and the title of a side. title: the recipe's name of the title column."""
    if kinds.title is not None:
        said = names.mentions(kinds.title.words, ("title", *names.CAPTIONS))
        sure: Confidence = "sure" if said and not where else "check"
        name = title or kinds.title.name
        reason = f"such as {str(kinds.title.given[0])!r:.40}"
        if kinds.title.is_text:
            reason += f'; to let towers read it: {key_text(name)} = "text" in features.{side}'
        made.say(Guess("features.title", name, reason, sure))
    if kinds.features:
        reasons = (f"{name}: {reason}" for name, reason in kinds.reasons.items())
        reason = where + "; ".join(reasons)
        made.say(Guess(f"features.{side}", dict(kinds.features), reason, "likely"))
        made.marks[side] = dict(kinds.marks)
        made.reasons |= {f"{side}.{name}": reason for name, reason in kinds.reasons.items()}
    if kinds.left:
        left = ", ".join(f"{name} ({why})" for name, why in list(kinds.left.items())[:6])
        more = f", and {len(kinds.left) - 6} more" if len(kinds.left) > 6 else ""
        made.notes.append(f"not read of the {side}: {left}{more}")


def _one_mark(made: Draft) -> None:
    """Leave out features with another separator than the first, as a recipe has only one."""
    chosen: str | None = None
    for side, marks in made.marks.items():
        features = made.content["features"][side]
        for name, mark in marks.items():
            if chosen is None and mark != "|":
                made.say(Guess("features.separator", mark, f"as in '{name}'", "likely"))
            chosen = chosen or mark
            if mark != chosen:
                del features[name]
                made.notes.append(f"not read: {name} (its separator is {mark!r}; a recipe has one)")
        if not features:
            del made.content["features"][side], made.guesses[f"features.{side}"]


# --- the split ------------------------------------------------------------------------------------


def _split(made: Draft, roles: Roles) -> None:
    if "split" in roles.columns:
        return
    if "time" in roles.columns or "order" in made.content["data"]:
        reason = "the last event of each user is the test, the one before it validation"
        made.say(Guess("split.kind", "leave-last-out", reason, "sure"))
    else:
        made.say(Guess("split.kind", "random", "there is no time, so no event is last", "likely"))


# --- the model ------------------------------------------------------------------------------------

_IN_ORDER = ("attention", "gru", "hstu")
"""Encoders of histories that depend on the order of events."""


def _model(made: Draft, named: Mapping[str, Any] | None) -> None:
    """Take model and training from a named recipe, or use the default ones."""
    if named is None:
        made.say(Guess("training.mode", PLAIN["training"]["mode"], UNSAID, "sure"))
        return
    for section in ("model", "training", "evaluation"):
        made.content[section] = dict(named.get(section, {}))
    features = made.content.get("features", {})
    if "features" not in named and {"users", "items", "separator"} & features.keys():
        left = [key for key in ("users", "items", "separator") if features.pop(key, None)]
        for key in left:
            del made.guesses[f"features.{key}"]
        made.notes.append("this model reads ids alone, so the features of the files are left out")
    if made.content["model"].get("history") in _IN_ORDER and "time" not in made.content["data"]:
        made.guesses.pop("data.time", None)
        reason = "the model reads events in order, and no column is a time: lines are in order"
        made.say(Guess("data.order", "file", reason, "check"))
        if "split.column" not in made.guesses:
            made.say(
                Guess(
                    "split.kind",
                    "leave-last-out",
                    "the last line of each user is the test",
                    "check",
                )
            )


def _leave_times_out(made: Draft, roles: Roles) -> None:
    """Leave out what the named model reads of times, where the log does not tell them."""
    model, time = made.content.get("model", {}), roles.columns.get("time")
    untold: tuple[str, ...] = ()
    if time is None:
        untold, why = ("history_time", "request_time"), "as no column is a time"
    elif not time.is_clock:
        untold, why = ("request_time",), "as the times have no known unit"
    for key in untold:
        if model.pop(key, False):
            made.notes.append(f"left out, {why}: model.{key}")
