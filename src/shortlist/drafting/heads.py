"""How is a file written, judging by its head? Settings are needed where the reader refuses it."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import polars as pl

from shortlist.data.columns import typed_text
from shortlist.data.files import files_of
from shortlist.data.tables import Table, open_table, reading
from shortlist.data.text import (
    TextFormat,
    first_fields,
    is_recbole,
    is_text_file,
    suffix_of,
    unpacked,
)
from shortlist.data.times import parse_iso
from shortlist.drafting.guesses import Guess
from shortlist.errors import DataError

MOST = 1 << 22
"""The most bytes that are read of a file: about 100,000 events."""

ROWS = 100_000
"""The most rows that are examined."""

FILES = 3
"""The most files of a folder or a list whose heads are read."""

_TRIED = (";", "\t", ",", "|", "::", " ")


@dataclass(frozen=True)
class Head:
    """The first rows of a table, each column in the type of its values.

    source: the name of the table in the recipe.
    form: the settings that the reader needs; `columns` names those of a file without a header.
    whole: whether these are all rows.
    guesses: the settings as guesses with reasons.
    """

    source: str | list[str]
    frame: pl.DataFrame
    table: Table
    form: TextFormat
    whole: bool
    guesses: tuple[Guess, ...] = ()

    @property
    def headless(self) -> bool:
        """Whether the file has no header, so that its columns were named here."""
        return bool(self.form.columns)

    @property
    def is_text(self) -> bool:
        """Whether it is a text file, whose ids have no type of their own."""
        return self.table.text is not None

    def raw(self, column: str) -> pl.Series:
        """Return a column as it is written in the file."""
        return self.table.load([column])[column].head(ROWS)


def read_head(source: str | list[str], key: str) -> Head:
    """Read the head of a file, a list of files, a folder or a pattern. Errors: DataError.

    key: the table ("interactions", "users", "items"), for guesses and errors.
    """
    files = files_of(source)
    for file in files[:FILES]:
        _refuse_dumps(file)
    if all(is_text_file(file) and not is_recbole(file) for file in files[:FILES]):
        form, guesses = _written(files[:FILES], key)
    else:
        form, guesses = TextFormat(), []
    table = open_table(_some(source, files), key, form, most=MOST)
    frame = table.typed(table.names, exact=()).head(ROWS)
    if table.text is not None and not form.columns:
        written = first_fields(files[0], form, MOST)
        named = zip(frame.columns, written, strict=False)  # folders add columns after these
        frame = frame.drop(name for name, field in named if not field)
    whole = len(files) <= FILES and all(_is_small(file) for file in files) and len(frame) < ROWS
    return Head(source, frame, table, form, whole, tuple(guesses))


def _some(source: str | list[str], files: list[Path]) -> str | list[str]:
    """Return the source, or its first files if it has many."""
    return source if len(files) == 1 else [str(file) for file in files[:FILES]]


def _is_small(file: Path) -> bool:
    size = file.stat().st_size
    if suffix_of(file) == ".parquet":
        return True  # the number of rows decides
    return size < MOST if suffix_of(file) == file.suffix.lower() else size < MOST // 50


def _refuse_dumps(file: Path) -> None:
    """Refuse SQL dumps, and lines in Python's notation."""
    try:
        first = unpacked(file, 1 << 12)[: 1 << 12].decode(errors="replace").lstrip("\ufeff \r\n")
    except (OSError, ValueError):  # the reader reports it
        return
    lines = [line.strip() for line in first.splitlines() if line.strip()]
    statement = re.compile(
        r"(--|/\*|create\s+table|insert\s+into|drop\s+table|begin;|set\s+\w+|pragma|copy\s+\S+)",
        re.I,
    )
    if suffix_of(file) == ".sql" or (
        lines
        and statement.match(lines[0])
        and any(re.match(r"(create\s+table|insert\s+into|copy\s)", line, re.I) for line in lines)
    ):
        raise DataError(
            f"{file}: this is a dump of a database (SQL), not a table. Load it into the database "
            "and export the table as CSV or Parquet, as in: COPY events TO 'events.csv' (HEADER)."
        )
    if lines and re.match(r"\{\s*u?'", lines[0]):
        raise DataError(
            f"{file}: the lines are written in Python's notation ({lines[0][:30]!r}), not in JSON. "
            "Convert them: json.dumps(ast.literal_eval(line)) for each line."
        )


# --- how text is written --------------------------------------------------------------------------


def _written(files: Sequence[Path], key: str) -> tuple[TextFormat, list[Guess]]:
    """Return the settings that text files need, and guesses with the reasons."""
    guesses: list[Guess] = []
    form = TextFormat()
    if (encoding := _encoding(files)) is not None:
        form = replace(form, encoding=encoding)
        guesses.append(Guess("data.encoding", encoding, _NO_UTF8, "check"))
    form = _separated(files[0], form, key, guesses)
    names = first_fields(files[0], form, MOST)
    plain = tuple(f"column_{number + 1}" for number in range(len(names)))
    raw = open_table(files[0], key, replace(form, columns=plain), MOST)
    if set(plain) & set(names):
        return form, guesses
    rows = raw.load(list(plain)).head(ROWS)
    header, sure, why = has_header(rows)
    what = f"data.{_COLUMNS[key]}"
    if not header:
        form = replace(form, columns=plain)
    if not header or not sure:
        guesses.append(Guess(what, None if header else plain, why, "likely" if sure else "check"))
    if raw.text is not None and raw.text.separator != ",":
        body = rows.slice(1 if header else 0)
        if commas := [name for name in body.columns if _has_comma(body[name])]:
            form = replace(form, decimal=",")
            shown = body[commas[0]].drop_nulls()[0]
            guesses.append(Guess("data.decimal", ",", f"numbers are written {shown}", "likely"))
    return form, guesses


_NO_UTF8 = (
    "not certain: the bytes are not UTF-8, and the encoding is a guess; if letters look wrong, "
    "name the encoding: latin-1, cp1252, cp1251, gb18030, big5, shift_jis"
)

_COLUMNS = {
    "interactions": "columns",
    "users": "users_columns",
    "items": "items_columns",
}
"""The key that names a table's columns."""


def _separated(file: Path, form: TextFormat, key: str, guesses: list[Guess]) -> TextFormat:
    """Find separator and quotes; no setting is needed if the reader infers them."""
    first: DataError | None = None
    best: tuple[int, TextFormat, DataError | None] | None = None
    for tried in _forms(form):
        try:
            names = first_fields(file, tried, MOST)
            plain = tuple(f"column {number}" for number in range(len(names)))
            rows = open_table(file, key, replace(tried, columns=plain), MOST).load(list(plain))
        except DataError as error:
            first = first or error
            continue
        if tried == form and len(names) > 1 and not _hides(rows, tried):
            return tried
        if (len(names) > 1 or tried == form) and (best is None or len(names) > best[0]):
            best = (len(names), tried, first)
    if best is None:
        open_table(file, key, form, MOST)  # raises the same error as `train`
        raise first or DataError(f"{file}: cannot be read.")
    fields, chosen, refused = best
    if chosen.separator is not None:
        why = f"it gives {fields} fields in each line"
        guesses.append(Guess("data.separator", chosen.separator, why, "check"))
    if chosen.quote is not None:
        why = "some quotes are around fields and some are not"
        guesses.append(Guess("data.quote", chosen.quote, why, "check"))
    if refused is not None and chosen == form:
        raise refused
    return chosen


def _forms(form: TextFormat) -> Iterator[TextFormat]:
    yield form
    yield replace(form, quote="none")
    for separator in _TRIED:
        yield replace(form, separator=separator)
    for separator in _TRIED:
        yield replace(form, separator=separator, quote="none")


def _hides(rows: pl.DataFrame, form: TextFormat) -> bool:
    """Return whether every value of a column holds another separator, equally often per row."""
    if len(rows) < 2 or form.separator is not None:
        return False
    for column in rows.get_columns():
        text = column.drop_nulls()
        for mark in (";", "\t", "|"):
            counts = text.str.count_matches(mark, literal=True)
            if len(text) == len(column) and counts.n_unique() == 1 and counts[0] > 0:
                return True
    return False


def _has_comma(column: pl.Series) -> bool:
    """Return whether all values are whole numbers or decimals with a comma."""
    text = column.drop_nulls()
    numbers = text.str.contains(r"^[+-]?\d+(,\d+)?$")
    return (
        len(text) > 0 and bool(numbers.all()) and bool(text.str.contains(",", literal=True).any())
    )


def _encoding(files: Sequence[Path]) -> str | None:
    """Guess the encoding of bytes that are not UTF-8; None if the reader knows it."""
    heads = [reading(str(file), partial(unpacked, file, MOST))[:MOST] for file in files]
    if all(head[:2] in (b"\xff\xfe", b"\xfe\xff") for head in heads):
        return None
    data = b"".join(head.rpartition(b"\n")[0] if len(head) >= MOST else head for head in heads)
    if data[:64].count(0) >= min(len(data), 64) // 4 > 0:
        return "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    try:
        data.decode()
    except UnicodeDecodeError:
        pass
    else:
        return None
    # Accented letters stand alone among ASCII letters; in other scripts whole words are not ASCII.
    runs = re.findall(rb"[\x80-\xff]+", data)
    words = sum(len(run) > 1 for run in runs) > len(runs) / 2
    if words and _share(data, "gb18030", "[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]") > 0.9:
        return "gb18030"
    if words and _share(data, "cp1251", "[\u0400-\u04ff]") > 0.9:  # KOI8 has as many letters
        return max(("cp1251", "koi8-r"), key=lambda name: _share(data, name, "[\u0430-\u044f]"))
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252" if re.search(rb"[\x80-\x9f]", data) else "latin-1"


def _share(data: bytes, encoding: str, letters: str) -> float:
    """Return the share of these letters among the non-ASCII characters of text; 0 if invalid."""
    try:
        beyond = [char for char in data.decode(encoding) if not char.isascii()]
    except UnicodeDecodeError:
        return 0.0
    return sum(bool(re.match(letters, char)) for char in beyond) / max(len(beyond), 1)


# --- headers --------------------------------------------------------------------------------------


def has_header(rows: pl.DataFrame) -> tuple[bool, bool, str]:
    """Return whether the first of these rows of text is a header, whether that is sure, and why."""
    first, body = rows.row(0), rows.slice(1)
    if not len(body):
        return True, False, "there is only one line"
    told = recurring = alike = 0
    for value, column in zip(first, body.get_columns(), strict=True):
        given = column.drop_nulls()
        if value is None or not len(given):
            continue
        kind = _shape(given)
        own = _shape(pl.Series([value]))
        if kind != "text" and own == kind:
            return False, True, f"the first line holds {value!r}, as the lines below it do"
        if kind != "text" and own == "text":
            told += 1
        elif kind == "text":
            recurring += value in given
            alike += (
                _pattern(value) == Counter(map(_pattern, given.head(1000))).most_common(1)[0][0]
            )
    if told:
        return True, True, "the first line is text above numbers"
    if recurring:
        return False, True, "values of the first line occur again below it"
    if any(re.search(r"\d", value or "") for value in first) and alike:
        return False, False, "the first line is written like the lines below it"
    return True, len(set(first)) == len(first) and not alike, "the first line is unlike the others"


def _shape(column: pl.Series) -> str:
    """Return what the text of a column means: "number", "time" or "text"."""
    column = column.head(5000)
    if typed_text(column).dtype != pl.String:
        return "number"
    if bool(column.str.contains(r"^[+-]?\d+,\d+$|^0\d+$").all()):
        return "number"
    try:
        parse_iso(column, "")
    except DataError:
        return "text"
    return "time"


def _pattern(value: str) -> str:
    """Return a value's shape: 'a_9' for 'user_000001'."""
    return re.sub(r"\d+", "9", re.sub(r"[^\W\d_]+", "a", value))
